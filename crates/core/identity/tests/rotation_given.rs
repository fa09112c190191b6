//! SVIDs that a Workload API gives, in virtual time: adopted, refused, kept, taken back.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::{
    AdoptError, AuthorityConfig, Bundle, Rotation, RotationConfig, RotationEvent, RotationStatus, Svid, SvidSource,
    signing_request,
};
use x0t_model::{Entropy, Instant, UnixTime};

const START: Instant = Instant::from_millis(1_000_000);

struct World {
    mesh: Mesh,
    rotation: Rotation,
    first: Svid,
}

impl World {
    fn new() -> Self {
        let mut mesh = Mesh::with(AuthorityConfig::default());
        let first = mesh.join("beta");
        let config = RotationConfig { source: SvidSource::WorkloadApi, ..RotationConfig::default() };
        let rotation = Rotation::new(first.clone(), config, Entropy::new([5; 32]), START, NOW);
        Self { mesh, rotation, first }
    }

    fn bundle(&self) -> Bundle {
        self.mesh.authority.bundle().clone()
    }

    /// The next SVID of `beta`, issued `after` the beginning.
    fn next(&mut self, after: u64) -> Svid {
        let key = self.mesh.key();
        let csr = signing_request(&key).unwrap();
        let node = id("spiffe://mesh.test/node/beta");
        let issued = self.mesh.authority.renew(&node, &csr, &mut self.mesh.entropy, NOW + secs(after)).unwrap();
        support::svid(issued, key)
    }

    fn give(&mut self, svid: Svid, after: u64) -> Result<bool, AdoptError> {
        let bundle = self.bundle();
        let (now, wall) = at(after);
        self.rotation.handle_given(svid, &bundle, now, wall)
    }

    fn fail(&mut self, after: u64) {
        let (now, wall) = at(after);
        self.rotation.handle_source_failure("connection refused".to_owned(), now, wall);
    }

    /// Sleeps as a runtime would until `after`, and gives what was told by then.
    fn run_to(&mut self, after: u64) -> Vec<RotationEvent> {
        loop {
            let next = self.rotation.poll_timeout().unwrap().min(START + secs(after));
            let wall = NOW + secs(next.since(START).as_secs());
            self.rotation.handle_timeout(next, wall, &mut self.mesh.keys);
            assert_eq!(self.rotation.poll_request(), None, "nothing is ever asked");
            if next == START + secs(after) {
                return std::iter::from_fn(|| self.rotation.poll_event()).collect();
            }
        }
    }

    fn status(&self, after: u64) -> RotationStatus {
        self.rotation.status(NOW + secs(after))
    }
}

fn at(after: u64) -> (Instant, UnixTime) {
    (START + secs(after), NOW + secs(after))
}

fn is_degraded(event: &RotationEvent) -> bool {
    matches!(event, RotationEvent::Degraded { .. })
}

#[test]
fn what_is_given_is_adopted_and_what_is_given_again_is_no_news() {
    let mut world = World::new();
    assert_eq!(world.give(world.first.clone(), 5), Ok(false));
    let second = world.next(1800);
    assert_eq!(world.give(second.clone(), 1800), Ok(true));
    assert_eq!(world.rotation.svid().chain(), second.chain());
    let events = world.run_to(1900);
    assert!(matches!(events[..], [RotationEvent::Updated { .. }]), "{events:?}");
    assert_eq!(world.rotation.view(NOW + secs(1900)).adopted, 1);
    assert_eq!(world.status(1900), RotationStatus::Valid);
}

#[test]
fn wc_8_what_a_stranger_would_refuse_or_belongs_to_another_leaves_the_valid_one_in_use() {
    let mut world = World::new();
    let (second, stranger) = (world.next(10), world.mesh.join("gamma"));
    let empty = Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 0).unwrap();
    let (now, wall) = at(10);
    let verdict = world.rotation.handle_given(second.clone(), &empty, now, wall);
    assert!(matches!(verdict, Err(AdoptError::Refused(_))), "{verdict:?}");
    assert!(matches!(world.give(stranger, 11), Err(AdoptError::OtherIdentity { .. })));
    let too_early = world.next(7200);
    assert!(matches!(world.give(too_early, 12), Err(AdoptError::Refused(_))));
    assert_eq!(world.rotation.svid().chain(), world.first.chain());
    assert_eq!(world.status(12), RotationStatus::Degraded);
    assert_eq!(world.run_to(20).iter().filter(|event| is_degraded(event)).count(), 1, "told once");
    assert_eq!(world.give(second, 21), Ok(true));
    assert_eq!(world.status(21), RotationStatus::Valid);
}

