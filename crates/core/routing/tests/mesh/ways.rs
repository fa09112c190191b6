//! Several ways at once: disjoint copies, hedges, doubts and shares.

use x0t_routing::{LinkId, NextHop, Router, RoutingConfig, Twin};

use crate::net::{Net, id};

const SQUARE: &str = "A-B:2 B-D:2 A-C:4 C-D:4";

fn settled(topology: &str) -> Net {
    let mut net = Net::of(topology);
    net.settle();
    net
}

/// Where the first packet goes and where its copy.
fn hops(net: &mut Net, critical: bool) -> (Option<LinkId>, Option<LinkId>) {
    let hops = net.router("A").next_hops(id("D"), 0, critical, 1);
    let first = match hops.first {
        NextHop::Via(link) => Some(link),
        _ => None,
    };
    (first, hops.copy)
}

#[test]
fn a_critical_packet_takes_two_ways_and_an_ordinary_one_takes_one() {
    let mut net = settled(SQUARE);
    let (b, c) = (net.link("A", "B"), net.link("A", "C"));
    assert_eq!(hops(&mut net, true), (Some(b), Some(c)));
    assert_eq!(hops(&mut net, false), (Some(b), None));
    assert_eq!(net.router("A").stats().duplicated, 1);
    net.carrier("A", "C", false);
    assert_eq!(hops(&mut net, true), (Some(b), None), "one way is better than none");
}

#[test]
fn the_two_ways_are_those_that_share_the_fewest_relays_and_not_the_two_best() {
    // B and C both lead through E, F does not.
    let mut net = settled("A-B:1 A-C:1 B-E:1 C-E:1 E-D:1 A-F:3 F-D:3");
    let (best, other) = net.router("A").disjoint_ways(id("D")).unwrap();
    assert_eq!(other.max(best), net.link("A", "F"));
    assert_ne!(best.min(other), net.link("A", "F"));
}

#[test]
fn two_copies_part_at_relays_that_would_choose_the_same_third() {
    // The mesh of the demo: whatever D's and E's turn is, the copies end up on different ones.
    let mut net = settled("A-B:1 A-C:1 B-D:1 B-E:1 C-D:1 C-E:1 D-F:1 E-F:1");
    let f = id("F");
    let take = |net: &mut Net, relay: &str, twin| {
        let from = net.link("A", relay);
        net.router(relay).next_hop_of_twin(f, twin, Some(from))
    };
    let lead_to = |net: &Net, relay: &str, end: &str| NextHop::Via(net.link(relay, end));
    let (small, large) = if id("D") < id("E") { ("D", "E") } else { ("E", "D") };
    for relay in ["B", "C"] {
        assert_eq!(take(&mut net, relay, Twin::First), lead_to(&net, relay, small));
        assert_eq!(take(&mut net, relay, Twin::Second), lead_to(&net, relay, large));
    }
    let from = net.link("B", "D");
    assert_eq!(
        net.router("D").next_hop_of_twin(f, Twin::Second, Some(from)),
        lead_to(&net, "D", "F"),
        "the end is near"
    );
}

#[test]
fn a_suspicion_is_hedged_with_thirty_two_copies() {
    let mut net = settled(SQUARE);
    net.start_flow("A", "D");
    net.advance_ms(1_000);
    let (b, c) = (net.link("A", "B"), net.link("A", "C"));
    net.cut("A", "B");
    net.advance_ms(70);
    for copy in 0..32 {
        assert_eq!(hops(&mut net, false), (Some(c), Some(b)), "copy {copy}");
    }
    assert_eq!(hops(&mut net, false), (Some(c), None));
    net.heal("A", "B");
    net.advance_ms(100);
    assert_eq!(hops(&mut net, false), (Some(b), None), "a false alarm is over at once");
    net.cut("A", "B");
    net.advance_ms(70);
    assert_eq!(hops(&mut net, false), (Some(c), Some(b)), "and the next alarm is hedged anew");
}

