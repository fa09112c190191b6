//! Rotation in virtual time: a node, an authority that may be away, and two clocks.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::ca_life::{AuthorityKind, Patience};
use x0t_identity::{
    AdoptError, AuthorityConfig, Distrust, Distrusted, Failure, KeyError, KeySource, PrivateKey, Rotation,
    RotationConfig, RotationEvent, RotationStatus,
};
use x0t_model::{Entropy, Instant, UnixTime};

#[test]
fn the_next_svid_is_asked_for_around_half_of_its_life_and_never_at_the_same_time_for_all() {
    let mut mesh = Mesh::new();
    let mut moments: Vec<u64> = (0..200)
        .map(|n| {
            let svid = mesh.join(&format!("node-{n}"));
            let life = svid.not_after().since(svid.not_before()).as_secs();
            let world = Rotation::new(svid.clone(), RotationConfig::default(), Entropy::new([1; 32]), START, NOW);
            let after = world.renew_at().since(svid.not_before()).as_secs();
            assert!((life * 45 / 100..=life * 55 / 100 + 1).contains(&after), "{after} of {life}");
            // Fixed at issuance: another seed, another start, the same moment.
            let later = Rotation::new(svid, RotationConfig::default(), Entropy::new([2; 32]), START, NOW + secs(900));
            assert_eq!(later.renew_at(), world.renew_at());
            after
        })
        .collect();
    moments.sort_unstable();
    moments.dedup();
    assert!(moments.len() > 100, "200 nodes renew at {} different seconds", moments.len());
    assert!(moments.last().unwrap() - moments[0] > 300, "spread over more than five minutes");
}

#[test]
fn an_identity_is_kept_fresh_for_a_day() {
    let mut world = World::new();
    world.run(secs(24 * 3600));
    assert!(world.rotation.view(world.wall).adopted >= 43);
    assert_eq!(world.rotation.status(world.wall), RotationStatus::Valid);
    assert!(world.events.iter().all(|event| matches!(event, RotationEvent::Updated { .. })), "{:?}", world.events);
    assert_eq!(world.seconds_without_valid_svid, 0);
}

#[test]
fn an_authority_that_is_away_for_less_than_half_a_life_is_never_noticed_by_peers() {
    let mut world = World::new();
    world.away(secs(1000)..secs(3200));
    world.run(secs(3 * 3600));
    assert_eq!(world.seconds_without_valid_svid, 0);
    let degraded = world.events.iter().filter(|event| matches!(event, RotationEvent::Degraded { .. })).count();
    assert_eq!(degraded, 1, "told once, not per attempt: {:?}", world.events);
    assert!(!world.events.contains(&RotationEvent::Expired));
    assert_eq!(world.rotation.status(world.wall), RotationStatus::Valid);
}

#[test]
fn an_authority_that_is_away_for_longer_than_a_life_is_told_step_by_step_and_healed_from() {
    let mut world = World::new();
    world.away(secs(0)..secs(2 * 3600));
    world.run(secs(3 * 3600));
    let kinds: Vec<&str> = world.events.iter().map(kind).collect();
    assert_eq!(kinds[..4], ["degraded", "critical", "expired", "updated"]);
    let RotationEvent::Critical { remaining } = world.events[1] else { panic!("{:?}", world.events) };
    assert!(remaining <= secs(366) && remaining >= secs(360), "{remaining:?}");
    assert_eq!(world.rotation.status(world.wall), RotationStatus::Valid);
    // Away from second 0 to 7,200, valid until second 3,600, back at most a longest pause after the authority.
    assert!((3599..=3600 + 155).contains(&world.seconds_without_valid_svid), "{}", world.seconds_without_valid_svid);
    // Half a life of failures: pauses double from half a second to 150 s, are 5 s at most near the end, then long again.
    assert!((40..400).contains(&world.requests.len()), "{} requests", world.requests.len());
    // The last six minutes before the end: never a pause above 5 s, and no two nodes in step.
    let near_the_end = (START + secs(3260))..(START + secs(3590));
    let pauses: Vec<Duration> = world.pauses_during(near_the_end);
    assert!(pauses.len() > 66 && pauses.iter().all(|pause| *pause <= secs(5)), "{pauses:?}");
    assert!(pauses.iter().filter(|pause| **pause == secs(5)).count() < 3, "jittered: {pauses:?}");
}

