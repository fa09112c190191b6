//! The router's whole state, for people.

use serde::Serialize;
use x0t_model::{Instant, Metric, NodeId};

use crate::feasibility::{Potential, Seqno};
use crate::neighbor::{LinkId, Standing};
use crate::origin::Origin;
use crate::{Role, Router, Stats};

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct RoutingView {
    /// This node.
    pub me: NodeId,
    /// What it does for others.
    pub role: Role,
    /// Its last announcement.
    pub seqno: Seqno,
    /// Its links, by id.
    pub links: Vec<LinkView>,
    /// Everyone it knows, by id.
    pub origins: Vec<OriginView>,
    /// What it counted.
    pub stats: Stats,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkView {
    /// Its number.
    pub link: LinkId,
    /// The neighbour.
    pub peer: NodeId,
    /// How far it can be relied on.
    pub standing: Standing,
    /// Whether it carried data lately.
    pub active: bool,
    /// Smallest round trip of the last ten seconds, in microseconds.
    pub rtt_micros: Option<u64>,
    /// Variation of arrivals, in microseconds.
    pub jitter_micros: u64,
    /// Heartbeats lost on the way to the peer, per million.
    pub loss_per_million: u64,
    /// What it costs.
    pub cost: Metric,
    /// Milliseconds since the last packet.
    pub silent_ms: u64,
}

/// One destination.
#[derive(Clone, Debug, Serialize)]
pub struct OriginView {
    /// The destination.
    pub dst: NodeId,
    /// What this node has told about it.
    pub potential: Potential,
    /// Whether its last announcement is too old.
    pub expired: bool,
    /// What this node advertises.
    pub advertised: Option<Metric>,
    /// Hops to it by the first choice, the last one included.
    pub hops: Option<u8>,
    /// The smallest MTU on the ways of those who carry.
    pub path_mtu: Option<u16>,
    /// Who carries, the first choice first.
    pub successors: Vec<SuccessorView>,
    /// Neighbours that have a way at all.
    pub candidates: usize,
}

/// One neighbour that carries.
#[derive(Clone, Debug, Serialize)]
pub struct SuccessorView {
    /// Over which link.
    pub link: LinkId,
    /// Who.
    pub peer: NodeId,
    /// What the way costs.
    pub metric: Metric,
    /// Its share of the flows beside the weights of the others; 0 if no flow starts with it.
    pub weight: u8,
    /// How often its cost counts double, because it was found to lose packets.
    pub demoted: u8,
    /// Nothing seems to arrive by it.
    pub suspect: bool,
}

impl Router {
    /// Everything at `now`.
    pub fn view(&self, now: Instant) -> RoutingView {
        RoutingView {
            me: self.me,
            role: self.config.role,
            seqno: self.own.seqno(),
            links: self.link_views(now).collect(),
            origins: self.origin_views().collect(),
            stats: self.stats,
        }
    }

    /// The links alone.
    pub fn link_views(&self, now: Instant) -> impl Iterator<Item = LinkView> {
        self.links.iter().map(move |(_, link)| LinkView {
            link: link.id,
            peer: link.peer,
            standing: link.standing,
            active: link.detector.is_active(),
            rtt_micros: link.estimate.round_trip().map(|rtt| rtt.as_micros() as u64),
            jitter_micros: link.estimate.jitter().as_micros() as u64,
            loss_per_million: link.estimate.loss_per_million(),
            cost: link.cost,
            silent_ms: now.since(link.detector.last_heard()).as_millis() as u64,
        })
    }

    fn origin_views(&self) -> impl Iterator<Item = OriginView> {
        self.origins.iter().map(|origin| {
            let primary = origin.successors.as_slice().first();
            let primary = primary.and_then(|slot| origin.candidates.iter().find(|c| c.slot == *slot));
            OriginView {
                dst: origin.id,
                potential: origin.potential,
                expired: origin.expired,
                advertised: origin.offer.map(|offer| offer.metric),
                hops: primary.map(|candidate| candidate.hops + 1),
                path_mtu: self.path_mtu(origin.id),
                successors: self.successor_views(origin).collect(),
                candidates: origin.candidates.iter().filter(|candidate| candidate.metric.is_finite()).count(),
            }
        })
    }

    fn successor_views(&self, origin: &Origin) -> impl Iterator<Item = SuccessorView> {
        let successors = &origin.successors;
        successors.as_slice().iter().enumerate().filter_map(|(place, slot)| {
            let (link, candidate) = (self.links.get(*slot)?, origin.candidate(*slot)?);
            let alone = u8::from(place == 0);
            Some(SuccessorView {
                link: link.id,
                peer: link.peer,
                metric: candidate.metric + link.cost,
                weight: if self.config.spread_flows { successors.weight(*slot) } else { alone },
                demoted: candidate.level,
                suspect: candidate.doubt.suspect,
            })
        })
    }
}
