//! The lifetime of an announcement is nobody's secret and nobody's signature: what one neighbour says of it binds no other.

use std::time::Duration;

use x0t_model::{Entropy, Instant, Metric, NodeId};
use x0t_routing::chain::{ChainHash, ChainShape, OwnChain};
use x0t_routing::message::{Anchor, AnchorStatement, Ogm, write_ogms};
use x0t_routing::{LinkId, Router, RoutingConfig, Seqno};

const ME: NodeId = NodeId::from_bytes([1; 16]);
const ORIGIN: NodeId = NodeId::from_bytes([9; 16]);
const LIAR: LinkId = LinkId(1);
const HONEST: LinkId = LinkId(2);

struct Net {
    router: Router,
    chain: OwnChain,
    serial: u32,
    now: Instant,
}

impl Net {
    /// A router with two neighbours, and an origin behind them whose anchor is proven.
    fn new() -> Self {
        let now = Instant::from_millis(1_000);
        let config = RoutingConfig::default();
        let shape = ChainShape { seqs: 16, hops: config.chain_hops };
        let chain = OwnChain::new(ChainHash::Blake3, ORIGIN, 1, shape, &mut Entropy::new([3; 32]));
        let mut router = Router::new(config, ME, 1, Entropy::new([4; 32]), now);
        router.link_up(LIAR, NodeId::from_bytes([2; 16]), 1, now);
        router.link_up(HONEST, NodeId::from_bytes([3; 16]), 1, now);
        let mut net = Self { router, chain, serial: 0, now };
        net.tell(HONEST, 1, 100);
        let statement = AnchorStatement { origin: ORIGIN, epoch: 1, issue: 1, shape, value: net.chain.anchor() };
        let mut bytes = Vec::new();
        Anchor { statement, proof: &[] }.write(&mut bytes);
        net.router.handle_message(HONEST, &bytes, net.now);
        net.router.anchor_verified(ORIGIN, 1, true, net.now);
        assert!(net.router.peek_next_hop(ORIGIN).is_some());
        net
    }

    fn tell(&mut self, link: LinkId, seq: u32, lifetime_ds: u16) {
        let value = self.chain.value(seq).expect("a number of the chain");
        let ogm = Ogm {
            origin: ORIGIN,
            seqno: Seqno { epoch: 1, seq },
            flags: 2,
            hops: 1,
            lifetime_ds,
            chain: ChainHash::Blake3.advance(&ORIGIN, 1, value, 1),
            metric: Metric::from_micros(1_000),
            path_mtu: 1400,
            bloom: 0,
        };
        self.serial += 1;
        let mut bytes = Vec::new();
        write_ogms(&mut bytes, self.serial, &[ogm]);
        self.router.handle_message(link, &bytes, self.now);
    }

    /// Lets time pass while both neighbours are heard.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 20 {
            self.now += Duration::from_millis(20);
            self.router.heard(LIAR, self.now);
            self.router.heard(HONEST, self.now);
            self.router.handle_timeout(self.now);
            while self.router.poll_transmit().is_some() {}
            while self.router.poll_event().is_some() {}
        }
    }
}

#[test]
fn a_neighbor_that_cuts_a_lifetime_short_takes_away_its_own_offer_only() {
    let mut net = Net::new();
    net.tell(LIAR, 2, 1);
    net.pass(40);
    net.tell(HONEST, 2, 100);
    net.pass(1_000);
    assert!(net.router.peek_next_hop(ORIGIN).is_some(), "the honest neighbour gave ten seconds");
}

#[test]
fn no_announcement_lives_longer_for_being_repeated_than_it_may_live_at_all() {
    let mut net = Net::new();
    for _ in 0..60 {
        net.tell(LIAR, 1, u16::MAX);
        net.pass(5_000);
    }
    assert!(net.router.peek_next_hop(ORIGIN).is_none(), "192 s are the most");
}
