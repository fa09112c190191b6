//! How large a datagram passes a link: path MTU discovery by probes of our own (RFC 8899; RFC 9000, 14.3).
//!
//! Networks drop what is too large for them without a word more often than not, and a word (an ICMP "packet too big") can be
//! forged by anybody. So a size counts as passing only once the peer has acknowledged, under the session's keys, a packet of that
//! very size.
//!
//! ```text
//!        ┌────────────────────── lost ───────────────────────┐
//!        ▼                                                   │
//!   Departure { size } ── sent ──► Ack { size } ─────────────┤
//!        ▲                           │                       │ lost 3 times
//!        │ a size is left to try     ▼ acknowledged          ▼
//!        ├─────────────────── this size passes ──── this size does not; was it
//!        │                           │              the one in use: back to the base
//!        │ due: confirm, or raise    ▼ none is left          │
//!        └──────────────── Turn { confirm_at } ◄─────────────┘
//! ```
//!
//! While data flows, the size in use is confirmed every 200 ms, because a link may become thinner at any time (a route changes, a
//! tunnel comes up) and would then swallow all that is large: a black hole. On an idle link nobody suffers, and one confirmation in
//! ten seconds is all the traffic there is.

use std::time::Duration;

use x0t_model::Instant;

/// What passes any path fit for IPv6 or QUIC (RFC 9000, 14.1), and what handshake packets are limited to. Never probed.
pub const BASE: usize = 1200;

/// UDP payloads that real paths carry, for IPv6 and for IPv4 (48 and 28 bytes of headers): MTU 1280, 1400, 1420 (WireGuard), 1440,
/// 1460 (Google Cloud), 1480 (6in4), 1500, then baby giants, 4096, and the jumbo frames of clouds (8896) and switches (9000).
const LADDER: [usize; 14] = [1232, 1252, 1352, 1372, 1392, 1412, 1432, 1452, 1472, 2000, 4048, 8848, 8952, 8972];
/// Tried before anything smaller: an Ethernet MTU of 1500 is what there is nearly everywhere.
const FIRST_GUESS: usize = 1452;

/// A size that was lost so often does not pass (RFC 8899, 5.1.2: MAX_PROBES).
const TRIES: u32 = 3;
/// How often the size in use is confirmed while data flows.
const CONFIRM_ACTIVE: Duration = Duration::from_millis(200);
/// And while none does.
const CONFIRM_IDLE: Duration = Duration::from_secs(10);
/// Data counts as flowing for this long after the last of it.
const ACTIVE_FOR: Duration = Duration::from_secs(2);
/// A larger size is tried again after this long: at first soon, because three packets may have been lost for other reasons.
const RAISE_FIRST: Duration = Duration::from_secs(10);
/// The pause doubles up to this (RFC 8899, 5.1.1: PMTU_RAISE_TIMER).
const RAISE_MAX: Duration = Duration::from_secs(600);
/// The longest pause between two tries of a confirmation while the peer is silent altogether.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// What the machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    /// That a packet of `size` bytes is sent: at once.
    Departure { size: usize, vain: Vain },
    /// That the peer acknowledges it.
    Ack { size: usize, vain: Vain, sent_at: Instant, until: Instant },
    /// That the size in use has to be confirmed, or that a larger one may be tried.
    Turn { confirm_at: Instant },
}

/// Packets of one size that were not acknowledged in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vain {
    /// While other packets of the peer came.
    lost: u32,
    /// While the peer was silent altogether, which is not the size's fault.
    unheard: u32,
}

/// Path MTU discovery of one link. Sizes are bytes of UDP payload.
///
/// Send a packet of [`Self::due`] bytes and say so with [`Self::on_sent`], tell what was acknowledged, call
/// [`Self::handle_timeout`] at [`Self::deadline`].
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// The largest size that may be tried.
    max: usize,
    /// The size in use.
    confirmed: usize,
    /// The smallest size that is known not to pass; more than `max` if none is.
    too_large: usize,
    state: Awaiting,
    /// Numbers of the packets sent for the present size, so that a late acknowledgement is one still.
    asked: [Option<u64>; TRIES as usize],
    active_until: Instant,
    confirmed_at: Instant,
    /// When all that failed is tried again.
    raise_at: Instant,
    raise_after: Duration,
}

impl PathMtu {
    /// Discovery that begins at [`BASE`] and ends at `max`.
    pub(crate) fn new(max: usize, now: Instant) -> Self {
        let mut machine = Self {
            max,
            confirmed: BASE.min(max),
            too_large: max + 1,
            state: Awaiting::Turn { confirm_at: now },
            asked: [None; TRIES as usize],
            active_until: now,
            confirmed_at: now,
            raise_at: Instant::FAR_FUTURE,
            raise_after: RAISE_FIRST,
        };
        machine.search(now);
        machine
    }

    /// The size in use: the largest that is confirmed.
    pub(crate) const fn current(&self) -> usize {
        self.confirmed
    }

    /// Begins with what an earlier session found on the same path. Confirmed at once, for nobody knows what has changed.
    pub(crate) fn resume(&mut self, size: usize) {
        let size = size.min(self.max);
        if size > self.confirmed {
            self.confirmed = size;
            self.ask(size);
        }
    }

