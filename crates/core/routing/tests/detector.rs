//! The detector's whole table, and its times.

use std::time::Duration;

use x0t_model::Instant;
use x0t_routing::detector::{Detector, DetectorConfig, Due, Heard, Liveness, News};

const START: Instant = Instant::from_millis(100_000);

/// Where a case begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Suspect,
    LastQuestionAsked,
    Dead,
}

/// What happens to it.
#[derive(Clone, Copy, Debug)]
enum Input {
    Heard,
    TimePasses,
    TimePassesWhileThisNodeWasAsleep,
    CarrierLost,
    CarrierBack,
}

use Input::{CarrierBack, CarrierLost, Heard as HeardInput, TimePasses, TimePassesWhileThisNodeWasAsleep as Asleep};

/// State and input to the next state. Time passes to the next deadline that judges the peer.
const TABLE: [(State, Input, State); 20] = [
    (State::Up, HeardInput, State::Up),
    (State::Up, TimePasses, State::Suspect),
    (State::Up, Asleep, State::Up),
    (State::Up, CarrierLost, State::Suspect),
    (State::Up, CarrierBack, State::Up),
    (State::Suspect, HeardInput, State::Up),
    (State::Suspect, TimePasses, State::Suspect),
    (State::Suspect, Asleep, State::Suspect),
    (State::Suspect, CarrierLost, State::Suspect),
    (State::Suspect, CarrierBack, State::Suspect),
    (State::LastQuestionAsked, HeardInput, State::Up),
    (State::LastQuestionAsked, TimePasses, State::Dead),
    (State::LastQuestionAsked, Asleep, State::LastQuestionAsked),
    (State::LastQuestionAsked, CarrierLost, State::LastQuestionAsked),
    (State::LastQuestionAsked, CarrierBack, State::LastQuestionAsked),
    (State::Dead, HeardInput, State::Up),
    (State::Dead, TimePasses, State::Dead),
    (State::Dead, Asleep, State::Dead),
    (State::Dead, CarrierLost, State::Dead),
    (State::Dead, CarrierBack, State::Dead),
];

/// One link under the eye of a detector.
struct Watch {
    config: DetectorConfig,
    detector: Detector,
    now: Instant,
    hellos: Vec<(Instant, bool)>,
    news: Vec<(Instant, News)>,
}

impl Watch {
    fn new() -> Self {
        let config = DetectorConfig::default();
        let detector = Detector::new(&config, START);
        Self { config, detector, now: START, hellos: Vec::new(), news: Vec::new() }
    }

    /// Carries data; the peer has answered and announced the active pace.
    fn active() -> Self {
        let mut watch = Self::new();
        assert!(watch.detector.carried_data(&watch.config, 1, START));
        watch.peer_announces(25, 1);
        watch
    }

    fn peer_announces(&mut self, interval_ms: u64, echo_seq: u32) {
        let interval = Duration::from_millis(interval_ms);
        self.detector.hello_received(&self.config, interval, echo_seq, Duration::ZERO, Some(Duration::from_millis(2)));
        self.detector.heard(self.now);
    }

    fn timeout(&mut self, slip: Duration) -> Due {
        let due = self.detector.handle_timeout(&self.config, slip, self.now);
        if let Some(reply_wanted) = due.hello {
            self.detector.hello_sent(self.now);
            self.hellos.push((self.now, reply_wanted));
        }
        if let Some(news) = due.news {
            self.news.push((self.now, news));
        }
        due
    }

    /// Lets time pass with `at_each` deadline told, until `until`.
    fn run(&mut self, until: Instant) {
        loop {
            let deadline = self.detector.deadline(&self.config);
            if deadline > until {
                break;
            }
            self.now = self.now.max(deadline);
            self.timeout(Duration::ZERO);
            assert!(self.detector.deadline(&self.config) > self.now, "the same deadline again would spin");
        }
        self.now = until;
    }

    fn run_for(&mut self, millis: u64) {
        self.run(self.now + Duration::from_millis(millis));
    }

    fn state(&self) -> State {
        match self.detector.liveness() {
            Liveness::Up => State::Up,
            Liveness::Suspect { asked: 8, .. } => State::LastQuestionAsked,
            Liveness::Suspect { .. } => State::Suspect,
            Liveness::Dead => State::Dead,
        }
    }

    fn reach(state: State) -> Self {
        let mut watch = Self::active();
        while watch.state() != state {
            let deadline = watch.detector.deadline(&watch.config);
            watch.run(deadline);
        }
        watch
    }
}

