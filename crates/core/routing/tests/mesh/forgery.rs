//! A member lies.

use x0t_model::{Metric, NodeId};
use x0t_routing::chain::ChainShape;
use x0t_routing::message::{
    Anchor, AnchorStatement, Message, Messages, Ogm, Rreq, SeqReq, Withdrawal, write_ogms, write_withdrawals,
};
use x0t_routing::{Seqno, Transmit};

use crate::net::{Net, id, proof_by};

/// A net of three in a row, and the last record that B showed A about C.
fn overheard() -> (Net, Ogm) {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    let link = net.link("A", "B");
    let now = net.now;
    // B shows everything again to a neighbour with a new session: what comes out is what an attacker in B's place knows.
    net.router("B").link_up(link, id("A"), 1, now);
    net.router("B").handle_timeout(now);
    let mut found = None;
    while let Some(Transmit { link: to, bytes, .. }) = net.router("B").poll_transmit() {
        for message in Messages::new(&bytes) {
            if let (true, Ok(Message::Ogm(records))) = (to == link, message) {
                found = records.ogms().find(|ogm| ogm.origin == id("C")).or(found);
            }
        }
    }
    (net, found.unwrap())
}

fn tell(net: &mut Net, from: &str, to: &str, ogm: Ogm) {
    let mut bytes = Vec::new();
    write_ogms(&mut bytes, u32::MAX / 2 - 1, &[ogm]);
    net.inject(from, to, &bytes);
}

#[test]
fn a_true_record_is_taken() {
    let (mut net, ogm) = overheard();
    let before = *net.router("A").stats();
    tell(&mut net, "B", "A", Ogm { metric: Metric::from_micros(9_000), ..ogm });
    let after = *net.router("A").stats();
    assert_eq!(
        after.ogms_stale + after.forged_ogm + after.forged_hops,
        before.ogms_stale + before.forged_ogm + before.forged_hops
    );
}

#[test]
fn a_newer_number_cannot_be_invented() {
    let (mut net, ogm) = overheard();
    for seq in [ogm.seqno.seq + 1, 1_024, 1_025, u32::MAX] {
        let before = net.router("A").stats().forged_ogm;
        let seqno = Seqno { seq, ..ogm.seqno };
        tell(&mut net, "B", "A", Ogm { seqno, ..ogm });
        assert_eq!(net.router("A").stats().forged_ogm, before + 1, "{seq}");
    }
    assert_eq!(net.path("A", "C"), "A-B-C", "the true route stands");
}

#[test]
fn a_smaller_hop_count_cannot_be_claimed() {
    let (mut net, ogm) = overheard();
    assert_eq!(ogm.hops, 1);
    tell(&mut net, "B", "A", Ogm { hops: 0, ..ogm });
    assert_eq!(net.router("A").stats().forged_hops, 1, "zero hops belong to the origin itself");
    tell(&mut net, "B", "A", Ogm { hops: 32, ..ogm });
    tell(&mut net, "B", "A", Ogm { hops: 255, ..ogm });
    assert_eq!(net.router("A").stats().forged_hops, 3);
    tell(&mut net, "B", "A", Ogm { hops: 2, ..ogm });
    assert_eq!(net.router("A").stats().forged_ogm, 1, "nor a larger one without the hash");
}

#[test]
fn a_metric_below_its_hops_is_raised() {
    let (mut net, ogm) = overheard();
    tell(&mut net, "B", "A", Ogm { metric: Metric::ZERO, ..ogm });
    let metric = net.router("A").successors(id("C")).next().unwrap().metric;
    assert_eq!(metric, Metric::from_micros(100 + 1_100));
    assert_eq!(net.router("A").stats().metrics_raised, 1);
}

#[test]
fn a_replayed_old_record_is_ignored() {
    let (mut net, old) = overheard();
    net.advance_ms(3_000);
    let (before, route) = (net.router("A").stats().ogms_stale, net.router("A").potential(id("C")));
    tell(&mut net, "B", "A", old);
    assert_eq!(net.router("A").stats().ogms_stale, before + 1);
    assert_eq!(net.router("A").potential(id("C")), route);
}

#[test]
fn nobody_announces_in_this_node_s_name() {
    let (mut net, ogm) = overheard();
    let seqno = Seqno { epoch: 9, seq: 1 };
    tell(&mut net, "B", "A", Ogm { origin: id("A"), seqno, ..ogm });
    assert_eq!(net.router("A").stats().forged_own, 1);
}

#[test]
fn an_origin_without_a_proven_anchor_is_never_routed_to() {
    let (mut net, ogm) = overheard();
    let ghost = id("ghost");
    tell(&mut net, "B", "A", Ogm { origin: ghost, ..ogm });
    assert_eq!(net.next_hop("A", "ghost"), None);
    let statement = AnchorStatement {
        origin: ghost,
        epoch: ogm.seqno.epoch,
        issue: 0,
        shape: ChainShape { seqs: 1_024, hops: 32 },
        value: [9; 16],
    };
    let mut bytes = Vec::new();
    Anchor { statement, proof: &proof_by(id("B"), &statement.to_signed_bytes()) }.write(&mut bytes);
    net.inject("B", "A", &bytes);
    assert_eq!(net.router("A").stats().forged_anchor, 1);
    assert_eq!(net.router("A").potential(ghost), None);
    let asked = net.router("A").stats().anchors_requested;
    tell(&mut net, "B", "A", Ogm { origin: ghost, ..ogm });
    assert_eq!(net.router("A").stats().anchors_requested, asked, "a refused anchor is not asked for again for 10 s");
    net.advance_ms(10_100);
    tell(&mut net, "B", "A", Ogm { origin: ghost, ..ogm });
    assert_eq!(net.router("A").stats().anchors_requested, asked + 1);
}

