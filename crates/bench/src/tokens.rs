//! JWT-SVIDs: what minting, validating and remembering one costs, beside the bare signature.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey, Signature,
};
use x0t_identity::{
    AudienceSet, AwsLcKeys, Bundle, BundleMap, EntryId, JWT_SVID_TTL_DEFAULT, JwtCache, JwtCacheConfig, JwtCacheKey,
    JwtRequest, JwtSigningKey, JwtSvid, JwtValidationCache, JwtValidator, KeySource, Lookup, VerifiedJwt,
};
use x0t_model::{Instant, SpiffeId, UnixTime};

use crate::{BenchError, Row, Samples};

/// Tokens that the caches hold while one is looked up: as many as the largest cache has.
pub const TOKENS: usize = 10_000;
/// Bytes that the bare signature and the bare hash are over: about a token.
const MESSAGE: [u8; 400] = [7; 400];
const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);
const START: Instant = Instant::from_millis(1_000_000);
/// Operations of a batch: dear ones and cheap ones.
const FEW: u64 = 4;
const MANY: u64 = 64;

/// Mints and validates tokens of one workload for another.
pub struct Issuer {
    key: JwtSigningKey,
    subject: SpiffeId,
    audience: AudienceSet,
    bundles: BundleMap,
    token: JwtSvid,
}

impl Issuer {
    /// A key, a bundle that names it, and a first token.
    ///
    /// # Errors
    /// If no key or no token can be made.
    pub fn new() -> Result<Self, BenchError> {
        let key = AwsLcKeys.generate_p256().map_err(|error| refused(&error))?;
        let key = JwtSigningKey::new(key, NOW + Duration::from_secs(86_400)).map_err(|error| refused(&error))?;
        let domain = "mesh.test".parse().map_err(|error| refused(&error))?;
        let bundle = Bundle::new(domain, Vec::new(), 1).map_err(|error| refused(&error))?;
        let bundle = bundle.with_jwt_keys([(key.key_id().clone(), key.public_key().clone())]);
        let mut bundles = BundleMap::new();
        bundles.replace(bundle.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
        let subject = "spiffe://mesh.test/ns/production/sa/web".parse().map_err(|error| refused(&error))?;
        let audience = audience("spiffe://mesh.test/ns/production/sa/db")?;
        let token = mint(&key, &subject, &audience)?;
        Ok(Self { key, subject, audience, bundles, token })
    }

    /// Mints a token.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn mint(&self) -> Result<JwtSvid, BenchError> {
        mint(&self.key, &self.subject, &self.audience)
    }

    /// Validates the first token, signature and all.
    ///
    /// # Errors
    /// If it is refused.
    pub fn validate(&self) -> Result<VerifiedJwt, BenchError> {
        let token = black_box(self.token.token());
        JwtValidator::default().validate(token, &self.audience, &self.bundles, NOW).map_err(|error| refused(&error))
    }
}

/// Validated tokens that are remembered.
pub struct Remembered {
    issuer: Issuer,
    cache: JwtValidationCache,
    tokens: Vec<JwtSvid>,
    turn: usize,
}

impl Remembered {
    /// `count` tokens that were validated once.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn new(count: usize) -> Result<Self, BenchError> {
        let issuer = Issuer::new()?;
        let tokens = (0..count).map(|_| issuer.mint()).collect::<Result<_, _>>()?;
        let mut remembered = Self { issuer, cache: JwtValidationCache::new(2 * count), tokens, turn: 0 };
        for _ in 0..count {
            remembered.validate()?;
        }
        Ok(remembered)
    }

    /// Validates the next of them.
    ///
    /// # Errors
    /// If it is refused.
    pub fn validate(&mut self) -> Result<(), BenchError> {
        self.turn = (self.turn + 1) % self.tokens.len().max(1);
        let Some(token) = self.tokens.get(self.turn) else { return Ok(()) };
        let (validator, issuer) = (JwtValidator::default(), &self.issuer);
        let verdict = self.cache.validate(&validator, token.token(), &issuer.audience, &issuer.bundles, NOW);
        black_box(verdict.map_err(|error| refused(&error))?);
        Ok(())
    }
}

/// Fetched tokens that are kept for their workloads.
pub struct Kept {
    cache: JwtCache,
    keys: Vec<JwtCacheKey>,
    turn: usize,
}

