//! The underlay: one UDP socket for each address family.
//!
//! Receives many at once (recvmmsg), each a run of datagrams that the kernel coalesced (GRO), with the interface it came by. Sends
//! a run in one call (GSO), or in as many as it takes where the kernel or the device cannot do that; queues what the kernel cannot
//! take yet. Addresses that the kernel says it cannot reach are collected.

mod outlet;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use quinn_udp::{RecvMeta, UdpSocketState};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use x0t_node::Train;

use crate::poller::{EventFlags, Poller, Ready, Source};

pub use outlet::UdpSender;
use outlet::{Elsewhere, Hints, Outlet, Sending};

/// Trains taken from the kernel at once.
const BATCH: usize = 16;
/// What is asked for; the kernel grants up to net.core.{r,w}mem_max. 4 MiB is 30 ms of traffic at 1 Gb/s.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Trains that wait for the kernel, for each family. Who sends is to look at [`UdpSockets::is_flushed`] first; this bounds those
/// who do not.
const QUEUE_MAX: usize = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing to listen on.
    #[error("no UDP address to listen on")]
    Nothing,
    /// Two addresses of one family.
    #[error("at most one UDP address for each of IPv4 and IPv6, but both {0} and {1} are given")]
    TwoOfOneFamily(SocketAddr, SocketAddr),
    /// Somebody else has it.
    #[error("UDP port {} is in use on {}; is x0t running already? choose another with --listen", .0.port(), .0.ip())]
    InUse(SocketAddr),
    /// The operating system refused.
    #[error("cannot listen on UDP {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// What the sockets have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpStats {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// System calls that sent them.
    pub send_calls: u64,
    /// Trains that came from the kernel in one piece.
    pub trains_received: u64,
    /// Datagrams that had to wait for the kernel.
    pub datagrams_queued: u64,
    /// Datagrams dropped because too many waited.
    pub datagrams_dropped_queue_full: u64,
    /// Datagrams dropped because no socket of their address family is open.
    pub datagrams_dropped_no_socket: u64,
    /// Datagrams larger than the underlay takes.
    pub datagrams_dropped_too_big: u64,
    /// Datagrams that the kernel refused for any other reason.
    pub datagrams_refused: u64,
    /// Runs that a device could not send in one call, so that its datagrams went one by one.
    pub segmentation_refused: u64,
    /// ICMP errors about destinations.
    pub icmp_errors: u64,
    /// Errors while receiving.
    pub receive_errors: u64,
}

impl UdpStats {
    /// Adds what was counted elsewhere.
    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.datagrams_received, other.datagrams_received),
            (&mut self.bytes_received, other.bytes_received),
            (&mut self.datagrams_sent, other.datagrams_sent),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.send_calls, other.send_calls),
            (&mut self.trains_received, other.trains_received),
            (&mut self.datagrams_queued, other.datagrams_queued),
            (&mut self.datagrams_dropped_queue_full, other.datagrams_dropped_queue_full),
            (&mut self.datagrams_dropped_no_socket, other.datagrams_dropped_no_socket),
            (&mut self.datagrams_dropped_too_big, other.datagrams_dropped_too_big),
            (&mut self.datagrams_refused, other.datagrams_refused),
            (&mut self.segmentation_refused, other.segmentation_refused),
            (&mut self.icmp_errors, other.icmp_errors),
            (&mut self.receive_errors, other.receive_errors),
        ] {
            *sum += more;
        }
    }
}

/// The sockets of a node.
#[derive(Debug)]
pub struct UdpSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    hints: Hints,
    stats: UdpStats,
    elsewhere: Arc<Mutex<Elsewhere>>,
    /// Whether runs are sent in one call.
    segments: bool,
}

#[derive(Debug)]
struct Socket {
    outlet: Arc<Outlet>,
    /// What the poller has said and nobody has looked at.
    ready: EventFlags,
    local: SocketAddr,
    queue: VecDeque<Sending>,
}

