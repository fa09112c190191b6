//! Whether what is relayed to a neighbour that is its destination goes without a hop header.
//!
//! A hop header tells the neighbour three things that a bare packet does not: where to, which the neighbour finds out by opening it;
//! from whom, which it needs to know if it holds no such session; and that this node lives and relays, for nobody else can have
//! sealed it. So some trains go in full: one every now and then, and all of them for a while after the neighbour has complained.

use std::time::Duration;

use x0t_model::Instant;

/// A train goes in full at least this often: several times in the interval in which a link in use must be heard. Traffic that is thinner
/// always goes in full, and then there is nothing to gain.
const FULL_EVERY: Duration = Duration::from_millis(10);
/// How long trains go in full after a complaint: time for their senders to send again, be it by TCP's timer (RFC 6298: 1 s).
const FULL_AFTER_COMPLAINT: Duration = Duration::from_secs(2);

/// What a link remembers of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastHop {
    /// When a train is to go in full again.
    full_at: Instant,
    full_until: Instant,
}

impl LastHop {
    /// Whether the next train may go bare. If not, it is taken to go in full.
    pub fn may_go_bare(&mut self, now: Instant) -> bool {
        let bare = now < self.full_at && now >= self.full_until;
        if !bare {
            self.full_at = now + FULL_EVERY;
        }
        bare
    }

    /// The neighbour got something that it can neither open nor attribute.
    pub fn complained(&mut self, now: Instant) {
        self.full_until = now + FULL_AFTER_COMPLAINT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thin_traffic_goes_in_full_and_of_dense_traffic_a_train_every_ten_milliseconds() {
        let mut last_hop = LastHop::default();
        let full = |last_hop: &mut LastHop, millis: std::ops::Range<u64>, step| {
            millis.step_by(step).filter(|at| !last_hop.may_go_bare(Instant::from_millis(*at))).count()
        };
        assert_eq!(full(&mut last_hop, 0..100, 10), 10);
        assert_eq!(full(&mut last_hop, 100..200, 1), 10);
        last_hop.complained(Instant::from_millis(200));
        assert_eq!(full(&mut last_hop, 200..2_200, 1), 2_000);
        assert_eq!(full(&mut last_hop, 2_200..2_300, 1), 10);
    }
}
