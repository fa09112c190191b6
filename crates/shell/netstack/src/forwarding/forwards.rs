//! From this host into the mesh.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddrV6;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::registry::Counters;
use super::unix_listener::UnixListener;
use super::{Forwarding, ForwardingError, bind};
use crate::datagrams;
use crate::network::{Connected, DatagramPort};
use crate::relay::relay;
use crate::spec::{Forward, Listen, Protocol};

/// Forwards at once.
const FORWARDS_MAX: usize = 256;
/// Connections at once through one listener. Further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 256;
/// Out of file descriptors, say: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A local address that is taken may be free again after this long.
const BIND_PAUSE: Duration = Duration::from_secs(10);
/// What its owner may be told and has not read yet. Further news is lost.
const NOTICES_MAX: usize = 32;

/// A forward that lasts as long as this value.
#[derive(Debug)]
pub struct Lease {
    /// Where it is reached, with the port that the system chose.
    pub listen: Listen,
    /// What goes wrong meanwhile.
    pub notices: mpsc::Receiver<Notice>,
    _alive: oneshot::Sender<()>,
}

/// A connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who wanted it: an address, or `uid=N` at a Unix socket.
    pub from: String,
    /// Why not.
    pub reason: String,
}

/// A local address that is listened on.
enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
    Unix(UnixListener),
}

impl Bound {
    fn new(forward: &Forward) -> Result<Self, ForwardingError> {
        let failed = |source| ForwardingError::Listen { address: forward.listen.clone(), source };
        match (&forward.listen, forward.protocol) {
            (Listen::Address(address), Protocol::Tcp) => bind(*address).map(Self::Tcp),
            (Listen::Address(address), Protocol::Udp) => {
                let bound = std::net::UdpSocket::bind(address).and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                });
                bound.map(Self::Udp).map_err(failed)
            }
            (Listen::Unix(path), Protocol::Tcp) => UnixListener::bind(path).map(Self::Unix).map_err(failed),
            (Listen::Unix(_), Protocol::Udp) => Err(failed(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Where it is reached, if the system chose.
    fn chosen(&self) -> io::Result<Option<Listen>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(|address| Some(address.into())),
            Self::Udp(socket) => socket.local_addr().map(|address| Some(address.into())),
            Self::Unix(_) => Ok(None),
        }
    }
}

/// Forwards until the lease is dropped.
pub fn lease(forwarding: &Forwarding, mut forward: Forward) -> Result<Lease, ForwardingError> {
    let remote = forwarding.resolve(&forward.to)?;
    let mut registry = forwarding.registry();
    if registry.forward_count() >= FORWARDS_MAX {
        return Err(ForwardingError::TooMany(FORWARDS_MAX));
    }
    let bound = Bound::new(&forward)?;
    let failed = |source| ForwardingError::Listen { address: forward.listen.clone(), source };
    if let Some(chosen) = bound.chosen().map_err(failed)? {
        forward.listen = chosen;
    }
    let (alive, ended) = oneshot::channel();
    let (news, notices) = mpsc::channel(NOTICES_MAX);
    let (counters, path) = (Arc::<Counters>::default(), forwarding.clone());
    let task = forwarding.0.runtime.spawn({
        let counters = counters.clone();
        async move {
            tokio::select! {
                () = serve(&path, bound, remote, &counters, &news) => {}
                // Nothing is ever sent: it ends when the lease is dropped.
                _ = ended => {}
            }
        }
    });
    let listen = forward.listen.clone();
    registry.insert_forward(forward, false, counters, task.abort_handle());
    Ok(Lease { listen, notices, _alive: alive })
}

/// Forwards for good, as soon as the local address can be listened on.
pub fn keep(forwarding: &Forwarding, forward: Forward) -> Result<(), ForwardingError> {
    let remote = forwarding.resolve(&forward.to)?;
    let mut registry = forwarding.registry();
    if registry.forward_count() >= FORWARDS_MAX {
        return Err(ForwardingError::TooMany(FORWARDS_MAX));
    }
    let (counters, path) = (Arc::<Counters>::default(), forwarding.clone());
    let task = forwarding.0.runtime.spawn({
        let (counters, forward) = (counters.clone(), forward.clone());
        async move {
            let bound = loop {
                match Bound::new(&forward) {
                    Ok(bound) => break bound,
                    Err(error) => {
                        if counters.set_problem(Some(error.to_string())) {
                            tracing::warn!(%error, %forward, "a forward has to wait for its local address");
                        }
                        tokio::time::sleep(BIND_PAUSE).await;
                    }
                }
            };
            counters.set_problem(None);
            let (news, notices) = mpsc::channel(1);
            // Nobody reads them.
            drop(notices);
            serve(&path, bound, remote, &counters, &news).await;
        }
    });
    registry.insert_forward(forward, true, counters, task.abort_handle());
    Ok(())
}

async fn serve(
    forwarding: &Forwarding,
    bound: Bound,
    remote: SocketAddrV6,
    counters: &Arc<Counters>,
    news: &mpsc::Sender<Notice>,
) {
    match bound {
        Bound::Tcp(listener) => {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let next = |context: &mut Context<'_>| listener.poll_accept(context);
            accept(next, |client, from| {
                // A relay of many small writes: the client has decided what belongs together.
                let _ = client.set_nodelay(true);
                let (client, from) = (Connected::Kernel(client), from.to_string());
                connect_through(forwarding.clone(), client, from, remote, counters.clone(), news.clone())
            })
            .await;
        }
        Bound::Unix(bound) => {
            let Ok(listener) = bound.listen() else { return };
            let next = |context: &mut Context<'_>| listener.poll_accept(context);
            accept(next, |client, _| {
                let (from, client) = (user(&client), Connected::Local(client));
                connect_through(forwarding.clone(), client, from, remote, counters.clone(), news.clone())
            })
            .await;
        }
        Bound::Udp(socket) => {
            let Ok(socket) = UdpSocket::from_std(socket) else { return };
            let front = Arc::new(DatagramPort::kernel(socket));
            datagrams::relay(front, remote.into(), |_| true, || forwarding.0.network.open_udp(None)).await;
        }
    }
}

/// Who is at the other end of a Unix socket, as the kernel says.
fn user(client: &UnixStream) -> String {
    client.peer_cred().map_or_else(|_| "an unknown user".to_owned(), |cred| format!("uid={}", cred.uid()))
}

async fn connect_through(
    forwarding: Forwarding,
    client: Connected,
    from: String,
    remote: SocketAddrV6,
    counters: Arc<Counters>,
    news: mpsc::Sender<Notice>,
) {
    match forwarding.0.network.connect(remote).await {
        Ok(far) => {
            let _counted = counters.opened();
            if let Err(error) = relay(client, far).await {
                tracing::debug!(%error, %from, %remote, "a forwarded connection was broken off");
            }
        }
        Err(error) => {
            counters.failed();
            tracing::debug!(%error, %from, %remote, "a connection could not be forwarded");
            // A reader that does not keep up misses some.
            let _ = news.try_send(Notice { from, reason: error.to_string() });
            client.break_off();
        }
    }
}

/// Serves whoever connects, so many at once; `next` is who does. Never returns; what it has begun ends with it.
pub async fn accept<S, A, F: Future<Output = ()> + Send + 'static>(
    next: impl Fn(&mut Context<'_>) -> Poll<io::Result<(S, A)>>,
    serve: impl Fn(S, A) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = poll_fn(&next), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, from)) => drop(connections.spawn(serve(client, from))),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
