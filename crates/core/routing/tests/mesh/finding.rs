//! Which way packets go, and how a node finds the way.

use std::time::Duration;

use x0t_model::Metric;
use x0t_routing::{Event, Role, Router, RoutingConfig};

use crate::net::{Net, id};

#[test]
fn traffic_takes_the_best_path_and_not_the_shortest() {
    let mut net = Net::of("A-B:1 B-C:1 A-C:5");
    net.settle();
    assert_eq!(net.path("A", "C"), "A-B-C");
    assert_eq!(net.path("C", "A"), "C-B-A");
    net.everyone_reaches_everyone().unwrap();
    let view = net.view("A");
    let to_c = view.origins.iter().find(|origin| origin.dst == id("C")).unwrap();
    assert_eq!(to_c.hops, Some(2));
    assert_eq!(to_c.successors.len(), 2, "the direct link is the backup");
    assert_eq!(to_c.successors[0].metric, Metric::from_micros(2 * 1_100));
}

#[test]
fn packets_for_this_node_are_local_and_for_strangers_unreachable() {
    let mut net = Net::of("A-B:1");
    net.settle();
    assert_eq!(net.next_hop("A", "A").as_deref(), Some("A"));
    assert_eq!(net.next_hop("A", "nobody"), None);
}

#[test]
fn a_line_of_twenty_is_crossed_end_to_end() {
    let topology: Vec<String> = (0..19).map(|n| format!("n{n}-n{}:1", n + 1)).collect();
    let mut net = Net::of(&topology.join(" "));
    net.settle();
    net.everyone_reaches_everyone().unwrap();
}

#[test]
fn a_chain_ends_after_its_hops_and_so_does_a_route() {
    let config = RoutingConfig { chain_hops: 4, ..RoutingConfig::default() };
    let mut net = Net::with("A-B:1 B-C:1 C-D:1 D-E:1 E-F:1", config, 1);
    net.settle();
    assert_eq!(net.next_hop("E", "A").as_deref(), Some("D"), "four hops away");
    assert_eq!(net.next_hop("F", "A"), None, "five hops away");
}

#[test]
fn small_changes_of_delay_do_not_move_the_primary() {
    let mut net = Net::of("A-B:2 B-D:2 A-C:3 C-D:2");
    net.settle();
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("B"));
    net.clear_events();
    net.cut("B", "D");
    net.advance_ms(4_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"));
    net.heal("B", "D");
    net.advance_ms(70_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"), "1 ms better is not worth a switch");
    let switches = net.events("A").filter(|(_, e)| matches!(e, Event::RouteChanged { dst, .. } if *dst == id("D")));
    assert!(switches.count() <= 2);
}

#[test]
fn a_direct_link_takes_over_from_a_relay_as_soon_as_it_costs_less() {
    let mut net = Net::of("A-B:2 B-D:2");
    net.settle();
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("B"));
    let wire = net.add_wire("A", "D", Duration::from_millis(3));
    net.connect(wire);
    net.advance_ms(30_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("D"), "1 ms is enough: it spares B the work");
}

#[test]
fn a_much_better_path_moves_the_primary() {
    let mut net = Net::of("A-B:20 B-D:20 A-C:1 C-D:1");
    net.cut("C", "D");
    net.settle();
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("B"));
    net.heal("C", "D");
    net.advance_ms(5_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"));
}

#[test]
fn flows_spread_over_near_equal_paths_and_each_keeps_to_one() {
    let config = RoutingConfig { spread_flows: true, ..RoutingConfig::default() };
    let mut net = Net::with("A-B:2 B-D:2 A-C:2 C-D:2 A-D:40", config, 1);
    net.settle();
    let mut used = std::collections::BTreeMap::new();
    for flow in 0..100 {
        let first = net.router("A").next_hop(id("D"), flow, None);
        assert_eq!(net.router("A").next_hop(id("D"), flow, None), first);
        *used.entry(format!("{first:?}")).or_insert(0) += 1;
    }
    let used: Vec<i32> = used.into_values().collect();
    assert!(
        used.len() == 2 && used.iter().all(|flows| (35..=65).contains(flows)),
        "the 40 ms way carries nothing: {used:?}"
    );
}

#[test]
fn a_leaf_is_reached_but_carries_for_nobody() {
    let mut net = Net::of("A-B:10 B-C:10");
    let leaf = RoutingConfig { role: Role::Leaf, ..RoutingConfig::default() };
    let router = Router::new(leaf, id("L"), 1, x0t_model::Entropy::new([5; 32]), net.now);
    net.add_wire("A", "L", Duration::from_millis(1));
    net.add_wire("L", "C", Duration::from_millis(1));
    *net.router("L") = router;
    let leaf = net.host("L");
    net.drain(leaf);
    for wire in 2..4 {
        net.connect(wire);
    }
    net.settle();
    assert_eq!(net.path("A", "C"), "A-B-C");
    assert_eq!(net.path("L", "B").len(), 5);
    net.everyone_reaches_everyone().unwrap();
}

#[test]
fn rreq_finds_a_target_that_is_silent_and_only_the_target_answers() {
    // Announcements far apart: whoever joins late waits long, or asks.
    let config = RoutingConfig {
        originator_interval: Duration::from_secs(40),
        originator_interval_max: Duration::from_secs(64),
        ..RoutingConfig::default()
    };
    let mut net = Net::with("B-C:1 C-D:1", config, 1);
    net.settle();
    let wire = net.add_wire("A", "B", Duration::from_millis(1));
    net.cut("A", "B");
    net.connect(wire);
    net.advance_ms(60);
    net.heal("A", "B");
    net.advance_ms(5);
    assert_eq!(net.next_hop("A", "D"), None, "what B showed at first was lost");
    let before: Vec<u64> = ["B", "C", "D"].map(|name| net.router(name).stats().rreqs_answered).to_vec();
    let now = net.now;
    assert!(net.router("A").seek(id("D"), now));
    let host = net.host("A");
    net.drain(host);
    net.advance_ms(1_500);
    assert_eq!(net.path("A", "D"), "A-B-C-D");
    let after: Vec<u64> = ["B", "C", "D"].map(|name| net.router(name).stats().rreqs_answered).to_vec();
    assert_eq!((after[0], after[1]), (before[0], before[1]), "relays never answer");
    assert!(after[2] > before[2]);
}

#[test]
fn a_target_that_does_not_exist_is_given_up_after_15_seconds() {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    let now = net.now;
    assert!(net.router("A").seek(id("ghost"), now));
    net.advance_ms(14_900);
    let failed = |net: &Net| net.events("A").any(|(_, event)| *event == Event::SeekFailed { dst: id("ghost") });
    assert!(!failed(&net));
    net.advance_ms(200);
    assert!(failed(&net));
    assert!(net.router("B").stats().rreqs_forwarded >= 6);
}

#[test]
fn seeks_are_limited_to_ten_per_second() {
    let mut net = Net::of("A-B:1");
    net.settle();
    let now = net.now;
    let granted = (0..30).filter(|n| net.router("A").seek(id(&format!("ghost{n}")), now)).count();
    assert_eq!(granted, 10);
}
