//! Learning whose chain is whose. An announcement of an unknown origin or epoch waits while its anchor is asked for,
//! shown, and verified by whoever knows identities.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::{Instant, NodeId};

use super::{Event, Router};
use crate::message::{Anchor, AnchorStatement, Ogm, PROOF_MAX, write_anchor_req};
use crate::origin::{Origin, StoredAnchor};
use crate::timers::Timer;

/// Announcements kept per origin and epoch, one per link.
const PENDING_PER_QUEST: usize = 8;
/// How long a verdict may take.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);
/// A proof of the same anchor is looked at again at most this often.
const REISSUE_SPACING: Duration = Duration::from_secs(10);
/// Refused anchors remembered.
const REFUSALS_MAX: usize = 1_024;
/// Renewed proofs being verified.
const REISSUES_MAX: usize = 256;

type Key = (NodeId, u32);

/// An anchor shown by the link at `slot`.
#[derive(Debug)]
struct Shown {
    slot: u32,
    statement: AnchorStatement,
    proof: Box<[u8]>,
}

/// One anchor that is asked for.
#[derive(Debug)]
struct Quest {
    /// On whose account it is.
    owner: u32,
    pending: Vec<(u32, u32, Ogm)>,
    tries: u8,
    verifying: Option<Shown>,
    armed: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Anchors {
    quests: BTreeMap<Key, Quest>,
    reissues: BTreeMap<Key, Shown>,
    /// By who showed it, until when.
    refusals: BTreeMap<(NodeId, Key), Instant>,
}

impl Anchors {
    /// The link at `slot` is over, and may become another's.
    pub(super) fn drop_slot(&mut self, slot: u32) {
        for quest in self.quests.values_mut() {
            quest.pending.retain(|(from, _, _)| *from != slot);
        }
        self.reissues.retain(|_, shown| shown.slot != slot);
    }

    fn refuse(&mut self, peer: NodeId, key: Key, until: Instant, now: Instant) {
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.retain(|_, until| *until > now);
        }
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.pop_first();
        }
        self.refusals.insert((peer, key), until);
    }

    fn is_refused(&self, peer: NodeId, key: Key, now: Instant) -> bool {
        self.refusals.get(&(peer, key)).is_some_and(|until| now < *until)
    }
}

impl Router {
    /// The origin's chain is not known: keep the announcement and ask whoever sent it.
    pub(super) fn await_anchor(&mut self, slot: u32, serial: u32, ogm: Ogm, now: Instant) {
        let key = (ogm.origin, ogm.seqno.epoch);
        let Some(link) = self.links.get_mut(slot) else { return };
        if self.anchors.is_refused(link.peer, key, now) {
            return;
        }
        if let Some(quest) = self.anchors.quests.get_mut(&key) {
            quest.pending.retain(|(from, _, _)| *from != slot);
            if quest.pending.len() < PENDING_PER_QUEST {
                quest.pending.push((slot, serial, ogm));
            }
            return;
        }
        if self.origins.len() >= self.config.origins_max && self.origins.index(&ogm.origin).is_none() {
            self.stats.table_full += 1;
            return;
        }
        let max = self.config.pending_anchors_max;
        if self.anchors.quests.len() >= max || link.quests >= max / 2 {
            self.stats.table_full += 1;
            link.resync_wanted = true;
            return;
        }
        link.quests += 1;
        let quest = Quest { owner: slot, pending: vec![(slot, serial, ogm)], tries: 0, verifying: None, armed: None };
        self.anchors.quests.insert(key, quest);
        self.ask_for_anchor(key, now);
    }

