//! The validator and rustls-webpki judge the same random hierarchies, and agree.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519, SanType,
};
use rustls_pki_types::{CertificateDer, ServerName};
use x0t_identity::validation::{Anchors, Expected, Options, PeerName, Purpose, Standard, validate_peer};
use x0t_model::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);
const NAMES: [&str; 4] = ["a.example.com", "b.example.com", "example.com", "example.org"];
const CONSTRAINTS: [&str; 4] = ["example.com", "a.example.com", "org", "xample.com"];

/// What may be wrong with one certificate.
#[derive(Clone, Debug)]
struct Plan {
    is_ca: bool,
    path_len: Option<u8>,
    is_over: bool,
    permitted: Option<usize>,
    excluded: Option<usize>,
    /// None, server, client.
    usage: u8,
    /// Signed by a key that is not its issuer's.
    is_forged: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let rare = || prop::bool::weighted(0.06);
    let constraint = || prop::option::weighted(0.3, 0..CONSTRAINTS.len());
    let path_len = prop::option::weighted(0.4, 0..3_u8);
    (rare(), path_len, rare(), constraint(), constraint(), 0..8_u8, rare()).prop_map(
        |(is_no_ca, path_len, is_over, permitted, excluded, usage, is_forged)| {
            let excluded = excluded.filter(|_| permitted.is_none() || usage % 2 == 0);
            Plan { is_ca: !is_no_ca, path_len, is_over, permitted, excluded, usage, is_forged }
        },
    )
}

fn params(name: &str, plan: &Plan) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(NOW.as_secs() - 60);
    params.not_after = epoch + Duration::from_secs(if plan.is_over { NOW.as_secs() - 1 } else { NOW.as_secs() + 60 });
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = match plan.usage {
        1..=5 => vec![ExtendedKeyUsagePurpose::ServerAuth],
        6 => vec![ExtendedKeyUsagePurpose::ClientAuth],
        7 => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        _ => vec![],
    };
    params
}

fn ca_params(name: &str, plan: &Plan) -> CertificateParams {
    let mut params = params(name, plan);
    params.is_ca = match (plan.is_ca, plan.path_len) {
        (false, _) => IsCa::ExplicitNoCa,
        (true, None) => IsCa::Ca(BasicConstraints::Unconstrained),
        (true, Some(len)) => IsCa::Ca(BasicConstraints::Constrained(len)),
    };
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let subtrees = |which: Option<usize>| which.map(|at| GeneralSubtree::DnsName(CONSTRAINTS[at].to_owned()));
    if plan.permitted.or(plan.excluded).is_some() {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: subtrees(plan.permitted).into_iter().collect(),
            excluded_subtrees: subtrees(plan.excluded).into_iter().collect(),
        });
    }
    params
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn webpki_agrees(
        root in plan(), intermediates in prop::collection::vec(plan(), 0..4), leaf in plan(),
        names in prop::collection::vec(0..NAMES.len(), 1..3), wanted in 0..NAMES.len(),
    ) {
        // What webpki does not look at in an anchor is right in this one.
        let root = Plan { is_ca: true, path_len: None, is_over: false, usage: 0, ..root };
        let mut issuer = (ca_params("root", &root), ed25519());
        let root_der: CertificateDer<'static> = issuer.0.self_signed(&issuer.1).unwrap().into();
        let mut chain: Vec<CertificateDer<'static>> = Vec::new();
        for (at, plan) in intermediates.iter().enumerate() {
            let (params, key, other) = (ca_params(&format!("intermediate {at}"), plan), ed25519(), ed25519());
            let signer = if plan.is_forged { &other } else { &issuer.1 };
            chain.insert(0, params.signed_by(&key, &Issuer::from_params(&issuer.0, signer)).unwrap().into());
            issuer = (params, key);
        }
        let mut leaf_params = params("leaf", &leaf);
        leaf_params.is_ca = IsCa::ExplicitNoCa;
        leaf_params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf_params.subject_alt_names = names.iter().map(|at| SanType::DnsName(NAMES[*at].try_into().unwrap())).collect();
        let other = ed25519();
        let signer = if leaf.is_forged { &other } else { &issuer.1 };
        let leaf_der = leaf_params.signed_by(&ed25519(), &Issuer::from_params(&issuer.0, signer)).unwrap().into();
        chain.insert(0, leaf_der);

        let anchors = [root_der];
        let name: PeerName = NAMES[wanted].parse().unwrap();
        let names = [name];
        let standard = Standard::Rfc5280;
        let expected = Expected { purpose: Purpose::ServerAuth, names: &names, suffixes: None, standard };
        let ours = validate_peer(&chain, &Anchors::new(&anchors), &expected, &Options::web(NOW)).result;
        let theirs = webpki(&chain, &anchors[0], NAMES[wanted]);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} and {:?}", ours, theirs);
    }
}

fn webpki(chain: &[CertificateDer<'_>], anchor: &CertificateDer<'_>, name: &str) -> Result<(), webpki::Error> {
    let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
    let anchors = [webpki::anchor_from_trusted_cert(anchor)?];
    let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(NOW.as_secs()));
    let usage = webpki::KeyUsage::server_auth();
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], time, usage, None, None)?;
    leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name.to_owned()).unwrap())
}
