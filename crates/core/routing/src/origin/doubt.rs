//! What this node's own measurements hold against one neighbour's way to one origin. Nobody else is told: a neighbour cannot be
//! slandered, and whoever drops packets drives away only the traffic it drops.

use std::time::Duration;

use x0t_model::{Instant, Metric};

/// A demotion fades by one doubling in this time.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// The most doublings. 256 times a millisecond is longer than any way on this planet.
const LEVEL_MAX: u8 = 8;
/// A way that was demoted this recently is demoted further each time: it had its second chance.
const MEMORY: Duration = Duration::from_secs(600);

/// Suspicion is free and taken back by one packet; a demotion has to be lived down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    /// Nothing seems to arrive by it: the last choice among usable ways.
    pub suspect: bool,
    /// Doublings of its cost when it was last demoted.
    level: u8,
    /// How often in a row.
    demotions: u8,
    demoted_at: Instant,
}

impl Doubt {
    /// Its cost doubles `steps` times, and once more for each demotion that is remembered.
    pub(crate) fn demote(&mut self, steps: u8, now: Instant) {
        if now.since(self.demoted_at) >= MEMORY {
            self.demotions = 0;
        }
        self.level = self.level_at(now).saturating_add(steps).saturating_add(self.demotions).min(LEVEL_MAX);
        self.demotions = self.demotions.saturating_add(1);
        self.demoted_at = now;
    }

    /// How many doublings are left.
    pub(crate) fn level_at(&self, now: Instant) -> u8 {
        let faded = now.since(self.demoted_at).as_millis() / HALF_LIFE.as_millis();
        self.level.saturating_sub(u8::try_from(faded).unwrap_or(u8::MAX))
    }

    /// When the next doubling fades.
    pub(crate) fn fades_at(&self, now: Instant) -> Option<Instant> {
        let left = self.level_at(now);
        (left > 0).then(|| self.demoted_at + HALF_LIFE * u32::from(self.level - left + 1))
    }
}

/// What a way of this cost counts as after so many doublings.
pub(crate) fn weigh(cost: Metric, level: u8) -> Metric {
    if !cost.is_finite() {
        return cost;
    }
    let doubled = u64::from(cost.as_micros()) << level.min(LEVEL_MAX);
    Metric::from_micros(u32::try_from(doubled).unwrap_or(u32::MAX - 1).min(u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_demotion_doubles_the_cost_and_halves_every_minute() {
        let mut doubt = Doubt::default();
        assert_eq!((doubt.level_at(at(1_000)), doubt.fades_at(at(1_000))), (0, None));
        doubt.demote(2, at(1_000));
        assert_eq!(weigh(Metric::from_micros(500), doubt.level_at(at(1_059))), Metric::from_micros(2_000));
        assert_eq!(doubt.fades_at(at(1_059)), Some(at(1_060)));
        assert_eq!((doubt.level_at(at(1_060)), doubt.fades_at(at(1_060))), (1, Some(at(1_120))));
        assert_eq!((doubt.level_at(at(1_120)), doubt.fades_at(at(1_120))), (0, None));
    }

    #[test]
    fn who_is_demoted_again_stays_away_longer_until_it_is_forgotten() {
        let mut doubt = Doubt::default();
        let mut now = 1_000;
        for level in [1, 2, 3, 4] {
            doubt.demote(1, at(now));
            assert_eq!(doubt.level_at(at(now)), level);
            now += 60 * u64::from(level);
            assert_eq!(doubt.level_at(at(now)), 0);
        }
        doubt.demote(1, at(now + 600));
        assert_eq!(doubt.level_at(at(now + 600)), 1);
    }

    #[test]
    fn no_number_of_demotions_makes_a_way_impassable_or_a_number_overflow() {
        let mut doubt = Doubt::default();
        for _ in 0..300 {
            doubt.demote(u8::MAX, at(1));
        }
        assert_eq!(doubt.level_at(at(1)), LEVEL_MAX);
        assert!(weigh(Metric::from_micros(u32::MAX - 1), LEVEL_MAX).is_finite());
        assert!(!weigh(Metric::INFINITE, 1).is_finite());
    }
}
