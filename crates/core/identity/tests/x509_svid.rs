//! The conformance items X5-1 to X5-17 that concern this crate: certificates that are wrong in one way each, and the refusal.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, RsaKeySize,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::validation::{Options, TrustDomains, validate_svid};
use x0t_identity::{Bundle, BundleError, Leaf, Svid, SvidError, VerifyError};
use x0t_model::{SpiffeId, UnixTime};

/// The time type of certificates comes from a crate that this one does not depend on, so it cannot be named in a signature.
macro_rules! date {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($time.as_secs())
    };
}

const DOMAIN: &str = "mesh.test";
const NODE: &str = "spiffe://mesh.test/node/beta";

#[test]
fn x5_1_exactly_one_uri_name_is_required() {
    let ca = Ca::new();
    assert_eq!(ca.verdict(|leaf| leaf.subject_alt_names.clear()), Err(VerifyError::NotOneUri(0)));
    let dns_only = |leaf: &mut CertificateParams| leaf.subject_alt_names = vec![dns("beta.test")];
    assert_eq!(ca.verdict(dns_only), Err(VerifyError::NotOneUri(0)));
    for second in ["spiffe://mesh.test/node/gamma", "https://mesh.test/", NODE] {
        assert_eq!(ca.verdict(|leaf| leaf.subject_alt_names.push(uri(second))), Err(VerifyError::NotOneUri(2)));
    }
}

#[test]
fn x5_2_other_names_are_allowed_and_a_second_san_extension_is_not() {
    let ca = Ca::new();
    assert_eq!(ca.verdict(|leaf| leaf.subject_alt_names.push(dns("beta.test"))), Ok(()));
    let mut second = vec![0x30, NODE.len() as u8 + 2, 0x86, NODE.len() as u8];
    second.extend_from_slice(NODE.as_bytes());
    let second = CustomExtension::from_oid_content(&[2, 5, 29, 17], second);
    let verdict = ca.verdict(|leaf| leaf.custom_extensions.push(second.clone()));
    assert_eq!(verdict, Err(VerifyError::DuplicateExtension("subjectAltName")));
}

#[test]
fn x5_3_the_leaf_names_somebody_in_the_trust_domain_and_not_the_domain_itself() {
    let ca = Ca::new();
    for bad in ["spiffe://mesh.test", "spiffe://mesh.test/", "https://mesh.test/node/beta", "spiffe://mesh.test//a", ""]
    {
        let verdict = ca.verdict(|leaf| leaf.subject_alt_names = vec![uri(bad)]);
        assert!(matches!(verdict, Err(VerifyError::BadSpiffeId(_))), "{bad}: {verdict:?}");
    }
}

#[test]
fn x5_4_a_leaf_is_no_ca_and_its_key_usage_is_critical_digital_signature() {
    let ca = Ca::new();
    let ca_true = |leaf: &mut CertificateParams| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(ca.verdict(ca_true), Err(VerifyError::LeafIsCa));
    for signing in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_eq!(ca.verdict(|leaf| leaf.key_usages.push(signing)), Err(VerifyError::LeafMaySign));
    }
    let no_digital = |leaf: &mut CertificateParams| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    assert_eq!(ca.verdict(no_digital), Err(VerifyError::NoDigitalSignature));
    assert_eq!(ca.verdict(|leaf| leaf.key_usages.clear()), Err(VerifyError::NoKeyUsage));
    let not_critical = |leaf: &mut CertificateParams| {
        leaf.key_usages.clear();
        // BIT STRING with only digitalSignature set.
        let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80]);
        leaf.custom_extensions.push(usage);
    };
    assert_eq!(ca.verdict(not_critical), Err(VerifyError::KeyUsageNotCritical));
}

#[test]
fn x5_5_an_empty_subject_asks_for_a_critical_san_and_is_accepted_with_one() {
    let ca = Ca::new();
    assert_eq!(ca.verdict(|leaf| leaf.distinguished_name = DistinguishedName::new()), Ok(()));
    let mut name = vec![0x30, NODE.len() as u8 + 2, 0x86, NODE.len() as u8];
    name.extend_from_slice(NODE.as_bytes());
    let not_critical = |subject: DistinguishedName| {
        let name = name.clone();
        move |leaf: &mut CertificateParams| {
            leaf.distinguished_name = subject;
            leaf.subject_alt_names.clear();
            leaf.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], name));
        }
    };
    let verdict = ca.verdict(not_critical(DistinguishedName::new()));
    assert_eq!(verdict, Err(VerifyError::SubjectAltNameNotCritical));
    assert_eq!(ca.verdict(not_critical(subject("beta"))), Ok(()));
}

