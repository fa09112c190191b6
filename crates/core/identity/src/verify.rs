//! Is it who it says it is? A chain of certificates against the authorities of one trust domain.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, anchor_from_trusted_cert};
use x0t_model::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

use crate::authority_rules;
use crate::bundle::Bundle;
use crate::leaf_rules::Leaf;

/// Certificates in a chain, the leaf included (checklist X5-10): more only buys an attacker our time.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Bytes of one certificate. A P-256 SVID has about 600, an ML-DSA-65 one 5,500.
pub const CERTIFICATE_LEN_MAX: usize = 8 * 1024;

/// Signatures that may appear in a path (checklist X5-14): nothing on SHA-1, nothing shorter than RSA-2048.
static PATH_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
];

/// Signatures that an SVID's key makes outside TLS: one per kind of key, so the key decides.
static MESSAGE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
    &[webpki::aws_lc_rs::ECDSA_P256_SHA256, webpki::aws_lc_rs::ED25519, webpki::aws_lc_rs::ECDSA_P384_SHA384];

/// Why a chain, or a signature under it, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No certificate at all.
    #[error("no certificate was shown")]
    NoCertificate,
    /// More than [`CHAIN_CERTIFICATES_MAX`].
    #[error("the chain has {0} certificates, at most {max} are allowed", max = CHAIN_CERTIFICATES_MAX)]
    ChainTooLong(usize),
    /// Longer than [`CERTIFICATE_LEN_MAX`].
    #[error("a certificate has {bytes} bytes, at most {max} are allowed", max = CERTIFICATE_LEN_MAX)]
    CertificateTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not DER, or not what RFC 5280 says.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// The same extension twice.
    #[error("the certificate has two {0} extensions")]
    DuplicateExtension(&'static str),
    /// A serial number that is zero, negative or longer than 20 bytes.
    #[error("the serial number is not a positive number of at most 20 bytes")]
    BadSerial,
    /// No URI SAN, or several.
    #[error("the certificate carries {0} URI names, exactly one is required")]
    NotOneUri(usize),
    /// The URI SAN is no SPIFFE ID, or one without a path.
    #[error("the URI name is not the SPIFFE ID of a node or workload")]
    BadSpiffeId(#[source] SpiffeIdError),
    /// An empty subject asks for a critical SAN (RFC 5280, 4.2.1.6).
    #[error("the subject is empty but the subjectAltName extension is not critical")]
    SubjectAltNameNotCritical,
    /// cA=true: signing certificates never authenticate a peer.
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// An extension that only a CA may have.
    #[error("the leaf has {0}, which only a CA certificate may have")]
    CaExtensionInLeaf(&'static str),
    /// No keyUsage extension.
    #[error("the leaf has no keyUsage extension")]
    NoKeyUsage,
    /// keyUsage is there but not critical.
    #[error("the leaf's keyUsage extension is not critical")]
    KeyUsageNotCritical,
    /// keyCertSign or cRLSign is set.
    #[error("the leaf's key may sign certificates or revocation lists")]
    LeafMaySign,
    /// digitalSignature is not set.
    #[error("the leaf's keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// extendedKeyUsage is there but lacks serverAuth or clientAuth.
    #[error("the extendedKeyUsage lacks serverAuth or clientAuth")]
    ExtendedKeyUsageIncomplete,
    /// A kind or size of key that is not accepted.
    #[error("the public key is not on P-256, P-384 or Ed25519, nor RSA of at least 2048 bits")]
    UnacceptableKey,
    /// cA=false or no keyCertSign, in a certificate that should sign others.
    #[error("a certificate that should sign others is no CA certificate with keyCertSign")]
    NotAnAuthority,
    /// A signing certificate that names another trust domain, or somebody in this one.
    #[error("a certificate that should sign for {wanted} names {found:?}")]
    ForeignAuthority {
        /// The URI it carries.
        found: String,
        /// For whom it should sign.
        wanted: TrustDomain,
    },
    /// The leaf's time is over.
    #[error(
        "the certificate of {id} expired {ago:?} ago (valid until {not_after:?}, the clock here says {now:?}); \
         if it should be valid, compare the clocks of both hosts"
    )]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// How long ago.
        ago: Duration,
        /// The last second of its validity.
        not_after: UnixTime,
        /// What the clock here says.
        now: UnixTime,
    },
    /// The leaf's time has yet to come.
    #[error(
        "the certificate of {id} becomes valid in {starts_in:?} (valid from {not_before:?}, the clock here says {now:?}); \
         the clock here is slow or its issuer's is fast: compare them"
    )]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// How long until then.
        starts_in: Duration,
        /// The first second of its validity.
        not_before: UnixTime,
        /// What the clock here says.
        now: UnixTime,
    },
    /// An intermediate's time is over or has yet to come.
    #[error("an intermediate certificate is not valid at {now:?}, the time of the clock here")]
    IntermediateOutOfTime {
        /// What the clock here says.
        now: UnixTime,
    },
    /// No bundle for the trust domain that the leaf names.
    #[error("no trust bundle for {0}")]
    UnknownTrustDomain(TrustDomain),
    /// There is a bundle, and it trusts nobody at this time.
    #[error("the trust bundle of {trust_domain} has no authority that is valid at {now:?}, the time of the clock here")]
    NoValidAuthority {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What the clock here says.
        now: UnixTime,
    },
    /// No path to an authority of the leaf's own trust domain.
    #[error("the chain does not reach an authority of its trust domain")]
    Untrusted(#[source] webpki::Error),
    /// A well-formed chain of somebody else.
    #[error("the peer is {found}, {wanted} was expected")]
    WrongPeer {
        /// Who it is.
        found: SpiffeId,
        /// Who it should be.
        wanted: SpiffeId,
    },
    /// The authorities that were shown are not those the join token was made for.
    #[error("the authorities that were shown are not the ones the join token was made for")]
    WrongBundle,
    /// The signature does not fit message and key.
    #[error("the signature does not fit")]
    BadSignature,
}

