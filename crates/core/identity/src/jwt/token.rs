//! A token taken apart: compact JWS, a closed set of headers, the claims of a JWT-SVID (JWT-SVID, sections 2, 3 and 5.1).
//!
//! Nothing here is believed. That comes with [`JwtValidator`](super::JwtValidator).

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};
use x0t_model::{SpiffeId, UnixTime};

use super::algorithm::JwtAlgorithm;
use super::audience::{Audience, AudienceError, AudienceSet};
use super::error::JwtError;
use super::public_key::KeyId;
use crate::strict_json;

/// Bytes of a token. Honest ones have 300 to 1,500.
pub const TOKEN_LEN_MAX: usize = 16 * 1024;
/// The last second of the year 9999: a time beyond it was written in another unit.
const TIME_MAX: u64 = 253_402_300_799;
/// How much of a stranger's text an error repeats.
const QUOTE_LEN_MAX: usize = 32;

pub(super) struct Token<'a> {
    pub(super) algorithm: JwtAlgorithm,
    pub(super) key_id: Option<KeyId>,
    pub(super) claims: Claims,
    /// Header and claims as they were signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// What a JWT-SVID says, and everything else it carries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims {
    pub(super) subject: SpiffeId,
    pub(super) audience: AudienceSet,
    pub(super) expires_at: UnixTime,
    pub(super) not_before: Option<UnixTime>,
    pub(super) issued_at: Option<UnixTime>,
    pub(super) all: Map<String, Value>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(JwtError::TooLong(token.len()));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::NotCompact)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::NotCompact)?;
        if claims.contains('.') || token.starts_with('{') {
            return Err(JwtError::NotCompact);
        }
        let (algorithm, key_id) = read_header(&object("header", header)?)?;
        let claims = read_claims(object("claims", claims)?)?;
        let signature = decode("signature", signature)?;
        Ok(Self { algorithm, key_id, claims, signed: signed.as_bytes(), signature })
    }
}

/// The decoder refuses padding and trailing bits that are not zero, so a token has one spelling.
fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, JwtError> {
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| JwtError::NotBase64(part))
}

fn object(part: &'static str, text: &str) -> Result<Map<String, Value>, JwtError> {
    strict_json::parse_object(&decode(part, text)?).map_err(|source| JwtError::Json { part, source })
}

fn read_header(header: &Map<String, Value>) -> Result<(JwtAlgorithm, Option<KeyId>), JwtError> {
    let forbidden = header.keys().find(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"));
    if let Some(name) = forbidden {
        return Err(JwtError::ForbiddenHeader(quoted(name)));
    }
    let text = |name: &'static str| match header.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().ok_or(JwtError::MalformedHeader(name)).map(Some),
    };
    let algorithm = text("alg")?.ok_or(JwtError::MalformedHeader("alg"))?;
    let algorithm = JwtAlgorithm::named(algorithm).ok_or_else(|| JwtError::UnsupportedAlgorithm(quoted(algorithm)))?;
    match text("typ")? {
        None | Some("JWT" | "JOSE") => {}
        Some(other) => return Err(JwtError::WrongType(quoted(other))),
    }
    let key_id = text("kid")?.map(|kid| kid.parse().map_err(|_| JwtError::MalformedHeader("kid"))).transpose()?;
    Ok((algorithm, key_id))
}

fn read_claims(all: Map<String, Value>) -> Result<Claims, JwtError> {
    let subject = all.get("sub").ok_or(JwtError::MissingClaim("sub"))?;
    let subject = subject.as_str().ok_or(JwtError::MalformedClaim("sub"))?;
    let subject = subject.parse().map_err(JwtError::BadSubject)?;
    let audience = read_audience(all.get("aud").ok_or(JwtError::MissingClaim("aud"))?)?;
    let expires_at = read_time(&all, "exp")?.ok_or(JwtError::MissingClaim("exp"))?;
    let (not_before, issued_at) = (read_time(&all, "nbf")?, read_time(&all, "iat")?);
    Ok(Claims { subject, audience, expires_at, not_before, issued_at, all })
}

/// One text, or an array of texts (RFC 7519, 4.1.3).
fn read_audience(value: &Value) -> Result<AudienceSet, JwtError> {
    let parse = |value: &Value| {
        let text = value.as_str().ok_or(JwtError::MalformedClaim("aud"))?;
        text.parse::<Audience>().map_err(JwtError::MalformedAudience)
    };
    let audiences = match value {
        Value::Array(values) if values.len() > super::audience::AUDIENCES_MAX => {
            return Err(JwtError::MalformedAudience(AudienceError::TooMany));
        }
        Value::Array(values) => values.iter().map(parse).collect::<Result<Vec<_>, _>>()?,
        value => vec![parse(value)?],
    };
    AudienceSet::new(audiences).map_err(JwtError::MalformedAudience)
}

/// A NumericDate: seconds, whole or not (RFC 7519, 2). Fractions are cut off.
fn read_time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<UnixTime>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) => Some(seconds),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the guard has bounded it")]
        (None, Some(seconds)) if (0.0..=TIME_MAX as f64).contains(&seconds) => Some(seconds as u64),
        (None, Some(_) | None) => None,
    };
    let seconds = seconds.filter(|seconds| *seconds <= TIME_MAX).ok_or(JwtError::MalformedClaim(name))?;
    Ok(Some(UnixTime::from_secs(seconds)))
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTE_LEN_MAX).collect()
}
