//! A direct path between two nodes that talk through relays: UDP hole punching, with the mesh itself as the meeting place.
//!
//! ```text
//!              traffic with a far end that is no neighbour
//!                        │
//!   Quiet ──────────► Asking ─── the far end answers ──► Dialing ── a link ──► Direct
//!     ▲                  │                                 │ ▲                   │
//!     └── no answer ─────┘         nothing within 3 s ─────┘ └── or it asks      │
//!     └───────────────── 30 s, then longer, up to 10 min ──────── link lost ─────┘
//! ```
//!
//! Both ends tell each other, in their end-to-end session, where they may be reached: the addresses they are configured with, those of
//! their interfaces, and those at which their neighbours see them. Then both connect to all of the other's addresses at once.
//! Each hello opens the way through the own NAT for the other's (RFC 8445 calls the addresses candidates; the relay in between
//! needs to know nothing of this). The retransmissions of the handshake do the rest. A link that comes up this way is one like
//! any other; routing prefers it because it costs less, and when it dies the relays still carry.
//!
//! The far end is authenticated, but may lie about its addresses. So an address gets what one unanswered handshake sends, a few
//! packets of 64 bytes; there are few addresses in one message, few messages in one time, and one total for all far ends together. What
//! far ends ask for and what this node itself wants have a total each, so that those who ask for much keep nothing else from being tried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use x0t_model::{DecodeError, Entropy, Instant, NodeId, OverlayPrefix, Reader, Writer};
use x0t_overlay::SessionId;

use crate::message::{decode_address, encode_address};
use crate::ration::Ration;

/// Addresses in one message.
pub const CANDIDATES_MAX: usize = 8;
/// How often a far end is asked before it counts as one that does not answer.
const ASKS: u32 = 3;
/// Between two asks: a few round trips across a slow mesh.
const ASK_AGAIN: Duration = Duration::from_millis(700);
/// How long both sides try. The handshake sends at 0, 100, 300, 700, 1500 ms, so both have sent several times by then.
const DIALING_TIME: Duration = Duration::from_secs(3);
/// Pause after a failure: it doubles from the first to the second.
const PAUSE_MIN: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A far end's requests are heeded at most this often.
const REQUEST_SPACING: Duration = Duration::from_secs(10);
/// A direct link that lasted this long was a success: when it is lost the next try does not wait long.
const SETTLED: Duration = Duration::from_secs(60);
const PAUSE_AFTER_SETTLED: Duration = Duration::from_secs(1);
/// Far ends remembered. Whoever was quiet for longest makes room.
const PEERS_MAX: usize = 256;
/// Addresses dialled because far ends asked for it, all together: at once, and per second.
const REQUESTED_BURST: u64 = 16;
const REQUESTED_PER_SECOND: u64 = 2;
/// The same for what this node itself asked for.
const WANTED_BURST: u64 = 16;
const WANTED_PER_SECOND: u64 = 2;

/// Two far ends tell each other where they may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Chosen by whoever asks; the answer repeats it.
    pub round: u64,
    /// Whether it answers one.
    pub is_answer: bool,
    /// Where the sender may be reached, at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
}

impl Rendezvous {
    /// Bytes of the longest message: all candidates are IPv6 addresses.
    pub const LEN_MAX: usize = 8 + 1 + 1 + CANDIDATES_MAX * (1 + 16 + 2);

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let candidates = &self.candidates[..self.candidates.len().min(CANDIDATES_MAX)];
        let mut writer = Writer::new(out);
        writer.u64(self.round).u8(self.is_answer.into()).u8(candidates.len() as u8);
        for candidate in candidates {
            encode_address(&mut writer, *candidate);
        }
    }

    /// Reads a whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let round = reader.u64()?;
        let is_answer = match reader.u8()? {
            0 => false,
            1 => true,
            value => return Err(DecodeError::Invalid { field: "rendezvous kind", value: value.into() }),
        };
        let count = usize::from(reader.u8()?);
        if count > CANDIDATES_MAX {
            return Err(DecodeError::TooLong { field: "candidates", value: count, limit: CANDIDATES_MAX });
        }
        let candidates = (0..count).map(|_| decode_address(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { round, is_answer, candidates })
    }
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell `to` this node's own candidates, in its end-to-end session.
    Tell {
        /// Whom.
        to: NodeId,
        /// See [`Rendezvous::round`].
        round: u64,
        /// See [`Rendezvous::is_answer`].
        is_answer: bool,
    },
    /// Open a link session to `address`, and say so with [`Punch::dialled`].
    Dial {
        /// Who is expected there.
        node: NodeId,
        /// Where.
        address: SocketAddr,
    },
    /// Forget the session: nobody answered in time.
    Abandon(SessionId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    Asking { round: u64, asked: u32, again: Instant },
    Dialing { until: Instant },
    Direct { since: Instant },
}

