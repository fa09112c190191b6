//! What a Workload API said, checked before anything uses it (checklist WC-4, WC-8).

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x0t_identity::{
    Bundle, BundleError, BundleMap, JwtError, KeyError, PrivateKey, Svid, SvidError, VerifyError, overdue_at,
    verify_chain,
};
use x0t_model::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

use crate::proto::spiffe::{X509svid, X509svidResponse};

/// Certificates in one concatenation: more than any chain or bundle may have.
const CERTIFICATES_MAX: usize = 256;

/// Why a message is not believed. It is dropped whole, and what was known before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// No SVID at all.
    #[error("the message has no SVID")]
    NoSvid,
    /// A field that must be there is empty.
    #[error("the SVID has no {0}")]
    Missing(&'static str),
    /// Not a SPIFFE ID.
    #[error("the SVID's SPIFFE ID is malformed")]
    SpiffeId(#[source] SpiffeIdError),
    /// A bundle of something that is no trust domain.
    #[error("a bundle is not of a trust domain")]
    TrustDomain(#[source] SpiffeIdError),
    /// Not DER certificates, one after the other.
    #[error("the {0} is not a sequence of DER certificates")]
    NotDer(&'static str),
    /// Not a key that can be used.
    #[error("the private key of {id} is not usable")]
    Key {
        /// Whose.
        id: SpiffeId,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Certificate and key are not an SVID.
    #[error("the SVID of {id} is not usable")]
    Svid {
        /// Whose.
        id: SpiffeId,
        /// Why.
        #[source]
        source: SvidError,
    },
    /// The message says one thing, the certificate another.
    #[error("the message says {said}, the certificate says {certified}")]
    OtherId {
        /// The field.
        said: SpiffeId,
        /// The SAN.
        certified: SpiffeId,
    },
    /// The own trust domain's bundle cannot be used.
    #[error("the bundle of {trust_domain} is not usable")]
    Bundle {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// No bundle at all, not even the own one.
    #[error("the message has no bundle")]
    NoBundle,
    /// Not a JWT-SVID.
    #[error("the token is not a JWT-SVID")]
    Token(#[from] JwtError),
    /// A token for somebody else, or for another audience.
    #[error("the token of {0} is not the one that was asked for")]
    OtherToken(SpiffeId),
    /// Nobody would believe it.
    #[error("the SVID of {id} does not verify against its own bundle")]
    Unverified {
        /// Whose.
        id: SpiffeId,
        /// Why.
        #[source]
        source: VerifyError,
    },
}

/// One X.509-SVID that the workload was given.
#[derive(Clone, Debug)]
pub struct GivenSvid {
    /// Chain and key.
    pub svid: Svid,
    /// What the operator wants it used for; may be empty.
    pub hint: String,
}

/// The whole of what a workload was given at one moment. Never merged with what was given before: what is not in here is gone
/// (checklist WC-5).
#[derive(Clone, Debug)]
pub struct X509Context {
    svids: Vec<GivenSvid>,
    bundles: BundleMap,
    crls: Vec<Arc<[u8]>>,
    /// Bundles of foreign trust domains that were left out, with the reason: peers of these are not believed.
    refused: Vec<(TrustDomain, BundleError)>,
}

impl X509Context {
    /// The identity to use unless something else is said: the first (SPIFFE Workload API, 5.3).
    pub fn default_svid(&self) -> &Svid {
        // There is at least one: a message without is refused.
        &self.svids[0].svid
    }

    /// All of them, in the order of the message.
    pub fn svids(&self) -> &[GivenSvid] {
        &self.svids
    }

    /// When the first of them should have been renewed at the latest.
    pub fn overdue_at(&self) -> UnixTime {
        self.svids.iter().map(|given| overdue_at(&given.svid)).min().unwrap_or(UnixTime::from_secs(0))
    }

    /// Whom to believe: the own trust domain's bundle and those of the domains that it federates with.
    pub const fn bundles(&self) -> &BundleMap {
        &self.bundles
    }

    /// Revocation lists, as DER.
    pub fn crls(&self) -> &[Arc<[u8]>] {
        &self.crls
    }

    /// Foreign bundles that could not be used.
    pub fn refused(&self) -> &[(TrustDomain, BundleError)] {
        &self.refused
    }

    /// Reads a message and checks everything in it as a stranger would, at `now`.
    pub(crate) fn read(message: &X509svidResponse, now: UnixTime) -> Result<Self, ContextError> {
        let mut svids = Vec::new();
        let mut hints = BTreeSet::new();
        let mut bundles = BundleMap::new();
        for given in &message.svids {
            let (svid, bundle) = read_svid(given, now)?;
            // The first with a hint has it (SPIFFE Workload API, 5.2.1).
            let hint = if hints.insert(&given.hint) { given.hint.clone() } else { String::new() };
            svids.push(GivenSvid { svid, hint });
            let trust_domain = bundle.trust_domain().clone();
            bundles.replace(bundle).map_err(|source| ContextError::Bundle { trust_domain, source })?;
        }
        if svids.is_empty() {
            return Err(ContextError::NoSvid);
        }
        let mut refused = Vec::new();
        for (id, der) in &message.federated_bundles {
            let trust_domain = read_trust_domain(id)?;
            // Its own bundle is what came with the SVID.
            if bundles.get(&trust_domain).is_some() {
                continue;
            }
            // An empty one is kept: it says that nobody there is to be believed.
            let bundle = Bundle::new(trust_domain.clone(), certificates(der, "federated bundle")?, 0);
            // A neighbour's mistake must not cost us our own renewal.
            if let Err(error) = bundle.and_then(|bundle| bundles.replace(bundle)) {
                refused.push((trust_domain, error));
            }
        }
        let crls = message.crl.iter().map(|crl| crl.as_slice().into()).collect();
        Ok(Self { svids, bundles, crls, refused })
    }
}

fn read_svid(given: &X509svid, now: UnixTime) -> Result<(Svid, Bundle), ContextError> {
    let fields = [
        ("SPIFFE ID", given.spiffe_id.is_empty()),
        ("certificate", given.x509_svid.is_empty()),
        ("private key", given.x509_svid_key.is_empty()),
        ("bundle", given.bundle.is_empty()),
    ];
    if let Some((missing, _)) = fields.iter().find(|(_, is_missing)| *is_missing) {
        return Err(ContextError::Missing(missing));
    }
    let id: SpiffeId = given.spiffe_id.parse().map_err(ContextError::SpiffeId)?;
    let chain = certificates(&given.x509_svid, "certificate")?;
    let key = PrivateKey::from_pkcs8(&given.x509_svid_key);
    let key = key.map_err(|source| ContextError::Key { id: id.clone(), source })?;
    let svid = Svid::new(chain, key).map_err(|source| ContextError::Svid { id: id.clone(), source })?;
    if *svid.spiffe_id() != id {
        return Err(ContextError::OtherId { said: id, certified: svid.spiffe_id().clone() });
    }
    let trust_domain = id.trust_domain().clone();
    let bundle = Bundle::new(trust_domain.clone(), certificates(&given.bundle, "bundle")?, 0)
        .map_err(|source| ContextError::Bundle { trust_domain, source })?;
    verify_chain(svid.chain(), &bundle, now).map_err(|source| ContextError::Unverified { id, source })?;
    Ok((svid, bundle))
}

/// The key of a bundle is the SPIFFE ID of its trust domain.
pub(crate) fn read_trust_domain(id: &str) -> Result<TrustDomain, ContextError> {
    let name = id.strip_prefix("spiffe://").ok_or(ContextError::TrustDomain(SpiffeIdError::WrongScheme))?;
    name.parse().map_err(ContextError::TrustDomain)
}

/// Cuts a concatenation of DER certificates into its parts. Each is a SEQUENCE (X.690, 8.1 and 10.1), so tag and length suffice.
fn certificates(mut der: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, ContextError> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let len = sequence_len(der).filter(|len| *len <= der.len()).ok_or(ContextError::NotDer(what))?;
        if found.len() == CERTIFICATES_MAX {
            return Err(ContextError::NotDer(what));
        }
        let (certificate, rest) = der.split_at(len);
        found.push(CertificateDer::from(certificate.to_vec()));
        der = rest;
    }
    Ok(found)
}

/// Bytes of the SEQUENCE at the start of `der`, tag and length included.
fn sequence_len(der: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = der else { return None };
    match first {
        0..=0x7f => Some(2 + usize::from(*first)),
        0x81..=0x83 => {
            let digits = usize::from(first & 0x7f);
            let len = rest.get(..digits)?.iter().fold(0, |len, byte| (len << 8) | usize::from(*byte));
            Some(2 + digits + len)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_concatenation_is_cut_into_its_parts() {
        let parts = [vec![0x30, 2, 7, 7], [vec![0x30, 0x81, 200], vec![1; 200]].concat(), vec![0x30, 0]];
        let found = certificates(&parts.concat(), "x").unwrap();
        assert_eq!(found.iter().map(|part| part.to_vec()).collect::<Vec<_>>(), parts);
        for bad in [&[0x30][..], &[0x30, 3, 1], &[0x31, 0], &[0x30, 0x80], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0, 0]] {
            assert_eq!(certificates(bad, "x"), Err(ContextError::NotDer("x")));
        }
        assert_eq!(certificates(&[0x30, 0].repeat(257), "x"), Err(ContextError::NotDer("x")));
    }

    proptest! {
        #[test]
        fn l7_no_message_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(certificates(&bytes, "x"));
            let svid = X509svid {
                spiffe_id: "spiffe://mesh.test/web".into(),
                x509_svid: bytes.clone(),
                x509_svid_key: bytes.clone(),
                bundle: bytes.clone(),
                hint: String::new(),
            };
            let federated_bundles = std::collections::BTreeMap::new();
            let message = X509svidResponse { svids: vec![svid], crl: vec![bytes], federated_bundles };
            prop_assert!(X509Context::read(&message, UnixTime::from_secs(0)).is_err());
        }
    }
}
