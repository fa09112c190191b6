//! An authority at work: requests come in with a ticket, what must not be forgotten goes out before the answer that relies on it.
//!
//! ```text
//!  joiner, node, agent, operator ──request, ticket──▶ AuthorityServer ──Commit(commands)──▶ the log, made durable
//!                                                          └──────────Answer(ticket, …)──▶ whoever asked
//! ```
//!
//! A node's agent asks what has changed and may wait for it: its ticket is then kept until something has, so that a new entry
//! reaches its processes in the time of one message and nobody polls.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_model::{Entropy, Instant, SpiffeId, UnixTime, in_one_line};

use super::{Authority, AuthorityCommand, CaChangeError, FederationAnswer, FederationRequest, TokenView};
use crate::agent_message::{
    AGENT_BODY_MAX, AgentAnswer, AgentRequest, Base64, SYNC_ENTRIES_MAX, SvidOutcome, SvidRequest, SyncAnswer,
    SyncRequest,
};
use crate::ca_life::{AuthorityKind, CaCommand, CaStatus, KeyId, Patience, Step, Transition};
use crate::entry::{Entry, EntryId, EntrySpec};
use crate::jwt::AudienceSet;
use crate::keys::KeySource;
use crate::message::{JoinAccepted, JoinRequest, Message, RecoverRequest, Refused, RenewAccepted};
use crate::revocation::Withdrawn;
use crate::secret::Secret;
use crate::upstream::UpstreamFiles;

/// How long a waiting agent is kept before it hears that nothing has changed. Shorter than what makes a path of routers forget.
pub const SYNC_WAIT: Duration = Duration::from_secs(25);
/// Agents that may wait at once; the longest-waiting one makes room.
const WAITING_MAX: usize = 16_384;
/// The longest life of a join token.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Names a request until it is answered. Chosen by whoever carries requests.
pub type Ticket = u64;

/// What is asked of an authority, and by whom.
#[derive(Debug)]
pub enum AuthorityRequest {
    /// A joiner presents a token.
    Join(JoinRequest),
    /// A node, whose identity its session has proven, asks for its next SVID.
    Renew {
        /// Who.
        node: SpiffeId,
        /// See [`signing_request`](crate::signing_request).
        csr: Vec<u8>,
    },
    /// A node whose SVID has ended asks for another, in a joiner's session.
    Recover(RecoverRequest),
    /// A node's agent asks for its workloads; an encoded [`AgentRequest`].
    Agent {
        /// Who.
        node: SpiffeId,
        /// What.
        body: Vec<u8>,
    },
    /// The operator of this host.
    Operator(OperatorRequest),
}

impl AuthorityRequest {
    /// An answer that says no, in the form that this request expects.
    pub fn refuse(&self, code: &str, text: &str) -> AuthorityAnswer {
        let refused = Refused { code: code.to_owned(), text: text.to_owned() };
        match self {
            Self::Join(_) | Self::Recover(_) => AuthorityAnswer::Message(Message::JoinRefused(refused)),
            Self::Renew { .. } => AuthorityAnswer::Message(Message::RenewRefused(refused)),
            Self::Agent { .. } => encoded(&AgentAnswer::Refused(refused)),
            Self::Operator(_) => AuthorityAnswer::Operator(OperatorAnswer::Refused(refused)),
        }
    }
}

