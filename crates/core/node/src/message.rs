//! What nodes say to each other inside sessions, beside routing: one kind byte, then the fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use x0t_model::{DecodeError, Reader, Underlay, Writer};

use crate::punch::Rendezvous;

use crate::pieces::Piece;

/// The longest IPv6 packet carried: as much as an Ethernet jumbo frame holds. What a path carries in one piece is another matter.
pub const PACKET_LEN_MAX: usize = 9000;
/// The longest join packet that is relayed.
const JOIN_PACKET_LEN_MAX: usize = 1280;
/// The most padding a ping asks to be echoed.
pub const PING_PADDING_MAX: usize = 1200;

/// The longest window of a receipt, in bytes: 1,024 packets.
const RECEIPT_WINDOW_MAX: usize = 128;

/// First byte of [`EndDatagram::Packet`].
pub(crate) const PACKET: u8 = 1;
/// First byte of [`EndDatagram::Unsummed`].
pub(crate) const UNSUMMED: u8 = 6;
/// First byte of [`EndDatagram::Piece`].
pub(crate) const PIECE: u8 = 9;
/// Bytes in front of what a piece holds.
pub(crate) const PIECE_FRONT: usize = 6;
/// Marks the last piece, in the byte of its index.
const LAST_PIECE: u8 = 0x80;
/// First byte of [`EndDatagram::Receipt`].
pub(crate) const RECEIPT: u8 = 7;
/// First byte of [`EndDatagram::Probe`].
pub(crate) const PROBE: u8 = 8;
/// First byte of [`EndDatagram::Rendezvous`].
const RENDEZVOUS: u8 = 16;

/// A datagram of an end-to-end session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndDatagram<'a> {
    /// An IPv6 packet between the two hosts.
    Packet(&'a [u8]),
    /// The same, with a TCP or UDP checksum that holds the sum of the pseudo-header only. The seal around it vouches for its bytes;
    /// whoever needs the checksum finishes it.
    Unsummed(&'a [u8]),
    /// Asks for a [`Self::Pong`] with the same number and padding.
    Ping {
        /// Chosen by the asker.
        number: u64,
        /// Echoed.
        padding: &'a [u8],
    },
    /// Answers a [`Self::Ping`].
    Pong {
        /// The asker's number.
        number: u64,
        /// The asker's padding.
        padding: &'a [u8],
    },
    /// Member to authority: a joiner at `remote` sent this packet of a join session. The member cannot read it.
    JoinInbound {
        /// Where the joiner is, as the member sees it.
        remote: Underlay,
        /// The packet.
        packet: &'a [u8],
    },
    /// Authority to member: send this packet of a join session to `remote`.
    JoinOutbound {
        /// Where the joiner is, as the member saw it.
        remote: Underlay,
        /// The packet.
        packet: &'a [u8],
    },
    /// A piece of any other datagram, which is longer than what the path carries.
    Piece(Piece<'a>),
    /// Which packets of this session have come. Answers nothing and is answered by nothing.
    Receipt {
        /// The newest number.
        highest: u64,
        /// How many microseconds ago it came.
        held_micros: u32,
        /// Words of eight bytes; bit `i` of them all stands for packet `highest - i`, the lowest bit of the first word being bit 0.
        window: &'a [u8],
    },
    /// Asks for a [`Self::Receipt`] at once.
    Probe {
        /// Makes the packet as long as those that it stands for.
        padding: &'a [u8],
    },
    /// Where the sender may be reached without relays: an encoded [`crate::punch::Rendezvous`].
    Rendezvous(&'a [u8]),
}

impl<'a> EndDatagram<'a> {
    /// Appends the datagram to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match *self {
            Self::Packet(packet) => writer.u8(PACKET).bytes(packet),
            Self::Unsummed(packet) => writer.u8(UNSUMMED).bytes(packet),
            Self::Ping { number, padding } => writer.u8(2).u64(number).bytes(padding),
            Self::Pong { number, padding } => writer.u8(3).u64(number).bytes(padding),
            Self::JoinInbound { remote, packet } => encode_place(writer.u8(4), remote).bytes(packet),
            Self::JoinOutbound { remote, packet } => encode_place(writer.u8(5), remote).bytes(packet),
            Self::Piece(piece) => writer.bytes(&piece_front(&piece)).bytes(piece.bytes),
            Self::Receipt { highest, held_micros, window } => {
                writer.u8(RECEIPT).u64(highest).u32(held_micros).bytes(window)
            }
            Self::Probe { padding } => writer.u8(PROBE).bytes(padding),
            Self::Rendezvous(rendezvous) => writer.u8(RENDEZVOUS).bytes(rendezvous),
        };
    }

    /// Reads a whole datagram.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            PACKET => Ok(Self::Packet(bounded("packet", reader.rest(), PACKET_LEN_MAX)?)),
            UNSUMMED => Ok(Self::Unsummed(bounded("packet", reader.rest(), PACKET_LEN_MAX)?)),
            2 => Ok(Self::Ping {
                number: reader.u64()?,
                padding: bounded("ping padding", reader.rest(), PING_PADDING_MAX)?,
            }),
            3 => Ok(Self::Pong {
                number: reader.u64()?,
                padding: bounded("pong padding", reader.rest(), PING_PADDING_MAX)?,
            }),
            4 => Ok(Self::JoinInbound {
                remote: decode_place(&mut reader)?,
                packet: bounded("join packet", reader.rest(), JOIN_PACKET_LEN_MAX)?,
            }),
            5 => Ok(Self::JoinOutbound {
                remote: decode_place(&mut reader)?,
                packet: bounded("join packet", reader.rest(), JOIN_PACKET_LEN_MAX)?,
            }),
            PIECE => {
                let (id, place) = (reader.u32()?, reader.u8()?);
                let bytes = bounded("piece", reader.rest(), PACKET_LEN_MAX)?;
                Ok(Self::Piece(Piece { id, index: place & !LAST_PIECE, last: place & LAST_PIECE != 0, bytes }))
            }
            RECEIPT => Ok(Self::Receipt {
                highest: reader.u64()?,
                held_micros: reader.u32()?,
                window: whole_words(bounded("receipt window", reader.rest(), RECEIPT_WINDOW_MAX)?)?,
            }),
            PROBE => Ok(Self::Probe { padding: bounded("probe padding", reader.rest(), PING_PADDING_MAX)? }),
            RENDEZVOUS => Ok(Self::Rendezvous(bounded("rendezvous", reader.rest(), Rendezvous::LEN_MAX)?)),
            kind => Err(DecodeError::Invalid { field: "end-to-end datagram kind", value: kind.into() }),
        }
    }
}

