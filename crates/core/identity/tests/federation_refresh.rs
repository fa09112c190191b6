//! When foreign bundles are fetched, in virtual time.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

use std::time::Duration;

use x0t_identity::federation::{
    EndpointProfile, FETCHES_MAX, FederationRelationship, Fetch, FetchError, Fetched, Refresher, RelationshipStatus,
};
use x0t_model::{Entropy, Instant, TrustDomain, UnixTime};

const WALL: UnixTime = UnixTime::from_secs(1_795_262_400);

struct World {
    refresher: Refresher,
    now: Instant,
}

impl World {
    fn new(names: &[&str]) -> Self {
        let mut world = Self { refresher: Refresher::new(Entropy::new([1; 32])), now: Instant::ZERO };
        world.set(names);
        world
    }

    fn set(&mut self, names: &[&str]) {
        self.refresher.set_relationships(names.iter().map(|name| (relationship(name), None)), self.now);
    }

    fn wall(&self) -> UnixTime {
        WALL + self.now.since(Instant::ZERO)
    }

    fn fetches(&mut self) -> Vec<Fetch> {
        std::iter::from_fn(|| self.refresher.poll_fetch()).collect()
    }

    fn end(&mut self, fetch: &Fetch, outcome: Result<Fetched, FetchError>) {
        self.refresher.handle_outcome(fetch.id, outcome, self.now, self.wall());
    }

    /// Waits for the next fetch, and says for how long.
    fn next(&mut self) -> (Duration, Fetch) {
        let due = self.refresher.poll_timeout();
        let waited = due.since(self.now);
        self.now = due;
        self.refresher.handle_timeout(self.now);
        let mut fetches = self.fetches();
        assert_eq!(fetches.len(), 1);
        (waited, fetches.remove(0))
    }

    fn status(&self) -> RelationshipStatus {
        self.refresher.statuses(self.now, self.wall()).next().unwrap()
    }
}

fn relationship(name: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: name.parse().unwrap(),
        url: format!("https://{name}/").parse().unwrap(),
        profile: EndpointProfile::HttpsWeb,
    }
}

fn fetched(hint: u64) -> Result<Fetched, FetchError> {
    Ok(Fetched { sequence: 3, refresh_hint: Duration::from_secs(hint), is_new: true })
}

fn failed() -> Result<Fetched, FetchError> {
    Err(FetchError { code: "unreachable".to_owned(), text: "x".repeat(10_000) })
}

fn near(found: Duration, wanted: u64) -> bool {
    let wanted = Duration::from_secs(wanted);
    found >= wanted * 9 / 10 && found <= wanted * 11 / 10
}

#[test]
fn bn_3_an_endpoint_is_asked_as_often_as_its_bundle_says_within_bounds() {
    let mut world = World::new(&["a.test"]);
    let mut fetch = world.fetches().remove(0);
    for (hint, wanted) in [(300, 300), (60, 60), (1, 10), (u64::MAX, 24 * 3600), (0, 10)] {
        world.end(&fetch, fetched(hint));
        let (waited, next) = world.next();
        assert!(near(waited, wanted) && waited >= Duration::from_secs(9), "{hint} gave {waited:?}");
        fetch = next;
    }
}

#[test]
fn fe_5_after_a_failure_the_next_attempt_comes_when_it_would_have_come_anyway() {
    let mut world = World::new(&["a.test"]);
    let mut fetch = world.fetches().remove(0);
    world.end(&fetch, failed());
    let (waited, next) = world.next();
    assert!(near(waited, 300), "without a bundle it is 300 s: {waited:?}");
    world.end(&next, fetched(60));
    fetch = world.next().1;
    for failures in 1..50 {
        world.end(&fetch, failed());
        let status = world.status();
        assert_eq!((status.failures, status.sequence), (failures, Some(3)));
        assert_eq!(status.last_error.unwrap().text.len(), 512);
        let (waited, next) = world.next();
        assert!(near(waited, 60), "{waited:?}");
        fetch = next;
    }
    world.end(&fetch, fetched(60));
    assert_eq!((world.status().failures, world.status().last_error), (0, None));
}

