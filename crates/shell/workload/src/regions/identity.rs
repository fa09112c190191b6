//! One identity, whichever region it comes from.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use x0t_identity::region_failover::{CheckFailure, RegionEndpoint, RpcOutcome};
use x0t_model::UnixTime;

use super::{Regions, rpc_outcome};
use crate::client::{ClientConfig, ClientError, Endpoint, Followed, Health, WorkloadClient, X509Context};

/// A wall clock that was set wakes nobody, so whether an SVID is overdue is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is served.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The newest context that was given and not taken back.
    pub context: Option<Arc<X509Context>>,
    /// The region that gave it.
    pub from: Option<usize>,
    /// Whether that region is the active one and stands by it.
    pub serving: Serving,
    /// What keeps the active region from standing by it; absent also between a change of region and its first answer.
    pub problem: Option<ClientError>,
}

/// Where the context comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    /// Nobody has given one yet.
    #[default]
    Nothing,
    /// The active region, just now.
    Live,
    /// What was given before; the active region has not answered since.
    Cached,
}

impl Regions {
    /// The X.509 context of the active region, and of the next one after a change, until the receiver is dropped. Outcomes of
    /// the calls count for the choice of the region.
    ///
    /// What was given stays until another region gives something in its place; only the region that gave it can take it back
    /// (`PERMISSION_DENIED`, checklist WC-6). A region that has just become active and denies is not believed against one that
    /// gave: its entries may be on their way.
    pub fn follow_x509(
        &self,
        config: ClientConfig,
        now: impl Fn() -> UnixTime + Clone + Send + Sync + 'static,
    ) -> watch::Receiver<Given> {
        let (news, given) = watch::channel(Given::default());
        let regions = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = news.closed() => {}
                () = regions.serve(config, now, &news) => {}
            }
        });
        given
    }

    async fn serve(
        &self,
        config: ClientConfig,
        now: impl Fn() -> UnixTime + Clone + Send + Sync + 'static,
        news: &watch::Sender<Given>,
    ) {
        let mut active = self.active();
        // Regions that were left because they renewed nothing; they end with whoever follows.
        let mut stale = JoinSet::new();
        loop {
            while stale.try_join_next().is_some() {}
            let region = *active.borrow_and_update();
            let Some(endpoint) = self.config().regions().get(region).map(|region| endpoint(&region.endpoint)) else {
                return;
            };
            let mut config = config;
            config.backoff.longest = config.backoff.longest.min(self.config().passive_spacing);
            let client = WorkloadClient::new(endpoint, config);
            let mut followed = client.follow_x509(now.clone());
            tokio::select! {
                changed = active.changed() => {
                    news.send_modify(|given| {
                        given.serving = given.serving.without_its_region();
                        given.problem = None;
                    });
                    if changed.is_err() {
                        return;
                    }
                    if is_stale(&followed.borrow(), &now) {
                        stale.spawn(self.clone().await_renewal(region, followed, now.clone()));
                    }
                }
                () = self.pass_on(region, &mut followed, news, &now) => {}
            }
        }
    }

    async fn pass_on(
        &self,
        region: usize,
        followed: &mut watch::Receiver<Followed<X509Context>>,
        news: &watch::Sender<Given>,
        now: &impl Fn() -> UnixTime,
    ) {
        loop {
            let Followed { value, health } = followed.borrow_and_update().clone();
            let is_stale = is_stale(&followed.borrow(), now);
            if health == Health::Current {
                self.set_stale(region, is_stale);
            }
            let overdue_in = value.as_ref().map_or(LOOK_AGAIN, |context| context.overdue_at().since(now()));
            self.count(region, &health);
            news.send_if_modified(|given| take(given, region, value, &health));
            let is_failing = matches!(health, Health::Failing(_));
            tokio::select! {
                changed = followed.changed() => {
                    if changed.is_err() {
                        // The client has given up: nothing comes any more from this region while it is active.
                        return std::future::pending().await;
                    }
                }
                // The client tells of a failure once and tries again at least this often, so it has failed again.
                () = tokio::time::sleep(self.config().passive_spacing), if is_failing => {}
                () = tokio::time::sleep(overdue_in.min(LOOK_AGAIN)), if !is_stale && !is_failing => {}
            }
        }
    }

    /// A region that was left because it renewed nothing is well again once it does.
    async fn await_renewal(
        self,
        region: usize,
        mut followed: watch::Receiver<Followed<X509Context>>,
        now: impl Fn() -> UnixTime + Send,
    ) {
        while is_stale(&followed.borrow_and_update(), &now) {
            if followed.changed().await.is_err() {
                return;
            }
        }
        self.set_stale(region, false);
    }

    fn count(&self, region: usize, health: &Health) {
        match health {
            Health::Waiting => {}
            Health::Current => self.report(region, RpcOutcome::Ok { latency: None }),
            Health::Failing(error) | Health::Refused(error) => self.report(region, outcome(error)),
        }
    }
}

impl Serving {
    const fn without_its_region(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Live | Self::Cached => Self::Cached,
        }
    }
}

/// Whether the server has given something and not renewed it in time.
fn is_stale(followed: &Followed<X509Context>, now: &impl Fn() -> UnixTime) -> bool {
    followed.value.as_ref().is_some_and(|context| now() >= context.overdue_at())
}

/// Whether it changed what is served.
fn take(given: &mut Given, region: usize, value: Option<Arc<X509Context>>, health: &Health) -> bool {
    let before = (given.context.as_ref().map(Arc::as_ptr), given.from, given.serving, given.problem.take());
    given.problem = match health {
        Health::Waiting | Health::Current => None,
        Health::Failing(error) | Health::Refused(error) => Some(error.clone()),
    };
    match (value, health) {
        (Some(context), health) => {
            given.context = Some(context);
            given.from = Some(region);
            given.serving = if *health == Health::Current { Serving::Live } else { Serving::Cached };
        }
        // Taken back by the one who gave it.
        (None, Health::Failing(error) | Health::Refused(error)) if error.is_denial() && given.from == Some(region) => {
            *given = Given { problem: given.problem.take(), ..Given::default() };
        }
        (None, _) => given.serving = given.serving.without_its_region(),
    }
    before != (given.context.as_ref().map(Arc::as_ptr), given.from, given.serving, given.problem.clone())
}

fn outcome(error: &ClientError) -> RpcOutcome {
    match error {
        ClientError::Status { code, .. } => rpc_outcome(*code),
        ClientError::Silent(_) => RpcOutcome::Unreachable(CheckFailure::DeadlineExceeded),
        // The connection broke, or the agent was stopped.
        ClientError::Ended => RpcOutcome::Unreachable(CheckFailure::Unavailable),
        // It answers, and what it says is of no use: another region may do better, but it is not out of reach.
        ClientError::Content(_) => RpcOutcome::Refused,
    }
}

fn endpoint(endpoint: &RegionEndpoint) -> Endpoint {
    match endpoint {
        RegionEndpoint::Unix(path) => Endpoint::Unix(path.into()),
        RegionEndpoint::Tcp(address) => Endpoint::Tcp(*address),
    }
}
