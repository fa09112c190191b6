//! Which keys and signatures are accepted (checklist X5-14).
//!
//! Nothing on SHA-1 or MD5, no RSA below 2048 bits, no curve but P-256, P-384 and Ed25519, no DSA. Algorithm identifiers are compared
//! byte for byte, parameters included, so that there is one way to write each.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ED25519, ML_DSA_65, ML_DSA_87, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::alg_id;

use super::der::{DerError, Reader, tag};

const RSA_BITS_MIN: usize = 2048;
/// Beyond this a signature check takes milliseconds.
const RSA_BITS_MAX: usize = 8192;

/// How something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// ECDSA with SHA-256, SHA-384 or SHA-512: the bits of the hash.
    Ecdsa(u16),
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(u16),
    /// RSASSA-PSS, salt as long as the hash.
    RsaPss(u16),
    /// Ed25519.
    Ed25519,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

impl SignatureKind {
    /// What the DER of an `AlgorithmIdentifier` says; `None` for one that is not accepted.
    pub(crate) fn of(algorithm: &[u8]) -> Option<Self> {
        let inside = Reader::inside(algorithm, tag::SEQUENCE).ok()?.rest();
        [
            (alg_id::ECDSA_SHA256, Self::Ecdsa(256)),
            (alg_id::ECDSA_SHA384, Self::Ecdsa(384)),
            (alg_id::ED25519, Self::Ed25519),
            (alg_id::RSA_PKCS1_SHA256, Self::RsaPkcs1(256)),
            (alg_id::RSA_PKCS1_SHA384, Self::RsaPkcs1(384)),
            (alg_id::RSA_PKCS1_SHA512, Self::RsaPkcs1(512)),
            (alg_id::ECDSA_SHA512, Self::Ecdsa(512)),
            (alg_id::ML_DSA_65, Self::MlDsa65),
            (alg_id::ML_DSA_87, Self::MlDsa87),
            (alg_id::RSA_PSS_SHA256, Self::RsaPss(256)),
            (alg_id::RSA_PSS_SHA384, Self::RsaPss(384)),
            (alg_id::RSA_PSS_SHA512, Self::RsaPss(512)),
        ]
        .into_iter()
        .find_map(|(id, kind)| (id.as_ref() == inside).then_some(kind))
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecdsa(384) => "ECDSA with SHA-384",
            Self::Ecdsa(512) => "ECDSA with SHA-512",
            Self::Ecdsa(_) => "ECDSA with SHA-256",
            Self::RsaPkcs1(384) => "RSA PKCS#1 v1.5 with SHA-384",
            Self::RsaPkcs1(512) => "RSA PKCS#1 v1.5 with SHA-512",
            Self::RsaPkcs1(_) => "RSA PKCS#1 v1.5 with SHA-256",
            Self::RsaPss(384) => "RSA-PSS with SHA-384",
            Self::RsaPss(512) => "RSA-PSS with SHA-512",
            Self::RsaPss(_) => "RSA-PSS with SHA-256",
            Self::Ed25519 => "Ed25519",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
        }
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey<'a> {
    kind: KeyKind,
    bits: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    P256,
    P384,
    Ed25519,
    /// With the bits of its modulus, if they and the exponent are as they should be.
    Rsa(Result<usize, RsaFault>),
    MlDsa65,
    MlDsa87,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RsaFault {
    Size(usize),
    Exponent,
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo. Kinds that are not accepted are read too: that a certificate has one is a finding of its own, and
    /// only if the certificate is needed.
    pub(crate) fn parse(info: &'a [u8]) -> Result<Self, DerError> {
        let mut reader = Reader::inside(info, tag::SEQUENCE)?;
        let algorithm = reader.sequence()?;
        let bits = reader.bytes_of_bits()?;
        reader.finish()?;
        algorithm.clone().oid()?;
        let is = |id: rustls_pki_types::AlgorithmIdentifier| id.as_ref() == algorithm.rest();
        let kind = if is(alg_id::ECDSA_P256) {
            KeyKind::P256
        } else if is(alg_id::ECDSA_P384) {
            KeyKind::P384
        } else if is(alg_id::ED25519) {
            KeyKind::Ed25519
        } else if is(alg_id::RSA_ENCRYPTION) {
            KeyKind::Rsa(rsa_bits(bits)?)
        } else if is(alg_id::ML_DSA_65) {
            KeyKind::MlDsa65
        } else if is(alg_id::ML_DSA_87) {
            KeyKind::MlDsa87
        } else {
            KeyKind::Other
        };
        let wanted = match kind {
            // An uncompressed point.
            KeyKind::P256 => Some(65),
            KeyKind::P384 => Some(97),
            KeyKind::Ed25519 => Some(32),
            KeyKind::MlDsa65 => Some(1952),
            KeyKind::MlDsa87 => Some(2592),
            KeyKind::Rsa(_) | KeyKind::Other => None,
        };
        let is_point = !matches!(kind, KeyKind::P256 | KeyKind::P384) || bits.first() == Some(&4);
        if wanted.is_some_and(|wanted| wanted != bits.len()) || !is_point {
            return Err(DerError::Value("the public key does not have the length or form of its kind"));
        }
        Ok(Self { kind, bits })
    }

    /// The key without its algorithm: what OCSP hashes.
    pub(crate) const fn bits(&self) -> &'a [u8] {
        self.bits
    }

