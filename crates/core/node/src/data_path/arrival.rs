//! From the underlay: opened, and, if it is for this node, to the host.

use std::ops::Range;

use x0t_model::{NodeId, Underlay};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{self as outer, DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::{Ahead, Carrier, HopHeader, Opened, OpeningKey, SessionId, TAG_LEN};
use x0t_routing::LinkId;

use super::TIME_TO_LIVE;
use crate::api::Output;
use crate::host::Delivery;
use crate::message::{EndDatagram, Trace};
use crate::node::Node;
use crate::opening::{Found, Opening, carried};
use crate::packet;
use crate::train::Train;

/// Of a packet that was not opened elsewhere.
const NOTHING_FOUND: Found = Found { outer: None, inner: None };

/// What is to become of an opened packet of a train.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It goes on, over `link`, under `hop`. What opens by itself needs no hop header where its destination is next.
    Relay { place: Range<usize>, hop: HopHeader, link: LinkId, opens_by_itself: bool },
    /// It is an IPv6 packet for the host.
    Deliver { place: Range<usize>, unsummed: bool },
}

/// What the way of a relayed packet depends on: destination, flow, flags, and the link it came by.
type Asked = (NodeId, u32, u8, LinkId);

/// What was found out about one packet of a train and probably holds for the next.
#[derive(Default)]
pub(super) struct Lookups {
    heard: Option<SessionId>,
    /// Whether any of them was more than refused.
    heeded: bool,
    pub(super) way: Option<(Asked, Option<LinkId>)>,
}

impl Node {
    /// A train came from the underlay. False if every datagram was refused as it stood, so that nothing follows from it.
    pub(crate) fn on_datagrams(&mut self, from: Underlay, interface: u32, train: Train) -> bool {
        self.stats.datagrams_received += train.count() as u64;
        if let Some(least) = self.config.hands_out {
            let keys = self.keys_of(&train, least);
            if keys.0.is_some() || !self.openings.is_empty() {
                self.queue(from, interface, train, keys);
                return false;
            }
        }
        self.judge(from, interface, train, &[])
    }

    /// What opens the first datagram of a train elsewhere, and what is in it if it ends its way here. Nothing for a train of less
    /// than `least` bytes: it is opened in the time that it takes to hand it out.
    fn keys_of(&self, train: &Train, least: usize) -> (Option<OpeningKey>, Option<OpeningKey>) {
        let first = train.datagrams().next().filter(|_| train.len() >= least);
        let outer = first.and_then(|first| self.endpoint.opening_key(first));
        let inner = first.filter(|first| outer.is_some() && outer::is_forward(first));
        (outer, inner.and_then(|first| self.endpoint.opening_key(carried(first))))
    }

    fn queue(&mut self, from: Underlay, interface: u32, train: Train, keys: (Option<OpeningKey>, Option<OpeningKey>)) {
        if self.openings.is_full() {
            self.stats.datagrams_dropped_unopened += train.count() as u64;
            return self.pool.give(train);
        }
        if let Some(opening) = self.openings.push((from, interface, train), keys, self.me, &mut self.pool) {
            self.stats.trains_opened_elsewhere += 1;
            self.push(Output::Open(opening));
        }
    }

    /// A train comes back: it and those behind it that need not wait any more are judged. False if nothing follows from that.
    pub(crate) fn on_opened(&mut self, opening: Box<Opening>) -> bool {
        self.openings.opened(opening);
        let mut heeded = false;
        while let Some(mut opening) = self.openings.next() {
            let train = std::mem::take(&mut opening.train);
            heeded |= self.judge(opening.from, opening.interface, train, &opening.found);
            self.openings.reuse(opening);
        }
        heeded
    }

    /// A train of which `found` is known. False if every datagram was refused as it stood, so that nothing follows from it.
    fn judge(&mut self, from: Underlay, interface: u32, mut train: Train, found: &[Found]) -> bool {
        let mut fates = std::mem::take(&mut self.fates);
        let mut lookups = Lookups::default();
        let stride = train.stride().max(1);
        for (index, datagram) in train.datagrams_mut().enumerate() {
            let start = index * stride;
            let found = found.get(index).unwrap_or(&NOTHING_FOUND);
            fates.extend(self.open((from, interface), start, datagram, found, &mut lookups));
        }
        self.act_on(&fates, train);
        fates.clear();
        self.fates = fates;
        lookups.heeded || self.endpoint.has_work()
    }

