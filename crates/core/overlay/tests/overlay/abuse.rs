//! What strangers and forgers can do: be counted.

use std::time::Duration;

use proptest::prelude::*;
use x0t_model::{Entropy, Instant};
use x0t_overlay::frame::Frame;
use x0t_overlay::packet::{self, HANDSHAKE, HandshakeHeader, Level, PROTECTED, RETRY, Retry};
use x0t_overlay::{Carrier, Event, Purpose, Stats};

use crate::authority::WALL;
use crate::world::{A, B, Fate, World, udp};

/// A level-0 packet as an initiator of its own making would send it.
fn hello(src_index: u32, cookie: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (purpose, level) = (Purpose::Link, Level::Initial);
    HandshakeHeader { purpose, dst_index: 0, src_index, level, pn: 0, cookie }.encode(&mut bytes);
    Frame::Ping.encode(&mut bytes);
    bytes.resize(bytes.len().max(len - 16), 0);
    let sum = packet::checksum(&bytes);
    bytes.extend(sum);
    bytes
}

/// What `side` answers to a packet, if anything.
fn answer(world: &mut World, side: usize, from: Carrier, bytes: Vec<u8>) -> Option<Vec<u8>> {
    world.deliver(side, from, bytes);
    world.sides[side].poll_transmit().map(|transmit| {
        assert_eq!(transmit.carrier, from);
        transmit.bytes
    })
}

fn cookie_for(world: &mut World, from: Carrier, src_index: u32) -> Vec<u8> {
    let retry = answer(world, B, from, hello(src_index, &[], 64)).unwrap();
    Retry::decode(&retry).unwrap().cookie.to_vec()
}

#[test]
fn nothing_is_kept_for_an_initiator_that_shows_no_cookie() {
    let mut world = World::new();
    for src_index in 1..2_000 {
        let question = hello(src_index, &[], 64);
        let retry = answer(&mut world, B, udp("203.0.113.5:9"), question.clone()).unwrap();
        assert_eq!(Retry::decode(&retry).unwrap().dst_index, src_index);
        assert!(retry.len() < question.len(), "an answer must not be larger than its question");
    }
    assert_eq!((world.sides[B].half_open(), world.sides[B].sessions().count()), (0, 0));
    assert_eq!(world.sides[B].poll_timeout(), None);
    assert_eq!(world.sides[B].stats().retries_sent, 1_999);
}

#[test]
fn a_question_shorter_than_its_answer_is_not_answered() {
    let mut world = World::new();
    let mut bytes = Vec::new();
    let (purpose, level) = (Purpose::Join, Level::Initial);
    world.sides[B].set_accept_join(true);
    bytes.push(packet::JOIN);
    HandshakeHeader { purpose, dst_index: 0, src_index: 1, level, pn: 0, cookie: &[] }.encode(&mut bytes);
    let sum = packet::checksum(&bytes[1..]);
    bytes.extend(sum);
    let retry = answer(&mut world, B, udp("203.0.113.5:9"), bytes.clone());
    assert!(retry.is_none_or(|retry| retry.len() <= bytes.len()));
}

#[test]
fn a_wrong_borrowed_or_stale_cookie_creates_no_state() {
    let mut world = World::new();
    let here = udp("203.0.113.5:9");
    let good = cookie_for(&mut world, here, 7);
    for at in 0..good.len() {
        let mut wrong = good.clone();
        wrong[at] ^= 0x40;
        assert!(answer(&mut world, B, here, hello(7, &wrong, 64)).is_some_and(|bytes| bytes[0] == RETRY));
    }
    assert!(answer(&mut world, B, udp("203.0.113.5:10"), hello(7, &good, 64)).is_some(), "another port");
    assert!(answer(&mut world, B, here, hello(8, &good, 64)).is_some(), "another index");
    world.now += Duration::from_secs(11);
    assert!(answer(&mut world, B, here, hello(7, &good, 64)).is_some(), "too late");
    assert_eq!(world.sides[B].half_open(), 0);
    assert_eq!(world.sides[B].stats().cookies_refused, good.len() as u64 + 3);

    let fresh = cookie_for(&mut world, here, 7);
    assert_eq!(answer(&mut world, B, here, hello(7, &fresh, 300)).map(|bytes| bytes[0]), Some(HANDSHAKE));
    assert_eq!(world.sides[B].half_open(), 1, "the right one does");
}

