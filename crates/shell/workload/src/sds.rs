//! Envoy's secret discovery (SDS v3): the same identities and bundles, in the form that a proxy fetches.
//!
//! An Envoy is a process like any other: it is attested, and gets what its entries give it. It names what it wants:
//!
//! | name | what it gets |
//! |---|---|
//! | a SPIFFE ID | the certificate and key of that identity |
//! | `default` | those of its default identity, its first |
//! | the ID of a trust domain (`spiffe://example.org`) | whom to trust in that domain |
//! | `ROOTCA` | whom to trust in its own trust domain |
//! | `ALL` | whom to trust in all trust domains that it has to do with |
//! | nothing at all | every identity and every trust domain, each by its ID |
//!
//! Trust is given as the configuration of Envoy's SPIFFE validator (Envoy 1.18 and later), which takes the anchors of the trust
//! domain that the peer's certificate names: a plain list of CAs would let each domain speak for all others. Revocation lists
//! are not part of it; that validator does not read them.
//!
//! A name for which there is nothing is waited for, as xDS wants it: the secret is sent once it exists.

mod resources;
mod subscription;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Request as Message, Response as Answer, Status, Streaming};
use tower::Service;

use self::resources::Resources;
use self::subscription::Subscription;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use crate::proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use crate::server::{Call, Caller, Entitlement, Shared, Ticket, Turns};

/// Bytes of a request: names, and what an Envoy tells of itself.
const REQUEST_LEN_MAX: usize = 1024 * 1024;

/// Answers one call of the service.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    call: Call,
    request: Request<Incoming>,
) -> Response<Body> {
    let discovery = Discovery { shared, caller, call: std::sync::Mutex::new(Some(call)) };
    let mut service = SecretDiscoveryServiceServer::new(discovery).max_decoding_message_size(REQUEST_LEN_MAX);
    match service.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// One call.
struct Discovery {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    call: std::sync::Mutex<Option<Call>>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Discovery {
    type DeltaSecretsStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;
    type StreamSecretsStream = Responses;

    async fn delta_secrets(
        &self,
        _requests: Message<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Answer<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("secrets are discovered by StreamSecrets and FetchSecrets"))
    }

    async fn stream_secrets(
        &self,
        requests: Message<Streaming<DiscoveryRequest>>,
    ) -> Result<Answer<Responses>, Status> {
        let call = self.call.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let ticket = Arc::new(call.ok_or_else(|| Status::internal("a call is answered once"))?.into_stream()?);
        let mut turns = Turns::new(&self.shared);
        let newest = turns.newest();
        let entitlement = self.shared.entitlement(&self.caller, &newest, true).await?;
        let conversation = Conversation {
            shared: Arc::clone(&self.shared),
            caller: Arc::clone(&self.caller),
            requests: requests.into_inner(),
            turns,
            ticket: Arc::clone(&ticket),
            entitlement,
            subscription: Subscription::default(),
        };
        let responses = futures_util::stream::unfold(Some(conversation), |conversation| async {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(conversation))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Answer::new(Box::pin(Watched { responses: Box::pin(responses), ticket })))
    }

    async fn fetch_secrets(&self, request: Message<DiscoveryRequest>) -> Result<Answer<DiscoveryResponse>, Status> {
        let newest = self.shared.source.identities().borrow().clone();
        let entitlement = self.shared.entitlement(&self.caller, &newest, true).await?;
        let mut subscription = Subscription::default();
        subscription.handle_request(&request.into_inner())?;
        let Resources { resources, missing } = resources::all(&entitlement, &subscription);
        if missing {
            return Err(Status::permission_denied("this process is not entitled to all these secrets"));
        }
        Ok(Answer::new(subscription.answer(resources)))
    }
}

/// A stream of secrets.
struct Conversation {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    requests: Streaming<DiscoveryRequest>,
    turns: Turns,
    ticket: Arc<Ticket>,
    entitlement: Arc<Entitlement>,
    subscription: Subscription,
}

impl Conversation {
    /// The next response; `None` when the client says no more.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            let is_asked = tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.subscription.handle_request(&request)?,
                    None => return Ok(None),
                },
                turn = self.turns.next(&self.ticket) => {
                    turn?;
                    let newest = self.turns.newest();
                    self.entitlement = Box::pin(self.shared.entitlement(&self.caller, &newest, false)).await?;
                    false
                }
            };
            let resources = resources::all(&self.entitlement, &self.subscription).resources;
            if let Some(response) = self.subscription.offer(resources, is_asked) {
                self.shared.limits.count(|stats| &stats.pushes);
                return Ok(Some(response));
            }
        }
    }
}

/// Tells the limits whether the reader reads.
struct Watched {
    responses: Responses,
    ticket: Arc<Ticket>,
}

impl Stream for Watched {
    type Item = Result<DiscoveryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ticket.taken();
        let response = self.responses.as_mut().poll_next(cx);
        if let Poll::Ready(Some(Ok(_))) = &response {
            self.ticket.sent();
        }
        response
    }
}
