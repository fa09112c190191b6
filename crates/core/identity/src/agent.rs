//! A node's agent: keeps an X.509-SVID fresh for every entry whose processes may run on this node.
//!
//! ```text
//!            new entry               answer adopted, half of life
//!   (sync) ───────────▶ Due ──ask──▶ Asking ──────────────▶ Waiting ──▶ Due …
//!                        ▲              │ refused, not adopted, no answer
//!                        └─ BackingOff ◀┘        the SVID in use stays until its own end
//! ```
//!
//! Pure: told what the authority answered and what time it is, it says what to ask next. It asks what has changed and lets the
//! authority keep the question until something has. Signing requests leave in batches, so ten thousand workloads cost three
//! hundred messages. What a process gets is decided elsewhere, from [`Agent::held`].

mod federated;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x0t_model::{Entropy, Instant, SpiffeId, UnixTime, in_one_line};

use self::federated::FederatedBundles;
use crate::agent_message::{
    AgentAnswer, AgentRequest, Base64, ISSUE_BATCH_MAX, SvidOutcome, SvidRequest, SyncAnswer, SyncRequest,
};
use crate::authority::Known;
use crate::bundle::{Bundle, BundleMap, BundleUpdate};
use crate::ca_life::KeyId;
use crate::csr::signing_request;
use crate::distrusted::Distrusted;
use crate::entry::{Entry, EntryId};
use crate::keys::{KeySource, PrivateKey};
use crate::rotation::renew_at;
use crate::svid::Svid;
use crate::verify::verify_chain;

/// Entries that a node keeps an identity for. The mission's cache of X.509-SVIDs has 5,000; twice that for a large host.
pub const AGENT_ENTRIES_MAX: usize = 10_000;
/// Batches of signing requests under way at once: enough to keep a far authority busy.
const BATCHES_MAX: usize = 4;
/// The first pause after a failure, and the longest; drawn with full jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(150);
/// An entry that comes with its identity's end near is not left waiting for long.
const BACKOFF_CRITICAL: Duration = Duration::from_secs(5);

/// What a process may be given: an entry and, once it is issued, its SVID.
#[derive(Clone, Debug)]
pub struct HeldSvid {
    /// The entry.
    pub entry: Arc<Entry>,
    /// `None` until the first is issued, and after the last has run out.
    pub svid: Option<Svid>,
}

/// Something that whoever drives the agent should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The bundle of the own trust domain is replaced: the node wants it too.
    OwnBundle(Bundle),
    /// What these have signed, and these SVIDs, are to be replaced, the node's own among them: all that there are.
    Distrusted(Distrusted),
    /// An SVID was issued or replaced.
    Issued(SpiffeId),
    /// The authority, or the way to it, fails. Said once until it works again.
    Degraded(String),
    /// It works again.
    Recovered,
    /// An SVID ran out before a new one came.
    Expired(SpiffeId),
}

/// What an agent has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStats {
    /// SVIDs adopted.
    pub svids_adopted: u64,
    /// Answers that were not adopted: refused, malformed, of another identity, not signed by the bundle.
    pub svids_refused: u64,
    /// Requests without a usable answer.
    pub requests_failed: u64,
    /// Entries for which there was no room.
    pub entries_dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Due,
    Asking(u64),
    Waiting(UnixTime),
    BackingOff(Instant),
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    svid: Option<Svid>,
    /// Made for the first attempt and kept for all: an answer that comes late still fits.
    pending: Option<PrivateKey>,
    phase: Phase,
    failures: u32,
    /// Who issued the SVID in use.
    issuer: Option<KeyId>,
}

#[derive(Debug)]
enum Outstanding {
    Sync,
    Issue(Vec<EntryId>),
}

/// Keeps the SVIDs of a node's workloads. After each `handle_*` drain [`Self::poll_request`] and [`Self::poll_event`]; call
/// [`Self::handle_timeout`] at [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Agent {
    node: SpiffeId,
    entropy: Entropy,
    bundles: BundleMap,
    known: Known,
    slots: BTreeMap<EntryId, Slot>,
    /// How many of them it keeps.
    entries_max: usize,
    /// Entries were dropped for want of room, and have not been asked for again since.
    is_short: bool,
    /// While everything is being told anew: what was told so far. What is not in it at the end is gone.
    confirming: Option<BTreeSet<EntryId>>,
    outstanding: BTreeMap<u64, Outstanding>,
    next_request: u64,
    /// When to ask again what has changed; `None` while the question is out.
    sync_at: Option<Instant>,
    sync_failures: u32,
    degraded: bool,
    outbox: VecDeque<(u64, AgentRequest)>,
    events: VecDeque<AgentEvent>,
    /// Grows with each change of what processes may get.
    generation: u64,
    /// SVIDs that are to be replaced.
    distrusted: Distrusted,
    federated: FederatedBundles,
    /// Revocation lists of the own trust domain.
    crls: Vec<Vec<u8>>,
    /// Who issued the node's own SVID.
    own_issuer: Option<KeyId>,
    /// The last question about changes, and the issuer that it named.
    said: (u64, Option<KeyId>),
    stats: AgentStats,
}

