//! Tokens that were fetched once and serve many callers: the JWT-SVID cache, as a machine without clock and sockets.
//!
//! ```text
//!            fetched                 half of life, used             a quarter, 10 % or 30 s left
//!   (none) ──────────▶ Fresh ─────────────────────────▶ Stale ────────────────────────────────▶ Ending ──▶ (none)
//!   callers            served                           served, refreshed                       callers wait
//!   wait                                                in the background                       a moment, then served
//! ```
//!
//! * A token is kept under the identity *it names*, and the entry by which it was asked for, whatever identity was meant: an entry that is renamed between request and answer must
//!   not leave one workload's token under another's name (SPIRE issue 6501).
//! * Nobody with a valid token waits for a source that hangs (SPIRE issue 5994). Only a token that is about to end is worth a
//!   short wait for a refresh that has just begun.
//! * One fetch per key at a time; whoever asks meanwhile shares its answer.
//! * Refreshes are paced, and only what was used since the last one is refreshed. The moment of a refresh follows from the token,
//!   so that tokens issued together are not refreshed together.
//! * A failure never removes a valid token. What does is the end of its key: [`JwtCache::handle_bundle`] and
//!   [`JwtCache::taint`], which also void what is under way.
//!
//! Call [`JwtCache::get`] and the `handle_*` methods as things happen; after each, drain [`JwtCache::poll_fetch`] and
//! [`JwtCache::poll_answer`], and call [`JwtCache::handle_timeout`] when [`JwtCache::poll_timeout`] says so.

mod distrust;
mod flights;
mod store;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use x0t_model::{Instant, SpiffeId, UnixTime};

use self::distrust::Distrust;
use self::flights::{Flights, Pace};
use self::store::Store;
use crate::bundle::Bundle;
use crate::entry::EntryId;
use crate::jwt::{AudienceSet, JwtSvid, KeyId};

/// Wall-clock times are turned into deadlines anew at least this often, because the wall clock may be set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// How often a fetch is begun anew because its token came from a key that was taken away meanwhile.
const VOIDED_RETRIES: u8 = 2;

/// How a cache behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtCacheConfig {
    /// Tokens in all; beyond them the least recently used goes.
    pub capacity: usize,
    /// Tokens of one identity: nobody pushes out the others by asking for ever new audiences. A tenth of all.
    pub capacity_per_identity: usize,
    /// Fetches under way at once.
    pub fetches_max: usize,
    /// Callers that wait at once; further ones are refused.
    pub waiters_max: usize,
    /// Background refreshes begun per second. 10,000 tokens of five minutes need 70.
    pub refreshes_per_second: u32,
    /// How long a caller whose token is about to end waits for a refresh. Short: it has something that works.
    pub refresh_patience: Duration,
    /// How long a caller without any token waits.
    pub fetch_patience: Duration,
    /// When a fetch that has not answered is given up.
    pub fetch_timeout: Duration,
}

impl Default for JwtCacheConfig {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            capacity_per_identity: 1_000,
            fetches_max: 100,
            waiters_max: 10_000,
            refreshes_per_second: 100,
            refresh_patience: Duration::from_millis(250),
            fetch_patience: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(30),
        }
    }
}

/// What a token is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwtCacheKey {
    /// Whose identity.
    pub spiffe_id: SpiffeId,
    /// For whom.
    pub audience: AudienceSet,
    /// By which entry: two of one identity may differ in how long their tokens live, and in who takes them away.
    pub entry: EntryId,
}

/// A caller that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub(crate) u64);

/// A request to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchId(pub(crate) u64);

/// Ask the source for this token, and tell [`JwtCache::handle_fetched`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Which request.
    pub id: FetchId,
    /// What to ask for.
    pub key: JwtCacheKey,
}

/// Why the source gave no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// It could not be reached, or not in time.
    #[error("the source of tokens is not reachable: {0}")]
    Unavailable(String),
    /// It says that the identity is not ours.
    #[error("the source of tokens refuses: {0}")]
    Refused(String),
    /// What it gave has ended, is for another audience, or is signed by a key that is not trusted.
    #[error("the source of tokens gave one that is of no use")]
    Unusable,
}

/// Why a caller gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtCacheError {
    /// The source has none.
    #[error("no token could be fetched")]
    Fetch(#[from] FetchFailure),
    /// The source has issued the token of somebody else.
    #[error("the source has issued a token of {0} instead")]
    OtherIdentity(SpiffeId),
    /// Nothing came in time.
    #[error("no token came in time")]
    TimedOut,
    /// The identity was taken away meanwhile.
    #[error("the identity was taken away")]
    Forgotten,
    /// Too many callers wait already.
    #[error("too many callers wait for tokens")]
    Busy,
}

