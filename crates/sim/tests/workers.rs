//! Nodes that hand out their work: whatever order it is done in, each flow keeps its own, and a session loses nothing by it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::Entropy;
use x0t_sim::{Terms, Topology, World};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
/// Bytes in front of what a test writes: IPv6 header and ports.
const FRONT: usize = 44;

/// Packets of flows between two hosts, numbered within each flow.
struct Flows {
    next: Vec<u32>,
    entropy: Entropy,
}

impl Flows {
    fn new(count: usize, seed: u8) -> Self {
        Self { next: vec![0; count], entropy: Entropy::new([seed; 32]) }
    }

    /// So many packets, each of a flow of its own choice; flows of even number are bulk, the others interactive.
    fn packets(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.packet()).collect()
    }

    fn packet(&mut self) -> Vec<u8> {
        let flow = (self.entropy.next_u64() % self.next.len() as u64) as usize;
        let number = self.next[flow];
        self.next[flow] += 1;
        let len = if flow.is_multiple_of(2) { 300 + (self.entropy.next_u64() % 3) as usize * 450 } else { 40 };
        let mut payload = vec![0x15, flow as u8, 0x13, 0x89];
        payload.extend_from_slice(&number.to_be_bytes());
        payload.resize(len, 0xa5);
        payload
    }

    fn sent(&self) -> usize {
        self.next.iter().map(|next| *next as usize).sum()
    }
}

/// The numbers that a host was handed, by flow.
fn received(world: &mut World, host: usize) -> BTreeMap<u8, Vec<u32>> {
    let mut flows: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    for (at, packet) in world.noted_packets() {
        if at == host && packet.len() >= FRONT + 4 {
            let number = u32::from_be_bytes(packet[FRONT..FRONT + 4].try_into().unwrap());
            flows.entry(packet[41]).or_default().push(number);
        }
    }
    flows
}

fn settled(topology: Topology, terms: Terms) -> World {
    let mut world = World::new(topology, terms);
    world.start_all();
    let met = world.wait_for(30 * SECOND, 20 * MILLI, World::all_reach_all);
    assert!(met.is_some(), "seed {}: {:?} cannot reach", world.seed(), world.first_unreachable());
    world
}

fn terms(seed: u64, workers: usize) -> Terms {
    Terms { workers, ..Terms::seeded(seed) }
}

fn counter(world: &World, host: usize, name: &str) -> u64 {
    let counters = world.view(host).counters;
    *counters.get(name).unwrap_or_else(|| panic!("{name} is none of {:?}", counters.keys().collect::<Vec<_>>()))
}

/// A session, then bursts of packets.
fn exchange(world: &mut World, (a, b): (usize, usize), flows: &mut Flows, bursts: usize) {
    let ping = world.ping(a, b);
    world.advance(SECOND);
    assert!(matches!(world.reply(ping), Some((_, x0t_node::Reply::Pong { .. }))), "{:?}", world.reply(ping));
    world.note_packets();
    for _ in 0..bursts {
        let packets = flows.packets(40);
        world.send_together(a, b, &packets);
        world.advance(5 * MILLI);
    }
    world.advance(SECOND);
}

#[test]
fn each_flow_keeps_its_order_whatever_the_workers_do() {
    for seed in 0..12 {
        for topology in ["A-B:1", "A-R:1 R-B:1"] {
            let mut world = settled(Topology::of(topology), terms(seed, 1 + seed as usize % 4));
            let ends = (world.host("A"), world.host("B"));
            let mut flows = Flows::new(9, seed as u8);
            exchange(&mut world, ends, &mut flows, 40);
            let received = received(&mut world, ends.1);
            let count: usize = received.values().map(Vec::len).sum();
            assert_eq!(count, flows.sent(), "seed {seed}, {topology}: nothing is lost");
            for (flow, numbers) in received {
                let in_order = numbers.iter().copied().eq(0..numbers.len() as u32);
                assert!(in_order, "seed {seed}, {topology}, flow {flow}: {numbers:?}");
            }
            assert!(counter(&world, ends.0, "node_trains_sealed_elsewhere") > 100, "it was handed out");
            assert!(counter(&world, ends.1, "node_trains_opened_elsewhere") > 100, "it was handed out");
            for name in ["overlay_replayed", "overlay_too_old", "overlay_forged", "overlay_unknown_epoch"] {
                assert_eq!((name, counter(&world, ends.1, name)), (name, 0), "seed {seed}, {topology}");
            }
        }
    }
}

