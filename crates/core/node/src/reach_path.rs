//! A path's story: how nodes find a way to each other that nobody configured.
//!
//! Neighbours in the local network are heard by their beacons ([`crate::discovery`]). Far ends with which traffic flows through relays
//! are met there ([`crate::punch`]): both tell each other where they may be reached, in their end-to-end session, and connect at
//! once. What a node may be reached at it learns from its configuration and from its neighbours, who tell where they see it.
//! Where UDP does not pass, [`crate::dialer`] tries TLS. However a link came about, it is admitted like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{Instant, NodeId, Underlay};
use x0t_overlay::{Carrier, Purpose, SessionId};
use x0t_routing::LinkId;

use crate::api::Output;
use crate::links::Origin;
use crate::message::{EndDatagram, LinkMessage};
use crate::node::Node;
use crate::punch::{Action, CANDIDATES_MAX, Established, Rendezvous, may_be_dialled};

/// How often to look which far ends traffic flows with.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Packets between two looks, both directions together, that make a direct path worth its handshakes. A renewal of an SVID or
/// a ping is fewer.
const TRAFFIC_MIN: u64 = 8;
/// Observed addresses among the candidates. A node behind one NAT has one; behind several, one for each.
const OBSERVED_MAX: usize = 3;

/// How much each far end's session had carried at the last look.
#[derive(Debug, Default)]
pub struct Watch {
    packets: BTreeMap<SessionId, u64>,
    next: Option<Instant>,
}

impl Node {
    /// Something came to the discovery group.
    pub(crate) fn on_beacon(&mut self, from: SocketAddr, bytes: &[u8]) {
        let Some(heard) = self.discovery.as_mut().and_then(|discovery| discovery.handle_beacon(from, bytes, self.now))
        else {
            return;
        };
        self.dialer.discovered(heard.address, heard.node, self.now);
    }

    /// Does what discovery and hole punching have due. True if anything happened.
    pub(crate) fn advance_reach(&mut self) -> bool {
        let mut moved = self.advance_discovery();
        if !self.config.punch || self.stopping.is_some() {
            return moved;
        }
        self.look_for_traffic();
        self.punch.handle_timeout(self.now);
        while let Some(action) = self.punch.poll_action() {
            moved = true;
            self.perform(action);
        }
        moved
    }

    pub(crate) fn reach_timeout(&self) -> Option<Instant> {
        let discovery = self.discovery.as_ref().and_then(|discovery| discovery.poll_timeout());
        let punch = if self.config.punch { self.punch.poll_timeout() } else { None };
        [discovery, punch, self.watch.next].into_iter().flatten().min()
    }

    fn advance_discovery(&mut self) -> bool {
        let Some(discovery) = &mut self.discovery else { return false };
        for address in discovery.fell_silent(self.now) {
            self.dialer.fell_silent(address);
        }
        match discovery.poll_beacon(self.now) {
            Some(beacon) => {
                self.push(Output::Beacon(beacon));
                true
            }
            None => false,
        }
    }

    /// Far ends that packets are exchanged with, but through relays: a direct path to them is wanted.
    fn look_for_traffic(&mut self) {
        if self.watch.next.is_some_and(|at| at > self.now) {
            return;
        }
        let mut packets = BTreeMap::new();
        for (node, session) in self.ends.iter() {
            let Some(info) = self.endpoint.info(session) else { continue };
            let count = info.rx_packets + info.tx_packets;
            packets.insert(session, count);
            let before = self.watch.packets.get(&session).copied().unwrap_or(count);
            let is_direct = self
                .links
                .of_peer(node)
                .and_then(|id| self.links.get(id))
                .is_some_and(|link| matches!(link.proven.address, Underlay::Udp(_)));
            if count - before >= TRAFFIC_MIN && !is_direct {
                self.punch.wanted(node, self.now);
            }
        }
        self.watch.next = (!packets.is_empty()).then(|| self.now + LOOK_INTERVAL);
        self.watch.packets = packets;
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Tell { to, round, is_answer } => {
                let (mut rendezvous, mut datagram) = (Vec::new(), Vec::new());
                let candidates = self.candidates();
                Rendezvous { round, is_answer, candidates }.encode(&mut rendezvous);
                EndDatagram::Rendezvous(&rendezvous).encode(&mut datagram);
                self.send_to_end(to, 0, &datagram);
            }
            Action::Dial { node, address } => {
                match self.endpoint.connect(Purpose::Link, Carrier::Udp(address), self.now, self.wall) {
                    Ok(session) => self.punch.dialled(session, node),
                    Err(_) => self.stats.sessions_unopened += 1,
                }
            }
            Action::Abandon(session) => self.endpoint.forget(session),
        }
    }

    /// Where this node may be reached: as its neighbours see it, then as it is configured.
    fn candidates(&self) -> Vec<SocketAddr> {
        let observed: BTreeSet<SocketAddr> = self.links.iter().filter_map(|(_, link)| link.observed).collect();
        let mut candidates: Vec<SocketAddr> = Vec::new();
        for address in observed.into_iter().take(OBSERVED_MAX).chain(self.config.advertised.iter().copied()) {
            let worthwhile = may_be_dialled(address, self.prefix) && !candidates.contains(&address);
            if worthwhile && candidates.len() < CANDIDATES_MAX {
                candidates.push(address);
            }
        }
        candidates
    }

    /// A far end says where it may be reached.
    pub(crate) fn on_rendezvous(&mut self, from: NodeId, bytes: &[u8]) {
        if !self.config.punch {
            return;
        }
        match Rendezvous::decode(bytes) {
            Ok(rendezvous) => {
                let own = self.candidates().into_iter().collect();
                self.punch.handle_rendezvous(from, &rendezvous, &own, self.now);
            }
            Err(_) => self.stats.reach_messages_malformed += 1,
        }
    }

    /// How a link that has just proven itself came about; `None` if it leads to somebody else than was meant.
    pub(crate) fn origin_of(&mut self, session: SessionId, peer: NodeId, address: Underlay) -> Option<Origin> {
        let punched = self.punch.established(session, peer);
        if punched == Established::AnotherNode {
            return None;
        }
        let dialled = self.dialer.origin_of(session, peer, address);
        let otherwise = if punched == Established::Punched { Origin::Punched } else { Origin::Accepted };
        Some(dialled.unwrap_or(otherwise))
    }

    /// Tells a neighbour where it is seen. Behind a NAT it has no other way to know.
    pub(crate) fn tell_observed(&mut self, session: SessionId, address: Underlay) {
        let Some(seen) = address.udp() else { return };
        let mut message = Vec::new();
        LinkMessage::Observed(seen).encode(&mut message);
        self.send_message(session, &message);
    }

    /// A neighbour says something beside routing.
    pub(crate) fn on_link_message(&mut self, link: LinkId, bytes: &[u8]) {
        match LinkMessage::decode(bytes) {
            Ok(LinkMessage::Observed(address)) => {
                let place = may_be_dialled(address, self.prefix).then_some(address);
                if let Some(link) = self.links.get_mut(link) {
                    link.observed = place;
                }
            }
            Err(_) => self.stats.reach_messages_malformed += 1,
        }
    }
}