#[test]
fn l13_an_answer_that_is_no_good_never_replaces_a_valid_svid() {
    let mut world = World::new();
    let before = world.rotation.svid().clone();
    let request = world.request_due();
    let bundle = world.mesh.authority.bundle().clone();
    let stranger = world.mesh.join("gamma");
    let mut late =
        world.mesh.authority.renew(before.spiffe_id(), &request, &mut world.mesh.entropy, world.wall).unwrap();
    let (now, wall) = (world.now, world.wall);
    let mut offer = |chain: Vec<_>| world.rotation.handle_issued(chain, &bundle, now, wall);
    assert!(matches!(offer(Vec::new()), Err(AdoptError::Refused(_))));
    assert!(matches!(offer(stranger.chain().to_vec()), Err(AdoptError::OtherIdentity { .. })));
    assert!(matches!(offer(before.chain().to_vec()), Err(AdoptError::Svid(_))), "our name, but not our new key");
    let empty = x0t_identity::Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 7).unwrap();
    let verdict = world.rotation.handle_issued(late.chain.clone(), &empty, now, wall);
    assert!(matches!(verdict, Err(AdoptError::Refused(_))), "a stranger would not believe it");
    assert_eq!(world.rotation.svid().chain(), before.chain());
    assert_eq!(world.rotation.status(wall), RotationStatus::Degraded);
    // The right answer, late: the key of the round is still the same.
    assert_eq!(world.rotation.handle_issued(std::mem::take(&mut late.chain), &bundle, now, wall), Ok(()));
    assert_eq!(world.rotation.svid().not_after(), wall + HOUR);
    let again = world.rotation.handle_issued(stranger.chain().to_vec(), &bundle, now, wall);
    assert_eq!(again, Err(AdoptError::NotAsked));
}

#[test]
fn l11_a_suspend_of_six_hours_is_noticed_at_the_next_look() {
    let mut world = World::new();
    world.run(secs(600));
    // The monotonic clock stands still while the machine sleeps; the next look is at most `recheck` away.
    world.wall = world.wall + 6 * HOUR;
    let next = world.rotation.poll_timeout().unwrap();
    assert!(next.since(world.now) <= secs(30));
    world.advance_to(next);
    let kinds: Vec<&str> = world.events.iter().map(kind).collect();
    assert_eq!(kinds, ["clock_jumped", "expired", "updated"]);
    assert_eq!(world.rotation.status(world.wall), RotationStatus::Valid);
}

#[test]
fn a_clock_that_jumps_forth_and_back_is_told_and_cries_wolf_only_once_per_jump() {
    let mut world = World::new();
    world.away(secs(0)..secs(24 * 3600));
    world.run(secs(600));
    world.jump(|wall| wall + 2 * HOUR);
    world.run(secs(10));
    world.jump(|wall| wall - 2 * HOUR);
    world.run(secs(10));
    assert_eq!(world.rotation.status(world.wall), RotationStatus::Degraded);
    let kinds: Vec<&str> = world.events.iter().map(kind).collect();
    assert_eq!(kinds[..2], ["clock_jumped", "expired"]);
    assert!(matches!(world.events.iter().find(|event| kind(event) == "clock_jumped"),
        Some(RotationEvent::ClockJumped { forward: true, by }) if *by == 2 * HOUR));
    world.events.clear();
    world.run(secs(2 * 3600));
    let kinds: Vec<&str> = world.events.iter().map(kind).collect();
    assert_eq!(kinds, ["critical", "expired"], "what comes true after the clock is right again is told again");
}

