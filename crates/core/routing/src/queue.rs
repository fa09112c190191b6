//! A queue in front of each neighbour that no flow can fill for the others.
//!
//! Three classes: control goes first, always; interactive goes before bulk, but yields one turn in nine so that bulk never
//! starves. Within a class flows take turns by bytes (deficit round robin, Shreedhar and Varghese 1995). A packet that
//! waited 25 ms is worth less than the place it takes: it is dropped if a younger one of its flow waits behind it, so an
//! overloaded link has 25 ms of delay and not seconds (control is exempt). The count of packets is capped; at the cap
//! the longest flow of the least class pays, which is the one that filled it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use x0t_model::Instant;

/// How urgent a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The mesh's own messages. A late heartbeat looks like a dead link.
    Control,
    /// Small and urgent.
    Interactive,
    /// Everything else.
    Bulk,
}

const CLASSES: [Class; 3] = [Class::Control, Class::Interactive, Class::Bulk];

/// How much an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Packets in it: one, or the many of a run that travels in one piece.
    pub packets: usize,
    /// Bytes of all of them.
    pub bytes: usize,
}

/// What bounds a [`FairQueue`].
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Packets at most, all classes together: the mission's hard cap of 1,000.
    pub packets_max: usize,
    /// Longest wait.
    pub sojourn_max: Duration,
    /// Bytes a flow may send per turn: one full packet.
    pub quantum: usize,
    /// Interactive packets between two bulk turns while bulk waits.
    pub interactive_run: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { packets_max: 1_000, sojourn_max: Duration::from_millis(25), quantum: 1_500, interactive_run: 8 }
    }
}

/// What a queue counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Packets taken in.
    pub enqueued: u64,
    /// Packets given out.
    pub dequeued: u64,
    /// Packets that waited too long.
    pub dropped_sojourn: u64,
    /// Packets dropped at the cap.
    pub dropped_overflow: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    size: Size,
    since: Instant,
}

#[derive(Debug)]
struct Flow<T> {
    packets: VecDeque<Waiting<T>>,
    deficit: usize,
}

#[derive(Debug)]
struct ClassQueue<T> {
    flows: BTreeMap<u32, Flow<T>>,
    turns: VecDeque<u32>,
}

impl<T> ClassQueue<T> {
    const fn new() -> Self {
        Self { flows: BTreeMap::new(), turns: VecDeque::new() }
    }

    fn push(&mut self, flow: u32, waiting: Waiting<T>) {
        let turns = &mut self.turns;
        let entry = self.flows.entry(flow).or_insert_with(|| {
            turns.push_back(flow);
            Flow { packets: VecDeque::new(), deficit: 0 }
        });
        entry.packets.push_back(waiting);
    }

    /// The item whose turn it is, its packets, and how many packets were dropped on the way because they had waited longer than
    /// `sojourn_max`.
    fn pop(&mut self, quantum: usize, sojourn_max: Option<Duration>, now: Instant) -> Option<(T, usize, usize)> {
        let mut dropped = 0;
        loop {
            let turn = *self.turns.front()?;
            let flow = self.flows.get_mut(&turn)?;
            while flow.packets.len() > 1
                && sojourn_max.is_some_and(|max| flow.packets.front().is_some_and(|head| now.since(head.since) > max))
            {
                dropped += flow.packets.pop_front().map_or(0, |stale| stale.size.packets);
            }
            let Size { bytes, packets } = flow.packets.front()?.size;
            if flow.deficit < bytes {
                flow.deficit += quantum.max(1);
                self.turns.rotate_left(1);
                continue;
            }
            flow.deficit -= bytes;
            let item = flow.packets.pop_front()?.item;
            if flow.packets.is_empty() {
                self.flows.remove(&turn);
                self.turns.pop_front();
            }
            return Some((item, packets, dropped));
        }
    }

    /// Drops the oldest item of the longest flow, and gives the packets in it; `None` if there is none.
    fn shed(&mut self) -> Option<usize> {
        let id = self.flows.iter().max_by_key(|(_, flow)| flow.packets.len()).map(|(id, _)| *id)?;
        let flow = self.flows.get_mut(&id)?;
        let shed = flow.packets.pop_front()?.size.packets;
        if flow.packets.is_empty() {
            self.flows.remove(&id);
            self.turns.retain(|turn| *turn != id);
        }
        Some(shed)
    }
}

