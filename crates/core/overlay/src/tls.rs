//! TLS 1.3 by rustls, run over datagrams (`rustls::quic`), with aws-lc-rs underneath.
//!
//! What is dear is done once per [`Credentials`], verifier, purpose and side: the private key is parsed and the configuration
//! built, and both are kept. What differs from handshake to handshake, the time and the verdict on the peer, passes through
//! the configuration's judge.

mod verifier;

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::quic::{self, Connection, Version};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use x0t_model::{SpiffeId, UnixTime};

use self::verifier::Judge;
use crate::{
    Credentials, Handshake, HandshakeError, KeyChange, KeyError, KeyPair, NextKeys, Offer, PacketKey, Provider,
    Purpose, TAG_LEN,
};

/// Configurations kept: a node has one identity, for a moment during rotation two, and three purposes of two sides each.
const PREPARED_MAX: usize = 12;

/// The real handshake: TLS 1.3 only, X25519MLKEM768 first, mutual certificates, no resumption, no tickets.
///
/// rustls draws its randomness from the operating system inside of this type: the one place below the shell that does.
pub struct RustlsProvider {
    crypto: Arc<CryptoProvider>,
    prepared: Mutex<Vec<Arc<Prepared>>>,
}

/// Everything of one side that stays the same from handshake to handshake.
struct Prepared {
    purpose: Purpose,
    credentials: Option<Arc<Credentials>>,
    judge: Arc<Judge>,
    side: Side,
}

enum Side {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl Prepared {
    /// Held pointers are not reused, so equal addresses are the same objects.
    fn serves(&self, offer: &Offer, client: bool) -> bool {
        let same_credentials = match (&self.credentials, &offer.credentials) {
            (Some(held), Some(offered)) => Arc::ptr_eq(held, offered),
            (None, None) => true,
            _ => false,
        };
        self.purpose == offer.purpose
            && matches!(self.side, Side::Client(_)) == client
            && same_credentials
            && self.judge.asks(&offer.verifier)
    }
}

impl RustlsProvider {
    /// Prefers X25519MLKEM768 and accepts X25519, P-256 and P-384 from a peer that has nothing better.
    pub fn new() -> Self {
        Self::with_crypto(aws_lc_rs::default_provider())
    }

    /// Accepts X25519MLKEM768 and nothing else: traffic recorded today stays closed to a quantum adversary.
    pub fn post_quantum_only() -> Self {
        let mut crypto = aws_lc_rs::default_provider();
        crypto.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
        Self::with_crypto(crypto)
    }

    fn with_crypto(crypto: CryptoProvider) -> Self {
        Self { crypto: Arc::new(crypto), prepared: Mutex::default() }
    }

    fn prepared(&self, offer: &Offer, client: bool) -> Result<Arc<Prepared>, HandshakeError> {
        let mut held = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = held.iter().find(|prepared| prepared.serves(offer, client)) {
            return Ok(Arc::clone(prepared));
        }
        let judge = Arc::new(Judge::new(Arc::clone(&offer.verifier), self.crypto.signature_verification_algorithms));
        let side = if client {
            Side::Client(Arc::new(self.client_config(offer, &judge)?))
        } else {
            Side::Server(Arc::new(self.server_config(offer, &judge)?))
        };
        let credentials = offer.credentials.clone();
        let prepared = Arc::new(Prepared { purpose: offer.purpose, credentials, judge, side });
        if held.len() == PREPARED_MAX {
            held.remove(0);
        }
        held.push(Arc::clone(&prepared));
        Ok(prepared)
    }

    fn client_config(&self, offer: &Offer, judge: &Arc<Judge>) -> Result<ClientConfig, HandshakeError> {
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.crypto), Arc::<Judge>::clone(judge))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Judge>::clone(judge));
        let mut config = match &offer.credentials {
            Some(credentials) => builder.with_client_cert_resolver(self.certified(credentials)?),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn(offer.purpose).to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn server_config(&self, offer: &Offer, judge: &Arc<Judge>) -> Result<ServerConfig, HandshakeError> {
        let Some(credentials) = &offer.credentials else {
            return Err(HandshakeError::Credentials("a responder needs an identity".into()));
        };
        let builder = ServerConfig::builder_with_details(Arc::clone(&self.crypto), Arc::<Judge>::clone(judge))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_error)?;
        let builder = match offer.purpose {
            Purpose::Join => builder.with_no_client_auth(),
            Purpose::Link | Purpose::EndToEnd => builder.with_client_cert_verifier(Arc::<Judge>::clone(judge)),
        };
        let mut config = builder.with_cert_resolver(self.certified(credentials)?);
        config.alpn_protocols = vec![alpn(offer.purpose).to_vec()];
        // A resumed session would skip the fresh look at the certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn certified(&self, credentials: &Credentials) -> Result<Arc<SingleCertAndKey>, HandshakeError> {
        CertifiedKey::from_der(credentials.chain.clone(), credentials.key.clone_key(), &self.crypto)
            .map(|certified| Arc::new(SingleCertAndKey::from(certified)))
            .map_err(|error| HandshakeError::Credentials(error.to_string()))
    }

    fn start(&self, offer: Offer, client: bool) -> Result<Box<dyn Handshake>, HandshakeError> {
        let prepared = self.prepared(&offer, client)?;
        let connection = match &prepared.side {
            Side::Client(config) => {
                // SPIFFE peers have no host name; the verifier goes by the URI in the certificate, and nothing of this one
                // is sent.
                let name = ServerName::try_from("spiffe.invalid")
                    .map_err(|error| tls_error(rustls::Error::General(error.to_string())))?;
                let config = Arc::clone(config);
                quic::ClientConnection::new(config, Version::V1, name, offer.parameters).map(Connection::Client)
            }
            Side::Server(config) => {
                quic::ServerConnection::new(Arc::clone(config), Version::V1, offer.parameters).map(Connection::Server)
            }
        };
        let connection = connection.map_err(tls_error)?;
        Ok(Box::new(RustlsHandshake { connection, prepared, now: offer.now, verdict: None }))
    }
}

