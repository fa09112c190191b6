//! Which region's identity service to use: one at a time, the preferred one while it is well.
//!
//! A *region* is a place to get identities from (the Workload API of a SPIRE agent) with a health check of its own. Each is
//! checked every `interval`, at a phase that differs between nodes; the outcomes of real calls count as well.
//!
//! ```text
//!            3 consecutive failures of the active region
//!   primary ────────────────────────────────────────────▶ best of the others that answers
//!           ◀────────────────────────────────────────────
//!            2 of its last 3 checks good, the last among them, it is at least as well as the
//!            active one, and both have been left alone long enough (dwell, hold-down)
//! ```
//!
//! Nobody answers: stay, and say so ([`RegionEvent::AllDown`]). What is cached is served all the while; this machine only
//! chooses whom to ask next.
//!
//! A region may answer every check and yet be of no use: an agent that has lost its server renews nothing. Whoever holds its SVIDs
//! says so ([`RegionFailover::handle_stale`]), and its good checks count as failed until it renews again.
//!
//! # Why it does not flap
//!
//! Leaving a region takes several failures in a row; coming back takes several good checks *and* time. A region that was
//! come back to and failed again is held down for twice as long as the time before, up to 32 dwells. Failures of calls count
//! at most once per [`FailoverConfig::passive_spacing`], so that a burst of calls is not a verdict.

mod config;
mod mistakes;
mod probe;
mod state;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_model::{Entropy, Instant};

pub use config::{
    FailoverConfig, FailoverSettings, HealthUrl, REGION_NAME_LEN_MAX, REGIONS_MAX, Region, RegionEndpoint,
    RegionSettings, Scheme,
};
pub use mistakes::{RegionMistake, RegionMistakes};
pub use probe::{CheckFailure, CheckOutcome, HealthAnswer, RpcOutcome};
use state::RegionState;
pub use view::{RegionHealth, RegionView, RegionsStatus, RegionsView};

/// News that nobody has fetched: the oldest go first beyond this many.
const EVENTS_MAX: usize = 64;
/// A region's hold-down doubles at most this many times: 32 dwells.
const RELAPSES_MAX: u32 = 5;
/// A region that stays well for this many dwells after it was come back to has earned its trust again.
const STABLE_DWELLS: u32 = 10;

/// A check that the shell has to make. Answer with [`RegionFailover::handle_check`], in time or not at all: an answer after
/// [`FailoverConfig::timeout`] counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Position of the region in the order it was configured.
    pub region: usize,
    /// To be given back with the answer.
    pub number: u64,
}

/// What an operator or a listener is told, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RegionEvent {
    /// The active region has failed too often; another one is active.
    FailedOver {
        /// The region that failed.
        from: String,
        /// The region in use from here on.
        to: String,
        /// What the last failure was.
        reason: CheckFailure,
    },
    /// A preferred region is well again and active again.
    FailedBack {
        /// The region that stood in.
        from: String,
        /// The preferred region.
        to: String,
    },
    /// A region has failed `threshold` times in a row.
    Down {
        /// Which.
        region: String,
        /// What the last failure was.
        reason: CheckFailure,
    },
    /// Two of the last three checks of a region that was down are good.
    Up {
        /// Which.
        region: String,
    },
    /// The active region has failed and nobody else answers. Serve what is cached.
    AllDown {
        /// The region that stays active.
        staying: String,
    },
    /// Somebody answers again.
    Recovered {
        /// The active region.
        active: String,
    },
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStats {
    /// Checks asked for.
    pub checks: u64,
    /// Checks that failed, those that nobody answered among them.
    pub checks_failed: u64,
    /// Failures of calls that counted.
    pub passive_failures: u64,
    /// Failures of calls that did not count, because one had counted a moment before.
    pub passive_failures_ignored: u64,
    /// Changes away from a failed region.
    pub failovers: u64,
    /// Changes back to a preferred region.
    pub failbacks: u64,
    /// Times that nobody answered.
    pub all_down: u64,
}

/// Chooses the active region. After each `handle_*`, drain [`Self::poll_check`] and [`Self::poll_event`], compare
/// [`Self::active`], and call [`Self::handle_timeout`] at [`Self::poll_timeout`].
#[derive(Debug)]
pub struct RegionFailover {
    config: FailoverConfig,
    regions: Vec<RegionState>,
    active: usize,
    active_since: Instant,
    all_down: bool,
    checks: VecDeque<Check>,
    checks_made: u64,
    events: VecDeque<RegionEvent>,
    stats: RegionStats,
}