#[test]
fn a_refusal_by_the_authority_is_followed_by_long_pauses() {
    let mut world = World::new();
    world.refuse = true;
    world.run(secs(3600));
    let pauses = world.pauses_during(START..START + secs(3600));
    assert!(pauses.iter().all(|pause| *pause <= secs(150)), "{pauses:?}");
    assert!(pauses[..6].iter().sum::<Duration>() > secs(120), "long from the first one on: {pauses:?}");
    assert_eq!(world.rotation.view(world.wall).last_error.as_deref(), Some("no such node"));
}

#[test]
fn an_unanswered_request_is_repeated_with_the_same_key() {
    let mut world = World::new();
    let first = world.request_due();
    let deadline = world.rotation.poll_timeout().unwrap();
    assert_eq!(deadline.since(world.now), secs(10));
    let (mut now, mut again) = (deadline, None);
    while again.is_none() {
        world.rotation.handle_timeout(now, world.wall + secs(10), &mut world.mesh.keys);
        again = world.rotation.poll_request();
        now = world.rotation.poll_timeout().unwrap();
    }
    assert_eq!(again, Some(first), "Ed25519 signs the same request the same way");
}

#[test]
fn a_source_without_keys_degrades_and_does_not_spin() {
    let mut rotation = World::new().rotation;
    let (now, wall) = (START + secs(2100), NOW + secs(2100));
    rotation.handle_timeout(now, wall, &mut NoKeys);
    assert_eq!(rotation.poll_request(), None);
    assert_eq!(rotation.status(wall), RotationStatus::Degraded);
    assert!(rotation.poll_timeout().unwrap() >= now + Duration::from_millis(500));
}

#[test]
fn lives_from_twenty_seconds_to_a_day_are_kept_without_a_gap() {
    for ttl in [20, 60, 600, 86_400] {
        let mut world = World::with(secs(ttl));
        world.run(secs(ttl * 3));
        assert_eq!(world.seconds_without_valid_svid, 0, "{ttl} s");
        assert!((4..=8).contains(&world.rotation.view(world.wall).adopted), "{ttl} s");
        assert!(world.events.iter().all(|event| kind(event) == "updated"), "{ttl} s: {:?}", world.events);
    }
}

#[test]
fn news_that_nobody_fetches_does_not_pile_up() {
    let mut world = World::new();
    for n in 0..1000_u64 {
        let wall = if n % 2 == 0 { NOW } else { NOW + secs(100) };
        world.rotation.handle_timeout(START, wall, &mut world.mesh.keys);
    }
    assert_eq!(std::iter::from_fn(|| world.rotation.poll_event()).count(), 64);
}

#[test]
fn a_tainted_svid_is_replaced_within_seconds_not_in_step_with_others_and_kept_meanwhile() {
    let mut moments = BTreeSet::new();
    for seed in 0..50 {
        let mut world = World::new();
        let svid = world.rotation.svid().clone();
        world.rotation = Rotation::new(svid.clone(), RotationConfig::default(), Entropy::new([seed; 32]), START, NOW);
        world.run(secs(60));
        let told_at = world.now;
        world.taint();
        assert_eq!(world.rotation.view(world.wall).distrust, Some(Distrust::Tainted));
        assert_eq!(world.rotation.svid().chain(), svid.chain(), "it is valid until there is another");
        world.run(secs(5));
        let kinds: Vec<&str> = world.events.iter().map(kind).collect();
        assert_eq!(kinds, ["distrusted", "updated"]);
        assert_eq!(world.rotation.view(world.wall).distrust, None);
        moments.insert(world.requests[0].since(told_at).as_millis() / 100);
        // The next one follows at its own half of life.
        world.run(secs(1000));
        assert_eq!(world.requests.len(), 1);
    }
    assert!(moments.len() > 20, "50 nodes ask in {} different tenths of a second", moments.len());
}

