//! Whoever sees and sends datagrams.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;

use x0t_model::Entropy;
use x0t_node::{Reply, What};
use x0t_sim::{Network, Terms};

use super::{SECOND, assert_ping, counter, reach, settled, standing};

/// No two ways cost nearly the same, so that none changes places with another by itself.
const DIAMOND: &str = "A-R1:1 R1-B:1 A-R2:2 R2-B:6";

fn abroad() -> SocketAddr {
    "203.0.113.9:999".parse().unwrap()
}

#[test]
fn nonsense_from_anybody_changes_nothing() {
    let mut world = settled(DIAMOND, Terms::seeded(1));
    world.capture();
    let (a, b) = (world.host("A"), world.host("B"));
    assert_ping(&mut world, a, b);
    let samples: Vec<_> = world.captured().into_iter().map(|(_, _, bytes)| bytes).collect();
    let mut entropy = Entropy::new([5; 32]);
    let before: Vec<_> = (0..world.hosts()).map(|host| standing(&world, host)).collect();
    for _ in 0..6_000 {
        let mut bytes = samples[entropy.below(samples.len() as u64) as usize].clone();
        match entropy.below(4) {
            0 => bytes.truncate(entropy.below(bytes.len() as u64 + 1) as usize),
            1 => bytes = (0..entropy.below(1_500)).map(|_| entropy.below(256) as u8).collect(),
            2 => {
                bytes = (0..entropy.below(200)).map(|_| entropy.below(256) as u8).collect();
                bytes.insert(0, [0x10, 0x11, 0x12, 0x13, 0x1f][entropy.below(5) as usize]);
            }
            _ => (0..8).for_each(|_| {
                let at = entropy.below(bytes.len() as u64) as usize;
                bytes[at] = entropy.below(256) as u8;
            }),
        }
        let to = entropy.below(world.hosts() as u64) as usize;
        let from = if entropy.below(2) == 0 { abroad() } else { Network::address(entropy.below(5) as usize) };
        world.inject(to, from, bytes);
    }
    assert_eq!((0..world.hosts()).map(|host| standing(&world, host)).collect::<Vec<_>>(), before);
    world.advance(10 * SECOND);
    assert_eq!((0..world.hosts()).map(|host| standing(&world, host)).collect::<Vec<_>>(), before);
    assert_ping(&mut world, a, b);
}

#[test]
fn what_is_replayed_from_wherever_is_counted_and_changes_nothing() {
    let mut world = settled(DIAMOND, Terms::seeded(2));
    let (a, b) = (world.host("A"), world.host("B"));
    world.advance(10 * SECOND);
    world.capture();
    world.send_packet(a, b, b"once");
    assert_ping(&mut world, a, b);
    let captured = world.captured();
    let before: Vec<_> = (0..world.hosts()).map(|host| standing(&world, host)).collect();
    let delivered = world.delivered(b);
    let replayed: u64 = (0..world.hosts()).map(|host| counter(&world, host, "overlay_replayed")).sum();
    let opened = |world: &x0t_sim::World| -> u64 {
        let sessions = (0..world.hosts()).flat_map(|host| world.view(host).sessions);
        sessions.map(|session| session.packets_received).sum()
    };
    let opened_before = opened(&world);
    for (from, to, bytes) in &captured {
        let to = Network::host_at(*to).unwrap();
        world.inject(to, Network::address(*from), bytes.clone());
        world.inject(to, abroad(), bytes.clone());
    }
    let after: u64 = (0..world.hosts()).map(|host| counter(&world, host, "overlay_replayed")).sum();
    assert!(after - replayed >= captured.len() as u64 * 2, "{} of {}", after - replayed, captured.len());
    assert_eq!(opened(&world), opened_before);
    assert_eq!(world.delivered(b), delivered);
    assert_eq!((0..world.hosts()).map(|host| standing(&world, host)).collect::<Vec<_>>(), before);
}

