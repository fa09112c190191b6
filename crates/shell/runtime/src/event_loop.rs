//! One thread that owns a node: it waits until something happens, tells the node, and does what the node says.
//!
//! ```text
//!            +--------------------- wait ----------------------+
//!            |  link events, requests, UDP, TUN, the deadline  |
//!            v                                                 |
//!   handle(one input) -> poll_output until None -> next input -+     (a bounded number of inputs from each source)
//!                             |
//!                             +-- Persist fails: stalled. Nothing is taken in and no output is performed until the record
//!                                 is durable; the state is shown, commands are refused with the reason, shutdown works.
//! ```
//!
//! While the kernel takes no more datagrams no output is performed either: what waits does so in the node's own fair queues, which
//! know what to drop, and not in a queue of the loop.
//!
//! Nothing ticks: an idle node sleeps until its own next deadline.

mod aside;
mod handing_out;
mod netstack;
mod stall;
mod stats;

use std::collections::BTreeMap;
use std::io;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use x0t_identity::{AuthorityRequest, Ticket};
use x0t_model::{Instant, Underlay};
use x0t_netstack::HostPort;
use x0t_node::{Command, Delivery, Drive, HostOffload, Input, Output, Record, Reply, Train};

use crate::clock::Clock;
use crate::discovery::DiscoverySockets;
use crate::handle::{Desk, NodeHandle, Request, Snapshot};
use crate::link_events::{LinkChange, LinkEvents};
use crate::poller::{Poller, Source};
use crate::state_dir::{StateDir, StateDirError};
use crate::tls_transport::TlsTransport;
use crate::tun::Tun;
use crate::udp::{Batch, Received, UdpSockets};
use crate::workers::Workers;

pub use handing_out::HANDED_OUT_LEN_MIN;
use stall::Stall;
pub use stats::LoopStats;

/// Packets and bytes taken from the host in one turn: a few super-packets, so that nobody waits long behind them.
const TUN_BATCH: usize = 32;
const TUN_BATCH_BYTES: usize = 256 << 10;
/// Datagrams taken from TLS connections, and beacons, in one turn.
const FRAMES_BATCH: usize = 64;
const BEACONS_BATCH: usize = 16;
/// Rounds of receiving in one turn, so that a flood from the underlay cannot keep everything else waiting.
const ROUNDS_MAX: usize = 4;
/// Longer packets than this never come out of the interface: a header and the most that its length field can say.
const PACKET_BYTES: usize = 40 + (1 << 16);
/// Commands that have not been answered yet.
const UNANSWERED_MAX: usize = 256;
/// The same unreachable address is reported to the node at most once in this time.
const UNREACHABLE_INTERVAL: Duration = Duration::from_millis(100);
/// Unreachable addresses whose last report is remembered.
const UNREACHABLE_MAX: usize = 1024;
/// A node that was told to stop has this long to say goodbye.
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Where records become durable.
pub trait Store {
    /// Makes `record` durable before returning.
    ///
    /// # Errors
    /// If it is not; the previous content is then still there.
    fn write(&mut self, record: &Record) -> Result<(), StateDirError>;
}

impl Store for StateDir {
    fn write(&mut self, record: &Record) -> Result<(), StateDirError> {
        Self::write(self, record)
    }
}

/// What the event loop is connected to.
#[derive(Debug)]
pub struct Io<S> {
    /// The underlay.
    pub udp: UdpSockets,
    /// The underlay where it lets no UDP pass.
    pub tls: TlsTransport,
    /// The local network's multicast group, if the node takes part in discovery.
    pub discovery: Option<DiscoverySockets>,
    /// The host's interface into the mesh, if there is one.
    pub tun: Option<Tun>,
    /// The stack that stands in its place where there is none.
    pub netstack: Option<HostPort>,
    /// News about interfaces, if the kernel gives any.
    pub links: Option<LinkEvents>,
    /// Where questions to the authority of this host go, if it has one.
    pub authority: Option<mpsc::Sender<(Ticket, AuthorityRequest)>>,
    /// Where records become durable.
    pub store: S,
    /// Each message asks for a shutdown; the second one does not wait for the node.
    pub stop: mpsc::Receiver<()>,
}

