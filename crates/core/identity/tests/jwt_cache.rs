//! The JWT-SVID cache in virtual time: its life as a list of cases, and against simpler truths.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use support::jwt::{key_id, public_key};
use support::{NOW, id, secs};
use x0t_identity::{
    AudienceSet, Bundle, Fetch, FetchFailure, FetchId, JwtCache, JwtCacheConfig, JwtCacheError, JwtCacheKey, JwtSvid,
    Lookup, WaiterId,
};
use x0t_model::{Instant, UnixTime};

#[test]
fn the_first_caller_waits_and_the_second_is_served_from_the_cache() {
    let mut world = World::new(JwtCacheConfig::default());
    let waiter = world.must_wait("web", "db");
    let fetch = world.only_fetch();
    assert_eq!(fetch.key, key("web", "db"));
    let svid = world.complete(&fetch);
    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(svid.clone())))]);
    assert_eq!(world.served("web", "db"), svid);
    assert_eq!(world.fetches(), []);
    let stats = world.cache.stats();
    assert_eq!((stats.tokens, stats.hits, stats.misses, stats.fetched), (1, 1, 1, 1));
}

#[test]
fn l21_two_entries_of_one_identity_have_a_token_each_and_lose_it_alone() {
    let mut world = World::new(JwtCacheConfig::default());
    let (long, short) = (key_by("long", "web", "db"), key_by("short", "web", "db"));
    for (key, life) in [(&long, 3600), (&short, 60)] {
        let wait = world.cache.get(key, world.now, world.wall);
        assert!(matches!(wait, Lookup::Wait(_)), "{wait:?}");
        let fetch = world.only_fetch();
        assert_eq!(fetch.key, *key, "the entry that was asked by is the one to ask with");
        let svid = world.mint("web", "db", "k1", life);
        world.answer_with(&fetch, Ok(svid));
    }
    let life = |world: &mut World, key: &JwtCacheKey| match world.cache.get(key, world.now, world.wall) {
        Lookup::Serve(svid) => Some(svid.expires_at().since(svid.issued_at())),
        Lookup::Wait(_) | Lookup::Refused(_) => None,
    };
    assert_eq!((life(&mut world, &long), life(&mut world, &short)), (Some(secs(3600)), Some(secs(60))));
    world.cache.forget_entry(&long.entry);
    assert_eq!((life(&mut world, &long), life(&mut world, &short)), (None, Some(secs(60))));
    // Whoever waits for a token of an entry that goes is told.
    let fetch = world.only_fetch();
    world.cache.forget_entry(&long.entry);
    let forgotten = world.answers().pop().map(|(_, answer)| answer);
    assert_eq!(forgotten, Some(Err(JwtCacheError::Forgotten)));
    let late = world.mint("web", "db", "k1", 3600);
    world.answer_with(&fetch, Ok(late));
    assert_eq!(life(&mut world, &long), None, "what comes late is not kept");
}

#[test]
fn callers_that_ask_for_the_same_token_share_one_fetch() {
    let mut world = World::new(JwtCacheConfig::default());
    let waiters: Vec<_> = (0..64).map(|_| world.must_wait("web", "db")).collect();
    let other = world.must_wait("web", "queue");
    let fetches = world.fetches();
    assert_eq!(fetches.len(), 2);
    world.complete(&fetches[0]);
    assert_eq!(world.answers().into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>(), waiters);
    world.complete(&fetches[1]);
    assert_eq!(world.answers()[0].0, other);
}

#[test]
fn audiences_in_another_order_are_the_same_audiences() {
    let mut world = World::new(JwtCacheConfig::default());
    world.fetch("web", "a b");
    world.served("web", "b a b");
    assert!(matches!(world.get("web", "a"), Lookup::Wait(_)));
}

#[test]
fn a_used_token_is_refreshed_at_half_of_its_life_without_anybody_waiting() {
    let mut world = World::new(JwtCacheConfig::default());
    let first = world.fetch("web", "db");
    world.pass(134);
    assert_eq!(world.fetches(), [], "not before 45 %");
    world.pass(31);
    assert_eq!(world.served("web", "db"), first);
    let second = {
        let fetch = world.only_fetch();
        world.complete(&fetch)
    };
    assert_ne!(second, first);
    assert_eq!(world.served("web", "db"), second);
}

