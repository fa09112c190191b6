//! A packet's story, downward: from the host, sealed end to end, hop by hop, opened, to the host.

use x0t_model::NodeId;
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::{Carrier, HopHeader, Opened, SessionId};
use x0t_routing::{LinkId, NextHop};

use crate::api::Output;
use crate::egress::Class;
use crate::ends::Way;
use crate::message::{EndDatagram, Trace};
use crate::node::Node;
use crate::packet;

/// How many hops a packet may take. Beyond what routing allows a path to have, so it ends a loop and never a path.
pub(crate) const TIME_TO_LIVE: u8 = 40;
/// Shorter packets are treated as interactive: echo, acknowledgements, keystrokes.
const INTERACTIVE_LEN_MAX: usize = 256;

impl Node {
    /// The host wants a packet carried.
    pub(crate) fn on_local_packet(&mut self, bytes: &[u8]) {
        let Ok(summary) = packet::summarise(bytes) else {
            self.stats.local_packets_malformed += 1;
            return;
        };
        if summary.source != self.prefix.address(self.me) {
            self.stats.local_packets_of_others += 1;
            return;
        }
        let Some(destination) = self.resolve(summary.destination) else {
            // Multicast and the rest of fd00::/8 reach the device too; only the mesh's own network earns an answer.
            if self.prefix.contains(summary.destination) {
                self.answer_unreachable(bytes);
            }
            return;
        };
        if destination == self.me {
            return self.push(Output::LocalPacket(bytes.to_vec()));
        }
        let mut datagram = Vec::with_capacity(bytes.len() + 1);
        EndDatagram::Packet(bytes).encode(&mut datagram);
        if !self.send_to_end(destination, summary.flow, &datagram) {
            self.answer_unreachable(bytes);
        }
    }

    /// Seals a datagram for a far end, or keeps it until there is a session. False if the far end cannot be reached.
    pub(crate) fn send_to_end(&mut self, node: NodeId, flow: u32, datagram: &[u8]) -> bool {
        match self.ends.route(node, flow, datagram, self.now) {
            Way::Session(session) => self.send_sealed(session, node, flow, datagram),
            Way::Open => {
                self.open_end(node);
                true
            }
            Way::Waits => true,
            Way::Dropped => false,
        }
    }

    pub(crate) fn send_sealed(&mut self, session: SessionId, node: NodeId, flow: u32, datagram: &[u8]) -> bool {
        let mut sealed = Vec::with_capacity(datagram.len() + 64);
        if self.endpoint.seal_datagram_packet(session, datagram, &mut sealed).is_err() {
            self.stats.end_packets_unsealed += 1;
            return true;
        }
        self.originate(node, PayloadKind::EndToEnd, flow, &sealed)
    }

    /// Starts a payload on its way. False if there is no way.
    pub(crate) fn originate(&mut self, dst: NodeId, kind: PayloadKind, flow: u32, payload: &[u8]) -> bool {
        let hop = HopHeader { src: self.me, dst, ttl: TIME_TO_LIVE, kind, flags: 0, flow };
        self.carry(&hop, payload, None)
    }

    /// Puts a payload on the link that leads to its destination. False if there is none.
    pub(crate) fn carry(&mut self, hop: &HopHeader, payload: &[u8], from: Option<LinkId>) -> bool {
        let link = match self.router.next_hop(hop.dst, hop.flow, from) {
            NextHop::Via(link) => link,
            NextHop::Local => return false,
            NextHop::Unreachable { requested } => {
                self.stats.packets_unroutable += 1;
                // Who sends to somebody nobody announced looks for it; who merely relays leaves that to the sender.
                if from.is_none() && !requested {
                    self.router.seek(hop.dst, self.now);
                }
                return false;
            }
        };
        let Some((session, address)) = self.links.get(link).map(|link| (link.proven.session, link.proven.address))
        else {
            self.stats.packets_unroutable += 1;
            return false;
        };
        let mut packet = Vec::with_capacity(payload.len() + 80);
        if self.endpoint.seal_forward(session, hop, payload, &mut packet).is_err() {
            self.stats.packets_unsealed += 1;
            return false;
        }
        self.router.carried_data(link, self.now);
        let class = if payload.len() <= INTERACTIVE_LEN_MAX { Class::Interactive } else { Class::Bulk };
        self.egress.push(link, address, class, hop.flow, packet, self.now);
        true
    }

    /// A neighbour hands on a packet.
    pub(crate) fn on_forward(&mut self, session: SessionId, mut hop: HopHeader, payload: &mut [u8]) {
        let Some(link) = self.links.of_session(session) else {
            self.stats.packets_of_no_link += 1;
            return;
        };
        self.router.carried_data(link, self.now);
        if hop.dst == self.me {
            return self.on_arrival(hop, payload);
        }
        if hop.src == self.me {
            self.stats.packets_returned += 1;
            return;
        }
        if hop.ttl <= 1 {
            self.stats.packets_expired += 1;
            if hop.kind == PayloadKind::TraceProbe {
                self.answer_trace(hop.src, payload);
            }
            return;
        }
        hop.ttl -= 1;
        if self.carry(&hop, payload, Some(link)) {
            self.stats.packets_forwarded += 1;
        }
    }

