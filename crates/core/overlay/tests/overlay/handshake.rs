//! Two sides come to know each other, whatever the network does.

use std::sync::Arc;
use std::time::Duration;

use x0t_model::{Entropy, UnixTime};
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{
    Carrier, CloseReason, ConnectError, Endpoint, EndpointConfig, Event, HandshakeError, Purpose, close_code, packet,
};

use crate::authority::{Authority, WALL, id};
use crate::world::{A, B, Fate, World, udp};

#[test]
fn both_sides_learn_who_the_other_is_over_a_post_quantum_exchange() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        for purpose in [Purpose::Link, Purpose::EndToEnd] {
            let authority = Authority::new(algorithm);
            let mut world = World::with(&authority, EndpointConfig::default(), Arc::new(RustlsProvider::new()));
            let a = world.connect(purpose);
            world.run_for(Duration::from_millis(200));
            for (side, other, session) in [(A, "b", a), (B, "a", world.established(B)[0])] {
                let info = world.sides[side].info(session).unwrap();
                assert_eq!(info.group, Some("X25519MLKEM768"));
                assert_eq!(info.peer, Some(id(other)));
                assert_eq!(info.rtt, Some(Duration::from_millis(10)));
                let [Event::Established { peer, initiator, peer_parameters, peer_chain, purpose: of, .. }] =
                    &world.heard[side].events[..]
                else {
                    panic!("{:?}", world.heard[side].events)
                };
                assert_eq!((peer.as_ref(), *initiator, *of), (Some(&id(other)), side == A, purpose));
                assert_eq!(peer_parameters, format!("parameters of {other}").as_bytes());
                assert_eq!(peer_chain.len(), 1);
                assert_eq!(world.sides[side].stats().handshakes_done, 1);
            }
        }
    }
}

#[test]
fn no_certificate_is_readable_on_the_wire() {
    let (world, ..) = World::linked();
    for name in [&b"spiffe://mesh.test/node/a"[..], b"spiffe://mesh.test/node/b"] {
        assert!(!world.sent.iter().any(|(_, bytes)| bytes.windows(name.len()).any(|window| window == name)));
    }
}

#[test]
fn a_handshake_packet_is_never_larger_than_1200_bytes() {
    let (world, ..) = World::linked();
    assert!(world.sent.iter().filter(|(_, bytes)| bytes[0] == packet::HANDSHAKE).all(|(_, bytes)| bytes.len() <= 1200));
}

#[test]
fn a_handshake_takes_twelve_packets_and_two_of_them_are_mere_acknowledgements() {
    let (world, ..) = World::linked();
    let sizes: Vec<usize> = world.sent.iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(sizes.len(), 12, "{sizes:?}");
    assert_eq!(sizes.iter().filter(|len| **len == 51).count(), 2, "{sizes:?}");
}

/// How many packets a handshake takes when nothing goes wrong.
fn packets_of_a_handshake() -> usize {
    World::linked().0.sent.len()
}

fn survives(faults: impl FnMut(usize, &[u8]) -> Fate + 'static, what: &str) {
    let mut world = World::new();
    world.faults = Box::new(faults);
    world.connect(Purpose::Link);
    world.run_for(Duration::from_secs(5));
    for side in [A, B] {
        assert_eq!(world.established(side).len(), 1, "{what}: {:?}", world.heard[side].events);
        assert_eq!(world.heard[side].events.len(), 1, "{what}: {:?}", world.heard[side].events);
    }
}

#[test]
fn the_loss_of_any_one_packet_is_made_good() {
    for lost in 0..packets_of_a_handshake() {
        let mut count = 0;
        let fate = move |_: usize, _: &[u8]| {
            count += 1;
            if count - 1 == lost { Fate::Drop } else { Fate::Deliver }
        };
        survives(fate, &format!("packet {lost} lost"));
    }
}

#[test]
fn the_loss_of_any_two_packets_is_made_good() {
    let packets = packets_of_a_handshake();
    for first in 0..packets {
        for second in first + 1..packets + 2 {
            let mut count = 0;
            let fate = move |_: usize, _: &[u8]| {
                count += 1;
                if count - 1 == first || count - 1 == second { Fate::Drop } else { Fate::Deliver }
            };
            survives(fate, &format!("packets {first} and {second} lost"));
        }
    }
}

#[test]
fn any_one_packet_may_come_late_or_twice() {
    for odd in 0..packets_of_a_handshake() {
        for fate in [Fate::Twice, Fate::Late(Duration::from_millis(7)), Fate::Late(Duration::from_millis(400))] {
            let (mut count, odd_fate) = (0, fate.clone());
            let faults = move |_: usize, _: &[u8]| {
                count += 1;
                if count - 1 == odd { odd_fate.clone() } else { Fate::Deliver }
            };
            survives(faults, &format!("packet {odd}: {fate:?}"));
        }
    }
}

#[test]
fn every_packet_may_come_twice_and_in_any_order() {
    for seed in 0..20 {
        let mut entropy = Entropy::new([seed; 32]);
        let faults = move |_: usize, _: &[u8]| {
            if entropy.chance(300_000) { Fate::Twice } else { Fate::Late(Duration::from_micros(entropy.below(40_000))) }
        };
        survives(faults, &format!("seed {seed}"));
    }
}