#[test]
fn a_late_answer_of_a_tainted_authority_is_not_adopted_and_another_is_asked_for() {
    let mut world = World::new();
    let request = world.request_due();
    let node = id("spiffe://mesh.test/node/beta");
    let late = world.mesh.authority.renew(&node, &request, &mut world.mesh.entropy, world.wall).unwrap();
    world.taint();
    let bundle = world.mesh.authority.bundle().clone();
    let verdict = world.rotation.handle_issued(late.chain, &bundle, world.now, world.wall);
    assert_eq!(verdict, Err(AdoptError::Distrusted(Distrust::Tainted)));
    world.run(secs(2));
    assert_eq!(world.rotation.view(world.wall).adopted, 1);
}

#[test]
fn a_taint_shortens_a_long_pause_unless_the_authority_has_refused() {
    for refuse in [false, true] {
        let mut world = World::new();
        world.refuse = refuse;
        world.away(secs(0)..secs(3000));
        world.run(secs(2700));
        let before = world.requests.len();
        world.away(secs(0)..secs(0));
        world.taint();
        world.run(secs(5));
        let asked = world.requests.len() > before;
        assert_eq!(asked, !refuse, "a refusal is not asked about again and again");
        assert_eq!(world.rotation.view(world.wall).adopted, u64::from(!refuse));
    }
}

#[test]
fn an_svid_on_the_revocation_list_is_replaced_and_those_of_others_are_not() {
    let mut world = World::new();
    world.mesh.join("gamma");
    let crls = |world: &World| {
        let lists = world.mesh.authority.crls(world.wall).unwrap();
        lists.iter().map(|list| list.to_vec()).collect::<Vec<_>>()
    };
    world.mesh.authority.revoke_svids(&id("spiffe://mesh.test/node/gamma"), NOW).unwrap();
    let others = Distrusted::of(BTreeSet::new(), &crls(&world));
    assert_eq!(others.revoked.len(), 1);
    world.rotation.set_distrusted(others, world.now, world.wall);
    world.run(secs(10));
    assert_eq!(world.requests.len(), 0);
    world.mesh.authority.revoke_svids(&id("spiffe://mesh.test/node/beta"), NOW).unwrap();
    let ours = Distrusted::of(BTreeSet::new(), &crls(&world));
    world.rotation.set_distrusted(ours, world.now, world.wall);
    world.run(secs(5));
    assert_eq!(world.events, [RotationEvent::Distrusted(Distrust::Revoked), world.events[1].clone()]);
    assert_eq!(world.rotation.view(world.wall).adopted, 1);
}

const START: Instant = Instant::from_millis(1_000_000);

struct NoKeys;

impl KeySource for NoKeys {
    fn generate(&mut self) -> Result<PrivateKey, KeyError> {
        Err(KeyError::Generation)
    }

    fn generate_p256(&mut self) -> Result<PrivateKey, KeyError> {
        Err(KeyError::Generation)
    }
}

fn kind(event: &RotationEvent) -> &'static str {
    match event {
        RotationEvent::Updated { .. } => "updated",
        RotationEvent::Degraded { .. } => "degraded",
        RotationEvent::Critical { .. } => "critical",
        RotationEvent::Expired => "expired",
        RotationEvent::Distrusted(_) => "distrusted",
        RotationEvent::Withdrawn { .. } => "withdrawn",
        RotationEvent::ClockJumped { .. } => "clock_jumped",
    }
}

/// One node, its authority, and both clocks.
struct World {
    mesh: Mesh,
    rotation: Rotation,
    now: Instant,
    wall: UnixTime,
    away: std::ops::Range<Duration>,
    refuse: bool,
    /// When each request was made.
    requests: Vec<Instant>,
    events: Vec<RotationEvent>,
    seconds_without_valid_svid: u64,
}

impl World {
    fn new() -> Self {
        Self::with(HOUR)
    }

