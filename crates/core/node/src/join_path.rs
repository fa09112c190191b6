//! How a host without identity becomes a member: what an authority answers, and what any member carries for it.
//!
//! A joiner speaks to whatever address its token names. An authority there answers itself. Any other member puts the packet,
//! which it cannot read, into its end-to-end session with an authority and sends back what comes from there. So a host
//! that reaches only a relay can join, and the relay learns neither the token nor the key.
//!
//! Anybody can send first packets from any address, so these are rationed by where they come from, and all together. What belongs to a
//! session that an authority has answered, which it does only after a cookie came back, has rations of its own: whoever floods
//! a member with first packets ends nobody's join.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use x0t_identity::AuthorityRequest;
use x0t_identity::message::Message;
use x0t_model::{Instant, NodeId, Underlay};
use x0t_overlay::packet::{JOIN, join_receiver, join_sender};
use x0t_overlay::{Carrier, Opened, SessionId};

use crate::api::Output;
use crate::message::EndDatagram;
use crate::node::Node;
use crate::ration::Ration;
use crate::train::Train;

/// First packets per second from everywhere, and at once. Each costs a keyed hash at an authority and one sealed packet at another member;
/// a join sends three.
const FIRST_PER_SECOND: u64 = 1_000;
const FIRST_BURST: u64 = 500;
/// First packets per second from one place, and at once: thirty hosts of one office that join in the same second.
const PLACE_PER_SECOND: u64 = 100;
const PLACE_BURST: u64 = 100;
/// Places whose ration is not full at this moment. Beyond them only the ration for all counts.
const PLACES_MAX: usize = 1024;
/// Packets per second of one session that was answered, and at once. A whole join has a dozen; an endless message is not to be worth more
/// than its beginning.
const SESSION_PER_SECOND: u64 = 16;
const SESSION_BURST: u64 = 32;
/// Sessions that are remembered, and for how long after the last packet.
const SESSIONS_MAX: usize = 1024;
const SESSION_TIME: Duration = Duration::from_secs(30);

/// How long a joiner has for its request and the answer.
const JOINER_TIME: Duration = Duration::from_secs(15);
/// How many joiners an authority listens to at once. The longest-served makes room for the next.
const JOINERS_MAX: usize = 256;

/// Bounds what strangers can make a member carry and keep.
#[derive(Debug)]
pub struct JoinRelay {
    first: Ration,
    by_place: BTreeMap<Place, Ration>,
    /// Sessions that were answered: where the joiner is, and what the authority calls the session.
    answered: BTreeMap<(Underlay, u32), Answered>,
    /// Sessions of joiners, who have shown no certificate, and until when they are kept.
    joiners: BTreeMap<SessionId, Instant>,
}

/// Where first packets come from: a network that one owner can send from at will, or the member that carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
    /// It may invent as many addresses behind it as it likes.
    Member(NodeId),
}

