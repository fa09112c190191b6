//! What the path to a far end carries, and what becomes of what is longer.
//!
//! Each link finds out its own size (`overlay`), and what is announced about a path is the smallest on it (`routing`). Here it is
//! put to use. TCP is cut to fit, wherever the host leaves the cutting to the node. A packet that IPv6 entitles to pass, because it
//! is no longer than 1280 bytes, travels in pieces if it has to. What is longer is answered with "packet too big", so that the host
//! learns it, and connections that begin are told their segment size.
//!
//! A size that has just changed may change again within the second: a link falls to 1200 bytes while it looks for what passes now. Hosts
//! remember "packet too big" for ten minutes, so nothing is said until the size has settled. Until then, pieces do.

use std::time::Duration;

use x0t_model::{Instant, NodeId};
use x0t_overlay::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::{PATH_MTU_BASE, SessionId, TAG_LEN};

use crate::api::Output;
use crate::data_path::Dispatch;
use crate::egress::Run;
use crate::host::Delivery;
use crate::icmp::{self, IPV6_MTU_MIN};
use crate::message::{PACKET_LEN_MAX, PIECE, PIECE_FRONT, piece_front};
use crate::node::Node;
use crate::pieces::{Piece, Split};

/// What a datagram of an end-to-end session costs on its way. A neighbour is reached without the hop header, but relays may take over
/// at any moment, and sizes should not change with them.
const DATAGRAM_OVERHEAD: usize = FORWARD_OVERHEAD + DATAGRAM_FRONT + TAG_LEN;

/// For so long a size must not have changed before hosts are told of it: about what it takes a link to find its size anew.
const SETTLING: Duration = Duration::from_millis(1_500);

/// What a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carries {
    /// Bytes of the longest end-to-end datagram that passes whole.
    pub datagram: usize,
    /// Whether that has been so for a while.
    pub settled: bool,
}

impl Carries {
    /// Bytes of the longest IPv6 packet that passes whole.
    pub const fn packet(self) -> usize {
        self.datagram - 1
    }

    /// Whether the host has to make a packet of `len` bytes shorter.
    pub const fn is_too_big(self, len: usize) -> bool {
        self.settled && len > self.packet() && len > IPV6_MTU_MIN
    }
}

/// The size last seen on a path, and since when it has been that.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    mtu: usize,
    since: Instant,
}

impl Seen {
    /// Takes note of a size. True if it has been the same for a while.
    pub fn is_settled(&mut self, mtu: usize, now: Instant) -> bool {
        if self.mtu != mtu {
            *self = Self { mtu, since: now };
        }
        now.since(self.since) >= SETTLING
    }
}

impl Node {
    /// What the path to a far end carries.
    pub(crate) fn carries(&mut self, dst: NodeId) -> Carries {
        let announced = self.router.path_mtu(dst).map_or(PATH_MTU_BASE, usize::from);
        // Whoever announces less than what passes everywhere is mistaken or lies.
        let mtu = announced.clamp(PATH_MTU_BASE, self.config.endpoint.max_datagram.max(PATH_MTU_BASE));
        let settled = self.ends.seen(dst).is_some_and(|seen| seen.is_settled(mtu, self.now));
        Carries { datagram: mtu - DATAGRAM_OVERHEAD, settled }
    }

    /// Seals a datagram that does not pass whole, in pieces. False if there is no way.
    pub(crate) fn send_in_pieces(&mut self, dispatch: Dispatch, datagram: &[u8], carries: Carries) -> bool {
        let Some(split) = Split::new(datagram.len(), carries.datagram - PIECE_FRONT) else {
            self.stats.end_packets_unsealed += 1;
            return true;
        };
        let id = self.next_piece;
        self.next_piece = id.wrapping_add(1);
        self.stats.packets_sent_in_pieces += 1;
        let run = Run { count: split.count, len: split.len + PIECE_FRONT, last_len: split.last_len + PIECE_FRONT };
        self.send_run(dispatch, run, |index, out| {
            let bytes = &datagram[index * split.len..][..out.len() - PIECE_FRONT];
            let piece = Piece { id, index: index as u8, last: index + 1 == split.count, bytes };
            out[..PIECE_FRONT].copy_from_slice(&piece_front(&piece));
            out[PIECE_FRONT..].copy_from_slice(bytes);
        })
    }

    /// A piece came. Once the last is there, the datagram is dealt with as if it had come whole.
    pub(crate) fn on_piece(&mut self, session: SessionId, from: NodeId, piece: Piece<'_>) {
        let added = self.reassembly.add((from, session), piece, PACKET_LEN_MAX + 1, self.now);
        let Ok(Some(mut whole)) = added else { return };
        if whole.first() == Some(&PIECE) {
            self.stats.end_datagrams_malformed += 1;
            return;
        }
        if let Some(unsummed) = self.on_end_datagram(session, &mut whole) {
            self.deliver_alone(&whole[1..], unsummed);
        }
    }

    /// A connection to or from `far_end` begins: the host is told how long its segments may be.
    pub(crate) fn fit_segments(&mut self, far_end: NodeId, packet: &mut [u8], unsummed: bool) {
        if icmp::is_syn(packet) {
            let carries = self.carries(far_end);
            let clamped = carries.settled && icmp::clamp_segment_size(packet, carries.packet(), unsummed);
            self.stats.segment_sizes_clamped += u64::from(clamped);
        }
    }

    /// Whether a packet for the host is an ICMPv6 error about other nodes' packets. Counted.
    pub(crate) fn is_meddling(&mut self, packet: &[u8]) -> bool {
        let meddles = icmp::is_meddling(packet);
        self.stats.icmp_errors_refused += u64::from(meddles);
        meddles
    }

    /// Tells the host that its packet is longer than the path carries.
    pub(crate) fn answer_too_big(&mut self, packet: &[u8], carries: Carries) {
        self.stats.local_packets_too_big += 1;
        // RFC 4443, 2.4 f: errors are rationed.
        if !self.icmp_errors.take(self.now) {
            return;
        }
        if let Some(answer) = icmp::packet_too_big(packet, self.prefix.address(self.me), carries.packet()) {
            self.push(Output::LocalPackets(Delivery::whole(answer, None)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_path::ENCAPSULATION;

    #[test]
    fn a_packet_costs_104_bytes_and_what_ipv6_entitles_to_pass_is_never_too_big() {
        assert_eq!((ENCAPSULATION, DATAGRAM_OVERHEAD), (104, 103));
        // MTU 1280, 1400, 1500 and 9000 under IPv6.
        for (mtu, packet, too_big) in [(1232, 1128, 1281), (1352, 1248, 1281), (1452, 1348, 1349), (8952, 8848, 8849)] {
            let carries = Carries { datagram: mtu - DATAGRAM_OVERHEAD, settled: true };
            assert_eq!(carries.packet(), packet);
            assert!(carries.is_too_big(too_big) && !carries.is_too_big(too_big - 1));
            assert!(!Carries { settled: false, ..carries }.is_too_big(too_big), "pieces do until the size has settled");
        }
    }

    #[test]
    fn a_size_settles_after_a_while_without_change() {
        let mut seen = Seen::default();
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        assert!(!seen.is_settled(1452, at(10_000)));
        assert!(!seen.is_settled(1452, at(11_499)));
        assert!(seen.is_settled(1452, at(11_500)));
        assert!(!seen.is_settled(1200, at(11_600)));
        assert!(!seen.is_settled(1452, at(11_700)));
    }
}
