//! How a host without identity becomes a member: what an authority answers, and what any member carries for it.
//!
//! A joiner speaks to whatever address its token names. An authority there answers itself. Any other member puts the packet,
//! which it cannot read, into its end-to-end session with an authority and sends back what comes from there. So a host
//! that reaches only a relay can join, and the relay learns neither the token nor the key.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_identity::message::Message;
use x0t_model::{Instant, NodeId, Underlay};
use x0t_overlay::packet::JOIN;
use x0t_overlay::{Carrier, Opened, SessionId};

use crate::api::Output;
use crate::message::EndDatagram;
use crate::node::Node;
use crate::ration::Ration;
use crate::train::Train;

/// Join packets that are carried per second, for all joiners together.
const PACKETS_PER_SECOND: u64 = 200;
/// How many may come at once.
const BURST: u64 = 100;

/// How long a joiner has for its request and the answer.
const JOINER_TIME: Duration = Duration::from_secs(15);
/// How many joiners an authority listens to at once. The longest-served makes room for the next.
const JOINERS_MAX: usize = 256;

/// Bounds what strangers can make a member carry and keep.
#[derive(Debug)]
pub struct JoinRelay {
    ration: Ration,
    /// Sessions of joiners, who have shown no certificate, and until when they are kept.
    joiners: BTreeMap<SessionId, Instant>,
}

impl JoinRelay {
    pub const fn new(now: Instant) -> Self {
        Self { ration: Ration::new(BURST, PACKETS_PER_SECOND, now), joiners: BTreeMap::new() }
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

    /// Whether one more packet may pass.
    fn admit(&mut self, now: Instant) -> bool {
        self.ration.take(now)
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
        if !self.join_relay.admit(self.now) {
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
        if !joins || !self.trust.is_authority() || !self.join_relay.admit(self.now) {
            self.stats.join_packets_dropped += 1;
            return;
        }
        self.answer_join(Carrier::Relayed { via, remote }, &mut packet.to_vec());
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
        self.push(Output::Datagrams { to: remote, train: Train::single(packet.to_vec()) });
    }

    /// A joiner presents its token.
    pub(crate) fn on_join_request(&mut self, session: SessionId, bytes: &[u8]) {
        let request = match Message::decode(bytes) {
            Ok(Message::JoinRequest(request)) => request,
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
