//! What a relay sees, and what it can and cannot do.

use std::sync::Arc;
use std::time::Duration;

use x0t_model::NodeId;
use x0t_overlay::frame::Frame;
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{FORWARD_OVERHEAD, ProtectedHeader};
use x0t_overlay::{
    Carrier, CloseReason, EndpointConfig, Event, HopHeader, Opened, PacketKey, Purpose, SendError, SessionId,
    close_code,
};

use crate::authority::{Authority, WALL};
use crate::limited::Limited;
use crate::world::{A, B, World, udp};

fn hop() -> HopHeader {
    HopHeader {
        src: NodeId::from_bytes([1; 16]),
        dst: NodeId::from_bytes([2; 16]),
        ttl: 9,
        kind: PayloadKind::EndToEnd,
        flags: 0,
        flow: 0xfeed_beef,
    }
}

#[test]
fn a_forward_packet_is_opened_in_place_with_its_payload_untouched() {
    let (mut world, a, b) = World::linked();
    let payload: Vec<u8> = (0..1100).map(|at| at as u8).collect();
    let mut packet = b"in front".to_vec();
    world.sides[A].seal_forward(a, &hop(), &payload, &mut packet).unwrap();
    let mut packet = packet.split_off(8);
    assert_eq!(packet.len(), FORWARD_OVERHEAD + payload.len());
    assert_eq!(packet[FORWARD_OVERHEAD..], payload, "no link key touches it");
    assert!(!packet.windows(16).any(|window| window == [1; 16]), "who talks to whom is sealed");
    let opened = world.sides[B].handle_datagram(world.addresses[A], &mut packet, world.now, WALL);
    assert_eq!(opened, Some(Opened::Forward { session: b, hop: hop(), payload: &mut payload.clone() }));
    assert_eq!(world.sides[B].handle_datagram(world.addresses[A], &mut packet, world.now, WALL), None, "once");
}

#[test]
fn no_byte_of_the_sealed_front_can_be_changed() {
    let (mut world, a, _) = World::linked();
    let mut packet = Vec::new();
    world.sides[A].seal_forward(a, &hop(), b"payload", &mut packet).unwrap();
    for at in 0..FORWARD_OVERHEAD {
        let mut changed = packet.clone();
        changed[at] ^= 4;
        let from = world.addresses[A];
        world.deliver(B, from, changed);
        world.deliver(B, from, packet[..at].to_vec());
    }
    assert!(world.heard[B].forwards.is_empty() && world.heard[B].events.is_empty());
    packet[FORWARD_OVERHEAD] ^= 1;
    let from = world.addresses[A];
    world.deliver(B, from, packet);
    assert_eq!(world.heard[B].forwards, [b"qayload"], "the payload's own seal is for its end point to check");
}

#[test]
fn a_packet_of_frames_does_not_pass_for_a_packet_to_forward() {
    let (mut world, a, _) = World::linked();
    let mut packet = Vec::new();
    world.sides[A].seal_datagram_packet(a, &[0; 37], &mut packet).unwrap();
    assert_eq!(packet.len(), FORWARD_OVERHEAD, "as long as a hop header, sealed");
    packet[0] = x0t_overlay::packet::FORWARD;
    let from = world.addresses[A];
    world.deliver(B, from, packet);
    assert!(world.heard[B].forwards.is_empty());
    assert_eq!(world.sides[B].stats().forged, 1);
}

#[test]
fn a_relay_passes_a_packet_on_without_moving_its_payload() {
    let (mut world, a, b) = World::linked();
    let mut packet = Vec::new();
    world.sides[A].seal_forward(a, &hop(), b"end to end", &mut packet).unwrap();
    let from = world.addresses[A];
    let Some(Opened::Forward { mut hop, .. }) = world.sides[B].handle_datagram(from, &mut packet, world.now, WALL)
    else {
        panic!("not opened")
    };
    hop.ttl -= 1;
    let stride = packet.len();
    world.sides[B].seal_hops(b, &mut packet, stride, [hop]).unwrap();
    let onward = world.sides[A].handle_datagram(world.addresses[B], &mut packet, world.now, WALL);
    let Some(Opened::Forward { hop, payload, .. }) = onward else { panic!("not opened") };
    assert_eq!((hop.ttl, &payload[..]), (8, &b"end to end"[..]));
}

