//! Packets of one flow, put together again before the host gets them: what segmentation does, backwards.
//!
//! Merged is what the kernel's own GRO would merge and nothing else: TCP segments that follow each other, are equal but for their
//! number and length and carry plain data; UDP datagrams of one flow and size. Nothing is moved: the super-packet is the header of
//! the first and a list of the pieces, which the host's interface takes in one call.

use std::ops::Range;

use crate::host::{Delivery, HostOffload, HostPacket, Offload, PartialChecksum, Segments, Transport};
use crate::packet::{HEADER_LEN, PseudoHeader, finish_checksum, transport_header_len};
use crate::train::Train;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_FLAGS: usize = HEADER_LEN + 13;
/// Segments of one super-packet: what Linux accepts of UDP in all versions, and more than a buffer holds of full ones.
const SEGMENTS_MAX: usize = 64;
/// Longest payload of an IPv6 packet without jumbo option (RFC 8200, 3).
const PAYLOAD_MAX: usize = u16::MAX as usize;

/// The lists of a [`Delivery`] under way, kept between deliveries so that none has to be allocated.
#[derive(Debug, Default)]
pub struct Coalescer {
    packets: Vec<HostPacket>,
    pieces: Vec<Range<usize>>,
    open: Option<Open>,
}

/// A packet that others may still be added to.
#[derive(Clone, Debug)]
struct Open {
    transport: Transport,
    first: Range<usize>,
    header_len: usize,
    /// Payload bytes of each segment.
    size: usize,
    /// Payload bytes of all.
    total: usize,
    count: usize,
    /// Whether the last one said that it is the last.
    pushed: bool,
    ended: bool,
    first_piece: usize,
}

impl Coalescer {
    /// Whether nothing has been pushed.
    pub const fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.open.is_none()
    }

    /// Adds the packet at `range` of `buffer`, whole and well formed. `unsummed`: its checksum is that of the pseudo-header only.
    pub fn push(&mut self, buffer: &mut [u8], range: Range<usize>, unsummed: bool, host: HostOffload) {
        let transport = Transport::of(buffer[range.start + 6]);
        let Some(transport) = transport.filter(|_| unsummed) else {
            self.close(buffer);
            return self.push_whole(range, Offload::default());
        };
        if !host.tcp {
            self.close(buffer);
            finish_checksum(&mut buffer[range.clone()], HEADER_LEN, transport.checksum_offset());
            return self.push_whole(range, Offload::default());
        }
        let candidate = Open::of(&buffer[range.clone()], transport, range.clone(), self.pieces.len());
        let Some(mut candidate) = candidate.filter(|_| transport == Transport::Tcp || host.udp) else {
            self.close(buffer);
            return self.push_whole(range, unfinished(transport));
        };
        if let Some(open) = &mut self.open
            && open.admits(&candidate, buffer)
        {
            let payload = range.start + candidate.header_len..range.end;
            open.total += payload.len();
            open.count += 1;
            open.pushed |= candidate.pushed;
            open.ended |= candidate.pushed || payload.len() < open.size;
            self.pieces.push(payload);
            return;
        }
        self.close(buffer);
        candidate.first_piece = self.pieces.len();
        candidate.ended = candidate.pushed;
        self.pieces.push(range);
        self.open = Some(candidate);
    }

    /// Takes everything that was pushed. `train` is the buffer it was pushed from.
    pub fn finish(&mut self, mut train: Train, spent: Delivery) -> Delivery {
        self.close(train.bytes_mut());
        let Delivery { mut packets, mut pieces, .. } = spent;
        packets.clear();
        pieces.clear();
        Delivery {
            train,
            packets: std::mem::replace(&mut self.packets, packets),
            pieces: std::mem::replace(&mut self.pieces, pieces),
        }
    }

    fn push_whole(&mut self, range: Range<usize>, offload: Offload) {
        let piece = self.pieces.len();
        self.pieces.push(range);
        self.packets.push(HostPacket { offload, header_len: 0, pieces: piece..piece + 1 });
    }

    fn close(&mut self, buffer: &mut [u8]) {
        let Some(open) = self.open.take() else { return };
        let pieces = open.first_piece..self.pieces.len();
        if open.count == 1 {
            self.packets.push(HostPacket { offload: unfinished(open.transport), header_len: 0, pieces });
            return;
        }
        let header = &mut buffer[open.first.start..open.first.start + open.header_len];
        let transport_len = (open.header_len - HEADER_LEN + open.total) as u16;
        header[4..6].copy_from_slice(&transport_len.to_be_bytes());
        match open.transport {
            Transport::Tcp if open.pushed => header[TCP_FLAGS] |= TCP_PSH,
            Transport::Tcp => {}
            Transport::Udp => header[HEADER_LEN + 4..HEADER_LEN + 6].copy_from_slice(&transport_len.to_be_bytes()),
        }
        let sum = PseudoHeader::of(header, open.transport).sum(transport_len);
        let at = HEADER_LEN + open.transport.checksum_offset();
        header[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let segments = Some(Segments { protocol: open.transport, size: open.size as u16 });
        let offload = Offload { segments, ..unfinished(open.transport) };
        self.packets.push(HostPacket { offload, header_len: open.header_len as u16, pieces });
    }
}

