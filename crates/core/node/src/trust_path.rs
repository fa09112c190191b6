//! An SVID's story: asked for at half life, issued, checked as a stranger would, adopted, shown to every peer anew.

use std::sync::Arc;
use std::time::Duration;

use x0t_identity::message::{Message, RenewAccepted};
use x0t_identity::{
    AdoptError, Bundle, BundleError, BundleUpdate, Distrust, Distrusted, Failure, Rotation, RotationEvent,
    RotationView, Svid, SvidSource, sign_anchor,
};
use x0t_model::{Entropy, Instant, NodeId, SpiffeId, UnixTime, in_one_line};
use x0t_overlay::{CertificateDer, Credentials, Purpose, SessionId, VerifyPeer, close_code};
use x0t_routing::{DeathReason, Event as RoutingEvent};

use crate::api::{Output, Record, RecordKind, What};
use crate::ends::Way;
use crate::message::Parameters;
use crate::node::Node;
use crate::session_path::GOODBYE;
use crate::start::{Crypto, Signatures};

/// How far the clocks of two hosts may disagree about the end of a certificate.
const SKEW: Duration = Duration::from_secs(60);

/// What the node knows about who is who.
pub struct Trust {
    rotation: Rotation,
    bundle: Bundle,
    is_authority: bool,
    authorities: Vec<SpiffeId>,
    crypto: Crypto,
    /// When the SVID in use was adopted; sessions made before show an older one.
    adopted_at: Instant,
}

/// What a Workload API has changed.
pub struct Changed {
    pub svid: bool,
    pub bundle: bool,
}

/// Judges peers by one bundle, for the overlay to ask.
struct BundleVerifier {
    bundle: Bundle,
    signatures: Arc<dyn Signatures>,
}

impl VerifyPeer for BundleVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String> {
        let id = self.signatures.verify_chain(chain, &self.bundle, now).map_err(|error| in_one_line(&error))?;
        // A workload's SVID is as valid as a node's, and makes nobody a member of the mesh.
        if id.node_name().is_none() {
            return Err(format!("{id} is not the identity of a node"));
        }
        Ok(id)
    }
}

impl Trust {
    #[expect(clippy::too_many_arguments, reason = "called once, with each part under its own name")]
    pub fn new(
        svid: Svid,
        bundle: Bundle,
        is_authority: bool,
        authorities: Vec<SpiffeId>,
        crypto: Crypto,
        rotation: x0t_identity::RotationConfig,
        mut entropy: Entropy,
        now: Instant,
        wall: UnixTime,
    ) -> Self {
        let rotation = Rotation::new(svid, rotation, entropy.fork("rotation"), now, wall);
        Self { rotation, bundle, is_authority, authorities, crypto, adopted_at: Instant::ZERO }
    }

    pub const fn svid(&self) -> &Svid {
        self.rotation.svid()
    }

    pub const fn is_authority(&self) -> bool {
        self.is_authority
    }

    /// Takes over what a Workload API gives, SVID and bundle together or neither.
    pub fn take_given(
        &mut self,
        svid: Svid,
        bundle: Bundle,
        now: Instant,
        wall: UnixTime,
    ) -> Result<Changed, AdoptError> {
        let svid = self.rotation.handle_given(svid, &bundle, now, wall)?;
        let before = std::mem::replace(&mut self.bundle, bundle);
        Ok(Changed { svid, bundle: before.authorities() != self.bundle.authorities() })
    }

    /// The Workload API fails.
    pub fn source_failed(&mut self, reason: String, now: Instant, wall: UnixTime) {
        self.rotation.handle_source_failure(reason, now, wall);
    }

    /// The Workload API takes the identity back.
    pub fn withdraw(&mut self, reason: String, now: Instant, wall: UnixTime) {
        self.rotation.handle_withdrawn(reason, now, wall);
    }

    pub fn rotation_view(&self, wall: UnixTime) -> RotationView {
        self.rotation.view(wall)
    }

    /// Every authority's id on the wire.
    pub fn authorities(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.authorities.iter().map(NodeId::of)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.rotation.poll_timeout()
    }

    /// What this node shows to peers. An authority shows its own certificate too, because a joiner knows only the hash of it.
    fn credentials(&self) -> Credentials {
        let svid = self.rotation.svid();
        let shown = if self.is_authority { self.bundle.authorities() } else { &[] };
        let chain = svid.chain().iter().chain(shown).cloned().collect();
        Credentials { chain, key: svid.private_key_der() }
    }

    fn verifier(&self) -> Arc<dyn VerifyPeer> {
        Arc::new(BundleVerifier { bundle: self.bundle.clone(), signatures: self.crypto.signatures.clone() })
    }

