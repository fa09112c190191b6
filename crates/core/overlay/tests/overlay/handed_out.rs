//! Packets that are sealed and opened away from their session.

use std::sync::Arc;
use std::time::Duration;

use x0t_model::NodeId;
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{DATAGRAM_FRONT, FORWARD_OVERHEAD};
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{Ahead, EndpointConfig, HopHeader, Opened, Purpose, SendError, SessionId, TAG_LEN, close_code};

use crate::authority::{Authority, WALL};
use crate::limited::Limited;
use crate::world::{A, B, World};

const LEN: usize = 600;
const ME: NodeId = NodeId::from_bytes([2; 16]);

fn hop(dst: NodeId) -> HopHeader {
    HopHeader { src: NodeId::from_bytes([1; 16]), dst, ttl: 9, kind: PayloadKind::EndToEnd, flags: 0, flow: 7 }
}

/// A run of `count` packets with `offset` bytes of room in front, each filled with its own number.
fn laid_out(count: usize, offset: usize) -> Vec<u8> {
    let mut run = vec![0; count * LEN];
    for (number, packet) in run.chunks_mut(LEN).enumerate() {
        packet[offset + DATAGRAM_FRONT..LEN - TAG_LEN].fill(number as u8);
    }
    run
}

/// `side` judges a packet: the first byte of the datagram in it.
fn judge(world: &mut World, side: usize, packet: &mut [u8], ahead: Option<Ahead>) -> Option<u8> {
    let from = world.addresses[1 - side];
    match world.sides[side].handle_opened(from, packet, ahead.as_ref(), world.now, WALL) {
        Some(Opened::Datagram { bytes, .. }) => bytes.first().copied(),
        Some(Opened::Forward { .. }) => panic!("no packet to forward"),
        None => None,
    }
}

fn sealed_later(world: &mut World, session: SessionId, count: usize) -> Vec<Vec<u8>> {
    let mut run = laid_out(count, 0);
    let (_, sealing) = world.sides[A].give_datagram_numbers(session, (run.len(), LEN), 0).unwrap();
    sealing.seal(&mut run, LEN).unwrap();
    run.chunks(LEN).map(<[u8]>::to_vec).collect()
}

#[test]
fn what_is_sealed_later_and_opened_ahead_is_what_is_done_at_once() {
    let (mut world, a, _) = World::linked();
    let mut first = laid_out(3, 0);
    let (number, later) = world.sides[A].give_datagram_numbers(a, (first.len(), LEN), 0).unwrap();
    let mut second = laid_out(2, 0);
    assert_eq!(world.sides[A].seal_datagrams(a, &mut second, LEN, 0), Ok(number + 3), "numbers are given once");
    later.seal(&mut first, LEN).unwrap();
    let key = world.sides[B].opening_key(&first).unwrap();
    let mut packets: Vec<Vec<u8>> = first.chunks(LEN).chain(second.chunks(LEN)).map(<[u8]>::to_vec).collect();
    let ahead: Vec<_> = packets.iter_mut().rev().map(|packet| key.open(packet)).rev().collect();
    let told: Vec<_> =
        packets.iter_mut().zip(&ahead).map(|(packet, ahead)| judge(&mut world, B, packet, *ahead)).collect();
    assert_eq!(told, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
    let again = judge(&mut world, B, &mut packets[0].clone(), ahead[0]);
    assert_eq!((again, world.sides[B].stats().replayed), (None, 1), "replay is judged when it comes back");
}

#[test]
fn runs_that_follow_each_other_are_one_and_no_others_are() {
    let (mut world, a, _) = World::linked();
    let mut give = |count: usize, offset| {
        let len = count * LEN;
        world.sides[A].give_datagram_numbers(a, (len, LEN), offset).unwrap().1
    };
    let (one, two, other) = (give(4, 0), give(2, 0), give(2, 70));
    assert!(one.goes_on(4, &two) && !one.goes_on(3, &two) && !two.goes_on(2, &other));
    let hops = world.sides[A].give_hop_numbers(a, (LEN, LEN), hop(ME)).unwrap();
    assert!(!other.goes_on(2, &hops));
}

#[test]
fn a_key_goes_on_to_seal_and_open_what_it_was_lent_for_when_its_epoch_is_over() {
    let config = EndpointConfig { rekey_packets: 20, ..EndpointConfig::default() };
    let mut world = World::with(&Authority::p256(), config, Arc::new(RustlsProvider::new()));
    let (a, b) = world.link();
    let mut run = laid_out(4, 0);
    let (_, sealing) = world.sides[A].give_datagram_numbers(a, (run.len(), LEN), 0).unwrap();
    let early = sealed_later(&mut world, a, 1).remove(0);
    let key = world.sides[B].opening_key(&early).unwrap();
    let before = world.sides[B].info(b).unwrap().epoch;
    for mut packet in sealed_later(&mut world, a, 30) {
        judge(&mut world, B, &mut packet, None);
    }
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.sides[B].info(b).unwrap().epoch, before + 1);
    sealing.seal(&mut run, LEN).unwrap();
    let mut packets: Vec<Vec<u8>> = run.chunks(LEN).map(<[u8]>::to_vec).collect();
    assert!(world.sides[B].opening_key(&packets[0]).is_none(), "the epoch of now is another");
    assert_eq!(judge(&mut world, B, &mut packets[0], None), Some(0), "opened at once with the previous key");
    let ahead = key.open(&mut packets[1]);
    assert_eq!(judge(&mut world, B, &mut packets[1], ahead), Some(1), "or ahead with the key that was lent");
    world.run_for(EndpointConfig::default().epoch_grace + Duration::from_secs(1));
    let ahead = key.open(&mut packets[2]);
    assert!(ahead.is_some());
    assert_eq!(judge(&mut world, B, &mut packets[2], ahead), None, "but not when its grace is over");
    assert_eq!(world.sides[B].stats().unknown_epoch, 1);
}

