//! Whoever wants in.

use std::net::SocketAddr;
use std::time::Duration;

use x0t_identity::{Bundle, Svid};
use x0t_model::Entropy;
use x0t_node::RecordKind;
use x0t_node::join::{JoinClient, JoinError, JoinTerms, RecoveryTerms};
use x0t_node::{Command, Reply, What};
use x0t_overlay::Purpose;
use x0t_sim::{Network, Terms, World};

use super::mallory::Mallory;
use super::{SECOND, assert_ping, counter, reach, settled};

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, (n % 250) as u8], 10_000 + n))
}

#[test]
fn one_token_admits_one_of_many_who_try_at_once() {
    let mut world = settled("A-B:1", Terms::seeded(1));
    let ttl = Duration::from_secs(600);
    let command = world.command(0, Command::CreateToken { name: None, ttl, addresses: vec![Network::address(0)] });
    let Some((_, Reply::Token { token, .. })) = world.reply(command) else { panic!("no token") };
    let token: x0t_identity::JoinToken = token.expose().parse().unwrap();
    world.capture();
    let cryptography = x0t_sim::Cryptography::simulated();
    let mut keys = cryptography.keys(Entropy::new([1; 32]));
    let mut clients: Vec<_> = (0..64_u8)
        .map(|n| {
            let terms =
                JoinTerms { token: token.clone(), name: Some(format!("n{n}")), via: Vec::new(), fallback_port: None };
            JoinClient::new(terms, cryptography.sessions(), &mut *keys, [n; 32], world.now(), world.wall()).unwrap()
        })
        .collect();
    for _ in 0..1_700 {
        for (n, client) in clients.iter_mut().enumerate() {
            if client.poll_timeout().is_some_and(|at| at <= world.now()) {
                client.handle_timeout(world.now(), world.wall());
            }
            while let Some((to, bytes)) = client.poll_transmit() {
                world.inject(Network::host_at(to.address()).unwrap(), address(n as u16), bytes);
            }
        }
        for (_, to, mut bytes) in world.captured() {
            if let Some(n) = (0..64).find(|n| address(*n) == to) {
                let (now, wall) = (world.now(), world.wall());
                clients[usize::from(n)].handle_datagram(Network::address(0).into(), &mut bytes, now, wall);
            }
        }
        world.advance(SECOND / 100);
    }
    let joined = clients.iter().filter(|client| matches!(client.outcome(), Some(Ok(_)))).count();
    let refused = |client: &&JoinClient| matches!(client.outcome(), Some(Err(JoinError::Refused { .. })));
    let refused = clients.iter().filter(refused).count();
    assert_eq!((joined, counter(&world, 0, "node_joins_accepted")), (1, 1));
    assert!(refused > 0, "the others hear why");
    let told = world.events().iter().filter(|(_, _, what)| matches!(what, What::NodeJoined { .. })).count();
    assert_eq!(told, 1);
}

#[test]
fn a_flood_of_join_packets_is_rationed_and_disturbs_no_link() {
    let mut world = settled("A-B:1", Terms::seeded(2));
    let answered = counter(&world, 0, "overlay_received");
    let mut entropy = Entropy::new([2; 32]);
    for _ in 0..400 {
        for _ in 0..50 {
            let mut bytes: Vec<u8> = (0..64).map(|_| entropy.below(256) as u8).collect();
            bytes[..4].copy_from_slice(&[0x1f, 0x10, 3, 1]);
            world.inject(0, address(entropy.below(5_000) as u16), bytes);
        }
        world.advance(SECOND / 200);
    }
    assert!(counter(&world, 0, "node_join_packets_dropped") > 19_000, "20000 came in two seconds");
    assert!(counter(&world, 0, "overlay_received") - answered < 2_000);
    let disturbed = |what: &What| matches!(what, What::LinkSuspect { .. } | What::LinkDown { .. });
    assert!(!world.events().iter().any(|(_, _, what)| disturbed(what)));
    assert_ping(&mut world, 0, 1);
}

fn joiners_held(world: &World) -> usize {
    world.view(0).sessions.iter().filter(|session| session.purpose == "join" && session.state == "established").count()
}

#[test]
fn joiners_that_never_ask_are_not_kept() {
    let mut world = settled("A-B:1", Terms::seeded(3));
    world.capture();
    let mut strangers = Vec::new();
    let mut most = 0;
    for n in 0..400 {
        let mut stranger = Mallory::stranger(&world, address(n));
        let session = stranger.connect(&world, Purpose::Join, Network::address(0));
        for _ in 0..4 {
            stranger.talk(&mut world, 0);
            world.advance(SECOND / 100);
        }
        if stranger.is_established(session) {
            // A message that never ends, and a sign of life.
            let _ = stranger.endpoint.send_message(session, &[7; 60_000], world.now());
            stranger.talk(&mut world, 0);
        }
        strangers.push(stranger);
        most = most.max(joiners_held(&world));
    }
    assert!((1..=256).contains(&most), "{most}");
    for _ in 0..20 {
        world.advance(SECOND);
        for stranger in &mut strangers {
            stranger.talk(&mut world, 0);
        }
    }
    assert_eq!(joiners_held(&world), 0);
    assert!(counter(&world, 0, "node_joiners_ended") > 0);
    assert_ping(&mut world, 0, 1);
}

