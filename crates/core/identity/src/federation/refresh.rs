//! When to fetch the bundles of foreign trust domains (SPIFFE Federation, section 5.1; Trust Domain and Bundle, section 4.1.2).
//!
//! ```text
//!   new, changed, `refresh now`           fetched or failed
//!  ───────────────────────────▶ Due ──▶ Fetching ──────────▶ Waiting ──▶ Due …
//!                                                   refresh hint ± 10 %
//! ```
//!
//! After a failure the next attempt comes when it would have come anyway: an endpoint that is down is not hammered by everybody who
//! federates with it (checklist FE-5). Pure: it is told what time it is and what came of a fetch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_model::{Entropy, Instant, TrustDomain, UnixTime};

use super::relationship::FederationRelationship;

/// Fetches under way at once. Each holds a connection for at most some seconds.
pub const FETCHES_MAX: usize = 8;
/// How often an endpoint is asked whose bundle does not say (section 4.1.2).
pub const REFRESH_INTERVAL_DEFAULT: Duration = Duration::from_secs(300);
const INTERVAL_MIN: Duration = Duration::from_secs(10);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Characters of an error that are kept.
const ERROR_LEN_MAX: usize = 512;

/// Names a fetch until its outcome is told.
pub type FetchId = u64;

/// Somebody should fetch this bundle now, and tell what came of it: [`Refresher::handle_outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Names it.
    pub id: FetchId,
    /// What to fetch, where, from whom.
    pub relationship: FederationRelationship,
}

/// A fetch that worked: the bundle is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Of the bundle in force.
    pub sequence: u64,
    /// When its publisher wants to be asked again.
    pub refresh_hint: Duration,
    /// Whether it differs from the one before.
    pub is_new: bool,
}

/// A fetch that failed, or brought what was refused. The bundle in force stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchError {
    /// A stable word.
    pub code: String,
    /// For a person.
    pub text: String,
}

/// How a relationship fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationshipStatus {
    /// With whom, where, how.
    #[serde(flatten)]
    pub relationship: FederationRelationship,
    /// Number of the bundle in force at the last success; absent before.
    pub sequence: Option<u64>,
    /// When the endpoint last gave a usable bundle.
    pub last_success: Option<UnixTime>,
    /// When it was last asked, with whatever outcome.
    pub last_attempt: Option<UnixTime>,
    /// What went wrong the last time, if it did.
    pub last_error: Option<FetchError>,
    /// Failures since the last success.
    pub failures: u64,
    /// When it is asked next.
    pub next: UnixTime,
    /// Whether it is being asked.
    pub is_fetching: bool,
    /// How often it is asked, before jitter.
    pub interval_s: u64,
}

/// `refresh now` for a trust domain without a relationship.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no federation relationship with {0}")]
pub struct UnknownRelationship(pub TrustDomain);

#[derive(Debug)]
struct Poll {
    relationship: FederationRelationship,
    interval: Duration,
    next: Instant,
    fetching: Option<FetchId>,
    /// Asked for while a fetch was under way, which may have begun too early to count.
    again: bool,
    sequence: Option<u64>,
    last_success: Option<UnixTime>,
    last_attempt: Option<UnixTime>,
    last_error: Option<FetchError>,
    failures: u64,
    /// Attempts that have ended: whoever waits for one watches this.
    ended: u64,
}

/// Says when each relationship's endpoint is to be asked. After each `handle_*` drain [`Self::poll_fetch`]; call
/// [`Self::handle_timeout`] at [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Refresher {
    polls: BTreeMap<TrustDomain, Poll>,
    outbox: VecDeque<Fetch>,
    entropy: Entropy,
    next_id: FetchId,
}

impl Refresher {
    /// Without relationships.
    pub const fn new(entropy: Entropy) -> Self {
        Self { polls: BTreeMap::new(), outbox: VecDeque::new(), entropy, next_id: 1 }
    }

