//! Keeping an identity: asks for the next SVID in time, and never gives up a valid one for an error.
//!
//! ```text
//!           half of life            answer adopted
//!  Waiting ─────────────▶ Asking ──────────────────▶ Waiting (for the new one's half of life)
//!                          ▲  │ no answer, refused, not adopted
//!                 back-off │  ▼
//!                         BackingOff        the old SVID stays in use all the while
//! ```
//!
//! Beside that, how bad it is: `Valid`, `Renewing`, `Degraded` (an attempt has failed), `Critical` (little time is left),
//! `Expired`, `Withdrawn`. Each worsening is told once, and an adoption makes everything good.
//!
//! A valid SVID that is not to be relied on any more, because its authority was tainted or it was taken back, is replaced before its
//! time: after a pause of a few seconds that differs from node to node, for all of them hear of it in the same moment.
//!
//! An SVID may also come from a Workload API ([`SvidSource`]): then nothing is asked, and [`given`] says what is believed.

mod given;

pub use given::overdue_at;

use std::collections::VecDeque;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x0t_model::{Entropy, Instant, SpiffeId, UnixTime, in_one_line};

use crate::bundle::Bundle;
use crate::csr::signing_request;
use crate::distrusted::{Distrust, Distrusted};
use crate::keys::{KeyError, KeySource, PrivateKey};
use crate::svid::{Svid, SvidError};
use crate::verify::{VerifyError, verify_chain};

/// News that nobody has fetched: the oldest go first beyond this many.
const EVENTS_MAX: usize = 64;

/// Who gives a node its SVIDs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SvidSource {
    /// An authority of the mesh: asked for each.
    #[default]
    Authority,
    /// A Workload API, such as that of a SPIRE agent: it renews by itself, and tells.
    WorkloadApi,
}

/// How a node keeps its identity fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationConfig {
    /// Who is asked, or who tells.
    pub source: SvidSource,
    /// An unanswered request counts as failed after this long. Ten seconds: several losses on the worst path.
    pub request_timeout: Duration,
    /// The first pause after a failure; doubled with each further one.
    pub backoff_min: Duration,
    /// The longest pause. 150 s leaves ten attempts between half life and end of a one-hour SVID, and an authority that comes
    /// back sees each of a thousand nodes every few minutes at most.
    pub backoff_max: Duration,
    /// The longest pause when little time is left.
    pub backoff_critical: Duration,
    /// The clocks are compared at least this often, because a wall clock that jumps wakes nobody.
    pub recheck: Duration,
    /// Wall clock and monotonic clock may drift apart by this much between two looks before it counts as a jump.
    pub jump: Duration,
    /// An SVID that is not to be relied on is replaced within this time. Five seconds: a thousand nodes are two hundred requests a
    /// second, and an operator who waits for them does not have to wait long.
    pub hurry: Duration,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            source: SvidSource::Authority,
            request_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(150),
            backoff_critical: Duration::from_secs(5),
            recheck: Duration::from_secs(30),
            jump: Duration::from_secs(5),
            hurry: Duration::from_secs(5),
        }
    }
}

/// How well off an identity is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStatus {
    /// In the first half of its life.
    Valid,
    /// The next one has been asked for.
    Renewing,
    /// At least one attempt has failed, or a source that tells has not told in time; the SVID is valid.
    Degraded,
    /// Less than a tenth of its life is left, or less than five minutes of a long one; the SVID is valid.
    Critical,
    /// The SVID is not valid any more: no peer accepts it.
    Expired,
    /// The source has taken the SVID back: it must not be shown to anybody.
    Withdrawn,
}

/// What a listener is told, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RotationEvent {
    /// A new SVID is in use: hand it to the sessions and store it.
    Updated {
        /// The last second of the one before.
        old_not_after: UnixTime,
        /// The last second of the new one.
        not_after: UnixTime,
    },
    /// The first attempt of this round has failed.
    Degraded {
        /// Why.
        reason: String,
    },
    /// Little time is left.
    Critical {
        /// How little.
        remaining: Duration,
    },
    /// None is left.
    Expired,
    /// The SVID in use is valid and is replaced before its time.
    Distrusted(Distrust),
    /// The source has taken it back: stop showing it.
    Withdrawn {
        /// In the source's words.
        reason: String,
    },
    /// The wall clock jumped: validity was judged anew.
    ClockJumped {
        /// Into the future, or into the past.
        forward: bool,
        /// By how much, in whole seconds.
        by: Duration,
    },
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No way to the authority, or no answer from it.
    Unavailable(String),
    /// The authority said no and will say so again: ask rarely.
    Refused(String),
}

