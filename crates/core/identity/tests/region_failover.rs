//! The choice of a region in virtual time: a world of regions that are well, ill or half ill, and one clock.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

use std::time::Duration;

use proptest::prelude::*;
use x0t_identity::region_failover::{
    Check, CheckFailure, CheckOutcome, FailoverConfig, FailoverSettings, HealthAnswer, RegionEvent, RegionFailover,
    RegionHealth, RegionView, RegionsStatus, RegionsView, RpcOutcome,
};
use x0t_model::{Entropy, Instant};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(20);
const UNREACHABLE: RpcOutcome = RpcOutcome::Unreachable(CheckFailure::Unavailable);

#[test]
fn all_well_means_the_primary_is_used_for_ever() {
    let mut world = World::of("eu us ap");
    world.run(secs(24 * 3600));
    assert_eq!(world.active(), "eu");
    assert_eq!(world.events, []);
    assert_eq!(world.view().status, RegionsStatus::Ok);
    // Three regions, every 30 s, and the first time at once.
    assert!((8640..=8643).contains(&world.failover.stats().checks), "{:?}", world.failover.stats());
}

#[test]
fn two_failures_are_bad_luck_and_three_are_a_failover() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    world.set("eu", Weather::Refuses);
    world.run_until(|world| world.consecutive_failures("eu") == 2);
    assert_eq!(world.active(), "eu");
    world.set("eu", Weather::Fine);
    world.run(secs(300));
    assert_eq!((world.active(), world.events.len()), ("eu", 0));
    world.set("eu", Weather::Refuses);
    world.run(3 * INTERVAL + TIMEOUT);
    assert_eq!(world.active(), "us");
    let reason = CheckFailure::Refused;
    let expected = [
        RegionEvent::Down { region: "eu".into(), reason },
        RegionEvent::FailedOver { from: "eu".into(), to: "us".into(), reason },
    ];
    assert_eq!(world.events, expected);
}

#[test]
fn a_region_that_hangs_is_left_within_three_intervals_and_one_second() {
    for seed in 0..200 {
        let mut world = World::seeded("eu us", seed);
        // Everywhere between two checks.
        world.run(secs(200) + Duration::from_millis(seed * 151));
        let died = world.now;
        world.set("eu", Weather::Hangs);
        world.run_until(|world| world.active() == "us");
        let took = world.now.since(died);
        assert!(took <= 3 * INTERVAL + TIMEOUT, "seed {seed}: {took:?}");
        assert!(took >= 2 * INTERVAL, "seed {seed}: left after {took:?}, which is less than three checks");
    }
}

#[test]
fn a_region_that_answers_and_renews_nothing_is_left_in_time_and_come_back_to_when_it_renews() {
    let mut world = World::of("eu us");
    world.run(secs(200));
    let stale_since = world.now;
    world.failover.handle_stale(0, true);
    world.run_until(|world| world.active() == "us");
    assert!(world.now.since(stale_since) <= 3 * INTERVAL + TIMEOUT);
    let reason = CheckFailure::NotRenewing;
    assert!(world.events.contains(&RegionEvent::FailedOver { from: "eu".into(), to: "us".into(), reason }));
    // Its calls go well, and are not what counts.
    for _ in 0..100 {
        world.run(secs(36));
        let now = world.now;
        world.failover.handle_rpc(0, RpcOutcome::Ok { latency: Some(LATENCY) }, now);
    }
    assert_eq!(world.active(), "us");
    assert_eq!(world.view().regions[0].last_failure, Some(reason));
    world.failover.handle_stale(0, false);
    world.run(secs(200));
    assert_eq!(world.active(), "eu");
}

#[test]
fn a_slow_answer_is_no_answer() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    world.set("eu", Weather::Slow);
    world.run(3 * INTERVAL + TIMEOUT);
    assert_eq!(world.active(), "us");
    // Exactly the limit is not below the limit.
    let slow = CheckOutcome::Healthy { latency: TIMEOUT };
    let mut failover = RegionFailover::new(config("eu us"), &mut Entropy::new([0; 32]), Instant::ZERO);
    failover.handle_timeout(Instant::ZERO);
    let check = failover.poll_check().unwrap();
    failover.handle_check(check, slow, Instant::ZERO + TIMEOUT);
    assert_eq!(failover.view(Instant::ZERO).regions[check.region].last_failure, Some(CheckFailure::Slow));
}