/// What an operator asks of the authority on its own host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operator", rename_all = "snake_case")]
pub enum OperatorRequest {
    /// A single-use token that lets one node join.
    CreateToken {
        /// Only this name may join with it; any free name if absent.
        name: Option<String>,
        /// How long it is valid, at most 30 days.
        ttl: Duration,
        /// Addresses the joiner should try.
        addresses: Vec<SocketAddr>,
    },
    /// The tokens that are remembered.
    ListTokens,
    /// A change, made as it is.
    Change(AuthorityCommand),
    /// A new registration entry; the authority chooses its id.
    CreateEntry(EntrySpec),
    /// The registration entries.
    ListEntries,
    /// An entry is deleted.
    DeleteEntry {
        /// Which.
        id: EntryId,
        /// Whether everything that is out for its identity goes on the revocation list; otherwise it ends by itself.
        revoke: bool,
    },
    /// The authorities, and who has heard of them.
    AuthorityStatus,
    /// What is going to happen to them, when, and why not yet.
    AuthorityPlan,
    /// A new authority in the bundle, which signs nothing yet.
    PrepareAuthority {
        /// What it signs.
        kind: AuthorityKind,
    },
    /// The same, with an intermediate of an authority outside: the content of files, PEM.
    ImportAuthority {
        /// See [`UpstreamFiles::chain`].
        chain: String,
        /// See [`UpstreamFiles::key`].
        key: Secret<String>,
        /// See [`UpstreamFiles::roots`].
        roots: String,
    },
    /// The prepared authority signs.
    ActivateAuthority {
        /// What it signs.
        kind: AuthorityKind,
        /// Leave nodes behind that have not acknowledged it.
        force: bool,
    },
    /// Whatever this authority has signed is replaced.
    TaintAuthority {
        /// Which.
        key_id: KeyId,
    },
    /// A tainted authority leaves the bundle.
    RevokeAuthority {
        /// Which.
        key_id: KeyId,
        /// Leave nodes behind that hold SVIDs of it.
        force: bool,
    },
    /// About foreign trust domains.
    Federation(FederationRequest),
    /// Everything that is out for an identity goes on the revocation list.
    RevokeSvids {
        /// Whose.
        id: SpiffeId,
    },
}

/// What an authority says. `Debug` leaves the body of an answer to an agent out: it may hold a token.
#[derive(PartialEq, Eq)]
pub enum AuthorityAnswer {
    /// To a joiner, or to a node that renews.
    Message(Message),
    /// To an agent: an encoded [`AgentAnswer`].
    Agent(Vec<u8>),
    /// To an operator.
    Operator(OperatorAnswer),
}

/// What an operator hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum OperatorAnswer {
    /// The token's text, a secret until it is used, and when it stops working.
    Token {
        /// What `x0t join` takes.
        token: Secret<String>,
        /// Seconds since 1970.
        expires: UnixTime,
    },
    /// The tokens.
    Tokens {
        /// In the order of their ids.
        tokens: Vec<TokenView>,
    },
    /// The new entry.
    Entry {
        /// As it is kept.
        entry: Box<Entry>,
    },
    /// The entries.
    Entries {
        /// In the order of their ids.
        entries: Vec<Entry>,
    },
    /// The authorities.
    Authorities {
        /// All that are remembered.
        status: CaStatus,
    },
    /// What is going to happen to the authorities.
    Plan {
        /// In the order of their times.
        steps: Vec<Step>,
    },
    /// An authority was prepared.
    Prepared {
        /// Which.
        key_id: KeyId,
    },
    /// A step that was taken.
    Changed {
        /// As it was made durable.
        change: CaCommand,
    },
    /// SVIDs that are on the revocation list.
    Revoked {
        /// How many.
        svids: usize,
        /// Others may be valid until this time: the authority has restarted since they were issued, or they were too many.
        complete_from: Option<UnixTime>,
    },
    /// About foreign trust domains.
    Federation(FederationAnswer),
    /// Done; there is nothing to say.
    Done,
    /// Not done.
    Refused(Refused),
}

/// What to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerOutput {
    /// Make these durable before anything that follows.
    Commit(Vec<AuthorityCommand>),
    /// Give this to whoever holds the ticket.
    Answer(Ticket, AuthorityAnswer),
    /// A node has joined.
    Joined(SpiffeId),
}

/// What an authority has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStats {
    /// SVIDs issued to nodes, joins included.
    pub node_svids_issued: u64,
    /// Of these, to nodes that came back with an SVID that had ended.
    pub nodes_recovered: u64,
    /// X.509-SVIDs issued to workloads.
    pub workload_svids_issued: u64,
    /// JWT-SVIDs minted.
    pub jwt_svids_minted: u64,
    /// Requests refused, of any kind.
    pub requests_refused: u64,
    /// Waiting agents that had to make room.
    pub waiting_evicted: u64,
}

#[derive(Debug)]
struct Waiting {
    node: SpiffeId,
    request: SyncRequest,
    until: Instant,
}

