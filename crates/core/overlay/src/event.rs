//! The words an endpoint speaks with its node.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x0t_model::{Instant, NodeId, SpiffeId, Underlay};

use crate::{HandshakeError, HopHeader};

/// A session of this process. Local, and never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SessionId(u64);

impl SessionId {
    /// The `serial`-th session, which the peer addresses by `index`.
    pub(crate) const fn new(serial: u32, index: u32) -> Self {
        Self((serial as u64) << 32 | index as u64)
    }

    /// What the peer writes into packets for this session.
    pub(crate) const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The number itself, for logs.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The session that a log calls `number`.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a session's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// Straight to an address.
    Udp(SocketAddr),
    /// Straight to an address, in a TLS connection that vouches for nobody.
    Tls(SocketAddr),
    /// Through the mesh, as the payload of FORWARD packets to this node.
    Overlay(NodeId),
    /// Handed to `via`, which sends it on to an address outside the mesh: a host that is joining.
    Relayed {
        /// The member that relays.
        via: NodeId,
        /// Where that member sees it.
        remote: Underlay,
    },
}

impl Carrier {
    /// The place on the underlay, if packets go straight there.
    pub const fn underlay(self) -> Option<Underlay> {
        match self {
            Self::Udp(address) => Some(Underlay::Udp(address)),
            Self::Tls(address) => Some(Underlay::Tls(address)),
            Self::Overlay(_) | Self::Relayed { .. } => None,
        }
    }
}

impl From<Underlay> for Carrier {
    fn from(place: Underlay) -> Self {
        match place {
            Underlay::Udp(address) => Self::Udp(address),
            Underlay::Tls(address) => Self::Tls(address),
        }
    }
}

/// What a session is for. Bound into the handshake (ALPN), so that one kind can never pass for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Purpose {
    /// Between neighbours: carries FORWARD packets and routing messages.
    Link = 1,
    /// Between end points, across relays.
    EndToEnd = 2,
    /// Between a host that has no identity yet and an authority.
    Join = 3,
}

/// One packet to send.
#[derive(Debug)]
pub struct Transmit {
    /// Whose it is. May be over already: a last CLOSE.
    pub session: Option<SessionId>,
    /// Where to.
    pub carrier: Carrier,
    /// The whole packet.
    pub bytes: Vec<u8>,
}

/// What a packet turned out to hold, when it is to be used at once and in place.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// A FORWARD packet of a link.
    Forward {
        /// The link's session.
        session: SessionId,
        /// Authenticated by the previous hop.
        hop: HopHeader,
        /// Sealed end to end, untouched by the link.
        payload: &'a mut [u8],
    },
    /// A packet whose only frame is one DATAGRAM. Datagrams that travel with other frames come as [`Event::Datagram`].
    Datagram {
        /// Its session.
        session: SessionId,
        /// What the peer sent.
        bytes: &'a mut [u8],
    },
}

