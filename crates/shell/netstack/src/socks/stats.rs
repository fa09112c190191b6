//! What the SOCKS5 listener counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::association::Dropped;

/// Associations at once, of all clients. Each takes two UDP ports and 128 KiB.
pub const ASSOCIATIONS_MAX: u64 = 64;

/// Counters of the SOCKS5 listener since it began, and how many associations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocksStats {
    /// Associations at present.
    pub associations: u64,
    /// Associations that were made.
    pub associations_made: u64,
    /// Associations that were refused because there were too many, or no port was to be had.
    pub associations_refused: u64,
    /// Datagrams of clients handed to the mesh.
    pub datagrams_sent: u64,
    /// Datagrams of nodes handed to clients.
    pub datagrams_received: u64,
    /// Datagrams dropped because they were fragments.
    pub fragments_dropped: u64,
    /// Datagrams dropped because their header was none.
    pub datagrams_malformed: u64,
    /// Datagrams dropped because they did not come from the client.
    pub datagrams_of_strangers: u64,
    /// Datagrams dropped because they were for nobody in this mesh.
    pub datagrams_not_of_this_mesh: u64,
    /// Datagrams dropped because their client had sent nothing to the node that they came from.
    pub datagrams_unasked: u64,
}

/// Where it is counted.
#[derive(Debug, Default)]
pub struct Counters {
    associations: AtomicU64,
    associations_made: AtomicU64,
    associations_refused: AtomicU64,
    datagrams_sent: AtomicU64,
    datagrams_received: AtomicU64,
    fragments_dropped: AtomicU64,
    datagrams_malformed: AtomicU64,
    datagrams_of_strangers: AtomicU64,
    datagrams_not_of_this_mesh: AtomicU64,
    datagrams_unasked: AtomicU64,
}

/// Counts one association for as long as it lives.
#[derive(Debug)]
pub struct Seat(Arc<Counters>);

impl Counters {
    /// Room for one more association, if there is any.
    pub fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let one_more = |taken: u64| (taken < ASSOCIATIONS_MAX).then_some(taken + 1);
        let taken = self.associations.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Seat(self.clone()))
    }

    /// An association was made.
    pub fn made(&self) {
        count(&self.associations_made);
    }

    /// One was not.
    pub fn refused(&self) {
        count(&self.associations_refused);
    }

    /// A client's datagram was handed to the mesh.
    pub fn sent(&self) {
        count(&self.datagrams_sent);
    }

    /// A node's was handed to a client.
    pub fn received(&self) {
        count(&self.datagrams_received);
    }

    /// One was dropped.
    pub fn dropped(&self, reason: Dropped) {
        count(match reason {
            Dropped::Stranger => &self.datagrams_of_strangers,
            Dropped::Fragment => &self.fragments_dropped,
            Dropped::Malformed => &self.datagrams_malformed,
            Dropped::NotOfThisMesh => &self.datagrams_not_of_this_mesh,
            Dropped::Unasked => &self.datagrams_unasked,
        });
    }

    /// All of it as it stands.
    pub fn stats(&self) -> SocksStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SocksStats {
            associations: read(&self.associations),
            associations_made: read(&self.associations_made),
            associations_refused: read(&self.associations_refused),
            datagrams_sent: read(&self.datagrams_sent),
            datagrams_received: read(&self.datagrams_received),
            fragments_dropped: read(&self.fragments_dropped),
            datagrams_malformed: read(&self.datagrams_malformed),
            datagrams_of_strangers: read(&self.datagrams_of_strangers),
            datagrams_not_of_this_mesh: read(&self.datagrams_not_of_this_mesh),
            datagrams_unasked: read(&self.datagrams_unasked),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.associations.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_seats_and_one_that_is_left_is_free_again() {
        let counters = Arc::<Counters>::default();
        let mut seats: Vec<Seat> = std::iter::from_fn(|| counters.take_seat()).collect();
        assert_eq!((seats.len() as u64, counters.stats().associations), (ASSOCIATIONS_MAX, ASSOCIATIONS_MAX));
        seats.pop();
        assert!(counters.take_seat().is_some() && counters.take_seat().is_some(), "each is left at once");
    }
}