/// Answers requests for one [`Authority`]. After each `handle_*` drain [`Self::poll_output`]; call [`Self::handle_timeout`] at
/// [`Self::poll_timeout`].
pub struct AuthorityServer {
    authority: Authority,
    /// Every node that renews, for joiners to know.
    authorities: Vec<SpiffeId>,
    entropy: Entropy,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Revision of the entries, sequence of the bundle, number of the nodes and revision of the foreign bundles that everybody who
    /// waits has been told of.
    told: (u64, u64, usize, u64),
    outputs: VecDeque<ServerOutput>,
    stats: AuthorityStats,
    keys: Option<Box<dyn KeySource>>,
    /// The wall clock at the last look.
    wall: UnixTime,
}

impl fmt::Debug for AuthorityServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityServer({:?}, {} waiting)", self.authority, self.waiting.len())
    }
}

impl AuthorityServer {
    /// Answers for `authority`, one of `authorities`.
    pub fn new(authority: Authority, authorities: Vec<SpiffeId>, entropy: Entropy) -> Self {
        let (waiting, outputs, stats) = (BTreeMap::new(), VecDeque::new(), AuthorityStats::default());
        Self {
            authority,
            authorities,
            entropy,
            waiting,
            told: (0, 0, 0, 0),
            outputs,
            stats,
            keys: None,
            wall: UnixTime::default(),
        }
    }

    /// The state behind it.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What it has done.
    pub const fn stats(&self) -> AuthorityStats {
        self.stats
    }

    /// Agents that wait for news.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Somebody asks. The answer follows, now or later, under `ticket`.
    pub fn handle_request(&mut self, ticket: Ticket, request: AuthorityRequest, now: Instant, wall: UnixTime) {
        self.wall = wall;
        let answer = match request {
            AuthorityRequest::Join(request) => Some(AuthorityAnswer::Message(self.join(&request, wall))),
            AuthorityRequest::Recover(request) => Some(AuthorityAnswer::Message(self.recover(&request, wall))),
            AuthorityRequest::Renew { node, csr } => Some(AuthorityAnswer::Message(self.renew(&node, &csr, wall))),
            AuthorityRequest::Agent { node, body } => self.agent(ticket, node, &body, now, wall),
            AuthorityRequest::Operator(request) => Some(AuthorityAnswer::Operator(self.operator(request, wall))),
        };
        if let Some(answer) = answer {
            self.stats.requests_refused += u64::from(answer.is_refusal());
            self.outputs.push_back(ServerOutput::Answer(ticket, answer));
        }
        self.answer_waiting(now);
    }

