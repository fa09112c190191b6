//! Which underlay addresses to dial, and when.
//!
//! An address that was configured is dialled for ever: at once, then after a pause that doubles up to [`PAUSE_MAX`], with
//! jitter so that two nodes that lost each other do not keep meeting half way. An address whose node is already a
//! neighbour over another session is left alone until that neighbour is lost. An address that a beacon named is dialled in
//! the same way for as long as beacons come; who the beacon claims to be saves a handshake with somebody who is a neighbour already,
//! and says nothing about who answers there.
//!
//! A network may let no UDP pass. So beside each host with a configured UDP address stands the same host over TLS. It is dialled
//! once UDP has been failing there for [`UDP_PATIENCE`], and left when UDP answers: a neighbour over TLS does not keep its UDP
//! addresses from being dialled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId, Underlay};
use x0t_overlay::SessionId;

use crate::links::Origin;

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A link that lived for less than this is no success: the next attempt waits as after a failure, so that a peer that
/// accepts and hangs up cannot keep this node shaking hands.
const SETTLED: Duration = Duration::from_secs(5);
/// The same for TLS: whatever listens there may be somebody's web server.
const FALLBACK_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Pause after this node was met at an address. The address may be another's again later: whoever sits on the path can
/// return packets to their sender.
const PAUSE_MYSELF: Duration = Duration::from_secs(60);
/// UDP may fail for so long before TLS is tried. Five hellos have been sent by then, the first of them three seconds ago.
const UDP_PATIENCE: Duration = Duration::from_secs(3);
/// How many addresses may be dialled.
const ADDRESSES_MAX: usize = 1024;

#[derive(Debug)]
pub struct Dialer {
    dials: BTreeMap<Underlay, Dial>,
    /// Who is a neighbour, and where.
    neighbors: BTreeMap<NodeId, Underlay>,
    /// Where to try TLS on the host of a configured UDP address.
    fallback_port: Option<u16>,
    entropy: Entropy,
}

#[derive(Debug)]
struct Dial {
    why: Why,
    state: State,
    pause: Duration,
    /// Who answered there last, and proved it.
    node: Option<NodeId>,
    /// Who the last beacon from there claims to be, which anybody can.
    claimed: Option<NodeId>,
    /// When the state last became [`State::Connected`].
    connected_at: Instant,
    /// Since when attempts have come to nothing.
    failing_since: Option<Instant>,
    /// What was heard of the last failure.
    reason: Option<String>,
}

/// Why an address is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Configured,
    Discovered,
    /// UDP to the same host may not pass.
    Fallback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitingAttempt(Instant),
    AwaitingSession(SessionId),
    Connected,
}

/// An address that is dialled and does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered<'a> {
    pub address: Underlay,
    pub origin: Origin,
    pub since: Instant,
    pub reason: Option<&'a str>,
}

impl Dialer {
    /// Keeps links to `addresses`. Where UDP fails, TLS is tried on `fallback_port`, if one is given.
    pub fn new(addresses: &[Underlay], fallback_port: Option<u16>, entropy: Entropy, now: Instant) -> Self {
        let mut dialer = Self { dials: BTreeMap::new(), neighbors: BTreeMap::new(), fallback_port, entropy };
        for address in addresses {
            dialer.add(*address, now);
        }
        dialer
    }

    /// Starts to keep a link to `address`. False if there are too many.
    pub fn add(&mut self, address: Underlay, now: Instant) -> bool {
        let fallback = match address {
            // Whoever is on this host is reached by UDP or not at all.
            Underlay::Udp(udp) if udp.ip().is_loopback() => None,
            Underlay::Udp(udp) => self.fallback_port.map(|port| Underlay::Tls(on_host(udp, port))),
            Underlay::Tls(_) => None,
        };
        if !self.insert(address, Why::Configured, now) {
            return false;
        }
        if let Some(fallback) = fallback {
            self.insert(fallback, Why::Fallback, now);
        }
        true
    }

