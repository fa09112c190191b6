//! The stack: many connections, one address, and bounds on all of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};

use smoltcp::iface::{Interface, SocketSet};
use x0t_model::{Entropy, Instant, Seed};

use crate::burst::Burst;
use crate::connection::{Connection, Failure, Received, interface, time};
use crate::limits::Limits;
use crate::packet::{self, Flow, Kind};
use crate::stats::StackStats;
use crate::udp::{Arrival, Datagram, UdpPorts};
use crate::wire::{Exit, Wire};

/// Packets that a connection sends before it is the next one's turn.
const TURN_PACKETS: usize = 16;
/// A connection that says it has something to do, and then does nothing, is asked again after this long.
const RETRY: std::time::Duration = std::time::Duration::from_millis(10);
/// Ports from which this node opens conversations: the dynamic ones (RFC 6335, 6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Names a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// Something a user of the stack may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer asks for a connection to an exposed port. Answer with [`Stack::accept`] or [`Stack::abort`].
    Offered {
        /// The connection.
        id: ConnectionId,
        /// Who asks. The node has compared the address with the identity that sealed the packet.
        from: SocketAddrV6,
        /// For which port.
        port: u16,
    },
    /// A connection opened, failed, brought bytes, or has room for bytes again.
    Changed(ConnectionId),
    /// A datagram waits at this port.
    Datagram(u16),
}

/// Why a conversation cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusyError {
    /// As many as there may be.
    #[error("there are too many connections already")]
    TooMany,
    /// No such address or port, or this node's own.
    #[error("that address cannot be connected to")]
    Unaddressable,
}

/// TCP and UDP for one address. Never does IO: hand it packets and the time, then take packets and events.
pub struct Stack {
    address: Ipv6Addr,
    limits: Limits,
    entropy: Entropy,
    connections: BTreeMap<ConnectionId, Connection>,
    flows: BTreeMap<Flow, ConnectionId>,
    /// TCP ports at which connections are offered to the user.
    exposed: BTreeSet<u16>,
    udp: UdpPorts,
    /// Answers what belongs to no conversation: echo requests, and refusals.
    stranger: Interface,
    no_sockets: SocketSet<'static>,
    outgoing: Burst,
    /// Connections that have something to do, in turn.
    queue: VecDeque<ConnectionId>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    events: VecDeque<Event>,
    next_id: u64,
    stats: StackStats,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stack({}, {:?})", self.address, self.stats())
    }
}

impl Stack {
    /// A stack that owns `address`. `seed` is where its sequence numbers and ports come from.
    pub fn new(address: Ipv6Addr, limits: Limits, seed: Seed, now: Instant) -> Self {
        let mut entropy = Entropy::new(seed);
        Self {
            address,
            limits,
            connections: BTreeMap::new(),
            flows: BTreeMap::new(),
            exposed: BTreeSet::new(),
            udp: UdpPorts::default(),
            stranger: interface(address, limits.mtu, entropy.next_u64(), now),
            no_sockets: SocketSet::new(Vec::new()),
            outgoing: Burst::default(),
            queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            next_id: 0,
            stats: StackStats::default(),
            entropy,
        }
    }

    /// Its address.
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// What it has counted and how much it holds.
    pub fn stats(&self) -> StackStats {
        StackStats { connections: self.connections.len() as u64, udp_ports: self.udp.len() as u64, ..self.stats }
    }