impl VerifyError {
    /// A stable word for counters, logs and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong(_) => "chain_too_long",
            Self::CertificateTooLarge { .. } => "certificate_too_large",
            Self::Malformed(_) => "malformed",
            Self::DuplicateExtension(_) => "duplicate_extension",
            Self::BadSerial => "bad_serial",
            Self::NotOneUri(_) => "not_one_uri",
            Self::BadSpiffeId(_) => "bad_spiffe_id",
            Self::SubjectAltNameNotCritical => "san_not_critical",
            Self::LeafIsCa => "leaf_is_ca",
            Self::CaExtensionInLeaf(_) => "ca_extension_in_leaf",
            Self::NoKeyUsage => "no_key_usage",
            Self::KeyUsageNotCritical => "key_usage_not_critical",
            Self::LeafMaySign => "leaf_may_sign",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::ExtendedKeyUsageIncomplete => "extended_key_usage_incomplete",
            Self::UnacceptableKey => "unacceptable_key",
            Self::NotAnAuthority => "not_an_authority",
            Self::ForeignAuthority { .. } => "foreign_authority",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::IntermediateOutOfTime { .. } => "intermediate_out_of_time",
            Self::UnknownTrustDomain(_) => "unknown_trust_domain",
            Self::NoValidAuthority { .. } => "no_valid_authority",
            Self::Untrusted(_) => "untrusted",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::WrongBundle => "wrong_bundle",
            Self::BadSignature => "bad_signature",
        }
    }
}

