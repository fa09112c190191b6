//! What a stack counts.

use serde::{Deserialize, Serialize};

/// Counters of a stack since it began, and how much it holds at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackStats {
    /// Packets that arrived.
    pub packets_received: u64,
    /// Packets that arrived faster than they were taken in.
    pub packets_dropped: u64,
    /// Those of the received that were malformed, or for or from an address that cannot be.
    pub packets_malformed: u64,
    /// Answers for which there was no room.
    pub answers_dropped: u64,
    /// Connections that this node opened.
    pub connections_opened: u64,
    /// Connections that peers asked for at exposed ports.
    pub connections_offered: u64,
    /// Requests for connections that were not answered because there were too many.
    pub syns_dropped: u64,
    /// Segments and datagrams for ports that nobody serves here; they are refused.
    pub packets_refused: u64,
    /// Datagrams handed to their users.
    pub datagrams_received: u64,
    /// Datagrams that were damaged, or came faster than they were read.
    pub datagrams_dropped: u64,
    /// Connections lost to a bug.
    pub connections_broken: u64,
    /// Connections at present.
    pub connections: u64,
    /// UDP ports in use at present.
    pub udp_ports: u64,
}