    /// Takes over a newer bundle.
    pub fn offer_bundle(&mut self, bundle: Bundle) -> Result<BundleUpdate, BundleError> {
        self.bundle.offer(bundle)
    }

    /// The bundle in force, as a record holds it.
    pub fn bundle_document(&self) -> Vec<u8> {
        self.bundle.to_json()
    }

    /// Whom to ask for what only an authority can do.
    pub fn first_authority(&self) -> Option<&SpiffeId> {
        self.authorities.first()
    }
}

impl Node {
    /// Tells the overlay who we are, whom we believe, and what a peer should know of this run.
    pub(crate) fn introduce_ourselves(&mut self, incarnation: u64) {
        let parameters = Parameters { version: Parameters::VERSION, incarnation };
        if self.endpoint.set_parameters(parameters.encode()).is_err() {
            self.stats.sessions_unopened += 1;
        }
        self.endpoint.set_accept_join(self.trust.is_authority());
        self.show_identity();
    }

    pub(crate) fn show_identity(&mut self) {
        self.endpoint.set_identity(Arc::new(self.trust.credentials()), self.trust.verifier());
    }

    /// Signs the end of this epoch's hash chain with the key in use. Without it nobody believes our originator messages.
    pub(crate) fn prove_anchor(&mut self) {
        let statement = self.router.own_anchor();
        // An SVID that was taken back signs nothing; the next one does so when it comes.
        let Some(svid) = self.trust.rotation.svid_to_show() else { return };
        let proof = sign_anchor(svid, self.me, &statement).and_then(|proof| proof.encode());
        let told = proof.is_ok_and(|proof| self.router.set_own_anchor_proof(proof, self.now).is_ok());
        self.stats.anchors_unproven += u64::from(!told);
    }

    /// Looks whether an SVID is due and moves what is under way. True if anything happened.
    pub(crate) fn advance_trust(&mut self) -> bool {
        let mut moved = false;
        if self.trust.rotation.poll_timeout().is_some_and(|at| at <= self.now) {
            self.trust.rotation.handle_timeout(self.now, self.wall, &mut *self.trust.crypto.keys);
            self.close_expired();
            self.renew_sessions();
        }
        while let Some(csr) = self.trust.rotation.poll_request() {
            moved = true;
            self.request_svid(csr);
        }
        while let Some(event) = self.trust.rotation.poll_event() {
            moved = true;
            self.on_rotation_event(event);
        }
        moved
    }

    fn request_svid(&mut self, csr: Vec<u8>) {
        if self.trust.is_authority {
            return self.ask_to_renew_ourselves(csr);
        }
        let Some(authority) = self.reachable_authority() else {
            return self.renewal_failed(Failure::Unavailable("no authority is reachable".into()));
        };
        match (Message::RenewRequest { csr }).encode() {
            Ok(message) => self.send_message_to_end(authority, &message),
            Err(error) => self.renewal_failed(Failure::Unavailable(in_one_line(&error))),
        }
    }

    /// An authority to which a way is known.
    pub(crate) fn reachable_authority(&self) -> Option<NodeId> {
        self.trust.authorities().find(|authority| self.next_hop(*authority).is_some())
    }

    pub(crate) fn send_message_to_end(&mut self, node: NodeId, message: &[u8]) {
        match self.ends.route_message(node, message, self.now) {
            Way::Session(session) => self.send_message(session, message),
            Way::Open => self.open_end(node),
            Way::Waits | Way::Dropped => {}
        }
    }

    pub(crate) fn send_message(&mut self, session: SessionId, message: &[u8]) {
        if self.endpoint.send_message(session, message, self.now).is_err() {
            self.stats.messages_unsent += 1;
        }
    }

    /// What nodes and authorities say to each other about identity.
    pub(crate) fn on_identity_message(&mut self, session: SessionId, from: NodeId, bytes: &[u8]) {
        let from_authority = self.trust.authorities().any(|authority| authority == from);
        match Message::decode(bytes) {
            Ok(Message::RenewRequest { csr }) => self.on_renew_request(session, from, csr),
            Ok(Message::AgentRequest { id, body }) => self.on_agent_request(session, from, id, body),
            Ok(Message::AgentAnswer { id, body }) if from_authority => self.on_agent_answer(id, body),
            Ok(Message::RenewAccepted(accepted)) if from_authority => self.on_renewed(accepted),
            Ok(Message::RenewRefused(refused)) if from_authority => {
                self.renewal_failed(Failure::Refused(printable(&refused.text)));
            }
            Ok(_) | Err(_) => self.stats.identity_messages_refused += 1,
        }
    }

