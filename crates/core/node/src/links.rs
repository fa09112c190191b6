//! The neighbours, and which session speaks for each.
//!
//! Two neighbours need one session but may come to hold two: both dialled at once, or one of them replaces a session whose
//! SVID grows old. Both must then keep the same one without asking each other, so the choice depends only on what both
//! know: [`Links::admit`] tells the rule. The session that loses goes on opening packets for a while, so that nothing in
//! flight is lost, and is then closed.
//!
//! A node that tries several addresses of one peer at once opens several sessions, and only it knows which was first. It closes
//! the others, and the peer, for whom the newest speaks, goes back to the one before: [`Links::session_ended`].

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::{Instant, NodeId, SpiffeId, Underlay, UnixTime};
use x0t_overlay::SessionId;
use x0t_routing::LinkId;

use crate::last_hop::LastHop;

/// Two sessions with the same peer that became ready within this time were opened at once by both.
const SIMULTANEOUS: Duration = Duration::from_secs(3);
/// Two sessions that this node itself opened with the same peer within this time are attempts at several addresses of it.
const RACE: Duration = Duration::from_secs(1);
/// How long a session that lost goes on opening packets.
pub const DRAIN: Duration = Duration::from_secs(3);

/// A session that has proven itself, as [`Links::admit`] needs to know it.
#[derive(Clone, Debug)]
pub struct Proven {
    pub session: SessionId,
    pub peer: NodeId,
    pub spiffe_id: SpiffeId,
    pub address: Underlay,
    pub incarnation: u64,
    /// Whether this node opened it.
    pub initiator: bool,
    /// End of validity of the certificate that was shown.
    pub not_after: UnixTime,
}

/// How a link came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer is configured here.
    Configured,
    /// A beacon in the local network named it.
    Discovered,
    /// By hole punching, with relays as the meeting place.
    Punched,
    /// The peer opened it.
    Accepted,
}

impl Origin {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Discovered => "discovered",
            Self::Punched => "punched",
            Self::Accepted => "accepted",
        }
    }
}

/// A neighbour.
#[derive(Debug)]
pub struct Link {
    pub proven: Proven,
    /// What spoke before, for as long as it drains.
    before: Option<Proven>,
    pub origin: Origin,
    /// Where the neighbour sees this node, as it says.
    pub observed: Option<std::net::SocketAddr>,
    pub established_at: Instant,
    pub heard_at: Instant,
    /// Index of the interface it was last heard on, 0 if unknown.
    pub interface: u32,
    pub last_hop: LastHop,
}

/// What became of a session that proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A neighbour that was not there before.
    New(LinkId),
    /// The neighbour keeps its link; the session named drains, unless the peer restarted: then it is to be forgotten.
    Replaced { link: LinkId, old: SessionId, restarted: bool },
    /// The neighbour already has a better session; drain the new one.
    Redundant,
    /// This node tried several ways to the neighbour at once, and another was faster or is better; close the new one.
    Slower,
    /// No room.
    Full,
}

#[derive(Debug, Default)]
pub struct Links {
    by_id: BTreeMap<LinkId, Link>,
    by_peer: BTreeMap<NodeId, LinkId>,
    /// Sessions that speak for a link, and those that drain.
    by_session: BTreeMap<SessionId, LinkId>,
    draining: BTreeMap<SessionId, Instant>,
    next: u32,
}

impl Links {
    /// How many neighbours a node may have.
    pub const MAX: usize = 1024;

