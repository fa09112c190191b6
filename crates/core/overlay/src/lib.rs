//! Sessions over datagrams: handshake, packet protection, frames and the hop header.
//!
//! A *session* joins two nodes that have proven to each other who they are. Two neighbours hold one, so do two end points
//! that talk across relays, and so does a host that joins while it has no identity yet ([`Purpose`]). What carries its
//! packets is a [`Carrier`]: a UDP address, the mesh itself, or a relay.
//!
//! # The life of a session
//!
//! ```text
//!  initiator                                       responder
//!  HANDSHAKE level 0, no cookie  ───────────────►  keeps nothing
//!                                ◄───────────────  RETRY cookie
//!  HANDSHAKE level 0, ClientHello, cookie  ─────►  half open (bounded, 5 s)
//!                                ◄───────────────  level 0 ServerHello, level 1 certificate, Finished
//!  level 1 certificate, Finished ───────────────►  Established
//!  Established                   ◄───────────────  PROTECTED: the first packet under traffic keys
//! ```
//!
//! TLS 1.3 messages travel in [`frame::Frame::Crypto`] pieces that are acknowledged and retransmitted; those of the second
//! level are sealed with the TLS handshake keys, so certificates are never readable on the wire. A side reports
//! [`Event::Established`] only when *both* have verified each other: for the initiator that is the first packet that opens
//! under the traffic keys, which the responder does not use before it accepted the initiator's certificate.
//!
//! From then on there are PROTECTED packets (frames for this peer) and, on links, FORWARD packets: a hop header under this
//! link's keys followed by a payload that was sealed once, end to end, and that no link key covers. Traffic keys move from
//! epoch to epoch; a packet of the previous epoch is still welcome for ten seconds. A packet that does not open
//! is counted ([`Stats`]) and changes nothing.
//!
//! On links, each end also finds out how large a datagram passes, with packets of its own that the other acknowledges, and reports
//! it ([`Event::PathMtu`]).
//!
//! A session ends once: [`Event::Closed`] if it had been established, [`Event::Refused`] if not, nothing after
//! [`Endpoint::forget`].
//!
//! # What this crate never does
//!
//! It never decides who is trusted: [`VerifyPeer`] does. It reads no clock, no socket and no random source: time, packets
//! and entropy are handed in, packets and events are handed out. One seam is excepted and documented: behind [`Provider`],
//! [`tls::RustlsProvider`] lets rustls draw the randomness of a handshake from the operating system; the simulator brings
//! its own provider.

mod config;
mod cookie;
mod endpoint;
mod epochs;
mod event;
pub mod frame;
mod handed_out;
mod handshake;
pub mod hop;
pub mod packet;
mod path_mtu;
mod provider;
mod replay;
mod rtt;
mod session;
mod stats;
mod stream;
pub mod tls;
mod traffic;
mod validation;

pub use config::{EndpointConfig, close_code};
pub use endpoint::Endpoint;
pub use event::{
    Carrier, CloseReason, ConnectError, Event, Opened, Purpose, SendError, SessionId, SessionInfo, Transmit,
};
pub use handed_out::{Ahead, OpeningKey, SealingRun};
pub use hop::HopHeader;
pub use path_mtu::BASE as PATH_MTU_BASE;
pub use provider::{
    Credentials, Handshake, HandshakeError, KeyChange, KeyError, KeyPair, NextKeys, Offer, PacketKey, Provider,
    TAG_LEN, VerifyPeer,
};
pub use replay::Seen;
pub use stats::Stats;

/// The containers that certificates and keys travel in, so that callers need no version of their own.
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer};