const fn unfinished(transport: Transport) -> Offload {
    let checksum = PartialChecksum { start: HEADER_LEN as u16, offset: transport.checksum_offset() as u16 };
    Offload { checksum: Some(checksum), segments: None }
}

impl Open {
    /// A packet that may begin a super-packet or join one: plain data.
    fn of(packet: &[u8], transport: Transport, first: Range<usize>, first_piece: usize) -> Option<Self> {
        let header_len = HEADER_LEN + transport_header_len(packet, transport)?;
        let size = packet.len() - header_len;
        let flags = if transport == Transport::Tcp { packet[TCP_FLAGS] } else { TCP_ACK };
        let plain = flags == TCP_ACK || flags == TCP_ACK | TCP_PSH;
        let pushed = transport == Transport::Tcp && flags & TCP_PSH != 0;
        let open =
            Self { transport, first, header_len, size, total: size, count: 1, pushed, ended: false, first_piece };
        (plain && size > 0).then_some(open)
    }

    /// Whether `next` follows what is here.
    fn admits(&self, next: &Self, buffer: &[u8]) -> bool {
        let fits = !self.ended
            && self.transport == next.transport
            && self.header_len == next.header_len
            && next.size <= self.size
            && self.count < SEGMENTS_MAX
            && self.header_len - HEADER_LEN + self.total + next.size <= PAYLOAD_MAX;
        if !fits {
            return false;
        }
        let one = &buffer[self.first.start..self.first.start + self.header_len];
        let two = &buffer[next.first.start..next.first.start + next.header_len];
        // Version, traffic class, flow label; next header, hop limit, addresses, ports.
        let same_flow = one[..4] == two[..4] && one[6..HEADER_LEN + 4] == two[6..HEADER_LEN + 4];
        let (one, two) = (&one[HEADER_LEN..], &two[HEADER_LEN..]);
        same_flow
            && match self.transport {
                Transport::Udp => true,
                Transport::Tcp => {
                    let number = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    let follows = number(two) == number(one).wrapping_add(self.total as u32);
                    // Acknowledgement, data offset, window; urgent pointer and options.
                    follows && one[8..13] == two[8..13] && one[14..16] == two[14..16] && one[18..] == two[18..]
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::tests::transport_packet;
    use crate::segment::Cut;

    const BOTH: HostOffload = HostOffload { tcp: true, udp: true };

    fn tcp(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut segment = vec![0, 22, 1, 1];
        segment.extend_from_slice(&sequence.to_be_bytes());
        segment.extend_from_slice(&[0, 0, 0, 9, 0x80, flags, 2, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8]);
        segment.extend_from_slice(payload);
        transport_packet(6, &segment)
    }

    fn deliver(packets: &[Vec<u8>], unsummed: bool, host: HostOffload) -> Delivery {
        let mut train = Train::single(packets.concat());
        let mut coalescer = Coalescer::default();
        let mut start = 0;
        for packet in packets {
            let range = start..start + packet.len();
            start = range.end;
            coalescer.push(train.bytes_mut(), range, unsummed, host);
        }
        coalescer.finish(train, Delivery::default())
    }

    fn joined(delivery: &Delivery) -> Vec<(Offload, Vec<u8>)> {
        let join =
            |(packet, pieces): (&HostPacket, _)| (packet.offload, Iterator::collect::<Vec<&[u8]>>(pieces).concat());
        delivery.packets().map(join).collect()
    }

    #[test]
    fn segments_that_follow_each_other_become_one_super_packet() {
        let packets = [tcp(100, 0x10, &[1; 500]), tcp(600, 0x10, &[2; 500]), tcp(1100, 0x18, &[3; 77])];
        let delivery = deliver(&packets, true, BOTH);
        let (packet, _) = delivery.packets().next().unwrap();
        assert_eq!((delivery.count(), packet.header_len), (1, 72));
        let (offload, bytes) = joined(&delivery).remove(0);
        assert_eq!(offload.segments, Some(Segments { protocol: Transport::Tcp, size: 500 }));
        assert_eq!((bytes.len(), bytes[TCP_FLAGS]), (72 + 1077, 0x18));
        assert_eq!(bytes[72..], [vec![1; 500], vec![2; 500], vec![3; 77]].concat());
        let cut = Cut::new(&bytes, offload, 1280).unwrap();
        let again: Vec<Vec<u8>> = (0..cut.count())
            .map(|index| {
                let mut out = vec![0; cut.len(index)];
                cut.write(index, &mut out);
                out
            })
            .collect();
        let unsummed = |packet: &Vec<u8>| [&packet[..56], &packet[58..]].concat();
        assert_eq!(again.iter().map(unsummed).collect::<Vec<_>>(), packets.iter().map(unsummed).collect::<Vec<_>>());
    }

    #[test]
    fn whatever_gro_would_keep_apart_stays_apart() {
        let first = tcp(100, 0x10, &[1; 500]);
        let apart = |second: Vec<u8>| deliver(&[first.clone(), second], true, BOTH).count() == 2;
        assert!(apart(tcp(601, 0x10, &[2; 500])), "a gap");
        assert!(apart(tcp(600, 0x10, &[2; 501])), "a longer one");
        assert!(apart(tcp(600, 0x11, &[2; 500])), "the end of the stream");
        assert!(apart(tcp(600, 0x10, &[])), "an acknowledgement");
        for place in [1, 7, 8, 24, 40, 42, 51, 54, 70] {
            let mut other = tcp(600, 0x10, &[2; 500]);
            other[place] ^= 1;
            assert!(apart(other), "byte {place} differs");
        }
        let pushed = deliver(&[tcp(100, 0x18, &[1; 500]), tcp(600, 0x10, &[2; 500])], true, BOTH);
        assert_eq!(pushed.count(), 2, "what is pushed is not kept waiting");
        let short = deliver(&[tcp(100, 0x10, &[1; 5]), tcp(105, 0x10, &[1; 4]), tcp(109, 0x10, &[1; 4])], true, BOTH);
        assert_eq!(short.count(), 2, "a shorter one is the last one");
        assert_eq!(
            deliver(&[first.clone(), tcp(600, 0x10, &[2; 500])], false, BOTH).count(),
            2,
            "sums that are finished"
        );
    }

    #[test]
    fn a_host_that_takes_nothing_gets_whole_packets_with_right_checksums() {
        let packets = [tcp(100, 0x10, &[1; 500]), tcp(600, 0x10, &[2; 500])];
        let unsummed = packets.map(|mut packet| {
            let sum = PseudoHeader::of(&packet, Transport::Tcp).sum(532);
            packet[56..58].copy_from_slice(&sum.to_be_bytes());
            packet
        });
        let delivery = deliver(&unsummed, true, HostOffload::default());
        assert_eq!(delivery.count(), 2);
        for (offload, bytes) in joined(&delivery) {
            assert_eq!((offload, crate::packet::transport_checksum(&bytes)), (Offload::default(), 0));
        }
    }

    #[test]
    fn a_super_packet_never_outgrows_what_its_length_field_can_say() {
        let packets: Vec<_> = (0..70).map(|n| tcp(n * 1200, 0x10, &[7; 1200])).collect();
        let delivery = deliver(&packets, true, BOTH);
        let lengths: Vec<usize> = joined(&delivery).iter().map(|(_, bytes)| bytes.len() - HEADER_LEN).collect();
        assert!(lengths.len() == 2 && lengths.iter().all(|len| *len <= PAYLOAD_MAX), "{lengths:?}");
    }

    proptest! {
        #[test]
        fn every_payload_byte_arrives_once_and_in_order(sizes in proptest::collection::vec((1usize..700, any::<bool>(), any::<bool>()), 1..60)) {
            let (mut packets, mut sequence, mut expected) = (Vec::new(), 7u32, Vec::new());
            for (n, (size, gap, push)) in sizes.into_iter().enumerate() {
                sequence = sequence.wrapping_add(u32::from(gap));
                let payload = vec![n as u8; size];
                packets.push(tcp(sequence, if push { 0x18 } else { 0x10 }, &payload));
                sequence = sequence.wrapping_add(size as u32);
                expected.extend(payload);
            }
            let delivered: Vec<u8> = joined(&deliver(&packets, true, BOTH)).iter().flat_map(|(_, bytes)| bytes[72..].to_vec()).collect();
            prop_assert_eq!(delivered, expected);
        }
    }
}
