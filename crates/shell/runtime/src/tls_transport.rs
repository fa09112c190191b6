//! The fallback for networks that block UDP: the datagrams of a session, each behind its length, in a TLS 1.3 connection over TCP.
//!
//! Where UDP passes nothing here is used. Where it does not, a node connects to port 443 of its peer and sends what it would have
//! sent as datagrams. Loss stays loss: a connection that cannot keep up drops what is late, so that the TCP inside sees a
//! network that loses packets and not one that grows seconds long.
//!
//! Each connection has a task; all talk to the event loop through one bounded queue. Neither side knows by this layer who the
//! other is: a stranger may connect and send frames, as it may send datagrams, and is judged by the same handshake. So what strangers
//! can hold is bounded: connections in total and from one network, the time for a handshake, the time without a whole frame.

mod connection;
mod frame;
mod outer_tls;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x0t_model::Instant;

use self::connection::{Queued, carry, tune};
pub use self::frame::FRAME_BYTES_MAX;
pub use self::outer_tls::OuterTlsError;
use crate::clock::Clock;

/// Connections that were called for, and as many that others made: strangers cannot use up what this node needs for itself.
const CONNECTIONS_MAX: usize = 256;
/// Connections that came from one IPv4 address or IPv6 /64. An office behind one address is still a few nodes only.
const CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// How long a TCP connection may take to be made, and TLS after it.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Datagrams that wait for one connection.
const OUTBOUND_MAX: usize = 128;
/// What waits for the event loop.
const NEWS_MAX: usize = 256;
/// An address is not called again this soon after it could not be reached.
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// Who called and left is not called back: the port it called from listens to nobody. By this time sessions have ended.
const CALL_BACK: Duration = Duration::from_secs(60);
/// Addresses remembered for the two times above, and failures that wait to be told.
const REMEMBERED_MAX: usize = 1024;
/// How long to wait when the process or the host has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error("TCP port {} is in use on {}; choose another with --listen-tls", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The operating system refused.
    #[error("cannot listen on TCP {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStats {
    /// Frames received.
    pub frames_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Datagrams handed to a connection.
    pub frames_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Datagrams dropped because their connection did not keep up.
    pub frames_dropped_full: u64,
    /// Datagrams dropped because there is no connection and none may be made.
    pub frames_dropped_unconnected: u64,
    /// Datagrams that are empty or too long for a frame.
    pub frames_dropped_size: u64,
    /// Connections that others made.
    pub connections_accepted: u64,
    /// Connections made.
    pub connections_made: u64,
    /// Connections that could not be made.
    pub connections_failed: u64,
    /// Connections closed because the peer does not speak the protocol.
    pub connections_refused: u64,
    /// Connections that are open.
    pub connections_open: u64,
}

/// A datagram that came out of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The TCP address of the other end.
    pub from: SocketAddr,
    /// The datagram.
    pub bytes: Vec<u8>,
}

/// What connections tell.
#[derive(Debug)]
enum News {
    /// Somebody connected and speaks TLS.
    Accepted { peer: SocketAddr, number: u64, outbound: mpsc::Sender<Queued> },
    /// A connection that was asked for is there.
    Made { peer: SocketAddr },
    /// A connection that was asked for will not be there.
    Failed { peer: SocketAddr, number: u64, reason: String },
    /// A datagram.
    Frame(Arrival),
    /// A connection is over.
    Ended { peer: SocketAddr, number: u64, end: connection::End },
}

#[derive(Debug)]
struct Connection {
    /// Tells two connections with the same address apart.
    number: u64,
    outbound: mpsc::Sender<Queued>,
    /// Of the task, if it is this side's.
    calling: Option<AbortHandle>,
}

/// A socket that is bound, so that what the host refuses is known before the node starts.
#[derive(Debug)]
pub struct TlsListener(TcpListener);

impl TlsListener {
    /// Listens on a TCP address.
    ///
    /// # Errors
    /// `InUse` with the port, or what the operating system said.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        bind().map(Self).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            _ => ListenError::Io { address, source },
        })
    }

    /// What it is bound to.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// All connections of a node.
