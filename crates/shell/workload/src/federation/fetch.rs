//! One bundle document, fetched: a GET over HTTPS that believes nobody but whom the relationship names.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x0t_identity::federation::{EndpointProfile, EndpointUrl, EndpointUrlError, FederationRelationship};
use x0t_identity::{BundleMap, VerifyError};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};

use super::tls;
use crate::regions::AnchorsError;
use crate::svid_tls::refusal;

/// Bytes of an answer (checklist FE-9).
pub const DOCUMENT_LEN_MAX: usize = 1024 * 1024;
/// Redirects that are followed (checklist FE-4).
pub const REDIRECTS_MAX: usize = 5;
/// Bytes of an answer's head.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// How endpoints are asked.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Whom to believe for `https_web`, as PEM; the anchors of the host if absent. Read for each fetch.
    pub ca_file: Option<PathBuf>,
    /// For a connection, and again for its TLS.
    pub connect_timeout: Duration,
    /// For everything, redirects included.
    pub deadline: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self { ca_file: None, connect_timeout: Duration::from_secs(5), deadline: Duration::from_secs(20) }
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    /// Nobody to check the endpoint's SVID against.
    #[error(
        "there is no bundle of {0} to check the endpoint with: get it from the operators of {0} by a way you trust, then \
         `x0t bundle set {0} FILE`"
    )]
    NoBundle(TrustDomain),
    /// Nobody to check the endpoint's certificate against.
    #[error("no trust anchors for the Web PKI")]
    Anchors(#[source] AnchorsError),
    /// No connection.
    #[error("cannot connect to {authority}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("{0} did not answer in time")]
    TimedOut(String),
    /// TLS cannot be set up at all.
    #[error("cannot configure TLS")]
    Tls(#[source] rustls::Error),
    /// No TLS with the endpoint: its certificate is not for this name, nobody vouches for it, it is too old.
    #[error("no TLS connection with {authority}")]
    Handshake {
        /// Host and port.
        authority: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not who it should be.
    #[error("the endpoint at {authority} did not prove to be {wanted}")]
    NotTheEndpoint {
        /// Host and port.
        authority: String,
        /// Who it should be.
        wanted: SpiffeId,
        /// What is wrong with its SVID.
        source: Box<VerifyError>,
    },
    /// It does not speak HTTP/1.1, or not to its end.
    #[error("{authority} answered something else than HTTP")]
    Http {
        /// Host and port.
        authority: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer without a bundle.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: EndpointUrl,
        /// The answer.
        status: StatusCode,
    },
    /// A redirect that leads nowhere, or out of HTTPS.
    #[error("{url} redirects to {}, which is not followed", location.escape_debug())]
    Redirect {
        /// What was asked for.
        url: EndpointUrl,
        /// Where it leads, at most 200 characters.
        location: String,
        /// Why not there.
        source: EndpointUrlError,
    },
    /// More than [`REDIRECTS_MAX`].
    #[error("more than {max} redirects, the last to {0}", max = REDIRECTS_MAX)]
    TooManyRedirects(EndpointUrl),
    /// More than [`DOCUMENT_LEN_MAX`].
    #[error("{0} sends more than {max} bytes", max = DOCUMENT_LEN_MAX)]
    TooLarge(EndpointUrl),
}

impl FetchFailure {
    /// A stable word for counters, logs and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoBundle(_) => "no_bundle",
            Self::Anchors(_) => "no_anchors",
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut(_) => "timed_out",
            Self::Tls(_) | Self::Handshake { .. } => "tls",
            Self::NotTheEndpoint { .. } => "wrong_endpoint",
            Self::Http { .. } => "not_http",
            Self::Status { .. } => "bad_status",
            Self::Redirect { .. } => "bad_redirect",
            Self::TooManyRedirects(_) => "too_many_redirects",
            Self::TooLarge(_) => "too_large",
        }
    }
}

/// Fetches the document of `relationship`. An endpoint with an SVID is checked against the bundle in `bundles` of the trust domain
/// that its identity names, as it is now: the latest that is known. What a redirect leads to is held to the same, and forgotten
/// afterwards.
///
/// # Errors
/// See [`FetchFailure`].
pub async fn fetch(
    relationship: &FederationRelationship,
    bundles: &BundleMap,
    config: &FetchConfig,
    now: UnixTime,
) -> Result<Vec<u8>, FetchFailure> {
    let whole = follow(relationship, bundles, config, now);
    timeout(config.deadline, whole).await.map_err(|_| FetchFailure::TimedOut(relationship.url.authority()))?
}

