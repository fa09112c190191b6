//! Times, batch by batch.

use std::collections::BTreeMap;
use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};

use crate::Row;

/// The processor time of this thread in nanoseconds: what others do on the machine is not in it.
pub fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Processor time is never negative, and no thread runs for 584 years.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The cost of one operation, in nanoseconds, once per batch.
#[derive(Debug, Default)]
pub struct Samples {
    batches: BTreeMap<Row, Vec<f64>>,
}

impl Samples {
    /// Does `work`, which is `count` operations, and notes what one of them cost.
    pub fn time<T>(&mut self, row: Row, count: u64, work: impl FnOnce() -> T) -> T {
        let start = processor_time();
        let done = black_box(work());
        let spent = processor_time() - start;
        self.batches.entry(row).or_default().push(spent as f64 / count.max(1) as f64);
        done
    }

    /// Takes those of `other` in.
    pub fn add(&mut self, other: Self) {
        for (row, batches) in other.batches {
            self.batches.entry(row).or_default().extend(batches);
        }
    }

    /// The tenth percentile of all batches, in nanoseconds: what it takes on a core that is left alone.
    pub fn undisturbed(&self, row: Row) -> Option<f64> {
        let mut batches = self.batches.get(&row)?.clone();
        batches.sort_by(f64::total_cmp);
        batches.get(batches.len() / 10).copied()
    }

    /// How many batches there were.
    pub fn batches(&self, row: Row) -> usize {
        self.batches.get(&row).map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_batch_does_not_count() {
        let mut samples = Samples::default();
        samples.batches.insert(Row::Seal, vec![900.0, 100.0, 101.0, 102.0, 5_000.0]);
        assert_eq!(samples.undisturbed(Row::Seal), Some(100.0));
        assert_eq!(samples.undisturbed(Row::Open), None);
        assert_eq!(samples.time(Row::Open, 2, || 7), 7);
        assert_eq!(samples.batches(Row::Open), 1);
    }
}
