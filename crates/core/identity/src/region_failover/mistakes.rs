//! What is wrong with a configuration of regions: everything at once, each with the place it stands at.

use std::fmt;

/// One mistake, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct RegionMistake {
    /// The variable or key, and within it the region: `X0T_SPIRE_REGIONS, region 2 (us)`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// All mistakes of a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMistakes(Vec<RegionMistake>);

impl RegionMistakes {
    /// Each mistake, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &RegionMistake> {
        self.0.iter()
    }
}

impl fmt::Display for RegionMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RegionMistakes {}

/// Collects mistakes while parsing goes on.
#[derive(Debug, Default)]
pub(super) struct Ledger(Vec<RegionMistake>);

impl Ledger {
    pub fn note(&mut self, place: &str, what: impl Into<String>) {
        self.0.push(RegionMistake { place: place.to_owned(), what: what.into() });
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the value, or notes why there is none.
    pub fn take<T>(&mut self, place: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.note(place, what)).ok()
    }

    pub fn close<T>(self, value: Option<T>) -> Result<T, RegionMistakes> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(RegionMistakes(self.0)),
        }
    }
}
