//! The bundle endpoint: this trust domain's bundle for whoever asks (SPIFFE Federation, section 5).
//!
//! ```text
//! TCP ── 256 connections, 16 of one place ── TLS 1.3, 5 s ── head of 8 KiB, 5 s ── GET / ── document, ETag ── closed, 10 s
//! ```
//!
//! A bundle is public, so nobody is asked who they are. Who this is shows in the certificate: the node's own X.509-SVID
//! (`https_spiffe`), or one of the Web PKI from files (`https_web`). Every connection carries one answer and is over within ten
//! seconds, whatever its other end does.

mod shown;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::version::TLS13;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use x0t_identity::Bundle;
use x0t_identity::federation::BundleDigest;

pub use self::shown::{CertificateError, Shown};

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Connections of one place at once: nobody takes all.
const CONNECTIONS_OF_ONE_MAX: usize = 16;
/// TLS, and then a request's head, must be complete within this time.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// A connection is over within this time.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);
/// Requests have no long heads here.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// Out of file descriptors, say: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What there is to publish at this moment.
pub type Publish = Arc<dyn Fn() -> Option<Arc<Bundle>> + Send + Sync>;

/// Binds the endpoint's address, so that what the operating system refuses is known before anything runs.
///
/// # Errors
/// What it said.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until `stop` turns true.
///
/// # Errors
/// If the listener cannot be registered with the runtime, or TLS cannot be configured.
pub async fn serve(
    listener: std::net::TcpListener,
    shown: Arc<Shown>,
    publish: Publish,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let tls = TlsAcceptor::from(tls(shown.clone()).map_err(io::Error::other)?);
    let guests = Arc::new(Guests::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the bundle endpoint cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(guest) = Guests::enter(&guests, address.ip()) else { continue };
        shown.look_again();
        let (tls, publish) = (tls.clone(), publish.clone());
        tokio::spawn(async move {
            // Who is too slow, breaks off or talks nonsense is simply gone: a stranger, of whom nothing is expected.
            let _ = timeout(CONNECTION_DEADLINE, converse(stream, tls, publish)).await;
            drop(guest);
        });
    }
}

fn tls(shown: Arc<Shown>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

async fn converse(stream: TcpStream, tls: TlsAcceptor, publish: Publish) -> Option<()> {
    let stream = timeout(HANDSHAKE_DEADLINE, tls.accept(stream)).await.ok()?.ok()?;
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), request.headers(), publish().as_deref());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_DEADLINE);
    builder.max_buf_size(HEAD_LEN_MAX).keep_alive(false);
    builder.serve_connection(TokioIo::new(stream), service).await.ok()
}

