//! What lies beyond the next hop: relays that route and do not carry, flows that may not lose a packet, and noise.

use std::time::Duration;

use x0t_model::Instant;
use x0t_node::What;
use x0t_sim::{Hole, Terms, Topology, Weather, World};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const DEMO: &str = "A-B:0.1 A-C:0.1 B-D:0.1 B-E:0.1 C-D:0.1 C-E:0.1 D-F:0.1 E-F:0.1";

fn settled(topology: Topology, seed: u64) -> World {
    let mut world = World::new(topology, Terms::seeded(seed));
    world.start_all();
    let met = world.wait_for(30 * SECOND, 20 * MILLI, World::all_reach_all);
    assert!(met.is_some(), "seed {seed}: {:?} cannot reach", world.first_unreachable());
    world
}

fn diamond(seed: u64) -> World {
    settled(Topology::of("A-R1:1 R1-B:1 A-R2:2 R2-B:2"), seed)
}

/// When `wanted` was first told after `since`.
fn told(world: &World, since: Instant, wanted: impl Fn(&What) -> bool) -> Option<Duration> {
    let first = world.events().iter().find(|(_, at, what)| *at >= since && wanted(what));
    first.map(|(_, at, _)| at.since(since))
}

const fn is_demotion(what: &What) -> bool {
    matches!(what, What::WayDemoted { .. })
}

#[test]
fn a_relay_that_routes_and_carries_nothing_interrupts_a_stream_no_longer_than_a_dead_one() {
    let mut gaps = Vec::new();
    for seed in 0..100 {
        let mut world = diamond(seed);
        let ends = (world.host("A"), world.host("B"));
        world.advance(2 * SECOND);
        let fault_at = SECOND + MILLI * (seed as u32 * 3 % 25);
        let stream = world.stream(ends, 5 * MILLI, 2 * SECOND, fault_at, |world| {
            let relay = world.path(ends.0, ends.1).unwrap()[1];
            world.network.dig(relay, Hole { loss_per_million: 1_000_000, longer_than: 0 });
        });
        gaps.push(stream.longest_gap);
    }
    gaps.sort();
    assert!(gaps[50] <= 60 * MILLI, "p50 of {gaps:?}");
    assert!(gaps[98] <= 250 * MILLI, "p99 of {gaps:?}");
}

#[test]
fn a_critical_flow_loses_nothing_in_a_hundred_failures() {
    let mut failures = 0;
    for seed in 0..4 {
        let mut world = settled(Topology::of(DEMO), seed);
        let (a, f) = (world.host("A"), world.host("F"));
        world.send_critical(a, f, b"opens the session");
        world.advance(3 * SECOND);
        for number in 0..25 {
            let path = world.path(a, f).unwrap();
            let (relay, link) = (path[1 + number / 4 % 2], (path[number % 3], path[number % 3 + 1]));
            let before = world.delivered(f);
            let mut sent = 0;
            for tick in 0..600 {
                if tick == 200 {
                    match number % 4 {
                        0 => world.kill(relay),
                        1 => world.freeze(relay),
                        2 => world.network.cut(link.0, link.1),
                        _ => world.network.dig(relay, Hole { loss_per_million: 1_000_000, longer_than: 0 }),
                    }
                }
                world.send_critical(a, f, &[7; 100]);
                sent += 1;
                world.advance(2 * MILLI);
            }
            world.advance(SECOND / 2);
            assert_eq!(world.delivered(f) - before, sent, "seed {seed}, failure {number} on {path:?}");
            failures += 1;
            match number % 4 {
                0 => world.start(relay),
                1 => world.thaw(relay),
                2 => world.network.mend(link.0, link.1),
                _ => world.network.fill(relay),
            }
            let healed =
                world.wait_for(20 * SECOND, 20 * MILLI, |world| world.all_reach_all() && world.links_up() == 16);
            assert!(healed.is_some(), "seed {seed}, failure {number}");
            world.advance(2 * SECOND);
        }
    }
    assert_eq!(failures, 100);
}

#[test]
fn a_relay_that_drops_a_third_of_what_it_carries_is_demoted_and_left() {
    for seed in 0..10 {
        let mut world = diamond(seed);
        let (a, b, relay) = (world.host("A"), world.host("B"), world.host("R1"));
        world.send_stream((a, b), 10 * MILLI, 3 * SECOND);
        assert_eq!(world.path(a, b).unwrap(), [a, relay, b]);
        let since = world.now();
        world.network.dig(relay, Hole { loss_per_million: 300_000, longer_than: 0 });
        world.send_stream((a, b), 10 * MILLI, 4 * SECOND);
        let after = told(&world, since, is_demotion).unwrap_or_else(|| panic!("seed {seed}: never demoted"));
        assert!(after <= 3 * SECOND, "seed {seed}: {after:?}");
        assert_eq!(world.path(a, b).unwrap()[1], world.host("R2"));
        let before = world.delivered(b);
        world.send_stream((a, b), 10 * MILLI, SECOND);
        world.advance(SECOND / 10);
        assert_eq!(world.delivered(b) - before, 100, "seed {seed}: nothing is lost any more");
    }
}

#[test]
fn a_relay_that_drops_only_long_packets_is_demoted_and_left() {
    let mut world = diamond(1);
    let (a, b, relay) = (world.host("A"), world.host("B"), world.host("R1"));
    world.send_stream((a, b), 10 * MILLI, 2 * SECOND);
    let since = world.now();
    world.network.dig(relay, Hole { loss_per_million: 1_000_000, longer_than: 700 });
    for _ in 0..20 {
        // What a stalled transport does: a window, and then again and again its first packet.
        world.send_packet(a, b, &[7; 1_000]);
        world.advance(10 * MILLI);
    }
    world.advance(SECOND);
    let after = told(&world, since, is_demotion).expect("demoted");
    assert!(after <= SECOND, "{after:?}");
    assert_eq!(world.path(a, b).unwrap()[1], world.host("R2"));
}

#[test]
fn noise_on_every_link_demotes_nobody() {
    let mut world = settled(Topology::of(DEMO), 9);
    let (a, f) = (world.host("A"), world.host("F"));
    world.send_stream((a, f), 10 * MILLI, 2 * SECOND);
    let since = world.now();
    world.network.set_weather(Weather { loss_per_million: 50_000, jitter: 2 * MILLI, ..Weather::default() });
    world.send_stream((a, f), 10 * MILLI, 600 * SECOND);
    assert_eq!(told(&world, since, is_demotion), None, "5 % on each of three hops is nobody's fault");
    let suspicions = world.events().iter().filter(|(.., what)| matches!(what, What::WaySuspect { .. })).count();
    assert!(suspicions <= 60, "{suspicions} ways suspected in ten minutes, each for free");
}

#[test]
fn loss_that_every_way_shares_is_held_against_one_of_them_at_most() {
    let mut world = diamond(4);
    let (a, b) = (world.host("A"), world.host("B"));
    world.send_stream((a, b), 10 * MILLI, 2 * SECOND);
    let since = world.now();
    for relay in ["R1", "R2"] {
        world.network.dig(world.host(relay), Hole { loss_per_million: 300_000, longer_than: 0 });
    }
    world.send_stream((a, b), 10 * MILLI, 300 * SECOND);
    let demotions = world.events().iter().filter(|(_, at, what)| *at >= since && is_demotion(what)).count();
    assert!(demotions <= 2, "{demotions} in five minutes");
}
