//! Bundle endpoints over real sockets: honest ones, and those that are not.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x0t_identity::federation::{EndpointProfile, FederationRelationship};
use x0t_identity::{
    Authority, AuthorityConfig, AuthorityServer, AwsLcKeys, Bundle, BundleMap, FederationRequest, OperatorRequest,
};
use x0t_model::{Entropy, Instant, UnixTime};
use x0t_workload::authority_service::{self, AuthorityHandle, AuthorityPorts};
use x0t_workload::authority_store::{AuthorityStore, StoreError};
use x0t_workload::federation::endpoint::{self, Shown};
use x0t_workload::federation::fetch::{FetchConfig, FetchFailure, fetch};
use x0t_workload::federation::service;

use super::authority::TestAuthority;

const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);
const ENDPOINT: &str = "spiffe://other.test/node/a";

fn bundles(of: &[&Bundle]) -> BundleMap {
    let mut map = BundleMap::new();
    of.iter().for_each(|bundle| map.replace((*bundle).clone()).unwrap());
    map
}

fn spiffe(trust_domain: &str, address: SocketAddr, endpoint_id: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: trust_domain.parse().unwrap(),
        url: format!("https://{address}/").parse().unwrap(),
        profile: EndpointProfile::HttpsSpiffe { endpoint_id: endpoint_id.parse().unwrap() },
    }
}

fn web(host: &str, port: u16) -> FederationRelationship {
    FederationRelationship {
        trust_domain: "other.test".parse().unwrap(),
        url: format!("https://{host}:{port}/").parse().unwrap(),
        profile: EndpointProfile::HttpsWeb,
    }
}

async fn code(relationship: &FederationRelationship, bundles: &BundleMap, config: &FetchConfig) -> &'static str {
    fetch(relationship, bundles, config, NOW).await.as_ref().map_or_else(FetchFailure::code, |_| "fetched")
}

/// Serves `bundle` as `shown`; ends with the sender.
fn publish(bundle: Bundle, shown: Shown) -> (SocketAddr, watch::Sender<bool>) {
    let listener = endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let bundle = Arc::new(bundle);
    tokio::spawn(endpoint::serve(listener, Arc::new(shown), Arc::new(move || Some(bundle.clone())), stopped));
    (address, stop)
}

/// A server that answers each request with bytes of its own, and after them drips `x` for ever if it is told to.
async fn answer_with(
    tls: rustls::ServerConfig,
    drips: bool,
    answer: impl Fn(SocketAddr) -> String + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tls, answer) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, answer) = (tls.clone(), answer.clone());
            tokio::spawn(async move {
                let mut stream = tls.accept(stream).await?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(answer(address).as_bytes()).await?;
                if !drips {
                    return stream.shutdown().await;
                }
                loop {
                    stream.write_all(&[b'x'; 4096]).await?;
                }
            });
        }
    });
    address
}

fn tls_as(shown: Shown) -> rustls::ServerConfig {
    server(&[&TLS13]).with_cert_resolver(Arc::new(shown) as Arc<dyn ResolvesServerCert>)
}

fn server(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
}

/// A CA of the Web PKI and a certificate of it for `localhost`, as PEM files.
struct WebPki {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl WebPki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let pki = Self { folder, issuer: Issuer::new(params, key) };
        pki.issue();
        pki
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces certificate and key.
    fn issue(&self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.file("key.pem"), key.serialize_pem()).unwrap();
    }

    fn shown(&self) -> Shown {
        Shown::files(self.file("cert.pem"), self.file("key.pem")).unwrap()
    }

    fn config(&self) -> FetchConfig {
        FetchConfig { ca_file: Some(self.file("ca.pem")), ..FetchConfig::default() }
    }
}

#[tokio::test]
async fn fe_3_an_endpoint_with_an_svid_is_believed_if_it_is_exactly_who_it_should_be() {
    let (other, third) = (TestAuthority::new("other.test"), TestAuthority::new("third.test"));
    let (address, _stop) = publish(other.bundle(), Shown::svid(&other.issue(ENDPOINT)).unwrap());
    let (config, both) = (FetchConfig::default(), bundles(&[&other.bundle(), &third.bundle()]));
    let document = fetch(&spiffe("other.test", address, ENDPOINT), &both, &config, NOW).await.unwrap();
    let fetched = Bundle::from_json("other.test".parse().unwrap(), &document).unwrap();
    assert_eq!(fetched, other.bundle());
    let of = |id: &str| spiffe("other.test", address, id);
    assert_eq!(code(&of("spiffe://other.test/node/b"), &both, &config).await, "wrong_endpoint");
    assert_eq!(code(&of("spiffe://third.test/node/a"), &both, &config).await, "wrong_endpoint");
    assert_eq!(code(&of(ENDPOINT), &bundles(&[&third.bundle()]), &config).await, "no_bundle");
    // One of the same name with another key: somebody else's.
    let forged = TestAuthority::new("other.test");
    assert_eq!(code(&of(ENDPOINT), &bundles(&[&forged.bundle()]), &config).await, "wrong_endpoint");
    let empty = Bundle::new("other.test".parse().unwrap(), vec![], 9).unwrap();
    assert_eq!(code(&of(ENDPOINT), &bundles(&[&empty]), &config).await, "no_bundle");
}

