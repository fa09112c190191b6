//! Why a token is refused.

use std::time::Duration;

use x0t_model::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

use super::algorithm::JwtAlgorithm;
use super::audience::AudienceError;
use super::public_key::KeyId;
use super::token::TOKEN_LEN_MAX;
use crate::strict_json::StrictJsonError;

/// Why a token is no JWT-SVID that is to be believed. Holds nothing of the token that would be worth stealing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than 16 KiB.
    #[error("the token has {0} bytes, at most {max} are allowed", max = TOKEN_LEN_MAX)]
    TooLong(usize),
    /// Not three parts: a JSON serialisation, an encrypted token, or none at all.
    #[error("the token has not the three parts of a compact JWS")]
    NotCompact,
    /// Not base64url, padded, or with bits that a second spelling of the same token could use.
    #[error("the {0} is not canonical base64url")]
    NotBase64(&'static str),
    /// No JSON object, or one that two readers could understand differently.
    #[error("the {part} cannot be read")]
    Json {
        /// Header or claims.
        part: &'static str,
        /// What is wrong with it.
        source: StrictJsonError,
    },
    /// A header that a JWT-SVID must not have (section 2), `crit`, `jku` and `jwk` among them.
    #[error("the header {0:?} must not be there")]
    ForbiddenHeader(String),
    /// A header with a value of the wrong type.
    #[error("the header {0:?} is missing or malformed")]
    MalformedHeader(&'static str),
    /// `none`, HMAC, or anything else that is not in section 2.1.
    #[error("the algorithm {0:?} is not one of a JWT-SVID")]
    UnsupportedAlgorithm(String),
    /// A `typ` other than `JWT` and `JOSE`: a WIT-SVID, for one.
    #[error("the type {0:?} is not that of a JWT-SVID")]
    WrongType(String),
    /// A claim that must be there.
    #[error("the claim {0:?} is missing")]
    MissingClaim(&'static str),
    /// A claim of the wrong type, or a time beyond any calendar.
    #[error("the claim {0:?} is malformed")]
    MalformedClaim(&'static str),
    /// An `aud` without or with impossible values.
    #[error("the claim \"aud\" is malformed")]
    MalformedAudience(#[source] AudienceError),
    /// A `sub` that names no workload.
    #[error("the subject is not the SPIFFE ID of a workload")]
    BadSubject(#[source] SpiffeIdError),
    /// Meant for somebody else.
    #[error("the token of {0} is not meant for this audience")]
    WrongAudience(SpiffeId),
    /// Its time is over.
    #[error(
        "the token of {id} expired {ago:?} ago (at {expires_at:?}, the clock here says {now:?}); if it should be valid, \
         compare the clocks of both hosts"
    )]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// How long ago.
        ago: Duration,
        /// The first second in which it is not valid.
        expires_at: UnixTime,
        /// What the clock here says.
        now: UnixTime,
    },
    /// Its time has yet to come.
    #[error(
        "the token of {id} becomes valid in {starts_in:?} (by its {claim:?} at {not_before:?}, the clock here says {now:?}); \
         the clock here is slow or its issuer's is fast: compare them"
    )]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// `nbf` or `iat`.
        claim: &'static str,
        /// How long until then.
        starts_in: Duration,
        /// The first second of its validity.
        not_before: UnixTime,
        /// What the clock here says.
        now: UnixTime,
    },
    /// No bundle for the trust domain that the subject names.
    #[error("no trust bundle for {0}")]
    UnknownTrustDomain(TrustDomain),
    /// The bundle of the subject's trust domain has no key of that name, or, for a token without one, no key that fits.
    #[error("the trust bundle of {trust_domain} has no key {key_id:?} for the algorithm {algorithm}")]
    UnknownKey {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The `kid`, if there was one.
        key_id: Option<KeyId>,
        /// How the token claims to be signed.
        algorithm: JwtAlgorithm,
    },
    /// The key of that name is of another kind than the algorithm asks for.
    #[error("the key {key_id} does not fit the algorithm {algorithm}")]
    AlgorithmMismatch {
        /// Which key.
        key_id: KeyId,
        /// How the token claims to be signed.
        algorithm: JwtAlgorithm,
    },
    /// The signature is of no key that could have made it.
    #[error("the signature does not fit")]
    BadSignature,
}

impl JwtError {
    /// A stable word for counters, logs and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "jwt_too_long",
            Self::NotCompact => "jwt_not_compact",
            Self::NotBase64(_) => "jwt_not_base64",
            Self::Json { .. } => "jwt_bad_json",
            Self::ForbiddenHeader(_) => "jwt_forbidden_header",
            Self::MalformedHeader(_) => "jwt_malformed_header",
            Self::UnsupportedAlgorithm(_) => "jwt_unsupported_algorithm",
            Self::WrongType(_) => "jwt_wrong_type",
            Self::MissingClaim(_) => "jwt_missing_claim",
            Self::MalformedClaim(_) => "jwt_malformed_claim",
            Self::MalformedAudience(_) => "jwt_malformed_audience",
            Self::BadSubject(_) => "jwt_bad_subject",
            Self::WrongAudience(_) => "jwt_wrong_audience",
            Self::Expired { .. } => "jwt_expired",
            Self::NotYetValid { .. } => "jwt_not_yet_valid",
            Self::UnknownTrustDomain(_) => "jwt_unknown_trust_domain",
            Self::UnknownKey { .. } => "jwt_unknown_key",
            Self::AlgorithmMismatch { .. } => "jwt_algorithm_mismatch",
            Self::BadSignature => "jwt_bad_signature",
        }
    }
}
