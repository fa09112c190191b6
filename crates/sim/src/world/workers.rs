//! Workers of a simulated host: each does its jobs in order and takes its time, so that what one worker does falls anywhere between what
//! others do.

use std::collections::VecDeque;
use std::time::Duration;

use x0t_model::{Entropy, Instant, Underlay};
use x0t_node::assignments::Assignments;
use x0t_node::{Delivery, Input, Opening, Output, Train, Unsealed};

use super::{Happening, World};

/// A job takes up to this long, which is as long as a real one, and any shorter time.
const JOB_NANOS_MAX: u64 = 50_000;

enum Job {
    Send(Underlay, Train),
    Seal(Underlay, Unsealed),
    Open(Box<Opening>),
    Deliver(Delivery),
}

pub(super) struct Workers {
    given: Assignments,
    queues: Vec<VecDeque<Job>>,
    /// When each will have done all that it has.
    busy_until: Vec<Instant>,
    entropy: Entropy,
}

impl Workers {
    pub(super) fn new(count: usize, entropy: Entropy) -> Self {
        Self {
            given: Assignments::new(count),
            queues: (0..count).map(|_| VecDeque::new()).collect(),
            busy_until: vec![Instant::ZERO; count],
            entropy,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.given.has_room()
    }

    /// When the job will be done.
    fn give(&mut self, worker: usize, job: Job, now: Instant) -> Instant {
        let packets = match &job {
            Job::Send(_, train) => train.count(),
            Job::Seal(_, unsealed) => unsealed.count(),
            Job::Open(_) | Job::Deliver(_) => 0,
        };
        self.given.give(worker, packets);
        self.queues[worker].push_back(job);
        let takes = Duration::from_nanos(self.entropy.next_u64() % JOB_NANOS_MAX);
        let done_at = self.busy_until[worker].max(now) + takes;
        self.busy_until[worker] = done_at;
        done_at
    }

    fn take(&mut self, worker: usize) -> Option<Job> {
        let job = self.queues[worker].pop_front()?;
        self.given.done(worker, 1);
        Some(job)
    }
}

impl World {
    /// Gives what a worker can do to one; everything else comes back.
    pub(super) fn give_job(&mut self, host: usize, output: Output) -> Option<Output> {
        let (now, boots) = (self.now, self.hosts[host].boots);
        let Some(workers) = &mut self.hosts[host].workers else { return Some(output) };
        let mut jobs = Vec::new();
        match output {
            Output::Datagrams { to, flow: Some(flow), train } => {
                jobs.push((workers.given.worker_of(flow), Job::Send(to, train)));
            }
            Output::Seal { to, flow, unsealed } => {
                jobs.push((workers.given.worker_of(flow), Job::Seal(to, unsealed)));
            }
            Output::Open(opening) => jobs.push((workers.given.idlest(), Job::Open(opening))),
            // Without offloads each packet is in one piece.
            Output::LocalPackets(delivery) => jobs.extend(delivery.packets().map(|(packet, pieces)| {
                let alone = Delivery::whole(pieces.flatten().copied().collect(), None);
                (workers.given.worker_of(delivery.flow(packet)), Job::Deliver(alone))
            })),
            other => return Some(other),
        }
        for (worker, job) in jobs {
            let at = workers.give(worker, job, now);
            let what = Happening::Job { host, boots, worker };
            self.order += 1;
            self.queue.push(std::cmp::Reverse(super::Scheduled { at, order: self.order, what }));
        }
        None
    }

    pub(super) fn finish_job(&mut self, host: usize, boots: u64, worker: usize) {
        if self.hosts[host].boots != boots {
            return;
        }
        let Some(job) = self.hosts[host].workers.as_mut().and_then(|workers| workers.take(worker)) else { return };
        match job {
            Job::Send(to, train) => self.put_on_the_wire(host, to, &train),
            Job::Seal(to, unsealed) => {
                let train = unsealed.seal().expect("a train that a node laid out");
                self.put_on_the_wire(host, to, &train);
            }
            Job::Open(mut opening) => {
                opening.open();
                self.handle(host, Input::Opened(opening));
            }
            Job::Deliver(delivery) => self.hand_over(host, &delivery),
        }
        self.drain(host);
    }

    fn put_on_the_wire(&mut self, host: usize, to: Underlay, train: &Train) {
        train.datagrams().for_each(|datagram| self.transmit(host, to.address(), datagram.to_vec()));
    }

    /// The host takes what its node hands over.
    pub(super) fn hand_over(&mut self, host: usize, delivery: &Delivery) {
        for (_, pieces) in delivery.packets() {
            self.hosts[host].delivered += 1;
            if let Some(noted) = &mut self.handed_over {
                noted.push((host, pieces.flatten().copied().collect()));
            }
        }
    }
}