    /// Opens a datagram that begins `start` bytes into its train, and deals with it unless it is to be relayed or delivered.
    fn open(
        &mut self,
        (from, interface): (Underlay, u32),
        start: usize,
        datagram: &mut [u8],
        found: &Found,
        lookups: &mut Lookups,
    ) -> Option<Fate> {
        let end = start + datagram.len();
        if datagram.first() == Some(&outer::JOIN) {
            lookups.heeded = true;
            self.on_join_packet(from, datagram);
            return None;
        }
        // Asked before: a CLOSE that ends its session must not look like a packet without one.
        let stray = outer::protected_index(datagram).filter(|index| !self.endpoint.holds(*index));
        let Some(opened) =
            self.endpoint.handle_opened(from.into(), datagram, found.outer.as_ref(), self.now, self.wall)
        else {
            if let Some(index) = stray {
                lookups.heeded |= self.on_stray(from, index);
            }
            return None;
        };
        lookups.heeded = true;
        match opened {
            Opened::Forward { session, hop, payload } => {
                let Some(link) = self.links.of_session(session) else {
                    self.stats.packets_of_no_link += 1;
                    return None;
                };
                if lookups.heard.replace(session) != Some(session) {
                    self.heard(session, interface);
                    self.router.carried_data(link, self.now);
                }
                if hop.dst != self.me {
                    return self.on_transit(link, hop, payload, start..end, lookups);
                }
                let unsummed = self.on_arrival(link, hop, payload, found.inner.as_ref())?;
                let place = start + FORWARD_OVERHEAD + DATAGRAM_FRONT + 1..end - TAG_LEN;
                Some(Fate::Deliver { place, unsummed })
            }
            Opened::Datagram { session, bytes } => {
                let Some(far_end) = self.ends.node_of(session) else {
                    self.heard(session, interface);
                    self.on_link_datagram(session, bytes);
                    return None;
                };
                if lookups.heard.replace(session) != Some(session) {
                    self.heard_directly(far_end, from);
                }
                let unsummed = self.on_end_datagram(session, bytes)?;
                Some(Fate::Deliver { place: start + DATAGRAM_FRONT + 1..end - TAG_LEN, unsummed })
            }
        }
    }

    /// Relays and delivers what a train held.
    fn act_on(&mut self, fates: &[Fate], mut train: Train) {
        if self.relays_as_it_is(fates, train.stride()) {
            return self.relay_in_place(fates, train);
        }
        for fate in fates {
            match fate {
                Fate::Relay { place, hop, link, .. } => {
                    let payload = &train.bytes()[place.start + FORWARD_OVERHEAD..place.end];
                    self.stats.packets_forwarded += u64::from(self.carry_over(*link, *hop, payload));
                }
                Fate::Deliver { place, unsummed } => {
                    self.stats.packets_delivered += 1;
                    self.coalescer.push(train.bytes_mut(), place.clone(), *unsummed, self.host_offload);
                }
            }
        }
        if self.coalescer.is_empty() {
            return self.pool.give(train);
        }
        let spent = self.pool.take_delivery();
        let delivery = self.coalescer.finish(train, spent);
        self.push(Output::LocalPackets(delivery));
    }

    /// A far end's own packet came without any relay: its link lives.
    fn heard_directly(&mut self, far_end: NodeId, from: Underlay) {
        if let Some(link) = self.links.of_peer(far_end)
            && self.links.get(link).is_some_and(|link| link.proven.address == from)
        {
            self.router.heard(link, self.now);
            self.router.carried_data(link, self.now);
            if let Some(link) = self.links.get_mut(link) {
                link.heard_at = self.now;
            }
        }
    }

    /// Somebody at a neighbour's address seals for a session that is not held here, or relays for somebody who does: the neighbour is told.
    /// Whether there is one.
    fn on_stray(&mut self, from: Underlay, index: u32) -> bool {
        self.stats.end_packets_stray += 1;
        if !self.stray_answers.take(self.now) {
            return false;
        }
        let neighbor = self.links.iter().find(|(_, link)| link.proven.address == from);
        let Some((id, peer)) = neighbor.map(|(id, link)| (id, link.proven.peer)) else { return false };
        let kind = PayloadKind::NoSession;
        let hop = HopHeader { src: self.me, dst: peer, ttl: TIME_TO_LIVE, kind, flags: 0, flow: 0 };
        self.carry_over(id, hop, &index.to_be_bytes())
    }

    /// A far end holds no session that this node seals for; or, if it names the session's index, none that a bare packet from here was
    /// sealed for. If that was not by this node itself, whoever sealed it is to be named from here on, so that it is told.
    fn on_no_session(&mut self, link: LinkId, far_end: NodeId, index: &[u8]) {
        let session = self.ends.session_of(far_end);
        if let Ok(index) = <[u8; 4]>::try_from(index)
            && session.and_then(|session| self.endpoint.peer_index(session)) != Some(u32::from_be_bytes(index))
        {
            if let Some(link) = self.links.get_mut(link).filter(|link| link.proven.peer == far_end) {
                link.last_hop.complained(self.now);
            }
        } else if session.is_some() && self.ends.may_reopen(far_end, self.now) {
            self.open_end(far_end);
        }
    }