impl RegionFailover {
    /// Starts in the region of the lowest priority number (of equals, the first), unchecked as it is. Call
    /// [`Self::handle_timeout`] right away: the first check of every region is due. `config` is a checked one, so it names at
    /// least one region.
    pub fn new(config: FailoverConfig, entropy: &mut Entropy, now: Instant) -> Self {
        let interval = u64::try_from(config.interval.as_nanos()).unwrap_or(u64::MAX);
        let regions: Vec<RegionState> = config
            .regions()
            .iter()
            .map(|region| RegionState::new(region.clone(), now, Duration::from_nanos(entropy.below(interval))))
            .collect();
        let active = (0..regions.len()).min_by_key(|index| regions[*index].region.priority).unwrap_or_default();
        Self {
            config,
            regions,
            active,
            active_since: now,
            all_down: false,
            checks: VecDeque::new(),
            checks_made: 0,
            events: VecDeque::new(),
            stats: RegionStats::default(),
        }
    }

    /// The region to use, by its position in the configuration.
    pub const fn active(&self) -> usize {
        self.active
    }

    /// The region to use.
    pub fn active_region(&self) -> &Region {
        &self.regions[self.active].region
    }

    /// A region by its position in the configuration.
    pub fn region(&self, index: usize) -> Option<&Region> {
        self.regions.get(index).map(|state| &state.region)
    }

    /// Whether the active region has failed and nobody else answers.
    pub const fn is_all_down(&self) -> bool {
        self.all_down
    }

    /// Counters since the start.
    pub const fn stats(&self) -> RegionStats {
        self.stats
    }

