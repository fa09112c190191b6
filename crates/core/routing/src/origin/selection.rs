//! From offers to successors, and from successors to an offer of one's own.

use std::cmp::Reverse;

use x0t_model::{Instant, Metric};

use super::doubt::weigh;
use super::{Candidate, Offer, Origin, SUCCESSORS_MAX, Successors, share};
use crate::RoutingConfig;
use crate::feasibility::Seqno;
use crate::metric::{is_news, is_worth_switching};
use crate::neighbor::{Links, Standing};

/// What a look at an origin asks of the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// A newer announcement was adopted.
    pub adopted: bool,
    /// The offer is worth telling.
    pub advertise: bool,
    /// The offer is retracted.
    pub withdraw: bool,
    /// Nobody carries, and a newer announcement would help.
    pub starved: bool,
    /// Another neighbour carries, or none, or one again.
    pub rerouted: bool,
}

impl Origin {
    /// Looks at all offers again. Call after anything about them, their links or the clock changed.
    ///
    /// The order matters: the feasible distance falls when an offer is made, so backups are chosen after it.
    pub(crate) fn reconsider(&mut self, links: &Links, config: &RoutingConfig, my_bits: u64, now: Instant) -> Outcome {
        for candidate in &mut self.candidates {
            let link = links.get(candidate.slot);
            candidate.standing = link.map_or(Standing::Down, |link| link.standing);
            candidate.total = link.map_or(Metric::INFINITE, |link| candidate.metric + link.cost);
            candidate.level = candidate.doubt.level_at(now);
        }
        let before = self.successors.as_slice().first().copied();
        let mut outcome = Outcome { adopted: self.adopt_if_time(config, now), ..Outcome::default() };
        let primary = self.pick_primary(config);
        match primary {
            Some(index) if self.candidates[index].standing.is_usable() => {
                self.settle_offer(index, links, config, my_bits, &mut outcome);
            }
            Some(_) => {
                if self.is_in_use(config, now) {
                    outcome.withdraw = self.offer.take().is_some();
                    outcome.starved = true;
                }
            }
            None => {
                outcome.withdraw = self.offer.take().is_some();
                outcome.starved = !self.expired && self.potential.seqno != Seqno::NONE;
            }
        }
        self.choose_successors(primary, config);
        outcome.rerouted = before != self.successors.as_slice().first().copied();
        outcome
    }

    /// The best standing among those that may carry.
    pub(crate) fn best_standing(&self, links: &Links) -> Standing {
        self.feasible().map(|candidate| links.standing(candidate.slot)).min().unwrap_or(Standing::Down)
    }

