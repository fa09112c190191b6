//! A packet's story, downward: from the host, sealed end to end, hop by hop, opened, to the host.
//!
//! Packets that belong together stay together: a super-packet of the host becomes a [`Train`] of sealed packets in one buffer, a
//! relay seals new hop headers into the train where it stands, and at the end the opened packets are handed over in the buffer they
//! came in. Whatever is the same for a whole train is looked up once.

use std::iter::repeat;
use std::ops::Range;

use x0t_model::{NodeId, Underlay};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{self as outer, DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::{Carrier, HopHeader, Opened, SessionId, TAG_LEN};
use x0t_routing::{Hops, LinkId, NextHop, Twin};

use crate::api::Output;
use crate::critical::is_critical;
use crate::egress::{Class, Lane, Run};
use crate::ends::Way;
use crate::host::{Delivery, Offload};
use crate::icmp;
use crate::message::{EndDatagram, PACKET, PACKET_LEN_MAX, Trace, UNSUMMED};
use crate::node::Node;
use crate::packet;
use crate::path_mtu::Carries;
use crate::segment::Cut;
use crate::train::Train;

/// How many hops a packet may take. Beyond what routing allows a path to have, so it ends a loop and never a path.
pub(crate) const TIME_TO_LIVE: u8 = 40;
/// Bytes around an IPv6 packet on the wire, across relays: hop header, seal, frame and kind. To a neighbour it is less, but sizes
/// that changed with the way would stall a flow whenever the way changes.
pub const ENCAPSULATION: usize = FORWARD_OVERHEAD + DATAGRAM_FRONT + 1 + TAG_LEN;
/// Shorter packets are treated as interactive: echo, acknowledgements, keystrokes.
const INTERACTIVE_LEN_MAX: usize = 256;

/// What is to become of an opened packet of a train.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It goes on, over `link`, under `hop`.
    Relay { place: Range<usize>, hop: HopHeader, link: LinkId },
    /// It is an IPv6 packet for the host.
    Deliver { place: Range<usize>, unsummed: bool },
}

/// What the way of a relayed packet depends on: destination, flow, flags, and the link it came by.
type Asked = (NodeId, u32, u8, LinkId);

/// What was found out about one packet of a train and probably holds for the next.
#[derive(Default)]
struct Lookups {
    heard: Option<SessionId>,
    way: Option<(Asked, Option<LinkId>)>,
}

/// How many ways datagrams take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// One, and its receipts are watched.
    Ordinary,
    /// Two that share as little as possible, if there are two.
    Critical,
    /// The same, and no receipts are expected: what they carry are receipts.
    Receipt,
}

/// What all datagrams of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    pub session: SessionId,
    pub dst: NodeId,
    pub flow: u32,
    pub care: Care,
}

impl Node {
    /// The host wants a packet carried, or a super-packet that stands for many.
    pub(crate) fn on_local_packet(&mut self, bytes: &[u8], offload: Offload) {
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
        let carries = self.carries(destination);
        let limit = if destination == self.me { PACKET_LEN_MAX } else { carries.packet() };
        let Ok(cut) = Cut::new(bytes, offload, limit) else {
            self.stats.local_packets_malformed += 1;
            return;
        };
        if cut.len(0) > PACKET_LEN_MAX {
            self.stats.local_packets_too_long += 1;
            return;
        }
        if destination == self.me {
            return self.return_to_host(&cut);
        }
        if carries.is_too_big(cut.len(0)) {
            return self.answer_too_big(bytes, carries);
        }
        let sent = match self.ends.session_of(destination) {
            Some(session) => {
                let care = if is_critical(&self.config.critical, bytes) { Care::Critical } else { Care::Ordinary };
                self.send_packets(Dispatch { session, dst: destination, flow: summary.flow, care }, &cut, carries)
            }
            None => self.send_one_by_one(destination, summary.flow, &cut),
        };
        if !sent {
            self.answer_unreachable(bytes);
        }
    }