#[test]
fn most_handshakes_survive_the_loss_of_a_third_of_all_packets() {
    let (mut done, all) = (0, 40);
    for seed in 0..all {
        let mut entropy = Entropy::new([seed; 32]);
        let mut world = World::new();
        world.faults = Box::new(move |_, _| if entropy.chance(300_000) { Fate::Drop } else { Fate::Deliver });
        world.connect(Purpose::Link);
        world.run_for(Duration::from_secs(6));
        done += usize::from(world.established(A).len() == 1 && world.established(B).len() == 1);
    }
    assert!(done >= 38, "{done} of {all} handshakes were done within 5 s");
}

#[test]
fn an_initiator_gives_up_after_five_seconds_of_silence() {
    let mut world = World::new();
    world.faults = Box::new(|_, _| Fate::Drop);
    let session = world.connect(Purpose::Link);
    world.run_for(Duration::from_millis(4_990));
    assert!(world.heard[A].events.is_empty());
    assert!((4..=12).contains(&world.sent.len()), "{} packets into silence", world.sent.len());
    world.run_for(Duration::from_millis(20));
    assert_eq!(
        world.heard[A].events,
        [Event::Refused {
            session,
            purpose: Purpose::Link,
            carrier: world.addresses[B],
            initiator: true,
            reason: CloseReason::HandshakeTimeout(Duration::from_secs(5)),
        }]
    );
    assert_eq!(world.sides[A].sessions().count(), 0);
    assert_eq!(world.sides[A].poll_timeout(), None);
}

/// `a` and `b` of two authorities that know nothing of each other; `trusting` takes the other's word all the same.
fn strangers(trusting: Option<usize>) -> World {
    let (ours, theirs) = (Authority::p256(), Authority::p256());
    let mut world = World::with(&ours, EndpointConfig::default(), Arc::new(RustlsProvider::new()));
    let verifier = if trusting == Some(B) { ours.verifier() } else { theirs.verifier() };
    world.sides[B].set_identity(theirs.issue("b"), verifier);
    if trusting == Some(A) {
        world.sides[A].set_identity(ours.issue("a"), theirs.verifier());
    }
    world.connect(Purpose::Link);
    world.run_for(Duration::from_millis(300));
    world
}

#[test]
fn a_responder_of_another_authority_is_refused_and_both_sides_hear_why() {
    let world = strangers(None);
    let why = "certificate does not reach the trust anchor".to_owned();
    let [Event::Refused { reason, initiator: true, .. }] = &world.heard[A].events[..] else { panic!() };
    assert_eq!(*reason, CloseReason::Handshake(HandshakeError::Peer(why.clone())));
    let [Event::Refused { reason, initiator: false, .. }] = &world.heard[B].events[..] else { panic!() };
    assert_eq!(*reason, CloseReason::Peer { code: close_code::PEER_REFUSED, reason: why });
}

#[test]
fn an_initiator_of_another_authority_is_refused_and_both_sides_hear_why() {
    let world = strangers(Some(A));
    let why = "certificate does not reach the trust anchor".to_owned();
    let [Event::Refused { reason, .. }] = &world.heard[A].events[..] else { panic!("{:?}", world.heard[A].events) };
    assert_eq!(*reason, CloseReason::Peer { code: close_code::PEER_REFUSED, reason: why.clone() });
    let [Event::Refused { reason, .. }] = &world.heard[B].events[..] else { panic!("{:?}", world.heard[B].events) };
    assert_eq!(*reason, CloseReason::Handshake(HandshakeError::Peer(why)));
    assert_eq!(world.sides[B].stats().handshakes_failed, 1);
}

#[test]
fn a_refusal_is_heard_even_if_its_first_packet_is_lost() {
    let (ours, theirs) = (Authority::p256(), Authority::p256());
    let mut world = World::with(&ours, EndpointConfig::default(), Arc::new(RustlsProvider::new()));
    world.sides[A].set_identity(ours.issue("a"), theirs.verifier());
    world.sides[B].set_identity(theirs.issue("b"), theirs.verifier());
    let mut from_b = 0;
    world.faults = Box::new(move |side, _| {
        from_b += usize::from(side == B);
        // RETRY, two of the hello, one of the certificate: the fifth is the CLOSE.
        if side == B && from_b == 5 { Fate::Drop } else { Fate::Deliver }
    });
    world.connect(Purpose::Link);
    world.run_for(Duration::from_secs(2));
    let [Event::Refused { reason: CloseReason::Peer { code, .. }, .. }] = &world.heard[A].events[..] else {
        panic!("{:?}", world.heard[A].events)
    };
    assert_eq!(*code, close_code::PEER_REFUSED);
}

#[test]
fn an_expired_certificate_is_judged_by_the_time_that_was_handed_in() {
    let mut world = World::new();
    world.sides[A].connect(Purpose::Link, world.addresses[B], world.now, UnixTime::from_secs(1_000)).unwrap();
    world.run_for(Duration::from_millis(300));
    let [Event::Refused { reason: CloseReason::Handshake(HandshakeError::Peer(_)), .. }] = &world.heard[A].events[..]
    else {
        panic!("{:?}", world.heard[A].events)
    };
}

