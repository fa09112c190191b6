//! Messages arrive once and in order; datagrams arrive or not.

use std::time::Duration;

use x0t_model::Entropy;
use x0t_overlay::packet::PROTECTED;
use x0t_overlay::{CloseReason, Event, SendError, close_code};

use crate::world::{A, B, Fate, World};

const WINDOW: usize = 256 * 1024;

#[test]
fn messages_arrive_once_and_in_order_though_a_third_of_all_packets_is_lost() {
    for seed in 0..5 {
        let (mut world, a, b) = World::linked();
        let mut entropy = Entropy::new([seed; 32]);
        let sizes: Vec<usize> = (0..60).map(|_| 1 + entropy.below(6_000) as usize).collect();
        let expected: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, len)| vec![at as u8; *len]).collect();
        let mut faults = Entropy::new([seed + 100; 32]);
        world.faults = Box::new(move |_, _| match faults.below(10) {
            0..3 => Fate::Drop,
            3 => Fate::Twice,
            _ => Fate::Late(Duration::from_micros(faults.below(15_000))),
        });
        for message in &expected {
            world.sides[A].send_message(a, message, world.now).unwrap();
            while world.sides[B].send_message(b, message, world.now) == Err(SendError::Full) {
                world.run_for(Duration::from_millis(50));
            }
        }
        world.run_for(Duration::from_secs(25));
        for side in [A, B] {
            assert!(world.heard[side].messages == expected, "seed {seed}: {} of 60", world.heard[side].messages.len());
            assert!(world.heard[side].events.is_empty());
        }
        assert!(world.sides[A].stats().retransmitted > 20);
    }
}

#[test]
fn the_largest_message_arrives_and_a_larger_one_is_refused() {
    let (mut world, a, _) = World::linked();
    let large = vec![0xa5; 64 * 1024];
    world.sides[A].send_message(a, &large, world.now).unwrap();
    let error = world.sides[A].send_message(a, &[0; 64 * 1024 + 1], world.now);
    assert_eq!(error, Err(SendError::TooLarge { len: 65_537, limit: 65_536 }));
    world.run_for(Duration::from_millis(200));
    assert!(world.heard[B].messages == [large]);
    assert_eq!(world.sides[A].info(a).unwrap().buffered, 0);
}

#[test]
fn buffers_are_bounded_on_both_sides() {
    let (mut world, a, b) = World::linked();
    world.faults = Box::new(|side, _| if side == B { Fate::Drop } else { Fate::Deliver });
    let sent = (0..100).take_while(|_| world.sides[A].send_message(a, &[7; 10_000], world.now).is_ok()).count();
    assert_eq!(sent, WINDOW / 10_004);
    assert_eq!(world.sides[A].send_message(a, &[7; 10_000], world.now), Err(SendError::Full));
    assert!(world.sides[A].info(a).unwrap().buffered <= WINDOW);
    let queued = (0..1_000).take_while(|_| world.sides[A].send_datagram(a, &[0; 100], world.now).is_ok()).count();
    assert_eq!(queued, 256);
    world.run_for(Duration::from_secs(5));
    assert!(world.sides[B].info(b).unwrap().buffered <= WINDOW);

    world.faults = Box::new(|_, _| Fate::Deliver);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.heard[B].messages.len(), sent);
    assert_eq!((world.sides[A].info(a).unwrap().buffered, world.sides[B].info(b).unwrap().buffered), (0, 0));
    world.sides[A].send_message(a, b"room again", world.now).unwrap();
}

#[test]
fn nothing_is_sent_faster_than_the_peer_takes_it() {
    let (mut world, a, _) = World::linked();
    while world.sides[A].send_message(a, &[1; 60_000], world.now).is_ok() {}
    world.sent.clear();
    world.flush();
    assert!(world.sent.len() <= 17, "{} packets at once into an unknown network", world.sent.len());
}

