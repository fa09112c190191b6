//! A CA that is ready to sign: its certificate and its key, read once.

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, PublicKeyData, RevokedCertParams,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x0t_model::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use crate::ca_life::{KeyId, Slot};
use crate::issuance::{IssueError, encoding, since_epoch};
use crate::keys::{PrivateKey, SigningPair};
use crate::leaf_rules::parse;
use crate::revocation::RevokedSvid;

/// Signs X.509-SVIDs and revocation lists. Reading certificate and key costs more than a signature, so it is made once for each
/// authority that comes to sign.
pub struct CaSigner {
    key_id: KeyId,
    not_after: UnixTime,
    issuer: Issuer<'static, SigningPair>,
    key_identifier: KeyIdMethod,
    may_certify_another: bool,
}

impl CaSigner {
    /// The signer of `slot`, an X.509 authority, with its key.
    pub fn new(slot: &Slot, key: &PrivateKey) -> Result<Self, IssueError> {
        let certificate = slot.material().issuer().ok_or(IssueError::NotACa(slot.key_id()))?;
        Self::of(&certificate.certificate(), key, slot.not_after())
    }

    pub(crate) fn of(
        certificate: &CertificateDer<'_>,
        key: &PrivateKey,
        not_after: UnixTime,
    ) -> Result<Self, IssueError> {
        let issuer = Issuer::from_ca_cert_der(certificate, key.pair().clone()).map_err(encoding)?;
        let parsed = parse(certificate).map_err(|error| IssueError::Encoding(error.to_string()))?;
        let constraints = parsed.basic_constraints().ok().flatten();
        let path_len = constraints.and_then(|constraints| constraints.value.path_len_constraint);
        Ok(Self {
            key_id: KeyId::of(key.public_key_info()),
            not_after,
            issuer,
            key_identifier: key_identifier(&parsed),
            may_certify_another: path_len.is_none_or(|len| len > 0),
        })
    }

    /// Which key.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The last second in which anything it signs is valid.
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Whether its certificate allows a CA below it, so that it can vouch for its successor.
    pub const fn may_certify_another(&self) -> bool {
        self.may_certify_another
    }

    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IssueError> {
        Ok(params.signed_by(public_key, &self.issuer).map_err(encoding)?.into())
    }

    /// The list of what this CA has signed and nobody should believe any more (RFC 5280, 5), from `this_update` to `next_update`.
    /// `number` grows from list to list.
    pub fn crl<'a>(
        &self,
        revoked: impl IntoIterator<Item = &'a RevokedSvid>,
        (this_update, next_update): (UnixTime, UnixTime),
        number: u64,
    ) -> Result<CertificateRevocationListDer<'static>, IssueError> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let mut revoked_certs = Vec::new();
        for svid in revoked.into_iter().filter(|svid| svid.issuer == self.key_id) {
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from(svid.serial.as_bytes().to_vec()),
                revocation_time: epoch + since_epoch(svid.revoked_at)?,
                reason_code: None,
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: epoch + since_epoch(this_update)?,
            next_update: epoch + since_epoch(next_update)?,
            crl_number: SerialNumber::from(number.to_be_bytes().to_vec()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: self.key_identifier.clone(),
        };
        Ok(params.signed_by(&self.issuer).map_err(encoding)?.into())
    }
}

impl std::fmt::Debug for CaSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CaSigner({})", self.key_id)
    }
}

/// The subject key identifier of `certificate`: its lists have to carry the same, whoever made the certificate.
fn key_identifier(certificate: &X509Certificate<'_>) -> KeyIdMethod {
    let found = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(KeyIdMethod::PreSpecified(identifier.0.to_vec())),
        _ => None,
    });
    found.unwrap_or(KeyIdMethod::Sha256)
}

/// The public key of a key pair, as a certificate wants it.
pub(crate) fn public_key_of(key: &PrivateKey) -> Result<SubjectPublicKeyInfo, IssueError> {
    SubjectPublicKeyInfo::from_der(key.public_key_info()).map_err(encoding)
}
