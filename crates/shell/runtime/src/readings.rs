//! What those who stand beside the node count: handed over as values at each scrape, so that this crate need not know them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// One sample. Those of one name follow one another and differ in their labels, which have bounded sets of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The metric's name, without the prefix `x0t_` and the suffix that its kind adds.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Label and value.
    pub labels: Vec<(&'static str, String)>,
    /// How much.
    pub value: Value,
}

/// How much, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Grows only; `_total` is added to the name.
    Counter(u64),
    /// Goes up and down.
    Level(f64),
    /// A duration, or a time since 1970; `_seconds` is added to the name.
    Seconds(f64),
}

impl Reading {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, labels: Vec::new(), value: Value::Counter(value) }
    }

    /// A level.
    pub const fn level(name: &'static str, help: &'static str, value: usize) -> Self {
        Self { name, help, labels: Vec::new(), value: Value::Level(value as f64) }
    }

    /// Seconds.
    pub const fn seconds(name: &'static str, help: &'static str, seconds: u64) -> Self {
        Self { name, help, labels: Vec::new(), value: Value::Seconds(seconds as f64) }
    }

    /// With a label.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((label, value.into()));
        self
    }
}

/// Reads all of them.
pub type Readings = Arc<dyn Fn() -> Vec<Reading> + Send + Sync>;

/// Samples of one name, in the order in which the names first came.
pub(crate) fn families(readings: &[Reading]) -> Vec<(&Reading, Vec<&Reading>)> {
    let mut places = BTreeMap::new();
    let mut families: Vec<(&Reading, Vec<&Reading>)> = Vec::new();
    for reading in readings {
        let place = *places.entry(reading.name).or_insert_with(|| {
            families.push((reading, Vec::new()));
            families.len() - 1
        });
        families[place].1.push(reading);
    }
    families
}
