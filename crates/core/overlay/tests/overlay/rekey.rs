//! Keys are replaced under traffic.

use std::sync::Arc;
use std::time::Duration;

use x0t_model::Entropy;
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{CloseReason, EndpointConfig, Event, Handshake, KeyChange, Offer, Provider, Purpose, SendError};

use crate::authority::{Authority, WALL};
use crate::limited::Limited;
use crate::world::{A, B, Fate, World};

fn world_with(config: EndpointConfig, confidentiality: u64, integrity: u64) -> World {
    World::with(&Authority::p256(), config, Arc::new(Limited::new(confidentiality, integrity)))
}

#[test]
fn keys_change_under_traffic_both_ways_and_nothing_is_lost() {
    let config = EndpointConfig { rekey_packets: 50, ..EndpointConfig::default() };
    let mut world = world_with(config, u64::MAX, u64::MAX);
    let (a, b) = world.link();
    let mut expected = [Vec::new(), Vec::new()];
    for number in 0..2_000u32 {
        for (side, session) in [(A, a), (B, b)] {
            let bytes = (number * 2 + side as u32).to_be_bytes().to_vec();
            world.sides[side].send_datagram(session, &bytes, world.now).unwrap();
            expected[1 - side].push(bytes);
        }
        world.run_for(Duration::from_millis(1));
    }
    world.run_for(Duration::from_millis(100));
    for (side, session) in [(A, a), (B, b)] {
        assert!(world.heard[side].datagrams == expected[side], "side {side}");
        let epoch = world.sides[side].info(session).unwrap().epoch;
        assert!((20..=40).contains(&epoch), "epoch {epoch}");
        assert_eq!((world.sides[side].stats().forged, world.sides[side].stats().unknown_epoch), (0, 0));
    }
}

#[test]
fn keys_change_under_loss_reordering_and_reliable_messages() {
    let config = EndpointConfig { rekey_packets: 20, ..EndpointConfig::default() };
    let mut world = world_with(config, 60, u64::MAX);
    let (a, b) = world.link();
    let mut entropy = Entropy::new([4; 32]);
    world.faults = Box::new(move |_, _| match entropy.below(10) {
        0 | 1 => Fate::Drop,
        2 => Fate::Twice,
        _ => Fate::Late(Duration::from_micros(entropy.below(20_000))),
    });
    let mut sent = 0;
    for number in 0..400u32 {
        for (side, session) in [(A, a), (B, b)] {
            world.sides[side].send_message(session, &number.to_be_bytes(), world.now).unwrap();
        }
        sent += 1;
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(10));
    let expected: Vec<Vec<u8>> = (0..sent).map(|number: u32| number.to_be_bytes().to_vec()).collect();
    for (side, session) in [(A, a), (B, b)] {
        assert!(world.heard[side].messages == expected, "side {side}: {:?}", world.heard[side].events);
        assert!(world.sides[side].info(session).unwrap().epoch > 5);
    }
}

#[test]
fn keys_change_with_age_even_without_traffic() {
    let mut world =
        world_with(EndpointConfig { idle_timeout: Duration::from_secs(600), ..Default::default() }, 1 << 23, 1 << 52);
    let (a, b) = world.link();
    world.run_for(Duration::from_secs(125));
    assert_eq!([world.sides[A].info(a).unwrap().epoch, world.sides[B].info(b).unwrap().epoch], [1, 1]);
    world.run_for(Duration::from_secs(121));
    assert_eq!([world.sides[A].info(a).unwrap().epoch, world.sides[B].info(b).unwrap().epoch], [2, 2]);
}

#[test]
fn the_responder_moves_first_if_only_it_sees_the_traffic() {
    let config = EndpointConfig { rekey_packets: 100, ..EndpointConfig::default() };
    let mut world = world_with(config, u64::MAX, u64::MAX);
    let (_, b) = world.link();
    world.faults = Box::new(|side, _| if side == B { Fate::Drop } else { Fate::Deliver });
    for _ in 0..160 {
        world.sides[B].send_datagram(b, b"x", world.now).unwrap();
        world.flush();
    }
    assert_eq!(world.sides[B].info(b).unwrap().epoch, 1);
    world.faults = Box::new(|_, _| Fate::Deliver);
    world.sides[B].send_datagram(b, b"heard", world.now).unwrap();
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.heard[A].datagrams, [b"heard"]);
}

