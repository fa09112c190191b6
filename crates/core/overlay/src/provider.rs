//! The cryptographic seam: what a session needs from a handshake, and nothing about how it is done.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x0t_model::{Seed, SpiffeId, UnixTime};
use zeroize::Zeroize;

use crate::Purpose;

/// Bytes that sealing adds. Every AEAD of TLS 1.3 has a 16-byte tag.
pub const TAG_LEN: usize = 16;

/// What a node shows to prove who it is. The key is wiped when the last owner lets go.
pub struct Credentials {
    /// Certificates in DER, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// Decides who a peer is. The node supplies it; a session only asks.
pub trait VerifyPeer: Send + Sync {
    /// The identity that `chain` (leaf first, never empty) proves at `now`, or why it proves none. The text is reported to
    /// both sides, cut to what fits a CLOSE frame, so it names no secret.
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String>;
}

/// Starts handshakes. The real one is [`crate::tls::RustlsProvider`].
pub trait Provider: Send + Sync {
    /// The side that speaks first.
    fn client(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError>;

    /// The side that answers.
    fn server(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError>;
}

/// What one side brings to a handshake.
pub struct Offer {
    /// What the session is for; both sides must mean the same.
    pub purpose: Purpose,
    /// Who we are. `None` only for the initiator of a [`Purpose::Join`] session, which has no identity yet.
    pub credentials: Option<Arc<Credentials>>,
    /// Who decides about the peer. The responder of a [`Purpose::Join`] session never asks: its peer has no certificate.
    pub verifier: Arc<dyn VerifyPeer>,
    /// Opaque bytes for the peer, authenticated by the handshake.
    pub parameters: Vec<u8>,
    /// What certificates are judged by.
    pub now: UnixTime,
    /// Randomness for a provider that has none of its own.
    pub entropy: Seed,
}

/// One handshake under way. Messages go in and come out in plain; sealing those that need it is the session's work.
///
/// The rules of order are those of `rustls::quic`: call [`Handshake::write`] after every [`Handshake::read`] until it yields
/// neither bytes nor keys; bytes of one call belong to the level in force *before* the [`KeyChange`] of the same call; never
/// hand bytes of two levels to one `read`.
pub trait Handshake: Send {
    /// Takes bytes of the peer, of one level, in order. They may end inside a message.
    fn read(&mut self, bytes: &[u8]) -> Result<(), HandshakeError>;

    /// Appends what is to be sent and says which keys come into force after it.
    fn write(&mut self, out: &mut Vec<u8>) -> Option<KeyChange>;

    /// Whether both sides have proven what they must.
    fn is_done(&self) -> bool;

    /// The peer's [`Offer::parameters`]. Trustworthy once [`Handshake::is_done`].
    fn peer_parameters(&self) -> Option<&[u8]>;

    /// The peer's certificates, leaf first. Trustworthy once [`Handshake::is_done`].
    fn peer_chain(&self) -> Option<&[CertificateDer<'static>]>;

    /// What [`VerifyPeer::verify`] said. Trustworthy once [`Handshake::is_done`]; `None` for a peer without certificate.
    fn peer(&self) -> Option<SpiffeId>;

    /// Fills `out` with key material bound to this handshake (RFC 8446 section 7.5).
    fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Result<(), HandshakeError>;

    /// The key exchange group in IANA's spelling, once agreed.
    fn group_name(&self) -> Option<&'static str>;
}

/// Keys that come into force.
pub enum KeyChange {
    /// Seals the second level of the handshake.
    Handshake(KeyPair),
    /// Seals traffic, and leads to the keys after them.
    OneRtt(KeyPair, Box<dyn NextKeys>),
}

/// Keys of both directions. Shared with whoever seals or opens for a session ([`crate::SealingRun`], [`crate::OpeningKey`]).
pub struct KeyPair {
    /// Seals what we send.
    pub local: Arc<dyn PacketKey>,
    /// Opens what the peer sends.
    pub remote: Arc<dyn PacketKey>,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair")
    }
}

/// Derives the traffic keys of the next epoch (RFC 9001 section 6).
pub trait NextKeys: Send {
    /// The keys of the epoch after the last one that was derived.
    fn next_keys(&mut self) -> KeyPair;
}

/// An AEAD key of one direction. The nonce is made from `pn`, which a key must never see twice.
pub trait PacketKey: Send + Sync {
    /// Encrypts `data` in place and returns the tag over it and `aad`.
    fn seal(&self, pn: u64, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], KeyError>;

    /// Decrypts in place what ends with its tag, and returns the length of the plaintext at its front. After an error the
    /// bytes are worthless.
    fn open(&self, pn: u64, aad: &[u8], data_and_tag: &mut [u8]) -> Result<usize, KeyError>;

    /// Packets that may be sealed with this key.
    fn confidentiality_limit(&self) -> u64;

    /// Packets that may fail to open with this key before it must no longer be used.
    fn integrity_limit(&self) -> u64;
}

/// A packet that does not seal or open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet is not authentic")]
pub struct KeyError;

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// [`VerifyPeer`] said no.
    #[error("peer is not who it must be: {0}")]
    Peer(String),
    /// The peer broke TLS, or speaks none that we accept.
    #[error("TLS: {text}")]
    Tls {
        /// The alert to send (RFC 8446 section 6), if TLS names one.
        alert: Option<u8>,
        /// What was wrong.
        text: String,
    },
    /// Our own certificate or key cannot be used.
    #[error("own credentials are unusable: {0}")]
    Credentials(String),
}
