//! The embedded authority: a CA key, the tokens it has made, and the names it has given away.
//!
//! Pure state, changed by [`AuthorityCommand`]s alone. A call that changes what must not be forgotten (a token made or used, a
//! name given, an entry written) returns its answer as a value; the caller makes what [`Authority::take_journal`] gives
//! durable **before** letting the answer out. A crash between the two leaves either nothing changed and nothing said, or
//! everything changed and an answer lost: the second costs the operator a new token, and never lets one token admit two nodes.

mod ca;
mod command;
mod entries;
mod federation;
mod keyring;
mod recovery;
mod refusal;
mod server;
mod stored;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateDer;
use x0t_model::{Entropy, SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

pub use self::ca::CaChangeError;
pub use self::command::AuthorityCommand;
use self::entries::Entries;
pub use self::entries::{ENTRIES_BYTES_MAX, ENTRIES_MAX, EntryDelta, Known};
pub use self::federation::{BundleView, FederationAnswer, FederationRequest};
use self::keyring::Keyring;
pub use self::recovery::RecoverRefusal;
pub use self::refusal::{CommandRefusal, EntryRefusal, IssueRefusal, JoinRefusal, RenewRefusal, TokenRefusal};
pub use self::server::{
    AuthorityAnswer, AuthorityRequest, AuthorityServer, AuthorityStats, OperatorAnswer, OperatorRequest, SYNC_WAIT,
    ServerOutput, Ticket,
};
pub use self::stored::{NotStorable, StoredAuthorityError};
use self::tokens::Tokens;
pub use self::tokens::{JOIN_TOKENS_MAX, TokenHash, TokenId, TokenState, TokenView};
use crate::bundle::Bundle;
use crate::ca_life::{Acks, KeyId, Material};
use crate::ca_signer::{CaSigner, public_key_of};
use crate::csr::{self, RequestedKey};
use crate::entry::{Entry, EntryId, EntrySpec};
use crate::federation::Federations;
use crate::issuance::{self, IssueError, Validity};
use crate::jwt::{AudienceSet, JWT_SVID_TTL_DEFAULT, JwtRequest, JwtSigningKey, JwtSvid};
use crate::keys::{KeySource, PrivateKey};
use crate::leaf_rules::Leaf;
use crate::revocation::{IssuedSvids, Revocations, Serial};
use crate::seal::SealKey;
use crate::svid::Svid;
use crate::token::{JoinSecret, JoinToken, TOKEN_ADDRESSES_MAX};

/// Names an authority gives away: sixteen times the largest mesh in the promises.
pub const ISSUED_NAMES_MAX: usize = 16_384;
/// The longest that [`AuthorityConfig::recovery`] may be: what was taken back is remembered for as long.
pub const RECOVERY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Later than every certificate.
const FOREVER: UnixTime = UnixTime::from_secs(u64::MAX);
/// Bytes of a node's name: a fully qualified host name fits (RFC 1035, 2.3.4).
pub const NODE_NAME_LEN_MAX: usize = 253;

/// How an authority issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// From the publication of an authority on, it waits this long for nodes to acknowledge it, and is then activated without them.
    pub ack_deadline: Duration,
    /// How long an SVID is valid. One hour bounds what a stolen key is worth, and leaves half an hour to repair an authority.
    pub svid_ttl: Duration,
    /// How far an SVID's validity reaches back, against clocks that differ; see [`Self::backdate_of`].
    pub backdate: Duration,
    /// How long a CA certificate is valid. A year: its successor is prepared thirty days before the end and signs in the last
    /// seven. A leaked CA key is answered by tainting and revoking it, not by waiting.
    pub authority_ttl: Duration,
    /// How long after its end an SVID still gets its node another, if the node proves that it has the key. Zero, unless an operator
    /// wants it: never. Each key that was rotated away within this time is worth an identity, for nothing durable says which SVID of a
    /// node was the newest. Three days and a half bring a laptop back that slept from Friday noon to Monday night.
    pub recovery: Duration,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            ack_deadline: Duration::from_secs(600),
            svid_ttl: Duration::from_secs(3600),
            backdate: Duration::from_secs(60),
            authority_ttl: Duration::from_secs(365 * 24 * 3600),
            recovery: Duration::ZERO,
        }
    }
}

