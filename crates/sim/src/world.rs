//! Time, hosts and the underlay: the loop that drives the node that ships.
//!
//! One event at a time, in the order of virtual time and, within one instant, of their making. Whatever a node returns is
//! performed at once. After every event the [`Invariants`] look at the node that was touched. Everything random comes from
//! one seed, so the same seed gives the same [`World::digest`]; a failing run prints it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use x0t_identity::{
    AuthorityAnswer, AuthorityRequest, AuthorityServer, Bundle, Distrusted, OperatorAnswer, OperatorRequest,
    ServerOutput, Svid, Ticket,
};
use x0t_model::{Entropy, Instant, NodeId, TrustDomain, Underlay, UnixTime};
use x0t_node::{Command, Input, Node, Output, RecordKind, Reply, Train, What};

use crate::crypto::Cryptography;
use crate::invariants::{Broken, Invariants, Lookup};
use crate::network::Network;
use crate::topology::Topology;

mod enrolment;
mod schedule;
mod traffic;
mod workers;

use enrolment::{boot, enrol};
use schedule::{Happening, Scheduled};
use workers::Workers;

/// The wall clock when a world begins: 2026-11-21T00:00:00Z.
pub const BEGINNING: UnixTime = UnixTime::from_secs(1_795_219_200);

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Everything random comes from here.
    pub seed: u64,
    /// Which cryptography the nodes use.
    pub cryptography: Cryptography,
    /// How long an SVID lives.
    pub svid_ttl: Duration,
    /// Whether the invariants look after every event. A scale test may ask for an audit now and then instead.
    pub watch_every_event: bool,
    /// Whose trust the hosts live in.
    pub trust_domain: TrustDomain,
    /// How many workers each host has, that take their time and are done in any order; none if a node does everything at once.
    pub workers: usize,
    /// After how many packets keys are replaced, if not after as many as usual.
    pub rekey_packets: Option<u64>,
}

impl Terms {
    /// Simulated cryptography, SVIDs of an hour, watched at every event.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            cryptography: Cryptography::simulated(),
            svid_ttl: Duration::from_secs(3600),
            watch_every_event: true,
            trust_domain: "mesh.test".parse().expect("a valid name"),
            workers: 0,
            rekey_packets: None,
        }
    }
}

/// A simulated host: the node, its disk and its timer.
struct Host {
    name: String,
    id: NodeId,
    node: Option<Node>,
    /// Survives a crash.
    disk: BTreeMap<RecordKind, Vec<u8>>,
    /// Counts boots, so that every boot is another incarnation.
    boots: u64,
    /// While frozen nothing is handled; what arrives queues up, as in a stopped process's socket.
    frozen: bool,
    backlog: Vec<(usize, Vec<u8>)>,
    delivered: usize,
    /// Who works for the node, where it hands out its work.
    workers: Option<Workers>,
    /// The timer that counts; others in the queue are stale.
    timer: Option<Instant>,
    /// What its wall clock is wrong by, in seconds.
    skew: i64,
    /// The authority beside the node, where there is one.
    authority: Option<AuthorityServer>,
}

type Tamper = Box<dyn FnMut(usize, usize, &mut Vec<u8>)>;

/// So many events without time passing are a node that asks to be woken and then does nothing.
const LIVELOCK: u64 = 1_000_000;
/// How many datagrams a frozen host's socket holds.
const BACKLOG_MAX: usize = 256;

/// The simulated world.
pub struct World {
    now: Instant,
    terms: Terms,
    topology: Topology,
    hosts: Vec<Host>,
    by_id: BTreeMap<NodeId, usize>,
    /// The underlay, to be cut and mended.
    pub network: Network,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    invariants: Invariants,
    digest: blake3::Hasher,
    replies: BTreeMap<u64, (Instant, Reply)>,
    agent_replies: BTreeMap<u64, (Instant, Result<Vec<u8>, String>)>,
    next_command: u64,
    events: Vec<(usize, Instant, What)>,
    handled: u64,
    /// Events in a row without time passing.
    at_this_instant: u64,
    captured: Option<Vec<(usize, SocketAddr, Vec<u8>)>>,
    tamper: Option<Tamper>,
    /// Packets that nodes have handed to their hosts.
    handed_over: Option<Vec<(usize, Vec<u8>)>>,
}