impl Agent {
    /// An agent of `node`, which trusts `bundle`. It knows nothing else and asks at its first timeout, which is at once.
    pub fn new(node: SpiffeId, bundle: Bundle, entropy: Entropy, now: Instant) -> Self {
        let mut bundles = BundleMap::new();
        // An empty map takes any bundle.
        let _ = bundles.offer(bundle);
        Self {
            node,
            entropy,
            bundles,
            known: Known::default(),
            slots: BTreeMap::new(),
            entries_max: AGENT_ENTRIES_MAX,
            is_short: false,
            confirming: None,
            outstanding: BTreeMap::new(),
            next_request: 1,
            sync_at: Some(now),
            sync_failures: 0,
            degraded: false,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            generation: 0,
            distrusted: Distrusted::default(),
            federated: FederatedBundles::default(),
            crls: Vec::new(),
            own_issuer: None,
            said: (0, None),
            stats: AgentStats::default(),
        }
    }

    /// Keeps identities for at most `entries` entries.
    #[must_use]
    pub const fn with_entries_max(mut self, entries: usize) -> Self {
        self.entries_max = entries;
        self
    }

    /// Whose agent it is.
    pub const fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The bundles of all trust domains it knows of.
    pub const fn bundles(&self) -> &BundleMap {
        &self.bundles
    }