impl AuthorityConfig {
    /// How far the validity of an SVID with a life of `ttl` reaches back: at most a tenth of it, so that half of a very short life
    /// does not lie before its issuance. Not before plus this is when it was issued.
    pub fn backdate_of(&self, ttl: Duration) -> Duration {
        self.backdate.min(ttl / 10)
    }
}

/// A chain that was just issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The last second of its validity.
    pub not_after: UnixTime,
    /// Its serial number.
    pub serial: Serial,
    /// Who signed it.
    pub issuer: KeyId,
}

/// Whom a certificate is about, and for how long.
#[derive(Clone, Copy)]
struct Subject<'a> {
    id: &'a SpiffeId,
    dns_names: &'a [String],
    ttl: Duration,
}

/// The embedded authority of one trust domain, running on one of its nodes.
pub struct Authority {
    node: SpiffeId,
    name: String,
    config: AuthorityConfig,
    keyring: Keyring,
    /// Under which the private keys are written down; in clear without one.
    seal: Option<SealKey>,
    /// Which nodes have which bundle.
    acks: Acks,
    /// What is out.
    issued: IssuedSvids,
    /// What was taken back.
    revocations: Revocations,
    /// What nodes hold is not known: the state was read, and nobody has said what time it is.
    is_waking: bool,
    tokens: Tokens,
    /// Every name ever given away and not forgotten, with the time of its last join.
    names: BTreeMap<String, UnixTime>,
    entries: Entries,
    federations: Federations,
    /// Counts the changes of the entries; never reused.
    revision: u64,
    /// Applied and not yet made durable, in order.
    journal: Vec<AuthorityCommand>,
}

impl Authority {
    /// A new authority, and with it a new trust domain: that of `node`, the node that runs it.
    pub fn create(
        node: &SpiffeId,
        config: AuthorityConfig,
        keys: &mut dyn KeySource,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Self, IssueError> {
        let key = keys.generate()?;
        let life = (now - config.backdate, now + config.authority_ttl);
        let material = Material::self_signed(node.trust_domain(), &key, life, None, entropy)?;
        Self::create_with(node, config, material, key, now)
    }

    /// The same with an intermediate of an authority outside, which [`import_upstream`](crate::import_upstream) has read.
    pub fn create_with(
        node: &SpiffeId,
        config: AuthorityConfig,
        material: Material,
        key: PrivateKey,
        now: UnixTime,
    ) -> Result<Self, IssueError> {
        let name = node.node_name().filter(|name| check_name(node.trust_domain(), name).is_ok());
        let name = name.ok_or_else(|| IssueError::NotANode(node.clone()))?.to_owned();
        let keyring = Keyring::create(node.trust_domain(), material, key, 1, now);
        let keyring = keyring.map_err(|error| IssueError::Encoding(error.to_string()))?;
        let names = BTreeMap::from([(name.clone(), now)]);
        Ok(Self {
            node: node.clone(),
            name,
            config,
            keyring,
            seal: None,
            acks: Acks::default(),
            issued: IssuedSvids::default(),
            revocations: Revocations::default(),
            is_waking: false,
            tokens: Tokens::default(),
            names,
            entries: Entries::default(),
            federations: Federations::default(),
            revision: 0,
            journal: Vec::new(),
        })
    }

    /// The node that runs this authority.
    pub const fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The trust domain it vouches for.
    pub const fn trust_domain(&self) -> &TrustDomain {
        self.node.trust_domain()
    }

    /// What members check each other against.
    pub const fn bundle(&self) -> &Bundle {
        self.keyring.bundle()
    }

    /// The last second of the authority that signs X.509-SVIDs: unless another is activated, nothing is issued and nothing validates
    /// afterwards.
    pub fn not_after(&self) -> UnixTime {
        self.keyring.signer().map_or(UnixTime::default(), CaSigner::not_after)
    }

    /// What signs X.509-SVIDs; `None` if its key is not on this node.
    pub fn signer(&self) -> Option<&CaSigner> {
        self.keyring.signer()
    }

    /// What signs JWT-SVIDs; `None` if its key is not on this node.
    pub const fn jwt_signer(&self) -> Option<&JwtSigningKey> {
        self.keyring.jwt_signer()
    }

    /// Writes private keys sealed under `seal` from now on.
    pub fn seal_with(&mut self, seal: SealKey) {
        self.seal = Some(seal);
    }

    /// How it issues.
    pub const fn config(&self) -> &AuthorityConfig {
        &self.config
    }

    /// What the authority's node shows to a joiner: its own chain and, behind it, every authority of the bundle, so that the
    /// joiner can hold them against the digest in its token.
    pub fn join_chain(&self, svid: &Svid) -> Vec<CertificateDer<'static>> {
        svid.chain().iter().cloned().chain(self.keyring.authorities()).collect()
    }