#[test]
fn who_copies_everything_and_is_faster_does_not_come_between_two_neighbours() {
    for passes_on in [false, true] {
        let mut world = settled("A-B:5", Terms::seeded(8));
        let (a, b) = (world.host("A"), world.host("B"));
        let before = [standing(&world, a), standing(&world, b)];
        world.capture();
        for _ in 0..5_000 {
            world.advance(SECOND / 1_000);
            for (from, to, bytes) in world.captured() {
                // Everything that A or B sends is there at once, from the copyist's address, and five milliseconds later from its own.
                match Network::host_at(to) {
                    Some(to) => world.inject(to, abroad(), bytes),
                    // What is sent to the copyist it keeps, or it passes that on as well.
                    None if passes_on => world.inject(if from == a { b } else { a }, abroad(), bytes),
                    None => {}
                }
            }
        }
        let refuted = [a, b].map(|host| counter(&world, host, "overlay_roams_refuted"));
        assert!(refuted.iter().all(|count| (1..=50).contains(count)), "{refuted:?} in five seconds");
        assert_eq!([a, b].map(|host| counter(&world, host, "overlay_roams")), [0, 0]);
        assert_eq!([standing(&world, a), standing(&world, b)], before);
        assert_ping(&mut world, a, b);
        let down = world.events().iter().any(|(_, _, what)| matches!(what, What::LinkDown { .. }));
        assert!(!down, "the link was sound all the time");
    }
}

#[test]
fn forged_icmp_errors_about_a_living_neighbor_move_nothing_and_true_ones_move_traffic_early() {
    let mut world = settled(DIAMOND, Terms::seeded(11));
    let [a, r1, b] = ["A", "R1", "B"].map(|name| world.host(name));
    world.advance(30 * SECOND);
    let before: Vec<_> = (0..world.hosts()).map(|host| standing(&world, host)).collect();
    assert_eq!(world.node(a).unwrap().next_hop(world.id(b)), Some(world.id(r1)));
    let suspected = counter(&world, a, "routing_links_suspected");
    for _ in 0..500 {
        world.doubt(a, r1);
        world.advance(SECOND / 50);
        assert_eq!(world.node(a).unwrap().next_hop(world.id(b)), Some(world.id(r1)));
    }
    assert_eq!((0..world.hosts()).map(|host| standing(&world, host)).collect::<Vec<_>>(), before);
    let asked = counter(&world, a, "routing_links_doubted");
    assert!((9..=11).contains(&asked), "{asked} questions in ten seconds");
    assert_eq!(counter(&world, a, "routing_links_suspected"), suspected);
    assert_eq!(counter(&world, a, "node_sends_failed"), 500);
    // Nothing was sent over the link lately, so its silence would not be noticed for a second and a half.
    world.advance(10 * SECOND);
    let events = world.events().len();
    world.kill(r1);
    world.doubt(a, r1);
    world.advance(SECOND / 10);
    assert_ne!(world.node(a).unwrap().next_hop(world.id(b)), Some(world.id(r1)));
    let down = world.events()[events..].iter().any(|(_, _, what)| matches!(what, What::LinkDown { .. }));
    assert!(!down, "it is suspect, not dead, and nobody was told");
    assert_ping(&mut world, a, b);
}

#[test]
fn a_mirror_in_the_place_of_a_peer_does_not_make_a_node_forget_the_address() {
    let mut world = settled("A-B:1", Terms::seeded(3));
    let met = |world: &x0t_sim::World| world.all_reach_all();
    world.network.cut(0, 1);
    world.advance(20 * SECOND);
    assert!(!met(&world));
    world.capture();
    for _ in 0..2_000 {
        world.advance(SECOND / 200);
        for (from, to, bytes) in world.captured() {
            world.inject(from, to, bytes);
        }
    }
    for host in 0..2 {
        assert!(counter(&world, host, "node_sessions_turned_away") > 0, "the mirror was met");
    }
    world.network.mend_all();
    reach(&mut world);
}

#[test]
fn no_changed_byte_passes() {
    let mut world = settled("A-B:1", Terms::seeded(4));
    assert_ping(&mut world, 0, 1);
    world.network.cut(0, 1);
    world.capture();
    for n in 0..4 {
        world.send_packet(0, 1, format!("packet {n} that is cut off").as_bytes());
    }
    world.ping(0, 1);
    world.advance(SECOND / 10);
    let captured: Vec<_> = world.captured().into_iter().filter(|(from, ..)| *from == 0).collect();
    assert!(captured.len() >= 6, "{}", captured.len());
    let (delivered, before) = (world.delivered(1), standing(&world, 1));
    let refused = |world: &x0t_sim::World| -> u64 {
        let names =
            ["forged", "replayed", "unknown_session", "unknown_type", "unknown_epoch", "malformed", "unexpected"];
        let joins = counter(world, 1, "node_join_packets_dropped");
        joins + names.map(|name| counter(world, 1, &format!("overlay_{name}"))).iter().sum::<u64>()
    };
    let (mut flips, refused_before) = (0, refused(&world));
    for (_, _, bytes) in &captured {
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            world.inject(1, Network::address(0), changed);
            flips += 1;
        }
    }
    assert_eq!(world.delivered(1), delivered);
    assert_eq!(standing(&world, 1), before);
    assert!(refused(&world) - refused_before >= flips * 9 / 10, "{} of {flips}", refused(&world) - refused_before);
    world.network.mend_all();
    reach(&mut world);
}