impl UdpSockets {
    /// Listens on `addresses`, at most one for each family. An unspecified IPv6 address on a host without IPv6 is left out as long
    /// as another address is there.
    ///
    /// # Errors
    /// `InUse` with the port, or what the operating system said.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, BindError> {
        let mut sockets = Self {
            v4: None,
            v6: None,
            hints: Hints::default(),
            stats: UdpStats::default(),
            elsewhere: Arc::default(),
            segments: true,
        };
        for &address in addresses {
            let optional = address.is_ipv6() && address.ip().is_unspecified() && addresses.len() > 1;
            let place = if address.is_ipv4() { &mut sockets.v4 } else { &mut sockets.v6 };
            if let Some(other) = place {
                return Err(BindError::TwoOfOneFamily(other.local, address));
            }
            match Socket::bind(address) {
                Ok(socket) => *place = Some(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(BindError::InUse(address)),
                Err(error) if optional && is_family_missing(&error) => {
                    tracing::info!(%error, "this host has no IPv6; listening on IPv4 only");
                }
                Err(source) => return Err(BindError::Io { address, source }),
            }
        }
        if sockets.v4.is_none() && sockets.v6.is_none() { Err(BindError::Nothing) } else { Ok(sockets) }
    }

    /// Sends every datagram in a call of its own from here on, for devices and drivers that do not segment rightly.
    pub fn send_singly(&mut self) {
        self.segments = false;
    }