    /// Makes a token that admits one node, by any free name or by `name`, until `now + ttl`. A token for a name that is taken
    /// lets that node join again, with a new key. Persist before showing it.
    pub fn create_token(
        &mut self,
        name: Option<&str>,
        ttl: Duration,
        addresses: Vec<SocketAddr>,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<JoinToken, TokenRefusal> {
        if addresses.is_empty() || addresses.len() > TOKEN_ADDRESSES_MAX {
            return Err(TokenRefusal::AddressCount(addresses.len()));
        }
        if let Some(name) = name {
            check_name(self.trust_domain(), name)
                .map_err(|source| TokenRefusal::BadName { name: name.to_owned(), source })?;
            if name == self.name {
                return Err(TokenRefusal::NameIsAuthority(name.to_owned()));
            }
        }
        let secret = JoinSecret::from_bytes(entropy.bytes());
        let expires = now + ttl;
        let name = name.map(str::to_owned);
        let command = AuthorityCommand::AddToken { hash: TokenHash(secret.hash()), name, at: now, expires };
        self.execute(command).map_err(|_| TokenRefusal::TooManyTokens)?;
        let (bundle_digest, authority) = (self.bundle().digest(), self.node.clone());
        Ok(JoinToken { secret, bundle_digest, authority, addresses, expires })
    }

    /// The tokens that are remembered, used and expired ones included.
    pub fn tokens(&self) -> impl Iterator<Item = TokenView> + '_ {
        self.tokens.iter()
    }

    /// Forgets a token; whether there was one.
    pub fn revoke_token(&mut self, id: TokenId) -> bool {
        self.execute(AuthorityCommand::RevokeToken { id }).is_ok()
    }

    /// The names given away, with the time of their last join.
    pub fn names(&self) -> impl Iterator<Item = (&str, UnixTime)> {
        self.names.iter().map(|(name, joined)| (name.as_str(), *joined))
    }

    /// Forgets a name, so that its node cannot renew and another may have it; whether it was given away. The SVID that is out
    /// stays valid until its end. The authority's own name is never forgotten.
    pub fn forget_name(&mut self, name: &str) -> bool {
        self.execute(AuthorityCommand::ForgetName { name: name.to_owned() }).is_ok()
    }

    /// Applies `command` and notes it in the journal. The entry point for everything that an operator decides.
    pub fn execute(&mut self, command: AuthorityCommand) -> Result<(), CommandRefusal> {
        self.apply(&command)?;
        self.journal.push(command);
        Ok(())
    }

    /// What was executed since the last call, in order: to be made durable before any answer leaves.
    pub fn take_journal(&mut self) -> Vec<AuthorityCommand> {
        std::mem::take(&mut self.journal)
    }