/// The session that a packet is sealed for.
fn sealed_for(packet: &[u8]) -> Option<[u8; 4]> {
    packet.get(2..6)?.try_into().ok().filter(|_| packet[0] == 0x12)
}

/// The same of the packet behind a hop header.
fn sealed_inside(packet: &[u8]) -> Option<[u8; 4]> {
    sealed_for(packet.get(70..)?).filter(|_| packet[0] == 0x13)
}

#[test]
fn a_packet_without_a_hop_header_is_no_sign_of_life_of_the_relay_it_came_from() {
    let mut world = settled("A-R:1 R-B:1", Terms::seeded(9));
    let (a, r, b) = (world.host("A"), world.host("R"), world.host("B"));
    world.send_stream((a, b), SECOND / 1_000, SECOND);
    let bare = counter(&world, r, "node_packets_forwarded_bare");
    assert!(bare >= 800, "{bare} of a thousand dense packets");
    world.capture();
    world.network.cut(r, b);
    let (before, mut passed) = (world.delivered(b), 0);
    for _ in 0..500 {
        world.send_packet(a, b, b"authentic, fresh, and brought by a stranger");
        world.advance(SECOND / 1_000);
        for (from, _, bytes) in world.captured() {
            // Whoever is on the wire passes on under the relay's address what the relay itself did not seal.
            if from == r && sealed_for(&bytes).is_some() {
                passed += 1;
                world.inject(b, Network::address(r), bytes);
            }
        }
    }
    let delivered = world.delivered(b) - before;
    assert!(passed > 0 && delivered > 0, "{delivered} of {passed} are delivered: they are what A sent");
    assert_eq!(world.view(b).status.links_up, 0, "and the silence of the relay is noticed");
}

#[test]
fn a_relay_that_alters_or_drops_what_it_carries_delivers_nothing_and_breaks_nothing() {
    let mut world = settled("A-R:1 R-B:1", Terms::seeded(5));
    let (a, r, b) = (world.host("A"), world.host("R"), world.host("B"));
    assert_ping(&mut world, a, b);
    let mode = Rc::new(RefCell::new(0));
    let seen = mode.clone();
    let mut sealed_by_a = BTreeSet::new();
    world.tamper(move |from, to, bytes| {
        if from == a && sealed_inside(bytes).is_some() {
            sealed_by_a.insert(sealed_inside(bytes));
        }
        // With a hop header or, to their destination, without.
        let carried = bytes.first() == Some(&0x13) || sealed_by_a.contains(&sealed_for(bytes));
        if from == r && to == b && carried {
            match *seen.borrow() {
                1 => *bytes.last_mut().unwrap() ^= 1,
                2 => bytes.clear(),
                _ => {}
            }
        }
    });
    for way in [1, 2] {
        *mode.borrow_mut() = way;
        let (delivered, forged) = (world.delivered(b), counter(&world, b, "overlay_forged"));
        for _ in 0..20 {
            world.send_packet(a, b, b"altered on the way");
        }
        let ping = world.ping(a, b);
        world.advance(3 * SECOND);
        assert!(matches!(world.reply(ping), Some((_, Reply::TimedOut { .. }))), "{:?}", world.reply(ping));
        assert_eq!(world.delivered(b), delivered);
        assert!(way == 2 || counter(&world, b, "overlay_forged") >= forged + 21);
    }
    *mode.borrow_mut() = 0;
    assert_ping(&mut world, a, b);
    let down = world.events().iter().any(|(_, _, what)| matches!(what, What::LinkDown { .. }));
    assert!(!down, "the links themselves were sound");
}
