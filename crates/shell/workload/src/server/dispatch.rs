//! From a request to the one who answers it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::answers::Profile;
use super::limits::Call;
use super::{Caller, Shared, jwt, push};

/// What no browser can be made to send (SPIFFE Workload Endpoint, section 5.1): a page cannot set it on a request to a socket that
/// somebody forwards.
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// The service has no package, so its path is its bare name (checklist WS-14).
const WORKLOAD_API: &str = "/SpiffeWorkloadAPI/";
const SECRET_DISCOVERY: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";
/// Bytes of a request: a token has at most 16 KiB.
pub(crate) const REQUEST_LEN_MAX: usize = 64 * 1024;
/// A request's message follows its headers at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Answers the calls of one connection.
#[derive(Clone)]
pub(crate) struct Dispatch {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
}

impl Dispatch {
    pub(crate) const fn new(shared: Arc<Shared>, caller: Arc<Caller>) -> Self {
        Self { shared, caller }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if !is_grpc(request.headers()) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let shared = Arc::clone(&self.shared);
        let answered = match self.caller.connection().call() {
            Ok(call) => self.route(call, request).await,
            Err(status) => Err(status),
        };
        answered.unwrap_or_else(|status| {
            shared.limits.count(|stats| &stats.calls_refused);
            status.into_http()
        })
    }

    async fn route(self, call: Call, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        if let Some(method) = path.strip_prefix(WORKLOAD_API) {
            // Before anything else is said, whether the method exists included (checklist WS-1).
            check_security_header(request.headers())?;
            return match method {
                "FetchX509SVID" => self.stream(call, request, Profile::X509Svids).await,
                "FetchX509Bundles" => self.stream(call, request, Profile::X509Bundles).await,
                "FetchJWTBundles" => self.stream(call, request, Profile::JwtBundles).await,
                "FetchJWTSVID" => Ok(during(call, jwt::fetch(self.shared, self.caller, request)).await),
                "ValidateJWTSVID" => Ok(during(call, jwt::validate(self.shared, self.caller, request)).await),
                "FetchWITSVID" | "FetchWITBundles" => {
                    Err(Status::unimplemented("this endpoint does not support the WIT-SVID profile"))
                }
                _ => Err(Status::unimplemented("the SPIFFE Workload API has no such method")),
            };
        }
        if path.starts_with(SECRET_DISCOVERY) {
            return Ok(crate::sds::answer(self.shared, self.caller, call, request).await);
        }
        Err(Status::unimplemented("no such service"))
    }

    async fn stream(self, call: Call, request: Request<Incoming>, profile: Profile) -> Result<Response<Body>, Status> {
        read_empty_message(request.into_body()).await?;
        let body = push::open(self.shared, self.caller, call, profile).await?;
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

impl tower::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let dispatch = self.clone();
        Box::pin(async move { Ok(dispatch.answer(request).await) })
    }
}

/// A call that is no stream is under way until it is answered.
async fn during<T>(call: Call, answer: impl Future<Output = T>) -> T {
    let answer = answer.await;
    drop(call);
    answer
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Exactly one value, and that exactly `true` (checklist WS-1).
fn check_security_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// The requests of all three streams are messages without fields.
async fn read_empty_message(body: Incoming) -> Result<(), Status> {
    let decoder = ProstCodec::<(), ()>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(REQUEST_LEN_MAX));
    let message = tokio::time::timeout(REQUEST_DEADLINE, messages.message());
    let message = message.await.map_err(|_| Status::deadline_exceeded("the request did not arrive"))?;
    message?.ok_or_else(|| Status::invalid_argument("the request has no message"))
}
