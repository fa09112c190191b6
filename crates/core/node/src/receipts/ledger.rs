//! What was sent lately, by which way, and what the far end has said about it.

use std::collections::VecDeque;
use std::time::Duration;

use x0t_model::Instant;

use super::way::{Size, Way};

/// Runs remembered. When they are used up, further packets go unwatched until older ones are judged: at very high rates
/// a sample is watched, and a sample is enough.
const RUNS_MAX: usize = 512;
/// Packets of one run.
const RUN_PACKETS: u64 = 64;
/// Packets sent this soon after a run's first may join it: what is measured is coarser than that.
const RUN_TIME: Duration = Duration::from_millis(1);
/// A packet that is missing may still come until one sent this much later has come by the same way.
const REORDERING: Duration = Duration::from_millis(25);
/// Nothing more will be heard of a packet this old.
const OBLIVION: Duration = Duration::from_secs(3);

/// What a far end says about the packets of one session: bit `i` of the words stands for packet `highest - i`.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The highest number that arrived.
    pub highest: u64,
    /// Which of the numbers from there on downwards arrived.
    pub words: &'a [u64],
}

impl Seen<'_> {
    /// How many numbers it speaks of.
    fn len(&self) -> u64 {
        self.words.len() as u64 * 64
    }

    /// Of the `count` numbers up to `last`: which it speaks of, and which arrived. Bit `k` stands for `last - k`.
    fn of(&self, last: u64, count: u32) -> (u64, u64) {
        let wanted = u64::MAX >> (64 - count);
        let (spoken, arrived) = match last.checked_sub(self.highest) {
            // The newest of them were under way.
            Some(ahead) if ahead > 0 => {
                let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
                let up = |bits: u64| bits.checked_shl(shift).unwrap_or(0);
                (up(self.spoken(0)), up(self.arrived(0)))
            }
            _ => (self.spoken(self.highest - last), self.arrived(self.highest - last)),
        };
        (spoken & wanted, arrived & wanted)
    }

    /// 64 bits from bit `from` on: is the number spoken of?
    fn spoken(&self, from: u64) -> u64 {
        match self.len().saturating_sub(from) {
            left if left >= 64 => u64::MAX,
            left => (1 << left) - 1,
        }
    }

    /// 64 bits from bit `from` on: did the number arrive?
    fn arrived(&self, from: u64) -> u64 {
        let word = |at: u64| self.words.get(at as usize).copied().unwrap_or(0);
        let (at, shift) = (from / 64, from % 64);
        let high = if shift == 0 { 0 } else { word(at + 1) << (64 - shift) };
        word(at) >> shift | high
    }
}

/// Consecutive packets of one size that went one way at one time. Bit `k` of the masks stands for packet `last - k`.
#[derive(Clone, Copy, Debug)]
struct Run {
    last: u64,
    sent_at: Instant,
    /// Spoken of by a report that also speaks of a later packet of the same way.
    judged: u64,
    seen: u64,
    count: u8,
    way: u8,
    size: Size,
}

impl Run {
    fn first(&self) -> u64 {
        self.last + 1 - u64::from(self.count)
    }
}

/// The runs of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    runs: VecDeque<Run>,
}

impl Ledger {
    /// Packets `first ..` went by `way`. How many of them are watched.
    pub(super) fn sent(&mut self, first: u64, count: u32, way: u8, size: Size, now: Instant) -> u32 {
        let (mut next, end) = (first, first.saturating_add(u64::from(count)));
        while next < end {
            let is_full = self.runs.len() == RUNS_MAX;
            let run = match self.runs.back_mut() {
                Some(run)
                    if run.last + 1 == next
                        && (run.way, run.size) == (way, size)
                        && u64::from(run.count) < RUN_PACKETS
                        && run.seen | run.judged == 0
                        && now.since(run.sent_at) <= RUN_TIME =>
                {
                    run
                }
                _ if is_full => break,
                _ => {
                    self.runs.push_back(Run { last: next, sent_at: now, judged: 0, seen: 0, count: 1, way, size });
                    next += 1;
                    continue;
                }
            };
            let more = (end - next).min(RUN_PACKETS - u64::from(run.count));
            run.last += more;
            run.count += more as u8;
            next += more;
        }
        (next - first) as u32
    }

