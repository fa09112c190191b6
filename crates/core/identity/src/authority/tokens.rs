//! The table of join tokens: hashes of secrets, and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::UnixTime;

use super::{CommandRefusal, JoinRefusal};
use crate::token::JoinSecret;

/// Tokens that are remembered at a time.
pub const JOIN_TOKENS_MAX: usize = 1024;
/// How long a token is remembered after its end, so that a late joiner hears "expired" or "used" and not "unknown".
const REMEMBERED_AFTER_END: Duration = Duration::from_secs(24 * 3600);

/// Names a token without giving its secret away: the first eight bytes of the stored hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId([u8; 8]);

impl TokenId {
    pub(super) fn of(hash: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self(id)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = data_encoding::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes())?;
        let wrong_length = data_encoding::DecodeError { position: 0, kind: data_encoding::DecodeKind::Length };
        Ok(Self(bytes.try_into().map_err(|_| wrong_length)?))
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The hash of a token's secret, which is all that is ever stored of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash(pub(super) [u8; 32]);

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        let bytes = bytes.try_into().map_err(|_| serde::de::Error::custom("a token's hash has 32 bytes"))?;
        Ok(Self(bytes))
    }
}

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// Waits for its node.
    Unused,
    /// Has admitted its node.
    Used {
        /// When.
        at: UnixTime,
        /// Under which name.
        by: String,
    },
}

/// A token as an operator may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Names it, for [`Authority::revoke_token`](super::Authority::revoke_token).
    pub id: TokenId,
    /// The one name it is good for, or any.
    pub name: Option<String>,
    /// When it was made.
    pub created: UnixTime,
    /// Refused from the next second on.
    pub expires: UnixTime,
    /// What became of it.
    pub state: TokenState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) hash: [u8; 32],
    pub(super) name: Option<String>,
    pub(super) created: UnixTime,
    pub(super) expires: UnixTime,
    pub(super) state: TokenState,
}

/// A token that may be used, not yet marked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket<'a> {
    pub(super) id: TokenId,
    pub(super) name: Option<&'a str>,
}

#[derive(Default)]
pub(super) struct Tokens(BTreeMap<TokenId, Record>);

impl Tokens {
    /// Remembers a new token, forgetting first what ended long ago and then, if there is no room, what is of no use. Whether
    /// there was room.
    pub(super) fn insert(&mut self, hash: TokenHash, name: Option<&str>, now: UnixTime, expires: UnixTime) -> bool {
        self.0.retain(|_, record| record.expires + REMEMBERED_AFTER_END >= now);
        if self.0.len() >= JOIN_TOKENS_MAX {
            self.0.retain(|_, record| record.expires >= now && record.state == TokenState::Unused);
        }
        let name = name.map(str::to_owned);
        self.restore(Record { hash: hash.0, name, created: now, expires, state: TokenState::Unused })
    }

    /// Puts a record back; whether there was room.
    pub(super) fn restore(&mut self, record: Record) -> bool {
        if self.0.len() >= JOIN_TOKENS_MAX {
            return false;
        }
        self.0.insert(TokenId::of(&record.hash), record);
        true
    }

    /// The token behind `secret`, if it may be used at `now`. Compares with every token, each in constant time: how long it
    /// takes tells nothing about which one, or how much of one, was hit.
    pub(super) fn find(&self, secret: &JoinSecret, now: UnixTime) -> Result<Ticket<'_>, JoinRefusal> {
        let hash = secret.hash();
        let mut found = None;
        for (id, record) in &self.0 {
            if verify_slices_are_equal(&hash, &record.hash).is_ok() {
                found = Some((*id, record));
            }
        }
        let (id, record) = found.ok_or(JoinRefusal::Unknown)?;
        if let TokenState::Used { at, by } = &record.state {
            return Err(JoinRefusal::Used { at: *at, by: by.clone() });
        }
        if now > record.expires {
            return Err(JoinRefusal::Expired { ago: now.since(record.expires) });
        }
        Ok(Ticket { id, name: record.name.as_deref() })
    }

    /// Marks a token used, if nobody has used it before.
    pub(super) fn spend(&mut self, id: TokenId, at: UnixTime, by: &str) -> Result<(), CommandRefusal> {
        let record = self.0.get_mut(&id).ok_or(CommandRefusal::UnknownToken(id))?;
        if let TokenState::Used { at, by } = &record.state {
            return Err(CommandRefusal::TokenSpent { at: *at, by: by.clone() });
        }
        record.state = TokenState::Used { at, by: by.to_owned() };
        Ok(())
    }

    pub(super) fn remove(&mut self, id: TokenId) -> bool {
        self.0.remove(&id).is_some()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = TokenView> + '_ {
        self.0.iter().map(|(id, record)| {
            let Record { name, created, expires, state, .. } = record.clone();
            TokenView { id: *id, name, created, expires, state }
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.values()
    }
}
