//! The composition: what each input means, and in which order the cores get to speak.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use x0t_identity::Svid;
use x0t_model::{Entropy, Instant, NodeId, OverlayPrefix, SpiffeId, Underlay, UnixTime};
use x0t_overlay::{Carrier, Endpoint, Purpose};
use x0t_routing::Router;

use crate::api::{Input, NodeEvent, Output, What};
use crate::assignments::OVERTAKING_MAX;
use crate::authority_path::AuthorityDesk;
use crate::coalesce::Coalescer;
use crate::commands::Pending;
use crate::data_path::Fate;
use crate::dialer::Dialer;
use crate::discovery::Discovery;
use crate::drive::Drive;
use crate::egress::Egress;
use crate::ends::Ends;
use crate::host::{Delivery, HostOffload};
use crate::join_path::JoinRelay;
use crate::links::Links;
use crate::opening::Openings;
use crate::pieces::Reassembly;
use crate::punch::Punch;
use crate::ration::Ration;
use crate::reach_path::Watch;
use crate::receipt_path::Arrivals;
use crate::receipts::Receipts;
use crate::start::{NodeConfig, Start, StartError};
use crate::stats::Stats;
use crate::train::{Pool, Train};
use crate::trust_path::Trust;
use crate::unsealed::Unsealed;
use crate::view::View;

/// Neighbours wait five seconds at the longest before they give up on a silent one.
const AWAY: Duration = Duration::from_secs(5);
/// Refusals that are told at once, and per second from then on. All are counted.
const REFUSALS_BURST: u64 = 64;
const REFUSALS_PER_SECOND: u64 = 8;
/// Answers to packets of unknown sessions, at once and per second from then on.
const STRAYS_BURST: u64 = 16;
const STRAYS_PER_SECOND: u64 = 16;
/// ICMPv6 errors to the host at once, and per second from then on (RFC 4443, 2.4 f).
const ICMP_ERRORS_BURST: u64 = 64;
const ICMP_ERRORS_PER_SECOND: u64 = 1_000;
/// How many outputs may wait for the shell. Beyond it the shell has stopped listening and news is dropped.
const OUTPUTS_MAX: usize = 16_384;

/// One node of the mesh.
///
/// Call [`Drive::handle`] when something happened, drain [`Drive::poll_output`], sleep until [`Drive::poll_timeout`]. The
/// three stories of a node stand in `data_path` (a packet), `trust_path` (an SVID) and `session_path` (a peer that proves
/// itself, or falls silent).
pub struct Node {
    pub(crate) config: NodeConfig,
    pub(crate) me: NodeId,
    incarnation: u64,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) prefix: OverlayPrefix,
    pub(crate) endpoint: Endpoint,
    pub(crate) router: Router,
    pub(crate) trust: Trust,
    pub(crate) dialer: Dialer,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) punch: Punch,
    /// Which far ends traffic flows with.
    pub(crate) watch: Watch,
    pub(crate) links: Links,
    pub(crate) ends: Ends,
    pub(crate) egress: Egress,
    /// Trains that are out to be opened, and those behind them.
    pub(crate) openings: Openings,
    pub(crate) receipts: Receipts,
    /// Packets that came in one session and are not counted there yet.
    pub(crate) arrivals: Option<Arrivals>,
    /// Sealed packets that are to be sent a second time, kept so that no buffer has to be allocated.
    pub(crate) copies: Vec<u8>,
    pub(crate) pool: Pool,
    pub(crate) coalescer: Coalescer,
    /// What the host's interface takes over.
    pub(crate) host_offload: HostOffload,
    /// The list of fates of the train at hand, kept so that none has to be allocated.
    pub(crate) fates: Vec<Fate>,
    pub(crate) pending: Pending,
    pub(crate) desk: AuthorityDesk,
    pub(crate) join_relay: JoinRelay,
    /// Who stands behind an id: neighbours and verified origins.
    pub(crate) names: BTreeMap<NodeId, SpiffeId>,
    /// Datagrams of far ends whose last pieces have not come.
    pub(crate) reassembly: Reassembly,
    /// The number of the next datagram that is sent in pieces.
    pub(crate) next_piece: u32,
    /// How often the host is told that a packet is too big.
    pub(crate) icmp_errors: Ration,
    pub(crate) stats: Stats,
    /// How often refusals are told: strangers can cause them at will, and they must not wash other news away.
    pub(crate) refusals: Ration,
    /// How often neighbours are told that a session of theirs is unknown: anybody can pretend to be one.
    pub(crate) stray_answers: Ration,
    pub(crate) now: Instant,
    pub(crate) wall: UnixTime,
    pub(crate) started: Instant,
    /// When a timeout is due, as of the end of the last input: asked several times for each, and changed by nothing else.
    due: Option<Instant>,
    /// A goodbye is on its way; stop at this instant.
    pub(crate) stopping: Option<Instant>,
    stopped: bool,
    out: VecDeque<Output>,
}

