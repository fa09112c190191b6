//! Secrets in Envoy's form.

use std::sync::{Arc, OnceLock};

use prost::Message;
use prost_types::Any;
use rustls_pki_types::CertificateDer;
use x0t_identity::{Bundle, Svid};
use x0t_model::TrustDomain;

use super::subscription::{Resource, SECRET_TYPE, Subscription};
use crate::pem;
use crate::proto::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
};
use crate::server::Entitlement;

const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// What there is of what is wanted.
pub(crate) struct Resources {
    pub(crate) resources: Vec<Resource>,
    /// Whether something is wanted that there is not.
    pub(crate) missing: bool,
}

/// The secrets that `subscription` wants and `entitlement` gives.
pub(crate) fn all(entitlement: &Entitlement, subscription: &Subscription) -> Resources {
    let mut found = Resources { resources: Vec::new(), missing: false };
    let Some(names) = subscription.names() else { return found };
    if names.is_empty() {
        found.resources.extend(entitlement.svids().map(|(svid, _)| certificate(&svid.spiffe_id().to_string(), svid)));
        found.resources.extend(entitlement.bundles().map(|bundle| trust(&bundle.trust_domain().id_text(), bundle)));
        let known = |domain: &str| entitlement.bundles().any(|bundle| bundle.trust_domain().as_str() == domain);
        let lost = subscription.trusted().filter(|domain| !known(domain)).filter_map(|domain| domain.parse().ok());
        found.resources.extend(lost.map(|domain: TrustDomain| trust_nobody(&domain.id_text(), &domain)));
        return found;
    }
    for name in names {
        match one(name, entitlement, subscription) {
            Some(resource) => found.resources.push(resource),
            None => found.missing = true,
        }
    }
    found
}

fn one(name: &str, entitlement: &Entitlement, subscription: &Subscription) -> Option<Resource> {
    match name {
        "default" => entitlement.svids().next().map(|(svid, _)| certificate(name, svid)),
        "ROOTCA" => entitlement.bundles().next().map(|bundle| trust(name, bundle)),
        "ALL" => {
            let bundles: Vec<_> = entitlement.bundles().collect();
            (!bundles.is_empty()).then(|| validation(name, bundles.iter().map(|bundle| anchors(bundle)), None))
        }
        id => {
            let rest = id.strip_prefix("spiffe://")?;
            if rest.contains('/') {
                let svid = entitlement.svids().map(|(svid, _)| svid).find(|svid| svid.spiffe_id().to_string() == id);
                return svid.map(|svid| certificate(id, svid));
            }
            let domain: TrustDomain = rest.parse().ok()?;
            match entitlement.bundles().find(|bundle| *bundle.trust_domain() == domain) {
                Some(bundle) => Some(trust(id, bundle)),
                // Leaving it out would leave Envoy with what it has: it would go on trusting (SPIRE issue 1816).
                None => subscription.was_trusted(domain.as_str()).then(|| trust_nobody(id, &domain)),
            }
        }
    }
}

fn certificate(name: &str, svid: &Svid) -> Resource {
    let key = pem::private_key(svid.key_pkcs8());
    let certificate = TlsCertificate {
        certificate_chain: inline(pem::certificates(svid.chain())),
        private_key: inline(key.as_bytes().to_vec()),
    };
    resource(name, secret::Type::TlsCertificate(certificate), None)
}

fn trust(name: &str, bundle: &Arc<Bundle>) -> Resource {
    validation(name, [anchors(bundle)].into_iter(), Some(bundle.trust_domain().as_str()))
}

/// Trust in an authority whose key is gone: the validator has a list for the trust domain, as it must, and nobody is on it.
fn trust_nobody(name: &str, domain: &TrustDomain) -> Resource {
    validation(name, [(domain.as_str().to_owned(), nobody())].into_iter(), Some(domain.as_str()))
}

/// A trust domain and its authorities. One without any must not be left without a list.
fn anchors(bundle: &Arc<Bundle>) -> (String, Vec<u8>) {
    let authorities = bundle.authorities();
    let pem = if authorities.is_empty() { nobody() } else { pem::certificates(authorities) };
    (bundle.trust_domain().as_str().to_owned(), pem)
}

fn validation(name: &str, anchors: impl Iterator<Item = (String, Vec<u8>)>, trusts: Option<&str>) -> Resource {
    let trust_domains =
        anchors.map(|(name, pem)| spiffe_cert_validator_config::TrustDomain { name, trust_bundle: inline(pem) });
    let config = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect() };
    let context = CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any { type_url: VALIDATOR_TYPE.to_owned(), value: config.encode_to_vec() }),
        }),
        ..CertificateValidationContext::default()
    };
    resource(name, secret::Type::ValidationContext(context), trusts)
}

fn resource(name: &str, content: secret::Type, trusts: Option<&str>) -> Resource {
    let secret = Secret { name: name.to_owned(), r#type: Some(content) };
    let any = Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() };
    Resource { any, trusts: trusts.map(str::to_owned) }
}

fn inline(bytes: Vec<u8>) -> Option<DataSource> {
    Some(DataSource { specifier: Some(data_source::Specifier::InlineBytes(bytes)) })
}

/// The certificate of an authority that nobody can be: its key is dropped as soon as it has signed itself. Made once, so that what
/// is sent stays the same.
fn nobody() -> Vec<u8> {
    static NOBODY: OnceLock<Vec<u8>> = OnceLock::new();
    NOBODY
        .get_or_init(|| {
            let make = || {
                let key = rcgen::KeyPair::generate()?;
                let mut params = rcgen::CertificateParams::new(Vec::new())?;
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.distinguished_name.push(rcgen::DnType::CommonName, "nobody");
                params.self_signed(&key)
            };
            make()
                .map(|certificate| pem::certificates(&[CertificateDer::from(certificate.der().to_vec())]))
                .unwrap_or_default()
        })
        .clone()
}