/// Why an answer is not adopted. The SVID in use stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Nothing was asked.
    #[error("no request is outstanding")]
    NotAsked,
    /// The node asks an authority; what a Workload API says is not for it.
    #[error("this identity does not come from a Workload API")]
    OtherSource,
    /// A stranger would refuse the chain.
    #[error("a stranger would refuse the new certificate")]
    Refused(#[from] VerifyError),
    /// It is somebody else's.
    #[error("the new certificate is for {found}, not for {wanted}")]
    OtherIdentity {
        /// Whose it is.
        found: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
    /// It does not belong to the key of the request.
    #[error("the new certificate does not fit the key it was asked for")]
    Svid(#[from] SvidError),
    /// It was on its way while its authority was tainted, or it was taken back.
    #[error("the new certificate is not to be used: {0}")]
    Distrusted(Distrust),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Asking {
        deadline: Instant,
    },
    /// `refused`: by the authority, so there is no point in asking sooner.
    BackingOff {
        until: Instant,
        refused: bool,
    },
}

/// The state for a person or a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RotationView {
    /// Who gives the SVIDs.
    pub source: SvidSource,
    /// How well off.
    pub status: RotationStatus,
    /// When the next SVID is asked for.
    pub renew_at: UnixTime,
    /// The last second of the SVID in use.
    pub not_after: UnixTime,
    /// Failed attempts of this round.
    pub failures: u32,
    /// Why the last one failed, or why the SVID was taken back.
    pub last_error: Option<String>,
    /// SVIDs adopted since the start.
    pub adopted: u64,
    /// Failed attempts since the start.
    pub failed: u64,
    /// Why the SVID in use is replaced before its time, if it is.
    pub distrust: Option<Distrust>,
}

/// Keeps one SVID fresh. After each `handle_*`, drain [`Self::poll_request`] and [`Self::poll_event`], and call
/// [`Self::handle_timeout`] at [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Rotation {
    config: RotationConfig,
    entropy: Entropy,
    svid: Svid,
    renew_at: UnixTime,
    phase: Phase,
    /// The worst that has been told since the last adoption.
    told: RotationStatus,
    /// Made for the first attempt of a round and kept for all: an answer that comes late still fits.
    pending: Option<PrivateKey>,
    request: Option<Vec<u8>>,
    failures: u32,
    last_error: Option<String>,
    /// The source has taken the SVID back.
    withdrawn: bool,
    adopted: u64,
    failed: u64,
    /// What is not to be adopted.
    distrusted: Distrusted,
    /// Why the SVID in use is to be replaced before its time, and from when on another is asked for.
    hurried: Option<(Distrust, Instant)>,
    /// Both clocks at the last look.
    looked: (Instant, UnixTime),
    events: VecDeque<RotationEvent>,
}

impl Rotation {
    /// Starts with `svid`, however old it is. Call [`Self::handle_timeout`] once right away: the SVID may be due already.
    pub fn new(svid: Svid, config: RotationConfig, entropy: Entropy, now: Instant, wall: UnixTime) -> Self {
        let renew_at = renew_at(&svid);
        Self {
            config,
            entropy,
            svid,
            renew_at,
            phase: Phase::Waiting,
            told: RotationStatus::Valid,
            pending: None,
            request: None,
            failures: 0,
            last_error: None,
            withdrawn: false,
            adopted: 0,
            failed: 0,
            distrusted: Distrusted::default(),
            hurried: None,
            looked: (now, wall),
            events: VecDeque::new(),
        }
    }

    /// The SVID in use.
    pub const fn svid(&self) -> &Svid {
        &self.svid
    }

    /// Who gives the SVIDs.
    pub const fn source(&self) -> SvidSource {
        self.config.source
    }

