//! What stands beside the node on its host: the authority, if it is here, the agent of this host's workloads, and the socket on
//! which they ask who they are.

mod federation;
mod readings;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use x0t_identity::federation::FederationSnapshot;
use x0t_identity::{
    Agent, AuthorityAnswer, AuthorityServer, AwsLcKeys, Bundle, Distrusted, Leaf, OperatorRequest, SealKey, Svid,
    Ticket,
};
use x0t_model::{Entropy, Instant, SpiffeId, TrustDomain, UnixTime};
use x0t_overlay::CertificateDer;
use x0t_runtime::clock::{Clock, seed};
use x0t_runtime::daemon::{Additions, Beside};
use x0t_runtime::handle::NodeHandle;
use x0t_workload::agent_service::{self, AgentHandle, AgentPorts, AgentSource};
use x0t_workload::attest::{Attestor, Process, Wanted};
use x0t_workload::authority_service::{self, AuthorityHandle, AuthorityPorts};
use x0t_workload::authority_store::LocalStore;
use x0t_workload::explain::explain;
use x0t_workload::federation::service::FederationHandle;
use x0t_workload::jwt_service::JwtService;
use x0t_workload::server::{self, ServerConfig, ServerStats, WorkloadServer};
use zeroize::Zeroizing;

pub use self::federation::{FederationAsk, FederationSettings};
use crate::cli::seal_key_file;
use crate::recovery;

/// The largest program that `identity explain` reads for its digest; as much as the Workload API does.
const PROGRAM_LEN_MAX: u64 = 256 << 20;

/// Descriptors that are kept for sockets, files, forwards and the admin socket.
const DESCRIPTORS_OF_NODE: usize = 512;

/// What is needed of the node's state directory and settings.
pub struct Home {
    /// Where the authority's state is, if it is here.
    pub authority: Option<PathBuf>,
    /// Who the node is, as it shows at the start.
    pub svid: Svid,
    /// Whom it trusts at the start.
    pub bundle: Bundle,
    /// Every node that renews.
    pub authorities: Vec<SpiffeId>,
    /// Where workloads ask; `None` for nowhere.
    pub socket: Option<PathBuf>,
    /// What brings a node back that slept through the end of its SVID; `None` for an authority, which renews by itself.
    pub memory: Option<recovery::Memory>,
    /// The state directory.
    pub state: PathBuf,
    /// About other trust domains.
    pub federation: FederationSettings,
}

/// Starts everything, on the runtime of the caller, and gives the routes by which the operator reaches it.
pub fn start(home: Home, beside: Beside) -> anyhow::Result<Additions> {
    let Beside { node, questions, stop } = beside;
    let mut entropy = Entropy::new(seed()?);
    let (authority, federation) = match &home.authority {
        Some(directory) => {
            let domain = home.svid.spiffe_id().trust_domain();
            let (authority, snapshots) =
                start_authority(directory, domain, home.authorities, entropy.fork("authority"), &node, questions)?;
            let entropy = entropy.fork("federation");
            let federation =
                federation::start_fetching(authority.clone(), snapshots, &home.federation, entropy, stop.clone());
            (Some(authority), Some(federation))
        }
        None => (None, None),
    };
    if let Some(memory) = home.memory {
        tokio::spawn(recovery::watch_over(node.clone(), memory, stop.clone()));
    }
    let own_chain = node.own_chain();
    let ports: Arc<dyn AgentPorts> = Arc::new(NodePorts { node: node.clone() });
    let mut agent = Agent::new(home.svid.spiffe_id().clone(), home.bundle, entropy.fork("agent"), Clock.now());
    agent.set_own_chain(home.svid.chain(), Clock.now());
    let jwt = JwtService::start(ports.clone(), stop.clone());
    let agent = agent_service::start(agent, jwt.clone(), ports.clone(), stop.clone());
    let is_serving = Arc::new(AtomicBool::new(false));
    let mut endpoint = None;
    federation::start_endpoint(&home.federation, &home.svid, &home.state, &node, &agent, stop.clone())?;
    if let Some(socket) = &home.socket {
        let listener = server::bind(socket)?;
        let source = Arc::new(AgentSource::new(agent.clone(), jwt.clone(), ports));
        let config = ServerConfig { connections_max: connections_max(), ..ServerConfig::default() };
        let server = WorkloadServer::new(source, config, stop);
        endpoint = Some(server.stats());
        is_serving.store(true, Ordering::Relaxed);
        let is_serving = is_serving.clone();
        tracing::info!(socket = %socket.display(), "workloads may ask who they are");
        tokio::spawn(async move {
            if let Err(error) = server.serve(listener).await {
                tracing::error!(%error, "the Workload API ended");
            }
            is_serving.store(false, Ordering::Relaxed);
        });
    }
    let own_not_after = home.svid.not_after();
    let attestor = Arc::new(Attestor::new(PROGRAM_LEN_MAX));
    let socket = home.socket;
    let shared =
        Shared { authority, federation, agent, jwt, endpoint, is_serving, socket, own_chain, own_not_after, attestor };
    let counted = shared.clone();
    Ok(Additions { routes: routes(shared), readings: Some(Arc::new(move || readings::read(&counted))) })
}

