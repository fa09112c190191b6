//! A node whose identity SPIRE gives: which SVID is the node's, the first one before there is a node, each later one to the node
//! that runs, and what is said to an operator who gets none.
//!
//! ```text
//!  SPIRE agents ──► Regions (which of them) ──► Given ──► Follower (what it means for this node) ──► the node
//! ```

mod follower;
mod report;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use x0t_identity::region_failover::{FailoverConfig, RegionMistakes, Scheme};
use x0t_identity::{Bundle, Svid};
use x0t_model::{SpiffeId, TrustDomain};
use x0t_node::WorkloadApiNews;
use x0t_runtime::clock::{Clock, seed};
use x0t_runtime::daemon::Beside;
use x0t_runtime::readings::Readings;
use x0t_runtime::state_dir::MeshFile;
use x0t_workload::client::{ClientConfig, ClientError, X509Context};
use x0t_workload::regions::{Given, HealthProber, Regions, host_anchors};

use crate::exit::{Exit, Failure};

use follower::Follower;
pub use report::RegionsReport;

/// Which identity is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this trust domain only.
    pub trust_domain: Option<TrustDomain>,
    /// Of the node of this name only.
    pub name: Option<String>,
}

impl Wanted {
    /// The identity of the node that `mesh` describes.
    pub fn of(mesh: &MeshFile) -> Self {
        Self { trust_domain: Some(mesh.trust_domain.clone()), name: Some(mesh.name.clone()) }
    }

    fn fits(&self, id: &SpiffeId) -> bool {
        let named = |name: &str| self.name.as_deref().is_none_or(|wanted| wanted == name);
        id.node_name().is_some_and(named) && self.trust_domain.as_ref().is_none_or(|wanted| wanted == id.trust_domain())
    }

    /// As an entry has to name it.
    fn as_id(&self) -> String {
        let domain = self.trust_domain.as_ref().map_or("TRUST-DOMAIN", TrustDomain::as_str);
        format!("spiffe://{domain}/node/{}", self.name.as_deref().unwrap_or("NAME"))
    }
}

/// Why none of the SVIDs that a process was given is the node's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNode {
    /// None has the form of a node's, or the name that is wanted.
    #[error("it gives this process {}, and none of them is {wanted}", list(.given))]
    None {
        /// What there is.
        given: Vec<SpiffeId>,
        /// What was looked for.
        wanted: String,
    },
    /// More than one fits.
    #[error("it gives this process more than one identity of a node: {}", list(.0))]
    Several(Vec<SpiffeId>),
}

fn list(ids: &[SpiffeId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The SVID that is a node's, and the bundle of its trust domain.
pub fn choose(context: &X509Context, wanted: &Wanted) -> Result<(Svid, Bundle), NoNode> {
    let ids = || context.svids().iter().map(|given| given.svid.spiffe_id().clone());
    let fitting: Vec<&Svid> =
        context.svids().iter().map(|given| &given.svid).filter(|svid| wanted.fits(svid.spiffe_id())).collect();
    let none = || NoNode::None { given: ids().collect(), wanted: wanted.as_id() };
    let svid = only(&fitting)?.ok_or_else(none)?;
    // A message whose SVID does not lead to its own bundle was refused as a whole.
    let bundle = context.bundles().get(svid.spiffe_id().trust_domain()).ok_or_else(none)?;
    Ok((svid.clone(), Bundle::clone(bundle)))
}

/// The SVID of the one identity that there is. Several entries may give the same one: then it is the SVID that ends last.
fn only<'a>(fitting: &[&'a Svid]) -> Result<Option<&'a Svid>, NoNode> {
    let ids: BTreeSet<&SpiffeId> = fitting.iter().map(|svid| svid.spiffe_id()).collect();
    if ids.len() > 1 {
        return Err(NoNode::Several(ids.into_iter().cloned().collect()));
    }
    Ok(fitting.iter().copied().max_by_key(|svid| (svid.not_after(), svid.not_before())))
}

/// The regions of `mesh`, checked.
pub fn regions_of(mesh: &MeshFile) -> Result<FailoverConfig, Failure> {
    mesh.regions.clone().into_config().map_err(|mistakes| mistaken(&mistakes))
}