/// What stands in front of the bytes of a piece: kind, number of the datagram, place.
pub(crate) fn piece_front(piece: &Piece<'_>) -> [u8; PIECE_FRONT] {
    let [a, b, c, d] = piece.id.to_be_bytes();
    let place = piece.index & !LAST_PIECE | if piece.last { LAST_PIECE } else { 0 };
    [PIECE, a, b, c, d, place]
}

/// What a neighbour says in its link session beside routing. It has the shape of a routing message, type and length first, so
/// that a node which does not know it passes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMessage {
    /// The receiver is seen at this address (as in draft-ietf-quic-address-discovery).
    Observed(SocketAddr),
}

impl LinkMessage {
    /// The first byte of [`Self::Observed`]; routing has the types below 0x40.
    const OBSERVED: u8 = 0x40;

    /// Whether `bytes` are a message of this kind, and not of routing.
    pub fn is_meant(bytes: &[u8]) -> bool {
        bytes.first() == Some(&Self::OBSERVED)
    }

    /// Appends the message to `out`.
    pub fn encode(self, out: &mut Vec<u8>) {
        let Self::Observed(address) = self;
        let len = if address.is_ipv4() { 7 } else { 19 };
        encode_address(Writer::new(out).u8(Self::OBSERVED).u16(len), address);
    }

    /// Reads a whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        if kind != Self::OBSERVED {
            return Err(DecodeError::Invalid { field: "link message kind", value: kind.into() });
        }
        let mut body = Reader::new(reader.prefixed("link message", 19)?);
        reader.finish()?;
        let address = decode_address(&mut body)?;
        body.finish()?;
        Ok(Self::Observed(address))
    }
}

