//! What is forwarded and exposed, as people write it and as the settings keep it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The protocol that a text begins with, and the rest: `udp/53` is UDP, `tcp/53` and `53` are TCP.
    fn strip(text: &str) -> (Self, &str) {
        match text.split_once('/') {
            Some(("udp", rest)) => (Self::Udp, rest),
            Some(("tcp", rest)) => (Self::Tcp, rest),
            _ => (Self::Tcp, text),
        }
    }

    /// What is put in front of a port.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Tcp => "",
            Self::Udp => "udp/",
        }
    }
}

/// What a forward listens on: `ADDRESS:PORT`, or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// An address; port 0 lets the system choose. Every user of the host can connect to one of loopback.
    Address(SocketAddr),
    /// A Unix socket, to which only the user that the node runs as can connect.
    Unix(PathBuf),
}

/// What a path to a Unix socket is written behind.
const UNIX_SCHEME: &str = "unix:";
/// The longest path that the kernel takes (unix(7): 108 with the final zero).
const UNIX_PATH_MAX: usize = 107;

impl Listen {
    /// The Unix socket that `path` names.
    fn unix(path: &str) -> Result<Self, String> {
        let is_sane = Path::new(path).is_absolute() && path.len() <= UNIX_PATH_MAX && !path.ends_with('/');
        if is_sane && !path.contains('\0') {
            Ok(Self::Unix(path.into()))
        } else {
            Err(format!("a Unix socket has an absolute path of at most {UNIX_PATH_MAX} bytes, as in unix:/run/db.sock"))
        }
    }

    /// The address, unless it is a Unix socket.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(UNIX_SCHEME) {
            Some(path) => Self::unix(path),
            None => text.parse().map(Self::Address).map_err(|_| format!("`{text}` is no address with a port")),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_SCHEME}{}", path.display()),
        }
    }
}

/// Where a forward is reached on this host: `[tcp/|udp/][ADDRESS:]PORT`, on the loopback address unless another is given; or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Local {
    /// Of which protocol.
    pub protocol: Protocol,
    /// Where to listen.
    pub listen: Listen,
}

impl FromStr for Local {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(UNIX_SCHEME) {
            return Ok(Self { protocol: Protocol::Tcp, listen: text.parse()? });
        }
        let (protocol, rest) = Protocol::strip(text);
        let listen = rest.parse().ok().or_else(|| {
            let port = rest.parse().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        });
        let listen = listen.ok_or("it looks like 8080, 127.0.0.1:8080, [::1]:8080, udp/5353 or unix:/run/db.sock")?;
        Ok(Self { protocol, listen: listen.into() })
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.protocol.prefix(), self.listen)
    }
}

/// A port of a node: `NODE:PORT`. What NODE means is decided where the mesh is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    /// A node's name, with or without its trust domain; its SPIFFE ID; or its overlay address.
    pub node: String,
    /// Never 0.
    pub port: u16,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "it looks like NODE:PORT or [ADDRESS]:PORT";
        let (node, port) = text.rsplit_once(':').ok_or(SHAPE)?;
        let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // A colon without brackets could be the address's own.
        let is_sane = !node.is_empty() && (bare.is_some() || !node.contains(':') || node.starts_with("spiffe://"));
        let port = port.parse().ok().filter(|port| *port != 0 && is_sane).ok_or(SHAPE)?;
        Ok(Self { node: bare.unwrap_or(node).to_owned(), port })
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_address = self.node.contains(':') && !self.node.contains('/');
        if is_address { write!(f, "[{}]:{}", self.node, self.port) } else { write!(f, "{}:{}", self.node, self.port) }
    }
}

/// Whatever connects to a local address reaches a port of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where to listen on this host.
    pub listen: Listen,
    /// What is reached there.
    pub to: Destination,
}

impl Forward {
    /// Where it is reached on this host.
    pub fn local(&self) -> Local {
        Local { protocol: self.protocol, listen: self.listen.clone() }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local(), self.to)
    }
}

/// A port of this node's overlay address: `[tcp/|udp/]PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeshPort {
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Never 0.
    pub port: u16,
}

impl FromStr for MeshPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, rest) = Protocol::strip(text);
        let port = rest.parse().ok().filter(|port| *port != 0).ok_or("it looks like 80 or udp/53")?;
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for MeshPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.protocol.prefix(), self.port)
    }
}

/// A port of this node that other nodes may reach, and the local port that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exposure {
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port in the mesh.
    pub port: u16,
    /// The port on 127.0.0.1.
    pub to: u16,
    /// The nodes that may use it; all of the mesh if empty. Named as in [`Destination`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

impl Exposure {
    /// The port in the mesh.
    pub const fn mesh_port(&self) -> MeshPort {
        MeshPort { protocol: self.protocol, port: self.port }
    }
}

impl FromStr for Exposure {
    type Err = String;

    /// `[tcp/|udp/]PORT[:LOCALPORT]`; the same port on this host unless another is given.
    fn from_str(text: &str) -> Result<Self, String> {
        let (port, to) = text.split_once(':').map_or((text, None), |(port, to)| (port, Some(to)));
        let MeshPort { protocol, port } = port.parse()?;
        let to = to.map_or(Some(port), |to| to.parse().ok().filter(|to| *to != 0));
        let to = to.ok_or("it looks like 80, 80:8080 or udp/53")?;
        Ok(Self { protocol, port, to, from: Vec::new() })
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> 127.0.0.1:{}", self.mesh_port(), self.to)?;
        if self.from.is_empty() { Ok(()) } else { write!(f, " for {}", self.from.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_end_is_on_the_loopback_address_unless_another_is_given() {
        for (text, means) in [
            ("8080", "127.0.0.1:8080"),
            ("tcp/8080", "127.0.0.1:8080"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
            ("udp/53", "udp/127.0.0.1:53"),
            ("udp/[::]:0", "udp/[::]:0"),
            ("unix:/run/db.sock", "unix:/run/db.sock"),
        ] {
            assert_eq!(text.parse::<Local>().unwrap().to_string(), means);
        }
        let too_long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        let no_sockets = ["unix:", "unix:db.sock", "unix:/", "unix:/run/", "udp/unix:/run/db.sock", &too_long];
        for text in ["", "x", "70000", "localhost:80", "icmp/1", "127.0.0.1", "80:90"].into_iter().chain(no_sockets) {
            assert!(text.parse::<Local>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_destination_is_read_as_it_is_written() {
        for text in ["beta:22", "beta.mesh.test:22", "[fd00::1]:22", "spiffe://mesh.test/node/beta:22"] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!((destination.port, destination.to_string().as_str()), (22, text));
            let json = serde_json_round_trip(&destination);
            assert_eq!(json, destination);
        }
        for text in ["beta", "beta:0", ":22", "beta:x", "fd00::1:22", "[fd00::1]", ""] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    fn serde_json_round_trip(destination: &Destination) -> Destination {
        Destination::try_from(String::from(destination.clone())).unwrap()
    }

    #[test]
    fn an_exposure_keeps_its_port_unless_another_is_given() {
        let exposure: Exposure = "80".parse().unwrap();
        assert_eq!((exposure.protocol, exposure.port, exposure.to), (Protocol::Tcp, 80, 80));
        let exposure: Exposure = "udp/53:5353".parse().unwrap();
        assert_eq!((exposure.mesh_port().to_string().as_str(), exposure.to), ("udp/53", 5353));
        for text in ["0", "80:0", "80:", ":80", "x", "127.0.0.1:80:1"] {
            assert!(text.parse::<Exposure>().is_err(), "{text}");
        }
    }
}
