//! A super-packet, cut into the packets that it stands for.
//!
//! The host's TCP hands over up to 64 KiB under one header (TSO), or an application many datagrams of one size (USO). Each segment
//! gets a copy of the header with its own length, sequence number and flags. Its checksum is left as the sum of the pseudo-header:
//! the AEAD around each segment vouches for more than 16 bits could, and the far host is told that the sum is not finished.

use crate::host::{Offload, PartialChecksum, Transport};
use crate::packet::{HEADER_LEN, Malformed, PseudoHeader, finish_checksum, transport_header_len};

const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;
/// Place of the flags in a TCP header.
const TCP_FLAGS: usize = 13;

/// How one packet of the host becomes one or more packets of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    packet: &'a [u8],
    /// Present if there are segments.
    split: Option<Split>,
    /// Whether the checksum of every resulting packet is that of the pseudo-header only.
    unsummed: bool,
    /// A checksum in an unusual place, which is finished on the way.
    finish: Option<PartialChecksum>,
}

#[derive(Clone, Copy, Debug)]
struct Split {
    transport: Transport,
    header_len: usize,
    /// Payload of each segment but the last.
    size: usize,
    pseudo: PseudoHeader,
}

impl<'a> Cut<'a> {
    /// How `packet`, a whole IPv6 packet, is cut so that no resulting packet is longer than `limit` bytes. TCP can be cut finer than
    /// the host asked for, because it is a stream; datagrams cannot, so a segment of them may be longer than `limit`.
    ///
    /// # Errors
    /// If what the host says does not fit the packet.
    pub fn new(packet: &'a [u8], offload: Offload, limit: usize) -> Result<Self, Malformed> {
        let usual = Transport::of(packet[6]).filter(|transport| {
            let place = PartialChecksum { start: HEADER_LEN as u16, offset: transport.checksum_offset() as u16 };
            offload.checksum == Some(place)
        });
        let Some(transport) = usual else {
            if offload.segments.is_some() {
                return Err(Malformed::Offload);
            }
            if let Some(PartialChecksum { start, offset }) = offload.checksum
                && usize::from(start) + usize::from(offset) + 2 > packet.len()
            {
                return Err(Malformed::Offload);
            }
            return Ok(Self { packet, split: None, unsummed: false, finish: offload.checksum });
        };
        let header_len = HEADER_LEN + transport_header_len(packet, transport).ok_or(Malformed::Offload)?;
        let fits = limit.saturating_sub(header_len);
        let size = match offload.segments {
            Some(segments) if segments.protocol != transport || segments.size == 0 => return Err(Malformed::Offload),
            Some(segments) if transport == Transport::Tcp => usize::from(segments.size).min(fits),
            Some(segments) => usize::from(segments.size),
            None if transport == Transport::Tcp => fits,
            None => packet.len(),
        };
        let split = Split { transport, header_len, size: size.max(1), pseudo: PseudoHeader::of(packet, transport) };
        let splits = packet.len() - header_len > split.size;
        Ok(Self { packet, split: splits.then_some(split), unsummed: true, finish: None })
    }

    /// Whether the checksums of the resulting packets are those of the pseudo-header only.
    pub const fn is_unsummed(&self) -> bool {
        self.unsummed
    }

    /// How many packets it becomes.
    pub fn count(&self) -> usize {
        self.split.map_or(1, |split| (self.packet.len() - split.header_len).div_ceil(split.size))
    }

    /// Bytes of packet `index`.
    pub fn len(&self, index: usize) -> usize {
        let Some(Split { header_len, size, .. }) = self.split else { return self.packet.len() };
        header_len + size.min(self.packet.len() - header_len - index * size)
    }