/// What a node tells its peer about itself inside the handshake, so that it is authenticated with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Version of everything said inside sessions.
    pub version: u8,
    /// Changes whenever the node loses its memory: the peer then forgets what it learned from the earlier one.
    pub incarnation: u64,
}

impl Parameters {
    /// The version this code speaks.
    pub const VERSION: u8 = 1;

    /// The bytes for the handshake.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9);
        Writer::new(&mut out).u8(self.version).u64(self.incarnation);
        out
    }

    /// Reads the peer's. Bytes behind the known fields belong to newer versions and are passed over.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version == 0 {
            return Err(DecodeError::Invalid { field: "parameters version", value: 0 });
        }
        Ok(Self { version, incarnation: reader.u64()? })
    }
}

/// A trace probe or its reply: the asker's number, and for a reply the answering node's distance in hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Chosen by the asker.
    pub number: u64,
    /// How many hops the probe was allowed.
    pub ttl: u8,
}

impl Trace {
    /// Appends the message to `out`.
    pub fn encode(self, out: &mut Vec<u8>) {
        Writer::new(out).u64(self.number).u8(self.ttl);
    }

    /// Reads a whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let trace = Self { number: reader.u64()?, ttl: reader.u8()? };
        reader.finish().map(|()| trace)
    }
}

fn bounded<'a>(field: &'static str, bytes: &'a [u8], limit: usize) -> Result<&'a [u8], DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { field, value: bytes.len(), limit });
    }
    Ok(bytes)
}

fn whole_words(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    if !bytes.len().is_multiple_of(8) {
        return Err(DecodeError::Invalid { field: "bytes of a receipt's window", value: bytes.len() as u64 });
    }
    Ok(bytes)
}

/// Added to the address family of a place that is reached over TLS.
const OVER_TLS: u8 = 0x10;

fn encode_place<'w, 'o>(writer: &'w mut Writer<'o>, place: Underlay) -> &'w mut Writer<'o> {
    let transport = if place.udp().is_some() { 0 } else { OVER_TLS };
    encode_family(writer, transport, place.address())
}

fn decode_place(reader: &mut Reader<'_>) -> Result<Underlay, DecodeError> {
    let family = reader.u8()?;
    let address = decode_family(family & !OVER_TLS, reader)?;
    Ok(if family & OVER_TLS == 0 { Underlay::Udp(address) } else { Underlay::Tls(address) })
}

pub(crate) fn encode_address<'w, 'o>(writer: &'w mut Writer<'o>, address: SocketAddr) -> &'w mut Writer<'o> {
    encode_family(writer, 0, address)
}

pub(crate) fn decode_address(reader: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let family = reader.u8()?;
    decode_family(family, reader)
}

fn encode_family<'w, 'o>(writer: &'w mut Writer<'o>, transport: u8, address: SocketAddr) -> &'w mut Writer<'o> {
    match address.ip() {
        IpAddr::V4(ip) => writer.u8(transport | 4).bytes(&ip.octets()),
        IpAddr::V6(ip) => writer.u8(transport | 6).bytes(&ip.octets()),
    };
    writer.u16(address.port())
}

