//! The one test that keeps every route loop-free.
//!
//! A node's [`Potential`] for an origin is what it has told its neighbours: how new, and how near at best. A neighbour may
//! carry for this node only if its offer lies strictly below that. An offer never lies below the potential of the node that
//! made it, and a potential only falls, so along any chain of successors the potential falls strictly: a chain cannot close.

use std::cmp::{Ordering, Reverse};

use serde::Serialize;
use x0t_model::Metric;

/// How new an announcement is: the origin's epoch, then its sequence number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Seqno {
    /// A counter that the origin persists and raises at every start and when a chain is used up.
    pub epoch: u32,
    /// Within the epoch, from 1.
    pub seq: u32,
}

impl Seqno {
    /// Older than every announcement.
    pub const NONE: Self = Self { epoch: 0, seq: 0 };
}

/// What a node has told its neighbours about an origin. Smaller is nearer: newer first, then closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Potential {
    /// The newest announcement it has adopted.
    pub seqno: Seqno,
    /// The feasible distance: the smallest metric it has advertised for that announcement.
    pub distance: Metric,
}

impl Potential {
    /// Whether an offer lies strictly below this potential.
    pub fn admits(&self, seqno: Seqno, metric: Metric) -> bool {
        metric.is_finite() && (seqno > self.seqno || seqno == self.seqno && metric < self.distance)
    }
}

impl Ord for Potential {
    fn cmp(&self, other: &Self) -> Ordering {
        (Reverse(self.seqno), self.distance).cmp(&(Reverse(other.seqno), other.distance))
    }
}

impl PartialOrd for Potential {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn potential(epoch: u32, seq: u32, micros: u32) -> Potential {
        Potential { seqno: Seqno { epoch, seq }, distance: Metric::from_micros(micros) }
    }

    #[test]
    fn an_offer_is_feasible_if_newer_or_equally_new_and_strictly_closer() {
        let mine = potential(2, 7, 500);
        for (epoch, seq, micros, feasible) in [
            (2, 7, 499, true),
            (2, 7, 500, false),
            (2, 7, 501, false),
            (2, 8, 90_000, true),
            (2, 6, 0, false),
            (3, 1, 90_000, true),
            (1, 900, 0, false),
            (3, 1, u32::MAX, false),
        ] {
            let offer = potential(epoch, seq, micros);
            assert_eq!(mine.admits(offer.seqno, offer.distance), feasible, "{offer:?}");
            if feasible {
                assert!(offer < mine, "a feasible offer lies below: {offer:?}");
            }
        }
    }
}
