//! The receiving side: when to report.

use std::time::Duration;

use x0t_model::Instant;

use super::{FORGOTTEN_AFTER, REPORT_AFTER, REPORT_PACKETS, Receipt};

/// So many packets are reported before the time is up, if they were worth it.
const REPORT_COUNT: u32 = 64;
/// Reports are at least this far apart.
const SPACING: Duration = Duration::from_millis(5);
/// What a report costs on the wire at most, both copies of it. A report ahead of its time follows fifty times as many bytes, so
/// that reports take 2 % at most; the timely ones, fifty a second, are what a heartbeat costs.
const REPORT_COST: usize = 400;
/// A report speaks of what the last so many have spoken of, so that as many in a row may be lost.
const REPEATED: usize = 4;

/// What came in one session since the last report.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    packets: u32,
    bytes: usize,
    newest_at: Instant,
    reported_at: Option<Instant>,
    due: Option<Instant>,
    /// The newest packets of the last reports, oldest first.
    reported: [u64; REPEATED],
}

impl Inbound {
    pub(super) fn received(&mut self, count: u32, bytes: usize, at_once: bool, now: Instant) {
        self.packets = self.packets.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
        self.newest_at = now;
        let early = at_once || self.packets >= REPORT_COUNT && self.bytes >= 50 * REPORT_COST;
        let wanted = if early { now } else { now + REPORT_AFTER };
        let allowed = self.reported_at.map_or(Instant::ZERO, |at| at + SPACING);
        let due = wanted.max(allowed);
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a report is due. Asked once: it is taken as sent.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.since(self.newest_at) > FORGOTTEN_AFTER
    }

    pub(super) fn report(&mut self, highest: u64, now: Instant) -> Receipt {
        (self.packets, self.bytes, self.reported_at) = (0, 0, Some(now));
        let spoken_of = (highest + 1).saturating_sub(self.reported[0]).clamp(1, REPORT_PACKETS);
        self.reported.rotate_left(1);
        self.reported[REPEATED - 1] = highest + 1;
        Receipt { held: now.since(self.newest_at), words: spoken_of.div_ceil(64) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn a_report_follows_a_packet_in_twenty_milliseconds_and_a_probe_at_once() {
        let mut inbound = Inbound::default();
        inbound.received(1, 100, false, at(1_000));
        inbound.received(1, 100, false, at(1_010));
        assert_eq!(inbound.due(), Some(at(1_020)));
        assert!(!inbound.is_due(at(1_019)) && inbound.is_due(at(1_020)) && !inbound.is_due(at(1_020)));
        assert_eq!(inbound.report(9, at(1_020)), Receipt { held: Duration::from_millis(10), words: 1 });
        inbound.received(1, 100, true, at(1_021));
        assert_eq!(inbound.due(), Some(at(1_025)), "but never two reports within five");
    }

    #[test]
    fn reports_take_two_hundredths_of_what_they_report_on_or_fifty_a_second() {
        let mut inbound = Inbound::default();
        inbound.received(64, 64 * 80, false, at(1_000));
        assert_eq!(inbound.due(), Some(at(1_020)), "small packets are not worth more");
        let mut inbound = Inbound::default();
        let (mut now, mut reports, mut bytes) = (at(1_000), 0, 0);
        while now < at(2_000) {
            inbound.received(10, 12_000, false, now);
            bytes += 12_000;
            if inbound.is_due(now) {
                inbound.report(bytes as u64, now);
                reports += 1;
            }
            now += Duration::from_micros(500);
        }
        assert!((150..=201).contains(&reports) && reports * REPORT_COST * 50 <= bytes, "{reports} reports");
    }

    #[test]
    fn a_report_repeats_what_the_last_four_told_within_bounds() {
        let mut inbound = Inbound::default();
        inbound.received(1, 1, false, at(0));
        let words = [99, 199, 299, 399, 499, 1_000_000].map(|highest| inbound.report(highest, at(0)).words);
        assert_eq!(words, [2, 4, 5, 7, 7, 16]);
    }
}
