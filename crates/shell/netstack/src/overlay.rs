//! The stack as asynchronous streams and datagram ports, and the task that keeps it going.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use x0t_model::{Instant, Seed};

use crate::burst::Burst;
use crate::connection::{Failure, Received};
use crate::lane::StackPort;
use crate::limits::Limits;
use crate::stack::{BusyError, ConnectionId, Event, Stack};
use crate::stats::StackStats;
use crate::udp::Datagram;

/// Packets taken in before others get their turn.
const INTAKE_PACKETS: usize = 64;

/// What time it is. The crate has no clock of its own.
pub type Now = fn() -> Instant;

/// A stack, shared. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Overlay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The stack was given something to do.
    work: Notify,
    now: Now,
}

#[derive(Debug)]
struct State {
    stack: Stack,
    connections: BTreeMap<ConnectionId, Waiting>,
    ports: BTreeMap<u16, Waker>,
}

/// Who waits for a connection.
#[derive(Debug, Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A connection that a peer asks for. Dropped unanswered, it is refused.
#[derive(Debug)]
pub struct Offer {
    /// Who asks.
    pub from: SocketAddrV6,
    /// For which port.
    pub port: u16,
    stream: Stream,
}

impl Offer {
    /// Answers; the handshake goes on by itself.
    pub fn accept(self) -> Stream {
        self.stream.overlay.act(|stack, _| stack.accept(self.stream.id));
        self.stream
    }
}

impl Overlay {
    /// A stack for `address`. `seed` is where its sequence numbers and ports come from.
    pub fn new(address: Ipv6Addr, limits: Limits, seed: Seed, now: Now) -> Self {
        let stack = Stack::new(address, limits, seed, now());
        let state = State { stack, connections: BTreeMap::new(), ports: BTreeMap::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), work: Notify::new(), now }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The stack contains what smoltcp asserts; nothing else is left half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the stack and sees to it that its consequences are carried.
    fn act<R>(&self, act: impl FnOnce(&mut Stack, Instant) -> R) -> R {
        let done = act(&mut self.state().stack, (self.0.now)());
        self.0.work.notify_one();
        done
    }

    /// The stack's address.
    pub fn address(&self) -> Ipv6Addr {
        self.state().stack.address()
    }

    /// What it has counted.
    pub fn stats(&self) -> StackStats {
        self.state().stack.stats()
    }

    /// Opens a connection and waits until it is established.
    ///
    /// # Errors
    /// `ConnectionRefused`, `HostUnreachable` or `TimedOut` as the network says; `QuotaExceeded` if there are too many connections.
    pub async fn connect(&self, remote: SocketAddrV6) -> io::Result<Stream> {
        let id = self.act(|stack, now| stack.connect(remote, now))?;
        let stream = Stream { overlay: self.clone(), id };
        std::future::poll_fn(|cx| stream.poll_established(cx)).await?;
        Ok(stream)
    }

    /// Offers connections to TCP `port` from now on.
    pub fn expose(&self, port: u16) {
        self.act(|stack, _| stack.expose(port));
    }

    /// Refuses further connections to TCP `port`.
    pub fn conceal(&self, port: u16) {
        self.act(|stack, _| stack.conceal(port));
    }

    /// Takes a UDP port into use; a dynamic one if it is `None`.
    ///
    /// # Errors
    /// `AddrInUse`, or `QuotaExceeded` if there are too many.
    pub fn open_udp(&self, port: Option<u16>) -> io::Result<UdpPort> {
        let opened = self.act(|stack, _| stack.open_udp(port));
        let port = opened.map_err(|error| match error {
            BusyError::TooMany => io::Error::new(io::ErrorKind::QuotaExceeded, error),
            BusyError::Unaddressable => io::Error::new(io::ErrorKind::AddrInUse, "that UDP port is in use"),
        })?;
        Ok(UdpPort { overlay: self.clone(), port })
    }

