//! The shape of an X.509-SVID, before anyone asks who signed it (X509-SVID specification, sections 2 to 5).

use rustls_pki_types::CertificateDer;
use x0t_model::{SpiffeId, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::OID_X509_EXT_NAME_CONSTRAINTS;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::public_key;
use crate::verify::{CERTIFICATE_LEN_MAX, VerifyError};

/// What a leaf says of itself. Its shape is right, but nobody has checked who signed it: that is
/// [`verify_chain`](crate::verify_chain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI SAN.
    pub spiffe_id: SpiffeId,
    /// The first second of validity.
    pub not_before: UnixTime,
    /// The last second of validity.
    pub not_after: UnixTime,
    /// The public key as SubjectPublicKeyInfo DER.
    pub public_key_info: Vec<u8>,
}

impl Leaf {
    /// Reads `certificate` and holds it against every rule for leaves: one URI SAN that is a SPIFFE ID with a path; not a CA;
    /// key usage critical, with digitalSignature and without the signing usages; both extended key usages or none; an
    /// accepted key; a positive serial number.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, VerifyError> {
        let parsed = parse(certificate)?;
        check_serial(&parsed)?;
        let spiffe_id = spiffe_id(&parsed)?;
        check_basic_constraints(&parsed)?;
        check_key_usage(&parsed)?;
        check_extended_key_usage(&parsed)?;
        if public_key::accepted(parsed.public_key()).is_none() {
            return Err(VerifyError::UnacceptableKey);
        }
        Ok(Self {
            spiffe_id,
            not_before: unix_time(parsed.validity().not_before),
            not_after: unix_time(parsed.validity().not_after),
            public_key_info: parsed.public_key().raw.to_vec(),
        })
    }
}

/// Parses one certificate, nothing before it and nothing behind it.
pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, VerifyError> {
    if certificate.len() > CERTIFICATE_LEN_MAX {
        return Err(VerifyError::CertificateTooLarge { bytes: certificate.len() });
    }
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
        return Err(VerifyError::Malformed("certificate"));
    };
    // The parser's accessors answer `None` both for an absent extension and for one that it could not read.
    let unread =
        |extension: &X509Extension<'_>| matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
    if parsed.extensions().iter().any(unread) {
        return Err(VerifyError::Malformed("extension"));
    }
    Ok(parsed)
}

/// Seconds since 1970; what lies before counts as 1970.
pub(crate) fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// The URI SANs of `certificate`, and whether the extension is critical; `None` without the extension.
pub(crate) fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<(Vec<&'a str>, bool)>, VerifyError> {
    let extension = certificate.subject_alternative_name().map_err(|error| refused(error, "subjectAltName"))?;
    let Some(extension) = extension else { return Ok(None) };
    let mut uris = Vec::new();
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(VerifyError::Malformed("subjectAltName")),
            _ => {}
        }
    }
    Ok(Some((uris, extension.critical)))
}

fn check_serial(certificate: &X509Certificate<'_>) -> Result<(), VerifyError> {
    let serial = certificate.raw_serial();
    let positive = serial.first().is_some_and(|first| first & 0x80 == 0) && serial.iter().any(|byte| *byte != 0);
    if positive && serial.len() <= 20 { Ok(()) } else { Err(VerifyError::BadSerial) }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let (uris, critical) = uri_names(certificate)?.ok_or(VerifyError::NotOneUri(0))?;
    let [uri] = uris[..] else { return Err(VerifyError::NotOneUri(uris.len())) };
    if !critical && certificate.subject().iter().next().is_none() {
        return Err(VerifyError::SubjectAltNameNotCritical);
    }
    uri.parse().map_err(VerifyError::BadSpiffeId)
}

fn check_basic_constraints(certificate: &X509Certificate<'_>) -> Result<(), VerifyError> {
    let constraints = certificate.basic_constraints().map_err(|error| refused(error, "basicConstraints"))?;
    match constraints {
        Some(constraints) if constraints.value.ca => return Err(VerifyError::LeafIsCa),
        Some(constraints) if constraints.value.path_len_constraint.is_some() => {
            return Err(VerifyError::CaExtensionInLeaf("pathLenConstraint"));
        }
        Some(_) | None => {}
    }
    match certificate.get_extension_unique(&OID_X509_EXT_NAME_CONSTRAINTS) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(VerifyError::CaExtensionInLeaf("nameConstraints")),
        Err(error) => Err(refused(error, "nameConstraints")),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), VerifyError> {
    let usage = certificate.key_usage().map_err(|error| refused(error, "keyUsage"))?.ok_or(VerifyError::NoKeyUsage)?;
    if !usage.critical {
        return Err(VerifyError::KeyUsageNotCritical);
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(VerifyError::LeafMaySign);
    }
    if usage.value.digital_signature() { Ok(()) } else { Err(VerifyError::NoDigitalSignature) }
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), VerifyError> {
    let usage = certificate.extended_key_usage().map_err(|error| refused(error, "extendedKeyUsage"))?;
    match usage {
        Some(usage) if !(usage.value.server_auth && usage.value.client_auth) => {
            Err(VerifyError::ExtendedKeyUsageIncomplete)
        }
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn refused(error: X509Error, field: &'static str) -> VerifyError {
    match error {
        X509Error::DuplicateExtensions => VerifyError::DuplicateExtension(field),
        _ => VerifyError::Malformed(field),
    }
}