#[test]
fn workers_do_what_a_node_alone_does() {
    let run = |workers| {
        let mut world = settled(Topology::of("A-R:1 R-B:1"), terms(7, workers));
        let ends = (world.host("A"), world.host("B"));
        let mut flows = Flows::new(5, 1);
        exchange(&mut world, ends, &mut flows, 20);
        received(&mut world, ends.1)
    };
    assert_eq!(run(0), run(3), "the same packets in the same order, flow by flow");
}

#[test]
fn keys_are_replaced_while_packets_are_with_workers() {
    for seed in 0..6 {
        let terms = Terms { rekey_packets: Some(64), ..terms(seed, 3) };
        let mut world = settled(Topology::of("A-R:1 R-B:1"), terms);
        let ends = (world.host("A"), world.host("B"));
        let mut flows = Flows::new(6, seed as u8);
        exchange(&mut world, ends, &mut flows, 60);
        let received = received(&mut world, ends.1);
        let count: usize = received.values().map(Vec::len).sum();
        assert_eq!(count, flows.sent(), "seed {seed}: a packet is opened with the key that sealed it");
        assert!(received.values().all(|numbers| numbers.is_sorted()), "seed {seed}");
        assert!(counter(&world, ends.0, "overlay_rekeys") > 20, "seed {seed}");
    }
}

#[test]
fn a_session_that_ends_takes_its_packets_with_it_and_nothing_else() {
    for seed in 0..6 {
        let mut world = settled(Topology::of("A-R:1 R-B:1 A-B:5"), terms(seed, 2));
        let (a, b) = (world.host("A"), world.host("B"));
        let mut flows = Flows::new(4, seed as u8);
        exchange(&mut world, (a, b), &mut flows, 5);
        // Jobs are under way at both ends when one of them says goodbye, or dies, and comes back under the same identity.
        world.send_together(a, b, &flows.packets(60));
        world.send_together(b, a, &flows.packets(60));
        world.advance(Duration::from_micros(1_100));
        if seed % 2 == 0 {
            world.stop(b)
        } else {
            world.kill(b)
        }
        world.send_together(a, b, &flows.packets(60));
        world.advance(10 * MILLI);
        world.kill(b);
        world.start(b);
        assert!(world.wait_for(30 * SECOND, 20 * MILLI, World::all_reach_all).is_some(), "seed {seed}");
        let mut flows = Flows::new(4, seed as u8);
        world.advance(5 * SECOND);
        world.noted_packets();
        exchange(&mut world, (a, b), &mut flows, 10);
        let received = received(&mut world, b);
        assert_eq!(received.values().map(Vec::len).sum::<usize>(), flows.sent(), "seed {seed}: it goes on as before");
        assert!(received.values().all(|numbers| numbers.is_sorted()), "seed {seed}");
    }
}

#[test]
fn what_workers_cannot_keep_up_with_waits_in_the_fair_queue_and_is_dropped_there() {
    let mut world = settled(Topology::of("A-B:1"), terms(3, 2));
    let (a, b) = (world.host("A"), world.host("B"));
    let mut flows = Flows::new(2, 1);
    exchange(&mut world, (a, b), &mut flows, 1);
    let mut flows = Flows::new(8, 2);
    // Forty thousand packets at once: far more than waits anywhere.
    for _ in 0..40 {
        let packets = flows.packets(1_000);
        world.send_together(a, b, &packets);
    }
    world.advance(SECOND);
    let received = received(&mut world, b);
    let count: usize = received.values().map(Vec::len).sum();
    assert!(count < flows.sent() && count > 300, "{count} of {}", flows.sent());
    assert!(received.values().all(|numbers| numbers.is_sorted()), "what comes, comes in order");
    assert!(
        counter(&world, a, "node_packets_queue_dropped") as usize >= flows.sent() - count - 1,
        "and what does not, is counted"
    );
    assert_eq!(counter(&world, b, "overlay_too_old"), 0, "nobody was overtaken by more than the replay window holds");
}
