//! The header in front of each packet that a TUN device with offloads exchanges (virtio 1.2, section 5.1.6; `linux/virtio_net.h`):
//!
//! ```text
//! flags u8, gso_type u8, hdr_len u16, gso_size u16, csum_start u16, csum_offset u16, in the host's byte order
//! ```

use x0t_node::{HostPacket, Offload, PartialChecksum, Segments, Transport};

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The first segment of a TCP super-packet has CWR set.
const GSO_ECN: u8 = 0x80;

/// What a header says about an IPv6 packet of `packet_len` bytes; `None` if that cannot be.
pub fn decode(header: [u8; HEADER_LEN], packet_len: usize) -> Option<Offload> {
    let word = |at| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = (header[0] & NEEDS_CSUM != 0).then(|| PartialChecksum { start: word(6), offset: word(8) });
    if let Some(PartialChecksum { start, offset }) = checksum
        && usize::from(start) + usize::from(offset) + 2 > packet_len
    {
        return None;
    }
    let protocol = match header[1] & !GSO_ECN {
        GSO_NONE => return Some(Offload { checksum, segments: None }),
        GSO_TCPV6 => Transport::Tcp,
        GSO_UDP_L4 => Transport::Udp,
        // IPv4, and UDP that the kernel fragments: nothing that this device has offered to take.
        _ => return None,
    };
    let size = word(4);
    (size > 0 && checksum.is_some()).then_some(Offload { checksum, segments: Some(Segments { protocol, size }) })
}

/// The header of a packet for the kernel.
pub fn encode(packet: &HostPacket) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let mut put = |at: usize, word: u16| header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
    if let Some(PartialChecksum { start, offset }) = packet.offload.checksum {
        put(6, start);
        put(8, offset);
    }
    if let Some(Segments { size, .. }) = packet.offload.segments {
        put(2, packet.header_len);
        put(4, size);
    }
    header[0] = if packet.offload.checksum.is_some() { NEEDS_CSUM } else { 0 };
    header[1] = match packet.offload.segments.map(|segments| segments.protocol) {
        None => GSO_NONE,
        Some(Transport::Tcp) => GSO_TCPV6,
        Some(Transport::Udp) => GSO_UDP_L4,
    };
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> [u8; HEADER_LEN] {
        let words = [72, size, start, offset].map(u16::to_ne_bytes).concat();
        [&[flags, gso][..], &words].concat().try_into().unwrap()
    }

    #[test]
    fn a_header_says_what_is_left_to_do() {
        assert_eq!(decode([0; HEADER_LEN], 40), Some(Offload::default()));
        let tcp = Offload {
            checksum: Some(PartialChecksum { start: 40, offset: 16 }),
            segments: Some(Segments { protocol: Transport::Tcp, size: 1208 }),
        };
        assert_eq!(decode(header(1, 4, 1208, 40, 16), 5000), Some(tcp));
        assert_eq!(decode(header(1, 0x84, 1208, 40, 16), 5000), Some(tcp), "with CWR");
        assert_eq!(decode(header(1, 0, 0, 40, 6), 100).unwrap().segments, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(decode(header(1, 4, 1208, 40, 16), 57), None, "a checksum beyond the end");
        assert_eq!(decode(header(1, 4, 1208, u16::MAX, u16::MAX), 65_535), None);
        assert_eq!(decode(header(0, 4, 1208, 40, 16), 5000), None, "segments without a checksum");
        assert_eq!(decode(header(1, 4, 0, 40, 16), 5000), None, "segments of nothing");
        for other in [1, 2, 3, 6, 0x7f] {
            assert_eq!(decode(header(1, other, 1208, 40, 16), 5000), None, "kind {other}");
        }
    }
}