    /// The path may be another one: begins anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self { active_until: self.active_until, ..Self::new(self.max, now) };
    }

    /// Size of the packet to send now, if one is due.
    pub(crate) const fn due(&self) -> Option<usize> {
        match self.state {
            Awaiting::Departure { size, .. } => Some(size),
            Awaiting::Ack { .. } | Awaiting::Turn { .. } => None,
        }
    }

    /// The packet that was due left as number `pn`. Without an answer after `timeout` it counts as lost.
    pub(crate) fn on_sent(&mut self, pn: u64, timeout: Duration, now: Instant) {
        let Awaiting::Departure { size, vain } = self.state else { return };
        let patience = timeout.saturating_mul(1 << vain.unheard.min(10)).min(PATIENCE_MAX.max(timeout));
        self.asked[vain.lost.saturating_add(vain.unheard) as usize % self.asked.len()] = Some(pn);
        self.state = Awaiting::Ack { size, vain, sent_at: now, until: now + patience };
    }

    /// The peer received packet `pn`.
    pub(crate) fn on_ack(&mut self, pn: u64, now: Instant) {
        let (Awaiting::Ack { size, .. } | Awaiting::Departure { size, .. }) = self.state else { return };
        if !self.asked.contains(&Some(pn)) {
            return;
        }
        self.confirmed_at = now;
        if size > self.confirmed {
            self.confirmed = size;
            self.search(now);
        } else if self.too_large > self.max && self.next_size().is_some() {
            // Resumed: whether there is more to find is not known yet.
            self.search(now);
        } else {
            self.rest(now);
        }
    }

    /// Data passes over the link. True if the deadline came nearer.
    pub(crate) fn on_data(&mut self, now: Instant) -> bool {
        let was_idle = now >= self.active_until;
        self.active_until = now + ACTIVE_FOR;
        let Awaiting::Turn { confirm_at } = &mut self.state else { return false };
        // Never in the past: who finds a deadline long overdue takes it that this process did not run.
        let due = (self.confirmed_at + CONFIRM_ACTIVE).max(now);
        let sooner = was_idle && self.confirmed > BASE && due < *confirm_at;
        if sooner {
            *confirm_at = due;
        }
        sooner
    }

    /// The operating system refused to send `size` bytes: the link's device takes less.
    pub(crate) fn on_refused(&mut self, size: usize, now: Instant) {
        if size <= BASE || size >= self.too_large {
            return;
        }
        self.too_large = size;
        self.raise_after = RAISE_FIRST;
        let asked = match self.state {
            Awaiting::Departure { size, .. } | Awaiting::Ack { size, .. } => size,
            Awaiting::Turn { .. } => 0,
        };
        if size <= self.confirmed {
            self.confirmed = BASE.min(self.max);
            self.search(now);
        } else if size <= asked {
            self.search(now);
        }
    }

    /// Does what is due. `heard` is when the peer was heard last.
    pub(crate) fn handle_timeout(&mut self, heard: Instant, now: Instant) {
        match self.state {
            Awaiting::Ack { size, mut vain, sent_at, until } if now >= until => {
                let counts = size > self.confirmed || heard > sent_at;
                let count = if counts { &mut vain.lost } else { &mut vain.unheard };
                *count = count.saturating_add(1);
                if vain.lost >= TRIES {
                    self.give_up(size, now);
                } else {
                    self.state = Awaiting::Departure { size, vain };
                }
            }
            Awaiting::Turn { .. } if now >= self.raise_at => {
                self.raise_after = (self.raise_after * 2).min(RAISE_MAX);
                self.too_large = self.max + 1;
                self.search(now);
            }
            Awaiting::Turn { confirm_at } if now >= confirm_at => self.ask(self.confirmed),
            Awaiting::Ack { .. } | Awaiting::Departure { .. } | Awaiting::Turn { .. } => {}
        }
    }

    /// When [`Self::handle_timeout`] has something to do. Not asked for while a packet is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            Awaiting::Departure { .. } => None,
            Awaiting::Ack { until, .. } => Some(until),
            Awaiting::Turn { confirm_at } => Some(confirm_at.min(self.raise_at)),
        }
    }

    /// `size` does not pass.
    fn give_up(&mut self, size: usize, now: Instant) {
        self.too_large = size;
        if size <= self.confirmed {
            self.confirmed = BASE.min(self.max);
            self.raise_after = RAISE_FIRST;
        }
        self.search(now);
    }

    /// Asks for the next larger size, or rests.
    fn search(&mut self, now: Instant) {
        if let Some(size) = self.next_size() {
            return self.ask(size);
        }
        let nothing_failed = self.too_large > self.max;
        self.raise_at = if nothing_failed { Instant::FAR_FUTURE } else { now + self.raise_after };
        self.rest(now);
    }

    /// The next size between the one that passes and the one that does not.
    fn next_size(&self) -> Option<usize> {
        let between = |size: &usize| (self.confirmed + 1..self.too_large).contains(size);
        if between(&FIRST_GUESS) {
            return Some(FIRST_GUESS);
        }
        LADDER.into_iter().find(between)
    }

    fn ask(&mut self, size: usize) {
        self.asked = [None; TRIES as usize];
        self.state = Awaiting::Departure { size, vain: Vain::default() };
    }

    fn rest(&mut self, now: Instant) {
        let pause = if now < self.active_until { CONFIRM_ACTIVE } else { CONFIRM_IDLE };
        // The base is never in question: what carries no 1200 bytes carries no session either.
        let confirm_at = if self.confirmed > BASE { now + pause } else { Instant::FAR_FUTURE };
        self.state = Awaiting::Turn { confirm_at };
    }
}

#[cfg(test)]
mod tests;
