//! Questions to the daemon, with errors that say what to do.

use std::path::{Path, PathBuf};

use x0t_identity::federation::RelationshipStatus;
use x0t_identity::{FederationAnswer, FederationRequest, OperatorAnswer, OperatorRequest};
use x0t_netstack::forwarding::{ExposureView, ForwardView};
use x0t_netstack::spec::{Exposure, Forward, MeshPort};
use x0t_node::{Command, PeerView, Reply, RouteView, SessionView, StatusView};
use x0t_runtime::admin_client::{AdminClient, AdminError, Events, ForwardLease};
use x0t_runtime::state_dir::StateDir;
use x0t_workload::explain::Explanation;

use crate::beside::{ExplainRequest, FederationAsk, WorkloadsView};
use crate::exit::{Exit, Failure};
use crate::from_spire::RegionsReport;
use crate::output::Names;
use crate::start::state_dir_failure;

/// Asks the daemon of one state directory.
#[derive(Clone, Debug)]
pub struct Client {
    state_dir: PathBuf,
    admin: AdminClient,
}

impl Client {
    /// For the node of `state_dir`, whether it runs or not.
    pub fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), admin: AdminClient::new(state_dir) }
    }

    /// The node itself.
    pub async fn status(&self) -> Result<StatusView, Failure> {
        self.admin.status().await.map_err(|error| self.failure(error))
    }

    /// Its neighbours.
    pub async fn peers(&self) -> Result<Vec<PeerView>, Failure> {
        self.admin.peers().await.map_err(|error| self.failure(error))
    }

    /// The nodes it knows.
    pub async fn routes(&self) -> Result<Vec<RouteView>, Failure> {
        self.admin.routes().await.map_err(|error| self.failure(error))
    }

    /// Its sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionView>, Failure> {
        self.admin.sessions().await.map_err(|error| self.failure(error))
    }

    /// What the nodes that it knows are called.
    pub async fn names(&self) -> Result<Names, Failure> {
        let (status, peers, routes) = (self.status().await?, self.peers().await?, self.routes().await?);
        Ok(Names::known(&status, &peers, &routes))
    }

    /// Its news from this moment on.
    pub async fn events(&self) -> Result<Events, Failure> {
        self.admin.events().await.map_err(|error| self.failure(error))
    }

    /// Has it do something.
    pub async fn command(&self, command: Command) -> Result<Reply, Failure> {
        self.admin.command(command).await.map_err(|error| self.failure(error))
    }

    /// Has the authority on its host do something.
    pub async fn authority(&self, request: &OperatorRequest) -> Result<OperatorAnswer, Failure> {
        self.admin.ask("/api/v1/authority", request).await.map_err(|error| self.beside(error))
    }

    /// Has the authority on its host do something about foreign trust domains.
    pub async fn federation(&self, request: FederationRequest) -> Result<FederationAnswer, Failure> {
        match self.authority(&OperatorRequest::Federation(request)).await? {
            OperatorAnswer::Federation(answer) => Ok(answer),
            OperatorAnswer::Refused(refused) => {
                let (exit, next) = match refused.code.as_str() {
                    "unknown_bundle" => (Exit::Usage, Some("see them all with `x0t bundle list`")),
                    "unknown_relationship" => (Exit::Usage, Some("see them all with `x0t federation list`")),
                    _ => (Exit::Denied, None),
                };
                let failure = Failure::new(exit, refused.text);
                Err(match next {
                    Some(next) => failure.next(next),
                    None => failure,
                })
            }
            other => Err(Failure::new(Exit::Error, "the authority answered something else than what was asked")
                .because(format!("{other:?}"))
                .next("is the daemon of another version? `x0t version` tells this one's")),
        }
    }

    /// How relationships with foreign trust domains fare.
    pub async fn relationships(&self, ask: &FederationAsk) -> Result<Vec<RelationshipStatus>, Failure> {
        self.admin.ask("/api/v1/federation", ask).await.map_err(|error| self.beside(error))
    }

    /// Why a process of its host gets an identity, or none.
    pub async fn explain(&self, pid: i32) -> Result<Explanation, Failure> {
        let request = ExplainRequest { pid };
        self.admin.ask("/api/v1/identity/explain", &request).await.map_err(|error| self.beside(error))
    }

    /// How workloads of its host are served; `None` if the daemon is of a version that does not say.
    pub async fn workloads(&self) -> Result<Option<WorkloadsView>, Failure> {
        match self.admin.look("/api/v1/identity/workloads").await {
            Ok(view) => Ok(Some(view)),
            Err(AdminError::Failed { status: 404, .. }) => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Which regions of SPIRE there are, and which is in use.
    pub async fn regions(&self) -> Result<RegionsReport, Failure> {
        self.admin.look("/api/v1/regions").await.map_err(|error| self.beside(error))
    }

    /// What those who stand beside the node say when they cannot.
    fn beside(&self, error: AdminError) -> Failure {
        match error {
            AdminError::Failed { status: 400, text } => Failure::new(Exit::Usage, text),
            AdminError::Failed { status: 404, text } => Failure::new(Exit::Denied, text),
            AdminError::Failed { status: 503, text } => Failure::new(Exit::Error, text),
            other => self.failure(other),
        }
    }

    /// What it forwards.
    pub async fn forwards(&self) -> Result<Vec<ForwardView>, Failure> {
        self.admin.forwards().await.map_err(|error| self.failure(error))
    }

    /// Has it forward for as long as the lease is held.
    pub async fn forward(&self, forward: &Forward) -> Result<ForwardLease, Failure> {
        self.admin.forward(forward).await.map_err(|error| self.refusal(error))
    }

    /// Has it forward until told otherwise.
    pub async fn keep_forward(&self, forward: &Forward) -> Result<(), Failure> {
        self.admin.keep_forward(forward).await.map_err(|error| self.refusal(error))
    }

    /// Has it end a kept forward.
    pub async fn drop_forward(&self, forward: &Forward) -> Result<(), Failure> {
        self.admin.drop_forward(forward).await.map_err(|error| self.refusal(error))
    }

    /// What it exposes.
    pub async fn exposures(&self) -> Result<Vec<ExposureView>, Failure> {
        self.admin.exposures().await.map_err(|error| self.failure(error))
    }

    /// Has it let nodes reach a port of this host.
    pub async fn expose(&self, exposure: &Exposure) -> Result<(), Failure> {
        self.admin.expose(exposure).await.map_err(|error| self.refusal(error))
    }

    /// Has it let them no more.
    pub async fn conceal(&self, port: MeshPort) -> Result<(), Failure> {
        self.admin.conceal(port).await.map_err(|error| self.refusal(error))
    }

    /// What the node says about a request that makes no sense to it; anything else as ever.
    fn refusal(&self, error: AdminError) -> Failure {
        match error {
            AdminError::Failed { status: 400 | 404, text } => Failure::new(Exit::Usage, text),
            AdminError::Failed { status: 409, text } => Failure::new(Exit::Error, text),
            other => self.failure(other),
        }
    }

    /// The failure of a node that was there a moment ago.
    pub fn stopped() -> Failure {
        Failure::new(Exit::DaemonUnreachable, "the node has stopped").next("start it with `x0t up`")
    }

    fn failure(&self, error: AdminError) -> Failure {
        match error {
            AdminError::DaemonUnreachable { .. } => self.unreachable(),
            AdminError::Denied { .. } => Failure::new(Exit::Denied, "the daemon does not talk to this user")
                .next("run this as the user that runs the node, or as root"),
            AdminError::TimedOut(_) => Failure::new(Exit::Timeout, "the daemon does not answer")
                .because(error)
                .next(format!("see {}", crate::daemon::log_path(&self.state_dir).display())),
            AdminError::Failed { status, text } => {
                Failure::new(Exit::Error, format!("the daemon cannot do this: {text} (HTTP {status})"))
                    .next(format!("see {}", crate::daemon::log_path(&self.state_dir).display()))
            }
            other => Failure::new(Exit::Error, "the daemon's answer cannot be understood")
                .because(other)
                .next("if x0t was upgraded, restart the daemon: `x0t down`, then `x0t up`"),
        }
    }

    /// Nobody listens: because there is no node, because it may not be looked at, or because it does not run.
    fn unreachable(&self) -> Failure {
        match StateDir::inspect(&self.state_dir) {
            Ok(mesh) => Failure::new(Exit::DaemonUnreachable, format!("node {} is not running", mesh.name))
                .next("start it with `x0t up`"),
            Err(error) => state_dir_failure(error).with_exit(Exit::DaemonUnreachable),
        }
    }
}

/// A reply that does not belong to the command: the daemon is of another version.
pub fn unexpected(reply: &Reply) -> anyhow::Error {
    Failure::new(Exit::Error, "the daemon answered something else than was asked")
        .because(format!("{reply:?}"))
        .next("if x0t was upgraded, restart the daemon: `x0t down`, then `x0t up`")
        .into()
}