#[test]
fn the_whole_table() {
    for (before, input, after) in TABLE {
        let mut watch = Watch::reach(before);
        match input {
            Input::Heard => {
                watch.detector.heard(watch.now);
            }
            TimePasses => {
                let judged = match before {
                    State::Up => Duration::from_millis(50),
                    _ => Duration::from_millis(40),
                };
                watch.run(watch.now + judged);
            }
            Asleep => {
                let slept = Duration::from_secs(1);
                watch.now += slept;
                watch.timeout(slept);
            }
            CarrierLost => {
                watch.detector.suspect_now(watch.now);
            }
            CarrierBack => watch.detector.trust_again(),
        }
        assert_eq!(watch.state(), after, "{before:?} on {input:?}");
    }
}

#[test]
fn two_missed_heartbeats_make_a_link_in_use_suspect_and_eight_questions_make_it_dead() {
    let mut watch = Watch::active();
    watch.run_for(1_000);
    let [(suspected_at, News::Suspected { silent_for }), (died_at, News::Died { .. })] = watch.news[..] else {
        panic!("{:?}", watch.news)
    };
    assert_eq!(silent_for, Duration::from_millis(50));
    assert_eq!(died_at.since(suspected_at), Duration::from_millis(8 * 40));
    let questions = watch.hellos.iter().filter(|(at, asks)| *asks && *at >= suspected_at && *at < died_at);
    assert_eq!(questions.count(), 8);
}

#[test]
fn three_missed_echoes_make_an_idle_link_suspect() {
    let mut watch = Watch::new();
    watch.peer_announces(500, 0);
    watch.run_for(3_000);
    let (at, news) = watch.news[0];
    assert_eq!(at.since(START), Duration::from_millis(1_500));
    assert!(matches!(news, News::Suspected { .. }));
    assert!(matches!(watch.news[1], (at, News::Died { .. }) if at.since(START) == Duration::from_millis(1_820)));
}

#[test]
fn a_peer_that_promises_little_is_suspect_after_five_seconds_all_the_same() {
    let mut watch = Watch::new();
    watch.peer_announces(60_000, 0);
    watch.run_for(8_000);
    assert_eq!(watch.news[0].0.since(START), Duration::from_secs(5));
}

#[test]
fn jitter_makes_it_patient() {
    let mut watch = Watch::active();
    let (interval, jitter) = (Duration::from_millis(25), Duration::from_millis(20));
    watch.detector.hello_received(&watch.config, interval, 1, jitter, None);
    watch.run_for(200);
    assert_eq!(watch.news[0].0.since(START), Duration::from_millis(25 + 4 * 20));
}

#[test]
fn a_heartbeat_recovers_a_suspect_and_revives_a_dead_one() {
    let mut watch = Watch::reach(State::Suspect);
    watch.now += Duration::from_millis(10);
    assert_eq!(watch.detector.heard(watch.now), Heard::Recovered { silent_for: Duration::from_millis(60) });
    assert_eq!(watch.detector.heard(watch.now), Heard::AsUsual);
    let mut watch = Watch::reach(State::Dead);
    assert_eq!(watch.detector.heard(watch.now), Heard::Revived);
}

#[test]
fn while_data_flows_hello_fills_silences_of_25_ms_and_measures_twice_per_second() {
    let mut watch = Watch::active();
    watch.run_for(1_000);
    let mut silent = Watch::active();
    for _ in 0..100 {
        silent.run_for(10);
        silent.detector.carried_data(&silent.config, 9, silent.now);
        silent.detector.heard(silent.now);
    }
    assert!((38..=44).contains(&silent.hellos.len()), "nothing else is sent: {}", silent.hellos.len());
    let mut busy = Watch::active();
    busy.run_for(400);
    busy.hellos.clear();
    for _ in 0..200 {
        busy.run_for(10);
        busy.detector.carried_data(&busy.config, 9, busy.now);
        busy.detector.heard(busy.now);
        busy.detector.sent(busy.now);
    }
    assert!((3..=6).contains(&busy.hellos.len()), "something is always sent: {}", busy.hellos.len());
}

#[test]
fn an_idle_link_says_hello_twice_per_second() {
    let mut watch = Watch::new();
    for _ in 0..100 {
        watch.run_for(100);
        watch.detector.heard(watch.now);
    }
    let after_start = watch.hellos.iter().filter(|(at, _)| at.since(START) > Duration::from_secs(1)).count();
    assert!((17..=19).contains(&after_start), "{after_start}");
}

