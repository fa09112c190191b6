//! What a node knows about one origin, and what it makes of it.

use std::time::Duration;

use x0t_model::{Instant, Metric, NodeId};

use crate::RoutingConfig;
use crate::chain::{ChainError, ChainHash, ChainHead, ChainValue};
use crate::feasibility::{Potential, Seqno};
use crate::message::{AnchorStatement, Ogm, Withdrawal, lifetime_to_wire};
use crate::metric::smooth;
use crate::neighbor::{Links, Standing};

mod doubt;
mod selection;
pub(crate) mod share;
mod table;

use doubt::Doubt;

pub(crate) use selection::Outcome;
pub(crate) use table::Origins;

/// The most neighbours that carry for one origin.
pub(crate) const SUCCESSORS_MAX: usize = 3;

/// One neighbour's offer. An infinite metric is a retracted one, remembered so that a late OGM does not revive it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub slot: u32,
    pub seqno: Seqno,
    pub metric: Metric,
    pub hops: u8,
    pub chain: ChainValue,
    pub path_mtu: u16,
    pub bloom: u64,
    /// Of the message that said so.
    pub serial: u32,
    /// Metric plus link cost, smoothed.
    pub smoothed: Metric,
    pub updated: Instant,
    /// How its link stood and what the way cost when the origin was last reconsidered.
    pub standing: Standing,
    pub total: Metric,
    /// What was measured end to end by it.
    pub doubt: Doubt,
    /// Doublings of the cost that count at present.
    pub level: u8,
}

/// What this node advertises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub metric: Metric,
    pub hops: u8,
    pub chain: ChainValue,
    pub path_mtu: u16,
    pub bloom: u64,
}

/// Slots of the neighbours that carry, primary first, and how flows are spread over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Successors {
    slots: [u32; SUCCESSORS_MAX],
    weights: [u8; SUCCESSORS_MAX],
    len: u8,
}

impl Successors {
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.slots[..usize::from(self.len)]
    }

    pub(crate) fn push(&mut self, slot: u32) {
        if let Some(free) = self.slots.get_mut(usize::from(self.len)) {
            *free = slot;
            self.len += 1;
        }
    }

    /// The weight of the neighbour at `slot`; 0 if no flow starts with it.
    pub(crate) fn weight(&self, slot: u32) -> u8 {
        self.as_slice().iter().position(|known| *known == slot).map_or(0, |place| self.weights[place])
    }
}

/// A few packets still go to a way that was just left, beside the one taken instead: if the suspicion was wrong, nothing was
/// late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hedge {
    pub slot: u32,
    /// How many more packets are sent twice.
    pub left: u32,
}

impl Hedge {
    /// Packets sent twice after a suspicion.
    const PACKETS: u32 = 32;

    pub(crate) const fn new(slot: u32) -> Self {
        Self { slot, left: Self::PACKETS }
    }
}

/// Where a SEQ_REQ stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    pub tries: u8,
    /// Not again before.
    pub next_at: Option<Instant>,
    /// The last one repeated for others, and when.
    pub forwarded: Option<(Seqno, Instant)>,
}

/// The anchor and what proved it, to be shown to neighbours who ask.
#[derive(Clone, Debug)]
pub(crate) struct StoredAnchor {
    pub statement: AnchorStatement,
    pub proof: Box<[u8]>,
    pub accepted_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Origin {
    pub id: NodeId,
    pub anchor: StoredAnchor,
    pub head: ChainHead,
    /// What this node has told: the base of feasibility. Outlives the route.
    pub potential: Potential,
    pub offer: Option<Offer>,
    pub candidates: Vec<Candidate>,
    pub successors: Successors,
    pub hedge: Option<Hedge>,
    /// No second way is asked for before.
    pub second_after: Instant,
    pub flags: u8,
    pub lifetime: Duration,
    /// The longest lifetime that was ever granted: offers that came of it may still be about.
    pub longest_lifetime: Duration,
    /// When the newest announcement was first heard.
    pub heard_at: Instant,
    pub expires: Instant,
    pub expired: bool,
    /// When a newer announcement is adopted at the latest.
    pub adopt_at: Option<Instant>,
    /// Somebody waits for a newer announcement: no laziness until then.
    pub hurry_until: Instant,
    pub request: Request,
    pub last_used: Option<Instant>,
    pub in_use_listed: bool,
    pub retracted_listed: bool,
    pub dirty: bool,
    pub armed: Option<Instant>,
}

/// What became of an OGM record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Taken; the routes have to be reconsidered.
    Taken,
    /// Taken, but it can carry no more than before, which was nothing: most of what neighbours farther away say.
    Noted,
    /// Nothing new.
    Stale,
    /// Of an epoch whose anchor is not known.
    NeedsAnchor,
    /// Refused by the chain.
    Refused(ChainError),
}

