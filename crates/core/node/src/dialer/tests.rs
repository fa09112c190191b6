//! What is dialled, and when.

use super::*;

const NODE: NodeId = NodeId::from_bytes([1; 16]);

fn address(port: u16) -> Underlay {
    Underlay::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn over_tls() -> Underlay {
    Underlay::Tls(SocketAddr::from(([192, 0, 2, 1], 443)))
}

fn session(number: u64) -> SessionId {
    SessionId::from_u64(number)
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn dialer(addresses: &[Underlay]) -> Dialer {
    Dialer::new(addresses, None, Entropy::new([1; 32]), Instant::ZERO)
}

fn dialer_with_fallback() -> Dialer {
    Dialer::new(&[address(1)], Some(443), Entropy::new([1; 32]), Instant::ZERO)
}

#[test]
fn a_failing_address_is_dialled_for_ever_with_growing_bounded_pauses() {
    let mut dialer = dialer(&[address(1)]);
    let mut now = Instant::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert_eq!(dialer.due(now), Some(address(1)));
        dialer.failed(address(1), now);
        let next = dialer.poll_timeout().unwrap();
        pauses.push(next.since(now));
        now = next;
    }
    assert!(pauses[0] <= PAUSE_MIN && pauses.iter().all(|pause| *pause >= PAUSE_MIN / 2 && *pause <= PAUSE_MAX));
    assert!(pauses[11] >= PAUSE_MAX / 2);
}

#[test]
fn an_address_is_left_alone_while_its_node_is_a_neighbor_and_dialled_when_it_is_lost() {
    let mut dialer = dialer(&[address(1)]);
    dialer.attempted(address(1), session(7), at(0));
    assert_eq!(dialer.due(Instant::FAR_FUTURE), None);
    dialer.established(session(7), NODE, Instant::ZERO);
    assert_eq!(dialer.poll_timeout(), None);
    dialer.neighbor_lost(NODE, Instant::ZERO + SETTLED);
    assert_eq!(dialer.due(Instant::ZERO + SETTLED), Some(address(1)));
    assert_eq!(dialer.remove(address(1)), None);
    assert!(!dialer.has_configured());
}

#[test]
fn a_peer_that_accepts_and_hangs_up_is_dialled_with_growing_pauses() {
    let mut dialer = dialer(&[address(1)]);
    let (mut now, mut attempts) = (Instant::ZERO, 0);
    while now < Instant::ZERO + Duration::from_secs(60) {
        assert_eq!(dialer.due(now), Some(address(1)));
        attempts += 1;
        dialer.attempted(address(1), session(7), now);
        dialer.established(session(7), NODE, now);
        dialer.neighbor_lost(NODE, now);
        now = dialer.poll_timeout().unwrap();
    }
    assert!(attempts < 30, "{attempts} in a minute");
}

#[test]
fn an_address_where_this_node_met_itself_is_tried_again_later() {
    let mut dialer = dialer(&[address(1)]);
    dialer.attempted(address(1), session(7), at(0));
    dialer.found_myself(address(1), Instant::ZERO);
    dialer.session_failed(session(7), None, Instant::ZERO);
    assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF / 2), None);
    assert_eq!(dialer.due(Instant::ZERO + PAUSE_MYSELF), Some(address(1)));
    assert_eq!(dialer.unanswered().next().unwrap().reason, Some("this node itself answers there"));
}

#[test]
fn tls_is_dialled_after_udp_has_failed_for_three_seconds_and_not_before() {
    let mut dialer = dialer_with_fallback();
    assert_eq!(dialer.due(at(0)), Some(address(1)));
    dialer.attempted(address(1), session(1), at(0));
    assert_eq!(dialer.due(at(2_999)), None);
    assert_eq!(dialer.poll_timeout(), Some(at(3_000)));
    assert_eq!(dialer.due(at(3_000)), Some(over_tls()));
    dialer.attempted(over_tls(), session(2), at(3_000));
    dialer.established(session(2), NODE, at(3_100));
    dialer.neighbor_found(NODE, over_tls(), at(3_100));
    dialer.session_failed(session(1), Some("no answer".to_owned()), at(5_000));
    let next = dialer.poll_timeout().unwrap();
    assert!(next <= at(5_250), "UDP is still tried: {next:?}");
    assert_eq!(dialer.due(next), Some(address(1)));
    let unanswered: Vec<_> = dialer.unanswered().collect();
    assert_eq!(unanswered.len(), 1);
    assert_eq!((unanswered[0].address, unanswered[0].reason), (address(1), Some("no answer")));
}

