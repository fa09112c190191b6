//! A token that one holds, to be shown to others.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use x0t_model::{SpiffeId, UnixTime};
use zeroize::Zeroizing;

use super::audience::AudienceSet;
use super::error::JwtError;
use super::public_key::KeyId;
use super::signing::JwtRequest;
use super::token::Token;

/// A JWT-SVID and what it says. Whoever has the token is its subject, so it is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    token: Arc<Zeroizing<String>>,
    spiffe_id: SpiffeId,
    audience: AudienceSet,
    key_id: Option<KeyId>,
    issued_at: UnixTime,
    expires_at: UnixTime,
}

impl JwtSvid {
    /// Reads a token that came from one's own authority at `received_at`. Its shape and claims are checked, its signature is
    /// not: the connection it came by vouches for it.
    pub fn read(token: &str, received_at: UnixTime) -> Result<Self, JwtError> {
        let parsed = Token::parse(token)?;
        Ok(Self {
            token: Arc::new(Zeroizing::new(token.to_owned())),
            spiffe_id: parsed.claims.subject,
            audience: parsed.claims.audience,
            key_id: parsed.key_id,
            issued_at: parsed.claims.issued_at.unwrap_or(received_at),
            expires_at: parsed.claims.expires_at,
        })
    }

    pub(super) fn issued(
        token: String,
        request: &JwtRequest<'_>,
        key_id: KeyId,
        issued_at: UnixTime,
        expires_at: UnixTime,
    ) -> Self {
        Self {
            token: Arc::new(Zeroizing::new(token)),
            spiffe_id: request.spiffe_id.clone(),
            audience: request.audience.clone(),
            key_id: Some(key_id),
            issued_at,
            expires_at,
        }
    }

    /// The token itself. A secret: for `Authorization: Bearer` under TLS (JWT-SVID, section 5.2) and for nothing that is logged.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whose identity it is.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// For whom it is meant.
    pub const fn audience(&self) -> &AudienceSet {
        &self.audience
    }

    /// The key that signed it, if it says so.
    pub const fn key_id(&self) -> Option<&KeyId> {
        self.key_id.as_ref()
    }

    /// When it was issued or, if it does not say, received.
    pub const fn issued_at(&self) -> UnixTime {
        self.issued_at
    }

    /// The first second in which it is not valid.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// The first 12 hexadecimal digits of the token's SHA-256: enough to find it in two logs, and of no use to a thief.
    pub fn fingerprint(&self) -> String {
        let digest = digest(&SHA256, self.token.as_bytes());
        HEXLOWER.encode(digest.as_ref().get(..6).unwrap_or_default())
    }
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSvid({}, {}, until {:?})", self.spiffe_id, self.fingerprint(), self.expires_at)
    }
}