#[test]
fn only_links_forward_and_only_what_fits() {
    let mut world = World::new();
    let (a, _) = world.establish(Purpose::EndToEnd);
    let mut out = Vec::new();
    assert_eq!(world.sides[A].seal_forward(a, &hop(), b"x", &mut out), Err(SendError::NotALink));
    let (a, _) = world.link();
    let error = world.sides[A].seal_forward(a, &hop(), &[0; 1131], &mut out);
    assert_eq!(error, Err(SendError::TooLarge { len: 1131, limit: 1130 }));
    let error = world.sides[A].seal_hops(a, &mut [0; 69], 69, [hop()]);
    assert_eq!(error, Err(SendError::TooLarge { len: 69, limit: 1200 }));
    assert!(out.is_empty());
    let unfinished = world.connect(Purpose::Link);
    assert_eq!(world.sides[A].seal_forward(unfinished, &hop(), b"x", &mut out), Err(SendError::NotEstablished));
}

#[test]
fn a_session_between_end_points_runs_inside_forward_packets_of_a_link() {
    let mut world = World::new();
    let (link_a, _) = world.link();
    let (a, b) = world.establish(Purpose::EndToEnd);
    let datagram = vec![6; 1080];
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    world.sides[A].seal_datagram_packet(a, &datagram, &mut inner).unwrap();
    world.sides[A].seal_forward(link_a, &hop(), &inner, &mut outer).unwrap();
    assert_eq!(outer.len(), 1080 + 103, "what a datagram costs across relays");
    let from = world.addresses[A];
    let Some(Opened::Forward { payload, hop, .. }) = world.sides[B].handle_datagram(from, &mut outer, world.now, WALL)
    else {
        panic!("not opened")
    };
    let carrier = Carrier::Overlay(hop.src);
    let mut payload = payload.to_vec();
    let opened = world.sides[B].handle_datagram(carrier, &mut payload, world.now, WALL);
    assert_eq!(opened, Some(Opened::Datagram { session: b, bytes: &mut datagram.clone() }));
}

/// B, A and a network in which what B sends to `there` reaches A, and what A sends seems to come from `from`, for a second.
fn converse(world: &mut World, there: &[Carrier], from: Carrier) -> Vec<Carrier> {
    let mut asked = Vec::new();
    for _ in 0..100 {
        world.now += Duration::from_millis(10);
        for side in [A, B] {
            world.sides[side].handle_timeout(world.now, WALL);
        }
        while let Some(transmit) = world.sides[B].poll_transmit() {
            asked.push(transmit.carrier);
            if there.contains(&transmit.carrier) {
                world.deliver(A, world.addresses[B], transmit.bytes);
            }
        }
        while let Some(transmit) = world.sides[A].poll_transmit() {
            world.deliver(B, from, transmit.bytes);
        }
        world.collect(B);
    }
    asked
}

#[test]
fn a_link_follows_its_peer_to_an_address_where_it_answers_once_it_is_silent_at_the_old_one() {
    let (mut world, a, b) = World::linked();
    let (home, road) = (world.addresses[A], udp("198.51.100.77:31337"));
    let mut packets = Vec::new();
    for _ in 0..3 {
        let mut packet = Vec::new();
        world.sides[A].seal_forward(a, &hop(), b"x", &mut packet).unwrap();
        packets.push(packet);
    }
    world.deliver(B, home, packets.remove(1));
    world.deliver(B, road, packets.remove(0));
    assert!(
        world.sides[B].poll_transmit().is_none(),
        "an old packet, delayed or replayed from elsewhere, raises no doubt"
    );
    let mut forged = packets[0].clone();
    forged[20] ^= 1;
    world.deliver(B, road, forged);
    assert!(world.sides[B].poll_transmit().is_none());
    world.deliver(B, road, packets.remove(0));
    assert!(world.heard[B].events.is_empty(), "nor is a new one proof enough");
    assert_eq!(world.sides[B].info(b).unwrap().carrier, home);
    let asked = converse(&mut world, &[road], road);
    assert_eq!(asked[..2], [home, road], "both are asked");
    assert!(asked.iter().filter(|carrier| **carrier == home).count() <= 3);
    assert_eq!(world.heard[B].events, [Event::CarrierChanged { session: b, carrier: road }]);
    world.sides[B].send_datagram(b, b"answer", world.now).unwrap();
    assert_eq!(world.sides[B].poll_transmit().unwrap().carrier, road);
    assert_eq!(world.sides[B].info(b).unwrap().carrier, road);
    assert_eq!((world.sides[B].stats().roams, world.sides[B].stats().roams_refuted), (1, 0));
}

