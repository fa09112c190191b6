//! Foreign trust domains at the authority: what operators ask, and what nodes are told.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, TrustDomain};

use super::{Authority, AuthorityCommand, CommandRefusal};
use crate::agent_message::{AGENT_BODY_MAX, Base64, BundlePart, SyncAnswer, SyncRequest};
use crate::bundle::{Bundle, BundleUpdate};
use crate::federation::{
    BundleDigest, FederationCommand, FederationRefusal, FederationRelationship, Federations, ForeignBundle,
};

/// Bytes of JSON around the base64 of a part, with a trust domain's longest name.
const PART_OVERHEAD: usize = 512;
/// A part with less than this is not worth a place.
const PART_LEN_MIN: usize = 1024;

/// What an operator asks about foreign trust domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum FederationRequest {
    /// Keep a bundle.
    SetBundle {
        /// Which.
        bundle: ForeignBundle,
        /// Whatever its sequence number.
        force: bool,
    },
    /// Keep what a bundle endpoint said.
    TakeFetched {
        /// Who was asked.
        relationship: FederationRelationship,
        /// What came.
        bundle: ForeignBundle,
    },
    /// Forget a bundle.
    DeleteBundle {
        /// Whose.
        trust_domain: TrustDomain,
    },
    /// The bundles, the own one first.
    ListBundles,
    /// One bundle with its document; the own one if no trust domain is named.
    ShowBundle {
        /// Whose.
        trust_domain: Option<TrustDomain>,
    },
    /// Fetch a bundle from now on.
    CreateRelationship {
        /// Whose, where, from whom.
        relationship: FederationRelationship,
        /// To begin with.
        bootstrap: Option<ForeignBundle>,
        /// In place of the one that there is.
        replace: bool,
    },
    /// End a relationship and forget the bundle.
    DeleteRelationship {
        /// With whom.
        trust_domain: TrustDomain,
    },
}

/// What an operator hears about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum FederationAnswer {
    /// A bundle was offered.
    BundleSet {
        /// Whether anything has changed.
        changed: bool,
        /// As it is kept.
        bundle: BundleView,
    },
    /// A bundle, or a relationship with its bundle, is gone.
    Deleted {
        /// Whose.
        trust_domain: TrustDomain,
        /// Entries that still name the trust domain. Their processes get nothing of it any more.
        entries: usize,
    },
    /// The bundles.
    Bundles {
        /// The own one first.
        bundles: Vec<BundleView>,
    },
    /// One bundle.
    Bundle {
        /// What it is.
        bundle: BundleView,
        /// The SPIFFE bundle document.
        document: String,
    },
    /// A relationship is kept.
    Relationship {
        /// As it is kept.
        relationship: FederationRelationship,
        /// The bundle that is there already.
        bundle: Option<BundleView>,
    },
}

/// A bundle in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleView {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// The authority's own.
    pub is_own: bool,
    /// 0 if the document carries none.
    pub sequence: u64,
    /// Keys that sign X.509-SVIDs.
    pub x509_authorities: usize,
    /// Keys that sign JWT-SVIDs.
    pub jwt_keys: usize,
    /// How often to look for a newer one.
    pub refresh_hint_s: u64,
    /// Names its content.
    pub digest: BundleDigest,
    /// Whether a relationship keeps it up to date.
    pub is_federated: bool,
    /// Entries whose processes get it. Of the own one: all.
    pub entries: usize,
}

impl Authority {
    /// Foreign bundles and relationships.
    pub const fn federations(&self) -> &Federations {
        &self.federations
    }

    fn federate(&mut self, change: FederationCommand) -> Result<(), CommandRefusal> {
        self.execute(AuthorityCommand::Federate { change })
    }

    /// Does what an operator asks.
    pub(super) fn federation(&mut self, request: FederationRequest) -> Result<FederationAnswer, CommandRefusal> {
        match request {
            FederationRequest::SetBundle { bundle, force } => {
                let changed = self.would_change(&bundle, force)?;
                self.offer(FederationCommand::SetBundle { bundle, force }, changed)
            }
            FederationRequest::TakeFetched { relationship, bundle } => {
                let changed = self.would_change(&bundle, false)?;
                self.offer(FederationCommand::TakeFetched { relationship, bundle }, changed)
            }
            FederationRequest::DeleteBundle { trust_domain } => {
                self.federate(FederationCommand::DeleteBundle { trust_domain: trust_domain.clone() })?;
                Ok(self.deleted(trust_domain))
            }
            FederationRequest::DeleteRelationship { trust_domain } => {
                self.federate(FederationCommand::DeleteRelationship { trust_domain: trust_domain.clone() })?;
                Ok(self.deleted(trust_domain))
            }
            FederationRequest::ListBundles => {
                let foreign = self.federations.bundles().map(|foreign| foreign.bundle().as_ref());
                let all = std::iter::once(self.bundle()).chain(foreign);
                Ok(FederationAnswer::Bundles { bundles: all.map(|bundle| self.view(bundle)).collect() })
            }
            FederationRequest::ShowBundle { trust_domain } => {
                let trust_domain = trust_domain.unwrap_or_else(|| self.trust_domain().clone());
                let bundle = self.view_of(&trust_domain)?;
                let document = self.known_bundle(&trust_domain).map(Bundle::to_json).unwrap_or_default();
                Ok(FederationAnswer::Bundle { bundle, document: String::from_utf8(document).unwrap_or_default() })
            }
            FederationRequest::CreateRelationship { relationship, bootstrap, replace } => {
                let kept = relationship.clone();
                self.federate(FederationCommand::SetRelationship { relationship, bootstrap, replace })?;
                let bundle = self.view_of(&kept.trust_domain).ok();
                Ok(FederationAnswer::Relationship { relationship: kept, bundle })
            }
        }
    }