#[test]
fn half_open_handshakes_are_bounded_per_source_and_in_total_and_go_away() {
    let mut world = World::new();
    let knock = |world: &mut World, from: Carrier, index| {
        let cookie = cookie_for(world, from, index);
        answer(world, B, from, hello(index, &cookie, 64));
    };
    for port in 1..100u32 {
        knock(&mut world, udp(&format!("203.0.113.5:{port}")), port);
    }
    assert_eq!(world.sides[B].half_open(), 16, "one address");
    for host in 1..100u32 {
        knock(&mut world, udp(&format!("[2001:db8::{host:x}]:9")), host);
    }
    assert_eq!(world.sides[B].half_open(), 32, "one /64");
    for host in 0..1_000u32 {
        knock(&mut world, udp(&format!("10.0.{}.{}:9", host / 250, host % 250)), host + 1);
    }
    assert_eq!(world.sides[B].half_open(), 256);
    assert_eq!(world.sides[B].stats().half_open_refused, 83 + 83 + 776);
    world.run_for(Duration::from_millis(5_100));
    assert_eq!((world.sides[B].half_open(), world.sides[B].sessions().count()), (0, 0));
    assert!(world.heard[B].events.is_empty(), "what merely stops is no news");
    world.link();
}

#[test]
fn an_initiator_that_proves_nothing_gets_at_most_three_times_what_it_sent() {
    let mut world = World::new();
    let mut hellos = 0;
    // After RETRY, only the first piece of the hello and nothing else ever arrives; then a whole hello and nothing else.
    for pieces in 1..=2 {
        world.faults = Box::new(move |side, bytes| {
            let keeps = side == B
                || bytes.len() <= 64
                || bytes[16] > 0 && {
                    hellos += 1;
                    hellos <= pieces
                };
            if keeps { Fate::Deliver } else { Fate::Drop }
        });
        world.sent.clear();
        world.connect(Purpose::Link);
        let before = world.sides[B].stats().received;
        world.run_for(Duration::from_secs(6));
        let received = (world.sides[B].stats().received - before) as usize;
        let sizes = |side| world.sent_by(side, HANDSHAKE).iter().map(Vec::len).collect::<Vec<_>>();
        let into_b: usize = sizes(A).iter().filter(|len| **len > 64).take(received - 1).sum();
        let out_of_b: usize = sizes(B).iter().sum();
        assert!(out_of_b <= 3 * into_b, "{out_of_b} bytes for {into_b}");
        assert!(pieces == 1 || out_of_b > 1_500, "the whole flight fits the allowance, but had {out_of_b}");
    }
}

/// Everything `side` sent so far.
fn recorded(world: &World, side: usize) -> Vec<Vec<u8>> {
    world.sent.iter().filter(|(by, _)| *by == side).map(|(_, bytes)| bytes.clone()).collect()
}

/// A link that has carried a datagram and a message each way.
fn talkative() -> (World, [x0t_overlay::SessionId; 2]) {
    let (mut world, a, b) = World::linked();
    for (side, session) in [(A, a), (B, b)] {
        world.sides[side].send_datagram(session, b"datagram", world.now).unwrap();
        world.sides[side].send_message(session, b"message", world.now).unwrap();
    }
    world.run_for(Duration::from_millis(100));
    world.heard = Default::default();
    (world, [a, b])
}

fn still_works(world: &mut World, [a, b]: [x0t_overlay::SessionId; 2]) {
    world.heard = Default::default();
    world.sides[A].send_message(a, b"still here", world.now).unwrap();
    world.sides[B].send_message(b, b"so am I", world.now).unwrap();
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.heard[B].messages, [b"still here"]);
    assert_eq!(world.heard[A].messages, [b"so am I"]);
    assert!(world.heard.iter().all(|heard| heard.events.is_empty()), "{:?}", world.heard);
}