/// Who the holder of `chain` (leaf first) is, if every rule for X.509-SVIDs is kept at `now` and the path ends at an authority
/// of the leaf's own trust domain.
///
/// The holder's possession of the key is the session's business: a chain alone proves nothing about who sent it.
pub fn verify_chain(chain: &[CertificateDer<'_>], bundle: &Bundle, now: UnixTime) -> Result<SpiffeId, VerifyError> {
    let (first, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    let leaf = Leaf::read(first)?;
    check_time(&leaf, now)?;
    if leaf.spiffe_id.trust_domain() != bundle.trust_domain() {
        return Err(VerifyError::UnknownTrustDomain(leaf.spiffe_id.trust_domain().clone()));
    }
    for intermediate in intermediates {
        authority_rules::check(intermediate, bundle.trust_domain())?;
    }
    check_path(first, intermediates, bundle, now)?;
    Ok(leaf.spiffe_id)
}

/// Checks `signature` over `label`, a zero byte and `message` with the key of `leaf`, whose chain the caller has verified.
/// The counterpart of [`Svid::sign`](crate::Svid::sign).
pub fn verify_signature(
    leaf: &CertificateDer<'_>,
    label: &str,
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let certificate = EndEntityCert::try_from(leaf).map_err(|_| VerifyError::Malformed("certificate"))?;
    let message = labelled(label, message);
    let fits = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        certificate.verify_signature(*algorithm, &message, signature).is_ok()
    };
    if MESSAGE_ALGORITHMS.iter().any(fits) { Ok(()) } else { Err(VerifyError::BadSignature) }
}

/// What is signed for `message`. The label keeps one use of the key from passing for another; TLS signs strings that begin
/// with spaces and certificates begin with 0x30, so neither is ever a labelled message.
pub(crate) fn labelled(label: &str, message: &[u8]) -> Vec<u8> {
    [label.as_bytes(), &[0], message].concat()
}

fn check_time(leaf: &Leaf, now: UnixTime) -> Result<(), VerifyError> {
    let id = leaf.spiffe_id.clone();
    if now > leaf.not_after {
        let (ago, not_after) = (now.since(leaf.not_after), leaf.not_after);
        return Err(VerifyError::Expired { id, ago, not_after, now });
    }
    if now < leaf.not_before {
        let (starts_in, not_before) = (leaf.not_before.since(now), leaf.not_before);
        return Err(VerifyError::NotYetValid { id, starts_in, not_before, now });
    }
    Ok(())
}

fn check_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: UnixTime,
) -> Result<(), VerifyError> {
    // webpki does not look at the validity of anchors, so those out of time are left out here.
    let anchors = valid_anchors(bundle, now)?;
    let certificate = EndEntityCert::try_from(leaf).map_err(VerifyError::Untrusted)?;
    let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    certificate
        .verify_for_usage(PATH_ALGORITHMS, &anchors, intermediates, time, BothPurposesOrNone, None, None)
        .map(|_| ())
        .map_err(|error| match error {
            // The leaf's own time has been checked, so it is another's.
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                VerifyError::IntermediateOutOfTime { now }
            }
            error => VerifyError::Untrusted(error),
        })
}

fn valid_anchors(bundle: &Bundle, now: UnixTime) -> Result<Vec<TrustAnchor<'_>>, VerifyError> {
    let anchors: Vec<TrustAnchor<'_>> = bundle
        .valid_at(now)
        .map(|authority| anchor_from_trusted_cert(authority).map_err(VerifyError::Untrusted))
        .collect::<Result<_, _>>()?;
    if anchors.is_empty() {
        return Err(VerifyError::NoValidAuthority { trust_domain: bundle.trust_domain().clone(), now });
    }
    Ok(anchors)
}

/// An extendedKeyUsage, where there is one, allows both ends of a session: a node is client and server at once.
struct BothPurposesOrNone;

impl ExtendedKeyUsageValidator for BothPurposesOrNone {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any, mut server, mut client) = (false, false, false);
        for purpose in purposes {
            let oid = purpose?.to_decoded_oid();
            any = true;
            server |= oid == KeyUsage::SERVER_AUTH_REPR;
            client |= oid == KeyUsage::CLIENT_AUTH_REPR;
        }
        if !any || (server && client) { Ok(()) } else { Err(webpki::Error::ExtensionValueInvalid) }
    }
}
