//! The SPIFFE bundle document: a JWK set with a sequence number (SPIFFE Trust Domain and Bundle, section 4), and the plain
//! JWK set of the Workload API (SPIFFE Workload API, section 6.2.2).

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Map, Value};
use x0t_model::TrustDomain;

use super::{Bundle, BundleError, collect_jwt_keys};
use crate::jwt::{Curve, JwtKeyError, JwtKeyParts, JwtPublicKey, KeyId};
use crate::leaf_rules::parse;
use crate::public_key::{self, AcceptedKey};
use crate::strict_json;

/// Bytes of a bundle document.
pub(super) const DOCUMENT_LEN_MAX: usize = 512 * 1024;
/// The values of `use` (section 4.2.2), case-sensitive.
const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";

impl Bundle {
    /// The SPIFFE bundle document: keys for X.509-SVIDs with one certificate each in `x5c` and no `kid`, keys for JWT-SVIDs with a
    /// `kid`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.document(true)).unwrap_or_default()
    }

    /// The same document without white space.
    pub fn to_compact_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.document(true)).unwrap_or_default()
    }

    /// Reads the SPIFFE bundle document of `trust_domain`, which the document itself does not name.
    ///
    /// Keys of unknown kinds and uses are left out, and so are keys for X.509-SVIDs without `x5c` and keys for JWT-SVIDs without
    /// `kid` (X509-SVID, section 6.2); of several certificates the first counts. Whatever is left must be sound: a document
    /// with a broken key is refused as a whole, so that the bundle in force stays.
    pub fn from_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        check_len(json, DOCUMENT_LEN_MAX)?;
        Self::from_document(trust_domain, &strict_json::parse_object(json)?, true)
    }

    /// The keys for JWT-SVIDs alone as a plain JWK set (RFC 7517, 5): what the Workload API answers for a trust domain.
    pub fn to_jwks(&self) -> Vec<u8> {
        let keys = self.jwt_keys.iter().map(|(key_id, key)| jwt_jwk(key_id, key)).collect();
        serde_json::to_vec(&Document { keys, spiffe_sequence: None, spiffe_refresh_hint: None }).unwrap_or_default()
    }

    /// Reads a JWK set as the Workload API hands it out. SPIRE leaves `use` out there; if some keys carry it, the others are not
    /// for us.
    pub fn jwt_keys_from_jwks(json: &[u8]) -> Result<BTreeMap<KeyId, JwtPublicKey>, BundleError> {
        check_len(json, DOCUMENT_LEN_MAX)?;
        let document = strict_json::parse_object(json)?;
        let keys = keys_of(&document)?;
        let without_use = keys.iter().all(|key| !key.contains_key("use"));
        let ours = keys.into_iter().filter(|key| without_use || text(key, "use") == Some(JWT_SVID));
        read_jwt_keys(ours)
    }

    /// As [`Self::from_json`], from a value. A refresh hint inside a bundle map means nothing (section 5.1.1).
    pub(super) fn from_document(
        trust_domain: TrustDomain,
        document: &Map<String, Value>,
        with_hint: bool,
    ) -> Result<Self, BundleError> {
        let keys = keys_of(document)?;
        let used_as = |purpose| keys.iter().copied().filter(move |key| text(key, "use") == Some(purpose));
        let authorities = used_as(X509_SVID).filter_map(read_authority).collect::<Result<Vec<_>, _>>()?;
        let sequence = integer(document, "spiffe_sequence")?.unwrap_or(0);
        let bundle =
            Self::new(trust_domain, authorities, sequence)?.with_jwt_keys(read_jwt_keys(used_as(JWT_SVID))?)?;
        match integer(document, "spiffe_refresh_hint")? {
            Some(hint) if with_hint => Ok(bundle.with_refresh_hint(Duration::from_secs(hint))),
            Some(_) | None => Ok(bundle),
        }
    }

    pub(super) fn document(&self, with_hint: bool) -> impl Serialize + use<> {
        let authorities = self.authorities.iter().filter_map(x509_jwk);
        let jwt_keys = self.jwt_keys.iter().map(|(key_id, key)| jwt_jwk(key_id, key));
        Document {
            keys: authorities.chain(jwt_keys).collect(),
            spiffe_sequence: (self.sequence != 0).then_some(self.sequence),
            spiffe_refresh_hint: with_hint.then_some(self.refresh_hint.as_secs()),
        }
    }
}

pub(super) const fn check_len(json: &[u8], max: usize) -> Result<(), BundleError> {
    if json.len() > max { Err(BundleError::DocumentTooLarge { bytes: json.len(), max }) } else { Ok(()) }
}

