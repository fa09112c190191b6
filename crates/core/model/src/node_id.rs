//! What a node is called on the wire.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::SpiffeId;

/// A node's name on the wire: the first 128 bits of a hash of its SPIFFE ID.
///
/// Derived from the name and not from a key, so that rotating a key changes no address, and a peer that proves a SPIFFE ID
/// has proven its `NodeId` too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; NodeId::LEN]);

impl NodeId {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// The id that belongs to `spiffe_id`.
    pub fn of(spiffe_id: &SpiffeId) -> Self {
        let hash = blake3::derive_key("x0tta6bl4 2026-11 node id", spiffe_id.to_string().as_bytes());
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hash[..Self::LEN]);
        Self(id)
    }

    /// Wraps bytes that came from a wire or a store.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, as on the wire.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    /// The first four bytes: enough to tell nodes apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 32 hexadecimal digits")]
pub struct ParseNodeIdError;

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::LEN {
            return Err(ParseNodeIdError);
        }
        let mut id = [0; Self::LEN];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(id))
    }
}

fn hex_digit(digit: u8) -> Result<u8, ParseNodeIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseNodeIdError),
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = NodeId::of(&"spiffe://mesh.test/node/alpha".parse().unwrap());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            id.to_string(),
            "022f379715144066cae4f9f1669dc952",
            "a node's address hangs on this value: it never changes"
        );
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "00", "zz00000000000000000000000000000000", &"0".repeat(33), "é000000000000000000000000000000"]
        {
            assert_eq!(text.parse::<NodeId>(), Err(ParseNodeIdError), "{text}");
        }
    }
}