#[test]
fn the_end_of_activity_is_announced_three_times_at_the_old_pace() {
    let mut watch = Watch::active();
    for _ in 0..400 {
        watch.run_for(10);
        watch.detector.heard(watch.now);
    }
    assert!(!watch.detector.is_active());
    let quiet_from = START + Duration::from_secs(2);
    let announcing: Vec<u128> = watch
        .hellos
        .iter()
        .filter(|(at, _)| *at >= quiet_from)
        .map(|(at, _)| at.since(quiet_from).as_millis())
        .take_while(|millis| *millis < 400)
        .collect();
    assert_eq!(announcing.len(), 3, "{announcing:?}");
    assert!(announcing.iter().all(|millis| *millis <= 75), "{announcing:?}");
}

#[test]
fn the_first_data_after_idleness_must_be_answered_at_the_active_pace() {
    let mut watch = Watch::new();
    watch.peer_announces(500, 0);
    watch.run_for(250);
    assert!(watch.detector.carried_data(&watch.config, 5, watch.now));
    assert!(!watch.detector.carried_data(&watch.config, 5, watch.now), "only the first");
    let activated_at = watch.now;
    watch.run_for(10);
    // A packet that was under way proves nothing about the HELLO that was sent ahead.
    watch.detector.heard(watch.now);
    watch.run_for(200);
    assert_eq!(watch.news[0].0.since(activated_at), Duration::from_millis(50 + 2));
    assert!(watch.hellos.iter().any(|(at, asks)| *asks && *at > activated_at && *at < watch.news[0].0), "asked twice");
}

#[test]
fn a_doubt_asks_at_once_and_silence_makes_the_link_suspect_as_quickly_as_one_in_use() {
    let mut watch = Watch::new();
    watch.peer_announces(500, 0);
    watch.run_for(250);
    watch.hellos.clear();
    let doubted_at = watch.now;
    assert!(watch.detector.doubted(&watch.config, watch.now));
    assert!(!watch.detector.doubted(&watch.config, watch.now), "it is being asked");
    watch.run_for(1_000);
    let [(suspected_at, News::Suspected { .. }), (died_at, News::Died { .. })] = watch.news[..] else {
        panic!("{:?}", watch.news)
    };
    assert_eq!(suspected_at.since(doubted_at), Duration::from_millis(50 + 2));
    assert_eq!(died_at.since(suspected_at), Duration::from_millis(8 * 40), "death takes as many questions as ever");
    assert!(watch.hellos.iter().any(|(at, asks)| *asks && *at < suspected_at), "asked twice");
}

#[test]
fn a_doubt_about_a_peer_that_is_heard_changes_nothing() {
    let mut idle = Watch::new();
    idle.peer_announces(500, 0);
    idle.run_for(250);
    assert!(idle.detector.doubted(&idle.config, idle.now));
    idle.run_for(30);
    idle.detector.heard(idle.now);
    idle.run_for(490);
    assert_eq!((idle.state(), idle.news.len(), idle.detector.is_active()), (State::Up, 0, false));
    let mut busy = Watch::active();
    for _ in 0..200 {
        busy.detector.doubted(&busy.config, busy.now);
        busy.run_for(20);
        busy.detector.heard(busy.now);
    }
    assert_eq!((busy.state(), busy.news.len()), (State::Up, 0));
    for state in [State::Suspect, State::LastQuestionAsked, State::Dead] {
        let mut watch = Watch::reach(state);
        assert!(!watch.detector.doubted(&watch.config, watch.now), "it is asked anyway");
        assert_eq!(watch.state(), state);
    }
}

#[test]
fn a_node_that_was_late_grants_another_interval_once() {
    let mut watch = Watch::active();
    watch.now += Duration::from_millis(80);
    assert!(watch.timeout(Duration::from_millis(30)).stalled);
    assert_eq!(watch.state(), State::Up);
    watch.run_for(24);
    assert_eq!(watch.state(), State::Up);
    watch.run_for(2);
    assert_eq!(watch.state(), State::Suspect, "punctual again, and the peer is silent indeed");
}

#[test]
fn a_dead_link_is_asked_twice_per_second() {
    let mut watch = Watch::reach(State::Dead);
    watch.hellos.clear();
    watch.run_for(10_000);
    assert!((19..=21).contains(&watch.hellos.len()), "{}", watch.hellos.len());
    assert!(watch.hellos.iter().all(|(_, asks)| *asks));
}