#[test]
fn a_key_that_has_sealed_all_it_may_seals_no_more() {
    let config = EndpointConfig { rekey_packets: u64::MAX, ..EndpointConfig::default() };
    let mut world = world_with(config, 100, u64::MAX);
    let (a, b) = world.link();
    for _ in 0..300 {
        world.sides[A].send_datagram(a, b"x", world.now).unwrap();
        world.run_for(Duration::from_millis(20));
    }
    assert_eq!(world.heard[B].datagrams.len(), 300, "half the limit is the time to move on");
    assert!(world.sides[A].info(a).unwrap().epoch >= 5);

    world.faults = Box::new(|_, _| Fate::Drop);
    let mut out = Vec::new();
    let sealed = (0..1_000).take_while(|_| world.sides[A].seal_datagram_packet(a, b"x", &mut out).is_ok()).count();
    assert!(sealed < 200, "{sealed} packets without the peer following");
    assert_eq!(world.sides[A].seal_datagram_packet(a, b"x", &mut out), Err(SendError::KeysExhausted));
    world.run_for(Duration::from_secs(1));
    let [Event::Closed { reason: CloseReason::KeysExhausted, .. }] = &world.heard[A].events[..] else {
        panic!("{:?}", world.heard[A].events)
    };
    assert!(world.sides[B].info(b).is_some());
}

#[test]
fn packets_of_the_previous_epoch_are_welcome_for_ten_seconds() {
    let config = EndpointConfig { rekey_packets: 10, ..EndpointConfig::default() };
    let mut world = world_with(config, u64::MAX, u64::MAX);
    let (a, b) = world.link();
    let mut late = Vec::new();
    for name in [b"early", b"tardy"] {
        let mut packet = Vec::new();
        world.sides[A].seal_datagram_packet(a, name, &mut packet).unwrap();
        late.push(packet);
    }
    for _ in 0..8 {
        world.sides[A].send_datagram(a, b"x", world.now).unwrap();
        world.run_for(Duration::from_millis(20));
    }
    assert_eq!(world.sides[B].info(b).unwrap().epoch, 1);
    world.heard = Default::default();
    let from = world.addresses[A];
    world.run_for(Duration::from_secs(9));
    world.deliver(B, from, late.remove(0));
    assert_eq!(world.heard[B].datagrams, [b"early"]);
    world.run_for(Duration::from_secs(2));
    world.deliver(B, from, late.remove(0));
    assert_eq!(world.heard[B].datagrams, [b"early"], "the grace is over");
    assert_eq!(world.sides[B].stats().unknown_epoch, 1);
}

#[test]
fn forged_packets_of_a_coming_epoch_move_nobody() {
    let (mut world, a, b) = World::linked();
    let mut packet = Vec::new();
    world.sides[A].seal_datagram_packet(a, b"x", &mut packet).unwrap();
    packet[1] = 1;
    let from = world.addresses[A];
    world.deliver(B, from, packet);
    assert_eq!((world.sides[B].stats().forged, world.sides[B].info(b).unwrap().epoch), (1, 0));
}

#[test]
fn too_many_forged_packets_end_the_session_that_they_are_for() {
    let mut world = world_with(EndpointConfig::default(), 1 << 23, 50);
    let (a, b) = world.link();
    let mut packet = Vec::new();
    world.sides[A].seal_datagram_packet(a, b"x", &mut packet).unwrap();
    let from = world.addresses[A];
    for number in 0..50u64 {
        assert!(world.heard[B].events.is_empty());
        let mut forged = packet.clone();
        forged[6..14].copy_from_slice(&(100 + number).to_be_bytes());
        world.deliver(B, from, forged);
    }
    let [Event::Closed { session, reason: CloseReason::IntegrityLimit, .. }] = &world.heard[B].events[..] else {
        panic!("{:?}", world.heard[B].events)
    };
    assert_eq!(*session, b);
    world.run_for(Duration::from_millis(100));
    assert!(matches!(&world.heard[A].events[..], [Event::Closed { reason: CloseReason::Peer { .. }, .. }]));
}

#[test]
fn both_sides_export_the_same_secret_for_the_same_label() {
    let authority = Authority::p256();
    let provider = RustlsProvider::new();
    let offer = |name| Offer {
        purpose: Purpose::Link,
        credentials: Some(authority.issue(name)),
        verifier: authority.verifier(),
        parameters: Vec::new(),
        now: WALL,
        entropy: [0; 32],
    };
    let (mut client, mut server) = (provider.client(offer("a")).unwrap(), provider.server(offer("b")).unwrap());
    while !(client.is_done() && server.is_done()) {
        carry(&mut *client, &mut *server);
        carry(&mut *server, &mut *client);
    }
    let export = |side: &dyn Handshake, label: &[u8]| {
        let mut out = [0; 32];
        side.export(label, b"context", &mut out).unwrap();
        out
    };
    assert_eq!(export(&*client, b"EXPORTER-x0t"), export(&*server, b"EXPORTER-x0t"));
    assert_ne!(export(&*client, b"EXPORTER-x0t"), export(&*client, b"EXPORTER-other"));
}

/// All that `from` has to say, one level at a time.
fn carry(from: &mut dyn Handshake, to: &mut dyn Handshake) {
    loop {
        let mut said = Vec::new();
        let change: Option<KeyChange> = from.write(&mut said);
        if !said.is_empty() {
            to.read(&said).unwrap();
        } else if change.is_none() {
            return;
        }
    }
}