#[derive(Debug)]
pub struct TlsTransport {
    client: Arc<ClientConfig>,
    connections: BTreeMap<SocketAddr, Connection>,
    /// Not to be called before.
    not_before: BTreeMap<SocketAddr, Instant>,
    failures: BTreeMap<SocketAddr, String>,
    news: mpsc::Receiver<News>,
    /// Read already, to find out that there is some.
    first_news: Option<News>,
    tell: mpsc::Sender<News>,
    accepting: Option<AbortHandle>,
    next_number: u64,
    stats: TlsStats,
}

impl TlsTransport {
    /// Ready to call, and to be called if there is a listener. Must be made inside the runtime that will drive it.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(listener: Option<TlsListener>) -> Result<Self, OuterTlsError> {
        Self::with_patience(listener, HANDSHAKE_MAX)
    }

    /// Callers have `patience` for their handshake.
    fn with_patience(listener: Option<TlsListener>, patience: Duration) -> Result<Self, OuterTlsError> {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let accepting = match listener {
            Some(listener) => {
                let acceptor = Acceptor { config: outer_tls::server()?, patience, tell: tell.clone() };
                Some(tokio::spawn(acceptor.run(listener.0)).abort_handle())
            }
            None => None,
        };
        Ok(Self {
            client: outer_tls::client()?,
            connections: BTreeMap::new(),
            not_before: BTreeMap::new(),
            failures: BTreeMap::new(),
            news,
            first_news: None,
            tell,
            accepting,
            next_number: 0,
            stats: TlsStats::default(),
        })
    }

    /// What was counted.
    pub fn stats(&self) -> TlsStats {
        TlsStats { connections_open: self.connections.len() as u64, ..self.stats }
    }

    /// Ready if there is something for [`Self::receive`]; if not, whoever asks is woken when there is.
    pub fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.first_news.is_none() {
            // Never over: this side keeps a sender.
            self.first_news = ready!(self.news.poll_recv(context));
        }
        Poll::Ready(())
    }

    /// Waits until there is something for [`Self::receive`]. Cancel safe.
    pub async fn readable(&mut self) {
        poll_fn(|context| self.poll_readable(context)).await;
    }

    /// The next datagram that has arrived.
    pub fn receive(&mut self) -> Option<Arrival> {
        loop {
            match self.first_news.take().or_else(|| self.news.try_recv().ok())? {
                News::Frame(arrival) => {
                    self.stats.frames_received += 1;
                    self.stats.bytes_received += arrival.bytes.len() as u64;
                    return Some(arrival);
                }
                News::Accepted { peer, number, outbound } => {
                    self.stats.connections_accepted += 1;
                    self.connections.insert(peer, Connection { number, outbound, calling: None });
                }
                News::Made { peer } => {
                    self.stats.connections_made += 1;
                    self.failures.remove(&peer);
                }
                News::Failed { peer, number, reason } => {
                    self.stats.connections_failed += 1;
                    self.forget(peer, number, CALL_AGAIN);
                    if self.failures.len() < REMEMBERED_MAX {
                        self.failures.insert(peer, reason);
                    }
                }
                News::Ended { peer, number, end } => {
                    tracing::debug!(%peer, %end, "a TLS connection ended");
                    self.stats.connections_refused += u64::from(matches!(end, connection::End::Frame(_)));
                    let called = self.connections.get(&peer).is_some_and(|connection| connection.calling.is_some());
                    self.forget(peer, number, if called { CALL_AGAIN } else { CALL_BACK });
                }
            }
        }
    }

    /// Addresses that could not be reached since the last look, and why.
    pub fn take_failures(&mut self) -> BTreeMap<SocketAddr, String> {
        std::mem::take(&mut self.failures)
    }

    /// Sends a datagram through the connection to `to`; calls if there is none. What the connection cannot take is dropped.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let len = bytes.len();
        if !(1..=FRAME_BYTES_MAX).contains(&len) {
            self.stats.frames_dropped_size += 1;
            return;
        }
        if !self.connections.contains_key(&to) && !self.call(to) {
            self.stats.frames_dropped_unconnected += 1;
            return;
        }
        let Some(connection) = self.connections.get(&to) else { return };
        match connection.outbound.try_send(Queued { since: Clock.now(), bytes: bytes.to_vec() }) {
            Ok(()) => {
                self.stats.frames_sent += 1;
                self.stats.bytes_sent += len as u64;
            }
            Err(TrySendError::Full(_)) => self.stats.frames_dropped_full += 1,
            // Its end is in the news that were not read yet.
            Err(TrySendError::Closed(_)) => self.stats.frames_dropped_unconnected += 1,
        }
    }

    fn call(&mut self, to: SocketAddr) -> bool {
        let now = Clock.now();
        self.not_before.retain(|_, until| *until > now);
        let called = self.connections.values().filter(|connection| connection.calling.is_some()).count();
        if self.not_before.contains_key(&to) || called >= CONNECTIONS_MAX {
            return false;
        }
        let (outbound, queued) = mpsc::channel(OUTBOUND_MAX);
        // Odd numbers for calls, even ones for those who call.
        self.next_number += 2;
        let number = self.next_number | 1;
        let (config, tell) = (self.client.clone(), self.tell.clone());
        let calling = tokio::spawn(async move {
            let stream = match dial(config, to).await {
                Ok(stream) => stream,
                Err(error) => {
                    let reason = error.to_string();
                    drop(tell.send(News::Failed { peer: to, number, reason }).await);
                    return;
                }
            };
            if tell.send(News::Made { peer: to }).await.is_ok() {
                let end = carry(stream, to, queued, &tell).await;
                drop(tell.send(News::Ended { peer: to, number, end }).await);
            }
        });
        self.connections.insert(to, Connection { number, outbound, calling: Some(calling.abort_handle()) });
        true
    }

    fn forget(&mut self, peer: SocketAddr, number: u64, pause: Duration) {
        if self.connections.get(&peer).is_some_and(|connection| connection.number == number) {
            self.connections.remove(&peer);
            if self.not_before.len() < REMEMBERED_MAX {
                self.not_before.insert(peer, Clock.now() + pause);
            }
        }
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        let calls = self.connections.values().filter_map(|connection| connection.calling.as_ref());
        calls.chain(&self.accepting).for_each(AbortHandle::abort);
    }
}