    /// A beacon says that `node` may be found at `address`. The last one that says so counts: nobody can keep an address from being
    /// tried by claiming it for a neighbour, because whoever lives there says otherwise.
    pub fn discovered(&mut self, address: SocketAddr, node: NodeId, now: Instant) {
        let address = Underlay::Udp(address);
        self.insert(address, Why::Discovered, now);
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.claimed = Some(node);
        }
    }

    fn insert(&mut self, address: Underlay, why: Why, now: Instant) -> bool {
        if let Some(dial) = self.dials.get_mut(&address) {
            // What an operator asks for stays, whatever a beacon or a network's mood says.
            if why == Why::Configured {
                dial.why = why;
            }
            return true;
        }
        if self.dials.len() >= ADDRESSES_MAX {
            return false;
        }
        let state = State::AwaitingAttempt(now);
        let dial = Dial {
            why,
            state,
            pause: PAUSE_MIN,
            node: None,
            claimed: None,
            connected_at: now,
            failing_since: None,
            reason: None,
        };
        self.dials.insert(address, dial);
        true
    }

    /// Stops dialling `address`. Gives the session that is being set up there, if one is.
    pub fn remove(&mut self, address: Underlay) -> Option<SessionId> {
        let removed = self.dials.remove(&address)?;
        if let Underlay::Udp(udp) = address {
            let needed = self.configured_on(udp).next().is_some();
            self.dials.retain(|other, dial| {
                needed || dial.why != Why::Fallback || on_host(other.address(), 0) != on_host(udp, 0)
            });
        }
        match removed.state {
            State::AwaitingSession(session) => Some(session),
            State::AwaitingAttempt(_) | State::Connected => None,
        }
    }

    /// No beacon names `address` any more.
    pub fn fell_silent(&mut self, address: SocketAddr) {
        let address = Underlay::Udp(address);
        // A link that is there tells by itself when it dies, and a handshake under way when it fails.
        let idle = |dial: &Dial| matches!(dial.state, State::AwaitingAttempt(_));
        if self.dials.get(&address).is_some_and(|dial| dial.why == Why::Discovered && idle(dial)) {
            self.dials.remove(&address);
        }
    }

    /// Whether an operator asked for a link to `address`.
    pub fn is_configured(&self, address: Underlay) -> bool {
        self.dials.get(&address).is_some_and(|dial| dial.why == Why::Configured)
    }

    /// Whether an operator asked for any link.
    pub fn has_configured(&self) -> bool {
        self.dials.values().any(|dial| dial.why == Why::Configured)
    }

    /// What is configured over UDP on the host that has `address`, whatever its port.
    fn configured_on(&self, address: SocketAddr) -> impl Iterator<Item = &Dial> {
        let host = on_host(address, 0);
        self.dials.iter().filter_map(move |(address, dial)| match address {
            Underlay::Udp(udp) if on_host(*udp, 0) == host && dial.why == Why::Configured => Some(dial),
            _ => None,
        })
    }

    /// An address whose time has come. Call [`Self::attempted`] or [`Self::failed`] for it, then ask again.
    pub fn due(&self, now: Instant) -> Option<Underlay> {
        let due = |(address, dial): &(&Underlay, &Dial)| self.attempt_at(**address, dial).is_some_and(|at| at <= now);
        self.dials.iter().find(due).map(|(address, _)| *address)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.dials.iter().filter_map(|(address, dial)| self.attempt_at(*address, dial)).min()
    }

    /// When `address` is to be dialled next.
    fn attempt_at(&self, address: Underlay, dial: &Dial) -> Option<Instant> {
        let State::AwaitingAttempt(at) = dial.state else { return None };
        match dial.why {
            Why::Configured => return Some(at),
            Why::Discovered => {
                let claimed = dial.claimed.and_then(|node| self.neighbors.get(&node));
                return (!matches!(claimed, Some(Underlay::Udp(_)))).then_some(at);
            }
            Why::Fallback => {}
        }
        // Any UDP address that answers makes it needless, and the one that has failed for longest makes it due.
        let mut on_host = self.configured_on(address.address()).peekable();
        on_host.peek()?;
        let failing: Option<Vec<Instant>> = on_host.map(|udp| udp.failing_since).collect();
        let first = failing?.into_iter().min()?;
        Some(at.max(first + UDP_PATIENCE))
    }

    /// A handshake with `address` is under way.
    pub fn attempted(&mut self, address: Underlay, session: SessionId, now: Instant) {
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.state = State::AwaitingSession(session);
            dial.failing_since.get_or_insert(now);
        }
    }

    /// How a link to `node` at `address` came about, as far as this dialer knows: it opened `session`, or would have.
    pub fn origin_of(&self, session: SessionId, node: NodeId, address: Underlay) -> Option<Origin> {
        let opened = self.dials.values().find(|dial| dial.state == State::AwaitingSession(session));
        // What a beacon claims is good enough for a word that people read.
        let is_its = |dial: &&Dial| dial.node == Some(node) || dial.claimed == Some(node);
        let known = || self.dials.get(&address).or_else(|| self.dials.values().find(is_its));
        opened.or_else(known).map(|dial| dial.why.origin())
    }

    /// The handshake in `session` ended well: `node` answered.
    pub fn established(&mut self, session: SessionId, node: NodeId, now: Instant) {
        for dial in self.dials.values_mut() {
            if dial.state == State::AwaitingSession(session) {
                dial.node = Some(node);
                dial.connect(now);
            }
        }
    }

    /// This node itself answered at `address`.
    pub fn found_myself(&mut self, address: Underlay, now: Instant) {
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.state = State::AwaitingAttempt(now + PAUSE_MYSELF);
            dial.reason = Some("this node itself answers there".to_owned());
        }
    }

    /// The attempt at `address` could not even be started.
    pub fn failed(&mut self, address: Underlay, now: Instant) {
        let spread = self.entropy.next_u64();
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.failing_since.get_or_insert(now);
            dial.back_off(now, spread);
        }
    }

    /// The handshake in `session` ended badly, for `reason` if any is known.
    pub fn session_failed(&mut self, session: SessionId, reason: Option<String>, now: Instant) {
        let spread = self.entropy.next_u64();
        for dial in self.dials.values_mut() {
            if dial.state == State::AwaitingSession(session) {
                dial.back_off(now, spread);
                dial.reason = reason.clone().or_else(|| dial.reason.take());
            }
        }
    }

    /// The network said why nothing reaches `address`. A hint: it explains, and moves nothing.
    pub fn heard_why(&mut self, address: Underlay, reason: &str) {
        if let Some(dial) = self.dials.get_mut(&address).filter(|dial| dial.state != State::Connected) {
            dial.reason = Some(reason.to_owned());
        }
    }

    /// `node` is a neighbour over `address`: addresses known to be its own need no dialling, unless it is reached over TLS
    /// and might be over UDP.
    pub fn neighbor_found(&mut self, node: NodeId, address: Underlay, now: Instant) {
        self.neighbors.insert(node, address);
        for (dialled, dial) in &mut self.dials {
            if *dialled == address || dial.node == Some(node) {
                let would_be_better = matches!((dialled, address), (Underlay::Udp(_), Underlay::Tls(_)));
                if !would_be_better && !matches!(dial.state, State::AwaitingSession(_)) {
                    dial.connect(now);
                }
                dial.node = Some(node);
            }
        }
    }

    /// `node` is no neighbour any more: dial its addresses again, at once if it had been one for a while.
    pub fn neighbor_lost(&mut self, node: NodeId, now: Instant) {
        self.neighbors.remove(&node);
        let spread = self.entropy.next_u64();
        for dial in self.dials.values_mut() {
            if dial.node == Some(node) && dial.state == State::Connected {
                dial.failing_since = Some(now);
                if now.since(dial.connected_at) < SETTLED {
                    dial.back_off(now, spread);
                } else {
                    (dial.state, dial.pause) = (State::AwaitingAttempt(now), PAUSE_MIN);
                }
            }
        }
    }

    /// Addresses that were dialled and have not answered.
    pub fn unanswered(&self) -> impl Iterator<Item = Unanswered<'_>> {
        self.dials.iter().filter_map(|(address, dial)| {
            let since = dial.failing_since.filter(|_| dial.state != State::Connected)?;
            let reason = dial.reason.as_deref();
            Some(Unanswered { address: *address, origin: dial.why.origin(), since, reason })
        })
    }
}

/// Another port of the same host. Of link-local addresses the link belongs to the host: the same address on another link is another's.
fn on_host(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

impl Why {
    const fn origin(self) -> Origin {
        match self {
            Self::Configured | Self::Fallback => Origin::Configured,
            Self::Discovered => Origin::Discovered,
        }
    }
}

impl Dial {
    fn connect(&mut self, now: Instant) {
        if self.state != State::Connected {
            self.state = State::Connected;
            self.connected_at = now;
        }
        (self.failing_since, self.reason) = (None, None);
    }

    fn back_off(&mut self, now: Instant, spread: u64) {
        let half = self.pause / 2;
        let jitter = half.mul_f64((spread >> 11) as f64 / (1u64 << 53) as f64);
        self.state = State::AwaitingAttempt(now + half + jitter);
        let longest = if self.why == Why::Fallback { FALLBACK_PAUSE_MAX } else { PAUSE_MAX };
        self.pause = (self.pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests;
