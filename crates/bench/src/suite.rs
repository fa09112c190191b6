//! The suites, a batch of everything per round.

use std::time::Duration;

use crate::batches::Batches;
use crate::forgery::Flood;
use crate::issuance::Issuance;
use crate::line::{Line, Load};
use crate::reference::Reference;
use crate::sessions::Pair;
use crate::table::Table;
use crate::tokens::Tokens;
use crate::validation::Chains;
use crate::{BenchError, Report, Row, Samples, processor_time};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Processor time of the rounds together; building the nodes comes on top.
    pub time: Duration,
}

impl Default for Options {
    /// Three seconds: about a thousand rounds.
    fn default() -> Self {
        Self { time: Duration::from_secs(3) }
    }
}

/// Rounds that are not counted: caches fill, buffers are allocated.
const WARM_UP: usize = 20;
/// Packets of a load of single ones.
const SINGLES: usize = 32;

/// Measures the data plane.
///
/// # Errors
/// If a node does not do its part; then there is no report at all, for a cost of work that was not done means nothing.
pub fn dataplane(options: Options) -> Result<Report, BenchError> {
    let (mut reference, mut pair, mut table) = (Reference::new()?, Pair::new()?, Table::new()?);
    let (mut direct, mut relayed, mut flood) = (Line::of(2)?, Line::of(3)?, Flood::new()?);
    let mut round = |samples: &mut Samples| {
        reference.round(samples)?;
        pair.round(samples)?;
        direct.pass(Load::Bulk, (Row::SendDirect, None, Row::ReceiveDirect), samples)?;
        relayed.pass(Load::Bulk, (Row::SendBulk, Some(Row::ForwardBulk), Row::ReceiveBulk), samples)?;
        let single = (Row::SendSingle, Some(Row::ForwardSingle), Row::ReceiveSingle);
        relayed.pass(Load::Single(SINGLES), single, samples)?;
        table.round(samples)?;
        flood.round(samples)
    };
    Report::of(&Row::DATA_PLANE, &rounds(options, &mut round)?)
}

/// Measures SVIDs: issuing, minting, validating.
///
/// # Errors
/// If something is refused that should be accepted.
pub fn identity(options: Options) -> Result<Report, BenchError> {
    let (mut tokens, mut issuance, mut batches) = (Tokens::new()?, Issuance::new()?, Batches::new()?);
    let chains = Chains::new()?;
    let half = Options { time: options.time / 2 };
    // Tokens by themselves: one of ten thousand is looked up in a cache that certificates have not swept in between.
    let mut samples = rounds(half, &mut |samples| tokens.round(samples))?;
    let mut round = |samples: &mut Samples| {
        issuance.round(samples)?;
        batches.round(samples)?;
        chains.round(samples)
    };
    samples.add(rounds(half, &mut round)?);
    Report::of(&Row::IDENTITY, &samples)
}

fn rounds(
    options: Options,
    round: &mut dyn FnMut(&mut Samples) -> Result<(), BenchError>,
) -> Result<Samples, BenchError> {
    for _ in 0..WARM_UP {
        round(&mut Samples::default())?;
    }
    let mut samples = Samples::default();
    let end = processor_time() + u64::try_from(options.time.as_nanos()).unwrap_or(u64::MAX >> 1);
    while processor_time() < end {
        round(&mut samples)?;
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured() {
        let options = Options { time: Duration::from_millis(1) };
        check(&dataplane(options).unwrap(), &Row::DATA_PLANE);
        check(&identity(options).unwrap(), &Row::IDENTITY);
    }

    fn check(report: &Report, rows: &[Row]) {
        let names: Vec<_> = rows.iter().map(|row| row.name()).collect();
        assert_eq!(report.rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), names);
        assert!(report.table().lines().count() > rows.len());
        let has_ratio: Vec<_> = rows.iter().map(|row| row.reference().is_some()).collect();
        assert_eq!(report.rows.iter().map(|row| row.ratio.is_some()).collect::<Vec<_>>(), has_ratio);
    }
}
