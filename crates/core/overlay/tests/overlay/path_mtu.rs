//! Links find out how large a datagram passes, and notice when that changes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use x0t_model::Instant;
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{Carrier, EndpointConfig, Event, PATH_MTU_BASE, SessionId};

use crate::authority::{Authority, WALL};
use crate::world::{A, B, Fate, World, udp};

/// A link whose underlay swallows datagrams that are longer than the cell says.
fn link(passes: usize) -> (World, SessionId, SessionId, Rc<Cell<usize>>) {
    let mut world = World::discovering(&Authority::p256(), EndpointConfig::default(), Arc::new(RustlsProvider::new()));
    let limit = Rc::new(Cell::new(passes));
    let held = Rc::clone(&limit);
    world.faults = Box::new(move |_, bytes| if bytes.len() > held.get() { Fate::Drop } else { Fate::Deliver });
    let (a, b) = world.link();
    (world, a, b, limit)
}

fn carry(world: &mut World, session: SessionId, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let now = world.now;
        world.sides[A].carried_data(session, now);
        // Peers of a link in use talk all the time.
        for side in [A, B] {
            let session = world.sides[side].sessions().next().unwrap();
            world.sides[side].send_datagram(session, b"hello", now).unwrap();
        }
        world.run_for(Duration::from_millis(25));
    }
}

#[test]
fn both_ends_find_the_size_that_passes_and_tell_it() {
    for (passes, found) in [(1210, PATH_MTU_BASE), (1252, 1252), (1472, 1472), (9000, 8972)] {
        let (mut world, a, b, _) = link(passes);
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.sides[A].path_mtu(a), Some(found));
        assert_eq!(world.sides[B].path_mtu(b), Some(found));
        for (side, session) in [(A, a), (B, b)] {
            let mut told = world.heard[side].events.iter().filter_map(|event| match event {
                Event::PathMtu { session, mtu } => Some((*session, *mtu)),
                _ => None,
            });
            // What was told before the links counted as established is not in the list.
            assert!(told.next_back().is_none_or(|last| last == (session, found)));
        }
        assert!(world.sent.iter().all(|(_, bytes)| bytes.len() <= 8972));
    }
}

#[test]
fn a_black_hole_under_a_link_in_use_is_found_and_the_session_lives_on() {
    let (mut world, a, _, limit) = link(1472);
    carry(&mut world, a, Duration::from_secs(3));
    assert_eq!(world.sides[A].path_mtu(a), Some(1472));
    world.heard = Default::default();
    limit.set(1372);
    let shrunk = world.now;
    while world.sides[A].path_mtu(a) == Some(1472) {
        carry(&mut world, a, Duration::from_millis(25));
        assert!(world.now.since(shrunk) < Duration::from_millis(500), "not noticed");
    }
    carry(&mut world, a, Duration::from_millis(500));
    assert_eq!(world.sides[A].path_mtu(a), Some(1372));
    let mtus: Vec<usize> = world.heard[A].events.iter().filter_map(path_mtu).collect();
    assert_eq!((mtus.first(), mtus.last()), (Some(&PATH_MTU_BASE), Some(&1372)), "{mtus:?}");
}

#[test]
fn a_refusal_by_the_operating_system_and_a_new_address_begin_anew() {
    let (mut world, a, _, limit) = link(1472);
    world.run_for(Duration::from_secs(1));
    limit.set(1252);
    let now = world.now;
    world.sides[A].datagram_refused(a, 1472, now);
    assert_eq!(world.sides[A].path_mtu(a), Some(PATH_MTU_BASE));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sides[A].path_mtu(a), Some(1252));

    let (mut world, a, b, _) = link(1472);
    world.run_for(Duration::from_secs(1));
    let mut packet = Vec::new();
    world.sides[B].seal_datagram_packet(b, b"from elsewhere", &mut packet).unwrap();
    let elsewhere: Carrier = udp("192.0.2.77:4600");
    world.deliver(A, elsewhere, packet);
    assert_eq!(world.sides[A].path_mtu(a), Some(1472), "nobody has moved yet");
    world.heard[A].events.clear();
    while world.sides[A].info(a).unwrap().carrier != elsewhere {
        world.now += Duration::from_millis(10);
        world.sides[A].handle_timeout(world.now, WALL);
        while let Some(transmit) = world.sides[A].poll_transmit() {
            if transmit.carrier == elsewhere {
                world.deliver(B, world.addresses[A], transmit.bytes);
            }
        }
        while let Some(transmit) = world.sides[B].poll_transmit() {
            world.deliver(A, elsewhere, transmit.bytes);
        }
    }
    assert_eq!(world.heard[A].events.iter().find_map(path_mtu), Some(PATH_MTU_BASE));
}

#[test]
fn a_later_session_on_the_same_path_begins_where_the_earlier_one_was() {
    let (mut world, a, ..) = link(1472);
    world.run_for(Duration::from_secs(1));
    let (again, _) = world.link();
    let earlier = world.sides[A].path_mtu(a).unwrap();
    world.sides[A].resume_path_mtu(again, earlier);
    assert_eq!(world.sides[A].path_mtu(again), Some(1472));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sides[A].path_mtu(again), Some(1472), "confirmed");
}

#[test]
fn an_idle_link_is_asked_once_in_ten_seconds() {
    let (mut world, ..) = link(9000);
    world.run_for(Duration::from_secs(15));
    let before = world.sent.len();
    let start: Instant = world.now;
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.now.since(start), Duration::from_secs(10));
    let large = world.sent[before..].iter().filter(|(_, bytes)| bytes.len() > PATH_MTU_BASE).count();
    assert_eq!(large, 2, "one of each side");
}

fn path_mtu(event: &Event) -> Option<usize> {
    match event {
        Event::PathMtu { mtu, .. } => Some(*mtu),
        _ => None,
    }
}