#[test]
fn x5_6_extended_key_usage_has_both_purposes_or_is_absent() {
    let ca = Ca::new();
    assert_eq!(ca.verdict(|leaf| leaf.extended_key_usages.clear()), Ok(()));
    for only in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::Any]
    {
        let verdict = ca.verdict(|leaf| leaf.extended_key_usages = vec![only]);
        assert_eq!(verdict, Err(VerifyError::ExtendedKeyUsageIncomplete));
    }
    assert_eq!(ca.verdict(|leaf| leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)), Ok(()));
}

#[test]
fn x5_7_only_a_ca_with_key_cert_sign_signs_and_it_names_no_other_trust_domain() {
    let ca = Ca::new();
    assert_eq!(
        verify_chain(std::slice::from_ref(&ca.certificate), &ca.bundle(), NOW),
        Err(VerifyError::BadSpiffeId(x0t_model::SpiffeIdError::EmptySegment))
    );
    let not_a_ca = Ca::with(|params| params.is_ca = IsCa::ExplicitNoCa);
    let may_not_sign = Ca::with(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    for unfit in [&not_a_ca, &may_not_sign] {
        assert_eq!(unfit.try_bundle(), Err(BundleError::Authority(VerifyError::NotAnAuthority)));
    }
    for foreign in ["spiffe://other.test", "spiffe://mesh.test/ca"] {
        let foreign = Ca::with(|params| params.subject_alt_names = vec![uri(foreign)]);
        assert!(matches!(foreign.try_bundle(), Err(BundleError::Authority(VerifyError::ForeignAuthority { .. }))));
    }
    assert!(Ca::with(|params| params.subject_alt_names.clear()).try_bundle().is_ok());
}

#[test]
fn x5_8_the_leaf_selects_the_trust_domain_and_no_other_domains_authority_helps() {
    let (mesh, other) = (Ca::new(), Ca::of("other.test"));
    let leaf = mesh.leaf(|_| {});
    // Positive control, then the same chain against another domain's bundle.
    assert_eq!(verify_chain(std::slice::from_ref(&leaf), &mesh.bundle(), NOW), Ok(id(NODE)));
    let verdict = verify_chain(&[leaf], &other.bundle(), NOW);
    assert_eq!(verdict, Err(VerifyError::UnknownTrustDomain(DOMAIN.parse().unwrap())));
    // A domain's authority that signs for a stranger's domain convinces neither.
    let forged = other.leaf(|leaf| leaf.subject_alt_names = vec![uri(NODE)]);
    let verdict = verify_chain(std::slice::from_ref(&forged), &other.bundle(), NOW);
    assert_eq!(verdict.unwrap_err().code(), "unknown_trust_domain");
    assert_eq!(verify_chain(&[forged], &mesh.bundle(), NOW).unwrap_err().code(), "untrusted");
}

#[test]
fn x5_8_an_authority_with_the_same_subject_and_another_key_is_not_trusted() {
    let (real, impostor) = (Ca::new(), Ca::new());
    let verdict = verify_chain(&[impostor.leaf(|_| {})], &real.bundle(), NOW);
    assert!(matches!(verdict, Err(VerifyError::Untrusted(webpki::Error::InvalidSignatureForPublicKey))), "{verdict:?}");
}

#[test]
fn x5_9_a_leaf_outside_its_time_is_refused_with_the_distance_and_a_hint_at_the_clocks() {
    let ca = Ca::new();
    let chain = [ca.leaf(|_| {})];
    let at = |now: UnixTime| verify_chain(&chain, &ca.bundle(), now);
    assert_eq!(at(NOW - secs(60)), Ok(id(NODE)));
    assert_eq!(at(NOW + HOUR), Ok(id(NODE)), "the last second is valid");
    for off in [5, 120, 3600, 86_400] {
        let late = at(NOW + HOUR + secs(off)).unwrap_err();
        assert!(matches!(&late, VerifyError::Expired { id, ago, .. } if id.to_string() == NODE && *ago == secs(off)));
        let early = at(NOW - secs(60 + off)).unwrap_err();
        assert!(matches!(&early, VerifyError::NotYetValid { starts_in, .. } if *starts_in == secs(off)));
        assert!(late.to_string().contains("clocks") && early.to_string().contains("clock here is slow"));
        assert_eq!((late.code(), early.code()), ("expired", "not_yet_valid"));
    }
}

#[test]
fn x5_9_authorities_and_intermediates_outside_their_time_are_refused() {
    let old = Ca::with(|params| params.not_after = date!(NOW - secs(1)));
    let verdict = verify_chain(&[old.leaf(|_| {})], &old.bundle(), NOW);
    assert_eq!(verdict.unwrap_err().code(), "no_valid_authority");
    let root = Ca::new();
    let intermediate = root.intermediate(|params| params.not_after = date!(NOW - secs(1)));
    let chain = [intermediate.leaf(|_| {}), intermediate.certificate.clone()];
    assert_eq!(verify_chain(&chain, &root.bundle(), NOW).unwrap_err().code(), "intermediate_out_of_time");
}

#[test]
fn x5_10_intermediates_are_followed_in_any_order_and_bounded() {
    let root = Ca::new();
    let (upper, bundle) = (root.intermediate(|_| {}), root.bundle());
    let lower = upper.intermediate(|_| {});
    let leaf = lower.leaf(|_| {});
    let (upper_der, lower_der) = (upper.certificate.clone(), lower.certificate.clone());
    let in_order = [leaf.clone(), lower_der.clone(), upper_der.clone()];
    let disordered = [leaf.clone(), upper_der.clone(), lower_der.clone(), upper_der, root.certificate.clone()];
    assert_eq!(verify_chain(&in_order, &bundle, NOW), Ok(id(NODE)));
    assert_eq!(verify_chain(&disordered, &bundle, NOW), Ok(id(NODE)));
    assert_eq!(verify_chain(&in_order[..2], &bundle, NOW).unwrap_err().code(), "untrusted");
    let long: Vec<_> = std::iter::once(leaf).chain(std::iter::repeat_n(lower_der, 8)).collect();
    assert_eq!(verify_chain(&long, &bundle, NOW), Err(VerifyError::ChainTooLong(9)));
    assert_eq!(verify_chain(&[], &bundle, NOW), Err(VerifyError::NoCertificate));
}

#[test]
fn x5_10_a_leaf_cannot_sign_another_leaf() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let key = KeyPair::try_from(beta.key_pkcs8()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&beta.chain()[0], &key).unwrap();
    let forged = leaf_params("spiffe://mesh.test/node/root").signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    let chain = [forged.into(), beta.chain()[0].clone()];
    assert_eq!(verify_chain(&chain, mesh.authority.bundle(), NOW), Err(VerifyError::NotAnAuthority));
}

