//! The public keys that verify JWT-SVIDs, and how a bundle names them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use data_encoding::BASE64URL_NOPAD;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::jwt::algorithm::JwtAlgorithm;
use crate::public_key::without_leading_zeros;

/// Bytes of a key's name. A thumbprint has 43, SPIRE's random names 32.
pub const KEY_ID_LEN_MAX: usize = 255;
/// Bytes of a SubjectPublicKeyInfo: RSA-8192 has 1,062.
pub const JWT_PUBLIC_KEY_LEN_MAX: usize = 1_200;
/// Bytes of an RSA modulus: 2,048 to 8,192 bits.
const MODULUS_LEN_MIN: usize = 256;
const MODULUS_LEN_MAX: usize = 1024;
/// Bytes of an RSA exponent; what aws-lc accepts has at most 33 bits.
const EXPONENT_LEN_MAX: usize = 5;

/// Not between 1 and 255 bytes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id has 1 to {max} bytes, not {0}", max = KEY_ID_LEN_MAX)]
pub struct KeyIdError(usize);

/// The `kid` of a signing key: unique in its bundle, and without meaning otherwise (RFC 7517, 4.5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The name as it stands in headers and bundles.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that follows from `key`: its JWK thumbprint (RFC 7638), so that two keys never share one.
    pub fn thumbprint(key: &JwtPublicKey) -> Self {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        // Members in lexicographic order, without white space (RFC 7638, 3.3).
        let canonical = match key.parts() {
            JwtKeyParts::Ec { curve, x, y } => {
                format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, curve.name(), text(x), text(y))
            }
            JwtKeyParts::Rsa { modulus, exponent } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(exponent), text(modulus))
            }
        };
        Self(text(digest(&SHA256, canonical.as_bytes()).as_ref()).into())
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        if text.is_empty() || text.len() > KEY_ID_LEN_MAX { Err(KeyIdError(text.len())) } else { Ok(Self(text.into())) }
    }
}

impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Why something is no key for JWT-SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtKeyError {
    /// A kind or size of key that JWT-SVIDs do not know: neither P-256, P-384, P-521 nor RSA of 2,048 to 8,192 bits.
    #[error("the public key is not on P-256, P-384 or P-521, nor RSA of 2048 to 8192 bits")]
    Unsupported,
    /// Cut off, of the wrong length, or a point beside its curve.
    #[error("the public key is malformed")]
    Malformed,
}

/// The curve of a key; it decides the algorithm (RFC 7518, 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    pub(crate) const fn algorithm(self) -> JwtAlgorithm {
        match self {
            Self::P256 => JwtAlgorithm::Es256,
            Self::P384 => JwtAlgorithm::Es384,
            Self::P521 => JwtAlgorithm::Es512,
        }
    }

    const fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// A key taken apart as a JWK wants it (RFC 7518, 6.2.1 and 6.3.1).
#[derive(Clone, Copy, Debug)]
pub(crate) enum JwtKeyParts<'a> {
    Ec { curve: Curve, x: &'a [u8], y: &'a [u8] },
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
}

/// A public key that verifies JWT-SVIDs: P-256, P-384, P-521 or RSA. Cheap to clone.
#[derive(Clone)]
pub struct JwtPublicKey(Arc<Inner>);

struct Inner {
    material: Material,
    /// SubjectPublicKeyInfo in DER. Equal keys have equal encodings.
    spki: Box<[u8]>,
}

enum Material {
    /// Parsed once: reading a point costs a tenth of a verification.
    Ec { curve: Curve, point: Box<[u8]>, key: ParsedPublicKey },
    /// One key serves six algorithms, so it stays as its numbers, which cost next to nothing to load.
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
}