#[test]
fn the_primary_is_come_back_to_after_two_good_checks_of_three() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    world.set("eu", Weather::Refuses);
    world.run_until(|world| world.active() == "us");
    world.run(secs(600));
    world.events.clear();
    world.set("eu", Weather::Fine);
    world.run_until(|world| world.last_checks("eu").first() == Some(&true));
    assert_eq!(world.active(), "us", "one good check is not enough");
    // Good, bad, good: two of three.
    world.set("eu", Weather::Refuses);
    world.run_until(|world| world.last_checks("eu") == [false, true, false]);
    world.set("eu", Weather::Fine);
    world.run_until(|world| world.last_checks("eu") == [true, false, true]);
    assert_eq!(world.active(), "eu");
    let expected =
        [RegionEvent::Up { region: "eu".into() }, RegionEvent::FailedBack { from: "us".into(), to: "eu".into() }];
    assert_eq!(world.events, expected);
}

#[test]
fn the_primary_is_not_come_back_to_while_it_is_worse_than_the_region_that_stands_in() {
    let mut world = World::of("eu us");
    world.set("eu", Weather::Refuses);
    world.run(secs(600));
    assert_eq!(world.active(), "us");
    // The service accepts connections; its health check is still not there.
    world.set("eu", Weather::NoHealthCheck);
    world.run(secs(3600));
    assert_eq!(world.active(), "us");
    assert_eq!(world.health("eu"), RegionHealth::Degraded);
    // As soon as both are equally badly off, preference decides.
    world.set("us", Weather::NoHealthCheck);
    world.run(secs(120));
    assert_eq!(world.active(), "eu");
}

#[test]
fn a_region_without_a_health_check_that_accepts_connections_is_not_left() {
    let mut world = World::of("eu us");
    world.set("eu", Weather::NoHealthCheck);
    world.run(secs(3600));
    assert_eq!(world.active(), "eu");
    assert_eq!((world.health("eu"), world.view().status), (RegionHealth::Degraded, RegionsStatus::Degraded));
}

#[test]
fn priorities_decide_who_stands_in_and_a_healthy_region_goes_before_a_degraded_one() {
    let mut world = World::of("eu ap:7 us:5");
    world.run(secs(60));
    world.set("eu", Weather::Refuses);
    world.run(secs(100));
    assert_eq!(world.active(), "us");
    let mut world = World::of("eu ap:7 us:5");
    world.set("us", Weather::NoHealthCheck);
    world.run(secs(60));
    world.set("eu", Weather::Refuses);
    world.run(secs(100));
    assert_eq!(world.active(), "ap");
    // And from the second choice to the first one that is well again, step by step up the list.
    world.set("us", Weather::Fine);
    world.run(secs(200));
    assert_eq!(world.active(), "us");
    world.set("eu", Weather::Fine);
    world.run(secs(200));
    assert_eq!(world.active(), "eu");
}

#[test]
fn of_equal_regions_the_nearer_one_stands_in_and_neither_is_come_back_to_for_being_first() {
    let mut world = World::of("eu us:5 ap:5");
    world.run(secs(60));
    world.set("us", Weather::Far);
    world.run(secs(300));
    world.set("eu", Weather::Refuses);
    world.run(secs(100));
    assert_eq!(world.active(), "ap");
    world.set("us", Weather::Fine);
    world.run(secs(3600));
    assert_eq!(world.active(), "ap");
}

#[test]
fn when_nobody_answers_the_node_stays_says_so_once_and_takes_the_first_that_comes_back() {
    let mut world = World::of("eu us ap");
    world.run(secs(60));
    for region in ["eu", "us", "ap"] {
        world.set(region, Weather::Refuses);
    }
    world.run(secs(3600));
    assert_eq!(world.active(), "eu");
    assert!(world.failover.is_all_down());
    assert_eq!(world.view().status, RegionsStatus::AllDown);
    let told = world.events.iter().filter(|event| matches!(event, RegionEvent::AllDown { .. })).count();
    assert_eq!((told, world.failover.stats().all_down), (1, 1));
    world.set("ap", Weather::Fine);
    world.run(INTERVAL + TIMEOUT);
    assert_eq!(world.active(), "ap");
    assert!(world.events.contains(&RegionEvent::Recovered { active: "ap".into() }));
    assert!(!world.failover.is_all_down());
}

