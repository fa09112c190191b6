//! A peer's story: it proves who it is and is admitted, it falls silent and is left, it says goodbye.

use x0t_identity::Leaf;
use x0t_model::{NodeId, SpiffeId, Underlay, UnixTime};
use x0t_overlay::{
    Carrier, CertificateDer, CloseReason, Event, HandshakeError, PATH_MTU_BASE, Purpose, SessionId, Transmit,
    close_code, hop::PayloadKind,
};
use x0t_routing::{LinkDownReason, LinkId};

use crate::api::{Output, What};
use crate::ends::Waited;
use crate::links::{Admission, Proven};
use crate::message::{LinkMessage, Parameters};
use crate::node::Node;
use crate::train::Train;
use crate::trust_path::printable;

/// What [`Event::Established`] says, in one piece.
struct Established {
    session: SessionId,
    carrier: Carrier,
    peer: Option<SpiffeId>,
    initiator: bool,
    parameters: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
}

impl Node {
    pub(crate) fn on_session_event(&mut self, event: Event) {
        match event {
            Event::Established { session, purpose, carrier, peer, initiator, peer_parameters, peer_chain } => {
                let established =
                    Established { session, carrier, peer, initiator, parameters: peer_parameters, chain: peer_chain };
                match purpose {
                    Purpose::Link => self.on_neighbor_proof(established),
                    Purpose::EndToEnd => self.on_end_proof(established),
                    Purpose::Join => self.on_joiner(session),
                }
            }
            Event::Datagram { session, mut bytes } => {
                if self.links.of_session(session).is_some() {
                    self.heard(session, 0);
                    self.on_link_datagram(session, &bytes);
                } else if let Some(unsummed) = self.on_end_datagram(session, &mut bytes) {
                    self.deliver_alone(&bytes[1..], unsummed);
                }
            }
            Event::Message { session, bytes } => self.on_message(session, bytes),
            Event::CarrierChanged { session, carrier } => self.on_roam(session, carrier),
            Event::PathMtu { session, mtu } => self.on_path_mtu(session, mtu),
            Event::Closed { session, reason, .. } => self.on_session_over(session, &reason),
            Event::Refused { session, purpose, carrier, reason, .. } => {
                self.tell_refusal(purpose, carrier, &reason);
                self.on_session_over(session, &reason);
            }
        }
    }

    /// A neighbour has shown its certificate and the handshake verified it. Nothing is carried for it before this.
    fn on_neighbor_proof(&mut self, established: Established) {
        let session = established.session;
        let Some(address) = established.carrier.underlay() else {
            return self.turn_away(session, "a link needs an address of its own");
        };
        let Some((peer, spiffe_id, parameters)) = self.introduced(&established) else {
            return self.turn_away(session, "parameters are malformed");
        };
        if peer == self.me {
            self.dialer.found_myself(address, self.now);
            return self.turn_away(session, "this is myself");
        }
        let Some(origin) = self.origin_of(session, peer, address) else {
            return self.turn_away(session, "another node was meant");
        };
        let not_after = self.not_after(&established.chain);
        let proven = Proven {
            session,
            peer,
            spiffe_id: spiffe_id.clone(),
            address,
            incarnation: parameters.incarnation,
            initiator: established.initiator,
            not_after,
        };
        let path_mtu = self.path_mtu_of(peer, address);
        let admission = self.links.admit(proven, origin, self.me, self.now);
        if admission != Admission::Full {
            self.dialer.established(session, peer, self.now);
            self.dialer.neighbor_found(peer, address, self.now);
        }
        if let (Admission::New(_) | Admission::Replaced { .. }, Underlay::Udp(_)) = (admission, address) {
            self.punch.neighbor_found(peer, self.now);
        }
        match admission {
            Admission::New(link) => {
                self.learn(peer, spiffe_id.clone());
                self.router.link_up(link, peer, parameters.incarnation, self.now);
                self.tell_observed(session, address);
                self.tell(What::LinkUp { peer, spiffe_id, address, origin: origin.word().to_owned() });
            }
            Admission::Replaced { link, old, restarted } => {
                if restarted {
                    self.endpoint.forget(old);
                }
                self.router.link_up(link, peer, parameters.incarnation, self.now);
                if let Some(mtu) = path_mtu {
                    self.endpoint.resume_path_mtu(session, mtu);
                }
                self.on_path_mtu(session, self.endpoint.path_mtu(session).unwrap_or(PATH_MTU_BASE));
                self.tell_observed(session, address);
            }
            Admission::Redundant => {}
            Admission::Slower => {
                const SLOWER: &str = "another way was faster";
                self.endpoint.close(session, close_code::DONE, SLOWER, self.now);
            }
            Admission::Full => self.turn_away(session, "no room for another neighbour"),
        }
    }

