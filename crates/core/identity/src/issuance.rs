//! The two certificates an authority makes: its own, and a node's.

use std::time::Duration;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x0t_model::{Entropy, SpiffeId, TrustDomain, UnixTime};

use crate::ca_life::KeyId;
use crate::ca_signer::CaSigner;
use crate::keys::{KeyError, PrivateKey};
use crate::revocation::Serial;

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
    /// A key for tokens signs no certificates.
    #[error("{0} is not a CA")]
    NotACa(KeyId),
    /// The clock shows a time that no certificate can express.
    #[error("a certificate cannot express {0:?}")]
    TimeOutOfRange(UnixTime),
    /// Nothing signs here.
    #[error("no authority signs on this node: prepare and activate one, see `x0t authority status`")]
    NoAuthority,
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

/// A self-signed CA certificate for `trust_domain`; if there is a `predecessor`, also the same subject and key certified by it.
///
/// Its path length is 1, for the cross certificate of its own successor. Its subject carries a random serialNumber: path building tries
/// every authority whose subject matches, so two CAs must never share one.
pub(crate) fn authority(
    trust_domain: &TrustDomain,
    key: &PrivateKey,
    validity: Validity,
    predecessor: Option<&CaSigner>,
    entropy: &mut Entropy,
) -> Result<(CertificateDer<'static>, Option<CertificateDer<'static>>), IssueError> {
    let (mut params, _) = template(validity, entropy)?;
    let unique = data_encoding::HEXLOWER.encode(&entropy.bytes::<16>());
    params.distinguished_name.push(DnType::OrganizationName, "x0tta6bl4");
    params.distinguished_name.push(
        DnType::CustomDnType(OID_NAME_SERIAL_NUMBER.to_vec()),
        DnValue::PrintableString(PrintableString::try_from(unique).map_err(encoding)?),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(trust_domain.id_text())?];
    let own = params.self_signed(key.pair()).map_err(encoding)?;
    let Some(predecessor) = predecessor else { return Ok((own.into(), None)) };
    let mut cross = params;
    cross.serial_number = Some(SerialNumber::from(serial(entropy).as_bytes().to_vec()));
    let not_after = since_epoch(validity.not_after.min(predecessor.not_after()))?;
    cross.not_after = rcgen::date_time_ymd(1970, 1, 1) + not_after;
    cross.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    cross.use_authority_key_identifier_extension = true;
    let cross = predecessor.sign(&cross, key.pair())?;
    Ok((own.into(), Some(cross)))
}

/// An X.509-SVID for `id`, over `public_key`, and its serial number. The subject is empty, so the SAN is critical.
pub(crate) fn leaf(
    (id, dns_names): (&SpiffeId, &[String]),
    public_key: &SubjectPublicKeyInfo,
    signer: &CaSigner,
    validity: Validity,
    entropy: &mut Entropy,
) -> Result<(CertificateDer<'static>, Serial), IssueError> {
    let (mut params, serial) = template(validity, entropy)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.push(uri(id.to_string())?);
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str()).map_err(encoding)?));
    }
    Ok((signer.sign(&params, public_key)?, serial))
}

fn template(validity: Validity, entropy: &mut Entropy) -> Result<(CertificateParams, Serial), IssueError> {
    let serial = serial(entropy);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial.as_bytes().to_vec()));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before)?;
    params.not_after = epoch + since_epoch(validity.not_after)?;
    Ok((params, serial))
}

/// How long after 1970 began, if a certificate can express it.
pub(crate) fn since_epoch(time: UnixTime) -> Result<Duration, IssueError> {
    if time > LAST_TIME { Err(IssueError::TimeOutOfRange(time)) } else { Ok(Duration::from_secs(time.as_secs())) }
}

/// 126 random bits, positive and always 16 bytes long.
fn serial(entropy: &mut Entropy) -> Serial {
    let mut serial = entropy.bytes::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    Serial::new(serial)
}

fn uri(text: String) -> Result<SanType, IssueError> {
    Ia5String::try_from(text).map(SanType::URI).map_err(encoding)
}

pub(crate) fn encoding(error: rcgen::Error) -> IssueError {
    IssueError::Encoding(error.to_string())
}