/// How many connections workloads may hold: each costs two descriptors, and the node needs some for everything else. The process takes
/// as many as it is allowed to.
fn connections_max() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // As many as before are better than no node.
    let _ = setrlimit(Resource::Nofile, limit);
    let descriptors =
        getrlimit(Resource::Nofile).current.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    (descriptors.saturating_sub(DESCRIPTORS_OF_NODE) / 2).clamp(16, ServerConfig::default().connections_max)
}

fn start_authority(
    directory: &Path,
    domain: &TrustDomain,
    authorities: Vec<SpiffeId>,
    entropy: Entropy,
    node: &NodeHandle,
    mut questions: tokio::sync::mpsc::Receiver<(Ticket, x0t_identity::AuthorityRequest)>,
) -> anyhow::Result<(AuthorityHandle, watch::Receiver<Arc<FederationSnapshot>>)> {
    let seal = seal_key(directory)?;
    let opened = LocalStore::open_sealed(directory, domain, seal);
    let (store, authority) = opened.context("the authority's state cannot be used")?;
    let server = AuthorityServer::new(authority, authorities, entropy).with_keys(Box::new(AwsLcKeys));
    let (federations, snapshots) = watch::channel(Arc::default());
    let ports = ToNode { node: node.clone(), runtime: Handle::current(), federations };
    let handle = authority_service::start(server, Box::new(store), ports).context("cannot start the authority")?;
    let (authority, node) = (handle.clone(), node.clone());
    tokio::spawn(async move {
        while let Some((ticket, request)) = questions.recv().await {
            if let Err(refusal) = authority.request(ticket, request)
                && node.authority_answered(ticket, *refusal).await.is_err()
            {
                return;
            }
        }
    });
    Ok((handle, snapshots))
}

/// The key that seals the authority's private keys; made on first use if it is to be in the state directory.
fn seal_key(directory: &Path) -> anyhow::Result<SealKey> {
    let (path, is_ours) = match seal_key_file() {
        Some(path) => (path, false),
        None => (directory.join("seal.key"), true),
    };
    let stored = match std::fs::read(&path) {
        Err(error) if is_ours && error.kind() == std::io::ErrorKind::NotFound => {
            let key = SealKey::generate(&mut Entropy::new(seed()?));
            write_new(&path, &key.to_stored()).with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(key);
        }
        read => Zeroizing::new(read.with_context(|| format!("cannot read the seal key {}", path.display()))?),
    };
    SealKey::from_stored(&stored).with_context(|| format!("{} is no seal key", path.display()))
}

/// Writes a file that was not there, for its owner alone and whole, and returns once it is durable. The state directory is held by this
/// process alone.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// From the authority's thread to the node.
struct ToNode {
    node: NodeHandle,
    runtime: Handle,
    federations: watch::Sender<Arc<FederationSnapshot>>,
}

impl AuthorityPorts for ToNode {
    fn now(&self) -> (Instant, UnixTime) {
        (Clock.now(), Clock.wall())
    }

    fn answer(&mut self, ticket: Ticket, answer: AuthorityAnswer) {
        // A node that has stopped needs no answer.
        let _ = self.runtime.block_on(self.node.authority_answered(ticket, answer));
    }

    fn joined(&mut self, node: SpiffeId) {
        let _ = self.runtime.block_on(self.node.joined(node));
    }

    fn federations(&mut self, snapshot: FederationSnapshot) {
        self.federations.send_replace(Arc::new(snapshot));
    }
}

/// From the agent to the node.
struct NodePorts {
    node: NodeHandle,
}

impl AgentPorts for NodePorts {
    fn now(&self) -> (Instant, UnixTime) {
        (Clock.now(), Clock.wall())
    }