#[test]
fn x5_11_every_authority_of_a_bundle_is_trusted_until_it_is_removed() {
    let (one, two) = (Ca::new(), Ca::with(|params| params.distinguished_name = subject("second")));
    let both = vec![one.certificate.clone(), two.certificate.clone()];
    let both = Bundle::new(DOMAIN.parse().unwrap(), both, 2).unwrap();
    for ca in [&one, &two] {
        assert_eq!(verify_chain(&[ca.leaf(|_| {})], &both, NOW), Ok(id(NODE)));
    }
    assert_eq!(verify_chain(&[two.leaf(|_| {})], &one.bundle(), NOW).unwrap_err().code(), "untrusted");
}

#[test]
fn x5_12_an_authority_with_a_uri_name_constraint_vouches_for_nobody_rather_than_for_too_many() {
    // RFC 5280, 4.2.1.10: a bare host is that host, a leading dot is what is below it. The library that checks paths reads neither and
    // refuses both, whatever the leaf is called: too strict, and never too lax. The validator with the full report reads them
    // (`tests/validation.rs`), so here the two do not agree.
    for (host, critical) in
        [("mesh.test", true), ("mesh.test", false), (".mesh.test", true), ("other.test", true), (".test", false)]
    {
        let ca = Ca::with(|params| params.custom_extensions.push(permitted_uri(host, critical)));
        let verdict = ca.try_bundle().map(|bundle| x0t_identity::verify_chain(&[ca.leaf(|_| {})], &bundle, NOW));
        assert!(!matches!(verdict, Ok(Ok(_))), "in the root, {host}: {verdict:?}");
        let root = Ca::new();
        let below = root.intermediate(|params| params.custom_extensions.push(permitted_uri(host, critical)));
        let verdict = x0t_identity::verify_chain(&[below.leaf(|_| {}), below.certificate.clone()], &root.bundle(), NOW);
        assert!(verdict.is_err(), "in the intermediate, {host}: {verdict:?}");
    }
    let (root, bare) = (Ca::new(), |_: &mut CertificateParams| {});
    let below = root.intermediate(bare);
    let verdict = x0t_identity::verify_chain(&[below.leaf(bare), below.certificate.clone()], &root.bundle(), NOW);
    assert_eq!(verdict, Ok(id(NODE)), "positive control");
}

