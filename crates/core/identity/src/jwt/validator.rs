//! Is the token true? One pass from its bytes to who presents it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::sync::Arc;
use x0t_model::{SpiffeId, TrustDomain, UnixTime};

use super::audience::AudienceSet;
use super::error::JwtError;
use super::public_key::{JwtPublicKey, KeyId};
use super::token::{Claims, TOKEN_LEN_MAX, Token};
use crate::bundle::{Bundle, BundleMap};

/// How far two clocks may differ, unless said otherwise.
const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);
/// More than this is no difference between clocks but a longer life for stolen tokens.
pub const LEEWAY_MAX: Duration = Duration::from_secs(120);
/// Keys that are tried for a token without a `kid`: each costs a verification.
pub const KEY_TRIES_MAX: usize = 16;

/// More than [`LEEWAY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a leeway of {0:?} is too long, at most {max:?} are allowed", max = LEEWAY_MAX)]
pub struct LeewayTooLong(Duration);

/// Judges JWT-SVIDs (JWT-SVID, section 4 and appendix A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtValidator {
    leeway: Duration,
}

impl Default for JwtValidator {
    /// With a leeway of 30 s.
    fn default() -> Self {
        Self { leeway: LEEWAY_DEFAULT }
    }
}

impl JwtValidator {
    /// A validator that forgives clocks a difference of `leeway`, at most two minutes.
    pub const fn with_leeway(leeway: Duration) -> Result<Self, LeewayTooLong> {
        if leeway.as_millis() > LEEWAY_MAX.as_millis() { Err(LeewayTooLong(leeway)) } else { Ok(Self { leeway }) }
    }

    /// Who holds `token`, if it is meant for one of `accepted`, in time at `now`, and signed by a key of the trust domain that
    /// its subject names. What costs little is checked first; the signature comes last.
    ///
    /// A token can be presented by whoever has seen it: let it travel under TLS only.
    pub fn validate(
        &self,
        token: &str,
        accepted: &AudienceSet,
        bundles: &BundleMap,
        now: UnixTime,
    ) -> Result<VerifiedJwt, JwtError> {
        let token = Token::parse(token)?;
        self.check_claims(&token.claims, accepted, now)?;
        let bundle = bundle_of(&token.claims, bundles)?;
        let verified_by = check_signature(&token, bundle)?;
        Ok(VerifiedJwt { claims: token.claims, key_id: token.key_id, verified_by })
    }

    /// What may be judged anew without the signature.
    fn check_claims(&self, claims: &Claims, accepted: &AudienceSet, now: UnixTime) -> Result<(), JwtError> {
        let id = || claims.subject.clone();
        if !claims.audience.intersects(accepted) {
            return Err(JwtError::WrongAudience(id()));
        }
        let expires_at = claims.expires_at;
        if now >= expires_at + self.leeway {
            return Err(JwtError::Expired { id: id(), ago: now.since(expires_at), expires_at, now });
        }
        for (claim, time) in [("nbf", claims.not_before), ("iat", claims.issued_at)] {
            let Some(not_before) = time.filter(|time| *time > now + self.leeway) else { continue };
            return Err(JwtError::NotYetValid { id: id(), claim, starts_in: not_before.since(now), not_before, now });
        }
        Ok(())
    }
}

/// Keys come from the bundle of the subject's trust domain and from nowhere else.
fn bundle_of<'a>(claims: &Claims, bundles: &'a BundleMap) -> Result<&'a Bundle, JwtError> {
    let trust_domain = claims.subject.trust_domain();
    bundles.get(trust_domain).map(|bundle| &**bundle).ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))
}

/// The key that signed `token`, and its name in the bundle.
fn check_signature(token: &Token<'_>, bundle: &Bundle) -> Result<(KeyId, JwtPublicKey), JwtError> {
    let algorithm = token.algorithm;
    let unknown = |key_id| JwtError::UnknownKey { trust_domain: bundle.trust_domain().clone(), key_id, algorithm };
    let verifies = |key: &JwtPublicKey| key.verifies(algorithm, token.signed, &token.signature);
    if let Some(key_id) = &token.key_id {
        let key = bundle.jwt_keys().get(key_id).ok_or_else(|| unknown(Some(key_id.clone())))?;
        if !key.fits(algorithm) {
            return Err(JwtError::AlgorithmMismatch { key_id: key_id.clone(), algorithm });
        }
        return if verifies(key) { Ok((key_id.clone(), key.clone())) } else { Err(JwtError::BadSignature) };
    }
    let mut candidates = bundle.jwt_keys().iter().filter(|(_, key)| key.fits(algorithm)).peekable();
    if candidates.peek().is_none() {
        return Err(unknown(None));
    }
    let found = candidates.take(KEY_TRIES_MAX).find(|(_, key)| verifies(key));
    found.map(|(key_id, key)| (key_id.clone(), key.clone())).ok_or(JwtError::BadSignature)
}

