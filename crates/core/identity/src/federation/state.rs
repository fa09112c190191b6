//! The bundles of foreign trust domains that an authority keeps, and its relationships.

use std::collections::{BTreeMap, BTreeSet};

use x0t_model::TrustDomain;

use super::command::{FederationCommand, FederationRefusal};
use super::foreign::{FOREIGN_DOCUMENT_LEN_MAX, ForeignBundle};
use super::relationship::FederationRelationship;
use crate::bundle::{BUNDLE_MAP_MAX, Bundle, BundleError, BundleMap, BundleUpdate};

/// Foreign trust domains: what a node's map of bundles holds beside its own.
pub const FOREIGN_DOMAINS_MAX: usize = BUNDLE_MAP_MAX - 1;
/// Bytes of all documents together. A bundle has 2 to 10 KiB; the state they are part of may have 128 MiB, and a
/// document takes up to twice its bytes in there.
pub const FOREIGN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Foreign bundles and relationships by trust domain.
#[derive(Clone, Debug, Default)]
pub struct Federations {
    bundles: BTreeMap<TrustDomain, ForeignBundle>,
    relationships: BTreeMap<TrustDomain, FederationRelationship>,
    /// Counts changes since the start of the process.
    revision: u64,
}

/// Everything that is needed to fetch bundles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FederationSnapshot {
    /// In the order of their trust domains' names.
    pub relationships: Vec<FederationRelationship>,
    /// The foreign bundles and the own one: what endpoints with an SVID are checked against.
    pub bundles: BundleMap,
}

impl Federations {
    /// From what was stored; the same rules hold as for what is said anew.
    pub(crate) fn restore(
        own: &TrustDomain,
        bundles: Vec<ForeignBundle>,
        relationships: Vec<FederationRelationship>,
    ) -> Result<Self, FederationRefusal> {
        let mut restored = Self::default();
        for bundle in bundles {
            restored.apply(own, &FederationCommand::SetBundle { bundle, force: false })?;
        }
        for relationship in relationships {
            let command = FederationCommand::SetRelationship { relationship, bootstrap: None, replace: false };
            restored.apply(own, &command)?;
        }
        Ok(restored)
    }