impl Node {
    /// Composes a node. It dials its peers at the first timeout, which is at once.
    pub fn new(start: Start, now: Instant, wall: UnixTime) -> Result<Self, StartError> {
        let Start { config, svid, bundle, is_authority, authorities, epoch, incarnation, crypto, seed } = start;
        let mut entropy = Entropy::new(seed);
        let (me, spiffe_id) = (svid.node_id(), svid.spiffe_id().clone());
        let endpoint = Endpoint::new(config.endpoint.clone(), crypto.sessions.clone(), entropy.fork("overlay"));
        let router = Router::new(config.routing.clone(), me, epoch, entropy.fork("routing"), now);
        let dialer = Dialer::new(&config.peers, config.fallback_port, entropy.fork("dialer"), now);
        let trust = Trust::new(
            svid,
            bundle,
            is_authority,
            authorities,
            crypto,
            config.rotation,
            entropy.fork("trust"),
            now,
            wall,
        );
        let prefix = OverlayPrefix::of(spiffe_id.trust_domain());
        let discovery = config
            .discovery
            .map(|terms| Discovery::new(terms, spiffe_id.trust_domain(), me, entropy.fork("discovery"), now));
        let punch = Punch::new(prefix, entropy.fork("punch"), now);
        let pool = if config.hands_out.is_some() { Pool::with_workers() } else { Pool::default() };
        let receipts = Receipts::with_overtaking(config.hands_out.map_or(0, |_| OVERTAKING_MAX));
        let mut node = Self {
            prefix,
            names: BTreeMap::from([(me, spiffe_id.clone())]),
            config,
            me,
            incarnation,
            spiffe_id,
            endpoint,
            router,
            trust,
            dialer,
            discovery,
            punch,
            watch: Watch::default(),
            links: Links::default(),
            ends: Ends::default(),
            egress: Egress::default(),
            openings: Openings::default(),
            receipts,
            arrivals: None,
            copies: Vec::new(),
            pool,
            coalescer: Coalescer::default(),
            host_offload: HostOffload::default(),
            fates: Vec::new(),
            pending: Pending::default(),
            desk: AuthorityDesk::default(),
            join_relay: JoinRelay::new(now),
            reassembly: Reassembly::default(),
            next_piece: 0,
            icmp_errors: Ration::new(ICMP_ERRORS_BURST, ICMP_ERRORS_PER_SECOND, now),
            stats: Stats::default(),
            refusals: Ration::new(REFUSALS_BURST, REFUSALS_PER_SECOND, now),
            stray_answers: Ration::new(STRAYS_BURST, STRAYS_PER_SECOND, now),
            now,
            wall,
            started: now,
            due: None,
            stopping: None,
            stopped: false,
            out: VecDeque::new(),
        };
        node.introduce_ourselves(incarnation);
        node.settle();
        node.due = node.next_timeout();
        Ok(node)
    }

    /// The node's id on the wire.
    pub const fn id(&self) -> NodeId {
        self.me
    }

    /// The node's identity.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The routing state, to be looked at.
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// The SVID in use.
    pub const fn svid(&self) -> &Svid {
        self.trust.svid()
    }

    /// The neighbour that would carry a packet to `destination` next.
    pub fn next_hop(&self, destination: NodeId) -> Option<NodeId> {
        let link = self.router.peek_next_hop(destination)?;
        self.links.get(link).map(|link| link.proven.peer)
    }