/// The queue. `T` is a packet, or a run of packets of one flow; what it is does not matter here.
#[derive(Debug)]
pub struct FairQueue<T> {
    config: QueueConfig,
    classes: [ClassQueue<T>; 3],
    len: usize,
    interactive_run: u32,
    stats: QueueStats,
}

impl<T> FairQueue<T> {
    /// Empty.
    pub const fn new(config: QueueConfig) -> Self {
        let classes = [ClassQueue::new(), ClassQueue::new(), ClassQueue::new()];
        Self {
            config,
            classes,
            len: 0,
            interactive_run: 0,
            stats: QueueStats { enqueued: 0, dequeued: 0, dropped_sojourn: 0, dropped_overflow: 0 },
        }
    }

    /// Packets waiting.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What happened so far.
    pub const fn stats(&self) -> &QueueStats {
        &self.stats
    }

    /// Takes in `item` of that `size`, which belongs to `flow`. A flow keeps its order: what is interactive by itself waits behind the bulk
    /// of its own flow, or the short end of a burst would overtake it. At the cap the longest flow of the least class loses its oldest
    /// item; that may be this one's own flow.
    pub fn push(&mut self, class: Class, flow: u32, size: Size, item: T, now: Instant) {
        let overtakes = class == Class::Interactive && self.classes[Class::Bulk as usize].flows.contains_key(&flow);
        let class = if overtakes { Class::Bulk } else { class };
        self.classes[class as usize].push(flow, Waiting { item, size, since: now });
        self.len += size.packets;
        self.stats.enqueued += size.packets as u64;
        while self.len > self.config.packets_max {
            let Some(shed) = self.classes.iter_mut().rev().find_map(ClassQueue::shed) else { return };
            self.len -= shed;
            self.stats.dropped_overflow += shed as u64;
        }
    }