#[test]
fn l13_a_source_that_fails_costs_nothing_until_the_svid_ends() {
    let mut world = World::new();
    world.fail(100);
    world.fail(200);
    assert_eq!(world.status(200), RotationStatus::Degraded);
    assert_eq!(world.rotation.view(NOW + secs(200)).last_error.as_deref(), Some("connection refused"));
    assert!(world.rotation.svid_to_show().is_some());
    let events = world.run_to(3700);
    assert!(matches!(
        events[..],
        [RotationEvent::Degraded { .. }, RotationEvent::Critical { .. }, RotationEvent::Expired]
    ));
    assert!(world.rotation.svid_to_show().is_some(), "peers are told by its end, not by its absence");
    let next = world.next(3700);
    assert_eq!(world.give(next, 3700), Ok(true), "and it heals");
    assert_eq!(world.status(3700), RotationStatus::Valid);
}

#[test]
fn a_source_that_is_well_again_with_the_same_svid_is_forgiven() {
    let mut world = World::new();
    world.fail(100);
    assert_eq!(world.give(world.first.clone(), 130), Ok(false));
    assert_eq!(world.status(130), RotationStatus::Valid);
    assert_eq!(world.rotation.view(NOW + secs(130)).last_error, None);
    world.fail(200);
    assert_eq!(world.run_to(210).iter().filter(|event| is_degraded(event)).count(), 2, "the second time is news again");
}

#[test]
fn a_source_that_falls_silent_is_told_of_long_before_the_end() {
    let mut world = World::new();
    // The SVID lives from a minute before the beginning to an hour after it.
    assert_eq!(world.run_to(2680), []);
    let events = world.run_to(2690);
    assert!(matches!(&events[..], [RotationEvent::Degraded { reason }] if reason.contains("has not renewed")));
    assert_eq!(world.status(2690), RotationStatus::Degraded);
    assert!(world.rotation.view(NOW + secs(2690)).last_error.is_some());
    world.give(world.first.clone(), 2700).unwrap();
    assert_eq!(world.run_to(2800), [], "the same one again is no renewal, and no news");
}

#[test]
fn wc_6_an_identity_that_is_taken_back_is_shown_no_more_until_it_is_given_again() {
    let mut world = World::new();
    let (now, wall) = at(50);
    world.rotation.handle_withdrawn("no identity issued".to_owned(), now, wall);
    world.rotation.handle_withdrawn("no identity issued".to_owned(), now, wall);
    world.fail(51);
    assert_eq!(world.status(51), RotationStatus::Withdrawn);
    assert!(world.rotation.svid_to_show().is_none());
    let events = world.run_to(2 * HOUR.as_secs());
    assert!(
        matches!(&events[..], [RotationEvent::Withdrawn { reason }] if reason == "no identity issued"),
        "{events:?}"
    );
    let again = world.next(7200);
    assert_eq!(world.give(again, 7200), Ok(true));
    assert_eq!((world.status(7200), world.rotation.svid_to_show().is_some()), (RotationStatus::Valid, true));
}

#[test]
fn wc_6_the_very_same_svid_given_again_is_news_after_it_was_taken_back() {
    let mut world = World::new();
    let (now, wall) = at(50);
    world.rotation.handle_withdrawn("no identity issued".to_owned(), now, wall);
    assert_eq!(world.give(world.first.clone(), 60), Ok(true));
    assert_eq!(world.status(60), RotationStatus::Valid);
}

#[test]
fn a_node_that_asks_an_authority_takes_nothing_from_a_workload_api() {
    let mut world = World::new();
    let svid = world.first.clone();
    let mut rotation = Rotation::new(svid.clone(), RotationConfig::default(), Entropy::new([1; 32]), START, NOW);
    let bundle = world.bundle();
    let second = world.next(10);
    assert_eq!(rotation.handle_given(second, &bundle, START, NOW), Err(AdoptError::OtherSource));
    rotation.handle_withdrawn("go away".to_owned(), START, NOW);
    rotation.handle_source_failure("connection refused".to_owned(), START, NOW);
    assert_eq!((rotation.status(NOW), rotation.poll_event()), (RotationStatus::Valid, None));
}
