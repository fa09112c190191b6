//! The composition: links, origins, requests and this node's own announcements.

use std::collections::{BTreeMap, VecDeque};

use x0t_model::{Entropy, Instant, Metric, NodeId};

use crate::feasibility::{Potential, Seqno};
use crate::hold_down::HoldDown;
use crate::message::{Message, Messages};
use crate::neighbor::{LinkId, Links, Standing};
use crate::origin::Origins;
use crate::pacing::TokenBucket;
use crate::seek::{RreqMemory, Seek};
use crate::timers::{Timer, Timers};
use crate::{RoutingConfig, Stats};

mod anchors;
mod doubts;
mod event;
mod forwarding;
mod links;
mod offers;
mod outbox;
mod own;
mod requests;

pub use event::{DeathReason, Event, Hops, LinkDownReason, NextHop, ProofTooLong, Successor, Transmit, Twin};

use anchors::Anchors;
use outbox::Outbox;
use own::Own;

/// Chooses the neighbour that carries a packet. Never does IO: tell it what happened, then drain [`Self::poll_transmit`] and
/// [`Self::poll_event`], then sleep until [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Router {
    pub(crate) config: RoutingConfig,
    pub(crate) me: NodeId,
    /// The bits of this node in the blooms of the ways that lead through it.
    my_bits: u64,
    pub(crate) links: Links,
    pub(crate) origins: Origins,
    pub(crate) own: Own,
    hold_down: HoldDown,
    anchors: Anchors,
    seeks: BTreeMap<NodeId, Seek>,
    rreqs: RreqMemory,
    next_rreq: u32,
    /// Origins asked for lately: the ones a suspicion is examined for.
    in_use: Vec<u32>,
    /// Origins whose offer is retracted although somebody could carry as a last resort: looked at when a link recovers.
    retracted: Vec<u32>,
    outbox: Outbox,
    events: VecDeque<Event>,
    timers: Timers,
    request_bucket: TokenBucket,
    seek_bucket: TokenBucket,
    entropy: Entropy,
    /// The latest time this router was told, for calls that come without one.
    clock: Instant,
    pub(crate) stats: Stats,
}

impl Router {
    /// A router without links. `epoch` is greater than in every earlier life of this node. Nothing is announced before
    /// [`Self::set_own_anchor_proof`]; an [`Event::NeedAnchorSignature`] asks for it.
    pub fn new(config: RoutingConfig, me: NodeId, epoch: u32, mut entropy: Entropy, now: Instant) -> Self {
        let id = me.as_bytes();
        let own = Own::new(&config, me, epoch, &mut entropy, now);
        let mut router = Self {
            my_bits: 1 << (id[0] & 63) | 1 << (id[1] & 63),
            me,
            links: Links::default(),
            origins: Origins::default(),
            own,
            hold_down: HoldDown::new(config.hold_down, config.links_max),
            anchors: Anchors::default(),
            seeks: BTreeMap::new(),
            rreqs: RreqMemory::new(config.rreq_memory_max),
            next_rreq: entropy.next_u32(),
            in_use: Vec::new(),
            retracted: Vec::new(),
            outbox: Outbox::new(config.outbox_max),
            events: VecDeque::new(),
            timers: Timers::default(),
            request_bucket: TokenBucket::new(config.requests, now),
            seek_bucket: TokenBucket::new((config.seeks_per_second, config.seeks_per_second), now),
            entropy,
            clock: now,
            stats: Stats::default(),
            config,
        };
        router.ask_for_signature();
        router
    }