#[test]
fn tls_is_left_alone_once_udp_answers_and_waits_its_three_seconds_when_udp_dies() {
    let mut dialer = dialer_with_fallback();
    dialer.attempted(address(1), session(1), at(0));
    dialer.attempted(over_tls(), session(2), at(3_000));
    dialer.established(session(2), NODE, at(3_100));
    dialer.neighbor_found(NODE, over_tls(), at(3_100));
    dialer.established(session(1), NODE, at(4_000));
    dialer.neighbor_found(NODE, address(1), at(4_000));
    assert_eq!(dialer.poll_timeout(), None);
    dialer.neighbor_lost(NODE, at(60_000));
    assert_eq!(dialer.due(at(60_000)), Some(address(1)));
    dialer.attempted(address(1), session(3), at(60_000));
    assert_eq!((dialer.due(at(62_999)), dialer.due(at(63_000))), (None, Some(over_tls())));
}

#[test]
fn a_host_that_is_this_one_is_never_tried_over_tls() {
    let loopback = Underlay::Udp(SocketAddr::from(([127, 0, 0, 1], 4600)));
    let mut dialer = Dialer::new(&[loopback], Some(443), Entropy::new([1; 32]), at(0));
    dialer.attempted(loopback, session(1), at(0));
    assert_eq!(dialer.poll_timeout(), None);
}

#[test]
fn tls_is_tried_on_the_link_that_a_link_local_address_is_of() {
    let [first, second]: [SocketAddr; 2] = ["[fe80::2%2]:4600", "[fe80::2%3]:4600"].map(|text| text.parse().unwrap());
    let mut dialer = Dialer::new(&[first.into(), second.into()], Some(443), Entropy::new([1; 32]), at(0));
    dialer.attempted(first.into(), session(1), at(0));
    dialer.attempted(second.into(), session(2), at(0));
    dialer.established(session(1), NODE, at(100));
    assert_eq!(dialer.due(at(3_000)), Some(Underlay::Tls("[fe80::2%3]:443".parse().unwrap())), "the other one answers");
    dialer.remove(second.into());
    dialer.attempted(first.into(), session(3), at(4_000));
    assert_eq!(dialer.due(at(8_000)), Some(Underlay::Tls("[fe80::2%2]:443".parse().unwrap())));
}

#[test]
fn a_removed_address_takes_its_fallback_with_it_unless_another_needs_it() {
    let mut dialer = Dialer::new(&[address(1), address(2)], Some(443), Entropy::new([1; 32]), at(0));
    dialer.remove(address(1));
    dialer.attempted(address(2), session(1), at(0));
    assert_eq!(dialer.due(at(3_000)), Some(over_tls()));
    dialer.remove(address(2));
    assert_eq!(dialer.poll_timeout(), None);
}

#[test]
fn what_a_beacon_named_is_dialled_until_it_falls_silent_and_never_over_tls() {
    let mut dialer = Dialer::new(&[], Some(443), Entropy::new([1; 32]), at(0));
    let Underlay::Udp(udp) = address(1) else { panic!("not UDP") };
    dialer.discovered(udp, NODE, at(0));
    assert_eq!(dialer.due(at(0)), Some(address(1)));
    dialer.attempted(address(1), session(1), at(0));
    assert_eq!(dialer.origin_of(session(1), NODE, address(1)), Some(Origin::Discovered));
    assert_eq!(dialer.origin_of(session(9), NODE, over_tls()), Some(Origin::Discovered), "it dialled us");
    assert_eq!(dialer.due(at(10_000)), None);
    dialer.session_failed(session(1), None, at(10_000));
    assert!(!dialer.has_configured(), "a node that found nobody is as ready as one alone");
    dialer.fell_silent(udp);
    assert_eq!(dialer.poll_timeout(), None);
}

