//! What is written on one side is read on the other, in order, to the last byte, and its end is told.

use std::time::Duration;

use x0t_netstack::{Failure, Received};

use crate::net::{BETA, Net, at, pattern};

/// Sends `len` bytes from alpha to beta and as many back, at the same time. Returns how long that took.
fn transfer(net: &mut Net, len: usize) -> Duration {
    let (near, far) = net.connection();
    let (bytes, started) = (pattern(len), net.now);
    let mut left = [bytes.as_slice(), bytes.as_slice()];
    let mut read = [Vec::new(), Vec::new()];
    let mut done = [false, false];
    net.until("all has arrived", |net| {
        for (side, id) in [(0, near), (1, far)] {
            net.write(side, id, &mut left[side]);
            if left[side].is_empty() {
                net.sides[side].stack.close(id);
            }
            done[side] = done[side] || net.read(side, id, &mut read[side]);
        }
        done == [true, true]
    });
    assert!(read[0] == bytes && read[1] == bytes, "what arrived is not what was sent");
    let took = net.now.since(started);
    let now = net.now;
    net.alpha().release(near, now);
    net.beta().release(far, now);
    took
}

#[test]
fn bytes_arrive_in_order_in_both_directions_at_once() {
    transfer(&mut Net::new(), 3_000_000);
}

#[test]
fn a_window_of_256_kib_fills_a_path_of_20_ms_with_100_mbit_per_second() {
    let mut net = Net::new();
    net.delay = Duration::from_millis(10);
    let took = transfer(&mut net, 10 << 20);
    // 10 MiB by windows of 256 KiB, one each 20 ms, and a slow start before that.
    assert!(took < Duration::from_millis(1_600), "{took:?}");
}

#[test]
fn lost_packets_are_sent_again_until_all_has_arrived() {
    for seed in 0..10 {
        let mut net = Net::with(crate::net::limits(), seed);
        net.lost_per_million = 20_000;
        transfer(&mut net, 500_000);
        net.run_for(Duration::from_secs(200));
        assert_eq!((net.alpha().stats().connections, net.beta().stats().connections), (0, 0), "seed {seed}");
    }
}

#[test]
fn one_direction_can_be_closed_while_the_other_goes_on() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    net.write(0, near, &mut &b"question"[..]);
    net.alpha().close(near);
    let mut question = Vec::new();
    net.until("beta reads to the end", |net| net.read(1, far, &mut question));
    assert_eq!(question, b"question");
    // Long after, the answer still gets through.
    net.run_for(Duration::from_secs(600));
    let answer = pattern(400_000);
    let (mut left, mut read) = (answer.as_slice(), Vec::new());
    net.until("alpha reads to the end", |net| {
        net.write(1, far, &mut left);
        if left.is_empty() {
            net.beta().close(far);
        }
        net.read(0, near, &mut read)
    });
    assert!(read == answer);
    let now = net.now;
    net.alpha().release(near, now);
    net.beta().release(far, now);
    net.run_for(Duration::from_secs(60));
    assert_eq!((net.alpha().stats().connections, net.beta().stats().connections), (0, 0));
}

#[test]
fn a_reader_that_does_not_read_stops_the_writer_and_nothing_is_lost_once_it_reads() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    let bytes = pattern(4 << 20);
    let (mut left, end) = (bytes.as_slice(), net.now + Duration::from_secs(900));
    while net.now < end {
        net.write(0, near, &mut left);
        assert!(net.step());
    }
    // Both buffers are full and nothing else is; a scaled window counts in steps of 8 bytes.
    let (written, room) = (bytes.len() - left.len(), 2 * crate::net::limits().buffer);
    assert!((room - 8..=room).contains(&written), "{written} of {room}");
    let mut read = Vec::new();
    net.until("all has arrived", |net| {
        net.write(0, near, &mut left);
        net.read(1, far, &mut read);
        read.len() == bytes.len()
    });
    assert!(read == bytes);
}

/// Beta returns what alpha sends, and each side reads only while it can pass on what it reads, as a relay between two sockets does.
#[test]
fn an_echo_whose_ends_hold_each_other_back_never_waits_for_a_timer() {
    for seed in 0..20 {
        let mut net = Net::with(crate::net::limits(), seed);
        net.delay = Duration::from_micros(50);
        let (near, far) = net.connection();
        let bytes = pattern(4 << 20);
        let mut pace = x0t_model::Entropy::new([seed; 32]);
        let (mut left, mut held, mut back, mut passed) = (bytes.as_slice(), Vec::new(), 0, 0);
        let mut longest = Duration::ZERO;
        let mut last = net.now;
        while back < bytes.len() {
            net.write(0, near, &mut left);
            if held.is_empty() && pace.chance(300_000) {
                let at_once = 1 + pace.below(200_000) as usize;
                let taken = net.beta().receive_with(far, |bytes| {
                    let count = bytes.len().min(at_once);
                    held.extend_from_slice(&bytes[..count]);
                    (count, ())
                });
                assert!(taken.is_ok());
                passed = 0;
            }
            let mut rest = &held[passed..];
            net.write(1, far, &mut rest);
            passed = held.len() - rest.len();
            if passed == held.len() {
                held.clear();
                passed = 0;
            }
            if pace.chance(300_000) {
                let at_once = 1 + pace.below(200_000) as usize;
                let read = net.alpha().receive_with(near, |bytes| (bytes.len().min(at_once), bytes.len().min(at_once)));
                if let Ok(Received::Bytes(count)) = read {
                    back += count;
                    longest = longest.max(net.now.since(last));
                    last = net.now;
                }
            }
            assert!(
                net.now.since(last) < Duration::from_secs(100),
                "seed {seed}: it stands still with {back} bytes back"
            );
            let soon = net.now + Duration::from_micros(200);
            net.step_until(soon);
        }
        assert!(longest < Duration::from_millis(200), "seed {seed}: {longest:?} without a byte");
    }
}

