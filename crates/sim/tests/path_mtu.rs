//! Packets pass underlays of any size, and go on passing when one becomes thinner under them.

use std::time::Duration;

use x0t_sim::{Terms, Topology, World};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);
/// Payload of a packet that IPv6 entitles to pass: 1280 bytes with its header.
const ENTITLED: usize = 1240;

/// A line of three with a limit on each of its links, after every link had the time to find it.
fn line(first: usize, second: usize) -> (World, usize, usize, usize) {
    let mut world = World::new(Topology::of("A-R:1 R-B:1"), Terms::seeded(11));
    let (a, r, b) = (world.host("A"), world.host("R"), world.host("B"));
    world.network.limit(a, r, first);
    world.network.limit(r, b, second);
    world.start_all();
    let met = world.wait_for(30 * SECOND, STEP, World::all_reach_all);
    assert!(met.is_some(), "{:?} cannot reach", world.first_unreachable());
    // A first packet opens the session from end to end; then sizes have the time to settle.
    world.send_packet(a, b, &[1; 64]);
    world.advance(20 * SECOND);
    world.send_packet(a, b, &[1; 64]);
    world.advance(3 * SECOND);
    (world, a, r, b)
}

fn packet_mtu(world: &World, from: usize, to: usize) -> Option<usize> {
    world.view(from).routes.into_iter().find(|route| route.node_id == world.id(to))?.packet_mtu
}

fn counter(world: &World, host: usize, name: &str) -> u64 {
    world.view(host).counters[name]
}

#[test]
fn every_node_knows_what_its_paths_carry() {
    for (first, second, found) in
        [(9000, 9000, 8972), (8972, 1472, 1472), (1372, 8972, 1372), (1452, 1252, 1252), (1232, 1200, 1200)]
    {
        let (world, a, r, b) = line(first, second);
        assert_eq!(packet_mtu(&world, a, b), Some(found - 104), "{first} {second}");
        assert_eq!(packet_mtu(&world, b, a), Some(found - 104), "{first} {second}");
        assert_eq!(packet_mtu(&world, a, r), Some(first.min(8972) - 104));
    }
}

#[test]
fn what_ipv6_entitles_to_pass_passes_a_path_that_is_thinner_in_pieces() {
    let (mut world, a, _, b) = line(8972, 1252);
    let (delivered, answered) = (world.delivered(b), world.delivered(a));
    for _ in 0..10 {
        world.send_packet(a, b, &[7; ENTITLED]);
        world.advance(STEP);
    }
    assert_eq!(world.delivered(b) - delivered, 10);
    assert_eq!(counter(&world, a, "node_packets_sent_in_pieces"), 10);
    assert_eq!(world.delivered(a), answered, "nobody was told that anything is too big");
}

#[test]
fn what_is_longer_than_the_path_is_answered_and_not_sent() {
    let (mut world, a, r, b) = line(8972, 1472);
    let delivered = world.delivered(b);
    world.send_packet(a, b, &[7; 1472 - 104 - 40]);
    world.advance(STEP);
    assert_eq!(
        (world.delivered(b) - delivered, counter(&world, a, "node_packets_sent_in_pieces")),
        (1, 0),
        "the longest that fits"
    );
    let answered = world.delivered(a);
    world.send_packet(a, b, &[7; 1472 - 104 - 40 + 1]);
    world.advance(STEP);
    assert_eq!((world.delivered(a) - answered, counter(&world, a, "node_local_packets_too_big")), (1, 1));
    assert_eq!(world.delivered(b) - delivered, 1);
    let near = world.delivered(r);
    world.send_packet(a, r, &[7; 8000]);
    world.advance(STEP);
    assert_eq!(world.delivered(r) - near, 1, "to whom more passes, more is sent");
}

#[test]
fn a_flow_goes_on_within_half_a_second_when_a_link_becomes_thinner_silently() {
    for (before, after, which) in [(1472, 1252, 0), (1472, 1252, 1), (8972, 1372, 1), (8972, 1210, 0)] {
        let (mut world, a, r, b) = line(before, before);
        let interval = Duration::from_millis(10);
        let (mut last, mut longest, mut silent) = (world.delivered(b), Duration::ZERO, Duration::ZERO);
        for turn in 0..600 {
            if turn == 200 {
                let (one, other) = if which == 0 { (a, r) } else { (r, b) };
                world.network.limit(one, other, after);
            }
            world.send_packet(a, b, &[7; ENTITLED]);
            world.advance(interval);
            let delivered = world.delivered(b);
            silent = if delivered > last { Duration::ZERO } else { silent + interval };
            longest = longest.max(silent);
            last = delivered;
        }
        assert!(longest <= Duration::from_millis(500), "{before} to {after}, link {which}: silent for {longest:?}");
        assert!(packet_mtu(&world, a, b) <= Some(after - 104), "{before} to {after}, link {which}");
    }
}