    /// A far end has proven itself across relays.
    fn on_end_proof(&mut self, established: Established) {
        let session = established.session;
        let (Carrier::Overlay(claimed), Some((peer, spiffe_id, _))) =
            (established.carrier, self.introduced(&established))
        else {
            return self.turn_away(session, "parameters are malformed");
        };
        if peer != claimed {
            self.stats.end_identity_mismatch += 1;
            return self.turn_away(session, "the identity is not the one that was addressed");
        }
        let not_after = self.not_after(&established.chain);
        let first = self.ends.session_of(peer).is_none();
        self.learn(peer, spiffe_id.clone());
        let Waited { datagrams, messages } =
            self.ends.established(peer, session, established.initiator, self.me, not_after, self.now);
        for (flow, datagram) in datagrams {
            self.send_sealed(session, peer, flow, &datagram);
        }
        for message in messages {
            self.send_message(session, &message);
        }
        if first {
            self.tell(What::SessionUp { peer: spiffe_id });
        }
    }

    fn introduced(&self, established: &Established) -> Option<(NodeId, SpiffeId, Parameters)> {
        let spiffe_id = established.peer.clone()?;
        let parameters = Parameters::decode(&established.parameters).ok()?;
        Some((NodeId::of(&spiffe_id), spiffe_id, parameters))
    }