    fn ask(&self, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let node = self.node.clone();
        async move { node.ask_authority(body).await }.boxed()
    }

    fn offer_bundle(&self, bundle: Bundle) -> BoxFuture<'static, ()> {
        let node = self.node.clone();
        async move {
            // A node that has stopped trusts nobody.
            let _ = node.offer_bundle(bundle).await;
        }
        .boxed()
    }

    fn distrust(&self, distrusted: Distrusted) -> BoxFuture<'static, ()> {
        let node = self.node.clone();
        async move {
            // A node that has stopped shows nothing.
            let _ = node.distrust(distrusted).await;
        }
        .boxed()
    }

    fn own_chain(&self) -> watch::Receiver<Vec<CertificateDer<'static>>> {
        self.node.own_chain()
    }
}

/// What the routes and the instruments look at.
#[derive(Clone)]
struct Shared {
    authority: Option<AuthorityHandle>,
    federation: Option<FederationHandle>,
    agent: AgentHandle,
    jwt: JwtService,
    /// What the Workload API counts, if there is one.
    endpoint: Option<Arc<ServerStats>>,
    is_serving: Arc<AtomicBool>,
    socket: Option<PathBuf>,
    /// What the node shows, once it is another chain than at the start.
    own_chain: watch::Receiver<Vec<CertificateDer<'static>>>,
    /// The end of the SVID of the start.
    own_not_after: UnixTime,
    attestor: Arc<Attestor>,
}

/// Whether and how workloads of this host are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadsView {
    /// Where they ask; absent if the settings say nowhere.
    pub socket: Option<PathBuf>,
    /// Whether anybody answers there.
    pub serving: bool,
    /// Open connections.
    pub connections: usize,
    /// Entries whose processes may run here.
    pub entries: usize,
    /// Valid SVIDs that are held for them.
    pub svids: usize,
    /// The end of the one that ends first.
    pub first_svid_ends: Option<UnixTime>,
    /// Why the authority does not answer this host's agent, if it does not.
    pub authority_unreachable: Option<String>,
}

impl Shared {
    fn workloads(&self) -> WorkloadsView {
        let identities = self.agent.identities().borrow().clone();
        let ends = identities.held().iter().filter_map(|held| held.svid.as_ref()).map(Svid::not_after);
        WorkloadsView {
            socket: self.socket.clone(),
            serving: self.is_serving.load(Ordering::Relaxed),
            connections: self.endpoint.as_ref().map_or(0, |stats| stats.counts().connections),
            entries: identities.held().len(),
            svids: ends.clone().count(),
            first_svid_ends: ends.min(),
            authority_unreachable: self.agent.state().degraded,
        }
    }

    fn own_svid_not_after(&self) -> Option<UnixTime> {
        match self.own_chain.borrow().first() {
            Some(leaf) => Leaf::read(leaf).ok().map(|leaf| leaf.not_after),
            None => Some(self.own_not_after),
        }
    }
}

/// What is asked about a process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Which.
    pub pid: i32,
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/api/v1/authority", post(ask_authority))
        .route("/api/v1/federation", post(federation::ask))
        .route("/api/v1/identity/explain", post(explain_process))
        .route("/api/v1/identity/workloads", get(async |State(shared): State<Shared>| Json(shared.workloads())))
        .route("/api/v1/regions", get(no_regions))
        .with_state(shared)
}

async fn no_regions() -> Response {
    let text = "this node gets its identity from the authority of its mesh; only SPIRE's has regions";
    (StatusCode::NOT_FOUND, text).into_response()
}

async fn ask_authority(State(shared): State<Shared>, Json(request): Json<OperatorRequest>) -> Response {
    let Some(authority) = &shared.authority else {
        let text = "this node is no authority; ask on the node that created the mesh";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    match authority.operator(request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn explain_process(State(shared): State<Shared>, Json(request): Json<ExplainRequest>) -> Response {
    let identities = shared.agent.identities().borrow().clone();
    let wanted = Wanted { sha256: identities.wants_sha256() };
    let attested = match Process::of_pid(request.pid) {
        Ok(process) => shared.attestor.attest(&process, wanted).await,
        Err(error) => Err(error),
    };
    match attested {
        Ok(found) => {
            let mut explanation = explain(request.pid, &found, &identities, Clock.wall());
            explanation.authority_unreachable = shared.agent.state().degraded;
            Json(explanation).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("process {}: {error}", request.pid)).into_response(),
    }
}
