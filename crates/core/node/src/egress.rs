//! What waits to be sent: one fair queue per neighbour, served in turn.
//!
//! Packets are put together to [`Train`]s here. The newest train stays open, and whatever goes the same way next is added to it
//! while it fits, so a host that sends one packet at a time still fills trains when it sends many.

use std::collections::BTreeMap;

use x0t_model::{Instant, Underlay};
use x0t_routing::LinkId;
use x0t_routing::queue::{FairQueue, QueueConfig, Size};

use x0t_overlay::SealingRun;

use crate::train::{Pool, Train};

pub use x0t_routing::queue::Class;

/// Bytes a flow may send per turn. A train is sent whole, so there is no point in counting finer.
const QUANTUM: usize = 16_384;
/// With so many packets in front, a train has to wait, and sparse ones must not keep large buffers.
const STANDING_QUEUE: usize = 64;

/// Which way packets go: over one link, in one class, as one flow, whose order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub link: LinkId,
    pub to: Underlay,
    pub class: Class,
    pub flow: u32,
}

/// Datagrams of equal size but for the last, as [`Egress::reserve`] places them.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub count: usize,
    /// Bytes of each but the last.
    pub len: usize,
    /// Bytes of the last, no more than `len`.
    pub last_len: usize,
}

/// A train that is to go, where to, and the flow that it belongs to.
pub type Departure = (Underlay, u32, Train);

#[derive(Default)]
pub struct Egress {
    queues: BTreeMap<LinkId, FairQueue<Departure>>,
    /// The train that packets are being added to.
    open: Option<(Lane, Train)>,
    /// Whose turn it was last.
    turn: Option<LinkId>,
    /// Packets in all queues.
    waiting: usize,
    /// By queues of neighbours that are gone.
    dropped_before: u64,
}

impl Egress {
    /// Room for the first packets of `run`: as many as the train that goes the same way has room for, or a new one. Gives the
    /// room, to be filled, and how many packets it is for.
    pub fn reserve(&mut self, lane: Lane, run: Run, pool: &mut Pool, now: Instant) -> (&mut [u8], usize) {
        let len = if run.count == 1 { run.last_len } else { run.len };
        let fits = self.open.as_ref().is_some_and(|(open, train)| *open == lane && train.room_for(len) > 0);
        if !fits {
            self.close(pool, now);
        }
        let (_, train) = self.open.get_or_insert_with(|| (lane, pool.take()));
        let count = train.room_for(len).min(run.count).max(1);
        let bytes = if count == run.count { (count - 1) * run.len + run.last_len } else { count * run.len };
        (train.grow(bytes, len), count)
    }

    /// Gives back the last `bytes` bytes of room.
    pub fn retract(&mut self, bytes: usize) {
        if let Some((_, train)) = &mut self.open {
            train.shrink(bytes);
        }
    }

    /// The room that was reserved last is filled, and sealed when the train leaves. `runs` are done one after the other.
    pub fn seal_later(&mut self, (len, stride): (usize, usize), runs: impl IntoIterator<Item = SealingRun>) {
        if let Some((_, train)) = &mut self.open {
            runs.into_iter().for_each(|run| train.seal_later(len, stride, run));
        }
    }

    /// A whole train goes on its way.
    pub fn push(&mut self, lane: Lane, train: Train, pool: &mut Pool, now: Instant) {
        self.close(pool, now);
        self.enqueue(lane, train, pool, now);
    }

    /// The next train: neighbours take turns, each gives its most urgent class first and its flows in turn.
    pub fn pop(&mut self, pool: &mut Pool, now: Instant) -> Option<Departure> {
        self.close(pool, now);
        if self.waiting == 0 {
            return None;
        }
        let after = self.turn.map_or(0, |LinkId(turn)| turn.saturating_add(1));
        let is_next = |(_, queue): &(&LinkId, &FairQueue<_>)| !queue.is_empty();
        let mut later = self.queues.range(LinkId(after)..);
        let next = later.find(is_next).or_else(|| self.queues.iter().find(is_next)).map(|(link, _)| *link)?;
        self.turn = Some(next);
        let queue = self.queues.get_mut(&next)?;
        let before = queue.len();
        let popped = queue.pop(now);
        self.waiting -= before - queue.len();
        popped
    }

    pub fn forget(&mut self, link: LinkId) {
        self.open.take_if(|(lane, _)| lane.link == link);
        if let Some(queue) = self.queues.remove(&link) {
            self.waiting -= queue.len();
            self.dropped_before += dropped(&queue) + queue.len() as u64;
        }
    }

