//! A node that slept through the end of its SVID gets another without a token, for a while: it proves that it still has the key.
//!
//! What the old key is worth to a thief grows by [`AuthorityConfig::recovery`](super::AuthorityConfig::recovery), so this is bounded, can be
//! switched off, and ends with whatever an operator has said since: the node was removed, its SVID was taken back, its name was
//! given to another machine, the authority that signed it was tainted or has left the bundle.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use x0t_model::{Entropy, SpiffeId, UnixTime};

use super::{Authority, FOREVER, Issued, RECOVERY_MAX};
use crate::bundle::{Bundle, BundleError};
use crate::ca_life::{AuthorityKind, Der, KeyId, SlotState};
use crate::csr::{self, CsrError};
use crate::distrusted::Distrusted;
use crate::issuance::IssueError;
use crate::leaf_rules::{Leaf, parse};
use crate::message::RecoverRequest;
use crate::svid::Svid;
use crate::verify::{VerifyError, verify_chain, verify_signature};

/// Keeps this use of a node's key apart from all others.
const LABEL: &str = "x0tta6bl4 2026-11 recovery";

/// Why an old SVID gets its node no new one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverRefusal {
    /// The operator wants it so.
    #[error("this mesh lets nobody back without a token: make one for the node with `x0t token create --name`")]
    Off,
    /// It ended too long ago.
    #[error(
        "the certificate of {id} ended {ago:?} ago, and within {most:?} it could have been renewed: the node needs a token made for its name"
    )]
    TooLate {
        /// Whose.
        id: SpiffeId,
        /// How long ago.
        ago: Duration,
        /// How long it may be ago.
        most: Duration,
    },
    /// The chain was never valid here, or its authority is gone.
    #[error("the old certificate is not acceptable")]
    Chain(#[from] VerifyError),
    /// The node has no place in this trust domain any more.
    #[error("{0} has no place in this trust domain: it was removed, or it never joined here")]
    UnknownNode(SpiffeId),
    /// It is the node of the authority, which issues to itself and never asks.
    #[error("{0} runs the authority: its certificate is given to nobody else")]
    IsAuthority(SpiffeId),
    /// Another machine has joined under the name since.
    #[error("{0} has joined anew since this certificate was made: only the newer one counts")]
    Superseded(SpiffeId),
    /// It was taken back, or its authority was tainted.
    #[error(
        "the old certificate is not to be relied on: it was taken back, or the authority that signed it is tainted"
    )]
    Distrusted,
    /// Whoever asks does not have the key.
    #[error("the request is not signed with the key of the old certificate")]
    NoProof,
    /// The signing request is unusable.
    #[error("the signing request is not acceptable")]
    BadRequest(#[from] CsrError),
    /// The authority cannot issue.
    #[error("the authority cannot issue")]
    Issue(#[from] IssueError),
}

impl RecoverRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Off => "recovery_off",
            Self::TooLate { .. } => "recovery_too_late",
            Self::Chain(error) => error.code(),
            Self::UnknownNode(_) => "unknown_node",
            Self::IsAuthority(_) => "is_authority",
            Self::Superseded(_) => "superseded",
            Self::Distrusted => "distrusted",
            Self::NoProof => "no_proof",
            Self::BadRequest(_) => "bad_request",
            Self::Issue(_) => "cannot_issue",
        }
    }
}

impl RecoverRequest {
    /// Asks for a new SVID with `csr`, and proves with `old` whose it is to be.
    ///
    /// # Errors
    /// If the key does not sign.
    pub fn signed(old: &Svid, csr: Vec<u8>) -> Result<Self, crate::keys::KeyError> {
        let signature = old.sign(LABEL, &csr)?;
        Ok(Self { chain: old.chain().to_vec(), csr, signature })
    }
}

impl Authority {
    /// Certifies a new key for the node whose SVID has ended, for whoever proves to have the key of that SVID. The session has shown
    /// the authority to the node, and hides what is said from others; it proves nothing about the node. Changes nothing that
    /// needs persisting.
    pub fn recover(
        &mut self,
        request: &RecoverRequest,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Issued, RecoverRefusal> {
        let grace = self.config.recovery.min(RECOVERY_MAX);
        if grace.is_zero() {
            return Err(RecoverRefusal::Off);
        }
        let first = request.chain.first().ok_or(VerifyError::NoCertificate)?;
        let leaf = Leaf::read(first)?;
        if now > leaf.not_after + grace {
            let ago = now.since(leaf.not_after);
            return Err(RecoverRefusal::TooLate { id: leaf.spiffe_id, ago, most: grace });
        }
        // As it was at the end of its life; one that is valid still is judged as of now.
        let id = self.verify_old(&request.chain, now.min(leaf.not_after))?;
        if id == self.node {
            return Err(RecoverRefusal::IsAuthority(id));
        }
        if !self.knows(&id) {
            return Err(RecoverRefusal::UnknownNode(id));
        }
        let joined = id.node_name().and_then(|name| self.names.get(name)).copied().unwrap_or_default();
        if leaf.not_before + self.config.backdate_of(self.config.svid_ttl) < joined {
            return Err(RecoverRefusal::Superseded(id));
        }
        let revoked = self.revocations.known().map(|svid| svid.serial).collect();
        if (Distrusted { tainted: BTreeSet::new(), revoked }).judge(&request.chain).is_some() {
            return Err(RecoverRefusal::Distrusted);
        }
        let checked = csr::check(&request.csr)?;
        verify_signature(first, LABEL, &request.csr, &request.signature).map_err(|_| RecoverRefusal::NoProof)?;
        let issued = self.issue(self.node_subject(&id), &checked, entropy, now, FOREVER)?;
        self.note(&id, &issued, now);
        Ok(issued)
    }

    /// Whose `chain` is, by authorities alone of which nothing bad is known. The chain is what the asker has put together: who
    /// signed the leaf is what the signatures say, and not which certificate stands behind it.
    fn verify_old(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<SpiffeId, RecoverRefusal> {
        let leads_through_distrusted = chain.iter().skip(1).any(|shown| self.is_of_distrusted(shown));
        let trusted = self.untainted_bundle().map_err(|error| IssueError::Encoding(error.to_string()))?;
        match verify_chain(chain, &trusted, at) {
            Ok(id) if !leads_through_distrusted => Ok(id),
            Ok(_) => Err(RecoverRefusal::Distrusted),
            // For the text of the refusal: with the tainted ones it would have held.
            Err(_) if verify_chain(chain, self.bundle(), at).is_ok() => Err(RecoverRefusal::Distrusted),
            Err(error) => Err(error.into()),
        }
    }

    /// The bundle without the authorities that are tainted; those that were revoked are in none.
    fn untainted_bundle(&self) -> Result<Bundle, BundleError> {
        let slots = self.life().in_bundle(AuthorityKind::X509);
        let slots = slots.filter(|slot| !matches!(slot.state(), SlotState::Tainted { .. }));
        let entries = slots.flat_map(|slot| slot.material().bundle_entries().iter().map(Der::certificate));
        Bundle::new(self.trust_domain().clone(), entries.collect(), self.bundle().sequence())
    }

    /// Whether `shown` certifies the key of an authority that was tainted or revoked: one that is trusted may have cross-signed it, or
    /// stand above it. What cannot be read is left to the verification.
    fn is_of_distrusted(&self, shown: &CertificateDer<'_>) -> bool {
        let key_id = parse(shown).ok().map(|certificate| KeyId::of(certificate.public_key().raw));
        key_id.is_some_and(|key_id| self.life().tainted().any(|tainted| tainted == key_id))
    }
}