#[test]
fn anchors_are_asked_for_three_times() {
    let (mut net, ogm) = overheard();
    let before = *net.router("A").stats();
    tell(&mut net, "B", "A", Ogm { origin: id("ghost"), ..ogm });
    net.advance_ms(1_000);
    let after = *net.router("A").stats();
    assert_eq!(after.anchors_requested - before.anchors_requested, 3);
    assert_eq!(after.anchors_unanswered - before.anchors_unanswered, 1);
}

#[test]
fn unknown_origins_cannot_fill_the_table() {
    let (mut net, ogm) = overheard();
    for n in 0..2_000_u32 {
        let mut origin = [0xaa; 16];
        origin[..4].copy_from_slice(&n.to_be_bytes());
        tell(&mut net, "B", "A", Ogm { origin: NodeId::from_bytes(origin), ..ogm });
    }
    let stats = *net.router("A").stats();
    assert_eq!(stats.table_full, 2_000 - 512, "one link holds half of the places");
}

#[test]
fn hashes_wasted_on_forgeries_are_rationed() {
    let (mut net, ogm) = overheard();
    for _ in 0..50 {
        let seqno = Seqno { seq: 1_024, ..ogm.seqno };
        tell(&mut net, "B", "A", Ogm { seqno, chain: [7; 16], ..ogm });
    }
    let stats = *net.router("A").stats();
    assert!(stats.forged_ogm <= 9 && stats.hash_budget_exceeded >= 41, "{stats:?}");
    net.advance_ms(2_000);
    assert_eq!(net.path("A", "C"), "A-B-C");
    assert_ne!(net.router("A").potential(id("C")).unwrap().seqno, ogm.seqno, "true announcements still pass");
}

#[test]
fn nonsense_is_counted_and_changes_nothing() {
    let (mut net, _) = overheard();
    net.inject("B", "A", &[1, 0, 99, 1]);
    net.inject("B", "A", &[200, 0, 1, 1, 8, 0, 1, 0]);
    let stats = *net.router("A").stats();
    assert_eq!((stats.malformed, stats.unknown_messages), (2, 1));
    let now = net.now;
    net.router("A").handle_message(x0t_routing::LinkId(99), &[8, 0, 0], now);
    assert_eq!(net.router("A").stats().unknown_link, 1);
    assert_eq!(net.path("A", "C"), "A-B-C");
}

#[test]
fn a_packet_from_the_successor_it_would_go_to_takes_an_alternate() {
    let mut net = Net::of("A-B:1 B-D:1 A-C:5 C-D:1");
    net.settle();
    let (to_b, to_c) = (net.link("A", "B"), net.link("A", "C"));
    let hop = net.router("A").next_hop(id("D"), 0, Some(to_b));
    assert_eq!(hop, x0t_routing::NextHop::Via(to_c));
    assert_eq!(net.router("A").stats().loop_averted, 1);
}

#[test]
fn a_late_offer_does_not_revive_a_retracted_one() {
    let (mut net, ogm) = overheard();
    let mut withdraw = Vec::new();
    write_withdrawals(&mut withdraw, 1 << 29, &[Withdrawal { origin: id("C"), seqno: ogm.seqno }]);
    net.inject("B", "A", &withdraw);
    assert_eq!(net.next_hop("A", "C"), None);
    let mut late = Vec::new();
    write_ogms(&mut late, (1 << 29) - 1, &[ogm]);
    net.inject("B", "A", &late);
    assert_eq!(net.next_hop("A", "C"), None, "it was sent before the retraction");
    let mut again = Vec::new();
    write_ogms(&mut again, (1 << 29) + 1, &[ogm]);
    net.inject("B", "A", &again);
    assert_eq!(net.next_hop("A", "C").as_deref(), Some("B"));
}

#[test]
fn a_withdrawal_retracts_the_sender_s_own_offer_only() {
    let mut net = Net::of("A-B:1 B-D:1 A-C:3 C-D:1");
    net.settle();
    let seqno = net.router("A").potential(id("D")).unwrap().seqno;
    let mut withdraw = Vec::new();
    write_withdrawals(&mut withdraw, 1 << 29, &[Withdrawal { origin: id("D"), seqno }]);
    net.inject("B", "A", &withdraw);
    assert_eq!(net.next_hop("A", "D").as_deref(), Some("C"));
}

#[test]
fn requests_cannot_make_an_origin_burn_its_chain() {
    let mut net = Net::of("A-B:1 B-C:1");
    net.settle();
    let before = net.router("A").stats().originated;
    for n in 0..2_000 {
        let held = net.router("A").potential(id("A")).unwrap();
        let mut bytes = Vec::new();
        SeqReq { origin: id("A"), held: held.seqno, distance: Metric::ZERO, ttl: 9, nonce: n }.write(&mut bytes);
        Rreq { requester: id("ghost"), id: n, target: id("A"), ttl: 9 }.write(&mut bytes);
        net.inject("B", "A", &bytes);
        net.advance_ms(5);
    }
    let stats = *net.router("A").stats();
    assert!(stats.originated - before <= 10 + 10 + 12, "in ten seconds: {}", stats.originated - before);
    assert!(stats.rate_limited > 2_000);
}

#[test]
fn a_request_beyond_what_was_ever_announced_changes_nothing() {
    let mut net = Net::of("A-B:1");
    net.settle();
    let before = net.router("A").stats().originated;
    let mut bytes = Vec::new();
    let held = Seqno { epoch: 1, seq: 1_000_000 };
    SeqReq { origin: id("A"), held, distance: Metric::ZERO, ttl: 9, nonce: 1 }.write(&mut bytes);
    net.inject("B", "A", &bytes);
    assert_eq!(net.router("A").stats().originated, before);
}