#[test]
fn fe_5_consumers_that_began_together_do_not_stay_together() {
    let names: Vec<String> = (0..FETCHES_MAX).map(|number| format!("d{number}.test")).collect();
    let mut world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for fetch in world.fetches() {
        world.end(&fetch, fetched(300));
    }
    let times: std::collections::BTreeSet<Duration> = (0..FETCHES_MAX).map(|_| world.next().0).collect();
    assert!(times.len() > FETCHES_MAX / 2, "{times:?}");
}

#[test]
fn no_more_than_a_few_are_asked_at_once_and_all_are_asked() {
    let names: Vec<String> = (0..100).map(|number| format!("d{number}.test")).collect();
    let mut world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut under_way, mut asked) = (world.fetches(), std::collections::BTreeSet::new());
    while let Some(fetch) = under_way.pop() {
        assert!(under_way.len() < FETCHES_MAX);
        asked.insert(fetch.relationship.trust_domain.clone());
        world.end(&fetch, if asked.len().is_multiple_of(2) { failed() } else { fetched(300) });
        under_way.extend(world.fetches());
    }
    assert_eq!(asked.len(), 100);
    assert!(near(world.refresher.poll_timeout().since(world.now), 300));
}

#[test]
fn refresh_now_asks_at_once_and_says_when_it_has_been() {
    let mut world = World::new(&["a.test"]);
    let domain: TrustDomain = "a.test".parse().unwrap();
    let first = world.fetches().remove(0);
    // The one under way may have begun before whatever the operator has mended.
    let ended = world.refresher.refresh_now(&domain, world.now).unwrap();
    assert_eq!(world.fetches(), []);
    world.end(&first, failed());
    let second = world.fetches().remove(0);
    assert!(world.refresher.ended(&domain).unwrap() <= ended);
    world.end(&second, fetched(300));
    assert!(world.refresher.ended(&domain).unwrap() > ended);
    assert_eq!(world.fetches(), []);
    let ended = world.refresher.refresh_now(&domain, world.now).unwrap();
    let third = world.fetches().remove(0);
    world.end(&third, fetched(300));
    assert!(world.refresher.ended(&domain).unwrap() > ended);
    assert!(world.refresher.refresh_now(&"b.test".parse().unwrap(), world.now).is_err());
}

#[test]
fn what_comes_for_a_relationship_that_has_ended_or_changed_counts_for_nothing() {
    let mut world = World::new(&["a.test", "b.test"]);
    let fetches = world.fetches();
    world.set(&["b.test"]);
    world.end(&fetches[0], fetched(10));
    let statuses: Vec<_> = world.refresher.statuses(world.now, WALL).collect();
    assert_eq!((statuses.len(), statuses[0].sequence), (1, None));
    let moved = FederationRelationship { url: "https://new.test/".parse().unwrap(), ..relationship("b.test") };
    world.refresher.set_relationships([(moved.clone(), Some(Duration::from_secs(60)))], world.now);
    world.end(&fetches[1], fetched(10));
    let begun = world.fetches();
    assert_eq!((begun.len(), &begun[0].relationship), (1, &moved), "a changed one is asked at once");
    assert_eq!((world.status().interval_s, world.status().sequence), (60, None));
    // The same again changes nothing.
    world.refresher.set_relationships([(moved, Some(Duration::from_secs(60)))], world.now);
    assert_eq!(world.fetches(), []);
    assert!(world.status().is_fetching);
}

#[test]
fn a_relationship_that_ends_before_its_fetch_begins_is_not_fetched() {
    let mut world = World::new(&["a.test"]);
    world.set(&[]);
    assert_eq!(world.fetches(), []);
    assert_eq!(world.refresher.poll_timeout(), Instant::FAR_FUTURE);
}