    /// Which run of this node it is: what it tells its peers in every handshake.
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Every neighbour, the identity it has proven, and which run of it did.
    pub fn neighbors(&self) -> impl Iterator<Item = (NodeId, &SpiffeId, u64)> {
        self.links.iter().map(|(_, link)| (link.proven.peer, &link.proven.spiffe_id, link.proven.incarnation))
    }

    /// Remembers who stands behind an id. Bounded: an id that routing has forgotten makes room.
    pub(crate) fn learn(&mut self, node: NodeId, spiffe_id: SpiffeId) {
        const NAMES_MAX: usize = 32_768;
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&node) {
            let (router, me) = (&self.router, self.me);
            self.names.retain(|id, _| *id == me || router.potential(*id).is_some());
        }
        if self.names.len() < NAMES_MAX {
            self.names.insert(node, spiffe_id);
        }
    }

    pub(crate) fn push(&mut self, output: Output) {
        // Those that are owed to somebody are bounded by what may be asked.
        let is_owed = matches!(
            output,
            Output::Persist(_)
                | Output::Open(_)
                | Output::Reply { .. }
                | Output::AuthorityRequest { .. }
                | Output::AuthorityReply { .. }
                | Output::Stopped
        );
        if self.out.len() < OUTPUTS_MAX || is_owed {
            self.out.push_back(output);
        } else {
            self.stats.outputs_dropped += 1;
        }
    }

    pub(crate) fn tell(&mut self, what: What) {
        let event = NodeEvent { at: self.now, what };
        self.push(Output::Event(event));
    }

    /// The next train that waits in the queues of a neighbour.
    pub(crate) fn poll_egress(&mut self) -> Option<Output> {
        let (to, flow, train) = self.egress.pop(&mut self.pool, self.now)?;
        Some(match Unsealed::of(train) {
            Ok(unsealed) => {
                self.stats.trains_sealed_elsewhere += 1;
                Output::Seal { to, flow, unsealed }
            }
            Err(train) => Output::Datagrams { to, flow: Some(flow), train },
        })
    }

    /// Lets every core speak until none has anything left to say. Bounded: what a core says here answers what it was told,
    /// and nothing is told from outside meanwhile.
    fn settle(&mut self) {
        const ROUNDS_MAX: usize = 64;
        for _ in 0..ROUNDS_MAX {
            let mut spoke = false;
            while let Some(event) = self.endpoint.poll_event() {
                spoke = true;
                self.on_session_event(event);
            }
            while let Some(event) = self.router.poll_event() {
                spoke = true;
                self.on_routing_event(event);
            }
            spoke |= self.advance_trust();
            spoke |= self.advance_reach();
            spoke |= self.dial_who_is_due();
            spoke |= self.open_wanted_ends();
            spoke |= self.advance_receipts();
            while let Some(message) = self.router.poll_transmit() {
                spoke = true;
                self.send_routing(message);
            }
            while let Some(transmit) = self.endpoint.poll_transmit() {
                spoke = true;
                self.transmit(transmit);
            }
            if !spoke {
                return;
            }
        }
        self.stats.settle_rounds_exhausted += 1;
    }

    /// A timer was due before this input came. What has run out must be gone before anything else is believed: a route kept
    /// beyond its life could point at a neighbour that has forgotten what it promised.
    ///
    /// Whoever was away (stopped, suspended) for longer than neighbours wait has none left, and what they said meanwhile
    /// is too old to be believed, however fresh it looks when it is read from the socket.
    fn catch_up(&mut self, due: Instant) {
        if self.now.since(due) > AWAY {
            self.stats.times_away += 1;
            for link in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
                self.lose_neighbor(link, "away");
            }
        }
        self.on_timeout();
    }

    fn on_timeout(&mut self) {
        self.endpoint.handle_timeout(self.now, self.wall);
        self.router.handle_timeout(self.now);
        self.close_drained();
        self.close_late_joiners();
        self.ends.tidy(self.now);
        self.advance_commands();
        self.advance_asks();
        if self.stopping.is_some_and(|at| at <= self.now) {
            self.stopping = None;
            self.stopped = true;
            self.push(Output::Stopped);
        }
    }
}

