//! The bundles of foreign trust domains as an agent gets them: whole, or in parts.

use std::collections::BTreeMap;

use x0t_model::TrustDomain;

use crate::agent_message::{BundlePart, PartialBundle};
use crate::bundle::{Bundle, BundleMap};
use crate::federation::{BundleDigest, FOREIGN_DOCUMENT_LEN_MAX};

/// What is known of foreign bundles. The authority has the last word on them, whatever their sequence numbers say: it has judged
/// those, and an operator may have told it to go back.
#[derive(Debug, Default)]
pub(super) struct FederatedBundles {
    /// Also documents that could not be used: asking for the same again would bring the same.
    in_use: BTreeMap<TrustDomain, BundleDigest>,
    begun: Option<Begun>,
}

/// What has come of one document.
#[derive(Debug)]
struct Begun {
    trust_domain: TrustDomain,
    digest: BundleDigest,
    bytes: Vec<u8>,
}

/// What an answer has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Whether there are other bundles than before.
    pub(super) any: bool,
    /// Parts and documents that were of no use.
    pub(super) refused: u64,
}

impl FederatedBundles {
    /// What to tell the authority.
    pub(super) fn in_use(&self) -> BTreeMap<TrustDomain, BundleDigest> {
        self.in_use.clone()
    }

    /// Where the authority may go on.
    pub(super) fn partial(&self) -> Option<PartialBundle> {
        self.begun.as_ref().map(|begun| PartialBundle {
            trust_domain: begun.trust_domain.clone(),
            digest: begun.digest,
            len: begun.bytes.len(),
        })
    }

    /// Forgets and takes in what the authority of `own` says.
    pub(super) fn handle_answer(
        &mut self,
        own: &TrustDomain,
        withdrawn: Vec<TrustDomain>,
        parts: Vec<BundlePart>,
        bundles: &mut BundleMap,
    ) -> Changes {
        let mut changes = Changes::default();
        // Nobody talks an agent out of its own trust domain.
        for domain in withdrawn.iter().filter(|domain| *domain != own) {
            self.in_use.remove(domain);
            self.begun.take_if(|begun| begun.trust_domain == *domain);
            changes.any |= bundles.remove(domain);
        }
        for part in parts {
            let is_sound = part.len <= FOREIGN_DOCUMENT_LEN_MAX
                && !part.bytes.0.is_empty()
                && part.offset.saturating_add(part.bytes.0.len()) <= part.len;
            if part.trust_domain == *own || !is_sound {
                // As if it were in use: asked for again, the same would come again.
                self.in_use.insert(part.trust_domain, part.digest);
                changes.refused += 1;
                continue;
            }
            if let Some(whole) = self.put_together(part) {
                let is_taken = take(whole, &mut self.in_use, bundles);
                changes.any |= is_taken;
                changes.refused += u64::from(!is_taken);
            }
        }
        changes
    }

    /// The whole document, if this was its last part. A part that does not fit makes it begin anew.
    fn put_together(&mut self, part: BundlePart) -> Option<Begun> {
        let BundlePart { trust_domain, digest, offset, len, bytes } = part;
        let begun = self.begun.take();
        let mut begun = match begun {
            _ if offset == 0 => Begun { trust_domain, digest, bytes: Vec::new() },
            Some(begun)
                if begun.trust_domain == trust_domain && begun.digest == digest && begun.bytes.len() == offset =>
            {
                begun
            }
            _ => return None,
        };
        begun.bytes.extend_from_slice(&bytes.0);
        if begun.bytes.len() < len {
            self.begun = Some(begun);
            return None;
        }
        Some(begun)
    }
}

/// Whether the document is in use now.
fn take(whole: Begun, in_use: &mut BTreeMap<TrustDomain, BundleDigest>, bundles: &mut BundleMap) -> bool {
    let Begun { trust_domain, digest, bytes } = whole;
    in_use.insert(trust_domain.clone(), digest);
    BundleDigest::of(&bytes) == digest
        && Bundle::from_json(trust_domain, &bytes).and_then(|bundle| bundles.replace(bundle)).is_ok()
}