/// A member's identity makes real hellos; the third flight is never sent.
fn begin_and_leave(world: &mut World, member: usize, n: u16) {
    let mut stranger = Mallory::member(world, member, address(n));
    stranger.connect(world, Purpose::Link, Network::address(0));
    let probe = stranger.endpoint.poll_transmit().unwrap();
    world.inject(0, stranger.address, probe.bytes);
    for (_, to, mut retry) in world.captured() {
        if to == stranger.address {
            let carrier = x0t_overlay::Carrier::Udp(Network::address(0));
            let _ = stranger.endpoint.handle_datagram(carrier, &mut retry, world.now(), world.wall());
        }
    }
    while let Some(hello) = stranger.endpoint.poll_transmit() {
        world.inject(0, stranger.address, hello.bytes);
    }
}

#[test]
fn handshakes_that_are_begun_and_left_are_bounded_and_forgotten() {
    let mut world = settled("A-B:1 A-C:1", Terms::seeded(4));
    world.capture();
    let m = world.host("C");
    for n in 0..600 {
        begin_and_leave(&mut world, m, n);
        let view = world.view(0);
        let begun = |session: &&x0t_node::SessionView| {
            session.state == "handshaking" && session.carrier.starts_with("198.51.100.")
        };
        assert!(view.sessions.iter().filter(begun).count() <= 256);
    }
    assert!(
        counter(&world, 0, "overlay_half_open_refused") > 300,
        "{}",
        counter(&world, 0, "overlay_half_open_refused")
    );
    world.advance(6 * SECOND);
    let view = world.view(0);
    assert_eq!(view.sessions.iter().filter(|session| session.state == "handshaking").count(), 0);
    let b = world.host("B");
    world.kill(b);
    world.advance(3 * SECOND);
    world.start(b);
    reach(&mut world);
}

#[test]
fn a_member_gets_in_while_half_open_handshakes_of_a_thousand_sources_fill_the_table() {
    let mut world = settled("A-B:1 A-C:1", Terms::seeded(6));
    world.capture();
    let (b, m) = (world.host("B"), world.host("C"));
    world.kill(b);
    world.advance(5 * SECOND);
    for n in 0..800 {
        begin_and_leave(&mut world, m, n);
        world.advance(SECOND / 100);
        if n == 400 {
            world.start(b);
        }
    }
    assert!(counter(&world, 0, "overlay_half_open_evicted") > 100);
    assert!(world.path(0, b).is_some(), "four seconds of a flood are enough to get in");
}

#[test]
fn a_node_that_slept_through_the_end_of_its_svid_comes_back_through_a_member_by_its_old_key() {
    let terms = Terms { svid_ttl: Duration::from_secs(60), ..Terms::seeded(9) };
    let mut world = settled("A-B:1 B-C:1", terms);
    let (b, c) = (world.host("B"), world.host("C"));
    let disk = |world: &World, kind: RecordKind| world.disk(c)[&kind].clone();
    world.freeze(c);
    world.advance(300 * SECOND);
    world.thaw(c);
    world.advance(20 * SECOND);
    let expired = world.view(c).status;
    assert_eq!((expired.svid_state.as_str(), expired.links_up), ("expired", 0), "nobody talks to it");

    let domain = "mesh.test".parse().unwrap();
    let svid = Svid::from_stored(&disk(&world, RecordKind::Svid)).unwrap();
    let bundle = Bundle::from_json(domain, &disk(&world, RecordKind::Bundle)).unwrap();
    let authorities = vec!["spiffe://mesh.test/node/A".parse().unwrap()];
    let via = vec![Network::address(b).into()];
    let recovery = RecoveryTerms { svid, bundle, authorities, via, fallback_port: None };
    world.capture();
    let cryptography = x0t_sim::Cryptography::simulated();
    let mut keys = cryptography.keys(Entropy::new([1; 32]));
    let (now, wall) = (world.now(), world.wall());
    let client = JoinClient::recover(recovery, cryptography.sessions(), &mut *keys, [9; 32], now, wall);
    let mut client = client.unwrap();
    for _ in 0..500 {
        if client.outcome().is_some() {
            break;
        }
        if client.poll_timeout().is_some_and(|at| at <= world.now()) {
            client.handle_timeout(world.now(), world.wall());
        }
        while let Some((to, bytes)) = client.poll_transmit() {
            world.inject(Network::host_at(to.address()).unwrap(), address(7), bytes);
        }
        for (from, to, mut bytes) in world.captured() {
            if to == address(7) {
                let (now, wall) = (world.now(), world.wall());
                client.handle_datagram(Network::address(from).into(), &mut bytes, now, wall);
            }
        }
        world.advance(SECOND / 100);
    }
    let joined = client.outcome().cloned().unwrap().unwrap();
    assert_eq!(joined.spiffe_id.node_name(), Some("C"));
    world.recovered(c, joined.svid, joined.bundle);
    let back = world.wait_for(30 * SECOND, SECOND / 50, World::all_reach_all);
    assert!(back.is_some(), "{:?} cannot reach", world.first_unreachable());
    assert_eq!(world.view(c).status.svid_state, "valid");
    world.advance(120 * SECOND);
    assert!(world.all_reach_all(), "and it renews like everybody from then on");
}