impl Place {
    fn of(from: Underlay) -> Self {
        match from.address().ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

#[derive(Debug)]
struct Answered {
    ration: Ration,
    until: Instant,
}

impl JoinRelay {
    pub const fn new(now: Instant) -> Self {
        Self {
            first: Ration::new(FIRST_BURST, FIRST_PER_SECOND, now),
            by_place: BTreeMap::new(),
            answered: BTreeMap::new(),
            joiners: BTreeMap::new(),
        }
    }

    /// A joiner may speak from here on. Gives the one that has to go, if there are too many.
    fn joiner_came(&mut self, session: SessionId, now: Instant) -> Option<SessionId> {
        let oldest = || self.joiners.iter().min_by_key(|(_, until)| **until).map(|(session, _)| *session);
        let evicted = if self.joiners.len() >= JOINERS_MAX { oldest() } else { None };
        if let Some(evicted) = evicted {
            self.joiners.remove(&evicted);
        }
        self.joiners.insert(session, now + JOINER_TIME);
        evicted
    }

    pub fn joiner_left(&mut self, session: SessionId) {
        self.joiners.remove(&session);
    }

    /// Joiners whose time is over.
    pub fn late_joiners(&self, now: Instant) -> Vec<SessionId> {
        self.joiners.iter().filter(|(_, until)| **until <= now).map(|(session, _)| *session).collect()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.joiners.values().min().copied()
    }

    /// Whether one more first packet may pass.
    fn admit_first(&mut self, place: Place, now: Instant) -> bool {
        if self.by_place.len() >= PLACES_MAX && !self.by_place.contains_key(&place) {
            self.by_place.retain(|_, ration| !ration.is_full(now));
        }
        let has_room = self.by_place.len() < PLACES_MAX;
        let of_place = match self.by_place.get_mut(&place) {
            Some(ration) => ration.take(now),
            None if has_room => {
                let mut ration = Ration::new(PLACE_BURST, PLACE_PER_SECOND, now);
                let granted = ration.take(now);
                self.by_place.insert(place, ration);
                granted
            }
            None => true,
        };
        of_place && self.first.take(now)
    }

    /// Whether one more packet of an answered session may pass; `None` if that is none.
    fn admit_answered(&mut self, joiner: Underlay, index: u32, now: Instant) -> Option<bool> {
        let answered = self.answered.get_mut(&(joiner, index)).filter(|answered| answered.until > now)?;
        answered.until = now + SESSION_TIME;
        Some(answered.ration.take(now))
    }

    /// An authority, which calls the session `index`, has answered a joiner that has shown that it is where it says.
    fn answered(&mut self, joiner: Underlay, index: u32, now: Instant) {
        let until = now + SESSION_TIME;
        if let Some(answered) = self.answered.get_mut(&(joiner, index)) {
            answered.until = until;
            return;
        }
        if self.answered.len() >= SESSIONS_MAX {
            self.answered.retain(|_, answered| answered.until > now);
        }
        if self.answered.len() >= SESSIONS_MAX
            && let Some(oldest) = self.answered.iter().min_by_key(|(_, answered)| answered.until).map(|(key, _)| *key)
        {
            self.answered.remove(&oldest);
        }
        let ration = Ration::new(SESSION_BURST, SESSION_PER_SECOND, now);
        self.answered.insert((joiner, index), Answered { ration, until });
    }
}

impl Node {
    /// A joiner has done its handshake. It is a stranger: it may ask, but neither stay nor come in any number.
    pub(crate) fn on_joiner(&mut self, session: SessionId) {
        if let Some(evicted) = self.join_relay.joiner_came(session, self.now) {
            self.end_joiner(evicted);
        }
    }

    pub(crate) fn close_late_joiners(&mut self) {
        for session in self.join_relay.late_joiners(self.now) {
            self.end_joiner(session);
        }
    }

    fn end_joiner(&mut self, session: SessionId) {
        self.join_relay.joiner_left(session);
        self.stats.joiners_ended += 1;
        self.endpoint.close(session, x0t_overlay::close_code::DONE, "joining took too long", self.now);
    }

    /// A packet of a join session came from the underlay.
    pub(crate) fn on_join_packet(&mut self, from: Underlay, packet: &mut [u8]) {
        if !self.admit_join(Place::of(from), from, packet) {
            self.stats.join_packets_dropped += 1;
            return;
        }
        if self.trust.is_authority() {
            self.answer_join(Carrier::from(from), packet);
            return;
        }
        let reachable = self.trust.authorities().find(|authority| self.next_hop(*authority).is_some());
        let Some(authority) = reachable else {
            self.stats.join_packets_dropped += 1;
            return;
        };
        let mut datagram = Vec::with_capacity(packet.len() + 24);
        EndDatagram::JoinInbound { remote: from, packet }.encode(&mut datagram);
        self.send_to_end(authority, 0, &datagram);
        self.stats.join_packets_relayed += 1;
    }

    /// A member carries a joiner's packet to this authority.
    pub(crate) fn on_relayed_join(&mut self, via: NodeId, remote: Underlay, packet: &[u8]) {
        let joins = packet.first() == Some(&JOIN);
        if !joins || !self.trust.is_authority() || !self.admit_join(Place::Member(via), remote, packet) {
            self.stats.join_packets_dropped += 1;
            return;
        }
        self.answer_join(Carrier::Relayed { via, remote }, &mut packet.to_vec());
    }

    /// Whether a joiner's packet is within its ration.
    fn admit_join(&mut self, place: Place, joiner: Underlay, packet: &[u8]) -> bool {
        if let Some(index) = join_receiver(packet) {
            // An authority knows its sessions by itself; another member has seen them answered.
            if self.trust.is_authority() && self.endpoint.holds(index) {
                self.join_relay.answered(joiner, index, self.now);
            }
            if let Some(granted) = self.join_relay.admit_answered(joiner, index, self.now) {
                return granted;
            }
        }
        self.join_relay.admit_first(place, self.now)
    }

    fn answer_join(&mut self, carrier: Carrier, packet: &mut [u8]) {
        match self.endpoint.handle_datagram(carrier, packet, self.now, self.wall) {
            Some(Opened::Forward { .. } | Opened::Datagram { .. }) => self.stats.packets_of_no_link += 1,
            None => {}
        }
    }

    /// This authority's answer to a joiner that is reached through `via`.
    pub(crate) fn send_relayed_join(&mut self, via: NodeId, remote: Underlay, packet: &[u8]) {
        let mut datagram = Vec::with_capacity(packet.len() + 24);
        EndDatagram::JoinOutbound { remote, packet }.encode(&mut datagram);
        self.send_to_end(via, 0, &datagram);
    }

    /// An authority asks this member to hand a packet to a joiner.
    pub(crate) fn on_join_answer(&mut self, from: NodeId, remote: Underlay, packet: &[u8]) {
        if !self.trust.authorities().any(|authority| authority == from) {
            self.stats.join_packets_dropped += 1;
            return;
        }
        if let Some(index) = join_sender(packet) {
            self.join_relay.answered(remote, index, self.now);
        }
        self.push(Output::Datagrams { to: remote, flow: None, train: Train::single(packet.to_vec()) });
    }

    /// A joiner presents its token, or a node that slept too long its old SVID.
    pub(crate) fn on_join_request(&mut self, session: SessionId, bytes: &[u8]) {
        let request = match Message::decode(bytes) {
            Ok(Message::JoinRequest(request)) => AuthorityRequest::Join(request),
            Ok(Message::RecoverRequest(request)) => AuthorityRequest::Recover(request),
            Ok(_) | Err(_) => {
                self.stats.identity_messages_refused += 1;
                self.endpoint.close(session, x0t_overlay::close_code::PROTOCOL, "not a join request", self.now);
                return;
            }
        };
        self.ask_to_join(session, request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(text: &str) -> Underlay {
        Underlay::Udp(text.parse().unwrap())
    }

    #[test]
    fn a_flood_from_one_network_leaves_others_their_first_packets() {
        let mut relay = JoinRelay::new(Instant::ZERO);
        let (mut flood, mut others) = (0, 0);
        for millisecond in 0..10_000_u64 {
            let now = Instant::from_millis(millisecond);
            for _ in 0..10 {
                let from = Place::of(underlay(&format!("192.0.2.{}:1", millisecond % 250)));
                flood += u64::from(relay.admit_first(from, now));
            }
            if millisecond % 100 == 0 {
                let from = Place::of(underlay(&format!("198.51.{}.7:1", millisecond / 100)));
                others += u64::from(relay.admit_first(from, now));
            }
        }
        assert!(flood <= 100 + 10 * 100, "{flood}");
        assert_eq!(others, 100, "one for each");
    }

    #[test]
    fn two_hundred_first_packets_a_second_from_everywhere_stop_nobody() {
        let mut relay = JoinRelay::new(Instant::ZERO);
        let mut refused = 0;
        for n in 0..2_000_u32 {
            let now = Instant::from_millis(u64::from(n) * 5);
            let [a, b, c, _] = n.wrapping_mul(2_654_435_761).to_be_bytes();
            relay.admit_first(Place::V4([a, b, c]), now);
            if n % 20 == 0 {
                refused += u32::from(!relay.admit_first(Place::of(underlay("[2001:db8::1]:9")), now));
            }
        }
        assert_eq!(refused, 0);
        let mut relay = JoinRelay::new(Instant::ZERO);
        for n in 0..200_000_u32 {
            let now = Instant::from_millis(u64::from(n) / 200);
            relay.admit_first(Place::V6(n.to_be_bytes().repeat(2)[..6].try_into().unwrap()), now);
        }
        assert!(relay.by_place.len() <= PLACES_MAX);
    }

    #[test]
    fn a_session_that_was_answered_does_not_depend_on_first_packets_and_has_a_bound_of_its_own() {
        let (joiner, now) = (underlay("203.0.113.5:7"), Instant::ZERO);
        let mut relay = JoinRelay::new(now);
        assert_eq!(relay.admit_answered(joiner, 5, now), None, "nobody has answered");
        relay.answered(joiner, 5, now);
        while relay.first.take(now) {}
        assert!(!relay.admit_first(Place::of(joiner), now));
        let granted = (0..1_000).filter(|_| relay.admit_answered(joiner, 5, now) == Some(true)).count();
        assert_eq!(granted as u64, SESSION_BURST);
        assert_eq!(relay.admit_answered(underlay("203.0.113.5:8"), 5, now), None, "another address");
        assert_eq!(relay.admit_answered(joiner, 6, now), None, "another session");
        let later = now + SESSION_TIME * 2;
        assert_eq!(relay.admit_answered(joiner, 5, later), None, "forgotten");
        for n in 0..5_000 {
            relay.answered(joiner, n, Instant::from_millis(n.into()));
        }
        assert_eq!(relay.answered.len(), SESSIONS_MAX);
    }

    #[test]
    fn only_so_many_joiners_are_kept_and_none_for_long() {
        let mut relay = JoinRelay::new(Instant::ZERO);
        let come = |n: u64| relay.joiner_came(SessionId::from_u64(n), Instant::from_millis(n));
        let evicted: Vec<_> = (0..JOINERS_MAX as u64 + 3).filter_map(come).collect();
        assert_eq!(evicted, [0, 1, 2].map(SessionId::from_u64));
        assert_eq!(relay.poll_timeout(), Some(Instant::from_millis(3) + JOINER_TIME));
        assert_eq!(relay.late_joiners(Instant::from_millis(3) + JOINER_TIME), [SessionId::from_u64(3)]);
    }
}