/// How an event loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The node said goodbye.
    Stopped,
    /// It did not within [`STOP_DEADLINE`], or was not given the time, or nobody is left who could stop it.
    Abandoned,
}

/// A node and its world.
pub struct EventLoop<N, S> {
    node: N,
    clock: Clock,
    io: Io<S>,
    poller: Poller,
    /// Who works for it; nobody by default.
    workers: Option<Workers>,
    /// Whether there is more to take in behind what the node is told of: only then is work handed out.
    busy: bool,
    /// Whether more was waiting when the last turn ended.
    more: bool,
    /// Whether anything was taken in when it was last waited.
    took_in: bool,
    links: Option<mpsc::Receiver<io::Result<LinkChange>>>,
    desk: Desk,
    unanswered: BTreeMap<u64, oneshot::Sender<Reply>>,
    next_command: u64,
    /// Questions of this host's agent that are on their way.
    asks: BTreeMap<u64, oneshot::Sender<Result<Vec<u8>, String>>>,
    next_ask: u64,
    reported_unreachable: BTreeMap<Underlay, Instant>,
    stall: Option<Stall>,
    /// Set once a shutdown has been asked for.
    stop_by: Option<Instant>,
    ending: Option<Ending>,
    batch: Batch,
    packet: Vec<u8>,
    stats: LoopStats,
}

/// Why a wait ended.
enum Wake {
    Link(LinkChange),
    LinksLost(io::Error),
    Request(Request),
    Stop,
    /// Whoever could have asked for anything is gone.
    Deserted,
    /// A socket is ready or a deadline has come; the turn finds out which.
    Other,
}

impl<N: Drive, S: Store> EventLoop<N, S> {
    /// Connects `node` with its world. The handle is how everybody else talks to it. Must be called inside the runtime that drives `io`.
    ///
    /// # Errors
    /// If the kernel gives no more descriptors.
    pub fn new(node: N, clock: Clock, mut io: Io<S>) -> io::Result<(Self, NodeHandle)> {
        let (handle, desk) = NodeHandle::new();
        let links = io.links.take().map(LinkEvents::pass_on);
        let event_loop = Self {
            node,
            clock,
            io,
            poller: Poller::new()?,
            workers: None,
            busy: false,
            more: false,
            took_in: false,
            links,
            desk,
            unanswered: BTreeMap::new(),
            next_command: 1,
            asks: BTreeMap::new(),
            // An answer that was meant for an earlier run of this node must not fit.
            next_ask: clock.wall().as_secs() << 24,
            reported_unreachable: BTreeMap::new(),
            stall: None,
            stop_by: None,
            ending: None,
            batch: Batch::default(),
            packet: vec![0; PACKET_BYTES],
            stats: LoopStats::default(),
        };
        Ok((event_loop, handle))
    }

    /// Runs until the node has stopped, on a thread of its own, so that a datagram wakes it without passing through another.
    ///
    /// # Errors
    /// If there is no thread to be had, or the kernel watches no more descriptors.
    pub async fn run(self) -> io::Result<Ending>
    where
        N: Send + 'static,
        S: Send + 'static,
    {
        let (done, ended) = oneshot::channel();
        let runtime = Handle::current();
        let work = move || {
            // Connections are made from here, and live on the runtime.
            let _inside = runtime.enter();
            // Whoever waited may have gone.
            let _ = done.send(self.run_here());
        };
        let thread = thread::Builder::new().name("x0t-data".to_owned()).spawn(work)?;
        match ended.await {
            Ok(ending) => ending,
            Err(_) => match thread.join() {
                Ok(()) => Ok(Ending::Abandoned),
                Err(panic) => std::panic::resume_unwind(panic),
            },
        }
    }

    fn run_here(mut self) -> io::Result<Ending> {
        let offload = self.io.tun.as_ref().map_or(HostOffload::default(), Tun::offload);
        self.handle(Input::HostInterface(offload));
        loop {
            if let Some(ending) = self.ending {
                if let Some(workers) = self.workers.take() {
                    workers.finish();
                }
                self.io.udp.flush(drop);
                return Ok(ending);
            }
            let wake = self.wait()?;
            self.stats.wakeups += 1;
            self.more = self.turn(wake);
        }
    }

