//! Threads that work for the event loop: they seal and send, open, and hand packets to the host.
//!
//! ```text
//!  event loop ── jobs, at most 16 wait for each ──►  worker 0 ──► UDP socket, interface
//!  (owns the node)                              ──►  worker 1 ──► UDP socket, interface
//!             ◄── buffers, opened trains ───────────────┘
//! ```
//!
//! All that a flow sends, and all that is handed to the host of it, is the job of one worker, which does its jobs in order. Nothing else
//! is shared: a job is a value that holds all it takes ([`x0t_node::Unsealed`], [`x0t_node::Opening`]). A worker may wait for the kernel; the event loop
//! then finds its queue full and leaves what comes next in the node's own fair queues.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::Waker;
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};
use x0t_node::assignments::{Assignments, QUEUE_MAX, worker_of};
use x0t_node::{Delivery, HostPacket, Opening, Train, Unsealed};

use crate::tun::TunWriter;
use crate::udp::UdpSender;

/// More than so many threads are no use to one event loop.
pub const WORKERS_MAX: usize = 16;
/// Trains that may be out to be opened: as many as two reads of the socket bring.
const OPENINGS_MAX: usize = 32;

/// What a worker does.
#[derive(Debug)]
pub enum Job {
    /// Sends what is sealed.
    Send(std::net::SocketAddr, Train),
    /// Seals and sends.
    Seal(std::net::SocketAddr, Unsealed),
    /// Opens.
    Open(Box<Opening>),
    /// Hands to the host.
    Deliver(Delivery),
    /// Hands to the host those packets whose flows are the worker's own. Others do the rest.
    Share(Arc<Delivery>),
}

impl Job {
    /// How many packets it sends.
    const fn packets(&self) -> usize {
        match self {
            Self::Send(_, train) => train.count(),
            Self::Seal(_, unsealed) => unsealed.count(),
            Self::Open(_) | Self::Deliver(_) | Self::Share(_) => 0,
        }
    }
}

/// What is left of a job.
enum Done {
    Sent(Train),
    Opened(Box<Opening>),
    Delivered(Delivery),
    Shared(Arc<Delivery>),
}

/// Buffers that can be used again.
#[derive(Debug)]
pub enum Spent {
    /// One that was sent.
    Train(Train),
    /// One that the host has.
    Delivery(Delivery),
}

/// What workers have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// How many there are.
    pub workers: u64,
    /// Jobs they have done.
    pub jobs: u64,
    /// Trains that did not seal.
    pub trains_unsealable: u64,
    /// Packets they have handed to the host.
    pub host_packets_sent: u64,
    /// Packets that the host did not take.
    pub host_packets_dropped: u64,
}

/// Counted by the workers, read by the event loop.
#[derive(Debug, Default)]
struct Counters {
    trains_unsealable: AtomicU64,
    host_packets_sent: AtomicU64,
    host_packets_dropped: AtomicU64,
}

/// The threads, and what they have been given.
pub struct Workers {
    given: Assignments,
    queues: Vec<SyncSender<Job>>,
    done: Receiver<(usize, Done)>,
    /// Opened, and not taken yet.
    opened: VecDeque<Box<Opening>>,
    /// Trains that are out to be opened.
    openings: usize,
    /// What the event loop is about to sleep until: one of the three below.
    awaited: Arc<AtomicU8>,
    counters: Arc<Counters>,
    jobs: u64,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({})", self.queues.len())
    }
}

/// The event loop is at work, or sleeps until something else happens.
const NOTHING: u8 = 0;
/// It sleeps until a train has been opened.
const OPENED: u8 = 1;
/// It sleeps until any job is done.
const ANYTHING: u8 = 2;

/// A worker is gone: it has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker of the event loop is gone")]
pub struct Gone;