#[test]
fn x5_16_a_foreign_leaf_is_held_against_its_own_domains_bundle_alone() {
    let (mesh, other) = (Ca::new(), Ca::of("other.test"));
    let leaf = other.leaf(|_| {});
    assert!(verify_chain(std::slice::from_ref(&leaf), &other.bundle(), NOW).is_ok(), "positive control");
    let gone = Err(VerifyError::UnknownTrustDomain("other.test".parse().unwrap()));
    assert_eq!(verify_chain(std::slice::from_ref(&leaf), &mesh.bundle(), NOW), gone);
    // Our authority certified the foreign name: neither bundle makes that a foreigner.
    let forged = mesh.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://other.test/node/beta")]);
    assert_eq!(verify_chain(std::slice::from_ref(&forged), &mesh.bundle(), NOW), gone);
    assert!(matches!(verify_chain(&[forged], &other.bundle(), NOW), Err(VerifyError::Untrusted(_))));
}

#[test]
fn x5_13_an_svid_holds_only_the_key_that_its_leaf_certifies() {
    let mut mesh = Mesh::new();
    let (beta, gamma) = (mesh.join("beta"), mesh.join("gamma"));
    let mixed = Svid::new(beta.chain().to_vec(), gamma.key().clone());
    assert_eq!(mixed.unwrap_err(), SvidError::KeyMismatch(id(NODE)));
}

#[test]
fn x5_14_keys_on_the_usual_curves_are_accepted_and_others_are_not() {
    let ca = Ca::new();
    let with = |key: &KeyPair| verify_chain(&[ca.leaf_for(key, |_| {})], &ca.bundle(), NOW).map(|_| ());
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        assert_eq!(with(&KeyPair::generate_for(algorithm).unwrap()), Ok(()));
    }
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert_eq!(with(&rsa), Ok(()));
    let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    assert_eq!(with(&p521), Err(VerifyError::UnacceptableKey));
}

#[test]
fn x5_15_serials_unknown_critical_extensions_and_ca_extensions_in_a_leaf() {
    let ca = Ca::new();
    for bad in [vec![0], vec![0x01; 21]] {
        let verdict = ca.verdict(|leaf| leaf.serial_number = Some(SerialNumber::from(bad)));
        assert_eq!(verdict, Err(VerifyError::BadSerial));
    }
    assert_eq!(ca.verdict(|leaf| leaf.serial_number = Some(SerialNumber::from(vec![0x7f; 20]))), Ok(()));
    let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0x05, 0x00]);
    assert_eq!(ca.verdict(|leaf| leaf.custom_extensions.push(unknown.clone())), Ok(()));
    unknown.set_criticality(true);
    let verdict = ca.verdict(|leaf| leaf.custom_extensions.push(unknown));
    assert_eq!(verdict, Err(VerifyError::Untrusted(webpki::Error::UnsupportedCriticalExtension)));
    // SEQUENCE { [0] { SEQUENCE { [6] "a" } } }
    let constraints = vec![0x30, 0x07, 0xa0, 0x05, 0x30, 0x03, 0x86, 0x01, b'a'];
    let constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
    let verdict = ca.verdict(|leaf| leaf.custom_extensions.push(constraints));
    assert_eq!(verdict, Err(VerifyError::CaExtensionInLeaf("nameConstraints")));
    // SEQUENCE { INTEGER 0 }: cA=false with a path length.
    let path_len = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x02, 0x01, 0x00]);
    let verdict = ca.verdict(|leaf| {
        leaf.is_ca = IsCa::NoCa;
        leaf.custom_extensions.push(path_len);
    });
    assert_eq!(verdict, Err(VerifyError::CaExtensionInLeaf("pathLenConstraint")));
}

#[test]
fn x5_15_an_extension_that_cannot_be_read_does_not_count_as_absent() {
    let ca = Ca::new();
    for oid in [19, 15, 37, 17] {
        let garbage = CustomExtension::from_oid_content(&[2, 5, 29, oid], vec![0x04, 0x01, 0xff]);
        let verdict = ca.verdict(|leaf| {
            leaf.is_ca = IsCa::NoCa;
            leaf.key_usages.retain(|_| oid != 15);
            leaf.extended_key_usages.retain(|_| oid != 37);
            leaf.subject_alt_names.retain(|_| oid != 17);
            leaf.custom_extensions.push(garbage);
        });
        assert!(matches!(verdict, Err(VerifyError::Malformed(_))), "2.5.29.{oid}: {verdict:?}");
    }
}