    fn wait(&mut self) -> io::Result<Wake> {
        let running = self.takes_in();
        if std::mem::replace(&mut self.took_in, running) != running {
            self.poller.waker().wake();
        }
        let aside = if self.poller.take_alarm() { self.poll_aside() } else { Poll::Pending };
        if aside.is_ready() {
            // There may be more where that came from.
            self.poller.waker().wake();
        }
        let (datagrams, packets) = (running && self.opens_more(), self.takes_packets());
        self.io.udp.watch(&mut self.poller, datagrams)?;
        match &self.io.tun {
            Some(tun) => tun.watch(&mut self.poller, packets)?,
            None => self.poller.closed(Source::Interface),
        }
        // Also with something from aside the sockets are looked at: a stack that always has packets must not keep the peers' waiting
        // until the kernel drops them.
        let sleeps = !self.more && aside.is_pending() && self.may_sleep();
        let patience = if sleeps { self.next_deadline().since(self.clock.now()) } else { Duration::ZERO };
        let ready = self.poller.wait(patience)?;
        self.io.udp.wake(&ready);
        if let Some(tun) = &mut self.io.tun {
            tun.wake(&ready);
        }
        Ok(match aside {
            Poll::Ready(wake) => wake,
            Poll::Pending => Wake::Other,
        })
    }

    /// Whether the node is to be told of anything: not while it is held, and not after its goodbye.
    fn takes_in(&self) -> bool {
        self.stall.is_none() && self.ending.is_none()
    }

    fn next_deadline(&self) -> Instant {
        let work = match &self.stall {
            Some(stall) => stall.retry_at(),
            None => self.node.poll_timeout().unwrap_or(Instant::FAR_FUTURE),
        };
        // A sleep of centuries overflows the kernel's timer; a day later there is nothing to do either.
        let idle = self.clock.now() + Duration::from_secs(86_400);
        work.min(self.stop_by.unwrap_or(Instant::FAR_FUTURE)).min(idle)
    }

    /// Does everything that is due, within bounds. Returns whether more was waiting.
    fn turn(&mut self, wake: Wake) -> bool {
        match wake {
            Wake::Link(LinkChange { index, up }) => {
                self.stats.link_changes += 1;
                if let Some(discovery) = &mut self.io.discovery {
                    discovery.set_interface(index, up);
                }
                self.handle(Input::Interface { index, up });
            }
            Wake::LinksLost(error) => {
                tracing::warn!(%error, "no further link events; failures of local links are found by silence only");
                self.links = None;
            }
            Wake::Stop => self.stop(),
            Wake::Deserted => self.ending = Some(Ending::Abandoned),
            Wake::Request(request) => self.answer(request),
            Wake::Other => {}
        }
        if self.stop_by.is_some_and(|deadline| deadline <= self.clock.now()) {
            tracing::warn!("the node did not say goodbye within {STOP_DEADLINE:?}");
            self.ending.get_or_insert(Ending::Abandoned);
        }
        self.retry_persist();
        let node = &mut self.node;
        self.io.udp.flush(|train| node.reclaim_train(train));
        self.take_opened();
        self.perform_outputs();
        let mut more = false;
        for _ in 0..ROUNDS_MAX {
            let (udp, tls, tun) = (self.take_datagrams(), self.take_frames(), self.take_packets());
            more = udp || tls || tun;
            self.take_opened();
            self.handle_timeout();
            if !more {
                break;
            }
        }
        self.take_beacons();
        self.report_unreachable();
        more
    }

    fn handle(&mut self, input: Input<'_>) {
        self.tell(input);
        self.perform_outputs();
    }

    /// Tells the node without asking what it says: packets that are told one after the other leave together.
    fn tell(&mut self, input: Input<'_>) {
        self.node.handle(input, self.clock.now(), self.clock.wall());
    }