/// Who wants a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Own,
    OfFarEnd,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    phase: Phase,
    /// No new attempt of this node's own before.
    not_before: Instant,
    pause: Duration,
    /// The last request of the far end that was heeded: its round and when.
    heeded: Option<(u64, Instant)>,
}

/// All far ends to which a direct path is wanted, tried or there.
#[derive(Debug)]
pub struct Punch {
    overlay: OverlayPrefix,
    entropy: Entropy,
    peers: BTreeMap<NodeId, Peer>,
    attempts: BTreeMap<SessionId, NodeId>,
    actions: VecDeque<Action>,
    requested: Ration,
    wanted: Ration,
    /// Direct links that came about.
    pub successes: u64,
    /// Attempts that came to nothing.
    pub failures: u64,
    /// Candidates that no node should be told to dial.
    pub candidates_refused: u64,
    /// Candidates over the total.
    pub candidates_over: u64,
    /// Requests that came too soon after another.
    pub requests_refused: u64,
}

impl Punch {
    /// No far end yet. `overlay` is the mesh's own network, into which nothing is dialled.
    pub fn new(overlay: OverlayPrefix, entropy: Entropy, now: Instant) -> Self {
        Self {
            overlay,
            entropy,
            peers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            actions: VecDeque::new(),
            requested: Ration::new(REQUESTED_BURST, REQUESTED_PER_SECOND, now),
            wanted: Ration::new(WANTED_BURST, WANTED_PER_SECOND, now),
            successes: 0,
            failures: 0,
            candidates_refused: 0,
            candidates_over: 0,
            requests_refused: 0,
        }
    }

    /// Traffic flows between this node and `node`, which is no neighbour. Call it now and then for as long as that is so.
    pub fn wanted(&mut self, node: NodeId, now: Instant) {
        let round = self.entropy.next_u64();
        let Some(peer) = self.peer(node, now) else { return };
        if peer.phase == Phase::Quiet && peer.not_before <= now {
            peer.phase = Phase::Asking { round, asked: 0, again: now };
        }
    }

    fn peer(&mut self, node: NodeId, now: Instant) -> Option<&mut Peer> {
        if !self.peers.contains_key(&node) {
            if self.peers.len() >= PEERS_MAX {
                let quiet = self.peers.iter().filter(|(_, peer)| peer.phase == Phase::Quiet);
                let oldest = quiet.min_by_key(|(_, peer)| peer.not_before).map(|(node, _)| *node)?;
                self.peers.remove(&oldest);
            }
            let peer = Peer { phase: Phase::Quiet, not_before: now, pause: PAUSE_MIN, heeded: None };
            self.peers.insert(node, peer);
        }
        self.peers.get_mut(&node)
    }

    /// A far end told its candidates. `own` are this node's addresses, which it does not dial.
    pub fn handle_rendezvous(&mut self, from: NodeId, told: &Rendezvous, own: &BTreeSet<SocketAddr>, now: Instant) {
        let Some(peer) = self.peer(from, now) else { return };
        if told.is_answer {
            if matches!(peer.phase, Phase::Asking { round, asked, .. } if round == told.round && asked > 0) {
                self.dial(from, Wish::Own, &told.candidates, own, now);
            }
            return;
        }
        match peer.heeded {
            // Our answer was lost.
            Some((round, _)) if round == told.round => {}
            Some((_, at)) if now.since(at) < REQUEST_SPACING => {
                self.requests_refused += 1;
                return;
            }
            _ => {
                peer.heeded = Some((told.round, now));
                if matches!(peer.phase, Phase::Quiet | Phase::Asking { .. }) {
                    self.dial(from, Wish::OfFarEnd, &told.candidates, own, now);
                }
            }
        }
        self.act(Action::Tell { to: from, round: told.round, is_answer: true });
    }