#[test]
fn a_way_that_delivers_nothing_is_left_at_once_and_taken_again_when_it_delivers() {
    let mut net = settled(SQUARE);
    let (b, c, now) = (net.link("A", "B"), net.link("A", "C"), net.now);
    let told = net.view("B").origins;
    assert!(net.router("A").way_suspect(id("D"), b, true, now));
    assert!(!net.router("A").way_suspect(id("D"), b, true, now), "once is enough");
    assert_eq!(hops(&mut net, false), (Some(c), Some(b)), "hedged like any suspicion");
    assert_eq!(net.router("A").peek_next_hop(id("B")), Some(b), "the link itself is fine");
    net.advance_ms(2_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"), "newer announcements change nothing");
    assert_eq!(net.view("B").origins.len(), told.len());
    let now = net.now;
    assert!(net.router("A").way_suspect(id("D"), b, false, now));
    assert_eq!(hops(&mut net, false), (Some(b), None));
}

#[test]
fn a_suspect_way_carries_if_no_other_does() {
    let mut net = settled("A-B:2 B-D:2");
    let (b, now) = (net.link("A", "B"), net.now);
    let withdrawn = net.router("A").stats().withdrawn;
    assert!(net.router("A").way_suspect(id("D"), b, true, now));
    assert_eq!(hops(&mut net, false).0, Some(b));
    net.advance_ms(1_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("B"));
    assert_eq!(net.router("A").stats().withdrawn, withdrawn, "nobody is told of a mere measurement");
}

#[test]
fn a_way_in_doubt_makes_the_unfeasible_ones_be_asked_for() {
    // C's distance to D is above A's, so C is not feasible for A until D announces anew.
    let mut net = settled("A-B:1 B-D:1 A-C:1 C-D:9");
    net.advance_ms(20_000);
    let (b, now) = (net.link("A", "B"), net.now);
    net.router("A").way_suspect(id("D"), b, true, now);
    let a = net.host("A");
    net.drain(a);
    net.advance_ms(150);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"));
}

#[test]
fn a_demoted_way_loses_to_another_until_the_demotion_fades() {
    let mut net = settled(SQUARE);
    let (b, c) = (net.link("A", "B"), net.link("A", "C"));
    let now = net.now;
    assert!(!net.router("A").demote(id("D"), LinkId(99), 1, now), "no such way");
    assert!(net.router("A").demote(id("D"), b, 2, now));
    assert_eq!(hops(&mut net, false), (Some(c), None));
    let view = net.view("A").origins.into_iter().find(|origin| origin.dst == id("D")).unwrap();
    let shown: Vec<_> = view.successors.iter().map(|way| (way.link, way.demoted, way.weight)).collect();
    assert_eq!(shown, [(c, 0, 1), (b, 2, 0)]);
    net.advance_ms(59_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"));
    net.advance_ms(62_000);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("B"));
}

#[test]
fn what_is_told_of_a_way_does_not_depend_on_its_demotion() {
    let mut net = settled("X-A:1 A-B:2 B-D:2");
    let advertised = |net: &Net| net.view("A").origins.iter().find(|o| o.dst == id("D")).unwrap().advertised;
    let before = advertised(&net);
    let (b, now) = (net.link("A", "B"), net.now);
    net.router("A").demote(id("D"), b, 8, now);
    net.advance_ms(3_000);
    assert_eq!(advertised(&net), before);
}

fn spreading() -> RoutingConfig {
    RoutingConfig { spread_flows: true, ..RoutingConfig::default() }
}

fn way_of(router: &mut Router, flow: u32) -> NextHop {
    router.next_hop(id("D"), flow, None)
}

#[test]
fn the_loss_of_a_way_moves_only_its_own_flows_and_its_return_moves_only_them_back() {
    let mut net = Net::with("A-B:2 B-D:2 A-C:2 C-D:2 A-E:2 E-D:2", spreading(), 1);
    net.settle();
    let before: Vec<NextHop> = (0..300).map(|flow| way_of(net.router("A"), flow)).collect();
    let lost = NextHop::Via(net.link("A", "C"));
    net.carrier("A", "C", false);
    for (flow, way) in before.iter().enumerate().filter(|(_, way)| **way != lost) {
        assert_eq!(way_of(net.router("A"), flow as u32), *way, "flow {flow}");
    }
    net.carrier("A", "C", true);
    let after: Vec<NextHop> = (0..300).map(|flow| way_of(net.router("A"), flow)).collect();
    assert_eq!(after, before);
}

/// How often one of 64 flows changes its way in a minute, of two ways that cost about the same.
fn moves(config: RoutingConfig, seed: u8, loss_per_million: u32) -> usize {
    let mut net = Net::with("A-B:2 B-D:2 A-C:2.6 C-D:2.6", config, seed);
    net.settle();
    net.lose(loss_per_million);
    net.advance_ms(10_000);
    let ways = |net: &mut Net| -> Vec<NextHop> { (0..64).map(|flow| way_of(net.router("A"), flow)).collect() };
    let (mut before, mut moved) = (ways(&mut net), 0);
    for _ in 0..600 {
        net.advance_ms(100);
        let after = ways(&mut net);
        moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
        before = after;
    }
    moved
}

#[test]
fn flows_that_are_spread_do_not_flap() {
    assert_eq!(moves(spreading(), 1, 0), 0, "in calm weather no flow ever leaves its way");
    // An announcement that is lost takes a way out of use until the next one: a second, and back.
    let moves = (1..5).map(|seed| moves(spreading(), seed, 10_000)).sum::<usize>();
    assert!(moves <= 4 * 64 * 6, "{moves} moves of 64 flows in four minutes at 1 % loss");
}