    fn with(svid_ttl: Duration) -> Self {
        let mut mesh = Mesh::with(AuthorityConfig { svid_ttl, ..AuthorityConfig::default() });
        let svid = mesh.join("beta");
        let rotation = Rotation::new(svid, RotationConfig::default(), Entropy::new([5; 32]), START, NOW);
        let away = Duration::ZERO..Duration::ZERO;
        Self {
            mesh,
            rotation,
            now: START,
            wall: NOW,
            away,
            refuse: false,
            requests: Vec::new(),
            events: Vec::new(),
            seconds_without_valid_svid: 0,
        }
    }

    /// The authority that signs is replaced and tainted, and the node hears of it.
    fn taint(&mut self) {
        let Mesh { authority, keys, entropy } = &mut self.mesh;
        let leaked = authority.signer().unwrap().key_id();
        authority.prepare_ca(AuthorityKind::X509, keys, entropy, self.wall).unwrap();
        authority.activate_ca(AuthorityKind::X509, Patience::Force, self.wall).unwrap();
        authority.taint_ca(leaked, self.wall).unwrap();
        let distrusted = Distrusted::of(authority.life().tainted().collect(), &[]);
        self.rotation.set_distrusted(distrusted, self.now, self.wall);
    }

    fn away(&mut self, during: std::ops::Range<Duration>) {
        self.away = during;
    }

    fn jump(&mut self, change: impl FnOnce(UnixTime) -> UnixTime) {
        self.wall = change(self.wall);
    }

    /// Sleeps as a runtime would: until the machine wants to be woken, and not before.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let next = self.rotation.poll_timeout().unwrap().max(self.now + Duration::from_millis(1)).min(end);
            self.advance_to(next);
        }
    }

    fn advance_to(&mut self, next: Instant) {
        let elapsed = |instant: Instant| instant.since(START).as_secs();
        for _ in elapsed(self.now)..elapsed(next) {
            self.wall = self.wall + secs(1);
            let svid = self.rotation.svid();
            let valid = svid.not_before() <= self.wall && self.wall <= svid.not_after();
            self.seconds_without_valid_svid += u64::from(!valid);
        }
        self.now = next;
        self.rotation.handle_timeout(self.now, self.wall, &mut self.mesh.keys);
        while let Some(request) = self.rotation.poll_request() {
            self.answer(&request);
        }
        self.events.extend(std::iter::from_fn(|| self.rotation.poll_event()));
    }

    fn answer(&mut self, request: &[u8]) {
        self.requests.push(self.now);
        let since_start = self.now.since(START);
        if self.refuse {
            self.rotation.handle_failure(&Failure::Refused("no such node".to_owned()), self.now, self.wall);
        } else if self.away.contains(&since_start) {
            let failure = Failure::Unavailable("connection refused".to_owned());
            self.rotation.handle_failure(&failure, self.now, self.wall);
        } else {
            let node = id("spiffe://mesh.test/node/beta");
            let issued = self.mesh.authority.renew(&node, request, &mut self.mesh.entropy, self.wall).unwrap();
            let bundle = self.mesh.authority.bundle().clone();
            self.rotation.handle_issued(issued.chain, &bundle, self.now, self.wall).unwrap();
        }
    }

    /// The times between requests that were made within `during`.
    fn pauses_during(&self, during: std::ops::Range<Instant>) -> Vec<Duration> {
        let times: Vec<Instant> = self.requests.iter().copied().filter(|time| during.contains(time)).collect();
        times.windows(2).map(|pair| pair[1].since(pair[0])).collect()
    }

    /// The first request of the round, unanswered.
    fn request_due(&mut self) -> Vec<u8> {
        let due = self.rotation.renew_at();
        self.now += due.since(self.wall);
        self.wall = due;
        self.rotation.handle_timeout(self.now, self.wall, &mut self.mesh.keys);
        self.rotation.poll_request().unwrap()
    }
}