    /// Dials what may be dialled. If that is nothing only because too much was dialled already, the far end is asked again or asks again.
    fn dial(&mut self, node: NodeId, wish: Wish, candidates: &[SocketAddr], own: &BTreeSet<SocketAddr>, now: Instant) {
        let (mut seen, mut dialled, mut over) = (BTreeSet::new(), 0, 0);
        for candidate in candidates.iter().take(CANDIDATES_MAX) {
            let address = SocketAddr::new(candidate.ip().to_canonical(), candidate.port());
            if !seen.insert(address) {
                continue;
            }
            if !may_be_dialled(address, self.overlay) || own.contains(&address) {
                self.candidates_refused += 1;
                continue;
            }
            let ration = match wish {
                Wish::Own => &mut self.wanted,
                Wish::OfFarEnd => &mut self.requested,
            };
            if ration.take(now) {
                dialled += 1;
                self.act(Action::Dial { node, address });
            } else {
                over += 1;
            }
        }
        self.candidates_over += over;
        if let Some(peer) = self.peers.get_mut(&node).filter(|_| dialled > 0 || over == 0) {
            peer.phase = Phase::Dialing { until: now + DIALING_TIME };
        }
    }

    fn act(&mut self, action: Action) {
        // The node takes every action before it is told anything more; this bounds a node that does not.
        const ACTIONS_MAX: usize = 1024;
        if self.actions.len() < ACTIONS_MAX {
            self.actions.push_back(action);
        }
    }

    /// The session for a [`Action::Dial`] has been opened.
    pub fn dialled(&mut self, session: SessionId, node: NodeId) {
        self.attempts.insert(session, node);
    }

    /// A session is over, or never came to be.
    pub fn session_over(&mut self, session: SessionId) {
        self.attempts.remove(&session);
    }

    /// A link session proved to lead to `peer`. Whether it came about by hole punching, at either end. Who else answered at an
    /// address is a node of this mesh too, but not the one to be reached.
    pub fn established(&mut self, session: SessionId, peer: NodeId) -> Established {
        match self.attempts.remove(&session) {
            Some(expected) if expected != peer => Established::AnotherNode,
            Some(_) => Established::Punched,
            None if self.is_dialing(peer) => Established::Punched,
            None => Established::NotOurs,
        }
    }

    fn is_dialing(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| matches!(peer.phase, Phase::Dialing { .. } | Phase::Asking { .. }))
    }

    /// `node` is a neighbour over UDP, however that came about.
    pub fn neighbor_found(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if !matches!(peer.phase, Phase::Direct { .. }) {
            self.successes += u64::from(peer.phase != Phase::Quiet);
            peer.phase = Phase::Direct { since: now };
        }
    }

    /// `node` is no neighbour any more.
    pub fn neighbor_lost(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Phase::Direct { since } = peer.phase else { return };
        peer.phase = Phase::Quiet;
        if now.since(since) >= SETTLED {
            (peer.not_before, peer.pause) = (now + PAUSE_AFTER_SETTLED, PAUSE_MIN);
        } else {
            peer.back_off(now);
        }
    }

    /// Moves what is due. Call it at [`Self::poll_timeout`], then drain [`Self::poll_action`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut over = BTreeSet::new();
        let mut asks = Vec::new();
        for (node, peer) in &mut self.peers {
            match &mut peer.phase {
                Phase::Asking { round, asked, again } if *again <= now => {
                    if *asked == ASKS {
                        peer.back_off(now);
                        self.failures += 1;
                    } else {
                        (*asked, *again) = (*asked + 1, now + ASK_AGAIN);
                        asks.push(Action::Tell { to: *node, round: *round, is_answer: false });
                    }
                }
                Phase::Dialing { until } if *until <= now => {
                    peer.back_off(now);
                    self.failures += 1;
                    over.insert(*node);
                }
                _ => {}
            }
        }
        let abandoned = self.attempts.extract_if(.., |_, node| over.contains(node)).map(|(session, _)| session);
        let abandoned: Vec<_> = abandoned.map(Action::Abandon).collect();
        asks.into_iter().chain(abandoned).for_each(|action| self.act(action));
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |peer: &Peer| match peer.phase {
            Phase::Asking { again, .. } => Some(again),
            Phase::Dialing { until } => Some(until),
            Phase::Quiet | Phase::Direct { .. } => None,
        };
        self.peers.values().filter_map(due).min()
    }
}