#[tokio::test]
async fn fe_3_an_endpoint_may_belong_to_another_trust_domain_than_it_speaks_for() {
    let (other, third) = (TestAuthority::new("other.test"), TestAuthority::new("third.test"));
    let host = "spiffe://third.test/publisher";
    let (address, _stop) = publish(other.bundle(), Shown::svid(&third.issue(host)).unwrap());
    let relationship = spiffe("other.test", address, host);
    assert_eq!(code(&relationship, &bundles(&[&third.bundle()]), &FetchConfig::default()).await, "fetched");
    assert_eq!(code(&relationship, &bundles(&[&other.bundle()]), &FetchConfig::default()).await, "no_bundle");
}

#[tokio::test]
async fn fe_2_an_endpoint_of_the_web_pki_is_believed_for_its_name_and_by_its_ca() {
    let (other, pki) = (TestAuthority::new("other.test"), WebPki::new());
    let (address, _stop) = publish(other.bundle(), pki.shown());
    let none = BundleMap::new();
    assert_eq!(code(&web("localhost", address.port()), &none, &pki.config()).await, "fetched");
    assert_eq!(code(&web("127.0.0.1", address.port()), &none, &pki.config()).await, "tls", "it is not for the address");
    assert_eq!(code(&web("localhost", address.port()), &none, &WebPki::new().config()).await, "tls");
    // An SVID is not of the Web PKI, and the CA of a trust domain not one of its anchors.
    let (svid, _stop) = publish(other.bundle(), Shown::svid(&other.issue(ENDPOINT)).unwrap());
    assert_eq!(code(&web("localhost", svid.port()), &bundles(&[&other.bundle()]), &pki.config()).await, "tls");
    let missing = FetchConfig { ca_file: Some(pki.file("nothing.pem")), ..FetchConfig::default() };
    assert_eq!(code(&web("localhost", address.port()), &none, &missing).await, "no_anchors");
}

#[tokio::test]
async fn fe_9_tls_1_2_is_enough_for_a_server_of_the_web_pki_and_for_no_other() {
    let (other, pki) = (TestAuthority::new("other.test"), WebPki::new());
    let answer = |_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned();
    let old = server(&[&TLS12]).with_cert_resolver(Arc::new(pki.shown()));
    let address = answer_with(old, false, answer).await;
    assert_eq!(code(&web("localhost", address.port()), &BundleMap::new(), &pki.config()).await, "fetched");
    let old = server(&[&TLS12]).with_cert_resolver(Arc::new(Shown::svid(&other.issue(ENDPOINT)).unwrap()));
    let address = answer_with(old, false, answer).await;
    let relationship = spiffe("other.test", address, ENDPOINT);
    assert_eq!(code(&relationship, &bundles(&[&other.bundle()]), &FetchConfig::default()).await, "tls");
    // Our own endpoint speaks 1.3 only.
    let (address, _stop) = publish(other.bundle(), pki.shown());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = std::fs::read(pki.file("ca.pem")).unwrap();
    roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    assert!(tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, tcp).await.is_err());
}

#[tokio::test]
async fn fe_4_redirects_are_followed_within_https_and_the_same_identity_five_times() {
    let other = TestAuthority::new("other.test");
    let known = bundles(&[&other.bundle()]);
    let shown = |id: &str| tls_as(Shown::svid(&other.issue(id)).unwrap());
    let to =
        |location: String| move |_| format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let ask = async |address| code(&spiffe("other.test", address, ENDPOINT), &known, &FetchConfig::default()).await;
    let (target, _stop) = publish(other.bundle(), Shown::svid(&other.issue(ENDPOINT)).unwrap());
    let honest = answer_with(shown(ENDPOINT), false, to(format!("https://{target}/"))).await;
    assert_eq!(ask(honest).await, "fetched");
    let into_clear = answer_with(shown(ENDPOINT), false, to(format!("http://{target}/"))).await;
    assert_eq!(ask(into_clear).await, "bad_redirect");
    let nowhere =
        answer_with(shown(ENDPOINT), false, |_| "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".into()).await;
    assert_eq!(ask(nowhere).await, "bad_status");
    let (stranger, _stop) = publish(other.bundle(), Shown::svid(&other.issue("spiffe://other.test/x")).unwrap());
    let to_a_stranger = answer_with(shown(ENDPOINT), false, to(format!("https://{stranger}/"))).await;
    assert_eq!(ask(to_a_stranger).await, "wrong_endpoint");
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let in_circles = answer_with(shown(ENDPOINT), false, move |me| {
        *count.lock().unwrap() += 1;
        format!("HTTP/1.1 307 Again\r\nLocation: https://{me}/\r\nContent-Length: 0\r\n\r\n")
    });
    assert_eq!(ask(in_circles.await).await, "too_many_redirects");
    assert_eq!(*asked.lock().unwrap(), 6, "the first and five redirects");
}

