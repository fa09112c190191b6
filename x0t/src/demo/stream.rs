//! The packets that are sent from end to end, what became of them, and what that says about an interruption. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use x0t_model::Instant;

/// Time between two packets.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// A packet that was not answered within this time is lost. More than any path of the demo needs by a factor of a hundred.
pub const LOST_AFTER: Duration = Duration::from_millis(400);
/// Packets sent this long before a fault may have been under way when it struck.
pub const UNDER_WAY: Duration = Duration::from_millis(20);
/// Packets remembered: 10 minutes.
const PACKETS_MAX: usize = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Waiting,
    Answered { rtt: Duration },
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    sent_at: Instant,
    outcome: Outcome,
}

/// Every packet of the last 10 minutes, in the order in which they were sent.
#[derive(Debug, Default)]
pub struct Stream {
    packets: VecDeque<Packet>,
    /// Sequence number of the first one in `packets`.
    first: u64,
    totals: Totals,
}

/// How many packets, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Sent.
    pub sent: u64,
    /// Answered in time.
    pub answered: u64,
    /// Not answered in time.
    pub lost: u64,
}

/// What a fault did to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Packets that were lost.
    pub lost: u64,
    /// From the fault to the instant at which the first packet was sent that was answered and after which none was lost;
    /// zero if none was lost at all, `None` if the stream was not restored.
    pub restored: Option<Duration>,
}

/// A short stretch of the stream, for a picture of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// When it begins, in milliseconds since the start.
    pub at_ms: u64,
    /// Packets sent in it that were answered.
    pub answered: u32,
    /// Packets sent in it that were lost.
    pub lost: u32,
    /// The longest round trip in it, microseconds.
    pub rtt_us: Option<u32>,
}

impl Stream {
    /// A packet leaves; gives its sequence number.
    pub fn send(&mut self, now: Instant) -> u64 {
        if self.packets.len() == PACKETS_MAX {
            self.packets.pop_front();
            self.first += 1;
        }
        self.packets.push_back(Packet { sent_at: now, outcome: Outcome::Waiting });
        self.totals.sent += 1;
        self.first + self.packets.len() as u64 - 1
    }

    /// A packet was answered.
    pub fn answer(&mut self, sequence: u64, rtt: Duration) {
        let outcome = if rtt <= LOST_AFTER { Outcome::Answered { rtt } } else { Outcome::Lost };
        self.conclude(sequence, outcome);
    }

    /// A packet was not answered in time, or could not be sent.
    pub fn lose(&mut self, sequence: u64) {
        self.conclude(sequence, Outcome::Lost);
    }

    fn conclude(&mut self, sequence: u64, outcome: Outcome) {
        let index = sequence.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(packet) = index.and_then(|index| self.packets.get_mut(index)) else { return };
        if packet.outcome != Outcome::Waiting {
            return;
        }
        packet.outcome = outcome;
        match outcome {
            Outcome::Answered { .. } => self.totals.answered += 1,
            Outcome::Lost => self.totals.lost += 1,
            Outcome::Waiting => {}
        }
    }

    /// How many packets, since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether a packet sent after `since` was answered, and none of those after it is known to be lost.
    pub fn is_alive(&self, since: Instant) -> bool {
        let concluded = self.packets.iter().rev().take_while(|packet| packet.sent_at >= since);
        concluded
            .map(|packet| packet.outcome)
            .find(|outcome| *outcome != Outcome::Waiting)
            .is_some_and(|newest| newest != Outcome::Lost)
    }

    /// How many packets sent in a row until `until` were answered; those still waiting for an answer do not count.
    pub fn answered_in_a_row(&self, until: Instant) -> usize {
        let before = self
            .packets
            .iter()
            .rev()
            .skip_while(|packet| packet.sent_at >= until || packet.outcome == Outcome::Waiting);
        before.take_while(|packet| matches!(packet.outcome, Outcome::Answered { .. })).count()
    }

    /// Whether it is known what became of every packet sent before `until`.
    pub fn is_concluded(&self, until: Instant) -> bool {
        self.packets
            .iter()
            .rev()
            .filter(|packet| packet.sent_at < until)
            .all(|packet| packet.outcome != Outcome::Waiting)
    }

    /// What a fault at `fault` that was taken away at `until` did. Ask once [`Self::is_concluded`].
    pub fn outage(&self, fault: Instant, until: Instant) -> Outage {
        let within = |packet: &&Packet| packet.sent_at >= fault - UNDER_WAY && packet.sent_at < until;
        let mut outage = Outage { lost: 0, restored: Some(Duration::ZERO) };
        for packet in self.packets.iter().filter(within) {
            match (packet.outcome, outage.restored) {
                (Outcome::Answered { .. }, None) => outage.restored = Some(packet.sent_at.since(fault)),
                (Outcome::Answered { .. } | Outcome::Waiting, _) => {}
                (Outcome::Lost, _) => {
                    outage.lost += 1;
                    outage.restored = None;
                }
            }
        }
        outage
    }

    /// Packets lost among those sent from `from` until `until`.
    pub fn lost_between(&self, from: Instant, until: Instant) -> u64 {
        let within = self.packets.iter().filter(|packet| packet.sent_at >= from && packet.sent_at < until);
        within.filter(|packet| packet.outcome == Outcome::Lost).count() as u64
    }

    /// Round-trip times of the packets sent since `since`, microseconds, ascending.
    pub fn round_trips(&self, since: Instant) -> Vec<u32> {
        let recent = self.packets.iter().rev().take_while(|packet| packet.sent_at >= since);
        let mut rtts: Vec<u32> = recent.filter_map(Packet::rtt_us).collect();
        rtts.sort_unstable();
        rtts
    }

