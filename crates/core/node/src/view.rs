//! The node's whole state, for people: the command line, the live page, the metrics and the tests all read this one.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use x0t_model::{NodeId, SpiffeId, TrustDomain, Underlay};

/// Everything there is to see. Cheap: copied from tables, nothing computed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// The node itself.
    pub status: StatusView,
    /// Its neighbours.
    pub peers: Vec<PeerView>,
    /// Every destination it knows.
    pub routes: Vec<RouteView>,
    /// Every session, with neighbours and end to end.
    pub sessions: Vec<SessionView>,
    /// Monotonic counters, by metric name without the `x0t_` prefix and `_total` suffix.
    pub counters: BTreeMap<String, u64>,
}

/// The node itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// Its id on the wire.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Whose trust it lives in.
    pub trust_domain: TrustDomain,
    /// Its address inside the mesh.
    pub overlay_address: Ipv6Addr,
    /// Whether it issues identities.
    pub is_authority: bool,
    /// Whether it holds a valid SVID and, if it has peers configured, at least one usable link.
    pub ready: bool,
    /// What keeps it from being ready.
    pub not_ready_because: Option<String>,
    /// End of the SVID's validity, seconds since 1970.
    pub svid_not_after: u64,
    /// `valid`, `renewing`, `degraded`, `critical`, `expired` or `withdrawn`.
    pub svid_state: String,
    /// Why the SVID is replaced before its time, if it is: `tainted`, `revoked` or `not_in_bundle`.
    #[serde(default)]
    pub svid_distrust: Option<String>,
    /// Attempts at the next SVID that have failed since the last one was adopted.
    #[serde(default)]
    pub svid_failures: u32,
    /// Who gives the SVIDs: `authority` or `workload_api`.
    #[serde(default)]
    pub svid_source: String,
    /// Why the last attempt to renew failed, or why the SVID was taken back.
    #[serde(default)]
    pub svid_error: Option<String>,
    /// Routing epoch.
    pub epoch: u32,
    /// Milliseconds since start.
    pub uptime_ms: u64,
    /// Neighbours that can carry traffic.
    pub links_up: usize,
    /// Addresses that are dialled and do not answer.
    #[serde(default)]
    pub unanswered: Vec<UnansweredView>,
    /// Destinations that can be reached.
    pub reachable: usize,
}

/// An address that is dialled and does not answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnansweredView {
    /// Which.
    pub address: Underlay,
    /// Why it is dialled: `configured` or `discovered`.
    pub origin: String,
    /// Milliseconds for which it has not answered.
    pub for_ms: u64,
    /// What is known about the reason.
    pub reason: String,
}

/// A neighbour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Who.
    pub node_id: NodeId,
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// Where on the underlay.
    pub address: SocketAddr,
    /// What carries packets there: `udp` or `tls`.
    #[serde(default)]
    pub transport: String,
    /// How the link came about: `configured`, `discovered`, `punched` or `accepted`.
    #[serde(default)]
    pub origin: String,
    /// Where the neighbour sees this node, as it says.
    #[serde(default)]
    pub observed: Option<SocketAddr>,
    /// `up`, `suspect`, `down`.
    pub state: String,
    /// Round-trip time in microseconds, the smallest of the last 10 s.
    pub rtt_us: Option<u32>,
    /// Share of packets lost, in thousandths.
    pub loss_permille: u16,
    /// Cost of the link.
    pub cost_us: u32,
    /// Bytes of UDP payload that are known to pass to it in one datagram.
    pub path_mtu: Option<usize>,
    /// Milliseconds since it was last heard.
    pub heard_ms_ago: u64,
    /// Interface index it was last heard on, 0 if unknown.
    pub interface: u32,
}

/// A destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Who.
    pub node_id: NodeId,
    /// Its identity, once its anchor has been verified.
    pub spiffe_id: Option<SpiffeId>,
    /// Its address inside the mesh.
    pub overlay_address: Ipv6Addr,
    /// Up to three next hops, best first.
    pub successors: Vec<SuccessorView>,
    /// Hops by the first choice, the last one included.
    pub hops: Option<u8>,
    /// Bytes of the longest IPv6 packet that passes to it whole.
    pub packet_mtu: Option<usize>,
    /// Epoch and sequence of the newest accepted originator message.
    pub sequence: (u32, u32),
    /// Smallest metric ever advertised for that sequence, microseconds.
    pub feasible_distance_us: Option<u32>,
}

/// One way to a destination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuccessorView {
    /// The neighbour.
    pub via: NodeId,
    /// Cost through it, microseconds.
    pub metric_us: u32,
    /// Whether the link to it can carry traffic now.
    pub usable: bool,
    /// Its share of the flows beside the weights of the others; 0 if no flow starts with it.
    #[serde(default)]
    pub weight: u8,
    /// How often its cost counts double at present, because it was found to lose packets.
    #[serde(default)]
    pub demoted: u8,
    /// Whether nothing seems to arrive by it.
    #[serde(default)]
    pub suspect: bool,
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// Local number.
    pub id: u64,
    /// `link`, `end-to-end` or `join`.
    pub purpose: String,
    /// Who, once proven.
    pub peer: Option<SpiffeId>,
    /// The underlay address, or `overlay`.
    pub carrier: String,
    /// `handshaking`, `established` or `draining`.
    pub state: String,
    /// Key exchange group.
    pub group: Option<String>,
    /// Key epoch.
    pub key_epoch: u64,
    /// Packets received and opened.
    pub packets_received: u64,
    /// Packets sealed and sent.
    pub packets_sent: u64,
}