#[test]
fn what_was_opened_for_a_session_that_has_ended_is_refused() {
    let (mut world, a, b) = World::linked();
    let mut packets = sealed_later(&mut world, a, 2);
    let key = world.sides[B].opening_key(&packets[0]).unwrap();
    let ahead: Vec<_> = packets.iter_mut().map(|packet| key.open(packet)).collect();
    world.sides[B].close(b, close_code::APPLICATION, "enough", world.now);
    assert_eq!(judge(&mut world, B, &mut packets[0], ahead[0]), None);
    world.sides[B].forget(b);
    assert_eq!(judge(&mut world, B, &mut packets[1], ahead[1]), None);
    assert_eq!(world.sides[B].stats().unknown_session, 1);
    let shape = (LEN, LEN);
    world.sides[A].forget(a);
    assert_eq!(world.sides[A].give_datagram_numbers(a, shape, 0).err(), Some(SendError::UnknownSession));
}

#[test]
fn forgeries_are_counted_and_end_a_session_as_if_they_were_opened_at_once() {
    let provider = Arc::new(Limited::new(u64::MAX, 3));
    let mut world = World::with(&Authority::p256(), EndpointConfig::default(), provider);
    let (a, b) = world.link();
    for mut packet in sealed_later(&mut world, a, 3) {
        let key = world.sides[B].opening_key(&packet);
        packet[LEN - 1] ^= 1;
        let ahead = key.and_then(|key| key.open(&mut packet));
        assert!(ahead.is_some());
        assert_eq!(judge(&mut world, B, &mut packet, ahead), None);
    }
    assert_eq!(world.sides[B].stats().forged, 3);
    let after = sealed_later(&mut world, a, 1);
    assert!(world.sides[B].opening_key(&after[0]).is_none(), "the session is over");
    assert!(world.sides[B].sessions().all(|session| session != b));
}

#[test]
fn numbers_are_not_given_beyond_what_a_key_may_seal() {
    let provider = Arc::new(Limited::new(60, u64::MAX));
    let mut world = World::with(&Authority::p256(), EndpointConfig::default(), provider);
    let (a, _) = world.link();
    let run = |count| (count * LEN, LEN);
    assert!(world.sides[A].give_datagram_numbers(a, run(20), 0).is_ok());
    assert_eq!(world.sides[A].give_datagram_numbers(a, run(100), 0).err(), Some(SendError::KeysExhausted));
    assert!(world.sides[A].give_datagram_numbers(a, run(1), 0).is_ok(), "which takes nothing from what is left");
}

#[test]
fn a_relay_opens_the_hop_header_and_nothing_that_is_on_its_way_to_somebody_else() {
    let mut world = World::new();
    let (end, _) = world.establish(Purpose::EndToEnd);
    let (link, _) = world.link();
    let mut packets = Vec::new();
    for dst in [ME, NodeId::from_bytes([3; 16])] {
        let mut packet = laid_out(1, FORWARD_OVERHEAD);
        world.sides[A].seal_datagrams(end, &mut packet, LEN, FORWARD_OVERHEAD).unwrap();
        let sealing = world.sides[A].give_hop_numbers(link, (LEN, LEN), hop(dst)).unwrap();
        sealing.seal(&mut packet, LEN).unwrap();
        packets.push(packet);
    }
    let outer = world.sides[B].opening_key(&packets[0]).unwrap();
    let inner = world.sides[B].opening_key(&packets[0][FORWARD_OVERHEAD..]).unwrap();
    let whole = packets[1].clone();
    let (opened, carried) = outer.open_through(&mut packets[1], ME, Some(&inner));
    assert!(opened.is_some() && carried.is_none());
    assert_eq!(packets[1][FORWARD_OVERHEAD..], whole[FORWARD_OVERHEAD..], "although the index in it is one of ours");
    let (opened, carried) = outer.open_through(&mut packets[0], ME, Some(&inner));
    assert!(opened.is_some() && carried.is_some());
    let from = world.addresses[A];
    let forward = world.sides[B].handle_opened(from, &mut packets[0], opened.as_ref(), world.now, WALL);
    let Some(Opened::Forward { payload, .. }) = forward else { panic!("not opened") };
    let mut payload = payload.to_vec();
    assert_eq!(judge(&mut world, B, &mut payload, carried), Some(0));
    assert_eq!(inner.open(&mut whole.clone()), None, "an end-to-end key opens no hop header");
}