    /// Offers below this node's potential: whoever made one may carry.
    pub(crate) fn feasible(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| self.potential.admits(candidate.seqno, candidate.metric))
    }

    /// Lazy adoption: a newer announcement is taken up when all who carry offer it, when the wait is over, or when nobody
    /// carries. At once, it would follow the first path instead of the best.
    fn adopt_if_time(&mut self, config: &RoutingConfig, now: Instant) -> bool {
        // A number that only a held-down link brings does not displace what a good one carries.
        let best = self.feasible().map(|candidate| candidate.standing).min().unwrap_or(Standing::Down);
        let worst = match best {
            Standing::Good => Standing::Good,
            Standing::Suspect | Standing::Down if self.potential.seqno == Seqno::NONE => Standing::Suspect,
            _ => Standing::HeldDown,
        };
        let offers = self.candidates.iter().filter(|c| c.metric.is_finite() && c.standing <= worst);
        let newest = offers.map(|c| c.seqno).max();
        let Some(newest) = newest.filter(|newest| *newest > self.potential.seqno) else {
            self.adopt_at = None;
            return false;
        };
        let deadline = *self.adopt_at.get_or_insert(now + config.adoption_delay);
        let all_offer_it = self.successors.as_slice().iter().all(|slot| {
            let candidate = self.candidates.iter().find(|c| c.slot == *slot && c.metric.is_finite());
            candidate.is_none_or(|c| c.seqno >= newest || !c.standing.is_usable())
        });
        if !all_offer_it && now < deadline && now >= self.hurry_until {
            return false;
        }
        self.adopt_at = None;
        self.potential.seqno = newest;
        self.potential.distance = Metric::INFINITE;
        true
    }

    /// The nearest feasible neighbour of the best rank, unless the present primary is nearly as near and it is no direct link.
    fn pick_primary(&self, config: &RoutingConfig) -> Option<usize> {
        let incumbent = self.successors.as_slice().first();
        let mut best: Option<(u8, Metric, usize)> = None;
        let mut present = None;
        for (index, candidate) in self.candidates.iter().enumerate() {
            if candidate.standing == Standing::Down || !self.potential.admits(candidate.seqno, candidate.metric) {
                continue;
            }
            let order = (candidate.rank(), candidate.weighed(), index);
            if best.is_none_or(|best| order < best) {
                best = Some(order);
            }
            if Some(&candidate.slot) == incumbent {
                present = Some(order);
            }
        }
        let (rank, metric, index) = best?;
        if let Some((present_rank, present_metric, present_index)) = present
            && present_rank == rank
            // Who was demoted is not held on to.
            && self.candidates[present_index].level <= self.candidates[index].level
        {
            let smoothed = |index: usize| {
                let candidate = &self.candidates[index];
                weigh(candidate.smoothed, candidate.level)
            };
            let (old, new) = ((present_metric, smoothed(present_index)), (metric, smoothed(index)));
            // The destination itself spares every relay its work: cheaper is enough.
            let spares_relays = self.candidates[index].hops == 0 && new.0 < old.0 && new.1 < old.1;
            if !spares_relays && !is_worth_switching(old, new, config.switch_margin) {
                return Some(present_index);
            }
        }
        Some(index)
    }

    /// What to tell the neighbours, given who carries. Told values lower the feasible distance.
    fn settle_offer(
        &mut self,
        primary: usize,
        links: &Links,
        config: &RoutingConfig,
        my_bits: u64,
        outcome: &mut Outcome,
    ) {
        let candidate = &self.candidates[primary];
        if candidate.seqno != self.potential.seqno {
            // Newer than what is adopted: adoption, at most a moment away, will tell.
            return;
        }
        let Some(link) = links.get(candidate.slot) else { return };
        let metric = candidate.total;
        let hops = candidate.hops + 1;
        let tellable = config.role.relays() && hops < config.chain_hops && metric.is_finite();
        if !tellable {
            self.potential.distance = self.potential.distance.min(metric);
            outcome.withdraw = self.offer.take().is_some();
            return;
        }
        let path_mtu = candidate.path_mtu.min(link.mtu);
        let worth_telling = outcome.adopted
            || self.offer.is_none_or(|offer| is_news(offer.metric, metric) || path_mtu < offer.path_mtu);
        if !worth_telling {
            return;
        }
        let offer = Offer {
            metric,
            hops,
            chain: config.chain_hash.advance(&self.id, self.potential.seqno.epoch, candidate.chain, 1),
            path_mtu,
            bloom: candidate.bloom | my_bits,
        };
        self.offer = Some(offer);
        self.potential.distance = self.potential.distance.min(metric);
        outcome.advertise = true;
    }

    /// The primary, then those that share the fewest relays with who was chosen before them. One that costs more than twice
    /// the best is taken only if no other is there.
    fn choose_successors(&mut self, primary: Option<usize>, config: &RoutingConfig) {
        let before = std::mem::take(&mut self.successors);
        let Some(primary) = primary else { return };
        let first = &self.candidates[primary];
        let twice = first.weighed() + first.weighed();
        let mut chosen = Successors::default();
        chosen.push(first.slot);
        let mut used = first.bloom;
        while chosen.as_slice().len() < SUCCESSORS_MAX {
            let next = self
                .feasible()
                .filter(|c| c.standing < Standing::Down && !chosen.as_slice().contains(&c.slot))
                .map(|c| (backup_rank(c, twice, used, before.as_slice().contains(&c.slot)), c))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, next)) = next else { break };
            used |= next.bloom;
            chosen.push(next.slot);
        }
        if config.spread_flows {
            chosen.weights = self.weigh_successors(&chosen, &before);
        }
        self.successors = chosen;
    }

    /// How flows are spread: by the inverse of what each way costs, over those of the primary's rank.
    fn weigh_successors(&self, chosen: &Successors, before: &Successors) -> [u8; SUCCESSORS_MAX] {
        let mut weights = [0; SUCCESSORS_MAX];
        let of = |slot: u32| self.candidates.iter().find(|candidate| candidate.slot == slot);
        let ways = || chosen.as_slice().iter().map(|slot| of(*slot));
        let Some(primary) = ways().flatten().next() else { return weights };
        let equals = || ways().flatten().filter(|way| way.rank() == primary.rank());
        let best = equals().map(Candidate::weighed).min().unwrap_or(primary.weighed());
        for (weight, way) in weights.iter_mut().zip(ways()) {
            if let Some(way) = way.filter(|way| way.rank() == primary.rank()) {
                *weight = share::weight(way.weighed(), best, before.weight(way.slot));
            }
        }
        weights
    }

    /// Whether a neighbour has a way that is merely not feasible.
    pub(crate) fn has_unfeasible(&self, links: &Links) -> bool {
        let usable =
            |candidate: &&Candidate| candidate.metric.is_finite() && links.standing(candidate.slot).is_usable();
        self.candidates.iter().filter(usable).any(|way| !self.potential.admits(way.seqno, way.metric))
    }

    /// Whom to ask for a newer announcement: neighbours who have a way that is merely not feasible, nearest first.
    pub(crate) fn unfeasible_neighbors(&self, links: &Links) -> Successors {
        let mut ranked: Vec<_> = self
            .candidates
            .iter()
            .filter(|c| c.metric.is_finite() && links.standing(c.slot).is_usable())
            .map(|c| (Reverse(c.seqno), c.metric, c.slot))
            .collect();
        ranked.sort_unstable();
        let mut asked = Successors::default();
        ranked.into_iter().for_each(|(_, _, slot)| asked.push(slot));
        asked
    }
}

impl Candidate {
    /// Smaller is better. A way by which nothing seems to arrive comes after every other usable one, and before a silent link.
    pub(crate) const fn rank(&self) -> u8 {
        match self.standing {
            Standing::Good if !self.doubt.suspect => 0,
            Standing::HeldDown if !self.doubt.suspect => 1,
            Standing::Good | Standing::HeldDown => 2,
            Standing::Suspect => 3,
            Standing::Down => 4,
        }
    }

    /// What the way counts as: its cost, doubled for every demotion that has not faded.
    pub(crate) fn weighed(&self) -> Metric {
        weigh(self.total, self.level)
    }
}

/// Smaller is better: rank, then whether the cost is bearable, then shared relays, then cost, where who already carries is
/// held for a fifth cheaper so that equals do not take turns. One number, because this is compared for every record received.
fn backup_rank(candidate: &Candidate, bearable: Metric, used: u64, carries: bool) -> u64 {
    let shared = (candidate.bloom & used).count_ones();
    let weighed = candidate.weighed();
    let cost = weighed.as_micros() - if carries { weighed.as_micros() / 5 } else { 0 };
    u64::from(candidate.rank()) << 40 | u64::from(weighed > bearable) << 39 | u64::from(shared) << 32 | u64::from(cost)
}
