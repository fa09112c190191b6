//! The hop header: what a relay may read.

use x0t_model::{DecodeError, NodeId, Reader};

/// Where a FORWARD packet goes, and how far it may. Sealed by each link with its own keys; the payload behind it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopHeader {
    /// The node that sealed the payload.
    pub src: NodeId,
    /// The node that opens it.
    pub dst: NodeId,
    /// Hops left. A relay sends one less on, and drops what would become zero.
    pub ttl: u8,
    /// What the payload is.
    pub kind: PayloadKind,
    /// Bits for relays: [`Self::TWIN`] and [`Self::SECOND`]. All are carried on unchanged, also those without a meaning.
    pub flags: u8,
    /// Hash of the inner flow, so that relays spread flows and keep each in order.
    pub flow: u32,
}

/// What follows a hop header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PayloadKind {
    /// A complete HANDSHAKE, RETRY or PROTECTED packet between the source and the destination.
    EndToEnd = 1,
    /// Asks the node at which the time to live ends, or the destination, for a [`Self::TraceReply`].
    TraceProbe = 2,
    /// Answers a [`Self::TraceProbe`]. Sealed by each link but not end to end: what the path says about itself.
    TraceReply = 3,
    /// "I hold no such session": the source may start a new one. A hint, because only links vouch for it. To a neighbour, about a packet
    /// without a hop header: the index of the session, for it may be another's whom the neighbour relays for.
    NoSession = 4,
}

impl PayloadKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::EndToEnd),
            2 => Some(Self::TraceProbe),
            3 => Some(Self::TraceReply),
            4 => Some(Self::NoSession),
            _ => None,
        }
    }
}

impl HopHeader {
    /// Bytes in plain.
    pub const LEN: usize = 40;
    /// Flag: the payload travels twice, by two ways that relays should keep apart.
    pub const TWIN: u8 = 1;
    /// Flag, with [`Self::TWIN`]: this is the second of the two.
    pub const SECOND: u8 = 2;

    /// As sealed.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(self.src.as_bytes());
        bytes[16..32].copy_from_slice(self.dst.as_bytes());
        bytes[32] = self.ttl;
        bytes[33] = self.kind as u8;
        bytes[34] = self.flags;
        bytes[36..].copy_from_slice(&self.flow.to_be_bytes());
        bytes
    }

    /// Reads exactly one header.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (src, dst, ttl) = (reader.node_id()?, reader.node_id()?, reader.u8()?);
        let kind = reader.u8()?;
        let kind =
            PayloadKind::from_byte(kind).ok_or(DecodeError::Invalid { field: "payload kind", value: kind.into() })?;
        let flags = reader.u8()?;
        match reader.u8()? {
            0 => {}
            other => {
                return Err(DecodeError::Invalid { field: "reserved byte of the hop header", value: other.into() });
            }
        }
        let flow = reader.u32()?;
        reader.finish()?;
        Ok(Self { src, dst, ttl, kind, flags, flow })
    }
}