/// The answer to a request (RFC 9110).
fn answer(method: &Method, path: &str, headers: &HeaderMap, bundle: Option<&Bundle>) -> Response<Full<Bytes>> {
    let plain = |status: StatusCode| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if path != "/" {
        return plain(StatusCode::NOT_FOUND);
    }
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    // An empty bundle would tell everybody to trust nobody.
    let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else {
        return plain(StatusCode::SERVICE_UNAVAILABLE);
    };
    let document = bundle.to_json();
    let tag = format!("\"{}\"", BundleDigest::of(&document));
    let mut response = if is_known(headers, &tag) {
        plain(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = Response::new(Full::new(Bytes::from(document)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    response.headers_mut().extend(HeaderValue::try_from(tag).map(|tag| (ETAG, tag)));
    response
}

/// Whether the asker has it (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// Who is connected.
#[derive(Debug, Default)]
struct Guests(Mutex<BTreeMap<Place, usize>>);

/// What one guest has for itself: an IPv4 address, or the network of 48 bits that a site gets of IPv6, where addresses cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    V4(Ipv4Addr),
    V6([u8; 6]),
}

impl Place {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// A place, until it is dropped.
struct Guest {
    guests: Arc<Guests>,
    place: Place,
}

impl Guests {
    fn enter(guests: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let mut present = guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = present.values().sum();
        let place = Place::of(address);
        let of_one = present.get(&place).copied().unwrap_or(0);
        if all >= CONNECTIONS_MAX || of_one >= CONNECTIONS_OF_ONE_MAX {
            return None;
        }
        present.insert(place, of_one + 1);
        Some(Guest { guests: guests.clone(), place })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut present = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = present.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                present.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, path: &str, known: Option<&str>) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::new();
        headers.extend(known.map(|known| (IF_NONE_MATCH, HeaderValue::from_str(known).unwrap())));
        answer(method, path, &headers, Some(&bundle()))
    }

    fn bundle() -> Bundle {
        let (mut keys, mut entropy) = (x0t_identity::AwsLcKeys, x0t_model::Entropy::new([2; 32]));
        let node = "spiffe://mesh.test/node/a".parse().unwrap();
        let config = x0t_identity::AuthorityConfig::default();
        let now = x0t_model::UnixTime::from_secs(1_795_262_400);
        let authority = x0t_identity::Authority::create(&node, config, &mut keys, &mut entropy, now).unwrap();
        authority.bundle().clone()
    }

    #[test]
    fn fe_7_the_document_is_json_with_a_tag_and_nothing_else_is_served() {
        let found = asked(&Method::GET, "/", None);
        assert_eq!(found.status(), StatusCode::OK);
        assert_eq!(found.headers()[CONTENT_TYPE], "application/json");
        assert!(found.headers()[ETAG].to_str().unwrap().starts_with('"'));
        for method in [Method::POST, Method::PUT, Method::HEAD, Method::OPTIONS] {
            let refused = asked(&method, "/", None);
            assert_eq!(
                (refused.status(), &refused.headers()[ALLOW]),
                (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("GET"))
            );
        }
        assert_eq!(asked(&Method::GET, "/x", None).status(), StatusCode::NOT_FOUND);
        let unknown = answer(&Method::GET, "/", &HeaderMap::new(), None);
        assert_eq!(unknown.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn fe_7_who_has_the_document_is_not_sent_it_again() {
        let bundle = bundle();
        let tag = format!("\"{}\"", BundleDigest::of(&bundle.to_json()));
        let with = |known: &str| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(known).unwrap())]);
            answer(&Method::GET, "/", &headers, Some(&bundle)).status()
        };
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            assert_eq!(with(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(with("\"x\""), StatusCode::OK);
    }

    #[test]
    fn nobody_takes_all_places() {
        let guests = Arc::new(Guests::default());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mut places: Vec<_> = (0..100).filter_map(|_| Guests::enter(&guests, one)).collect();
        assert_eq!(places.len(), CONNECTIONS_OF_ONE_MAX);
        let others = (0..1000u32).filter_map(|host| Guests::enter(&guests, IpAddr::V4((0x0a00_0000 + host).into())));
        places.extend(others);
        assert_eq!(places.len(), CONNECTIONS_MAX);
        drop(places);
        assert!(guests.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_guest_has_no_more_places_for_having_many_addresses() {
        let guests = Arc::new(Guests::default());
        let of_a_site =
            |site: u16| (0..100u16).map(move |host| IpAddr::from([0x2001, 0xdb8, site, host, 0, 0, 0, host]));
        let enter = |address| Guests::enter(&guests, address);
        let one: Vec<_> = of_a_site(1).filter_map(enter).collect();
        assert_eq!(one.len(), CONNECTIONS_OF_ONE_MAX);
        let another: Vec<_> = of_a_site(2).filter_map(enter).collect();
        assert_eq!(another.len(), CONNECTIONS_OF_ONE_MAX);
        // IPv4 through an IPv6 socket: not all of it is one place.
        let mapped = |text: &str| enter(text.parse().unwrap());
        let mut twice: Vec<_> = (0..100).filter_map(|_| mapped("::ffff:192.0.2.1")).collect();
        assert_eq!(twice.len(), CONNECTIONS_OF_ONE_MAX);
        assert!(mapped("192.0.2.1").is_none());
        twice.extend(mapped("::ffff:192.0.2.2"));
        assert_eq!(twice.len(), CONNECTIONS_OF_ONE_MAX + 1);
    }
}
