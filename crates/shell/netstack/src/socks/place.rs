//! How SOCKS5 writes whom something is for: kind, address or name, port (RFC 1928, 5). The same in requests and in front of datagrams.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use x0t_model::TrustDomain;

use crate::names::{NameError, address_of};

/// The kind of an IPv4 address.
pub const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;
const PORT_LEN: usize = 2;
/// The longest: kind, length, a name of 255 bytes, port.
pub const LEN_MAX: usize = 1 + 1 + 255 + PORT_LEN;

/// A host as a client writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By IPv4 address; no node has one.
    V4(Ipv4Addr),
    /// By IPv6 address.
    V6(Ipv6Addr),
    /// By name, never empty.
    Name(String),
}

/// A port of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of whom.
    pub host: Host,
    /// Which; may be 0.
    pub port: u16,
}

/// What there is so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// That many bytes more are needed to say more.
    Needs(usize),
    /// All of it, and its length in bytes.
    Place(Place, usize),
    /// A kind of address that RFC 1928 does not know.
    UnknownKind,
    /// No name, or not one of characters.
    Malformed,
}

/// Reads a place from the beginning of `bytes`, as far as it is there.
pub fn parse(bytes: &[u8]) -> Parsed {
    let (host_start, host_len) = match bytes {
        [] => return Parsed::Needs(1),
        [IPV4, ..] => (1, 4),
        [IPV6, ..] => (1, 16),
        [DOMAIN] => return Parsed::Needs(1),
        [DOMAIN, len, ..] => (2, usize::from(*len)),
        _ => return Parsed::UnknownKind,
    };
    let len = host_start + host_len + PORT_LEN;
    let Some((host, port)) = bytes.get(host_start..len).and_then(|rest| rest.split_last_chunk::<PORT_LEN>()) else {
        return Parsed::Needs(len - bytes.len());
    };
    let host = match (bytes[0], <[u8; 4]>::try_from(host), <[u8; 16]>::try_from(host), std::str::from_utf8(host)) {
        (IPV4, Ok(octets), ..) => Host::V4(octets.into()),
        (IPV6, _, Ok(octets), _) => Host::V6(octets.into()),
        (DOMAIN, .., Ok(name)) if !name.is_empty() => Host::Name(name.to_owned()),
        _ => return Parsed::Malformed,
    };
    Parsed::Place(Place { host, port: u16::from_be_bytes(*port) }, len)
}

/// Writes an address as a place.
pub fn encode(address: SocketAddr, out: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => {
            out.push(IPV4);
            out.extend_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out.push(IPV6);
            out.extend_from_slice(&v6.ip().octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

impl Place {
    /// Where in the mesh it is.
    ///
    /// # Errors
    /// If it is not of this mesh. Whether there is such a node shows when something is sent there.
    pub fn in_mesh(&self, trust_domain: &TrustDomain) -> Result<SocketAddrV6, NameError> {
        let address = match &self.host {
            Host::V4(address) => Err(NameError::Foreign(address.to_ipv6_mapped())),
            Host::V6(address) => address_of(&address.to_string(), trust_domain),
            Host::Name(name) => address_of(name, trust_domain),
        };
        Ok(SocketAddrV6::new(address?, self.port, 0, 0))
    }
}
