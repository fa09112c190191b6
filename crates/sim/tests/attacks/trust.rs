//! Whoever holds a certificate that does not count, and clocks that are wrong.

use std::time::Duration;

use x0t_node::RecordKind;
use x0t_sim::{Terms, Topology, World};

use super::{SECOND, reach, refusals, settled};

/// Host B of `world` starts with what host B of another world has on its disk; A must refuse it and say why.
fn refused(foreign: Terms) -> String {
    let mut world = World::new(Topology::of("A-B:1"), Terms::seeded(1));
    let other = World::new(Topology::of("A-B:1"), foreign);
    world.swap_disk(1, other.disk(1).clone());
    world.start(0);
    world.start(1);
    world.advance(20 * SECOND);
    assert!(world.view(0).peers.is_empty() && world.view(1).peers.is_empty());
    assert!(world.node(0).unwrap().next_hop(world.node(1).unwrap().id()).is_none());
    refusals(&world, 0).join("\n")
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused_and_the_event_says_so() {
    let words = refused(Terms { trust_domain: "other.test".parse().unwrap(), ..Terms::seeded(2) });
    assert!(words.contains("no trust bundle for other.test"), "{words}");
}

#[test]
fn a_certificate_of_another_authority_with_the_same_name_is_refused_and_the_event_says_so() {
    let words = refused(Terms::seeded(3));
    assert!(words.contains("authorit") || words.contains("issuer") || words.contains("signature"), "{words}");
}

#[test]
fn a_node_with_an_expired_svid_is_refused_and_the_event_says_so() {
    let terms = Terms { svid_ttl: Duration::from_secs(120), ..Terms::seeded(4) };
    let mut world = settled("A-B:1 A-C:1", terms);
    let b = world.host("B");
    world.kill(b);
    world.advance(600 * SECOND);
    let svid = world.disk(b)[&RecordKind::Svid].clone();
    world.start(b);
    world.advance(20 * SECOND);
    let words = refusals(&world, 0).join("\n");
    assert!(words.contains("expired"), "{words}");
    assert!(world.view(b).peers.is_empty() && !world.view(b).status.ready);
    assert_eq!(world.disk(b)[&RecordKind::Svid], svid, "nothing was lost");
}

#[test]
fn a_clock_that_is_two_hours_wrong_is_named_and_costs_nothing_once_it_is_right() {
    for skew in [-7_200, 7_200] {
        for at_boot in [true, false] {
            let mut world = World::new(Topology::of("A-B:1 A-C:1"), Terms::seeded(5));
            let (b, c) = (world.host("B"), world.host("C"));
            if !at_boot {
                world.start_all();
                reach(&mut world);
            }
            world.skew(b, skew);
            if at_boot {
                world.start_all();
            }
            let svid = world.disk(b)[&RecordKind::Svid].clone();
            world.advance(100 * SECOND);
            let told = format!("{:?}", world.events().iter().filter(|(host, ..)| *host == b).collect::<Vec<_>>());
            let named = ["clock", "expired", "not valid", "not yet", "ends in"].iter().any(|word| told.contains(word));
            assert!(named, "skew {skew}, at boot {at_boot}: {told}");
            assert!(world.path(0, c).is_some(), "the others go on");
            assert!(!world.disk(b)[&RecordKind::Svid].is_empty());
            if at_boot {
                assert!(world.view(b).peers.is_empty());
                assert_eq!(world.disk(b)[&RecordKind::Svid], svid, "skew {skew}: the identity stays");
            }
            world.skew(b, 0);
            reach(&mut world);
            super::assert_ping(&mut world, b, c);
        }
    }
}

#[test]
fn an_authority_whose_clock_was_two_hours_wrong_is_believed_again_once_it_is_right() {
    for skew in [-7_200, 7_200] {
        let mut world = settled("A-B:1 A-C:1", Terms::seeded(6));
        world.advance(10 * SECOND);
        world.skew(0, skew);
        world.advance(100 * SECOND);
        world.skew(0, 0);
        reach(&mut world);
        let (b, c) = (world.host("B"), world.host("C"));
        world.kill(b);
        world.advance(10 * SECOND);
        world.start(b);
        reach(&mut world);
        super::assert_ping(&mut world, b, c);
    }
}
