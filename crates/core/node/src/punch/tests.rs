//! Who is asked, what is dialled, and what is not.

use super::*;

const ME: NodeId = NodeId::from_bytes([1; 16]);
const FAR: NodeId = NodeId::from_bytes([2; 16]);

fn overlay() -> OverlayPrefix {
    OverlayPrefix::of(&"mesh.test".parse().unwrap())
}

fn punch() -> Punch {
    Punch::new(overlay(), Entropy::new([1; 32]), Instant::ZERO)
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn actions(punch: &mut Punch, now: Instant) -> Vec<Action> {
    punch.handle_timeout(now);
    std::iter::from_fn(|| punch.poll_action()).collect()
}

fn answer(round: u64, candidates: &[&str]) -> Rendezvous {
    let candidates = candidates.iter().map(|text| address(text)).collect();
    Rendezvous { round, is_answer: true, candidates }
}

fn request(round: u64, candidates: &[&str]) -> Rendezvous {
    Rendezvous { is_answer: false, ..answer(round, candidates) }
}

/// The round of the one question among the actions.
fn asked(punch: &mut Punch, now: Instant) -> u64 {
    match actions(punch, now)[..] {
        [Action::Tell { to: FAR, round, is_answer: false }] => round,
        ref other => panic!("not one question: {other:?}"),
    }
}

#[test]
fn both_ends_dial_each_other_s_candidates_at_once() {
    let (mut asker, mut asked_one) = (punch(), punch());
    asker.wanted(FAR, at(0));
    let round = asked(&mut asker, at(0));
    let none = BTreeSet::new();
    asked_one.handle_rendezvous(ME, &request(round, &["192.0.2.1:4600"]), &none, at(20));
    assert_eq!(
        actions(&mut asked_one, at(20)),
        [
            Action::Dial { node: ME, address: address("192.0.2.1:4600") },
            Action::Tell { to: ME, round, is_answer: true }
        ]
    );
    asker.handle_rendezvous(FAR, &answer(round, &["198.51.100.2:4600", "10.0.0.2:4600"]), &none, at(40));
    let dials = ["198.51.100.2:4600", "10.0.0.2:4600"].map(|to| Action::Dial { node: FAR, address: address(to) });
    assert_eq!(actions(&mut asker, at(40)), dials);
}

#[test]
fn a_link_ends_the_attempt_and_traffic_asks_for_no_other() {
    let mut punch = punch();
    punch.wanted(FAR, at(0));
    let round = asked(&mut punch, at(0));
    punch.handle_rendezvous(FAR, &answer(round, &["192.0.2.2:1"]), &BTreeSet::new(), at(1));
    actions(&mut punch, at(1));
    let session = SessionId::from_u64(7);
    punch.dialled(session, FAR);
    assert_eq!(punch.established(session, FAR), Established::Punched);
    punch.neighbor_found(FAR, at(50));
    assert_eq!(punch.poll_timeout(), None);
    punch.wanted(FAR, at(60_000));
    assert_eq!(actions(&mut punch, at(60_000)), []);
    assert_eq!((punch.successes, punch.failures), (1, 0));
}

#[test]
fn a_far_end_that_does_not_answer_is_asked_three_times_then_left_alone_for_ever_longer() {
    let mut punch = punch();
    let mut questions = Vec::new();
    for millis in (0..3_600_000).step_by(100) {
        punch.wanted(FAR, at(millis));
        if !actions(&mut punch, at(millis)).is_empty() {
            questions.push(millis / 1000);
        }
    }
    assert_eq!(questions[..4], [0, 0, 1, 32], "three within two seconds, the next half a minute later");
    let last = questions.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!((590..=610).contains(&last), "{last}");
}

#[test]
fn attempts_without_a_link_are_abandoned_after_three_seconds() {
    let mut punch = punch();
    punch.handle_rendezvous(FAR, &request(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
    actions(&mut punch, at(0));
    punch.dialled(SessionId::from_u64(7), FAR);
    assert_eq!(punch.poll_timeout(), Some(at(3_000)));
    assert_eq!(actions(&mut punch, at(3_000)), [Action::Abandon(SessionId::from_u64(7))]);
    punch.wanted(FAR, at(4_000));
    assert_eq!(actions(&mut punch, at(4_000)), [], "the pause holds for this node's own wishes");
}

#[test]
fn a_repeated_request_is_answered_again_but_dials_nothing_again() {
    let mut punch = punch();
    let request = request(5, &["192.0.2.2:1"]);
    punch.handle_rendezvous(FAR, &request, &BTreeSet::new(), at(0));
    assert_eq!(actions(&mut punch, at(0)).len(), 2);
    punch.handle_rendezvous(FAR, &request, &BTreeSet::new(), at(700));
    assert_eq!(actions(&mut punch, at(700)), [Action::Tell { to: FAR, round: 5, is_answer: true }]);
}

#[test]
fn a_far_end_cannot_make_this_node_dial_often_or_much() {
    let mut punch = punch();
    let victims: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
    let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
    let mut dials = 0;
    for millis in (0..60_000).step_by(10) {
        punch.handle_rendezvous(FAR, &request(millis, &victims), &BTreeSet::new(), at(millis));
        dials += actions(&mut punch, at(millis)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
    }
    assert!(dials <= 6 * CANDIDATES_MAX, "{dials} in a minute");
    let mut dials = 0;
    for node in 3..=255u8 {
        let liar = NodeId::from_bytes([node; 16]);
        punch.handle_rendezvous(liar, &request(1, &victims), &BTreeSet::new(), at(100_000));
        dials += actions(&mut punch, at(100_000)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
    }
    assert_eq!(dials, REQUESTED_BURST as usize, "many far ends share one total");
}

#[test]
fn far_ends_that_ask_for_much_keep_nothing_that_this_node_wants_from_being_tried() {
    let mut punch = punch();
    let none = BTreeSet::new();
    let victims: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
    let victims: Vec<&str> = victims.iter().map(String::as_str).collect();
    let mut for_liars = 0;
    for millis in (0..60_000).step_by(50) {
        for node in 3..40u8 {
            punch.handle_rendezvous(NodeId::from_bytes([node; 16]), &request(millis, &victims), &none, at(millis));
        }
        for_liars += actions(&mut punch, at(millis)).iter().filter(|a| matches!(a, Action::Dial { .. })).count();
    }
    assert!(for_liars <= (REQUESTED_BURST + 60 * REQUESTED_PER_SECOND) as usize, "{for_liars}");
    punch.wanted(FAR, at(60_000));
    let round = asked(&mut punch, at(60_000));
    punch.handle_rendezvous(FAR, &answer(round, &victims), &none, at(60_050));
    assert_eq!(actions(&mut punch, at(60_050)).len(), CANDIDATES_MAX);
    assert!(punch.candidates_over > 0 && punch.candidates_refused == 0);
}

#[test]
fn what_cannot_be_dialled_yet_is_asked_for_again_and_is_no_failure() {
    let mut punch = punch();
    let none = BTreeSet::new();
    let places: Vec<String> = (0..CANDIDATES_MAX).map(|host| format!("192.0.2.{}:53", host + 1)).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    let mut meet = |node: u8, now| {
        let far = NodeId::from_bytes([node; 16]);
        punch.wanted(far, now);
        let Some(Action::Tell { round, .. }) = actions(&mut punch, now).first().copied() else { return 0 };
        punch.handle_rendezvous(far, &answer(round, &places), &none, now);
        actions(&mut punch, now).len()
    };
    assert_eq!([meet(3, at(0)), meet(4, at(0)), meet(5, at(0))], [CANDIDATES_MAX, CANDIDATES_MAX, 0]);
    let again = actions(&mut punch, at(700));
    let Some(Action::Tell { to, round, is_answer: false }) = again.first().copied() else { panic!("{again:?}") };
    punch.handle_rendezvous(to, &answer(round, &places), &none, at(710));
    assert_eq!(actions(&mut punch, at(710)).len(), 1, "what a second allows");
    assert_eq!(punch.failures, 0);
}

#[test]
fn an_answer_that_was_not_asked_for_dials_nothing() {
    let mut punch = punch();
    punch.handle_rendezvous(FAR, &answer(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
    assert_eq!(actions(&mut punch, at(0)), []);
    punch.wanted(FAR, at(0));
    let round = asked(&mut punch, at(0));
    punch.handle_rendezvous(FAR, &answer(round ^ 1, &["192.0.2.2:1"]), &BTreeSet::new(), at(1));
    assert_eq!(actions(&mut punch, at(1)), []);
}

#[test]
fn candidates_that_no_node_should_be_told_to_dial_are_passed_over() {
    let in_mesh = overlay().address(FAR).to_string();
    let bad = [
        "127.0.0.1:4600",
        "0.0.0.0:4600",
        "0.1.2.3:1",
        "224.0.0.251:5353",
        "255.255.255.255:1",
        "240.0.0.1:1",
        "169.254.1.1:1",
        "192.0.2.1:0",
        "[::1]:1",
        "[::]:1",
        "[ff02::1]:1",
        "[fe80::1]:1",
        "[::ffff:127.0.0.1]:1",
        "203.0.113.9:4600",
        &format!("[{in_mesh}]:4600"),
    ];
    let own = BTreeSet::from([address("203.0.113.9:4600")]);
    for candidate in bad {
        let mut punch = punch();
        punch.handle_rendezvous(FAR, &request(1, &[candidate]), &own, at(0));
        let tells = [Action::Tell { to: FAR, round: 1, is_answer: true }];
        assert_eq!(actions(&mut punch, at(0)), tells, "{candidate}");
        assert_eq!(punch.candidates_refused, 1, "{candidate}");
    }
}

#[test]
fn a_lost_direct_link_is_tried_again_soon_if_it_had_lasted() {
    let mut punch = punch();
    punch.wanted(FAR, at(0));
    punch.neighbor_found(FAR, at(0));
    punch.neighbor_lost(FAR, at(60_000));
    punch.wanted(FAR, at(60_500));
    assert_eq!(actions(&mut punch, at(60_500)), []);
    punch.wanted(FAR, at(61_000));
    asked(&mut punch, at(61_000));
    punch.neighbor_found(FAR, at(61_100));
    punch.neighbor_lost(FAR, at(62_000));
    punch.wanted(FAR, at(64_000));
    assert_eq!(actions(&mut punch, at(64_000)), [], "one that comes and goes is left alone");
}

#[test]
fn another_node_behind_a_candidate_is_not_the_one_wanted() {
    let mut punch = punch();
    punch.handle_rendezvous(FAR, &request(5, &["192.0.2.2:1"]), &BTreeSet::new(), at(0));
    punch.dialled(SessionId::from_u64(7), FAR);
    let other = NodeId::from_bytes([9; 16]);
    assert_eq!(punch.established(SessionId::from_u64(7), other), Established::AnotherNode);
    assert_eq!(punch.established(SessionId::from_u64(8), other), Established::NotOurs);
    assert_eq!(punch.established(SessionId::from_u64(9), FAR), Established::Punched, "it dialled us");
}

#[test]
fn only_so_many_far_ends_are_remembered() {
    let mut punch = punch();
    for number in 0..2_000u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        punch.wanted(NodeId::from_bytes(id), at(0));
    }
    assert_eq!(punch.peers.len(), PEERS_MAX);
}