    /// Asks those who announced it, in turn.
    fn ask_for_anchor(&mut self, key: Key, now: Instant) {
        let Some(quest) = self.anchors.quests.get_mut(&key) else { return };
        let asked = quest.pending.get(usize::from(quest.tries) % quest.pending.len().max(1)).map(|pending| pending.0);
        let Some(slot) = asked.filter(|_| quest.tries < self.config.anchor_tries) else {
            self.stats.anchors_unanswered += 1;
            self.end_quest(key);
            return;
        };
        quest.tries += 1;
        self.timers.arm(Timer::Anchor(key.0, key.1), &mut quest.armed, now + self.config.anchor_retry);
        self.stats.anchors_requested += 1;
        self.send_to(slot, |out| write_anchor_req(out, key.0, key.1));
    }

    fn end_quest(&mut self, key: Key) -> Option<Quest> {
        let mut quest = self.anchors.quests.remove(&key)?;
        self.timers.disarm(Timer::Anchor(key.0, key.1), &mut quest.armed);
        if let Some(link) = self.links.get_mut(quest.owner) {
            link.quests = link.quests.saturating_sub(1);
        }
        Some(quest)
    }

    pub(super) fn anchor_timeout(&mut self, origin: NodeId, epoch: u32, now: Instant) {
        let key = (origin, epoch);
        let Some(quest) = self.anchors.quests.get_mut(&key) else { return };
        quest.armed = None;
        // A verdict that never comes ends it too.
        quest.verifying = None;
        self.ask_for_anchor(key, now);
    }

    pub(super) fn handle_anchor_req(&mut self, slot: u32, origin: NodeId, epoch: u32, now: Instant) {
        if !self.links.get_mut(slot).is_some_and(|link| link.anchor_requests.take(now)) {
            self.stats.rate_limited += 1;
            return;
        }
        let anchor = if origin == self.me {
            self.own.anchor(epoch)
        } else {
            let stored = self.origins.find(&origin).map(|origin| &origin.anchor);
            stored
                .filter(|stored| stored.statement.epoch == epoch)
                .map(|stored| Anchor { statement: stored.statement, proof: &stored.proof })
        };
        let Some(anchor) = anchor else { return };
        let mut bytes = Vec::new();
        anchor.write(&mut bytes);
        self.stats.anchors_sent += 1;
        self.send_reliably(slot, bytes);
    }

    pub(super) fn handle_anchor(&mut self, slot: u32, anchor: &Anchor<'_>, now: Instant) {
        let statement = anchor.statement;
        let key = (statement.origin, statement.epoch);
        let Some(peer) = self.links.get(slot).map(|link| link.peer) else { return };
        if statement.origin == self.me || self.anchors.is_refused(peer, key, now) {
            return;
        }
        if statement.shape.hops != self.config.chain_hops
            || !statement.shape.is_valid()
            || anchor.proof.len() > PROOF_MAX
        {
            self.stats.forged_anchor += 1;
            self.anchors.refuse(peer, key, now + self.config.anchor_refusal, now);
            return;
        }
        let shown = Shown { slot, statement, proof: anchor.proof.into() };
        if let Some(quest) = self.anchors.quests.get_mut(&key) {
            // Only one verdict at a time, and only on what somebody who announced the origin shows.
            if quest.verifying.is_some() || !quest.pending.iter().any(|(from, _, _)| *from == slot) {
                return;
            }
            self.timers.disarm(Timer::Anchor(key.0, key.1), &mut quest.armed);
            self.timers.arm(Timer::Anchor(key.0, key.1), &mut quest.armed, now + VERDICT_TIMEOUT);
            self.ask_for_verdict(&shown);
            if let Some(quest) = self.anchors.quests.get_mut(&key) {
                quest.verifying = Some(shown);
            }
        } else if self.is_renewed_proof(&statement, now) && self.anchors.reissues.len() < REISSUES_MAX {
            self.ask_for_verdict(&shown);
            self.anchors.reissues.insert(key, shown);
        }
    }

    fn is_renewed_proof(&self, statement: &AnchorStatement, now: Instant) -> bool {
        let known = self.origins.find(&statement.origin).map(|origin| &origin.anchor);
        known.is_some_and(|known| {
            let same_anchor = AnchorStatement { issue: known.statement.issue, ..*statement } == known.statement;
            same_anchor
                && statement.issue > known.statement.issue
                && now.since(known.accepted_at) >= REISSUE_SPACING
                && !self.anchors.reissues.contains_key(&(statement.origin, statement.epoch))
        })
    }

