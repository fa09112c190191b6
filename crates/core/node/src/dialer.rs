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
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    fn address(port: u16) -> Underlay {
        Underlay::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn over_tls() -> Underlay {
        Underlay::Tls(SocketAddr::from(([192, 0, 2, 1], 443)))
    }

    fn session(number: u64) -> SessionId {
        SessionId::from_u64(number)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn dialer(addresses: &[Underlay]) -> Dialer {
        Dialer::new(addresses, None, Entropy::new([1; 32]), Instant::ZERO)
    }

    fn dialer_with_fallback() -> Dialer {
        Dialer::new(&[address(1)], Some(443), Entropy::new([1; 32]), Instant::ZERO)
    }

    #[test]
    fn a_failing_address_is_dialled_for_ever_with_growing_bounded_pauses() {
        let mut dialer = dialer(&[address(1)]);
        let mut now = Instant::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(dialer.due(now), Some(address(1)));
            dialer.failed(address(1), now);
            let next = dialer.poll_timeout().unwrap();
            pauses.push(next.since(now));
            now = next;
        }
        assert!(pauses[0] <= PAUSE_MIN && pauses.iter().all(|pause| *pause >= PAUSE_MIN / 2 && *pause <= PAUSE_MAX));
        assert!(pauses[11] >= PAUSE_MAX / 2);
    }

    #[test]
    fn an_address_is_left_alone_while_its_node_is_a_neighbor_and_dialled_when_it_is_lost() {
        let mut dialer = dialer(&[address(1)]);
        dialer.attempted(address(1), session(7), at(0));
        assert_eq!(dialer.due(Instant::FAR_FUTURE), None);
        dialer.established(session(7), NODE, Instant::ZERO);
        assert_eq!(dialer.poll_timeout(), None);
        dialer.neighbor_lost(NODE, Instant::ZERO + SETTLED);
        assert_eq!(dialer.due(Instant::ZERO + SETTLED), Some(address(1)));
        assert_eq!(dialer.remove(address(1)), None);
        assert!(!dialer.has_configured());
    }

    #[test]
    fn a_peer_that_accepts_and_hangs_up_is_dialled_with_growing_pauses() {
        let mut dialer = dialer(&[address(1)]);
        let (mut now, mut attempts) = (Instant::ZERO, 0);
        while now < Instant::ZERO + Duration::from_secs(60) {
            assert_eq!(dialer.due(now), Some(address(1)));
            attempts += 1;
            dialer.attempted(address(1), session(7), now);
            dialer.established(session(7), NODE, now);
            dialer.neighbor_lost(NODE, now);
            now = dialer.poll_timeout().unwrap();
        }
        assert!(attempts < 30, "{attempts} in a minute");
    }

    #[test]
    fn an_address_where_this_node_met_itself_is_tried_again_later() {
        let mut dialer = dialer(&[address(1)]);
        dialer.attempted(address(1), session(7), at(0));
        dialer.found_myself(address(1), Instant::ZERO);
        dialer.session_failed(session(7), None, Instant::ZERO);
        assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF / 2), None);
        assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF), Some(address(1)));
        assert_eq!(dialer.unanswered().next().unwrap().reason, Some("this node itself answers there"));
    }

    #[test]
    fn tls_is_dialled_after_udp_has_failed_for_three_seconds_and_not_before() {
        let mut dialer = dialer_with_fallback();
        assert_eq!(dialer.due(at(0)), Some(address(1)));
        dialer.attempted(address(1), session(1), at(0));
        assert_eq!(dialer.due(at(2_999)), None);
        assert_eq!(dialer.poll_timeout(), Some(at(3_000)));
        assert_eq!(dialer.due(at(3_000)), Some(over_tls()));
        dialer.attempted(over_tls(), session(2), at(3_000));
        dialer.established(session(2), NODE, at(3_100));
        dialer.neighbor_found(NODE, over_tls(), at(3_100));
        dialer.session_failed(session(1), Some("no answer".to_owned()), at(5_000));
        let next = dialer.poll_timeout().unwrap();
        assert!(next <= at(5_250), "UDP is still tried: {next:?}");
        assert_eq!(dialer.due(next), Some(address(1)));
        let unanswered: Vec<_> = dialer.unanswered().collect();
        assert_eq!(unanswered.len(), 1);
        assert_eq!((unanswered[0].address, unanswered[0].reason), (address(1), Some("no answer")));
    }

    #[test]
    fn tls_is_left_alone_once_udp_answers_and_waits_its_three_seconds_when_udp_dies() {
        let mut dialer = dialer_with_fallback();
        dialer.attempted(address(1), session(1), at(0));
        dialer.attempted(over_tls(), session(2), at(3_000));
        dialer.established(session(2), NODE, at(3_100));
        dialer.neighbor_found(NODE, over_tls(), at(3_100));
        dialer.established(session(1), NODE, at(4_000));
        dialer.neighbor_found(NODE, address(1), at(4_000));
        assert_eq!(dialer.poll_timeout(), None);
        dialer.neighbor_lost(NODE, at(60_000));
        assert_eq!(dialer.due(at(60_000)), Some(address(1)));
        dialer.attempted(address(1), session(3), at(60_000));
        assert_eq!((dialer.due(at(62_999)), dialer.due(at(63_000))), (None, Some(over_tls())));
    }

    #[test]
    fn a_host_that_is_this_one_is_never_tried_over_tls() {
        let loopback = Underlay::Udp(SocketAddr::from(([127, 0, 0, 1], 4600)));
        let mut dialer = Dialer::new(&[loopback], Some(443), Entropy::new([1; 32]), at(0));
        dialer.attempted(loopback, session(1), at(0));
        assert_eq!(dialer.poll_timeout(), None);
    }

    #[test]
    fn tls_is_tried_on_the_link_that_a_link_local_address_is_of() {
        let [first, second]: [SocketAddr; 2] =
            ["[fe80::2%2]:4600", "[fe80::2%3]:4600"].map(|text| text.parse().unwrap());
        let mut dialer = Dialer::new(&[first.into(), second.into()], Some(443), Entropy::new([1; 32]), at(0));
        dialer.attempted(first.into(), session(1), at(0));
        dialer.attempted(second.into(), session(2), at(0));
        dialer.established(session(1), NODE, at(100));
        assert_eq!(
            dialer.due(at(3_000)),
            Some(Underlay::Tls("[fe80::2%3]:443".parse().unwrap())),
            "the other one answers"
        );
        dialer.remove(second.into());
        dialer.attempted(first.into(), session(3), at(4_000));
        assert_eq!(dialer.due(at(8_000)), Some(Underlay::Tls("[fe80::2%2]:443".parse().unwrap())));
    }

    #[test]
    fn a_removed_address_takes_its_fallback_with_it_unless_another_needs_it() {
        let mut dialer = Dialer::new(&[address(1), address(2)], Some(443), Entropy::new([1; 32]), at(0));
        dialer.remove(address(1));
        dialer.attempted(address(2), session(1), at(0));
        assert_eq!(dialer.due(at(3_000)), Some(over_tls()));
        dialer.remove(address(2));
        assert_eq!(dialer.poll_timeout(), None);
    }

    #[test]
    fn what_a_beacon_named_is_dialled_until_it_falls_silent_and_never_over_tls() {
        let mut dialer = Dialer::new(&[], Some(443), Entropy::new([1; 32]), at(0));
        let Underlay::Udp(udp) = address(1) else { panic!("not UDP") };
        dialer.discovered(udp, NODE, at(0));
        assert_eq!(dialer.due(at(0)), Some(address(1)));
        dialer.attempted(address(1), session(1), at(0));
        assert_eq!(dialer.origin_of(session(1), NODE, address(1)), Some(Origin::Discovered));
        assert_eq!(dialer.origin_of(session(9), NODE, over_tls()), Some(Origin::Discovered), "it dialled us");
        assert_eq!(dialer.due(at(10_000)), None);
        dialer.session_failed(session(1), None, at(10_000));
        assert!(!dialer.has_configured(), "a node that found nobody is as ready as one alone");
        dialer.fell_silent(udp);
        assert_eq!(dialer.poll_timeout(), None);
    }

    /// The UDP address that [`address`] is.
    fn udp(port: u16) -> SocketAddr {
        address(port).address()
    }

    #[test]
    fn a_beacon_saves_a_handshake_with_a_neighbor_and_keeps_no_address_from_being_tried() {
        let (neighbor, newcomer) = (NODE, NodeId::from_bytes([2; 16]));
        let mut dialer = dialer(&[]);
        dialer.neighbor_found(neighbor, address(9), at(0));
        dialer.discovered(udp(1), neighbor, at(0));
        assert_eq!((dialer.due(at(0)), dialer.poll_timeout()), (None, None), "it is one already, it says");
        // The one that really lives there says who it is, and whoever lied may go on lying.
        dialer.discovered(udp(1), newcomer, at(1));
        assert_eq!(dialer.due(at(1)), Some(address(1)));
        dialer.attempted(address(1), session(1), at(1));
        dialer.discovered(udp(1), neighbor, at(2));
        dialer.established(session(1), newcomer, at(3));
        dialer.neighbor_found(newcomer, address(1), at(3));
        dialer.neighbor_lost(neighbor, at(4));
        assert_eq!(dialer.due(at(4)), None, "the newcomer is there, and proved it");
        dialer.neighbor_lost(newcomer, at(10_000));
        assert_eq!(dialer.due(at(10_000)), Some(address(1)));
    }

    #[test]
    fn what_a_beacon_claims_binds_no_address_to_a_node() {
        let mut dialer = dialer(&[address(1)]);
        dialer.attempted(address(1), session(1), at(0));
        dialer.established(session(1), NODE, at(0));
        dialer.neighbor_found(NODE, address(1), at(0));
        let liar = NodeId::from_bytes([3; 16]);
        dialer.discovered(udp(1), liar, at(1));
        dialer.discovered(udp(2), NODE, at(1));
        assert_eq!(dialer.due(at(1)), None);
        dialer.neighbor_lost(NODE, at(10_000));
        let due: Vec<_> = [address(1), address(2)]
            .into_iter()
            .filter(|_| {
                let due = dialer.due(at(10_000));
                due.inspect(|due| dialer.attempted(*due, session(u64::from(due.address().port())), at(10_000)));
                due.is_some()
            })
            .collect();
        assert_eq!(
            due.len(),
            2,
            "the address where it was proven, and the one that was named, which costs one attempt"
        );
        dialer.session_failed(session(2), None, at(11_000));
        dialer.established(session(1), NODE, at(11_000));
        dialer.neighbor_found(NODE, address(1), at(11_000));
        assert_eq!(dialer.due(Instant::FAR_FUTURE), None, "and while the neighbour is there it is left alone again");
    }

    #[test]
    fn a_neighbor_over_tls_does_not_keep_what_its_beacon_names_from_being_tried() {
        let mut dialer = dialer(&[]);
        dialer.neighbor_found(NODE, over_tls(), at(0));
        dialer.discovered(udp(1), NODE, at(0));
        assert_eq!(dialer.due(at(0)), Some(address(1)));
    }

    #[test]
    fn changing_claims_do_not_shorten_the_pauses() {
        let mut dialer = dialer(&[]);
        let mut attempts = 0;
        for millis in 0..60_000 {
            dialer.discovered(udp(1), NodeId::from_bytes([millis as u8; 16]), at(millis));
            if dialer.due(at(millis)).is_some() {
                attempts += 1;
                dialer.failed(address(1), at(millis));
            }
        }
        assert!(attempts < 30, "{attempts} in a minute");
    }

    #[test]
    fn what_an_operator_asked_for_stays_when_its_beacon_falls_silent() {
        let mut dialer = dialer(&[address(1)]);
        let Underlay::Udp(udp) = address(1) else { panic!("not UDP") };
        dialer.discovered(udp, NODE, at(0));
        dialer.fell_silent(udp);
        assert!(dialer.is_configured(address(1)));
        assert_eq!(dialer.due(at(0)), Some(address(1)));
    }
}