impl JwtCacheError {
    /// A stable word for counters, logs and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Fetch(FetchFailure::Unavailable(_)) => "jwt_source_unavailable",
            Self::Fetch(FetchFailure::Refused(_)) => "jwt_source_refused",
            Self::Fetch(FetchFailure::Unusable) => "jwt_source_unusable",
            Self::OtherIdentity(_) => "jwt_other_identity",
            Self::TimedOut => "jwt_timed_out",
            Self::Forgotten => "jwt_forgotten",
            Self::Busy => "jwt_busy",
        }
    }
}

/// What [`JwtCache::get`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Here it is.
    Serve(Arc<JwtSvid>),
    /// [`JwtCache::poll_answer`] will name this caller.
    Wait(WaiterId),
    /// Not now.
    Refused(JwtCacheError),
}

/// An answer to a caller that waited.
pub type Answer = Result<Arc<JwtSvid>, JwtCacheError>;

/// What a cache has done; grows only, but for the first two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JwtCacheStats {
    /// Tokens held.
    pub tokens: usize,
    /// Fetches under way.
    pub fetching: usize,
    /// Callers served at once.
    pub hits: u64,
    /// Callers that had to wait, for want of a token.
    pub misses: u64,
    /// Callers that waited for a refresh because their token was about to end.
    pub refresh_waits: u64,
    /// Tokens that came.
    pub fetched: u64,
    /// Fetches that failed.
    pub failed: u64,
    /// Tokens pushed out by others.
    pub evicted: u64,
    /// Tokens dropped with their key or identity.
    pub purged: u64,
    /// Answers to fetches that nobody waits for any more.
    pub late: u64,
}

/// The cache. See the module's head for its life.
#[derive(Debug)]
pub struct JwtCache {
    config: JwtCacheConfig,
    store: Store,
    flights: Flights,
    distrust: Distrust,
    answers: VecDeque<(WaiterId, Answer)>,
    /// Where the two clocks stood when last looked at.
    clocks: (Instant, UnixTime),
    stats: JwtCacheStats,
}

impl JwtCache {
    /// An empty cache.
    pub fn new(config: JwtCacheConfig) -> Self {
        Self {
            store: Store::new(config.capacity, config.capacity_per_identity),
            flights: Flights::new(&config),
            distrust: Distrust::default(),
            answers: VecDeque::new(),
            clocks: (Instant::ZERO, UnixTime::from_secs(0)),
            stats: JwtCacheStats::default(),
            config,
        }
    }

    /// A token for `key`, now or as soon as there is one.
    pub fn get(&mut self, key: &JwtCacheKey, now: Instant, wall: UnixTime) -> Lookup {
        self.clocks = (now, wall);
        let Some(use_of) = self.store.touch(key, now, wall) else {
            if self.flights.waiters() >= self.config.waiters_max {
                return Lookup::Refused(JwtCacheError::Busy);
            }
            self.stats.misses += 1;
            let fetch = self.flights.ensure(key, Pace::Urgent, now);
            return Lookup::Wait(self.flights.wait(fetch, now + self.config.fetch_patience));
        };
        if !use_of.stale {
            self.stats.hits += 1;
            return Lookup::Serve(use_of.svid);
        }
        if use_of.may_refresh {
            self.flights.ensure(key, Pace::Background, now);
        }
        // A refresh that has been under way for longer than a caller would wait is one that hangs.
        let patience_ends = self.flights.since(key).map(|since| since + self.config.refresh_patience);
        match patience_ends.filter(|end| use_of.ending && *end > now) {
            Some(end) if self.flights.waiters() < self.config.waiters_max => {
                self.stats.refresh_waits += 1;
                let fetch = self.flights.ensure(key, Pace::Urgent, now);
                Lookup::Wait(self.flights.wait(fetch, end))
            }
            Some(_) | None => {
                self.stats.hits += 1;
                Lookup::Serve(use_of.svid)
            }
        }
    }

    /// The caller has gone and wants no answer.
    pub fn cancel(&mut self, waiter: WaiterId) {
        self.flights.cancel(waiter);
        self.answers.retain(|(answered, _)| *answered != waiter);
    }

    /// The next fetch to begin: those that callers wait for first, then refreshes as their pace allows. Call until `None`.
    pub fn poll_fetch(&mut self, now: Instant) -> Option<Fetch> {
        self.flights.start(now)
    }