    /// What the sockets are bound to.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.v4.iter().chain(&self.v6).map(|socket| socket.local).collect()
    }

    /// What was counted.
    pub fn stats(&self) -> UdpStats {
        let mut stats = self.stats;
        stats.add(&self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).stats);
        stats
    }

    /// What sends on another thread.
    pub fn sender(&self) -> UdpSender {
        let outlet = |socket: &Option<Socket>| socket.as_ref().map(|socket| Arc::clone(&socket.outlet));
        let (v4, v6) = (outlet(&self.v4), outlet(&self.v6));
        UdpSender { v4, v6, segments: self.segments, elsewhere: Arc::clone(&self.elsewhere) }
    }

    /// Has the sockets watched: for arrivals if they are wanted, and for room while something waits for it. A socket that were watched for
    /// room always would have some after every datagram.
    ///
    /// # Errors
    /// Those of [`Poller::watch`].
    pub fn watch(&self, poller: &mut Poller, arrivals: bool) -> io::Result<()> {
        for (source, socket) in [(Source::UdpV4, &self.v4), (Source::UdpV6, &self.v6)] {
            let Some(socket) = socket else { continue };
            let mut interest = EventFlags::empty();
            interest.set(EventFlags::IN, arrivals);
            interest.set(EventFlags::OUT, !socket.queue.is_empty());
            poller.watch(source, &socket.outlet.raw, interest)?;
        }
        Ok(())
    }

    /// The poller has found something for [`Self::receive`], be it an error, or room for [`Self::flush`].
    pub fn wake(&mut self, ready: &Ready) {
        for (source, socket) in [(Source::UdpV4, &mut self.v4), (Source::UdpV6, &mut self.v6)] {
            if let Some(socket) = socket {
                socket.ready |= ready.of(source);
            }
        }
    }

    /// Takes what has arrived, at most one batch from each socket, into buffers of `spare`. Returns whether a batch was full, so
    /// that more is likely.
    pub fn receive(&mut self, batch: &mut Batch, mut spare: impl FnMut() -> Train) -> bool {
        let mut full = false;
        for socket in self.v4.iter_mut().chain(&mut self.v6) {
            let ready = std::mem::replace(&mut socket.ready, EventFlags::empty());
            if ready.contains(EventFlags::ERR) {
                socket.outlet.read_errors(&mut self.hints, &mut self.stats);
            }
            if !ready.contains(EventFlags::IN) {
                continue;
            }
            match socket.receive(batch, &mut spare) {
                Ok(BATCH) => {
                    socket.ready |= EventFlags::IN;
                    full = true;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A pending error of an earlier datagram; the error queue says which.
                Err(_) => self.stats.receive_errors += 1,
            }
        }
        for received in &batch.received {
            self.stats.bytes_received += received.train.len() as u64;
            self.stats.datagrams_received += received.train.count() as u64;
            self.stats.trains_received += 1;
        }
        full
    }

    /// Sends, now or as soon as the kernel takes it. Gives the train back once nobody needs it.
    pub fn send(&mut self, to: SocketAddr, train: Train) -> Option<Train> {
        let place = if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let Some(socket) = place else {
            self.stats.datagrams_dropped_no_socket += train.count() as u64;
            self.hints.note_unreachable(to);
            return Some(train);
        };
        let mut sending = Sending::new(to, train);
        if socket.queue.is_empty()
            && socket.outlet.try_send(&mut sending, self.segments, &mut self.hints, &mut self.stats)
        {
            return Some(sending.train);
        }
        let left = sending.left();
        if socket.queue.len() < QUEUE_MAX {
            socket.queue.push_back(sending);
            self.stats.datagrams_queued += left;
            None
        } else {
            self.stats.datagrams_dropped_queue_full += left;
            Some(sending.train)
        }
    }

    /// Sends what had to wait, as far as the kernel takes it. Trains that nobody needs any more go to `spent`.
    pub fn flush(&mut self, mut spent: impl FnMut(Train)) {
        for socket in self.v4.iter_mut().chain(&mut self.v6) {
            while let Some(mut sending) = socket.queue.pop_front() {
                if !socket.outlet.try_send(&mut sending, self.segments, &mut self.hints, &mut self.stats) {
                    socket.queue.push_front(sending);
                    break;
                }
                spent(sending.train);
            }
        }
    }

    /// Whether nothing waits for the kernel.
    pub fn is_flushed(&self) -> bool {
        self.v4.iter().chain(&self.v6).all(|socket| socket.queue.is_empty())
    }

    /// Addresses that the kernel could not reach since the last look. A hint: anybody may forge an ICMP error.
    pub fn take_unreachable(&mut self) -> BTreeSet<SocketAddr> {
        self.gather();
        std::mem::take(&mut self.hints.unreachable)
    }

    /// Addresses that the kernel refused to send a datagram to because the device takes no such length, and the shortest such length
    /// since the last look. Not from the network: an ICMP error does not count.
    pub fn take_too_big(&mut self) -> BTreeMap<SocketAddr, usize> {
        self.gather();
        std::mem::take(&mut self.hints.too_big)
    }

    /// Takes over what was heard elsewhere.
    fn gather(&mut self) {
        let Ok(mut elsewhere) = self.elsewhere.try_lock() else { return };
        let Hints { unreachable, too_big } = std::mem::take(&mut elsewhere.hints);
        drop(elsewhere);
        unreachable.into_iter().for_each(|to| self.hints.note_unreachable(to));
        too_big.into_iter().for_each(|(to, len)| self.hints.note_too_big(to, len));
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

impl Socket {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let raw = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // IPv4 has a socket of its own, so that no peer ever appears under two addresses.
            raw.set_only_v6(true)?;
        }
        raw.set_nonblocking(true)?;
        raw.bind(&address.into())?;
        let state = UdpSocketState::new((&raw).into())?;
        // Larger than the limit of an unprivileged process is no error: the kernel then grants what it can.
        let _ = state.set_recv_buffer_size((&raw).into(), SOCKET_BUFFER_BYTES);
        let _ = state.set_send_buffer_size((&raw).into(), SOCKET_BUFFER_BYTES);
        // ICMP errors name the destination they are about, instead of surfacing at whatever is sent next.
        state.enable_transport_errors((&raw).into())?;
        let local = raw.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let outlet = Arc::new(Outlet { raw, state });
        Ok(Self { outlet, ready: EventFlags::empty(), local, queue: VecDeque::new() })
    }

    fn receive(&self, batch: &mut Batch, mut spare: impl FnMut() -> Train) -> io::Result<usize> {
        // The buffers that were used last are used first: they are still in the processor's cache, and the others cost no memory.
        batch.empty.resize_with(BATCH, &mut spare);
        let mut trains = batch.empty.iter_mut().rev();
        let mut buffers: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(trains.next().map_or(Default::default(), Train::buffer_mut)));
        let mut meta = [RecvMeta::default(); BATCH];
        let count = self.outlet.state.recv((&self.outlet.raw).into(), &mut buffers, &mut meta)?;
        for (meta, mut train) in meta.iter().zip(batch.empty.drain(BATCH - count..).rev()) {
            train.set(meta.len, meta.stride);
            let (from, interface) = (canonical(meta.addr), meta.interface_index.unwrap_or(0));
            batch.received.push(Received { from, interface, train });
        }
        Ok(count)
    }
}

/// What one call takes from the kernel, and buffers for the next.
#[derive(Debug, Default)]
pub struct Batch {
    received: Vec<Received>,
    empty: Vec<Train>,
}

/// Datagrams of one sender that the kernel handed over in one piece.
#[derive(Debug)]
pub struct Received {
    /// Who the underlay says sent them.
    pub from: SocketAddr,
    /// Index of the interface they came by; 0 if unknown.
    pub interface: u32,
    /// The datagrams.
    pub train: Train,
}

impl Batch {
    /// Takes each train, in the order of arrival on its socket.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Received> {
        self.received.drain(..)
    }
}

/// The flow label is no part of who sent it.
fn canonical(mut address: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(address) = &mut address {
        address.set_flowinfo(0);
    }
    address
}
