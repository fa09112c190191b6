//! What was measured end to end, and how it weighs. None of it is told to anybody.

use std::time::Duration;

use x0t_model::{Instant, NodeId};

use super::Router;
use crate::neighbor::LinkId;
use crate::origin::Hedge;

/// A second way for critical flows is asked for at most this often, for each destination.
const SECOND_WAY_SPACING: Duration = Duration::from_secs(1);

impl Router {
    /// Nothing seems to arrive at `dst` by `link`, or (`suspect` false) something does again. A suspect way carries if no other
    /// does. If others exist that are merely not feasible, a newer announcement is asked for, which makes them so.
    ///
    /// False if there is no such way, or nothing changes.
    pub fn way_suspect(&mut self, dst: NodeId, link: LinkId, suspect: bool, now: Instant) -> bool {
        self.advance_clock(now);
        let (Some(index), Some(slot)) = (self.origins.index(&dst), self.links.slot_of(link)) else { return false };
        let Some(origin) = self.origins.get_mut(index) else { return false };
        let Some(way) = origin.candidates.iter_mut().find(|way| way.slot == slot) else { return false };
        if std::mem::replace(&mut way.doubt.suspect, suspect) == suspect {
            return false;
        }
        if suspect && origin.successors.as_slice().first() == Some(&slot) {
            origin.hedge = Some(Hedge::new(slot));
        }
        self.stats.ways_suspected += u64::from(suspect);
        self.reconsider(index, now);
        if suspect {
            self.find_another(index, now);
        }
        true
    }

    /// A sign of life from `dst` is late by `link`: if flows go by it, up to 32 packets go by another way too, until the sign came
    /// after all (`late` false).
    pub fn hedge(&mut self, dst: NodeId, link: LinkId, late: bool) {
        let (Some(index), Some(slot)) = (self.origins.index(&dst), self.links.slot_of(link)) else { return };
        let Some(origin) = self.origins.get_mut(index) else { return };
        let successors = origin.successors.as_slice();
        let other = successors.iter().find(|other| **other != slot && self.links.standing(**other).is_usable());
        if successors.first() == Some(&slot) || origin.successors.weight(slot) > 0 {
            origin.hedge = other.filter(|_| late).map(|other| Hedge::new(*other));
        }
    }

    /// The way to `dst` by `link` loses packets: its cost counts double `steps` times, and once more if it was demoted lately. A
    /// doubling fades each minute. What this node tells its neighbours is what the way it takes really costs, as before.
    ///
    /// False if there is no such way.
    pub fn demote(&mut self, dst: NodeId, link: LinkId, steps: u8, now: Instant) -> bool {
        self.advance_clock(now);
        let (Some(index), Some(slot)) = (self.origins.index(&dst), self.links.slot_of(link)) else { return false };
        let Some(origin) = self.origins.get_mut(index) else { return false };
        let Some(way) = origin.candidates.iter_mut().find(|way| way.slot == slot) else { return false };
        way.doubt.demote(steps, now);
        self.stats.ways_demoted += 1;
        self.reconsider(index, now);
        self.find_another(index, now);
        true
    }

    /// A critical flow has one way. If somebody else has one that is merely not feasible, a newer announcement makes it so.
    pub(super) fn find_second(&mut self, index: u32) {
        let now = self.clock;
        let Some(origin) = self.origins.get_mut(index).filter(|origin| now >= origin.second_after) else { return };
        origin.second_after = now + SECOND_WAY_SPACING;
        if origin.has_unfeasible(&self.links) {
            self.request_newer(index, now);
        }
    }

    /// What the way to `dst` by `link` may be expected to lose, in thousandths: what its first link loses, on every hop.
    pub fn expected_loss(&self, dst: NodeId, link: LinkId) -> u32 {
        let link = self.links.slot_of(link).and_then(|slot| Some((slot, self.links.get(slot)?)));
        let (Some((slot, link)), Some(origin)) = (link, self.origins.find(&dst)) else { return 0 };
        let hops = u64::from(origin.hops_by(slot).unwrap_or(0)) + 1;
        u32::try_from((link.estimate.loss_per_million() * hops / 1_000).min(1_000)).unwrap_or(1_000)
    }

    /// Asks for a newer announcement if the first choice is in doubt and nobody else is feasible though somebody has a way.
    fn find_another(&mut self, index: u32, now: Instant) {
        let Some(origin) = self.origins.get(index) else { return };
        let usable = |slot: u32| self.links.standing(slot).is_usable();
        let alternate = origin.feasible().any(|way| usable(way.slot) && !way.doubt.suspect && way.level == 0);
        if !alternate && origin.has_unfeasible(&self.links) {
            self.request_newer(index, now);
        }
    }
}
