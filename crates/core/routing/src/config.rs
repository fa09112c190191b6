//! How a router paces itself, and what bounds it.

use std::time::Duration;

use crate::chain::ChainHash;
use crate::detector::DetectorConfig;

/// What a node does for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Carries packets for others: the default.
    #[default]
    Relay,
    /// Announces itself only; its offers for others are ignored by its neighbours.
    Leaf,
    /// A relay that also leads out of the mesh.
    Gateway,
}

impl Role {
    /// The flag bits of an OGM.
    pub const fn flags(self) -> u8 {
        match self {
            Self::Leaf => 1,
            Self::Relay => 2,
            Self::Gateway => 2 | 4,
        }
    }

    /// Reads the flag bits; unknown bits are ignored so that later versions may set them.
    pub const fn from_flags(flags: u8) -> Self {
        if flags & 4 != 0 {
            Self::Gateway
        } else if flags & 1 != 0 {
            Self::Leaf
        } else {
            Self::Relay
        }
    }

    /// Whether the node advertises routes for others.
    pub const fn relays(self) -> bool {
        !matches!(self, Self::Leaf)
    }
}

/// Everything that may be chosen about routing. The defaults suit a mesh of up to a few thousand nodes on the Internet.
#[derive(Clone, Debug)]
pub struct RoutingConfig {
    /// What this node does for others.
    pub role: Role,
    /// Heartbeats, suspicion and death.
    pub detector: DetectorConfig,

    /// The hash of the chains. All nodes of a mesh use the same one.
    pub chain_hash: ChainHash,
    /// Sequence numbers per epoch. 1,024 last 17 minutes at one OGM per second and cost 3 ms to lay out; all nodes of a mesh
    /// may differ, the anchor says it.
    pub chain_seqs: u32,
    /// Hops per sequence number: the diameter of the mesh. All nodes of a mesh use the same one.
    pub chain_hops: u8,

    /// The fastest regular interval between two OGMs (B.A.T.M.A.N.'s originator interval).
    pub originator_interval: Duration,
    /// The slowest. Failover does not wait for it.
    pub originator_interval_max: Duration,
    /// Known origins per second of steady interval: 100 keeps the OGM rate of every link at or below 100 records per second.
    pub originators_per_second: u32,
    /// Least time between two OGMs caused by local changes.
    pub originate_spacing: Duration,
    /// OGMs that SEQ_REQ and RREQ may cause at once, and per second after that. Each burns one value of the chain.
    pub forced_originations: (u32, u32),
    /// How long an offer waits for others to share its datagram.
    pub aggregation_delay: Duration,
    /// How long after the first offer of a newer sequence number it is adopted at the latest. Longer waits add up over the
    /// diameter; shorter ones follow the first path and not the best.
    pub adoption_delay: Duration,
    /// Bytes of one unreliable datagram of messages, so that it fits a link of 1,280 bytes with all headers.
    pub datagram_max: usize,

    /// Least lifetime of a route record without a newer sequence number.
    pub route_lifetime_min: Duration,
    /// Lifetime in intervals of the origin: two OGMs may get lost.
    pub route_lifetime_intervals: u32,
    /// How long the feasible distance is remembered after expiry, in lifetimes: longer than any offer that came of it.
    pub memory_lifetimes: u32,
    /// A destination asked for this recently is in use.
    pub in_use_for: Duration,

    /// The cost of a link before its first round trip was measured.
    pub initial_delay: Duration,
    /// What a hop costs besides its delay; also the least a claimed metric can be per hop.
    pub hop_penalty: Duration,
    /// Least improvement that moves the primary successor to another neighbour. The larger of this and a fifth. A link to the
    /// destination itself takes over as soon as it costs less than the way through relays.
    pub switch_margin: Duration,
    /// Spread flows over the successors that cost at most twice the best, by the inverse of their cost. Off: everything
    /// follows the primary. See the design page on multipath for what either costs.
    pub spread_flows: bool,
    /// What a link can carry in one packet unless `link_mtu` says otherwise: what passes everywhere (RFC 9000, 14).
    pub mtu: u16,

    /// First waiting time of a link that came back from the dead, and the longest: it doubles with every flap.
    pub hold_down: (Duration, Duration),

    /// First wait for an answer to SEQ_REQ; doubles twice. A little more than a heartbeat: whoever passed the first request
    /// to somebody that is dead too has noticed by then.
    pub request_retry: Duration,
    /// SEQ_REQs sent for one starvation.
    pub request_tries: u8,
    /// SEQ_REQs of this node at once, and per second after that.
    pub requests: (u32, u32),
    /// How far a SEQ_REQ travels.
    pub request_ttl: u8,

    /// Ring sizes of a route request (AODV expanding ring), the last one repeated.
    pub seek_rings: [u8; 4],
    /// How often the last ring is repeated.
    pub seek_retries: u8,
    /// After this a target counts as not found.
    pub seek_timeout: Duration,
    /// Route requests of this node per second.
    pub seeks_per_second: u32,

    /// First wait for an ANCHOR; three tries.
    pub anchor_retry: Duration,
    /// How often an ANCHOR is asked for.
    pub anchor_tries: u8,
    /// How long a refused anchor is not asked for again.
    pub anchor_refusal: Duration,

    /// Origins remembered, expired ones included.
    pub origins_max: usize,
    /// Links.
    pub links_max: usize,
    /// Neighbours remembered per origin.
    pub candidates_max: usize,
    /// Origins whose anchor is awaited; one link can hold half of them.
    pub pending_anchors_max: usize,
    /// Targets sought at the same time.
    pub seeks_max: usize,
    /// Route requests remembered, so that each is repeated once.
    pub rreq_memory_max: usize,
    /// Events not yet drained. Beyond it `RouteChanged` is dropped and counted.
    pub events_max: usize,
    /// Datagrams not yet drained. Beyond it the newest is dropped and counted.
    pub outbox_max: usize,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            role: Role::Relay,
            detector: DetectorConfig::default(),
            chain_hash: ChainHash::Blake3,
            chain_seqs: 1024,
            chain_hops: 32,
            originator_interval: Duration::from_secs(1),
            originator_interval_max: Duration::from_secs(64),
            originators_per_second: 100,
            originate_spacing: Duration::from_millis(200),
            forced_originations: (10, 1),
            aggregation_delay: Duration::from_millis(20),
            adoption_delay: Duration::from_millis(30),
            datagram_max: 1100,
            route_lifetime_min: Duration::from_secs(10),
            route_lifetime_intervals: 3,
            memory_lifetimes: 3,
            in_use_for: Duration::from_secs(2),
            initial_delay: Duration::from_millis(10),
            hop_penalty: Duration::from_micros(100),
            switch_margin: Duration::from_millis(2),
            spread_flows: false,
            mtu: 1200,
            hold_down: (Duration::from_secs(1), Duration::from_secs(60)),
            request_retry: Duration::from_millis(30),
            request_tries: 5,
            requests: (256, 100),
            request_ttl: 32,
            seek_rings: [2, 5, 10, 32],
            seek_retries: 3,
            seek_timeout: Duration::from_secs(15),
            seeks_per_second: 10,
            anchor_retry: Duration::from_millis(100),
            anchor_tries: 3,
            anchor_refusal: Duration::from_secs(10),
            origins_max: 16_384,
            links_max: 1_024,
            candidates_max: 8,
            pending_anchors_max: 1_024,
            seeks_max: 256,
            rreq_memory_max: 4_096,
            events_max: 4_096,
            outbox_max: 16_384,
        }
    }
}
