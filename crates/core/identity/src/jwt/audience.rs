//! For whom a token is meant. An empty audience cannot be written down: a validator that forgot to configure one would accept
//! what was meant for everybody else.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Bytes of an audience: a SPIFFE ID fits.
pub const AUDIENCE_LEN_MAX: usize = 2048;
/// Audiences of one token. One is recommended (JWT-SVID, section 7.2).
pub const AUDIENCES_MAX: usize = 32;

/// Why something is no audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// A text of no bytes.
    #[error("an audience is empty")]
    Empty,
    /// Longer than [`AUDIENCE_LEN_MAX`].
    #[error("an audience has {0} bytes, at most {max} are allowed", max = AUDIENCE_LEN_MAX)]
    TooLong(usize),
    /// A set of none.
    #[error("there is no audience")]
    None,
    /// More than [`AUDIENCES_MAX`].
    #[error("there are more than {max} audiences", max = AUDIENCES_MAX)]
    TooMany,
}

/// One party that a token is meant for: any text but the empty one, compared byte by byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience(Arc<str>);

impl Audience {
    /// As it stands in the `aud` claim.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Audience {
    type Err = AudienceError;

    fn from_str(text: &str) -> Result<Self, AudienceError> {
        match text.len() {
            0 => Err(AudienceError::Empty),
            1..=AUDIENCE_LEN_MAX => Ok(Self(text.into())),
            len => Err(AudienceError::TooLong(len)),
        }
    }
}

impl Borrow<str> for Audience {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// At least one audience, in order and without repetition: equal sets are equal values. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceSet(Arc<[Audience]>);

impl AudienceSet {
    /// The set of `audiences`, of which there must be one.
    pub fn new(audiences: impl IntoIterator<Item = Audience>) -> Result<Self, AudienceError> {
        let mut audiences: Vec<Audience> = audiences.into_iter().take(AUDIENCES_MAX + 1).collect();
        if audiences.len() > AUDIENCES_MAX {
            return Err(AudienceError::TooMany);
        }
        audiences.sort_unstable();
        audiences.dedup();
        if audiences.is_empty() { Err(AudienceError::None) } else { Ok(Self(audiences.into())) }
    }

    /// The set of these texts, none of which may be empty.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, AudienceError> {
        let audiences = texts.into_iter().take(AUDIENCES_MAX + 1).map(str::parse);
        Self::new(audiences.collect::<Result<Vec<_>, _>>()?)
    }

    /// The audiences in order.
    pub fn iter(&self) -> impl Iterator<Item = &Audience> {
        self.0.iter()
    }

    /// Whether `audience` is one of them.
    pub fn contains(&self, audience: &str) -> bool {
        self.0.binary_search_by(|held| held.as_str().cmp(audience)).is_ok()
    }

    /// Whether some audience is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.iter().any(|audience| other.contains(audience.as_str()))
    }
}

impl From<Audience> for AudienceSet {
    fn from(audience: Audience) -> Self {
        Self([audience].into())
    }
}
