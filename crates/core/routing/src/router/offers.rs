//! Offers come in, are weighed, and become offers of this node.

use x0t_model::{Instant, Metric};

use super::{Event, Router, Transmit};
use crate::Role;
use crate::chain::ChainError;
use crate::message::{Ogm, Records, Withdrawal, write_ogms, write_withdrawals};
use crate::neighbor::{Standing, micros};
use crate::origin::{Admission, Outcome};
use crate::timers::Timer;

/// Hashes that any record may cost, however often its link was wrong before: enough for a handful of missed announcements.
const HASHES_ALWAYS: u32 = 256;

impl Router {
    pub(super) fn handle_ogms(&mut self, slot: u32, records: Records<'_>, now: Instant) {
        if let Some(link) = self.links.get_mut(slot) {
            link.resync_wanted = false;
        }
        for ogm in records.ogms() {
            self.handle_ogm(slot, records.serial, ogm, now);
        }
    }

    /// One record, cheapest questions first.
    pub(super) fn handle_ogm(&mut self, slot: u32, serial: u32, mut ogm: Ogm, now: Instant) {
        self.stats.ogms_received += 1;
        if ogm.origin == self.me {
            // An echo of one's own announcements is ordinary; a newer one than one made is not.
            self.stats.forged_own += u64::from(ogm.seqno > self.own.seqno());
            return;
        }
        let Some(link) = self.links.get_mut(slot) else { return };
        if ogm.hops >= self.config.chain_hops || (ogm.hops == 0) != (ogm.origin == link.peer) {
            self.stats.forged_hops += 1;
            return;
        }
        if ogm.hops == 0 {
            link.peer_is_leaf = Role::from_flags(ogm.flags) == Role::Leaf;
        } else if link.peer_is_leaf {
            self.stats.leaf_transit += 1;
            return;
        }
        let least = Metric::from_micros(micros(self.config.hop_penalty).as_micros().saturating_mul(ogm.hops.into()));
        if ogm.metric < least {
            self.stats.metrics_raised += 1;
            ogm.metric = least;
        }
        if ogm.lifetime_ds == 0 || !ogm.metric.is_finite() {
            self.stats.ogms_stale += 1;
            return;
        }
        let allowance = HASHES_ALWAYS.max(link.wasted_hashes.available(now));
        let Some(index) = self.origins.index(&ogm.origin) else {
            self.await_anchor(slot, serial, ogm, now);
            return;
        };
        let Some(origin) = self.origins.get_mut(index) else { return };
        let context = (&self.links, &self.config, now);
        match origin.admit(&ogm, (slot, serial), self.config.chain_hash, allowance, context) {
            Admission::Taken => self.reconsider(index, now),
            Admission::Noted => {}
            Admission::Stale => self.stats.ogms_stale += 1,
            Admission::NeedsAnchor => self.await_anchor(slot, serial, ogm, now),
            Admission::Refused(error) => self.count_refused(slot, error, now),
        }
    }

    fn count_refused(&mut self, slot: u32, error: ChainError, now: Instant) {
        match error {
            ChainError::OutOfShape => self.stats.forged_ogm += 1,
            ChainError::TooFar(_) => self.stats.hash_budget_exceeded += 1,
            ChainError::Forged(wasted) => {
                self.stats.forged_ogm += 1;
                if let Some(link) = self.links.get_mut(slot) {
                    link.wasted_hashes.spend(wasted, now);
                }
            }
        }
    }

    pub(super) fn handle_withdrawals(&mut self, slot: u32, records: Records<'_>, now: Instant) {
        for withdrawal in records.withdrawals() {
            self.stats.withdraws_received += 1;
            let Some(index) = self.origins.index(&withdrawal.origin) else { continue };
            if self.origins.get_mut(index).is_some_and(|origin| origin.withdraw(slot, records.serial, &withdrawal)) {
                self.reconsider(index, now);
            }
        }
    }

    /// Looks at an origin again and does what follows from it.
    pub(super) fn reconsider(&mut self, index: u32, now: Instant) {
        let Some(origin) = self.origins.get_mut(index) else { return };
        let outcome = origin.reconsider(&self.links, &self.config, self.my_bits, now);
        self.carry_out(index, outcome, now);
    }

