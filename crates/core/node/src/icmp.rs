//! What the node itself says to the host about packets it cannot carry: ICMPv6 errors (RFC 4443), and the segment size that TCP may
//! use (RFC 9293, 3.7.1). And which errors of others the host gets to see.

use std::net::Ipv6Addr;

use crate::packet::{self, HEADER_LEN, Summary, icmpv6_checksum};

/// No IPv6 link is thinner (RFC 8200, 5), and no host believes one that says so (RFC 8201, 4).
pub const IPV6_MTU_MIN: usize = 1280;

const NEXT_HEADER_HOP_BY_HOP: u8 = 0;
const NEXT_HEADER_TCP: u8 = 6;
const NEXT_HEADER_ROUTING: u8 = 43;
const NEXT_HEADER_FRAGMENT: u8 = 44;
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEXT_HEADER_DESTINATION: u8 = 60;
/// What stands before the quote in an error: type, code, checksum, value.
const ERROR_HEADER_LEN: usize = 8;
/// How much of a refused packet an error quotes at most: the error itself must fit the minimum MTU (RFC 4443, 2.4 c).
const QUOTE_LEN_MAX: usize = IPV6_MTU_MIN - HEADER_LEN - 8;

const TCP_HEADER_LEN: usize = 20;
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 0x02;
const TCP_CHECKSUM: usize = 16;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// A "destination unreachable" (RFC 4443, 3.1) that answers `packet` in the name of `from`. None if the packet must not be answered.
pub fn unreachable(packet: &[u8], from: Ipv6Addr) -> Option<Vec<u8>> {
    const DESTINATION_UNREACHABLE: u8 = 1;
    const NO_ROUTE: u8 = 0;
    error(packet, from, [DESTINATION_UNREACHABLE, NO_ROUTE], 0)
}

/// A "packet too big" (RFC 4443, 3.2) that answers `packet` in the name of `from`: packets of up to `mtu` bytes are carried. Never
/// says less than [`IPV6_MTU_MIN`]. None if the packet must not be answered.
pub fn packet_too_big(packet: &[u8], from: Ipv6Addr, mtu: usize) -> Option<Vec<u8>> {
    const PACKET_TOO_BIG: u8 = 2;
    let mtu = u32::try_from(mtu.max(IPV6_MTU_MIN)).ok()?;
    error(packet, from, [PACKET_TOO_BIG, 0], mtu)
}

/// An error of `kind` and code that quotes `packet`.
fn error(packet: &[u8], from: Ipv6Addr, kind: [u8; 2], value: u32) -> Option<Vec<u8>> {
    let summary = packet::summarise(packet).ok()?;
    if !may_be_answered(packet, &summary) {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_LEN_MAX)];
    let payload_len = (8 + quote.len()) as u16;
    let mut out = Vec::with_capacity(HEADER_LEN + 8 + quote.len());
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&payload_len.to_be_bytes());
    out.extend_from_slice(&[NEXT_HEADER_ICMPV6, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&summary.source.octets());
    out.extend_from_slice(&kind);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&value.to_be_bytes());
    out.extend_from_slice(quote);
    let checksum = icmpv6_checksum(&out);
    out[HEADER_LEN + 2..HEADER_LEN + 4].copy_from_slice(&checksum.to_be_bytes());
    Some(out)
}

/// Whether `packet` is an ICMPv6 error that is not its sender's business: hosts act on errors, forget routes and shrink what they send,
/// so a node may report only about packets that this one sent to it. No router stands between two nodes that could know of others.
pub fn is_meddling(packet: &[u8]) -> bool {
    let Some(at) = upper_layer(packet, NEXT_HEADER_ICMPV6) else { return false };
    match packet.get(at) {
        Some(128..) => false,
        // The kernel would wait for the rest of what a fragment begins, so what it does not show is not let through.
        Some(_) | None => {
            let quote = packet.get(at + ERROR_HEADER_LEN..at + ERROR_HEADER_LEN + HEADER_LEN);
            // As this node sent it: the ends are those of the error, the other way round.
            quote.is_none_or(|quote| {
                quote[0] >> 4 != 6 || quote[8..24] != packet[24..40] || quote[24..40] != packet[8..24]
            })
        }
    }
}

