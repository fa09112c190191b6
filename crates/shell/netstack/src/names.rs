//! From what a node is called to its overlay address. Nobody needs to be asked: the address is a hash of the identity.

use std::net::Ipv6Addr;

use x0t_model::{NodeId, OverlayPrefix, SpiffeId, TrustDomain, overlay_address};

/// Why something names no node of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An address outside of the mesh.
    #[error("{0} is no address of this mesh")]
    Foreign(Ipv6Addr),
    /// Another mesh.
    #[error("`{0}` is no node of this mesh")]
    OtherMesh(String),
    /// No name at all.
    #[error("`{0}` names no node")]
    NoName(String),
}

/// The overlay address of `node`: its name, with or without the trust domain behind it; its SPIFFE ID; or the address itself.
///
/// # Errors
/// If it is none of these, or belongs to another mesh. Whether there is such a node shows when it is connected to.
pub fn address_of(node: &str, trust_domain: &TrustDomain) -> Result<Ipv6Addr, NameError> {
    if let Ok(address) = node.parse::<Ipv6Addr>() {
        let ours = OverlayPrefix::of(trust_domain).contains(address);
        return if ours { Ok(address) } else { Err(NameError::Foreign(address)) };
    }
    let id = if node.starts_with("spiffe://") {
        let id: SpiffeId = node.parse().map_err(|_| NameError::NoName(node.to_owned()))?;
        if id.trust_domain() != trust_domain {
            return Err(NameError::OtherMesh(node.to_owned()));
        }
        id
    } else {
        // As a host name it may come in capitals and with a final dot (RFC 1035, 2.3.3 and 3.1).
        let name = node.strip_suffix('.').unwrap_or(node).to_ascii_lowercase();
        let short = name.strip_suffix(trust_domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
        SpiffeId::node(trust_domain, short.unwrap_or(&name)).map_err(|_| NameError::NoName(node.to_owned()))?
    };
    Ok(overlay_address(trust_domain, NodeId::of(&id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_a_node_mean_the_same_address() {
        let domain: TrustDomain = "mesh.test".parse().unwrap();
        let address = address_of("beta", &domain).unwrap();
        for name in ["BETA", "beta.mesh.test", "Beta.Mesh.Test.", "spiffe://mesh.test/node/beta", &address.to_string()]
        {
            assert_eq!(address_of(name, &domain), Ok(address), "{name}");
        }
        assert_ne!(address_of("beta.prod", &domain).unwrap(), address, "a name may have dots of its own");
    }

    #[test]
    fn what_is_not_of_this_mesh_is_refused() {
        let domain: TrustDomain = "mesh.test".parse().unwrap();
        for name in
            ["", ".", ".mesh.test", "a b", "a/b", "spiffe://other.test/node/beta", "spiffe://", "2001:db8::1", "::1"]
        {
            assert!(address_of(name, &domain).is_err(), "{name}");
        }
    }
}
