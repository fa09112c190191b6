//! The bundles of several trust domains, each under its own name (SPIFFE Trust Domain and Bundle, section 5).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use x0t_model::TrustDomain;

use super::document::check_len;
use super::{Bundle, BundleError, BundleUpdate};
use crate::strict_json;

/// Trust domains in one map: what an organisation federates with, and room.
pub const BUNDLE_MAP_MAX: usize = 256;
/// Bytes of a bundle map document.
const DOCUMENT_LEN_MAX: usize = 8 * 1024 * 1024;
const TRUST_DOMAINS: &str = "trust_domains";

/// Trust domain to bundle. Bundles are never merged: an SVID is judged by the keys of the trust domain it names and by no
/// others. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleMap(BTreeMap<TrustDomain, Arc<Bundle>>);

impl BundleMap {
    /// A map that trusts nobody.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The bundle of `trust_domain`. `None`, like an empty bundle, means that nothing of that trust domain is to be trusted.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(trust_domain)
    }

    /// All bundles, in the order of their trust domains' names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    /// How many trust domains there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over the bundle of a trust domain that has none, or a newer one: [`Bundle::offer`].
    pub fn offer(&mut self, offered: Bundle) -> Result<BundleUpdate, BundleError> {
        if let Some(held) = self.0.get_mut(offered.trust_domain()) {
            let mut bundle = Bundle::clone(held);
            let update = bundle.offer(offered)?;
            if update == BundleUpdate::Replaced {
                *held = Arc::new(bundle);
            }
            return Ok(update);
        }
        self.replace(offered)?;
        Ok(BundleUpdate::Replaced)
    }

    /// Takes `bundle` over whatever its sequence number, because an operator says so.
    pub fn replace(&mut self, bundle: Bundle) -> Result<(), BundleError> {
        if self.0.len() >= BUNDLE_MAP_MAX && !self.0.contains_key(bundle.trust_domain()) {
            return Err(BundleError::TooManyTrustDomains(self.0.len() + 1));
        }
        self.0.insert(bundle.trust_domain().clone(), Arc::new(bundle));
        Ok(())
    }

    /// Ends all trust in `trust_domain`; whether there was any.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> bool {
        self.0.remove(trust_domain).is_some()
    }

    /// The bundle map document. Refresh hints are left out, for they are the map's business (section 5.1.1).
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Document<T> {
            trust_domains: BTreeMap<String, T>,
        }

        let named = |(name, bundle): (&TrustDomain, &Arc<Bundle>)| (name.as_str().to_owned(), bundle.document(false));
        let document = Document { trust_domains: self.0.iter().map(named).collect() };
        serde_json::to_vec_pretty(&document).unwrap_or_default()
    }

    /// Reads a bundle map document: all of it or nothing. A trust domain that stands there twice is an error (section 6.3).
    pub fn from_json(json: &[u8]) -> Result<Self, BundleError> {
        check_len(json, DOCUMENT_LEN_MAX)?;
        let document = strict_json::parse_object(json)?;
        let malformed = |what: String| BundleError::Document(what);
        let bundles = document.get(TRUST_DOMAINS).and_then(|value| value.as_object());
        let bundles = bundles.ok_or_else(|| malformed(format!("it has no object `{TRUST_DOMAINS}`")))?;
        if bundles.len() > BUNDLE_MAP_MAX {
            return Err(BundleError::TooManyTrustDomains(bundles.len()));
        }
        let mut map = Self::new();
        for (name, bundle) in bundles {
            let trust_domain: TrustDomain =
                name.parse().map_err(|error| malformed(format!("`{name}` is no trust domain: {error}")))?;
            let bundle =
                bundle.as_object().ok_or_else(|| malformed(format!("the bundle of {name} is not an object")))?;
            map.replace(Bundle::from_document(trust_domain, bundle, false)?)?;
        }
        Ok(map)
    }
}
