//! A client of the Workload API (checklist `WC`): of our own server, of a SPIRE agent, of any other.
//!
//! It believes nothing: what arrives is bounded, parsed strictly and verified as a stranger would verify it, and a message that
//! does not pass changes nothing. What does pass replaces what was known before as a whole, so what the server leaves out is
//! gone. If the server is away, what is known stays.

mod backoff;
mod context;
mod endpoint;
mod jwt;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use x0t_identity::BundleMap;
use x0t_model::UnixTime;

use self::backoff::Backoff;
pub use self::backoff::BackoffConfig;
pub use self::context::{ContextError, GivenSvid, X509Context};
pub use self::endpoint::{ENDPOINT_VARIABLE, Endpoint, EndpointError};
pub use self::jwt::{GivenJwt, ValidatedJwt};
use crate::proto::spiffe::{X509svidRequest, X509svidResponse};

/// Bytes of a server's words that are passed on.
const REASON_LEN_MAX: usize = 300;

/// How a client asks.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// The largest message, in bytes. A workload with 8,000 identities gets 16 MiB; gRPC's own default of 4 MiB would cut it off
    /// (checklist WC-7).
    pub message_len_max: usize,
    /// A connection is made within this time.
    pub connect_deadline: Duration,
    /// The first message of a stream, or the answer to a call, arrives within this time. A server that is initialising says so.
    pub answer_deadline: Duration,
    /// Pauses between attempts.
    pub backoff: BackoffConfig,
    /// A server that says that there is no identity (any more) is believed after saying so for this long: an agent that has just
    /// started may not know yet. SVIDs must be out of use within five seconds (checklist WC-6).
    pub denial_grace: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            message_len_max: 32 << 20,
            connect_deadline: Duration::from_secs(5),
            answer_deadline: Duration::from_secs(30),
            backoff: BackoffConfig::default(),
            denial_grace: Duration::from_secs(3),
        }
    }
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server, or the way to it, said no.
    #[error("the Workload API answers {code:?}: {reason}")]
    Status {
        /// The kind.
        code: Code,
        /// In the server's words, cut to a length that a log can bear.
        reason: String,
    },
    /// The server said something that is not believed.
    #[error("the Workload API's answer is not usable")]
    Content(#[from] ContextError),
    /// The server says nothing.
    #[error("the Workload API does not answer within {0:?}")]
    Silent(Duration),
    /// The server ended a stream that has no end.
    #[error("the Workload API ended the stream")]
    Ended,
}

impl ClientError {
    /// Whether asking again is of no use (checklist WC-3).
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Status { code: Code::InvalidArgument | Code::Unimplemented, .. })
    }

    /// Whether the server says that the process has no identity.
    pub const fn is_denial(&self) -> bool {
        matches!(self, Self::Status { code: Code::PermissionDenied, .. })
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let reason = status.message().chars().flat_map(char::escape_debug).take(REASON_LEN_MAX).collect();
        Self::Status { code: status.code(), reason }
    }
}

/// What is known, and how things stand.
#[derive(Clone, Debug)]
pub struct Followed<T> {
    /// The newest that passed, until the server says that there is nothing.
    pub value: Option<Arc<T>>,
    /// How things stand with the server.
    pub health: Health,
}

/// How things stand with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing was heard yet.
    Waiting,
    /// `value` is what the server said last.
    Current,
    /// Something is wrong; the client goes on asking.
    Failing(ClientError),
    /// Asking again is of no use.
    Refused(ClientError),
}

/// A client of one Workload API. Clones share the connection, which is made when it is needed and made again when it is lost.
#[derive(Clone, Debug)]
pub struct WorkloadClient {
    channel: Channel,
    config: ClientConfig,
}

impl WorkloadClient {
    /// A client of the API at `endpoint`. Must be called within a runtime; connects on the first call.
    pub fn new(endpoint: Endpoint, config: ClientConfig) -> Self {
        let connector = tower::service_fn(move |_| connect(endpoint.clone()));
        // The address is for HTTP's sake; the connector knows where to go.
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_timeout(config.connect_deadline)
            .connect_with_connector_lazy(connector);
        Self { channel, config }
    }

    /// The X.509 context, once.
    ///
    /// # Errors
    /// What the server or its answer lacks.
    pub async fn fetch_x509(&self, now: UnixTime) -> Result<X509Context, ClientError> {
        let mut messages = self.open::<_, X509svidResponse>("FetchX509SVID", X509svidRequest {}).await?;
        let message = self.in_time(messages.message()).await?.ok_or(ClientError::Ended)?;
        Ok(X509Context::read(&message, now)?)
    }

    /// The X.509 context, now and whenever it changes, until the receiver is dropped. `now` tells the wall-clock time.
    pub fn follow_x509(
        &self,
        now: impl Fn() -> UnixTime + Send + Sync + 'static,
    ) -> watch::Receiver<Followed<X509Context>> {
        self.follow("FetchX509SVID", move |message: &X509svidResponse| X509Context::read(message, now()))
    }

    /// The keys that JWT-SVIDs are checked against, now and whenever they change, until the receiver is dropped. The bundles hold
    /// no X.509 authorities.
    pub fn follow_jwt_bundles(&self) -> watch::Receiver<Followed<BundleMap>> {
        self.follow("FetchJWTBundles", jwt::read_bundles)
    }

