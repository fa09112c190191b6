//! What the stack reads of a packet before anybody who keeps state sees it, and the datagrams that it writes.

use std::net::{Ipv6Addr, SocketAddrV6};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

const HEADER_LEN: usize = 40;
const UDP_HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
const NEXT_HEADER_TCP: u8 = 6;
const NEXT_HEADER_UDP: u8 = 17;
const NEXT_HEADER_ICMPV6: u8 = 58;
const ICMPV6_DESTINATION_UNREACHABLE: u8 = 1;

/// One conversation, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The other node.
    pub peer: Ipv6Addr,
    /// Its port.
    pub peer_port: u16,
    /// Ours.
    pub port: u16,
}

impl Flow {
    /// The other end.
    pub fn remote(self) -> SocketAddrV6 {
        SocketAddrV6::new(self.peer, self.peer_port, 0, 0)
    }
}

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Tcp {
        /// Of this conversation.
        flow: Flow,
        /// Whether it asks for a new one: SYN without ACK and RST (RFC 9293, 3.5).
        opens: bool,
    },
    /// A UDP datagram of this conversation.
    Udp(Flow),
    /// Somebody says that a packet of this TCP conversation cannot reach its destination (RFC 4443, 3.1).
    Unreachable(Flow),
    /// Anything else.
    Other,
}

/// Why a packet is not looked at any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a packet for `own` (RFC 8200, 3).
pub fn classify(packet: &[u8], own: Ipv6Addr) -> Result<Kind, Malformed> {
    let (source, destination) = addresses(packet).ok_or(Malformed)?;
    let payload = &packet[HEADER_LEN..];
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let nobody = source.is_unspecified() || source.is_multicast() || source.is_loopback();
    if destination != own || nobody || length != payload.len() {
        return Err(Malformed);
    }
    if packet[6] == NEXT_HEADER_ICMPV6 && payload.first() == Some(&ICMPV6_DESTINATION_UNREACHABLE) {
        // No router stands between two nodes: only the one that was addressed, or this node itself, can know.
        let lost = quoted(payload.get(8..).unwrap_or_default(), own);
        let lost = lost.filter(|flow| source == own || source == flow.peer);
        return Ok(lost.map_or(Kind::Other, Kind::Unreachable));
    }
    // The node itself reports errors in its own name, which is ours; it says nothing else.
    if source == own {
        return Err(Malformed);
    }
    let flow = |ports: (u16, u16)| Flow { peer: source, peer_port: ports.0, port: ports.1 };
    match packet[6] {
        NEXT_HEADER_TCP => {
            const SYN: u8 = 0x02;
            const RST: u8 = 0x04;
            const ACK: u8 = 0x10;
            let flags = *payload.get(13).ok_or(Malformed)?;
            let ports = ports(payload).ok_or(Malformed)?;
            Ok(Kind::Tcp { flow: flow(ports), opens: flags & (SYN | RST | ACK) == SYN })
        }
        NEXT_HEADER_UDP => Ok(Kind::Udp(flow(ports(payload).ok_or(Malformed)?))),
        _ => Ok(Kind::Other),
    }
}

/// The TCP conversation of the packet that an ICMPv6 error quotes, if it was ours.
fn quoted(quote: &[u8], own: Ipv6Addr) -> Option<Flow> {
    let (source, destination) = addresses(quote)?;
    let (port, peer_port) = ports(&quote[HEADER_LEN..])?;
    (source == own && quote[6] == NEXT_HEADER_TCP).then_some(Flow { peer: destination, peer_port, port })
}

fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let packet = (packet.len() >= HEADER_LEN && packet[0] >> 4 == 6).then(|| Ipv6Packet::new_unchecked(packet))?;
    Some((packet.src_addr(), packet.dst_addr()))
}

fn ports(payload: &[u8]) -> Option<(u16, u16)> {
    let port = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
    Some((port(0)?, port(2)?))
}

/// The content of a UDP datagram that [`classify`] has recognised; `None` if its length or checksum is wrong, or its checksum is
/// missing, which IPv6 does not allow (RFC 8200, 8.1).
pub fn datagram(packet: &[u8]) -> Option<&[u8]> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    if udp.checksum() == 0 {
        return None;
    }
    UdpRepr::parse(&udp, &ip.src_addr().into(), &ip.dst_addr().into(), &ChecksumCapabilities::default()).ok()?;
    Some(udp.payload())
}

