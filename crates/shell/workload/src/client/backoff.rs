//! How long to wait before asking again (checklist WC-3).

use std::time::Duration;

/// Exponential, with half of each pause left to chance: clients that lost one endpoint together do not come back together, and
/// none comes back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The first pause, at most. Most endpoints that are away are restarting.
    pub first: Duration,
    /// The longest pause: half a minute, as the reference client.
    pub longest: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

#[derive(Debug)]
pub(super) struct Backoff {
    config: BackoffConfig,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(config: BackoffConfig) -> Self {
        Self { config, failures: 0 }
    }

    /// The pause after one more failure. `chance` is any number.
    pub(super) fn pause(&mut self, chance: u64) -> Duration {
        let doubled = self.config.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        let half = doubled.min(self.config.longest) / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        half + Duration::from_nanos(chance % nanos.max(1))
    }

    /// All is well.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wc_3_pauses_double_up_to_the_longest_and_never_vanish() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let mut longest = Duration::from_millis(500);
        for _ in 0..40 {
            let pause = backoff.pause(u64::MAX / 3);
            assert!(pause >= longest / 2 && pause < longest, "{pause:?} {longest:?}");
            longest = (longest * 2).min(Duration::from_secs(30));
        }
        backoff.reset();
        assert!(backoff.pause(7) < Duration::from_millis(500));
    }
}
