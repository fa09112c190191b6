//! What waits to be sent: one fair queue per neighbour, served in turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use x0t_model::Instant;
use x0t_routing::LinkId;
use x0t_routing::queue::{FairQueue, QueueConfig};

pub use x0t_routing::queue::Class;

#[derive(Default)]
pub struct Egress {
    queues: BTreeMap<LinkId, FairQueue<(SocketAddr, Vec<u8>)>>,
    /// Whose turn is next.
    turn: Option<LinkId>,
    waiting: usize,
    /// By queues of neighbours that are gone.
    dropped_before: u64,
}

impl Egress {
    pub fn push(&mut self, link: LinkId, to: SocketAddr, class: Class, flow: u32, packet: Vec<u8>, now: Instant) {
        let len = packet.len();
        let queue = self.queues.entry(link).or_insert_with(|| FairQueue::new(QueueConfig::default()));
        let before = queue.len();
        queue.push(class, flow, len, (to, packet), now);
        self.waiting = self.waiting + queue.len() - before;
    }

    /// The next packet: neighbours take turns, each gives its most urgent class first and its flows in turn.
    pub fn pop(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if self.waiting == 0 {
            return None;
        }
        let after = self.turn;
        let later = self
            .queues
            .range((after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded), std::ops::Bound::Unbounded));
        let order: Vec<LinkId> =
            later.chain(self.queues.iter()).map(|(link, _)| *link).take(self.queues.len()).collect();
        for link in order {
            let Some(queue) = self.queues.get_mut(&link) else { continue };
            let before = queue.len();
            let popped = queue.pop(now);
            self.waiting -= before - queue.len();
            if popped.is_some() {
                self.turn = Some(link);
                return popped;
            }
        }
        None
    }

    pub fn forget(&mut self, link: LinkId) {
        if let Some(queue) = self.queues.remove(&link) {
            self.waiting -= queue.len();
            self.dropped_before += dropped(&queue) + queue.len() as u64;
        }
    }

    /// Packets dropped because they waited too long or there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped_before + self.queues.values().map(dropped).sum::<u64>()
    }
}

fn dropped<T>(queue: &FairQueue<T>) -> u64 {
    queue.stats().dropped_sojourn + queue.stats().dropped_overflow
}
