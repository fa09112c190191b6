//! Where a Workload API is: the address in `SPIFFE_ENDPOINT_SOCKET` (SPIFFE Workload Endpoint, section 4).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The environment variable that names the endpoint, where nothing else does.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Bytes of a socket's path (unix(7)), without the terminating zero.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Why a text is no address of a Workload API (checklist WC-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `unix` nor `tcp`.
    #[error("the endpoint's scheme is not unix or tcp: unix:///run/x0t/workload.sock, tcp://127.0.0.1:8000")]
    Scheme,
    /// `unix://host/path`.
    #[error("a unix endpoint has no host: unix:///PATH")]
    Host,
    /// Empty, relative, or no file.
    #[error("a unix endpoint needs the absolute path of a socket: unix:///PATH")]
    Path,
    /// Longer than a socket's path can be.
    #[error("the path has {0} bytes, a socket's path has at most {max}", max = SOCKET_PATH_LEN_MAX)]
    PathTooLong(usize),
    /// `%` without two hexadecimal digits, or what they stand for is not text.
    #[error("the path has a '%' that is not followed by two hexadecimal digits of a text")]
    Escape,
    /// A name instead of an address, no port, or something behind it.
    #[error("a tcp endpoint is an IP address and a port, and nothing else: tcp://127.0.0.1:8000")]
    Address,
    /// `?` or `#`.
    #[error("an endpoint has no query and no fragment")]
    QueryOrFragment,
}

/// Where a Workload API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port, usually of this host.
    Tcp(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').ok_or(EndpointError::Scheme)?;
        if rest.contains(['?', '#']) {
            return Err(EndpointError::QueryOrFragment);
        }
        // RFC 3986, 3.1: schemes are case-insensitive.
        match scheme.to_ascii_lowercase().as_str() {
            "unix" => unix(rest),
            "tcp" => tcp(rest.strip_prefix("//").ok_or(EndpointError::Address)?),
            _ => Err(EndpointError::Scheme),
        }
    }
}

fn unix(rest: &str) -> Result<Endpoint, EndpointError> {
    let path = match rest.strip_prefix("//") {
        Some("") => return Err(EndpointError::Path),
        Some(path) if !path.starts_with('/') => return Err(EndpointError::Host),
        Some(path) => path,
        None => rest,
    };
    let path = unescaped(path)?;
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(EndpointError::Path);
    }
    if path.len() > SOCKET_PATH_LEN_MAX {
        return Err(EndpointError::PathTooLong(path.len()));
    }
    Ok(Endpoint::Unix(path.into()))
}

fn tcp(address: &str) -> Result<Endpoint, EndpointError> {
    let (host, port) = address.rsplit_once(':').ok_or(EndpointError::Address)?;
    // Parsing a number takes a sign, which a port has not.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EndpointError::Address);
    }
    let port: u16 = port.parse().map_err(|_| EndpointError::Address)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    match host {
        Ok(host) if port > 0 => Ok(Endpoint::Tcp(SocketAddr::new(host, port))),
        _ => Err(EndpointError::Address),
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
fn unescaped(text: &str) -> Result<String, EndpointError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(EndpointError::Escape)?;
        rest = tail;
        let byte = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).map_err(|_| EndpointError::Escape)?;
        bytes.extend(byte);
    }
    String::from_utf8(bytes).map_err(|_| EndpointError::Escape)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> EndpointError {
        text.parse::<Endpoint>().expect_err(text)
    }

    #[test]
    fn wc_1_absolute_paths_and_addresses_with_a_port_are_endpoints() {
        for text in ["unix:///run/w.sock", "unix:/run/w.sock", "UNIX:///run/w.sock", "unix:///run/%77.sock"] {
            assert_eq!(text.parse(), Ok(Endpoint::Unix("/run/w.sock".into())), "{text}");
        }
        assert_eq!("tcp://127.0.0.1:8000".parse(), Ok(Endpoint::Tcp("127.0.0.1:8000".parse().unwrap())));
        assert_eq!("tcp://[::1]:8000".parse(), Ok(Endpoint::Tcp("[::1]:8000".parse().unwrap())));
    }

    #[test]
    fn wc_1_everything_else_is_refused() {
        for text in ["", "/run/w.sock", "http://127.0.0.1:8000", "unixs:///a", ":///a", "uds:///a"] {
            assert_eq!(refused(text), EndpointError::Scheme, "{text}");
        }
        for text in ["unix://host/run/w.sock", "unix://run/w.sock", "unix://user@/a"] {
            assert_eq!(refused(text), EndpointError::Host, "{text}");
        }
        for text in ["unix:", "unix://", "unix:run/w.sock", "unix:///", "unix:/", "unix:///run/", "unix:///a%00b"] {
            assert_eq!(refused(text), EndpointError::Path, "{text}");
        }
        for text in ["unix:///a?b", "unix:///a#b", "unix:///a?", "tcp://127.0.0.1:1?a", "tcp://127.0.0.1:1#"] {
            assert_eq!(refused(text), EndpointError::QueryOrFragment, "{text}");
        }
        for text in ["unix:///%", "unix:///%4", "unix:///%zz", "unix:///%+1", "unix:///%ff"] {
            assert_eq!(refused(text), EndpointError::Escape, "{text}");
        }
        assert_eq!(refused(&format!("unix:///{}", "a".repeat(107))), EndpointError::PathTooLong(108));
        for text in [
            "tcp:127.0.0.1:8000",
            "tcp://localhost:8000",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:",
            "tcp://127.0.0.1:0",
            "tcp://127.0.0.1:+80",
            "tcp://127.0.0.1:65536",
            "tcp://127.0.0.1:8000/",
            "tcp://127.0.0.1:8000/path",
            "tcp://user@127.0.0.1:8000",
            "tcp://::1:8000",
            "tcp://[127.0.0.1]:8000",
            "tcp://:8000",
        ] {
            assert_eq!(refused(text), EndpointError::Address, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(unix|tcp)?:?/{0,3}\\PC{0,40}") {
            drop(text.parse::<Endpoint>());
        }
    }
}
