//! Which region's Workload API is used: checks them all, changes when the core says so, and goes on serving meanwhile.
//!
//! [`Regions`] drives [`RegionFailover`], which decides; here are the clock, the checks and the calls whose outcomes count.
//! [`Regions::follow_x509`] is one identity whoever it comes from: the context of the active region, and between a region that
//! is gone and the next one that has answered, the last one that was given. An identity is never replaced by an error, and not
//! by an older one of the region before.
//!
//! ```text
//!  health checks ─┐                        ┌─► watch: the active region
//!                 ├─► RegionFailover ──────┤
//!  outcomes  ─────┘   (decides)            └─► follow_x509: the stream of the active region's Workload API
//! ```

mod anchors;
mod identity;
mod probe;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use x0t_identity::region_failover::{
    Check, CheckFailure, CheckOutcome, FailoverConfig, RegionEvent, RegionFailover, RegionsView, RpcOutcome,
};
use x0t_model::{Entropy, Instant, Seed};

pub use anchors::{AnchorsError, host_anchors};
pub use identity::{Given, Serving};
pub use probe::{HealthProber, Prober};

/// Outcomes of calls that wait to be counted; more are dropped, since one in some seconds counts anyway.
const OUTCOMES_MAX: usize = 64;
/// News that a slow listener may fall behind.
const EVENTS_MAX: usize = 64;

/// The regions of this node, and which of them is in use. Cheap to clone; lives until [`Regions::drive`] ends.
#[derive(Clone, Debug)]
pub struct Regions {
    failover: Arc<Mutex<RegionFailover>>,
    config: Arc<FailoverConfig>,
    active: watch::Receiver<usize>,
    outcomes: mpsc::Sender<(usize, RpcOutcome)>,
    events: broadcast::Sender<RegionEvent>,
    clock: Clock,
}

/// What [`Regions::drive`] runs.
#[derive(Debug)]
pub struct Driver {
    regions: Regions,
    active: watch::Sender<usize>,
    outcomes: mpsc::Receiver<(usize, RpcOutcome)>,
}

#[derive(Clone, Copy, Debug)]
struct Clock(tokio::time::Instant);

impl Clock {
    fn now(self) -> Instant {
        Instant::ZERO + self.0.elapsed()
    }

    fn when(self, instant: Instant) -> tokio::time::Instant {
        self.0 + instant.since(Instant::ZERO)
    }
}

impl Regions {
    /// Regions that nobody checks yet: spawn [`Driver::drive`].
    pub fn new(config: FailoverConfig, seed: Seed) -> (Self, Driver) {
        let clock = Clock(tokio::time::Instant::now());
        let failover = RegionFailover::new(config.clone(), &mut Entropy::new(seed), clock.now());
        let (active, active_news) = watch::channel(failover.active());
        let (outcomes, outcomes_in) = mpsc::channel(OUTCOMES_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let regions = Self {
            failover: Arc::new(Mutex::new(failover)),
            config: Arc::new(config),
            active: active_news,
            outcomes,
            events,
            clock,
        };
        let driver = Driver { regions: regions.clone(), active, outcomes: outcomes_in };
        (regions, driver)
    }

    /// The configuration in force.
    pub fn config(&self) -> &FailoverConfig {
        &self.config
    }

    /// The active region, by its position in the configuration, and each change of it.
    pub fn active(&self) -> watch::Receiver<usize> {
        self.active.clone()
    }

    /// Everything worth showing, now.
    pub fn view(&self) -> RegionsView {
        self.lock().view(self.clock.now())
    }

    /// News from here on.
    pub fn events(&self) -> broadcast::Receiver<RegionEvent> {
        self.events.subscribe()
    }

    /// How a call to the service of a region went.
    pub fn report(&self, region: usize, outcome: RpcOutcome) {
        // Full: others have just been reported, and one in some seconds counts.
        let _ = self.outcomes.try_send((region, outcome));
    }

    /// Whether what a region gave is overdue for renewal.
    fn set_stale(&self, region: usize, stale: bool) {
        self.lock().handle_stale(region, stale);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RegionFailover> {
        // Nothing between lock and unlock panics; were it so, the state is whole all the same.
        self.failover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// Checks and decides for ever; whoever spawns it ends it.
    pub async fn drive(mut self, prober: impl Prober) {
        let prober = Arc::new(prober);
        let mut checks: JoinSet<(Check, CheckOutcome)> = JoinSet::new();
        let clock = self.regions.clock;
        self.step(|failover, now| failover.handle_timeout(now));
        loop {
            self.start_checks(&prober, &mut checks);
            let wake = self.regions.lock().poll_timeout().map_or(Instant::FAR_FUTURE, |(at, _)| at);
            tokio::select! {
                () = tokio::time::sleep_until(clock.when(wake)) => {
                    self.step(|failover, now| failover.handle_timeout(now));
                }
                Some(Ok((check, outcome))) = checks.join_next() => {
                    self.step(|failover, now| failover.handle_check(check, outcome, now));
                }
                Some((region, outcome)) = self.outcomes.recv() => {
                    self.step(|failover, now| failover.handle_rpc(region, outcome, now));
                }
            }
        }
    }

    fn start_checks<P: Prober>(&self, prober: &Arc<P>, checks: &mut JoinSet<(Check, CheckOutcome)>) {
        let timeout = self.regions.config.timeout;
        let mut failover = self.regions.lock();
        while let Some(check) = failover.poll_check() {
            let Some(region) = failover.region(check.region).cloned() else { continue };
            let prober = prober.clone();
            checks.spawn(async move { (check, prober.check(&region, timeout).await) });
        }
    }

    fn step(&self, step: impl FnOnce(&mut RegionFailover, Instant)) {
        let mut failover = self.regions.lock();
        step(&mut failover, self.regions.clock.now());
        while let Some(event) = failover.poll_event() {
            tell(&event);
            // Nobody listening is fine.
            let _ = self.regions.events.send(event);
        }
        let active = failover.active();
        self.active.send_if_modified(|known| std::mem::replace(known, active) != active);
    }
}

fn tell(event: &RegionEvent) {
    match event {
        RegionEvent::FailedOver { from, to, reason } => tracing::warn!(%from, %to, %reason, "region failed over"),
        RegionEvent::FailedBack { from, to } => tracing::info!(%from, %to, "region failed back"),
        RegionEvent::Down { region, reason } => tracing::warn!(%region, %reason, "region is down"),
        RegionEvent::Up { region } => tracing::info!(%region, "region is up"),
        RegionEvent::AllDown { staying } => {
            tracing::error!(%staying, "no region answers; identities are served from what is cached");
        }
        RegionEvent::Recovered { active } => tracing::info!(%active, "a region answers again"),
    }
}

/// What the end of a call says about the region that was called.
pub fn rpc_outcome(code: Code) -> RpcOutcome {
    match code {
        Code::Unavailable => RpcOutcome::Unreachable(CheckFailure::Unavailable),
        Code::DeadlineExceeded => RpcOutcome::Unreachable(CheckFailure::DeadlineExceeded),
        _ => RpcOutcome::Refused,
    }
}

/// As [`rpc_outcome`], and what the transport has to say about it: a connection that broke within a call has other codes.
pub fn status_outcome(status: &Status) -> RpcOutcome {
    let broke = std::error::Error::source(status).is_some();
    match rpc_outcome(status.code()) {
        RpcOutcome::Refused if broke => RpcOutcome::Unreachable(CheckFailure::Unavailable),
        outcome => outcome,
    }
}
