//! The keys of one trust domain (SPIFFE Trust Domain and Bundle, sections 3 and 4).
//!
//! X.509 authorities sign certificates, JWT keys sign tokens; a key serves one purpose only. Bundles of different trust
//! domains are never merged: [`BundleMap`] keeps each under the name of its trust domain.

mod document;
mod map;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::CertificateDer;
use x0t_model::{TrustDomain, UnixTime};

pub use self::map::{BUNDLE_MAP_MAX, BundleMap};
use crate::authority_rules;
use crate::jwt::{JwtKeyError, JwtPublicKey, KeyId};
use crate::strict_json::StrictJsonError;
use crate::verify::VerifyError;

/// Authorities in a bundle. Two or three live at a time during a rotation; each costs a signature check in the worst case.
pub const BUNDLE_AUTHORITIES_MAX: usize = 16;
/// JWT keys in a bundle. More than authorities, because every server of a nested SPIRE deployment signs with keys of its own; a
/// token without a `kid` is tried against a few of them only.
pub const BUNDLE_JWT_KEYS_MAX: usize = 64;
/// How long a consumer waits before it looks again, where the bundle does not say (section 6.1).
const REFRESH_HINT_DEFAULT: Duration = Duration::from_secs(300);
/// A hint below this would have consumers hammer their source, and one above would keep a revoked key alive.
const REFRESH_HINT_MIN: Duration = Duration::from_secs(10);
const REFRESH_HINT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why something is no trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than [`BUNDLE_AUTHORITIES_MAX`].
    #[error("the bundle has {0} authorities, at most {max} are allowed", max = BUNDLE_AUTHORITIES_MAX)]
    TooManyAuthorities(usize),
    /// More than [`BUNDLE_JWT_KEYS_MAX`].
    #[error("the bundle has {0} keys for JWT-SVIDs, at most {max} are allowed", max = BUNDLE_JWT_KEYS_MAX)]
    TooManyJwtKeys(usize),
    /// An authority that is malformed, may not sign, has an unacceptable key or names another trust domain.
    #[error("an authority of the bundle is not usable")]
    Authority(#[source] VerifyError),
    /// A key for JWT-SVIDs that is not what it claims to be.
    #[error("the key {key_id} of the bundle is not usable")]
    JwtKey {
        /// Which.
        key_id: KeyId,
        /// What is wrong with it.
        source: JwtKeyError,
    },
    /// Two keys for JWT-SVIDs under one name.
    #[error("two keys of the bundle are called {0}")]
    DuplicateKeyId(KeyId),
    /// Longer than any honest document.
    #[error("the document has {bytes} bytes, at most {max} are allowed")]
    DocumentTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// No JSON, or JSON that two readers could understand differently.
    #[error("the document cannot be read")]
    Json(#[from] StrictJsonError),
    /// JSON, but not that of a bundle.
    #[error("the document is not a SPIFFE bundle: {0}")]
    Document(String),
    /// More than [`BUNDLE_MAP_MAX`] trust domains.
    #[error("there are bundles of {0} trust domains, at most {max} are allowed", max = BUNDLE_MAP_MAX)]
    TooManyTrustDomains(usize),
    /// A bundle of another trust domain cannot replace this one.
    #[error("the bundle is of {found}, not of {wanted}")]
    WrongTrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        wanted: TrustDomain,
    },
    /// The same sequence number with other keys: somebody forked history.
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

/// The keys of one trust domain. An empty bundle trusts nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    /// Sorted by their DER and without duplicates, so that equal sets have equal digests.
    authorities: Vec<CertificateDer<'static>>,
    /// First and last second of each authority, in the same order.
    validities: Vec<(UnixTime, UnixTime)>,
    jwt_keys: BTreeMap<KeyId, JwtPublicKey>,
    sequence: u64,
    refresh_hint: Duration,
}

