//! Links come, fall silent, recover, die and go.

use std::time::Duration;

use x0t_model::{Instant, NodeId};

use super::{DeathReason, Event, LinkDownReason, Router};
use crate::detector::{Heard, Liveness, News};
use crate::message::{Hello, write_goodbye};
use crate::neighbor::{Link, LinkId, Standing};
use crate::timers::Timer;

/// A HELLO that asks for an answer gets one at most this often.
const REPLY_SPACING: Duration = Duration::from_millis(5);
/// A neighbour is shown the whole table at most this often.
const RESYNC_SPACING: Duration = Duration::from_secs(1);
/// A neighbour is asked because of a doubt at most this often: whoever makes doubts gets no more packets out of it.
const DOUBT_SPACING: Duration = Duration::from_secs(1);
/// Records shown to a new neighbour per step, and the time between steps: a table of 16,384 takes 0.6 s and no queue
/// overflows.
const SYNC_CHUNK: usize = 256;
const SYNC_INTERVAL: Duration = Duration::from_millis(10);

impl Router {
    /// A session with `peer` was established on `link`. `incarnation` names one life of the peer's memory: the same link with
    /// the same incarnation is only a new session and nothing is dropped; another incarnation has forgotten what it told
    /// and was told, so every offer of the old one is dropped.
    pub fn link_up(&mut self, link: LinkId, peer: NodeId, incarnation: u64, now: Instant) {
        self.advance_clock(now);
        self.forget_earlier_lives(link, peer, incarnation, now);
        let known = self.links.slot_of(link);
        let slot = match known {
            Some(slot) => {
                if let Some(link) = self.links.get_mut(slot) {
                    link.renew_session(&self.config, now);
                }
                slot
            }
            None if self.links.len() >= self.config.links_max || peer == self.me => {
                self.stats.table_full += 1;
                return;
            }
            None => self.links.insert(Link::new(link, peer, incarnation, &self.config, now)),
        };
        if let Some(link) = self.links.get_mut(slot) {
            link.held_until = self.hold_down.held_until(peer, now);
        }
        self.restand(slot, now);
        self.neighborhood_changed(now);
        self.start_sync(slot, now);
        self.say_hello(slot, true, now);
    }

