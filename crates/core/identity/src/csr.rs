//! Signing requests (PKCS#10, RFC 2986): the only thing taken from one is a key and the proof of possessing it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use rcgen::{CertificateParams, DistinguishedName, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::keys::{KeyError, PrivateKey};
use crate::public_key::{self, AcceptedKey};

/// Bytes of a signing request. One for P-256 without attributes has about 160.
pub const CSR_LEN_MAX: usize = 4 * 1024;

/// Why a signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_LEN_MAX`].
    #[error("the signing request has {0} bytes, at most {max} are allowed", max = CSR_LEN_MAX)]
    TooLarge(usize),
    /// Not a PKCS#10 request.
    #[error("the signing request is malformed")]
    Malformed,
    /// A kind of key that no SVID is issued for.
    #[error("the key in the signing request is not on P-256, P-384 or Ed25519")]
    UnacceptableKey,
    /// The signature does not fit: the sender does not hold the key.
    #[error("the signing request does not prove possession of its key")]
    NoProofOfPossession,
}

/// A signing request for `key`: empty subject, no wishes. The authority knows the name; a request has no say in it.
pub fn signing_request(key: &PrivateKey) -> Result<Vec<u8>, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key.pair()).map_err(|_| KeyError::Signing)?;
    Ok(request.der().to_vec())
}

/// A public key whose holder has proven its possession.
#[derive(Clone)]
pub struct RequestedKey(SubjectPublicKeyInfo);

impl RequestedKey {
    /// The key of a signing request. Nothing else is taken from it.
    pub fn from_csr(request: &[u8]) -> Result<Self, CsrError> {
        check(request).map(Self)
    }

    pub(crate) const fn info(&self) -> &SubjectPublicKeyInfo {
        &self.0
    }
}

impl std::fmt::Debug for RequestedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestedKey")
    }
}

/// The key of a request that proves its possession. Subject, names, usages and CA wishes are not even looked at.
pub(crate) fn check(request: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if request.len() > CSR_LEN_MAX {
        return Err(CsrError::TooLarge(request.len()));
    }
    let ([], parsed) = X509CertificationRequest::from_der(request).map_err(|_| CsrError::Malformed)? else {
        return Err(CsrError::Malformed);
    };
    let info = &parsed.certification_request_info;
    let algorithm: &'static dyn VerificationAlgorithm = match public_key::accepted(&info.subject_pki) {
        Some(AcceptedKey::Ec { curve: "P-256", .. }) => &ECDSA_P256_SHA256_ASN1,
        Some(AcceptedKey::Ec { .. }) => &ECDSA_P384_SHA384_ASN1,
        Some(AcceptedKey::Ed25519 { .. }) => &ED25519,
        Some(AcceptedKey::Rsa { .. }) | None => return Err(CsrError::UnacceptableKey),
    };
    UnparsedPublicKey::new(algorithm, &info.subject_pki.subject_public_key)
        .verify(info.raw, &parsed.signature_value.data)
        .map_err(|_| CsrError::NoProofOfPossession)?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::UnacceptableKey)
}