    /// Decides which session speaks for a neighbour.
    ///
    /// The newer one, because it has the newer certificate and a restarted peer knows no other; unless both sides opened
    /// one at the same time, where the one opened by the node with the lower id stays, which both sides can see. And unless
    /// this node opened both: then it decides for both sides, and closes the one it does not want. It wants the faster one, and
    /// no TLS where it has UDP.
    pub fn admit(&mut self, proven: Proven, origin: Origin, me: NodeId, now: Instant) -> Admission {
        let Some(&id) = self.by_peer.get(&proven.peer) else {
            if self.by_id.len() >= Self::MAX {
                return Admission::Full;
            }
            let id = LinkId(self.next);
            self.next = self.next.wrapping_add(1);
            self.by_peer.insert(proven.peer, id);
            self.by_session.insert(proven.session, id);
            let link = Link {
                proven,
                before: None,
                origin,
                observed: None,
                established_at: now,
                heard_at: now,
                interface: 0,
                last_hop: LastHop::default(),
            };
            self.by_id.insert(id, link);
            return Admission::New(id);
        };
        let Some(link) = self.by_id.get_mut(&id) else { return Admission::Redundant };
        let restarted = link.proven.incarnation != proven.incarnation;
        let crossed = link.proven.initiator != proven.initiator && now.since(link.established_at) < SIMULTANEOUS;
        let opened_by_lower = proven.initiator == (me < proven.peer);
        if crossed && !restarted && !opened_by_lower {
            self.by_session.insert(proven.session, id);
            self.draining.insert(proven.session, now + DRAIN);
            return Admission::Redundant;
        }
        let falls_back = matches!((link.proven.address, proven.address), (Underlay::Udp(_), Underlay::Tls(_)));
        let climbs = matches!((link.proven.address, proven.address), (Underlay::Tls(_), Underlay::Udp(_)));
        let raced = link.proven.initiator && now.since(link.established_at) < RACE && !climbs;
        if proven.initiator && !restarted && (falls_back || raced) {
            return Admission::Slower;
        }
        let old = link.proven.session;
        self.by_session.insert(proven.session, id);
        if restarted {
            // What the earlier run said may still be in flight. It must not be taken for what this run says.
            self.by_session.retain(|session, of| *of != id || *session == proven.session);
            self.draining.retain(|session, _| self.by_session.contains_key(session));
        } else {
            self.draining.insert(old, now + DRAIN);
        }
        let before = std::mem::replace(&mut link.proven, proven);
        link.before = (!restarted).then_some(before);
        if origin != Origin::Accepted {
            link.origin = origin;
        }
        link.established_at = now;
        link.heard_at = now;
        Admission::Replaced { link: id, old, restarted }
    }

    /// The link that a session speaks or drains for.
    pub fn of_session(&self, session: SessionId) -> Option<LinkId> {
        self.by_session.get(&session).copied()
    }

