//! One check: the health URL and a connection to the service, at the same time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use x0t_identity::region_failover::{
    CheckFailure, CheckOutcome, HealthAnswer, HealthUrl, Region, RegionEndpoint, Scheme,
};

/// Makes checks. The one that ships is [`HealthProber`].
pub trait Prober: Send + Sync + 'static {
    /// Checks a region; what takes longer than `limit` is not waited for by the caller.
    fn check(&self, region: &Region, limit: Duration) -> impl Future<Output = CheckOutcome> + Send;
}

/// Checks over the network.
#[derive(Clone, Debug)]
pub struct HealthProber {
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl HealthProber {
    /// Judges HTTPS health checks by `anchors`; without them, HTTPS is a failure of TLS.
    pub fn new(anchors: Option<RootCertStore>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let configure = |anchors| {
            let builder =
                rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            Ok::<_, rustls::Error>(Arc::new(builder.with_root_certificates(anchors).with_no_client_auth()))
        };
        Ok(Self { tls: anchors.map(configure).transpose()? })
    }
}

impl Prober for HealthProber {
    async fn check(&self, region: &Region, limit: Duration) -> CheckOutcome {
        let health = async {
            match &region.health {
                None => None,
                Some(url) => Some(self.ask(url, limit).await),
            }
        };
        let (health, connection) = tokio::join!(health, connect_service(&region.endpoint, limit));
        CheckOutcome::weigh(health, connection)
    }
}

impl HealthProber {
    async fn ask(&self, url: &HealthUrl, limit: Duration) -> HealthAnswer {
        let began = Instant::now();
        // Half of the time for the connection: if none comes about, there is still time to say that the health check is absent.
        let stream = match timeout(limit / 2, TcpStream::connect((url.host.as_str(), url.port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return HealthAnswer::NotThere(failure_of(&error)),
            Err(_) => return HealthAnswer::NotThere(CheckFailure::NoAnswer),
        };
        let answer = async {
            match url.scheme {
                Scheme::Http => status(stream, url).await,
                Scheme::Https => status(self.encrypt(stream, url).await?, url).await,
            }
        };
        match timeout(limit, answer).await {
            Ok(Ok(status)) => HealthAnswer::Status(status, began.elapsed()),
            Ok(Err(failure)) => HealthAnswer::Broken(failure),
            Err(_) => HealthAnswer::Broken(CheckFailure::NoAnswer),
        }
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
        url: &HealthUrl,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, CheckFailure> {
        let tls = self.tls.clone().ok_or(CheckFailure::Tls)?;
        let name = ServerName::try_from(url.host.clone()).map_err(|_| CheckFailure::Tls)?;
        TlsConnector::from(tls).connect(name, stream).await.map_err(|_| CheckFailure::Tls)
    }
}

/// The status of a GET, and nothing more: the body is not read, and a redirect is an answer like any other.
async fn status(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    url: &HealthUrl,
) -> Result<u16, CheckFailure> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| CheckFailure::NotHttp)?;
    let request = hyper::Request::get(&url.path)
        .header(hyper::header::HOST, url.authority())
        .header(hyper::header::USER_AGENT, "x0t")
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| CheckFailure::NotHttp)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection may be over before its last answer has been looked at.
        _ = connection => answer.await,
    };
    answer.map(|answer| answer.status().as_u16()).map_err(|_| CheckFailure::NotHttp)
}

async fn connect_service(endpoint: &RegionEndpoint, limit: Duration) -> Result<Duration, CheckFailure> {
    let began = Instant::now();
    let connection = async {
        match endpoint {
            RegionEndpoint::Unix(path) => UnixStream::connect(path).await.map(|_| ()),
            RegionEndpoint::Tcp(address) => TcpStream::connect(address).await.map(|_| ()),
        }
    };
    match timeout(limit, connection).await {
        Ok(Ok(())) => Ok(began.elapsed()),
        Ok(Err(error)) => Err(failure_of(&error)),
        Err(_) => Err(CheckFailure::NoAnswer),
    }
}

fn failure_of(error: &io::Error) -> CheckFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => CheckFailure::Refused,
        io::ErrorKind::TimedOut => CheckFailure::NoAnswer,
        // The resolver's errors have neither a kind nor a number of the operating system.
        _ if error.raw_os_error().is_none() => CheckFailure::NameNotFound,
        _ => CheckFailure::Unreachable,
    }
}