#[test]
fn a_connection_that_is_broken_off_is_broken_off_on_both_sides() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    net.beta().abort(far);
    net.until("alpha knows", |net| net.alpha().receive_with(near, |_| (0, ())) == Err(Failure::Reset));
    assert_eq!(net.alpha().send_with(near, |_| (0, ())), Err(Failure::Reset));

    // Leaving in the middle is breaking it off: what was not read is lost, and the writer must know.
    let (near, far) = net.connection();
    net.write(0, near, &mut &b"unread"[..]);
    net.run_for(Duration::from_secs(1));
    let now = net.now;
    net.beta().release(far, now);
    net.until("alpha knows", |net| net.alpha().receive_with(near, |_| (0, ())) == Err(Failure::Reset));
}

#[test]
fn a_port_that_is_not_exposed_refuses() {
    let mut net = Net::new();
    let now = net.now;
    let near = net.alpha().connect(at(BETA, 22), now).unwrap();
    net.until("alpha knows", |net| net.alpha().is_established(near) == Err(Failure::Refused));
    assert_eq!(net.beta().stats().packets_refused, 1);
    assert!(net.sides[1].offers.is_empty());
}

#[test]
fn a_refused_offer_is_a_refused_connection_and_one_not_yet_answered_is_neither() {
    let mut net = Net::new();
    net.sides[1].accepts = false;
    net.beta().expose(80);
    let now = net.now;
    let near = net.alpha().connect(at(BETA, 80), now).unwrap();
    net.until("it is offered", |net| !net.sides[1].offers.is_empty());
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.alpha().is_established(near), Ok(false));
    let far = net.sides[1].offers[0].0;
    net.beta().abort(far);
    net.until("alpha knows", |net| net.alpha().is_established(near) == Err(Failure::Refused));
    let now = net.now;
    net.alpha().release(near, now);
    net.beta().release(far, now);
    net.run_for(Duration::from_secs(1));
    assert_eq!((net.alpha().stats().connections, net.beta().stats().connections), (0, 0));
}

#[test]
fn a_concealed_port_takes_no_further_connections_and_keeps_those_it_has() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    net.beta().conceal(80);
    let now = net.now;
    let second = net.alpha().connect(at(BETA, 80), now).unwrap();
    net.until("alpha knows", |net| net.alpha().is_established(second) == Err(Failure::Refused));
    net.write(0, near, &mut &b"still here"[..]);
    let mut read = Vec::new();
    net.until("it arrives", |net| {
        net.read(1, far, &mut read);
        read == b"still here"
    });
}

#[test]
fn a_peer_that_vanishes_is_given_up_whether_something_is_sent_or_not() {
    for writes in [true, false] {
        let mut net = Net::new();
        let (near, far) = net.connection();
        net.lost_per_million = 1_000_000;
        if writes {
            net.write(0, near, &mut &b"anybody?"[..]);
        }
        let gone = net.now;
        net.until("alpha gives up", |net| net.alpha().receive_with(near, |_| (0, ())) == Err(Failure::TimedOut));
        let limits = crate::net::limits();
        assert!(net.now.since(gone) <= limits.silence + limits.keep_alive, "{:?}", net.now.since(gone));
        net.until("so does beta", |net| net.beta().receive_with(far, |_| (0, ())) == Err(Failure::TimedOut));
        let now = net.now;
        net.alpha().release(near, now);
        net.beta().release(far, now);
        net.run_for(Duration::from_secs(1));
        assert_eq!((net.alpha().stats().connections, net.beta().stats().connections), (0, 0));
    }
}

#[test]
fn an_idle_connection_lives_as_long_as_its_peer() {
    let mut net = Net::new();
    let (near, far) = net.connection();
    net.run_for(Duration::from_secs(7_200));
    net.write(0, near, &mut &b"hello"[..]);
    let mut read = Vec::new();
    net.until("it arrives", |net| {
        net.read(1, far, &mut read);
        read == b"hello"
    });
}

#[test]
fn nobody_at_the_address_is_a_timeout() {
    let mut net = Net::new();
    net.lost_per_million = 1_000_000;
    let started = net.now;
    let near = net.alpha().connect(at(BETA, 80), started).unwrap();
    net.until("alpha gives up", |net| net.alpha().is_established(near) == Err(Failure::TimedOut));
    assert_eq!(net.now.since(started).as_secs(), crate::net::limits().handshake.as_secs());
    assert_eq!(net.alpha().receive_with(near, |_| (0, ())), Err::<Received<()>, _>(Failure::TimedOut));
}