/// How long the packet is that carries `payload`.
pub const fn datagram_len(payload: &[u8]) -> usize {
    HEADER_LEN + UDP_HEADER_LEN + payload.len()
}

/// Writes a UDP datagram from `own` into `out`, which is [`datagram_len`] long.
pub fn write_datagram(out: &mut [u8], own: Ipv6Addr, flow: Flow, payload: &[u8]) {
    let header = Ipv6Repr {
        src_addr: own,
        dst_addr: flow.peer,
        next_header: IpProtocol::Udp,
        payload_len: UDP_HEADER_LEN + payload.len(),
        hop_limit: HOP_LIMIT,
    };
    let (head, body) = out.split_at_mut(HEADER_LEN);
    header.emit(&mut Ipv6Packet::new_unchecked(head));
    UdpRepr { src_port: flow.port, dst_port: flow.peer_port }.emit(
        &mut UdpPacket::new_unchecked(body),
        &own.into(),
        &flow.peer.into(),
        payload.len(),
        |bytes| bytes.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        packet.extend_from_slice(&[next_header, 64]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let flow = Flow { peer: OWN, peer_port: 53, port: 4000 };
        let mut bytes = vec![0; datagram_len(b"question")];
        write_datagram(&mut bytes, PEER, flow, b"question");
        let seen = Flow { peer: PEER, peer_port: 4000, port: 53 };
        assert_eq!(classify(&bytes, OWN), Ok(Kind::Udp(seen)));
        assert_eq!(datagram(&bytes), Some(&b"question"[..]));
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(datagram(&bytes), None, "its checksum is wrong now");
        bytes[46..48].fill(0);
        assert_eq!(datagram(&bytes), None, "and now it is missing");
    }

    #[test]
    fn only_a_bare_syn_opens() {
        let opens = |flags| {
            let mut segment = [0; 20];
            segment[13] = flags;
            matches!(classify(&packet(PEER, OWN, 6, &segment), OWN), Ok(Kind::Tcp { opens: true, .. }))
        };
        assert!(opens(0x02) && opens(0x02 | 0x08 | 0xc0));
        assert!(!opens(0x12) && !opens(0x06) && !opens(0x10) && !opens(0));
    }

    #[test]
    fn an_error_names_the_conversation_it_is_about_if_it_was_ours() {
        let ours = packet(OWN, PEER, 6, &[0x10, 0, 0, 80, 0, 0, 0, 0]);
        let error_of = |source, quote: &[u8]| packet(source, OWN, 58, &[&[1, 0, 0, 0, 0, 0, 0, 0], quote].concat());
        let error = |quote: &[u8]| error_of(PEER, quote);
        let flow = Flow { peer: PEER, peer_port: 80, port: 0x1000 };
        assert_eq!(classify(&error(&ours), OWN), Ok(Kind::Unreachable(flow)));
        assert_eq!(classify(&error_of(OWN, &ours), OWN), Ok(Kind::Unreachable(flow)), "this node says so itself");
        let third = "fd00::3".parse().unwrap();
        assert_eq!(classify(&error_of(third, &ours), OWN), Ok(Kind::Other), "it is no business of a third");
        assert_eq!(classify(&error(&packet(PEER, OWN, 6, &[0; 8])), OWN), Ok(Kind::Other));
        assert_eq!(classify(&error(&ours[..42]), OWN), Ok(Kind::Other));
    }

    #[test]
    fn what_is_not_for_us_or_cannot_be_answered_is_malformed() {
        for (source, destination) in
            [(PEER, PEER), (OWN, OWN), (Ipv6Addr::UNSPECIFIED, OWN), (Ipv6Addr::LOCALHOST, OWN)]
        {
            assert_eq!(classify(&packet(source, destination, 17, &[0; 8]), OWN), Err(Malformed));
        }
        assert_eq!(classify(&packet("ff02::1".parse().unwrap(), OWN, 17, &[0; 8]), OWN), Err(Malformed));
        let mut long = packet(PEER, OWN, 17, &[0; 8]);
        long.push(0);
        assert_eq!(classify(&long, OWN), Err(Malformed));
        assert_eq!(classify(&packet(PEER, OWN, 6, &[0; 13]), OWN), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = classify(&bytes, OWN);
            let _ = datagram(&bytes);
            let _ = classify(&packet(PEER, OWN, bytes.first().copied().unwrap_or(58), &bytes), OWN);
        }
    }
}