    /// Applies a report: advances and tallies the ways, and forgets what is settled.
    /// `held` is how long the far end kept it, `overtaking` how many packets a packet lets pass before it leaves.
    pub(super) fn report(
        &mut self,
        seen: Seen<'_>,
        (held, overtaking): (Duration, u64),
        ways: &mut [Way],
        now: Instant,
    ) {
        for run in self.runs.iter_mut().take_while(|run| run.first() <= seen.highest) {
            let Some(way) = ways.get_mut(usize::from(run.way)) else { continue };
            let (_, arrived) = seen.of(run.last, run.count.into());
            let news = arrived & !run.seen;
            if news != 0 {
                run.seen |= arrived;
                way.arrived(run.last - u64::from(news.trailing_zeros()), (news.count_ones(), run.size), run.sent_at);
                // What it was held for counts from the arrival of the highest.
                let tells_time = run.last.checked_sub(seen.highest).is_some_and(|ahead| news >> ahead & 1 == 1);
                if tells_time {
                    way.round_trip(now.since(run.sent_at).saturating_sub(held));
                }
            }
        }
        ways.iter_mut().for_each(Way::recount);
        self.runs.retain_mut(|run| {
            let Some(way) = ways.get_mut(usize::from(run.way)) else { return false };
            let late = way.newest().is_some_and(|(_, sent_at)| sent_at >= run.sent_at + REORDERING);
            let overtaken = way.newest().is_some_and(|(pn, _)| pn > run.last && (late || pn - run.last > overtaking));
            if overtaken {
                let (spoken, _) = seen.of(run.last, run.count.into());
                run.judged |= spoken | run.seen;
            }
            let whole = run.seen.count_ones() == u32::from(run.count);
            let out_of_sight = seen.highest.saturating_sub(run.last) >= super::REPORT_PACKETS;
            if whole || overtaken && (late || out_of_sight) {
                let judged = run.judged | run.seen;
                way.tally(run.size, judged.count_ones(), (judged & !run.seen).count_ones(), now);
                return false;
            }
            let after = way.newest().map_or(0, |(pn, _)| pn + 1);
            if run.last >= after {
                let count = run.last + 1 - run.first().max(after);
                way.still_outstanding(count as u32, run.sent_at);
            }
            now.since(run.sent_at) < OBLIVION
        });
    }

    /// Another neighbour's way takes the place of `way`.
    pub(super) fn forget_way(&mut self, way: u8) {
        self.runs.retain(|run| run.way != way);
    }

    pub(super) fn clear(&mut self) {
        self.runs = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(highest: u64, words: &[u64], last: u64, count: u32) -> (u64, u64) {
        Seen { highest, words }.of(last, count)
    }

    #[test]
    fn a_report_is_read_from_any_place() {
        // 1000, 998 and 936 arrived; the report speaks of 873 and above.
        let words = [0b101, 1];
        assert_eq!(of(1_000, &words, 1_000, 3), (0b111, 0b101));
        assert_eq!(of(1_000, &words, 999, 2), (0b11, 0b10));
        assert_eq!(of(1_000, &words, 1_002, 4), (0b1100, 0b0100), "1001 and 1002 were under way");
        assert_eq!(of(1_000, &words, 940, 8), (0xff, 0b1_0000));
        assert_eq!(of(1_000, &words, 874, 4), (0b11, 0), "872 and 871 are beyond it");
        assert_eq!(of(1_000, &words, 800, 64), (0, 0));
        assert_eq!(of(1_000, &words, 1_100, 64), (0, 0));
        assert_eq!(of(3, &[u64::MAX], 3, 4), (0b1111, 0b1111));
    }

    #[test]
    fn packets_of_one_moment_make_one_run_and_the_number_of_runs_is_bounded() {
        let mut ledger = Ledger::default();
        let at = Instant::from_millis;
        assert_eq!(ledger.sent(0, 60, 0, Size::Large, at(0)), 60);
        assert_eq!(ledger.sent(60, 60, 0, Size::Large, at(0)), 60);
        assert_eq!(ledger.runs.len(), 2);
        ledger.sent(120, 1, 0, Size::Small, at(0));
        ledger.sent(121, 1, 1, Size::Small, at(0));
        ledger.sent(122, 1, 1, Size::Small, at(5));
        ledger.sent(124, 1, 1, Size::Small, at(5));
        assert_eq!(ledger.runs.len(), 6, "another size, way, time, or a gap begins another");
        assert_eq!(ledger.sent(1_000, 1_000_000, 0, Size::Large, at(9)), (RUNS_MAX as u32 - 6) * 64);
        assert_eq!(ledger.sent(2_000_000, 1, 0, Size::Large, at(9)), 0);
    }
}
