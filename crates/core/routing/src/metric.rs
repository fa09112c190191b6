//! What a link costs: its delay, its loss and the hop itself.
//!
//! Delay is half of the smallest round trip of the last ten seconds: queues and slow peers make round trips longer, nothing
//! makes them shorter, so the minimum is the link itself. (Clocks of two hosts are not comparable to 100 µs, so a
//! true one-way delay cannot be had.) Loss raises the cost by 1/(1-loss)², because a lost packet is paid for by an end that has
//! to wait. Both are quantised and damped so that a healthy link's cost stands still.

use std::time::Duration;

use x0t_model::{Instant, Metric};

/// Steps of the delay.
const QUANTUM_MICROS: u64 = 100;
/// Length of the window of the minimum, in slots of one second.
const WINDOW_SLOTS: usize = 10;
/// HELLOs a loss estimate needs.
const LOSS_EVIDENCE: u32 = 16;
/// Loss is counted in millionths.
const WHOLE: u64 = 1_000_000;
/// Beyond this loss the factor stays at 100.
const LOSS_MAX: u64 = 900_000;

/// The smallest value of the last ten seconds.
#[derive(Clone, Debug)]
struct WindowedMin {
    slots: [u64; WINDOW_SLOTS],
    second: u64,
}

impl WindowedMin {
    const EMPTY: u64 = u64::MAX;

    const fn new() -> Self {
        Self { slots: [Self::EMPTY; WINDOW_SLOTS], second: 0 }
    }

    fn add(&mut self, value: u64, now: Instant) {
        let second = now.as_millis() / 1_000;
        let passed = second.saturating_sub(self.second).min(WINDOW_SLOTS as u64);
        for ahead in 1..=passed {
            self.slots[(self.second.wrapping_add(ahead) % WINDOW_SLOTS as u64) as usize] = Self::EMPTY;
        }
        if passed == WINDOW_SLOTS as u64 {
            self.slots = [Self::EMPTY; WINDOW_SLOTS];
        }
        self.second = self.second.max(second);
        let slot = &mut self.slots[(self.second % WINDOW_SLOTS as u64) as usize];
        *slot = (*slot).min(value);
    }

    fn min(&self) -> Option<u64> {
        self.slots.iter().copied().min().filter(|value| *value != Self::EMPTY)
    }
}

/// What HELLOs tell about a link.
#[derive(Clone, Debug)]
pub struct LinkEstimate {
    round_trips: WindowedMin,
    /// Of this node's HELLOs at the peer, in millionths, smoothed.
    loss: u64,
    loss_known: bool,
    jitter_micros: u64,
    last_transit: Option<i64>,
}

impl Default for LinkEstimate {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkEstimate {
    /// Knows nothing yet.
    pub const fn new() -> Self {
        Self { round_trips: WindowedMin::new(), loss: 0, loss_known: false, jitter_micros: 0, last_transit: None }
    }

    /// A HELLO came back as an echo after `round_trip`, without the time the peer held it.
    pub fn add_round_trip(&mut self, round_trip: Duration, now: Instant) {
        self.round_trips.add(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX - 1), now);
    }

    /// The peer has seen those of this node's HELLOs whose bit is set, the newest being number `newest` in bit 0.
    pub fn add_reception(&mut self, newest: u32, bitmap: u64) {
        let known = newest.min(u64::BITS);
        if known < LOSS_EVIDENCE {
            return;
        }
        let seen = (bitmap & (u64::MAX >> (u64::BITS - known))).count_ones();
        let sample = WHOLE * u64::from(known - seen) / u64::from(known);
        self.loss = if self.loss_known { (self.loss * 7 + sample) / 8 } else { sample };
        self.loss_known = true;
    }

    /// A HELLO sent at `sent_micros` of the peer's clock arrived: the jitter of RFC 3550, section 6.4.1.
    pub fn add_arrival(&mut self, sent_micros: u64, now: Instant) {
        let transit = (now.as_micros() as i64).wrapping_sub(sent_micros as i64);
        if let Some(last) = self.last_transit.replace(transit) {
            let difference = transit.wrapping_sub(last).unsigned_abs().min(1_000_000);
            self.jitter_micros = (self.jitter_micros * 15 + difference) / 16;
        }
    }

    /// The smallest round trip of the window.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trips.min().map(Duration::from_micros)
    }

    /// How much arrivals vary.
    pub const fn jitter(&self) -> Duration {
        Duration::from_micros(self.jitter_micros)
    }

    /// Share of HELLOs lost on the way to the peer, in millionths.
    pub const fn loss_per_million(&self) -> u64 {
        self.loss
    }

    /// What the link costs, if a round trip was ever measured.
    pub fn cost(&self, hop_penalty: Duration) -> Option<Metric> {
        let one_way = self.round_trips.min()? / 2;
        let quantised = one_way.div_ceil(QUANTUM_MICROS).saturating_mul(QUANTUM_MICROS);
        let kept = WHOLE - self.loss.min(LOSS_MAX);
        let with_loss = u128::from(quantised) * u128::from(WHOLE) * u128::from(WHOLE) / u128::from(kept * kept);
        let micros = with_loss.saturating_add(hop_penalty.as_micros());
        Some(Metric::from_micros(u32::try_from(micros).unwrap_or(u32::MAX).clamp(1, u32::MAX - 1)))
    }
}

