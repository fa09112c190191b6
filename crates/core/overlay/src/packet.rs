//! Outer headers: what every packet starts with, in plain.
//!
//! ```text
//! 0x10 HANDSHAKE  type, purpose, version, dst_index u32, src_index u32, level, pn u32, cookie (u8 length, bytes), body
//! 0x11 RETRY      type, version, dst_index u32, cookie (u8 length, bytes)
//! 0x12 PROTECTED  type, epoch, dst_index u32, pn u64, sealed frames, tag
//! 0x13 FORWARD    type, epoch, dst_index u32, pn u64, sealed hop header, tag, payload
//! 0x1f JOIN       type, then a HANDSHAKE, RETRY or PROTECTED packet of a join session
//! ```
//!
//! The body of a level-0 HANDSHAKE ends with a checksum of the packet, of a level-1 one with an AEAD tag; both are
//! [`crate::TAG_LEN`] bytes.

use x0t_model::{DecodeError, Reader, Writer};

use crate::frame::DATAGRAM_OVERHEAD;
use crate::hop::HopHeader;
use crate::{Purpose, TAG_LEN};

/// First byte of a handshake packet.
pub const HANDSHAKE: u8 = 0x10;
/// First byte of a packet that asks for a cookie.
pub const RETRY: u8 = 0x11;
/// First byte of a packet of frames under traffic keys.
pub const PROTECTED: u8 = 0x12;
/// First byte of a packet on its way through a relay.
pub const FORWARD: u8 = 0x13;
/// First byte before any packet of a join session, so that a member can relay it to an authority without reading it.
pub const JOIN: u8 = 0x1f;

/// The protocol version this crate speaks.
pub const VERSION: u8 = 1;
/// Longest cookie.
pub const COOKIE_LEN_MAX: usize = 40;
/// Bytes before the sealed part of a PROTECTED or FORWARD packet, all of them authenticated.
pub const PROTECTED_HEADER_LEN: usize = 14;
/// What PROTECTED adds to its frames.
pub const PROTECTED_OVERHEAD: usize = PROTECTED_HEADER_LEN + TAG_LEN;
/// What PROTECTED puts in front of the data of its only frame, a DATAGRAM.
pub const DATAGRAM_FRONT: usize = PROTECTED_HEADER_LEN + DATAGRAM_OVERHEAD;
/// What FORWARD adds to its payload.
pub const FORWARD_OVERHEAD: usize = PROTECTED_HEADER_LEN + HopHeader::LEN + TAG_LEN;
/// Bytes of a HANDSHAKE header without its cookie.
pub const HANDSHAKE_HEADER_LEN: usize = 17;

/// What the receiver of a join session's packet calls the session; `None` as long as the sender does not know.
pub fn join_receiver(packet: &[u8]) -> Option<u32> {
    let inner = packet.strip_prefix(&[JOIN])?;
    let handshake = HandshakeHeader::decode(inner).ok().map(|header| header.dst_index);
    handshake.or_else(|| protected_index(inner)).filter(|index| *index != 0)
}

/// What the sender of a join session's handshake packet calls the session: by this the other side names it from then on.
pub fn join_sender(packet: &[u8]) -> Option<u32> {
    HandshakeHeader::decode(packet.strip_prefix(&[JOIN])?).ok().map(|header| header.src_index)
}

/// Which keys protect a handshake packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// None yet: the hellos. A checksum guards against accidents, not against attackers.
    Initial = 0,
    /// The TLS handshake keys.
    Handshake = 1,
}

/// The header of a HANDSHAKE packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeHeader<'a> {
    /// What the session is for.
    pub purpose: Purpose,
    /// The receiver's name for the session; 0 while the sender does not know it.
    pub dst_index: u32,
    /// The sender's name for the session.
    pub src_index: u32,
    /// Which keys protect the body.
    pub level: Level,
    /// Number of the packet within its level.
    pub pn: u32,
    /// What a RETRY asked for; empty otherwise.
    pub cookie: &'a [u8],
}

impl<'a> HandshakeHeader<'a> {
    /// Bytes of this header.
    pub const fn encoded_len(&self) -> usize {
        HANDSHAKE_HEADER_LEN + self.cookie.len()
    }

    /// Appends the header. Everything of the packet before its body, so also the AAD of a sealed one.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.cookie.len() <= COOKIE_LEN_MAX, "{} bytes of cookie", self.cookie.len());
        Writer::new(out)
            .u8(HANDSHAKE)
            .u8(self.purpose as u8)
            .u8(VERSION)
            .u32(self.dst_index)
            .u32(self.src_index)
            .u8(self.level as u8)
            .u32(self.pn)
            .u8(self.cookie.len() as u8)
            .bytes(self.cookie);
    }

    /// Reads the header at the front of `packet`; the body is what follows [`HandshakeHeader::encoded_len`] bytes.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        expect_type(&mut reader, HANDSHAKE)?;
        let purpose = match reader.u8()? {
            1 => Purpose::Link,
            2 => Purpose::EndToEnd,
            3 => Purpose::Join,
            other => return Err(DecodeError::Invalid { field: "purpose", value: other.into() }),
        };
        expect_version(&mut reader)?;
        let (dst_index, src_index) = (reader.u32()?, reader.u32()?);
        if src_index == 0 {
            return Err(DecodeError::Invalid { field: "source index", value: 0 });
        }
        let level = match reader.u8()? {
            0 => Level::Initial,
            1 => Level::Handshake,
            other => return Err(DecodeError::Invalid { field: "level", value: other.into() }),
        };
        let pn = reader.u32()?;
        let cookie = read_cookie(&mut reader)?;
        Ok(Self { purpose, dst_index, src_index, level, pn, cookie })
    }
}