/// What a token says that has been validated.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedJwt {
    claims: Claims,
    key_id: Option<KeyId>,
    verified_by: (KeyId, JwtPublicKey),
}

impl VerifiedJwt {
    /// Who presents it.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.claims.subject
    }

    /// Everybody whom it is meant for.
    pub const fn audience(&self) -> &AudienceSet {
        &self.claims.audience
    }

    /// The first second in which it is not valid.
    pub const fn expires_at(&self) -> UnixTime {
        self.claims.expires_at
    }

    /// When it was issued, if it says so.
    pub const fn issued_at(&self) -> Option<UnixTime> {
        self.claims.issued_at
    }

    /// The key it names, if it names one.
    pub const fn key_id(&self) -> Option<&KeyId> {
        self.key_id.as_ref()
    }

    /// All its claims. Those of a foreign trust domain are that domain's word: see [`Self::claims_for`].
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims.all
    }

    /// The claims as a Workload API of the trust domain `own` hands them out: `aud` always as a list, and of a foreign token
    /// only `sub`, `aud`, `exp` and what is in `allowed_foreign`, for nobody here has agreed on what the rest means.
    pub fn claims_for(&self, own: &TrustDomain, allowed_foreign: &BTreeSet<String>) -> Map<String, Value> {
        let is_own = self.spiffe_id().trust_domain() == own;
        let is_ours_to_tell = |name: &str| matches!(name, "sub" | "aud" | "exp") || allowed_foreign.contains(name);
        let told = self.claims.all.iter().filter(|(name, _)| is_own || is_ours_to_tell(name));
        let list = |value: &Value| if value.is_array() { value.clone() } else { Value::Array(vec![value.clone()]) };
        let tell =
            |(name, value): (&String, &Value)| (name.clone(), if name == "aud" { list(value) } else { value.clone() });
        told.map(tell).collect()
    }
}

/// Remembers validated tokens, because a workload sends the same one with every request and a signature costs fifty times
/// what everything else does.
///
/// Kept by the SHA-256 of the token. Audience and times are judged anew on each use, and the key that verified the token
/// must still be in the bundle under its name: a rotation or revocation counts with the next call, and an update that leaves
/// the key in place forgets nothing. Refusals are not remembered: whoever sends rubbish must not push out what is of use.
#[derive(Debug)]
pub struct JwtValidationCache {
    capacity: usize,
    /// What was used since the last turn, and what was used in the turn before: when one half is full, the other is forgotten.
    recent: BTreeMap<[u8; 32], Arc<VerifiedJwt>>,
    older: BTreeMap<[u8; 32], Arc<VerifiedJwt>>,
}

impl JwtValidationCache {
    /// A cache of at most `capacity` tokens.
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, recent: BTreeMap::new(), older: BTreeMap::new() }
    }

    /// How many tokens it remembers.
    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.older.is_empty()
    }

    /// As [`JwtValidator::validate`], with the same verdict.
    pub fn validate(
        &mut self,
        validator: &JwtValidator,
        token: &str,
        accepted: &AudienceSet,
        bundles: &BundleMap,
        now: UnixTime,
    ) -> Result<Arc<VerifiedJwt>, JwtError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(JwtError::TooLong(token.len()));
        }
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(verified) = self.find(&name) {
            validator.check_claims(&verified.claims, accepted, now)?;
            let (key_id, key) = &verified.verified_by;
            if bundle_of(&verified.claims, bundles)?.jwt_keys().get(key_id) == Some(key) {
                return Ok(verified);
            }
            self.recent.remove(&name);
        }
        let verified = Arc::new(validator.validate(token, accepted, bundles, now)?);
        self.remember(name, verified.clone());
        Ok(verified)
    }

    fn find(&mut self, name: &[u8; 32]) -> Option<Arc<VerifiedJwt>> {
        if let Some(verified) = self.recent.get(name) {
            return Some(verified.clone());
        }
        let verified = self.older.remove(name)?;
        self.remember(*name, verified.clone());
        Some(verified)
    }

    fn remember(&mut self, name: [u8; 32], verified: Arc<VerifiedJwt>) {
        let half = self.capacity / 2;
        if half == 0 {
            return;
        }
        if self.recent.len() >= half {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(name, verified);
    }
}