impl World {
    /// A world of `topology` in which every host holds an SVID and nobody runs yet. Host 0 is the authority.
    pub fn new(topology: Topology, terms: Terms) -> Self {
        let mut entropy = Entropy::new(*blake3::hash(&terms.seed.to_be_bytes()).as_bytes());
        let network = Network::new(&topology, entropy.fork("network"));
        let hosts = enrol(&topology, &terms.trust_domain, &terms, &mut entropy);
        let by_id = hosts.iter().enumerate().map(|(number, host)| (host.id, number)).collect();
        Self {
            now: Instant::from_millis(1_000),
            invariants: Invariants::default(),
            digest: blake3::Hasher::new(),
            hosts,
            by_id,
            network,
            topology,
            terms,
            queue: BinaryHeap::new(),
            order: 0,
            replies: BTreeMap::new(),
            agent_replies: BTreeMap::new(),
            next_command: 1,
            events: Vec::new(),
            handled: 0,
            at_this_instant: 0,
            captured: None,
            tamper: None,
            handed_over: None,
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The seed, for a failing test to print.
    pub fn seed(&self) -> u64 {
        self.terms.seed
    }

    /// How many events have been handled.
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// A hash of everything that happened, in order.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }

    /// The number of the host called `name`.
    pub fn host(&self, name: &str) -> usize {
        self.topology.find(name)
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// A host's node id.
    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host].id
    }

    /// A host's node, if it runs.
    pub fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].node.as_ref()
    }

    /// What nodes told about themselves, in order: host, when, what.
    pub fn events(&self) -> &[(usize, Instant, What)] {
        &self.events
    }

    /// The wall clock.
    pub fn wall(&self) -> UnixTime {
        BEGINNING + self.now.since(Instant::ZERO)
    }

    /// The wall clock as a host reads it.
    pub fn wall_at(&self, host: usize) -> UnixTime {
        let (wall, skew) = (self.wall(), self.hosts[host].skew);
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { wall - by } else { wall + by }
    }

    /// Sets a host's wall clock wrong by so many seconds.
    pub fn skew(&mut self, host: usize, seconds: i64) {
        self.hosts[host].skew = seconds;
    }

    /// What a host has on its disk: enough to be it.
    pub fn disk(&self, host: usize) -> &BTreeMap<RecordKind, Vec<u8>> {
        &self.hosts[host].disk
    }

    /// Puts another disk into a host. It counts from the next start.
    pub fn swap_disk(&mut self, host: usize, disk: BTreeMap<RecordKind, Vec<u8>>) {
        self.hosts[host].disk = disk;
    }

    /// A datagram from anywhere arrives at a host at once.
    pub fn inject(&mut self, to: usize, from: SocketAddr, bytes: Vec<u8>) {
        self.handle(to, Input::Datagrams { from: from.into(), interface: 1, train: Train::single(bytes) });
    }

    /// Writes down every datagram that a host sends from here on: who, where to, what.
    pub fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// What was written down since [`Self::capture`], which goes on.
    pub fn captured(&mut self) -> Vec<(usize, SocketAddr, Vec<u8>)> {
        self.captured.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Lets `tamper` see and change every datagram on its way: sender, receiver, bytes. What it empties is lost.
    pub fn tamper(&mut self, tamper: impl FnMut(usize, usize, &mut Vec<u8>) + 'static) {
        self.tamper = Some(Box::new(tamper));
    }

    /// Boots every host, a millisecond apart.
    pub fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.start(host);
            self.advance(Duration::from_millis(1));
        }
    }

    /// Boots a host from its disk.
    pub fn start(&mut self, host: usize) {
        let neighbors: Vec<_> = self.topology.neighbors(host).map(Network::address).collect();
        let (terms, now, wall) = (self.terms.clone(), self.now, self.wall_at(host));
        let host_state = &mut self.hosts[host];
        host_state.boots += 1;
        host_state.frozen = false;
        let node = boot(host_state, host, neighbors, &terms, now, wall);
        host_state.node = Some(node);
        self.drain(host);
    }

    /// Kills a host as `kill -9` would: memory is gone, the disk stays.
    pub fn kill(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.node = None;
        host.timer = None;
        host.workers = None;
        host.backlog.clear();
    }

    /// Asks a host to leave in good order.
    pub fn stop(&mut self, host: usize) {
        self.command(host, Command::Shutdown);
    }

    /// Stops a host as SIGSTOP would.
    pub fn freeze(&mut self, host: usize) {
        self.hosts[host].frozen = true;
    }

    /// Lets a frozen host go on, as SIGCONT would.
    pub fn thaw(&mut self, host: usize) {
        self.hosts[host].frozen = false;
        for (from, bytes) in std::mem::take(&mut self.hosts[host].backlog) {
            self.arrive(host, from, bytes);
        }
        self.fire(host);
    }

    /// Tells a host that its one interface gained or lost its carrier.
    pub fn interface(&mut self, host: usize, up: bool) {
        self.handle(host, Input::Interface { index: 1, up });
    }

    /// The network tells `host` that nothing reaches `other`: an ICMP error, true or forged.
    pub fn doubt(&mut self, host: usize, other: usize) {
        let to = Underlay::Udp(Network::address(other));
        self.handle(host, Input::SendFailed { to, reason: "port unreachable" });
    }

    /// Lets virtual time pass.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while self.queue.peek().is_some_and(|next| next.0.at <= until) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.at_this_instant = if next.at > self.now { 0 } else { self.at_this_instant + 1 };
            let seed = self.terms.seed;
            assert!(self.at_this_instant < LIVELOCK, "seed {seed}: time stands still at {:?}", self.now);
            self.now = self.now.max(next.at);
            match next.what {
                Happening::Arrival { to, from, bytes } => self.arrive(to, from, bytes),
                Happening::Timer { host } => {
                    if self.hosts[host].timer == Some(next.at) {
                        self.hosts[host].timer = None;
                        self.fire(host);
                    }
                }
                Happening::Job { host, boots, worker } => self.finish_job(host, boots, worker),
            }
        }
        self.now = until;
    }

    /// Lets time pass until `done`, looking every `step`. Gives when, or `None` if it was not done `within`.
    pub fn wait_for(
        &mut self,
        within: Duration,
        step: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Instant> {
        let deadline = self.now + within;
        loop {
            if done(self) {
                return Some(self.now);
            }
            if self.now >= deadline {
                return None;
            }
            self.advance(step);
        }
    }

    /// Whether a packet from every running host would reach every other, following each node's own choice of next hop.
    pub fn all_reach_all(&self) -> bool {
        self.first_unreachable().is_none()
    }

    /// A pair of running hosts of which the first does not reach the second.
    pub fn first_unreachable(&self) -> Option<(usize, usize)> {
        let running: Vec<usize> = (0..self.hosts.len()).filter(|host| self.hosts[*host].node.is_some()).collect();
        let pairs = running.iter().flat_map(|&a| running.iter().map(move |&b| (a, b)));
        pairs.filter(|(a, b)| a != b).find(|&(a, b)| self.path(a, b).is_none())
    }

    /// The hosts that a packet passes from `a` to `b`, both included, if it arrives.
    pub fn path(&self, a: usize, b: usize) -> Option<Vec<usize>> {
        let mut path = vec![a];
        let mut at = a;
        while at != b {
            let next = self.hosts[at].node.as_ref()?.next_hop(self.id(b))?;
            let next = *self.by_id.get(&next)?;
            if self.hosts[next].node.is_none() || path.len() > self.hosts.len() || !self.network.is_linked(at, next) {
                return None;
            }
            path.push(next);
            at = next;
        }
        Some(path)
    }

    /// What the operator of the authority's host, 0, asks of it. The state is made durable as ever.
    ///
    /// # Panics
    /// If there is no running authority, or it does not answer.
    pub fn operator(&mut self, request: OperatorRequest) -> OperatorAnswer {
        const TICKET: Ticket = Ticket::MAX;
        let (now, wall) = (self.now, self.wall_at(0));
        let Host { authority, disk, .. } = &mut self.hosts[0];
        let server = authority.as_mut().expect("an authority on host 0");
        server.handle_request(TICKET, AuthorityRequest::Operator(request), now, wall);
        let mut answer = None;
        while let Some(output) = server.poll_output() {
            match output {
                ServerOutput::Commit(_) => {
                    disk.insert(
                        RecordKind::Authority,
                        server.authority().to_stored().expect("a state that can be stored").to_vec(),
                    );
                }
                ServerOutput::Answer(TICKET, AuthorityAnswer::Operator(given)) => answer = Some(given),
                ServerOutput::Answer(..) | ServerOutput::Joined(_) => {}
            }
        }
        answer.expect("an answer to the operator")
    }

    /// Tells a host's node what its agent would have heard from the authority by now: the bundle, and what is distrusted.
    ///
    /// # Panics
    /// If there is no running authority, or it cannot sign its lists.
    pub fn hear_authority(&mut self, host: usize) {
        let authority = self.hosts[0].authority.as_ref().expect("an authority on host 0").authority();
        let crls = authority.crls(self.wall_at(0)).expect("revocation lists");
        let crls: Vec<_> = crls.iter().map(|crl| crl.to_vec()).collect();
        let (bundle, distrusted) =
            (authority.bundle().clone(), Distrusted::of(authority.life().tainted().collect(), &crls));
        self.handle(host, Input::Bundle(bundle));
        self.handle(host, Input::Distrusted(distrusted));
    }

    /// A host's node is given its next SVID, which it has asked for as a joiner asks.
    pub fn recovered(&mut self, host: usize, svid: Svid, bundle: Bundle) {
        self.handle(host, Input::Recovered(Box::new((svid, bundle))));
    }
    /// Looks at every running node.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn audit(&mut self) {
        for host in 0..self.hosts.len() {
            self.look_at(host, Invariants::audit);
        }
    }

    fn arrive(&mut self, to: usize, from: usize, bytes: Vec<u8>) {
        if self.hosts[to].frozen {
            if self.hosts[to].backlog.len() < BACKLOG_MAX {
                self.hosts[to].backlog.push((from, bytes));
            }
            return;
        }
        self.digest.update(&self.now.as_nanos().to_be_bytes());
        self.digest.update(&(to as u64).to_be_bytes());
        self.digest.update(&bytes);
        let from = Network::address(from);
        self.handle(to, Input::Datagrams { from: from.into(), interface: 1, train: Train::single(bytes) });
    }

    fn fire(&mut self, host: usize) {
        if !self.hosts[host].frozen {
            self.handle(host, Input::Timeout);
        }
    }

    fn handle(&mut self, host: usize, input: Input<'_>) {
        let (now, wall) = (self.now, self.wall_at(host));
        let Some(node) = self.hosts[host].node.as_mut() else { return };
        self.handled += 1;
        node.handle(input, now, wall);
        self.drain(host);
        if self.terms.watch_every_event {
            self.watch(host);
        }
    }

    fn drain(&mut self, host: usize) {
        while self.hosts[host].workers.as_ref().is_none_or(Workers::has_room)
            && let Some(output) = self.hosts[host].node.as_mut().and_then(Node::poll_output)
        {
            let Some(output) = self.give_job(host, output) else { continue };
            match output {
                Output::Datagrams { to, train, .. } => {
                    for datagram in train.datagrams() {
                        self.transmit(host, to.address(), datagram.to_vec());
                    }
                }
                // Given to a worker.
                Output::Seal { .. } | Output::Open(_) => {}
                Output::Persist(record) => {
                    self.hosts[host].disk.insert(record.kind, record.bytes);
                }
                Output::Reply { id, reply } => {
                    self.replies.insert(id, (self.now, reply));
                }
                Output::AuthorityRequest { ticket, request } => self.ask_authority(host, ticket, request),
                Output::AuthorityReply { id, outcome } => {
                    self.agent_replies.insert(id, (self.now, outcome));
                }
                // No agent runs on a simulated host.
                Output::Identity(_) => {}
                Output::Event(event) => {
                    self.invariants.heard(self.hosts[host].id, &event.what);
                    self.events.push((host, event.at, event.what));
                }
                Output::LocalPackets(delivery) => self.hand_over(host, &delivery),
                // The simulated underlay has no multicast.
                Output::Beacon(_) => {}
                Output::Stopped => self.kill(host),
            }
        }
        self.set_timer(host);
    }

    /// Asks the authority beside a node, at once and on the same disk.
    fn ask_authority(&mut self, host: usize, ticket: Ticket, request: AuthorityRequest) {
        let (now, wall) = (self.now, self.wall_at(host));
        let Host { authority, node, disk, .. } = &mut self.hosts[host];
        let (Some(server), Some(node)) = (authority, node) else { return };
        server.handle_request(ticket, request, now, wall);
        while let Some(output) = server.poll_output() {
            match output {
                ServerOutput::Commit(_) => {
                    disk.insert(
                        RecordKind::Authority,
                        server.authority().to_stored().expect("a state that can be stored").to_vec(),
                    );
                }
                ServerOutput::Answer(ticket, answer) => {
                    node.handle(Input::AuthorityAnswer { ticket, answer }, now, wall)
                }
                ServerOutput::Joined(spiffe_id) => node.handle(Input::Joined(spiffe_id), now, wall),
            }
        }
    }

    fn transmit(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.invariants.on_the_wire(&bytes);
        if let Some(captured) = &mut self.captured {
            captured.push((from, to, bytes.clone()));
        }
        for mut arrival in self.network.carry(from, to, bytes) {
            if let Some(tamper) = &mut self.tamper {
                tamper(from, arrival.to, &mut arrival.bytes);
            }
            if arrival.bytes.is_empty() {
                continue;
            }
            let at = self.now + arrival.after;
            self.schedule(at, Happening::Arrival { to: arrival.to, from, bytes: arrival.bytes });
        }
    }

    fn set_timer(&mut self, host: usize) {
        let wanted = self.hosts[host].node.as_ref().and_then(Node::poll_timeout).map(|at| at.max(self.now));
        if wanted != self.hosts[host].timer {
            self.hosts[host].timer = wanted;
            if let Some(at) = wanted {
                self.schedule(at, Happening::Timer { host });
            }
        }
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at, order: self.order, what }));
    }

    fn watch(&mut self, host: usize) {
        self.look_at(host, Invariants::check);
    }

    fn look_at<'w>(
        &'w mut self,
        host: usize,
        check: impl FnOnce(&mut Invariants, &Node, &Lookup<'w>) -> Result<(), Broken>,
    ) {
        let Some(node) = self.hosts[host].node.as_ref() else { return };
        let (hosts, by_id) = (&self.hosts, &self.by_id);
        let lookup = |id: NodeId| by_id.get(&id).and_then(|number| hosts[*number].node.as_ref());
        if let Err(broken) = check(&mut self.invariants, node, &lookup) {
            panic!("seed {}, {:?}, host {}: {broken}", self.terms.seed, self.now, self.hosts[host].name);
        }
    }
}

/// What a stream of pings saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Pings that came back.
    pub answered: usize,
    /// Pings that did not.
    pub lost: usize,
    /// The longest silence beyond the ordinary interval.
    pub longest_gap: Duration,
}
