//! The bytes of SOCKS5 on its connection (RFC 1928, 3 to 6).

use std::io;
use std::net::SocketAddr;

use super::place::{self, Host, Place};

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const UDP_ASSOCIATE: u8 = 3;
/// Version, command, reserved.
const HEAD_LEN: usize = 3;
/// Their number is one byte.
pub const METHODS_MAX: usize = 255;
/// The longest request: a domain name of 255 bytes.
pub const LEN_MAX: usize = HEAD_LEN + place::LEN_MAX;

/// How many method bytes follow the head of a greeting; `None` if it is no greeting of this version.
pub fn parse_methods(head: [u8; 2]) -> Option<usize> {
    (head[0] == VERSION && head[1] > 0).then_some(usize::from(head[1]))
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A connection to this port, which is not 0.
    Connect(Place),
    /// To send datagrams. It says from where, or does not know yet, and then the address or the port is zero.
    Associate(Place),
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
    /// Neither CONNECT nor UDP ASSOCIATE.
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

/// What a client is told that may send datagrams to `relay` from now on.
pub fn associated(relay: SocketAddr) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0];
    place::encode(relay, &mut out);
    out
}

const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, place::IPV4, 0, 0, 0, 0, 0, 0]
}

/// Reads a request as far as it is there.
pub fn parse(bytes: &[u8]) -> Parsed {
    let [version, command, _reserved, rest @ ..] = bytes else {
        // The place is no shorter than its kind.
        return Parsed::Needs(HEAD_LEN + 1 - bytes.len());
    };
    if *version != VERSION {
        return Parsed::Refused(Refusal::Malformed);
    }
    let place = match place::parse(rest) {
        place::Parsed::Needs(count) => return Parsed::Needs(count),
        place::Parsed::Malformed => return Parsed::Refused(Refusal::Malformed),
        place::Parsed::UnknownKind => return Parsed::Refused(Refusal::AddressType),
        place::Parsed::Place(place, _) => place,
    };
    match (*command, &place) {
        // An overlay address is never one of IPv4.
        (CONNECT, Place { host: Host::V4(_), .. }) => Parsed::Refused(Refusal::AddressType),
        (CONNECT, Place { port: 0, .. }) => Parsed::Refused(Refusal::Malformed),
        (CONNECT, _) => Parsed::Request(Request::Connect(place)),
        (UDP_ASSOCIATE, _) => Parsed::Request(Request::Associate(place)),
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
        let beta = Place { host: Host::Name("beta".to_owned()), port: 80 };
        let mut bytes = by_name(b"beta");
        assert_eq!(parse(&bytes), Parsed::Request(Request::Connect(beta.clone())));
        let (mut have, mut rounds) = (0, 0);
        while let Parsed::Needs(count) = parse(&bytes[..have]) {
            assert!(count > 0);
            (have, rounds) = (have + count, rounds + 1);
        }
        assert_eq!((have, rounds), (bytes.len(), 3), "it never asks for more than there will be");
        bytes[1] = UDP_ASSOCIATE;
        assert_eq!(parse(&bytes), Parsed::Request(Request::Associate(beta)));

        let address: std::net::Ipv6Addr = "fd00::1".parse().unwrap();
        let bytes = [&[5, 1, 0, 4][..], &address.octets(), &[1, 187]].concat();
        let place = Place { host: Host::V6(address), port: 443 };
        assert_eq!(parse(&bytes), Parsed::Request(Request::Connect(place)));
        let nowhere = Place { host: Host::V4([0; 4].into()), port: 0 };
        assert_eq!(parse(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), Parsed::Request(Request::Associate(nowhere)));
    }

    #[test]
    fn what_is_not_served_is_refused_with_its_own_code() {
        let mut bind = by_name(b"beta");
        bind[1] = 2;
        for (bytes, code) in [
            (bind, 7),
            (vec![5, 1, 0, 1, 127, 0, 0, 1, 0, 80], 8),
            (vec![5, 1, 0, 9], 8),
            (vec![5, 3, 0, 9], 8),
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

    #[test]
    fn a_client_is_told_where_to_send_its_datagrams() {
        assert_eq!(associated("127.0.0.1:258".parse().unwrap()), [5, 0, 0, 1, 127, 0, 0, 1, 1, 2]);
        let over_v6 = associated("[::1]:258".parse().unwrap());
        assert_eq!((over_v6.len(), &over_v6[..4], &over_v6[19..]), (22, &[5, 0, 0, 4][..], &[1, 1, 2][..]));
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
