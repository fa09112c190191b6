//! One TCP connection: a smoltcp interface with a single socket. A connection for itself is found by its flow, polled only when it has
//! something to do, has initial sequence numbers that say nothing about another's (RFC 6528), and can be lost alone.

use std::net::Ipv6Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpCidr};
use x0t_model::Instant;

use crate::burst::Burst;
use crate::limits::Limits;
use crate::packet::Flow;
use crate::wire::{Exit, Wire};

/// As many segments are acknowledged one by one, so that the peer's slow start is not slowed down by us; then every other is.
const QUICK_SEGMENTS: u32 = 256;
/// How long the acknowledgement of a single segment may wait for company (RFC 9293, 3.8.6.3 allows half a second).
const ACK_DELAY: Duration = Duration::from_millis(10);

/// Why a connection is no more, or never came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody serves that port there.
    #[error("the other node refused the connection")]
    Refused,
    /// The mesh knows no way to that address.
    #[error("the other node cannot be reached")]
    Unreachable,
    /// No answer, or none any more.
    #[error("the other node did not answer")]
    TimedOut,
    /// The other side broke it off.
    #[error("the other node broke the connection off")]
    Reset,
    /// What carries connections here has failed. A bug; the connection is lost for it and no other.
    #[error("the connection was lost to an internal error")]
    Broken,
}

/// What reading from a connection gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<R> {
    /// There were bytes; what the reader made of them.
    Bytes(R),
    /// There are none yet.
    Nothing,
    /// The other side has sent its last byte, and all have been read.
    Finished,
}

/// A connection and what the stack remembers of it.
pub struct Connection {
    /// Which one.
    pub flow: Flow,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    seen: State,
    failure: Option<Failure>,
    /// A peer asks for it and has no answer yet.
    offered: bool,
    aborted: bool,
    /// Segments that have arrived.
    segments: u32,
    /// Of those, how many have arrived since it last had a turn.
    pub unanswered: u32,
    /// When it is broken off: unless its user decides about an offer, or once its user has left.
    pub abort_at: Option<Instant>,
    /// Whether its user has left.
    pub is_released: bool,
    /// Whether it stands in the stack's line of those that have something to do.
    pub is_queued: bool,
    /// Whether its user is to be told.
    pub is_changed: bool,
    /// When it wants to be looked at.
    pub deadline: Option<Instant>,
}

/// A smoltcp interface that owns `address` and nothing else.
pub fn interface(address: Ipv6Addr, mtu: usize, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    // It is asked for its capabilities only.
    let (mut packets, mut dropped) = (Burst::default(), 0);
    let exit = Exit { packets: &mut packets, packets_max: 0, dropped: &mut dropped };
    let mut interface = Interface::new(config, &mut Wire::new(None, exit, mtu), time(now));
    interface.update_ip_addrs(|addresses| {
        // The list is empty and takes at least two.
        let _ = addresses.push(IpCidr::new(address.into(), 128));
    });
    interface
}