    /// The bundle of `trust_domain`, which may be empty: then nobody of it is trusted, and an older one is still refused.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&ForeignBundle> {
        self.bundles.get(trust_domain)
    }

    /// All bundles, in the order of their trust domains' names.
    pub fn bundles(&self) -> impl Iterator<Item = &ForeignBundle> {
        self.bundles.values()
    }

    /// The relationship with `trust_domain`.
    pub fn relationship(&self, trust_domain: &TrustDomain) -> Option<&FederationRelationship> {
        self.relationships.get(trust_domain)
    }

    /// All relationships, in the order of their trust domains' names.
    pub fn relationships(&self) -> impl Iterator<Item = &FederationRelationship> {
        self.relationships.values()
    }

    /// Whether there is neither bundle nor relationship.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty() && self.relationships.is_empty()
    }

    /// Grows with each change, from 0 at the start of the process.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What fetching needs, with the bundle of the own trust domain.
    pub fn snapshot(&self, own: &Bundle) -> FederationSnapshot {
        let mut bundles = BundleMap::new();
        let foreign = self.bundles.values().map(|foreign| Bundle::clone(foreign.bundle()));
        for bundle in std::iter::once(own.clone()).chain(foreign) {
            // There is room: FOREIGN_DOMAINS_MAX.
            let _ = bundles.replace(bundle);
        }
        FederationSnapshot { relationships: self.relationships.values().cloned().collect(), bundles }
    }

    /// Applies one command for the authority of `own`, and says what became of the bundle in it, if there is one. Refused
    /// commands change nothing.
    pub fn apply(
        &mut self,
        own: &TrustDomain,
        command: &FederationCommand,
    ) -> Result<Option<BundleUpdate>, FederationRefusal> {
        let trust_domain = command.trust_domain();
        if trust_domain == own {
            return Err(FederationRefusal::OwnTrustDomain(own.clone()));
        }
        let update = match command {
            FederationCommand::SetBundle { bundle, force } => {
                if self.judge(bundle, *force)? == BundleUpdate::Unchanged {
                    return Ok(Some(BundleUpdate::Unchanged));
                }
                self.bundles.insert(trust_domain.clone(), bundle.clone());
                Some(BundleUpdate::Replaced)
            }
            FederationCommand::TakeFetched { relationship, bundle } => {
                // Ended or changed while it was fetched: what was taken away must not come back.
                if self.relationships.get(trust_domain) != Some(relationship) {
                    return Err(FederationRefusal::UnknownRelationship(trust_domain.clone()));
                }
                return self.apply(own, &FederationCommand::SetBundle { bundle: bundle.clone(), force: false });
            }
            FederationCommand::DeleteBundle { .. } => {
                if self.relationships.contains_key(trust_domain) {
                    return Err(FederationRefusal::KeptByRelationship(trust_domain.clone()));
                }
                let gone = self.bundles.remove(trust_domain);
                gone.ok_or_else(|| FederationRefusal::UnknownBundle(trust_domain.clone()))?;
                None
            }
            FederationCommand::SetRelationship { relationship, bootstrap, replace } => {
                if self.relationships.contains_key(trust_domain) && !replace {
                    return Err(FederationRefusal::RelationshipExists(trust_domain.clone()));
                }
                self.check_room(trust_domain)?;
                let update = self.bootstrap(trust_domain, bootstrap.as_ref())?;
                self.relationships.insert(trust_domain.clone(), relationship.clone());
                update
            }
            FederationCommand::DeleteRelationship { .. } => {
                let gone = self.relationships.remove(trust_domain);
                gone.ok_or_else(|| FederationRefusal::UnknownRelationship(trust_domain.clone()))?;
                self.bundles.remove(trust_domain);
                None
            }
        };
        self.revision += 1;
        Ok(update)
    }

    /// What would become of `offered`.
    pub fn judge(&self, offered: &ForeignBundle, force: bool) -> Result<BundleUpdate, FederationRefusal> {
        let trust_domain = offered.trust_domain();
        let held = self.bundles.get(trust_domain);
        if held == Some(offered) {
            return Ok(BundleUpdate::Unchanged);
        }
        if let Some(held) = held.filter(|_| !force) {
            let mut trial = Bundle::clone(held.bundle());
            match trial.offer(Bundle::clone(offered.bundle())) {
                Ok(BundleUpdate::Replaced) => {}
                Ok(BundleUpdate::Unchanged) => return Ok(BundleUpdate::Unchanged),
                Err(BundleError::Forked(sequence)) => {
                    return Err(FederationRefusal::Forked { trust_domain: trust_domain.clone(), sequence });
                }
                // The trust domains are equal, and nothing else can be wrong with a bundle that was read.
                Ok(BundleUpdate::Outdated) | Err(_) => {
                    return Err(FederationRefusal::RolledBack {
                        trust_domain: trust_domain.clone(),
                        held: held.bundle().sequence(),
                        offered: offered.bundle().sequence(),
                    });
                }
            }
        }
        self.check_room(trust_domain)?;
        let len = offered.document().len();
        if len > FOREIGN_DOCUMENT_LEN_MAX {
            return Err(FederationRefusal::BundleTooLarge(len));
        }
        let others = self.bundles.values().filter(|bundle| bundle.trust_domain() != trust_domain);
        let total = others.map(|bundle| bundle.document().len()).sum::<usize>() + len;
        if total > FOREIGN_BYTES_MAX {
            return Err(FederationRefusal::BundlesTooLarge(total));
        }
        Ok(BundleUpdate::Replaced)
    }

    fn bootstrap(
        &mut self,
        wanted: &TrustDomain,
        bundle: Option<&ForeignBundle>,
    ) -> Result<Option<BundleUpdate>, FederationRefusal> {
        let Some(bundle) = bundle else { return Ok(None) };
        if bundle.trust_domain() != wanted {
            let (found, wanted) = (bundle.trust_domain().clone(), wanted.clone());
            return Err(FederationRefusal::OtherTrustDomain { found, wanted });
        }
        match self.judge(bundle, false) {
            Ok(BundleUpdate::Replaced) => {
                self.bundles.insert(wanted.clone(), bundle.clone());
                Ok(Some(BundleUpdate::Replaced))
            }
            // A file from last month begins nothing that has gone on since.
            Err(FederationRefusal::RolledBack { .. }) => Ok(Some(BundleUpdate::Outdated)),
            Ok(update) => Ok(Some(update)),
            Err(refusal) => Err(refusal),
        }
    }

    fn check_room(&self, trust_domain: &TrustDomain) -> Result<(), FederationRefusal> {
        let known: BTreeSet<_> = self.bundles.keys().chain(self.relationships.keys()).collect();
        if known.len() >= FOREIGN_DOMAINS_MAX && !known.contains(trust_domain) {
            return Err(FederationRefusal::TooManyTrustDomains);
        }
        Ok(())
    }
}