impl Bundle {
    /// The bundle of `trust_domain`, without JWT keys. Each authority must be a CA with an accepted key that names no other
    /// trust domain. Sequence number 0 stands for a bundle without one.
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
        let (jwt_keys, refresh_hint) = (BTreeMap::new(), REFRESH_HINT_DEFAULT);
        Ok(Self { trust_domain, authorities, validities, jwt_keys, sequence, refresh_hint })
    }

    /// The same bundle with `keys` for JWT-SVIDs.
    pub fn with_jwt_keys(mut self, keys: impl IntoIterator<Item = (KeyId, JwtPublicKey)>) -> Result<Self, BundleError> {
        self.jwt_keys = collect_jwt_keys(keys)?;
        Ok(self)
    }

    /// The same bundle with another refresh hint, no shorter than 10 s and no longer than a day.
    #[must_use]
    pub fn with_refresh_hint(mut self, hint: Duration) -> Self {
        self.refresh_hint = Duration::from_secs(hint.as_secs()).clamp(REFRESH_HINT_MIN, REFRESH_HINT_MAX);
        self
    }

    /// Whose keys these are.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The X.509 authorities' certificates.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The keys that sign JWT-SVIDs, by `kid`.
    pub const fn jwt_keys(&self) -> &BTreeMap<KeyId, JwtPublicKey> {
        &self.jwt_keys
    }

    /// Grows with each change (section 4.1.1). 0 if the document carried none: then nothing tells an old one from a new one.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often a consumer should look for a change (section 4.1.2), between 10 s and a day.
    pub const fn refresh_hint(&self) -> Duration {
        self.refresh_hint
    }

    /// Whether it trusts nobody: every SVID of the trust domain is to be refused (section 4.1.3).
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty() && self.jwt_keys.is_empty()
    }

    /// The authorities that are valid at `now`.
    pub(crate) fn valid_at(&self, now: UnixTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        let valid = move |(not_before, not_after): &(UnixTime, UnixTime)| *not_before <= now && now <= *not_after;
        self.authorities.iter().zip(&self.validities).filter(move |(_, validity)| valid(validity)).map(|(der, _)| der)
    }

    /// SHA-256 over trust domain and X.509 authorities, whatever their order: what a join token carries. JWT keys are not in
    /// it: they come and go by the day, and no joiner is admitted by them.
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
    /// different keys are an alarm, not an update. Where neither carries a number the later one wins, for nothing else can
    /// tell them apart; a bundle that has lost its number is as old as can be.
    pub fn offer(&mut self, offered: Self) -> Result<BundleUpdate, BundleError> {
        self.check_same_trust_domain(&offered)?;
        if offered.sequence < self.sequence {
            return Ok(BundleUpdate::Outdated);
        }
        let same = offered.authorities == self.authorities && offered.jwt_keys == self.jwt_keys;
        if offered.sequence == self.sequence && same {
            return Ok(BundleUpdate::Unchanged);
        }
        if offered.sequence == self.sequence && self.sequence != 0 {
            return Err(BundleError::Forked(self.sequence));
        }
        *self = offered;
        Ok(BundleUpdate::Replaced)
    }

    /// Takes `forced` over whatever its sequence number, because an operator says so: the way out of a forked or rolled back
    /// history. Only a bundle of another trust domain is refused.
    pub fn replace(&mut self, forced: Self) -> Result<(), BundleError> {
        self.check_same_trust_domain(&forced)?;
        *self = forced;
        Ok(())
    }

    fn check_same_trust_domain(&self, other: &Self) -> Result<(), BundleError> {
        if other.trust_domain == self.trust_domain {
            return Ok(());
        }
        Err(BundleError::WrongTrustDomain { found: other.trust_domain.clone(), wanted: self.trust_domain.clone() })
    }
}

/// `keys` by their names. One key may be given twice, but not two keys under one name.
fn collect_jwt_keys(
    keys: impl IntoIterator<Item = (KeyId, JwtPublicKey)>,
) -> Result<BTreeMap<KeyId, JwtPublicKey>, BundleError> {
    let mut collected = BTreeMap::new();
    for (key_id, key) in keys {
        match collected.insert(key_id.clone(), key.clone()) {
            Some(other) if other != key => return Err(BundleError::DuplicateKeyId(key_id)),
            Some(_) | None => {}
        }
    }
    if collected.len() > BUNDLE_JWT_KEYS_MAX {
        return Err(BundleError::TooManyJwtKeys(collected.len()));
    }
    Ok(collected)
}