#[test]
fn when_nobody_answers_and_the_active_region_is_the_first_to_come_back_it_stays() {
    let mut world = World::of("eu us");
    world.set("eu", Weather::Refuses);
    world.set("us", Weather::Refuses);
    world.run(secs(3600));
    world.events.clear();
    world.set("eu", Weather::Fine);
    world.run(INTERVAL);
    assert_eq!(world.events, [RegionEvent::Recovered { active: "eu".into() }]);
    assert_eq!(world.active(), "eu");
}

#[test]
fn failed_calls_count_as_failed_checks_but_a_burst_of_them_counts_once() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    for _ in 0..1000 {
        world.rpc(0, UNREACHABLE);
    }
    assert_eq!((world.active(), world.consecutive_failures("eu")), ("eu", 1));
    assert_eq!(world.failover.stats().passive_failures_ignored, 999);
    // The service refuses every call, although its health check is fine: left long before three checks.
    let mut world = World::of("eu us");
    world.run(secs(100));
    world.set("eu", Weather::Hangs);
    let began = world.now;
    while world.active() == "eu" {
        world.rpc(0, UNREACHABLE);
        world.run(Duration::from_millis(200));
    }
    let took = world.now.since(began);
    assert!(took >= secs(5) && took <= secs(11), "{took:?}");
}

#[test]
fn being_refused_by_a_service_never_counts_against_its_region() {
    let mut world = World::of("eu us");
    for _ in 0..5000 {
        world.rpc(0, RpcOutcome::Refused);
        world.run(Duration::from_millis(700));
    }
    assert_eq!((world.active(), world.events.len()), ("eu", 0));
    assert_eq!(world.consecutive_failures("eu"), 0);
}

#[test]
fn a_call_that_succeeds_speaks_for_a_region_whose_health_check_is_broken() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    world.set("eu", Weather::SaysNo);
    for _ in 0..3600 {
        world.rpc(0, RpcOutcome::Ok { latency: Some(LATENCY) });
        world.run(secs(1));
    }
    assert_eq!(world.active(), "eu");
}

#[test]
fn a_health_check_that_says_no_or_hangs_is_believed_and_only_one_that_is_not_there_falls_back_to_a_connection() {
    let connected = Ok(LATENCY);
    let refused = Err(CheckFailure::Refused);
    let healthy = CheckOutcome::Healthy { latency: TIMEOUT / 2 };
    let failed = CheckOutcome::Failed;
    let status = |status| Some(HealthAnswer::Status(status, TIMEOUT / 2));
    let not_there = Some(HealthAnswer::NotThere(CheckFailure::Refused));
    let hangs = Some(HealthAnswer::Broken(CheckFailure::NoAnswer));
    let table = [
        (status(200), connected, healthy),
        (status(204), refused, healthy),
        (status(301), connected, failed(CheckFailure::Status(301))),
        (status(503), connected, failed(CheckFailure::Status(503))),
        (status(199), connected, failed(CheckFailure::Status(199))),
        (hangs, connected, failed(CheckFailure::NoAnswer)),
        (not_there, connected, CheckOutcome::Degraded { latency: LATENCY }),
        (not_there, refused, failed(CheckFailure::Refused)),
        (None, connected, CheckOutcome::Healthy { latency: LATENCY }),
        (None, Err(CheckFailure::Unreachable), failed(CheckFailure::Unreachable)),
    ];
    for (health, connection, expected) in table {
        assert_eq!(CheckOutcome::weigh(health, connection), expected, "{health:?} {connection:?}");
    }
}

#[test]
fn an_answer_that_comes_after_its_check_was_given_up_is_ignored() {
    let mut failover = RegionFailover::new(config("eu us"), &mut Entropy::new([0; 32]), Instant::ZERO);
    failover.handle_timeout(Instant::ZERO);
    let check = failover.poll_check().unwrap();
    let late = Instant::ZERO + TIMEOUT;
    failover.handle_timeout(late);
    failover.handle_check(check, CheckOutcome::Healthy { latency: LATENCY }, late);
    assert_eq!(failover.view(late).regions[check.region].last_checks, [false]);
    // Neither does an answer about a region that is not there do harm.
    failover.handle_check(Check { region: 99, number: 1 }, CheckOutcome::Failed(CheckFailure::Tls), late);
    failover.handle_rpc(99, UNREACHABLE, late);
}

#[test]
fn nodes_that_start_together_do_not_check_together() {
    let moments: std::collections::BTreeSet<u64> = (0..100)
        .map(|seed| {
            let mut failover = RegionFailover::new(config("eu"), &mut Entropy::new([seed; 32]), Instant::ZERO);
            failover.handle_timeout(Instant::ZERO);
            let check = failover.poll_check().unwrap();
            failover.handle_check(check, CheckOutcome::Healthy { latency: LATENCY }, Instant::ZERO);
            failover.poll_timeout().unwrap().0.as_millis() / 1000
        })
        .collect();
    assert!(moments.len() >= 25, "the second check falls into {} different seconds of thirty", moments.len());
}

