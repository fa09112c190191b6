//! The process at the other end of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::Status;
use x0t_identity::Selectors;

use super::limits::{Connection, Limits, Open};
use crate::attest::{AttestError, Attestor, Process, Wanted};
use crate::identities::Identities;

/// A process that connected.
pub(crate) struct Caller {
    process: Process,
    /// What it was found to be, and for which generation.
    attested: tokio::sync::Mutex<Option<(u64, Arc<Selectors>)>>,
    connection: Open,
}

impl Caller {
    /// `None` if nobody is there any more, or one of its limits is reached.
    pub(crate) fn new(stream: &UnixStream, limits: &Arc<Limits>) -> Option<Self> {
        let who = Process::of_peer(stream).and_then(|process| Ok((process, Process::user_of_peer(stream)?)));
        let (process, user) = match who {
            Ok(who) => who,
            Err(error) => {
                tracing::debug!(%error, "a connection to the Workload API was not attributed to a process");
                limits.count(|stats| &stats.connections_unattributed);
                return None;
            }
        };
        let connection = Open(limits.connect(process.pid(), user)?);
        Some(Self { process, attested: tokio::sync::Mutex::default(), connection })
    }

    /// Looks at the process.
    pub(crate) async fn attest(&self, attestor: &Attestor, identities: &Identities) -> Result<Arc<Selectors>, Status> {
        let mut attested = self.attested.lock().await;
        let wanted = Wanted { sha256: identities.wants_sha256() };
        let found = attestor.attest(&self.process, wanted).await;
        match found {
            Ok(selectors) => {
                let selectors = Arc::new(selectors);
                *attested = Some((identities.generation(), Arc::clone(&selectors)));
                Ok(selectors)
            }
            Err(error) => {
                *attested = None;
                Err(refusal(&error, self.process.pid()))
            }
        }
    }

    /// Looks at the process, once for each generation: all streams of a connection are pushed the same snapshot at the same time.
    pub(crate) async fn attest_for_push(
        &self,
        attestor: &Attestor,
        identities: &Identities,
    ) -> Result<Arc<Selectors>, Status> {
        if let Some((generation, selectors)) = &*self.attested.lock().await
            && *generation == identities.generation()
            && self.process.is_alive()
        {
            return Ok(Arc::clone(selectors));
        }
        self.attest(attestor, identities).await
    }

    /// What is counted of it.
    pub(crate) const fn connection(&self) -> &Arc<Connection> {
        &self.connection.0
    }

    /// Ends when the connection is to be cut.
    pub(crate) async fn evicted(&self) {
        self.connection.0.evicted().await;
    }
}

/// Selectors may be secrets, so neither log nor answer says more than the kind of failure (checklist WS-4).
fn refusal(error: &AttestError, pid: i32) -> Status {
    tracing::debug!(%error, pid, "a caller of the Workload API could not be attested");
    match error {
        AttestError::Gone => Status::unauthenticated("the calling process has exited"),
        error => Status::unavailable(format!("the calling process could not be attested: {error}")),
    }
}

/// Tells a connection that it is over.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    is_over: AtomicBool,
    notify: Notify,
}

impl Eviction {
    /// Whether this is news.
    pub(crate) fn evict(&self) -> bool {
        let is_news = !self.is_over.swap(true, Ordering::Relaxed);
        // Stores a permit if nobody waits at this moment.
        self.notify.notify_one();
        is_news
    }

    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}
