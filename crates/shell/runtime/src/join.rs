//! Joining a mesh: drives a sans-IO join client over a real socket until it has an outcome or the time is up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use x0t_model::{Instant, Underlay, UnixTime};
use x0t_node::Train;
use x0t_node::join::JoinClient;

use crate::clock::Clock;
use crate::poller::Poller;
use crate::tls_transport::{OuterTlsError, TlsTransport};
use crate::udp::{Batch, BindError, Received, UdpSockets};

/// A join client gives up by itself after [`x0t_node::join::JOIN_DEADLINE`], and knows better why; this is a little later.
pub const JOIN_DEADLINE: Duration = x0t_node::join::JOIN_DEADLINE.saturating_add(Duration::from_secs(1));

/// A join client: told what arrives and what time it is, it says what to send.
pub trait JoinMachine {
    /// A datagram arrived.
    fn handle_datagram(&mut self, from: Underlay, bytes: &mut [u8], now: Instant, wall: UnixTime);
    /// The instant given by [`Self::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant, wall: UnixTime);
    /// When to call [`Self::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
    /// What to send, until `None`.
    fn poll_transmit(&mut self) -> Option<(Underlay, Vec<u8>)>;
    /// Whether it has an outcome.
    fn is_done(&self) -> bool;
}

impl JoinMachine for JoinClient {
    fn handle_datagram(&mut self, from: Underlay, bytes: &mut [u8], now: Instant, wall: UnixTime) {
        Self::handle_datagram(self, from, bytes, now, wall);
    }

    fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        Self::handle_timeout(self, now, wall);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Self::poll_timeout(self)
    }

    fn poll_transmit(&mut self) -> Option<(Underlay, Vec<u8>)> {
        Self::poll_transmit(self)
    }

    fn is_done(&self) -> bool {
        self.outcome().is_some()
    }
}

/// How a join is getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinProgress {
    /// The first datagram to this address was sent.
    Asking(Underlay),
    /// The first datagram from this address arrived.
    Heard(Underlay),
    /// The kernel says that this address cannot be reached.
    Unreachable(Underlay),
}

/// Why a join has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum JoinIoError {
    /// No socket.
    #[error("cannot open a socket to join with")]
    Bind(#[from] BindError),
    /// No way to wait for it.
    #[error("cannot wait for the socket to join with")]
    Wait(#[from] std::io::Error),
    /// No TLS.
    #[error("cannot set up TLS to join with")]
    Tls(#[from] OuterTlsError),
    /// Nobody answered.
    #[error("no answer within {within:?} from {}; is UDP open between here and there?", list(tried))]
    Silence {
        /// How long was waited.
        within: Duration,
        /// Who was asked.
        tried: Vec<Underlay>,
    },
    /// Somebody answered but did not finish.
    #[error("{} answered but the join did not finish within {within:?}; try again", list(heard))]
    Unfinished {
        /// How long was waited.
        within: Duration,
        /// Who answered.
        heard: Vec<Underlay>,
    },
}

fn list(addresses: &[Underlay]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "anybody".to_owned() } else { texts.join(", ") }
}

/// Drives `machine` for at most `within`. When this returns `Ok` the machine has its outcome, good or bad.
///
/// # Errors
/// If there is no socket, or no outcome in time.
pub async fn drive(
    machine: &mut impl JoinMachine,
    within: Duration,
    mut progress: impl FnMut(JoinProgress),
) -> Result<(), JoinIoError> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)].map(|ip| SocketAddr::new(ip, 0));
    let mut udp = UdpSockets::bind(&any)?;
    let mut tls = TlsTransport::new(None)?;
    let mut poller = Poller::new()?;
    let mut batch = Batch::default();
    let (mut tried, mut heard, mut unreachable) = (Vec::new(), Vec::new(), Vec::new());
    let end = Clock.now() + within;
    loop {
        while let Some((to, bytes)) = machine.poll_transmit() {
            if remember(&mut tried, to) {
                progress(JoinProgress::Asking(to));
            }
            match to {
                Underlay::Udp(to) => drop(udp.send(to, Train::single(bytes))),
                Underlay::Tls(to) => tls.send(to, &bytes),
            }
        }
        if machine.is_done() {
            return Ok(());
        }
        let by_udp = udp.take_unreachable().into_iter().map(Underlay::Udp);
        let by_tls = tls.take_failures().into_keys().map(Underlay::Tls);
        for to in by_udp.chain(by_tls) {
            if remember(&mut unreachable, to) {
                progress(JoinProgress::Unreachable(to));
            }
        }
        let now = Clock.now();
        if now >= end && heard.is_empty() {
            return Err(JoinIoError::Silence { within, tried });
        } else if now >= end {
            return Err(JoinIoError::Unfinished { within, heard });
        }
        let deadline = machine.poll_timeout().unwrap_or(Instant::FAR_FUTURE).min(end);
        udp.watch(&mut poller, true)?;
        tokio::select! {
            ready = poller.ready() => {
                udp.wake(&ready?);
                udp.flush(drop);
            }
            () = tls.readable() => {}
            () = tokio::time::sleep(deadline.since(now)) => {}
        }
        udp.receive(&mut batch, Train::empty);
        for Received { from, mut train, .. } in batch.drain() {
            let from = Underlay::Udp(from);
            if remember(&mut heard, from) {
                progress(JoinProgress::Heard(from));
            }
            for datagram in train.datagrams_mut() {
                machine.handle_datagram(from, datagram, Clock.now(), Clock.wall());
            }
        }
        while let Some(mut arrival) = tls.receive() {
            let from = Underlay::Tls(arrival.from);
            if remember(&mut heard, from) {
                progress(JoinProgress::Heard(from));
            }
            machine.handle_datagram(from, &mut arrival.bytes, Clock.now(), Clock.wall());
        }
        if machine.poll_timeout().is_some_and(|deadline| deadline <= Clock.now()) {
            machine.handle_timeout(Clock.now(), Clock.wall());
        }
    }
}

/// Addresses worth telling a person about.
const REMEMBERED_MAX: usize = 32;

fn remember(seen: &mut Vec<Underlay>, address: Underlay) -> bool {
    let new = seen.len() < REMEMBERED_MAX && !seen.contains(&address);
    if new {
        seen.push(address);
    }
    new
}
