//! Searching for a target nobody has announced: growing rings, each request repeated once by each node.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use x0t_model::{Instant, NodeId};

use crate::RoutingConfig;

/// The traversal time AODV assumes per hop (RFC 3561, NODE_TRAVERSAL_TIME).
const HOP_TRAVERSAL: Duration = Duration::from_millis(40);

/// One search.
#[derive(Debug)]
pub(crate) struct Seek {
    started: Instant,
    round: u8,
    pub armed: Option<Instant>,
}

/// What a search does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask as far as `ttl`, and look again after `wait`.
    Ask { ttl: u8, wait: Duration },
    /// Look again after this long.
    Wait(Duration),
    /// Not found.
    GiveUp,
}

impl Seek {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { started: now, round: 0, armed: None }
    }

    pub(crate) fn step(&mut self, config: &RoutingConfig, now: Instant) -> Step {
        let passed = now.since(self.started);
        if passed >= config.seek_timeout {
            return Step::GiveUp;
        }
        let rest = config.seek_timeout - passed;
        let rings = config.seek_rings.len() as u8;
        if self.round >= rings + config.seek_retries {
            return Step::Wait(rest);
        }
        let ttl = config.seek_rings[usize::from(self.round.min(rings - 1))];
        let repeats = u32::from(self.round.saturating_sub(rings)).min(4);
        let there_and_back = HOP_TRAVERSAL * 2 * u32::from(ttl);
        self.round += 1;
        Step::Ask { ttl, wait: (there_and_back * (1 << repeats)).min(rest) }
    }
}

/// Requests already repeated, the oldest forgotten first.
#[derive(Debug)]
pub(crate) struct RreqMemory {
    seen: BTreeSet<(NodeId, u32)>,
    order: VecDeque<(NodeId, u32)>,
    max: usize,
}

impl RreqMemory {
    pub(crate) const fn new(max: usize) -> Self {
        Self { seen: BTreeSet::new(), order: VecDeque::new(), max }
    }

    /// True the first time.
    pub(crate) fn is_new(&mut self, requester: NodeId, id: u32) -> bool {
        if !self.seen.insert((requester, id)) {
            return false;
        }
        self.order.push_back((requester, id));
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_grow_the_last_one_is_repeated_three_times_and_all_ends_after_15_seconds() {
        let config = RoutingConfig::default();
        let start = Instant::from_millis(5_000);
        let (mut seek, mut now, mut ttls) = (Seek::new(start), start, Vec::new());
        loop {
            match seek.step(&config, now) {
                Step::Ask { ttl, wait } => {
                    ttls.push(ttl);
                    now += wait;
                }
                Step::Wait(wait) => now += wait,
                Step::GiveUp => break,
            }
        }
        assert_eq!(ttls, [2, 5, 10, 32, 32, 32, 32]);
        assert_eq!(now.since(start), Duration::from_secs(15));
    }

    #[test]
    fn a_request_is_new_once_and_memory_is_bounded() {
        let mut memory = RreqMemory::new(2);
        let node = |byte| NodeId::from_bytes([byte; 16]);
        assert!(memory.is_new(node(1), 7) && !memory.is_new(node(1), 7));
        assert!(memory.is_new(node(2), 7) && memory.is_new(node(3), 7));
        assert!(memory.is_new(node(1), 7), "forgotten, so new again");
        assert_eq!(memory.seen.len(), 2);
    }
}
