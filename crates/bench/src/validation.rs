//! What it costs to validate a chain, beside rustls-webpki doing the checks that it knows.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::CertificateDer;
use x0t_identity::validation::{Anchors, Options, TrustDomains, validate_svid};

use crate::trust::WALL;
use crate::{BenchError, Row, Samples};

/// Operations of one batch.
const BATCH: u64 = 4;
/// Authorities of the large bundle, all of one name, as those of SPIRE are.
pub const AUTHORITIES: usize = 200;
const NODE: &str = "spiffe://bench.test/node/a";

/// A leaf under an intermediate under a root, and a leaf under the last of many roots.
pub struct Chains {
    chain: Vec<CertificateDer<'static>>,
    root: [CertificateDer<'static>; 1],
    short: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Chains {
    /// Makes the certificates, on P-256.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn new() -> Result<Self, BenchError> {
        let root = Ca::root()?;
        let intermediate = root.intermediate()?;
        let chain = vec![intermediate.leaf()?, intermediate.der.clone()];
        let mut roots = (0..AUTHORITIES).map(|_| Ca::root()).collect::<Result<Vec<_>, _>>()?;
        let last = roots.pop().ok_or_else(|| failed("no authority"))?;
        let short = vec![last.leaf()?];
        let roots = roots.into_iter().map(|root| root.der).chain([last.der]).collect();
        Ok(Self { chain, root: [root.der], short, roots })
    }

    /// Leaf and intermediate, every check on record.
    ///
    /// # Errors
    /// If the chain is refused.
    pub fn validate(&self, trust: &TrustDomains<'_>) -> Result<(), BenchError> {
        validate_svid(&self.chain, trust, &Options::svid(WALL)).result.map(drop).map_err(failed)
    }

    /// The anchors of [`validate`](Self::validate).
    ///
    /// # Errors
    /// Never, for the trust domain's name is one.
    pub fn trust(&self) -> Result<TrustDomains<'_>, BenchError> {
        trust(&self.root)
    }

    /// The same two signatures, names and times by rustls-webpki.
    ///
    /// # Errors
    /// If the chain is refused.
    pub fn validate_by_webpki(&self, anchors: &[rustls_pki_types::TrustAnchor<'_>]) -> Result<(), BenchError> {
        let leaf = webpki::EndEntityCert::try_from(&self.chain[0]).map_err(failed)?;
        let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(WALL.as_secs()));
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, anchors, &self.chain[1..], time, usage, None, None).map(drop).map_err(failed)
    }

    /// A leaf against [`AUTHORITIES`] of one name, which are read anew.
    ///
    /// # Errors
    /// If the chain is refused.
    pub fn validate_among_many(&self) -> Result<(), BenchError> {
        validate_svid(&self.short, &trust(&self.roots)?, &Options::svid(WALL)).result.map(drop).map_err(failed)
    }

    pub(crate) fn round(&self, samples: &mut Samples) -> Result<(), BenchError> {
        let trust = self.trust()?;
        let anchors = [webpki::anchor_from_trusted_cert(&self.root[0]).map_err(failed)?];
        samples.time(Row::WebpkiChain, BATCH, || (0..BATCH).try_for_each(|_| self.validate_by_webpki(&anchors)))?;
        samples.time(Row::ValidateChain, BATCH, || (0..BATCH).try_for_each(|_| self.validate(&trust)))?;
        samples.time(Row::ValidateAmongMany, BATCH, || (0..BATCH).try_for_each(|_| self.validate_among_many()))
    }
}

fn trust<'a>(roots: &'a [CertificateDer<'static>]) -> Result<TrustDomains<'a>, BenchError> {
    let mut trust = TrustDomains::default();
    trust.insert("bench.test".parse().map_err(failed)?, Anchors::new(roots));
    Ok(trust)
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Ca {
    fn root() -> Result<Self, BenchError> {
        let (params, key) = (ca_params("authority"), KeyPair::generate().map_err(failed)?);
        let der = params.self_signed(&key).map_err(failed)?.into();
        Ok(Self { params, key, der })
    }

    fn intermediate(&self) -> Result<Self, BenchError> {
        let (params, key) = (ca_params("intermediate"), KeyPair::generate().map_err(failed)?);
        let der = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).map_err(failed)?.into();
        Ok(Self { params, key, der })
    }

    fn leaf(&self) -> Result<CertificateDer<'static>, BenchError> {
        let mut params = params("a");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(NODE.try_into().map_err(failed)?)];
        let key = KeyPair::generate().map_err(failed)?;
        Ok(params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).map_err(failed)?.into())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(WALL.as_secs() - 60);
    params.not_after = epoch + Duration::from_secs(WALL.as_secs() + 3600);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn failed(error: impl std::fmt::Debug) -> BenchError {
    BenchError::Identity(format!("{error:?}"))
}