    /// When to call [`Self::handle_timeout`] next, and for what.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let due = |state: &RegionState| match state.in_flight {
            Some(flight) => (flight.deadline, "a check has no answer"),
            None => (state.next_check, "a check is due"),
        };
        self.regions.iter().map(due).min()
    }

    /// Gives up on checks that nobody answered and asks for those that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for index in 0..self.regions.len() {
            if self.regions[index].in_flight.is_some_and(|flight| now >= flight.deadline) {
                self.settle(index, CheckOutcome::Failed(CheckFailure::NoAnswer), now);
            }
        }
        for index in 0..self.regions.len() {
            let state = &mut self.regions[index];
            if state.in_flight.is_none() && now >= state.next_check {
                state.schedule_next(self.config.interval, now);
                self.check(index, now);
            }
        }
    }

    /// The next check to make.
    pub fn poll_check(&mut self) -> Option<Check> {
        self.checks.pop_front()
    }

    /// What a check found. An answer to a check that has been given up is ignored.
    pub fn handle_check(&mut self, check: Check, outcome: CheckOutcome, now: Instant) {
        let Some(state) = self.regions.get(check.region) else { return };
        if state.in_flight.is_some_and(|flight| flight.number == check.number) {
            self.settle(check.region, outcome.judged(self.config.timeout), now);
        }
    }

    /// Whether what `region` gave is overdue for renewal. It decides nothing at once: the next checks do.
    pub fn handle_stale(&mut self, region: usize, stale: bool) {
        if let Some(state) = self.regions.get_mut(region) {
            state.stale = stale;
        }
    }

    /// How a call to the service of `region` went. Only what shows that the service cannot be reached counts against it;
    /// being refused by it counts neither way.
    pub fn handle_rpc(&mut self, region: usize, outcome: RpcOutcome, now: Instant) {
        let spacing = self.config.passive_spacing;
        let Some(state) = self.regions.get_mut(region) else { return };
        match outcome {
            RpcOutcome::Refused => {}
            RpcOutcome::Ok { .. } if state.stale => {}
            // A good call clears the count at once, but enters the last three checks no more often than failures do.
            RpcOutcome::Ok { .. } if !state.takes_passive(spacing, now) => {
                state.consecutive_failures = 0;
                self.decide(now);
            }
            RpcOutcome::Ok { latency } => {
                let latency = latency.unwrap_or_default();
                self.record(region, CheckOutcome::Healthy { latency }, now);
            }
            RpcOutcome::Unreachable(_) if !state.takes_passive(spacing, now) => {
                self.stats.passive_failures_ignored += 1;
            }
            RpcOutcome::Unreachable(failure) => {
                self.stats.passive_failures += 1;
                self.record(region, CheckOutcome::Failed(failure), now);
            }
        }
    }

    /// The next piece of news, oldest first.
    pub fn poll_event(&mut self) -> Option<RegionEvent> {
        self.events.pop_front()
    }

    /// Everything worth showing.
    pub fn view(&self, now: Instant) -> RegionsView {
        view::of(self, now)
    }

    fn check(&mut self, index: usize, now: Instant) {
        self.checks_made += 1;
        let number = self.checks_made;
        self.regions[index].in_flight = Some(state::InFlight { number, deadline: now + self.config.timeout });
        self.stats.checks += 1;
        self.checks.push_back(Check { region: index, number });
    }

    fn settle(&mut self, index: usize, outcome: CheckOutcome, now: Instant) {
        let flight = self.regions[index].in_flight.take();
        // A check that nobody fetched is not made any more.
        self.checks.retain(|check| flight.is_none_or(|flight| flight.number != check.number));
        if matches!(outcome, CheckOutcome::Failed(_)) {
            self.stats.checks_failed += 1;
        }
        self.record(index, outcome, now);
    }

    fn record(&mut self, index: usize, outcome: CheckOutcome, now: Instant) {
        let outcome = self.regions[index].judged_by_its_deeds(outcome);
        let change = self.regions[index].record(outcome, self.config.threshold, now);
        let region = self.regions[index].region.name.clone();
        match change {
            state::Change::None => {}
            state::Change::Down(reason) => self.tell(RegionEvent::Down { region, reason }),
            state::Change::Up => self.tell(RegionEvent::Up { region }),
        }
        if index == self.active && matches!(outcome, CheckOutcome::Failed(_)) {
            self.look_at_the_others(now);
        }
        self.decide(now);
    }

    /// The active region may be about to be left: what is known about the others should be fresh by then.
    fn look_at_the_others(&mut self, now: Instant) {
        for index in 0..self.regions.len() {
            let state = &self.regions[index];
            let fresh = state.last_check.is_some_and(|at| now.since(at) < self.config.interval / 2);
            if index != self.active && state.in_flight.is_none() && !fresh {
                self.check(index, now);
            }
        }
    }

    fn decide(&mut self, now: Instant) {
        let active = &self.regions[self.active];
        match active.failure_if(self.config.threshold) {
            Some(reason) => match self.best_other() {
                Some(other) => self.fail_over(other, reason, now),
                None if self.all_down => {}
                None => {
                    self.all_down = true;
                    self.stats.all_down += 1;
                    let staying = self.regions[self.active].region.name.clone();
                    self.tell(RegionEvent::AllDown { staying });
                }
            },
            None => {
                if self.all_down {
                    self.recover();
                }
                if let Some(preferred) = self.preferred(now) {
                    self.fail_back(preferred, now);
                }
            }
        }
    }

    /// The best of the other regions whose last check was good.
    fn best_other(&self) -> Option<usize> {
        let usable = (0..self.regions.len()).filter(|index| *index != self.active && self.regions[*index].is_usable());
        usable.min_by_key(|index| self.regions[*index].rank(*index))
    }

    /// A region of a better priority than the active one that has been well for long enough.
    fn preferred(&self, now: Instant) -> Option<usize> {
        let active = &self.regions[self.active];
        if now.since(self.active_since) < self.config.dwell {
            return None;
        }
        let better = |state: &RegionState| {
            state.region.priority < active.region.priority
                && state.has_recovered()
                && state.standing() <= active.standing()
                && now >= state.held_until
        };
        (0..self.regions.len()).filter(|index| better(&self.regions[*index])).min_by_key(|i| self.regions[*i].rank(*i))
    }

    fn fail_over(&mut self, to: usize, reason: CheckFailure, now: Instant) {
        self.regions[self.active].hold_down(self.config.dwell, now);
        let from = self.switch(to, now);
        self.stats.failovers += 1;
        let to = self.regions[to].region.name.clone();
        self.tell(RegionEvent::FailedOver { from, to, reason });
        if self.all_down {
            self.recover();
        }
    }

    fn fail_back(&mut self, to: usize, now: Instant) {
        let from = self.switch(to, now);
        self.regions[to].returned = Some(now);
        self.stats.failbacks += 1;
        let to = self.regions[to].region.name.clone();
        self.tell(RegionEvent::FailedBack { from, to });
    }

    fn switch(&mut self, to: usize, now: Instant) -> String {
        let from = self.regions[self.active].region.name.clone();
        self.active = to;
        self.active_since = now;
        // Its own failures of long ago do not shorten its time.
        self.regions[to].consecutive_failures = 0;
        from
    }

    fn recover(&mut self) {
        self.all_down = false;
        let active = self.regions[self.active].region.name.clone();
        self.tell(RegionEvent::Recovered { active });
    }

    fn tell(&mut self, event: RegionEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
