//! Whoever holds a valid identity and lies.

use x0t_model::{Metric, NodeId};
use x0t_node::{Command, What};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::{Event, HopHeader};
use x0t_routing::Seqno;
use x0t_routing::message::{Ogm, Withdrawal, write_ogms, write_withdrawals};
use x0t_sim::Terms;

use super::mallory::Mallory;
use super::{SECOND, assert_ping, counter, settled, standing};

/// M's identity is stolen from a host that is switched off.
fn with_mallory(seed: u64) -> (x0t_sim::World, Mallory) {
    let mut world = settled("A-B:1 B-C:1 A-M:1", Terms::seeded(seed));
    let m = world.host("M");
    world.stop(m);
    world.advance(5 * SECOND);
    world.capture();
    let mallory = Mallory::member(&world, m, "203.0.113.7:4600".parse().unwrap());
    (world, mallory)
}

fn ogm(origin: NodeId, seq: u32, hops: u8) -> Ogm {
    Ogm {
        origin,
        seqno: Seqno { epoch: 1, seq },
        flags: 2,
        hops,
        lifetime_ds: 1_000,
        chain: [0xaa; 16],
        metric: Metric::from_micros(1),
        path_mtu: 1400,
        bloom: 0,
    }
}

#[test]
fn a_member_that_announces_for_somebody_else_is_counted_and_carries_nothing() {
    let (mut world, mut mallory) = with_mallory(1);
    let (a, b, c) = (world.host("A"), world.host("B"), world.host("C"));
    let session = mallory.link(&mut world, a);
    let routes = |world: &x0t_sim::World| [b, c].map(|to| world.node(a).unwrap().next_hop(world.id(to)));
    let before = routes(&world);
    let mut serial = 1;
    let mut tell = |world: &mut x0t_sim::World, mallory: &mut Mallory, record: Ogm| {
        serial += 1;
        let mut bytes = Vec::new();
        write_ogms(&mut bytes, serial, &[record]);
        mallory.endpoint.send_datagram(session, &bytes, world.now()).unwrap();
        mallory.talk(world, a);
    };
    let count = |world: &x0t_sim::World, name: &str| counter(world, a, &format!("routing_{name}"));
    for seq in [200, 256, 257, u32::MAX] {
        tell(&mut world, &mut mallory, ogm(world_id(c), seq, 1));
    }
    assert!(count(&world, "forged_ogm") >= 3, "{:?}", world.view(a).counters);
    tell(&mut world, &mut mallory, ogm(world_id(c), 200, 0));
    assert!(count(&world, "forged_hops") >= 1, "no hops belong to the origin alone");
    tell(&mut world, &mut mallory, ogm(world_id(a), 250, 1));
    assert!(count(&world, "forged_own") >= 1);
    let mut bytes = Vec::new();
    write_withdrawals(&mut bytes, 99, &[Withdrawal { origin: world.id(c), seqno: Seqno { epoch: 1, seq: u32::MAX } }]);
    mallory.endpoint.send_message(session, &bytes, world.now()).unwrap();
    mallory.talk(&mut world, a);
    assert_eq!(routes(&world), before);
    assert_ping(&mut world, a, c);

    fn world_id(host: usize) -> NodeId {
        let name = ["A", "B", "C", "M"][host];
        NodeId::of(&format!("spiffe://mesh.test/node/{name}").parse().unwrap())
    }
}

#[test]
fn hints_that_a_session_is_lost_start_a_handful_of_handshakes_at_most() {
    let (mut world, mut mallory) = with_mallory(2);
    let (a, c) = (world.host("A"), world.host("C"));
    assert_ping(&mut world, a, c);
    let session = mallory.link(&mut world, a);
    let begun = counter(&world, a, "overlay_handshakes_begun");
    for _ in 0..100 {
        for _ in 0..30 {
            let (src, dst) = (world.id(c), world.id(a));
            let hop = HopHeader { src, dst, ttl: 9, kind: PayloadKind::NoSession, flags: 0, flow: 0 };
            let mut packet = Vec::new();
            mallory.endpoint.seal_forward(session, &hop, &[], &mut packet).unwrap();
            world.inject(a, mallory.address, packet);
        }
        world.advance(SECOND / 50);
    }
    let begun = counter(&world, a, "overlay_handshakes_begun") - begun;
    assert!((1..=6).contains(&begun), "{begun} handshakes for 3000 hints in two seconds");
    assert_ping(&mut world, a, c);
}

