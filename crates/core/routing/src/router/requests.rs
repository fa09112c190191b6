//! Asking: for a newer announcement of somebody known (SEQ_REQ), and for somebody unknown (RREQ).

use std::time::Duration;

use x0t_model::{Instant, NodeId};

use super::{Event, Router};
use crate::feasibility::Seqno;
use crate::message::{Rreq, SeqReq};
use crate::origin::Origin;
use crate::seek::{Seek, Step};
use crate::timers::Timer;

/// The same request is repeated for others at most this often.
const FORWARD_SPACING: Duration = Duration::from_millis(100);
/// After a request passed, its answer is not held up by laziness or aggregation for this long.
const HURRY: Duration = Duration::from_millis(500);

impl Router {
    /// Searches for `dst` in growing rings, for up to 15 seconds; [`Event::RouteChanged`] or [`Event::SeekFailed`] ends it.
    /// True if a search is under way.
    pub fn seek(&mut self, dst: NodeId, now: Instant) -> bool {
        self.advance_clock(now);
        if self.seeks.contains_key(&dst) {
            return true;
        }
        if dst == self.me || self.seeks.len() >= self.config.seeks_max || !self.seek_bucket.take(now) {
            self.stats.rate_limited += 1;
            return false;
        }
        self.stats.seeks_started += 1;
        self.seeks.insert(dst, Seek::new(now));
        self.seek_timeout(dst, now);
        true
    }

    pub(super) fn end_seek(&mut self, dst: NodeId) {
        if let Some(mut seek) = self.seeks.remove(&dst) {
            self.timers.disarm(Timer::Seek(dst), &mut seek.armed);
        }
    }

    pub(super) fn seek_timeout(&mut self, dst: NodeId, now: Instant) {
        let Some(seek) = self.seeks.get_mut(&dst) else { return };
        seek.armed = None;
        let wait = match seek.step(&self.config, now) {
            Step::GiveUp => {
                self.seeks.remove(&dst);
                self.stats.seeks_failed += 1;
                self.push_event(Event::SeekFailed { dst });
                return;
            }
            Step::Wait(wait) => wait,
            Step::Ask { ttl, wait } => {
                self.ask_around(dst, ttl, now);
                wait
            }
        };
        if let Some(seek) = self.seeks.get_mut(&dst) {
            self.timers.arm(Timer::Seek(dst), &mut seek.armed, now + wait.max(Duration::from_millis(1)));
        }
    }

    fn ask_around(&mut self, target: NodeId, ttl: u8, now: Instant) {
        self.next_rreq = self.next_rreq.wrapping_add(1);
        let request = Rreq { requester: self.me, id: self.next_rreq, target, ttl };
        self.rreqs.is_new(self.me, request.id);
        self.flood_rreq(request, None, now);
    }

    pub(super) fn handle_rreq(&mut self, slot: u32, request: Rreq, now: Instant) {
        if !self.grant_request(slot, now) || request.requester == self.me {
            return;
        }
        if !self.rreqs.is_new(request.requester, request.id) {
            return;
        }
        if request.target == self.me {
            // Only the target answers, and it answers with what every node tests: a fresh announcement.
            self.stats.rreqs_answered += 1;
            self.originate_on_request(now);
        } else if request.ttl > 1 && self.config.role.relays() {
            self.stats.rreqs_forwarded += 1;
            if let Some(target) = self.origins.find_mut(&request.target) {
                target.hurry_until = now + HURRY;
            }
            self.flood_rreq(Rreq { ttl: request.ttl - 1, ..request }, Some(slot), now);
        }
    }

    /// The requester's own announcement goes ahead, so that the target knows the way back.
    fn flood_rreq(&mut self, request: Rreq, from: Option<u32>, now: Instant) {
        let way_back = if request.requester == self.me {
            self.own.to_ogm(&self.config)
        } else {
            self.origins.find(&request.requester).and_then(|origin| origin.to_ogm(now))
        };
        let slots: Vec<u32> = self.links.reachable().filter(|slot| Some(*slot) != from).collect();
        for slot in slots {
            if let Some(ogm) = way_back {
                self.send_ogm(slot, ogm);
            }
            self.send_to(slot, |out| request.write(out));
        }
    }