    /// Keeps a new entry and gives it an id.
    pub fn create_entry(
        &mut self,
        spec: EntrySpec,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<EntryId, CommandRefusal> {
        let id = EntryId::from_random(entropy.bytes());
        self.execute(AuthorityCommand::CreateEntry { id: id.clone(), spec, at: now })?;
        Ok(id)
    }

    /// The entries, in the order of their ids.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How many there are.
    pub fn entries_len(&self) -> usize {
        self.entries.len()
    }

    /// One entry.
    pub fn entry(&self, id: &EntryId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Counts the changes of the entries.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What `node` has to change in what it knows of the entries for its processes, at most `limit` at a time.
    pub fn entries_since(&self, node: &SpiffeId, known: Known, limit: usize) -> EntryDelta {
        self.entries.delta(node, known, self.revision, limit)
    }

    /// Certifies a key for a workload of `node`, whose identity the session has proven. The entry says everything about the
    /// certificate; from the request nothing is taken but the key. Changes nothing that needs persisting.
    pub fn issue_workload(
        &mut self,
        node: &SpiffeId,
        entry: &EntryId,
        csr: &[u8],
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Issued, IssueRefusal> {
        // Before the signature of the request is checked, which is dearer.
        self.entry_for(node, entry, now)?;
        self.issue_workload_key(node, entry, &RequestedKey::from_csr(csr)?, entropy, now)
    }

    /// The same for a key whose possession was proven before.
    pub fn issue_workload_key(
        &mut self,
        node: &SpiffeId,
        entry: &EntryId,
        key: &RequestedKey,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Issued, IssueRefusal> {
        let spec = &self.entry_for(node, entry, now)?.spec;
        let ttl = spec.x509_ttl.unwrap_or(self.config.svid_ttl);
        let subject = Subject { id: &spec.spiffe_id, dns_names: &spec.dns_names, ttl };
        // An identity must not outlive the entry that gives it.
        let end = spec.expires_at.unwrap_or(FOREVER);
        let issued = self.issue(subject, key.info(), entropy, now, end)?;
        self.note(node, &issued, now);
        Ok(issued)
    }

    /// A token for a workload of `node` and these audiences. The entry says whose it is and how long it lives.
    pub fn mint_jwt(
        &self,
        node: &SpiffeId,
        entry: &EntryId,
        audience: &AudienceSet,
        now: UnixTime,
    ) -> Result<JwtSvid, IssueRefusal> {
        let spec = &self.entry_for(node, entry, now)?.spec;
        let signer = self.jwt_signer().ok_or(IssueError::NoAuthority)?;
        // An identity must not outlive the entry that gives it.
        let ttl = spec.jwt_ttl.unwrap_or(JWT_SVID_TTL_DEFAULT).min(spec.expires_at.unwrap_or(FOREVER).since(now));
        Ok(signer.mint(&JwtRequest { spiffe_id: &spec.spiffe_id, audience, ttl, jti: None }, now)?)
    }

    /// The entry, if it is in force and for processes of `node`.
    pub fn entry_for(&self, node: &SpiffeId, entry: &EntryId, now: UnixTime) -> Result<&Entry, IssueRefusal> {
        let found = self.entries.get(entry).filter(|entry| entry.is_in_force(now));
        let found = found.ok_or_else(|| IssueRefusal::UnknownEntry(entry.clone()))?;
        if !found.spec.parent.covers(node) {
            return Err(IssueRefusal::OtherNode { entry: entry.clone(), node: node.clone() });
        }
        Ok(found)
    }

    /// Admits the holder of `secret` under `name` (or under the name the token was made for) and certifies the key in `csr`,
    /// from which nothing else is taken. On success the token is used and the name is given away. On refusal nothing changes,
    /// so a mistyped name costs no token.
    pub fn redeem(
        &mut self,
        secret: &JoinSecret,
        name: Option<&str>,
        csr: &[u8],
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Issued, JoinRefusal> {
        let ticket = self.tokens.find(secret, now)?;
        let name = match (ticket.name, name) {
            (Some(wanted), Some(requested)) if wanted != requested => {
                let requested = requested.to_owned();
                return Err(JoinRefusal::NameMismatch { wanted: wanted.to_owned(), requested });
            }
            (Some(name), _) | (None, Some(name)) => name.to_owned(),
            (None, None) => return Err(JoinRefusal::NameMissing),
        };
        let made_for_this_name = ticket.name.is_some();
        let ticket = ticket.id;
        let id = check_name(self.trust_domain(), &name)
            .map_err(|source| JoinRefusal::BadName { name: name.clone(), source })?;
        if name == self.name || (self.names.contains_key(&name) && !made_for_this_name) {
            return Err(JoinRefusal::NameTaken(name));
        }
        if self.names.len() >= ISSUED_NAMES_MAX && !self.names.contains_key(&name) {
            return Err(JoinRefusal::TooManyNames);
        }
        let issued = self.issue(self.node_subject(&id), &csr::check(csr)?, entropy, now, FOREVER)?;
        // Of many that race with one token the log lets one win; found above, it can only be gone by then.
        self.execute(AuthorityCommand::SpendToken { id: ticket, name, at: now }).map_err(|_| JoinRefusal::Unknown)?;
        self.note(&id, &issued, now);
        Ok(issued)
    }

    /// Whether `node` has a place in this trust domain.
    pub fn knows(&self, node: &SpiffeId) -> bool {
        let name = node.node_name().filter(|_| node.trust_domain() == self.trust_domain());
        name.is_some_and(|name| self.names.contains_key(name))
    }

    /// Certifies a new key for `peer`, whose identity the session has proven. Changes nothing that needs persisting.
    pub fn renew(
        &mut self,
        peer: &SpiffeId,
        csr: &[u8],
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Issued, RenewRefusal> {
        if !self.knows(peer) {
            return Err(RenewRefusal::UnknownNode(peer.clone()));
        }
        let issued = self.issue(self.node_subject(peer), &csr::check(csr)?, entropy, now, FOREVER)?;
        self.note(peer, &issued, now);
        Ok(issued)
    }

    /// An SVID for the node that runs this authority, with a key from `keys`. Works with everything else expired, as long as
    /// the CA itself is valid: an authority that was off for a week starts by issuing to itself.
    pub fn issue_self(
        &mut self,
        keys: &mut dyn KeySource,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Svid, IssueError> {
        let key = keys.generate()?;
        let issued = self.issue(self.node_subject(&self.node), &public_key_of(&key)?, entropy, now, FOREVER)?;
        Svid::new(issued.chain, key).map_err(|error| IssueError::Encoding(error.to_string()))
    }

    const fn node_subject<'a>(&self, id: &'a SpiffeId) -> Subject<'a> {
        Subject { id, dns_names: &[], ttl: self.config.svid_ttl }
    }

    fn issue(
        &self,
        subject: Subject<'_>,
        public_key: &SubjectPublicKeyInfo,
        entropy: &mut Entropy,
        now: UnixTime,
        end: UnixTime,
    ) -> Result<Issued, IssueError> {
        let signer = self.keyring.signer().ok_or(IssueError::NoAuthority)?;
        let authority_end = signer.not_after();
        if now > authority_end {
            return Err(IssueError::AuthorityExpired(authority_end));
        }
        let backdate = self.config.backdate_of(subject.ttl);
        // Whoever outlived its authority would carry an SVID that nobody accepts.
        let not_after = (now + subject.ttl).min(end).min(authority_end);
        let validity = Validity { not_before: now - backdate, not_after };
        let names = (subject.id, subject.dns_names);
        let (leaf, serial) = issuance::leaf(names, public_key, signer, validity, entropy)?;
        // What a stranger would refuse does not leave.
        let read = Leaf::read(&leaf).map_err(|error| IssueError::Encoding(error.to_string()))?;
        if read.spiffe_id != *subject.id || read.not_after != not_after {
            return Err(IssueError::Encoding("the certificate does not say what was asked for".to_owned()));
        }
        let (chain, issuer) = (self.keyring.chain(leaf), signer.key_id());
        Ok(Issued { chain, spiffe_id: subject.id.clone(), not_after, serial, issuer })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, names, entries) = (self.tokens.iter().count(), self.names.len(), self.entries.len());
        write!(f, "Authority({}, {tokens} tokens, {names} names, {entries} entries)", self.node)
    }
}

/// The identity behind `name`; the error is `None` if the name is only too long.
fn check_name(trust_domain: &TrustDomain, name: &str) -> Result<SpiffeId, Option<SpiffeIdError>> {
    if name.len() > NODE_NAME_LEN_MAX {
        return Err(None);
    }
    SpiffeId::node(trust_domain, name).map_err(Some)
}