    /// Every entry for this node, in the order of their ids.
    pub fn held(&self) -> impl Iterator<Item = HeldSvid> + '_ {
        self.slots.values().map(|slot| HeldSvid { entry: slot.entry.clone(), svid: slot.svid.clone() })
    }

    /// Grows with each change of [`Self::held`] or [`Self::bundles`]. 0 until the authority was heard for the first time.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The node shows an SVID with this chain from now on: the authority is told who issued it, and soon if it is another.
    pub fn set_own_chain(&mut self, chain: &[CertificateDer<'_>], now: Instant) {
        self.own_issuer = KeyId::of_issuer(chain);
        self.say_issuer(now);
    }

    /// Whoever revokes an authority waits to hear that nobody needs it: a question that is kept has named the wrong issuer for as
    /// long as it is kept, so another is asked beside it.
    fn say_issuer(&mut self, now: Instant) {
        if self.sync_at.is_none() && self.issuer() != self.said.1 {
            self.sync_at = Some(now);
        }
    }

    /// Whether SVIDs of `issuer` are to be replaced, the node's own included.
    pub fn is_tainted(&self, issuer: KeyId) -> bool {
        self.distrusted.tainted.contains(&issuer)
    }

    /// Revocation lists of the own trust domain (DER), as the authority has sent them with the bundle.
    pub fn crls(&self) -> &[Vec<u8>] {
        &self.crls
    }

    /// Who issued what the node and its workloads show; a tainted one before others. `None` as long as the node's own is not known.
    fn issuer(&self) -> Option<KeyId> {
        let issuers = self.slots.values().filter(|slot| slot.svid.is_some()).filter_map(|slot| slot.issuer);
        let issuers = issuers.chain(self.own_issuer);
        issuers
            .max_by_key(|issuer| self.is_tainted(*issuer))
            .filter(|issuer| self.own_issuer.is_some() || self.is_tainted(*issuer))
    }

    /// What it has done.
    pub const fn stats(&self) -> AgentStats {
        self.stats
    }

    /// A question for the authority; its answer goes to [`Self::handle_answer`] under the same number.
    pub fn poll_request(&mut self) -> Option<(u64, AgentRequest)> {
        self.outbox.pop_front()
    }

    /// The next piece of news, oldest first.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`]. Wall-clock times are looked at through the pair `(now, wall)` of this moment.
    pub fn poll_timeout(&self, now: Instant, wall: UnixTime) -> Instant {
        let at = |time: UnixTime| now + time.since(wall);
        let mut next = self.sync_at.unwrap_or(Instant::FAR_FUTURE);
        let may_ask = self.batches() < BATCHES_MAX;
        for slot in self.slots.values() {
            next = next.min(match slot.phase {
                Phase::Due if may_ask => now,
                Phase::Due | Phase::Asking(_) => Instant::FAR_FUTURE,
                Phase::Waiting(renew_at) => at(renew_at),
                Phase::BackingOff(until) => until,
            });
            if let Some(svid) = &slot.svid {
                next = next.min(at(svid.not_after() + Duration::from_secs(1)));
            }
        }
        next
    }

    /// Does what is due. Keys come from `keys`.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixTime, keys: &mut dyn KeySource) {
        self.expire(wall);
        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync_at = None;
            let own = self.bundles.get(self.node.trust_domain());
            let bundles = own.map(|bundle| (bundle.trust_domain().clone(), bundle.sequence())).into_iter().collect();
            let (federated, partial) = (Some(self.federated.in_use()), self.federated.partial());
            // A question that is kept waits for news, so the first one, which has none to wait for, is answered at once.
            let (known, issuer) = (self.known, self.issuer());
            let request = SyncRequest { known, bundles, federated, partial, issuer, wait: self.generation > 0 };
            let number = self.ask(Outstanding::Sync, AgentRequest::Sync(request));
            self.said = (number, issuer);
        }
        for slot in self.slots.values_mut() {
            let due = match slot.phase {
                Phase::Waiting(renew_at) => {
                    wall >= renew_at || slot.svid.as_ref().is_none_or(|svid| wall < svid.not_before())
                }
                Phase::BackingOff(until) => until <= now,
                Phase::Due | Phase::Asking(_) => false,
            };
            if due {
                slot.phase = Phase::Due;
            }
        }
        self.ask_for_svids(now, keys);
    }

    /// What came of a question: the answer's body, or why there is none.
    pub fn handle_answer(&mut self, request: u64, outcome: Result<&[u8], &str>, now: Instant, wall: UnixTime) {
        let Some(outstanding) = self.outstanding.remove(&request) else { return };
        if matches!(outstanding, Outstanding::Sync) && request != self.said.0 {
            // A later question has taken its place, and is answered with the same.
            return;
        }
        let answer = match outcome {
            Ok(body) => AgentAnswer::decode(body).map_err(|error| in_one_line(&error)),
            Err(reason) => Err(reason.to_owned()),
        };
        match (outstanding, answer) {
            (Outstanding::Sync, Ok(AgentAnswer::Sync(answer))) => self.on_changes(answer, now, wall),
            (Outstanding::Issue(entries), Ok(AgentAnswer::IssuedX509 { items })) if items.len() == entries.len() => {
                self.recovered();
                for (entry, outcome) in entries.iter().zip(items) {
                    self.on_outcome(entry, request, outcome, now, wall);
                }
                if self.said.1.is_some_and(|said| self.is_tainted(said)) {
                    self.say_issuer(now);
                }
            }
            (outstanding, answer) => {
                let reason = match answer {
                    Ok(AgentAnswer::Refused(refused)) => refused.text,
                    Ok(_) => "the authority answered something else than what was asked".to_owned(),
                    Err(reason) => reason,
                };
                self.on_failure(outstanding, request, reason, now, wall);
            }
        }
    }

    fn ask(&mut self, outstanding: Outstanding, request: AgentRequest) -> u64 {
        let number = self.next_request;
        self.next_request += 1;
        self.outstanding.insert(number, outstanding);
        self.outbox.push_back((number, request));
        number
    }

    fn batches(&self) -> usize {
        self.outstanding.values().filter(|asked| matches!(asked, Outstanding::Issue(_))).count()
    }

    fn ask_for_svids(&mut self, now: Instant, keys: &mut dyn KeySource) {
        while self.batches() < BATCHES_MAX {
            let due = self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Due);
            let due: Vec<EntryId> = due.take(ISSUE_BATCH_MAX).map(|(id, _)| id.clone()).collect();
            let mut items = Vec::with_capacity(due.len());
            let number = self.next_request;
            for id in due {
                let Some(slot) = self.slots.get_mut(&id) else { continue };
                match slot.request(keys) {
                    Some(csr) => {
                        slot.phase = Phase::Asking(number);
                        items.push(SvidRequest { entry: id, csr: Base64(csr) });
                    }
                    None => {
                        slot.phase = Phase::BackingOff(now + BACKOFF_MAX);
                        self.stats.requests_failed += 1;
                    }
                }
            }
            if items.is_empty() {
                return;
            }
            let entries = items.iter().map(|item| item.entry.clone()).collect();
            self.ask(Outstanding::Issue(entries), AgentRequest::IssueX509 { items });
        }
    }

    fn on_changes(&mut self, answer: SyncAnswer, now: Instant, wall: UnixTime) {
        self.recovered();
        self.sync_failures = 0;
        let (mut changed, mut own_bundle) = (self.generation == 0, false);
        for (domain, document) in answer.bundles {
            let is_own = domain == *self.node.trust_domain();
            let offered = Bundle::from_json(domain, document.as_bytes()).and_then(|bundle| self.bundles.offer(bundle));
            if matches!(offered, Ok(BundleUpdate::Replaced)) {
                changed = true;
                own_bundle |= is_own;
            } else if offered.is_err() {
                self.stats.requests_failed += 1;
            }
        }
        let own = self.node.trust_domain();
        let foreign = self.federated.handle_answer(own, answer.withdrawn, answer.federated, &mut self.bundles);
        changed |= foreign.any;
        self.stats.requests_failed += foreign.refused;
        let delta = answer.entries;
        if delta.is_full {
            self.confirming = Some(BTreeSet::new());
        }
        for id in &delta.deleted {
            changed |= self.slots.remove(id).is_some();
        }
        for entry in delta.entries {
            if let Some(confirming) = &mut self.confirming {
                confirming.insert(entry.id.clone());
            }
            changed |= self.put(entry);
        }
        if !delta.has_more
            && let Some(confirmed) = self.confirming.take()
        {
            let before = self.slots.len();
            self.slots.retain(|id, _| confirmed.contains(id));
            changed |= self.slots.len() != before;
        }
        self.known = delta.known;
        if self.is_short && !delta.has_more && self.slots.len() < self.entries_max {
            // There is room again, and only the authority knows for what.
            self.is_short = false;
            self.known = Known::default();
        }
        self.sync_at = Some(now);
        let crls: Vec<_> = answer.crls.into_iter().map(|list| list.0).collect();
        let distrusted = Distrusted::of(answer.tainted.into_iter().collect(), &crls);
        let newly_distrusted = self.distrusted != distrusted;
        self.distrusted = distrusted;
        if newly_distrusted {
            self.events.push_back(AgentEvent::Distrusted(self.distrusted.clone()));
        }
        // Two lists of the same content differ in their signatures.
        if own_bundle || newly_distrusted || self.crls.len() != crls.len() {
            self.crls = crls;
            changed = true;
        }
        if own_bundle || newly_distrusted {
            self.judge_anew(own_bundle, wall);
        }
        if changed {
            self.change();
        }
    }

    fn put(&mut self, entry: Entry) -> bool {
        let entry = Arc::new(entry);
        if let Some(slot) = self.slots.get_mut(&entry.id) {
            if slot.entry == entry {
                return false;
            }
            let (before, after) = (&slot.entry.spec, &entry.spec);
            if before.spiffe_id != after.spiffe_id {
                slot.svid = None;
            }
            if (&before.spiffe_id, &before.dns_names, before.x509_ttl)
                != (&after.spiffe_id, &after.dns_names, after.x509_ttl)
            {
                slot.phase = Phase::Due;
            }
            slot.entry = entry;
            return true;
        }
        if self.slots.len() >= self.entries_max {
            self.is_short = true;
            self.stats.entries_dropped += 1;
            return false;
        }
        let slot =
            Slot { entry: entry.clone(), svid: None, pending: None, phase: Phase::Due, failures: 0, issuer: None };
        self.slots.insert(entry.id.clone(), slot);
        true
    }

    /// The bundle has changed, or what is distrusted: an SVID whose authority is not in the bundle convinces nobody any more, and one
    /// that is distrusted soon will not, so another is asked for.
    fn judge_anew(&mut self, is_new: bool, wall: UnixTime) {
        let Some(own) = self.bundles.get(self.node.trust_domain()).cloned() else { return };
        if is_new {
            self.events.push_back(AgentEvent::OwnBundle((*own).clone()));
        }
        for slot in self.slots.values_mut() {
            let stands = |svid: &Svid| verify_chain(svid.chain(), &own, wall).is_ok();
            let is_distrusted = |svid: &Svid| self.distrusted.judge(svid.chain()).is_some();
            if slot.svid.as_ref().is_some_and(|svid| is_distrusted(svid) || !stands(svid))
                && !matches!(slot.phase, Phase::Asking(_))
            {
                slot.phase = Phase::Due;
            }
        }
    }

    fn on_outcome(&mut self, id: &EntryId, request: u64, outcome: SvidOutcome, now: Instant, wall: UnixTime) {
        let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.phase == Phase::Asking(request)) else { return };
        let own = self.bundles.get(self.node.trust_domain());
        let adopted = match outcome {
            SvidOutcome::Issued(chain) => {
                own.ok_or_else(String::new).and_then(|own| slot.check(chain, own, &self.distrusted, wall))
            }
            SvidOutcome::Refused(refused) => Err(refused.text),
        };
        match adopted {
            Ok(svid) => {
                slot.phase = Phase::Waiting(renew_at(&svid));
                slot.failures = 0;
                slot.pending = None;
                let who = svid.spiffe_id().clone();
                slot.issuer = KeyId::of_issuer(svid.chain());
                slot.svid = Some(svid);
                self.stats.svids_adopted += 1;
                self.events.push_back(AgentEvent::Issued(who));
                self.change();
            }
            Err(_) => {
                self.stats.svids_refused += 1;
                slot.back_off(&mut self.entropy, now, wall);
            }
        }
    }

    fn on_failure(&mut self, outstanding: Outstanding, request: u64, reason: String, now: Instant, wall: UnixTime) {
        self.stats.requests_failed += 1;
        if !std::mem::replace(&mut self.degraded, true) {
            self.events.push_back(AgentEvent::Degraded(reason));
        }
        match outstanding {
            Outstanding::Sync => {
                self.sync_failures = self.sync_failures.saturating_add(1);
                // A new entry should not wait for two minutes because the authority was restarted.
                let pause = pause(&mut self.entropy, self.sync_failures, BACKOFF_CRITICAL);
                self.sync_at = Some(now + pause);
            }
            Outstanding::Issue(entries) => {
                for id in entries {
                    let slot = self.slots.get_mut(&id).filter(|slot| slot.phase == Phase::Asking(request));
                    if let Some(slot) = slot {
                        slot.back_off(&mut self.entropy, now, wall);
                    }
                }
            }
        }
    }

    fn recovered(&mut self) {
        if std::mem::replace(&mut self.degraded, false) {
            self.events.push_back(AgentEvent::Recovered);
        }
    }

    /// Takes out what has run out: a process is better told that there is nothing than given what nobody accepts.
    fn expire(&mut self, wall: UnixTime) {
        let mut expired = false;
        for slot in self.slots.values_mut() {
            if let Some(svid) = slot.svid.take_if(|svid| svid.not_after() < wall) {
                expired = true;
                self.events.push_back(AgentEvent::Expired(svid.spiffe_id().clone()));
                if matches!(slot.phase, Phase::Waiting(_)) {
                    slot.phase = Phase::Due;
                }
            }
        }
        if expired {
            self.change();
        }
    }

    const fn change(&mut self) {
        self.generation += 1;
    }
}