    /// Seals the packets of a cut and puts them on their way. False if there is none.
    fn send_packets(&mut self, dispatch: Dispatch, cut: &Cut<'_>, carries: Carries) -> bool {
        if cut.len(0) > carries.packet() {
            return (0..cut.count()).all(|index| self.send_with_care(dispatch, &datagram_of(cut, index)));
        }
        let kind = if cut.is_unsummed() { UNSUMMED } else { PACKET };
        let run = Run { count: cut.count(), len: cut.len(0) + 1, last_len: cut.len(cut.count() - 1) + 1 };
        self.send_run(dispatch, run, |index, datagram| {
            datagram[0] = kind;
            cut.write(index, &mut datagram[1..]);
        })
    }

    /// Packets that wait for a session go one by one.
    fn send_one_by_one(&mut self, dst: NodeId, flow: u32, cut: &Cut<'_>) -> bool {
        (0..cut.count()).all(|index| self.send_to_end(dst, flow, &datagram_of(cut, index)))
    }

    /// The host speaks to itself through the mesh.
    fn return_to_host(&mut self, cut: &Cut<'_>) {
        for index in 0..cut.count() {
            let mut packet = vec![0; cut.len(index)];
            cut.write(index, &mut packet);
            self.deliver_alone(&packet, cut.is_unsummed());
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
        self.send_with_care(Dispatch { session, dst: node, flow, care: Care::Ordinary }, datagram)
    }

    pub(crate) fn send_with_care(&mut self, dispatch: Dispatch, datagram: &[u8]) -> bool {
        let carries = self.carries(dispatch.dst);
        if datagram.len() > carries.datagram {
            return self.send_in_pieces(dispatch, datagram, carries);
        }
        let run = Run { count: 1, len: datagram.len(), last_len: datagram.len() };
        self.send_run(dispatch, run, |_, out| out.copy_from_slice(datagram))
    }

    /// The same, over one link and no other.
    pub(crate) fn send_by(&mut self, link: LinkId, dispatch: Dispatch, datagram: &[u8]) -> bool {
        let run = Run { count: 1, len: datagram.len(), last_len: datagram.len() };
        self.send_run_by((link, None), dispatch, run, |_, out| out.copy_from_slice(datagram))
    }

    /// Chooses the way of a run of datagrams, and of a copy of it if it deserves one. False if there is none.
    pub(crate) fn send_run(&mut self, dispatch: Dispatch, run: Run, write: impl Fn(usize, &mut [u8])) -> bool {
        let Dispatch { dst, flow, care, .. } = dispatch;
        let Hops { first, copy } = self.router.next_hops(dst, flow, care != Care::Ordinary, run.count as u32);
        let Some(link) = self.found(first, dst, None) else { return false };
        self.send_run_by((link, copy), dispatch, run, write)
    }

    /// Lays out datagrams of a session for a far end, seals them once end to end and, unless that end is the neighbour itself, a hop
    /// header in front of each. `write` is told which datagram to write where. What is sealed is sent once more if there is a link for
    /// the copy: the far end opens whichever comes first. False if there is no way.
    fn send_run_by(
        &mut self,
        (link, copy): (LinkId, Option<LinkId>),
        dispatch: Dispatch,
        mut run: Run,
        write: impl Fn(usize, &mut [u8]),
    ) -> bool {
        let Dispatch { session, dst, flow, care } = dispatch;
        let Some((peer, link_session, to)) = self.carrier_of(link) else { return false };
        let front = if peer == dst { 0 } else { FORWARD_OVERHEAD };
        let class = if run.count == 1 && run.len <= INTERACTIVE_LEN_MAX { Class::Interactive } else { Class::Bulk };
        let lane = Lane { link, to, class, flow };
        let flags = if care != Care::Ordinary && copy.is_some() { HopHeader::TWIN } else { 0 };
        let hop = HopHeader { src: self.me, dst, ttl: TIME_TO_LIVE, kind: PayloadKind::EndToEnd, flags, flow };
        let mut copies = std::mem::take(&mut self.copies);
        let around = front + DATAGRAM_FRONT + TAG_LEN;
        (run.len, run.last_len) = (run.len + around, run.last_len + around);
        let mut written = 0;
        while run.count > 0 {
            let (room, count) = self.egress.reserve(lane, run, &mut self.pool, self.now);
            for (index, packet) in room.chunks_mut(run.len).enumerate() {
                let end = packet.len() - TAG_LEN;
                write(written + index, &mut packet[front + DATAGRAM_FRONT..end]);
            }
            let mut sealed = self.endpoint.seal_datagrams(session, room, run.len, front);
            copies.clear();
            if copy.is_some() {
                room.chunks(run.len).for_each(|packet| copies.extend_from_slice(&packet[front..]));
            }
            if front > 0 && sealed.is_ok() {
                let hops = self.endpoint.seal_hops(link_session, room, run.len, repeat(hop));
                sealed = hops.and(sealed);
            }
            let Ok(first) = sealed else {
                let bytes = room.len();
                self.egress.retract(bytes);
                self.stats.end_packets_unsealed += run.count as u64;
                break;
            };
            match (care, copy) {
                (Care::Receipt, _) | (Care::Ordinary, Some(_)) => {}
                (_, None) => {
                    let numbers = (first, count as u32);
                    self.receipts.sent((dst, session), link, numbers, run.len - front, self.now);
                }
                (Care::Critical, Some(copy)) => self.receipts.copied((dst, session), [link, copy], self.now),
            }
            if let Some(copy) = copy {
                let hop = HopHeader { flags: if flags == 0 { 0 } else { flags | HopHeader::SECOND }, ..hop };
                self.send_copies(copy, class, hop, &copies, run.len - front);
            }
            (written, run.count) = (written + count, run.count - count);
        }
        self.copies = copies;
        self.sent_data(link, link_session);
        true
    }

    /// Sends packets of `stride` bytes, the last of which may be shorter, that are sealed end to end already.
    fn send_copies(&mut self, link: LinkId, class: Class, hop: HopHeader, sealed: &[u8], stride: usize) {
        let Some((peer, session, to)) = self.carrier_of(link) else { return };
        let front = if peer == hop.dst { 0 } else { FORWARD_OVERHEAD };
        let lane = Lane { link, to, class, flow: hop.flow };
        let mut packets = sealed.chunks(stride);
        let count = packets.len();
        let Some(last) = sealed.chunks(stride).next_back() else { return };
        let mut run = Run { count, len: stride + front, last_len: last.len() + front };
        while run.count > 0 {
            let (room, count) = self.egress.reserve(lane, run, &mut self.pool, self.now);
            for (place, packet) in room.chunks_mut(run.len).zip(&mut packets) {
                place[front..].copy_from_slice(packet);
            }
            if front > 0 && self.endpoint.seal_hops(session, room, run.len, repeat(hop)).is_err() {
                let bytes = room.len();
                self.egress.retract(bytes);
                self.stats.packets_unsealed += run.count as u64;
                return;
            }
            self.stats.copies_sent += count as u64;
            run.count -= count;
        }
        self.sent_data(link, session);
    }

    /// Starts a payload that is no packet of a session at work on its way. False if there is no way.
    pub(crate) fn originate(&mut self, dst: NodeId, kind: PayloadKind, flow: u32, payload: &[u8]) -> bool {
        self.carry(HopHeader { src: self.me, dst, ttl: TIME_TO_LIVE, kind, flags: 0, flow }, payload)
    }

    /// Puts a payload on the link that leads to its destination. False if there is none.
    pub(crate) fn carry(&mut self, hop: HopHeader, payload: &[u8]) -> bool {
        let Some(link) = self.next_link(&hop, None) else { return false };
        self.carry_over(link, hop, payload)
    }

    fn carry_over(&mut self, link: LinkId, hop: HopHeader, payload: &[u8]) -> bool {
        let Some((_, session, to)) = self.carrier_of(link) else { return false };
        let class = if payload.len() <= INTERACTIVE_LEN_MAX { Class::Interactive } else { Class::Bulk };
        let lane = Lane { link, to, class, flow: hop.flow };
        let len = FORWARD_OVERHEAD + payload.len();
        let run = Run { count: 1, len, last_len: len };
        let (room, _) = self.egress.reserve(lane, run, &mut self.pool, self.now);
        room[FORWARD_OVERHEAD..].copy_from_slice(payload);
        let sealed = self.endpoint.seal_hops(session, room, len, [hop]);
        if sealed.is_err() {
            self.egress.retract(len);
            self.stats.packets_unsealed += 1;
            return false;
        }
        self.sent_data(link, session);
        true
    }

    /// Somebody's data goes over a link: it is watched closely while that is so.
    fn sent_data(&mut self, link: LinkId, session: SessionId) {
        self.router.carried_data(link, self.now);
        self.endpoint.carried_data(session, self.now);
    }

    /// The link that leads to a destination; none if it cannot be reached. The two copies of a packet are kept apart.
    fn next_link(&mut self, hop: &HopHeader, from: Option<LinkId>) -> Option<LinkId> {
        let next = match hop.flags & (HopHeader::TWIN | HopHeader::SECOND) {
            HopHeader::TWIN => self.router.next_hop_of_twin(hop.dst, Twin::First, from),
            flags if flags & HopHeader::TWIN != 0 => self.router.next_hop_of_twin(hop.dst, Twin::Second, from),
            _ => self.router.next_hop(hop.dst, hop.flow, from),
        };
        self.found(next, hop.dst, from)
    }

    /// What follows from who carries next.
    fn found(&mut self, next: NextHop, dst: NodeId, from: Option<LinkId>) -> Option<LinkId> {
        match next {
            NextHop::Via(link) => Some(link),
            NextHop::Local => None,
            NextHop::Unreachable { requested } => {
                self.stats.packets_unroutable += 1;
                // Who sends to somebody nobody announced looks for it; who merely relays leaves that to the sender.
                if from.is_none() && !requested {
                    self.router.seek(dst, self.now);
                }
                None
            }
        }
    }

    /// Who is at the other end of a link, the session that seals for it, and where it is.
    fn carrier_of(&mut self, link: LinkId) -> Option<(NodeId, SessionId, Underlay)> {
        let carrier = self.links.get(link).map(|link| (link.proven.peer, link.proven.session, link.proven.address));
        self.stats.packets_unroutable += u64::from(carrier.is_none());
        carrier
    }

    /// A train came from the underlay.
    pub(crate) fn on_datagrams(&mut self, from: Underlay, interface: u32, mut train: Train) {
        self.stats.datagrams_received += train.count() as u64;
        let mut fates = std::mem::take(&mut self.fates);
        let mut lookups = Lookups::default();
        let stride = train.stride().max(1);
        for (index, datagram) in train.datagrams_mut().enumerate() {
            let start = index * stride;
            fates.extend(self.open(from, interface, start, datagram, &mut lookups));
        }
        self.act_on(&fates, train);
        fates.clear();
        self.fates = fates;
    }

    /// Opens a datagram that begins `start` bytes into its train, and deals with it unless it is to be relayed or delivered.
    fn open(
        &mut self,
        from: Underlay,
        interface: u32,
        start: usize,
        datagram: &mut [u8],
        lookups: &mut Lookups,
    ) -> Option<Fate> {
        let end = start + datagram.len();
        if datagram.first() == Some(&outer::JOIN) {
            self.on_join_packet(from, datagram);
            return None;
        }
        // Asked before: a CLOSE that ends its session must not look like a packet without one.
        let stray = outer::protected_index(datagram).is_some_and(|index| !self.endpoint.holds(index));
        let Some(opened) = self.endpoint.handle_datagram(from.into(), datagram, self.now, self.wall) else {
            if stray {
                self.on_stray(from);
            }
            return None;
        };
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
                let unsummed = self.on_arrival(hop, payload)?;
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

    /// Somebody at a neighbour's address seals for a session that is not held here: the neighbour may start a new one.
    fn on_stray(&mut self, from: Underlay) {
        self.stats.end_packets_stray += 1;
        if !self.stray_answers.take(self.now) {
            return;
        }
        let neighbor = self.links.iter().find(|(_, link)| link.proven.address == from);
        if let Some((id, peer)) = neighbor.map(|(id, link)| (id, link.proven.peer)) {
            let kind = PayloadKind::NoSession;
            let hop = HopHeader { src: self.me, dst: peer, ttl: TIME_TO_LIVE, kind, flags: 0, flow: 0 };
            self.carry_over(id, hop, &[]);
        }
    }

    /// A neighbour hands on a packet that is for somebody else.
    fn on_transit(
        &mut self,
        from: LinkId,
        mut hop: HopHeader,
        payload: &[u8],
        place: Range<usize>,
        lookups: &mut Lookups,
    ) -> Option<Fate> {
        if hop.src == self.me {
            self.stats.packets_returned += 1;
            return None;
        }
        if hop.ttl <= 1 {
            self.stats.packets_expired += 1;
            if hop.kind == PayloadKind::TraceProbe {
                self.answer_trace(hop.src, payload);
            }
            return None;
        }
        hop.ttl -= 1;
        let asked = (hop.dst, hop.flow, hop.flags, from);
        let link = match lookups.way {
            Some((known, link)) if known == asked => link,
            _ => {
                let link = self.next_link(&hop, Some(from));
                lookups.way = Some((asked, link));
                link
            }
        }?;
        Some(Fate::Relay { place, hop, link })
    }

    /// Relays and delivers what a train held.
    fn act_on(&mut self, fates: &[Fate], mut train: Train) {
        if self.relays_as_it_is(fates, train.stride()) {
            return self.relay_in_place(fates, train);
        }
        for fate in fates {
            match fate {
                Fate::Relay { place, hop, link } => {
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

    /// Whether all that is left of a train goes the same way, so that it can go as it stands.
    fn relays_as_it_is(&self, fates: &[Fate], stride: usize) -> bool {
        let Some((Fate::Relay { hop: first, link: over, .. }, _)) = fates.split_first() else { return false };
        let last = fates.len() - 1;
        fates.iter().enumerate().all(|(index, fate)| match fate {
            Fate::Relay { place, hop, link } => {
                link == over && hop.flow == first.flow && (place.len() == stride || index == last)
            }
            Fate::Deliver { .. } => false,
        })
    }

    /// Seals new hop headers where the old ones stood and sends the buffer on. Packets behind one that was dropped move up.
    fn relay_in_place(&mut self, fates: &[Fate], mut train: Train) {
        let Some(Fate::Relay { hop, link, .. }) = fates.first() else { return };
        let (link, flow) = (*link, hop.flow);
        let Some((_, session, to)) = self.carrier_of(link) else { return self.pool.give(train) };
        let (stride, mut end) = (train.stride(), 0);
        for fate in fates {
            let Fate::Relay { place, .. } = fate else { continue };
            if place.start != end {
                train.bytes_mut().copy_within(place.clone(), end);
            }
            end += place.len();
        }
        train.set(end, stride);
        let hops = fates.iter().filter_map(|fate| match fate {
            Fate::Relay { hop, .. } => Some(*hop),
            Fate::Deliver { .. } => None,
        });
        let stride = train.stride();
        if self.endpoint.seal_hops(session, train.bytes_mut(), stride, hops).is_err() {
            self.stats.packets_unsealed += fates.len() as u64;
            return self.pool.give(train);
        }
        self.stats.packets_forwarded += fates.len() as u64;
        self.sent_data(link, session);
        let short = fates.len() == 1 && end <= FORWARD_OVERHEAD + INTERACTIVE_LEN_MAX;
        let class = if short { Class::Interactive } else { Class::Bulk };
        self.egress.push(Lane { link, to, class, flow }, train, &mut self.pool, self.now);
    }

    /// A packet has reached its destination. Some if it holds an IPv6 packet for the host, and whether that one is unsummed.
    fn on_arrival(&mut self, hop: HopHeader, payload: &mut [u8]) -> Option<bool> {
        match hop.kind {
            PayloadKind::EndToEnd => return self.on_end_packet(hop.src, payload),
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
        None
    }

    fn on_end_packet(&mut self, from: NodeId, packet: &mut [u8]) -> Option<bool> {
        // What members carry for joiners is rationed, so it comes in sessions and by no other way.
        if packet.first() == Some(&outer::JOIN) {
            self.stats.join_packets_dropped += 1;
            return None;
        }
        let stray = outer::protected_index(packet).is_some_and(|index| !self.endpoint.holds(index));
        let Some(opened) = self.endpoint.handle_datagram(Carrier::Overlay(from), packet, self.now, self.wall) else {
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
                rightful
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
        if let Some(answer) = icmp::unreachable(bytes, self.prefix.address(self.me)) {
            self.push(Output::LocalPackets(Delivery::whole(answer, None)));
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

/// One packet of a cut, as it is sealed.
fn datagram_of(cut: &Cut<'_>, index: usize) -> Vec<u8> {
    let kind = if cut.is_unsummed() { UNSUMMED } else { PACKET };
    let mut datagram = vec![kind; cut.len(index) + 1];
    cut.write(index, &mut datagram[1..]);
    datagram
}
