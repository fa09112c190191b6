//! The hot path: who carries this packet.

use x0t_model::NodeId;

use super::{Hops, NextHop, Router, Successor, Twin};
use crate::neighbor::{Link, LinkId, Standing};
use crate::origin::{Hedge, Origin, share};

/// A neighbour that carries, and the slot of the one that was passed over for it.
struct Choice {
    slot: u32,
    link: LinkId,
    passed: Option<u32>,
}

impl Router {
    /// Who carries a packet for `dst` next. `flow` is the hash of its flow, `from` the link it came by, if it came by one.
    ///
    /// Suspect, dead and cut links are passed over in this very call; a backup takes over without any message. Allocates
    /// nothing unless nobody is left, in which case the neighbours are told and the origin is asked: drain
    /// [`Self::poll_transmit`] after [`NextHop::Unreachable`].
    pub fn next_hop(&mut self, dst: NodeId, flow: u32, from: Option<LinkId>) -> NextHop {
        let (index, sender) = match self.begin(dst, from) {
            Ok(begun) => begun,
            Err(known) => return known,
        };
        match self.choose(index, flow, sender) {
            Some(choice) => NextHop::Via(choice.link),
            None => self.next_hop_without_successor(index, sender),
        }
    }

    /// Who carries `packets` packets of a flow of this node, and who carries a copy of each.
    ///
    /// There is a copy in two cases. A `critical` flow always has one, by the way that shares the fewest relays with the other
    /// one; the receiver drops whichever comes second. Any flow has one for the first 32 packets after its way became
    /// suspect: the packet goes another way and the copy goes on as before, so a false alarm costs nothing.
    pub fn next_hops(&mut self, dst: NodeId, flow: u32, critical: bool, packets: u32) -> Hops {
        let index = match self.begin(dst, None) {
            Ok((index, _)) => index,
            Err(known) => return Hops { first: known, copy: None },
        };
        if critical {
            if let Some((first, second)) = self.most_disjoint(index, None) {
                self.stats.duplicated += u64::from(packets);
                return Hops { first: NextHop::Via(first), copy: Some(second) };
            }
            self.find_second(index);
        }
        match self.choose(index, flow, None) {
            Some(choice) => Hops { first: NextHop::Via(choice.link), copy: self.hedge_of(index, &choice, packets) },
            None => Hops { first: self.next_hop_without_successor(index, None), copy: None },
        }
    }

    /// Who carries one of the two copies of a critical packet on, as a relay.
    ///
    /// The copies went to two neighbours; two relays that both think the same third one best would bring them together again
    /// for no reason. So the copies part by an order that all relays agree on: among the ways that are as short as the first
    /// choice, one copy takes the neighbour with the smallest id and the other the one with the largest. Any successor is
    /// feasible, so this closes no loop. The destination itself comes before all.
    pub fn next_hop_of_twin(&mut self, dst: NodeId, twin: Twin, from: Option<LinkId>) -> NextHop {
        let (index, sender) = match self.begin(dst, from) {
            Ok(begun) => begun,
            Err(known) => return known,
        };
        match self.part(index, twin, sender) {
            Some(link) => NextHop::Via(link),
            None => self.next_hop_without_successor(index, sender),
        }
    }

    /// The two ways to `dst` with the fewest relays in common, if there are two usable ones.
    pub fn disjoint_ways(&self, dst: NodeId) -> Option<(LinkId, LinkId)> {
        self.most_disjoint(self.origins.index(&dst)?, None)
    }

    /// Finds the destination and notes that it is in use. `Err` holds the answer if there is nothing to choose from.
    fn begin(&mut self, dst: NodeId, from: Option<LinkId>) -> Result<(u32, Option<NodeId>), NextHop> {
        if dst == self.me {
            return Err(NextHop::Local);
        }
        let sender = from.and_then(|link| self.links.get(self.links.slot_of(link)?)).map(|link| link.peer);
        let Some(index) = self.origins.index(&dst) else {
            self.stats.unreachable += 1;
            return Err(NextHop::Unreachable { requested: self.seeks.contains_key(&dst) });
        };
        if let Some(origin) = self.origins.get_mut(index) {
            origin.last_used = Some(self.clock);
            if !origin.in_use_listed {
                origin.in_use_listed = true;
                self.in_use.push(index);
            }
        }
        Ok((index, sender))
    }