    fn follow<M, T>(
        &self,
        method: &'static str,
        read: impl Fn(&M) -> Result<T, ContextError> + Send + Sync + 'static,
    ) -> watch::Receiver<Followed<T>>
    where
        M: Message + Default + Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        let (news, followed) = watch::channel(Followed { value: None, health: Health::Waiting });
        let follower = Follower {
            client: self.clone(),
            method,
            read: Box::new(read),
            backoff: Backoff::new(self.config.backoff),
            last: None,
            denied: None,
            news,
        };
        tokio::spawn(follower.run());
        followed
    }

    /// A call with one answer.
    async fn call<Q, M>(&self, method: &str, message: Q) -> Result<M, ClientError>
    where
        Q: Message + Send + Sync + 'static,
        M: Message + Default + Send + Sync + 'static,
    {
        let mut messages = self.open(method, message).await?;
        self.in_time(messages.message()).await?.ok_or(ClientError::Ended)
    }

    /// Opens a stream; on the wire a call with one answer is a stream of one message. Every call carries the header (checklist WC-2).
    async fn open<Q, M>(&self, method: &str, message: Q) -> Result<Streaming<M>, ClientError>
    where
        Q: Message + Send + Sync + 'static,
        M: Message + Default + Send + Sync + 'static,
    {
        let mut request = Request::new(message);
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let path = path.parse().map_err(|_| Status::internal("a method's name is a path"))?;
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(self.config.message_len_max);
        let call = async {
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.server_streaming(request, path, ProstCodec::default()).await
        };
        Ok(self.in_time(call).await?.into_inner())
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, ClientError> {
        let deadline = self.config.answer_deadline;
        let answer = tokio::time::timeout(deadline, answer).await.map_err(|_| ClientError::Silent(deadline))?;
        Ok(answer?)
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

async fn connect(endpoint: Endpoint) -> std::io::Result<TokioIo<Box<dyn Connection>>> {
    let connection: Box<dyn Connection> = match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    };
    Ok(TokioIo::new(connection))
}

type Read<M, T> = Box<dyn Fn(&M) -> Result<T, ContextError> + Send + Sync>;

/// Keeps one stream open, whatever happens to it.
struct Follower<M, T> {
    client: WorkloadClient,
    method: &'static str,
    read: Read<M, T>,
    backoff: Backoff,
    /// Digest of the last message that passed.
    last: Option<[u8; 32]>,
    /// Since when the server says that there is no identity.
    denied: Option<Instant>,
    news: watch::Sender<Followed<T>>,
}

impl<M, T> Follower<M, T>
where
    M: Message + Default + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    async fn run(mut self) {
        let news = self.news.clone();
        tokio::select! {
            () = news.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            let error = self.one_stream().await;
            tracing::debug!(%error, method = self.method, "a stream of the Workload API ended");
            if error.is_final() {
                self.report(Health::Refused(error));
                return;
            }
            self.denied = error.is_denial().then(|| self.denied.unwrap_or_else(Instant::now));
            self.report(Health::Failing(error));
            let mut pause = self.backoff.pause(chance());
            if let Some(since) = self.denied {
                let left = self.client.config.denial_grace.saturating_sub(since.elapsed());
                if left.is_zero() {
                    self.forget();
                } else {
                    pause = pause.min(left);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads one stream to its end, which is always an error.
    async fn one_stream(&mut self) -> ClientError {
        match self.read_stream().await {
            Ok(()) => ClientError::Ended,
            Err(error) => error,
        }
    }

    async fn read_stream(&mut self) -> Result<(), ClientError> {
        // None of the requests that open a stream has a field.
        let mut messages = self.client.open::<(), M>(self.method, ()).await?;
        let Some(first) = self.client.in_time(messages.message()).await? else { return Ok(()) };
        self.take(&first);
        while let Some(message) = messages.message().await? {
            self.take(&message);
        }
        Ok(())
    }

    /// A message replaces all that was known, or nothing (checklist WC-4).
    fn take(&mut self, message: &M) {
        let mut digest_of_message = [0; 32];
        let encoded = zeroize::Zeroizing::new(message.encode_to_vec());
        digest_of_message.copy_from_slice(digest(&SHA256, &encoded).as_ref());
        if self.last == Some(digest_of_message) {
            self.backoff.reset();
            self.denied = None;
            return self.report(Health::Current);
        }
        match (self.read)(message) {
            Ok(value) => {
                self.last = Some(digest_of_message);
                self.backoff.reset();
                self.denied = None;
                self.news.send_replace(Followed { value: Some(Arc::new(value)), health: Health::Current });
            }
            Err(error) => {
                tracing::warn!(%error, method = self.method, "a message of the Workload API is not usable; what was known stays");
                self.report(Health::Failing(error.into()));
            }
        }
    }

    /// Tells of a change of health, and of nothing else: who waits for changes is not woken by the same thing twice.
    fn report(&self, health: Health) {
        self.news.send_if_modified(|followed| {
            let is_news = followed.health != health;
            followed.health = health;
            is_news
        });
    }

    /// There is no identity any more.
    fn forget(&mut self) {
        self.last = None;
        self.news.send_if_modified(|followed| followed.value.take().is_some());
    }
}

/// A number that others do not choose alike. Without the kernel's help all pauses are the shortest.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}