    /// Keeps the stack going: packets in, packets out, timers, and news for those who wait. Ends never.
    pub async fn drive(self, port: StackPort, offers: mpsc::Sender<Offer>) {
        let mut arriving = Burst::default();
        loop {
            if arriving.is_empty() {
                port.arriving.take(&mut arriving);
            }
            let (more, is_held, deadline) = self.turn(&mut arriving, &port, &offers);
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let wait = deadline.map_or(Duration::from_secs(3_600), |at| at.since((self.0.now)()));
            tokio::select! {
                () = port.arriving.filled() => {}
                () = self.0.work.notified() => {}
                () = port.leaving.emptied(), if is_held => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes in some packets and does what is due. Whether more is to be taken in, whether packets could not be handed on, and when
    /// the next turn is due.
    fn turn(
        &self,
        arriving: &mut Burst,
        port: &StackPort,
        offers: &mpsc::Sender<Offer>,
    ) -> (bool, bool, Option<Instant>) {
        let mut guard = self.state();
        let State { stack, connections, ports } = &mut *guard;
        let now = (self.0.now)();
        for _ in 0..INTAKE_PACKETS {
            let Some(packet) = arriving.pop() else { break };
            stack.handle_packet(packet, now);
        }
        stack.handle_timeout(now);
        let mut offered = Vec::new();
        while let Some(event) = stack.poll_event() {
            match event {
                Event::Offered { id, from, port } => offered.push((id, from, port)),
                Event::Changed(id) => {
                    let waiting = connections.get_mut(&id).map(std::mem::take).unwrap_or_default();
                    waiting.reader.into_iter().chain(waiting.writer).for_each(Waker::wake);
                }
                Event::Datagram(port) => ports.remove(&port).into_iter().for_each(Waker::wake),
            }
        }
        let is_held = !port.leaving.offer(stack.outgoing());
        let deadline = if is_held { stack.poll_timer() } else { stack.poll_timeout() };
        drop(guard);
        for (id, from, port) in offered {
            let stream = Stream { overlay: self.clone(), id };
            // Nobody takes offers any more, or too slowly: dropped, it is refused.
            let _refused = offers.try_send(Offer { from, port, stream });
        }
        (!arriving.is_empty() || deadline == Some(Instant::ZERO), is_held, deadline)
    }
}

/// A connection across the mesh. Dropped before both sides have closed it and everything was read, it is broken off.
#[derive(Debug)]
pub struct Stream {
    overlay: Overlay,
    id: ConnectionId,
}

impl Stream {
    fn poll_established(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.overlay.state();
        match state.stack.is_established(self.id) {
            Err(failure) => Poll::Ready(Err(failure.into())),
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => {
                state.connections.entry(self.id).or_default().writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.overlay.state();
        let mut read = false;
        // The ring's end lies somewhere in the middle: the second piece is what is in front of it.
        while buffer.remaining() > 0 {
            let received = state.stack.receive_with(self.id, |bytes| {
                let count = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..count]);
                (count, count)
            });
            match received? {
                Received::Bytes(0) | Received::Nothing if !read => {
                    state.connections.entry(self.id).or_default().reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Received::Bytes(0) | Received::Nothing | Received::Finished => break,
                Received::Bytes(_) => read = true,
            }
        }
        drop(state);
        if read {
            self.overlay.0.work.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.overlay.state();
        let mut left = bytes;
        while !left.is_empty() {
            let sent = state.stack.send_with(self.id, |room| {
                let count = room.len().min(left.len());
                room[..count].copy_from_slice(&left[..count]);
                (count, count)
            });
            match sent? {
                Some(0) | None => break,
                Some(count) => left = &left[count..],
            }
        }
        let written = bytes.len() - left.len();
        if written == 0 && !bytes.is_empty() {
            state.connections.entry(self.id).or_default().writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.overlay.0.work.notify_one();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing more will be written; what has been still is delivered.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.overlay.act(|stack, _| stack.close(self.id));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.overlay.act(|stack, now| stack.release(self.id, now));
        self.overlay.state().connections.remove(&self.id);
    }
}

/// A UDP port of the overlay address.
#[derive(Debug)]
pub struct UdpPort {
    overlay: Overlay,
    port: u16,
}

impl UdpPort {
    /// Sends a datagram. Whether there was room for it; one for which there was none is lost.
    pub fn send_to(&self, payload: &[u8], to: SocketAddrV6) -> bool {
        self.overlay.act(|stack, _| stack.send_udp(self.port, to, payload))
    }

    /// The next datagram. Cancel safe.
    pub async fn receive(&self) -> Datagram {
        std::future::poll_fn(|cx| {
            let mut state = self.overlay.state();
            if let Some(datagram) = state.stack.receive_udp(self.port) {
                return Poll::Ready(datagram);
            }
            state.ports.insert(self.port, cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for UdpPort {
    fn drop(&mut self) {
        let mut state = self.overlay.state();
        state.stack.close_udp(self.port);
        state.ports.remove(&self.port);
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::Refused => io::ErrorKind::ConnectionRefused,
            Failure::Unreachable => io::ErrorKind::HostUnreachable,
            Failure::TimedOut => io::ErrorKind::TimedOut,
            Failure::Reset => io::ErrorKind::ConnectionReset,
            Failure::Broken => io::ErrorKind::Other,
        };
        Self::new(kind, failure)
    }
}

impl From<BusyError> for io::Error {
    fn from(error: BusyError) -> Self {
        let kind = match error {
            BusyError::TooMany => io::ErrorKind::QuotaExceeded,
            BusyError::Unaddressable => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
