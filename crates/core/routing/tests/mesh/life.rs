//! Nodes start, restart, use up their chains and fade from memory.

use std::time::Duration;

use x0t_model::{Entropy, Instant};
use x0t_routing::{Event, LinkId, Router, RoutingConfig};

use crate::net::{Net, id, proof_by};

#[test]
fn nothing_is_announced_before_the_anchor_is_proven() {
    let mut router = Router::new(RoutingConfig::default(), id("A"), 4, Entropy::new([1; 32]), Instant::ZERO);
    router.link_up(LinkId(0), id("B"), 1, Instant::ZERO);
    router.handle_timeout(Instant::from_millis(3_000));
    assert_eq!(router.stats().originated, 0);
    let Some(Event::NeedAnchorSignature { epoch: 4, statement }) = router.poll_event() else { panic!() };
    assert_eq!(statement, router.own_anchor());
    router.set_own_anchor_proof(proof_by(id("A"), &statement), Instant::from_millis(3_000)).unwrap();
    assert_eq!(router.stats().originated, 1);
    assert!(router.set_own_anchor_proof(vec![0; 8_193], Instant::from_millis(3_000)).is_err());
}

#[test]
fn a_restarted_node_is_believed_in_its_new_epoch() {
    let mut net = Net::of("A-B:1 B-C:1 C-D:1");
    net.settle();
    net.advance(Duration::from_secs(20));
    net.kill("A");
    net.advance_ms(5_000);
    assert_eq!(net.next_hop("B", "A"), None);
    net.restart("A");
    net.advance_ms(2_000);
    assert_eq!(net.path("D", "A"), "D-C-B-A");
    let seen = net.router("D").potential(id("A")).unwrap().seqno;
    assert_eq!(seen.epoch, 2);
    assert!(seen.seq < 10, "numbers start again: {seen:?}");
}

#[test]
fn a_relay_that_lost_its_memory_loses_its_offers_too() {
    let mut net = Net::of("A-B:1 B-D:1 A-C:3 C-D:1");
    net.settle();
    assert_eq!(net.path("A", "D"), "A-B-D");
    let wire = net.wire("A", "B");
    let now = net.now;
    net.router("A").link_up(LinkId(wire as u32), id("B"), 99, now);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"), "what the earlier life offered is void");
}

#[test]
fn a_new_session_with_the_same_life_drops_nothing() {
    let mut net = Net::of("A-B:1 B-D:1 A-C:3 C-D:1");
    net.settle();
    let wire = net.wire("A", "B");
    net.connect(wire);
    assert_eq!(net.path("A", "D"), "A-B-D");
}

#[test]
fn another_link_of_a_restarted_peer_ends_the_old_one() {
    let mut net = Net::of("A-B:1");
    net.settle();
    let now = net.now;
    net.router("A").link_up(LinkId(77), id("B"), 2, now);
    let links: Vec<_> = net.router("A").links_to(id("B")).collect();
    assert_eq!(links, [LinkId(77)]);
}

#[test]
fn a_used_up_chain_is_followed_by_the_next_epoch_without_a_gap() {
    let config = RoutingConfig { chain_seqs: 16, ..RoutingConfig::default() };
    let mut net = Net::with("A-B:1 B-C:1", config, 1);
    net.settle();
    let flow = net.start_flow("A", "C");
    let start = net.now;
    net.advance(Duration::from_secs(60));
    let told = net.events("A").filter(|(_, event)| matches!(event, Event::EpochExhausted { .. })).count();
    assert!(told >= 3, "{told}");
    let seqno = net.router("C").potential(id("A")).unwrap().seqno;
    assert!(seqno.epoch >= 4 && seqno.seq <= 16, "{seqno:?}");
    assert!(net.outage(flow, start) <= Duration::from_millis(10), "{:?}", net.outage(flow, start));
}

#[test]
fn a_node_that_is_gone_expires_and_is_forgotten_later() {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    net.kill("C");
    net.advance(Duration::from_secs(12));
    let entry = |net: &Net| net.view("A").origins.iter().find(|origin| origin.dst == id("C")).map(|o| o.expired);
    assert_eq!(entry(&net), Some(true));
    assert!(net.router("A").potential(id("C")).is_some(), "the memory outlives the route");
    net.advance(Duration::from_secs(32));
    assert_eq!(entry(&net), None);
}

#[test]
fn a_renewed_proof_reaches_everybody() {
    let mut net = Net::of("A-B:1 B-C:1 C-D:1");
    net.settle();
    net.advance(Duration::from_secs(15));
    let verified = |net: &Net| {
        net.events("D").filter(|(_, e)| matches!(e, Event::AnchorToVerify { origin, .. } if *origin == id("A"))).count()
    };
    let before = verified(&net);
    let now = net.now;
    let statement = net.router("A").own_anchor();
    net.router("A").set_own_anchor_proof(proof_by(id("A"), &statement), now).unwrap();
    let a = net.host("A");
    net.drain(a);
    net.advance_ms(100);
    assert_eq!(verified(&net), before + 1);
    assert_ne!(net.router("A").own_anchor(), statement, "the next proof is of a later issue");
}

#[test]
fn announcements_are_paced_by_the_size_of_the_mesh() {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    let before = net.router("A").stats().originated;
    net.advance(Duration::from_secs(60));
    let made = net.router("A").stats().originated - before;
    assert!((60..=68).contains(&made), "one per second in a small mesh: {made}");

    // Twenty nodes at the pace of a mesh of 1,600.
    let config = RoutingConfig {
        originators_per_second: 1,
        originator_interval_max: Duration::from_secs(16),
        ..RoutingConfig::default()
    };
    let topology: Vec<String> = (0..20).map(|n| format!("hub-n{n}:1")).collect();
    let mut net = Net::with(&topology.join(" "), config, 1);
    net.advance(Duration::from_secs(40));
    let before = net.router("n3").stats().originated;
    net.advance(Duration::from_secs(160));
    let made = net.router("n3").stats().originated - before;
    assert!((10..=12).contains(&made), "one per 16 s in a large mesh: {made}");
    net.everyone_reaches_everyone().unwrap();
}

#[test]
fn the_view_can_be_written_as_json() {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    let json = serde_json::to_value(net.view("A")).unwrap();
    assert_eq!(json["links"][0]["standing"], "good");
    assert_eq!(json["links"][0]["rtt_micros"], 2_000);
    assert_eq!(json["origins"].as_array().unwrap().len(), 2);
    assert!(json["stats"]["ogms_received"].as_u64().unwrap() > 0);
}

#[test]
fn the_table_of_origins_is_bounded() {
    let config = RoutingConfig { origins_max: 3, ..RoutingConfig::default() };
    let mut net = Net::with("A-B:1 A-C:1 A-D:1 A-E:1 A-F:1", config, 1);
    net.settle();
    assert_eq!(net.view("A").origins.len(), 3);
    let stats = *net.router("A").stats();
    assert!(stats.table_full > 0);
    assert_eq!(stats.anchors_accepted, 3, "nothing is verified for which there is no place");
}