async fn follow(
    relationship: &FederationRelationship,
    bundles: &BundleMap,
    config: &FetchConfig,
    now: UnixTime,
) -> Result<Vec<u8>, FetchFailure> {
    let mut url = relationship.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let stream = connect(&url, &relationship.profile, bundles, config, now).await?;
        let (answer, _carrier) = ask(stream, &url).await?;
        let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        match (is_redirect, answer.headers().get(LOCATION)) {
            (true, Some(location)) => {
                let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                url = url.redirected(&location).map_err(|source| FetchFailure::Redirect {
                    url,
                    location: location.chars().take(200).collect(),
                    source,
                })?;
            }
            _ if answer.status() == StatusCode::OK => return body(answer, &url).await,
            _ => return Err(FetchFailure::Status { url, status: answer.status() }),
        }
    }
    Err(FetchFailure::TooManyRedirects(url))
}

async fn connect(
    url: &EndpointUrl,
    profile: &EndpointProfile,
    bundles: &BundleMap,
    config: &FetchConfig,
    now: UnixTime,
) -> Result<TlsStream<TcpStream>, FetchFailure> {
    let authority = url.authority();
    let tls = match profile {
        EndpointProfile::HttpsWeb => tls::web(config.ca_file.as_deref())?,
        EndpointProfile::HttpsSpiffe { endpoint_id } => {
            let domain = endpoint_id.trust_domain();
            let bundle = bundles.get(domain).filter(|bundle| !bundle.authorities().is_empty());
            let bundle = bundle.ok_or_else(|| FetchFailure::NoBundle(domain.clone()))?;
            tls::spiffe(endpoint_id.clone(), bundle.clone(), now)?
        }
    };
    let tcp = timeout(config.connect_timeout, TcpStream::connect((url.host(), url.port()))).await;
    let tcp = tcp
        .map_err(|_| FetchFailure::TimedOut(authority.clone()))?
        .map_err(|source| FetchFailure::Unreachable { authority: authority.clone(), source })?;
    let unspecified = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let name = match (ServerName::try_from(url.host().to_owned()), profile) {
        (Ok(name), _) => name,
        // The name proves nothing there; without a sane one, none is told.
        (Err(_), EndpointProfile::HttpsSpiffe { .. }) => unspecified,
        (Err(error), EndpointProfile::HttpsWeb) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
            return Err(FetchFailure::Handshake { authority, source });
        }
    };
    let encrypted = timeout(config.connect_timeout, TlsConnector::from(tls).connect(name, tcp)).await;
    encrypted.map_err(|_| FetchFailure::TimedOut(authority.clone()))?.map_err(|source| {
        match (profile, refusal(&source).cloned().map(Box::new)) {
            (EndpointProfile::HttpsSpiffe { endpoint_id }, Some(source)) => {
                FetchFailure::NotTheEndpoint { authority, wanted: endpoint_id.clone(), source }
            }
            _ => FetchFailure::Handshake { authority, source },
        }
    })
}

/// Carries one connection until it is dropped.
struct Carrier(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(stream: TlsStream<TcpStream>, url: &EndpointUrl) -> Result<(Response<Incoming>, Carrier), FetchFailure> {
    let not_http = |source: Box<dyn std::error::Error + Send + Sync>| {
        let authority = url.authority();
        FetchFailure::Http { authority, source }
    };
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(HEAD_LEN_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| not_http(error.into()))?;
    let request = Request::get(url.path())
        .header(HOST, url.authority())
        .header(USER_AGENT, "x0t")
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| not_http(error.into()))?;
    let carrier = Carrier(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(|error| not_http(error.into()))?;
    Ok((answer, carrier))
}

async fn body(answer: Response<Incoming>, url: &EndpointUrl) -> Result<Vec<u8>, FetchFailure> {
    let body = answer.into_body();
    if body.size_hint().lower() > DOCUMENT_LEN_MAX as u64 {
        return Err(FetchFailure::TooLarge(url.clone()));
    }
    match Limited::new(body, DOCUMENT_LEN_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes().to_vec()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(FetchFailure::TooLarge(url.clone())),
        Err(source) => Err(FetchFailure::Http { authority: url.authority(), source }),
    }
}