    /// The link to a neighbour.
    pub fn of_peer(&self, peer: NodeId) -> Option<LinkId> {
        self.by_peer.get(&peer).copied()
    }

    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.by_id.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.by_id.iter().map(|(id, link)| (*id, link))
    }

    /// The neighbour is gone. Gives it and every session that belonged to it.
    pub fn remove(&mut self, id: LinkId) -> Option<(Link, Vec<SessionId>)> {
        let link = self.by_id.remove(&id)?;
        self.by_peer.remove(&link.proven.peer);
        let sessions: Vec<_> =
            self.by_session.iter().filter(|(_, of)| **of == id).map(|(session, _)| *session).collect();
        for session in &sessions {
            self.by_session.remove(session);
            self.draining.remove(session);
        }
        Some((link, sessions))
    }

    /// A session ended. Gives the link it spoke for, if it did and no earlier session can speak again: the peer had opened
    /// several and does not want this one.
    pub fn session_ended(&mut self, session: SessionId) -> Option<LinkId> {
        self.draining.remove(&session);
        let id = self.by_session.remove(&session)?;
        let link = self.by_id.get_mut(&id)?;
        if link.proven.session != session {
            return None;
        }
        match link.before.take().filter(|before| self.draining.remove(&before.session).is_some()) {
            Some(before) => {
                link.proven = before;
                None
            }
            None => Some(id),
        }
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
        self.draining.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId::from_bytes([1; 16]);
    const HIGH: NodeId = NodeId::from_bytes([2; 16]);

    fn proven(session: u64, peer: NodeId, initiator: bool, incarnation: u64) -> Proven {
        Proven {
            session: SessionId::from_u64(session),
            peer,
            spiffe_id: "spiffe://mesh.test/node/peer".parse().unwrap(),
            address: Underlay::Udp(std::net::SocketAddr::from(([127, 0, 0, 1], 1))),
            incarnation,
            initiator,
            not_after: UnixTime::from_secs(0),
        }
    }

    #[test]
    fn when_both_dial_at_once_both_keep_the_session_that_the_lower_id_opened() {
        for low_first in [true, false] {
            let (mut at_low, mut at_high) = (Links::default(), Links::default());
            let sessions = if low_first { [(1, true), (2, false)] } else { [(2, false), (1, true)] };
            for (session, opened_by_low) in sessions {
                at_low.admit(proven(session, HIGH, opened_by_low, 9), Origin::Configured, LOW, Instant::ZERO);
                at_high.admit(proven(session, LOW, !opened_by_low, 9), Origin::Configured, HIGH, Instant::ZERO);
            }
            let kept = |links: &Links| links.iter().map(|(_, link)| link.proven.session).next();
            assert_eq!(kept(&at_low), Some(SessionId::from_u64(1)));
            assert_eq!(kept(&at_high), Some(SessionId::from_u64(1)));
        }
    }

    #[test]
    fn a_later_session_takes_over_and_the_old_one_drains() {
        let mut links = Links::default();
        let Admission::New(id) = links.admit(proven(1, HIGH, true, 9), Origin::Configured, LOW, Instant::ZERO) else {
            panic!("not new")
        };
        let later = Instant::ZERO + Duration::from_secs(60);
        let admission = links.admit(proven(2, HIGH, false, 9), Origin::Configured, LOW, later);
        assert_eq!(admission, Admission::Replaced { link: id, old: SessionId::from_u64(1), restarted: false });
        assert_eq!(links.of_session(SessionId::from_u64(1)), Some(id), "packets in flight still open");
        assert_eq!(links.drained(later), []);
        assert_eq!(links.drained(later + DRAIN), [SessionId::from_u64(1)]);
        assert_eq!(links.session_ended(SessionId::from_u64(1)), None);
        assert_eq!(links.session_ended(SessionId::from_u64(2)), Some(id));
    }

    #[test]
    fn a_restarted_peer_is_recognised_even_when_it_dials_at_once() {
        let mut links = Links::default();
        links.admit(proven(1, HIGH, true, 9), Origin::Configured, LOW, Instant::ZERO);
        let admission = links.admit(proven(2, HIGH, false, 10), Origin::Configured, LOW, Instant::from_millis(1));
        assert!(matches!(admission, Admission::Replaced { restarted: true, .. }));
        assert_eq!(links.of_session(SessionId::from_u64(1)), None, "the earlier run is not listened to");
    }

    fn over_tls(session: u64, initiator: bool) -> Proven {
        let address = Underlay::Tls(std::net::SocketAddr::from(([127, 0, 0, 1], 443)));
        Proven { address, ..proven(session, HIGH, initiator, 9) }
    }

    #[test]
    fn of_several_addresses_tried_at_once_both_sides_keep_the_one_that_answered_first() {
        let (mut at_low, mut at_high) = (Links::default(), Links::default());
        for session in [1, 2] {
            at_high.admit(proven(session, LOW, false, 9), Origin::Accepted, HIGH, Instant::from_millis(session));
        }
        at_low.admit(proven(1, HIGH, true, 9), Origin::Punched, LOW, Instant::from_millis(1));
        let second = at_low.admit(proven(2, HIGH, true, 9), Origin::Punched, LOW, Instant::from_millis(2));
        assert_eq!(second, Admission::Slower);
        assert_eq!(at_high.session_ended(SessionId::from_u64(2)), None, "the neighbour stays");
        let kept = |links: &Links| links.iter().map(|(_, link)| link.proven.session).next();
        assert_eq!((kept(&at_low), kept(&at_high)), (Some(SessionId::from_u64(1)), Some(SessionId::from_u64(1))));
        assert_eq!(at_high.drained(Instant::from_millis(60_000)), [], "it speaks and drains no longer");
        assert!(at_high.session_ended(SessionId::from_u64(1)).is_some());
    }

    #[test]
    fn a_session_that_has_drained_does_not_come_back() {
        let mut links = Links::default();
        links.admit(proven(1, HIGH, false, 9), Origin::Accepted, LOW, Instant::ZERO);
        links.admit(proven(2, HIGH, false, 9), Origin::Accepted, LOW, Instant::from_millis(2));
        assert_eq!(links.drained(Instant::from_millis(3_002)), [SessionId::from_u64(1)]);
        assert!(links.session_ended(SessionId::from_u64(2)).is_some(), "the neighbour is lost");
    }

    #[test]
    fn udp_takes_over_from_tls_at_once_and_tls_never_from_udp() {
        let mut links = Links::default();
        links.admit(over_tls(1, true), Origin::Configured, LOW, Instant::ZERO);
        let udp = links.admit(proven(2, HIGH, true, 9), Origin::Configured, LOW, Instant::from_millis(1));
        assert!(matches!(udp, Admission::Replaced { .. }));
        let tls = links.admit(over_tls(3, true), Origin::Configured, LOW, Instant::from_millis(60_000));
        assert_eq!(tls, Admission::Slower);
    }
}