    pub(crate) fn on_renewed(&mut self, accepted: RenewAccepted) {
        // What nobody has asked for is no way to bring in a bundle.
        if !self.trust.rotation.has_asked() {
            self.stats.identity_messages_refused += 1;
            return;
        }
        self.on_bundle(accepted.bundle);
        self.adopt(accepted.chain);
    }

    fn adopt(&mut self, chain: Vec<CertificateDer<'static>>) {
        // A chain that does not hold counts as a failed attempt inside; the SVID in use stays.
        if self.trust.rotation.handle_issued(chain, &self.trust.bundle, self.now, self.wall).is_err() {
            self.stats.identity_messages_refused += 1;
        }
    }

    pub(crate) fn renewal_failed(&mut self, failure: Failure) {
        self.trust.rotation.handle_failure(&failure, self.now, self.wall);
    }

    /// The authority does not stand by some of its signatures any more. The valid SVID is kept until the next one is there.
    pub(crate) fn on_distrusted(&mut self, distrusted: Distrusted) {
        self.trust.rotation.set_distrusted(distrusted, self.now, self.wall);
    }

    /// This node has come back after the end of its SVID. Judged like one that was renewed.
    pub(crate) fn on_recovered(&mut self, (svid, bundle): (Svid, Bundle)) {
        self.on_bundle(bundle);
        if self.trust.rotation.handle_recovered(svid, &self.trust.bundle, self.now, self.wall).is_err() {
            self.stats.identity_messages_refused += 1;
        }
    }

    /// The bundle was replaced. An SVID whose authority is not in it convinces nobody who has heard of it.
    pub(crate) fn judge_own_svid(&mut self) {
        let Trust { rotation, bundle, crypto, .. } = &mut self.trust;
        let svid = rotation.svid();
        let is_in_force = svid.not_before() <= self.wall && self.wall <= svid.not_after();
        if is_in_force && crypto.signatures.verify_chain(svid.chain(), bundle, self.wall).is_err() {
            rotation.hurry(Distrust::NotInBundle, self.now, self.wall);
        }
    }

    fn on_rotation_event(&mut self, event: RotationEvent) {
        match event {
            RotationEvent::Updated { not_after, .. } => {
                // Keys that a Workload API gave stay in memory: it gives them again.
                if self.trust.rotation.source() == SvidSource::Authority {
                    let bytes = self.trust.svid().to_stored().to_vec();
                    self.push(Output::Persist(Record { kind: RecordKind::Svid, bytes }));
                }
                self.trust.adopted_at = self.now;
                self.push(Output::Identity(self.trust.svid().chain().to_vec()));
                self.show_identity();
                self.renew_sessions();
                self.prove_anchor();
                self.tell(What::SvidRotated { not_after: not_after.as_secs() });
            }
            RotationEvent::Distrusted(distrust) => {
                self.tell(What::SvidDistrusted { reason: distrust.word().to_owned() });
            }
            RotationEvent::Degraded { reason } => self.tell(What::SvidRenewalFailed { reason }),
            RotationEvent::Critical { remaining } => self.tell(What::SvidExpiring { left_s: remaining.as_secs() }),
            RotationEvent::Expired => self.tell(What::SvidExpiring { left_s: 0 }),
            RotationEvent::Withdrawn { reason } => self.on_withdrawn(reason),
            RotationEvent::ClockJumped { forward, by } => self.tell(What::ClockJumped { forward, by_s: by.as_secs() }),
        }
    }

    /// Opens a session beside every one that is older than the SVID in use, so that peers see the new certificate. The old ones
    /// carry on until the new ones are ready: nothing in flight is lost. Looked at again now and then, because a handshake can
    /// fail.
    fn renew_sessions(&mut self) {
        let since = self.trust.adopted_at;
        let links = self.links.iter().filter(|(_, link)| link.established_at < since);
        for address in links.map(|(_, link)| link.proven.address).collect::<Vec<_>>() {
            if self.endpoint.connect(Purpose::Link, address.into(), self.now, self.wall).is_err() {
                self.stats.sessions_unopened += 1;
            }
        }
        for node in self.ends.older_than(since).collect::<Vec<_>>() {
            self.open_end(node);
        }
    }

    /// The hash chain is nearly used up. The number is durable before anything is announced under it.
    fn begin_epoch(&mut self, epoch: u32) {
        self.push(Output::Persist(Record { kind: RecordKind::Epoch, bytes: epoch.to_string().into_bytes() }));
        self.router.begin_epoch(epoch, self.now);
    }

