//! Accepting connections, with bounds: how many at once, and how long a request may take to be said.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::access::Origin;

/// Connections on each listener. A browser opens six, and each open page holds one event stream.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must be complete within this time.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Requests have no long heads here.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After the end of the node, answers that are under way have this long to get out.
const DRAIN_DEADLINE: Duration = Duration::from_millis(200);
/// Out of file descriptors, say: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody else has the port.
    #[error("TCP port {} is in use on {}; choose another with --http ADDRESS:PORT, or --http off", .0.port(), .0.ip())]
    PortInUse(SocketAddr),
    /// The operating system refused the address.
    #[error("cannot serve HTTP on {address}; choose another with --http ADDRESS:PORT, or --http off")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused the socket.
    #[error("cannot create the admin socket {}", path.display())]
    Admin {
        /// Its path.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Sockets that are bound, so that what they refuse is known before the node starts.
#[derive(Debug)]
pub struct Listeners {
    /// For reading.
    pub tcp: Option<std::net::TcpListener>,
    /// For everything.
    pub admin: std::os::unix::net::UnixListener,
}

/// Binds the address that is read from.
///
/// # Errors
/// `PortInUse` naming the port and the flag, or what the operating system said.
pub fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, HttpError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => HttpError::PortInUse(address),
        _ => HttpError::Tcp { address, source },
    })
}

/// Creates the admin socket, for the own user only. The caller holds the lock of the state directory: a socket that is there already
/// was left behind by a process that is gone.
///
/// # Errors
/// What the operating system said.
pub fn bind_admin(path: &Path) -> Result<std::os::unix::net::UnixListener, HttpError> {
    let bind = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The directory is private, so nobody can connect before the mode is set.
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| HttpError::Admin { path: path.to_owned(), source })
}

/// Serves both until `stop` turns true, then lets answers that are under way get out.
///
/// # Errors
/// If a listener cannot be registered with the runtime.
pub async fn serve(
    listeners: Listeners,
    reading: Router,
    admin: Router,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let tcp = listeners.tcp.map(TcpListener::from_std).transpose()?;
    let unix = UnixListener::from_std(listeners.admin)?;
    tokio::join!(serve_tcp(tcp, reading, stop.clone()), serve_admin(unix, admin, stop));
    Ok(())
}

async fn serve_tcp(listener: Option<TcpListener>, router: Router, mut stop: watch::Receiver<bool>) {
    let Some(listener) = listener else { return };
    let mut connections = Connections::new(router, stop.clone());
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => return connections.drain().await,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match stream.local_addr() {
                Ok(local) => connections.spawn(stream, Origin::Tcp(local)),
                Err(error) => tracing::debug!(%error, "a connection was gone before it was served"),
            },
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn serve_admin(listener: UnixListener, router: Router, mut stop: watch::Receiver<bool>) {
    let mut connections = Connections::new(router, stop.clone());
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => return connections.drain().await,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // SO_PEERCRED: the process that connected, as the kernel saw it at that moment (unix(7)).
            Ok((stream, _)) => match rustix::net::sockopt::socket_peercred(&stream) {
                Ok(peer) => connections.spawn(stream, Origin::Admin { uid: peer.uid.as_raw() }),
                Err(error) => tracing::warn!(%error, "cannot tell who uses the admin socket"),
            },
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Ends when the daemon does; also if its end of the channel is simply gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

struct Connections {
    router: Router,
    stop: watch::Receiver<bool>,
    slots: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(router: Router, stop: watch::Receiver<bool>) -> Self {
        Self { router, stop, slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)), tasks: JoinSet::new() }
    }

    fn spawn(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, origin: Origin) {
        while self.tasks.try_join_next().is_some() {}
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            return tracing::warn!("{CONNECTIONS_MAX} connections are open; a further one is refused");
        };
        let router = self.router.clone().map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(origin);
            request
        });
        let mut stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _slot = slot;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }

    async fn drain(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Event streams never end by themselves: dropping the tasks closes them.
        let _ = tokio::time::timeout(DRAIN_DEADLINE, all).await;
    }
}