/// A RETRY packet: come again with this cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry<'a> {
    /// The source index of the packet that provoked it.
    pub dst_index: u32,
    /// To be returned in every further packet that does not know the responder's index.
    pub cookie: &'a [u8],
}

impl<'a> Retry<'a> {
    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.cookie.len() <= COOKIE_LEN_MAX, "{} bytes of cookie", self.cookie.len());
        Writer::new(out).u8(RETRY).u8(VERSION).u32(self.dst_index).u8(self.cookie.len() as u8).bytes(self.cookie);
    }

    /// Reads exactly one packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        expect_type(&mut reader, RETRY)?;
        expect_version(&mut reader)?;
        let dst_index = reader.u32()?;
        let cookie = read_cookie(&mut reader)?;
        if cookie.is_empty() {
            return Err(DecodeError::Invalid { field: "cookie length", value: 0 });
        }
        reader.finish()?;
        Ok(Self { dst_index, cookie })
    }
}

/// The header of a PROTECTED or FORWARD packet: its first [`PROTECTED_HEADER_LEN`] bytes, which are its AAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectedHeader {
    /// Whether a hop header is sealed in it, rather than frames.
    pub forward: bool,
    /// The low eight bits of the key epoch.
    pub epoch: u8,
    /// The receiver's name for the session.
    pub dst_index: u32,
    /// Number of the packet within the session, across epochs and both types.
    pub pn: u64,
}

impl ProtectedHeader {
    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; PROTECTED_HEADER_LEN] {
        let mut bytes = [0; PROTECTED_HEADER_LEN];
        bytes[0] = if self.forward { FORWARD } else { PROTECTED };
        bytes[1] = self.epoch;
        bytes[2..6].copy_from_slice(&self.dst_index.to_be_bytes());
        bytes[6..].copy_from_slice(&self.pn.to_be_bytes());
        bytes
    }

    /// Reads the header at the front of `packet`, which must be long enough for what its type promises.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(packet);
        let forward = match reader.u8()? {
            PROTECTED => false,
            FORWARD => true,
            other => return Err(DecodeError::Invalid { field: "packet type", value: other.into() }),
        };
        let header = Self { forward, epoch: reader.u8()?, dst_index: reader.u32()?, pn: reader.u64()? };
        reader.bytes(if forward { HopHeader::LEN + TAG_LEN } else { TAG_LEN })?;
        Ok(header)
    }
}

/// Whether a packet says that it carries another.
pub fn is_forward(packet: &[u8]) -> bool {
    packet.first() == Some(&FORWARD)
}

/// The index of the session that a PROTECTED packet is sealed for; `None` if it is something else or cut short.
pub fn protected_index(packet: &[u8]) -> Option<u32> {
    let header = packet.first_chunk::<PROTECTED_HEADER_LEN>().filter(|header| header[0] == PROTECTED)?;
    Some(u32::from_be_bytes([header[2], header[3], header[4], header[5]]))
}

/// What must follow the header and frames of a level-0 packet: FNV-1a over 64-bit big-endian words, in two lanes that
/// start apart, the last word padded with zeros, and the length as one more word.
///
/// Networks that garble a byte and mend the UDP checksum exist, and a garbled hello would end the handshake. A change within
/// one word is always found; two lanes that weigh each bit differently leave little hope to any other. It keeps no attacker out: at this level there is no
/// secret to do that with, so there is no use in a hash that costs more.
pub fn checksum(header_and_frames: &[u8]) -> [u8; TAG_LEN] {
    let (words, rest) = header_and_frames.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut lanes = [FNV_OFFSET, !FNV_OFFSET];
    for word in words.iter().chain([&last, &(header_and_frames.len() as u64).to_be_bytes()]) {
        let word = u64::from_be_bytes(*word);
        lanes[0] = (lanes[0] ^ word).wrapping_mul(FNV_PRIME);
        lanes[1] = (lanes[1] ^ word.rotate_left(32)).wrapping_mul(FNV_PRIME);
    }
    let mut sum = [0; TAG_LEN];
    sum[..8].copy_from_slice(&lanes[0].to_be_bytes());
    sum[8..].copy_from_slice(&lanes[1].to_be_bytes());
    sum
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn expect_type(reader: &mut Reader<'_>, expected: u8) -> Result<(), DecodeError> {
    match reader.u8()? {
        kind if kind == expected => Ok(()),
        other => Err(DecodeError::Invalid { field: "packet type", value: other.into() }),
    }
}

fn expect_version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(DecodeError::Invalid { field: VERSION_FIELD, value: other.into() }),
    }
}

/// How a [`DecodeError`] names the version, which an endpoint counts apart.
pub(crate) const VERSION_FIELD: &str = "version";

fn read_cookie<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let value = usize::from(reader.u8()?);
    if value > COOKIE_LEN_MAX {
        return Err(DecodeError::TooLong { field: "cookie", value, limit: COOKIE_LEN_MAX });
    }
    reader.bytes(value)
}
