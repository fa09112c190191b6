//! From offers to successors, and from successors to an offer of one's own.

use std::cmp::Reverse;

use x0t_model::{Instant, Metric};

use super::{Candidate, Offer, Origin, SUCCESSORS_MAX, Successors};
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
        self.choose_successors(primary);
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

    /// The nearest feasible neighbour of the best standing, unless the present primary is nearly as near.
    fn pick_primary(&self, config: &RoutingConfig) -> Option<usize> {
        let incumbent = self.successors.as_slice().first();
        let mut best: Option<(Standing, Metric, usize)> = None;
        let mut present = None;
        for (index, candidate) in self.candidates.iter().enumerate() {
            if candidate.standing == Standing::Down || !self.potential.admits(candidate.seqno, candidate.metric) {
                continue;
            }
            let rank = (candidate.standing, candidate.total, index);
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
            if Some(&candidate.slot) == incumbent {
                present = Some(rank);
            }
        }
        let (standing, metric, index) = best?;
        if let Some((present_standing, present_metric, present_index)) = present
            && present_standing == standing
        {
            let smoothed = |index: usize| self.candidates[index].smoothed;
            let (old, new) = ((present_metric, smoothed(present_index)), (metric, smoothed(index)));
            if !is_worth_switching(old, new, config.switch_margin) {
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
    fn choose_successors(&mut self, primary: Option<usize>) {
        self.successors = Successors::default();
        let Some(primary) = primary else { return };
        let first = &self.candidates[primary];
        let twice = first.total + first.total;
        let mut chosen = Successors::default();
        chosen.push(first.slot);
        let mut used = first.bloom;
        while chosen.as_slice().len() < SUCCESSORS_MAX {
            let next = self
                .feasible()
                .filter(|c| c.standing < Standing::Down && !chosen.as_slice().contains(&c.slot))
                .map(|c| (backup_rank(c, twice, used), c))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, next)) = next else { break };
            used |= next.bloom;
            chosen.push(next.slot);
        }
        self.successors = chosen;
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

/// Smaller is better: standing, then whether the cost is bearable, then shared relays, then cost. One number, because this is
/// compared for every record received.
fn backup_rank(candidate: &Candidate, bearable: Metric, used: u64) -> u64 {
    let shared = (candidate.bloom & used).count_ones();
    let dear = candidate.total > bearable;
    (candidate.standing as u64) << 40
        | u64::from(dear) << 39
        | u64::from(shared) << 32
        | u64::from(candidate.total.as_micros())
}
