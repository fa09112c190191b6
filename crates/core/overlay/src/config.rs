//! Bounds and paces.

use std::time::Duration;

/// How an endpoint paces and bounds itself.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Largest UDP payload, in bytes, that is ever sent or tried: an Ethernet jumbo frame. What a link carries is found out for each;
    /// until then, and for all that is not sealed by the data path, 1200 bytes have to do ([`crate::PATH_MTU_BASE`]).
    pub max_datagram: usize,
    /// Largest handshake packet, in bytes: 1200 is what QUIC found to pass everywhere (RFC 9000 section 14).
    pub max_handshake_datagram: usize,
    /// Sessions of all kinds at once.
    pub max_sessions: usize,
    /// Handshakes that others began and have not finished, in total.
    pub max_half_open: usize,
    /// The same, for one source: an IPv4 address, an IPv6 /64, or a node of the mesh.
    pub max_half_open_per_source: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// The first wait before a handshake packet is sent again; it doubles. Also the first guess at a round trip.
    pub handshake_retransmit: Duration,
    /// A session that hears nothing for this long is closed.
    pub idle_timeout: Duration,
    /// Keys are renewed after this many packets in either direction. AES-GCM allows 2^23 (RFC 9001 section 6.6).
    pub rekey_packets: u64,
    /// Keys are renewed at this age, so that what leaks of one epoch tells little.
    pub rekey_age: Duration,
    /// Packets of the previous epoch are accepted for this long after the peer moved on.
    pub epoch_grace: Duration,
    /// Whether join sessions are answered: only an authority does.
    pub accept_join: bool,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            max_datagram: 8972,
            max_handshake_datagram: 1200,
            max_sessions: 8192,
            max_half_open: 256,
            max_half_open_per_source: 16,
            handshake_timeout: Duration::from_secs(5),
            handshake_retransmit: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(30),
            rekey_packets: 1 << 22,
            rekey_age: Duration::from_secs(120),
            epoch_grace: Duration::from_secs(10),
            accept_join: false,
        }
    }
}

/// Longest [`crate::Offer::parameters`] an endpoint sends.
pub const PARAMETERS_LEN_MAX: usize = 512;

/// Codes of CLOSE frames.
pub mod close_code {
    /// Nothing is wrong: the session is not needed any more.
    pub const DONE: u16 = 0;
    /// The peer's certificate was refused.
    pub const PEER_REFUSED: u16 = 1;
    /// The peer, though authenticated, sent what makes no sense.
    pub const PROTOCOL: u16 = 2;
    /// Too many packets failed to open under one key.
    pub const INTEGRITY: u16 = 3;
    /// Keys may not be used further and could not be renewed.
    pub const KEYS_EXHAUSTED: u16 = 4;
    /// Added to a TLS alert, as QUIC does (RFC 9001 section 4.8).
    pub const TLS: u16 = 0x100;
    /// First code whose meaning belongs to the caller of `Endpoint::close`.
    pub const APPLICATION: u16 = 0x1000;
}