    /// What speaks against this key, if anything.
    pub(crate) fn weakness(&self) -> Option<KeyWeakness> {
        match self.kind {
            KeyKind::Rsa(Err(RsaFault::Size(bits))) => Some(KeyWeakness::RsaSize(bits)),
            KeyKind::Rsa(Err(RsaFault::Exponent)) => Some(KeyWeakness::RsaExponent),
            KeyKind::Other => Some(KeyWeakness::Kind),
            _ => None,
        }
    }

    /// Whether it can only sign, and neither encrypt nor agree on a key.
    pub(crate) const fn only_signs(&self) -> bool {
        matches!(self.kind, KeyKind::Ed25519 | KeyKind::MlDsa65 | KeyKind::MlDsa87)
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self.kind {
            KeyKind::P256 => "P-256",
            KeyKind::P384 => "P-384",
            KeyKind::Ed25519 => "Ed25519",
            KeyKind::Rsa(Ok(2048)) => "RSA-2048",
            KeyKind::Rsa(Ok(3072)) => "RSA-3072",
            KeyKind::Rsa(Ok(4096)) => "RSA-4096",
            KeyKind::Rsa(_) => "RSA",
            KeyKind::MlDsa65 => "ML-DSA-65",
            KeyKind::MlDsa87 => "ML-DSA-87",
            KeyKind::Other => "of a kind that is not accepted",
        }
    }

    /// The algorithm that checks signatures of `signature` with this key; `None` if the key cannot make them, or must not.
    fn algorithm(&self, signature: SignatureKind) -> Option<&'static dyn VerificationAlgorithm> {
        use SignatureKind as S;
        Some(match (self.kind, signature) {
            (KeyKind::P256, S::Ecdsa(256)) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, S::Ecdsa(384)) => &ECDSA_P256_SHA384_ASN1,
            (KeyKind::P256, S::Ecdsa(512)) => &ECDSA_P256_SHA512_ASN1,
            (KeyKind::P384, S::Ecdsa(256)) => &ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, S::Ecdsa(384)) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::P384, S::Ecdsa(512)) => &ECDSA_P384_SHA512_ASN1,
            (KeyKind::Ed25519, S::Ed25519) => &ED25519,
            (KeyKind::MlDsa65, S::MlDsa65) => &ML_DSA_65,
            (KeyKind::MlDsa87, S::MlDsa87) => &ML_DSA_87,
            (KeyKind::Rsa(Ok(_)), S::RsaPkcs1(256)) => &RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa(Ok(_)), S::RsaPkcs1(384)) => &RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa(Ok(_)), S::RsaPkcs1(512)) => &RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa(Ok(_)), S::RsaPss(256)) => &RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa(Ok(_)), S::RsaPss(384)) => &RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa(Ok(_)), S::RsaPss(512)) => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }

    /// Whether the key can have made signatures of `kind` at all.
    pub(crate) fn makes(&self, kind: SignatureKind) -> bool {
        self.algorithm(kind).is_some()
    }

    /// Whether `signature` over `message` is this key's.
    pub(crate) fn verifies(&self, kind: SignatureKind, message: &[u8], signature: &[u8]) -> bool {
        let verifies = |algorithm| UnparsedPublicKey::new(algorithm, self.bits).verify(message, signature).is_ok();
        self.algorithm(kind).is_some_and(verifies)
    }
}

/// Why a key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWeakness {
    /// Neither RSA, P-256, P-384, Ed25519 nor ML-DSA.
    Kind,
    /// An RSA modulus of this many bits.
    RsaSize(usize),
    /// An RSA exponent that is even or 1, or far too large.
    RsaExponent,
}

impl fmt::Display for KeyWeakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => f.write_str("it is neither P-256, P-384, Ed25519, RSA nor ML-DSA"),
            Self::RsaSize(bits) => write!(f, "RSA of {bits} bits; 2048 to 8192, in whole bytes, are"),
            Self::RsaExponent => f.write_str("the RSA exponent is not usable"),
        }
    }
}

/// The bits of an RSA modulus, from 2048 to 8192 and whole bytes (CA/Browser Forum, 6.1.5).
fn rsa_bits(key: &[u8]) -> Result<Result<usize, RsaFault>, DerError> {
    let mut reader = Reader::inside(key, tag::SEQUENCE)?;
    let (modulus, exponent) = (reader.integer()?, reader.integer()?);
    reader.finish()?;
    if [modulus, exponent].iter().any(|number| number[0] & 0x80 != 0) {
        return Err(DerError::Value("a number of an RSA key is negative"));
    }
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || !bits.is_multiple_of(8) {
        return Ok(Err(RsaFault::Size(bits)));
    }
    // 33 bits is what the library takes; honest keys have 17.
    if !is_odd(modulus) || !is_odd(exponent) || exponent == [1] || exponent.len() > 5 {
        return Ok(Err(RsaFault::Exponent));
    }
    Ok(Ok(bits))
}