    /// These are the relationships from now on, each with the refresh hint of the bundle that is held, if there is one. A new or
    /// changed one is fetched at once.
    pub fn set_relationships(
        &mut self,
        relationships: impl IntoIterator<Item = (FederationRelationship, Option<Duration>)>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.polls);
        for (relationship, hint) in relationships {
            let trust_domain = relationship.trust_domain.clone();
            let known = before.remove(&trust_domain).filter(|poll| poll.relationship == relationship);
            let mut poll = known.unwrap_or_else(|| Poll::new(relationship, now));
            poll.interval = hint.map_or(poll.interval, clamped);
            self.polls.insert(trust_domain, poll);
        }
        let polls = &self.polls;
        self.outbox.retain(|fetch| {
            polls.get(&fetch.relationship.trust_domain).is_some_and(|poll| poll.fetching == Some(fetch.id))
        });
        self.begin(now);
    }

    /// Begins what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.begin(now);
    }

    /// Asks the endpoint of `trust_domain` at once. Gives the number that [`Self::ended`] passes when it has been.
    pub fn refresh_now(&mut self, trust_domain: &TrustDomain, now: Instant) -> Result<u64, UnknownRelationship> {
        let unknown = || UnknownRelationship(trust_domain.clone());
        let poll = self.polls.get_mut(trust_domain).ok_or_else(unknown)?;
        let ends = if poll.fetching.is_some() {
            poll.again = true;
            poll.ended + 1
        } else {
            poll.next = now;
            poll.ended
        };
        self.begin(now);
        Ok(ends)
    }

    /// How many attempts with `trust_domain` have ended.
    pub fn ended(&self, trust_domain: &TrustDomain) -> Option<u64> {
        self.polls.get(trust_domain).map(|poll| poll.ended)
    }

    /// What came of a fetch. That of a relationship which has ended or changed meanwhile counts for nothing.
    pub fn handle_outcome(&mut self, id: FetchId, outcome: Result<Fetched, FetchError>, now: Instant, wall: UnixTime) {
        let Some(poll) = self.polls.values_mut().find(|poll| poll.fetching == Some(id)) else { return };
        poll.fetching = None;
        poll.ended += 1;
        poll.last_attempt = Some(wall);
        match outcome {
            Ok(fetched) => {
                poll.interval = clamped(fetched.refresh_hint);
                poll.sequence = Some(fetched.sequence);
                poll.last_success = Some(wall);
                poll.last_error = None;
                poll.failures = 0;
            }
            Err(mut error) => {
                error.text = error.text.chars().take(ERROR_LEN_MAX).collect();
                poll.last_error = Some(error);
                poll.failures += 1;
            }
        }
        poll.next =
            if std::mem::take(&mut poll.again) { now } else { now + jittered(poll.interval, &mut self.entropy) };
        self.begin(now);
    }

    /// A fetch to begin.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        self.outbox.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        if self.under_way() >= FETCHES_MAX {
            return Instant::FAR_FUTURE;
        }
        let waiting = self.polls.values().filter(|poll| poll.fetching.is_none());
        waiting.map(|poll| poll.next).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// How every relationship fares, in the order of their trust domains' names.
    pub fn statuses(&self, now: Instant, wall: UnixTime) -> impl Iterator<Item = RelationshipStatus> + '_ {
        self.polls.values().map(move |poll| RelationshipStatus {
            relationship: poll.relationship.clone(),
            sequence: poll.sequence,
            last_success: poll.last_success,
            last_attempt: poll.last_attempt,
            last_error: poll.last_error.clone(),
            failures: poll.failures,
            next: wall + poll.next.since(now),
            is_fetching: poll.fetching.is_some(),
            interval_s: poll.interval.as_secs(),
        })
    }

    fn under_way(&self) -> usize {
        self.polls.values().filter(|poll| poll.fetching.is_some()).count()
    }

    fn begin(&mut self, now: Instant) {
        let mut room = FETCHES_MAX.saturating_sub(self.under_way());
        // Who has waited longest comes first.
        let mut due: Vec<&mut Poll> =
            self.polls.values_mut().filter(|poll| poll.fetching.is_none() && poll.next <= now).collect();
        due.sort_by_key(|poll| poll.next);
        for poll in due {
            if room == 0 {
                return;
            }
            room -= 1;
            poll.fetching = Some(self.next_id);
            self.outbox.push_back(Fetch { id: self.next_id, relationship: poll.relationship.clone() });
            self.next_id += 1;
        }
    }
}

impl Poll {
    const fn new(relationship: FederationRelationship, now: Instant) -> Self {
        Self {
            relationship,
            interval: REFRESH_INTERVAL_DEFAULT,
            next: now,
            fetching: None,
            again: false,
            sequence: None,
            last_success: None,
            last_attempt: None,
            last_error: None,
            failures: 0,
            ended: 0,
        }
    }
}

fn clamped(hint: Duration) -> Duration {
    hint.clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// Ten percent less to ten percent more: consumers that began together do not ask together for ever.
fn jittered(interval: Duration, entropy: &mut Entropy) -> Duration {
    let tenth = u64::try_from(interval.as_millis() / 10).unwrap_or(u64::MAX / 4);
    let spread = Duration::from_millis(entropy.below(2 * tenth + 1));
    (interval + spread - Duration::from_millis(tenth)).max(INTERVAL_MIN)
}
