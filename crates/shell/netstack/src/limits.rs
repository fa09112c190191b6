//! How much a stack takes on.

use std::time::Duration;

/// Bounds. Whatever a peer can make a stack remember is covered by one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet to send, bytes with the IPv6 header. Larger ones are taken in.
    pub mtu: usize,
    /// Bytes that one connection holds in each direction, and so its receive window (RFC 9293, 3.8.6; scaled as in RFC 7323).
    pub buffer: usize,
    /// Connections at once, in every state.
    pub connections: usize,
    /// Of those, connections with one peer that the peer opened.
    pub connections_per_peer: usize,
    /// Connections opened by peers that have not finished the handshake.
    pub half_open: usize,
    /// Of those, by one peer.
    pub half_open_per_peer: usize,
    /// Connections that both sides have closed and that are kept to answer late packets (TIME-WAIT).
    pub closed: usize,
    /// UDP ports in use at once.
    pub udp_ports: usize,
    /// Bytes of datagrams that wait at one UDP port.
    pub udp_waiting: usize,
    /// Packets that wait to be carried. While there are as many, no connection sends.
    pub packets_waiting: usize,
    /// A handshake takes no longer.
    pub handshake: Duration,
    /// A peer that owes an answer and is silent for this long is gone.
    pub silence: Duration,
    /// A connection that is idle for this long asks whether the peer is still there.
    pub keep_alive: Duration,
    /// A connection that its user has left has this long to end in an orderly way.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mtu: 1280,
            buffer: 256 << 10,
            connections: 512,
            connections_per_peer: 128,
            half_open: 128,
            half_open_per_peer: 32,
            closed: 64,
            udp_ports: 512,
            udp_waiting: 256 << 10,
            packets_waiting: 512,
            handshake: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            keep_alive: Duration::from_secs(25),
            linger: Duration::from_secs(60),
        }
    }
}