    /// The next item to send.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        let class = self.next_class()?;
        let sojourn_max = (class != Class::Control).then_some(self.config.sojourn_max);
        let (item, packets, dropped) = self.classes[class as usize].pop(self.config.quantum, sojourn_max, now)?;
        self.len -= packets + dropped;
        self.stats.dropped_sojourn += dropped as u64;
        self.stats.dequeued += packets as u64;
        Some(item)
    }

    fn next_class(&mut self) -> Option<Class> {
        let [control, interactive, bulk] = CLASSES.map(|class| !self.classes[class as usize].turns.is_empty());
        if control {
            return Some(Class::Control);
        }
        match (interactive, bulk) {
            (true, true) if self.interactive_run >= self.config.interactive_run => {
                self.interactive_run = 0;
                Some(Class::Bulk)
            }
            (true, waiting) => {
                self.interactive_run = if waiting { self.interactive_run + 1 } else { 0 };
                Some(Class::Interactive)
            }
            (false, true) => Some(Class::Bulk),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: usize) -> Size {
        Size { packets: 1, bytes }
    }

    fn queue() -> FairQueue<(u32, u32)> {
        FairQueue::new(QueueConfig::default())
    }

    fn drain(queue: &mut FairQueue<(u32, u32)>, now: Instant) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| queue.pop(now)).collect()
    }

    #[test]
    fn control_goes_before_everything_whenever_it_came() {
        let mut queue = queue();
        for n in 0..20 {
            queue.push(Class::Bulk, 1, one(1_000), (1, n), Instant::ZERO);
            queue.push(Class::Interactive, 2, one(1_000), (2, n), Instant::ZERO);
        }
        queue.push(Class::Control, 9, one(60), (9, 0), Instant::ZERO);
        queue.push(Class::Control, 9, one(60), (9, 1), Instant::ZERO);
        assert_eq!(drain(&mut queue, Instant::ZERO)[..2], [(9, 0), (9, 1)]);
    }

    #[test]
    fn a_short_packet_never_overtakes_its_own_flow() {
        let mut queue = queue();
        for n in 0..10 {
            let (class, bytes) = if n % 3 == 2 { (Class::Interactive, 100) } else { (Class::Bulk, 1_200) };
            queue.push(class, 1, one(bytes), (1, n), Instant::ZERO);
        }
        queue.push(Class::Interactive, 2, one(100), (2, 0), Instant::ZERO);
        let order = drain(&mut queue, Instant::ZERO);
        assert_eq!(order[0], (2, 0), "another flow's does");
        assert_eq!(order[1..], std::array::from_fn::<_, 10, _>(|n| (1, n as u32)));
    }

    #[test]
    fn interactive_goes_before_bulk_but_never_starves_it() {
        let mut queue = queue();
        for n in 0..80 {
            queue.push(Class::Bulk, 1, one(1_000), (1, n), Instant::ZERO);
            queue.push(Class::Interactive, 2, one(1_000), (2, n), Instant::ZERO);
        }
        let out = drain(&mut queue, Instant::ZERO);
        assert_eq!(out[..80].iter().filter(|(flow, _)| *flow == 1).count(), 80 / 9);
        assert_eq!(out.len(), 160);
    }

    #[test]
    fn flows_share_by_bytes_and_keep_their_order() {
        let mut queue = queue();
        for n in 0..300 {
            queue.push(Class::Bulk, 1, one(1_500), (1, n), Instant::ZERO);
        }
        for n in 0..600 {
            queue.push(Class::Bulk, 2, one(250), (2, n), Instant::ZERO);
        }
        let out = drain(&mut queue, Instant::ZERO);
        let bytes = |flow| out[..350].iter().filter(|(f, _)| *f == flow).count() * if flow == 1 { 1_500 } else { 250 };
        assert!(bytes(1).abs_diff(bytes(2)) <= 3_000, "{} against {}", bytes(1), bytes(2));
        for flow in [1, 2] {
            let numbers: Vec<u32> = out.iter().filter(|(f, _)| *f == flow).map(|(_, n)| *n).collect();
            assert!(numbers.is_sorted(), "flow {flow} was reordered");
        }
    }

    #[test]
    fn a_packet_that_waited_25_ms_gives_way_to_a_younger_one_of_its_flow() {
        let mut queue = queue();
        for n in 0..10 {
            queue.push(Class::Bulk, 1, one(1_000), (1, n), Instant::from_millis(u64::from(n) * 10));
        }
        queue.push(Class::Control, 5, one(60), (5, 0), Instant::ZERO);
        assert_eq!(drain(&mut queue, Instant::from_millis(95)), [(5, 0), (1, 7), (1, 8), (1, 9)]);
        assert_eq!(queue.stats().dropped_sojourn, 7);
        queue.push(Class::Bulk, 1, one(1_000), (1, 10), Instant::ZERO);
        assert_eq!(queue.pop(Instant::from_millis(9_000)), Some((1, 10)), "the last one is always sent");
    }

    #[test]
    fn at_the_cap_the_flow_that_filled_the_queue_pays() {
        let mut queue = queue();
        queue.push(Class::Bulk, 2, one(100), (2, 0), Instant::ZERO);
        queue.push(Class::Interactive, 3, one(100), (3, 0), Instant::ZERO);
        for n in 0..5_000 {
            queue.push(Class::Bulk, 1, one(100), (1, n), Instant::ZERO);
        }
        assert_eq!(queue.len(), 1_000);
        assert_eq!(queue.stats().dropped_overflow, 4_002);
        let out = drain(&mut queue, Instant::ZERO);
        assert!(out.contains(&(2, 0)) && out.contains(&(3, 0)) && out.contains(&(1, 4_999)) && !out.contains(&(1, 0)));
        let stats = queue.stats();
        assert_eq!(stats.enqueued, stats.dequeued + stats.dropped_overflow + stats.dropped_sojourn);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_packet_larger_than_the_quantum_waits_its_turns_and_goes() {
        let mut queue = FairQueue::new(QueueConfig { quantum: 100, ..QueueConfig::default() });
        queue.push(Class::Bulk, 1, one(64_000), (1, 0), Instant::ZERO);
        queue.push(Class::Bulk, 2, one(100), (2, 0), Instant::ZERO);
        assert_eq!(drain(&mut queue, Instant::ZERO), [(2, 0), (1, 0)]);
    }

    #[test]
    fn a_run_counts_as_the_packets_in_it() {
        let mut queue = queue();
        let run = Size { packets: 45, bytes: 60_000 };
        for n in 0..30 {
            queue.push(Class::Bulk, 1, run, (1, n), Instant::from_millis(u64::from(n)));
        }
        assert_eq!((queue.len(), queue.stats().dropped_overflow), (22 * 45, 8 * 45));
        assert_eq!(drain(&mut queue, Instant::from_millis(53))[0], (1, 28), "what waited too long went whole");
        assert_eq!((queue.len(), queue.stats().dropped_sojourn), (0, 20 * 45));
    }
}
