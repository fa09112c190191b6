//! How long a round trip takes (RFC 6298).

use std::collections::VecDeque;
use std::time::Duration;

use x0t_model::Instant;

/// Packets whose acknowledgement is still expected to tell a round trip.
const SENT_MAX: usize = 64;
/// A timeout is never below this: timers of a busy host slip.
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Nor above this: with a third of all packets lost, patience costs more than a packet.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Smoothed round trip and its variation.
#[derive(Clone, Debug)]
pub(crate) struct RoundTrip {
    initial: Duration,
    smoothed: Option<Duration>,
    variation: Duration,
    sent: VecDeque<(u64, Instant)>,
}

impl RoundTrip {
    pub(crate) const fn new(initial: Duration) -> Self {
        Self { initial, smoothed: None, variation: Duration::ZERO, sent: VecDeque::new() }
    }

    pub(crate) const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Packet `pn`, which asks for an ACK, left.
    pub(crate) fn on_sent(&mut self, pn: u64, now: Instant) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((pn, now));
    }

    /// Packet `pn` was acknowledged. A number is never used again, so a retransmission cannot blur the sample.
    pub(crate) fn on_ack(&mut self, pn: u64, now: Instant) {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == pn) else { return };
        let sample = now.since(self.sent[at].1);
        self.sent.remove(at);
        self.add(sample);
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// How long to wait for an acknowledgement after `tries` vain attempts.
    pub(crate) fn timeout(&self, tries: u32) -> Duration {
        let first = match self.smoothed {
            None => self.initial,
            Some(smoothed) => (smoothed + self.variation * 4).max(TIMEOUT_MIN),
        };
        first.saturating_mul(1 << tries.min(10)).min(TIMEOUT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_the_acknowledged_packet_is_a_sample() {
        let mut trip = RoundTrip::new(100 * MS);
        trip.on_sent(1, Instant::from_millis(0));
        trip.on_sent(2, Instant::from_millis(50));
        trip.on_ack(9, Instant::from_millis(60));
        assert_eq!(trip.smoothed(), None);
        trip.on_ack(2, Instant::from_millis(70));
        assert_eq!(trip.smoothed(), Some(20 * MS));
        trip.on_ack(2, Instant::from_millis(900));
        assert_eq!(trip.smoothed(), Some(20 * MS), "the same packet is no second sample");
    }

    #[test]
    fn a_timeout_doubles_and_is_bounded_on_both_sides() {
        let mut trip = RoundTrip::new(100 * MS);
        assert_eq!([0, 1, 2].map(|tries| trip.timeout(tries)), [100 * MS, 200 * MS, 400 * MS]);
        assert_eq!(trip.timeout(30), TIMEOUT_MAX);
        (0..50).for_each(|_| trip.add(MS / 100));
        assert_eq!(trip.timeout(0), TIMEOUT_MIN);
    }
}
