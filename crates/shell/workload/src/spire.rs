//! Administration of a SPIRE server: entries, bundles, federation, agents, the life of its keys.
//!
//! [`SpireServer`] speaks to the server's own Unix socket, where whoever may connect may do everything; so the socket's file
//! mode is the authorisation, as it is for `spire-server` itself. The vocabulary is the mesh's: an entry is an
//! [`Entry`](x0t_identity::Entry), whichever authority keeps it.
//!
//! ```text
//!  x0t entry … --authority spire ──► SpireServer ──► 100 calls at once, each with a deadline ──► /…/api.sock
//! ```
//!
//! A list is followed to its last page, also when no page size was asked for: the server may choose one. A batch has a result
//! per item, so one bad entry does not hide what became of the others. What the server says is bounded and checked; an entry
//! that the mesh's vocabulary cannot express is reported by its id instead of being lost or failing the list.

mod agents;
mod authorities;
mod bundles;
mod entries;
mod entry_form;
pub(crate) mod proto;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::service_fn;

pub use agents::{AgentView, JoinTokenForAgent};
pub use authorities::{KeyKind, KeyState, KeysView};
pub use bundles::{BundleProfile, Federation, SpireBundle, SpireJwtKey, WhenInUse};
pub use entries::{Created, EntryFilter, EntryList, ItemError, Unreadable};
pub use entry_form::{EntryFormError, SpireEntry};
use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{HealthCheckRequest, health_client::HealthClient};

/// The longest life of a token that is asked for: the mission's limit.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Calls at once to one server; more wait.
pub const CONCURRENT_CALLS_MAX: usize = 100;
/// The largest answer: a page of entries at their longest is below it, and gRPC's 4 MiB is not (checklist WC-7).
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;
/// Pages of one list: a server that never ends one is not listened to for ever.
const PAGES_MAX: usize = 10_000;

/// How to deal with a SPIRE server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpireConfig {
    /// Calls at once.
    pub concurrent_calls_max: usize,
    /// For one call, the wait for its turn included. Ten seconds: a server with a slow database answers in one.
    pub deadline: Duration,
    /// The longest life of tokens that entries may ask for.
    pub token_ttl_max: Duration,
}

impl Default for SpireConfig {
    fn default() -> Self {
        Self {
            concurrent_calls_max: CONCURRENT_CALLS_MAX,
            deadline: Duration::from_secs(10),
            token_ttl_max: TOKEN_TTL_MAX,
        }
    }
}

/// Why a call to a SPIRE server gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SpireError {
    /// No way to the server, or it says that it cannot serve.
    #[error("the SPIRE server at {socket} is not available")]
    Unavailable {
        /// Where.
        socket: PathBuf,
        /// What the transport says.
        #[source]
        source: Status,
    },
    /// No answer in time.
    #[error("{method} had no answer within {after:?}")]
    Deadline {
        /// The call.
        method: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server says that there is no such thing.
    #[error("{method}: not found")]
    NotFound {
        /// The call.
        method: &'static str,
    },
    /// The server refuses the call.
    #[error("{method} was refused: {message} ({code:?})")]
    Refused {
        /// The call.
        method: &'static str,
        /// As what.
        code: Code,
        /// The server's words.
        message: String,
    },
    /// The server answers with something that its interface does not allow.
    #[error("{method} was answered against the interface: {what}")]
    Protocol {
        /// The call.
        method: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// What was asked for cannot be said to SPIRE.
    #[error("the request cannot be expressed in SPIRE's terms")]
    Form(#[from] EntryFormError),
}

/// A SPIRE server, spoken to as its administrator. Cheap to clone; clones share connection and limits.
#[derive(Clone, Debug)]
pub struct SpireServer {
    channel: Channel,
    turns: Arc<Semaphore>,
    config: SpireConfig,
    socket: Arc<PathBuf>,
}

impl SpireServer {
    /// Of the server that listens at `socket`. Connects with the first call, and again after the connection is lost.
    pub fn at(socket: &Path, config: SpireConfig) -> Self {
        let socket = Arc::new(socket.to_owned());
        let path = socket.clone();
        let connect = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path.as_path()).await.map(TokioIo::new) }
        };
        // The host is never looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(config.deadline);
        let channel = endpoint.connect_with_connector_lazy(service_fn(connect));
        let turns = Arc::new(Semaphore::new(config.concurrent_calls_max));
        Self { channel, turns, config, socket }
    }

    /// The limits in force.
    pub const fn config(&self) -> SpireConfig {
        self.config
    }

    /// Whether the server says that it serves (gRPC health checking).
    pub async fn is_serving(&self) -> Result<bool, SpireError> {
        let check = |channel| async move { HealthClient::new(channel).check(HealthCheckRequest::default()).await };
        let answer = self.call("Health.Check", check).await?;
        Ok(answer.status() == ServingStatus::Serving)
    }

    /// One call: waits for its turn, has a deadline, and its failure has a name.
    async fn call<T, F>(&self, method: &'static str, call: impl FnOnce(Channel) -> F) -> Result<T, SpireError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let in_turn = async {
            // Never closed.
            let _turn = self.turns.acquire().await.map_err(|_| Status::aborted("shutting down"))?;
            call(self.channel.clone()).await
        };
        match tokio::time::timeout(self.config.deadline, in_turn).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.named(method, status)),
            Err(_) => Err(SpireError::Deadline { method, after: self.config.deadline }),
        }
    }

    fn named(&self, method: &'static str, status: Status) -> SpireError {
        match status.code() {
            Code::Unavailable => SpireError::Unavailable { socket: self.socket.to_path_buf(), source: status },
            Code::NotFound => SpireError::NotFound { method },
            Code::DeadlineExceeded => SpireError::Deadline { method, after: self.config.deadline },
            code => SpireError::Refused { method, code, message: bounded(status.message()) },
        }
    }

    /// Follows a list to its end. `page` gets a token and returns items and the next token.
    async fn pages<T, F>(&self, method: &'static str, mut page: impl FnMut(String) -> F) -> Result<Vec<T>, SpireError>
    where
        F: Future<Output = Result<(Vec<T>, String), SpireError>>,
    {
        let mut all = Vec::new();
        let mut token = String::new();
        for _ in 0..PAGES_MAX {
            let (items, next) = page(token.clone()).await?;
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            if next == token {
                return Err(SpireError::Protocol { method, what: "the same page token twice" });
            }
            token = next;
        }
        Err(SpireError::Protocol { method, what: "a list without end" })
    }
}

/// A foreign text for a person: bounded, and on one line.
fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