#[test]
fn replayed_packets_are_counted_and_do_nothing() {
    let (mut world, sessions) = talkative();
    let (from, before) = (world.addresses[A], *world.sides[B].stats());
    let packets = recorded(&world, A);
    let traffic = packets.iter().filter(|bytes| bytes[0] == PROTECTED).count() as u64;
    for bytes in packets {
        world.deliver(B, from, bytes);
    }
    let stats = world.sides[B].stats();
    assert!(traffic >= 3);
    assert_eq!(stats.replayed - before.replayed, traffic);
    assert_eq!(stats.handshakes_answered, before.handshakes_answered);
    assert!(
        world.heard[B].events.is_empty() && world.heard[B].datagrams.is_empty() && world.heard[B].messages.is_empty()
    );
    still_works(&mut world, sessions);
}

#[test]
fn reflected_packets_do_nothing() {
    let (mut world, sessions) = talkative();
    let from = world.addresses[B];
    for mut bytes in recorded(&world, A) {
        world.deliver(A, from, bytes.clone());
        // Even if the reflector turns the index into ours.
        let other = recorded(&world, B).into_iter().find(|other| other[0] == PROTECTED && bytes[0] == PROTECTED);
        if let Some(other) = other {
            bytes[2..6].copy_from_slice(&other[2..6]);
            let before = world.sides[A].stats().forged + world.sides[A].stats().replayed;
            world.deliver(A, from, bytes);
            assert_eq!(world.sides[A].stats().forged + world.sides[A].stats().replayed, before + 1);
        }
    }
    assert!(world.heard[A].events.is_empty() && world.heard[A].datagrams.is_empty());
    still_works(&mut world, sessions);
}

#[test]
fn a_cut_or_changed_traffic_packet_is_dropped_whichever_byte_it_is() {
    let (mut world, [a, b]) = talkative();
    let mut bytes = Vec::new();
    world.sides[A].seal_datagram_packet(a, b"not to be touched", &mut bytes).unwrap();
    let (from, before) = (world.addresses[A], *world.sides[B].stats());
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            world.deliver(B, from, changed);
        }
        world.deliver(B, from, bytes[..at].to_vec());
    }
    let stats = *world.sides[B].stats();
    assert!(world.heard[B].datagrams.is_empty());
    let dropped = |stats: &Stats| {
        stats.forged
            + stats.malformed
            + stats.unknown_epoch
            + stats.unknown_session
            + stats.unknown_type
            + stats.replayed
            + stats.unexpected
    };
    assert_eq!(dropped(&stats) - dropped(&before), 3 * bytes.len() as u64, "each is counted once");
    world.deliver(B, from, bytes);
    assert_eq!(world.heard[B].datagrams, [b"not to be touched"]);
    still_works(&mut world, [a, b]);
}

#[test]
fn a_handshake_survives_cut_and_changed_copies_of_each_of_its_packets() {
    let mut world = World::new();
    world.faults = Box::new(|_, _| Fate::Drop);
    world.connect(Purpose::Link);
    for _ in 0..20 {
        world.flush();
        for (side, bytes) in std::mem::take(&mut world.sent) {
            let (from, to) = (world.addresses[side], 1 - side);
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                world.deliver(to, from, changed);
                if at % 7 == 0 {
                    world.deliver(to, from, bytes[..at].to_vec());
                }
            }
            assert!(world.heard[to].events.is_empty() || world.established(to).len() == 1);
            world.deliver(to, from, bytes);
        }
        world.now += Duration::from_millis(120);
        for side in [A, B] {
            world.sides[side].handle_timeout(world.now, WALL);
        }
        if world.established(A).len() == 1 && world.established(B).len() == 1 {
            return;
        }
    }
    panic!("{:?} {:?}", world.sides[A].stats(), world.sides[B].stats());
}