#[test]
fn x5_17_an_empty_bundle_trusts_nobody() {
    let ca = Ca::new();
    let empty = Bundle::new(DOMAIN.parse().unwrap(), Vec::new(), 9).unwrap();
    let verdict = verify_chain(&[ca.leaf(|_| {})], &empty, NOW);
    assert_eq!(verdict.unwrap_err().code(), "no_valid_authority");
}

#[test]
fn a_certificate_cut_off_or_extended_anywhere_is_refused() {
    let ca = Ca::new();
    let leaf = ca.leaf(|_| {});
    for len in 0..leaf.len() {
        assert!(Leaf::read(&CertificateDer::from(&leaf[..len])).is_err(), "{len} bytes");
    }
    let mut longer = leaf.to_vec();
    longer.push(0);
    assert_eq!(Leaf::read(&longer.into()), Err(VerifyError::Malformed("certificate")));
    let huge = CertificateDer::from(vec![0x30; 9000]);
    assert_eq!(verify_chain(&[huge], &ca.bundle(), NOW), Err(VerifyError::CertificateTooLarge { bytes: 9000 }));
}

#[test]
fn a_certificate_with_any_bit_flipped_is_refused() {
    let ca = Ca::new();
    let (leaf, bundle) = (ca.leaf(|_| {}), ca.bundle());
    for position in 0..leaf.len() {
        let mut forged = leaf.to_vec();
        forged[position] ^= 1 << (position % 8);
        let verdict = verify_chain(&[forged.into()], &bundle, NOW);
        assert!(verdict.is_err(), "bit {} of byte {position} changes nothing", position % 8);
    }
}

/// What the session path says; the validator with the full report has to agree.
fn verify_chain(chain: &[CertificateDer<'_>], bundle: &Bundle, now: UnixTime) -> Result<SpiffeId, VerifyError> {
    let verdict = x0t_identity::verify_chain(chain, bundle, now);
    let validation = validate_svid(chain, &TrustDomains::of_bundle(bundle), &Options::svid(now));
    let id = validation.result.as_ref().ok().and_then(|path| path.spiffe_id.as_ref());
    assert_eq!(id, verdict.as_ref().ok(), "{verdict:?} and {:?}", validation.result);
    assert_eq!(validation.report.failed().next(), validation.result.as_ref().err());
    verdict
}

/// An authority whose key the test holds, so that it can make certificates that an honest one never would.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    domain: &'static str,
}

impl Ca {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::of_with(DOMAIN, change)
    }

    fn of(domain: &'static str) -> Self {
        Self::of_with(domain, |_| {})
    }

    fn of_with(domain: &'static str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(domain, "root");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().into();
        Self { params, key, certificate, domain }
    }

    fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(self.domain, "intermediate");
        params.distinguished_name.push(DnType::OrganizationName, format!("under {}", self.certificate.len()));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().into();
        Self { params, key, certificate, domain: self.domain }
    }

    fn try_bundle(&self) -> Result<Bundle, BundleError> {
        Bundle::new(self.domain.parse().unwrap(), vec![self.certificate.clone()], 1)
    }

    fn bundle(&self) -> Bundle {
        self.try_bundle().unwrap()
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        self.leaf_for(&KeyPair::generate().unwrap(), change)
    }

    fn leaf_for(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = leaf_params(&NODE.replace(DOMAIN, self.domain));
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().into()
    }

    /// What becomes of a leaf that is right but for `change`; without a change it is accepted.
    fn verdict(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<(), VerifyError> {
        assert_eq!(verify_chain(&[self.leaf(|_| {})], &self.bundle(), NOW), Ok(id(NODE)), "positive control");
        verify_chain(&[self.leaf(change)], &self.bundle(), NOW).map(|_| ())
    }
}

/// NameConstraints with one permitted subtree, a uniformResourceIdentifier.
fn permitted_uri(host: &str, critical: bool) -> CustomExtension {
    let len = u8::try_from(host.len()).unwrap();
    let mut der = vec![0x30, len + 6, 0xa0, len + 4, 0x30, len + 2, 0x86, len];
    der.extend_from_slice(host.as_bytes());
    let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
    constraints.set_criticality(critical);
    constraints
}

fn ca_params(domain: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.not_before = date!(NOW - secs(60));
    params.not_after = date!(NOW + 24 * HOUR);
    params
}

fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("beta");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri(id)];
    params.not_before = date!(NOW - secs(60));
    params.not_after = date!(NOW + HOUR);
    params
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}