    /// Does what the node says, in its order, until it has nothing more to say, the kernel takes no more datagrams, or a record
    /// cannot be made durable.
    fn perform_outputs(&mut self) {
        while self.stall.is_none() && self.has_room() {
            let Some(output) = self.node.poll_output() else { return };
            match output {
                Output::Datagrams { to: Underlay::Udp(to), flow, train } => self.send(to, flow, train),
                Output::Seal { to, flow, unsealed } => self.seal(to, flow, unsealed),
                Output::Open(opening) => self.open(opening),
                Output::Datagrams { to: Underlay::Tls(to), train, .. } => {
                    train.datagrams().for_each(|datagram| self.io.tls.send(to, datagram));
                    self.node.reclaim_train(train);
                }
                Output::Beacon(beacon) => {
                    if let Some(discovery) = &mut self.io.discovery {
                        discovery.send(&beacon);
                    }
                }
                Output::LocalPackets(delivery) => self.hand_over(delivery),
                Output::Persist(record) => self.persist(record),
                Output::AuthorityRequest { ticket, request } => self.pass_to_authority(ticket, request),
                Output::AuthorityReply { id, outcome } => {
                    if let Some(asker) = self.asks.remove(&id) {
                        let _ = asker.send(outcome);
                    }
                }
                Output::Reply { id, reply } => {
                    if let Some(asker) = self.unanswered.remove(&id) {
                        // Who asked may have gone; the answer is then nobody's.
                        let _ = asker.send(reply);
                    }
                }
                Output::Identity(chain) => drop(self.desk.own_chain.send_replace(chain)),
                Output::Event(event) => {
                    tracing::debug!(?event, "news");
                    self.desk.news.publish(event);
                }
                Output::Stopped => self.ending = Some(Ending::Stopped),
            }
        }
    }

    fn persist(&mut self, record: Record) {
        match self.io.store.write(&record) {
            Ok(()) => self.stats.records_written += 1,
            Err(error) => {
                self.stats.record_failures += 1;
                self.stall = Some(Stall::begin(record, &error, self.clock.now()));
            }
        }
    }

    fn retry_persist(&mut self) {
        let Some(mut stall) = self.stall.take_if(|stall| stall.retry_at() <= self.clock.now()) else { return };
        match self.io.store.write(&stall.record) {
            Ok(()) => {
                self.stats.records_written += 1;
                stall.end(self.clock.now());
                self.perform_outputs();
            }
            Err(error) => {
                self.stats.record_failures += 1;
                stall.again(&error, self.clock.now());
                self.stall = Some(stall);
            }
        }
    }

