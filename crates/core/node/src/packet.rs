//! What the data path reads of an IPv6 packet, and its checksums.

use std::net::Ipv6Addr;

use crate::host::Transport;

/// Bytes of an IPv6 header without extensions (RFC 8200, 3).
pub const HEADER_LEN: usize = 40;
const NEXT_HEADER_TCP: u8 = 6;
const NEXT_HEADER_UDP: u8 = 17;
const NEXT_HEADER_ICMPV6: u8 = 58;
/// The addresses and the flow of a packet that is well formed as far as this node cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who says it sent it.
    pub source: Ipv6Addr,
    /// For whom.
    pub destination: Ipv6Addr,
    /// Equal for all packets of one conversation in one direction; keeps them in order on one path.
    pub flow: u32,
    /// What follows the header (RFC 8200, 4).
    pub next_header: u8,
}

/// Why a packet is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Another version, or shorter than a header.
    NotIpv6,
    /// Its length field says something else than its length.
    WrongLength,
    /// What the host says is left to do does not fit the packet.
    Offload,
}

/// Reads a packet (RFC 8200, 3).
pub fn summarise(packet: &[u8]) -> Result<Summary, Malformed> {
    check(packet)?;
    Ok(Summary {
        source: address(&packet[8..24]),
        destination: address(&packet[24..40]),
        flow: flow_of(packet),
        next_header: packet[6],
    })
}

/// The flow of a packet, whether it is well formed or not: see [`Summary::flow`]. Its length field is not looked at.
pub fn flow_of(packet: &[u8]) -> u32 {
    let Some(header) = packet.first_chunk::<HEADER_LEN>() else { return 0 };
    let next_header = header[6];
    let ports: &[u8] = match next_header {
        NEXT_HEADER_TCP | NEXT_HEADER_UDP if packet.len() >= HEADER_LEN + 4 => &packet[HEADER_LEN..HEADER_LEN + 4],
        _ => &[],
    };
    fnv1a(&[&header[8..40], &[next_header], ports])
}

/// Source and destination of a packet that is well formed as far as this node cares. If it is `unsummed`, its TCP or UDP header must
/// be there whole, for somebody is going to write into it.
pub fn ends(packet: &[u8], unsummed: bool) -> Result<(Ipv6Addr, Ipv6Addr), Malformed> {
    check(packet)?;
    if unsummed {
        let transport = Transport::of(packet[6]).ok_or(Malformed::Offload)?;
        transport_header_len(packet, transport).ok_or(Malformed::Offload)?;
    }
    Ok((address(&packet[8..24]), address(&packet[24..40])))
}

fn check(packet: &[u8]) -> Result<(), Malformed> {
    if packet.len() < HEADER_LEN || packet[0] >> 4 != 6 {
        return Err(Malformed::NotIpv6);
    }
    let payload_len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    if packet.len() == HEADER_LEN + payload_len { Ok(()) } else { Err(Malformed::WrongLength) }
}

/// The sum of the addresses and the protocol of a packet, to which only a length is missing (RFC 8200, 8.1).
#[derive(Clone, Copy, Debug)]
pub struct PseudoHeader(u64);

impl PseudoHeader {
    /// That of a packet of at least [`HEADER_LEN`] bytes.
    pub fn of(packet: &[u8], transport: Transport) -> Self {
        Self::with_protocol(packet, transport.next_header())
    }

    /// The same for any protocol.
    pub fn with_protocol(packet: &[u8], protocol: u8) -> Self {
        Self(sum(&packet[8..HEADER_LEN]) + u64::from(protocol))
    }

    /// The sum with the length of transport header and payload: what an unfinished checksum field holds.
    pub fn sum(self, transport_len: u16) -> u16 {
        fold(self.0 + u64::from(transport_len))
    }
}