    /// Other links of a peer that came back without memory are over, and so is this one if it was somebody else's.
    fn forget_earlier_lives(&mut self, id: LinkId, peer: NodeId, incarnation: u64, now: Instant) {
        let stale: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| {
                let same = (link.peer, link.incarnation) == (peer, incarnation);
                if link.id == id { !same } else { link.peer == peer && !same }
            })
            .map(|(slot, link)| (slot, link.id))
            .collect();
        for (slot, stale_id) in stale {
            if stale_id == id {
                self.remove_link(slot, now);
            } else {
                self.bury(slot, DeathReason::Closed, now);
            }
        }
    }

    /// The session on `link` is over.
    pub fn link_down(&mut self, link: LinkId, reason: LinkDownReason, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let was_dead = self.links.get(slot).is_some_and(|link| link.left || link.detector.liveness() == Liveness::Dead);
        if !was_dead {
            if let (LinkDownReason::Dead, Some(link)) = (reason, self.links.get(slot)) {
                self.hold_down.died(link.peer, now);
            }
            let reason = match reason {
                LinkDownReason::Goodbye => DeathReason::Goodbye,
                LinkDownReason::Closed => DeathReason::Closed,
                LinkDownReason::Dead => DeathReason::Silent,
            };
            self.bury(slot, reason, now);
        }
        self.remove_link(slot, now);
    }

    /// The operating system says that the interface under `link` has or has lost its carrier. Flips one bit: forwarding sees
    /// it at once, and the detector's questions decide whether it is news.
    pub fn link_carrier(&mut self, link: LinkId, alive: bool, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let Some(link) = self.links.get_mut(slot) else { return };
        link.carrier = alive;
        if alive {
            link.detector.trust_again();
        } else {
            link.detector.suspect_now(now);
        }
        self.restand(slot, now);
    }

    /// The network says that nothing reaches the neighbour on `link`. Anybody can make it say so, so this decides nothing: the neighbour is
    /// asked at once, and its answer or its silence decides, as ever.
    pub fn link_doubted(&mut self, link: LinkId, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let Some(link) = self.links.get_mut(slot).filter(|link| !link.left) else { return };
        if link.doubted_at.is_some_and(|at| now.since(at) < DOUBT_SPACING) {
            return;
        }
        if link.detector.doubted(&self.config.detector, now) {
            link.doubted_at = Some(now);
            self.stats.links_doubted += 1;
            self.say_hello(slot, true, now);
        }
    }

    /// What one packet can carry over `link`. A larger size is told with the next announcements; a smaller one at once, because what
    /// others send by this way is lost until they know.
    pub fn link_mtu(&mut self, link: LinkId, mtu: u16, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let Some(link) = self.links.get_mut(slot) else { return };
        let thinner = mtu < std::mem::replace(&mut link.mtu, mtu);
        if !thinner {
            return;
        }
        for index in 0..self.origins.end() {
            let primary = self.origins.get(index).and_then(|origin| origin.successors.as_slice().first());
            if primary == Some(&slot) {
                self.reconsider(index, now);
            }
        }
    }

    /// Any authenticated packet came over `link`.
    pub fn heard(&mut self, link: LinkId, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let Some(link) = self.links.get_mut(slot).filter(|link| !link.left) else { return };
        let silent_for = now.since(link.detector.last_heard());
        let (id, peer) = (link.id, link.peer);
        match link.detector.heard(now) {
            Heard::AsUsual => return,
            Heard::Recovered { .. } => {}
            Heard::Revived => {
                link.resync_wanted = true;
                link.held_until = self.hold_down.held_until(peer, now);
                self.start_sync(slot, now);
                self.neighborhood_changed(now);
            }
        }
        self.stats.links_recovered += 1;
        self.push_event(Event::LinkRecovered { link: id, peer, silent_for });
        self.restand(slot, now);
        // The peer may believe that it is not heard: say otherwise at once.
        self.say_hello(slot, false, now);
    }

    /// Any packet was sent over `link`: it is a heartbeat for the peer.
    pub fn sent(&mut self, link: LinkId, now: Instant) {
        self.advance_clock(now);
        if let Some(link) = self.links.slot_of(link).and_then(|slot| self.links.get_mut(slot)) {
            link.detector.sent(now);
        }
    }

    /// A packet of somebody's data passed over `link` in either direction. Keeps the link active for two seconds; the first
    /// one after idleness sends a HELLO ahead, so that even the first flow is watched closely.
    pub fn carried_data(&mut self, link: LinkId, now: Instant) {
        self.advance_clock(now);
        let Some(slot) = self.links.slot_of(link) else { return };
        let Some(link) = self.links.get_mut(slot) else { return };
        let next_seq = link.hello.sent_seq.wrapping_add(1);
        if link.detector.carried_data(&self.config.detector, next_seq, now) {
            self.say_hello(slot, true, now);
        }
    }

    /// This node leaves in good order: the neighbours are told, and need not find out.
    pub fn goodbye(&mut self, now: Instant) {
        self.advance_clock(now);
        let mut bytes = Vec::new();
        write_goodbye(&mut bytes);
        self.broadcast(&bytes, false, 0);
    }

    pub(super) fn handle_goodbye(&mut self, slot: u32, now: Instant) {
        self.bury(slot, DeathReason::Goodbye, now);
    }

    pub(super) fn handle_hello(&mut self, slot: u32, hello: &Hello, now: Instant) {
        self.stats.hellos_received += 1;
        let Some(link) = self.links.get_mut(slot) else { return };
        let first = !link.measured;
        let moved = link.take_hello(&self.config, hello, now);
        let reply = hello.reply_wanted && link.hello.replied_at.is_none_or(|at| now.since(at) >= REPLY_SPACING);
        if reply {
            link.hello.replied_at = Some(now);
        }
        let resync = hello.resync && link.resync_served_at.is_none_or(|at| now.since(at) >= RESYNC_SPACING);
        if resync {
            link.resync_served_at = Some(now);
        }
        self.restand(slot, now);
        if moved {
            self.cost_moved(slot, first, now);
        }
        if resync {
            self.start_sync(slot, now);
        }
        if reply {
            self.say_hello(slot, false, now);
        }
        self.arm_link(slot);
    }

    pub(super) fn link_timeout(&mut self, slot: u32, slip: Duration, now: Instant) {
        let Some(link) = self.links.get_mut(slot) else { return };
        link.armed = None;
        let due =
            if link.left { Default::default() } else { link.detector.handle_timeout(&self.config.detector, slip, now) };
        let (id, peer) = (link.id, link.peer);
        self.stats.own_stalls += u64::from(due.stalled);
        match due.news {
            Some(News::Suspected { silent_for }) => {
                self.stats.links_suspected += 1;
                self.push_event(Event::LinkSuspect { link: id, peer, silent_for });
            }
            Some(News::Died { .. }) => {
                self.hold_down.died(peer, now);
                self.bury(slot, DeathReason::Silent, now);
            }
            None => {}
        }
        self.restand(slot, now);
        if matches!(due.news, Some(News::Suspected { .. })) {
            self.rescue_flows(now);
        }
        if let Some(reply_wanted) = due.hello {
            self.say_hello(slot, reply_wanted, now);
        }
        self.arm_link(slot);
    }

    /// The link at `slot` carries no more: everything heard over it is dropped.
    fn bury(&mut self, slot: u32, reason: DeathReason, now: Instant) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let (id, peer) = (link.id, link.peer);
        let silent_for = now.since(link.detector.last_heard());
        link.left |= reason != DeathReason::Silent;
        link.sync_cursor = None;
        self.stats.links_died += 1;
        self.push_event(Event::LinkDead { link: id, peer, reason, silent_for });
        self.restand(slot, now);
        self.drop_offers(slot, now);
        self.neighborhood_changed(now);
    }

    fn remove_link(&mut self, slot: u32, now: Instant) {
        if let Some(link) = self.links.get_mut(slot) {
            link.left = true;
            self.timers.disarm(Timer::Link(slot), &mut link.armed);
            self.timers.disarm(Timer::Sync(slot), &mut link.sync_armed);
        }
        self.restand(slot, now);
        self.drop_offers(slot, now);
        self.links.remove(slot);
    }

    /// Derives the link's standing after something about it changed, and acts on a recovery.
    fn restand(&mut self, slot: u32, now: Instant) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let before = link.refresh(now);
        let standing = link.standing;
        self.arm_link(slot);
        if !before.is_usable() && standing.is_usable() {
            self.restore_offers(now);
        }
    }

    fn arm_link(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let deadline = link.deadline(&self.config);
        if deadline < Instant::FAR_FUTURE {
            // What is overdue by its nature is due at once, and does not count as this node's lateness.
            self.timers.arm(Timer::Link(slot), &mut link.armed, deadline.max(self.clock));
        }
    }

    fn say_hello(&mut self, slot: u32, reply_wanted: bool, now: Instant) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let hello = link.make_hello(&self.config, reply_wanted, now);
        self.stats.hellos_sent += 1;
        self.send_to(slot, |out| hello.write(out));
        self.arm_link(slot);
    }

    /// A neighbour is shown every offer there is, a part at a time.
    fn start_sync(&mut self, slot: u32, now: Instant) {
        if let Some(link) = self.links.get_mut(slot) {
            link.sync_cursor = Some(0);
            self.timers.arm(Timer::Sync(slot), &mut link.sync_armed, now);
        }
    }

    pub(super) fn sync_timeout(&mut self, slot: u32, now: Instant) {
        let Some(link) = self.links.get_mut(slot) else { return };
        link.sync_armed = None;
        let Some(cursor) = link.sync_cursor else { return };
        let (mut ogms, mut retracted) = (Vec::new(), Vec::new());
        if cursor == 0 {
            ogms.extend(self.own.to_ogm(&self.config));
        }
        let mut next = cursor;
        while next < self.origins.end() && ogms.len() < SYNC_CHUNK && retracted.len() < SYNC_CHUNK {
            if let Some(origin) = self.origins.get(next) {
                match origin.to_ogm(now) {
                    Some(ogm) => ogms.push(ogm),
                    // The retraction may have been lost with an earlier session.
                    None => retracted.extend(origin.withdrawal()),
                }
            }
            next += 1;
        }
        self.show(slot, &ogms, &retracted);
        let more = next < self.origins.end();
        let Some(link) = self.links.get_mut(slot) else { return };
        link.sync_cursor = more.then_some(next);
        if more {
            self.timers.arm(Timer::Sync(slot), &mut link.sync_armed, now + SYNC_INTERVAL);
        }
    }

    /// Links of `peer` that carry, for whoever wants to reach a neighbour without routing.
    pub fn links_to(&self, peer: NodeId) -> impl Iterator<Item = LinkId> {
        self.links
            .iter()
            .filter(move |(_, link)| link.peer == peer && link.standing < Standing::Down)
            .map(|(_, link)| link.id)
    }
}
