//! Trains from the underlay that are opened elsewhere, and come back to be judged in the order of their arrival.

use std::collections::VecDeque;

use x0t_model::{NodeId, Underlay};
use x0t_overlay::packet::FORWARD_OVERHEAD;
use x0t_overlay::{Ahead, OpeningKey};

use crate::train::{Pool, Train};

/// Trains that wait for those before them to be opened. What comes then is lost, as it would be in a socket that is full.
pub const WAITING_MAX: usize = 256;
/// Values that wait to be used again.
const SPARE_MAX: usize = 64;

/// What was found out about a datagram away from its sessions: about itself, and about the packet in it if it has come through relays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) outer: Option<Ahead>,
    pub(crate) inner: Option<Ahead>,
}

/// A train to be opened: [`Self::open`] it on any thread and hand it back with [`crate::Input::Opened`].
#[derive(Debug)]
pub struct Opening {
    ticket: u64,
    pub(crate) from: Underlay,
    pub(crate) interface: u32,
    pub(crate) train: Train,
    me: NodeId,
    outer: Option<OpeningKey>,
    inner: Option<OpeningKey>,
    pub(crate) found: Vec<Found>,
}

impl Opening {
    /// Opens every datagram of the session that the first one belongs to. What belongs to another one stays as it is, and whoever
    /// judges it opens it. Depends on nothing but the value itself.
    pub fn open(&mut self) {
        self.found.clear();
        let (Some(outer), inner) = (&self.outer, self.inner.as_ref()) else { return };
        let me = self.me;
        self.found.extend(self.train.datagrams_mut().map(|datagram| {
            let (outer, inner) = outer.open_through(datagram, me, inner);
            Found { outer, inner }
        }));
        // Judged without a key at hand; that it is wiped must not wait for that.
        (self.outer, self.inner) = (None, None);
    }

    /// Bytes of all datagrams together.
    pub const fn len(&self) -> usize {
        self.train.len()
    }

    /// Whether there is nothing to open.
    pub const fn is_empty(&self) -> bool {
        self.train.is_empty()
    }
}

/// Trains in the order of their arrival, from the first that is not opened yet.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    /// None for those that are out to be opened.
    waiting: VecDeque<Option<Box<Opening>>>,
    /// The ticket of the first.
    first: u64,
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare: Vec<Box<Opening>>,
}

impl Openings {
    /// Whether a train would have to wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Queues a train. With a key it is to be opened elsewhere, and is returned for that.
    pub(crate) fn push(
        &mut self,
        (from, interface, train): (Underlay, u32, Train),
        (outer, inner): (Option<OpeningKey>, Option<OpeningKey>),
        me: NodeId,
        pool: &mut Pool,
    ) -> Option<Box<Opening>> {
        let ticket = self.first + self.waiting.len() as u64;
        let is_out = outer.is_some();
        let train = if is_out { train } else { pool.fit_to_wait(train) };
        let opening = Opening { ticket, from, interface, train, me, outer, inner, found: Vec::new() };
        let opening = match self.spare.pop() {
            None => Box::new(opening),
            Some(mut place) => {
                let found = std::mem::take(&mut place.found);
                *place = Opening { found, ..opening };
                place
            }
        };
        if is_out {
            self.waiting.push_back(None);
            return Some(opening);
        }
        self.waiting.push_back(Some(opening));
        None
    }

    /// A train comes back. One that nobody waits for is dropped.
    pub(crate) fn opened(&mut self, opening: Box<Opening>) {
        let place = opening.ticket.checked_sub(self.first).and_then(|at| self.waiting.get_mut(at as usize));
        if let Some(place @ None) = place {
            *place = Some(opening);
        }
    }

    /// The next train, unless it or one before it is still out.
    pub(crate) fn next(&mut self) -> Option<Box<Opening>> {
        let opening = self.waiting.front_mut()?.take()?;
        self.waiting.pop_front();
        self.first += 1;
        Some(opening)
    }

    /// Takes the value back, without its train.
    pub(crate) fn reuse(&mut self, mut opening: Box<Opening>) {
        opening.found.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(opening);
        }
    }
}

/// The packet that a FORWARD packet carries, as it would be if it ended here: the place where its own header stands is readable for
/// everybody.
pub(crate) fn carried(packet: &[u8]) -> &[u8] {
    packet.get(FORWARD_OVERHEAD..).unwrap_or_default()
}