/// Bytes of the transport header that follows the IPv6 header; `None` if the packet does not hold it whole.
pub fn transport_header_len(packet: &[u8], transport: Transport) -> Option<usize> {
    let len = match transport {
        Transport::Udp => 8,
        Transport::Tcp => usize::from(packet.get(HEADER_LEN + 12)? >> 4) * 4,
    };
    let least = if transport == Transport::Tcp { 20 } else { 8 };
    (len >= least && HEADER_LEN + len <= packet.len()).then_some(len)
}

/// Finishes a checksum whose field, at `start + offset`, holds the sum of the pseudo-header. The caller has seen that it lies
/// within the packet.
pub fn finish_checksum(packet: &mut [u8], start: usize, offset: usize) {
    let checksum = match !fold(sum(&packet[start..])) {
        // RFC 8200, 8.1: a UDP checksum of zero would say that there is none.
        0 => 0xffff,
        checksum => checksum,
    };
    packet[start + offset..start + offset + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum of the ICMPv6 message in a whole packet whose checksum field is zero (RFC 8200, 8.1); zero for a message whose
/// checksum is in place and right.
pub fn icmpv6_checksum(packet: &[u8]) -> u16 {
    let message = &packet[HEADER_LEN..];
    !fold(PseudoHeader::with_protocol(packet, NEXT_HEADER_ICMPV6).0 + message.len() as u64 + sum(message))
}

/// The same of the TCP or UDP in a whole packet: zero if it is right.
#[cfg(test)]
pub(crate) fn transport_checksum(packet: &[u8]) -> u16 {
    let payload = &packet[HEADER_LEN..];
    !fold(PseudoHeader::with_protocol(packet, packet[6]).0 + payload.len() as u64 + sum(payload))
}

/// The sum of 16-bit big-endian words, the last padded with a zero (RFC 1071), not yet folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    whole + u64::from(u32::from_be_bytes(last))
}

/// Adds the carries of a sum back into it until 16 bits hold it.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets)
}

/// FNV-1a: a flow label needs speed and spread, not secrecy.
fn fnv1a(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A whole packet around a transport header and its payload, with addresses that are not the same.
    pub(crate) fn transport_packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        packet(next_header, payload)
    }

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[next_header, 64]);
        packet.extend_from_slice(&[0xfd; 16]);
        packet.extend_from_slice(&[0xfe; 16]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn packets_of_one_conversation_share_a_flow_and_others_do_not() {
        let flow = |payload: &[u8]| summarise(&packet(NEXT_HEADER_TCP, payload)).unwrap().flow;
        assert_eq!(flow(&[0, 22, 1, 1, 9, 9]), flow(&[0, 22, 1, 1, 7, 7]));
        assert_ne!(flow(&[0, 22, 1, 1]), flow(&[0, 23, 1, 1]));
    }

    #[test]
    fn what_is_no_whole_ipv6_packet_is_refused() {
        assert_eq!(summarise(&[]), Err(Malformed::NotIpv6));
        assert_eq!(summarise(&[0x45; 60]), Err(Malformed::NotIpv6));
        let mut truncated = packet(17, &[0; 8]);
        truncated.pop();
        assert_eq!(summarise(&truncated), Err(Malformed::WrongLength));
    }

    #[test]
    fn sums_fold_their_carries_and_pad_what_is_odd() {
        assert_eq!(fold(sum(&[0xff, 0xff, 0x00, 0x01])), 1);
        assert_eq!(fold(sum(&[0xff; 1501])), fold(sum(&[&[0xff; 1501][..], &[0]].concat())));
        assert_eq!(fold(u64::MAX), 0xffff);
        let mut udp = packet(17, &[0, 1, 0, 2, 0, 9, 0, 0, 77]);
        let pseudo = PseudoHeader::of(&udp, Transport::Udp).sum(9);
        udp[46..48].copy_from_slice(&pseudo.to_be_bytes());
        finish_checksum(&mut udp, HEADER_LEN, 6);
        assert_eq!(transport_checksum(&udp), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = summarise(&bytes);
        }
    }
}
