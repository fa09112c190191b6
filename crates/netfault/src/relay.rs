//! The shell around two channels: two UDP sockets and a timer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use x0t_model::{Instant, Seed};

use crate::{Channel, ChannelStats, Faults};

/// Datagrams taken from a socket before the other side and the timers get their turn.
const BATCH: usize = 64;
/// The largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;

/// One of the two ways through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the node on side `a` to the node on side `b`.
    AToB,
    /// From the node on side `b` to the node on side `a`.
    BToA,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::AToB, Self::BToA];
}

/// What became of a link's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    /// From `a` to `b`.
    pub a_to_b: ChannelStats,
    /// From `b` to `a`.
    pub b_to_a: ChannelStats,
}

/// A link between two nodes that does what it is told to their datagrams. Stops when dropped.
///
/// ```text
///   node a  <──>  facing_a │ relay │ facing_b  <──>  node b
/// ```
///
/// Node `a` is told `facing_a` as the address of its neighbour, and `b` is told `facing_b`. A side's address is the one
/// given to [`Self::bind`] until a datagram comes from another one: the last source heard gets the answers, as behind a
/// NAT, so that a program which joins from one port and then runs on another is reached on both.
#[derive(Debug)]
pub struct LinkRelay {
    facing_a: SocketAddr,
    facing_b: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    channels: Mutex<Channels>,
    /// A change of faults may bring a deadline forward.
    changed: Notify,
}

#[derive(Debug)]
struct Channels {
    a_to_b: Channel,
    b_to_a: Channel,
}

impl Channels {
    fn of(&mut self, direction: Direction) -> &mut Channel {
        match direction {
            Direction::AToB => &mut self.a_to_b,
            Direction::BToA => &mut self.b_to_a,
        }
    }
}

impl Shared {
    fn channels(&self) -> MutexGuard<'_, Channels> {
        // A channel is whole between any two of its statements, so a panic elsewhere leaves nothing half done.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkRelay {
    /// Opens the two sockets on free ports of the loopback address of each side's family and starts to forward between
    /// the node at `a` and the node at `b`. Must be called inside a tokio runtime. The dice grow from `seed`.
    pub async fn bind(a: SocketAddr, b: SocketAddr, seed: Seed) -> io::Result<Self> {
        let (socket_a, socket_b) = (open_towards(a).await?, open_towards(b).await?);
        let (facing_a, facing_b) = (socket_a.local_addr()?, socket_b.local_addr()?);
        let mut entropy = x0t_model::Entropy::new(seed);
        let channels = Channels { a_to_b: Channel::new(entropy.bytes()), b_to_a: Channel::new(entropy.bytes()) };
        let shared = Arc::new(Shared { channels: Mutex::new(channels), changed: Notify::new() });
        let sides = [Side { socket: socket_a, node: a }, Side { socket: socket_b, node: b }];
        let task = tokio::spawn(forward(sides, Arc::clone(&shared)));
        Ok(Self { facing_a, facing_b, shared, task })
    }

    /// Where node `a` finds its neighbour.
    pub fn facing_a(&self) -> SocketAddr {
        self.facing_a
    }

    /// Where node `b` finds its neighbour.
    pub fn facing_b(&self) -> SocketAddr {
        self.facing_b
    }

    /// What is wrong with one direction.
    pub fn faults(&self, direction: Direction) -> Faults {
        self.shared.channels().of(direction).faults()
    }

    /// Changes what is wrong with one direction. When this returns, no datagram passes under the old faults.
    pub fn set_faults(&self, direction: Direction, faults: Faults) {
        self.shared.channels().of(direction).set_faults(faults);
        self.shared.changed.notify_one();
    }

    /// Changes what is wrong with both directions at one instant.
    pub fn set_faults_both(&self, faults: Faults) {
        let mut channels = self.shared.channels();
        Direction::BOTH.into_iter().for_each(|direction| channels.of(direction).set_faults(faults));
        drop(channels);
        self.shared.changed.notify_one();
    }

    /// What became of everything so far.
    pub fn stats(&self) -> LinkStats {
        let channels = self.shared.channels();
        LinkStats { a_to_b: channels.a_to_b.stats(), b_to_a: channels.b_to_a.stats() }
    }
}

impl Drop for LinkRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn open_towards(node: SocketAddr) -> io::Result<UdpSocket> {
    let loopback = if node.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    UdpSocket::bind(SocketAddr::new(loopback, 0)).await
}

struct Side {
    socket: UdpSocket,
    node: SocketAddr,
}

/// Runs until the relay is dropped.
async fn forward(mut sides: [Side; 2], shared: Arc<Shared>) {
    let origin = tokio::time::Instant::now();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let now = Instant::ZERO + origin.elapsed();
        let deadline = pump(&sides, &shared, now);
        let [side_a, side_b] = &sides;
        let readable = tokio::select! {
            _ = side_a.socket.readable() => Some(Direction::AToB),
            _ = side_b.socket.readable() => Some(Direction::BToA),
            () = shared.changed.notified() => None,
            () = sleep_until(origin, deadline) => None,
        };
        if let Some(direction) = readable {
            let side = &mut sides[direction as usize];
            let now = Instant::ZERO + origin.elapsed();
            for _ in 0..BATCH {
                // An error is a neighbour that is away (ICMP) or an empty socket: either way there is nothing to carry.
                let Ok((len, from)) = side.socket.try_recv_from(&mut buffer) else { break };
                side.node = from;
                shared.channels().of(direction).handle_datagram(&buffer[..len], now);
            }
        }
    }
}

/// Sends what is due; says when the next datagram is. The lock is held while sending, so that a link which has been blocked
/// is silent from that instant: the sockets never wait.
fn pump(sides: &[Side; 2], shared: &Shared, now: Instant) -> Option<Instant> {
    let [side_a, side_b] = sides;
    let mut channels = shared.channels();
    for (direction, towards) in [(Direction::AToB, side_b), (Direction::BToA, side_a)] {
        while let Some(datagram) = channels.of(direction).poll_transmit(now) {
            // A full socket buffer or an unreachable node loses the datagram, as any link would.
            if let Err(error) = towards.socket.try_send_to(&datagram, towards.node) {
                tracing::trace!(%error, to = %towards.node, "datagram lost behind the relay");
            }
        }
    }
    channels.a_to_b.poll_timeout().into_iter().chain(channels.b_to_a.poll_timeout()).min()
}

async fn sleep_until(origin: tokio::time::Instant, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(origin + deadline.since(Instant::ZERO)).await,
        None => std::future::pending().await,
    }
}
