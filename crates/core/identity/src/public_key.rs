//! Which public keys are acceptable (checklist X5-14): P-256, P-384, Ed25519, and RSA of at least 2048 bits.

use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A public key taken apart as a JWK wants it (RFC 7518, 6.2 and 6.3; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptedKey<'a> {
    /// A point on P-256 or P-384.
    Ec { curve: &'static str, x: &'a [u8], y: &'a [u8] },
    /// An Ed25519 key.
    Ed25519 { x: &'a [u8] },
    /// Modulus and exponent, without leading zeros.
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
}

/// The key in `info`, if it is of a kind and size that is accepted.
pub(crate) fn accepted<'a>(info: &'a SubjectPublicKeyInfo<'a>) -> Option<AcceptedKey<'a>> {
    let algorithm = &info.algorithm.algorithm;
    let data: &[u8] = info.subject_public_key.as_ref();
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        let (curve, len) = if curve == OID_EC_P256 {
            ("P-256", 32)
        } else if curve == OID_NIST_EC_P384 {
            ("P-384", 48)
        } else {
            return None;
        };
        let point = data.strip_prefix(&[4]).filter(|point| point.len() == 2 * len)?;
        let (x, y) = point.split_at(len);
        Some(AcceptedKey::Ec { curve, x, y })
    } else if *algorithm == OID_SIG_ED25519 {
        (data.len() == 32).then_some(AcceptedKey::Ed25519 { x: data })
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(key)) = info.parsed() else { return None };
        let (modulus, exponent) = (without_leading_zeros(key.modulus), without_leading_zeros(key.exponent));
        (modulus.len() >= 256).then_some(AcceptedKey::Rsa { modulus, exponent })
    } else {
        None
    }
}

pub(crate) fn without_leading_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}