/// Our time as smoltcp's, which counts microseconds.
pub fn time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn span(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

impl Connection {
    fn new(address: Ipv6Addr, flow: Flow, limits: &Limits, seed: u64, now: Instant) -> Self {
        let buffer = || SocketBuffer::new(vec![0; limits.buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        // Whoever writes through us decides how much goes at once.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(span(limits.handshake)));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            flow,
            interface: interface(address, limits.mtu, seed, now),
            sockets,
            handle,
            seen: State::Closed,
            failure: None,
            offered: false,
            aborted: false,
            segments: 0,
            unanswered: 0,
            abort_at: None,
            is_released: false,
            is_queued: false,
            is_changed: false,
            deadline: None,
        }
    }

    /// One that this node opens. `None` if there is no such address or port.
    pub fn connect(address: Ipv6Addr, flow: Flow, limits: &Limits, seed: u64, now: Instant) -> Option<Self> {
        let mut connection = Self::new(address, flow, limits, seed, now);
        let socket = connection.sockets.get_mut::<Socket<'_>>(connection.handle);
        let (remote, local) = ((flow.peer, flow.peer_port), (address, flow.port));
        socket.connect(connection.interface.context(), remote, local).ok()?;
        connection.seen = socket.state();
        Some(connection)
    }

    /// One that a peer asks for with `syn`; it gets no answer before [`Self::accept`]. `None` if that is no valid SYN.
    pub fn offered(
        address: Ipv6Addr,
        flow: Flow,
        syn: &[u8],
        limits: &Limits,
        seed: u64,
        exit: Exit<'_>,
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(address, flow, limits, seed, now);
        let socket = connection.socket();
        socket.listen(flow.port).ok()?;
        socket.pause_synack(true);
        connection.offered = true;
        connection.handle_packet(syn, limits, exit, now);
        (connection.socket().state() == State::SynReceived).then_some(connection)
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Answers the peer's SYN. Whether there was one to answer.
    pub fn accept(&mut self) -> bool {
        self.socket().pause_synack(false);
        std::mem::take(&mut self.offered)
    }

    /// Whether the peer that opened it has not finished the handshake.
    pub fn is_half_open(&self) -> bool {
        self.seen == State::SynReceived
    }

    /// Whether both sides have closed it and it only answers late packets.
    pub fn is_over(&self) -> bool {
        self.seen == State::TimeWait
    }

    /// Whether nothing is left to do for it.
    pub fn is_gone(&mut self) -> bool {
        let socket = self.socket();
        socket.state() == State::Closed && socket.remote_endpoint().is_none()
    }

    /// Takes in a segment.
    pub fn handle_packet(&mut self, packet: &[u8], limits: &Limits, exit: Exit<'_>, now: Instant) {
        let mut wire = Wire::new(Some(packet), exit, limits.mtu);
        let Self { interface, sockets, .. } = self;
        let processed = catch_unwind(AssertUnwindSafe(|| interface.poll_ingress_single(time(now), &mut wire, sockets)));
        if processed.is_err() {
            return self.break_down();
        }
        self.segments = self.segments.saturating_add(1);
        self.unanswered += 1;
        if self.segments == QUICK_SEGMENTS {
            self.socket().set_ack_delay(Some(span(ACK_DELAY)));
        }
        let before = self.seen;
        let state = self.socket().state();
        if state != before {
            self.failure = self.failure.or_else(|| self.ended_by_packet(before, state));
            self.enter(state, limits);
        }
    }

    /// Why a segment ended it, if one did.
    fn ended_by_packet(&mut self, before: State, state: State) -> Option<Failure> {
        match (before, state) {
            (State::SynSent, State::Closed) => Some(Failure::Refused),
            // Back to listening: the peer withdrew.
            (State::SynReceived, State::Listen) => Some(Failure::Reset),
            // The last acknowledgement of an orderly end, unless something was left to be acknowledged.
            (State::LastAck, State::Closed) if self.socket().send_queue() == 0 => None,
            (State::Closed | State::TimeWait, State::Closed) => None,
            (_, State::Closed) => Some(Failure::Reset),
            _ => None,
        }
    }

    fn enter(&mut self, state: State, limits: &Limits) {
        self.seen = state;
        let socket = self.socket();
        if state == State::Listen {
            socket.close();
            self.seen = State::Closed;
        } else if state == State::Established || state == State::CloseWait {
            socket.set_timeout(Some(span(limits.silence)));
            socket.set_keep_alive(Some(span(limits.keep_alive)));
        }
    }

    /// Whether an acknowledgement is due before more is taken in: the sender's window grows with each one, so that one for a whole burst
    /// would starve it (RFC 5681, 4.2 asks for one at least every second segment).
    pub const fn owes_answer(&self) -> bool {
        self.unanswered >= 2 || (self.segments < QUICK_SEGMENTS && self.unanswered >= 1)
    }

    /// Sends what there is to send, at most `packets_max` packets. Whether there may be more.
    pub fn send_packets(&mut self, packets_max: usize, limits: &Limits, exit: &mut Exit<'_>, now: Instant) -> bool {
        self.unanswered = 0;
        for _ in 0..packets_max {
            if exit.is_full() {
                return true;
            }
            let before = exit.packets.len();
            let mut wire = Wire::new(None, exit.reborrow(), limits.mtu);
            let Self { interface, sockets, .. } = self;
            let polled = catch_unwind(AssertUnwindSafe(|| interface.poll_egress(time(now), &mut wire, sockets)));
            if polled.is_err() {
                self.break_down();
                return false;
            }
            let state = self.socket().state();
            if state != self.seen {
                if state == State::Closed && self.seen != State::TimeWait && !self.aborted {
                    self.failure.get_or_insert(Failure::TimedOut);
                }
                self.enter(state, limits);
                self.is_changed |= self.failure.is_some();
            }
            if exit.packets.len() == before {
                return false;
            }
        }
        true
    }

    /// When it wants to be looked at again without having been touched.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.offered {
            // Whoever decides about it has a deadline of its own.
            return self.abort_at;
        }
        let Self { interface, sockets, .. } = self;
        let at = catch_unwind(AssertUnwindSafe(|| interface.poll_at(time(now), sockets))).unwrap_or_default();
        let at = at.map(|at| Instant::from_nanos(u64::try_from(at.total_micros()).unwrap_or_default() * 1_000));
        [at, self.abort_at].into_iter().flatten().min()
    }

    /// Writes into its buffer: `write` gets the free room and says how much it has filled. `None` if there is no room yet.
    ///
    /// # Errors
    /// With the reason for which nothing can be sent any more.
    pub fn send_with<R>(&mut self, write: impl FnOnce(&mut [u8]) -> (usize, R)) -> Result<Option<R>, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let socket = self.socket();
        if !socket.can_send() {
            let opening = matches!(socket.state(), State::SynSent | State::SynReceived);
            return if socket.may_send() || opening { Ok(None) } else { Err(Failure::Reset) };
        }
        socket.send(write).map(Some).map_err(|_| Failure::Reset)
    }

    /// Reads from its buffer: `read` gets what has arrived and says how much it has taken.
    ///
    /// # Errors
    /// With the reason for which nothing can be received any more.
    pub fn receive_with<R>(&mut self, read: impl FnOnce(&mut [u8]) -> (usize, R)) -> Result<Received<R>, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let socket = self.socket();
        if matches!(socket.state(), State::SynSent | State::SynReceived) {
            return Ok(Received::Nothing);
        }
        if socket.may_recv() && !socket.can_recv() {
            return Ok(Received::Nothing);
        }
        match socket.recv(read) {
            Ok(taken) => Ok(Received::Bytes(taken)),
            Err(RecvError::Finished) => Ok(Received::Finished),
            Err(RecvError::InvalidState) => Err(Failure::Reset),
        }
    }

    /// Whether the handshake is done.
    ///
    /// # Errors
    /// With the reason for which it never will be.
    pub fn is_established(&mut self) -> Result<bool, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(!matches!(self.socket().state(), State::SynSent | State::SynReceived)),
        }
    }

    /// Says that nothing more will be sent; what is in the buffer still is.
    pub fn close(&mut self) {
        self.socket().close();
        self.seen = self.socket().state();
    }

    /// Breaks it off: the peer gets a reset.
    pub fn abort(&mut self) {
        self.aborted = true;
        self.offered = false;
        self.socket().pause_synack(false);
        self.socket().abort();
        self.seen = State::Closed;
    }

    /// Its user leaves. What has been closed by both sides and read to its end goes on by itself; anything else is broken off.
    pub fn release(&mut self, until: Instant) {
        self.is_released = true;
        self.abort_at = Some(until);
        let finished = self.receive_with(|_| (0, ())) == Ok(Received::Finished);
        if !(finished && matches!(self.seen, State::LastAck | State::Closing | State::TimeWait | State::Closed)) {
            self.abort();
        }
    }

    /// The network says that the peer cannot be reached. During the handshake that ends it; later it may be a passing failure, which
    /// the mesh repairs (RFC 5461, 3.1).
    pub fn handle_unreachable(&mut self) -> bool {
        if self.seen != State::SynSent {
            return false;
        }
        self.failure.get_or_insert(Failure::Unreachable);
        self.abort();
        true
    }

    fn break_down(&mut self) {
        self.failure = Some(Failure::Broken);
        self.offered = false;
        self.aborted = true;
        // The old socket may be in any state: forget it without touching it again.
        let buffer = || SocketBuffer::new(Vec::new());
        self.sockets = SocketSet::new(Vec::with_capacity(1));
        self.handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.seen = State::Closed;
        self.is_changed = true;
    }

    /// Whether it was lost to a bug.
    pub fn is_broken(&self) -> bool {
        self.failure == Some(Failure::Broken)
    }
}