/// News for the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Both sides have verified each other.
    Established {
        /// The session.
        session: SessionId,
        /// What for.
        purpose: Purpose,
        /// Where it travels.
        carrier: Carrier,
        /// Who it is. `None` at the responder of a join session only.
        peer: Option<SpiffeId>,
        /// Whether we began it.
        initiator: bool,
        /// What the peer said of itself in the handshake.
        peer_parameters: Vec<u8>,
        /// What the peer showed, leaf first. Empty when `peer` is `None`.
        peer_chain: Vec<CertificateDer<'static>>,
    },
    /// An unreliable datagram.
    Datagram {
        /// The session.
        session: SessionId,
        /// What the peer sent.
        bytes: Vec<u8>,
    },
    /// A reliable message, in order.
    Message {
        /// The session.
        session: SessionId,
        /// What the peer sent.
        bytes: Vec<u8>,
    },
    /// The peer answers at another UDP address and no longer at the one before; packets go there from here on.
    CarrierChanged {
        /// The session.
        session: SessionId,
        /// Where it travels.
        carrier: Carrier,
    },
    /// On a link, packets of `mtu` bytes are known to pass, and no larger ones.
    PathMtu {
        /// The link's session.
        session: SessionId,
        /// Bytes of UDP payload.
        mtu: usize,
    },
    /// An established session is over.
    Closed {
        /// The session.
        session: SessionId,
        /// What it was for.
        purpose: Purpose,
        /// Where it travelled.
        carrier: Carrier,
        /// Who it was.
        peer: Option<SpiffeId>,
        /// Why.
        reason: CloseReason,
    },
    /// A handshake came to nothing. Handshakes of others that merely stop are counted, not reported.
    Refused {
        /// The session that did not come to be.
        session: SessionId,
        /// What it was for.
        purpose: Purpose,
        /// Where it travelled.
        carrier: Carrier,
        /// Whether we began it.
        initiator: bool,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Our own node closed it.
    #[error("closed by us with code {code}: {reason}")]
    Local {
        /// See [`crate::close_code`].
        code: u16,
        /// As given to `Endpoint::close`.
        reason: String,
    },
    /// The peer said so.
    #[error("closed by the peer with code {code}: {reason}")]
    Peer {
        /// See [`crate::close_code`].
        code: u16,
        /// The peer's own words, at most 64 bytes.
        reason: String,
    },
    /// Nothing authentic was heard for this long.
    #[error("nothing heard for {0:?}")]
    Idle(Duration),
    /// The handshake took longer than it may.
    #[error("handshake unfinished after {0:?}")]
    HandshakeTimeout(Duration),
    /// The handshake failed on our side.
    #[error("handshake failed")]
    Handshake(#[source] HandshakeError),
    /// The authenticated peer sent what makes no sense.
    #[error("peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// Too many packets failed to open (RFC 9001 section 6.6).
    #[error("too many forged packets for one key")]
    IntegrityLimit,
    /// Keys reached their limit and could not be renewed.
    #[error("keys are exhausted")]
    KeysExhausted,
}

/// A session seen from outside.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// The session.
    pub session: SessionId,
    /// What for.
    pub purpose: Purpose,
    /// Where it travels.
    pub carrier: Carrier,
    /// Who it is, once proven.
    pub peer: Option<SpiffeId>,
    /// The same, as named on the wire.
    pub peer_node: Option<NodeId>,
    /// Whether we began it.
    pub initiator: bool,
    /// When it was established.
    pub established_at: Option<Instant>,
    /// When the last authentic packet came.
    pub last_received_at: Instant,
    /// Smoothed round trip, once measured.
    pub rtt: Option<Duration>,
    /// Key exchange group in IANA's spelling.
    pub group: Option<&'static str>,
    /// Key epoch, from 0.
    pub epoch: u32,
    /// Authentic packets received.
    pub rx_packets: u64,
    /// Their bytes, headers included.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Their bytes, headers included.
    pub tx_bytes: u64,
    /// Packets for this session that did not open.
    pub forged_packets: u64,
    /// Bytes held for it in queues and streams, both directions.
    pub buffered: usize,
}

/// Why a session cannot be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// `Endpoint::set_identity` or `Endpoint::set_verifier` has not been called.
    #[error("there is no identity yet")]
    NoIdentity,
    /// Bounded by [`crate::EndpointConfig::max_sessions`].
    #[error("there are {0} sessions already")]
    TooManySessions(usize),
    /// The provider refuses.
    #[error("handshake cannot start")]
    Handshake(#[source] HandshakeError),
}

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such session, or it is over.
    #[error("there is no such session")]
    UnknownSession,
    /// The handshake is not done.
    #[error("session is not established")]
    NotEstablished,
    /// FORWARD travels on links only.
    #[error("session is no link")]
    NotALink,
    /// Does not fit.
    #[error("{len} bytes are too many, at most {limit} fit")]
    TooLarge {
        /// What was to be sent.
        len: usize,
        /// What fits.
        limit: usize,
    },
    /// The peer does not keep up; try again after it acknowledged.
    #[error("send buffer is full")]
    Full,
    /// The key may seal no more and its successor is not agreed.
    #[error("keys are exhausted")]
    KeysExhausted,
}
