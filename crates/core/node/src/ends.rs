//! The far ends this node talks to: one end-to-end session each, and the packets that wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use x0t_model::{Instant, NodeId, UnixTime};
use x0t_overlay::SessionId;

use crate::links::DRAIN;
use crate::path_mtu::Seen;

/// How many far ends may be held at once.
const ENDS_MAX: usize = 4096;
/// How many datagrams wait for one session.
const WAITING_MAX: usize = 50;
/// How many reliable messages wait for one session.
const MESSAGES_MAX: usize = 4;
/// How long a datagram waits for a session before it is stale.
const WAITING_TIME: Duration = Duration::from_secs(1);
/// Pause after a handshake that failed.
const RETRY: Duration = Duration::from_millis(500);

/// A datagram that waits, encoded as [`crate::message::EndDatagram`].
#[derive(Debug)]
struct Waiting {
    since: Instant,
    flow: u32,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct End {
    /// What speaks for it.
    session: Option<Ready>,
    /// A handshake under way.
    opening: Option<SessionId>,
    not_before: Option<Instant>,
    waiting: VecDeque<Waiting>,
    /// Reliable messages that wait.
    messages: VecDeque<Vec<u8>>,
    /// What its path carries.
    seen: Seen,
}

/// What waited for a session that is ready.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// Flow and bytes.
    pub datagrams: Vec<(u32, Vec<u8>)>,
    pub messages: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    id: SessionId,
    initiator: bool,
    since: Instant,
    not_after: UnixTime,
}

/// What to do with something for a far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Seal it in this session.
    Session(SessionId),
    /// It waits; open a session.
    Open,
    /// It waits for a handshake that is under way or due.
    Waits,
    /// There was no room.
    Dropped,
}

#[derive(Debug, Default)]
pub struct Ends {
    by_node: BTreeMap<NodeId, End>,
    by_session: BTreeMap<SessionId, NodeId>,
    draining: BTreeMap<SessionId, Instant>,
    /// Datagrams dropped because they waited too long or there was no room.
    pub dropped: u64,
}

impl Ends {
    /// Where `bytes` for `node` go. `bytes` is taken only if it must wait.
    pub fn route(&mut self, node: NodeId, flow: u32, bytes: &[u8], now: Instant) -> Way {
        let Some(end) = self.end(node) else { return Way::Dropped };
        if let Some(ready) = end.session {
            return Way::Session(ready.id);
        }
        if end.waiting.len() >= WAITING_MAX {
            end.waiting.pop_front();
            self.dropped += 1;
        }
        let Some(end) = self.end(node) else { return Way::Dropped };
        end.waiting.push_back(Waiting { since: now, flow, bytes: bytes.to_vec() });
        end.way_to_open(now)
    }

    /// Where a reliable message for `node` goes; it waits like a datagram but does not grow stale.
    pub fn route_message(&mut self, node: NodeId, bytes: &[u8], now: Instant) -> Way {
        let Some(end) = self.end(node) else { return Way::Dropped };
        if let Some(ready) = end.session {
            return Way::Session(ready.id);
        }
        if end.messages.len() >= MESSAGES_MAX {
            end.messages.pop_front();
        }
        end.messages.push_back(bytes.to_vec());
        end.way_to_open(now)
    }

    /// What was seen of the path to `node`, if it is held.
    pub fn seen(&mut self, node: NodeId) -> Option<&mut Seen> {
        self.by_node.get_mut(&node).map(|end| &mut end.seen)
    }

    fn end(&mut self, node: NodeId) -> Option<&mut End> {
        if self.by_node.len() >= ENDS_MAX && !self.by_node.contains_key(&node) {
            return None;
        }
        Some(self.by_node.entry(node).or_default())
    }

    /// A handshake with `node` is under way.
    pub fn opening(&mut self, node: NodeId, session: SessionId) {
        if let Some(end) = self.end(node) {
            end.opening = Some(session);
        }
        self.by_session.insert(session, node);
    }

    /// A handshake with `node` could not even be started: later, for it would fail again now.
    pub fn open_failed(&mut self, node: NodeId, now: Instant) {
        if let Some(end) = self.by_node.get_mut(&node) {
            end.not_before = Some(now + RETRY);
        }
    }