#[test]
fn who_copies_packets_and_is_faster_does_not_become_the_way_even_if_it_passes_everything_on() {
    for passes_on in [false, true] {
        let (mut world, a, b) = World::linked();
        let (home, spy) = (world.addresses[A], udp("198.51.100.66:666"));
        let there = if passes_on { vec![home, spy] } else { vec![home] };
        for _ in 0..5 {
            let mut packet = Vec::new();
            world.sides[A].seal_forward(a, &hop(), b"x", &mut packet).unwrap();
            world.deliver(B, spy, packet);
            converse(&mut world, &there, spy);
        }
        assert_eq!(world.sides[B].info(b).unwrap().carrier, home);
        assert!(world.heard[B].events.is_empty());
        assert_eq!(world.sides[B].stats().roams, 0);
        assert!((1..=5).contains(&world.sides[B].stats().roams_refuted));
    }
}

#[test]
fn nobody_who_only_copies_is_believed_although_the_peer_is_silent() {
    let (mut world, a, b) = World::linked();
    let (home, spy) = (world.addresses[A], udp("198.51.100.66:666"));
    let mut packet = Vec::new();
    world.sides[A].seal_forward(a, &hop(), b"the last one", &mut packet).unwrap();
    world.deliver(B, spy, packet);
    let asked = converse(&mut world, &[], spy);
    assert_eq!(asked.len(), 6, "three times each: {asked:?}");
    assert_eq!(world.sides[B].info(b).unwrap().carrier, home);
    assert_eq!((world.sides[B].stats().roams, world.sides[B].stats().roams_refuted), (0, 1));
}

/// A packet of `a` with content that only a broken peer would seal.
fn sealed_by_a(key: &dyn PacketKey, forward: bool, b: SessionId, pn: u64, plain: &[u8]) -> Vec<u8> {
    let header = ProtectedHeader { forward, epoch: 0, dst_index: b.as_u64() as u32, pn }.to_bytes();
    let mut sealed = plain.to_vec();
    let tag = key.seal(pn, &header, &mut sealed).unwrap();
    [&header[..], &sealed, &tag].concat()
}

#[test]
fn an_authenticated_peer_that_talks_nonsense_is_shown_out() {
    let beyond = Frame::Stream { offset: 256 * 1024, bytes: b"x" };
    let (empty, endless) =
        (Frame::Stream { offset: 0, bytes: &[0; 4] }, Frame::Stream { offset: 0, bytes: &[0, 1, 0, 1] });
    let late = Frame::Crypto { offset: 0, bytes: b"x" };
    let encoded = |frame: Frame<'_>| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    let mut reserved = hop().to_bytes();
    reserved[35] = 1;
    for (forward, plain, what) in [
        (false, vec![0x77], "frame that does not decode"),
        (false, vec![5, 0, 9, 1], "frame that does not decode"),
        (false, encoded(late), "CRYPTO after the handshake"),
        (false, encoded(beyond), "stream beyond the receive window"),
        (false, encoded(empty), "empty message"),
        (false, encoded(endless), "message longer than allowed"),
        (true, reserved.to_vec(), "hop header that does not decode"),
    ] {
        let provider = Arc::new(Limited::new(1 << 23, 1 << 52));
        let keys = Arc::clone(&provider.tapped);
        let mut world = World::with(&Authority::p256(), EndpointConfig::default(), provider);
        let (_, b) = world.link();
        // The responder derives its keys first.
        let key = Arc::clone(&keys.lock().unwrap()[1]);
        let from = world.addresses[A];
        world.deliver(B, from, sealed_by_a(&*key, forward, b, 1_000, &plain));
        let [Event::Closed { session, reason, .. }] = &world.heard[B].events[..] else { panic!("{what}") };
        assert_eq!((*session, reason), (b, &CloseReason::Protocol(what)));
        world.run_for(Duration::from_millis(50));
        let told = CloseReason::Peer { code: close_code::PROTOCOL, reason: what.to_owned() };
        assert!(matches!(&world.heard[A].events[..], [Event::Closed { reason, .. }] if *reason == told));
    }
}

#[test]
fn a_forward_packet_to_a_session_that_is_no_link_is_dropped() {
    let provider = Arc::new(Limited::new(1 << 23, 1 << 52));
    let keys = Arc::clone(&provider.tapped);
    let mut world = World::with(&Authority::p256(), EndpointConfig::default(), provider);
    let (_, b) = world.establish(Purpose::EndToEnd);
    let key = Arc::clone(&keys.lock().unwrap()[1]);
    let from = world.addresses[A];
    world.deliver(B, from, sealed_by_a(&*key, true, b, 1_000, &hop().to_bytes()));
    assert_eq!(world.sides[B].stats().unexpected, 1);
    assert!(world.heard[B].forwards.is_empty() && world.heard[B].events.is_empty());
}
