//! What is known about one region.

use std::time::Duration;

use x0t_model::Instant;

use super::config::Region;
use super::probe::{CheckFailure, CheckOutcome};
use super::{RELAPSES_MAX, STABLE_DWELLS};

/// So many checks are remembered.
const REMEMBERED: usize = 3;
/// So many of them have to be good, the last among them, for a region to count as recovered.
const GOOD_OF_REMEMBERED: usize = 2;

/// How well a region is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Healthy,
    Degraded,
    Unknown,
    Failing,
}

/// A check that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    pub number: u64,
    pub deadline: Instant,
}

/// What an outcome changed that is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Down(CheckFailure),
    Up,
}

#[derive(Debug)]
pub(super) struct RegionState {
    pub region: Region,
    /// The last outcomes, newest first.
    pub last: Vec<CheckOutcome>,
    pub last_check: Option<Instant>,
    pub last_failure: Option<CheckFailure>,
    pub consecutive_failures: u32,
    /// Failed `threshold` times in a row and has not recovered since.
    pub down: bool,
    pub latency: Option<Duration>,
    pub in_flight: Option<InFlight>,
    pub next_check: Instant,
    /// Checks follow the first one at this offset and then at every interval, so that nodes which start together do not
    /// check together. Taken by the first call of [`Self::schedule_next`].
    phase: Option<Duration>,
    last_passive: Option<Instant>,
    /// What it gave is overdue for renewal.
    pub stale: bool,
    /// Not come back to before this.
    pub held_until: Instant,
    /// When it was last come back to.
    pub returned: Option<Instant>,
    relapses: u32,
}

impl RegionState {
    pub fn new(region: Region, now: Instant, phase: Duration) -> Self {
        Self {
            region,
            last: Vec::with_capacity(REMEMBERED + 1),
            last_check: None,
            last_failure: None,
            consecutive_failures: 0,
            down: false,
            latency: None,
            in_flight: None,
            next_check: now,
            phase: Some(phase),
            last_passive: None,
            stale: false,
            held_until: Instant::ZERO,
            returned: None,
            relapses: 0,
        }
    }

    /// Fixed steps from the phase on: a slow answer does not stretch the cadence, and after a suspend nothing is made up for.
    pub fn schedule_next(&mut self, interval: Duration, now: Instant) {
        let step = self.phase.take().unwrap_or(interval);
        self.next_check += step;
        if self.next_check <= now {
            self.next_check = now + interval;
        }
    }

    /// Whether a call's outcome counts: one did not count a moment before.
    pub fn takes_passive(&mut self, spacing: Duration, now: Instant) -> bool {
        let takes = self.last_passive.is_none_or(|at| now.since(at) >= spacing);
        if takes {
            self.last_passive = Some(now);
        }
        takes
    }

    /// A region that does not do its work is not well, whatever it says.
    pub fn judged_by_its_deeds(&self, outcome: CheckOutcome) -> CheckOutcome {
        match outcome {
            CheckOutcome::Healthy { .. } | CheckOutcome::Degraded { .. } if self.stale => {
                CheckOutcome::Failed(CheckFailure::NotRenewing)
            }
            other => other,
        }
    }

    pub fn record(&mut self, outcome: CheckOutcome, threshold: u32, now: Instant) -> Change {
        self.last.insert(0, outcome);
        self.last.truncate(REMEMBERED);
        self.last_check = Some(now);
        match outcome {
            CheckOutcome::Healthy { latency } | CheckOutcome::Degraded { latency } => {
                self.consecutive_failures = 0;
                // A quarter of each new value: two or three checks tell a change, one outlier does not.
                // Zero is a call that measured nothing.
                if !latency.is_zero() {
                    self.latency = Some(self.latency.map_or(latency, |known| (known * 3 + latency) / 4));
                }
                if self.down && self.has_recovered() {
                    self.down = false;
                    return Change::Up;
                }
            }
            CheckOutcome::Failed(failure) => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.last_failure = Some(failure);
                if !self.down && self.consecutive_failures >= threshold {
                    self.down = true;
                    return Change::Down(failure);
                }
            }
        }
        Change::None
    }

    /// The reason to leave, once it has failed `threshold` times in a row.
    pub fn failure_if(&self, threshold: u32) -> Option<CheckFailure> {
        self.last_failure.filter(|_| self.consecutive_failures >= threshold)
    }

    pub fn standing(&self) -> Standing {
        match self.last.first() {
            None => Standing::Unknown,
            Some(CheckOutcome::Healthy { .. }) => Standing::Healthy,
            Some(CheckOutcome::Degraded { .. }) => Standing::Degraded,
            Some(CheckOutcome::Failed(_)) => Standing::Failing,
        }
    }

    /// Its last check was good.
    pub fn is_usable(&self) -> bool {
        matches!(self.standing(), Standing::Healthy | Standing::Degraded)
    }

    pub fn has_recovered(&self) -> bool {
        let good = self.last.iter().filter(|outcome| !matches!(outcome, CheckOutcome::Failed(_))).count();
        self.is_usable() && good >= GOOD_OF_REMEMBERED
    }

    /// Lower is better: steady before shaky, healthy before degraded, then what the operator prefers, then the nearer one.
    pub fn rank(&self, index: usize) -> impl Ord + use<> {
        (self.down, self.standing(), self.region.priority, self.latency, index)
    }

    /// It is being left because it failed.
    pub fn hold_down(&mut self, dwell: Duration, now: Instant) {
        let relapsed = self.returned.take().is_some_and(|at| now.since(at) < dwell.saturating_mul(STABLE_DWELLS));
        self.relapses = if relapsed { (self.relapses + 1).min(RELAPSES_MAX) } else { 0 };
        self.held_until = now + dwell.saturating_mul(1 << self.relapses);
    }
}