impl Origin {
    pub(crate) fn new(anchor: StoredAnchor, config: &RoutingConfig, now: Instant) -> Self {
        let statement = anchor.statement;
        Self {
            id: statement.origin,
            head: ChainHead::new(statement.epoch, statement.shape, statement.value),
            anchor,
            potential: Potential { seqno: Seqno::NONE, distance: Metric::INFINITE },
            offer: None,
            candidates: Vec::new(),
            successors: Successors::default(),
            hedge: None,
            second_after: Instant::ZERO,
            flags: 0,
            lifetime: config.route_lifetime_min,
            longest_lifetime: config.route_lifetime_min,
            heard_at: now,
            expires: now + config.route_lifetime_min,
            expired: false,
            adopt_at: None,
            hurry_until: Instant::ZERO,
            request: Request::default(),
            last_used: None,
            in_use_listed: false,
            retracted_listed: false,
            dirty: false,
            armed: None,
        }
    }

    /// The origin proved a newer epoch. What is known of the old one serves until an announcement of the new one comes.
    pub(crate) fn begin_epoch(&mut self, anchor: StoredAnchor) {
        let statement = anchor.statement;
        self.head = ChainHead::new(statement.epoch, statement.shape, statement.value);
        self.anchor = anchor;
    }

    /// Weighs a record from the link at `slot`: cheap questions first, hashing last.
    pub(crate) fn admit(
        &mut self,
        ogm: &Ogm,
        from: (u32, u32),
        hash: ChainHash,
        allowance: u32,
        (links, config, now): (&Links, &RoutingConfig, Instant),
    ) -> Admission {
        let (slot, serial) = from;
        let newest = self.head.newest();
        if ogm.seqno.epoch > newest.epoch {
            return Admission::NeedsAnchor;
        }
        if ogm.seqno < self.potential.seqno || ogm.seqno.epoch < newest.epoch || self.expired && ogm.seqno <= newest {
            return Admission::Stale;
        }
        let known = self.candidates.iter().position(|candidate| candidate.slot == slot);
        if let Some(candidate) = known.and_then(|index| self.candidates.get(index))
            && (!is_later(serial, candidate.serial) || ogm.seqno < candidate.seqno)
        {
            return Admission::Stale;
        }
        let mut matters = self.potential.admits(ogm.seqno, ogm.metric);
        if let Some(candidate) = known.and_then(|index| self.candidates.get(index)) {
            matters |= self.potential.admits(candidate.seqno, candidate.metric);
        }
        let proven = known.and_then(|index| self.candidates.get(index)).is_some_and(|candidate| {
            candidate.metric.is_finite()
                && (candidate.seqno, candidate.hops, candidate.chain) == (ogm.seqno, ogm.hops, ogm.chain)
        });
        if !proven
            && let Err(error) = self.head.verify(hash, &ogm.origin, ogm.seqno.seq, ogm.hops, &ogm.chain, allowance)
        {
            return Admission::Refused(error);
        }
        if ogm.seqno > newest {
            self.refresh_lifetime(ogm, config, now);
        } else if ogm.seqno == newest {
            self.extend_lifetime(ogm, config, now);
        }
        let cost = links.get(slot).map_or(Metric::INFINITE, |link| link.cost);
        self.store(known, ogm, (slot, serial), cost, config, now);
        if matters { Admission::Taken } else { Admission::Noted }
    }

    fn refresh_lifetime(&mut self, ogm: &Ogm, config: &RoutingConfig, now: Instant) {
        self.lifetime = granted_lifetime(ogm, config);
        self.longest_lifetime = self.longest_lifetime.max(self.lifetime);
        self.heard_at = now;
        self.expires = now + self.lifetime;
        self.expired = false;
        self.flags = ogm.flags;
    }

    /// The lifetime is not under the chain, so whoever is first to repeat an announcement could cut it short for everybody:
    /// the most generous neighbour counts, within what an announcement may live at all.
    fn extend_lifetime(&mut self, ogm: &Ogm, config: &RoutingConfig, now: Instant) {
        let expires = (now + granted_lifetime(ogm, config)).min(self.heard_at + longest_lifetime(config));
        if expires > self.expires {
            self.expires = expires;
            self.lifetime = self.lifetime.max(expires.since(self.heard_at));
            self.longest_lifetime = self.longest_lifetime.max(self.lifetime);
        }
    }

    fn store(
        &mut self,
        known: Option<usize>,
        ogm: &Ogm,
        (slot, serial): (u32, u32),
        cost: Metric,
        config: &RoutingConfig,
        now: Instant,
    ) {
        let total = ogm.metric + cost;
        let mut candidate = Candidate {
            slot,
            seqno: ogm.seqno,
            metric: ogm.metric,
            hops: ogm.hops,
            chain: ogm.chain,
            path_mtu: ogm.path_mtu,
            bloom: ogm.bloom,
            serial,
            smoothed: total,
            updated: now,
            standing: Standing::Down,
            total,
            doubt: Doubt::default(),
            level: 0,
        };
        if let Some(old) = known.and_then(|index| self.candidates.get_mut(index)) {
            candidate.doubt = old.doubt;
            if old.metric.is_finite() {
                candidate.smoothed = smooth(old.smoothed, total, now.since(old.updated));
            }
            *old = candidate;
        } else if self.candidates.len() < config.candidates_max {
            self.candidates.push(candidate);
        } else if let Some(worst) = self.least_useful_candidate()
            && self.candidates.get(worst).is_some_and(|worst| usefulness(worst) < usefulness(&candidate))
        {
            self.candidates[worst] = candidate;
        }
    }