#[test]
fn a_token_that_nobody_uses_is_refreshed_once_and_then_left_to_end() {
    let mut world = World::new(JwtCacheConfig::default());
    world.fetch("web", "db");
    world.pass(170);
    let fetch = world.only_fetch();
    world.complete(&fetch);
    world.pass(299);
    assert_eq!(world.fetches(), []);
    assert_eq!(world.cache.stats().tokens, 1);
    world.pass(1);
    assert_eq!(world.cache.stats().tokens, 0, "what has ended is not kept");
    // A late use of another brings its refresh with it.
    world.fetch("web", "queue");
    world.pass(170);
    let fetch = world.only_fetch();
    world.complete(&fetch);
    world.pass(200);
    world.served("web", "queue");
    assert_eq!(world.only_fetch().key, key("web", "queue"));
}

#[test]
fn the_moment_of_a_refresh_belongs_to_the_token_and_differs_between_tokens() {
    let mut moments = BTreeSet::new();
    let mut world = World::new(JwtCacheConfig { capacity_per_identity: 10_000, ..Default::default() });
    for number in 0..200 {
        world.fetch("web", &format!("audience-{number}"));
    }
    let mut refreshed = 0;
    for second in 0..170 {
        world.pass(1);
        let fetches = world.fetches();
        refreshed += fetches.len();
        moments.extend(fetches.first().map(|_| second));
        assert!(fetches.len() < 40, "{} at once", fetches.len());
        fetches.iter().for_each(|fetch| drop(world.complete(fetch)));
    }
    assert_eq!(refreshed, 200);
    assert!(moments.len() > 15, "spread over {} seconds", moments.len());
}

#[test]
fn l22_while_the_source_hangs_whoever_has_a_valid_token_is_served_at_once() {
    let mut world = World::new(JwtCacheConfig::default());
    let svid = world.fetch("web", "db");
    let (mut waits, mut serves) = (0, 0);
    // From half of its life to its last second; the source swallows every request.
    for _ in 0..2990 {
        world.pass_exactly(Duration::from_millis(100));
        drop(world.fetches());
        match world.get("web", "db") {
            Lookup::Serve(served) => {
                assert_eq!(*served, svid);
                serves += 1;
            }
            Lookup::Wait(_) => waits += 1,
            Lookup::Refused(error) => panic!("{error}"),
        }
        for (_, answer) in world.answers() {
            assert_eq!(answer.as_deref(), Ok(&svid));
        }
    }
    assert!(serves > 2950 && waits < 30, "{serves} served, {waits} waited");
}

#[test]
fn l22_a_caller_whose_token_is_about_to_end_waits_shortly_for_a_refresh_and_falls_back() {
    let mut world = World::new(JwtCacheConfig::default());
    let svid = world.fetch("web", "db");
    // Nobody looked at the clock meanwhile: the refresh begins with this caller.
    world.jump(280);
    let Lookup::Wait(waiter) = world.get("web", "db") else { panic!("a refresh is worth a moment") };
    let fetch = world.only_fetch();
    world.pass_exactly(Duration::ZERO);
    assert_eq!(world.cache.poll_timeout(), Some(world.now + Duration::from_millis(250)));
    world.pass_exactly(Duration::from_millis(250));
    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(svid.clone())))]);
    assert_eq!(world.served("web", "db"), svid, "the next one does not wait for what hangs");
    let fresh = world.complete(&fetch);
    assert_eq!(world.served("web", "db"), fresh);
}

#[test]
fn l22_a_refresh_that_comes_in_time_serves_the_caller_that_waits() {
    let mut world = World::new(JwtCacheConfig::default());
    world.fetch("web", "db");
    world.jump(280);
    let Lookup::Wait(waiter) = world.get("web", "db") else { panic!("a refresh is worth a moment") };
    let fetch = world.only_fetch();
    let fresh = world.complete(&fetch);
    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(fresh)))]);
}

