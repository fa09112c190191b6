//! The shape of a certificate that signs others (X509-SVID specification, section 4.1; RFC 5280, 4.2.1.3 and 4.2.1.9).

use rustls_pki_types::CertificateDer;
use x0t_model::{TrustDomain, UnixTime};

use crate::leaf_rules::{parse, refused, unix_time, uri_names};
use crate::public_key;
use crate::verify::VerifyError;

/// First and last second of `certificate`, if its shape lets it sign for `trust_domain`: a CA with keyCertSign and an accepted
/// key, which names that trust domain or none. Whether it is trusted is another question.
pub(crate) fn check(
    certificate: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
) -> Result<(UnixTime, UnixTime), VerifyError> {
    let parsed = parse(certificate)?;
    let constraints = parsed.basic_constraints().map_err(|error| refused(error, "basicConstraints"))?;
    let usage = parsed.key_usage().map_err(|error| refused(error, "keyUsage"))?;
    let is_ca = constraints.is_some_and(|constraints| constraints.value.ca);
    if !is_ca || !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(VerifyError::NotAnAuthority);
    }
    if public_key::accepted(parsed.public_key()).is_none() {
        return Err(VerifyError::UnacceptableKey);
    }
    for uri in uri_names(&parsed)?.map(|(uris, _)| uris).unwrap_or_default() {
        if uri != trust_domain.id_text() {
            return Err(VerifyError::ForeignAuthority { found: uri.to_owned(), wanted: trust_domain.clone() });
        }
    }
    Ok((unix_time(parsed.validity().not_before), unix_time(parsed.validity().not_after)))
}
