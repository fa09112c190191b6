//! Ordered deadlines, one per thing that waits.

use std::collections::BTreeSet;

use x0t_model::{Instant, NodeId};

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A link's detector and hold-down, by slot.
    Link(u32),
    /// The next part of the table for a link, by slot.
    Sync(u32),
    /// An origin's adoption, retry, expiry or oblivion, by slot.
    Origin(u32),
    /// An anchor asked for.
    Anchor(NodeId, u32),
    /// A target sought.
    Seek(NodeId),
}

impl Timer {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Link(_) => "link",
            Self::Sync(_) => "table for a neighbour",
            Self::Origin(_) => "origin",
            Self::Anchor(..) => "anchor asked for",
            Self::Seek(_) => "route sought",
        }
    }
}

/// The set. A deadline that moves later is left in place: its owner looks at the clock when it fires and arms again, so
/// that a heartbeat need not touch the set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Wakes `timer` at `at`, or earlier if it is `armed` for earlier.
    pub(crate) fn arm(&mut self, timer: Timer, armed: &mut Option<Instant>, at: Instant) {
        if let Some(earlier) = *armed {
            if earlier <= at {
                return;
            }
            self.set.remove(&(earlier, timer));
        }
        self.set.insert((at, timer));
        *armed = Some(at);
    }

    /// Forgets `timer`.
    pub(crate) fn disarm(&mut self, timer: Timer, armed: &mut Option<Instant>) {
        if let Some(at) = armed.take() {
            self.set.remove(&(at, timer));
        }
    }

    /// The earliest.
    pub(crate) fn first(&self) -> Option<(Instant, Timer)> {
        self.set.first().copied()
    }

    /// Takes the earliest if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.set.first()?.0 > now { None } else { self.set.pop_first() }
    }
}
