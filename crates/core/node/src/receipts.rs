//! End-to-end receipts: whether what is sent to a far end arrives, and by which way it does not.
//!
//! A link's heartbeats say nothing about what lies behind the neighbour. So the receiver of an end-to-end session reports which
//! packets have come, and the sender remembers by which way it sent them. Two verdicts follow, for one way to one far end each:
//!
//! * **A black hole**: packets are outstanding, and neither they nor the probes sent after them are reported in the time that a report
//!   takes. At the first sign the next packets take a second way too; when the evidence is in, the way is *suspect* and
//!   everything goes another way. It is asked on, and trusted again when it answers.
//! * **A grey hole**: a way loses significantly more than what noise, its link or another way would explain, counted apart for small and
//!   for large packets. The way is *demoted*. A loss that all ways share demotes at most one of them, once.
//!
//! Reports are sealed like data, so no relay can spare them. They go two ways at once where there are two, so that the loss of one way
//! back does not look like the loss of the way there. Nothing here is told to anybody else.
//!
//! ```text
//! sender    sent, copied ─► ledger ─► way (round trip, outstanding, tallies) ─► poll: Probe, Hedge, Suspect, …
//!                             ▲ on_receipt                                          │ timers
//! receiver  received ─► inbound ─► poll: Report ─► receipt ────── sealed, two ways ──┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use x0t_model::{Instant, NodeId};
use x0t_overlay::SessionId;
use x0t_routing::LinkId;

mod inbound;
mod ledger;
mod way;

pub use ledger::Seen;
pub use way::Size;

use inbound::Inbound;
use ledger::Ledger;
use way::{Step, Way};

/// A report follows the first packet it tells of after this long.
pub const REPORT_AFTER: Duration = Duration::from_millis(20);
/// The most packets a report speaks of.
pub const REPORT_PACKETS: u64 = 1024;
/// Deadlines are rounded up to multiples of this, so that many far ends share a wake-up.
const TICK: Duration = Duration::from_millis(2);
/// Ways watched to one far end.
const WAYS_MAX: usize = 4;
/// Far ends watched, and sessions reported on. Beyond it newcomers go unwatched.
const ENDS_MAX: usize = 4096;
/// A far end nothing was sent to, or a session nothing came by, for this long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say what has arrived in this session: ask [`Receipts::receipt`], and send it by two ways.
    Report {
        /// Which.
        session: SessionId,
    },
    /// Send a probe by this way and no other, and tell [`Receipts::sent`].
    Probe {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
        /// Of which size, so that a hole for large packets shows.
        size: Size,
    },
    /// A sign of life is late: send a few packets by another way too, until it is known why.
    Hedge {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
    },
    /// The sign of life came: one way is enough again.
    Relax {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
    },
    /// Nothing arrives by this way.
    Suspect {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
    },
    /// Something arrives again, or nobody cares any more.
    Trust {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
    },
    /// Too much is lost by this way.
    Demote {
        /// To whom.
        node: NodeId,
        /// By which link.
        link: LinkId,
        /// By how many doublings of its cost.
        steps: u8,
    },
}

/// The head of a report; the words of the replay window go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// For how long the newest packet has been here.
    pub held: Duration,
    /// How many words of the window to send: what was new in the last few reports, so that a lost one leaves no gap.
    pub words: usize,
}

/// What was sent to one far end.
#[derive(Debug)]
struct Outbound {
    session: SessionId,
    ledger: Ledger,
    ways: Vec<Way>,
    used_at: Instant,
    /// Whether it ever reported: silence of who never speaks means nothing.
    reports: bool,
    /// Whether large packets were sent lately.
    large_at: Option<Instant>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Receipts {
    outbound: BTreeMap<NodeId, Outbound>,
    inbound: BTreeMap<SessionId, Inbound>,
    actions: VecDeque<Action>,
    due: Option<Instant>,
    /// Packets that may leave before one whose number is lower.
    overtaking: u64,
}

impl Receipts {
    /// For a node whose packets leave out of order: one may be overtaken by so many before it leaves at all.
    pub fn with_overtaking(overtaking: u64) -> Self {
        Self { overtaking, ..Self::default() }
    }

    /// Packets `first .. first + count` of `session` with `node`, of `len` bytes each, went by `link` and by no other.
    pub fn sent(
        &mut self,
        (node, session): (NodeId, SessionId),
        link: LinkId,
        (first, count): (u64, u32),
        len: usize,
        now: Instant,
    ) {
        let size = Size::of(len);
        let Some((end, way)) = self.way(node, session, link, now) else { return };
        if size == Size::Large {
            end.large_at = Some(now);
        }
        let watched = end.ledger.sent(first, count, way as u8, size, now);
        end.ways[way].sent(watched, now);
        let due = end.ways[way].due().filter(|_| end.reports);
        self.wake(due);
    }

    /// Packets went by two links at once: nobody can tell by which of them they arrive, so the ways are probed instead.
    pub fn copied(&mut self, (node, session): (NodeId, SessionId), links: [LinkId; 2], now: Instant) {
        for link in links {
            let Some((end, way)) = self.way(node, session, link, now) else { return };
            end.ways[way].copied(now);
            let due = end.ways[way].due().filter(|_| end.reports);
            self.wake(due);
        }
    }

    /// `count` packets of a far end that call for a report came in `session`, of `bytes` in total. `at_once`: it asked for one.
    pub fn received(&mut self, session: SessionId, count: u32, bytes: usize, at_once: bool, now: Instant) {
        if self.inbound.len() >= ENDS_MAX && !self.inbound.contains_key(&session) {
            return;
        }
        let inbound = self.inbound.entry(session).or_default();
        inbound.received(count, bytes, at_once, now);
        let due = inbound.due();
        self.wake(due);
    }