impl Workers {
    /// Starts `count` threads, up to [`WORKERS_MAX`]. `waker` wakes the event loop.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn start(count: usize, udp: &UdpSender, tun: Option<&TunWriter>, waker: &Waker) -> io::Result<Self> {
        let count = count.clamp(1, WORKERS_MAX);
        // Everything that is under way has room here, so no worker ever waits for the event loop.
        let (done_sender, done) = sync_channel(count * (QUEUE_MAX + 1));
        let (awaited, counters) = (Arc::new(AtomicU8::new(NOTHING)), Arc::new(Counters::default()));
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (sender, jobs) = sync_channel(QUEUE_MAX);
            let worker = Worker {
                number,
                count,
                udp: udp.clone(),
                tun: tun.cloned(),
                done: done_sender.clone(),
                awaited: Arc::clone(&awaited),
                waker: waker.clone(),
                counters: Arc::clone(&counters),
            };
            let name = format!("x0t-work-{number}");
            threads.push(thread::Builder::new().name(name).spawn(move || worker.run(&jobs))?);
            queues.push(sender);
        }
        let given = Assignments::new(count);
        Ok(Self { given, queues, done, opened: VecDeque::new(), openings: 0, awaited, counters, jobs: 0, threads })
    }

    /// Who is responsible for a flow.
    pub fn worker_of(&self, flow: u32) -> usize {
        self.given.worker_of(flow)
    }

    /// Those who are responsible for the flows of a delivery, as bits.
    pub fn workers_of(&self, delivery: &Delivery) -> u32 {
        delivery.packets().fold(0, |workers, (packet, _)| workers | 1 << self.worker_of(delivery.flow(packet)))
    }

    /// Who has least to do.
    pub fn idlest(&self) -> usize {
        self.given.idlest()
    }

    /// Whether a worker has nothing to do.
    pub fn is_idle(&self, worker: usize) -> bool {
        self.given.is_idle(worker)
    }

    /// Whether each can be given one more job.
    pub fn has_room(&self) -> bool {
        self.given.has_room()
    }

    /// Whether more trains may be given away to be opened.
    pub const fn opens_more(&self) -> bool {
        self.openings < OPENINGS_MAX
    }

    /// Gives a job to a worker. Ask [`Self::has_room`] before.
    ///
    /// # Errors
    /// If it is gone. The job is lost.
    pub fn give(&mut self, worker: usize, job: Job) -> Result<(), Gone> {
        let (packets, opens) = (job.packets(), matches!(job, Job::Open(_)));
        let queue = self.queues.get(worker).ok_or(Gone)?;
        queue.try_send(job).map_err(|_| Gone)?;
        self.given.give(worker, packets);
        self.openings += usize::from(opens);
        self.jobs += 1;
        Ok(())
    }

    /// Takes note of what is done. Buffers go to `spent`, opened trains are kept for [`Self::next_opened`].
    pub fn collect(&mut self, mut spent: impl FnMut(Spent)) {
        while let Ok((worker, done)) = self.done.try_recv() {
            self.given.done(worker, 1);
            match done {
                Done::Sent(train) => spent(Spent::Train(train)),
                Done::Delivered(delivery) => spent(Spent::Delivery(delivery)),
                // Whoever is the last to let go brings it home.
                Done::Shared(delivery) => {
                    if let Some(delivery) = Arc::into_inner(delivery) {
                        spent(Spent::Delivery(delivery));
                    }
                }
                Done::Opened(opening) => {
                    self.openings -= 1;
                    self.opened.push_back(opening);
                }
            }
        }
    }

    /// Whether trains are out to be opened, or have come back and were not taken yet.
    pub fn has_openings(&self) -> bool {
        self.openings > 0 || !self.opened.is_empty()
    }

    /// Whether trains were opened that nobody has taken yet.
    pub fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// A train that was opened.
    pub fn next_opened(&mut self) -> Option<Box<Opening>> {
        self.opened.pop_front()
    }

    /// Before the event loop sleeps: has it woken by the next train that is opened if one is out, and by any job that is done if there
    /// is no room. False if there is nothing that it would be woken for. Collect after it: what was done before wakes nobody.
    pub fn wake(&self) -> bool {
        let awaited = match (self.has_room(), self.openings) {
            (false, _) => ANYTHING,
            (true, 0) => NOTHING,
            (true, _) => OPENED,
        };
        self.awaited.store(awaited, Ordering::SeqCst);
        awaited != NOTHING
    }

    /// What was counted.
    pub fn stats(&self) -> WorkerStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            workers: self.queues.len() as u64,
            jobs: self.jobs,
            trains_unsealable: count(&self.counters.trains_unsealable),
            host_packets_sent: count(&self.counters.host_packets_sent),
            host_packets_dropped: count(&self.counters.host_packets_dropped),
        }
    }

    /// Waits until all that was given is done, which is as long as the kernel takes, within bounds.
    pub fn finish(self) {
        let Self { queues, done, threads, .. } = self;
        drop(queues);
        for thread in threads {
            // Its panic has been told where it happened.
            let _ = thread.join();
        }
        drop(done);
    }
}

struct Worker {
    number: usize,
    count: usize,
    udp: UdpSender,
    tun: Option<TunWriter>,
    done: SyncSender<(usize, Done)>,
    awaited: Arc<AtomicU8>,
    waker: Waker,
    counters: Arc<Counters>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let done = self.work(job);
            let opened = matches!(done, Done::Opened(_));
            if self.done.send((self.number, done)).is_err() {
                return;
            }
            let least = if opened { OPENED } else { ANYTHING };
            if self.awaited.load(Ordering::SeqCst) >= least {
                self.awaited.store(NOTHING, Ordering::SeqCst);
                self.waker.wake_by_ref();
            }
        }
    }

    fn work(&self, job: Job) -> Done {
        match job {
            Job::Send(to, train) => Done::Sent(self.udp.send(to, train)),
            Job::Seal(to, unsealed) => match unsealed.seal() {
                Ok(train) => Done::Sent(self.udp.send(to, train)),
                Err(unsealable) => {
                    self.counters.trains_unsealable.fetch_add(1, Ordering::Relaxed);
                    Done::Sent(unsealable.0)
                }
            },
            Job::Open(mut opening) => {
                opening.open();
                Done::Opened(opening)
            }
            Job::Deliver(delivery) => {
                self.deliver(&delivery, |_| true);
                Done::Delivered(delivery)
            }
            Job::Share(delivery) => {
                self.deliver(&delivery, |packet| worker_of(delivery.flow(packet), self.count) == self.number);
                Done::Shared(delivery)
            }
        }
    }

    fn deliver(&self, delivery: &Delivery, is_mine: impl Fn(&HostPacket) -> bool) {
        for (packet, pieces) in delivery.packets().filter(|(packet, _)| is_mine(packet)) {
            let sent = self.tun.as_ref().is_some_and(|tun| tun.try_send(packet, pieces).is_ok());
            let counter = if sent { &self.counters.host_packets_sent } else { &self.counters.host_packets_dropped };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