#[test]
fn l13_a_failed_refresh_never_takes_a_valid_token_away() {
    for failure in [FetchFailure::Unavailable("down".into()), FetchFailure::Refused("no".into())] {
        let mut world = World::new(JwtCacheConfig::default());
        let svid = world.fetch("web", "db");
        let mut attempts = 0;
        for _ in 0..299 {
            world.pass(1);
            for fetch in world.fetches() {
                attempts += 1;
                world.fail(&fetch, &failure);
            }
            match world.get("web", "db") {
                Lookup::Serve(served) => assert_eq!(*served, svid),
                Lookup::Wait(waiter) => {
                    let fetch = world.only_fetch();
                    world.fail(&fetch, &failure);
                    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(svid.clone())))]);
                }
                Lookup::Refused(error) => panic!("{error}"),
            }
        }
        assert!((5..40).contains(&attempts), "{attempts} attempts in half of its life");
        world.pass(1);
        let waiter = world.must_wait("web", "db");
        let fetch = world.only_fetch();
        world.fail(&fetch, &failure);
        assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::Fetch(failure)))]);
    }
}

#[test]
fn l21_a_token_is_kept_under_the_identity_that_it_names() {
    let mut world = World::new(JwtCacheConfig::default());
    let waiter = world.must_wait("old-name", "db");
    let fetch = world.only_fetch();
    // The entry was renamed while the request was under way.
    let svid = world.mint("new-name", "db", "k1", 300);
    world.answer_with(&fetch, Ok(svid.clone()));
    assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::OtherIdentity(identity("new-name"))))]);
    assert!(matches!(world.get("old-name", "db"), Lookup::Wait(_)));
    assert_eq!(world.served("new-name", "db"), svid);
}

#[test]
fn a_token_that_has_ended_or_is_for_another_audience_is_of_no_use() {
    for (audience, life) in [("db", 0), ("queue", 300), ("db queue", 300)] {
        let mut world = World::new(JwtCacheConfig::default());
        let waiter = world.must_wait("web", "db");
        let fetch = world.only_fetch();
        let svid = world.mint("web", audience, "k1", life);
        world.answer_with(&fetch, Ok(svid));
        assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::Fetch(FetchFailure::Unusable)))]);
        assert_eq!(world.cache.stats().tokens, 0);
    }
}

#[test]
fn a_key_that_leaves_the_bundle_takes_its_tokens_along() {
    let mut world = World::new(JwtCacheConfig::default());
    world.cache.handle_bundle(&bundle(&["k1", "k2"]));
    let (of_k1, of_k2) = (world.mint("web", "a", "k1", 300), world.mint("web", "b", "k2", 300));
    world.put(of_k1);
    world.put(of_k2.clone());
    world.cache.handle_bundle(&bundle(&["k1", "k2", "k3"]));
    assert_eq!(world.cache.stats().tokens, 2, "a key that comes takes nothing away");
    world.cache.handle_bundle(&bundle(&["k2", "k3"]));
    assert!(matches!(world.get("web", "a"), Lookup::Wait(_)));
    assert_eq!(world.served("web", "b"), of_k2);
    assert_eq!(world.cache.stats().purged, 1);
}

#[test]
fn a_tainted_key_takes_its_tokens_along_while_it_is_still_in_the_bundle() {
    let mut world = World::new(JwtCacheConfig::default());
    world.cache.handle_bundle(&bundle(&["k1", "k2"]));
    let svid = world.mint("web", "a", "k1", 300);
    world.put(svid);
    world.cache.taint(&key_id("k1"));
    world.cache.handle_bundle(&bundle(&["k1", "k2"]));
    assert!(matches!(world.get("web", "a"), Lookup::Wait(_)));
}

#[test]
fn an_answer_that_was_under_way_when_its_key_was_taken_away_is_fetched_anew() {
    let mut world = World::new(JwtCacheConfig::default());
    let waiter = world.must_wait("web", "db");
    let fetch = world.only_fetch();
    world.cache.taint(&key_id("k1"));
    let void = world.mint("web", "db", "k1", 300);
    world.answer_with(&fetch, Ok(void));
    assert_eq!(world.answers(), []);
    let again = world.only_fetch();
    let svid = world.mint("web", "db", "k2", 300);
    world.answer_with(&again, Ok(svid.clone()));
    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(svid)))]);
}

#[test]
fn a_source_that_keeps_signing_with_a_tainted_key_is_not_asked_for_ever() {
    let mut world = World::new(JwtCacheConfig::default());
    world.cache.taint(&key_id("k1"));
    let waiter = world.must_wait("web", "db");
    let mut asked = 0;
    while let Some(fetch) = world.cache.poll_fetch(world.now) {
        asked += 1;
        let svid = world.mint("web", "db", "k1", 300);
        world.answer_with(&fetch, Ok(svid));
    }
    assert_eq!(asked, 3);
    assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::Fetch(FetchFailure::Unusable)))]);
}