impl Kept {
    /// `count` tokens that were fetched once.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn new(count: usize) -> Result<Self, BenchError> {
        let issuer = Issuer::new()?;
        let config = JwtCacheConfig { capacity: count, capacity_per_identity: count, ..JwtCacheConfig::default() };
        let mut kept = Self { cache: JwtCache::new(config), keys: Vec::new(), turn: 0 };
        let entry = EntryId::from_random([7; 16]);
        for number in 0..count {
            let key = JwtCacheKey {
                spiffe_id: issuer.subject.clone(),
                audience: audience(&format!("spiffe://mesh.test/service/{number}"))?,
                entry: entry.clone(),
            };
            kept.cache.get(&key, START, NOW);
            let fetch = kept.cache.poll_fetch(START).ok_or_else(|| missing("nothing to fetch"))?;
            let svid = mint(&issuer.key, &key.spiffe_id, &key.audience)?;
            kept.cache.handle_fetched(fetch.id, Ok(svid), START, NOW);
            kept.cache.poll_answer();
            kept.keys.push(key);
        }
        Ok(kept)
    }

    /// Serves the next of them.
    ///
    /// # Errors
    /// If it is not there.
    pub fn serve(&mut self) -> Result<(), BenchError> {
        self.turn = (self.turn + 1) % self.keys.len().max(1);
        let Some(key) = self.keys.get(self.turn) else { return Ok(()) };
        match self.cache.get(key, START, NOW) {
            Lookup::Serve(svid) => {
                black_box(svid);
                Ok(())
            }
            Lookup::Wait(_) | Lookup::Refused(_) => Err(missing("a token that was fetched is not there")),
        }
    }
}

/// The bare ES256 signature and the bare SHA-256.
pub(crate) struct Bare {
    pair: EcdsaKeyPair,
    key: ParsedPublicKey,
    signature: Signature,
}

impl Bare {
    fn new() -> Result<Self, BenchError> {
        let failed = |_| missing("the bare signature failed");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let signature = pair.sign(&SystemRandom::new(), &MESSAGE).map_err(failed)?;
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key());
        Ok(Self { pair, key: key.map_err(|_| missing("the bare key is none"))?, signature })
    }
}

/// Everything, a batch of each in turns.
pub(crate) struct Tokens {
    bare: Bare,
    issuer: Issuer,
    remembered: Remembered,
    kept: Kept,
}

impl Tokens {
    pub(crate) fn new() -> Result<Self, BenchError> {
        let (remembered, kept) = (Remembered::new(TOKENS)?, Kept::new(TOKENS)?);
        Ok(Self { bare: Bare::new()?, issuer: Issuer::new()?, remembered, kept })
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        let Self { bare, issuer, remembered, kept } = self;
        let random = SystemRandom::new();
        let failed = |_| missing("the bare signature failed");
        samples
            .time(Row::Es256Sign, FEW, || (0..FEW).try_for_each(|_| bare.pair.sign(&random, &MESSAGE).map(drop)))
            .map_err(failed)?;
        let verify = || bare.key.verify_sig(black_box(&MESSAGE), bare.signature.as_ref());
        samples.time(Row::Es256Verify, FEW, || (0..FEW).try_for_each(|_| verify())).map_err(failed)?;
        samples.time(Row::Sha256, MANY, || {
            for _ in 0..MANY {
                black_box(digest(&SHA256, black_box(&MESSAGE)));
            }
        });
        samples.time(Row::JwtMint, FEW, || (0..FEW).try_for_each(|_| issuer.mint().map(drop)))?;
        samples.time(Row::JwtValidate, FEW, || (0..FEW).try_for_each(|_| issuer.validate().map(drop)))?;
        samples.time(Row::JwtRemembered, MANY, || (0..MANY).try_for_each(|_| remembered.validate()))?;
        samples.time(Row::JwtServe, MANY, || (0..MANY).try_for_each(|_| kept.serve()))
    }
}

fn mint(key: &JwtSigningKey, spiffe_id: &SpiffeId, audience: &AudienceSet) -> Result<JwtSvid, BenchError> {
    let request = JwtRequest { spiffe_id, audience, ttl: JWT_SVID_TTL_DEFAULT, jti: None };
    key.mint(&request, NOW).map_err(|error| refused(&error))
}

fn audience(text: &str) -> Result<AudienceSet, BenchError> {
    AudienceSet::parse([text]).map_err(|error| refused(&error))
}

fn refused(error: &dyn std::fmt::Display) -> BenchError {
    BenchError::Identity(error.to_string())
}

fn missing(what: &str) -> BenchError {
    BenchError::Identity(what.to_owned())
}