/// Whether a metric has moved enough to be worth telling: by more than a tenth.
pub fn is_news(old: Metric, new: Metric) -> bool {
    let (old, new) = (u64::from(old.as_micros()), u64::from(new.as_micros()));
    new * 10 < old * 9 || new * 10 > old * 11
}

/// Whether `challenger` is better than `incumbent` by a fifth and by `margin`, both in the raw and in the smoothed form.
pub fn is_worth_switching(incumbent: (Metric, Metric), challenger: (Metric, Metric), margin: Duration) -> bool {
    let better = |incumbent: Metric, challenger: Metric| {
        let incumbent = u64::from(incumbent.as_micros());
        let needed = (incumbent / 5).max(margin.as_micros() as u64);
        u64::from(challenger.as_micros()) + needed <= incumbent
    };
    better(incumbent.0, challenger.0) && better(incumbent.1, challenger.1)
}

/// Moves `smoothed` towards `raw`: halfway in four seconds.
pub fn smooth(smoothed: Metric, raw: Metric, passed: Duration) -> Metric {
    const HALF_LIFE_MILLIS: i64 = 4_000;
    let passed = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX / 2).min(1_000_000);
    let (from, to) = (i64::from(smoothed.as_micros()), i64::from(raw.as_micros()));
    let moved = from + (to - from) * passed / (passed + HALF_LIFE_MILLIS);
    Metric::from_micros(u32::try_from(moved).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENALTY: Duration = Duration::from_micros(100);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn the_cost_is_half_the_smallest_round_trip_in_steps_of_100_us_and_the_hop() {
        let mut link = LinkEstimate::new();
        assert_eq!(link.cost(PENALTY), None, "nothing measured, nothing claimed");
        link.add_round_trip(Duration::from_micros(2_150), at(100));
        link.add_round_trip(Duration::from_micros(9_000), at(600));
        assert_eq!(link.cost(PENALTY), Some(Metric::from_micros(1_200)));
    }

    #[test]
    fn a_smallest_round_trip_is_forgotten_after_ten_seconds() {
        let mut link = LinkEstimate::new();
        link.add_round_trip(Duration::from_millis(1), at(500));
        link.add_round_trip(Duration::from_millis(4), at(9_900));
        assert_eq!(link.round_trip(), Some(Duration::from_millis(1)));
        link.add_round_trip(Duration::from_millis(5), at(10_600));
        assert_eq!(link.round_trip(), Some(Duration::from_millis(4)));
        link.add_round_trip(Duration::from_millis(7), at(90_000));
        assert_eq!(link.round_trip(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn loss_multiplies_the_delay_and_needs_evidence() {
        let mut link = LinkEstimate::new();
        link.add_round_trip(Duration::from_millis(2), at(1));
        link.add_reception(15, 0);
        assert_eq!(link.loss_per_million(), 0, "fifteen HELLOs prove nothing");
        link.add_reception(16, 0x5555);
        assert_eq!(link.loss_per_million(), 500_000);
        assert_eq!(link.cost(PENALTY), Some(Metric::from_micros(4_100)));
        for _ in 0..100 {
            link.add_reception(1_000, 0);
        }
        assert_eq!(link.cost(PENALTY), Some(Metric::from_micros(100_100)), "the factor ends at a hundred");
    }

    #[test]
    fn jitter_follows_arrivals_and_not_the_difference_of_clocks() {
        let mut link = LinkEstimate::new();
        for n in 0..50 {
            link.add_arrival(n * 25_000, at(1_000_000 + n * 25));
        }
        assert_eq!(link.jitter(), Duration::ZERO);
        for n in 50..200 {
            link.add_arrival(n * 25_000, at(1_000_000 + n * 25 + n % 2 * 4));
        }
        assert!((3_000..4_100).contains(&link.jitter().as_micros()), "{:?}", link.jitter());
    }

    #[test]
    fn a_tenth_is_no_news_and_a_fifth_is_no_reason_to_switch_below_the_margin() {
        let metric = Metric::from_micros;
        assert!(!is_news(metric(1_000), metric(1_100)) && !is_news(metric(1_000), metric(900)));
        assert!(is_news(metric(1_000), metric(1_101)) && is_news(metric(1_000), metric(899)));
        let margin = Duration::from_millis(2);
        let both = |micros| (metric(micros), metric(micros));
        assert!(!is_worth_switching(both(3_000), both(1_001), margin));
        assert!(is_worth_switching(both(3_000), both(1_000), margin));
        assert!(!is_worth_switching(both(50_000), both(40_001), margin));
        assert!(is_worth_switching(both(50_000), both(40_000), margin));
        assert!(!is_worth_switching(both(50_000), (metric(1_000), metric(49_000)), margin), "a dip is not a trend");
    }

    #[test]
    fn smoothing_goes_halfway_in_four_seconds() {
        let metric = Metric::from_micros;
        assert_eq!(smooth(metric(1_000), metric(3_000), Duration::from_secs(4)), metric(2_000));
        assert_eq!(smooth(metric(3_000), metric(1_000), Duration::from_secs(4)), metric(2_000));
        assert_eq!(smooth(metric(3_000), metric(1_000), Duration::ZERO), metric(3_000));
    }
}
