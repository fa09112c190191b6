//! The two certificates an authority makes: its own, and a node's.

use std::time::Duration;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x0t_model::{Entropy, SpiffeId, TrustDomain, UnixTime};

use crate::keys::{KeyError, PrivateKey};

/// The last second that a certificate can express: 9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5).
const LAST_TIME: UnixTime = UnixTime::from_secs(253_402_300_799);
/// X.520 serialNumber, an attribute of names (not the certificate's serial number).
const OID_NAME_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// Why no certificate was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The authority's key cannot be made or used.
    #[error("the authority's key is not usable")]
    Key(#[from] KeyError),
    /// The authority's own certificate is over.
    #[error("the authority's own certificate ended at {0:?}")]
    AuthorityExpired(UnixTime),
    /// The clock shows a time that no certificate can express.
    #[error("a certificate cannot express {0:?}")]
    TimeOutOfRange(UnixTime),
    /// The authority runs on a node whose name is no node's identity.
    #[error("{0} is not the identity of a node")]
    NotANode(SpiffeId),
    /// The encoder refused.
    #[error("the certificate could not be encoded: {0}")]
    Encoding(String),
}

/// From when until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// A self-signed CA certificate for `trust_domain`.
///
/// It signs leaves only (pathLen 0). Its subject carries a random serialNumber: path building tries every authority whose
/// subject matches, so two CAs must never share one.
pub(crate) fn self_signed_authority(
    trust_domain: &TrustDomain,
    key: &PrivateKey,
    validity: Validity,
    entropy: &mut Entropy,
) -> Result<CertificateDer<'static>, IssueError> {
    let mut params = template(validity, entropy)?;
    let unique = entropy.bytes::<16>();
    let unique = data_encoding::HEXLOWER.encode(&unique);
    params.distinguished_name.push(DnType::OrganizationName, "x0tta6bl4");
    params.distinguished_name.push(
        DnType::CustomDnType(OID_NAME_SERIAL_NUMBER.to_vec()),
        DnValue::PrintableString(PrintableString::try_from(unique).map_err(encoding)?),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(trust_domain.id_text())?];
    let certificate = params.self_signed(&*key.pair()?).map_err(encoding)?;
    Ok(certificate.into())
}

/// An X.509-SVID for `id`, over `public_key`, signed by `authority`. The subject is empty, so the SAN is critical.
pub(crate) fn leaf(
    (id, dns_names): (&SpiffeId, &[String]),
    public_key: &SubjectPublicKeyInfo,
    authority: (&CertificateDer<'_>, &PrivateKey),
    validity: Validity,
    entropy: &mut Entropy,
) -> Result<CertificateDer<'static>, IssueError> {
    let mut params = template(validity, entropy)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.push(uri(id.to_string())?);
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(encoding)?));
    }
    let (certificate, key) = authority;
    let pair = key.pair()?;
    let issuer = Issuer::from_ca_cert_der(certificate, &*pair).map_err(encoding)?;
    let certificate = params.signed_by(public_key, &issuer).map_err(encoding)?;
    Ok(certificate.into())
}

fn template(validity: Validity, entropy: &mut Entropy) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial(entropy).to_vec()));
    for time in [validity.not_before, validity.not_after] {
        if time > LAST_TIME {
            return Err(IssueError::TimeOutOfRange(time));
        }
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(validity.not_before.as_secs());
    params.not_after = epoch + Duration::from_secs(validity.not_after.as_secs());
    Ok(params)
}

/// 126 random bits, positive and always 16 bytes long.
fn serial(entropy: &mut Entropy) -> [u8; 16] {
    let mut serial = entropy.bytes::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn uri(text: String) -> Result<SanType, IssueError> {
    Ia5String::try_from(text).map(SanType::URI).map_err(encoding)
}

fn encoding(error: rcgen::Error) -> IssueError {
    IssueError::Encoding(error.to_string())
}
