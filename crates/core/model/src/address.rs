//! Where a node is found inside the mesh.

use std::net::Ipv6Addr;

use crate::{NodeId, TrustDomain};

/// The /48 that every node of one trust domain shares: `fd` and 40 bits of a hash of the trust domain (RFC 4193 asks for a
/// pseudo-random global id; the hash is ours, so that every member derives the same one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayPrefix([u8; 6]);

impl OverlayPrefix {
    /// Bits of prefix.
    pub const BITS: u8 = 48;

    /// The prefix of `trust_domain`.
    pub fn of(trust_domain: &TrustDomain) -> Self {
        let hash = blake3::derive_key("x0tta6bl4 2026-11 overlay prefix", trust_domain.as_str().as_bytes());
        Self([0xfd, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }

    /// The address of `node`: the prefix and the first 80 bits of its id.
    pub fn address(self, node: NodeId) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[6..].copy_from_slice(&node.as_bytes()[..10]);
        Ipv6Addr::from(octets)
    }

    /// The network itself, host bits zero.
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        Ipv6Addr::from(octets)
    }

    /// Whether `address` lies in this trust domain's network.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.octets()[..6] == self.0
    }
}

/// The overlay address of `node` in `trust_domain`. Never changes while the SPIFFE ID stays the same.
pub fn overlay_address(trust_domain: &TrustDomain, node: NodeId) -> Ipv6Addr {
    OverlayPrefix::of(trust_domain).address(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_unique_local_and_lies_in_its_prefix() {
        let domain: TrustDomain = "mesh.test".parse().unwrap();
        let prefix = OverlayPrefix::of(&domain);
        let node = NodeId::from_bytes([0xab; 16]);
        let address = overlay_address(&domain, node);
        assert_eq!(address.octets()[0], 0xfd);
        assert!(prefix.contains(address));
        assert!(prefix.contains(prefix.network()));
        assert!(!OverlayPrefix::of(&"other.test".parse().unwrap()).contains(address));
        assert_eq!(&address.octets()[6..], &[0xab; 10]);
    }
}