/// The UDP address that [`address`] is.
fn udp(port: u16) -> SocketAddr {
    address(port).address()
}

#[test]
fn a_beacon_saves_a_handshake_with_a_neighbor_and_keeps_no_address_from_being_tried() {
    let (neighbor, newcomer) = (NODE, NodeId::from_bytes([2; 16]));
    let mut dialer = dialer(&[]);
    dialer.neighbor_found(neighbor, address(9), at(0));
    dialer.discovered(udp(1), neighbor, at(0));
    assert_eq!((dialer.due(at(0)), dialer.poll_timeout()), (None, None), "it is one already, it says");
    // The one that really lives there says who it is, and whoever lied may go on lying.
    dialer.discovered(udp(1), newcomer, at(1));
    assert_eq!(dialer.due(at(1)), Some(address(1)));
    dialer.attempted(address(1), session(1), at(1));
    dialer.discovered(udp(1), neighbor, at(2));
    dialer.established(session(1), newcomer, at(3));
    dialer.neighbor_found(newcomer, address(1), at(3));
    dialer.neighbor_lost(neighbor, at(4));
    assert_eq!(dialer.due(at(4)), None, "the newcomer is there, and proved it");
    dialer.neighbor_lost(newcomer, at(10_000));
    assert_eq!(dialer.due(at(10_000)), Some(address(1)));
}

#[test]
fn what_a_beacon_claims_binds_no_address_to_a_node() {
    let mut dialer = dialer(&[address(1)]);
    dialer.attempted(address(1), session(1), at(0));
    dialer.established(session(1), NODE, at(0));
    dialer.neighbor_found(NODE, address(1), at(0));
    let liar = NodeId::from_bytes([3; 16]);
    dialer.discovered(udp(1), liar, at(1));
    dialer.discovered(udp(2), NODE, at(1));
    assert_eq!(dialer.due(at(1)), None);
    dialer.neighbor_lost(NODE, at(10_000));
    let due: Vec<_> = [address(1), address(2)]
        .into_iter()
        .filter(|_| {
            let due = dialer.due(at(10_000));
            due.inspect(|due| dialer.attempted(*due, session(u64::from(due.address().port())), at(10_000)));
            due.is_some()
        })
        .collect();
    assert_eq!(due.len(), 2, "the address where it was proven, and the one that was named, which costs one attempt");
    dialer.session_failed(session(2), None, at(11_000));
    dialer.established(session(1), NODE, at(11_000));
    dialer.neighbor_found(NODE, address(1), at(11_000));
    assert_eq!(dialer.due(Instant::FAR_FUTURE), None, "and while the neighbour is there it is left alone again");
}

#[test]
fn a_neighbor_over_tls_does_not_keep_what_its_beacon_names_from_being_tried() {
    let mut dialer = dialer(&[]);
    dialer.neighbor_found(NODE, over_tls(), at(0));
    dialer.discovered(udp(1), NODE, at(0));
    assert_eq!(dialer.due(at(0)), Some(address(1)));
}

#[test]
fn changing_claims_do_not_shorten_the_pauses() {
    let mut dialer = dialer(&[]);
    let mut attempts = 0;
    for millis in 0..60_000 {
        dialer.discovered(udp(1), NodeId::from_bytes([millis as u8; 16]), at(millis));
        if dialer.due(at(millis)).is_some() {
            attempts += 1;
            dialer.failed(address(1), at(millis));
        }
    }
    assert!(attempts < 30, "{attempts} in a minute");
}

#[test]
fn what_an_operator_asked_for_stays_when_its_beacon_falls_silent() {
    let mut dialer = dialer(&[address(1)]);
    let Underlay::Udp(udp) = address(1) else { panic!("not UDP") };
    dialer.discovered(udp, NODE, at(0));
    dialer.fell_silent(udp);
    assert!(dialer.is_configured(address(1)));
    assert_eq!(dialer.due(at(0)), Some(address(1)));
}