    /// Nobody carries for the origin at `index`: ask for something newer, at growing intervals.
    pub(super) fn request_newer(&mut self, index: u32, now: Instant) {
        let Some(origin) = self.origins.get_mut(index) else { return };
        if origin.request.next_at.is_some_and(|at| now < at) {
            return;
        }
        if origin.request.tries >= self.config.request_tries {
            // Quiet for a while; a packet or an offer may start over.
            origin.request.tries = 0;
            origin.request.next_at = Some(now + HURRY);
            return;
        }
        let wait = self.config.request_retry * (1 << origin.request.tries.min(2));
        origin.request.next_at = Some(now + wait);
        let first = origin.request.tries == 0;
        origin.request.tries += 1;
        origin.hurry_until = now + HURRY;
        let deadline = origin.deadline(&self.config, now);
        self.timers.arm(Timer::Origin(index), &mut origin.armed, deadline);
        if !self.request_bucket.take(now) {
            self.stats.rate_limited += 1;
            return;
        }
        let held = origin.potential;
        let request = SeqReq {
            origin: origin.id,
            held: held.seqno,
            distance: held.distance,
            ttl: self.config.request_ttl,
            nonce: self.entropy.next_u32(),
        };
        self.stats.seq_requests_sent += 1;
        self.send_seq_req(index, request, None, first);
    }

    /// First to neighbours who have a way that is merely not feasible; to all of them if there are none, or on a retry.
    fn send_seq_req(&mut self, index: u32, request: SeqReq, from: Option<u32>, choosy: bool) {
        let Some(origin) = self.origins.get(index) else { return };
        let mut slots: Vec<u32> = Vec::new();
        if choosy {
            slots
                .extend(origin.unfeasible_neighbors(&self.links).as_slice().iter().filter(|slot| Some(**slot) != from));
        }
        if slots.is_empty() {
            slots.extend(self.links.reachable().filter(|slot| Some(*slot) != from));
        }
        for slot in slots {
            self.send_to(slot, |out| request.write(out));
        }
    }

    pub(super) fn handle_seq_req(&mut self, slot: u32, request: SeqReq, now: Instant) {
        if !self.grant_request(slot, now) {
            return;
        }
        if request.origin == self.me {
            return self.answer_for_self(slot, request, now);
        }
        let Some(index) = self.origins.index(&request.origin) else { return };
        let Some(origin) = self.origins.get_mut(index) else { return };
        let primary = origin.successors.as_slice().first().copied();
        // A nearer way of the same number helps only the requester itself: whoever passes the answer on adds to its metric.
        let asked_directly = request.ttl == self.config.request_ttl;
        let helps = beats(origin, &request) && (asked_directly || origin.potential.seqno > request.held);
        if let Some(ogm) = origin.to_ogm(now).filter(|_| primary != Some(slot) && helps) {
            self.stats.seq_requests_answered += 1;
            self.send_ogm(slot, ogm);
            return;
        }
        let repeated =
            origin.request.forwarded.is_some_and(|(held, at)| held == request.held && now.since(at) < FORWARD_SPACING);
        if request.ttl <= 1 || repeated || !self.config.role.relays() {
            return;
        }
        origin.request.forwarded = Some((request.held, now));
        origin.hurry_until = now + HURRY;
        self.stats.seq_requests_forwarded += 1;
        let request = SeqReq { ttl: request.ttl - 1, ..request };
        match primary.filter(|primary| *primary != slot && self.links.standing(*primary).is_usable()) {
            Some(primary) => self.send_to(primary, |out| request.write(out)),
            None => self.send_seq_req(index, request, Some(slot), true),
        }
    }

    fn answer_for_self(&mut self, slot: u32, request: SeqReq, now: Instant) {
        let mine = self.own.seqno();
        if mine == Seqno::NONE || request.held > mine {
            // A number this node never announced: nothing could help.
            return;
        }
        self.stats.seq_requests_answered += 1;
        if mine > request.held
            && let Some(ogm) = self.own.to_ogm(&self.config)
        {
            self.send_ogm(slot, ogm);
        } else {
            self.originate_on_request(now);
        }
    }

    fn grant_request(&mut self, slot: u32, now: Instant) -> bool {
        let granted = self.links.get_mut(slot).is_some_and(|link| link.requests.take(now));
        self.stats.rate_limited += u64::from(!granted);
        granted
    }
}

/// Whether this node's offer is feasible for the requester.
fn beats(origin: &Origin, request: &SeqReq) -> bool {
    let held = crate::Potential { seqno: request.held, distance: request.distance };
    origin.offer.is_some_and(|offer| held.admits(origin.potential.seqno, offer.metric))
}