    /// A session proved itself. Gives the datagrams and messages that waited for one.
    ///
    /// The newest session speaks, so that a peer that restarted is followed at once; of two that both ends opened at the
    /// same time, both ends pick the one opened by the lower id.
    pub fn established(
        &mut self,
        node: NodeId,
        session: SessionId,
        initiator: bool,
        me: NodeId,
        not_after: UnixTime,
        now: Instant,
    ) -> Waited {
        self.by_session.insert(session, node);
        let Some(end) = self.end(node) else { return Waited::default() };
        if end.opening == Some(session) {
            end.opening = None;
        }
        let ready = Ready { id: session, initiator, since: now, not_after };
        let loser = match end.session.replace(ready) {
            Some(held)
                if held.initiator != initiator && now.since(held.since) < DRAIN && held.initiator == (me < node) =>
            {
                end.session = Some(held);
                Some(session)
            }
            Some(held) => Some(held.id),
            None => None,
        };
        let datagrams = std::mem::take(&mut end.waiting);
        let messages = std::mem::take(&mut end.messages).into();
        if let Some(loser) = loser {
            self.draining.insert(loser, now + DRAIN);
        }
        let mut fresh = Vec::with_capacity(datagrams.len());
        for waiting in datagrams {
            if now.since(waiting.since) <= WAITING_TIME {
                fresh.push((waiting.flow, waiting.bytes));
            } else {
                self.dropped += 1;
            }
        }
        Waited { datagrams: fresh, messages }
    }

    pub fn session_of(&self, node: NodeId) -> Option<SessionId> {
        self.by_node.get(&node)?.session.map(|ready| ready.id)
    }

    /// Far ends with a session that speaks for them.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, SessionId)> {
        self.by_node.iter().filter_map(|(node, end)| Some((*node, end.session?.id)))
    }

    pub fn node_of(&self, session: SessionId) -> Option<NodeId> {
        self.by_session.get(&session).copied()
    }

    /// Whether something waits for a session that nobody is opening, and may be opened now.
    pub fn wants_session(&self, now: Instant) -> Option<NodeId> {
        let wants = |end: &End| {
            end.session.is_none()
                && end.opening.is_none()
                && !(end.waiting.is_empty() && end.messages.is_empty())
                && end.not_before.is_none_or(|at| at <= now)
        };
        self.by_node.iter().find(|(_, end)| wants(end)).map(|(node, _)| *node)
    }

    /// Whether a further session may be opened beside the one that speaks: nobody is opening one and the last try is not
    /// just over.
    pub fn may_reopen(&mut self, node: NodeId, now: Instant) -> bool {
        match self.by_node.get_mut(&node) {
            Some(end) if end.opening.is_none() && end.not_before.is_none_or(|at| at <= now) => {
                end.not_before = Some(now + RETRY);
                true
            }
            _ => false,
        }
    }

    /// Sessions whose peer's certificate ends before `by`.
    pub fn expired(&self, by: UnixTime) -> Vec<SessionId> {
        self.by_node
            .values()
            .filter_map(|end| end.session)
            .filter(|held| held.not_after <= by)
            .map(|held| held.id)
            .collect()
    }

    /// Every node whose session was made before `since`, and to which nobody is making another.
    pub fn older_than(&self, since: Instant) -> impl Iterator<Item = NodeId> {
        let older = move |end: &End| end.opening.is_none() && end.session.is_some_and(|ready| ready.since < since);
        self.by_node.iter().filter(move |(_, end)| older(end)).map(|(node, _)| *node)
    }

    /// A session ended.
    pub fn session_ended(&mut self, session: SessionId, now: Instant) {
        self.draining.remove(&session);
        let Some(node) = self.by_session.remove(&session) else { return };
        let Some(end) = self.by_node.get_mut(&node) else { return };
        if end.session.is_some_and(|ready| ready.id == session) {
            end.session = None;
        }
        if end.opening == Some(session) {
            end.opening = None;
            end.not_before = Some(now + RETRY);
        }
        self.tidy(now);
    }

    /// Drops what waited too long, and far ends that nothing is left of.
    pub fn tidy(&mut self, now: Instant) {
        let mut dropped = 0;
        self.by_node.retain(|_, end| {
            while end.waiting.front().is_some_and(|waiting| now.since(waiting.since) > WAITING_TIME) {
                end.waiting.pop_front();
                dropped += 1;
            }
            end.session.is_some() || end.opening.is_some() || !end.waiting.is_empty() || !end.messages.is_empty()
        });
        self.dropped += dropped;
    }

    /// Sessions that have drained for long enough. They are forgotten here; the caller closes them.
    pub fn drained(&mut self, now: Instant) -> Vec<SessionId> {
        let due: Vec<_> = self.draining.iter().filter(|(_, at)| **at <= now).map(|(session, _)| *session).collect();
        for session in &due {
            self.draining.remove(session);
            self.by_session.remove(session);
        }
        due
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = |end: &End| {
            let waits =
                end.session.is_none() && end.opening.is_none() && !(end.waiting.is_empty() && end.messages.is_empty());
            if waits { end.not_before } else { None }
        };
        let retries = self.by_node.values().filter_map(retry);
        self.draining.values().copied().chain(retries).min()
    }
}

