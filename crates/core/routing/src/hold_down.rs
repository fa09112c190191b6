//! A link that died and came back is not trusted at once, and less each time.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::{Instant, NodeId};

/// Calm for this many longest holds, and a peer's flaps are forgotten.
const CALM_HOLDS: u32 = 2;

#[derive(Debug)]
struct Flaps {
    hold: Duration,
    died_at: Instant,
}

/// Remembers flaps by peer, because a link that comes back may come back as another link.
#[derive(Debug)]
pub(crate) struct HoldDown {
    flaps: BTreeMap<NodeId, Flaps>,
    shortest: Duration,
    longest: Duration,
    peers_max: usize,
}

impl HoldDown {
    pub(crate) const fn new((shortest, longest): (Duration, Duration), peers_max: usize) -> Self {
        Self { flaps: BTreeMap::new(), shortest, longest, peers_max }
    }

    /// A link to `peer` was declared dead: the next hold is twice the last one.
    pub(crate) fn died(&mut self, peer: NodeId, now: Instant) {
        let calm = self.longest * CALM_HOLDS;
        self.flaps.retain(|_, flaps| now.since(flaps.died_at) < calm);
        let hold = self.flaps.get(&peer).map_or(self.shortest, |flaps| (flaps.hold * 2).min(self.longest));
        if self.flaps.len() < self.peers_max || self.flaps.contains_key(&peer) {
            self.flaps.insert(peer, Flaps { hold, died_at: now });
        }
    }

    /// `peer` is back: until when it is the last choice.
    pub(crate) fn held_until(&self, peer: NodeId, now: Instant) -> Option<Instant> {
        let flaps = self.flaps.get(&peer).filter(|flaps| now.since(flaps.died_at) < self.longest * CALM_HOLDS)?;
        Some(now + flaps.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_double_with_every_flap_up_to_the_longest_and_are_forgotten_in_calm() {
        let (peer, other) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let second = Duration::from_secs(1);
        let mut hold_down = HoldDown::new((second, second * 60), 8);
        let mut now = Instant::from_millis(1);
        assert_eq!(hold_down.held_until(peer, now), None, "a link that never died is not held");
        for hold in [1, 2, 4, 8, 16, 32, 60, 60] {
            hold_down.died(peer, now);
            assert_eq!(hold_down.held_until(peer, now), Some(now + second * hold));
            now += second;
        }
        assert_eq!(hold_down.held_until(other, now), None);
        now += second * 120;
        assert_eq!(hold_down.held_until(peer, now), None);
        hold_down.died(peer, now);
        assert_eq!(hold_down.held_until(peer, now), Some(now + second));
    }

    #[test]
    fn memory_is_bounded() {
        let mut hold_down = HoldDown::new((Duration::from_secs(1), Duration::from_secs(60)), 2);
        for byte in 0..9 {
            hold_down.died(NodeId::from_bytes([byte; 16]), Instant::ZERO);
        }
        assert_eq!(hold_down.flaps.len(), 2);
    }
}