    /// Lets waiting agents hear that nothing has changed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.answer_waiting(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        self.outputs.pop_front()
    }

    fn commit(&mut self) {
        let commands = self.authority.take_journal();
        if !commands.is_empty() {
            self.outputs.push_back(ServerOutput::Commit(commands));
        }
    }

    fn join(&mut self, request: &JoinRequest, now: UnixTime) -> Message {
        let name = request.name.as_deref();
        match self.authority.redeem(&request.secret, name, &request.csr, &mut self.entropy, now) {
            Ok(issued) => {
                self.commit();
                self.stats.node_svids_issued += 1;
                self.outputs.push_back(ServerOutput::Joined(issued.spiffe_id));
                let (bundle, authorities) = (self.authority.bundle().clone(), self.authorities.clone());
                Message::JoinAccepted(JoinAccepted { chain: issued.chain, bundle, authorities })
            }
            Err(refusal) => Message::JoinRefused(Refused::from(&refusal)),
        }
    }

    fn recover(&mut self, request: &RecoverRequest, now: UnixTime) -> Message {
        match self.authority.recover(request, &mut self.entropy, now) {
            Ok(issued) => {
                self.stats.node_svids_issued += 1;
                self.stats.nodes_recovered += 1;
                let (bundle, authorities) = (self.authority.bundle().clone(), self.authorities.clone());
                Message::JoinAccepted(JoinAccepted { chain: issued.chain, bundle, authorities })
            }
            Err(refusal) => Message::JoinRefused(Refused::from(&refusal)),
        }
    }

    fn renew(&mut self, node: &SpiffeId, csr: &[u8], now: UnixTime) -> Message {
        match self.authority.renew(node, csr, &mut self.entropy, now) {
            Ok(issued) => {
                self.stats.node_svids_issued += 1;
                let bundle = self.authority.bundle().clone();
                Message::RenewAccepted(RenewAccepted { chain: issued.chain, bundle })
            }
            Err(refusal) => Message::RenewRefused(Refused::from(&refusal)),
        }
    }

    /// An answer, or `None` if the agent waits.
    fn agent(
        &mut self,
        ticket: Ticket,
        node: SpiffeId,
        body: &[u8],
        now: Instant,
        wall: UnixTime,
    ) -> Option<AuthorityAnswer> {
        let answer = match AgentRequest::decode(body) {
            Ok(_) if !self.authority.knows(&node) => unknown_node(&node),
            Ok(AgentRequest::Sync(request)) => {
                let in_use = request.bundles.get(self.authority.trust_domain()).copied();
                self.authority.acknowledge(&node, in_use.unwrap_or(0), request.issuer, wall);
                if request.wait && !self.has_news(&node, &request) {
                    self.wait(ticket, Waiting { node, request, until: now + SYNC_WAIT });
                    return None;
                }
                AgentAnswer::Sync(self.changes(&node, &request))
            }
            Ok(AgentRequest::IssueX509 { items }) => AgentAnswer::IssuedX509 { items: self.issue(&node, &items, wall) },
            Ok(AgentRequest::MintJwt { entry, audience }) => self.mint(&node, &entry, &audience, wall),
            Err(error) => AgentAnswer::refused("malformed", &error),
        };
        Some(encoded(&answer))
    }

    fn issue(&mut self, node: &SpiffeId, items: &[SvidRequest], now: UnixTime) -> Vec<SvidOutcome> {
        let mut outcomes = Vec::with_capacity(items.len());
        for SvidRequest { entry, csr } in items {
            let issued = self.authority.issue_workload(node, entry, &csr.0, &mut self.entropy, now);
            self.stats.workload_svids_issued += u64::from(issued.is_ok());
            outcomes.push(match issued {
                Ok(issued) => SvidOutcome::issued(&issued.chain),
                Err(refusal) => SvidOutcome::Refused(Refused::new(refusal.code(), &refusal)),
            });
        }
        outcomes
    }

    fn mint(&mut self, node: &SpiffeId, entry: &EntryId, audience: &[String], now: UnixTime) -> AgentAnswer {
        let audience = match AudienceSet::parse(audience.iter().map(String::as_str)) {
            Ok(audience) => audience,
            Err(error) => return AgentAnswer::refused("bad_audience", &error),
        };
        match self.authority.mint_jwt(node, entry, &audience, now) {
            Ok(svid) => {
                self.stats.jwt_svids_minted += 1;
                AgentAnswer::MintedJwt { token: Secret::new(svid.token().to_owned()), expires_at: svid.expires_at() }
            }
            Err(refusal) => AgentAnswer::refused(refusal.code(), &refusal),
        }
    }

    fn wait(&mut self, ticket: Ticket, waiting: Waiting) {
        if self.waiting.len() >= WAITING_MAX
            && let Some(oldest) =
                self.waiting.iter().min_by_key(|(_, waiting)| waiting.until).map(|(ticket, _)| *ticket)
        {
            self.stats.waiting_evicted += 1;
            self.end_wait(oldest);
        }
        self.waiting.insert(ticket, waiting);
    }

    /// Answers those for whom something has changed, or whose time is over.
    fn answer_waiting(&mut self, now: Instant) {
        let (nodes, foreign) = (self.authority.names().count(), self.authority.federations().revision());
        let current = (self.authority.revision(), self.authority.bundle().sequence(), nodes, foreign);
        let has_changed = std::mem::replace(&mut self.told, current) != current;
        let is_news =
            |waiting: &Waiting| !self.authority.knows(&waiting.node) || self.has_news(&waiting.node, &waiting.request);
        let due = |waiting: &Waiting| waiting.until <= now || (has_changed && is_news(waiting));
        let tickets: Vec<_> = self.waiting.iter().filter(|(_, waiting)| due(waiting)).map(|(id, _)| *id).collect();
        for ticket in tickets {
            self.end_wait(ticket);
        }
    }

    fn end_wait(&mut self, ticket: Ticket) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        // It may have been removed while it waited.
        let answer = if self.authority.knows(&waiting.node) {
            AgentAnswer::Sync(self.changes(&waiting.node, &waiting.request))
        } else {
            unknown_node(&waiting.node)
        };
        self.outputs.push_back(ServerOutput::Answer(ticket, encoded(&answer)));
    }

    /// Whether there is anything that `node` does not know yet.
    fn has_news(&self, node: &SpiffeId, request: &SyncRequest) -> bool {
        let entries = self.authority.entries_since(node, request.known, 1);
        let no_entries = entries.entries.is_empty() && entries.deleted.is_empty() && !entries.is_full;
        !no_entries
            || request.known.full_since.is_some()
            || self.has_newer_bundle(request)
            || self.authority.has_federation_news(node, request)
    }

    fn has_newer_bundle(&self, request: &SyncRequest) -> bool {
        let own = self.authority.bundle();
        request.bundles.get(own.trust_domain()).is_none_or(|known| *known < own.sequence())
    }

    /// What `node` does not know yet, as much as fits into one message.
    fn changes(&self, node: &SpiffeId, request: &SyncRequest) -> SyncAnswer {
        let own = self.authority.bundle();
        let mut answer = SyncAnswer::default();
        if self.has_newer_bundle(request) {
            let document = String::from_utf8(own.to_json()).unwrap_or_default();
            answer.bundles.insert(own.trust_domain().clone(), document);
        }
        // Always all of them: an agent that has restarted knows the bundle from its disk, and these not.
        answer.tainted = self.authority.life().tainted().collect();
        let crls = self.authority.crls(self.wall).unwrap_or_default();
        answer.crls = crls.iter().map(|crl| Base64(crl.to_vec())).collect();
        let mut limit = SYNC_ENTRIES_MAX;
        loop {
            answer.entries = self.authority.entries_since(node, request.known, limit);
            let len = serde_json::to_vec(&answer).map_or(0, |bytes| bytes.len());
            // One entry always fits, see ENTRY_TEXT_MAX.
            if len <= AGENT_BODY_MAX || limit == 1 {
                break;
            }
            limit /= 2;
        }
        self.authority.add_federated(node, request, &mut answer);
        answer
    }

    fn operator(&mut self, request: OperatorRequest, now: UnixTime) -> OperatorAnswer {
        let answer = match request {
            OperatorRequest::CreateToken { name, ttl, addresses } => {
                let ttl = ttl.min(TOKEN_TTL_MAX);
                match self.authority.create_token(name.as_deref(), ttl, addresses, &mut self.entropy, now) {
                    Ok(token) => {
                        OperatorAnswer::Token { token: Secret::new(token.to_string()), expires: token.expires }
                    }
                    Err(refusal) => OperatorAnswer::Refused(Refused::new("token_refused", &refusal)),
                }
            }
            OperatorRequest::ListTokens => OperatorAnswer::Tokens { tokens: self.authority.tokens().collect() },
            OperatorRequest::Change(command) => match self.authority.execute(command) {
                Ok(()) => OperatorAnswer::Done,
                Err(refusal) => OperatorAnswer::Refused(Refused::new(refusal.code(), &refusal)),
            },
            OperatorRequest::CreateEntry(spec) => match self.authority.create_entry(spec, &mut self.entropy, now) {
                Ok(id) => self.entry(&id),
                Err(refusal) => OperatorAnswer::Refused(Refused::new(refusal.code(), &refusal)),
            },
            OperatorRequest::ListEntries => {
                OperatorAnswer::Entries { entries: self.authority.entries().cloned().collect() }
            }
            OperatorRequest::AuthorityStatus => OperatorAnswer::Authorities { status: self.authority.ca_status(now) },
            OperatorRequest::AuthorityPlan => OperatorAnswer::Plan { steps: self.authority.ca_plan(now) },
            OperatorRequest::PrepareAuthority { kind } => match &mut self.keys {
                Some(keys) => done(self.authority.prepare_ca(kind, &mut **keys, &mut self.entropy, now)),
                None => OperatorAnswer::Refused(Refused {
                    code: "no_key_source".to_owned(),
                    text: "this node cannot make keys".to_owned(),
                }),
            },
            OperatorRequest::ImportAuthority { chain, key, roots } => {
                let (chain, key, roots) = (chain.as_bytes(), key.expose().as_bytes(), roots.as_bytes());
                let files = UpstreamFiles { chain, key, roots };
                done(self.authority.import_files(files, &mut self.entropy, now))
            }
            OperatorRequest::DeleteEntry { id, revoke } => match self.authority.delete_entry(&id, revoke, now) {
                Ok(Some(Withdrawn { svids, complete_from })) => {
                    OperatorAnswer::Revoked { svids: svids.len(), complete_from }
                }
                Ok(None) => OperatorAnswer::Done,
                Err(refusal) => OperatorAnswer::Refused(Refused::new(refusal.code(), &refusal)),
            },
            OperatorRequest::ActivateAuthority { kind, force } => {
                changed(self.authority.activate_ca(kind, patience(force), now))
            }
            OperatorRequest::TaintAuthority { key_id } => changed(self.authority.taint_ca(key_id, now)),
            OperatorRequest::RevokeAuthority { key_id, force } => {
                changed(self.authority.revoke_ca(key_id, patience(force), now))
            }
            OperatorRequest::Federation(request) => match self.authority.federation(request) {
                Ok(answer) => OperatorAnswer::Federation(answer),
                Err(refusal) => OperatorAnswer::Refused(Refused::new(refusal.code(), &refusal)),
            },
            OperatorRequest::RevokeSvids { id } => match self.authority.revoke_svids(&id, now) {
                Ok(Withdrawn { svids, complete_from }) => OperatorAnswer::Revoked { svids: svids.len(), complete_from },
                Err(refusal) => OperatorAnswer::Refused(Refused::new(refusal.code(), &refusal)),
            },
        };
        self.commit();
        answer
    }

    /// Prepares, activates and prunes authorities as it is due. Call it at the start and then now and then: a minute is often enough,
    /// for every step has hours. Without a key source ([`Self::with_keys`]) nothing is done.
    pub fn maintain(&mut self, now: Instant, wall: UnixTime) -> Result<Vec<Transition>, CaChangeError> {
        self.wall = wall;
        let Some(keys) = &mut self.keys else { return Ok(Vec::new()) };
        let done = self.authority.maintain(&mut **keys, &mut self.entropy, wall);
        self.commit();
        self.answer_waiting(now);
        done
    }

    /// Makes the keys of new authorities with `keys`.
    #[must_use]
    pub fn with_keys(mut self, keys: Box<dyn KeySource>) -> Self {
        self.keys = Some(keys);
        self
    }

    fn entry(&self, id: &EntryId) -> OperatorAnswer {
        match self.authority.entry(id) {
            Some(entry) => OperatorAnswer::Entry { entry: Box::new(entry.clone()) },
            None => OperatorAnswer::Done,
        }
    }
}