fn decode_family(family: u8, reader: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match family {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        family => return Err(DecodeError::Invalid { field: "address family", value: family.into() }),
    };
    Ok(SocketAddr::new(ip, reader.u16()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(datagram: &EndDatagram<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        datagram.encode(&mut out);
        out
    }

    #[test]
    fn every_datagram_has_its_golden_bytes_and_survives_them() {
        let v4 = "192.0.2.1:4600".parse().unwrap();
        let v6 = "[2001:db8::1]:4600".parse().unwrap();
        let tls = "tls://192.0.2.1:4600".parse().unwrap();
        let table: [(EndDatagram<'_>, &[u8]); 12] = [
            (EndDatagram::Rendezvous(&[0, 7]), &[16, 0, 7]),
            (EndDatagram::Packet(&[0x60, 1]), &[1, 0x60, 1]),
            (EndDatagram::Unsummed(&[0x60, 1]), &[6, 0x60, 1]),
            (EndDatagram::Ping { number: 258, padding: &[7] }, &[2, 0, 0, 0, 0, 0, 0, 1, 2, 7]),
            (EndDatagram::Pong { number: 1, padding: &[] }, &[3, 0, 0, 0, 0, 0, 0, 0, 1]),
            (EndDatagram::JoinInbound { remote: tls, packet: &[9] }, &[4, 0x14, 192, 0, 2, 1, 0x11, 0xf8, 9]),
            (EndDatagram::JoinInbound { remote: v4, packet: &[9] }, &[4, 4, 192, 0, 2, 1, 0x11, 0xf8, 9]),
            (
                EndDatagram::JoinOutbound { remote: v6, packet: &[] },
                &[5, 6, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x11, 0xf8],
            ),
            (
                EndDatagram::Piece(Piece { id: 0x0102_0304, index: 0, last: false, bytes: &[7, 8] }),
                &[9, 1, 2, 3, 4, 0, 7, 8],
            ),
            (EndDatagram::Piece(Piece { id: 5, index: 3, last: true, bytes: &[7] }), &[9, 0, 0, 0, 5, 0x83, 7]),
            (
                EndDatagram::Receipt { highest: 515, held_micros: 4_096, window: &[0, 0, 0, 0, 0, 0, 0, 5] },
                &[7, 0, 0, 0, 0, 0, 0, 2, 3, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 5],
            ),
            (EndDatagram::Probe { padding: &[0, 0] }, &[8, 0, 0]),
        ];
        for (datagram, golden) in table {
            assert_eq!(bytes_of(&datagram), golden);
            assert_eq!(EndDatagram::decode(golden), Ok(datagram));
        }
        let parameters = Parameters { version: 1, incarnation: 5 };
        assert_eq!(parameters.encode(), [1, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(
            Parameters::decode(&[1, 0, 0, 0, 0, 0, 0, 0, 5, 99]),
            Ok(parameters),
            "newer fields are passed over"
        );
        let mut out = Vec::new();
        Trace { number: 3, ttl: 4 }.encode(&mut out);
        assert_eq!(out, [0, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(Trace::decode(&out), Ok(Trace { number: 3, ttl: 4 }));
    }

    #[test]
    fn a_link_message_has_its_golden_bytes_and_a_shape_that_routing_passes_over() {
        let mut out = Vec::new();
        LinkMessage::Observed("192.0.2.1:4600".parse().unwrap()).encode(&mut out);
        assert_eq!(out, [0x40, 0, 7, 4, 192, 0, 2, 1, 0x11, 0xf8]);
        assert!(LinkMessage::is_meant(&out));
        assert_eq!(LinkMessage::decode(&out), Ok(LinkMessage::Observed("192.0.2.1:4600".parse().unwrap())));
        let mut v6 = Vec::new();
        LinkMessage::Observed("[2001:db8::1]:4600".parse().unwrap()).encode(&mut v6);
        assert_eq!(v6[..4], [0x40, 0, 19, 6]);
        assert!(LinkMessage::decode(&v6).is_ok() && LinkMessage::decode(&v6[..v6.len() - 1]).is_err());
        assert!(LinkMessage::decode(&[out, vec![0]].concat()).is_err() && !LinkMessage::is_meant(&[1]));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let long = [vec![1], vec![0; PACKET_LEN_MAX + 1]].concat();
        assert!(matches!(EndDatagram::decode(&long), Err(DecodeError::TooLong { .. })));
        let receipt = |window: usize| [vec![7; 13], vec![0; window]].concat();
        assert!(EndDatagram::decode(&receipt(RECEIPT_WINDOW_MAX)).is_ok());
        assert!(EndDatagram::decode(&receipt(RECEIPT_WINDOW_MAX + 8)).is_err());
        assert!(EndDatagram::decode(&receipt(7)).is_err(), "no whole words");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic_and_what_decodes_encodes_back(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(datagram) = EndDatagram::decode(&bytes) {
                prop_assert_eq!(bytes_of(&datagram), bytes.clone());
            }
            if let Ok(message) = LinkMessage::decode(&bytes) {
                let mut out = Vec::new();
                message.encode(&mut out);
                prop_assert_eq!(out, bytes.clone());
            }
            let _ = Parameters::decode(&bytes);
            let _ = Trace::decode(&bytes);
        }
    }
}
