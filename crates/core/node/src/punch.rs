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

mod rendezvous;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId, OverlayPrefix};
use x0t_overlay::SessionId;

use crate::ration::Ration;

pub use rendezvous::Rendezvous;

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
mod tests;
