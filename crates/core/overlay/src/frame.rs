//! Inner frames: what a packet holds once it is open.
//!
//! ```text
//! 0x00 PADDING   one byte
//! 0x01 PING      one byte; asks for an ACK
//! 0x02 ACK       pn u64, received u64, count u8 (<= 8), count x { gap u32, len u32 }
//! 0x03 CRYPTO    offset u32, len u16, bytes
//! 0x04 STREAM    offset u64, len u16, bytes
//! 0x05 DATAGRAM  len u16, bytes
//! 0x06 CLOSE     code u16, len u8 (<= 64), UTF-8 reason
//! 0x07 CHALLENGE token u64; asks for a RESPONSE
//! 0x08 RESPONSE  token u64
//! ```
//!
//! Which frames may stand where is the session's business: handshake packets hold PADDING, PING, ACK, CRYPTO and CLOSE,
//! PROTECTED packets all but CRYPTO.

use std::ops::Range;

use x0t_model::{DecodeError, Reader, Writer};

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const CRYPTO: u8 = 0x03;
const STREAM: u8 = 0x04;
const DATAGRAM: u8 = 0x05;
const CLOSE: u8 = 0x06;
const CHALLENGE: u8 = 0x07;
const RESPONSE: u8 = 0x08;

/// Ranges beyond the first gap that one ACK can tell of.
pub const ACK_RANGES_MAX: usize = 8;
/// Longest reason of a CLOSE, in bytes.
pub const REASON_LEN_MAX: usize = 64;
/// Bytes around the data of a CRYPTO frame.
pub const CRYPTO_OVERHEAD: usize = 7;
/// Bytes around the data of a STREAM frame.
pub const STREAM_OVERHEAD: usize = 11;
/// Bytes around the data of a DATAGRAM frame.
pub const DATAGRAM_OVERHEAD: usize = 3;
/// Bytes of a CHALLENGE or RESPONSE.
pub const CHALLENGE_LEN: usize = 9;
/// Bytes of the longest ACK.
pub const ACK_LEN_MAX: usize = 18 + 8 * ACK_RANGES_MAX;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Nothing, to make a packet longer.
    Padding,
    /// Nothing, to be acknowledged.
    Ping,
    /// What was received of the CRYPTO or STREAM bytes of the level it travels in.
    Ack(Ack),
    /// A piece of the TLS handshake, at its place within the level.
    Crypto {
        /// Offset of the first byte.
        offset: u32,
        /// The bytes, never empty.
        bytes: &'a [u8],
    },
    /// A piece of the reliable stream of messages.
    Stream {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes, never empty.
        bytes: &'a [u8],
    },
    /// An unreliable datagram.
    Datagram(&'a [u8]),
    /// The session is over.
    Close {
        /// See [`crate::close_code`].
        code: u16,
        /// For people.
        reason: &'a str,
    },
    /// "Are you there?" (RFC 9000 section 19.17).
    Challenge(u64),
    /// "I have read this number" (RFC 9000 section 19.18).
    Response(u64),
}

/// An acknowledgement by byte offset: a lost one is made good by the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The packet that asked for it, from which the receiver of the ACK learns the round trip.
    pub pn: u64,
    /// All bytes below are received.
    pub received: u64,
    /// Ranges received above it, rising and apart.
    pub ranges: Vec<Range<u64>>,
}

impl Frame<'_> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Padding => writer.u8(PADDING),
            Self::Ping => writer.u8(PING),
            Self::Ack(ack) => ack.encode(&mut writer),
            Self::Crypto { offset, bytes } => writer.u8(CRYPTO).u32(*offset).prefixed(bytes),
            Self::Stream { offset, bytes } => writer.u8(STREAM).u64(*offset).prefixed(bytes),
            Self::Datagram(bytes) => writer.u8(DATAGRAM).prefixed(bytes),
            Self::Close { code, reason } => {
                let reason = cut_reason(reason);
                writer.u8(CLOSE).u16(*code).u8(reason.len() as u8).bytes(reason.as_bytes())
            }
            Self::Challenge(token) => writer.u8(CHALLENGE).u64(*token),
            Self::Response(token) => writer.u8(RESPONSE).u64(*token),
        };
    }
}