#[test]
fn after_a_suspend_nothing_is_made_up_for() {
    let mut world = World::of("eu us");
    world.run(secs(100));
    let before = world.failover.stats().checks;
    world.now += secs(6 * 3600);
    world.run(INTERVAL);
    assert!(world.failover.stats().checks - before <= 4, "{} checks", world.failover.stats().checks - before);
    assert_eq!(world.active(), "eu");
}

#[test]
fn a_primary_that_keeps_failing_is_come_back_to_ever_more_rarely() {
    let mut world = World::of("eu us");
    // Its health check is always fine; calls to it fail. The worst flapper there is.
    for _ in 0..24 * 3600 {
        if world.active() == "eu" {
            world.rpc(0, UNREACHABLE);
        }
        world.run(secs(1));
    }
    let stats = world.failover.stats();
    // The longest hold-down is 32 dwells of a minute: about 45 in a day, and a few more on the way there.
    assert!((20..=55).contains(&stats.failbacks), "{stats:?}");
    assert_eq!(world.view().regions[0].consecutive_failures.max(3), 3);
    // Then it is truly well, and the node comes back for good.
    world.run(secs(3600));
    assert_eq!(world.active(), "eu");
}

#[test]
fn news_that_nobody_fetches_is_bounded() {
    let mut world = World::of("eu us");
    world.fetch_events = false;
    for round in 0..300 {
        world.set("us", if round % 2 == 0 { Weather::Refuses } else { Weather::Fine });
        world.run(secs(120));
    }
    let mut left = 0;
    while world.failover.poll_event().is_some() {
        left += 1;
    }
    assert_eq!(left, 64);
}