#[test]
fn a_token_that_names_no_key_goes_with_any_key_and_comes_back() {
    let mut world = World::new(JwtCacheConfig::default());
    world.cache.handle_bundle(&bundle(&["k1", "k2"]));
    let nameless = world.mint("web", "a", "", 300);
    world.put(nameless.clone());
    let waiter = world.must_wait("web", "b");
    let fetch = world.only_fetch();
    world.cache.handle_bundle(&bundle(&["k2"]));
    assert_eq!(world.cache.stats().tokens, 0);
    let before = world.mint("web", "b", "", 300);
    world.answer_with(&fetch, Ok(before));
    assert_eq!(world.answers(), [], "it may be of the key that has gone");
    let again = world.only_fetch();
    let after = world.mint("web", "b", "", 300);
    world.answer_with(&again, Ok(after.clone()));
    assert_eq!(world.answers(), [(waiter, Ok(Arc::new(after)))]);
}

#[test]
fn an_identity_that_is_taken_away_leaves_nothing_behind() {
    let mut world = World::new(JwtCacheConfig::default());
    world.fetch("web", "a");
    world.fetch("db", "a");
    let waiter = world.must_wait("web", "b");
    let fetch = world.only_fetch();
    world.cache.forget_identity(&identity("web"));
    assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::Forgotten))]);
    let svid = world.mint("web", "b", "k1", 300);
    world.answer_with(&fetch, Ok(svid));
    let stats = world.cache.stats();
    assert_eq!((stats.tokens, stats.late, stats.fetching), (1, 1, 0));
    world.served("db", "a");
}

#[test]
fn a_caller_without_a_token_waits_for_so_long_and_a_fetch_that_hangs_is_given_up() {
    let mut world = World::new(JwtCacheConfig::default());
    let waiter = world.must_wait("web", "db");
    let fetch = world.only_fetch();
    world.pass_exactly(Duration::from_millis(4999));
    assert_eq!(world.answers(), []);
    world.pass_exactly(Duration::from_millis(1));
    assert_eq!(world.answers(), [(waiter, Err(JwtCacheError::TimedOut))]);
    world.pass(25);
    assert_eq!(world.cache.stats().fetching, 0);
    let svid = world.mint("web", "db", "k1", 300);
    world.answer_with(&fetch, Ok(svid));
    assert_eq!(world.cache.stats().late, 1);
    world.must_wait("web", "db");
    assert_ne!(world.only_fetch().id, fetch.id);
}

#[test]
fn callers_that_leave_are_not_answered_and_too_many_are_refused() {
    let mut world = World::new(JwtCacheConfig { waiters_max: 2, ..Default::default() });
    let (first, second) = (world.must_wait("web", "a"), world.must_wait("web", "b"));
    assert_eq!(world.get("web", "c"), Lookup::Refused(JwtCacheError::Busy));
    world.cache.cancel(first);
    let third = world.must_wait("web", "c");
    world.fetches().iter().for_each(|fetch| drop(world.complete(fetch)));
    assert_eq!(world.answers().into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>(), [second, third]);
}

#[test]
fn refreshes_are_paced_and_callers_that_wait_come_first() {
    let config = JwtCacheConfig { refreshes_per_second: 10, capacity_per_identity: 1000, ..Default::default() };
    let mut world = World::new(config);
    for number in 0..100 {
        world.fetch("web", &number.to_string());
    }
    world.pass(170);
    let waiter = world.must_wait("web", "new");
    let first = world.cache.poll_fetch(world.now).unwrap();
    assert_eq!(first.key, key("web", "new"));
    let burst = world.fetches().len();
    assert!((10..=11).contains(&burst), "a second of refreshes, not {burst}");
    let mut begun = burst;
    for _ in 0..10 {
        let due = world.cache.poll_timeout().unwrap();
        assert!(due > world.now);
        world.pass_exactly(Duration::from_millis(100));
        begun += world.fetches().len();
    }
    assert!((begun - burst).abs_diff(10) <= 1, "ten in a second, not {}", begun - burst);
    let svid = world.mint("web", "new", "k1", 300);
    world.answer_with(&first, Ok(svid));
    assert_eq!(world.answers()[0].0, waiter);
}

