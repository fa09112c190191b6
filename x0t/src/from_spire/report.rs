//! The regions of SPIRE as they are shown: to an operator, to whoever reads the news, to a metrics server.

use serde::{Deserialize, Serialize};
use x0t_identity::region_failover::{RegionEvent, RegionHealth, RegionsView};
use x0t_model::{SpiffeId, in_one_line};
use x0t_node::What;
use x0t_runtime::readings::{Reading, Value};
use x0t_workload::regions::{Given, Regions, Serving};

/// Every region, and what is served of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegionsReport {
    /// The regions, and which of them is in use.
    #[serde(flatten)]
    pub view: RegionsView,
    /// How often each is checked, in milliseconds.
    pub interval_ms: u64,
    /// Failures in a row after which one is left.
    pub threshold: u32,
    /// A check has to be answered within this time, in milliseconds.
    pub timeout_ms: u64,
    /// `live`: given by the region in use, just now. `cached`: given before. `nothing`.
    pub serving: String,
    /// The region that gave what is served.
    pub given_by: Option<String>,
    /// Whose SVIDs are served.
    pub identities: Vec<SpiffeId>,
    /// Why the region in use gives nothing at present.
    pub problem: Option<String>,
}

impl RegionsReport {
    /// As things stand.
    pub fn of(regions: &Regions, given: &Given) -> Self {
        let config = regions.config();
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let given_by = given.from.and_then(|index| config.regions().get(index));
        let svids = given.context.iter().flat_map(|context| context.svids());
        let serving = match given.serving {
            Serving::Nothing => "nothing",
            Serving::Live => "live",
            Serving::Cached => "cached",
        };
        Self {
            view: regions.view(),
            interval_ms: millis(config.interval),
            threshold: config.threshold,
            timeout_ms: millis(config.timeout),
            serving: serving.to_owned(),
            given_by: given_by.map(|region| region.name.clone()),
            identities: svids.map(|given| given.svid.spiffe_id().clone()).collect(),
            problem: given.problem.as_ref().map(|problem| in_one_line(problem)),
        }
    }
}

/// A region's news among the node's.
pub fn news(event: RegionEvent) -> What {
    let what = |change: &str, region, from, reason| What::Region { change: change.to_owned(), region, from, reason };
    match event {
        RegionEvent::FailedOver { from, to, reason } => what("failed_over", to, Some(from), Some(reason.to_string())),
        RegionEvent::FailedBack { from, to } => what("failed_back", to, Some(from), None),
        RegionEvent::Down { region, reason } => what("down", region, None, Some(reason.to_string())),
        RegionEvent::Up { region } => what("up", region, None, None),
        RegionEvent::AllDown { staying } => what("all_down", staying, None, None),
        RegionEvent::Recovered { active } => what("recovered", active, None, None),
    }
}

/// What a metrics server gets. Regions are few: their names are a bounded set of labels.
pub fn readings(view: &RegionsView) -> Vec<Reading> {
    const STATES: [(RegionHealth, &str); 5] = [
        (RegionHealth::Unknown, "unknown"),
        (RegionHealth::Healthy, "healthy"),
        (RegionHealth::Degraded, "degraded"),
        (RegionHealth::Failing, "failing"),
        (RegionHealth::Down, "down"),
    ];
    let mut readings = Vec::new();
    for region in &view.regions {
        let active = usize::from(region.active);
        let of_region = |reading: Reading| reading.with("region", region.name.clone());
        readings.push(of_region(Reading::level("spire_region_active", "1 for the region in use", active)));
        readings.extend(STATES.iter().map(|(health, word)| {
            let is_it = usize::from(region.health == *health);
            of_region(Reading::level("spire_region_state", "1 for the state that a region is in", is_it))
                .with("state", *word)
        }));
        readings.push(of_region(Reading::level(
            "spire_region_failures_in_a_row",
            "Failed checks since the last good one",
            region.consecutive_failures as usize,
        )));
        readings.extend(region.latency_ms.map(|millis| {
            let value = Value::Seconds(millis / 1e3);
            let (name, help) = ("spire_region_check", "Smoothed time of a good check");
            of_region(Reading { name, help, labels: Vec::new(), value })
        }));
    }
    let stats = view.stats;
    readings.extend([
        Reading::counter("spire_region_checks", "Checks of regions", stats.checks),
        Reading::counter("spire_region_checks_failed", "Checks of regions that failed", stats.checks_failed),
        Reading::counter(
            "spire_failovers",
            "Changes to another region because the one in use had failed",
            stats.failovers,
        ),
        Reading::counter("spire_failbacks", "Changes back to a preferred region", stats.failbacks),
        Reading::counter("spire_all_down", "Times that no region answered", stats.all_down),
    ]);
    readings
}