#[derive(Clone, Debug)]
struct Turn {
    region: usize,
    weather: Weather,
    /// How a call to the active region ends in this weather, if one is made.
    call: bool,
    lasts: Duration,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let weather = prop_oneof![
        3 => Just(Weather::Fine),
        2 => Just(Weather::Hangs),
        2 => Just(Weather::Refuses),
        1 => Just(Weather::NoHealthCheck),
        1 => Just(Weather::SaysNo),
        1 => Just(Weather::Slow),
    ];
    let turn = (0usize..3, weather, any::<bool>(), 1u64..400);
    let turn = turn.prop_map(|(region, weather, call, seconds)| Turn { region, weather, call, lasts: secs(seconds) });
    prop::collection::vec(turn, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens, in any order: a change leads to a region that answered when last asked, never to one that is shaky
    /// while a steady one is there; comings-back are rare; a silent region is never used for longer than promised.
    #[test]
    fn no_flapping_no_leap_into_the_void_and_no_overstaying(turns in turns(), seed in any::<u8>()) {
        let mut world = World::seeded("eu us ap", u64::from(seed));
        let mut failbacks: Vec<Instant> = Vec::new();
        let mut ill_since: Option<Instant> = None;
        for turn in turns {
            let name = world.names[turn.region].clone();
            world.set(&name, turn.weather);
            let end = world.now + turn.lasts;
            while world.now < end {
                let before = world.view();
                if turn.call {
                    let index = world.failover.active();
                    let outcome = world.call(index);
                    world.rpc(index, outcome);
                }
                world.run(Duration::from_millis(500));
                world.events.clear();
                for (event, after) in world.told.drain(..) {
                    match event {
                        RegionEvent::FailedOver { from, to, .. } => {
                            let target = after.regions.iter().find(|region| region.name == to).unwrap();
                            prop_assert_eq!(target.last_checks.first(), Some(&true), "to {} which did not answer", to);
                            let steady = |region: &&RegionView| {
                                region.health == RegionHealth::Healthy && region.name != from
                            };
                            if after.regions.iter().any(|region| steady(&region)) {
                                prop_assert_eq!(target.health, RegionHealth::Healthy, "to {} though others are better", to);
                            }
                        }
                        RegionEvent::FailedBack { to, .. } => {
                            let target = after.regions.iter().find(|region| region.name == to).unwrap();
                            prop_assert!(target.last_checks.iter().filter(|good| **good).count() >= 2);
                            prop_assert_eq!(target.last_checks[0], true);
                            failbacks.push(world.now);
                        }
                        _ => {}
                    }
                }
                // While somebody answers steadily, an active region that does not is left in time.
                let active = world.failover.active();
                let stuck = world.is_silent(active) && world.someone_else_answers(active) && active == index_of(&world, &before.active);
                ill_since = if stuck { ill_since.or(Some(world.now)) } else { None };
                if let Some(since) = ill_since {
                    let took = world.now.since(since);
                    prop_assert!(took <= 4 * INTERVAL + 2 * TIMEOUT, "stayed for {:?}", took);
                }
            }
        }
        // Two regions can be come back to (the third never is). Each within ten dwells at most a handful of times.
        for window in failbacks.windows(11) {
            prop_assert!(window[10].since(window[0]) > secs(600), "eleven comings-back within {:?}", window[10].since(window[0]));
        }
        // After every storm: all well, and in the end at home.
        for name in world.names.clone() {
            world.set(&name, Weather::Fine);
        }
        world.run(secs(60 * 35));
        prop_assert_eq!(world.active(), "eu");
        prop_assert_eq!(world.view().status, RegionsStatus::Ok);
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_accepts_it_repeats(
        regions in ".{0,200}", interval in proptest::option::of(".{0,12}"), timeout in proptest::option::of("[0-9]{0,4}(ms|s|m|)"),
    ) {
        let _ = FailoverSettings::parse_environment(&regions, interval.as_deref(), Some("3"), timeout.as_deref());
    }

    #[test]
    fn what_the_environment_says_is_what_comes_out(
        names in prop::collection::btree_set("[a-z][a-z0-9-]{0,8}", 1..6), priority in any::<u16>(), port in 1u16..,
    ) {
        let region = |name: &String| {
            format!(" {name} = unix:///run/{name}.sock | prio={priority}|https://{name}.example.org:{port}/ready?full=1 ")
        };
        let text: Vec<String> = names.iter().map(region).collect();
        let config = FailoverSettings::parse_environment(&text.join(";"), None, None, None).unwrap();
        let found: Vec<_> = config.regions().iter().map(|region| &region.name).collect();
        prop_assert_eq!(found, names.iter().collect::<Vec<_>>());
        for region in config.regions() {
            prop_assert_eq!(region.endpoint.to_string(), format!("unix:///run/{}.sock", region.name));
            let port = if port == 443 { String::new() } else { format!(":{port}") };
            let url = format!("https://{}.example.org{port}/ready?full=1", region.name);
            prop_assert_eq!(region.health.as_ref().unwrap().to_string(), url);
            prop_assert_eq!(region.priority, priority);
        }
    }
}

fn index_of(world: &World, name: &str) -> usize {
    world.names.iter().position(|other| other == name).unwrap()
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `eu us:5`: names, and priorities where they are not the position.
fn config(regions: &str) -> FailoverConfig {
    let region = |text: &str| {
        let (name, priority) = text.split_once(':').unwrap_or((text, ""));
        let priority = if priority.is_empty() { String::new() } else { format!("|prio={priority}") };
        format!("{name}=unix:///run/{name}.sock|http://{name}.example.org/ready{priority}")
    };
    let text: Vec<String> = regions.split(' ').map(region).collect();
    FailoverSettings::parse_environment(&text.join(";"), None, None, None).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Fine, and the answer takes 300 ms.
    Far,
    /// An answer, later than allowed.
    Slow,
    /// Connections are accepted, nothing is answered.
    Hangs,
    Refuses,
    /// 503.
    SaysNo,
    /// Nothing listens at the health URL, the service is there.
    NoHealthCheck,
}

struct World {
    failover: RegionFailover,
    names: Vec<String>,
    weather: Vec<Weather>,
    now: Instant,
    /// Answers on their way.
    answers: Vec<(Instant, Check, CheckOutcome)>,
    events: Vec<RegionEvent>,
    /// The same, each with what was known at that moment.
    told: Vec<(RegionEvent, RegionsView)>,
    fetch_events: bool,
}

impl World {
    fn of(regions: &str) -> Self {
        Self::seeded(regions, 1)
    }

    fn seeded(regions: &str, seed: u64) -> Self {
        let config = config(regions);
        let names: Vec<String> = config.regions().iter().map(|region| region.name.clone()).collect();
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let now = Instant::from_millis(5_000);
        let mut world = Self {
            failover: RegionFailover::new(config, &mut Entropy::new(bytes), now),
            weather: vec![Weather::Fine; names.len()],
            names,
            now,
            answers: Vec::new(),
            events: Vec::new(),
            told: Vec::new(),
            fetch_events: true,
        };
        world.failover.handle_timeout(now);
        world.pump();
        world
    }

    fn set(&mut self, region: &str, weather: Weather) {
        let index = index_of(self, region);
        self.weather[index] = weather;
    }

    fn pump(&mut self) {
        while let Some(check) = self.failover.poll_check() {
            let health = |answer| Some(answer);
            let (after, outcome) = match self.weather[check.region] {
                Weather::Fine => {
                    (LATENCY, CheckOutcome::weigh(health(HealthAnswer::Status(200, LATENCY)), Ok(LATENCY)))
                }
                Weather::Far => {
                    let far = Duration::from_millis(300);
                    (far, CheckOutcome::weigh(health(HealthAnswer::Status(200, far)), Ok(far)))
                }
                Weather::Slow => {
                    let slow = TIMEOUT - Duration::from_millis(1);
                    (slow, CheckOutcome::weigh(health(HealthAnswer::Status(200, TIMEOUT)), Ok(LATENCY)))
                }
                Weather::Hangs => continue,
                Weather::Refuses => {
                    let refused = CheckFailure::Refused;
                    (LATENCY, CheckOutcome::weigh(health(HealthAnswer::NotThere(refused)), Err(refused)))
                }
                Weather::SaysNo => {
                    (LATENCY, CheckOutcome::weigh(health(HealthAnswer::Status(503, LATENCY)), Ok(LATENCY)))
                }
                Weather::NoHealthCheck => {
                    let refused = HealthAnswer::NotThere(CheckFailure::Refused);
                    (LATENCY, CheckOutcome::weigh(health(refused), Ok(LATENCY)))
                }
            };
            self.answers.push((self.now + after, check, outcome));
        }
        while self.fetch_events
            && let Some(event) = self.failover.poll_event()
        {
            self.told.push((event.clone(), self.failover.view(self.now)));
            self.events.push(event);
        }
    }

    fn rpc(&mut self, region: usize, outcome: RpcOutcome) {
        self.failover.handle_rpc(region, outcome, self.now);
        self.pump();
    }

    /// The next thing that happens, if it happens before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timeout = self.failover.poll_timeout().unwrap().0;
        let answer = (0..self.answers.len()).min_by_key(|index| self.answers[*index].0);
        let answer_at = answer.map_or(Instant::FAR_FUTURE, |index| self.answers[index].0);
        let at = timeout.min(answer_at);
        if at > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(at);
        match answer {
            Some(index) if answer_at <= timeout => {
                let (_, check, outcome) = self.answers.remove(index);
                self.failover.handle_check(check, outcome, self.now);
            }
            _ => self.failover.handle_timeout(self.now),
        }
        self.pump();
        true
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
    }

    fn run_until(&mut self, reached: impl Fn(&Self) -> bool) {
        let end = self.now + secs(3600);
        while !reached(self) {
            assert!(self.step(end), "not reached within an hour: {:?}", self.view());
        }
    }

    /// How a call to the service of a region ends.
    fn call(&self, index: usize) -> RpcOutcome {
        match self.weather[index] {
            Weather::Hangs | Weather::Slow => RpcOutcome::Unreachable(CheckFailure::DeadlineExceeded),
            Weather::Refuses => UNREACHABLE,
            Weather::Fine | Weather::Far | Weather::NoHealthCheck => RpcOutcome::Ok { latency: Some(LATENCY) },
            Weather::SaysNo => RpcOutcome::Refused,
        }
    }

    fn is_silent(&self, index: usize) -> bool {
        matches!(self.weather[index], Weather::Hangs | Weather::Refuses)
    }

    fn someone_else_answers(&self, active: usize) -> bool {
        (0..self.weather.len()).any(|index| index != active && self.weather[index] == Weather::Fine)
    }

    fn active(&self) -> &str {
        &self.failover.active_region().name
    }

    fn view(&self) -> RegionsView {
        self.failover.view(self.now)
    }

    fn region(&self, name: &str) -> RegionView {
        self.view().regions.into_iter().find(|region| region.name == name).unwrap()
    }

    fn health(&self, name: &str) -> RegionHealth {
        self.region(name).health
    }

    fn last_checks(&self, name: &str) -> Vec<bool> {
        self.region(name).last_checks
    }

    fn consecutive_failures(&self, name: &str) -> u32 {
        self.region(name).consecutive_failures
    }
}