    /// What one packet can carry to `dst`: the least of the ways that are in use or may be in a moment, so that packets do not become
    /// too large when another neighbour takes over.
    pub fn path_mtu(&self, dst: NodeId) -> Option<u16> {
        let origin = self.origins.get(self.origins.index(&dst)?)?;
        let over = |slot: &u32| {
            let link = self.links.get(*slot).filter(|link| link.standing < Standing::Down)?;
            let candidate = origin.candidates.iter().find(|candidate| candidate.slot == *slot)?;
            Some(candidate.path_mtu.min(link.mtu))
        };
        origin.successors.as_slice().iter().filter_map(over).min()
    }

    /// Successors whose links are usable, the first choice first, without who sent the packet.
    fn usable<'r>(&'r self, origin: &'r Origin, sender: Option<NodeId>) -> impl Iterator<Item = (u32, &'r Link)> {
        let links = origin.successors.as_slice().iter().filter_map(|slot| Some((*slot, self.links.get(*slot)?)));
        links.filter(move |(_, link)| link.standing.is_usable() && Some(link.peer) != sender)
    }

    /// The successor that takes a flow, if one is usable.
    fn choose(&mut self, index: u32, flow: u32, sender: Option<NodeId>) -> Option<Choice> {
        let origin = self.origins.get(index)?;
        let choice = match self.config.spread_flows {
            true => self.spread(origin, flow, sender),
            false => None,
        };
        let choice = choice.or_else(|| {
            let (slot, link) = self.usable(origin, sender).next()?;
            let first = origin.successors.as_slice().first().copied();
            Some(Choice { slot, link: link.id, passed: first.filter(|first| *first != slot) })
        });
        // The way back is passed over wherever it stands before the choice, and never taken.
        let passed =
            origin.successors.as_slice().iter().take_while(|slot| choice.as_ref().is_none_or(|c| c.slot != **slot));
        let averted = sender.is_some()
            && passed
                .filter_map(|slot| self.links.get(*slot))
                .any(|l| l.standing.is_usable() && Some(l.peer) == sender);
        self.stats.loop_averted += u64::from(averted);
        self.stats.rerouted += u64::from(choice.as_ref().is_some_and(|choice| choice.passed.is_some()));
        choice
    }

    /// The successor that holds the flow's highest lot among the usable ones.
    fn spread(&self, origin: &Origin, flow: u32, sender: Option<NodeId>) -> Option<Choice> {
        let lots = origin.successors.as_slice().iter().filter_map(|slot| {
            let (link, weight) = (self.links.get(*slot)?, origin.successors.weight(*slot));
            (weight > 0).then(|| (share::best_lot(flow, link.id.0, weight), *slot, link))
        });
        let (mut best, mut usable) = (None, None);
        for lot in lots {
            let higher = |than: &Option<(u64, u32, &Link)>| than.is_none_or(|than| lot.0 > than.0);
            if higher(&best) {
                best = Some(lot);
            }
            if higher(&usable) && lot.2.standing.is_usable() && Some(lot.2.peer) != sender {
                usable = Some(lot);
            }
        }
        let ((_, first, _), (_, slot, link)) = (best?, usable?);
        Some(Choice { slot, link: link.id, passed: (first != slot).then_some(first) })
    }

    /// The link to the way that was just left, while there is reason to send it copies.
    fn hedge_of(&mut self, index: u32, choice: &Choice, packets: u32) -> Option<LinkId> {
        let suspected = choice.passed.filter(|slot| self.links.standing(*slot) == Standing::Suspect);
        let origin = self.origins.get_mut(index)?;
        match (suspected, &origin.hedge) {
            (Some(slot), Some(hedge)) if hedge.slot == slot => {}
            (Some(slot), _) => origin.hedge = Some(Hedge::new(slot)),
            // It carries again: the next suspicion is a new one.
            (None, Some(hedge)) if hedge.slot == choice.slot => origin.hedge = None,
            (None, _) => {}
        }
        let hedge = origin.hedge.as_mut().filter(|hedge| hedge.left > 0)?;
        let link = self.links.get(hedge.slot).filter(|link| link.standing < Standing::Down)?;
        hedge.left = hedge.left.saturating_sub(packets);
        self.stats.hedged += u64::from(packets);
        Some(link.id)
    }

    /// The neighbour that takes one of two copies: the destination, or by id among the ways that are as short as the first.
    fn part(&self, index: u32, twin: Twin, sender: Option<NodeId>) -> Option<LinkId> {
        let origin = self.origins.get(index)?;
        let usable = || self.usable(origin, sender);
        let (shortest, _) = usable().next()?;
        let shortest = origin.hops_by(shortest);
        let equals = usable().filter(|(slot, _)| origin.hops_by(*slot) == shortest).map(|(_, link)| link);
        let by_id = match twin {
            Twin::First => equals.min_by_key(|link| link.peer),
            Twin::Second => equals.max_by_key(|link| link.peer),
        };
        usable().map(|(_, link)| link).find(|link| link.peer == origin.id).or(by_id).map(|link| link.id)
    }

    /// Of all pairs of usable successors the one of the best ranks, then of the fewest relays in common, then of the least cost.
    fn most_disjoint(&self, index: u32, sender: Option<NodeId>) -> Option<(LinkId, LinkId)> {
        let origin = self.origins.get(index)?;
        let ways = || self.usable(origin, sender).filter_map(|(slot, link)| Some((origin.candidate(slot)?, link)));
        let pairs = ways().enumerate().flat_map(|(at, one)| ways().skip(at + 1).map(move |other| (one, other)));
        let best =
            pairs.filter(|((_, one), (_, other))| one.peer != other.peer).min_by_key(|((one, _), (other, _))| {
                let shared = (one.bloom & other.bloom).count_ones();
                (one.rank().max(other.rank()), shared, one.weighed() + other.weighed())
            });
        best.map(|((_, one), (_, other))| (one.id, other.id))
    }

    /// No successor is usable: another feasible neighbour, else tell the others and ask, else a suspect.
    fn next_hop_without_successor(&mut self, index: u32, sender: Option<NodeId>) -> NextHop {
        let best = |router: &Self, worst: Standing| {
            let candidates = router.origins.get(index).into_iter().flat_map(Origin::feasible);
            candidates
                .filter_map(|candidate| Some((candidate, router.links.get(candidate.slot)?)))
                .filter(|(_, link)| link.standing <= worst && Some(link.peer) != sender)
                .min_by_key(|(candidate, link)| (link.standing, candidate.metric + link.cost))
                .map(|(_, link)| link.id)
        };
        if let Some(link) = best(self, Standing::HeldDown) {
            self.stats.rerouted += 1;
            return NextHop::Via(link);
        }
        let now = self.clock;
        self.reconsider(index, now);
        if let Some(link) = best(self, Standing::Suspect) {
            self.stats.last_resort += 1;
            return NextHop::Via(link);
        }
        self.stats.unreachable += 1;
        let requested = self
            .origins
            .get(index)
            .is_some_and(|origin| origin.request.tries > 0 || self.seeks.contains_key(&origin.id));
        NextHop::Unreachable { requested }
    }

    pub(super) fn successor(&self, origin: &Origin, slot: u32) -> Option<Successor> {
        let link = self.links.get(slot)?;
        let candidate = origin.candidate(slot)?;
        Some(Successor { link: link.id, peer: link.peer, metric: candidate.metric + link.cost })
    }
}
