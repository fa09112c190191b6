//! How often: token buckets, and the pace of this node's own announcements.

use std::time::Duration;

use x0t_model::{Entropy, Instant};

use crate::RoutingConfig;

/// Grants up to `burst` at once and `per_second` in the long run.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    /// In thousandths.
    tokens: u64,
    burst: u64,
    per_second: u64,
    filled_at: Instant,
}

impl TokenBucket {
    pub(crate) const fn new((burst, per_second): (u32, u32), now: Instant) -> Self {
        let burst = burst as u64 * 1_000;
        Self { tokens: burst, burst, per_second: per_second as u64, filled_at: now }
    }

    fn fill(&mut self, now: Instant) {
        let millis = now.since(self.filled_at).as_millis() as u64;
        if millis > 0 {
            self.tokens = self.burst.min(self.tokens.saturating_add(millis.saturating_mul(self.per_second)));
            self.filled_at += Duration::from_millis(millis);
        }
    }

    /// How many could be taken.
    pub(crate) fn available(&mut self, now: Instant) -> u32 {
        self.fill(now);
        (self.tokens / 1_000) as u32
    }

    /// Takes `count`, or as many as there are.
    pub(crate) fn spend(&mut self, count: u32, now: Instant) {
        self.fill(now);
        self.tokens = self.tokens.saturating_sub(u64::from(count) * 1_000);
    }

    /// Takes one if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let granted = self.available(now) > 0;
        if granted {
            self.spend(1, now);
        }
        granted
    }
}

/// When this node announces itself: at once after a local change, then after 1, 2, 4, … seconds up to a steady
/// interval that grows with the mesh, so that a mesh ten times as large does not make ten times the noise.
#[derive(Debug)]
pub(crate) struct OriginatorPace {
    interval: Duration,
    next: Instant,
    last: Option<Instant>,
}

impl OriginatorPace {
    pub(crate) fn new(config: &RoutingConfig, now: Instant) -> Self {
        Self { interval: config.originator_interval, next: now, last: None }
    }

    /// When the next announcement is due.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// The interval in force.
    pub(crate) const fn interval(&self) -> Duration {
        self.interval
    }

    /// The neighbourhood changed: soon, and at the fast pace again.
    pub(crate) fn changed(&mut self, config: &RoutingConfig, now: Instant) {
        self.interval = config.originator_interval;
        let earliest = self.last.map_or(now, |last| now.max(last + config.originate_spacing));
        self.next = self.next.min(earliest);
    }

    /// The next announcement is made at `at` or earlier.
    pub(crate) fn not_after(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    /// An announcement was made; `origins` are known. `regular` if it was due and not asked for.
    pub(crate) fn announced(
        &mut self,
        config: &RoutingConfig,
        origins: usize,
        regular: bool,
        entropy: &mut Entropy,
        now: Instant,
    ) {
        let steady = steady_interval(config, origins);
        // The first regular announcement after a change follows at the fast pace; each further one doubles.
        let next = self.interval.min(steady);
        if regular {
            self.interval = (self.interval * 2).min(steady);
        }
        self.last = Some(now);
        // Up to a tenth early, so that nodes that started together drift apart.
        let tenth = next.as_micros() as u64 / 10;
        self.next = now + next - Duration::from_micros(entropy.below(tenth));
    }
}

/// `clamp(origins / 100 s, 1 s, 64 s)` with the defaults.
pub(crate) fn steady_interval(config: &RoutingConfig, origins: usize) -> Duration {
    let by_size =
        Duration::from_secs(1) * u32::try_from(origins).unwrap_or(u32::MAX) / config.originators_per_second.max(1);
    by_size.clamp(config.originator_interval, config.originator_interval_max.max(config.originator_interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grants_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new((3, 10), Instant::ZERO);
        let granted =
            |bucket: &mut TokenBucket, millis| (0..9).filter(|_| bucket.take(Instant::from_millis(millis))).count();
        assert_eq!(granted(&mut bucket, 0), 3);
        assert_eq!(granted(&mut bucket, 99), 0);
        assert_eq!(granted(&mut bucket, 100), 1);
        assert_eq!(granted(&mut bucket, 300), 2);
        assert_eq!(granted(&mut bucket, 60_000), 3);
    }

    #[test]
    fn the_steady_interval_is_one_second_up_to_a_hundred_origins_and_64_at_most() {
        let config = RoutingConfig::default();
        for (origins, seconds) in [(0, 1), (1, 1), (100, 1), (250, 2), (1_000, 10), (6_400, 64), (1_000_000, 64)] {
            assert_eq!(steady_interval(&config, origins).as_secs(), seconds, "{origins} origins");
        }
    }

    fn gaps(origins: usize) -> Vec<u64> {
        let (config, mut entropy) = (RoutingConfig::default(), Entropy::new([3; 32]));
        let mut pace = OriginatorPace::new(&config, Instant::ZERO);
        let mut gaps = Vec::new();
        for _ in 0..9 {
            let now = pace.next();
            pace.announced(&config, origins, true, &mut entropy, now);
            gaps.push(pace.next().since(now).as_millis() as u64);
        }
        gaps
    }

    #[test]
    fn announcements_slow_down_to_the_steady_interval() {
        for (gap, nominal) in gaps(1_000).into_iter().zip([1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000]) {
            assert!((nominal * 9 / 10..=nominal).contains(&gap), "{gap} for {nominal}");
        }
        for gap in gaps(100) {
            assert!((900..=1_000).contains(&gap), "{gap}");
        }
    }

    #[test]
    fn a_local_change_is_announced_at_once_but_not_twice_within_the_spacing() {
        let (config, mut entropy) = (RoutingConfig::default(), Entropy::new([3; 32]));
        let mut pace = OriginatorPace::new(&config, Instant::ZERO);
        for _ in 0..8 {
            let now = pace.next();
            pace.announced(&config, 2_000, true, &mut entropy, now);
        }
        let now = pace.next() - Duration::from_secs(5);
        pace.changed(&config, now);
        assert_eq!(pace.next(), now);
        pace.announced(&config, 2_000, true, &mut entropy, now);
        let soon = now + Duration::from_millis(50);
        pace.changed(&config, soon);
        assert_eq!(pace.next(), now + Duration::from_millis(200));
    }
}