#[test]
fn only_so_many_fetches_are_under_way_at_once() {
    let mut world = World::new(JwtCacheConfig { fetches_max: 3, ..Default::default() });
    for number in 0..10 {
        world.must_wait("web", &number.to_string());
    }
    let fetches = world.fetches();
    assert_eq!(fetches.len(), 3);
    world.complete(&fetches[0]);
    assert_eq!(world.fetches().len(), 1);
}

#[test]
fn nobody_pushes_out_the_others_by_asking_for_ever_new_audiences() {
    let config = JwtCacheConfig { capacity: 100, capacity_per_identity: 10, ..Default::default() };
    let mut world = World::new(config);
    world.fetch("db", "a");
    for number in 0..500 {
        world.fetch("greedy", &number.to_string());
    }
    world.served("db", "a");
    assert_eq!(world.cache.stats().tokens, 11);
    world.served("greedy", "490");
    assert!(matches!(world.get("greedy", "489"), Lookup::Wait(_)));
}

#[test]
fn a_full_cache_of_the_default_size_stays_full_and_answers() {
    let mut world = World::new(JwtCacheConfig::default());
    for number in 0..12_000 {
        world.fetch(&format!("w{}", number % 100), &number.to_string());
    }
    let stats = world.cache.stats();
    assert_eq!((stats.tokens, stats.evicted), (10_000, 2_000));
    world.served("w99", "11999");
    assert!(matches!(world.get("w99", "1999"), Lookup::Wait(_)));
}

