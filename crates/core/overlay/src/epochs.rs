//! Key epochs: keys are replaced under traffic (RFC 9001 section 6, with the epoch's low byte in the header).
//!
//! ```text
//!            due, and the peer has used epoch n              the peer's first packet of epoch n+1
//!  epoch n ─────────────────────────────────────► epoch n+1 ─────────────────────────────────────► previous keys
//!            or the peer's first packet of n+1      (unconfirmed: previous keys kept)                for the grace
//! ```
//!
//! Keys of an epoch follow from those before it, for both directions at once, so it does not matter who moves first, nor if
//! both do. Nobody moves again before the peer has followed.

use std::sync::Arc;
use std::time::Duration;

use x0t_model::Instant;

use crate::{Ahead, KeyError, KeyPair, NextKeys, PacketKey, TAG_LEN};

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// Sealed in an epoch that is over or not begun.
    UnknownEpoch,
    /// Not authentic.
    Forged,
    /// Not authentic, and one too many: the keys must not be used any more.
    IntegrityLimit,
}

/// When keys are replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RekeyPolicy {
    pub(crate) packets: u64,
    pub(crate) age: Duration,
    pub(crate) grace: Duration,
}

impl RekeyPolicy {
    /// For the side that only follows: late enough that it moves first only if the other side does not see the traffic.
    pub(crate) fn for_responder(self) -> Self {
        Self { packets: self.packets.saturating_mul(3) / 2, age: self.age * 3 / 2, ..self }
    }
}

/// The keys of a session at work.
pub(crate) struct Epochs {
    policy: RekeyPolicy,
    number: u32,
    since: Instant,
    keys: KeyPair,
    /// Derived when it is first needed: most sessions are over before.
    next: Option<KeyPair>,
    schedule: Box<dyn NextKeys>,
    previous: Option<Previous>,
    /// Whether the peer has used this epoch's keys.
    confirmed: bool,
    sealed: u64,
    opened: u64,
    failed: u64,
}

struct Previous {
    remote: Arc<dyn PacketKey>,
    /// Set once the peer has moved on.
    until: Option<Instant>,
}

impl Previous {
    fn is_live(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Epochs {
    pub(crate) fn new(policy: RekeyPolicy, keys: KeyPair, schedule: Box<dyn NextKeys>, now: Instant) -> Self {
        Self {
            policy,
            number: 0,
            since: now,
            keys,
            next: None,
            schedule,
            previous: None,
            confirmed: false,
            sealed: 0,
            opened: 0,
            failed: 0,
        }
    }

    /// From 0 for the keys of the handshake.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the peer has used this epoch's keys.
    pub(crate) const fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the key has sealed all it may.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.sealed >= self.keys.local.confidentiality_limit()
    }

    /// Seals `data`; `None` once the key has sealed all it may.
    pub(crate) fn seal(&mut self, pn: u64, aad: &[u8], data: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        if self.is_exhausted() {
            return None;
        }
        self.sealed += 1;
        self.keys.local.seal(pn, aad, data).ok()
    }

    /// Takes `count` packets from what the key may seal, and lends the key; `None` if it may not seal so many.
    pub(crate) fn reserve(&mut self, count: u64) -> Option<&Arc<dyn PacketKey>> {
        let sealed = self.sealed.checked_add(count)?;
        if sealed > self.keys.local.confidentiality_limit() {
            return None;
        }
        self.sealed = sealed;
        Some(&self.keys.local)
    }

    /// What opens packets of this epoch.
    pub(crate) const fn remote(&self) -> &Arc<dyn PacketKey> {
        &self.keys.remote
    }

    /// Judges what was opened with this epoch's key or with one before it, as [`Self::open`] would have.
    pub(crate) fn judge(&mut self, ahead: Ahead, now: Instant) -> Result<usize, OpenError> {
        let is_current = match self.number.wrapping_sub(ahead.epoch) {
            0 => true,
            1 if self.previous.as_ref().is_some_and(|previous| previous.is_live(now)) => false,
            _ => return Err(OpenError::UnknownEpoch),
        };
        let opened = ahead.plain_len.map(|len| len as usize).ok_or(KeyError);
        if opened.is_ok() && is_current {
            self.opened += 1;
            self.confirm(now);
        }
        opened.map_err(|KeyError| self.count_failure())
    }

    fn count_failure(&mut self) -> OpenError {
        self.failed += 1;
        let exhausted = self.failed >= self.keys.remote.integrity_limit();
        if exhausted { OpenError::IntegrityLimit } else { OpenError::Forged }
    }

    /// Opens `data`, which names the low byte of its epoch. Follows the peer into the next epoch.
    pub(crate) fn open(
        &mut self,
        epoch: u8,
        pn: u64,
        aad: &[u8],
        data: &mut [u8],
        now: Instant,
    ) -> Result<usize, OpenError> {
        let opened = match epoch.wrapping_sub(self.number as u8) {
            0 => {
                let opened = self.keys.remote.open(pn, aad, data);
                if opened.is_ok() {
                    self.opened += 1;
                    self.confirm(now);
                }
                opened
            }
            1 if self.confirmed => {
                let next = self.next.get_or_insert_with(|| self.schedule.next_keys());
                let opened = next.remote.open(pn, aad, data);
                if opened.is_ok() {
                    self.advance(now);
                    self.opened += 1;
                    self.confirm(now);
                }
                opened
            }
            u8::MAX => {
                let live = self.previous.as_ref().filter(|previous| previous.is_live(now));
                live.ok_or(OpenError::UnknownEpoch)?.remote.open(pn, aad, data)
            }
            _ => return Err(OpenError::UnknownEpoch),
        };
        opened.map_err(|KeyError| self.count_failure())
    }

    fn confirm(&mut self, now: Instant) {
        if !self.confirmed {
            self.confirmed = true;
            if let Some(previous) = &mut self.previous {
                previous.until = Some(now + self.policy.grace);
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        let next = self.next.take().unwrap_or_else(|| self.schedule.next_keys());
        let retired = std::mem::replace(&mut self.keys, next);
        self.previous = Some(Previous { remote: retired.remote, until: None });
        self.number += 1;
        self.since = now;
        self.confirmed = false;
        (self.sealed, self.opened, self.failed) = (0, 0, 0);
    }

    /// Whether moving to the next epoch is due and allowed.
    pub(crate) fn is_rekey_due(&self, now: Instant) -> bool {
        // Half of what the key allows, so that there is time for the peer to follow before it is exhausted.
        let packets = self.policy.packets.min(self.keys.local.confidentiality_limit() / 2);
        let due = self.sealed >= packets || self.opened >= packets || now >= self.since + self.policy.age;
        due && self.confirmed
    }

    /// Moves to the next epoch if that is due and allowed; true if it did. The peer should hear of it soon.
    pub(crate) fn rekey_if_due(&mut self, now: Instant) -> bool {
        let moves = self.is_rekey_due(now);
        if moves {
            self.advance(now);
        }
        moves
    }

    /// When [`Epochs::rekey_if_due`] or [`Epochs::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let rekey_at = self.confirmed.then(|| self.since + self.policy.age);
        let forget_at = self.previous.as_ref().and_then(|previous| previous.until);
        [rekey_at, forget_at].into_iter().flatten().min()
    }

    /// Forgets keys whose grace is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.previous.as_ref().and_then(|previous| previous.until).is_some_and(|until| now >= until) {
            self.previous = None;
        }
    }
}