    /// A packet has reached its destination.
    fn on_arrival(&mut self, hop: HopHeader, payload: &mut [u8]) {
        match hop.kind {
            PayloadKind::EndToEnd => self.on_end_packet(hop.src, payload),
            PayloadKind::TraceProbe => self.answer_trace(hop.src, payload),
            PayloadKind::TraceReply => match Trace::decode(payload) {
                Ok(trace) => self.on_trace_reply(hop.src, trace),
                Err(_) => self.stats.end_datagrams_malformed += 1,
            },
            PayloadKind::NoSession => {
                if self.ends.session_of(hop.src).is_some() && self.ends.may_reopen(hop.src, self.now) {
                    self.open_end(hop.src);
                }
            }
        }
    }

    fn on_end_packet(&mut self, from: NodeId, packet: &mut [u8]) {
        // What members carry for joiners is rationed, so it comes in sessions and by no other way.
        if packet.first() == Some(&x0t_overlay::packet::JOIN) {
            self.stats.join_packets_dropped += 1;
            return;
        }
        if self.endpoint.is_stray(packet) {
            self.stats.end_packets_stray += 1;
            self.originate(from, PayloadKind::NoSession, 0, &[]);
            return;
        }
        match self.endpoint.handle_datagram(Carrier::Overlay(from), packet, self.now, self.wall) {
            Some(Opened::Datagram { session, bytes }) => self.on_end_datagram(session, bytes),
            Some(Opened::Forward { .. }) => self.stats.packets_of_no_link += 1,
            None => {}
        }
    }

    /// A far end said something in its session.
    pub(crate) fn on_end_datagram(&mut self, session: SessionId, bytes: &[u8]) {
        let Some(from) = self.ends.node_of(session) else { return };
        match EndDatagram::decode(bytes) {
            Ok(EndDatagram::Packet(packet)) => self.deliver(from, packet),
            Ok(EndDatagram::Ping { number, padding }) => {
                let mut answer = Vec::with_capacity(padding.len() + 9);
                EndDatagram::Pong { number, padding }.encode(&mut answer);
                self.send_sealed(session, from, 0, &answer);
            }
            Ok(EndDatagram::Pong { number, .. }) => self.on_pong(from, number),
            Ok(EndDatagram::JoinInbound { remote, packet }) => self.on_relayed_join(from, remote, packet),
            Ok(EndDatagram::JoinOutbound { remote, packet }) => self.on_join_answer(from, remote, packet),
            Err(_) => self.stats.end_datagrams_malformed += 1,
        }
    }

    /// Hands a packet to the host. Its inner source must be the identity that sealed it: nobody speaks for another address.
    fn deliver(&mut self, from: NodeId, bytes: &[u8]) {
        match packet::summarise(bytes) {
            Ok(summary) if summary.source != self.prefix.address(from) => self.stats.packets_spoofed += 1,
            Ok(summary) if summary.destination != self.prefix.address(self.me) => self.stats.packets_spoofed += 1,
            Ok(_) => {
                self.stats.packets_delivered += 1;
                self.push(Output::LocalPacket(bytes.to_vec()));
            }
            Err(_) => self.stats.end_datagrams_malformed += 1,
        }
    }

    fn answer_trace(&mut self, to: NodeId, probe: &[u8]) {
        match Trace::decode(probe) {
            Ok(_) => {
                self.originate(to, PayloadKind::TraceReply, 0, probe);
            }
            Err(_) => self.stats.end_datagrams_malformed += 1,
        }
    }

    fn answer_unreachable(&mut self, bytes: &[u8]) {
        self.stats.local_packets_unreachable += 1;
        if let Some(answer) = packet::unreachable(bytes, self.prefix.address(self.me)) {
            self.push(Output::LocalPacket(answer));
        }
    }

    /// The node that an overlay address belongs to, if routing knows it. The address holds only the front of the id, so
    /// this is a search for the first known id that starts like it.
    fn resolve(&self, address: std::net::Ipv6Addr) -> Option<NodeId> {
        if !self.prefix.contains(address) {
            return None;
        }
        let mut first = [0; NodeId::LEN];
        first[..10].copy_from_slice(&address.octets()[6..]);
        let mut last = [0xff; NodeId::LEN];
        last[..10].copy_from_slice(&first[..10]);
        self.names.range(NodeId::from_bytes(first)..=NodeId::from_bytes(last)).next().map(|(node, _)| *node)
    }
}