/// Where in a packet with a whole header the upper layer `protocol` begins, behind whatever extension headers: hosts look behind them too.
/// The packet's end if a first fragment does not show it (RFC 7112 wants that it does, and not every kernel). None if the packet holds
/// another protocol, or is a fragment from further behind, which has no say in that.
fn upper_layer(packet: &[u8], protocol: u8) -> Option<usize> {
    let (mut next, mut at, mut is_fragment) = (packet[6], HEADER_LEN, false);
    loop {
        if next == protocol {
            return Some(at);
        }
        let Some([following, len, offset, offset_low, ..]) = packet.get(at..) else {
            return is_fragment.then_some(packet.len());
        };
        let offset = u16::from_be_bytes([*offset, *offset_low]) >> 3;
        at += match next {
            NEXT_HEADER_HOP_BY_HOP | NEXT_HEADER_ROUTING | NEXT_HEADER_DESTINATION => 8 * (usize::from(*len) + 1),
            NEXT_HEADER_FRAGMENT if offset == 0 => {
                is_fragment = true;
                8
            }
            _ => return None,
        };
        next = *following;
    }
}

/// Errors are not answered with errors, nor is what has no single sender (RFC 4443, 2.4 e).
fn may_be_answered(packet: &[u8], summary: &Summary) -> bool {
    let is_error = summary.next_header == NEXT_HEADER_ICMPV6 && packet.get(HEADER_LEN).is_none_or(|kind| *kind < 128);
    !is_error && !summary.source.is_multicast() && !summary.source.is_unspecified()
}

/// Lowers the maximum segment size that a TCP SYN in `packet` announces to what fits a packet of `mtu` bytes, in place. If
/// `unsummed`, the checksum holds the sum of the pseudo-header only and does not cover the option. True if it was lowered.
///
/// Hosts learn from "packet too big" as well, but only by losing a packet, and not at all if somebody filters ICMP inside.
pub fn clamp_segment_size(packet: &mut [u8], mtu: usize, unsummed: bool) -> bool {
    let Some(at) = segment_size_option(packet) else { return false };
    let allowed = u16::try_from(mtu.saturating_sub(HEADER_LEN + TCP_HEADER_LEN)).unwrap_or(u16::MAX);
    let announced = u16::from_be_bytes([packet[at], packet[at + 1]]);
    if announced <= allowed {
        return false;
    }
    if !unsummed {
        let sum_at = HEADER_LEN + TCP_CHECKSUM;
        let sum = u16::from_be_bytes([packet[sum_at], packet[sum_at + 1]]);
        // An option may begin at an odd byte; then its two bytes lie in two words, and the sum is of swapped bytes (RFC 1071, 2 B).
        let odd = !(at - HEADER_LEN).is_multiple_of(2);
        let (old, new) = if odd { (announced.swap_bytes(), allowed.swap_bytes()) } else { (announced, allowed) };
        packet[sum_at..sum_at + 2].copy_from_slice(&updated(sum, old, new).to_be_bytes());
    }
    packet[at..at + 2].copy_from_slice(&allowed.to_be_bytes());
    true
}

/// Whether `packet` opens a TCP connection, in either direction.
pub fn is_syn(packet: &[u8]) -> bool {
    let flags = packet.get(HEADER_LEN + TCP_FLAGS);
    packet.get(6) == Some(&NEXT_HEADER_TCP) && flags.is_some_and(|flags| flags & TCP_SYN != 0)
}

/// Where the value of the MSS option stands in a TCP SYN; none in any other packet.
fn segment_size_option(packet: &[u8]) -> Option<usize> {
    if packet.len() < HEADER_LEN + TCP_HEADER_LEN || !is_syn(packet) {
        return None;
    }
    let segment = &packet[HEADER_LEN..];
    let end = (usize::from(segment[12] >> 4) * 4).min(segment.len());
    let mut at = TCP_HEADER_LEN;
    while at < end {
        match segment[at] {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*segment.get(at + 1)?);
                if len < 2 || at + len > end {
                    return None;
                }
                if kind == OPTION_MSS && len == 4 {
                    return Some(HEADER_LEN + at + 2);
                }
                at += len;
            }
        }
    }
    None
}

