//! For somebody else: a new hop header over the old one, and on; to its destination without one.

use std::ops::Range;

use x0t_model::NodeId;
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{self as outer, FORWARD_OVERHEAD};
use x0t_overlay::{HopHeader, SendError, SessionId};
use x0t_routing::LinkId;

use super::INTERACTIVE_LEN_MAX;
use super::arrival::{Fate, Lookups};
use crate::egress::{Class, Lane};
use crate::node::Node;
use crate::train::Train;

impl Node {
    /// A neighbour hands on a packet that is for somebody else.
    pub(super) fn on_transit(
        &mut self,
        from: LinkId,
        mut hop: HopHeader,
        payload: &[u8],
        place: Range<usize>,
        lookups: &mut Lookups,
    ) -> Option<Fate> {
        if hop.src == self.me {
            self.stats.packets_returned += 1;
            return None;
        }
        if hop.ttl <= 1 {
            self.stats.packets_expired += 1;
            if hop.kind == PayloadKind::TraceProbe {
                self.answer_trace(hop.src, payload);
            }
            return None;
        }
        hop.ttl -= 1;
        let asked = (hop.dst, hop.flow, hop.flags, from);
        let link = match lookups.way {
            Some((known, link)) if known == asked => link,
            _ => {
                let link = self.next_link(&hop, Some(from));
                lookups.way = Some((asked, link));
                link
            }
        }?;
        let opens_by_itself = hop.kind == PayloadKind::EndToEnd && outer::protected_index(payload).is_some();
        Some(Fate::Relay { place, hop, link, opens_by_itself })
    }

    /// Whether all that is left of a train goes the same way, so that it can go as it stands.
    pub(super) fn relays_as_it_is(&self, fates: &[Fate], stride: usize) -> bool {
        let Some((Fate::Relay { hop: first, link: over, .. }, _)) = fates.split_first() else { return false };
        let last = fates.len() - 1;
        fates.iter().enumerate().all(|(index, fate)| match fate {
            Fate::Relay { place, hop, link, .. } => {
                link == over && hop.flow == first.flow && (place.len() == stride || index == last)
            }
            Fate::Deliver { .. } => false,
        })
    }

    /// Seals new hop headers where the old ones stood, or takes them away, and sends the buffer on. Packets behind one that was dropped
    /// move up.
    pub(super) fn relay_in_place(&mut self, fates: &[Fate], mut train: Train) {
        let Some(Fate::Relay { hop, link, .. }) = fates.first() else { return };
        let (link, flow) = (*link, hop.flow);
        let Some((peer, session, to)) = self.carrier_of(link) else { return self.pool.give(train) };
        let bare = self.goes_bare(link, peer, fates);
        let away = if bare { FORWARD_OVERHEAD } else { 0 };
        let (stride, mut end) = (train.stride() - away, 0);
        for fate in fates {
            let Fate::Relay { place, .. } = fate else { continue };
            let place = place.start + away..place.end;
            let len = place.len();
            if place.start != end {
                train.bytes_mut().copy_within(place, end);
            }
            end += len;
        }
        train.set(end, stride);
        let stride = train.stride();
        if bare {
            self.stats.packets_forwarded_bare += fates.len() as u64;
        } else if self.seal_relayed(session, &mut train, stride, fates).is_err() {
            self.stats.packets_unsealed += fates.len() as u64;
            return self.pool.give(train);
        }
        self.stats.packets_forwarded += fates.len() as u64;
        self.sent_data(link, session);
        let short = fates.len() == 1 && end <= FORWARD_OVERHEAD + INTERACTIVE_LEN_MAX;
        let class = if short { Class::Interactive } else { Class::Bulk };
        self.egress.push(Lane { link, to, class, flow }, train, &mut self.pool, self.now);
    }

    /// Seals a hop header in front of each packet, now, or when the train leaves if one header will do for all of them.
    fn seal_relayed(
        &mut self,
        session: SessionId,
        train: &mut Train,
        stride: usize,
        fates: &[Fate],
    ) -> Result<(), SendError> {
        let mut hops = fates.iter().filter_map(|fate| match fate {
            Fate::Relay { hop, .. } => Some(*hop),
            Fate::Deliver { .. } => None,
        });
        let one = hops
            .clone()
            .next()
            .filter(|first| self.config.hands_out.is_some() && fates.len() > 1 && hops.all(|hop| hop == *first));
        let Some(hop) = one else {
            let hops = fates.iter().filter_map(|fate| match fate {
                Fate::Relay { hop, .. } => Some(*hop),
                Fate::Deliver { .. } => None,
            });
            return self.endpoint.seal_hops(session, train.bytes_mut(), stride, hops);
        };
        let len = train.len();
        let run = self.endpoint.give_hop_numbers(session, (len, stride), hop)?;
        train.seal_later(len, stride, run);
        Ok(())
    }

    /// Whether a train goes without hop headers: `peer` opens every packet of it, and has no need of a hop header just now.
    fn goes_bare(&mut self, link: LinkId, peer: NodeId, fates: &[Fate]) -> bool {
        let all_open = fates.iter().all(|fate| match fate {
            Fate::Relay { hop, opens_by_itself, .. } => hop.dst == peer && *opens_by_itself,
            Fate::Deliver { .. } => false,
        });
        all_open && self.links.get_mut(link).is_some_and(|link| link.last_hop.may_go_bare(self.now))
    }
}
