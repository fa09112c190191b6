//! The state for a person, a command or a metric.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_model::Instant;

use super::probe::{CheckFailure, CheckOutcome};
use super::state::{RegionState, Standing};
use super::{RegionFailover, RegionStats};

/// How the whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionsStatus {
    /// The most preferred region is active and answers.
    Ok,
    /// Another region stands in, or the active one has begun to fail, or only its health check does not answer.
    Degraded,
    /// Nobody answers; what is cached is served.
    AllDown,
}

/// How one region is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionHealth {
    /// Not checked yet.
    Unknown,
    /// The last check was good.
    Healthy,
    /// Reachable, but the health check that is configured is not there.
    Degraded,
    /// The last check failed, not often enough to count as down.
    Failing,
    /// Failed as often as the threshold says and has not recovered since.
    Down,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionView {
    /// Its name.
    pub name: String,
    /// Whether it is the one in use.
    pub active: bool,
    /// How it is doing.
    pub health: RegionHealth,
    /// Lower is preferred.
    pub priority: u16,
    /// Its Workload API.
    pub endpoint: String,
    /// Its health check.
    pub health_url: Option<String>,
    /// Smoothed time of a good check, in milliseconds.
    pub latency_ms: Option<f64>,
    /// The last three outcomes, newest first: good or not.
    pub last_checks: Vec<bool>,
    /// How long ago the last outcome came in, in milliseconds.
    pub last_check_age_ms: Option<u64>,
    /// Failures since the last good check.
    pub consecutive_failures: u32,
    /// What the last failure was, however long ago.
    pub last_failure: Option<CheckFailure>,
    /// It is not come back to for so long, in milliseconds; zero if it is not held down.
    pub held_for_ms: u64,
}

/// All regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionsView {
    /// How the whole is doing.
    pub status: RegionsStatus,
    /// The region in use.
    pub active: String,
    /// For how long, in milliseconds.
    pub active_for_ms: u64,
    /// In the order of the configuration.
    pub regions: Vec<RegionView>,
    /// Counters since the start.
    pub stats: RegionStats,
}

pub(super) fn of(failover: &RegionFailover, now: Instant) -> RegionsView {
    let active = &failover.regions[failover.active];
    let preferred = failover.regions.iter().all(|other| active.region.priority <= other.region.priority);
    let well = preferred && !active.down && matches!(active.standing(), Standing::Healthy | Standing::Unknown);
    let status = match (failover.all_down, well) {
        (true, _) => RegionsStatus::AllDown,
        (false, true) => RegionsStatus::Ok,
        (false, false) => RegionsStatus::Degraded,
    };
    let regions = failover.regions.iter().enumerate();
    RegionsView {
        status,
        active: active.region.name.clone(),
        active_for_ms: millis(now.since(failover.active_since)),
        regions: regions.map(|(index, state)| region(state, index == failover.active, now)).collect(),
        stats: failover.stats,
    }
}

fn region(state: &RegionState, active: bool, now: Instant) -> RegionView {
    let health = match (state.down, state.standing()) {
        (true, _) => RegionHealth::Down,
        (false, Standing::Healthy) => RegionHealth::Healthy,
        (false, Standing::Degraded) => RegionHealth::Degraded,
        (false, Standing::Unknown) => RegionHealth::Unknown,
        (false, Standing::Failing) => RegionHealth::Failing,
    };
    RegionView {
        name: state.region.name.clone(),
        active,
        health,
        priority: state.region.priority,
        endpoint: state.region.endpoint.to_string(),
        health_url: state.region.health.as_ref().map(ToString::to_string),
        latency_ms: state.latency.map(|latency| (latency.as_secs_f64() * 1e5).round() / 100.0),
        last_checks: state.last.iter().map(|outcome| !matches!(outcome, CheckOutcome::Failed(_))).collect(),
        last_check_age_ms: state.last_check.map(|at| millis(now.since(at))),
        consecutive_failures: state.consecutive_failures,
        last_failure: state.last_failure,
        held_for_ms: millis(state.held_until.since(now)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
