//! What an event loop counts.

use serde::{Deserialize, Serialize};

use x0t_netstack::StackStats;

use crate::discovery::DiscoveryStats;
use crate::tls_transport::TlsStats;
use crate::udp::UdpStats;
use crate::workers::WorkerStats;

/// Counters of an event loop since it began, and its present condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopStats {
    /// The underlay sockets.
    pub udp: UdpStats,
    /// The connections of the fallback transport.
    #[serde(default)]
    pub tls: TlsStats,
    /// The beacons in the local network.
    #[serde(default)]
    pub discovery: DiscoveryStats,
    /// The threads that work for it.
    #[serde(default)]
    pub workers: WorkerStats,
    /// How often the loop woke up.
    pub wakeups: u64,
    /// How often a deadline of the node had come.
    pub timeouts: u64,
    /// Changes of interfaces that the kernel reported.
    pub link_changes: u64,
    /// Unreachable addresses that the node was told of.
    pub unreachable_hints: u64,
    /// Packets that the host wanted carried.
    pub host_packets_received: u64,
    /// Those of them that were dropped for not being IPv6.
    pub host_packets_not_ipv6: u64,
    /// Those of them that came with impossible offload facts.
    pub host_packets_malformed: u64,
    /// Super-packets that the kernel refused; it was given none afterwards.
    pub super_packets_refused: u64,
    /// Packets handed to the host.
    pub host_packets_sent: u64,
    /// Packets for the host that it did not take, or had no interface for.
    pub host_packets_dropped: u64,
    /// Records made durable.
    pub records_written: u64,
    /// Attempts to make a record durable that failed.
    pub record_failures: u64,
    /// Readers of events at the moment.
    pub events_readers: u64,
    /// Whether the node is held because a record cannot be made durable.
    pub stalled: bool,
    /// Whether the host has an interface into the mesh.
    pub has_interface: bool,
    /// The stack that stands in for it, if there is one.
    #[serde(default)]
    pub netstack: Option<StackStats>,
}
