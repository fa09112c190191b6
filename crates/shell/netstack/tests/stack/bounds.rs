//! Whatever peers do, what the stack remembers is bounded, and whoever behaves is served.

use std::net::Ipv6Addr;
use std::time::Duration;

use x0t_netstack::Limits;
use x0t_netstack::stack::BusyError;

use crate::hostile::{Segment, segment};
use crate::net::{BETA, Net, at, limits};

/// A peer that sends SYNs and nothing else.
fn flood(net: &mut Net, source: Ipv6Addr, count: u16) {
    let now = net.now;
    for port in 1..=count {
        let syn = segment(&Segment { source, destination: BETA, ports: (port, 80), flags: 0x02, ..Segment::default() });
        net.beta().handle_packet(&syn, now);
    }
}

#[test]
fn a_flood_of_syns_from_one_peer_is_bounded_and_others_are_served() {
    let mut net = Net::new();
    net.beta().expose(80);
    flood(&mut net, "fd00::bad".parse().unwrap(), 10_000);
    let stats = net.beta().stats();
    assert_eq!(stats.connections as usize, limits().half_open_per_peer);
    assert_eq!(stats.syns_dropped as usize, 10_000 - limits().half_open_per_peer);
    net.sides[0].offers.clear();
    let now = net.now;
    let near = net.alpha().connect(at(BETA, 80), now).unwrap();
    net.until("alpha is served", |net| net.alpha().is_established(near) == Ok(true));
}

#[test]
fn a_flood_of_syns_from_everybody_is_bounded_and_passes() {
    let mut net = Net::new();
    net.beta().expose(80);
    for host in 0x100..0x200 {
        flood(&mut net, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host), 100);
    }
    assert_eq!(net.beta().stats().connections as usize, limits().half_open);
    // The offers were accepted, and nobody finished a handshake.
    net.run_for(limits().handshake + Duration::from_secs(1));
    for (id, ..) in std::mem::take(&mut net.sides[1].offers) {
        assert!(net.beta().is_established(id).is_err());
        let now = net.now;
        net.beta().release(id, now);
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.beta().stats().connections, 0);
    net.connection();
}

#[test]
fn an_offer_that_nobody_decides_about_ends_by_itself() {
    let mut net = Net::new();
    net.sides[1].accepts = false;
    net.beta().expose(80);
    let now = net.now;
    let near = net.alpha().connect(at(BETA, 80), now).unwrap();
    net.until("alpha gives up", |net| net.alpha().is_established(near).is_err());
    net.run_for(limits().handshake);
    let far = net.sides[1].offers[0].0;
    net.beta().accept(far);
    assert!(net.beta().is_established(far).is_err() || net.beta().receive_with(far, |_| (0, ())).is_err());
}

#[test]
fn one_peer_has_no_more_than_its_share_of_connections() {
    let mut net = Net::with(Limits { connections_per_peer: 3, ..limits() }, 1);
    for _ in 0..3 {
        net.connection();
    }
    let now = net.now;
    let fourth = net.alpha().connect(at(BETA, 80), now).unwrap();
    net.until("alpha gives up", |net| net.alpha().is_established(fourth).is_err());
    assert!(net.beta().stats().syns_dropped > 0);
}

#[test]
fn a_full_stack_says_so() {
    let mut net = Net::with(Limits { connections: 2, udp_ports: 1, ..limits() }, 1);
    net.connection();
    net.connection();
    let now = net.now;
    assert_eq!(net.alpha().connect(at(BETA, 80), now), Err(BusyError::TooMany));
    assert_eq!(net.alpha().connect(at(crate::net::ALPHA, 80), now), Err(BusyError::TooMany));
    assert!(net.alpha().open_udp(None).is_ok());
    assert_eq!(net.alpha().open_udp(None), Err(BusyError::TooMany));
}

#[test]
fn a_thousand_short_connections_in_a_row_fit_into_a_small_stack() {
    let mut net = Net::with(Limits { connections: 8, closed: 4, ..limits() }, 1);
    net.delay = Duration::from_micros(100);
    for _ in 0..1_000 {
        let (near, far) = net.connection();
        net.write(0, near, &mut &b"x"[..]);
        net.alpha().close(near);
        let mut read = Vec::new();
        net.until("it arrives", |net| net.read(1, far, &mut read));
        net.beta().close(far);
        net.until("its end too", |net| net.read(0, near, &mut read));
        let now = net.now;
        net.alpha().release(near, now);
        net.beta().release(far, now);
    }
    assert!(net.alpha().stats().connections <= 5, "{:?}", net.alpha());
}

#[test]
fn while_nothing_is_carried_nothing_more_is_sent() {
    let mut net = Net::new();
    let connections: Vec<_> = (0..20).map(|_| net.connection().0).collect();
    let now = net.now;
    let bytes = crate::net::pattern(200_000);
    // The windows open first.
    for &id in &connections {
        net.write(0, id, &mut bytes.as_slice());
    }
    net.run_for(Duration::from_secs(1));
    for &id in &connections {
        net.write(0, id, &mut bytes.as_slice());
    }
    net.alpha().handle_timeout(now);
    assert!(net.alpha().outgoing().len() <= limits().packets_waiting);
    for _ in 0..10_000 {
        let echo = crate::udp::icmp(BETA, crate::net::ALPHA, 128, &[0; 8]);
        net.alpha().handle_packet(&echo, now);
    }
    assert_eq!(net.alpha().outgoing().len(), limits().packets_waiting);
    assert!(net.alpha().stats().answers_dropped > 9_000);
}