    /// The stream between `from` and `now` in stretches of `step`, times counted from `origin`.
    pub fn buckets(&self, origin: Instant, from: Instant, step: Duration) -> Vec<Bucket> {
        let step_ms = step.as_millis().max(1) as u64;
        let mut buckets: Vec<Bucket> = Vec::new();
        let start = self.packets.partition_point(|packet| packet.sent_at < from);
        for packet in self.packets.range(start..) {
            let at_ms = packet.sent_at.since(origin).as_millis() as u64 / step_ms * step_ms;
            if buckets.last().is_none_or(|bucket| bucket.at_ms != at_ms) {
                buckets.push(Bucket { at_ms, ..Bucket::default() });
            }
            let Some(bucket) = buckets.last_mut() else { continue };
            match packet.outcome {
                Outcome::Answered { .. } => {
                    bucket.answered += 1;
                    bucket.rtt_us = bucket.rtt_us.max(packet.rtt_us());
                }
                Outcome::Lost => bucket.lost += 1,
                Outcome::Waiting => {}
            }
        }
        buckets
    }
}

impl Packet {
    fn rtt_us(&self) -> Option<u32> {
        match self.outcome {
            Outcome::Answered { rtt } => Some(u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
            Outcome::Waiting | Outcome::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One packet every 10 ms from 0 on: `.` is answered after 2 ms, `x` is lost, `?` still waits.
    fn stream(outcomes: &str) -> Stream {
        let mut stream = Stream::default();
        for (index, outcome) in outcomes.chars().enumerate() {
            let sequence = stream.send(Instant::from_millis(10 * index as u64));
            match outcome {
                '.' => stream.answer(sequence, 2 * MS),
                'x' => stream.lose(sequence),
                _ => {}
            }
        }
        stream
    }

    fn outage(outcomes: &str, fault_ms: u64) -> Outage {
        stream(outcomes).outage(Instant::from_millis(fault_ms), Instant::FAR_FUTURE)
    }

    #[test]
    fn the_stream_is_restored_with_the_first_packet_after_the_last_loss() {
        assert_eq!(outage("...xxxxx....", 35), Outage { lost: 5, restored: Some(45 * MS) });
        assert_eq!(outage("...xx..x....", 35), Outage { lost: 3, restored: Some(45 * MS) }, "a later gap counts");
        assert_eq!(outage("...xxxxx", 35), Outage { lost: 5, restored: None });
        assert_eq!(outage("............", 35), Outage { lost: 0, restored: Some(Duration::ZERO) });
        assert_eq!(outage("x..xx....x..", 35).lost, 3, "what was lost long before is not the fault's");
    }

    #[test]
    fn packets_after_the_fault_was_taken_away_do_not_count() {
        let stream = stream("...xx..xx..");
        let fault = Instant::from_millis(30);
        assert_eq!(stream.outage(fault, Instant::from_millis(70)), Outage { lost: 2, restored: Some(20 * MS) });
        assert_eq!(stream.lost_between(Instant::from_millis(70), Instant::FAR_FUTURE), 2);
    }

    #[test]
    fn a_late_answer_is_a_loss_and_the_first_word_stands() {
        let mut stream = stream("??");
        stream.answer(0, LOST_AFTER + MS);
        stream.answer(0, MS);
        stream.answer(1, MS);
        stream.lose(1);
        stream.lose(77);
        assert_eq!(stream.totals(), Totals { sent: 2, answered: 1, lost: 1 });
    }

    #[test]
    fn it_is_alive_as_long_as_the_newest_known_packet_was_answered() {
        assert!(stream("xx.??").is_alive(Instant::ZERO));
        assert!(!stream("..x??").is_alive(Instant::ZERO));
        assert!(!stream("..???").is_alive(Instant::from_millis(20)), "nothing is known of the recent ones");
        assert!(!Stream::default().is_alive(Instant::ZERO));
    }

    #[test]
    fn answers_in_a_row_are_counted_backwards_and_waiting_ones_skipped() {
        assert_eq!(stream("..x...??").answered_in_a_row(Instant::FAR_FUTURE), 3);
        assert_eq!(stream("..x...??").answered_in_a_row(Instant::from_millis(40)), 1);
        assert_eq!(stream("..x").answered_in_a_row(Instant::FAR_FUTURE), 0);
    }

    #[test]
    fn it_is_concluded_when_nothing_waits() {
        let stream = stream("..x?");
        assert!(stream.is_concluded(Instant::from_millis(30)));
        assert!(!stream.is_concluded(Instant::from_millis(31)));
    }

    #[test]
    fn old_packets_are_forgotten_and_numbers_go_on() {
        let mut stream = Stream::default();
        for index in 0..=PACKETS_MAX as u64 {
            assert_eq!(stream.send(Instant::from_millis(index)), index);
        }
        assert_eq!(stream.packets.len(), PACKETS_MAX);
        stream.answer(0, MS);
        stream.answer(PACKETS_MAX as u64, MS);
        assert_eq!(stream.totals().answered, 1, "the first one is forgotten");
    }

    #[test]
    fn buckets_hold_the_worst_round_trip_and_the_losses() {
        let mut stream = stream("..........x.");
        let slow = stream.send(Instant::from_millis(120));
        stream.answer(slow, 9 * MS);
        let buckets = stream.buckets(Instant::ZERO, Instant::ZERO, 100 * MS);
        assert_eq!(
            buckets,
            [
                Bucket { at_ms: 0, answered: 10, lost: 0, rtt_us: Some(2_000) },
                Bucket { at_ms: 100, answered: 2, lost: 1, rtt_us: Some(9_000) },
            ]
        );
        assert_eq!(stream.round_trips(Instant::from_millis(100)), [2_000, 9_000]);
    }
}