    /// Handles what a neighbour said: one datagram or one reliable message. Counts as a heartbeat. What cannot be
    /// decoded is counted and dropped, with what follows it.
    pub fn handle_message(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        self.heard(link, now);
        self.stats.datagrams_received += 1;
        for message in Messages::new(bytes) {
            // Looked up each time: a GOODBYE ends the link in the middle of a datagram.
            let Some(slot) = self.links.slot_of(link).filter(|slot| self.links.get(*slot).is_some_and(|l| !l.left))
            else {
                self.stats.unknown_link += 1;
                return;
            };
            match message {
                Ok(Message::Hello(hello)) => self.handle_hello(slot, &hello, now),
                Ok(Message::Ogm(records)) => self.handle_ogms(slot, records, now),
                Ok(Message::Withdraw(records)) => self.handle_withdrawals(slot, records, now),
                Ok(Message::SeqReq(request)) => self.handle_seq_req(slot, request, now),
                Ok(Message::Rreq(request)) => self.handle_rreq(slot, request, now),
                Ok(Message::AnchorReq { origin, epoch }) => self.handle_anchor_req(slot, origin, epoch, now),
                Ok(Message::Anchor(anchor)) => self.handle_anchor(slot, &anchor, now),
                Ok(Message::Goodbye) => self.handle_goodbye(slot, now),
                Ok(Message::Unknown(_)) => self.stats.unknown_messages += 1,
                Err(_) => self.stats.malformed += 1,
            }
        }
    }

    /// Does what is due. Call when [`Self::poll_timeout`] says so; late calls are recognised as this node's own fault.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance_clock(now);
        while let Some((at, timer)) = self.timers.pop_due(now) {
            let slip = now.since(at);
            match timer {
                Timer::Link(slot) => self.link_timeout(slot, slip, now),
                Timer::Sync(slot) => self.sync_timeout(slot, now),
                Timer::Origin(index) => self.origin_timeout(index, now),
                Timer::Anchor(origin, epoch) => self.anchor_timeout(origin, epoch, now),
                Timer::Seek(target) => self.seek_timeout(target, now),
            }
        }
        if self.own.due().is_some_and(|due| due <= now) {
            self.originate(true, now);
        }
        if self.outbox.flush_at().is_some_and(|due| due <= now) {
            self.flush(now);
        }
    }

    /// When to call [`Self::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timer = self.timers.first().map(|(at, timer)| (at, timer.reason()));
        let own = self.own.due().map(|at| (at, "originator interval"));
        let flush = self.outbox.flush_at().map(|at| (at, "offers to send"));
        [timer, own, flush].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next bytes to send. Drain after every call that changes anything.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.poll(&mut self.links, &mut self.stats)
    }

    /// The next news. Drain after every call that changes anything.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// What happened so far, in numbers.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What this node has told about `dst`. Along every successor edge it falls strictly: the invariant that rules out loops.
    /// `None` if this node knows nothing, which counts as higher than everything.
    pub fn potential(&self, dst: NodeId) -> Option<Potential> {
        if dst == self.me {
            return Some(Potential { seqno: self.own.seqno(), distance: Metric::ZERO });
        }
        self.origins.find(&dst).map(|origin| origin.potential).filter(|potential| potential.seqno != Seqno::NONE)
    }

    /// Who carries for `dst`: up to three, the first choice first.
    pub fn successors(&self, dst: NodeId) -> impl Iterator<Item = Successor> {
        let origin = self.origins.find(&dst);
        origin
            .into_iter()
            .flat_map(|origin| origin.successors.as_slice().iter().filter_map(|slot| self.successor(origin, *slot)))
    }

    /// The neighbour link that would carry a packet for `dst`, without marking the destination as in use.
    pub fn peek_next_hop(&self, dst: NodeId) -> Option<LinkId> {
        let usable = |successor: &Successor| self.standing(successor.link).is_some_and(Standing::is_usable);
        self.successors(dst).find(usable).map(|successor| successor.link)
    }

    /// How far a link can be relied on; `None` if there is no such link.
    pub fn standing(&self, link: LinkId) -> Option<Standing> {
        self.links.get(self.links.slot_of(link)?).map(|link| link.standing)
    }

    /// Every destination that somebody carries for, by id.
    pub fn destinations(&self) -> impl Iterator<Item = NodeId> {
        self.origins.iter().filter(|origin| !origin.successors.as_slice().is_empty()).map(|origin| origin.id)
    }

    /// The epoch this node announces itself in, or will with its first proof.
    pub fn epoch(&self) -> u32 {
        self.own.epoch()
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() >= self.config.events_max && matches!(event, Event::RouteChanged { .. }) {
            self.stats.events_dropped += 1;
            return;
        }
        self.events.push_back(event);
    }

    fn advance_clock(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
    }
}