impl Slot {
    /// A signing request for the pending key, made now if there is none.
    fn request(&mut self, keys: &mut dyn KeySource) -> Option<Vec<u8>> {
        if self.pending.is_none() {
            self.pending = keys.generate().ok();
        }
        signing_request(self.pending.as_ref()?).ok()
    }

    /// The chain as an SVID, if a stranger would accept it, it is for this entry and for our key.
    fn check(&self, chain: Vec<Base64>, own: &Bundle, distrusted: &Distrusted, wall: UnixTime) -> Result<Svid, String> {
        let chain: Vec<_> = chain.into_iter().map(|der| CertificateDer::from(der.0)).collect();
        let found = verify_chain(&chain, own, wall).map_err(|error| in_one_line(&error))?;
        if let Some(distrust) = distrusted.judge(&chain) {
            return Err(format!("the certificate comes too late: {distrust}"));
        }
        if found != self.entry.spec.spiffe_id {
            return Err(format!("the certificate is for {found}, not for {}", self.entry.spec.spiffe_id));
        }
        let key = self.pending.clone().ok_or_else(|| "nothing was asked".to_owned())?;
        Svid::new(chain, key).map_err(|error| in_one_line(&error))
    }

    fn back_off(&mut self, entropy: &mut Entropy, now: Instant, wall: UnixTime) {
        self.failures = self.failures.saturating_add(1);
        let is_critical = self.svid.as_ref().is_none_or(|svid| {
            let life = svid.not_after().since(svid.not_before());
            svid.not_after().since(wall) < life / 10
        });
        let most = if is_critical { BACKOFF_CRITICAL } else { BACKOFF_MAX };
        self.phase = Phase::BackingOff(now + pause(entropy, self.failures, most));
    }
}

/// Exponential from [`BACKOFF_MIN`] to `most`, with full jitter, and never nothing.
fn pause(entropy: &mut Entropy, failures: u32, most: Duration) -> Duration {
    let ceiling = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(50 + entropy.below(millis.max(1)))
}
