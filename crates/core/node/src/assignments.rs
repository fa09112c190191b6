//! Who does which job: what keeps the order of a flow, and keeps what is under way within bounds.
//!
//! A worker does its jobs one after the other, and all that a flow sends, or that is handed to the host of it, goes to the same one.
//! So a flow keeps its order without anybody waiting for anybody.

use std::collections::VecDeque;

/// Jobs that wait for one worker.
pub const QUEUE_MAX: usize = 16;
/// Packets that may be under way to the kernel from the oldest that is: what can overtake a packet of a session at most, on top of what
/// ways do. A sixteenth of the replay window, and half of what one receipt speaks of.
pub const OVERTAKING_MAX: u64 = 512;

/// What has been given to whom.
#[derive(Debug)]
pub struct Assignments {
    workers: Vec<Worker>,
    /// Packets given out to be sent, all told.
    sent: u64,
}

#[derive(Debug, Default)]
struct Worker {
    /// For each job that is not done, [`Assignments::sent`] when it was given out; none if it sends nothing.
    jobs: VecDeque<Option<u64>>,
}

impl Assignments {
    /// Nothing is given to any of so many workers, of whom there is at least one.
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers.max(1)).map(|_| Worker::default()).collect(), sent: 0 }
    }

    /// Who is responsible for a flow.
    pub fn worker_of(&self, flow: u32) -> usize {
        worker_of(flow, self.workers.len())
    }

    /// Who has least to do.
    pub fn idlest(&self) -> usize {
        let jobs = self.workers.iter().map(|worker| worker.jobs.len()).enumerate();
        jobs.min_by_key(|(_, jobs)| *jobs).map_or(0, |(worker, _)| worker)
    }

    /// Whether a worker has nothing to do, so that nothing is overtaken by what is done without it.
    pub fn is_idle(&self, worker: usize) -> bool {
        self.workers.get(worker).is_none_or(|worker| worker.jobs.is_empty())
    }

    /// Whether any worker can be given one more job, whatever it is.
    pub fn has_room(&self) -> bool {
        let oldest = self.workers.iter().filter_map(|worker| worker.jobs.iter().flatten().next()).min();
        let overtaking = oldest.map_or(0, |oldest| self.sent - oldest);
        overtaking < OVERTAKING_MAX && self.workers.iter().all(|worker| worker.jobs.len() < QUEUE_MAX)
    }

    /// A worker is given a job that sends so many packets.
    pub fn give(&mut self, worker: usize, packets: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.jobs.push_back((packets > 0).then_some(self.sent));
            self.sent += packets as u64;
        }
    }

    /// A worker has done its next so many jobs.
    pub fn done(&mut self, worker: usize, jobs: usize) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.jobs.drain(..jobs.min(worker.jobs.len()));
        }
    }
}

/// Who of so many workers is responsible for a flow. The upper bits of the product decide: those of the hash of ports that follow each
/// other differ there too.
pub fn worker_of(flow: u32, workers: usize) -> usize {
    let spread = u64::from(flow.wrapping_mul(0x9e37_79b1));
    ((spread * workers as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_the_workers_and_each_has_one() {
        for workers in 1..=8 {
            let mut load = vec![0; workers];
            (0..8_000_u32).for_each(|flow| load[worker_of(flow.wrapping_mul(0x0100_0193), workers)] += 1);
            assert!(load.iter().all(|load| (*load as usize).abs_diff(8_000 / workers) < 800 / workers), "{load:?}");
        }
    }

    #[test]
    fn a_full_queue_and_a_packet_that_stays_behind_leave_no_room() {
        let mut given = Assignments::new(2);
        for _ in 0..QUEUE_MAX {
            assert!(given.has_room());
            given.give(1, 0);
        }
        assert!(!given.has_room() && given.is_idle(0) && given.idlest() == 0);
        given.done(1, 3);
        assert!(given.has_room());
        given.give(0, 1);
        for _ in 0..8 {
            given.give(1, 64);
            given.done(1, QUEUE_MAX);
        }
        assert!(!given.has_room(), "512 packets have been sent since the one that worker 0 still has");
        given.done(0, 1);
        assert!(given.has_room());
    }
}