#[derive(Serialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Default, Serialize)]
struct Jwk {
    kty: &'static str,
    #[serde(rename = "use")]
    purpose: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

/// `None` only for keys that [`Bundle::new`] has refused.
fn x509_jwk(authority: &CertificateDer<'static>) -> Option<Jwk> {
    let certificate = parse(authority).ok()?;
    let jwk = match public_key::accepted(certificate.public_key())? {
        AcceptedKey::Ec { curve, x, y } => {
            Jwk { kty: "EC", crv: Some(curve), x: base64url(x), y: base64url(y), ..Jwk::default() }
        }
        AcceptedKey::Ed25519 { x } => Jwk { kty: "OKP", crv: Some("Ed25519"), x: base64url(x), ..Jwk::default() },
        AcceptedKey::Rsa { modulus, exponent } => {
            Jwk { kty: "RSA", n: base64url(modulus), e: base64url(exponent), ..Jwk::default() }
        }
    };
    // Standard base64, where everything else in a JWK is base64url (RFC 7517, 4.7).
    Some(Jwk { purpose: X509_SVID, x5c: Some([BASE64.encode(authority)]), ..jwk })
}

fn jwt_jwk(key_id: &KeyId, key: &JwtPublicKey) -> Jwk {
    let jwk = match key.parts() {
        JwtKeyParts::Ec { curve, x, y } => {
            Jwk { kty: "EC", crv: Some(curve.name()), x: base64url(x), y: base64url(y), ..Jwk::default() }
        }
        JwtKeyParts::Rsa { modulus, exponent } => {
            Jwk { kty: "RSA", n: base64url(modulus), e: base64url(exponent), ..Jwk::default() }
        }
    };
    Jwk { purpose: JWT_SVID, kid: Some(key_id.as_str().to_owned()), ..jwk }
}

#[expect(clippy::unnecessary_wraps, reason = "every member it fills is optional")]
fn base64url(bytes: &[u8]) -> Option<String> {
    Some(BASE64URL_NOPAD.encode(bytes))
}

fn keys_of(document: &Map<String, Value>) -> Result<Vec<&Map<String, Value>>, BundleError> {
    let keys = document.get("keys").ok_or_else(|| malformed("it has no `keys`"))?;
    let keys = keys.as_array().ok_or_else(|| malformed("`keys` is not an array"))?;
    keys.iter().map(|key| key.as_object().ok_or_else(|| malformed("a key is not an object"))).collect()
}

/// `None` for what is to be ignored.
fn read_authority(key: &Map<String, Value>) -> Option<Result<CertificateDer<'static>, BundleError>> {
    if !matches!(text(key, "kty")?, "EC" | "RSA" | "OKP") {
        return None;
    }
    let certificates = match key.get("x5c")? {
        Value::Array(certificates) => certificates,
        _ => return Some(Err(malformed("`x5c` is not an array"))),
    };
    let certificate = certificates.first()?.as_str().ok_or_else(|| malformed("`x5c` holds something else than text"));
    let decode = |text: &str| {
        let der = BASE64.decode(text.as_bytes()).map_err(|error| malformed(format!("`x5c` is not base64: {error}")))?;
        Ok(CertificateDer::from(der))
    };
    Some(certificate.and_then(decode))
}

fn read_jwt_keys<'a>(
    keys: impl Iterator<Item = &'a Map<String, Value>>,
) -> Result<BTreeMap<KeyId, JwtPublicKey>, BundleError> {
    let mut read = Vec::new();
    for key in keys {
        let Some(key_id) = text(key, "kid").and_then(|kid| kid.parse::<KeyId>().ok()) else { continue };
        match read_jwt_key(key) {
            Ok(key) => read.push((key_id, key)),
            Err(JwtKeyError::Unsupported) => {}
            Err(source @ JwtKeyError::Malformed) => return Err(BundleError::JwtKey { key_id, source }),
        }
    }
    collect_jwt_keys(read)
}

fn read_jwt_key(key: &Map<String, Value>) -> Result<JwtPublicKey, JwtKeyError> {
    let number = |name| {
        let text = text(key, name).ok_or(JwtKeyError::Malformed)?;
        BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| JwtKeyError::Malformed)
    };
    match text(key, "kty") {
        Some("EC") => {
            let curve = text(key, "crv").ok_or(JwtKeyError::Malformed)?;
            let curve = Curve::named(curve).ok_or(JwtKeyError::Unsupported)?;
            JwtPublicKey::from_parts(JwtKeyParts::Ec { curve, x: &number("x")?, y: &number("y")? })
        }
        Some("RSA") => {
            let (modulus, exponent) = (number("n")?, number("e")?);
            JwtPublicKey::from_parts(JwtKeyParts::Rsa {
                modulus: public_key::without_leading_zeros(&modulus),
                exponent: public_key::without_leading_zeros(&exponent),
            })
        }
        Some(_) | None => Err(JwtKeyError::Unsupported),
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

fn integer(document: &Map<String, Value>, name: &str) -> Result<Option<u64>, BundleError> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let error = || malformed(format!("`{name}` is not an integer of 64 bits"));
            value.as_u64().ok_or_else(error).map(Some)
        }
    }
}

fn malformed(what: impl Into<String>) -> BundleError {
    BundleError::Document(what.into())
}