    /// Writes packet `index` into `out`, which is [`Self::len`] bytes long.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        let Some(Split { transport, header_len, size, pseudo }) = self.split else {
            out.copy_from_slice(self.packet);
            if let Some(PartialChecksum { start, offset }) = self.finish {
                finish_checksum(out, start.into(), offset.into());
            }
            return;
        };
        let first = header_len + index * size;
        let (header, payload) = out.split_at_mut(header_len);
        header.copy_from_slice(&self.packet[..header_len]);
        payload.copy_from_slice(&self.packet[first..first + payload.len()]);
        let transport_len = (header_len - HEADER_LEN + payload.len()) as u16;
        header[4..6].copy_from_slice(&transport_len.to_be_bytes());
        let segment = &mut header[HEADER_LEN..];
        match transport {
            Transport::Tcp => {
                let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
                segment[4..8].copy_from_slice(&sequence.wrapping_add((index * size) as u32).to_be_bytes());
                if first + payload.len() < self.packet.len() {
                    segment[TCP_FLAGS] &= !TCP_FIN_PSH;
                }
                if index > 0 {
                    segment[TCP_FLAGS] &= !TCP_CWR;
                }
            }
            Transport::Udp => segment[4..6].copy_from_slice(&transport_len.to_be_bytes()),
        }
        let at = transport.checksum_offset();
        segment[at..at + 2].copy_from_slice(&pseudo.sum(transport_len).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Segments;
    use crate::packet::{summarise, tests::transport_packet};

    const TCP_SUM: PartialChecksum = PartialChecksum { start: 40, offset: 16 };
    const UDP_SUM: PartialChecksum = PartialChecksum { start: 40, offset: 6 };

    fn tcp(flags: u8, payload: usize) -> Vec<u8> {
        let mut segment = vec![0; 32];
        segment[..8].copy_from_slice(&[0, 22, 1, 1, 0xff, 0xff, 0xff, 0xf0]);
        segment[12] = 0x80;
        segment[TCP_FLAGS] = flags;
        segment.extend((0..payload).map(|n| n as u8));
        transport_packet(6, &segment)
    }

    fn udp(payload: usize) -> Vec<u8> {
        let mut datagram = vec![0, 53, 1, 1, 0, 0, 0, 0];
        datagram[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
        datagram.extend((0..payload).map(|n| n as u8));
        transport_packet(17, &datagram)
    }

    fn offload(protocol: Transport, size: u16) -> Offload {
        let checksum = if protocol == Transport::Tcp { TCP_SUM } else { UDP_SUM };
        Offload { checksum: Some(checksum), segments: Some(Segments { protocol, size }) }
    }

    fn all(cut: &Cut<'_>) -> Vec<Vec<u8>> {
        let packet = |index| {
            let mut out = vec![0xee; cut.len(index)];
            cut.write(index, &mut out);
            out
        };
        (0..cut.count()).map(packet).collect()
    }

    #[test]
    fn a_tcp_super_packet_becomes_segments_with_their_own_numbers_flags_and_sums() {
        let whole = tcp(0x10 | TCP_FIN_PSH | TCP_CWR, 2500);
        let cut = Cut::new(&whole, offload(Transport::Tcp, 1000), 1280).unwrap();
        let segments = all(&cut);
        assert!(cut.is_unsummed());
        assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1072, 1072, 572]);
        let flags: Vec<u8> = segments.iter().map(|segment| segment[40 + TCP_FLAGS]).collect();
        assert_eq!(flags, [0x10 | TCP_CWR, 0x10, 0x10 | TCP_FIN_PSH]);
        let numbers: Vec<[u8; 4]> = segments.iter().map(|segment| segment[44..48].try_into().unwrap()).collect();
        let expected = [0xffff_fff0_u32, 0x0000_03d8, 0x0000_07c0].map(u32::to_be_bytes);
        assert_eq!(numbers, expected, "sequence numbers wrap");
        assert_eq!(segments.iter().flat_map(|segment| &segment[72..]).copied().collect::<Vec<_>>(), whole[72..]);
        for mut segment in segments {
            assert!(summarise(&segment).is_ok());
            finish_checksum(&mut segment, 40, 16);
            assert_eq!(crate::packet::transport_checksum(&segment), 0, "finished, it is a right TCP checksum");
        }
    }

    #[test]
    fn tcp_is_cut_finer_when_the_path_carries_less_and_datagrams_are_not() {
        let whole = tcp(0x10, 2500);
        let cut = Cut::new(&whole, offload(Transport::Tcp, 1400), 1072).unwrap();
        assert_eq!((cut.count(), cut.len(0)), (3, 1072));
        let single = Cut::new(&whole, Offload { checksum: Some(TCP_SUM), segments: None }, 1280).unwrap();
        assert_eq!(single.count(), 3, "also a single one that is longer than the path's MTU");
        let datagrams = udp(2500);
        let cut = Cut::new(&datagrams, offload(Transport::Udp, 1400), 1072).unwrap();
        assert_eq!((cut.count(), cut.len(0), cut.len(1)), (2, 1448, 1148));
        for mut datagram in all(&cut) {
            assert_eq!(usize::from(u16::from_be_bytes([datagram[44], datagram[45]])), datagram.len() - 40);
            finish_checksum(&mut datagram, 40, 6);
            assert_eq!(crate::packet::transport_checksum(&datagram), 0);
        }
    }

    #[test]
    fn an_unfinished_checksum_in_an_unusual_place_is_finished() {
        let mut packet = transport_packet(58, &[128, 0, 0, 0, 1, 2, 3, 4]);
        let pseudo = PseudoHeader::with_protocol(&packet, 58).sum(8);
        packet[42..44].copy_from_slice(&pseudo.to_be_bytes());
        let checksum = Some(PartialChecksum { start: 40, offset: 2 });
        let cut = Cut::new(&packet, Offload { checksum, segments: None }, 1280).unwrap();
        assert!(!cut.is_unsummed());
        assert_eq!(crate::packet::icmpv6_checksum(&all(&cut)[0]), 0);
    }

    #[test]
    fn hostile_offload_facts_are_refused() {
        let (stream, datagrams) = (tcp(0x10, 2500), udp(100));
        let refused = |packet: &[u8], offload| Cut::new(packet, offload, 1280).is_err();
        assert!(refused(&stream, offload(Transport::Tcp, 0)), "segments of nothing");
        assert!(refused(&stream, offload(Transport::Udp, 100)), "another protocol");
        assert!(refused(&datagrams, offload(Transport::Tcp, 100)));
        let no_sum = Offload { checksum: None, segments: offload(Transport::Tcp, 100).segments };
        assert!(refused(&stream, no_sum), "segments without a checksum to be made");
        let outside = Some(PartialChecksum { start: u16::MAX, offset: u16::MAX });
        assert!(refused(&stream, Offload { checksum: outside, segments: None }));
        let mut lying = stream.clone();
        lying[52] = 0x10;
        assert!(refused(&lying, offload(Transport::Tcp, 100)), "a header shorter than a header");
        lying[52] = 0xf0;
        lying.truncate(80);
        assert!(refused(&lying, offload(Transport::Tcp, 100)), "a header longer than the packet");
    }

    #[test]
    fn a_limit_below_the_headers_still_makes_progress() {
        let whole = tcp(0x10, 3);
        assert_eq!(Cut::new(&whole, offload(Transport::Tcp, 1000), 10).unwrap().count(), 3);
    }
}
