//! What a session costs: `cargo run --release -p x0t-overlay --example cost`.
//!
//! Handshakes are measured against the same TLS over a byte stream: same suites, certificates and verifier, configurations
//! built once, no resumption. Both rows count the work of both ends, in processor time of this thread.

#![expect(clippy::print_stdout, reason = "it reports")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says so by panicking")]

#[path = "../tests/overlay/authority.rs"]
mod authority;

use std::hint::black_box;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime as TlsTime};
use x0t_model::{Entropy, Instant, NodeId};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{
    Carrier, CertificateDer, Credentials, Endpoint, EndpointConfig, Event, Handshake, HopHeader, Offer, Opened,
    Provider, Purpose, SessionId, VerifyPeer,
};

use authority::{Authority, WALL, id};

const HANDSHAKES: usize = 1_000;
const BATCH: usize = 64;
const BATCHES: usize = 4_000;
const PAYLOAD: usize = 1_300;

fn main() {
    let authority = Authority::p256();
    let (a, b) = (authority.issue("a"), authority.issue("b"));
    let bare = BareTls::new(&authority, &a, &b);
    let provider = Arc::new(RustlsProvider::new());
    let mut pair = Pair::new(&authority, &a, &b, &provider);
    // Taken in turns, so that a busy machine slows both alike.
    let verifier = authority.verifier();
    let (mut bare_times, mut quic_times, mut session_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..HANDSHAKES {
        bare_times.push(timed(|| bare.handshake()));
        quic_times.push(timed(|| exchange(&provider, [&a, &b], &verifier)));
        session_times.push(timed(|| {
            let (a, b) = pair.handshake();
            pair.sides[0].forget(a);
            pair.sides[1].forget(b);
        }));
    }
    let (bare, quic, session) = (undisturbed(bare_times), undisturbed(quic_times), undisturbed(session_times));
    let over = |time: f64| (time / bare - 1.0) * 100.0;
    println!("handshake, TLS over a byte stream    {:>8.1} us", bare / 1e3);
    println!("handshake, rustls::quic, no packets  {:>8.1} us  ({:+.1} %)", quic / 1e3, over(quic));
    println!("handshake, a session over datagrams  {:>8.1} us  ({:+.1} %)", session / 1e3, over(session));

    let (link_a, link_b) = pair.handshake();
    assert_eq!(pair.sides[0].info(link_a).unwrap().peer, Some(id("b")));
    let hop = HopHeader {
        src: NodeId::from_bytes([1; 16]),
        dst: NodeId::from_bytes([2; 16]),
        ttl: 9,
        kind: PayloadKind::EndToEnd,
        flags: 0,
        flow: 7,
    };
    let payload = vec![7; PAYLOAD];
    let mut packets = vec![vec![0; 2_048]; BATCH];
    let (mut seal, mut open, mut reseal) = (0.0, 0.0, 0.0);
    for _ in 0..BATCHES {
        packets.iter_mut().for_each(Vec::clear);
        seal += timed(|| {
            packets.iter_mut().for_each(|out| pair.sides[0].seal_forward(link_a, &hop, &payload, out).unwrap());
        });
        open += timed(|| packets.iter_mut().for_each(|packet| pair.open(packet)));
        reseal += timed(|| {
            packets.iter_mut().for_each(|packet| {
                let stride = packet.len();
                pair.sides[1].seal_hops(link_b, packet, stride, [hop]).unwrap();
            });
        });
    }
    report("FORWARD", &[("seal", seal), ("open", open), ("reseal", reseal)]);

    let (mut seal, mut open) = (0.0, 0.0);
    for _ in 0..BATCHES {
        packets.iter_mut().for_each(Vec::clear);
        seal += timed(|| {
            packets.iter_mut().for_each(|out| pair.sides[0].seal_datagram_packet(link_a, &payload, out).unwrap());
        });
        open += timed(|| packets.iter_mut().for_each(|packet| pair.open(packet)));
    }
    report("PROTECTED", &[("seal", seal), ("open", open)]);
}

fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let start = processor_time();
    black_box(work());
    processor_time() - start
}