    fn take_datagrams(&mut self) -> bool {
        if !self.takes_in() || !self.opens_more() {
            return false;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let node = &mut self.node;
        let full = self.io.udp.receive(&mut batch, || node.spare_train());
        // What a node that was just held or has stopped does not get is lost, as datagrams may be.
        let mut received = batch.drain();
        while let Some(Received { from, interface, train }) = received.next() {
            self.busy = full || received.len() > 0;
            if self.takes_in() {
                self.handle(Input::Datagrams { from: Underlay::Udp(from), interface, train });
            }
        }
        drop(received);
        (self.batch, self.busy) = (batch, false);
        full
    }

    fn take_frames(&mut self) -> bool {
        let mut taken = 0;
        while taken < FRAMES_BATCH && self.takes_in() {
            let Some(arrival) = self.io.tls.receive() else { return false };
            taken += 1;
            let (from, train) = (Underlay::Tls(arrival.from), Train::single(arrival.bytes));
            self.handle(Input::Datagrams { from, interface: 0, train });
        }
        taken == FRAMES_BATCH
    }

    fn take_beacons(&mut self) {
        for _ in 0..BEACONS_BATCH {
            let received = self.io.discovery.as_mut().filter(|_| self.stall.is_none()).and_then(|d| d.receive());
            let Some((from, bytes)) = received else { return };
            self.handle(Input::Beacon { from, bytes: &bytes });
        }
    }

    /// Takes what the host wants carried. The node is asked what to send only after all of it is told.
    fn take_packets(&mut self) -> bool {
        let mut packet = std::mem::take(&mut self.packet);
        let (mut taken, mut bytes, mut told) = (0, 0, 0);
        while self.takes_packets()
            && let Some(tun) = &mut self.io.tun
        {
            if taken == TUN_BATCH || bytes >= TUN_BATCH_BYTES {
                break;
            }
            match tun.try_receive(&mut packet) {
                Ok((length, offload)) => {
                    self.pass_on(&mut told);
                    told += length;
                    (taken, bytes) = (taken + 1, bytes + length);
                    self.stats.host_packets_received += 1;
                    if packet.first().is_some_and(|byte| byte >> 4 == 6) {
                        self.tell(Input::LocalPacket { bytes: &packet[..length], offload });
                    } else {
                        self.stats.host_packets_not_ipv6 += 1;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    taken += 1;
                    self.stats.host_packets_malformed += 1;
                }
                Err(error) => {
                    tracing::error!(%error, interface = tun.name(), "the interface into the mesh is gone");
                    self.io.tun = None;
                }
            }
        }
        self.packet = packet;
        let more_of_the_stack = self.take_from_stack();
        self.perform_outputs();
        more_of_the_stack || taken == TUN_BATCH || bytes >= TUN_BATCH_BYTES
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let Some(tun) = &mut self.io.tun else { return self.deliver_to_stack(delivery) };
        for (packet, pieces) in delivery.packets() {
            match tun.try_send(packet, pieces) {
                Ok(()) => self.stats.host_packets_sent += 1,
                Err(error) => {
                    self.stats.host_packets_dropped += 1;
                    if packet.offload.segments.is_some() && error.kind() == io::ErrorKind::InvalidInput {
                        self.refused_super_packet(&error);
                        return;
                    }
                }
            }
        }
    }

    /// The kernel does not take a super-packet: it gets none from here on. What was lost with this one is sent again by its ends.
    fn refused_super_packet(&mut self, error: &io::Error) {
        let Some(tun) = &mut self.io.tun else { return };
        tracing::warn!(%error, interface = tun.name(), "the kernel refused a super-packet; going on without");
        tun.refuse_super_packets();
        self.stats.super_packets_refused += 1;
        let offload = tun.offload();
        self.tell(Input::HostInterface(offload));
    }

    fn handle_timeout(&mut self) {
        let due = self.node.poll_timeout().is_some_and(|deadline| deadline <= self.clock.now());
        if due && self.takes_in() {
            self.stats.timeouts += 1;
            self.handle(Input::Timeout);
        }
    }

    /// Tells the node which addresses the kernel could not reach; each only so often, because what the node then sends may fail as well.
    fn report_unreachable(&mut self) {
        for (to, len) in self.io.udp.take_too_big() {
            self.handle(Input::DatagramTooBig { to, len });
        }
        let now = self.clock.now();
        let by_udp = self.io.udp.take_unreachable().into_iter();
        let by_udp = by_udp.map(|to| (Underlay::Udp(to), "the network says that it cannot be reached".to_owned()));
        let by_tls = self.io.tls.take_failures().into_iter().map(|(to, reason)| (Underlay::Tls(to), reason));
        for (to, reason) in by_udp.chain(by_tls).collect::<Vec<_>>() {
            if self.reported_unreachable.get(&to).is_some_and(|last| now.since(*last) < UNREACHABLE_INTERVAL) {
                continue;
            }
            if self.reported_unreachable.len() >= UNREACHABLE_MAX {
                self.reported_unreachable.retain(|_, last| now.since(*last) < UNREACHABLE_INTERVAL);
            }
            if self.reported_unreachable.len() < UNREACHABLE_MAX && self.takes_in() {
                self.reported_unreachable.insert(to, now);
                self.stats.unreachable_hints += 1;
                self.handle(Input::SendFailed { to, reason: &reason });
            }
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Snapshot(asker) => {
                let _ = asker.send(self.snapshot());
            }
            Request::Command(command, asker) => {
                let refusal = self.refusal(&command);
                if let Some(reason) = refusal {
                    let _ = asker.send(Reply::Refused { reason });
                    return;
                }
                if command == Command::Shutdown {
                    self.stop_by.get_or_insert(self.clock.now() + STOP_DEADLINE);
                }
                let id = self.take_command_id();
                self.unanswered.insert(id, asker);
                self.handle(Input::Command { id, command });
            }
            // What the authority says is taken also by a node that is held: it has promised to listen, and cannot be told twice.
            Request::AuthorityAnswer(ticket, answer) => self.handle(Input::AuthorityAnswer { ticket, answer }),
            Request::Joined(node) => self.handle(Input::Joined(node)),
            Request::Bundle(bundle) => self.handle(Input::Bundle(bundle)),
            Request::Distrusted(distrusted) => self.handle(Input::Distrusted(distrusted)),
            Request::Recovered(recovered) => self.handle(Input::Recovered(recovered)),
            Request::WorkloadApi(news) => self.handle(Input::WorkloadApi(news)),
            Request::AskAuthority(body, asker) => {
                if self.asks.len() >= UNANSWERED_MAX {
                    let _ = asker.send(Err(format!("{UNANSWERED_MAX} questions are on their way already")));
                    return;
                }
                let id = self.next_ask;
                self.next_ask += 1;
                self.asks.insert(id, asker);
                self.handle(Input::AskAuthority { id, body: &body });
            }
        }
    }

    /// To the authority, which answers when it can; if it has too much to do, it has answered no.
    fn pass_to_authority(&mut self, ticket: Ticket, request: AuthorityRequest) {
        use mpsc::error::TrySendError::{Closed, Full};
        let refused = match &self.io.authority {
            Some(authority) => match authority.try_send((ticket, request)) {
                Ok(()) => return,
                Err(Full((_, request))) => request.refuse("busy", "the authority has too much to do: try again"),
                Err(Closed((_, request))) => request.refuse("stopped", "the authority of this host has stopped"),
            },
            None => request.refuse("no_authority", "there is no authority on this host"),
        };
        self.tell(Input::AuthorityAnswer { ticket, answer: refused });
    }

    fn refusal(&mut self, command: &Command) -> Option<String> {
        if let Some(stall) = self.stall.as_ref().filter(|_| *command != Command::Shutdown) {
            return Some(stall.reason());
        }
        if self.unanswered.len() >= UNANSWERED_MAX {
            self.unanswered.retain(|_, asker| !asker.is_closed());
        }
        (self.unanswered.len() >= UNANSWERED_MAX)
            .then(|| format!("{UNANSWERED_MAX} commands are waiting for their answers already; try again"))
    }

    fn snapshot(&self) -> Snapshot {
        let (at, wall) = (self.clock.now(), self.clock.wall());
        let mut view = self.node.view(at, wall);
        if let Some(stall) = &self.stall {
            view.status.ready = false;
            view.status.not_ready_because = Some(stall.reason());
        }
        let workers = self.workers.as_ref().map(Workers::stats).unwrap_or_default();
        let runtime = LoopStats {
            workers,
            host_packets_sent: self.stats.host_packets_sent + workers.host_packets_sent,
            host_packets_dropped: self.stats.host_packets_dropped + workers.host_packets_dropped,
            udp: self.io.udp.stats(),
            tls: self.io.tls.stats(),
            discovery: self.io.discovery.as_ref().map(DiscoverySockets::stats).unwrap_or_default(),
            events_readers: self.desk.news.readers() as u64,
            stalled: self.stall.is_some(),
            has_interface: self.io.tun.is_some(),
            netstack: self.io.netstack.as_ref().map(HostPort::stats),
            ..self.stats
        };
        Snapshot { at, wall, view, runtime }
    }

    fn stop(&mut self) {
        if self.stop_by.is_some() {
            self.ending.get_or_insert(Ending::Abandoned);
            return;
        }
        self.stop_by = Some(self.clock.now() + STOP_DEADLINE);
        let id = self.take_command_id();
        self.handle(Input::Command { id, command: Command::Shutdown });
    }

    fn take_command_id(&mut self) -> u64 {
        let id = self.next_command;
        self.next_command += 1;
        id
    }
}
