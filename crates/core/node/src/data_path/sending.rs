//! From the host to the first link: cut, sealed end to end, put on its way.

use std::iter::repeat;

use x0t_model::NodeId;
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::{HopHeader, SessionId, TAG_LEN};
use x0t_routing::{Hops, LinkId};

use super::{INTERACTIVE_LEN_MAX, TIME_TO_LIVE};
use crate::api::Output;
use crate::critical::is_critical;
use crate::egress::{Class, Lane, Run};
use crate::ends::Way;
use crate::host::{Delivery, Offload};
use crate::icmp;
use crate::message::{PACKET, PACKET_LEN_MAX, UNSUMMED};
use crate::node::Node;
use crate::packet;
use crate::path_mtu::Carries;
use crate::segment::Cut;

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
        let later = self.config.hands_out.is_some() && class == Class::Bulk && copy.is_none();
        let mut written = 0;
        while run.count > 0 {
            let (room, count) = self.egress.reserve(lane, run, &mut self.pool, self.now);
            for (index, packet) in room.chunks_mut(run.len).enumerate() {
                let end = packet.len() - TAG_LEN;
                write(written + index, &mut packet[front + DATAGRAM_FRONT..end]);
            }
            if later {
                let shape = (room.len(), run.len);
                let Some(first) = self.give_numbers((session, link_session), shape, hop, front) else {
                    self.egress.retract(shape.0);
                    self.stats.end_packets_unsealed += run.count as u64;
                    break;
                };
                if care == Care::Ordinary {
                    self.receipts.sent((dst, session), link, (first, count as u32), run.len - front, self.now);
                }
                (written, run.count) = (written + count, run.count - count);
                continue;
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

    /// Gives the packets that were laid out last their numbers, end to end and, behind `front` bytes, on the link; they are sealed when
    /// they leave. Returns the first number of the end-to-end session.
    fn give_numbers(
        &mut self,
        (session, link_session): (SessionId, SessionId),
        shape: (usize, usize),
        hop: HopHeader,
        front: usize,
    ) -> Option<u64> {
        let (first, run) = self.endpoint.give_datagram_numbers(session, shape, front).ok()?;
        let hops = match front {
            0 => None,
            _ => Some(self.endpoint.give_hop_numbers(link_session, shape, hop).ok()?),
        };
        self.egress.seal_later(shape, std::iter::once(run).chain(hops));
        Some(first)
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