    /// What to say of `session`, of which `highest` is the newest packet.
    pub fn receipt(&mut self, session: SessionId, highest: u64, now: Instant) -> Option<Receipt> {
        Some(self.inbound.get_mut(&session)?.report(highest, now))
    }

    /// `node` reported on what was sent in `session`. `held` is how long it has held the newest packet; `expected` says how much a
    /// way is expected to lose, in thousandths.
    pub fn on_receipt(
        &mut self,
        (node, session): (NodeId, SessionId),
        seen: Seen<'_>,
        held: Duration,
        expected: impl Fn(LinkId) -> u32,
        now: Instant,
    ) {
        let Some(end) = self.outbound.get_mut(&node).filter(|end| end.session == session) else { return };
        end.reports = true;
        for size in [Size::Small, Size::Large] {
            for at in 0..end.ways.len() {
                let others = end.ways.iter().enumerate().filter(|(other, _)| *other != at);
                let others = others.filter_map(|(_, way)| way.known_loss(size, now)).min();
                let way = &mut end.ways[at];
                way.tolerate(size, expected(way.link), others);
            }
        }
        end.ledger.report(seen, (held, self.overtaking), &mut end.ways, now);
        for way in &mut end.ways {
            let link = way.link;
            if way.is_relieved() {
                self.actions.push_back(Action::Relax { node, link });
            }
            for size in [Size::Small, Size::Large] {
                let demotion = way.demotion(size, now);
                self.actions.extend(demotion.map(|steps| Action::Demote { node, link, steps }));
            }
        }
        let due = end.ways.iter().filter_map(Way::due).min();
        self.wake(due);
    }

    /// The session is over.
    pub fn session_ended(&mut self, session: SessionId) {
        self.inbound.remove(&session);
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() && self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.ask_all(now);
        }
        self.actions.pop_front()
    }

    /// When to call [`Self::poll`] at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.actions.is_empty() { self.due } else { Some(Instant::ZERO) }
    }

    /// Whether a way is suspect, for people.
    pub fn is_suspect(&self, node: NodeId, link: LinkId) -> bool {
        self.outbound.get(&node).is_some_and(|end| end.ways.iter().any(|way| way.link == link && way.is_suspect()))
    }

    /// Every way and every session says what is due. Runs at most once a tick.
    fn ask_all(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut note = |due: Option<Instant>| next = next.into_iter().chain(due).min();
        self.outbound.retain(|_, end| now.since(end.used_at) < FORGOTTEN_AFTER || end.ways.iter().any(Way::is_suspect));
        for (node, end) in self.outbound.iter_mut().filter(|(_, end)| end.reports) {
            let large = end.large_at.is_some_and(|at| now.since(at) < way::IDLE);
            for (at, way) in end.ways.iter_mut().enumerate() {
                while let Some(step) = way.step(end.used_at, large, now) {
                    if matches!(step, Step::Suspect | Step::Trust) {
                        end.ledger.forget_way(at as u8);
                    }
                    let (node, link) = (*node, way.link);
                    self.actions.push_back(match step {
                        Step::Hedge => Action::Hedge { node, link },
                        Step::Suspect => Action::Suspect { node, link },
                        Step::Trust => Action::Trust { node, link },
                        Step::Probe => Action::Probe { node, link, size: way.probe_size(large) },
                    });
                }
                note(way.due());
            }
        }
        self.inbound.retain(|_, inbound| !inbound.is_idle(now));
        for (session, inbound) in &mut self.inbound {
            if inbound.is_due(now) {
                self.actions.push_back(Action::Report { session: *session });
            }
            note(inbound.due());
        }
        self.wake(next);
    }

    /// Wakes at the first tick from `due` on.
    fn wake(&mut self, due: Option<Instant>) {
        let tick = TICK.as_nanos() as u64;
        let rounded = due.map(|due| Instant::from_nanos(due.as_nanos().div_ceil(tick).saturating_mul(tick)));
        self.due = self.due.into_iter().chain(rounded).min();
    }

    /// The way to `node` by `link`, newly watched if need be. The one unused for longest makes room.
    fn way(&mut self, node: NodeId, session: SessionId, link: LinkId, now: Instant) -> Option<(&mut Outbound, usize)> {
        if self.outbound.len() >= ENDS_MAX && !self.outbound.contains_key(&node) {
            return None;
        }
        let end = self.outbound.entry(node).or_insert_with(|| Outbound::new(session, now));
        end.used_at = now;
        if end.session != session {
            end.session = session;
            end.ledger.clear();
            end.ways.iter_mut().for_each(Way::renumber);
        }
        let known = end.ways.iter().position(|way| way.link == link);
        let at = match known {
            Some(at) => at,
            None if end.ways.len() < WAYS_MAX => {
                end.ways.push(Way::new(link, now));
                end.ways.len() - 1
            }
            None => {
                let (at, _) = end.ways.iter().enumerate().min_by_key(|(_, way)| way.used_at)?;
                end.ways[at] = Way::new(link, now);
                end.ledger.forget_way(at as u8);
                at
            }
        };
        Some((end, at))
    }
}

impl Outbound {
    fn new(session: SessionId, now: Instant) -> Self {
        Self { session, ledger: Ledger::default(), ways: Vec::new(), used_at: now, reports: false, large_at: None }
    }
}

#[cfg(test)]
mod tests;