impl End {
    fn way_to_open(&mut self, now: Instant) -> Way {
        if self.opening.is_some() || self.not_before.is_some_and(|at| at > now) { Way::Waits } else { Way::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([5; 16]);
    const ME: NodeId = NodeId::from_bytes([1; 16]);
    const NEVER: UnixTime = UnixTime::from_secs(u64::MAX);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn what_waits_for_a_session_is_handed_over_once_it_is_ready() {
        let mut ends = Ends::default();
        assert_eq!(ends.route(NODE, 1, b"a", at(0)), Way::Open);
        let session = SessionId::from_u64(1);
        ends.opening(NODE, session);
        assert_eq!(ends.route(NODE, 2, b"b", at(5)), Way::Waits);
        let Waited { datagrams, messages } = ends.established(NODE, session, true, ME, NEVER, at(9));
        assert_eq!(datagrams, [(1, b"a".to_vec()), (2, b"b".to_vec())]);
        assert!(messages.is_empty());
        assert_eq!(ends.route(NODE, 1, b"c", at(10)), Way::Session(session));
    }

    #[test]
    fn waiting_is_bounded_in_number_and_time() {
        let mut ends = Ends::default();
        for _ in 0..WAITING_MAX + 3 {
            ends.route(NODE, 0, b"x", at(0));
        }
        assert_eq!(ends.dropped, 3);
        ends.tidy(at(1_001));
        assert_eq!(ends.dropped, 3 + WAITING_MAX as u64);
        assert_eq!(ends.session_of(NODE), None);
        assert_eq!(ends.poll_timeout(), None);
    }

    #[test]
    fn a_handshake_that_failed_is_tried_again_after_a_pause() {
        let mut ends = Ends::default();
        ends.route_message(NODE, &[1], at(0));
        ends.opening(NODE, SessionId::from_u64(1));
        ends.session_ended(SessionId::from_u64(1), at(10));
        assert_eq!(ends.wants_session(at(11)), None);
        assert_eq!(ends.poll_timeout(), Some(at(10) + RETRY));
        assert_eq!(ends.wants_session(at(10) + RETRY), Some(NODE));
    }

    #[test]
    fn a_handshake_that_could_not_be_started_is_not_due_at_once() {
        let mut ends = Ends::default();
        assert_eq!(ends.route_message(NODE, &[1], at(0)), Way::Open);
        ends.open_failed(NODE, at(0));
        assert_eq!(ends.wants_session(at(0)), None);
        assert_eq!(ends.poll_timeout(), Some(at(0) + RETRY));
    }

    #[test]
    fn of_two_sessions_opened_at_once_both_ends_keep_the_one_of_the_lower_id() {
        for own_first in [true, false] {
            let mut ends = Ends::default();
            let order = if own_first { [(1, true), (2, false)] } else { [(2, false), (1, true)] };
            for (session, initiator) in order {
                ends.established(NODE, SessionId::from_u64(session), initiator, ME, NEVER, at(0));
            }
            assert_eq!(ends.session_of(NODE), Some(SessionId::from_u64(1)), "this node's id is the lower one");
            assert_eq!(ends.drained(at(0) + DRAIN), [SessionId::from_u64(2)]);
        }
    }
}