    fn ask_for_verdict(&mut self, shown: &Shown) {
        let Some(from) = self.links.get(shown.slot).map(|link| link.id) else { return };
        let statement = shown.statement;
        self.push_event(Event::AnchorToVerify {
            origin: statement.origin,
            epoch: statement.epoch,
            statement: statement.to_signed_bytes(),
            proof: shown.proof.to_vec(),
            from,
        });
    }

    /// The verdict on [`Event::AnchorToVerify`]: whether `origin` itself proved it, with an identity that is valid at present.
    pub fn anchor_verified(&mut self, origin: NodeId, epoch: u32, accepted: bool, now: Instant) {
        self.advance_clock(now);
        let key = (origin, epoch);
        if let Some(shown) = self.anchors.quests.get_mut(&key).and_then(|quest| quest.verifying.take()) {
            if accepted { self.accept_anchor(shown, now) } else { self.refuse_anchor(shown, now) }
        } else if let Some(shown) = self.anchors.reissues.remove(&key) {
            if accepted { self.accept_renewed_proof(shown, now) } else { self.refuse_anchor(shown, now) }
        }
    }

    fn accept_anchor(&mut self, shown: Shown, now: Instant) {
        let statement = shown.statement;
        let quest = self.end_quest((statement.origin, statement.epoch));
        let anchor = StoredAnchor { statement, proof: shown.proof, accepted_at: now };
        let full = self.origins.len() >= self.config.origins_max;
        match self.origins.find_mut(&statement.origin) {
            Some(origin) if origin.head.epoch() < statement.epoch => origin.begin_epoch(anchor),
            Some(_) => return,
            None if full => {
                self.stats.table_full += 1;
                return;
            }
            None => {
                let origin = Origin::new(anchor, &self.config, now);
                let expires = origin.expires;
                let index = self.origins.insert(origin);
                if let Some(origin) = self.origins.get_mut(index) {
                    self.timers.arm(Timer::Origin(index), &mut origin.armed, expires);
                }
            }
        }
        self.stats.anchors_accepted += 1;
        for (slot, serial, ogm) in quest.into_iter().flat_map(|quest| quest.pending) {
            self.handle_ogm(slot, serial, ogm, now);
        }
    }

    fn accept_renewed_proof(&mut self, shown: Shown, now: Instant) {
        let statement = shown.statement;
        let Some(origin) = self.origins.find_mut(&statement.origin) else { return };
        if origin.anchor.statement.epoch != statement.epoch {
            return;
        }
        let mut bytes = Vec::new();
        Anchor { statement, proof: &shown.proof }.write(&mut bytes);
        origin.anchor = StoredAnchor { statement, proof: shown.proof, accepted_at: now };
        self.stats.anchors_accepted += 1;
        let others: Vec<u32> = self.links.reachable().filter(|slot| *slot != shown.slot).collect();
        for slot in others {
            self.send_reliably(slot, bytes.clone());
        }
    }

    fn refuse_anchor(&mut self, shown: Shown, now: Instant) {
        let key = (shown.statement.origin, shown.statement.epoch);
        self.stats.forged_anchor += 1;
        if let Some(peer) = self.links.get(shown.slot).map(|link| link.peer) {
            self.anchors.refuse(peer, key, now + self.config.anchor_refusal, now);
        }
        if let Some(quest) = self.anchors.quests.get_mut(&key) {
            quest.pending.retain(|(slot, _, _)| *slot != shown.slot);
            // Others who announced it may have the true one.
            quest.tries = 0;
            self.timers.disarm(Timer::Anchor(key.0, key.1), &mut quest.armed);
            if quest.pending.is_empty() {
                self.end_quest(key);
            } else {
                self.ask_for_anchor(key, now);
            }
        }
    }
}
