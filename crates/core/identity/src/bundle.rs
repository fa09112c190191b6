//! The authorities of one trust domain, and their SPIFFE document form (SPIFFE Trust Domain and Bundle, section 4).

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x0t_model::{TrustDomain, UnixTime};

use crate::authority_rules;
use crate::leaf_rules::parse;
use crate::public_key::{self, AcceptedKey};
use crate::verify::VerifyError;

/// Authorities in a bundle. Two or three live at a time during a rotation; each costs a signature check in the worst case.
pub const BUNDLE_AUTHORITIES_MAX: usize = 16;
/// Bytes of a bundle document.
const DOCUMENT_LEN_MAX: usize = 512 * 1024;
/// What the document's `use` says of X.509 authorities (section 4.2.2).
const X509_SVID: &str = "x509-svid";
/// Seconds after which a consumer looks again (section 4.1.2).
const REFRESH_HINT_S: u64 = 300;

/// Why something is no trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than [`BUNDLE_AUTHORITIES_MAX`].
    #[error("the bundle has {0} authorities, at most {max} are allowed", max = BUNDLE_AUTHORITIES_MAX)]
    TooManyAuthorities(usize),
    /// An authority that is malformed, may not sign, has an unacceptable key or names another trust domain.
    #[error("an authority of the bundle is not usable")]
    Authority(#[source] VerifyError),
    /// Longer than any honest bundle.
    #[error("the bundle document has {0} bytes, at most {max} are allowed", max = DOCUMENT_LEN_MAX)]
    DocumentTooLarge(usize),
    /// Not the JSON of a bundle.
    #[error("the bundle is not a SPIFFE bundle document: {0}")]
    Document(String),
    /// A bundle of another trust domain cannot replace this one.
    #[error("the bundle is of {found}, not of {wanted}")]
    WrongTrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        wanted: TrustDomain,
    },
    /// The same sequence number with other authorities: somebody forked history.
    #[error("two different bundles carry sequence number {0}")]
    Forked(u64),
}

/// What became of an offered bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleUpdate {
    /// It is newer and in force.
    Replaced,
    /// It is the one in force.
    Unchanged,
    /// It is older than the one in force, which stays.
    Outdated,
}

/// The authorities of one trust domain. An empty bundle trusts nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    /// Sorted by their DER and without duplicates, so that equal sets have equal digests.
    authorities: Vec<CertificateDer<'static>>,
    /// First and last second of each authority, in the same order.
    validities: Vec<(UnixTime, UnixTime)>,
    sequence: u64,
}

impl Bundle {
    /// The bundle of `trust_domain`. Each authority must be a CA with an accepted key that names no other trust domain.
    pub fn new(
        trust_domain: TrustDomain,
        mut authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        authorities.sort_unstable_by(|one, two| one.as_ref().cmp(two.as_ref()));
        authorities.dedup();
        if authorities.len() > BUNDLE_AUTHORITIES_MAX {
            return Err(BundleError::TooManyAuthorities(authorities.len()));
        }
        let check = |authority| authority_rules::check(authority, &trust_domain).map_err(BundleError::Authority);
        let validities = authorities.iter().map(check).collect::<Result<_, _>>()?;
        Ok(Self { trust_domain, authorities, validities, sequence })
    }

    /// Whose authorities these are.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities' certificates.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Grows with each change (section 4.1.1).
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The authorities that are valid at `now`.
    pub(crate) fn valid_at(&self, now: UnixTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        let valid = move |(not_before, not_after): &(UnixTime, UnixTime)| *not_before <= now && now <= *not_after;
        self.authorities.iter().zip(&self.validities).filter(move |(_, validity)| valid(validity)).map(|(der, _)| der)
    }

    /// SHA-256 over trust domain and authorities, whatever their order: what a join token carries.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(b"x0tta6bl4 2026-11 trust bundle\0");
        let domain = self.trust_domain.as_str().as_bytes();
        for bytes in std::iter::once(domain).chain(self.authorities.iter().map(AsRef::as_ref)) {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// Takes `offered` over if it is newer: same trust domain, higher sequence number. Two bundles with one number and
    /// different authorities are an alarm, not an update.
    pub fn offer(&mut self, offered: Self) -> Result<BundleUpdate, BundleError> {
        if offered.trust_domain != self.trust_domain {
            return Err(BundleError::WrongTrustDomain {
                found: offered.trust_domain,
                wanted: self.trust_domain.clone(),
            });
        }
        if offered.sequence < self.sequence {
            return Ok(BundleUpdate::Outdated);
        }
        if offered.sequence == self.sequence {
            let same = offered.authorities == self.authorities;
            return if same { Ok(BundleUpdate::Unchanged) } else { Err(BundleError::Forked(self.sequence)) };
        }
        *self = offered;
        Ok(BundleUpdate::Replaced)
    }

    /// The SPIFFE bundle document: a JWK set whose keys carry one certificate each in `x5c`.
    pub fn to_json(&self) -> Vec<u8> {
        let keys = self.authorities.iter().filter_map(jwk).collect();
        let document =
            Document { keys, spiffe_sequence: Some(self.sequence), spiffe_refresh_hint: Some(REFRESH_HINT_S) };
        serde_json::to_vec_pretty(&document).unwrap_or_default()
    }

    /// Reads the SPIFFE bundle document of `trust_domain`, which the document itself does not name. Keys for other uses are
    /// left out, as the specification asks; a key for X.509-SVIDs without exactly one certificate is an error.
    pub fn from_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > DOCUMENT_LEN_MAX {
            return Err(BundleError::DocumentTooLarge(json.len()));
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| BundleError::Document(error.to_string()))?;
        let mut authorities = Vec::new();
        for key in document.keys.iter().filter(|key| key.purpose.as_deref() == Some(X509_SVID)) {
            let [certificate] = key.x5c.as_slice() else {
                return Err(BundleError::Document(format!("a key has {} certificates instead of one", key.x5c.len())));
            };
            let der = BASE64.decode(certificate.as_bytes());
            let der = der.map_err(|error| BundleError::Document(format!("x5c is not base64: {error}")))?;
            authorities.push(CertificateDer::from(der));
        }
        Self::new(trust_domain, authorities, document.spiffe_sequence.unwrap_or(0))
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

/// `None` only for keys that [`Bundle::new`] has refused.
fn jwk(authority: &CertificateDer<'static>) -> Option<Jwk> {
    let certificate = parse(authority).ok()?;
    let text = |bytes: &[u8]| Some(BASE64URL_NOPAD.encode(bytes));
    let mut jwk = match public_key::accepted(certificate.public_key())? {
        AcceptedKey::Ec { curve, x, y } => {
            Jwk { kty: "EC".into(), crv: Some(curve.into()), x: text(x), y: text(y), ..Jwk::default() }
        }
        AcceptedKey::Ed25519 { x } => {
            Jwk { kty: "OKP".into(), crv: Some("Ed25519".into()), x: text(x), ..Jwk::default() }
        }
        AcceptedKey::Rsa { modulus, exponent } => {
            Jwk { kty: "RSA".into(), n: text(modulus), e: text(exponent), ..Jwk::default() }
        }
    };
    jwk.purpose = Some(X509_SVID.into());
    jwk.x5c = vec![BASE64.encode(authority)];
    Some(jwk)
}