    fn would_change(&self, bundle: &ForeignBundle, force: bool) -> Result<bool, FederationRefusal> {
        Ok(self.federations.judge(bundle, force)? != BundleUpdate::Unchanged)
    }

    /// What changes nothing is not worth a line in the log.
    fn offer(&mut self, command: FederationCommand, changed: bool) -> Result<FederationAnswer, CommandRefusal> {
        let trust_domain = command.trust_domain().clone();
        if changed {
            self.federate(command)?;
        }
        Ok(FederationAnswer::BundleSet { changed, bundle: self.view_of(&trust_domain)? })
    }

    fn deleted(&self, trust_domain: TrustDomain) -> FederationAnswer {
        let entries = self.entries.federating_with(&trust_domain);
        FederationAnswer::Deleted { trust_domain, entries }
    }

    fn known_bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        if trust_domain == self.trust_domain() {
            return Some(self.bundle());
        }
        self.federations.bundle(trust_domain).map(|foreign| foreign.bundle().as_ref())
    }

    fn view_of(&self, trust_domain: &TrustDomain) -> Result<BundleView, FederationRefusal> {
        let bundle = self.known_bundle(trust_domain);
        bundle.map(|bundle| self.view(bundle)).ok_or_else(|| FederationRefusal::UnknownBundle(trust_domain.clone()))
    }

    fn view(&self, bundle: &Bundle) -> BundleView {
        let trust_domain = bundle.trust_domain().clone();
        let is_own = trust_domain == *self.trust_domain();
        BundleView {
            is_own,
            sequence: bundle.sequence(),
            x509_authorities: bundle.authorities().len(),
            jwt_keys: bundle.jwt_keys().len(),
            refresh_hint_s: bundle.refresh_hint().as_secs(),
            digest: BundleDigest::of(&bundle.to_compact_json()),
            is_federated: self.federations.relationship(&trust_domain).is_some(),
            entries: if is_own { self.entries.len() } else { self.entries.federating_with(&trust_domain) },
            trust_domain,
        }
    }

    /// The bundles that `node` is to have: those of foreign trust domains that its entries federate with. One without keys means
    /// the same as none, and is not sent.
    fn federated_for(&self, node: &SpiffeId) -> impl Iterator<Item = &ForeignBundle> {
        let domains: BTreeSet<_> = self.entries.federated_by(node).collect();
        let known = domains.into_iter().filter_map(|domain| self.federations.bundle(domain));
        known.filter(|foreign| !foreign.bundle().is_empty())
    }

    /// Whether `node` has other foreign bundles than it should. An agent that says nothing about them does not know of them.
    pub(super) fn has_federation_news(&self, node: &SpiffeId, request: &SyncRequest) -> bool {
        let Some(held) = &request.federated else { return false };
        let mut wanted = 0;
        for foreign in self.federated_for(node) {
            wanted += 1;
            if held.get(foreign.trust_domain()) != Some(&foreign.digest()) {
                return true;
            }
        }
        wanted != held.len()
    }

    /// Puts into `answer` what `node` has to forget and as much of what it does not have as fits. The rest follows when it asks
    /// again.
    pub(super) fn add_federated(&self, node: &SpiffeId, request: &SyncRequest, answer: &mut SyncAnswer) {
        let Some(held) = &request.federated else { return };
        let wanted: Vec<_> = self.federated_for(node).collect();
        let is_wanted = |domain: &TrustDomain| wanted.iter().any(|foreign| foreign.trust_domain() == domain);
        answer.withdrawn = held.keys().filter(|domain| !is_wanted(domain)).cloned().collect();
        let used = serde_json::to_vec(&*answer).map_or(AGENT_BODY_MAX, |bytes| bytes.len());
        let mut room = AGENT_BODY_MAX.saturating_sub(used);
        for foreign in wanted {
            let (trust_domain, digest) = (foreign.trust_domain(), foreign.digest());
            if held.get(trust_domain) == Some(&digest) {
                continue;
            }
            let fits = room.saturating_sub(PART_OVERHEAD) / 4 * 3;
            if fits < PART_LEN_MIN {
                return;
            }
            let begun =
                request.partial.as_ref().filter(|part| part.digest == digest && part.trust_domain == *trust_domain);
            let document = foreign.document();
            let offset = begun.map_or(0, |part| part.len.min(document.len()));
            let bytes = &document[offset..document.len().min(offset + fits)];
            room = room.saturating_sub(PART_OVERHEAD + bytes.len().div_ceil(3) * 4);
            let is_whole = offset + bytes.len() == document.len();
            answer.federated.push(BundlePart {
                trust_domain: trust_domain.clone(),
                digest,
                offset,
                len: document.len(),
                bytes: Base64(bytes.to_vec()),
            });
            // An agent puts one document together at a time.
            if !is_whole {
                return;
            }
        }
    }
}