async fn dial(config: Arc<ClientConfig>, to: SocketAddr) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer");
    let tcp = timeout(HANDSHAKE_MAX, TcpStream::connect(to)).await.map_err(late)??;
    tune(&tcp)?;
    // An address is not put into the server name (RFC 6066 section 3); what is connected to is an address.
    let connecting = TlsConnector::from(config).connect(ServerName::IpAddress(to.ip().into()), tcp);
    timeout(HANDSHAKE_MAX, connecting).await.map_err(late)?
}

/// What counts as one origin: the lower half of an IPv6 address is free to choose.
fn source(address: SocketAddr) -> u128 {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// Takes calls.
#[derive(Clone)]
struct Acceptor {
    config: Arc<ServerConfig>,
    patience: Duration,
    tell: mpsc::Sender<News>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let (mut tasks, mut sources, mut number) = (JoinSet::new(), BTreeMap::<u128, usize>::new(), 0);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let from_source = sources.entry(source(peer)).or_default();
                        // Over the bound it is hung up on at once, before anything is spent on it.
                        if *from_source < CONNECTIONS_PER_SOURCE_MAX && tasks.len() < CONNECTIONS_MAX {
                            *from_source += 1;
                            number += 2;
                            let serving = self.clone().serve(stream, peer, number);
                            tasks.spawn(async move {
                                serving.await;
                                source(peer)
                            });
                        }
                    }
                    // Of one connection, or because there are no more descriptors: neither ends the listening.
                    Err(error) => {
                        tracing::debug!(%error, "a TCP connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(over) = tasks.join_next() => {
                    if let Ok(source) = over
                        && let Some(count) = sources.get_mut(&source)
                    {
                        *count -= 1;
                        if *count == 0 {
                            sources.remove(&source);
                        }
                    }
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, number: u64) {
        let Self { config, patience, tell } = self;
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "a TCP connection could not be set up");
            return;
        }
        let stream = match timeout(patience, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => return tracing::debug!(%peer, "no TLS within {patience:?}"),
        };
        let (outbound, queued) = mpsc::channel(OUTBOUND_MAX);
        if tell.send(News::Accepted { peer, number, outbound }).await.is_ok() {
            let end = carry(stream, peer, queued, &tell).await;
            drop(tell.send(News::Ended { peer, number, end }).await);
        }
    }
}

#[cfg(test)]
mod tests;
