//! How often others may make this node do something.

use x0t_model::Instant;

/// So many at once, and so many per second.
#[derive(Debug)]
pub struct Ration {
    burst: u64,
    per_second: u64,
    allowance: u64,
    refilled: Instant,
}

impl Ration {
    pub const fn new(burst: u64, per_second: u64, now: Instant) -> Self {
        Self { burst, per_second, allowance: burst, refilled: now }
    }

    /// Whether one more is granted.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let granted = self.allowance > 0;
        self.allowance = self.allowance.saturating_sub(1);
        granted
    }

    /// Whether nothing of it has been taken that has not come back.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.allowance == self.burst
    }

    fn refill(&mut self, now: Instant) {
        let passed = u64::try_from(now.since(self.refilled).as_micros()).unwrap_or(u64::MAX);
        let earned = passed.saturating_mul(self.per_second) / 1_000_000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(self.burst);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ration_grants_its_burst_and_then_its_rate() {
        let mut ration = Ration::new(100, 200, Instant::ZERO);
        assert_eq!((0..1_000).filter(|_| ration.take(Instant::ZERO)).count(), 100);
        let later = Instant::ZERO + Duration::from_millis(100);
        assert_eq!((0..1_000).filter(|_| ration.take(later)).count(), 20);
    }
}