    /// A packet arrived from the mesh.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.stats.packets_received += 1;
        match packet::classify(packet, self.address) {
            Err(packet::Malformed) => self.stats.packets_malformed += 1,
            Ok(Kind::Tcp { flow, opens }) => match self.flows.get(&flow).copied() {
                // A peer that opens what it has closed a moment ago has a new conversation in mind (RFC 9293, 3.10.7.4; RFC 6191).
                Some(id) if opens && self.connections.get(&id).is_some_and(Connection::is_over) => {
                    self.forget(id);
                    self.offer(flow, packet, now);
                }
                Some(id) => self.hand_to(id, packet, now),
                None if opens && self.exposed.contains(&flow.port) => self.offer(flow, packet, now),
                None => self.refuse(packet, now),
            },
            Ok(Kind::Udp(flow)) if self.udp.contains(flow.port) => self.take_datagram(flow, packet),
            Ok(Kind::Udp(_)) => self.refuse(packet, now),
            Ok(Kind::Unreachable(flow)) => self.lose(flow),
            Ok(Kind::Other) => self.answer(packet, now),
        }
    }

    fn hand_to(&mut self, id: ConnectionId, packet: &[u8], now: Instant) {
        let Self { connections, outgoing, limits, stats, .. } = self;
        let Some(connection) = connections.get_mut(&id) else { return };
        let mut exit =
            Exit { packets: outgoing, packets_max: limits.packets_waiting, dropped: &mut stats.answers_dropped };
        connection.handle_packet(packet, limits, exit.reborrow(), now);
        if connection.owes_answer() {
            connection.send_packets(1, limits, &mut exit, now);
        }
        self.touch(id);
    }

    /// A peer asks for a connection to an exposed port. Unanswered requests are bounded, by peer and in all; a peer cannot pretend
    /// to be another, so who asks for too many harms only itself.
    fn offer(&mut self, flow: Flow, syn: &[u8], now: Instant) {
        if !self.has_room_for(flow.peer) {
            self.stats.syns_dropped += 1;
            return;
        }
        let seed = self.entropy.next_u64();
        let Self { outgoing, limits, stats, .. } = self;
        let exit = Exit { packets: outgoing, packets_max: limits.packets_waiting, dropped: &mut stats.answers_dropped };
        let Some(mut connection) = Connection::offered(self.address, flow, syn, limits, seed, exit, now) else {
            self.stats.packets_malformed += 1;
            return;
        };
        connection.abort_at = Some(now + self.limits.handshake);
        self.stats.connections_offered += 1;
        let id = self.insert(connection);
        self.touch(id);
        self.events.push_back(Event::Offered { id, from: flow.remote(), port: flow.port });
    }

    fn has_room_for(&mut self, peer: Ipv6Addr) -> bool {
        self.make_room();
        let bounds = |port| Flow { peer, peer_port: port, port };
        let of_peer = self.flows.range(bounds(u16::MIN)..=bounds(u16::MAX)).filter(|(flow, _)| {
            // What this node opened itself is not the peer's doing.
            self.exposed.contains(&flow.port)
        });
        let half_open = |id: &ConnectionId| self.connections.get(id).is_some_and(Connection::is_half_open);
        let (count, half_open_of_peer) =
            of_peer.fold((0, 0), |(all, half), (_, id)| (all + 1, half + usize::from(half_open(id))));
        count < self.limits.connections_per_peer
            && half_open_of_peer < self.limits.half_open_per_peer
            && self.connections.len() < self.limits.connections
            && self.connections.values().filter(|connection| connection.is_half_open()).count() < self.limits.half_open
    }

    /// Lets go of connections that only answer late packets, the oldest first, as far as there are too many.
    fn make_room(&mut self) {
        let over = self.connections.iter().filter(|(_, connection)| connection.is_over() && connection.is_released);
        let over: Vec<ConnectionId> = over.map(|(id, _)| *id).collect();
        let full = self.connections.len() >= self.limits.connections;
        let excess = over.len().saturating_sub(self.limits.closed).max(usize::from(full && !over.is_empty()));
        for id in over.into_iter().take(excess) {
            self.forget(id);
        }
    }

    fn take_datagram(&mut self, flow: Flow, packet: &[u8]) {
        let Some(payload) = packet::datagram(packet) else {
            self.stats.datagrams_dropped += 1;
            return;
        };
        match self.udp.arrive(flow.port, flow.remote(), payload, self.limits.udp_waiting) {
            Some(Arrival::First) => {
                self.stats.datagrams_received += 1;
                self.events.push_back(Event::Datagram(flow.port));
            }
            Some(Arrival::Queued) => self.stats.datagrams_received += 1,
            Some(Arrival::Dropped) | None => self.stats.datagrams_dropped += 1,
        }
    }

    fn lose(&mut self, flow: Flow) {
        if let Some(id) = self.flows.get(&flow).copied()
            && self.connections.get_mut(&id).is_some_and(Connection::handle_unreachable)
        {
            self.touch(id);
        }
    }

    fn refuse(&mut self, packet: &[u8], now: Instant) {
        self.stats.packets_refused += 1;
        self.answer(packet, now);
    }

    /// What the protocols want answered although it belongs to no conversation: an echo request (RFC 4443, 4.2), a segment for a port
    /// nobody serves (a reset, RFC 9293, 3.10.7.1), a datagram for one (RFC 4443, 3.1).
    fn answer(&mut self, packet: &[u8], now: Instant) {
        let Self { stranger, no_sockets, outgoing, limits, stats, .. } = self;
        let exit = Exit { packets: outgoing, packets_max: limits.packets_waiting, dropped: &mut stats.answers_dropped };
        let mut wire = Wire::new(Some(packet), exit, limits.mtu);
        let answered =
            catch_unwind(AssertUnwindSafe(|| stranger.poll_ingress_single(time(now), &mut wire, no_sockets)));
        if answered.is_err() {
            self.stats.connections_broken += 1;
            self.stranger = interface(self.address, self.limits.mtu, self.entropy.next_u64(), now);
        }
    }

    /// Does what is due: timers, and sending for every connection that has something to send, in turn, for as long as there is room.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.deadline = None;
                if connection.abort_at.is_some_and(|until| until <= now) {
                    connection.abort_at = None;
                    connection.abort();
                    connection.is_changed = true;
                }
            }
            self.queue_up(id);
        }
        while self.outgoing.len() < self.limits.packets_waiting {
            let Some(id) = self.queue.pop_front() else { break };
            self.serve(id, now);
        }
    }

    /// One connection's turn.
    fn serve(&mut self, id: ConnectionId, now: Instant) {
        let Self { connections, outgoing, limits, stats, events, deadlines, .. } = self;
        let Some(connection) = connections.get_mut(&id) else { return };
        connection.is_queued = false;
        let mut exit =
            Exit { packets: outgoing, packets_max: limits.packets_waiting, dropped: &mut stats.answers_dropped };
        let before = exit.packets.len();
        let more = connection.send_packets(TURN_PACKETS, limits, &mut exit, now);
        let sent = outgoing.len() > before;
        if std::mem::take(&mut connection.is_changed) {
            events.push_back(Event::Changed(id));
        }
        if more {
            return self.queue_up(id);
        }
        if connection.is_released && connection.is_gone() {
            return self.forget(id);
        }
        if let Some(old) = connection.deadline.take() {
            deadlines.remove(&(old, id));
        }
        // Nothing was sent although something is due: asking again at once would not change that.
        let soonest = if sent { now } else { now + RETRY };
        connection.deadline = connection.poll_timeout(now).map(|at| if at <= now { soonest } else { at });
        deadlines.extend(connection.deadline.map(|at| (at, id)));
    }

    /// When [`Self::handle_timeout`] is to be called next, if no packet arrives and nobody does anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.queue.is_empty() && self.outgoing.len() < self.limits.packets_waiting {
            return Some(Instant::ZERO);
        }
        self.poll_timer()
    }

    /// When the first timer is due; what waits only for room does not count.
    pub fn poll_timer(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The packets to be carried, in order. What is left in there still counts against the limit.
    pub const fn outgoing(&mut self) -> &mut Burst {
        &mut self.outgoing
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a connection to `remote`.
    ///
    /// # Errors
    /// If it cannot even be tried. Whether it succeeds shows [`Self::is_established`].
    pub fn connect(&mut self, remote: SocketAddrV6, now: Instant) -> Result<ConnectionId, BusyError> {
        self.make_room();
        if self.connections.len() >= self.limits.connections {
            return Err(BusyError::TooMany);
        }
        let (peer, peer_port) = (*remote.ip(), remote.port());
        if peer == self.address || peer.is_multicast() {
            return Err(BusyError::Unaddressable);
        }
        let flow_from = |port| Flow { peer, peer_port, port };
        let port = self
            .dynamic_port(|stack, port| !stack.flows.contains_key(&flow_from(port)) && !stack.exposed.contains(&port))
            .ok_or(BusyError::TooMany)?;
        let seed = self.entropy.next_u64();
        let connection = Connection::connect(self.address, flow_from(port), &self.limits, seed, now);
        let id = self.insert(connection.ok_or(BusyError::Unaddressable)?);
        self.stats.connections_opened += 1;
        self.queue_up(id);
        Ok(id)
    }

    /// A dynamic port that `is_free`, at random so that nobody can guess it (RFC 6056, 3.3.1).
    fn dynamic_port(&mut self, is_free: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        let first = self.entropy.below(DYNAMIC_PORTS.len() as u64) as u16;
        let count = DYNAMIC_PORTS.len() as u16;
        (0..count).map(|n| DYNAMIC_PORTS.start() + (first + n) % count).find(|port| is_free(self, *port))
    }

    /// Offers connections to TCP `port` to the user from now on.
    pub fn expose(&mut self, port: u16) {
        self.exposed.insert(port);
    }

    /// Refuses further connections to TCP `port`.
    pub fn conceal(&mut self, port: u16) {
        self.exposed.remove(&port);
    }

    /// Accepts an offered connection.
    pub fn accept(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.accept()
        {
            connection.abort_at = None;
            self.queue_up(id);
        }
    }

    /// Whether the handshake of a connection is done.
    ///
    /// # Errors
    /// With the reason for which it never will be.
    pub fn is_established(&mut self, id: ConnectionId) -> Result<bool, Failure> {
        self.connection(id)?.is_established()
    }

    /// Writes into a connection's buffer: `write` gets the free room, and says how much of it it has filled. `None` if there is no
    /// room yet; [`Event::Changed`] follows when there is.
    ///
    /// # Errors
    /// With the reason for which nothing can be sent any more.
    pub fn send_with<R>(
        &mut self,
        id: ConnectionId,
        write: impl FnOnce(&mut [u8]) -> (usize, R),
    ) -> Result<Option<R>, Failure> {
        let sent = self.connection(id)?.send_with(write);
        self.queue_up(id);
        sent
    }

    /// Reads from a connection's buffer: `read` gets bytes that have arrived, and says how many of them it has taken.
    ///
    /// # Errors
    /// With the reason for which nothing can be received any more.
    pub fn receive_with<R>(
        &mut self,
        id: ConnectionId,
        read: impl FnOnce(&mut [u8]) -> (usize, R),
    ) -> Result<Received<R>, Failure> {
        let received = self.connection(id)?.receive_with(read);
        // There may be a window to tell the peer of.
        self.queue_up(id);
        received
    }

    fn connection(&mut self, id: ConnectionId) -> Result<&mut Connection, Failure> {
        self.connections.get_mut(&id).ok_or(Failure::Reset)
    }

    /// Says that nothing more will be sent; what has been written still is, and receiving goes on.
    pub fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.close();
            self.queue_up(id);
        }
    }

    /// Breaks a connection off, or refuses an offered one. The peer gets a reset.
    pub fn abort(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.abort();
            self.queue_up(id);
        }
    }

    /// Has no more use for a connection. If both sides have closed it and all was read, it ends by itself; else it is broken off.
    pub fn release(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.release(now + self.limits.linger);
            self.queue_up(id);
        }
    }

    /// Takes UDP `port` into use; a dynamic one if it is `None`.
    ///
    /// # Errors
    /// If it is in use, or too many are.
    pub fn open_udp(&mut self, port: Option<u16>) -> Result<u16, BusyError> {
        if self.udp.len() >= self.limits.udp_ports {
            return Err(BusyError::TooMany);
        }
        let port = match port {
            Some(port) => port,
            None => self.dynamic_port(|stack, port| !stack.udp.contains(port)).ok_or(BusyError::TooMany)?,
        };
        if port == 0 || !self.udp.open(port) { Err(BusyError::Unaddressable) } else { Ok(port) }
    }

    /// Gives UDP `port` up.
    pub fn close_udp(&mut self, port: u16) {
        self.udp.close(port);
    }

    /// The datagram that has waited longest at UDP `port`.
    pub fn receive_udp(&mut self, port: u16) -> Option<Datagram> {
        self.udp.take(port)
    }

    /// Sends a datagram. Whether it fits a packet and there was room for it; a datagram that is not sent is lost.
    pub fn send_udp(&mut self, port: u16, to: SocketAddrV6, payload: &[u8]) -> bool {
        let len = packet::datagram_len(payload);
        let is_full = self.outgoing.len() >= self.limits.packets_waiting;
        let goes_nowhere = *to.ip() == self.address || to.ip().is_unspecified() || to.port() == 0;
        if len > self.limits.mtu || is_full || goes_nowhere {
            self.stats.datagrams_dropped += 1;
            return false;
        }
        let flow = Flow { peer: *to.ip(), peer_port: to.port(), port };
        let own = self.address;
        self.outgoing.push_with(len, |out| packet::write_datagram(out, own, flow, payload));
        true
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.flows.insert(connection.flow, id);
        self.connections.insert(id, connection);
        id
    }

    fn forget(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.stats.connections_broken += u64::from(connection.is_broken());
            self.flows.remove(&connection.flow);
            if let Some(at) = connection.deadline {
                self.deadlines.remove(&(at, id));
            }
        }
    }

    /// Something happened to a connection: it gets a turn, and its user is told.
    fn touch(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_changed = true;
        }
        self.queue_up(id);
    }

    fn queue_up(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.is_queued, true)
        {
            self.queue.push_back(id);
        }
    }
}