impl Ack {
    fn encode<'w, 'a>(&self, writer: &'w mut Writer<'a>) -> &'w mut Writer<'a> {
        let count = self.ranges.len().min(ACK_RANGES_MAX);
        writer.u8(ACK).u64(self.pn).u64(self.received).u8(count as u8);
        let mut end = self.received;
        for range in self.ranges.iter().take(count) {
            writer.u32((range.start - end) as u32).u32((range.end - range.start) as u32);
            end = range.end;
        }
        writer
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (pn, received) = (reader.u64()?, reader.u64()?);
        let count = usize::from(reader.u8()?);
        if count > ACK_RANGES_MAX {
            return Err(DecodeError::TooLong { field: "ACK ranges", value: count, limit: ACK_RANGES_MAX });
        }
        let mut ranges = Vec::with_capacity(count);
        let mut end = received;
        for _ in 0..count {
            let (gap, len) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
            let start = end.checked_add(gap).filter(|_| gap > 0 && len > 0);
            let start = start.ok_or(DecodeError::Invalid { field: "gap of an ACK range", value: gap })?;
            end = start.checked_add(len).ok_or(DecodeError::Invalid { field: "length of an ACK range", value: len })?;
            ranges.push(start..end);
        }
        Ok(Self { pn, received, ranges })
    }
}

/// The front of `reason` that fits a CLOSE, cut between characters.
pub fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_LEN_MAX)]
}

/// Takes the first frame off the front of `bytes`; `None` at the end. A run of PADDING counts as one frame.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.is_empty() {
        return Ok(None);
    }
    let frame = match reader.u8()? {
        PADDING => {
            let len = reader.rest().iter().take_while(|byte| **byte == PADDING).count();
            reader.bytes(len)?;
            Frame::Padding
        }
        PING => Frame::Ping,
        ACK => Frame::Ack(Ack::decode(&mut reader)?),
        CRYPTO => {
            let offset = reader.u32()?;
            Frame::Crypto { offset, bytes: filled("CRYPTO length", reader.prefixed("CRYPTO length", usize::MAX)?)? }
        }
        STREAM => {
            let offset = reader.u64()?;
            Frame::Stream { offset, bytes: filled("STREAM length", reader.prefixed("STREAM length", usize::MAX)?)? }
        }
        DATAGRAM => Frame::Datagram(reader.prefixed("DATAGRAM length", usize::MAX)?),
        CLOSE => {
            let (code, len) = (reader.u16()?, usize::from(reader.u8()?));
            if len > REASON_LEN_MAX {
                return Err(DecodeError::TooLong { field: "reason", value: len, limit: REASON_LEN_MAX });
            }
            let reason = std::str::from_utf8(reader.bytes(len)?)
                .map_err(|error| DecodeError::Invalid { field: "reason", value: error.valid_up_to() as u64 })?;
            Frame::Close { code, reason }
        }
        CHALLENGE => Frame::Challenge(reader.u64()?),
        RESPONSE => Frame::Response(reader.u64()?),
        other => return Err(DecodeError::Invalid { field: "frame type", value: other.into() }),
    };
    *bytes = reader.rest();
    Ok(Some(frame))
}

fn filled<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    if bytes.is_empty() { Err(DecodeError::Invalid { field, value: 0 }) } else { Ok(bytes) }
}

/// The data of a packet that holds one DATAGRAM frame and nothing else: the data path's short cut.
pub fn sole_datagram(frames: &[u8]) -> Option<Range<usize>> {
    let [DATAGRAM, high, low, data @ ..] = frames else { return None };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    (len == data.len()).then_some(DATAGRAM_OVERHEAD..DATAGRAM_OVERHEAD + len)
}

/// Appends the front of a DATAGRAM frame whose `len` bytes follow.
pub(crate) fn encode_datagram_header(len: u16, out: &mut Vec<u8>) {
    Writer::new(out).u8(DATAGRAM).u16(len);
}

/// Writes the front of a DATAGRAM frame over the first bytes of `frame`, all the rest of which is its data.
pub(crate) fn write_datagram_header(frame: &mut [u8]) {
    let len = (frame.len() - DATAGRAM_OVERHEAD) as u16;
    frame[0] = DATAGRAM;
    frame[1..DATAGRAM_OVERHEAD].copy_from_slice(&len.to_be_bytes());
}

/// Appends the front of a CRYPTO frame whose `len` bytes follow.
pub(crate) fn encode_crypto_header(offset: u32, len: u16, out: &mut Vec<u8>) {
    Writer::new(out).u8(CRYPTO).u32(offset).u16(len);
}

/// Appends the front of a STREAM frame whose `len` bytes follow.
pub(crate) fn encode_stream_header(offset: u64, len: u16, out: &mut Vec<u8>) {
    Writer::new(out).u8(STREAM).u64(offset).u16(len);
}