#[test]
fn a_joining_host_needs_no_certificate_and_only_an_authority_answers_it() {
    let authority = Authority::p256();
    let mut world = World::with(&authority, EndpointConfig::default(), Arc::new(RustlsProvider::new()));
    let mut joiner = Endpoint::new(EndpointConfig::default(), Arc::new(RustlsProvider::new()), Entropy::new([9; 32]));
    assert_eq!(joiner.connect(Purpose::Join, world.addresses[B], world.now, WALL), Err(ConnectError::NoIdentity));
    joiner.set_verifier(authority.verifier());
    world.sides[A] = joiner;
    world.connect(Purpose::Join);
    world.run_for(Duration::from_secs(6));
    let [Event::Refused { reason: CloseReason::HandshakeTimeout(_), .. }] = &world.heard[A].events[..] else {
        panic!()
    };

    world.heard = Default::default();
    world.sent.clear();
    world.sides[B].set_accept_join(true);
    let a = world.connect(Purpose::Join);
    world.run_for(Duration::from_millis(300));
    let [Event::Established { peer: Some(peer), .. }] = &world.heard[A].events[..] else { panic!() };
    assert_eq!(*peer, id("b"));
    let [Event::Established { peer: None, session, peer_chain, .. }] = &world.heard[B].events[..] else { panic!() };
    assert!(peer_chain.is_empty());
    let b = *session;
    world.sides[A].send_message(a, &[1; 5000], world.now).unwrap();
    world.sides[B].send_message(b, b"welcome", world.now).unwrap();
    world.run_for(Duration::from_millis(300));
    assert_eq!(
        (&world.heard[B].messages, &world.heard[A].messages),
        (&vec![vec![1; 5000]], &vec![b"welcome".to_vec()])
    );
    assert!(world.sent.iter().all(|(_, bytes)| bytes[0] == packet::JOIN), "a relay must be able to tell");
    assert!(world.sent.iter().all(|(_, bytes)| bytes.len() <= 1234), "a relay must be able to wrap");
}

#[test]
fn a_link_handshake_does_not_pass_for_another_purpose() {
    let mut world = World::new();
    world.connect(Purpose::Link);
    world.faults = Box::new(|_, _| Fate::Deliver);
    world.flush();
    world.run_for(Duration::from_millis(11));
    // The hello with its cookie, presented as the start of an end-to-end session: the cookie is for links.
    world.flush();
    let hello = world.sent_by(A, packet::HANDSHAKE).pop().unwrap();
    let mut other = hello;
    other[1] = Purpose::EndToEnd as u8;
    let sum = packet::checksum(&other[..other.len() - 16]);
    let at = other.len() - 16;
    other[at..].copy_from_slice(&sum);
    let before = *world.sides[B].stats();
    world.deliver(B, world.addresses[A], other);
    assert_eq!(world.sides[B].stats().handshakes_answered, before.handshakes_answered);
}

#[test]
fn both_sides_may_begin_at_once_and_both_sessions_stand() {
    let mut world = World::new();
    world.connect(Purpose::Link);
    world.sides[B].connect(Purpose::Link, world.addresses[A], world.now, WALL).unwrap();
    world.run_for(Duration::from_millis(300));
    assert_eq!((world.established(A).len(), world.established(B).len()), (2, 2));
}

#[test]
fn a_new_identity_is_for_new_handshakes() {
    let authority = Authority::p256();
    let mut world = World::with(&authority, EndpointConfig::default(), Arc::new(RustlsProvider::new()));
    let (first, _) = world.link();
    world.sides[B].set_identity(authority.issue("renamed"), authority.verifier());
    let second = world.connect(Purpose::Link);
    world.run_for(Duration::from_millis(300));
    assert_eq!(world.sides[A].info(first).unwrap().peer, Some(id("b")));
    assert_eq!(world.sides[A].info(second).unwrap().peer, Some(id("renamed")));
}

#[test]
fn post_quantum_only_agrees_with_itself_and_carriers_other_than_udp_work() {
    let provider = Arc::new(RustlsProvider::post_quantum_only());
    let mut world = World::with(&Authority::p256(), EndpointConfig::default(), provider);
    let node = |byte| x0t_model::NodeId::from_bytes([byte; 16]);
    for addresses in [
        [Carrier::Overlay(node(1)), Carrier::Overlay(node(2))],
        [Carrier::Relayed { via: node(3), remote: "198.51.100.7:1".parse().unwrap() }, udp("[2001:db8::2]:4600")],
    ] {
        world.addresses = addresses;
        let (a, _) = world.establish(Purpose::EndToEnd);
        assert_eq!(world.sides[A].info(a).unwrap().group, Some("X25519MLKEM768"));
        assert!(world.sides[A].max_datagram(a).unwrap() >= 1000, "room to say something");
    }
}

#[test]
fn an_endpoint_is_as_mobile_as_a_node_needs_it() {
    fn assert_send<T: Send>() {}
    assert_send::<Endpoint>();
}
