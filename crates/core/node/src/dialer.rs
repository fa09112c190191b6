//! Which underlay addresses to dial, and when.
//!
//! An address that was configured is dialled for ever: at once, then after a pause that doubles up to [`PAUSE_MAX`], with
//! jitter so that two nodes that lost each other do not keep meeting half way. An address whose node is already a
//! neighbour over another session is left alone until that neighbour is lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId};
use x0t_overlay::SessionId;

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A link that lived for less than this is no success: the next attempt waits as after a failure, so that a peer that
/// accepts and hangs up cannot keep this node shaking hands.
const SETTLED: Duration = Duration::from_secs(5);
/// Pause after this node was met at an address. The address may be another's again later: whoever sits on the path can
/// return packets to their sender.
const PAUSE_MYSELF: Duration = Duration::from_secs(60);
/// How many addresses may be configured.
const ADDRESSES_MAX: usize = 1024;

#[derive(Debug)]
pub struct Dialer {
    dials: BTreeMap<SocketAddr, Dial>,
    entropy: Entropy,
}

#[derive(Debug)]
struct Dial {
    state: State,
    pause: Duration,
    /// Who answered there last.
    node: Option<NodeId>,
    /// When the state last became [`State::Connected`].
    connected_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitingAttempt(Instant),
    AwaitingSession(SessionId),
    Connected,
}

impl Dialer {
    pub fn new(addresses: &[SocketAddr], entropy: Entropy, now: Instant) -> Self {
        let mut dialer = Self { dials: BTreeMap::new(), entropy };
        for address in addresses {
            dialer.add(*address, now);
        }
        dialer
    }

    /// Starts to keep a link to `address`. False if there are too many.
    pub fn add(&mut self, address: SocketAddr, now: Instant) -> bool {
        if self.dials.len() >= ADDRESSES_MAX && !self.dials.contains_key(&address) {
            return false;
        }
        let dial = Dial { state: State::AwaitingAttempt(now), pause: PAUSE_MIN, node: None, connected_at: now };
        self.dials.entry(address).or_insert(dial);
        true
    }

    /// Stops dialling `address`. Gives the session that is being set up there, if one is.
    pub fn remove(&mut self, address: SocketAddr) -> Option<SessionId> {
        match self.dials.remove(&address)?.state {
            State::AwaitingSession(session) => Some(session),
            State::AwaitingAttempt(_) | State::Connected => None,
        }
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.dials.contains_key(&address)
    }

    pub fn is_empty(&self) -> bool {
        self.dials.is_empty()
    }

    /// An address whose time has come. Call [`Self::attempted`] or [`Self::failed`] for it, then ask again.
    pub fn due(&self, now: Instant) -> Option<SocketAddr> {
        let due = |dial: &Dial| matches!(dial.state, State::AwaitingAttempt(at) if at <= now);
        self.dials.iter().find(|(_, dial)| due(dial)).map(|(address, _)| *address)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let at = |dial: &Dial| match dial.state {
            State::AwaitingAttempt(at) => Some(at),
            State::AwaitingSession(_) | State::Connected => None,
        };
        self.dials.values().filter_map(at).min()
    }

    /// A handshake with `address` is under way.
    pub fn attempted(&mut self, address: SocketAddr, session: SessionId) {
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.state = State::AwaitingSession(session);
        }
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
    pub fn found_myself(&mut self, address: SocketAddr, now: Instant) {
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.state = State::AwaitingAttempt(now + PAUSE_MYSELF);
        }
    }

    /// The attempt at `address` could not even be started.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        let spread = self.entropy.next_u64();
        if let Some(dial) = self.dials.get_mut(&address) {
            dial.back_off(now, spread);
        }
    }

    /// The handshake in `session` ended badly.
    pub fn session_failed(&mut self, session: SessionId, now: Instant) {
        let spread = self.entropy.next_u64();
        for dial in self.dials.values_mut() {
            if dial.state == State::AwaitingSession(session) {
                dial.back_off(now, spread);
            }
        }
    }

    /// `node` is a neighbour through a session that it opened: addresses known to be its own need no dialling.
    pub fn neighbor_found(&mut self, node: NodeId, address: SocketAddr, now: Instant) {
        for (dialled, dial) in &mut self.dials {
            if *dialled == address || dial.node == Some(node) {
                if !matches!(dial.state, State::AwaitingSession(_)) {
                    dial.connect(now);
                }
                dial.node = Some(node);
            }
        }
    }

    /// `node` is no neighbour any more: dial its addresses again, at once if it had been one for a while.
    pub fn neighbor_lost(&mut self, node: NodeId, now: Instant) {
        let spread = self.entropy.next_u64();
        for dial in self.dials.values_mut() {
            if dial.node == Some(node) && dial.state == State::Connected {
                if now.since(dial.connected_at) < SETTLED {
                    dial.back_off(now, spread);
                } else {
                    (dial.state, dial.pause) = (State::AwaitingAttempt(now), PAUSE_MIN);
                }
            }
        }
    }
}

impl Dial {
    fn connect(&mut self, now: Instant) {
        if self.state != State::Connected {
            self.state = State::Connected;
            self.connected_at = now;
        }
    }

    fn back_off(&mut self, now: Instant, spread: u64) {
        let half = self.pause / 2;
        let jitter = half.mul_f64((spread >> 11) as f64 / (1u64 << 53) as f64);
        self.state = State::AwaitingAttempt(now + half + jitter);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_failing_address_is_dialled_for_ever_with_growing_bounded_pauses() {
        let mut dialer = Dialer::new(&[address(1)], Entropy::new([1; 32]), Instant::ZERO);
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
        let node = NodeId::from_bytes([1; 16]);
        let session = SessionId::from_u64(7);
        let mut dialer = Dialer::new(&[address(1)], Entropy::new([1; 32]), Instant::ZERO);
        dialer.attempted(address(1), session);
        assert_eq!(dialer.due(Instant::FAR_FUTURE), None);
        dialer.established(session, node, Instant::ZERO);
        assert_eq!(dialer.poll_timeout(), None);
        dialer.neighbor_lost(node, Instant::ZERO + SETTLED);
        assert_eq!(dialer.due(Instant::ZERO + SETTLED), Some(address(1)));
        assert_eq!(dialer.remove(address(1)), None);
        assert!(dialer.is_empty());
    }

    #[test]
    fn a_peer_that_accepts_and_hangs_up_is_dialled_with_growing_pauses() {
        let (node, session) = (NodeId::from_bytes([1; 16]), SessionId::from_u64(7));
        let mut dialer = Dialer::new(&[address(1)], Entropy::new([1; 32]), Instant::ZERO);
        let (mut now, mut attempts) = (Instant::ZERO, 0);
        while now < Instant::ZERO + Duration::from_secs(60) {
            assert_eq!(dialer.due(now), Some(address(1)));
            attempts += 1;
            dialer.attempted(address(1), session);
            dialer.established(session, node, now);
            dialer.neighbor_lost(node, now);
            now = dialer.poll_timeout().unwrap();
        }
        assert!(attempts < 30, "{attempts} in a minute");
    }

    #[test]
    fn an_address_where_this_node_met_itself_is_tried_again_later() {
        let mut dialer = Dialer::new(&[address(1)], Entropy::new([1; 32]), Instant::ZERO);
        dialer.attempted(address(1), SessionId::from_u64(7));
        dialer.found_myself(address(1), Instant::ZERO);
        dialer.session_failed(SessionId::from_u64(7), Instant::ZERO);
        assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF / 2), None);
        assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF), Some(address(1)));
    }
}