impl JwtPublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7), the form of a SPIRE server's `JWTKey.public_key`.
    pub fn from_spki(der: &[u8]) -> Result<Self, JwtKeyError> {
        if der.len() > JWT_PUBLIC_KEY_LEN_MAX {
            return Err(JwtKeyError::Unsupported);
        }
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| JwtKeyError::Malformed)?;
        if !rest.is_empty() {
            return Err(JwtKeyError::Malformed);
        }
        let algorithm = &info.algorithm.algorithm;
        if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info.algorithm.parameters.as_ref().ok_or(JwtKeyError::Malformed)?.as_oid();
            let curve = curve.map_err(|_| JwtKeyError::Unsupported)?;
            let known = [(OID_EC_P256, Curve::P256), (OID_NIST_EC_P384, Curve::P384), (OID_NIST_EC_P521, Curve::P521)];
            let found = known.into_iter().find(|(oid, _)| *oid == curve);
            let (_, curve) = found.ok_or(JwtKeyError::Unsupported)?;
            let point = info.subject_public_key.as_ref().strip_prefix(&[4]).ok_or(JwtKeyError::Malformed)?;
            let (x, y) = point.split_at_checked(curve.len()).ok_or(JwtKeyError::Malformed)?;
            Self::from_parts(JwtKeyParts::Ec { curve, x, y })
        } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
            let Ok(PublicKey::RSA(key)) = info.parsed() else { return Err(JwtKeyError::Malformed) };
            let (modulus, exponent) = (without_leading_zeros(key.modulus), without_leading_zeros(key.exponent));
            Self::from_parts(JwtKeyParts::Rsa { modulus, exponent })
        } else {
            Err(JwtKeyError::Unsupported)
        }
    }

    /// The key as SubjectPublicKeyInfo.
    pub fn to_spki(&self) -> &[u8] {
        &self.0.spki
    }

    pub(crate) fn from_parts(parts: JwtKeyParts<'_>) -> Result<Self, JwtKeyError> {
        match parts {
            JwtKeyParts::Ec { curve, x, y } => {
                if x.len() != curve.len() || y.len() != curve.len() {
                    return Err(JwtKeyError::Malformed);
                }
                let point = [&[4], x, y].concat();
                let key = ParsedPublicKey::new(curve.verification(), &point).map_err(|_| JwtKeyError::Malformed)?;
                let spki = encoded(&key)?;
                Ok(Self(Arc::new(Inner { material: Material::Ec { curve, point: point.into(), key }, spki })))
            }
            JwtKeyParts::Rsa { modulus, exponent } => {
                if modulus.len() < MODULUS_LEN_MIN || modulus.len() > MODULUS_LEN_MAX {
                    return Err(JwtKeyError::Unsupported);
                }
                // An even number is no product of odd primes, and exponent 1 verifies anything.
                let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
                let high_bit = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
                if modulus.len() == MODULUS_LEN_MIN && !high_bit {
                    return Err(JwtKeyError::Unsupported);
                }
                let exponent_fits = exponent.len() <= EXPONENT_LEN_MAX && exponent != [1];
                if !is_odd(modulus) || !is_odd(exponent) || !exponent_fits {
                    return Err(JwtKeyError::Malformed);
                }
                let components = RsaPublicKeyComponents { n: modulus, e: exponent };
                let key = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
                let spki = encoded(&key.map_err(|_| JwtKeyError::Malformed)?)?;
                let material = Material::Rsa { modulus: modulus.into(), exponent: exponent.into() };
                Ok(Self(Arc::new(Inner { material, spki })))
            }
        }
    }

    pub(crate) fn parts(&self) -> JwtKeyParts<'_> {
        match &self.0.material {
            Material::Ec { curve, point, key: _ } => {
                let (x, y) = point.get(1..).unwrap_or_default().split_at(curve.len());
                JwtKeyParts::Ec { curve: *curve, x, y }
            }
            Material::Rsa { modulus, exponent } => JwtKeyParts::Rsa { modulus, exponent },
        }
    }

    /// Whether `algorithm` is one for this kind of key (RFC 7518, 3.1): the curve names exactly one, RSA allows six.
    pub fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        match &self.0.material {
            Material::Ec { curve, .. } => curve.algorithm() == algorithm,
            Material::Rsa { .. } => algorithm.rsa().is_some(),
        }
    }

    /// Whether `signature` is this key's over `message`: for ECDSA the two numbers one after the other, as JWS has them
    /// (RFC 7518, 3.4). Never for an algorithm that does not fit the key. What a signed token is worth is another question.
    pub fn verifies(&self, algorithm: JwtAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.0.material {
            Material::Ec { curve, key, .. } => {
                curve.algorithm() == algorithm && key.verify_sig(message, signature).is_ok()
            }
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                algorithm.rsa().is_some_and(|parameters| key.verify(parameters, message, signature).is_ok())
            }
        }
    }
}

impl PartialEq for JwtPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for JwtPublicKey {}

impl fmt::Debug for JwtPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtPublicKey({})", KeyId::thumbprint(self))
    }
}

fn encoded(key: &ParsedPublicKey) -> Result<Box<[u8]>, JwtKeyError> {
    let der = key.as_der().map_err(|_| JwtKeyError::Malformed)?;
    Ok(der.as_ref().into())
}
