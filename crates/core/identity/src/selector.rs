//! What is known of a process that asks for an identity: attested facts, each a kind and a value.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a selector's text. A path (4096 bytes on Linux) and its kind fit.
pub const SELECTOR_LEN_MAX: usize = 4224;
/// Selectors of one entry.
pub const ENTRY_SELECTORS_MAX: usize = 32;
/// Selectors of one process: what attestation says of a member of many groups, and room for labels of containers.
pub const PROCESS_SELECTORS_MAX: usize = 256;

/// Why a text is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No colon between kind and value.
    #[error("a selector is written KIND:VALUE, as in unix:uid:1000")]
    NoColon,
    /// Nothing before the first colon.
    #[error("the selector's kind is empty")]
    EmptyKind,
    /// Nothing behind the first colon.
    #[error("the selector's value is empty")]
    EmptyValue,
    /// The kind is a word of `a-z`, `0-9`, `_` and `-`.
    #[error("the selector's kind is not a word of a-z, 0-9, '_' and '-'")]
    BadKind,
    /// A control character: it would make logs and tables lie.
    #[error("the selector holds a control character")]
    ControlCharacter,
    /// Longer than [`SELECTOR_LEN_MAX`].
    #[error("the selector has {0} bytes, at most {max} are allowed", max = SELECTOR_LEN_MAX)]
    TooLong(usize),
    /// More than fit.
    #[error("there are more than {0} selectors")]
    TooMany(usize),
}

/// One attested fact, such as `unix:uid:1000`: the kind is what stands before the first colon, the rest is the value.
///
/// A value may be a secret of the workload (a label, a path), so `Debug` shows the kind alone; `Display` shows everything and is
/// for the operator who asks, never for a log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    text: Arc<str>,
    kind_len: usize,
}

impl Selector {
    /// What attested it: `unix`, `systemd`, `container`, `docker`, `k8s`…
    pub fn kind(&self) -> &str {
        &self.text[..self.kind_len]
    }

    /// What was found.
    pub fn value(&self) -> &str {
        &self.text[self.kind_len + 1..]
    }

    /// Kind and value, as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > SELECTOR_LEN_MAX {
            return Err(SelectorError::TooLong(text.len()));
        }
        let (kind, value) = text.split_once(':').ok_or(SelectorError::NoColon)?;
        if kind.is_empty() {
            return Err(SelectorError::EmptyKind);
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue);
        }
        if !kind.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')) {
            return Err(SelectorError::BadKind);
        }
        if text.chars().any(char::is_control) {
            return Err(SelectorError::ControlCharacter);
        }
        Ok(Self { text: text.into(), kind_len: kind.len() })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({}:…)", self.kind())
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Selectors in order and without duplicates, at most [`PROCESS_SELECTORS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Selectors(BTreeSet<Selector>);

impl Selectors {
    /// Collects them; an error if there are more than fit.
    pub fn new(selectors: impl IntoIterator<Item = Selector>) -> Result<Self, SelectorError> {
        let mut all = BTreeSet::new();
        for selector in selectors {
            all.insert(selector);
            if all.len() > PROCESS_SELECTORS_MAX {
                return Err(SelectorError::TooMany(PROCESS_SELECTORS_MAX));
            }
        }
        Ok(Self(all))
    }

    /// Whether each of these is also in `other`: an entry is given to a process of which all its selectors hold.
    pub fn are_all_in(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Those that are not in `other`: why an entry is *not* given.
    pub fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Selector> {
        self.0.difference(&other.0)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Selector> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Selectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<Selector>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_ends_at_the_first_colon() {
        let selector: Selector = "docker:label:app:web".parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), ("docker", "label:app:web"));
        assert_eq!(selector.to_string(), "docker:label:app:web");
    }

    #[test]
    fn what_is_no_selector_says_why() {
        let error = |text: &str| text.parse::<Selector>().unwrap_err();
        assert_eq!(error("unix"), SelectorError::NoColon);
        assert_eq!(error(":uid:0"), SelectorError::EmptyKind);
        assert_eq!(error("unix:"), SelectorError::EmptyValue);
        assert_eq!(error("Unix:uid:0"), SelectorError::BadKind);
        assert_eq!(error("unix:path:/a\nb"), SelectorError::ControlCharacter);
        assert_eq!(error(&format!("unix:{}", "x".repeat(5000))), SelectorError::TooLong(5005));
    }

    #[test]
    fn l6_a_selector_in_a_log_shows_no_value() {
        let selector: Selector = "docker:env:PASSWORD=hunter2".parse().unwrap();
        assert!(!format!("{selector:?}").contains("hunter2"));
    }

    #[test]
    fn a_flood_of_selectors_is_refused() {
        let many = (0..1000).map(|n| format!("unix:supplementary_gid:{n}").parse().unwrap());
        assert_eq!(Selectors::new(many).unwrap_err(), SelectorError::TooMany(PROCESS_SELECTORS_MAX));
    }
}