    /// When the next one is asked for: about half of the life of this one, the same after each restart.
    pub const fn renew_at(&self) -> UnixTime {
        self.renew_at
    }

    /// How well off the identity is at `wall`.
    pub fn status(&self, wall: UnixTime) -> RotationStatus {
        if self.withdrawn {
            RotationStatus::Withdrawn
        } else if wall > self.svid.not_after() {
            RotationStatus::Expired
        } else if wall >= self.critical_at() {
            RotationStatus::Critical
        } else if self.failures > 0 || self.is_overdue(wall) {
            RotationStatus::Degraded
        } else if matches!(self.phase, Phase::Asking { .. }) {
            RotationStatus::Renewing
        } else {
            RotationStatus::Valid
        }
    }

    /// Everything worth showing.
    pub fn view(&self, wall: UnixTime) -> RotationView {
        RotationView {
            source: self.config.source,
            status: self.status(wall),
            renew_at: self.renew_at,
            not_after: self.svid.not_after(),
            failures: self.failures,
            last_error: self.last_error.clone(),
            adopted: self.adopted,
            failed: self.failed,
            distrust: self.hurried.map(|(distrust, _)| distrust),
        }
    }

    /// When to call [`Self::handle_timeout`] next. Never far away: a wall clock that jumps is noticed at the next look.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (now, wall) = self.looked;
        let at = |time: UnixTime| now + time.since(wall);
        let mut next = now + self.config.recheck;
        next = next.min(match self.phase {
            Phase::Waiting if self.is_due(now, wall) => now,
            Phase::Waiting if self.config.source == SvidSource::WorkloadApi => self.overdue_timeout(next),
            Phase::Waiting => at(self.renew_at).min(self.hurried.map_or(Instant::FAR_FUTURE, |(_, ask_at)| ask_at)),
            Phase::Asking { deadline: moment } | Phase::BackingOff { until: moment, .. } => moment,
        });
        if self.told < RotationStatus::Critical {
            next = next.min(at(self.critical_at()));
        }
        if self.told < RotationStatus::Expired {
            next = next.min(at(self.svid.not_after() + Duration::from_secs(1)));
        }
        Some(next)
    }

    /// Looks at both clocks and does what is due. A key for the next SVID comes from `keys`.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime, keys: &mut dyn KeySource) {
        self.look(now, wall);
        match self.phase {
            Phase::Waiting if self.is_due(now, wall) => self.ask(now, wall, keys),
            Phase::BackingOff { until, .. } if now >= until => self.ask(now, wall, keys),
            Phase::Asking { deadline } if now >= deadline => {
                self.handle_failure(&Failure::Unavailable("no answer from the authority".to_owned()), now, wall);
            }
            Phase::Waiting | Phase::BackingOff { .. } | Phase::Asking { .. } => {}
        }
    }

    /// The authority says which of its signatures are not to be relied on: all that there are. If that of the SVID in use is among
    /// them, the next one is asked for now; until it comes, the valid one stays.
    pub fn set_distrusted(&mut self, distrusted: Distrusted, now: Instant, wall: UnixTime) {
        self.distrusted = distrusted;
        if let Some(distrust) = self.distrusted.judge(self.svid.chain()) {
            self.hurry(distrust, now, wall);
        }
    }

    /// The SVID in use is to be replaced before its time. The pause differs from node to node.
    pub fn hurry(&mut self, distrust: Distrust, now: Instant, wall: UnixTime) {
        self.look(now, wall);
        if self.hurried.is_some() {
            return;
        }
        let pause = self.entropy.below(u64::try_from(self.config.hurry.as_nanos()).unwrap_or(u64::MAX).max(1));
        let ask_at = now + Duration::from_nanos(pause);
        self.hurried = Some((distrust, ask_at));
        // Who was refused will be refused again: this changes nothing about that.
        if let Phase::BackingOff { until, refused: false } = self.phase {
            self.phase = Phase::BackingOff { until: until.min(ask_at), refused: false };
        }
        self.push(RotationEvent::Distrusted(distrust));
    }

    /// A signing request to be sent to an authority; answer with [`Self::handle_issued`] or [`Self::handle_failure`].
    pub fn poll_request(&mut self) -> Option<Vec<u8>> {
        self.request.take()
    }

    /// Whether an authority was asked for an SVID that it has not given. An answer may be late: the key is kept for all attempts.
    pub const fn has_asked(&self) -> bool {
        self.pending.is_some()
    }

    /// An authority's answer: a chain, and the trust domain's bundle as the node believes it to be. Adopted if a stranger
    /// would accept it and it is ours; otherwise the SVID in use stays and the attempt counts as failed.
    pub fn handle_issued(
        &mut self,
        chain: Vec<CertificateDer<'static>>,
        bundle: &Bundle,
        now: Instant,
        wall: UnixTime,
    ) -> Result<(), AdoptError> {
        self.look(now, wall);
        match self.check(chain, bundle, wall) {
            Ok(svid) => {
                self.adopt(svid);
                Ok(())
            }
            Err(AdoptError::NotAsked) => Err(AdoptError::NotAsked),
            Err(error) => {
                self.handle_failure(&Failure::Unavailable(in_one_line(&error)), now, wall);
                Err(error)
            }
        }
    }

    /// An SVID that came by another way than a request of this machine: the node had to come back after the end of the one before.
    pub fn handle_recovered(
        &mut self,
        svid: Svid,
        bundle: &Bundle,
        now: Instant,
        wall: UnixTime,
    ) -> Result<(), AdoptError> {
        self.look(now, wall);
        let found = verify_chain(svid.chain(), bundle, wall)?;
        let wanted = self.svid.spiffe_id();
        if found != *wanted {
            return Err(AdoptError::OtherIdentity { found, wanted: wanted.clone() });
        }
        if let Some(distrust) = self.distrusted.judge(svid.chain()) {
            return Err(AdoptError::Distrusted(distrust));
        }
        self.adopt(svid);
        Ok(())
    }

    /// The attempt failed. The SVID in use stays; the next attempt follows after a pause.
    pub fn handle_failure(&mut self, failure: &Failure, now: Instant, wall: UnixTime) {
        if !matches!(self.phase, Phase::Asking { .. }) {
            return;
        }
        let (reason, refused) = match failure {
            Failure::Unavailable(reason) => (reason, false),
            Failure::Refused(reason) => (reason, true),
        };
        self.failures = self.failures.saturating_add(1);
        self.failed += 1;
        self.last_error = Some(reason.clone());
        self.request = None;
        let pause = self.pause(refused, wall);
        self.phase = Phase::BackingOff { until: now + pause, refused };
        self.tell(RotationStatus::Degraded, RotationEvent::Degraded { reason: reason.clone() });
        self.look(now, wall);
    }

    /// The next piece of news, oldest first.
    pub fn poll_event(&mut self) -> Option<RotationEvent> {
        self.events.pop_front()
    }

    /// Old enough, or from a future that a wrong clock has made up: nobody else accepts such an SVID before its time, so the
    /// clock that was set right has to be followed by an SVID that is right.
    fn is_due(&self, now: Instant, wall: UnixTime) -> bool {
        let is_hurried = self.hurried.is_some_and(|(_, ask_at)| ask_at <= now);
        let asks = self.config.source == SvidSource::Authority;
        asks && (wall >= self.renew_at || wall < self.svid.not_before() || is_hurried)
    }

    fn ask(&mut self, now: Instant, wall: UnixTime, keys: &mut dyn KeySource) {
        self.phase = Phase::Asking { deadline: now + self.config.request_timeout };
        match self.request_for_pending(keys) {
            Ok(request) => self.request = Some(request),
            Err(error) => self.handle_failure(&Failure::Unavailable(in_one_line(&error)), now, wall),
        }
    }

    fn request_for_pending(&mut self, keys: &mut dyn KeySource) -> Result<Vec<u8>, KeyError> {
        let key = match self.pending.take() {
            Some(key) => key,
            None => keys.generate()?,
        };
        signing_request(self.pending.insert(key))
    }

    fn check(&self, chain: Vec<CertificateDer<'static>>, bundle: &Bundle, wall: UnixTime) -> Result<Svid, AdoptError> {
        let key = self.pending.as_ref().ok_or(AdoptError::NotAsked)?;
        let found = verify_chain(&chain, bundle, wall)?;
        let wanted = self.svid.spiffe_id();
        if found != *wanted {
            return Err(AdoptError::OtherIdentity { found, wanted: wanted.clone() });
        }
        if let Some(distrust) = self.distrusted.judge(&chain) {
            return Err(AdoptError::Distrusted(distrust));
        }
        Ok(Svid::new(chain, key.clone())?)
    }

    fn adopt(&mut self, svid: Svid) {
        let (old_not_after, not_after) = (self.svid.not_after(), svid.not_after());
        self.renew_at = renew_at(&svid);
        self.svid = svid;
        self.phase = Phase::Waiting;
        self.told = RotationStatus::Valid;
        self.pending = None;
        self.request = None;
        self.failures = 0;
        self.last_error = None;
        self.hurried = None;
        self.withdrawn = false;
        self.adopted += 1;
        self.push(RotationEvent::Updated { old_not_after, not_after });
    }

    /// Compares the clocks, tells what has become worse, and lets a long pause not outlast what is left.
    fn look(&mut self, now: Instant, wall: UnixTime) {
        let (then, wall_then) = self.looked;
        self.looked = (now, wall);
        let expected = wall_then + now.since(then);
        let (forward, by) = (wall > expected, wall.since(expected).max(expected.since(wall)));
        if by > self.config.jump {
            self.push(RotationEvent::ClockJumped { forward, by });
            // What a wrong clock made look worse may yet truly become so.
            self.told = self.told.min(self.status(wall));
        }
        self.tell_if_overdue(wall);
        let status = self.status(wall);
        if let Phase::BackingOff { until, refused: false } = self.phase
            && status == RotationStatus::Critical
        {
            self.phase = Phase::BackingOff { until: until.min(now + self.config.backoff_critical), refused: false };
        }
        if status == RotationStatus::Critical {
            let remaining = self.svid.not_after().since(wall);
            self.tell(RotationStatus::Critical, RotationEvent::Critical { remaining });
        }
        if status == RotationStatus::Expired {
            self.tell(RotationStatus::Expired, RotationEvent::Expired);
        }
    }

    /// Full jitter between the shortest pause and the doubled ceiling of this attempt, so that a mesh that lost its authority
    /// together does not come back together.
    fn pause(&mut self, refused: bool, wall: UnixTime) -> Duration {
        let critical = self.status(wall) == RotationStatus::Critical;
        let limit = if critical && !refused { self.config.backoff_critical } else { self.config.backoff_max };
        let doubled = self.config.backoff_min.saturating_mul(1 << self.failures.min(20));
        let ceiling = if refused { limit } else { doubled.min(limit) };
        let span = ceiling.saturating_sub(self.config.backoff_min);
        let jitter = self.entropy.below(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        self.config.backoff_min + Duration::from_nanos(jitter)
    }

    fn critical_at(&self) -> UnixTime {
        let life = self.svid.not_after().since(self.svid.not_before());
        self.svid.not_after() - (life / 10).max((life / 4).min(Duration::from_secs(300)))
    }

    fn tell(&mut self, status: RotationStatus, event: RotationEvent) {
        if self.told < status {
            self.told = status;
            self.push(event);
        }
    }

    fn push(&mut self, event: RotationEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// Half of its life, give or take a tenth of that half. The jitter is a hash of the leaf: fixed at issuance, different for
/// each certificate, and a restart keeps it.
pub(crate) fn renew_at(svid: &Svid) -> UnixTime {
    let life = svid.not_after().since(svid.not_before()).as_secs();
    let hash = digest(&SHA256, svid.chain().first().map_or(&[], |leaf| leaf.as_ref()));
    let dice = u64::from(hash.as_ref()[0]) << 8 | u64::from(hash.as_ref()[1]);
    // 0.45 to 0.55 of life, in 65,536 steps.
    let per_million = 450_000 + dice * 100_000 / 65_535;
    let after = u128::from(life) * u128::from(per_million) / 1_000_000;
    svid.not_before() + Duration::from_secs(u64::try_from(after).unwrap_or(u64::MAX))
}