#[test]
fn nobody_speaks_for_another_far_end_and_no_join_comes_by_the_back_door() {
    let (mut world, mut mallory) = with_mallory(3);
    let (a, c) = (world.host("A"), world.host("C"));
    let session = mallory.link(&mut world, a);
    let (delivered, dropped) = (world.delivered(a), counter(&world, a, "node_join_packets_dropped"));
    for payload in [&[0x1f_u8, 0x10, 3, 1][..], &[0x12; 64], &[0x10; 64], &[0x11; 40], &[]] {
        for kind in [PayloadKind::EndToEnd, PayloadKind::TraceProbe, PayloadKind::TraceReply] {
            let hop = HopHeader { src: world.id(c), dst: world.id(a), ttl: 0, kind, flags: 0xff, flow: 0 };
            let mut packet = Vec::new();
            mallory.endpoint.seal_forward(session, &hop, payload, &mut packet).unwrap();
            world.inject(a, mallory.address, packet);
        }
    }
    assert_eq!(world.delivered(a), delivered);
    assert_eq!(counter(&world, a, "node_join_packets_dropped"), dropped + 1);
    assert_ping(&mut world, a, c);
}

#[test]
fn a_peer_that_accepts_and_hangs_up_is_not_dialled_in_a_loop() {
    let (mut world, mut mallory) = with_mallory(4);
    let a = world.host("A");
    world.command(a, Command::AddPeer { address: mallory.address.into() });
    let begun = counter(&world, a, "overlay_handshakes_begun");
    let mut hung_up = 0;
    for _ in 0..6_000 {
        mallory.talk(&mut world, a);
        for event in std::mem::take(&mut mallory.events) {
            if let Event::Established { session, .. } = event {
                hung_up += 1;
                mallory.endpoint.close(session, 0, "\u{1b}[2Jbye", world.now());
            }
        }
        world.advance(SECOND / 200);
    }
    let begun = counter(&world, a, "overlay_handshakes_begun") - begun;
    assert!(hung_up > 3, "it was dialled");
    assert!(begun <= 40, "{begun} handshakes in 30 s, M hung up {hung_up} times");
}

#[test]
fn a_flood_of_hellos_and_anchors_of_a_member_moves_no_route() {
    let (mut world, mut mallory) = with_mallory(5);
    let (a, c) = (world.host("A"), world.host("C"));
    let session = mallory.link(&mut world, a);
    let before = standing(&world, a).1;
    let mut entropy = x0t_model::Entropy::new([8; 32]);
    for _ in 0..3_000 {
        let kind = entropy.below(9) as u8;
        let len = entropy.below(120) as u16;
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&len.to_be_bytes());
        let extreme = entropy.below(2) == 0;
        bytes.extend((0..len).map(|_| if extreme { 0xff } else { entropy.below(256) as u8 }));
        if mallory.endpoint.send_datagram(session, &bytes, world.now()).is_err() {
            break;
        }
        mallory.talk(&mut world, a);
    }
    world.advance(SECOND);
    let after = standing(&world, a).1;
    assert_eq!(after[c], before[c]);
    assert_ping(&mut world, a, c);
    let down = |(host, _, what): &(usize, _, What)| {
        *host == a && matches!(what, What::LinkDown { peer, .. } if *peer == world.id(world.host("B")))
    };
    assert!(!world.events().iter().any(down));
}

#[test]
fn a_member_that_shows_forged_proofs_does_not_wash_other_news_away() {
    use x0t_routing::chain::ChainShape;
    use x0t_routing::message::{Anchor, AnchorStatement};
    let (mut world, mut mallory) = with_mallory(6);
    let (a, c) = (world.host("A"), world.host("C"));
    let session = mallory.link(&mut world, a);
    let told = super::refusals(&world, a).len();
    for n in 0..2_000_u16 {
        let mut origin = [0xcc; 16];
        origin[..2].copy_from_slice(&n.to_be_bytes());
        let origin = NodeId::from_bytes(origin);
        let mut bytes = Vec::new();
        write_ogms(&mut bytes, u32::from(n) + 1, &[ogm(origin, 1, 1)]);
        let shape = ChainShape { seqs: 256, hops: 32 };
        let statement = AnchorStatement { origin, epoch: 1, issue: 1, shape, value: [1; 16] };
        Anchor { statement, proof: &[0; 64] }.write(&mut bytes);
        mallory.endpoint.send_datagram(session, &bytes, world.now()).unwrap();
        mallory.talk(&mut world, a);
        world.advance(SECOND / 1_000);
    }
    assert!(counter(&world, a, "node_anchors_refused") > 1_000);
    let told = super::refusals(&world, a).len() - told;
    assert!((1..=100).contains(&told), "{told}");
    assert_ping(&mut world, a, c);
}