impl fmt::Debug for AuthorityAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.debug_tuple("Message").field(message).finish(),
            Self::Agent(body) => write!(f, "Agent({} bytes)", body.len()),
            Self::Operator(answer) => f.debug_tuple("Operator").field(answer).finish(),
        }
    }
}

impl AuthorityAnswer {
    /// Whether it says no.
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Message(Message::JoinRefused(_) | Message::RenewRefused(_))
                | Self::Operator(OperatorAnswer::Refused(_))
        )
    }
}

fn unknown_node(node: &SpiffeId) -> AgentAnswer {
    let text = format!("{node} has no place in this trust domain: it was removed, or it never joined here");
    AgentAnswer::Refused(Refused { code: "unknown_node".to_owned(), text })
}

const fn patience(force: bool) -> Patience {
    if force { Patience::Force } else { Patience::Wait }
}

fn changed(outcome: Result<CaCommand, CaChangeError>) -> OperatorAnswer {
    match outcome {
        Ok(change) => OperatorAnswer::Changed { change },
        Err(error) => OperatorAnswer::Refused(Refused::new(error.code(), &error)),
    }
}

fn done(outcome: Result<KeyId, CaChangeError>) -> OperatorAnswer {
    match outcome {
        Ok(key_id) => OperatorAnswer::Prepared { key_id },
        Err(error) => OperatorAnswer::Refused(Refused::new(error.code(), &error)),
    }
}

fn encoded(answer: &AgentAnswer) -> AuthorityAnswer {
    let refused = |error| AgentAnswer::refused("too_long", &error).encode().unwrap_or_default();
    AuthorityAnswer::Agent(answer.encode().unwrap_or_else(refused))
}

impl Refused {
    /// A stable word and a person's text, both bounded.
    pub fn new(code: &str, reason: &dyn std::error::Error) -> Self {
        Self { code: code.to_owned(), text: crate::message::bounded(in_one_line(reason)) }
    }
}