/// In nanoseconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// The tenth percentile: what it takes when neighbours on the same core leave it alone.
fn undisturbed(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

fn report(what: &str, rows: &[(&str, f64)]) {
    for (row, total) in rows {
        println!("{what:<9} of {PAYLOAD} bytes, {row:<6}    {:>8.0} ns", total / (BATCH * BATCHES) as f64);
    }
}

/// The messages of a handshake, handed over as they are.
fn exchange(provider: &RustlsProvider, [a, b]: [&Arc<Credentials>; 2], verifier: &Arc<dyn VerifyPeer>) {
    let offer = |credentials: &Arc<Credentials>| Offer {
        purpose: Purpose::Link,
        credentials: Some(Arc::clone(credentials)),
        verifier: Arc::clone(verifier),
        parameters: Vec::new(),
        now: WALL,
        entropy: [0; 32],
    };
    let (mut client, mut server) = (provider.client(offer(a)).unwrap(), provider.server(offer(b)).unwrap());
    while !(client.is_done() && server.is_done()) {
        carry(&mut *client, &mut *server);
        carry(&mut *server, &mut *client);
    }
}

fn carry(from: &mut dyn Handshake, to: &mut dyn Handshake) {
    let mut said = Vec::new();
    loop {
        said.clear();
        let change = from.write(&mut said);
        if !said.is_empty() {
            to.read(&said).unwrap();
        } else if change.is_none() {
            return;
        }
    }
}

/// Two endpoints that hand each other packets.
struct Pair {
    sides: [Endpoint; 2],
    addresses: [Carrier; 2],
    now: Instant,
}

impl Pair {
    fn new(authority: &Authority, a: &Arc<Credentials>, b: &Arc<Credentials>, provider: &Arc<RustlsProvider>) -> Self {
        let side = |credentials: &Arc<Credentials>, seed| {
            let config = EndpointConfig::default();
            let mut endpoint = Endpoint::new(config, Arc::<RustlsProvider>::clone(provider), Entropy::new([seed; 32]));
            endpoint.set_identity(Arc::clone(credentials), authority.verifier());
            endpoint
        };
        let addresses = ["192.0.2.1:4600", "192.0.2.2:4600"].map(|text| Carrier::Udp(text.parse().unwrap()));
        Self { sides: [side(a, 1), side(b, 2)], addresses, now: Instant::from_millis(1_000) }
    }

    /// `b` opens a packet of `a`.
    fn open(&mut self, packet: &mut [u8]) {
        let opened = self.sides[1].handle_datagram(self.addresses[0], packet, self.now, WALL);
        assert!(matches!(black_box(opened), Some(Opened::Forward { .. } | Opened::Datagram { .. })));
    }

    fn handshake(&mut self) -> (SessionId, SessionId) {
        let mut established = [None; 2];
        self.sides[0].connect(Purpose::Link, self.addresses[1], self.now, WALL).unwrap();
        while established.contains(&None) {
            for (from, to) in [(0, 1), (1, 0)] {
                while let Some(mut transmit) = self.sides[from].poll_transmit() {
                    self.sides[to].handle_datagram(self.addresses[from], &mut transmit.bytes, self.now, WALL);
                }
                while let Some(event) = self.sides[to].poll_event() {
                    if let Event::Established { session, .. } = event {
                        established[to] = Some(session);
                    }
                }
            }
        }
        (established[0].unwrap(), established[1].unwrap())
    }
}

/// The same TLS without datagrams.
struct BareTls {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

impl BareTls {
    fn new(authority: &Authority, a: &Credentials, b: &Credentials) -> Self {
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Asks { verifier: authority.verifier(), crypto: Arc::clone(&crypto) });
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&crypto))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Asks>::clone(&verifier))
            .with_client_auth_cert(a.chain.clone(), a.key.clone_key())
            .unwrap();
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;
        let mut server = rustls::ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(b.chain.clone(), b.key.clone_key())
            .unwrap();
        server.send_tls13_tickets = 0;
        Self { client: Arc::new(client), server: Arc::new(server) }
    }

    fn handshake(&self) {
        let name = ServerName::try_from("spiffe.invalid").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(&self.server)).unwrap();
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
    }
}

struct Asks {
    verifier: Arc<dyn VerifyPeer>,
    crypto: Arc<CryptoProvider>,
}

impl Asks {
    fn ask(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        self.verifier.verify(std::slice::from_ref(leaf), WALL).map(|_| ()).map_err(Error::General)
    }

    fn check(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }
}

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asks")
    }
}

impl ServerCertVerifier for Asks {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        self.ask(leaf).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Asks {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: TlsTime,
    ) -> Result<ClientCertVerified, Error> {
        self.ask(leaf).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}
