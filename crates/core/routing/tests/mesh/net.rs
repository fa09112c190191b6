//! A few routers, wires between them and a clock of their own. After every event the whole net is audited: along every
//! successor edge the potential must fall.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId};
use x0t_routing::{Event, LinkId, NextHop, Router, RoutingConfig, RoutingView, Transmit};

/// What travels.
enum Parcel {
    Messages { bytes: Vec<u8>, reliable: bool },
    Data { flow: usize },
}

enum Happening {
    Arrive { wire: usize, to: usize, session: u64, parcel: Parcel },
    Tick { flow: usize },
}

pub struct Wire {
    pub ends: [usize; 2],
    delay: Duration,
    cut: bool,
    /// Cut in the direction away from this end only.
    deaf_from: Option<usize>,
    loss_per_million: u32,
    session: u64,
}

struct Host {
    name: String,
    id: NodeId,
    router: Router,
    epoch: u32,
    incarnation: u64,
    alive: bool,
    events: Vec<(Instant, Event)>,
}

/// A steady stream of packets, one every 5 ms.
pub struct Flow {
    from: usize,
    to: usize,
    running: bool,
    pub delivered: Vec<Instant>,
    pub sent: u64,
    pub lost_without_route: u64,
}

pub struct Net {
    pub now: Instant,
    hosts: Vec<Host>,
    pub wires: Vec<Wire>,
    pub flows: Vec<Flow>,
    happenings: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
    dice: Entropy,
    config: RoutingConfig,
    pub audited_edges: u64,
    /// Proofs that the verifier of this host refuses.
    pub refuse_proofs_of: Option<String>,
}

const FLOW_INTERVAL: Duration = Duration::from_millis(5);

pub fn id(name: &str) -> NodeId {
    let spiffe = format!("spiffe://mesh.test/node/{name}");
    NodeId::of(&spiffe.parse().unwrap())
}

/// Stands for a signature: only what the origin itself said about this statement.
pub fn proof_by(origin: NodeId, statement: &[u8]) -> Vec<u8> {
    let mut proof = origin.as_bytes().to_vec();
    proof.extend(statement.iter().rev());
    proof
}

impl Net {
    /// `"A-B:1 B-C:5"`: wires and their one-way delay in milliseconds.
    pub fn of(topology: &str) -> Self {
        Self::with(topology, RoutingConfig::default(), 1)
    }

    pub fn with(topology: &str, config: RoutingConfig, seed: u8) -> Self {
        let mut net = Self {
            now: Instant::from_millis(1_000_000),
            hosts: Vec::new(),
            wires: Vec::new(),
            flows: Vec::new(),
            happenings: BTreeMap::new(),
            counter: 0,
            dice: Entropy::new([seed; 32]),
            config,
            audited_edges: 0,
            refuse_proofs_of: None,
        };
        for wire in topology.split_whitespace() {
            let (ends, delay) = wire.split_once(':').unwrap();
            let (a, b) = ends.split_once('-').unwrap();
            net.add_wire(a, b, Duration::from_micros((delay.parse::<f64>().unwrap() * 1e3) as u64));
        }
        for wire in 0..net.wires.len() {
            net.connect(wire);
        }
        net
    }

    pub fn add_wire(&mut self, a: &str, b: &str, delay: Duration) -> usize {
        let ends = [self.host_or_new(a), self.host_or_new(b)];
        self.wires.push(Wire { ends, delay, cut: false, deaf_from: None, loss_per_million: 0, session: 0 });
        self.wires.len() - 1
    }

    fn host_or_new(&mut self, name: &str) -> usize {
        if let Some(host) = self.hosts.iter().position(|host| host.name == name) {
            return host;
        }
        self.hosts.push(Host {
            name: name.to_owned(),
            id: id(name),
            router: Router::new(self.config.clone(), id(name), 1, Entropy::new(self.dice.bytes()), self.now),
            epoch: 1,
            incarnation: 1,
            alive: true,
            events: Vec::new(),
        });
        let host = self.hosts.len() - 1;
        self.drain(host);
        host
    }