    /// What became of a fetch. One that was given up or voided meanwhile is counted and otherwise ignored.
    pub fn handle_fetched(
        &mut self,
        fetch: FetchId,
        result: Result<JwtSvid, FetchFailure>,
        now: Instant,
        wall: UnixTime,
    ) {
        self.clocks = (now, wall);
        let Some(flight) = self.flights.take(fetch) else {
            self.stats.late += 1;
            return;
        };
        let svid = match result {
            Ok(svid) => svid,
            Err(failure) => return self.fetch_failed(&flight, &failure.into(), now, wall),
        };
        let is_void = svid.key_id().map_or(flight.suspect, |key_id| self.distrust.covers(key_id));
        if is_void && flight.voided < VOIDED_RETRIES {
            return self.flights.begin_anew(flight, now);
        }
        if is_void || svid.expires_at() <= wall || flight.key.audience != *svid.audience() {
            return self.fetch_failed(&flight, &FetchFailure::Unusable.into(), now, wall);
        }
        self.stats.fetched += 1;
        let svid = Arc::new(svid);
        let is_awaited = !flight.waiters.is_empty();
        self.stats.evicted += self.store.insert(flight.key.entry.clone(), svid.clone(), is_awaited);
        if *svid.spiffe_id() != flight.key.spiffe_id {
            let error = JwtCacheError::OtherIdentity(svid.spiffe_id().clone());
            return self.fetch_failed(&flight, &error, now, wall);
        }
        self.answer(flight.waiters, &Ok(svid));
    }

    /// The next caller to be answered. Call until `None`.
    pub fn poll_answer(&mut self) -> Option<(WaiterId, Answer)> {
        self.answers.pop_front()
    }

    /// Lets time pass: callers whose patience has ended, fetches that hang, refreshes that are due, tokens that have ended.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime) {
        self.clocks = (now, wall);
        while let Some((waiter, key)) = self.flights.next_impatient(now) {
            let answer = self.store.valid(&key, wall).ok_or(JwtCacheError::TimedOut);
            self.answers.push_back((waiter, answer));
        }
        while let Some(flight) = self.flights.next_hanging(now) {
            let failure = FetchFailure::Unavailable("it did not answer in time".to_owned());
            self.fetch_failed(&flight, &failure.into(), now, wall);
        }
        while let Some(key) = self.store.next_due(now, wall) {
            self.flights.ensure(&key, Pace::Background, now);
        }
    }

    /// When to call [`Self::handle_timeout`] and [`Self::poll_fetch`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (now, wall) = self.clocks;
        let due = self.store.due().map(|due| now + due.since(wall).min(CLOCK_CHECK));
        [due, self.flights.timeout(now)].into_iter().flatten().min()
    }

    /// The bundle of one's own trust domain has changed: tokens of keys that are not in it any more are dropped.
    pub fn handle_bundle(&mut self, bundle: &Bundle) {
        if self.distrust.handle_bundle(bundle) {
            self.purge();
        }
    }

    /// The key is compromised: its tokens are dropped although it is still in the bundle.
    pub fn taint(&mut self, key_id: &KeyId) {
        self.distrust.taint(key_id);
        self.purge();
    }

    /// The identity is not ours any more: its tokens are dropped, and whoever waits for one is told.
    pub fn forget_identity(&mut self, spiffe_id: &SpiffeId) {
        self.stats.purged += self.store.forget(spiffe_id);
        for flight in self.flights.take_of(|key| key.spiffe_id == *spiffe_id) {
            self.answer(flight.waiters, &Err(JwtCacheError::Forgotten));
        }
    }

    /// The entry gives nothing any more, or another identity: tokens that came by it are dropped, and whoever waits for one is told.
    pub fn forget_entry(&mut self, entry: &EntryId) {
        self.stats.purged += self.store.forget_entry(entry);
        for flight in self.flights.take_of(|key| key.entry == *entry) {
            self.answer(flight.waiters, &Err(JwtCacheError::Forgotten));
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> JwtCacheStats {
        JwtCacheStats { tokens: self.store.len(), fetching: self.flights.running(), ..self.stats }
    }

    /// A token that names no key may be of one that has gone.
    fn purge(&mut self) {
        let distrust = &self.distrust;
        self.stats.purged += self.store.purge(|svid| svid.key_id().is_none_or(|key_id| distrust.covers(key_id)));
        self.flights.suspect_all();
    }

    /// Whoever has a valid token is served with it; a failure is for those who have none.
    fn fetch_failed(&mut self, flight: &flights::Flight, error: &JwtCacheError, now: Instant, wall: UnixTime) {
        self.stats.failed += 1;
        self.store.postpone(&flight.key, now, wall);
        let answer = self.store.valid(&flight.key, wall).ok_or_else(|| error.clone());
        self.answer(flight.waiters.clone(), &answer);
    }

    fn answer(&mut self, waiters: Vec<WaiterId>, answer: &Answer) {
        self.flights.release(&waiters);
        self.answers.extend(waiters.into_iter().map(|waiter| (waiter, answer.clone())));
    }
}
