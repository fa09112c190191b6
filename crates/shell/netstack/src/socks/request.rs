//! The bytes of SOCKS5 (RFC 1928).

use std::io;
use std::net::Ipv6Addr;

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const DOMAIN: u8 = 3;
const IPV6: u8 = 4;
/// Version, command, reserved, address type.
const HEAD_LEN: usize = 4;
const PORT_LEN: usize = 2;
/// Their number is one byte.
pub const METHODS_MAX: usize = 255;
/// The longest request: a domain name of 255 bytes.
pub const LEN_MAX: usize = HEAD_LEN + 1 + 255 + PORT_LEN;

/// How many method bytes follow the head of a greeting; `None` if it is no greeting of this version.
pub fn parse_methods(head: [u8; 2]) -> Option<usize> {
    (head[0] == VERSION && head[1] > 0).then_some(usize::from(head[1]))
}

/// Whom a client wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By address.
    Address(Ipv6Addr),
    /// By name.
    Name(String),
}

/// What a client wants: a connection to this port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of whom.
    pub host: Host,
    /// Which.
    pub port: u16,
}

/// What there is so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// That many bytes more are needed to say more.
    Needs(usize),
    /// All of it.
    Request(Request),
    /// What is there already is not served.
    Refused(Refusal),
}

/// Why a request is not served (RFC 1928, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something went wrong here.
    #[error("general failure")]
    Failure,
    /// It names no node of this mesh.
    #[error("no node of this mesh")]
    NotOfThisMesh,
    /// The mesh does not reach it.
    #[error("unreachable")]
    Unreachable,
    /// It refused.
    #[error("refused")]
    Refused,
    /// It did not answer.
    #[error("no answer")]
    TimedOut,
    /// Anything but CONNECT.
    #[error("the command is not supported")]
    Command,
    /// An IPv4 address, or something unknown.
    #[error("the address type is not supported")]
    AddressType,
    /// Not this protocol.
    #[error("malformed")]
    Malformed,
}

impl Refusal {
    /// The one that an error of connecting is.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Failure,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Failure | Self::Malformed => 1,
            // "Connection not allowed by ruleset": this is no way out of the mesh.
            Self::NotOfThisMesh => 2,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::TimedOut => 6,
            Self::Command => 7,
            Self::AddressType => 8,
        }
    }

    /// What the client is told.
    pub const fn reply(self) -> [u8; 10] {
        reply(self.code())
    }
}

/// What a client is told whose connection stands. The bound address means nothing to it, so it is all zeros, as is common.
pub const fn success() -> [u8; 10] {
    reply(0)
}

const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]
}

/// Reads a request as far as it is there.
pub fn parse(bytes: &[u8]) -> Parsed {
    let [version, command, _reserved, kind, rest @ ..] = bytes else { return Parsed::Needs(HEAD_LEN - bytes.len()) };
    if *version != VERSION {
        return Parsed::Refused(Refusal::Malformed);
    }
    let (host_len, host_start) = match (*kind, rest.first()) {
        (IPV4, _) => (4, 0),
        (IPV6, _) => (16, 0),
        (DOMAIN, Some(len)) => (usize::from(*len), 1),
        (DOMAIN, None) => return Parsed::Needs(1),
        _ => return Parsed::Refused(Refusal::AddressType),
    };
    let needed = host_start + host_len + PORT_LEN;
    if rest.len() < needed {
        return Parsed::Needs(needed - rest.len());
    }
    let (host, port) = rest[host_start..needed].split_at(host_len);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let host = match (*kind, <[u8; 16]>::try_from(host), std::str::from_utf8(host)) {
        (IPV6, Ok(octets), _) => Host::Address(Ipv6Addr::from(octets)),
        (DOMAIN, _, Ok(name)) if !name.is_empty() => Host::Name(name.to_owned()),
        (DOMAIN, ..) => return Parsed::Refused(Refusal::Malformed),
        _ => return Parsed::Refused(Refusal::AddressType),
    };
    match (*command, port) {
        (CONNECT, 1..) => Parsed::Request(Request { host, port }),
        (CONNECT, 0) => Parsed::Refused(Refusal::Malformed),
        _ => Parsed::Refused(Refusal::Command),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_name(name: &[u8]) -> Vec<u8> {
        [&[5, 1, 0, 3, name.len() as u8], name, &[0, 80]].concat()
    }

    #[test]
    fn a_request_is_read_whole_however_it_comes() {
        let request = Request { host: Host::Name("beta".to_owned()), port: 80 };
        let bytes = by_name(b"beta");
        assert_eq!(parse(&bytes), Parsed::Request(request.clone()));
        let (mut have, mut rounds) = (0, 0);
        while let Parsed::Needs(count) = parse(&bytes[..have]) {
            assert!(count > 0);
            (have, rounds) = (have + count, rounds + 1);
        }
        assert_eq!((have, rounds), (bytes.len(), 3), "it never asks for more than there will be");

        let address: Ipv6Addr = "fd00::1".parse().unwrap();
        let bytes = [&[5, 1, 0, 4][..], &address.octets(), &[1, 187]].concat();
        assert_eq!(parse(&bytes), Parsed::Request(Request { host: Host::Address(address), port: 443 }));
    }

    #[test]
    fn what_is_not_served_is_refused_with_its_own_code() {
        let mut bind = by_name(b"beta");
        bind[1] = 2;
        let mut udp_associate = by_name(b"beta");
        udp_associate[1] = 3;
        for (bytes, code) in [
            (bind, 7),
            (udp_associate, 7),
            (vec![5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 8),
            (vec![5, 1, 0, 9], 8),
            (vec![4, 1, 0, 80], 1),
            (by_name(b""), 1),
            (by_name(&[0xff, 0xfe]), 1),
        ] {
            let Parsed::Refused(refusal) = parse(&bytes) else { panic!("{bytes:?}") };
            assert_eq!(refusal.reply()[..4], [5, code, 0, 1], "{bytes:?}");
        }
        assert_eq!(parse_methods([4, 1]), None);
        assert_eq!(parse_methods([5, 0]), None);
        assert_eq!(parse_methods([5, 255]), Some(METHODS_MAX));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_ask_for_more_than_a_request_has(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Parsed::Needs(count) = parse(&bytes) {
                assert!(bytes.len() + count <= LEN_MAX);
            }
        }
    }
}
