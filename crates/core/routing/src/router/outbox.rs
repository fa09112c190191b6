//! What waits to be sent: offers that share datagrams, messages for one neighbour, and datagrams ready to go.

use std::collections::VecDeque;

use x0t_model::Instant;

use super::{Router, Transmit};
use crate::Stats;
use crate::message::{HEADER_LEN, OGM_LEN, Ogm, SERIAL_LEN, WITHDRAWAL_LEN, Withdrawal, write_ogms, write_withdrawals};
use crate::neighbor::Links;

/// Withdrawals travel reliably, so they may be long; this many fill about one packet's worth of stream.
const WITHDRAWALS_PER_MESSAGE: usize = 1_024 / WITHDRAWAL_LEN;

#[derive(Debug)]
pub(super) struct Outbox {
    ready: VecDeque<Transmit>,
    max: usize,
    /// Slots with something in their link's `outgoing`.
    waiting: Vec<u32>,
    /// Origins whose offer changed.
    pub dirty: Vec<u32>,
    pub own_dirty: bool,
    pub withdrawals: Vec<Withdrawal>,
    flush_at: Option<Instant>,
    serial: u32,
    /// Reused, so that a flush allocates datagrams only.
    batch: Vec<Ogm>,
}

impl Outbox {
    pub(super) fn new(max: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            max,
            waiting: Vec::new(),
            dirty: Vec::new(),
            own_dirty: false,
            withdrawals: Vec::new(),
            flush_at: None,
            serial: 0,
            batch: Vec::new(),
        }
    }

    pub(super) const fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    pub(super) fn flush_by(&mut self, at: Instant) {
        self.flush_at = Some(self.flush_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// One number for all links: what matters is that it rises on each.
    pub(super) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    pub(super) fn push(&mut self, transmit: Transmit, stats: &mut Stats) {
        if self.ready.len() >= self.max {
            stats.outbox_dropped += 1;
            return;
        }
        stats.datagrams_sent += 1;
        stats.bytes_sent += transmit.bytes.len() as u64;
        self.ready.push_back(transmit);
    }

    pub(super) fn poll(&mut self, links: &mut Links, stats: &mut Stats) -> Option<Transmit> {
        while self.ready.is_empty() {
            let slot = self.waiting.pop()?;
            self.close(slot, links, stats);
        }
        self.ready.pop_front()
    }

    /// What waits for the link at `slot` becomes a datagram.
    fn close(&mut self, slot: u32, links: &mut Links, stats: &mut Stats) {
        if let Some(link) = links.get_mut(slot)
            && !link.outgoing.is_empty()
        {
            let bytes = std::mem::take(&mut link.outgoing);
            self.push(Transmit { link: link.id, bytes, reliable: false }, stats);
        }
    }
}

impl Router {
    /// Appends messages for one neighbour; those of one call share a datagram.
    pub(super) fn send_to(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(link) = self.links.get_mut(slot) else { return };
        let before = link.outgoing.len();
        if before == 0 {
            self.outbox.waiting.push(slot);
        }
        write(&mut link.outgoing);
        if before > 0 && link.outgoing.len() > self.config.datagram_max {
            let last = link.outgoing.split_off(before);
            let bytes = std::mem::replace(&mut link.outgoing, last);
            self.outbox.push(Transmit { link: link.id, bytes, reliable: false }, &mut self.stats);
        }
    }

    /// A message of its own that must arrive.
    pub(super) fn send_reliably(&mut self, slot: u32, bytes: Vec<u8>) {
        if let Some(link) = self.links.get(slot) {
            self.outbox.push(Transmit { link: link.id, bytes, reliable: true }, &mut self.stats);
        }
    }

    /// Records that fit one datagram.
    pub(super) fn ogms_per_datagram(&self) -> usize {
        (self.config.datagram_max.saturating_sub(HEADER_LEN + SERIAL_LEN) / OGM_LEN).clamp(1, 1_000)
    }

    /// Shows one neighbour one record.
    pub(super) fn send_ogm(&mut self, slot: u32, ogm: Ogm) {
        let serial = self.outbox.next_serial();
        self.stats.ogms_sent += 1;
        self.send_to(slot, |out| write_ogms(out, serial, &[ogm]));
    }

    /// Sends all changed offers to all neighbours. The bytes are the same for all: an offer shown to the neighbour it came
    /// from is not feasible there, and is what it asks first when it starves.
    pub(super) fn flush(&mut self, now: Instant) {
        self.outbox.flush_at = None;
        self.flush_withdrawals();
        let mut batch = std::mem::take(&mut self.outbox.batch);
        batch.clear();
        if std::mem::take(&mut self.outbox.own_dirty) {
            batch.extend(self.own.to_ogm(&self.config));
        }
        let mut dirty = std::mem::take(&mut self.outbox.dirty);
        for index in dirty.drain(..) {
            let Some(origin) = self.origins.get_mut(index) else { continue };
            origin.dirty = false;
            batch.extend(origin.to_ogm(now));
        }
        self.outbox.dirty = dirty;
        for chunk in batch.chunks(self.ogms_per_datagram()) {
            let serial = self.outbox.next_serial();
            let mut bytes = Vec::with_capacity(HEADER_LEN + SERIAL_LEN + chunk.len() * OGM_LEN);
            write_ogms(&mut bytes, serial, chunk);
            self.broadcast(&bytes, false, chunk.len() as u64);
        }
        self.outbox.batch = batch;
    }

    fn flush_withdrawals(&mut self) {
        let withdrawals = std::mem::take(&mut self.outbox.withdrawals);
        for chunk in withdrawals.chunks(WITHDRAWALS_PER_MESSAGE) {
            let serial = self.outbox.next_serial();
            let mut bytes = Vec::new();
            write_withdrawals(&mut bytes, serial, chunk);
            self.broadcast(&bytes, true, 0);
        }
    }

    pub(super) fn broadcast(&mut self, bytes: &[u8], reliable: bool, ogms: u64) {
        for slot in self.links.reachable() {
            let Some(link) = self.links.get(slot) else { continue };
            self.stats.ogms_sent += ogms;
            self.outbox.push(Transmit { link: link.id, bytes: bytes.to_vec(), reliable }, &mut self.stats);
        }
    }
}
