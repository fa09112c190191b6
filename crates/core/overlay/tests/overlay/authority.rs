//! A certificate authority for tests, and a verifier that goes by its root.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SignatureAlgorithm,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x0t_model::{SpiffeId, UnixTime};
use x0t_overlay::{CertificateDer, Credentials, VerifyPeer};

/// When all certificates of these tests are valid.
pub const WALL: UnixTime = UnixTime::from_secs(1_790_000_000);

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    algorithm: &'static SignatureAlgorithm,
}

impl Authority {
    pub fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri("spiffe://mesh.test")];
        let key = KeyPair::generate_for(algorithm).unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap(), algorithm }
    }

    pub fn p256() -> Self {
        Self::new(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn issue(&self, name: &str) -> Arc<Credentials> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(&format!("spiffe://mesh.test/node/{name}"))];
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = key.serialize_der().try_into().unwrap();
        Arc::new(Credentials { chain: vec![leaf.der().clone()], key })
    }

    pub fn verifier(&self) -> Arc<dyn VerifyPeer> {
        Arc::new(ByRoot { root: self.issuer.der().clone() })
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.test/node/{name}").parse().unwrap()
}

/// Accepts what reaches one root and carries one SPIFFE ID.
struct ByRoot {
    root: CertificateDer<'static>,
}

impl VerifyPeer for ByRoot {
    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, String> {
        let anchor = anchor_from_trusted_cert(&self.root).map_err(|error| error.to_string())?;
        let leaf = EndEntityCert::try_from(&chain[0]).map_err(|error| error.to_string())?;
        let now = rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs()));
        let usage = KeyUsage::client_auth();
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &chain[1..], now, usage, None, None)
            .map_err(|_| "certificate does not reach the trust anchor".to_owned())?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| error.to_string())?;
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.ok_or("certificate has no names")?;
        match &names.value.general_names[..] {
            [x509_parser::extensions::GeneralName::URI(id)] => {
                id.parse().map_err(|error: x0t_model::SpiffeIdError| error.to_string())
            }
            _ => Err("certificate does not carry one SPIFFE id".into()),
        }
    }
}