impl Default for RustlsProvider {
    fn default() -> Self {
        Self::new()
    }
}

/// A link handshake can never be mistaken for HTTP, nor one purpose for another.
const fn alpn(purpose: Purpose) -> &'static [u8] {
    match purpose {
        Purpose::Link => b"x0t-link/1",
        Purpose::EndToEnd => b"x0t-e2e/1",
        Purpose::Join => b"x0t-join/1",
    }
}

impl Provider for RustlsProvider {
    fn client(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        self.start(offer, true)
    }

    fn server(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        self.start(offer, false)
    }
}

fn tls_error(error: rustls::Error) -> HandshakeError {
    HandshakeError::Tls { alert: None, text: error.to_string() }
}

struct RustlsHandshake {
    connection: Connection,
    prepared: Arc<Prepared>,
    now: UnixTime,
    /// What the node said of the peer, once it was asked.
    verdict: Option<Result<SpiffeId, String>>,
}

impl Handshake for RustlsHandshake {
    fn read(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let connection = &mut self.connection;
        let (read, verdict) = self.prepared.judge.hear(self.now, || connection.read_hs(bytes));
        self.verdict = self.verdict.take().or(verdict);
        read.map_err(|error| match &self.verdict {
            Some(Err(reason)) => HandshakeError::Peer(reason.clone()),
            _ => HandshakeError::Tls { alert: self.connection.alert().map(u8::from), text: error.to_string() },
        })
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Option<KeyChange> {
        Some(match self.connection.write_hs(out)? {
            quic::KeyChange::Handshake { keys } => KeyChange::Handshake(pair(keys.local.packet, keys.remote.packet)),
            quic::KeyChange::OneRtt { keys, next } => {
                KeyChange::OneRtt(pair(keys.local.packet, keys.remote.packet), Box::new(RustlsNextKeys(next)))
            }
        })
    }

    fn is_done(&self) -> bool {
        !self.connection.is_handshaking()
    }

    fn peer_parameters(&self) -> Option<&[u8]> {
        self.connection.quic_transport_parameters()
    }

    fn peer_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.connection.peer_certificates()
    }

    fn peer(&self) -> Option<SpiffeId> {
        self.verdict.as_ref()?.as_ref().ok().cloned()
    }

    fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        self.connection.export_keying_material(out, label, Some(context)).map(|_| ()).map_err(tls_error)
    }

    fn group_name(&self) -> Option<&'static str> {
        Some(match self.connection.negotiated_key_exchange_group()?.name() {
            NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
            NamedGroup::X25519 => "x25519",
            NamedGroup::secp256r1 => "secp256r1",
            NamedGroup::secp384r1 => "secp384r1",
            _ => "unlisted",
        })
    }
}

struct RustlsNextKeys(quic::Secrets);

impl NextKeys for RustlsNextKeys {
    fn next_keys(&mut self) -> KeyPair {
        let keys = self.0.next_packet_keys();
        pair(keys.local, keys.remote)
    }
}

struct RustlsKey(Box<dyn quic::PacketKey>);

fn pair(local: Box<dyn quic::PacketKey>, remote: Box<dyn quic::PacketKey>) -> KeyPair {
    KeyPair { local: Arc::new(RustlsKey(local)), remote: Arc::new(RustlsKey(remote)) }
}

impl PacketKey for RustlsKey {
    fn seal(&self, pn: u64, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], KeyError> {
        let tag = self.0.encrypt_in_place(pn, aad, data).map_err(|_| KeyError)?;
        tag.as_ref().try_into().map_err(|_| KeyError)
    }

    fn open(&self, pn: u64, aad: &[u8], data_and_tag: &mut [u8]) -> Result<usize, KeyError> {
        self.0.decrypt_in_place(pn, aad, data_and_tag).map(|plain| plain.len()).map_err(|_| KeyError)
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}