    /// Among those that carry nothing at the moment.
    fn least_useful_candidate(&self) -> Option<usize> {
        let carrying = self.successors.as_slice();
        (0..self.candidates.len())
            .filter(|index| !carrying.contains(&self.candidates[*index].slot))
            .min_by_key(|index| usefulness(&self.candidates[*index]))
    }

    /// The neighbour at `slot` carries nothing for this origin any more. True if that changes anything.
    pub(crate) fn withdraw(&mut self, slot: u32, serial: u32, withdrawal: &Withdrawal) -> bool {
        let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.slot == slot) else { return false };
        if !is_later(serial, candidate.serial) || withdrawal.seqno < candidate.seqno {
            return false;
        }
        candidate.serial = serial;
        std::mem::replace(&mut candidate.metric, Metric::INFINITE).is_finite()
    }

    /// Forgets everything heard over the link at `slot`. True if that changes anything.
    pub(crate) fn drop_slot(&mut self, slot: u32) -> bool {
        let before = self.candidates.len();
        self.candidates.retain(|candidate| candidate.slot != slot);
        before != self.candidates.len()
    }

    /// The cost of the link at `slot` moved. True if that changes anything.
    pub(crate) fn cost_moved(&mut self, slot: u32, cost: Metric, first: bool, now: Instant) -> bool {
        let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.slot == slot) else { return false };
        let total = candidate.metric + cost;
        candidate.smoothed =
            if first { total } else { smooth(candidate.smoothed, total, now.since(candidate.updated)) };
        candidate.updated = now;
        true
    }

    /// No newer announcement came in time: the route ends, the memory stays.
    pub(crate) fn expire(&mut self) {
        self.expired = true;
        self.candidates = Vec::new();
        self.offer = None;
        self.adopt_at = None;
        self.request = Request::default();
    }

    /// When even the memory ends: after every offer that could have come of it.
    pub(crate) fn forgotten_at(&self, config: &RoutingConfig) -> Instant {
        self.expires + self.longest_lifetime * config.memory_lifetimes
    }

    /// When this origin has to be looked at.
    pub(crate) fn deadline(&self, config: &RoutingConfig, now: Instant) -> Instant {
        let end = if self.expired { self.forgotten_at(config) } else { self.expires };
        let retry = self.request.next_at.filter(|_| self.request.tries > 0);
        let fades = self.candidates.iter().filter(|c| c.level > 0).filter_map(|c| c.doubt.fades_at(now)).min();
        [self.adopt_at, retry, fades].into_iter().flatten().fold(end, Instant::min)
    }

    /// What the neighbour at `slot` offers.
    pub(crate) fn candidate(&self, slot: u32) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.slot == slot)
    }

    /// Hops to the origin by the neighbour at `slot`, its own not counted.
    pub(crate) fn hops_by(&self, slot: u32) -> Option<u8> {
        self.candidate(slot).map(|candidate| candidate.hops)
    }

    /// Whether somebody asked for it lately.
    pub(crate) fn is_in_use(&self, config: &RoutingConfig, now: Instant) -> bool {
        self.last_used.is_some_and(|used| now.since(used) < config.in_use_for)
    }

    /// What tells a neighbour that nothing is offered here, if something ever was.
    pub(crate) fn withdrawal(&self) -> Option<Withdrawal> {
        let seqno = self.potential.seqno;
        (!self.expired && seqno != Seqno::NONE).then_some(Withdrawal { origin: self.id, seqno })
    }

    /// The record to send, with what is left of its lifetime.
    pub(crate) fn to_ogm(&self, now: Instant) -> Option<Ogm> {
        let offer = self.offer?;
        let lifetime_ds = lifetime_to_wire(self.expires.since(now));
        (lifetime_ds > 0).then_some(Ogm {
            origin: self.id,
            seqno: self.potential.seqno,
            flags: self.flags,
            hops: offer.hops,
            lifetime_ds,
            chain: offer.chain,
            metric: offer.metric,
            path_mtu: offer.path_mtu,
            bloom: offer.bloom,
        })
    }
}

/// What an announcement may live at most.
fn longest_lifetime(config: &RoutingConfig) -> Duration {
    (config.originator_interval_max * config.route_lifetime_intervals).max(config.route_lifetime_min)
}

fn granted_lifetime(ogm: &Ogm, config: &RoutingConfig) -> Duration {
    Duration::from_millis(u64::from(ogm.lifetime_ds) * 100).min(longest_lifetime(config))
}

/// Newer first, then nearer; a retracted offer is worth nothing.
fn usefulness(candidate: &Candidate) -> (bool, Seqno, std::cmp::Reverse<Metric>) {
    (candidate.metric.is_finite(), candidate.seqno, std::cmp::Reverse(candidate.metric))
}

/// Serial numbers wrap (RFC 1982).
fn is_later(serial: u32, than: u32) -> bool {
    let ahead = serial.wrapping_sub(than);
    ahead != 0 && ahead < 1 << 31
}