    fn carry_out(&mut self, index: u32, outcome: Outcome, now: Instant) {
        let Some(origin) = self.origins.get_mut(index) else { return };
        self.stats.adoptions += u64::from(outcome.adopted);
        if outcome.advertise {
            if !origin.dirty {
                origin.dirty = true;
                self.outbox.dirty.push(index);
            }
            let hurry = now < origin.hurry_until;
            self.outbox.flush_by(if hurry { now } else { now + self.config.aggregation_delay });
        }
        if outcome.withdraw {
            self.stats.withdrawn += 1;
            self.outbox.withdrawals.push(Withdrawal { origin: origin.id, seqno: origin.potential.seqno });
            self.outbox.flush_by(now);
            if !origin.retracted_listed {
                origin.retracted_listed = true;
                self.retracted.push(index);
            }
        }
        if !outcome.starved {
            origin.request.tries = 0;
        }
        let deadline = origin.deadline(&self.config, now);
        self.timers.arm(Timer::Origin(index), &mut origin.armed, deadline);
        if outcome.starved {
            self.request_newer(index, now);
        }
        if outcome.rerouted {
            self.tell_route(index);
        }
    }

    fn tell_route(&mut self, index: u32) {
        let Some(origin) = self.origins.get(index) else { return };
        let dst = origin.id;
        let via = origin.successors.as_slice().first().and_then(|slot| self.successor(origin, *slot));
        if via.is_some() {
            self.end_seek(dst);
        }
        self.push_event(Event::RouteChanged { dst, via });
    }

    pub(super) fn origin_timeout(&mut self, index: u32, now: Instant) {
        let Some(origin) = self.origins.get_mut(index) else { return };
        origin.armed = None;
        if !origin.expired && now >= origin.expires {
            self.stats.origins_expired += 1;
            origin.expire();
        } else if origin.expired && now >= origin.forgotten_at(&self.config) {
            // The slot will be another origin's: nothing may speak of it by number any more.
            self.origins.remove(index);
            self.in_use.retain(|listed| *listed != index);
            self.retracted.retain(|listed| *listed != index);
            return;
        }
        self.reconsider(index, now);
    }

    /// The link at `slot` is over: its offers go, and whoever relied on them looks for others.
    pub(super) fn drop_offers(&mut self, slot: u32, now: Instant) {
        for index in 0..self.origins.end() {
            if self.origins.get_mut(index).is_some_and(|origin| origin.drop_slot(slot)) {
                self.reconsider(index, now);
            }
        }
        self.anchors.drop_slot(slot);
    }

    pub(super) fn cost_moved(&mut self, slot: u32, first: bool, now: Instant) {
        let Some(cost) = self.links.get(slot).map(|link| link.cost) else { return };
        for index in 0..self.origins.end() {
            if self.origins.get_mut(index).is_some_and(|origin| origin.cost_moved(slot, cost, first, now)) {
                self.reconsider(index, now);
            }
        }
    }

    /// A link became suspect. Most destinations have a backup and nobody need know; those in use that have none are
    /// withdrawn, so that upstream neighbours turn to theirs, and asked for.
    pub(super) fn rescue_flows(&mut self, now: Instant) {
        let mut in_use = std::mem::take(&mut self.in_use);
        in_use.retain(|index| {
            let Some(origin) = self.origins.get_mut(*index) else { return false };
            origin.in_use_listed = origin.is_in_use(&self.config, now);
            if !origin.in_use_listed {
                return false;
            }
            if origin.best_standing(&self.links) == Standing::Suspect {
                self.reconsider(*index, now);
            }
            true
        });
        self.in_use = in_use;
    }

    /// A link is usable again: offers retracted for want of one are made again.
    pub(super) fn restore_offers(&mut self, now: Instant) {
        let mut retracted = std::mem::take(&mut self.retracted);
        retracted.retain(|index| {
            self.reconsider(*index, now);
            let Some(origin) = self.origins.get_mut(*index) else { return false };
            origin.retracted_listed = origin.offer.is_none() && !origin.candidates.is_empty();
            origin.retracted_listed
        });
        retracted.append(&mut self.retracted);
        self.retracted = retracted;
    }

    /// Shows one neighbour these records, in datagrams of their own.
    pub(super) fn show(&mut self, slot: u32, ogms: &[Ogm], retracted: &[Withdrawal]) {
        let Some(link) = self.links.get(slot).map(|link| link.id) else { return };
        for chunk in ogms.chunks(self.ogms_per_datagram()) {
            let mut bytes = Vec::new();
            write_ogms(&mut bytes, self.outbox.next_serial(), chunk);
            self.stats.ogms_sent += chunk.len() as u64;
            self.outbox.push(Transmit { link, bytes, reliable: false }, &mut self.stats);
        }
        if !retracted.is_empty() {
            let mut bytes = Vec::new();
            write_withdrawals(&mut bytes, self.outbox.next_serial(), retracted);
            self.send_reliably(slot, bytes);
        }
    }
}