impl Drive for Node {
    fn handle(&mut self, input: Input<'_>, now: Instant, wall: UnixTime) {
        self.now = now.max(self.now);
        self.wall = wall;
        if let Some(due) = self.due.filter(|due| *due <= self.now) {
            self.catch_up(due);
            self.settle();
            self.due = self.next_timeout();
        }
        match input {
            Input::Datagrams { from, interface, train } => {
                // Whoever floods a node with what it refuses does not make it think.
                if !self.on_datagrams(from, interface, train) {
                    return;
                }
            }
            Input::Opened(opening) => {
                if !self.on_opened(opening) {
                    return;
                }
            }
            Input::LocalPacket { bytes, offload } => self.on_local_packet(bytes, offload),
            Input::HostInterface(offload) => self.host_offload = offload,
            Input::Interface { index, up } => self.on_interface(index, up),
            Input::SendFailed { to, reason } => self.on_send_failed(to, reason),
            Input::DatagramTooBig { to, len } => self.on_datagram_too_big(Underlay::Udp(to), len),
            Input::Beacon { from, bytes } => self.on_beacon(from, bytes),
            Input::Command { id, command } => self.on_command(id, command),
            Input::AuthorityAnswer { ticket, answer } => self.on_authority_answer(ticket, answer),
            Input::Joined(spiffe_id) => self.on_joined(spiffe_id),
            Input::AskAuthority { id, body } => self.on_ask_authority(id, body),
            Input::Bundle(bundle) => self.on_bundle(bundle),
            Input::Distrusted(distrusted) => self.on_distrusted(distrusted),
            Input::Recovered(recovered) => self.on_recovered(*recovered),
            Input::WorkloadApi(news) => self.on_workload_api(news),
            // What was due has been done already.
            Input::Timeout => return,
        }
        self.settle();
        self.due = self.next_timeout();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front().or_else(|| self.poll_egress())
    }

    fn spare_train(&mut self) -> Train {
        self.pool.take()
    }

    fn reclaim_train(&mut self, train: Train) {
        self.pool.give(train);
    }

    fn reclaim_delivery(&mut self, delivery: Delivery) {
        self.pool.give_delivery(delivery);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn view(&self, now: Instant, wall: UnixTime) -> View {
        self.look(now, wall)
    }
}

impl Node {
    /// See [`Drive::handle`].
    pub fn handle(&mut self, input: Input<'_>, now: Instant, wall: UnixTime) {
        Drive::handle(self, input, now, wall);
    }

    /// See [`Drive::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        Drive::poll_output(self)
    }

    /// See [`Drive::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        Drive::poll_timeout(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        if self.stopped || self.stopping.is_some() {
            return self.stopping;
        }
        [
            self.endpoint.poll_timeout(),
            self.router.poll_timeout().map(|(at, _)| at),
            self.dialer.poll_timeout(),
            self.reach_timeout(),
            self.links.poll_timeout(),
            self.ends.poll_timeout(),
            self.trust.poll_timeout(),
            self.pending.poll_timeout(),
            self.desk.poll_timeout(),
            self.join_relay.poll_timeout(),
            self.receipts.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn dial_who_is_due(&mut self) -> bool {
        let mut dialled = false;
        while self.stopping.is_none()
            && !self.stopped
            && let Some(address) = self.dialer.due(self.now)
        {
            dialled = true;
            match self.endpoint.connect(Purpose::Link, Carrier::from(address), self.now, self.wall) {
                Ok(session) => self.dialer.attempted(address, session, self.now),
                Err(_) => self.dialer.failed(address, self.now),
            }
        }
        dialled
    }

    fn close_drained(&mut self) {
        const DRAINED: &str = "replaced by a newer session";
        let drained = self.links.drained(self.now).into_iter().chain(self.ends.drained(self.now));
        for session in drained.collect::<Vec<_>>() {
            self.endpoint.close(session, x0t_overlay::close_code::DONE, DRAINED, self.now);
        }
    }

    /// How long a goodbye may take to leave.
    pub(crate) const STOPPING_TIME: Duration = Duration::from_millis(60);
}