    /// A packet has reached its destination. Some if it holds an IPv6 packet for the host, and whether that one is unsummed.
    fn on_arrival(&mut self, link: LinkId, hop: HopHeader, payload: &mut [u8], ahead: Option<&Ahead>) -> Option<bool> {
        match hop.kind {
            PayloadKind::EndToEnd => return self.on_end_packet(hop.src, payload, ahead),
            PayloadKind::TraceProbe => self.answer_trace(hop.src, payload),
            PayloadKind::TraceReply => match Trace::decode(payload) {
                Ok(trace) => self.on_trace_reply(hop.src, trace),
                Err(_) => self.stats.end_datagrams_malformed += 1,
            },
            PayloadKind::NoSession => self.on_no_session(link, hop.src, payload),
        }
        None
    }

    fn on_end_packet(&mut self, from: NodeId, packet: &mut [u8], ahead: Option<&Ahead>) -> Option<bool> {
        // What members carry for joiners is rationed, so it comes in sessions and by no other way.
        if packet.first() == Some(&outer::JOIN) {
            self.stats.join_packets_dropped += 1;
            return None;
        }
        let stray = outer::protected_index(packet).is_some_and(|index| !self.endpoint.holds(index));
        let carrier = Carrier::Overlay(from);
        let Some(opened) = self.endpoint.handle_opened(carrier, packet, ahead, self.now, self.wall) else {
            if stray {
                self.stats.end_packets_stray += 1;
                self.originate(from, PayloadKind::NoSession, 0, &[]);
            }
            return None;
        };
        match opened {
            Opened::Datagram { session, bytes } => self.on_end_datagram(session, bytes),
            Opened::Forward { .. } => {
                self.stats.packets_of_no_link += 1;
                None
            }
        }
    }

    /// A far end said something in its session. Some if it is an IPv6 packet for the host, in all bytes but the first, and whether it
    /// is unsummed.
    pub(crate) fn on_end_datagram(&mut self, session: SessionId, bytes: &mut [u8]) -> Option<bool> {
        let from = self.ends.node_of(session)?;
        self.arrived(session, bytes);
        match EndDatagram::decode(bytes) {
            Ok(EndDatagram::Packet(packet)) => {
                let admissible = self.is_admissible(from, packet, false);
                return admissible.then(|| self.fit_segments(from, &mut bytes[1..], false)).map(|()| false);
            }
            Ok(EndDatagram::Unsummed(packet)) => {
                let admissible = self.is_admissible(from, packet, true);
                return admissible.then(|| self.fit_segments(from, &mut bytes[1..], true)).map(|()| true);
            }
            Ok(EndDatagram::Piece(piece)) => self.on_piece(session, from, piece),
            Ok(EndDatagram::Ping { number, padding }) => {
                let mut answer = Vec::with_capacity(padding.len() + 9);
                EndDatagram::Pong { number, padding }.encode(&mut answer);
                self.send_sealed(session, from, 0, &answer);
            }
            Ok(EndDatagram::Pong { number, .. }) => self.on_pong(from, number),
            Ok(EndDatagram::JoinInbound { remote, packet }) => self.on_relayed_join(from, remote, packet),
            Ok(EndDatagram::Rendezvous(bytes)) => self.on_rendezvous(from, bytes),
            Ok(EndDatagram::JoinOutbound { remote, packet }) => self.on_join_answer(from, remote, packet),
            Ok(EndDatagram::Receipt { highest, held_micros, window }) => {
                self.on_receipt((from, session), highest, held_micros, window);
            }
            Ok(EndDatagram::Probe { .. }) => {}
            Err(_) => self.stats.end_datagrams_malformed += 1,
        }
        None
    }

    /// Whether the host may have a packet. Its inner source must be the identity that sealed it: nobody speaks for another address.
    fn is_admissible(&mut self, from: NodeId, packet: &[u8], unsummed: bool) -> bool {
        match packet::ends(packet, unsummed) {
            Ok((source, destination)) => {
                let rightful = source == self.prefix.address(from) && destination == self.prefix.address(self.me);
                self.stats.packets_spoofed += u64::from(!rightful);
                rightful && !self.is_meddling(packet)
            }
            Err(_) => {
                self.stats.end_datagrams_malformed += 1;
                false
            }
        }
    }

    /// Hands one packet to the host that did not come in a train.
    pub(crate) fn deliver_alone(&mut self, packet: &[u8], unsummed: bool) {
        self.stats.packets_delivered += 1;
        let mut packet = Train::single(packet.to_vec());
        let place = 0..packet.len();
        self.coalescer.push(packet.bytes_mut(), place, unsummed, self.host_offload);
        let delivery = self.coalescer.finish(packet, Delivery::default());
        self.push(Output::LocalPackets(delivery));
    }

    pub(super) fn answer_trace(&mut self, to: NodeId, probe: &[u8]) {
        match Trace::decode(probe) {
            Ok(_) => {
                self.originate(to, PayloadKind::TraceReply, 0, probe);
            }
            Err(_) => self.stats.end_datagrams_malformed += 1,
        }
    }
}
