//! The hot path: who carries this packet.

use x0t_model::NodeId;

use super::{NextHop, Router, Successor};
use crate::neighbor::{LinkId, Standing};
use crate::origin::Origin;

impl Router {
    /// Who carries a packet for `dst` next. `flow` is the hash of its flow, `from` the link it came by, if it came by one.
    ///
    /// Suspect, dead and cut links are passed over in this very call; a backup takes over without any message. Allocates
    /// nothing unless nobody is left, in which case the neighbours are told and the origin is asked: drain
    /// [`Self::poll_transmit`] after [`NextHop::Unreachable`].
    pub fn next_hop(&mut self, dst: NodeId, flow: u32, from: Option<LinkId>) -> NextHop {
        if dst == self.me {
            return NextHop::Local;
        }
        let sender = from.and_then(|link| self.links.get(self.links.slot_of(link)?)).map(|link| link.peer);
        let Some(index) = self.origins.index(&dst) else {
            self.stats.unreachable += 1;
            return NextHop::Unreachable { requested: self.seeks.contains_key(&dst) };
        };
        if let Some(origin) = self.origins.get_mut(index) {
            origin.last_used = Some(self.clock);
            if !origin.in_use_listed {
                origin.in_use_listed = true;
                self.in_use.push(index);
            }
        }
        let Some(origin) = self.origins.get(index) else {
            return NextHop::Unreachable { requested: false };
        };
        let successors = origin.successors.as_slice();
        let first = if self.config.spread_flows { self.spread(origin, flow) } else { 0 };
        for turn in 0..successors.len() {
            let slot = successors[(first + turn) % successors.len()];
            let Some(link) = self.links.get(slot) else { continue };
            if !link.standing.is_usable() {
                continue;
            }
            if Some(link.peer) == sender {
                self.stats.loop_averted += 1;
                continue;
            }
            self.stats.rerouted += u64::from(turn > 0);
            return NextHop::Via(link.id);
        }
        self.next_hop_without_successor(index, sender)
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

    /// Which successor a flow starts with: all packets of a flow go one way, among ways that cost at most twice the best.
    fn spread(&self, origin: &Origin, flow: u32) -> usize {
        let cost = |slot: &u32| self.successor(origin, *slot).map(|successor| u64::from(successor.metric.as_micros()));
        let successors = origin.successors.as_slice();
        let best = successors.first().and_then(cost).unwrap_or(0);
        let eligible = successors.iter().take_while(|slot| cost(slot).is_some_and(|cost| cost <= 2 * best)).count();
        flow as usize % eligible.max(1)
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
        let candidate = origin.candidates.iter().find(|candidate| candidate.slot == slot)?;
        Some(Successor { link: link.id, peer: link.peer, metric: candidate.metric + link.cost })
    }
}