    fn not_after(&self, chain: &[CertificateDer<'static>]) -> UnixTime {
        chain.first().and_then(|leaf| Leaf::read(leaf).ok()).map_or(self.wall, |leaf| leaf.not_after)
    }

    fn turn_away(&mut self, session: SessionId, reason: &str) {
        self.stats.sessions_turned_away += 1;
        self.endpoint.close(session, close_code::APPLICATION, reason, self.now);
    }

    /// An authenticated packet of a neighbour: it lives.
    pub(crate) fn heard(&mut self, session: SessionId, interface: u32) {
        let Some(id) = self.links.of_session(session) else { return };
        self.router.heard(id, self.now);
        if let Some(link) = self.links.get_mut(id) {
            link.heard_at = self.now;
            if interface != 0 {
                link.interface = interface;
            }
        }
    }

    /// Routing messages of a neighbour.
    pub(crate) fn on_link_datagram(&mut self, session: SessionId, bytes: &[u8]) {
        if let Some(link) = self.links.of_session(session) {
            self.router.handle_message(link, bytes, self.now);
        }
    }

    fn on_message(&mut self, session: SessionId, bytes: Vec<u8>) {
        if let Some(link) = self.links.of_session(session) {
            self.heard(session, 0);
            if LinkMessage::is_meant(&bytes) {
                self.on_link_message(link, &bytes);
            } else {
                self.router.handle_message(link, &bytes, self.now);
            }
        } else if self.endpoint.info(session).is_some_and(|info| info.purpose == Purpose::Join) {
            self.on_join_request(session, &bytes);
        } else if let Some(from) = self.ends.node_of(session) {
            self.on_identity_message(session, from, &bytes);
        }
    }

    /// Another size passes a link than before.
    fn on_path_mtu(&mut self, session: SessionId, mtu: usize) {
        if let Some(id) = self.links.of_session(session)
            && self.links.get(id).is_some_and(|link| link.proven.session == session)
        {
            self.router.link_mtu(id, u16::try_from(mtu).unwrap_or(u16::MAX), self.now);
        }
    }

    /// What is known to pass to a neighbour at that address.
    fn path_mtu_of(&self, peer: NodeId, address: Underlay) -> Option<usize> {
        let link = self.links.get(self.links.of_peer(peer)?)?;
        if link.proven.address == address { self.endpoint.path_mtu(link.proven.session) } else { None }
    }

    fn on_roam(&mut self, session: SessionId, carrier: Carrier) {
        if let (Some(id), Some(address)) = (self.links.of_session(session), carrier.underlay())
            && let Some(link) = self.links.get_mut(id)
            && link.proven.session == session
        {
            link.proven.address = address;
            self.tell_observed(session, address);
        }
    }

    /// A session ended or never came to be.
    fn on_session_over(&mut self, session: SessionId, reason: &CloseReason) {
        self.dialer.session_failed(session, Some(why_over(reason)), self.now);
        self.punch.session_over(session);
        if let Some(far_end) = self.ends.node_of(session) {
            self.reassembly.session_ended(far_end, session);
            if self.ends.session_of(far_end) == Some(session) {
                self.end_lost(far_end);
            }
        }
        self.ends.session_ended(session, self.now);
        self.receipts.session_ended(session);
        self.join_relay.joiner_left(session);
        if let Some(link) = self.links.session_ended(session) {
            let reason = match reason {
                CloseReason::Peer { code: GOODBYE_CODE, .. } => GOODBYE,
                _ => "closed",
            };
            self.lose_neighbor(link, reason);
        }
    }

    /// A neighbour is gone, for `reason`.
    pub(crate) fn lose_neighbor(&mut self, id: LinkId, reason: &str) {
        let Some((link, sessions)) = self.links.remove(id) else { return };
        let down = match reason {
            GOODBYE => LinkDownReason::Goodbye,
            "dead" => LinkDownReason::Dead,
            _ => LinkDownReason::Closed,
        };
        self.router.link_down(id, down, self.now);
        for session in sessions {
            self.endpoint.forget(session);
        }
        self.egress.forget(id);
        self.dialer.neighbor_lost(link.proven.peer, self.now);
        self.punch.neighbor_lost(link.proven.peer, self.now);
        self.tell(What::LinkDown { peer: link.proven.peer, reason: reason.to_owned() });
    }

    /// The kernel says an interface changed.
    pub(crate) fn on_interface(&mut self, index: u32, up: bool) {
        if let Some(discovery) = self.discovery.as_mut().filter(|_| up) {
            discovery.be_heard_soon(self.now);
        }
        let links: Vec<_> = self.links.iter().filter(|(_, link)| link.interface == index).map(|(id, _)| id).collect();
        for link in links {
            self.router.link_carrier(link, up, self.now);
        }
    }

    /// The kernel could not send. Nobody vouches for an ICMP error and anybody can make one, so it moves no traffic: it is counted,
    /// remembered as a reason, and the neighbour there is asked whether it lives. Its answer or its silence decides.
    pub(crate) fn on_send_failed(&mut self, to: Underlay, reason: &str) {
        self.stats.sends_failed += 1;
        self.dialer.heard_why(to, reason);
        let there: Vec<_> = self.links.iter().filter(|(_, link)| link.proven.address == to).map(|(id, _)| id).collect();
        for link in there {
            self.router.link_doubted(link, self.now);
        }
    }

    /// The kernel will not send so much at once: the links at that address carry less.
    pub(crate) fn on_datagram_too_big(&mut self, to: Underlay, len: usize) {
        let sessions: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.proven.address == to)
            .map(|(_, link)| link.proven.session)
            .collect();
        for session in sessions {
            self.endpoint.datagram_refused(session, len, self.now);
        }
    }