    /// Ends sessions whose peer let its certificate run out.
    fn close_expired(&mut self) {
        let limit = self.wall - SKEW;
        let links: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.proven.not_after <= limit)
            .map(|(id, link)| (id, link.proven.session))
            .collect();
        for (id, session) in links {
            self.endpoint.close(session, close_code::APPLICATION, EXPIRED, self.now);
            self.lose_neighbor(id, "expired");
        }
        for session in self.ends.expired(limit) {
            self.endpoint.close(session, close_code::APPLICATION, EXPIRED, self.now);
        }
    }

    pub(crate) fn on_routing_event(&mut self, event: RoutingEvent) {
        match event {
            RoutingEvent::AnchorToVerify { origin, epoch, statement, proof, .. } => {
                self.judge_anchor(origin, epoch, &statement, &proof);
            }
            RoutingEvent::NeedAnchorSignature { .. } => self.prove_anchor(),
            RoutingEvent::EpochExhausted { next_epoch } => self.begin_epoch(next_epoch),
            RoutingEvent::LinkSuspect { peer, silent_for, .. } => {
                let silent_us = u64::try_from(silent_for.as_micros()).unwrap_or(u64::MAX);
                self.tell(What::LinkSuspect { peer, silent_us });
            }
            RoutingEvent::LinkRecovered { peer, .. } => self.tell(What::LinkRecovered { peer }),
            RoutingEvent::LinkDead { link, reason, .. } => {
                let reason = match reason {
                    DeathReason::Silent => "dead",
                    DeathReason::Goodbye => GOODBYE,
                    DeathReason::Closed => "closed",
                };
                self.lose_neighbor(link, reason);
            }
            RoutingEvent::RouteChanged { dst, via } => {
                let metric = via.map(|successor| successor.metric.as_micros());
                self.tell(What::RouteChanged { destination: dst, via: via.map(|successor| successor.peer), metric });
            }
            // The command that sought it answers with its own timeout.
            RoutingEvent::SeekFailed { .. } => {}
        }
    }

    fn judge_anchor(&mut self, origin: NodeId, epoch: u32, statement: &[u8], proof: &[u8]) {
        let signatures = &self.trust.crypto.signatures;
        let verdict = signatures.verify_anchor(proof, origin, statement, &self.trust.bundle, self.wall);
        let accepted = verdict.is_ok();
        match verdict {
            Ok(spiffe_id) => {
                self.learn(origin, spiffe_id);
            }
            Err(error) => {
                self.stats.anchors_refused += 1;
                let reason = format!("an anchor for {origin:?}: {}", in_one_line(&error));
                self.refuse(reason);
            }
        }
        self.router.anchor_verified(origin, epoch, accepted, self.now);
    }
}

const EXPIRED: &str = "certificate expired";

/// What others wrote, with nothing in it that moves a terminal's cursor, ends a line or turns the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {

    use x0t_identity::{
        Authority, AuthorityConfig, EntrySpec, KeySource as _, Parent, SeededKeys, Selectors, signing_request,
    };
    use x0t_model::Entropy;

    use super::*;

    #[test]
    fn a_workloads_svid_makes_nobody_a_member_of_the_mesh() {
        let (mut entropy, now) = (Entropy::new([1; 32]), UnixTime::from_secs(1_800_000_000));
        let mut keys = SeededKeys::new(entropy.fork("keys"));
        let node: SpiffeId = "spiffe://mesh.test/node/a".parse().unwrap();
        let config = AuthorityConfig::default();
        let mut authority = Authority::create(&node, config, &mut keys, &mut entropy, now).unwrap();
        let spec = EntrySpec::new(
            "spiffe://mesh.test/web".parse().unwrap(),
            Parent::AnyNode,
            Selectors::new(["unix:uid:1000".parse().unwrap()]).unwrap(),
        );
        let entry = authority.create_entry(spec, &mut entropy, now).unwrap();
        let csr = signing_request(&keys.generate().unwrap()).unwrap();
        let issued = authority.issue_workload(&node, &entry, &csr, &mut entropy, now).unwrap();
        let own = authority.issue_self(&mut keys, &mut entropy, now).unwrap();
        let signatures = Arc::new(crate::start::VerifyAfresh);
        let verifier = BundleVerifier { bundle: authority.bundle().clone(), signatures };
        assert_eq!(verifier.verify(own.chain(), now), Ok(node), "a node's is believed");
        assert!(verifier.verify(&issued.chain, now).unwrap_err().contains("not the identity of a node"));
    }

    #[test]
    fn what_others_wrote_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb\u{202e}c’ü"), "a\u{fffd}[2J\u{fffd}b\u{fffd}c’ü");
    }
}
