//! A router that knows a thousand origins over three links.

use std::time::Duration;

use x0t_model::{Entropy, Instant, Metric, NodeId};
use x0t_routing::chain::{ChainHash, ChainShape, OwnChain};
use x0t_routing::message::{Anchor, AnchorStatement, Ogm, write_ogms};
use x0t_routing::{Event, LinkId, NextHop, Role, Router, RoutingConfig, Seqno};

use crate::{BenchError, Row, Samples};

/// Origins that the router knows.
pub const ORIGINS: usize = 1_000;
const LINKS: u8 = 3;
/// Look-ups of one batch.
const BATCH: usize = 1_000;

/// The router, and whom it can be asked for.
pub struct Table {
    router: Router,
    origins: Vec<NodeId>,
    next: usize,
}

impl Table {
    /// Fills a router by the messages that its neighbours would send it.
    ///
    /// # Errors
    /// If it does not learn all of them.
    pub fn new() -> Result<Self, BenchError> {
        let mut now = Instant::from_millis(1_000_000);
        let mut entropy = Entropy::new([3; 32]);
        let config = RoutingConfig { chain_hash: ChainHash::InsecureFast, ..RoutingConfig::default() };
        let shape = ChainShape { seqs: 4, hops: config.chain_hops };
        let mut router = Router::new(config, NodeId::from_bytes([0xaa; NodeId::LEN]), 1, entropy.fork("router"), now);
        for link in 1..=LINKS {
            router.link_up(LinkId(u32::from(link)), NodeId::from_bytes([link; NodeId::LEN]), 1, now);
        }
        let mut origins = Vec::with_capacity(ORIGINS);
        for number in 0..ORIGINS {
            let origin = NodeId::from_bytes(entropy.bytes());
            let mut chain = OwnChain::new(ChainHash::InsecureFast, origin, 1, shape, &mut entropy);
            let value = chain.value(1).ok_or_else(|| BenchError::Session("a chain without values".to_owned()))?;
            let statement = AnchorStatement { origin, epoch: 1, issue: 1, shape, value: chain.anchor() };
            for link in 1..=LINKS {
                let ogm = Ogm {
                    origin,
                    seqno: Seqno { epoch: 1, seq: 1 },
                    flags: Role::Relay.flags(),
                    hops: 1,
                    lifetime_ds: 600,
                    chain: ChainHash::InsecureFast.advance(&origin, 1, value, 1),
                    metric: Metric::from_micros(1_000 + u32::from(link) * 100),
                    path_mtu: 1_500,
                    bloom: 1 << link,
                };
                let mut bytes = Vec::new();
                write_ogms(&mut bytes, number as u32 + 1, &[ogm]);
                router.handle_message(LinkId(u32::from(link)), &bytes, now);
                if link == 1 {
                    let mut bytes = Vec::new();
                    Anchor { statement, proof: &[1] }.write(&mut bytes);
                    router.handle_message(LinkId(1), &bytes, now);
                }
                settle(&mut router, now);
            }
            origins.push(origin);
            // Slower than any rate limit, faster than the neighbours' heartbeats are missed.
            now += Duration::from_micros(20);
        }
        let mut table = Self { router, origins, next: 0 };
        let (known, sent) = (table.look_up(ORIGINS) as u64, ORIGINS as u64);
        if known == sent { Ok(table) } else { Err(BenchError::Lost { sent, arrived: known }) }
    }

    /// Asks for so many next hops, of one origin after the other; how many there were.
    pub fn look_up(&mut self, count: usize) -> usize {
        let mut found = 0;
        for _ in 0..count {
            // A step that is coprime to the number of origins visits all of them, and no two in the order of the table.
            self.next = (self.next + 389) % ORIGINS;
            let answer = self.router.next_hop(self.origins[self.next], self.next as u32, None);
            found += usize::from(matches!(answer, NextHop::Via(_)));
        }
        found
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        let arrived = samples.time(Row::NextHop, BATCH as u64, || self.look_up(BATCH)) as u64;
        let sent = BATCH as u64;
        if arrived == sent { Ok(()) } else { Err(BenchError::Lost { sent, arrived }) }
    }
}

fn settle(router: &mut Router, now: Instant) {
    while let Some(event) = router.poll_event() {
        if let Event::AnchorToVerify { origin, epoch, .. } = event {
            router.anchor_verified(origin, epoch, true, now);
        }
    }
    while router.poll_transmit().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_knows_a_thousand_origins_over_three_links() {
        let mut table = Table::new().unwrap();
        assert_eq!(table.router.destinations().filter(|origin| table.origins.contains(origin)).count(), ORIGINS);
        assert_eq!(table.router.successors(table.origins[7]).count(), usize::from(LINKS));
        assert_eq!(table.look_up(2 * ORIGINS), 2 * ORIGINS);
    }
}