#[tokio::test]
async fn fe_9_an_answer_that_has_no_end_or_none_at_all_is_given_up() {
    let other = TestAuthority::new("other.test");
    let known = bundles(&[&other.bundle()]);
    let shown = || tls_as(Shown::svid(&other.issue(ENDPOINT)).unwrap());
    let short = FetchConfig { deadline: Duration::from_millis(700), ..FetchConfig::default() };
    let ask =
        async |address, config: &FetchConfig| code(&spiffe("other.test", address, ENDPOINT), &known, config).await;
    let with = |head: &'static str, drips| answer_with(shown(), drips, move |_| format!("HTTP/1.1 {head}\r\n\r\n"));
    let plain = FetchConfig::default();
    let huge = with("200 OK\r\nContent-Length: 1048577", false).await;
    assert_eq!(ask(huge, &plain).await, "too_large");
    let endless = with("200 OK\r\nConnection: close", true).await;
    assert_eq!(ask(endless, &plain).await, "too_large");
    let endless_head = answer_with(shown(), true, |_| "HTTP/1.1 200 OK\r\nX: ".to_owned()).await;
    assert_eq!(ask(endless_head, &plain).await, "not_http");
    let cut_off = with("200 OK\r\nContent-Length: 100", false).await;
    assert_eq!(ask(cut_off, &plain).await, "not_http");
    for head in ["404 Not Found\r\nContent-Length: 0", "204 No Content", "304 Not Modified"] {
        assert_eq!(ask(with(head, false).await, &plain).await, "bad_status", "{head}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(ask(silent.local_addr().unwrap(), &short).await, "timed_out");
    let address = silent.local_addr().unwrap();
    drop(silent);
    assert_eq!(ask(address, &plain).await, "unreachable");
}

#[tokio::test]
async fn slow_clients_of_the_bundle_endpoint_are_ended_and_others_served_meanwhile() {
    let other = TestAuthority::new("other.test");
    let (address, _stop) = publish(other.bundle(), Shown::svid(&other.issue(ENDPOINT)).unwrap());
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let relationship = spiffe("other.test", address, ENDPOINT);
    assert_eq!(code(&relationship, &bundles(&[&other.bundle()]), &FetchConfig::default()).await, "fetched");
    // Nothing moves any more but the clock.
    tokio::time::pause();
    for mut stream in idle {
        let mut rest = Vec::new();
        // An orderly end or a reset: in any case an end.
        let ended = stream.read_to_end(&mut rest).await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn a_new_certificate_in_the_files_is_shown_and_a_broken_one_is_not() {
    let (other, pki) = (TestAuthority::new("other.test"), WebPki::new());
    let shown = pki.shown();
    let (key, other_pki) = (std::fs::read(pki.file("key.pem")).unwrap(), WebPki::new());
    let (address, _stop) = publish(other.bundle(), shown);
    let relationship = web("localhost", address.port());
    // Its own files, with a certificate of another CA.
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(other_pki.file(name), pki.file(name)).unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while code(&relationship, &BundleMap::new(), &other_pki.config()).await != "fetched" {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mismatched = (pki.file("cert.pem"), pki.file("old.pem"));
    std::fs::write(&mismatched.1, key).unwrap();
    assert!(Shown::files(mismatched.0, mismatched.1).is_err(), "a key of another certificate");
    assert!(Shown::files(pki.file("key.pem"), pki.file("key.pem")).is_err(), "no certificate");
}

/// Forgets: what is tested here is not durability.
struct Nowhere;

impl AuthorityStore for Nowhere {
    fn commit(&mut self, _: &[x0t_identity::AuthorityCommand], _: &Authority) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Ports(watch::Sender<Arc<x0t_identity::federation::FederationSnapshot>>);

impl AuthorityPorts for Ports {
    fn now(&self) -> (Instant, UnixTime) {
        (Instant::ZERO, NOW)
    }

    fn answer(&mut self, _: x0t_identity::Ticket, _: x0t_identity::AuthorityAnswer) {}

    fn joined(&mut self, _: x0t_model::SpiffeId) {}

    fn federations(&mut self, snapshot: x0t_identity::federation::FederationSnapshot) {
        self.0.send_replace(Arc::new(snapshot));
    }
}

fn start() -> (AuthorityHandle, service::FederationHandle, watch::Sender<bool>) {
    let mut entropy = Entropy::new([3; 32]);
    let node = "spiffe://mesh.test/node/a".parse().unwrap();
    let authority = Authority::create(&node, AuthorityConfig::default(), &mut AwsLcKeys, &mut entropy, NOW).unwrap();
    let (snapshots, published) = watch::channel(Arc::default());
    let server = AuthorityServer::new(authority, vec![node], entropy.fork("server"));
    let authority = authority_service::start(server, Box::new(Nowhere), Ports(snapshots)).unwrap();
    let (stop, stopped) = watch::channel(false);
    let clock: service::Clock = Arc::new(|| (Instant::ZERO, NOW));
    let handle =
        service::start(authority.clone(), published, FetchConfig::default(), clock, entropy.fork("fetch"), stopped);
    (authority, handle, stop)
}

#[tokio::test]
async fn fe_6_an_endpoint_that_goes_back_is_not_followed_and_the_operator_is_told() {
    let other = TestAuthority::new("other.test");
    let (authority, federation, _stop) = start();
    let served = Arc::new(Mutex::new(other.bundle()));
    let number = |sequence| {
        let keys = other.bundle().jwt_keys().clone();
        let authorities = other.bundle().authorities().to_vec();
        Bundle::new("other.test".parse().unwrap(), authorities, sequence).unwrap().with_jwt_keys(keys).unwrap()
    };
    let answer = served.clone();
    let shown = Shown::svid(&other.issue(ENDPOINT)).unwrap();
    let address = answer_with(tls_as(shown), false, move |_| {
        let document = String::from_utf8(answer.lock().unwrap().to_json()).unwrap();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len())
    })
    .await;
    let relationship = spiffe("other.test", address, ENDPOINT);
    let bootstrap = Some(x0t_identity::federation::ForeignBundle::new(other.bundle()));
    let create = FederationRequest::CreateRelationship { relationship, bootstrap, replace: false };
    authority.operator(OperatorRequest::Federation(create)).await.unwrap();
    let refresh = async |bundle| {
        *served.lock().unwrap() = bundle;
        let status = federation.refresh("other.test".parse().unwrap()).await.unwrap();
        (status.sequence, status.last_error.map(|error| error.code))
    };
    assert_eq!(refresh(number(7)).await, (Some(7), None));
    let rolled_back = Some("bundle_rolled_back".to_owned());
    assert_eq!(refresh(number(6)).await, (Some(7), rolled_back));
    let forked = Bundle::new("other.test".parse().unwrap(), other.bundle().authorities().to_vec(), 7).unwrap();
    assert_eq!(refresh(forked).await, (Some(7), Some("bundle_forked".to_owned())));
    // FE-3: what is checked against is the latest that is stored, and the endpoint has thrown its own key away.
    let without = Bundle::new("other.test".parse().unwrap(), vec![], 8).unwrap();
    assert_eq!(refresh(without).await, (Some(8), None));
    assert_eq!(refresh(number(9)).await, (Some(8), Some("no_bundle".to_owned())));
    let delete = FederationRequest::DeleteRelationship { trust_domain: "other.test".parse().unwrap() };
    authority.operator(OperatorRequest::Federation(delete)).await.unwrap();
    assert!(federation.refresh("other.test".parse().unwrap()).await.is_err());
    assert_eq!(federation.statuses().await.unwrap(), []);
}

#[tokio::test]
async fn a_document_that_is_no_bundle_leaves_the_one_in_force() {
    let other = TestAuthority::new("other.test");
    let (authority, federation, _stop) = start();
    let shown = Shown::svid(&other.issue(ENDPOINT)).unwrap();
    let address = answer_with(tls_as(shown), false, |_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{\"keys\":[],\"keys\":[\"twice\"]}".to_owned()
    })
    .await;
    let bootstrap = Some(x0t_identity::federation::ForeignBundle::new(other.bundle()));
    let relationship = spiffe("other.test", address, ENDPOINT);
    let create = FederationRequest::CreateRelationship { relationship, bootstrap, replace: false };
    authority.operator(OperatorRequest::Federation(create)).await.unwrap();
    let status = federation.refresh("other.test".parse().unwrap()).await.unwrap();
    assert_eq!(status.last_error.unwrap().code, "bad_document");
    let show = FederationRequest::ShowBundle { trust_domain: Some("other.test".parse().unwrap()) };
    let x0t_identity::OperatorAnswer::Federation(x0t_identity::FederationAnswer::Bundle { bundle, .. }) =
        authority.operator(OperatorRequest::Federation(show)).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(bundle.sequence, 1);
}