    /// Packets dropped because they waited too long or there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped_before + self.queues.values().map(dropped).sum::<u64>()
    }

    fn close(&mut self, pool: &mut Pool, now: Instant) {
        if let Some((lane, train)) = self.open.take() {
            self.enqueue(lane, train, pool, now);
        }
    }

    fn enqueue(&mut self, lane: Lane, train: Train, pool: &mut Pool, now: Instant) {
        if train.is_empty() {
            return pool.give(train);
        }
        let queue = self
            .queues
            .entry(lane.link)
            .or_insert_with(|| FairQueue::new(QueueConfig { quantum: QUANTUM, ..QueueConfig::default() }));
        let before = queue.len();
        let train = if before < STANDING_QUEUE { train } else { pool.fit_to_wait(train) };
        let size = Size { packets: train.count(), bytes: train.len() };
        queue.push(lane.class, lane.flow, size, (lane.to, lane.flow, train), now);
        self.waiting = self.waiting + queue.len() - before;
    }
}

fn dropped<T>(queue: &FairQueue<T>) -> u64 {
    queue.stats().dropped_sojourn + queue.stats().dropped_overflow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(link: u32, flow: u32) -> Lane {
        Lane {
            link: LinkId(link),
            to: Underlay::Udp(std::net::SocketAddr::from(([127, 0, 0, 1], 1))),
            class: Class::Bulk,
            flow,
        }
    }

    /// Fills `run` with `byte`, in as many pieces as it takes.
    fn send(egress: &mut Egress, pool: &mut Pool, lane: Lane, mut run: Run, byte: u8) {
        while run.count > 0 {
            let (room, count) = egress.reserve(lane, run, pool, Instant::ZERO);
            room.fill(byte);
            run.count -= count;
        }
    }

    fn drain(egress: &mut Egress, pool: &mut Pool) -> Vec<(usize, usize, u8)> {
        std::iter::from_fn(|| egress.pop(pool, Instant::ZERO))
            .map(|(_, _, train)| (train.count(), train.len(), train.bytes()[0]))
            .collect()
    }

    #[test]
    fn what_goes_the_same_way_travels_together_and_a_full_train_leaves_the_rest_to_the_next() {
        let (mut egress, mut pool) = (Egress::default(), Pool::default());
        let run = Run { count: 54, len: 1384, last_len: 1384 };
        send(&mut egress, &mut pool, lane(1, 7), run, 1);
        send(&mut egress, &mut pool, lane(1, 7), Run { count: 20, last_len: 99, ..run }, 2);
        let trains = drain(&mut egress, &mut pool);
        assert_eq!(trains, [(46, 46 * 1384, 1), (28, 27 * 1384 + 99, 1)]);
        assert!(egress.pop(&mut pool, Instant::ZERO).is_none());
    }

    #[test]
    fn another_flow_or_size_begins_another_train() {
        let (mut egress, mut pool) = (Egress::default(), Pool::default());
        let one = |len| Run { count: 1, len, last_len: len };
        for (flow, len, byte) in [(1, 500, 1), (2, 500, 2), (2, 600, 3), (2, 70, 4), (2, 70, 5)] {
            send(&mut egress, &mut pool, lane(1, flow), one(len), byte);
        }
        assert_eq!(drain(&mut egress, &mut pool), [(1, 500, 1), (1, 500, 2), (2, 670, 3), (1, 70, 5)]);
    }

    #[test]
    fn neighbours_take_turns_and_one_that_is_gone_leaves_nothing() {
        let (mut egress, mut pool) = (Egress::default(), Pool::default());
        let run = Run { count: 46, len: 1400, last_len: 1400 };
        for _ in 0..2 {
            send(&mut egress, &mut pool, lane(1, 1), run, 1);
            send(&mut egress, &mut pool, lane(2, 1), run, 2);
            send(&mut egress, &mut pool, lane(3, 1), run, 3);
        }
        egress.forget(LinkId(2));
        assert_eq!(egress.dropped(), 92);
        let order: Vec<u8> = drain(&mut egress, &mut pool).into_iter().map(|(_, _, byte)| byte).collect();
        assert_eq!(order, [1, 3, 1, 3]);
    }

    #[test]
    fn what_is_taken_back_is_not_sent() {
        let (mut egress, mut pool) = (Egress::default(), Pool::default());
        let run = Run { count: 2, len: 700, last_len: 700 };
        send(&mut egress, &mut pool, lane(1, 1), run, 1);
        let (room, _) = egress.reserve(lane(1, 1), run, &mut pool, Instant::ZERO);
        let len = room.len();
        egress.retract(len);
        assert_eq!(drain(&mut egress, &mut pool), [(2, 1400, 1)]);
        egress.reserve(lane(1, 1), run, &mut pool, Instant::ZERO);
        egress.retract(1400);
        assert!(drain(&mut egress, &mut pool).is_empty());
    }
}
