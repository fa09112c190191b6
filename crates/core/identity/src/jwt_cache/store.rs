//! The tokens themselves: who goes when there are too many, and when each is to be refreshed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use x0t_model::{Instant, SpiffeId, UnixTime};

use super::JwtCacheKey;
use crate::entry::EntryId;
use crate::jwt::JwtSvid;

/// With less than this left a token is about to end, unless it never lived much longer.
const ENDING: Duration = Duration::from_secs(30);
/// Pause after a failed refresh: doubled each time, up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Store {
    capacity: usize,
    capacity_per_identity: usize,
    tokens: BTreeMap<JwtCacheKey, Held>,
    /// By the number of the last use.
    recency: BTreeMap<u64, JwtCacheKey>,
    by_identity: BTreeMap<SpiffeId, BTreeSet<u64>>,
    /// What each token has to be looked at for next: its refresh, or its end.
    due: BTreeSet<(UnixTime, JwtCacheKey)>,
    uses: u64,
}

#[derive(Debug)]
struct Held {
    svid: Arc<JwtSvid>,
    last_use: u64,
    refresh_at: UnixTime,
    due: UnixTime,
    /// Whether anybody asked for it since it came.
    is_used: bool,
    failures: u32,
    /// No refresh before this.
    retry_at: Instant,
}

/// A valid token, and how it stands.
pub(super) struct Use {
    pub(super) svid: Arc<JwtSvid>,
    /// Past the moment of its refresh.
    pub(super) stale: bool,
    /// So near its end that a refresh is worth a wait.
    pub(super) ending: bool,
    /// Not backing off after a failure.
    pub(super) may_refresh: bool,
}