/// What a proven link session has to do with hole punching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Established {
    /// Nothing.
    NotOurs,
    /// It is what was wanted.
    Punched,
    /// Somebody else answered.
    AnotherNode,
}

impl Peer {
    fn back_off(&mut self, now: Instant) {
        self.phase = Phase::Quiet;
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a far end may make this node send to an address. Not to this host itself, not to many at once, and not into the mesh,
/// where a link would carry itself. Link-local addresses mean something else on every link.
pub fn may_be_dialled(address: SocketAddr, overlay: OverlayPrefix) -> bool {
    let is_host = match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_loopback()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local()
                // RFC 1122 section 3.2.1.3: "this network".
                || ip.octets()[0] == 0
                // RFC 1112 section 4: reserved.
                || ip.octets()[0] >= 240)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || overlay.contains(ip))
        }
    };
    is_host && address.port() != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 16]);
    const FAR: NodeId = NodeId::from_bytes([2; 16]);

    fn overlay() -> OverlayPrefix {
        OverlayPrefix::of(&"mesh.test".parse().unwrap())
    }

    fn punch() -> Punch {
        Punch::new(overlay(), Entropy::new([1; 32]), Instant::ZERO)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn actions(punch: &mut Punch, now: Instant) -> Vec<Action> {
        punch.handle_timeout(now);
        std::iter::from_fn(|| punch.poll_action()).collect()
    }

    fn answer(round: u64, candidates: &[&str]) -> Rendezvous {
        let candidates = candidates.iter().map(|text| address(text)).collect();
        Rendezvous { round, is_answer: true, candidates }
    }

    fn request(round: u64, candidates: &[&str]) -> Rendezvous {
        Rendezvous { is_answer: false, ..answer(round, candidates) }
    }

    /// The round of the one question among the actions.
    fn asked(punch: &mut Punch, now: Instant) -> u64 {
        match actions(punch, now)[..] {
            [Action::Tell { to: FAR, round, is_answer: false }] => round,
            ref other => panic!("not one question: {other:?}"),
        }
    }

    #[test]
    fn both_ends_dial_each_other_s_candidates_at_once() {
        let (mut asker, mut asked_one) = (punch(), punch());
        asker.wanted(FAR, at(0));
        let round = asked(&mut asker, at(0));
        let none = BTreeSet::new();
        asked_one.handle_rendezvous(ME, &request(round, &["192.0.2.1:4600"]), &none, at(20));
        assert_eq!(
            actions(&mut asked_one, at(20)),
            [
                Action::Dial { node: ME, address: address("192.0.2.1:4600") },
                Action::Tell { to: ME, round, is_answer: true }
            ]
        );
        asker.handle_rendezvous(FAR, &answer(round, &["198.51.100.2:4600", "10.0.0.2:4600"]), &none, at(40));
        let dials = ["198.51.100.2:4600", "10.0.0.2:4600"].map(|to| Action::Dial { node: FAR, address: address(to) });
        assert_eq!(actions(&mut asker, at(40)), dials);
    }

    #[test]
    fn a_link_ends_the_attempt_and_traffic_asks_for_no_other() {
        let mut punch = punch();
        punch.wanted(FAR, at(0));
        let round = asked(&mut punch, at(0));
        punch.handle_rendezvous(FAR, &answer(round, &["192.0.2.2:1"]), &BTreeSet::new(), at(1));
        actions(&mut punch, at(1));
        let session = SessionId::from_u64(7);
        punch.dialled(session, FAR);
        assert_eq!(punch.established(session, FAR), Established::Punched);
        punch.neighbor_found(FAR, at(50));
        assert_eq!(punch.poll_timeout(), None);
        punch.wanted(FAR, at(60_000));
        assert_eq!(actions(&mut punch, at(60_000)), []);
        assert_eq!((punch.successes, punch.failures), (1, 0));
    }

    #[test]
    fn a_far_end_that_does_not_answer_is_asked_three_times_then_left_alone_for_ever_longer() {
        let mut punch = punch();
        let mut questions = Vec::new();
        for millis in (0..3_600_000).step_by(100) {
            punch.wanted(FAR, at(millis));
            if !actions(&mut punch, at(millis)).is_empty() {
                questions.push(millis / 1000);
            }
        }
        assert_eq!(questions[..4], [0, 0, 1, 32], "three within two seconds, the next half a minute later");
        let last = questions.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!((590..=610).contains(&last), "{last}");
    }

    #[test]
    fn attempts_without_a_link_are_abandoned_after_three_seconds() {
        let mut punch = punch();
        punch.handle_rendezvous(FAR, &request(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
        actions(&mut punch, at(0));
        punch.dialled(SessionId::from_u64(7), FAR);
        assert_eq!(punch.poll_timeout(), Some(at(3_000)));
        assert_eq!(actions(&mut punch, at(3_000)), [Action::Abandon(SessionId::from_u64(7))]);
        punch.wanted(FAR, at(4_000));
        assert_eq!(actions(&mut punch, at(4_000)), [], "the pause holds for this node's own wishes");
    }

    #[test]
    fn a_repeated_request_is_answered_again_but_dials_nothing_again() {
        let mut punch = punch();
        let request = request(5, &["192.0.2.2:1"]);
        punch.handle_rendezvous(FAR, &request, &BTreeSet::new(), at(0));
        assert_eq!(actions(&mut punch, at(0)).len(), 2);
        punch.handle_rendezvous(FAR, &request, &BTreeSet::new(), at(700));
        assert_eq!(actions(&mut punch, at(700)), [Action::Tell { to: FAR, round: 5, is_answer: true }]);
    }

    #[test]
    fn a_far_end_cannot_make_this_node_dial_often_or_much() {
        let mut punch = punch();
        let victims: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
        let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
        let mut dials = 0;
        for millis in (0..60_000).step_by(10) {
            punch.handle_rendezvous(FAR, &request(millis, &victims), &BTreeSet::new(), at(millis));
            dials += actions(&mut punch, at(millis)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
        }
        assert!(dials <= 6 * CANDIDATES_MAX, "{dials} in a minute");
        let mut dials = 0;
        for node in 3..=255u8 {
            let liar = NodeId::from_bytes([node; 16]);
            punch.handle_rendezvous(liar, &request(1, &victims), &BTreeSet::new(), at(100_000));
            dials += actions(&mut punch, at(100_000)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
        }
        assert_eq!(dials, REQUESTED_BURST as usize, "many far ends share one total");
    }

    #[test]
    fn far_ends_that_ask_for_much_keep_nothing_that_this_node_wants_from_being_tried() {
        let mut punch = punch();
        let none = BTreeSet::new();
        let victims: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
        let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
        let mut for_liars = 0;
        for millis in (0..60_000).step_by(50) {
            for node in 3..40u8 {
                punch.handle_rendezvous(NodeId::from_bytes([node; 16]), &request(millis, &victims), &none, at(millis));
            }
            for_liars += actions(&mut punch, at(millis)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
        }
        assert!(for_liars <= (REQUESTED_BURST + 60 * REQUESTED_PER_SECOND) as usize, "{for_liars}");
        punch.wanted(FAR, at(60_000));
        let round = asked(&mut punch, at(60_000));
        punch.handle_rendezvous(FAR, &answer(round, &victims), &none, at(60_050));
        assert_eq!(actions(&mut punch, at(60_050)).len(), CANDIDATES_MAX);
        assert!(punch.candidates_over > 0 && punch.candidates_refused == 0);
    }

    #[test]
    fn what_cannot_be_dialled_yet_is_asked_for_again_and_is_no_failure() {
        let mut punch = punch();
        let none = BTreeSet::new();
        let places: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let mut meet = |node: u8, now| {
            let far = NodeId::from_bytes([node; 16]);
            punch.wanted(far, now);
            let Some(Action::Tell { round, .. }) = actions(&mut punch, now).first().copied() else { return 0 };
            punch.handle_rendezvous(far, &answer(round, &places), &none, now);
            actions(&mut punch, now).len()
        };
        assert_eq!([meet(3, at(0)), meet(4, at(0)), meet(5, at(0))], [CANDIDATES_MAX, CANDIDATES_MAX, 0]);
        let again = actions(&mut punch, at(700));
        let Some(Action::Tell { to, round, is_answer: false }) = again.first().copied() else { panic!("{again:?}") };
        punch.handle_rendezvous(to, &answer(round, &places), &none, at(710));
        assert_eq!(actions(&mut punch, at(710)).len(), 1, "what a second allows");
        assert_eq!(punch.failures, 0);
    }

    #[test]
    fn an_answer_that_was_not_asked_for_dials_nothing() {
        let mut punch = punch();
        punch.handle_rendezvous(FAR, &answer(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
        assert_eq!(actions(&mut punch, at(0)), []);
        punch.wanted(FAR, at(0));
        let round = asked(&mut punch, at(0));
        punch.handle_rendezvous(FAR, &answer(round ^ 1, &["192.0.2.2:1"]), &BTreeSet::new(), at(1));
        assert_eq!(actions(&mut punch, at(1)), []);
    }

    #[test]
    fn candidates_that_no_node_should_be_told_to_dial_are_passed_over() {
        let in_mesh = overlay().address(FAR).to_string();
        let bad = [
            "127.0.0.1:4600",
            "0.0.0.0:4600",
            "0.1.2.3:1",
            "224.0.0.251:5353",
            "255.255.255.255:1",
            "240.0.0.1:1",
            "169.254.1.1:1",
            "192.0.2.1:0",
            "[::1]:1",
            "[::]:1",
            "[ff02::1]:1",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:1",
            "203.0.113.9:4600",
            &format!("[{in_mesh}]:4600"),
        ];
        let own = BTreeSet::from([address("203.0.113.9:4600")]);
        for candidate in bad {
            let mut punch = punch();
            punch.handle_rendezvous(FAR, &request(1, &[candidate]), &own, at(0));
            let tells = [Action::Tell { to: FAR, round: 1, is_answer: true }];
            assert_eq!(actions(&mut punch, at(0)), tells, "{candidate}");
            assert_eq!(punch.candidates_refused, 1, "{candidate}");
        }
    }

    #[test]
    fn a_lost_direct_link_is_tried_again_soon_if_it_had_lasted() {
        let mut punch = punch();
        punch.wanted(FAR, at(0));
        punch.neighbor_found(FAR, at(0));
        punch.neighbor_lost(FAR, at(60_000));
        punch.wanted(FAR, at(60_500));
        assert_eq!(actions(&mut punch, at(60_500)), []);
        punch.wanted(FAR, at(61_000));
        asked(&mut punch, at(61_000));
        punch.neighbor_found(FAR, at(61_100));
        punch.neighbor_lost(FAR, at(62_000));
        punch.wanted(FAR, at(64_000));
        assert_eq!(actions(&mut punch, at(64_000)), [], "one that comes and goes is left alone");
    }

    #[test]
    fn another_node_behind_a_candidate_is_not_the_one_wanted() {
        let mut punch = punch();
        punch.handle_rendezvous(FAR, &request(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
        punch.dialled(SessionId::from_u64(7), FAR);
        let other = NodeId::from_bytes([9; 16]);
        assert_eq!(punch.established(SessionId::from_u64(7), other), Established::AnotherNode);
        assert_eq!(punch.established(SessionId::from_u64(8), other), Established::NotOurs);
        assert_eq!(punch.established(SessionId::from_u64(9), FAR), Established::Punched, "it dialled us");
    }

    #[test]
    fn only_so_many_far_ends_are_remembered() {
        let mut punch = punch();
        for number in 0..2_000u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            punch.wanted(NodeId::from_bytes(id), at(0));
        }
        assert_eq!(punch.peers.len(), PEERS_MAX);
    }

    #[test]
    fn a_rendezvous_has_its_golden_bytes_and_survives_them() {
        let told = answer(258, &["192.0.2.1:4600", "[2001:db8::1]:4600"]);
        let mut out = Vec::new();
        told.encode(&mut out);
        let golden = [
            &[0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 4, 192, 0, 2, 1, 0x11, 0xf8, 6, 0x20, 1, 0xd, 0xb8][..],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11, 0xf8],
        ];
        assert_eq!(out, golden.concat());
        assert_eq!(Rendezvous::decode(&out), Ok(told));
        let too_many = [&[0; 9][..], &[CANDIDATES_MAX as u8 + 1]].concat();
        assert!(matches!(Rendezvous::decode(&too_many), Err(DecodeError::TooLong { .. })));
        for len in 0..out.len() {
            assert!(Rendezvous::decode(&out[..len]).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(told) = Rendezvous::decode(&bytes) {
                let mut out = Vec::new();
                told.encode(&mut out);
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
