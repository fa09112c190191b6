//! Minting JWT-SVIDs.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use x0t_model::{SpiffeId, UnixTime};

use super::audience::AudienceSet;
use super::public_key::{Curve, JwtKeyParts, JwtPublicKey, KeyId};
use super::svid::JwtSvid;
use crate::keys::{KeyError, PrivateKey};

/// How long a token lives, unless its entry says otherwise: what a stolen one is worth, for nothing revokes it.
pub const JWT_SVID_TTL_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// How long a token may live at most.
pub const JWT_SVID_TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why no token was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key's time is over; whoever verifies the token would not know it any more.
    #[error("the signing key ended at {0:?}")]
    KeyExpired(UnixTime),
    /// A token without a life.
    #[error("a token must live for a second at least")]
    NoLife,
    /// The cryptographic library could not sign.
    #[error(transparent)]
    Signing(#[from] KeyError),
}

/// What a token should say. Whether its subject is entitled to it is decided before.
#[derive(Clone, Copy, Debug)]
pub struct JwtRequest<'a> {
    /// Whose identity.
    pub spiffe_id: &'a SpiffeId,
    /// For whom it is meant.
    pub audience: &'a AudienceSet,
    /// How long it should live; cut at a day and at the key's end.
    pub ttl: Duration,
    /// A name for this one token, for audiences that refuse to see a token twice (RFC 7519, 4.1.7).
    pub jti: Option<&'a str>,
}

/// A key that signs JWT-SVIDs: P-256, with ES256. Prints nothing of itself and is wiped when dropped.
pub struct JwtSigningKey {
    private_key: PrivateKey,
    pair: EcdsaKeyPair,
    public_key: JwtPublicKey,
    key_id: KeyId,
    /// The header of each token, in base64url and with the dot behind it.
    header: String,
    not_after: UnixTime,
}

impl JwtSigningKey {
    /// `key` as a signing key until `not_after`, called by its thumbprint (RFC 7638).
    pub fn new(key: PrivateKey, not_after: UnixTime) -> Result<Self, KeyError> {
        let (pair, public_key) = read_pair(&key)?;
        let key_id = KeyId::thumbprint(&public_key);
        Ok(Self::assemble(key, pair, public_key, key_id, not_after))
    }

    /// `key` as a signing key until `not_after`, called `key_id`.
    pub fn with_key_id(key: PrivateKey, key_id: KeyId, not_after: UnixTime) -> Result<Self, KeyError> {
        let (pair, public_key) = read_pair(&key)?;
        Ok(Self::assemble(key, pair, public_key, key_id, not_after))
    }

    fn assemble(
        private_key: PrivateKey,
        pair: EcdsaKeyPair,
        public_key: JwtPublicKey,
        key_id: KeyId,
        not_after: UnixTime,
    ) -> Self {
        let header = serde_json::json!({ "alg": "ES256", "kid": key_id.as_str(), "typ": "JWT" });
        let mut header = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
        header.push('.');
        Self { private_key, pair, public_key, key_id, header, not_after }
    }

    /// Its name in headers and in the bundle.
    pub const fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// What belongs into the bundle before the first token leaves.
    pub const fn public_key(&self) -> &JwtPublicKey {
        &self.public_key
    }

    /// The private key as PKCS#8 DER, to be stored where only its owner reads it.
    pub fn pkcs8(&self) -> &[u8] {
        self.private_key.pkcs8()
    }

    /// The last second in which a token of this key may be valid.
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// A token that says what `request` asks, issued at `now`. It never outlives the key.
    pub fn mint(&self, request: &JwtRequest<'_>, now: UnixTime) -> Result<JwtSvid, MintError> {
        #[derive(Serialize)]
        struct Claims<'a> {
            aud: Vec<&'a str>,
            exp: u64,
            iat: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            jti: Option<&'a str>,
            sub: &'a str,
        }

        if now >= self.not_after {
            return Err(MintError::KeyExpired(self.not_after));
        }
        let expires_at = (now + request.ttl.min(JWT_SVID_TTL_MAX)).min(self.not_after);
        if expires_at <= now {
            return Err(MintError::NoLife);
        }
        let subject = request.spiffe_id.to_string();
        let claims = serde_json::to_vec(&Claims {
            aud: request.audience.iter().map(|audience| audience.as_str()).collect(),
            exp: expires_at.as_secs(),
            iat: now.as_secs(),
            jti: request.jti,
            sub: &subject,
        })
        .map_err(|_| KeyError::Signing)?;
        // Room for everything at once; 87 bytes of it are the signature.
        let mut token = String::with_capacity(self.header.len() + claims.len().div_ceil(3) * 4 + 87);
        token.push_str(&self.header);
        BASE64URL_NOPAD.encode_append(&claims, &mut token);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError::Signing)?;
        token.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_ref(), &mut token);
        Ok(JwtSvid::issued(token, request, self.key_id.clone(), now, expires_at))
    }
}

impl fmt::Debug for JwtSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSigningKey({}, until {:?})", self.key_id, self.not_after)
    }
}

fn read_pair(key: &PrivateKey) -> Result<(EcdsaKeyPair, JwtPublicKey), KeyError> {
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8()).map_err(|_| KeyError::NotP256)?;
    let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    let public_key = JwtPublicKey::from_parts(JwtKeyParts::Ec { curve: Curve::P256, x, y });
    Ok((pair, public_key.map_err(|_| KeyError::NotP256)?))
}