impl Store {
    pub(super) const fn new(capacity: usize, capacity_per_identity: usize) -> Self {
        Self {
            capacity,
            capacity_per_identity,
            tokens: BTreeMap::new(),
            recency: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            due: BTreeSet::new(),
            uses: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token for `key` if it is valid, which counts as a use.
    pub(super) fn touch(&mut self, key: &JwtCacheKey, now: Instant, wall: UnixTime) -> Option<Use> {
        let held = self.tokens.get_mut(key)?;
        if held.svid.expires_at() <= wall {
            self.remove(key);
            return None;
        }
        self.uses += 1;
        if let Some(name) = self.recency.remove(&held.last_use) {
            self.recency.insert(self.uses, name);
        }
        if let Some(uses) = self.by_identity.get_mut(&key.spiffe_id) {
            uses.remove(&held.last_use);
            uses.insert(self.uses);
        }
        held.last_use = self.uses;
        held.is_used = true;
        let left = held.svid.expires_at().since(wall);
        Some(Use {
            svid: held.svid.clone(),
            stale: wall >= held.refresh_at,
            ending: left < ending(life(&held.svid)),
            may_refresh: held.retry_at <= now,
        })
    }

    /// The token for `key` if it is valid, without counting as a use.
    pub(super) fn valid(&self, key: &JwtCacheKey, wall: UnixTime) -> Option<Arc<JwtSvid>> {
        self.tokens.get(key).map(|held| held.svid.clone()).filter(|svid| svid.expires_at() > wall)
    }

    /// Keeps `svid`, which came by `entry`, under the identity and the audience that it names; how many others had to go.
    pub(super) fn insert(&mut self, entry: EntryId, svid: Arc<JwtSvid>, is_used: bool) -> u64 {
        let key = JwtCacheKey { spiffe_id: svid.spiffe_id().clone(), audience: svid.audience().clone(), entry };
        let refresh_at = refresh_at(&svid);
        let held =
            Held { svid, last_use: 0, refresh_at, due: refresh_at, is_used, failures: 0, retry_at: Instant::ZERO };
        let last_use = self.tokens.get(&key).map(|old| old.last_use);
        let mut evicted = 0;
        if last_use.is_some() {
            self.remove(&key);
        } else {
            evicted += self.make_room(&key.spiffe_id);
        }
        if self.capacity == 0 || self.capacity_per_identity == 0 {
            return evicted;
        }
        // A refresh is no use: the token keeps its place.
        let last_use = last_use.unwrap_or_else(|| {
            self.uses += 1;
            self.uses
        });
        self.recency.insert(last_use, key.clone());
        self.by_identity.entry(key.spiffe_id.clone()).or_default().insert(last_use);
        self.due.insert((held.due, key.clone()));
        self.tokens.insert(key, Held { last_use, ..held });
        evicted
    }

    /// Evicts until one more token of `identity` fits.
    fn make_room(&mut self, identity: &SpiffeId) -> u64 {
        let mut evicted = 0;
        while let Some(uses) = self.by_identity.get(identity) {
            let oldest = uses.first().filter(|_| uses.len() >= self.capacity_per_identity);
            let Some(key) = oldest.and_then(|oldest| self.recency.get(oldest)).cloned() else { break };
            self.remove(&key);
            evicted += 1;
        }
        while self.tokens.len() >= self.capacity {
            let Some(key) = self.recency.values().next().cloned() else { break };
            self.remove(&key);
            evicted += 1;
        }
        evicted
    }

    fn remove(&mut self, key: &JwtCacheKey) {
        let Some(held) = self.tokens.remove(key) else { return };
        self.recency.remove(&held.last_use);
        self.due.remove(&(held.due, key.clone()));
        if let Some(uses) = self.by_identity.get_mut(&key.spiffe_id) {
            uses.remove(&held.last_use);
            if uses.is_empty() {
                self.by_identity.remove(&key.spiffe_id);
            }
        }
    }

    /// Drops every token of which `is_void` holds; how many.
    pub(super) fn purge(&mut self, is_void: impl Fn(&JwtSvid) -> bool) -> u64 {
        let void = self.tokens.iter().filter(|(_, held)| is_void(&held.svid)).map(|(key, _)| key.clone());
        let void: Vec<_> = void.collect();
        void.iter().for_each(|key| self.remove(key));
        void.len() as u64
    }

    /// Drops every token of `identity`; how many.
    pub(super) fn forget(&mut self, identity: &SpiffeId) -> u64 {
        let uses = self.by_identity.get(identity).into_iter().flatten();
        let keys: Vec<_> = uses.filter_map(|number| self.recency.get(number)).cloned().collect();
        keys.iter().for_each(|key| self.remove(key));
        keys.len() as u64
    }

    /// Drops every token that came by `entry`; how many.
    pub(super) fn forget_entry(&mut self, entry: &EntryId) -> u64 {
        let keys: Vec<_> = self.tokens.keys().filter(|key| key.entry == *entry).cloned().collect();
        keys.iter().for_each(|key| self.remove(key));
        keys.len() as u64
    }

    /// A refresh of `key` has failed: the next one after a pause.
    pub(super) fn postpone(&mut self, key: &JwtCacheKey, now: Instant, wall: UnixTime) {
        let Some(held) = self.tokens.get_mut(key) else { return };
        held.failures = held.failures.saturating_add(1);
        let pause = BACKOFF_MIN.saturating_mul(1 << held.failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
        // Half of it fixed and half by the token, so that many that failed together do not come back together.
        let spread = jitter(&held.svid, held.failures) % 1000;
        let pause = pause / 2 + (pause / 2).mul_f64(spread as f64 / 1000.0);
        held.retry_at = now + pause;
        let due = wall + pause + Duration::from_secs(1);
        self.look_again_at(key, due);
    }

    /// The next token that is due for a refresh and was used. Those that were not wait for their next use or their end, which
    /// this also sees to.
    pub(super) fn next_due(&mut self, now: Instant, wall: UnixTime) -> Option<JwtCacheKey> {
        loop {
            let (_, key) = self.due.first().filter(|(due, _)| *due <= wall)?;
            let key = key.clone();
            let Some(held) = self.tokens.get(&key) else {
                self.due.pop_first();
                continue;
            };
            let (expires_at, is_used, may_refresh) = (held.svid.expires_at(), held.is_used, held.retry_at <= now);
            if expires_at <= wall {
                self.remove(&key);
            } else if is_used && !may_refresh {
                self.look_again_at(&key, wall + Duration::from_secs(1));
            } else {
                self.look_again_at(&key, expires_at);
                if is_used {
                    return Some(key);
                }
            }
        }
    }

    fn look_again_at(&mut self, key: &JwtCacheKey, due: UnixTime) {
        let Some(held) = self.tokens.get_mut(key) else { return };
        self.due.remove(&(held.due, key.clone()));
        held.due = due.min(held.svid.expires_at());
        self.due.insert((held.due, key.clone()));
    }

    pub(super) fn due(&self) -> Option<UnixTime> {
        self.due.first().map(|(due, _)| *due)
    }
}

fn life(svid: &JwtSvid) -> Duration {
    svid.expires_at().since(svid.issued_at())
}

/// 30 s or a tenth of life, but never more than a quarter of it.
fn ending(life: Duration) -> Duration {
    ENDING.max(life / 10).min(life / 4)
}

/// At 0.45 to 0.55 of its life, as the token decides.
fn refresh_at(svid: &JwtSvid) -> UnixTime {
    let permille = 450 + u32::try_from(jitter(svid, 0) % 101).unwrap_or(50);
    svid.issued_at() + life(svid).mul_f64(f64::from(permille) / 1000.0)
}

/// A number that follows from the token.
fn jitter(svid: &JwtSvid, round: u32) -> u64 {
    let digest = digest(&SHA256, svid.token().as_bytes());
    let first = digest.as_ref().first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(first).rotate_left(7 * (round % 9))
}