    /// Hands a packet that a session wants sent to whatever carries it.
    pub(crate) fn transmit(&mut self, transmit: Transmit) {
        match transmit.carrier {
            Carrier::Udp(_) | Carrier::Tls(_) => {
                let Some(to) = transmit.carrier.underlay() else { return };
                if let Some(link) = transmit.session.and_then(|session| self.links.of_session(session)) {
                    self.router.sent(link, self.now);
                }
                self.push(Output::Datagrams { to, flow: None, train: Train::single(transmit.bytes) });
            }
            Carrier::Overlay(node) => {
                self.originate(node, PayloadKind::EndToEnd, 0, &transmit.bytes);
            }
            Carrier::Relayed { via, remote } => self.send_relayed_join(via, remote, &transmit.bytes),
        }
    }

    /// Starts an end-to-end session.
    pub(crate) fn open_end(&mut self, node: NodeId) {
        match self.endpoint.connect(Purpose::EndToEnd, Carrier::Overlay(node), self.now, self.wall) {
            Ok(session) => self.ends.opening(node, session),
            Err(_) => {
                self.stats.sessions_unopened += 1;
                self.ends.open_failed(node, self.now);
            }
        }
    }

    pub(crate) fn open_wanted_ends(&mut self) -> bool {
        let mut opened = false;
        while let Some(node) = self.ends.wants_session(self.now) {
            self.open_end(node);
            opened = true;
        }
        opened
    }

    fn tell_refusal(&mut self, purpose: Purpose, carrier: Carrier, reason: &CloseReason) {
        // A timeout is an absent peer, which the dialer deals with; only a refusal is news.
        if let CloseReason::Handshake(error) = reason {
            let what = match error {
                HandshakeError::Peer(why) => why.clone(),
                other => other.to_string(),
            };
            let what = printable(&what);
            self.refuse(format!("{purpose:?} session over {carrier:?}: {what}"));
        } else if let CloseReason::Peer { reason, .. } = reason {
            let reason = printable(reason);
            self.refuse(format!("{purpose:?} session over {carrier:?}: the peer says {reason}"));
        }
    }

    /// Says goodbye to everybody and stops a moment later.
    pub(crate) fn say_goodbye(&mut self) {
        // Far ends first, and what was accepted for them: the links carry it, and have no queues any more once they are closed.
        for (_, session) in self.ends.iter().collect::<Vec<_>>() {
            self.endpoint.close(session, GOODBYE_CODE, GOODBYE, self.now);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.transmit(transmit);
        }
        while let Some(output) = self.poll_egress() {
            self.push(output);
        }
        self.router.goodbye(self.now);
        while let Some(message) = self.router.poll_transmit() {
            self.send_routing(message);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.transmit(transmit);
        }
        for session in self.endpoint.sessions().collect::<Vec<_>>() {
            self.endpoint.close(session, GOODBYE_CODE, GOODBYE, self.now);
        }
        self.stopping = Some(self.now + Self::STOPPING_TIME);
    }

    pub(crate) fn send_routing(&mut self, message: x0t_routing::Transmit) {
        let Some(link) = self.links.get(message.link) else { return };
        let session = link.proven.session;
        let sent = if message.reliable {
            self.endpoint.send_message(session, &message.bytes, self.now)
        } else {
            self.endpoint.send_datagram(session, &message.bytes, self.now)
        };
        if sent.is_err() {
            self.stats.messages_unsent += 1;
        }
    }
}

/// Why there is no session, in few words.
fn why_over(reason: &CloseReason) -> String {
    match reason {
        CloseReason::HandshakeTimeout(_) => "no answer".to_owned(),
        CloseReason::Handshake(HandshakeError::Peer(why)) => printable(why),
        CloseReason::Handshake(error) => printable(&error.to_string()),
        CloseReason::Peer { reason, .. } => format!("the peer says: {}", printable(reason)),
        other => other.to_string(),
    }
}

/// The code of a peer that leaves in good order.
const GOODBYE_CODE: u16 = close_code::APPLICATION + 1;
/// The words of a peer that leaves in good order.
pub(crate) const GOODBYE: &str = "goodbye";
