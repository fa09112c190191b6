//! One direction of a link: pure, seeded, told the time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use x0t_model::{Entropy, Instant, Seed};

use crate::Faults;

/// Datagrams that may be on their way in one direction. A real link has a buffer too; 4,096 packets of 1,400 bytes are
/// half a second at 100 Mbit/s.
pub const QUEUE_DATAGRAMS_MAX: usize = 4_096;
/// Bytes that may be on their way in one direction.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;
/// A datagram held back for reordering goes on after this long even if nothing overtook it: longer than the gap between
/// packets of an interactive stream, shorter than a retransmission timeout.
pub const REORDER_HOLD: Duration = Duration::from_millis(25);

/// What became of the datagrams of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelStats {
    /// Handed to the channel.
    pub received: u64,
    /// Handed on, duplicates included.
    pub passed: u64,
    /// Dropped because the channel was blocked, those under way at that instant included.
    pub blocked: u64,
    /// Lost by the dice.
    pub lost: u64,
    /// Dropped because too much was under way.
    pub overflowed: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Datagrams in which a bit was flipped.
    pub corrupted: u64,
    /// Datagrams held back to be overtaken.
    pub reordered: u64,
}

/// One direction of a link. Call [`Self::handle_datagram`] for what comes in, then [`Self::poll_transmit`] until it gives
/// `None`, and again when the instant of [`Self::poll_timeout`] has come.
#[derive(Debug)]
pub struct Channel {
    faults: Faults,
    entropy: Entropy,
    /// Under way, by when it is due and the order in which it left.
    queue: BTreeMap<(Instant, u64), Vec<u8>>,
    queued_bytes: usize,
    departures: u64,
    /// Waits to be overtaken, no longer than the instant.
    held: Option<(Instant, Vec<u8>)>,
    /// The link is busy sending until then (rate limit).
    busy_until: Instant,
    /// Nothing is due before what left earlier: jitter does not reorder.
    last_due: Instant,
    stats: ChannelStats,
}

impl Channel {
    /// A perfect channel, whose dice grow from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self {
            faults: Faults::NONE,
            entropy: Entropy::new(seed),
            queue: BTreeMap::new(),
            queued_bytes: 0,
            departures: 0,
            held: None,
            busy_until: Instant::ZERO,
            last_due: Instant::ZERO,
            stats: ChannelStats::default(),
        }
    }

    /// What is wrong with it.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Changes what is wrong with it. What is already under way keeps its due time, except that blocking loses all of it.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        if faults.blocked {
            self.stats.blocked += (self.queue.len() + usize::from(self.held.is_some())) as u64;
            self.queue.clear();
            self.queued_bytes = 0;
            self.held = None;
            self.busy_until = Instant::ZERO;
            self.last_due = Instant::ZERO;
        }
    }

    /// A datagram enters at `now`. Poll afterwards: it may be due at once.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        self.stats.received += 1;
        if self.faults.blocked {
            self.stats.blocked += 1;
            return;
        }
        if self.roll(self.faults.loss_permille) {
            self.stats.lost += 1;
            return;
        }
        if self.roll(self.faults.duplicate_permille) {
            self.stats.duplicated += 1;
            self.depart(datagram.to_vec(), now);
        }
        self.depart(datagram.to_vec(), now);
    }

    /// The next datagram that is due at `now`.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.held.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.release_held(now);
        }
        let next = self.queue.first_entry().filter(|next| next.key().0 <= now)?;
        let datagram = next.remove();
        self.queued_bytes -= datagram.len();
        self.stats.passed += 1;
        Some(datagram)
    }

    /// When to poll again, if nothing comes in before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.queue.first_key_value().map(|(&(due, _), _)| due);
        let release = self.held.as_ref().map(|&(until, _)| until);
        due.into_iter().chain(release).min()
    }

    /// What became of everything so far.
    pub fn stats(&self) -> ChannelStats {
        self.stats
    }

    fn depart(&mut self, mut datagram: Vec<u8>, now: Instant) {
        if !datagram.is_empty() && self.roll(self.faults.corrupt_permille) {
            self.stats.corrupted += 1;
            let bit = self.entropy.below(8 * datagram.len() as u64) as usize;
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let held = usize::from(self.held.is_some());
        if self.queue.len() + held >= QUEUE_DATAGRAMS_MAX || self.queued_bytes + datagram.len() > QUEUE_BYTES_MAX {
            self.stats.overflowed += 1;
            return;
        }
        if self.held.is_none() && self.roll(self.faults.reorder_permille) {
            self.stats.reordered += 1;
            self.held = Some((now + self.faults.delay + REORDER_HOLD, datagram));
            return;
        }
        let due = self.due(datagram.len(), now);
        self.enqueue(due, datagram);
        self.release_held(due);
    }

    /// When a datagram of `len` bytes that leaves at `now` arrives.
    fn due(&mut self, len: usize, now: Instant) -> Instant {
        let sent = match self.faults.bytes_per_second {
            Some(rate) => {
                let nanos = (len as u64).saturating_mul(1_000_000_000) / rate.max(1);
                self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
                self.busy_until
            }
            None => now,
        };
        let jitter_ns = u64::try_from(self.faults.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = if jitter_ns == 0 { 0 } else { self.entropy.below(jitter_ns.saturating_add(1)) };
        self.last_due = self.last_due.max(sent + self.faults.delay + Duration::from_nanos(jitter));
        self.last_due
    }

    fn release_held(&mut self, due: Instant) {
        if let Some((_, datagram)) = self.held.take() {
            self.enqueue(due, datagram);
        }
    }

    fn enqueue(&mut self, due: Instant, datagram: Vec<u8>) {
        self.queued_bytes += datagram.len();
        self.queue.insert((due, self.departures), datagram);
        self.departures += 1;
    }

    /// Dice are rolled only for what is wrong, so that a fault which is off does not shift the dice of another.
    fn roll(&mut self, permille: u16) -> bool {
        permille > 0 && self.entropy.below(1_000) < u64::from(permille)
    }
}
