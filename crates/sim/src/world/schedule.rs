//! The order of events: by virtual time, then by their making.

use x0t_model::Instant;

/// What happens at an instant.
pub(super) enum Happening {
    Arrival {
        to: usize,
        from: usize,
        bytes: Vec<u8>,
    },
    Timer {
        host: usize,
    },
    /// A worker of a host has done its next job. The jobs of a process that was killed are gone.
    Job {
        host: usize,
        boots: u64,
        worker: usize,
    },
}

/// It, and when; of one instant, in the order in which it was made.
pub(super) struct Scheduled {
    pub(super) at: Instant,
    pub(super) order: u64,
    pub(super) what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