/// A checksum after one word that it covers changed from `old` to `new` (RFC 1624, equation 3).
const fn updated(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = !sum as u32 + !old as u32 + new as u32;
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::Transport;
    use crate::packet::{PseudoHeader, finish_checksum, tests::transport_packet, transport_checksum};

    const FROM: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

    /// A SYN with these options and a right checksum.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; TCP_HEADER_LEN];
        segment[..4].copy_from_slice(&[0, 22, 1, 1]);
        segment[12] = (((TCP_HEADER_LEN + options.len()) / 4) << 4) as u8;
        segment[TCP_FLAGS] = TCP_SYN;
        segment.extend_from_slice(options);
        let mut packet = transport_packet(6, &segment);
        let sum = PseudoHeader::of(&packet, Transport::Tcp).sum(segment.len() as u16);
        packet[56..58].copy_from_slice(&sum.to_be_bytes());
        finish_checksum(&mut packet, HEADER_LEN, TCP_CHECKSUM);
        packet
    }

    #[test]
    fn a_refused_packet_is_answered_with_a_valid_checksum_and_an_error_never_is() {
        let packet = transport_packet(17, &[1; 2000]);
        for (answer, kind, value) in [
            (unreachable(&packet, FROM).unwrap(), 1, 0_u32),
            (packet_too_big(&packet, FROM, 1348).unwrap(), 2, 1348),
            (packet_too_big(&packet, FROM, 1096).unwrap(), 2, 1280),
        ] {
            let summary = packet::summarise(&answer).unwrap();
            assert_eq!((summary.source, summary.destination), (FROM, Ipv6Addr::from([0xfd; 16])));
            assert_eq!((answer[40], answer[41], &answer[44..48]), (kind, 0, &value.to_be_bytes()[..]));
            assert_eq!(&answer[48..], &packet[..QUOTE_LEN_MAX]);
            assert_eq!(answer.len(), IPV6_MTU_MIN);
            assert_eq!(icmpv6_checksum(&answer), 0, "a sum over a message with its checksum in place is zero");
            assert_eq!(packet_too_big(&answer, FROM, 1280), None);
            assert_eq!(unreachable(&answer, FROM), None);
        }
        let echo = transport_packet(58, &[128, 0, 0, 0]);
        assert!(packet_too_big(&echo, FROM, 1280).is_some(), "an echo request is no error");
        let mut from_group = packet.clone();
        from_group[8] = 0xff;
        assert_eq!(packet_too_big(&from_group, FROM, 1280), None);
        assert_eq!(packet_too_big(&packet[..50], FROM, 1280), None);
    }

    const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0], &len[..], &[next_header, 64], &source.octets(), &destination.octets(), payload].concat()
    }

    /// An error of `kind` about `quote`, behind extension headers if `next_header` says so.
    fn error_of(kind: u8, next_header: u8, extensions: &[u8], quote: &[u8]) -> Vec<u8> {
        packet(PEER, FROM, next_header, &[extensions, &[kind, 0, 0, 0, 0, 0, 5, 0], quote].concat())
    }

    #[test]
    fn a_node_reports_errors_about_what_was_sent_to_it_and_about_nothing_else() {
        let third = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
        let own = packet(FROM, PEER, 17, &[0; 8]);
        for kind in 1..=4 {
            assert!(!is_meddling(&error_of(kind, 58, &[], &own)), "type {kind}");
            for quote in [
                packet(FROM, third, 17, &[0; 8]),
                packet(third, PEER, 17, &[0; 8]),
                packet(PEER, FROM, 17, &[0; 8]),
                own[..HEADER_LEN - 1].to_vec(),
                vec![],
                [&[0x45], &own[1..]].concat(),
            ] {
                assert!(is_meddling(&error_of(kind, 58, &[], &quote)), "type {kind} about {quote:?}");
            }
        }
        let echo = packet(PEER, FROM, 58, &[128, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!is_meddling(&echo) && !is_meddling(&own) && !is_meddling(&packet(PEER, FROM, 6, &[1; 20])));
        assert!(is_meddling(&packet(PEER, FROM, 58, &[])), "it has not even a type");
    }

    #[test]
    fn an_error_behind_extension_headers_is_found_all_the_same() {
        let foreign = packet(FROM, FROM, 17, &[0; 8]);
        let own = packet(FROM, PEER, 17, &[0; 8]);
        // Options of 8 and 16 bytes, a routing header, and the first fragment of something.
        let options = [NEXT_HEADER_ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        let long_options = [&[NEXT_HEADER_ICMPV6, 1, 1, 12][..], &[0; 12]].concat();
        let chain =
            [&[NEXT_HEADER_FRAGMENT, 0, 1, 4, 0, 0, 0, 0][..], &[NEXT_HEADER_ICMPV6, 0, 0, 1, 0, 0, 0, 9]].concat();
        for (next_header, extensions) in [
            (NEXT_HEADER_HOP_BY_HOP, &options[..]),
            (NEXT_HEADER_DESTINATION, &long_options),
            (NEXT_HEADER_ROUTING, &options),
            (NEXT_HEADER_HOP_BY_HOP, &chain),
        ] {
            assert!(is_meddling(&error_of(1, next_header, extensions, &foreign)), "{next_header}");
            assert!(!is_meddling(&error_of(1, next_header, extensions, &own)), "{next_header}");
        }
        let later_fragment = [NEXT_HEADER_ICMPV6, 0, 1, 0, 0, 0, 0, 9];
        let piece_of_an_echo = packet(PEER, FROM, NEXT_HEADER_FRAGMENT, &[&later_fragment[..], &[1; 64]].concat());
        assert!(!is_meddling(&piece_of_an_echo), "a kernel takes the type from the first one only");
        let many = [NEXT_HEADER_DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(99);
        let many = [&many[..], &options].concat();
        assert!(is_meddling(&error_of(1, NEXT_HEADER_DESTINATION, &many, &foreign)), "however deep");
        let chain_goes_on = [NEXT_HEADER_DESTINATION, 0, 0, 1, 0, 0, 0, 9];
        assert!(is_meddling(&packet(PEER, FROM, NEXT_HEADER_FRAGMENT, &chain_goes_on)), "what it is shows only later");
        assert!(!is_meddling(&packet(PEER, FROM, NEXT_HEADER_DESTINATION, &[6, 0, 1])), "no kernel reads that");
    }

    #[test]
    fn the_segment_size_of_a_syn_is_lowered_to_the_path_and_its_checksum_stays_right() {
        // MSS 8940 alone, behind three NOPs and so at an odd byte, and behind other options.
        for options in
            [&[2, 4, 0x22, 0xec][..], &[1, 1, 1, 2, 4, 0x22, 0xec, 0], &[4, 2, 3, 3, 7, 2, 4, 0x22, 0xec, 1, 1, 0]]
        {
            let mut packet = syn(options);
            assert!(clamp_segment_size(&mut packet, 1348, false));
            let at = segment_size_option(&packet).unwrap();
            assert_eq!(packet[at..at + 2], 1288_u16.to_be_bytes());
            assert_eq!(transport_checksum(&packet), 0, "{options:?}");
            assert!(!clamp_segment_size(&mut packet, 1348, false), "once is enough");
            assert!(clamp_segment_size(&mut packet, 1096, false), "IPv6 hosts accept less than 1220 as well");
            assert_eq!(transport_checksum(&packet), 0);
        }
    }

    #[test]
    fn an_unfinished_checksum_does_not_cover_the_option() {
        let mut packet = syn(&[2, 4, 0x22, 0xec]);
        let before = packet[56..58].to_vec();
        assert!(clamp_segment_size(&mut packet, 1348, true));
        assert_eq!(packet[56..58], before);
    }

    #[test]
    fn what_is_no_syn_or_says_no_size_is_left_alone() {
        let mut established = syn(&[2, 4, 0x22, 0xec]);
        established[40 + TCP_FLAGS] = 0x10;
        let hostile: [&[u8]; 6] = [&[2, 0, 0, 0], &[2, 4, 0x22], &[0, 2, 4, 9], &[9, 255, 1, 1], &[2, 3, 9, 1], &[2]];
        for mut packet in hostile.map(syn).into_iter().chain([established, transport_packet(17, &[2; 40])]) {
            let before = packet.clone();
            assert!(!clamp_segment_size(&mut packet, 1280, false));
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_them_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), options in proptest::collection::vec(0_u8..8, 0..40)) {
            let _ = packet_too_big(&bytes, FROM, 1280);
            let _ = clamp_segment_size(&mut bytes.clone(), 1280, false);
            let _ = clamp_segment_size(&mut syn(&options), 1, false);
            for next_header in [0, 43, 44, 58, 60] {
                let _ = is_meddling(&packet(PEER, FROM, next_header, &bytes));
            }
        }

        #[test]
        fn an_updated_checksum_is_the_one_that_is_computed_anew(old in any::<u16>(), new in any::<u16>(), rest in any::<u16>()) {
            let sum = |word: u16| {
                let total = u32::from(word) + u32::from(rest);
                !((total & 0xffff) + (total >> 16)) as u16
            };
            // Zero has two representations in ones' complement.
            prop_assert_eq!(updated(sum(old), old, new) % 0xffff, sum(new) % 0xffff);
        }
    }
}
