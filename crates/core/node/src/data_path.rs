//! A packet's story, downward: from the host, sealed end to end ([`sending`]), opened and delivered ([`arrival`]), or sent on
//! ([`relaying`]). What all three have in common, the way to the next hop, stands here.
//!
//! Packets that belong together stay together: a super-packet of the host becomes a [`Train`] of sealed packets in one buffer, a
//! relay seals new hop headers into the train where it stands, and at the end the opened packets are handed over in the buffer they
//! came in. Whatever is the same for a whole train is looked up once.
//!
//! [`Train`]: crate::train::Train

mod arrival;
mod relaying;
mod sending;

use x0t_model::{NodeId, Underlay};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::{HopHeader, SessionId, TAG_LEN};
use x0t_routing::{LinkId, NextHop, Twin};

use crate::egress::{Class, Lane, Run};
use crate::node::Node;

pub(crate) use arrival::Fate;
pub(crate) use sending::{Care, Dispatch};

/// How many hops a packet may take. Beyond what routing allows a path to have, so it ends a loop and never a path.
pub(crate) const TIME_TO_LIVE: u8 = 40;
/// Bytes around an IPv6 packet on the wire, across relays: hop header, seal, frame and kind. To a neighbour it is less, but sizes
/// that changed with the way would stall a flow whenever the way changes.
pub const ENCAPSULATION: usize = FORWARD_OVERHEAD + DATAGRAM_FRONT + 1 + TAG_LEN;
/// Shorter packets are treated as interactive: echo, acknowledgements, keystrokes.
const INTERACTIVE_LEN_MAX: usize = 256;

impl Node {
    /// Starts a payload that is no packet of a session at work on its way. False if there is no way.
    pub(crate) fn originate(&mut self, dst: NodeId, kind: PayloadKind, flow: u32, payload: &[u8]) -> bool {
        self.carry(HopHeader { src: self.me, dst, ttl: TIME_TO_LIVE, kind, flags: 0, flow }, payload)
    }

    /// Puts a payload on the link that leads to its destination. False if there is none.
    pub(crate) fn carry(&mut self, hop: HopHeader, payload: &[u8]) -> bool {
        let Some(link) = self.next_link(&hop, None) else { return false };
        self.carry_over(link, hop, payload)
    }

    fn carry_over(&mut self, link: LinkId, hop: HopHeader, payload: &[u8]) -> bool {
        let Some((_, session, to)) = self.carrier_of(link) else { return false };
        let class = if payload.len() <= INTERACTIVE_LEN_MAX { Class::Interactive } else { Class::Bulk };
        let lane = Lane { link, to, class, flow: hop.flow };
        let len = FORWARD_OVERHEAD + payload.len();
        let run = Run { count: 1, len, last_len: len };
        let (room, _) = self.egress.reserve(lane, run, &mut self.pool, self.now);
        room[FORWARD_OVERHEAD..].copy_from_slice(payload);
        let sealed = self.endpoint.seal_hops(session, room, len, [hop]);
        if sealed.is_err() {
            self.egress.retract(len);
            self.stats.packets_unsealed += 1;
            return false;
        }
        self.sent_data(link, session);
        true
    }

    /// Somebody's data goes over a link: it is watched closely while that is so.
    fn sent_data(&mut self, link: LinkId, session: SessionId) {
        self.router.carried_data(link, self.now);
        self.endpoint.carried_data(session, self.now);
    }

    /// The link that leads to a destination; none if it cannot be reached. The two copies of a packet are kept apart.
    fn next_link(&mut self, hop: &HopHeader, from: Option<LinkId>) -> Option<LinkId> {
        let next = match hop.flags & (HopHeader::TWIN | HopHeader::SECOND) {
            HopHeader::TWIN => self.router.next_hop_of_twin(hop.dst, Twin::First, from),
            flags if flags & HopHeader::TWIN != 0 => self.router.next_hop_of_twin(hop.dst, Twin::Second, from),
            _ => self.router.next_hop(hop.dst, hop.flow, from),
        };
        self.found(next, hop.dst, from)
    }

    /// What follows from who carries next.
    fn found(&mut self, next: NextHop, dst: NodeId, from: Option<LinkId>) -> Option<LinkId> {
        match next {
            NextHop::Via(link) => Some(link),
            NextHop::Local => None,
            NextHop::Unreachable { requested } => {
                self.stats.packets_unroutable += 1;
                // Who sends to somebody nobody announced looks for it; who merely relays leaves that to the sender.
                if from.is_none() && !requested {
                    self.router.seek(dst, self.now);
                }
                None
            }
        }
    }

    /// Who is at the other end of a link, the session that seals for it, and where it is.
    fn carrier_of(&mut self, link: LinkId) -> Option<(NodeId, SessionId, Underlay)> {
        let carrier = self.links.get(link).map(|link| (link.proven.peer, link.proven.session, link.proven.address));
        self.stats.packets_unroutable += u64::from(carrier.is_none());
        carrier
    }
}
