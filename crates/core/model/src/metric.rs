//! What a path costs.

use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// The cost of a path in microseconds of expected delay. Additive along a path and saturating: nothing is dearer than
/// [`Metric::INFINITE`], which means "do not".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metric(u32);

impl Metric {
    /// Costs nothing: the origin's distance to itself.
    pub const ZERO: Self = Self(0);
    /// Unreachable.
    pub const INFINITE: Self = Self(u32::MAX);

    /// A cost of `micros` microseconds.
    pub const fn from_micros(micros: u32) -> Self {
        Self(micros)
    }

    /// The cost in microseconds.
    pub const fn as_micros(self) -> u32 {
        self.0
    }

    /// Whether anything can be reached at this cost.
    pub const fn is_finite(self) -> bool {
        self.0 != u32::MAX
    }
}

impl Add for Metric {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_finite() { write!(f, "{}us", self.0) } else { f.write_str("infinite") }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_to_infinity_stays_infinite() {
        assert_eq!(Metric::INFINITE + Metric::from_micros(1), Metric::INFINITE);
        assert_eq!(Metric::from_micros(u32::MAX - 1) + Metric::from_micros(7), Metric::INFINITE);
        assert!(!Metric::INFINITE.is_finite());
    }
}