    /// A session is established: both ends learn of it.
    pub fn connect(&mut self, wire: usize) {
        self.wires[wire].session += 1;
        let [a, b] = self.wires[wire].ends;
        for (end, other) in [(a, b), (b, a)] {
            let (peer, incarnation) = (self.hosts[other].id, self.hosts[other].incarnation);
            self.hosts[end].router.link_up(LinkId(wire as u32), peer, incarnation, self.now);
        }
        for end in [a, b] {
            self.drain(end);
        }
    }

    pub fn host(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name == name).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }

    pub fn router(&mut self, name: &str) -> &mut Router {
        let host = self.host(name);
        &mut self.hosts[host].router
    }

    pub fn view(&self, name: &str) -> RoutingView {
        self.hosts[self.host(name)].router.view(self.now)
    }

    pub fn wire(&self, a: &str, b: &str) -> usize {
        let (a, b) = (self.host(a), self.host(b));
        self.wires.iter().position(|wire| wire.ends == [a, b] || wire.ends == [b, a]).unwrap()
    }

    pub fn link(&self, a: &str, b: &str) -> LinkId {
        LinkId(self.wire(a, b) as u32)
    }

    /// Everything on the wire is lost from here on, in silence.
    pub fn cut(&mut self, a: &str, b: &str) {
        let wire = self.wire(a, b);
        self.wires[wire].cut = true;
    }

    /// What `from` sends to `to` is lost; the other way works.
    pub fn cut_one_way(&mut self, from: &str, to: &str) {
        let (wire, from) = (self.wire(from, to), self.host(from));
        self.wires[wire].deaf_from = Some(from);
    }

    pub fn heal(&mut self, a: &str, b: &str) {
        let wire = self.wire(a, b);
        self.wires[wire].cut = false;
        self.wires[wire].deaf_from = None;
    }

    pub fn lose(&mut self, per_million: u32) {
        self.wires.iter_mut().for_each(|wire| wire.loss_per_million = per_million);
    }

    /// Both kernels report the carrier of a wire.
    pub fn carrier(&mut self, a: &str, b: &str, alive: bool) {
        let wire = self.wire(a, b);
        self.wires[wire].cut = !alive;
        for end in self.wires[wire].ends {
            self.hosts[end].router.link_carrier(LinkId(wire as u32), alive, self.now);
            self.drain(end);
        }
    }

    /// The network tells `a` that nothing reaches `b`, which may be true or not.
    pub fn doubt(&mut self, a: &str, b: &str) {
        let (link, host) = (self.link(a, b), self.host(a));
        self.hosts[host].router.link_doubted(link, self.now);
        self.drain(host);
    }

    /// The process dies without a word.
    pub fn kill(&mut self, name: &str) {
        let host = self.host(name);
        self.hosts[host].alive = false;
    }

    /// It comes back with nothing but its persisted epoch, and makes new sessions on its wires.
    pub fn restart(&mut self, name: &str) {
        let host = self.host(name);
        let seed = self.dice.bytes();
        let state = &mut self.hosts[host];
        (state.alive, state.epoch, state.incarnation) = (true, state.epoch + 1, state.incarnation + 1);
        state.router = Router::new(self.config.clone(), state.id, state.epoch, Entropy::new(seed), self.now);
        self.drain(host);
        for wire in 0..self.wires.len() {
            let ends = self.wires[wire].ends;
            if ends.contains(&host) && ends.iter().all(|end| self.hosts[*end].alive) {
                self.connect(wire);
            }
        }
    }

    pub fn start_flow(&mut self, from: &str, to: &str) -> usize {
        let (from, to) = (self.host(from), self.host(to));
        let flow = Flow { from, to, running: true, delivered: Vec::new(), sent: 0, lost_without_route: 0 };
        self.flows.push(flow);
        let flow = self.flows.len() - 1;
        self.schedule(Duration::ZERO, Happening::Tick { flow });
        flow
    }

    /// The longest time without a delivery after `since`.
    pub fn outage(&self, flow: usize, since: Instant) -> Duration {
        let after = self.flows[flow].delivered.iter().filter(|at| **at >= since);
        let mut last = since;
        let mut longest = Duration::ZERO;
        for at in after.chain([&self.now]) {
            longest = longest.max(at.since(last));
            last = *at;
        }
        longest
    }

    pub fn settle(&mut self) {
        self.advance(Duration::from_secs(5));
    }

    pub fn advance_ms(&mut self, millis: u64) {
        self.advance(Duration::from_millis(millis));
    }

    pub fn advance(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
        self.now = until;
    }

    /// The next event before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let timer = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].alive)
            .filter_map(|host| Some((self.hosts[host].router.poll_timeout()?.0, host)))
            .min();
        let happening = self.happenings.first_key_value().map(|(at, _)| at.0);
        let touched = match (timer, happening) {
            (Some((at, host)), other) if other.is_none_or(|other| at <= other) && at <= until => {
                self.now = self.now.max(at);
                self.hosts[host].router.handle_timeout(self.now);
                self.drain(host);
                host
            }
            (_, Some(at)) if at <= until => {
                self.now = self.now.max(at);
                let Some((_, happening)) = self.happenings.pop_first() else { return false };
                let touched = match happening {
                    Happening::Arrive { to, .. } => to,
                    Happening::Tick { flow } => self.flows[flow].from,
                };
                self.happen(happening);
                touched
            }
            _ => return false,
        };
        self.audit(touched);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { wire, to, session, parcel } => {
                if !self.hosts[to].alive || self.wires[wire].session != session {
                    return;
                }
                let link = LinkId(wire as u32);
                match parcel {
                    Parcel::Messages { bytes, .. } => self.hosts[to].router.handle_message(link, &bytes, self.now),
                    Parcel::Data { flow } => {
                        self.hosts[to].router.heard(link, self.now);
                        self.hosts[to].router.carried_data(link, self.now);
                        self.forward(to, flow, Some(link));
                    }
                }
                self.drain(to);
            }
            Happening::Tick { flow } => {
                if !self.flows[flow].running {
                    return;
                }
                self.flows[flow].sent += 1;
                let from = self.flows[flow].from;
                self.forward(from, flow, None);
                self.drain(from);
                self.schedule(FLOW_INTERVAL, Happening::Tick { flow });
            }
        }
    }

    fn forward(&mut self, host: usize, flow: usize, from: Option<LinkId>) {
        let dst = self.hosts[self.flows[flow].to].id;
        match self.hosts[host].router.next_hop(dst, flow as u32, from) {
            NextHop::Local => self.flows[flow].delivered.push(self.now),
            NextHop::Unreachable { .. } => self.flows[flow].lost_without_route += 1,
            NextHop::Via(link) => {
                self.hosts[host].router.carried_data(link, self.now);
                self.hosts[host].router.sent(link, self.now);
                self.put_on_wire(host, link.0 as usize, Parcel::Data { flow });
            }
        }
    }

    fn put_on_wire(&mut self, from: usize, wire: usize, parcel: Parcel) {
        let state = &self.wires[wire];
        let to = if state.ends[0] == from { state.ends[1] } else { state.ends[0] };
        let lost = state.cut || state.deaf_from == Some(from);
        let (mut delay, session) = (state.delay, state.session);
        let reliable = matches!(parcel, Parcel::Messages { reliable: true, .. });
        let unlucky = self.dice.chance(state.loss_per_million);
        if reliable {
            // The session would send it again; long after, if the wire is cut.
            if lost {
                delay += Duration::from_secs(1);
                let still_cut = self.wires[wire].cut;
                if still_cut {
                    return;
                }
            } else if unlucky {
                delay += delay * 2 + Duration::from_millis(20);
            }
        } else if lost || unlucky {
            return;
        }
        self.schedule(delay, Happening::Arrive { wire, to, session, parcel });
    }

    fn schedule(&mut self, delay: Duration, happening: Happening) {
        self.counter += 1;
        self.happenings.insert((self.now + delay, self.counter), happening);
    }

    /// Carries out what a router asks for: sends, signs, verifies.
    pub fn drain(&mut self, host: usize) {
        loop {
            let mut idle = true;
            while let Some(Transmit { link, bytes, reliable }) = self.hosts[host].router.poll_transmit() {
                idle = false;
                self.hosts[host].router.sent(link, self.now);
                self.put_on_wire(host, link.0 as usize, Parcel::Messages { bytes, reliable });
            }
            while let Some(event) = self.hosts[host].router.poll_event() {
                idle = false;
                self.answer(host, event);
            }
            if idle {
                return;
            }
        }
    }

    fn answer(&mut self, host: usize, event: Event) {
        let now = self.now;
        let refused = self.refuse_proofs_of.as_deref().map(id);
        let state = &mut self.hosts[host];
        match &event {
            Event::NeedAnchorSignature { statement, .. } => {
                let proof = proof_by(state.id, statement);
                state.router.set_own_anchor_proof(proof, now).unwrap();
            }
            Event::AnchorToVerify { origin, epoch, statement, proof, .. } => {
                let accepted = *proof == proof_by(*origin, statement) && Some(*origin) != refused;
                state.router.anchor_verified(*origin, *epoch, accepted, now);
            }
            Event::EpochExhausted { next_epoch } => {
                state.epoch = *next_epoch;
                state.router.begin_epoch(*next_epoch, now);
            }
            _ => {}
        }
        state.events.push((now, event));
    }

    /// The invariant, at every edge that begins or ends at the host whose state may have changed.
    fn audit(&mut self, touched: usize) {
        for wire in 0..self.wires.len() {
            let ends = self.wires[wire].ends;
            if ends.contains(&touched) {
                let other = if ends[0] == touched { ends[1] } else { ends[0] };
                self.audit_edge(touched, other, wire);
                self.audit_edge(other, touched, wire);
            }
        }
    }

    /// A node that restarted is not the node that made the offers of its earlier life: an edge counts while the session it
    /// lives in does.
    fn audit_edge(&mut self, x: usize, y: usize, wire: usize) {
        if !self.hosts[x].alive || !self.hosts[y].alive {
            return;
        }
        for dst in 0..self.hosts.len() {
            let dst_id = self.hosts[dst].id;
            if !self.hosts[x].router.successors(dst_id).any(|successor| successor.link == LinkId(wire as u32)) {
                continue;
            }
            let mine = self.hosts[x].router.potential(dst_id);
            let theirs = self.hosts[y].router.potential(dst_id);
            let falls = matches!((theirs, mine), (Some(theirs), Some(mine)) if theirs < mine);
            let (x, y, dst) = (&self.hosts[x].name, &self.hosts[y].name, &self.hosts[dst].name);
            assert!(falls, "{:?}: {x} -> {y} for {dst}: {mine:?} -> {theirs:?}", self.now);
            self.audited_edges += 1;
        }
    }

    /// Who would carry a packet of `from` for `to`.
    pub fn next_hop(&mut self, from: &str, to: &str) -> Option<String> {
        let host = self.host(from);
        let via = self.hosts[host].router.next_hop(id(to), 0, None);
        self.drain(host);
        match via {
            NextHop::Via(link) => {
                let ends = self.wires[link.0 as usize].ends;
                let other = if ends[0] == host { ends[1] } else { ends[0] };
                Some(self.hosts[other].name.clone())
            }
            NextHop::Local => Some(from.to_owned()),
            NextHop::Unreachable { .. } => None,
        }
    }

    /// The way a packet would go; ends early where nobody carries on.
    pub fn path(&mut self, from: &str, to: &str) -> String {
        let mut path = vec![from.to_owned()];
        while path.last().is_some_and(|last| last != to) && path.len() <= self.hosts.len() + 1 {
            match self.next_hop(&path[path.len() - 1].clone(), to) {
                Some(next) => path.push(next),
                None => break,
            }
        }
        path.join("-")
    }

    pub fn events(&self, name: &str) -> impl Iterator<Item = &(Instant, Event)> {
        self.hosts[self.host(name)].events.iter()
    }

    pub fn clear_events(&mut self) {
        self.hosts.iter_mut().for_each(|host| host.events.clear());
    }

    pub fn everyone_reaches_everyone(&mut self) -> Result<(), String> {
        let names = self.names();
        for from in &names {
            for to in &names {
                let path = self.path(from, to);
                if !(path == *to || path.ends_with(&format!("-{to}"))) {
                    return Err(format!("{from} to {to}: {path}"));
                }
            }
        }
        Ok(())
    }

    /// Gives `bytes` to a router as if the neighbour at the other end of the wire had sent them.
    pub fn inject(&mut self, from: &str, to: &str, bytes: &[u8]) {
        let (link, host) = (self.link(from, to), self.host(to));
        self.hosts[host].router.handle_message(link, bytes, self.now);
        self.drain(host);
        self.audit(host);
    }
}
