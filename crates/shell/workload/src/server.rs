//! The Workload Endpoint: a Unix socket on which any process of this host asks who it is (SPIFFE Workload Endpoint and Workload
//! API; `WS` items of the checklist).
//!
//! # A stream's life
//!
//! A process connects; the kernel says which one. It calls `FetchX509SVID`. The call must carry the header that a browser cannot be
//! tricked into sending; the process must be within its limits; then it is attested, its entries are found, and the first message
//! goes out: the full state. From then on the stream sleeps until the source publishes a new snapshot. It waits a moment, so
//! that a burst of changes becomes one push and thousands of streams do not all run at once, attests the process anew, and sends
//! what it gets now, unless that is byte for byte what it was sent last. Callers with equal entitlements share one encoded message.

mod answers;
mod authority;
mod caller;
mod dispatch;
mod jwt;
mod limits;
mod push;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

pub(crate) use self::answers::{Answers, Entitlement};
use self::authority::Lenient;
pub(crate) use self::caller::Caller;
use self::dispatch::Dispatch;
pub(crate) use self::limits::{Call, Limits, Ticket};
pub use self::limits::{ServerCounts, ServerStats};
pub(crate) use self::push::Turns;
use crate::attest::Attestor;
use crate::source::IdentitySource;

/// How the endpoint serves. Every limit is there so that one process cannot take the endpoint away from the others.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Connections at once. Each holds two file descriptors: its socket and the pidfd of the process behind it.
    pub connections_max: usize,
    /// Connections of one process. Client libraries use one, rarely two.
    pub connections_per_process_max: usize,
    /// Open streams.
    pub streams_max: usize,
    /// Open streams of one process. Client libraries use one for each kind: X.509-SVIDs, X.509 bundles, JWT bundles.
    pub streams_per_process_max: usize,
    /// Calls that one process may make in a second, in the long run: a service that fetches a token for each request it makes.
    pub calls_per_second: u32,
    /// Calls that one process may make at once.
    pub calls_burst: u32,
    /// A change is held back this long, so that a burst of changes becomes one push.
    pub coalesce: Duration,
    /// The least time between two pushes on one stream.
    pub push_interval_min: Duration,
    /// Pushes of one change are spread over 20 us for each open stream, but at most over this time. Attesting a process anew takes
    /// about that long, so it costs no time, and the first are not kept waiting by the last.
    pub splay_max: Duration,
    /// A message that its reader has not taken after this time ends the connection.
    pub send_deadline: Duration,
    /// A connection without an open call for this long is closed; clients open another when they need one.
    pub idle_deadline: Duration,
    /// The first call must arrive this soon after the connection.
    pub greeting_deadline: Duration,
    /// The largest program whose digest is computed, in bytes. Large enough for what compilers with a runtime inside produce.
    pub program_len_max: u64,
    /// Claims of tokens from foreign trust domains that `ValidateJWTSVID` passes on, besides those that SPIFFE defines (JW-14).
    pub foreign_claims: BTreeSet<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connections_per_process_max: 64,
            streams_max: 16_384,
            streams_per_process_max: 128,
            calls_per_second: 500,
            calls_burst: 1000,
            coalesce: Duration::from_millis(5),
            push_interval_min: Duration::from_millis(100),
            splay_max: Duration::from_millis(300),
            send_deadline: Duration::from_secs(30),
            idle_deadline: Duration::from_secs(600),
            greeting_deadline: Duration::from_secs(10),
            program_len_max: 256 << 20,
            foreign_claims: BTreeSet::new(),
        }
    }
}

/// How often limits that depend on time are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Out of file descriptors, say: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After the end of the endpoint, answers that are under way have this long to get out.
const DRAIN_DEADLINE: Duration = Duration::from_millis(500);
/// Bytes of the headers of one call.
const HEADERS_LEN_MAX: u32 = 16 * 1024;
/// Bytes that are buffered for one stream whose reader is slow.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// Bytes of requests that may be under way on one connection. The largest request is 64 KiB.
const WINDOW_LEN: u32 = 64 * 1024;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the Workload API socket {}", path.display())]
pub struct BindError {
    /// Its path.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// Creates the socket. Every process may connect: the answer depends on who it is. The caller makes sure that no other server uses
/// the path; a socket that is there already was left behind, and anything else that is there is left alone. The directory is made, for
/// everybody to look into, if it is not there.
///
/// # Errors
/// What the operating system said.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let bind = || {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if StdUnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
            && !directory.exists()
        {
            std::fs::create_dir(directory)?;
            // Whatever the umask says.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| BindError { path: path.to_owned(), source })
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn IdentitySource>,
    pub(crate) config: ServerConfig,
    pub(crate) attestor: Attestor,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stop: watch::Receiver<bool>,
    answers: std::sync::Mutex<Arc<Answers>>,
}

/// The Workload Endpoint.
pub struct WorkloadServer {
    shared: Arc<Shared>,
}

impl WorkloadServer {
    /// An endpoint that serves what `source` has, until `stop` turns true.
    pub fn new(source: Arc<dyn IdentitySource>, config: ServerConfig, stop: watch::Receiver<bool>) -> Self {
        let answers = Arc::new(Answers::new(source.identities().borrow().clone()));
        let shared = Shared {
            source,
            attestor: Attestor::new(config.program_len_max),
            limits: Arc::new(Limits::new(&config)),
            config,
            stop,
            answers: std::sync::Mutex::new(answers),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What it counts.
    pub fn stats(&self) -> Arc<ServerStats> {
        self.shared.limits.stats()
    }

    /// Serves `listener`.
    ///
    /// # Errors
    /// If the listener cannot be registered with the runtime.
    pub async fn serve(self, listener: UnixListener) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let mut stop = self.shared.stop.clone();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                _ = sweep.tick() => self.shared.limits.sweep(),
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection to the Workload API");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        // Clients that keep their connection open are cut off when the set is dropped.
        drop(tokio::time::timeout(DRAIN_DEADLINE, drained).await);
        Ok(())
    }

    fn accept(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        let Some(caller) = Caller::new(&stream, &self.shared.limits) else { return };
        let caller = Arc::new(caller);
        let dispatch = Dispatch::new(Arc::clone(&self.shared), Arc::clone(&caller));
        let mut stop = self.shared.stop.clone();
        let streams_max = u32::try_from(self.shared.config.streams_per_process_max).unwrap_or(u32::MAX);
        connections.spawn(async move {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(streams_max)
                .max_header_list_size(HEADERS_LEN_MAX)
                .max_send_buf_size(SEND_BUFFER_MAX)
                .initial_stream_window_size(WINDOW_LEN)
                .initial_connection_window_size(WINDOW_LEN)
                .serve_connection(TokioIo::new(Lenient::new(stream)), TowerToHyperService::new(dispatch));
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = caller.evicted() => return,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the Workload API ended early");
            }
        });
    }
}

impl Shared {
    /// The answers that follow from the newest snapshot.
    pub(crate) fn answers(&self, newest: &Arc<crate::identities::Identities>) -> Arc<Answers> {
        let mut current = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Streams wake up one after the other; one that was slow must not bring an older snapshot back.
        if newest.generation() > current.generation() {
            *current = Arc::new(Answers::new(Arc::clone(newest)));
        }
        Arc::clone(&current)
    }
}

/// Ends when the endpoint does; also if its end of the channel is simply gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