#[test]
fn forged_retries_and_goodbyes_end_nothing() {
    let mut world = World::new();
    world.connect(Purpose::Link);
    world.flush();
    let src_index = u32::from_be_bytes(world.sent[0].1[7..11].try_into().unwrap());
    let (from_b, from_a) = (world.addresses[B], world.addresses[A]);
    for number in 0..50u8 {
        let mut retry = Vec::new();
        Retry { dst_index: src_index, cookie: &[number; 20] }.encode(&mut retry);
        world.deliver(A, from_b, retry.clone());
        world.deliver(A, from_a, retry);
    }
    assert_eq!(world.sides[A].stats().retries_obeyed, 3);
    world.run_for(Duration::from_secs(6));
    world.heard = Default::default();

    let (a, b) = world.link();
    let mut goodbye = Vec::new();
    let (purpose, level) = (Purpose::Link, Level::Initial);
    let (dst_index, src_index) = (a.as_u64() as u32, b.as_u64() as u32);
    HandshakeHeader { purpose, dst_index, src_index, level, pn: 9, cookie: &[] }.encode(&mut goodbye);
    Frame::Close { code: 0, reason: "bye" }.encode(&mut goodbye);
    let sum = packet::checksum(&goodbye);
    goodbye.extend(sum);
    world.deliver(A, from_b, goodbye);
    still_works(&mut world, [a, b]);
}

#[test]
fn a_packet_of_another_version_is_counted_apart() {
    let mut world = World::new();
    let mut other = hello(1, &[], 64);
    other[2] = 2;
    world.deliver(B, udp("203.0.113.5:9"), other);
    assert_eq!(world.sides[B].stats().unknown_version, 1);
}

#[test]
fn news_that_nobody_fetches_is_bounded() {
    let (mut world, a, _) = World::linked();
    let from = world.addresses[A];
    for _ in 0..10_000 {
        world.sides[A].send_datagram(a, b"1", world.now).unwrap();
        world.sides[A].send_datagram(a, b"2", world.now).unwrap();
        let mut bytes = world.sides[A].poll_transmit().unwrap().bytes;
        assert_eq!(world.sides[B].handle_datagram(from, &mut bytes, world.now, WALL), None);
    }
    assert!(world.sides[B].stats().overrun > 7_000);
    let news = std::iter::from_fn(|| world.sides[B].poll_event()).count();
    assert!((4096..4200).contains(&news), "{news}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_from_anywhere_make_an_endpoint_panic(
        packets in proptest::collection::vec((0usize..6, proptest::collection::vec(any::<u8>(), 0..200)), 1..60),
        seed in any::<u8>(),
    ) {
        let (mut world, a, b) = World::linked();
        let mut entropy = Entropy::new([seed; 32]);
        let own = recorded(&world, A);
        for (shape, mut bytes) in packets {
            let kinds = [HANDSHAKE, RETRY, PROTECTED, packet::FORWARD, packet::JOIN];
            if let Some(kind) = kinds.get(shape) {
                bytes.insert(0, *kind);
                if bytes.len() > 6 && shape >= 2 {
                    bytes[2..6].copy_from_slice(&(b.as_u64() as u32).to_be_bytes());
                }
            } else {
                let mut copy = own[entropy.below(own.len() as u64) as usize].clone();
                for byte in bytes.iter().take(3) {
                    let at = entropy.below(copy.len() as u64) as usize;
                    copy[at] ^= byte;
                }
                bytes = copy;
            }
            let from = world.addresses[A];
            world.deliver(B, from, bytes);
        }
        let closed = world.heard[B].events.iter().any(|event| matches!(event, Event::Closed { .. }));
        prop_assert!(!closed);
        world.heard = Default::default();
        world.run_for(Duration::from_millis(50));
        still_works(&mut world, [a, b]);
    }
}

#[test]
fn time_that_stands_still_or_jumps_harms_no_bound() {
    let mut world = World::new();
    world.connect(Purpose::Link);
    world.now = Instant::FAR_FUTURE;
    world.sides[A].handle_timeout(world.now, WALL);
    world.collect(A);
    let [Event::Refused { .. }] = &world.heard[A].events[..] else { panic!("{:?}", world.heard[A].events) };
}