/// What is wrong with regions, all of it.
pub fn mistaken(mistakes: &RegionMistakes) -> Failure {
    Failure::new(Exit::Usage, format!("the regions of SPIRE cannot be used:\n{mistakes}"))
        .next("write them as NAME=ENDPOINT[|HEALTH-URL][|prio=N], separated by `;`")
}

/// SPIRE as it is used by one process. Ends when it is dropped.
pub struct Source {
    regions: Regions,
    given: watch::Receiver<Given>,
    driver: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Source {
    /// Starts to check the regions and to follow the active one.
    pub fn begin(config: FailoverConfig) -> anyhow::Result<Self> {
        let is_https = |url: &x0t_identity::region_failover::HealthUrl| url.scheme == Scheme::Https;
        let wants_tls = config.regions().iter().any(|region| region.health.as_ref().is_some_and(is_https));
        let anchors =
            wants_tls.then(|| host_anchors(None)).transpose().context("cannot make health checks by HTTPS")?;
        let prober = HealthProber::new(anchors).context("cannot make health checks")?;
        let (regions, driver) = Regions::new(config, seed()?);
        let driver = tokio::spawn(driver.drive(prober));
        let given = regions.follow_x509(ClientConfig::default(), || Clock.wall());
        Ok(Self { regions, given, driver })
    }

    /// Whose SVID SPIRE gives to a node on this host, if it does so within `patience`.
    ///
    /// # Errors
    /// Why it does not, with the line that changes it.
    pub async fn identity(mut self, wanted: &Wanted, patience: Duration) -> Result<SpiffeId, Failure> {
        let first = tokio::time::timeout(patience, self.first(wanted, |_| {})).await;
        match first {
            Ok((svid, _)) => Ok(svid.spiffe_id().clone()),
            Err(_) => Err(self.why_not(wanted)),
        }
    }

    /// The node's first SVID, however long it takes. Each new reason to wait is told.
    pub async fn first(&mut self, wanted: &Wanted, tell: impl Fn(&Failure)) -> (Svid, Bundle) {
        loop {
            let context = self.given.borrow_and_update().context.clone();
            if let Some(Ok(chosen)) = context.map(|context| choose(&context, wanted)) {
                return chosen;
            }
            let said = self.given.borrow().clone();
            if said.problem.is_some() || said.context.is_some() {
                tell(&self.why_not(wanted));
            }
            if self.given.changed().await.is_err() {
                // It follows for as long as somebody listens.
                return std::future::pending().await;
            }
        }
    }

    fn why_not(&self, wanted: &Wanted) -> Failure {
        let given = self.given.borrow().clone();
        let region = *self.regions.active().borrow();
        let endpoint = self.regions.config().regions().get(region).map(|region| region.endpoint.to_string());
        let endpoint = endpoint.unwrap_or_default();
        if let Some(context) = given.context {
            let failure = |because: NoNode| {
                Failure::new(Exit::Denied, format!("SPIRE at {endpoint} gives this node no identity")).because(because)
            };
            return match choose(&context, wanted) {
                Err(several @ NoNode::Several(_)) => failure(several).next("say which with `--name NAME`"),
                Err(none) => failure(none).next(create_entry(wanted)),
                Ok(_) => Failure::new(Exit::Error, format!("SPIRE at {endpoint} has only just answered"))
                    .next("give the same command again"),
            };
        }
        match given.problem {
            Some(error) if error.is_denial() => {
                Failure::new(Exit::Denied, format!("SPIRE at {endpoint} gives this process no identity"))
                    .because(error)
                    .next(create_entry(wanted))
            }
            Some(error @ ClientError::Content(_)) => {
                Failure::new(Exit::Error, format!("what SPIRE at {endpoint} gives cannot be used")).because(error)
            }
            problem => {
                let failure = Failure::new(Exit::Timeout, format!("SPIRE at {endpoint} does not answer"));
                let failure = match problem {
                    Some(error) => failure.because(error),
                    None => failure,
                };
                failure.next("does its agent run, and is this its socket? name it with `--spire-socket unix:///PATH`")
            }
        }
    }

    /// What stands beside the node in place of an agent of its own: tells it of each SVID.
    pub fn beside(self, me: &SpiffeId, beside: Beside) -> Router {
        let Beside { node, mut stop, .. } = beside;
        let mut follower = Follower::new(me, &self.given.borrow());
        let mut events = self.regions.events();
        let routes = routes(self.regions.clone(), self.given.clone());
        tokio::spawn(async move {
            let mut source = self;
            loop {
                let given = source.given.borrow_and_update().clone();
                if let Some(news) = follower.read(&given) {
                    told(&news);
                    if node.workload_api(news).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = source.given.changed() => if changed.is_err() { return },
                    event = events.recv() => {
                        // Who falls behind loses the oldest; the state itself is always there to be asked for.
                        if let Ok(event) = event {
                            node.tell(report::news(event));
                        }
                    }
                    // Nobody tells it to stop any more once whoever could is gone.
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        });
        routes
    }

    /// What is counted of the regions.
    pub fn readings(&self) -> Readings {
        let regions = self.regions.clone();
        Arc::new(move || report::readings(&regions.view()))
    }
}

fn told(news: &WorkloadApiNews) {
    match news {
        WorkloadApiNews::Given { svid, .. } => tracing::info!(?svid, "SPIRE gives the node's identity"),
        WorkloadApiNews::Failing(reason) => tracing::warn!(reason, "SPIRE fails; the SVID in use is kept"),
        WorkloadApiNews::Withdrawn(reason) => {
            tracing::error!(reason, "SPIRE has taken the node's identity back; every session is closed");
        }
    }
}

/// The line that gives this node an identity.
fn create_entry(wanted: &Wanted) -> String {
    let id = wanted.as_id();
    let uid = rustix::process::geteuid().as_raw();
    format!(
        "make an entry on the SPIRE server's host: `x0t entry create {id} --authority spire --parent AGENT-ID --selector \
         unix:uid:{uid}`, or with SPIRE's own program `spire-server entry create -spiffeID {id} -parentID AGENT-ID -selector \
         unix:uid:{uid}`; `x0t spire agents` names the agents. It is here within some seconds"
    )
}

/// What a node without authority and agent says to whoever asks it for either.
fn routes(regions: Regions, given: watch::Receiver<Given>) -> Router {
    let authority = || async {
        (StatusCode::NOT_FOUND, "this node's identity is SPIRE's, and so are entries: ask the SPIRE server")
    };
    let explain = || async {
        (
            StatusCode::NOT_FOUND,
            "processes of this host get their identities from the SPIRE agent: ask its log why, or why not",
        )
    };
    let regions = move || async move { Json(RegionsReport::of(&regions, &given.borrow())) };
    Router::new()
        .route("/api/v1/authority", post(authority))
        .route("/api/v1/identity/explain", post(explain))
        .route("/api/v1/regions", get(regions))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose, SanType};
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use x0t_identity::{AwsLcKeys, KeySource as _};

    use super::*;

    fn svid(id: &str, last_year: i32) -> Svid {
        let key = AwsLcKeys.generate().unwrap();
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.pkcs8())).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let certificate = params.self_signed(&pair).unwrap();
        Svid::new(vec![CertificateDer::from(certificate.der().to_vec())], key).unwrap()
    }

    #[test]
    fn svids_of_one_identity_are_one_identity_and_the_longest_is_taken() {
        let (short, long) = (svid("spiffe://a.test/node/n", 2100), svid("spiffe://a.test/node/n", 2200));
        let other = svid("spiffe://a.test/node/m", 2200);
        for order in [[&short, &long], [&long, &short]] {
            assert_eq!(only(&order).unwrap().unwrap().chain(), long.chain());
        }
        assert!(only(&[]).unwrap().is_none());
        let several = NoNode::Several(vec![other.spiffe_id().clone(), short.spiffe_id().clone()]);
        assert_eq!(only(&[&short, &other, &long]).unwrap_err(), several, "each is named once");
    }
}
