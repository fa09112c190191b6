//! Where packets go outside the mesh: an address, and what carries datagrams to it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What people write before an address that is reached over TLS.
const TLS_SCHEME: &str = "tls://";

/// A place on the underlay.
///
/// Written as `192.0.2.1:4600` for UDP and `tls://192.0.2.1:443` for TLS over TCP. The same host may be reached by both, and
/// that is two places: what is open, what it costs and how large a packet may be differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Underlay {
    /// Datagrams.
    Udp(SocketAddr),
    /// Datagrams one after another in a TLS connection, for networks that let nothing else pass.
    Tls(SocketAddr),
}

impl Underlay {
    /// The address, whatever carries packets to it.
    pub const fn address(self) -> SocketAddr {
        match self {
            Self::Udp(address) | Self::Tls(address) => address,
        }
    }

    /// The word for what carries packets there: `udp` or `tls`.
    pub const fn transport(self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Tls(_) => "tls",
        }
    }

    /// The address, if plain datagrams go there.
    pub const fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Tls(_) => None,
        }
    }
}

impl From<SocketAddr> for Underlay {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Tls(address) => write!(f, "{TLS_SCHEME}{address}"),
        }
    }
}

impl FromStr for Underlay {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(TLS_SCHEME) {
            Some(address) => address.parse().map(Self::Tls),
            None => text.parse().map(Self::Udp),
        }
    }
}

impl Serialize for Underlay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Underlay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom(format!("`{text}` is no underlay address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underlay_address_reads_as_it_was_written() {
        for text in ["192.0.2.1:4600", "[2001:db8::1]:4600", "tls://192.0.2.1:443", "tls://[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Underlay>().unwrap().to_string(), text);
        }
        for wrong in ["", "tls://", "tls://host", "192.0.2.1", "quic://192.0.2.1:443", "TLS://192.0.2.1:443"] {
            assert!(wrong.parse::<Underlay>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_address_by_another_transport_is_another_place() {
        let address: SocketAddr = "192.0.2.1:443".parse().unwrap();
        assert_ne!(Underlay::Udp(address), Underlay::Tls(address));
        assert_eq!(Underlay::Udp(address).address(), Underlay::Tls(address).address());
        assert_eq!((Underlay::from(address).udp(), Underlay::Tls(address).udp()), (Some(address), None));
        assert_eq!((Underlay::Udp(address).transport(), Underlay::Tls(address).transport()), ("udp", "tls"));
    }
}
