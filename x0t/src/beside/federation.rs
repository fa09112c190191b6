//! Other trust domains: what is fetched for the authority of this host, and what this host publishes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use x0t_identity::Svid;
use x0t_identity::federation::{FederationSnapshot, RelationshipStatus};
use x0t_model::{Entropy, TrustDomain};
use x0t_node::{RecordKind, What};
use x0t_runtime::clock::Clock;
use x0t_runtime::handle::NodeHandle;
use x0t_runtime::news::{Item, Subscription};
use x0t_runtime::state_dir::MeshFile;
use x0t_workload::agent_service::AgentHandle;
use x0t_workload::authority_service::AuthorityHandle;
use x0t_workload::federation::endpoint::{self, CertificateError, Shown};
use x0t_workload::federation::fetch::FetchConfig;
use x0t_workload::federation::service::{self, FederationError, FederationHandle};

use super::Shared;
use crate::exit::{Exit, Failure};

/// What the settings say about other trust domains.
#[derive(Clone, Debug, Default)]
pub struct FederationSettings {
    /// Where the own bundle is published; `None` for nowhere.
    pub endpoint: Option<SocketAddr>,
    /// Certificate and key of the Web PKI to show there; the node's own SVID if absent.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Whom to believe for endpoints of the Web PKI; the host's anchors if absent.
    pub ca_file: Option<PathBuf>,
}

impl FederationSettings {
    /// As the node starts with them.
    pub fn of(mesh: &MeshFile) -> Self {
        Self {
            endpoint: mesh.bundle_endpoint,
            files: mesh.bundle_endpoint_cert.clone().zip(mesh.bundle_endpoint_key.clone()),
            ca_file: mesh.federation_ca.clone(),
        }
    }

    /// Finds out whether a node with these settings could publish.
    ///
    /// # Errors
    /// What keeps it from that.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some((certificate, key)) = &self.files {
            Shown::files(certificate.clone(), key.clone()).map_err(nothing_to_show)?;
        }
        self.endpoint.map(listen).transpose()?;
        Ok(())
    }
}

/// What is asked about relationships.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum FederationAsk {
    /// How all of them fare.
    Statuses,
    /// Ask one endpoint now, and how that went.
    Refresh {
        /// Of whom.
        trust_domain: TrustDomain,
    },
}

/// Starts fetching for `authority`, which publishes `snapshots`.
pub fn start_fetching(
    authority: AuthorityHandle,
    snapshots: watch::Receiver<Arc<FederationSnapshot>>,
    settings: &FederationSettings,
    entropy: Entropy,
    stop: watch::Receiver<bool>,
) -> FederationHandle {
    let config = FetchConfig { ca_file: settings.ca_file.clone(), ..FetchConfig::default() };
    service::start(authority, snapshots, config, Arc::new(|| (Clock.now(), Clock.wall())), entropy, stop)
}

/// Starts the bundle endpoint, if there is to be one. `state` is where the node's SVID is.
pub fn start_endpoint(
    settings: &FederationSettings,
    svid: &Svid,
    state: &Path,
    node: &NodeHandle,
    agent: &AgentHandle,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let Some(address) = settings.endpoint else { return Ok(()) };
    let shown = match &settings.files {
        None => Shown::svid(svid).map(Arc::new),
        Some((certificate, key)) => Shown::files(certificate.clone(), key.clone()).map(Arc::new),
    };
    let shown = shown.map_err(nothing_to_show)?;
    let listener = listen(address)?;
    if settings.files.is_none() {
        tokio::spawn(follow_own_svid(node.subscribe(), state.join(RecordKind::Svid.file_name()), shown.clone()));
    }
    let (identities, domain) = (agent.identities(), svid.spiffe_id().trust_domain().clone());
    let publish: endpoint::Publish = Arc::new(move || identities.borrow().bundles().get(&domain).cloned());
    let profile = if settings.files.is_some() { "https_web" } else { "https_spiffe" };
    tracing::info!(%address, profile, "this trust domain's bundle is published");
    tokio::spawn(async move {
        if let Err(error) = endpoint::serve(listener, shown, publish, stop).await {
            tracing::error!(%error, "the bundle endpoint ended");
        }
    });
    Ok(())
}

fn nothing_to_show(error: CertificateError) -> Failure {
    Failure::new(Exit::Error, "the bundle endpoint has no certificate to show")
        .because(error)
        .next("give a PEM chain and its key with `--bundle-endpoint-cert` and `--bundle-endpoint-key`")
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    endpoint::bind(address).map_err(|error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let exit = if denied { Exit::Denied } else { Exit::Error };
        Failure::new(exit, format!("cannot publish the bundle on TCP {address}"))
            .because(error.to_string())
            .next("choose another address with `--bundle-endpoint IP:PORT`, or do without: `--bundle-endpoint off`")
    })
}

/// Shows each SVID of the node as soon as it has one: it is on the disk before it is told of.
async fn follow_own_svid(mut news: Subscription, path: PathBuf, shown: Arc<Shown>) {
    loop {
        let renewed = tokio::fs::read(&path).await.map_err(anyhow::Error::from).and_then(|stored| {
            let stored = zeroize::Zeroizing::new(stored);
            Ok(shown.renew(&Svid::from_stored(&stored)?)?)
        });
        if let Err(error) = renewed {
            tracing::warn!(error = format!("{error:#}"), "the bundle endpoint goes on with the SVID before");
        }
        loop {
            match news.next().await {
                Some(Item::Event(event)) if matches!(event.event.what, What::SvidRotated { .. }) => break,
                Some(Item::Event(_)) => {}
                Some(Item::Missed(_)) => break,
                None => return,
            }
        }
    }
}

/// Answers [`FederationAsk`].
pub async fn ask(State(shared): State<Shared>, Json(ask): Json<FederationAsk>) -> Response {
    let Some(federation) = &shared.federation else {
        let text = "this node is no authority; ask on the node that created the mesh";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let answer: Result<Vec<RelationshipStatus>, FederationError> = match ask {
        FederationAsk::Statuses => federation.statuses().await,
        FederationAsk::Refresh { trust_domain } => federation.refresh(trust_domain).await.map(|status| vec![status]),
    };
    match answer {
        Ok(statuses) => Json(statuses).into_response(),
        Err(error @ FederationError::Unknown(_)) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}