proptest! {
    /// With tokens that do not end, the cache is what a list with the newest at its end is.
    #[test]
    fn what_is_kept_is_what_was_used_last(asks in proptest::collection::vec((0_u8..3, 0_u8..6), 1..200)) {
        let (capacity, per_identity) = (8, 4);
        let config = JwtCacheConfig { capacity, capacity_per_identity: per_identity, ..Default::default() };
        let mut world = World::new(config);
        let mut list: Vec<(u8, u8)> = Vec::new();
        for ask in asks {
            let (identity, audience) = (format!("w{}", ask.0), format!("a{}", ask.1));
            let is_held = list.contains(&ask);
            list.retain(|other| *other != ask);
            match world.get(&identity, &audience) {
                Lookup::Serve(svid) => {
                    prop_assert!(is_held);
                    prop_assert_eq!(svid.spiffe_id(), &self::identity(&identity));
                }
                Lookup::Wait(_) => {
                    prop_assert!(!is_held);
                    if list.iter().filter(|other| other.0 == ask.0).count() == per_identity {
                        let oldest = list.iter().position(|other| other.0 == ask.0).unwrap();
                        list.remove(oldest);
                    }
                    if list.len() == capacity {
                        list.remove(0);
                    }
                    let fetch = world.only_fetch();
                    world.complete(&fetch);
                }
                Lookup::Refused(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            list.push(ask);
            prop_assert_eq!(world.cache.stats().tokens, list.len());
        }
    }

    /// Whatever happens, in whatever order: nobody gets a token that has ended, is somebody else's or of a key that was taken
    /// away; every caller is answered once and in time; one fetch per key; all bounds hold.
    #[test]
    fn no_order_of_events_breaks_the_promises(events in proptest::collection::vec(event(), 1..300)) {
        let config = JwtCacheConfig {
            capacity: 6,
            capacity_per_identity: 4,
            fetches_max: 3,
            waiters_max: 5,
            refreshes_per_second: 2,
            ..Default::default()
        };
        let mut world = World::new(config);
        let mut under_way: BTreeMap<FetchId, Fetch> = BTreeMap::new();
        let mut waiting: BTreeMap<WaiterId, (JwtCacheKey, Instant)> = BTreeMap::new();
        let mut tainted: BTreeSet<u8> = BTreeSet::new();
        for event in events {
            match event {
                Event::Get(identity, audience) => {
                    let key = key(&format!("w{identity}"), &format!("a{audience}"));
                    match world.cache.get(&key, world.now, world.wall) {
                        Lookup::Serve(svid) => check(&svid, &key, &world, &tainted)?,
                        Lookup::Wait(waiter) => {
                            let is_new = waiting.insert(waiter, (key, world.now + secs(5))).is_none();
                            prop_assert!(is_new);
                        }
                        Lookup::Refused(error) => prop_assert_eq!((error, waiting.len()), (JwtCacheError::Busy, 5)),
                    }
                }
                Event::Answer(which, signer, life) => {
                    let Some(fetch) = under_way.values().nth(usize::from(which) % under_way.len().max(1)).cloned() else {
                        continue;
                    };
                    under_way.remove(&fetch.id);
                    let name = fetch.key.spiffe_id.path().trim_start_matches('/').to_owned();
                    let audience = fetch.key.audience.iter().next().unwrap().to_string();
                    let svid = world.mint(&name, &audience, &format!("k{signer}"), u64::from(life));
                    world.answer_with(&fetch, Ok(svid));
                }
                Event::Fail(which) => {
                    let Some(id) = under_way.keys().nth(usize::from(which) % under_way.len().max(1)).copied() else {
                        continue;
                    };
                    let fetch = under_way.remove(&id).unwrap();
                    world.fail(&fetch, &FetchFailure::Unavailable("down".into()));
                }
                Event::Pass(millis) => world.pass_exactly(Duration::from_millis(u64::from(millis))),
                Event::Taint(signer) => {
                    tainted.insert(signer);
                    world.cache.taint(&key_id(&format!("k{signer}")));
                }
                Event::Forget(identity) => world.cache.forget_identity(&self::identity(&format!("w{identity}"))),
                Event::Cancel => {
                    if let Some((waiter, _)) = waiting.pop_first() {
                        world.cache.cancel(waiter);
                    }
                }
            }
            for (waiter, answer) in world.answers() {
                let Some((key, deadline)) = waiting.remove(&waiter) else {
                    return Err(TestCaseError::fail("answered twice, or after it has left"));
                };
                prop_assert!(world.now <= deadline + Duration::from_millis(60_000));
                if let Ok(svid) = answer {
                    check(&svid, &key, &world, &tainted)?;
                }
            }
            prop_assert!(waiting.values().all(|(_, deadline)| *deadline > world.now), "somebody waits for too long");
            for fetch in world.fetches() {
                under_way.insert(fetch.id, fetch);
            }
            let stats = world.cache.stats();
            prop_assert!(stats.tokens <= 6 && stats.fetching <= 3 && waiting.len() <= 5);
            if let Some(due) = world.cache.poll_timeout() {
                prop_assert!(due >= world.now || stats.tokens > 0);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Get(u8, u8),
    Answer(u8, u8, u8),
    Fail(u8),
    Pass(u16),
    Taint(u8),
    Forget(u8),
    Cancel,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_u8..3, 0_u8..3).prop_map(|(identity, audience)| Event::Get(identity, audience)),
        6 => (any::<u8>(), 0_u8..3, any::<u8>()).prop_map(|(which, signer, life)| Event::Answer(which, signer, life)),
        2 => any::<u8>().prop_map(Event::Fail),
        4 => (0_u16..60_000).prop_map(Event::Pass),
        1 => (0_u8..2).prop_map(Event::Taint),
        1 => (0_u8..3).prop_map(Event::Forget),
        1 => Just(Event::Cancel),
    ]
}

fn check(svid: &JwtSvid, key: &JwtCacheKey, world: &World, tainted: &BTreeSet<u8>) -> Result<(), TestCaseError> {
    prop_assert!(svid.expires_at() > world.wall, "it has ended");
    prop_assert_eq!((svid.spiffe_id(), svid.audience()), (&key.spiffe_id, &key.audience));
    let of_tainted = tainted.iter().any(|signer| svid.key_id() == Some(&key_id(&format!("k{signer}"))));
    prop_assert!(!of_tainted, "its key was taken away");
    Ok(())
}

/// A cache, its two clocks, and a source that signs nothing: the cache does not look at signatures.
struct World {
    cache: JwtCache,
    now: Instant,
    wall: UnixTime,
    minted: u64,
}

impl World {
    fn new(config: JwtCacheConfig) -> Self {
        Self { cache: JwtCache::new(config), now: Instant::from_millis(1_000_000), wall: NOW, minted: 0 }
    }

    fn get(&mut self, name: &str, audience: &str) -> Lookup {
        self.cache.get(&key(name, audience), self.now, self.wall)
    }

    fn served(&mut self, name: &str, audience: &str) -> JwtSvid {
        match self.get(name, audience) {
            Lookup::Serve(svid) => (*svid).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn must_wait(&mut self, name: &str, audience: &str) -> WaiterId {
        match self.get(name, audience) {
            Lookup::Wait(waiter) => waiter,
            other => panic!("{other:?}"),
        }
    }

    fn fetches(&mut self) -> Vec<Fetch> {
        std::iter::from_fn(|| self.cache.poll_fetch(self.now)).collect()
    }

    fn only_fetch(&mut self) -> Fetch {
        let fetches = self.fetches();
        assert_eq!(fetches.len(), 1, "{fetches:?}");
        fetches.into_iter().next().unwrap()
    }

    fn answers(&mut self) -> Vec<(WaiterId, Result<Arc<JwtSvid>, JwtCacheError>)> {
        std::iter::from_fn(|| self.cache.poll_answer()).collect()
    }

    /// A token of `key` (none: without a name), valid for `life` seconds.
    fn mint(&mut self, name: &str, audience: &str, key: &str, life: u64) -> JwtSvid {
        self.minted += 1;
        let mut header = json!({"alg": "ES256", "kid": key});
        if key.is_empty() {
            header.as_object_mut().unwrap().remove("kid");
        }
        let audience: Vec<&str> = audience.split(' ').collect();
        let (iat, exp) = (self.wall.as_secs(), self.wall.as_secs() + life);
        let claims =
            json!({"sub": identity(name).to_string(), "aud": audience, "iat": iat, "exp": exp, "jti": self.minted});
        let part = |value: &serde_json::Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        JwtSvid::read(&format!("{}.{}.AA", part(&header), part(&claims)), self.wall).unwrap()
    }

    fn answer_with(&mut self, fetch: &Fetch, result: Result<JwtSvid, FetchFailure>) {
        self.cache.handle_fetched(fetch.id, result, self.now, self.wall);
    }

    fn fail(&mut self, fetch: &Fetch, failure: &FetchFailure) {
        self.answer_with(fetch, Err(failure.clone()));
    }

    /// The source answers with what was asked for, for five minutes.
    fn complete(&mut self, fetch: &Fetch) -> JwtSvid {
        let name = fetch.key.spiffe_id.path().trim_start_matches('/').to_owned();
        let svid = self.mint(&name, &audiences(&fetch.key.audience), "k1", 300);
        self.answer_with(fetch, Ok(svid.clone()));
        svid
    }

    /// Asks, and has the source answer.
    fn fetch(&mut self, name: &str, audience: &str) -> JwtSvid {
        self.must_wait(name, audience);
        let fetch = self.only_fetch();
        let svid = self.complete(&fetch);
        assert_eq!(self.answers().len(), 1);
        svid
    }

    /// The source answers an own question with this one.
    fn put(&mut self, svid: JwtSvid) {
        let key = key(svid.spiffe_id().path().trim_start_matches('/'), &audiences(svid.audience()));
        assert!(matches!(self.cache.get(&key, self.now, self.wall), Lookup::Wait(_)));
        let fetch = self.only_fetch();
        self.answer_with(&fetch, Ok(svid));
        assert_eq!(self.answers().len(), 1);
    }

    /// Time passes, and the cache hears of it each second.
    fn pass(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.pass_exactly(secs(1)));
    }

    fn pass_exactly(&mut self, time: Duration) {
        self.now += time;
        self.wall = NOW + Duration::from_nanos(self.now.as_nanos() - Instant::from_millis(1_000_000).as_nanos());
        self.cache.handle_timeout(self.now, self.wall);
    }

    /// Time passes, and the cache hears nothing of it.
    fn jump(&mut self, seconds: u64) {
        self.now += secs(seconds);
        self.wall = self.wall + secs(seconds);
    }
}

fn identity(name: &str) -> x0t_model::SpiffeId {
    id(&format!("spiffe://mesh.test/{name}"))
}

fn key(name: &str, audience: &str) -> JwtCacheKey {
    key_by("entry", name, audience)
}

fn key_by(entry: &str, name: &str, audience: &str) -> JwtCacheKey {
    let audience = AudienceSet::parse(audience.split(' ')).unwrap();
    JwtCacheKey { spiffe_id: identity(name), audience, entry: entry.parse().unwrap() }
}

fn audiences(set: &AudienceSet) -> String {
    set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn bundle(names: &[&str]) -> Bundle {
    let keys = names.iter().map(|name| (key_id(name), public_key(0)));
    Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 1).unwrap().with_jwt_keys(keys).unwrap()
}
