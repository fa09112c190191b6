//! How large the packets are that the host may hand over.

use std::ops::RangeInclusive;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use x0t_node::ENCAPSULATION;

/// What an interface into the mesh may be set to: no IPv6 link is thinner (RFC 8200, 5), and an Ethernet jumbo frame holds no more,
/// with all headers around it.
pub const MTU_RANGE: RangeInclusive<u16> = 1280..=8800;
/// An Ethernet frame's payload: what an underlay is taken for of which nothing is known.
const ETHERNET_MTU: u32 = 1500;
/// IPv6 and UDP headers (RFC 8200, RFC 768). IPv4 takes 20 bytes less.
const UNDERLAY_OVERHEAD: u32 = 40 + 8;

/// The MTU that lets a packet fill a datagram on the underlay with the largest frames among `links`. What a path carries is found
/// out for each, so the largest is the right one: smaller paths announce themselves.
pub(super) fn suitable(links: &[LinkMessage]) -> u16 {
    let underlay = links.iter().filter(|link| is_underlay(link)).filter_map(mtu_of).max().unwrap_or(ETHERNET_MTU);
    let inner = underlay.saturating_sub(UNDERLAY_OVERHEAD).saturating_sub(ENCAPSULATION as u32);
    u16::try_from(inner).unwrap_or(u16::MAX).clamp(*MTU_RANGE.start(), *MTU_RANGE.end())
}

/// Up, and neither the loopback nor a tunnel: packets of the mesh do not travel inside themselves.
fn is_underlay(link: &LinkMessage) -> bool {
    let flags = link.header.flags;
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    ethernet && flags.contains(LinkFlags::Up) && !flags.intersects(LinkFlags::Loopback | LinkFlags::Pointopoint)
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(mtu: u32, flags: LinkFlags, layer: LinkLayerType) -> LinkMessage {
        let mut link = LinkMessage::default();
        (link.header.flags, link.header.link_layer_type) = (flags, layer);
        link.attributes.push(LinkAttribute::Mtu(mtu));
        link
    }

    #[test]
    fn the_largest_frames_of_the_host_decide_within_what_ipv6_allows() {
        let ether = |mtu| link(mtu, LinkFlags::Up, LinkLayerType::Ether);
        for (mtus, suitable_mtu) in [
            (&[1500][..], 1348),
            (&[1280, 1500], 1348),
            (&[1280], 1280),
            (&[1500, 9000], 8800),
            (&[65_535], 8800),
            (&[], 1348),
        ] {
            let links: Vec<_> = mtus.iter().map(|mtu| ether(*mtu)).collect();
            assert_eq!(suitable(&links), suitable_mtu, "{mtus:?}");
        }
    }

    #[test]
    fn what_is_down_a_tunnel_or_the_loopback_does_not_count() {
        let links = [
            link(65_536, LinkFlags::Up | LinkFlags::Loopback, LinkLayerType::Loopback),
            link(9000, LinkFlags::empty(), LinkLayerType::Ether),
            link(9000, LinkFlags::Up | LinkFlags::Pointopoint, LinkLayerType::None),
            link(1500, LinkFlags::Up, LinkLayerType::Ether),
        ];
        assert_eq!(suitable(&links), 1348);
    }
}