#[test]
fn small_datagrams_share_a_packet_and_large_ones_do_not_fit() {
    let (mut world, a, _) = World::linked();
    world.sent.clear();
    for number in 0..50u8 {
        world.sides[A].send_datagram(a, &[number; 10], world.now).unwrap();
    }
    let limit = world.sides[A].max_datagram(a).unwrap();
    assert_eq!(limit, 1200 - 30 - 3);
    let error = world.sides[A].send_datagram(a, &vec![0; limit + 1], world.now);
    assert_eq!(error, Err(SendError::TooLarge { len: limit + 1, limit }));
    world.flush();
    assert_eq!(world.sent_by(A, PROTECTED).len(), 1);
    world.sides[A].send_datagram(a, &vec![9; limit], world.now).unwrap();
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.heard[B].datagrams.len(), 51);
    assert_eq!(world.heard[B].datagrams[50].len(), limit);
    assert!(world.sent.iter().all(|(_, bytes)| bytes.len() <= 1400));
}

#[test]
fn datagrams_are_not_acknowledged() {
    let (mut world, a, _) = World::linked();
    world.run_for(Duration::from_secs(1));
    world.sent.clear();
    for _ in 0..20 {
        world.sides[A].send_datagram(a, b"one way", world.now).unwrap();
        world.run_for(Duration::from_millis(5));
    }
    world.run_for(Duration::from_millis(100));
    assert_eq!((world.sent_by(A, PROTECTED).len(), world.sent_by(B, PROTECTED).len()), (20, 0));
}

#[test]
fn an_empty_message_is_not_sent() {
    let (mut world, a, _) = World::linked();
    world.sides[A].send_message(a, b"", world.now).unwrap();
    world.sides[A].send_message(a, b"x", world.now).unwrap();
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.heard[B].messages, [b"x"]);
}

#[test]
fn a_session_that_hears_nothing_is_closed_after_its_idle_timeout() {
    let (mut world, a, b) = World::linked();
    world.run_for(Duration::from_secs(20));
    world.sides[A].send_datagram(a, b"x", world.now).unwrap();
    world.run_for(Duration::from_secs(20));
    let [Event::Closed { reason, .. }] = &world.heard[A].events[..] else { panic!("{:?}", world.heard[A].events) };
    assert_eq!(*reason, CloseReason::Idle(Duration::from_secs(30)));
    assert!(world.heard[B].events.is_empty(), "it heard the datagram");
    world.run_for(Duration::from_secs(15));
    assert!(matches!(&world.heard[B].events[..], [Event::Closed { session, .. }] if *session == b));
    assert_eq!((world.sides[A].poll_timeout(), world.sides[B].poll_timeout()), (None, None));
}

#[test]
fn a_close_is_heard_with_its_reason_even_if_its_packet_is_lost() {
    let (mut world, a, b) = World::linked();
    let mut lost = false;
    world.faults = Box::new(move |side, _| {
        let first = side == A && !std::mem::replace(&mut lost, true);
        if first { Fate::Drop } else { Fate::Deliver }
    });
    let long = "é".repeat(50);
    world.sides[A].close(a, close_code::APPLICATION + 5, &long, world.now);
    world.run_for(Duration::from_millis(50));
    assert!(matches!(&world.heard[A].events[..], [Event::Closed { reason: CloseReason::Local { .. }, .. }]));
    assert!(world.heard[B].events.is_empty(), "lost");
    world.sides[B].send_datagram(b, b"are you there?", world.now).unwrap();
    world.run_for(Duration::from_millis(50));
    let [Event::Closed { reason: CloseReason::Peer { code, reason }, .. }] = &world.heard[B].events[..] else {
        panic!("{:?}", world.heard[B].events)
    };
    assert_eq!((*code, reason.as_str()), (close_code::APPLICATION + 5, "é".repeat(32).as_str()));
    assert_eq!(world.sides[B].send_datagram(b, b"x", world.now), Err(SendError::UnknownSession));
    assert_eq!(world.sides[A].send_datagram(a, b"x", world.now), Err(SendError::NotEstablished));
    world.run_for(Duration::from_secs(4));
    assert_eq!(world.sides[A].send_datagram(a, b"x", world.now), Err(SendError::UnknownSession));
    assert_eq!(world.sides[A].poll_timeout(), None);
}

#[test]
fn a_forgotten_session_leaves_without_a_word() {
    let (mut world, a, b) = World::linked();
    world.sent.clear();
    world.sides[A].forget(a);
    world.flush();
    assert!(world.sent.is_empty() && world.heard[A].events.is_empty());
    world.sides[B].send_datagram(b, b"x", world.now).unwrap();
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.sides[A].stats().unknown_session, 1);
    let again = world.connect(x0t_overlay::Purpose::Link);
    assert_ne!(a, again, "an id is never given twice");
}
