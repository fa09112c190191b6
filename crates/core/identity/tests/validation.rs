//! The validator: reports, clocks, name constraints, revocation lists, pins and budgets.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SigningKey,
};
use rustls_pki_types::CertificateDer;
use support::{HOUR, NOW, secs};
use x0t_identity::validation::{
    Anchors, CheckKind, Depth, Options, PinError, PinSet, Pins, Place, Revocation, RevocationList, Status,
    TrustDomains, UnknownStatus, Validation, ValidationError, validate_svid,
};
use x0t_model::{TrustDomain, UnixTime};

const NODE: &str = "spiffe://mesh.test/node/beta";

fn domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

/// A CA whose key the test holds.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Ca {
    fn root(name: &str) -> Self {
        let (params, key) = (ca_params(name), ed25519());
        let der = params.self_signed(&key).unwrap().into();
        Self { params, key, der }
    }

    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (ca_params(name), ed25519());
        change(&mut params);
        let der = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().into();
        Self { params, key, der }
    }

    fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("beta");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.serial_number = Some(vec![7].into());
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        params.signed_by(&ed25519(), &Issuer::from_params(&self.params, &self.key)).unwrap().into()
    }

    fn validate(&self, chain: &[CertificateDer<'_>], options: &Options<'_>) -> Validation {
        let mut trust = TrustDomains::default();
        let roots = [self.der.clone()];
        trust.insert(domain(), Anchors::new(&roots));
        validate_svid(chain, &trust, options)
    }

    /// A revocation list with `extensions` of the list, and one entry with `entry_extensions` for serial number 7 if `is_revoked`.
    fn crl(&self, times: (u64, Option<u64>), is_revoked: bool, extensions: &[u8], entry_extensions: &[u8]) -> Vec<u8> {
        let algorithm = tlv(0x30, &[6, 3, 0x2b, 0x65, 0x70]);
        let issuer = x0t_identity::validation::Certificate::parse(&self.der).unwrap().subject().der().to_vec();
        let mut tbs = [vec![2, 1, 1], algorithm.clone(), issuer, time(times.0)].concat();
        tbs.extend(times.1.map(time).unwrap_or_default());
        if is_revoked {
            let mut entry = [vec![2, 1, 7], time(1000)].concat();
            if !entry_extensions.is_empty() {
                entry.extend(tlv(0x30, entry_extensions));
            }
            tbs.extend(tlv(0x30, &tlv(0x30, &entry)));
        }
        let number = tlv(0x30, &[&[6, 3, 0x55, 0x1d, 0x14][..], &tlv(4, &[2, 1, 5])].concat());
        tbs.extend(tlv(0xa0, &tlv(0x30, &[&number, extensions].concat())));
        let tbs = tlv(0x30, &tbs);
        let signature = self.key.sign(&tbs).unwrap();
        tlv(0x30, &[tbs, algorithm, tlv(3, &[&[0][..], &signature].concat())].concat())
    }
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs((NOW - HOUR).as_secs());
    params.not_after = epoch + Duration::from_secs((NOW + HOUR).as_secs());
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = value.len();
    let head = match len {
        0..=0x7f => vec![tag, len as u8],
        0x80..=0xff => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, value.to_vec()].concat()
}

/// An hour of 2026-11-21, as UTCTime; the clock of these tests stands at noon.
fn time(hour_minute: u64) -> Vec<u8> {
    tlv(0x17, format!("261121{hour_minute:04}00Z").as_bytes())
}

fn extension(oid: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[1, 1, 0xff] } else { &[] };
    tlv(0x30, &[tlv(6, oid), critical.to_vec(), tlv(4, value)].concat())
}

fn code(validation: &Validation) -> &'static str {
    validation.result.as_ref().map_or_else(ValidationError::code, |_| "ok")
}

#[test]
fn rv_6_the_report_lists_every_check_of_every_certificate() {
    let root = Ca::root("root");
    let intermediate = root.below("intermediate", |_| {});
    let chain = [intermediate.leaf(NODE, |_| {}), intermediate.der.clone()];
    let validation = root.validate(&chain, &Options::svid(NOW));
    let path = validation.result.unwrap();
    assert_eq!(path.places, [Place::Leaf, Place::Intermediate(1), Place::Anchor(0)]);
    assert_eq!(path.spiffe_id.unwrap().to_string(), NODE);
    assert_eq!(path.not_after, NOW + HOUR);
    for place in [Place::Leaf, Place::Intermediate(1), Place::Anchor(0)] {
        for kind in [
            CheckKind::Serial,
            CheckKind::Names,
            CheckKind::Validity,
            CheckKind::Key,
            CheckKind::KeyUsage,
            CheckKind::BasicConstraints,
            CheckKind::ExtendedKeyUsage,
            CheckKind::CriticalExtensions,
        ] {
            let of_place = |check: &&x0t_identity::validation::Check| check.kind == kind && check.place == Some(place);
            let checks: Vec<_> = validation.report.checks.iter().filter(of_place).collect();
            assert_eq!(checks.len(), 1, "{kind:?} of {place}");
            assert_eq!(checks[0].status, Status::Passed);
        }
    }
    let statuses =
        |kind| validation.report.checks.iter().filter(move |check| check.kind == kind).map(|check| &check.status);
    assert_eq!(statuses(CheckKind::Signature).count(), 2);
    assert!(statuses(CheckKind::Revocation).chain(statuses(CheckKind::Pin)).all(|status| *status == Status::NotAsked));
}

#[test]
fn rv_6_a_thorough_validation_goes_on_behind_the_first_failure() {
    let root = Ca::root("root");
    let leaf = root.leaf(NODE, |leaf| {
        leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        leaf.not_after = rcgen::date_time_ymd(2026, 11, 20);
    });
    let brief = root.validate(std::slice::from_ref(&leaf), &Options::svid(NOW));
    assert!(brief.report.checks.iter().any(|check| check.status == Status::NotReached));
    let thorough = root.validate(&[leaf], &Options { is_thorough: true, ..Options::svid(NOW) });
    let failed: Vec<_> = thorough.report.failed().map(ValidationError::code).collect();
    assert_eq!(failed, ["time_reversed", "constraint_key_usage"]);
    assert_eq!(thorough.result, brief.result);
    assert!(thorough.report.checks.iter().any(|check| check.kind == CheckKind::Signature));
}

#[test]
fn l15_an_error_about_time_says_what_both_clocks_say() {
    let root = Ca::root("root");
    let chain = [root.leaf(NODE, |_| {})];
    for off in [5, 120, 3600, 86_400] {
        for (now, alone) in [(NOW + HOUR + secs(off), "time_expired"), (NOW - HOUR - secs(off), "time_not_yet")] {
            let told = |peer_time| root.validate(&chain, &Options { peer_time, ..Options::svid(now) });
            assert_eq!(code(&told(None)), alone);
            // A peer whose clock says the same adds nothing; one whose clock is inside the validity does.
            assert_eq!(code(&told(Some(now))), alone);
            let skewed = told(Some(NOW));
            assert_eq!(code(&skewed), "time_skew_suspected");
            let text = skewed.result.unwrap_err().to_string();
            for time in [format!("{now:?}"), format!("{NOW:?}"), format!("{:?}", HOUR + secs(off))] {
                assert!(text.contains(&time), "{text} says {time}");
            }
        }
    }
}

#[test]
fn x5_12_a_ca_signs_only_for_the_hosts_its_uri_constraints_allow() {
    let root = Ca::root("root");
    // SEQUENCE { [0 or 1] { SEQUENCE { [6] host } } }
    let constrained = |list: u8, host: &str, is_critical: bool| {
        let value = tlv(0x30, &tlv(list, &tlv(0x30, &tlv(0x86, host.as_bytes()))));
        let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], value);
        constraints.set_criticality(is_critical);
        let ca = root.below("intermediate", |params| params.custom_extensions.push(constraints));
        code(&root.validate(&[ca.leaf(NODE, |_| {}), ca.der.clone()], &Options::svid(NOW)))
    };
    for is_critical in [true, false] {
        assert_eq!(constrained(0xa0, "mesh.test", is_critical), "ok");
        assert_eq!(constrained(0xa0, ".test", is_critical), "ok");
        for outside in ["other.test", ".mesh.test", "a.mesh.test", "test"] {
            assert_eq!(constrained(0xa0, outside, is_critical), "constraint_name", "{outside}");
            assert_eq!(constrained(0xa1, outside, is_critical), "ok", "{outside} is excluded");
        }
        assert_eq!(constrained(0xa1, "mesh.test", is_critical), "constraint_name");
        assert_eq!(constrained(0xa0, "", is_critical), "chain_unknown_issuer", "such a CA cannot be read");
    }
}

#[test]
fn x5_8_no_other_domains_anchor_vouches_for_the_leaf() {
    let (own, other) = (Ca::root("root"), Ca::root("root"));
    let mut trust = TrustDomains::default();
    let (own_roots, other_roots) = ([own.der.clone()], [other.der.clone()]);
    trust.insert("other.test".parse().unwrap(), Anchors::new(&other_roots));
    let of = |ca: &Ca| [ca.leaf(NODE, |_| {})];
    assert_eq!(code(&validate_svid(&of(&own), &trust, &Options::svid(NOW))), "chain_no_anchor");
    trust.insert(domain(), Anchors::new(&own_roots));
    assert_eq!(code(&validate_svid(&of(&own), &trust, &Options::svid(NOW))), "ok");
    assert_eq!(code(&validate_svid(&of(&other), &trust, &Options::svid(NOW))), "chain_unknown_issuer");
    trust.insert(domain(), Anchors::new(&[]));
    assert_eq!(code(&validate_svid(&of(&own), &trust, &Options::svid(NOW))), "chain_no_anchor", "X5-17");
}

#[test]
fn l18_two_hundred_roots_of_one_name_cost_one_signature_where_keys_have_names() {
    let roots: Vec<Ca> = (0..200).map(|_| Ca::root("root")).collect();
    let ders: Vec<_> = roots.iter().map(|root| root.der.clone()).collect();
    let mut trust = TrustDomains::default();
    trust.insert(domain(), Anchors::new(&ders));
    let limits = x0t_identity::validation::Limits { signature_checks_max: 1, ..Options::svid(NOW).limits };
    let options = Options { limits, ..Options::svid(NOW) };
    let last = &roots[199];
    assert_eq!(code(&validate_svid(&[last.leaf(NODE, |_| {})], &trust, &options)), "ok");
    let nameless = last.leaf(NODE, |leaf| leaf.use_authority_key_identifier_extension = false);
    assert_eq!(code(&validate_svid(&[nameless], &trust, &options)), "chain_budget_exceeded");
}

const AT_NOON: (u64, Option<u64>) = (1100, Some(1300));

#[test]
fn rv_1_a_list_counts_if_it_is_current_whole_and_by_the_issuer() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    let chain = [root.leaf(NODE, |leaf| {
        let points =
            ["http://a.test/1", "http://a.test/2"].map(|uri| rcgen::CrlDistributionPoint { uris: vec![uri.into()] });
        leaf.crl_distribution_points = points.into();
    })];
    let judged = |der: &[u8]| {
        let lists = [RevocationList::parse(der).unwrap()];
        let revocation = Some(Revocation { crls: &lists, ..Revocation::default() });
        code(&root.validate(&chain, &Options { revocation, ..Options::svid(NOW) }))
    };
    let list = |extensions: &[u8]| root.crl(AT_NOON, false, extensions, &[]);
    let idp = |value: &[u8]| extension(&[0x55, 0x1d, 0x1c], true, &tlv(0x30, value));
    let point = |uri: &str| tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    for (what, der, expected) in [
        ("current", list(&[]), "ok"),
        ("revoked", root.crl(AT_NOON, true, &[], &[]), "revoked"),
        ("revoked, by an old list", root.crl((900, Some(1000)), true, &[], &[]), "revoked"),
        ("over", root.crl((900, Some(1159)), false, &[], &[]), "crl_stale"),
        ("from the future", root.crl((1201, Some(1300)), false, &[], &[]), "crl_stale"),
        ("without an end", root.crl((1100, None), false, &[], &[]), "crl_stale"),
        ("another CA of the same name", other.crl(AT_NOON, false, &[], &[]), "crl_signature"),
        ("for the first distribution point", list(&idp(&point("http://a.test/1"))), "ok"),
        ("for the second (RUSTSEC-2026-0049)", list(&idp(&point("http://a.test/2"))), "ok"),
        ("for another", list(&idp(&point("http://a.test/3"))), "crl_scope"),
        ("for users", list(&idp(&[0x81, 1, 0xff])), "ok"),
        ("for CAs", list(&idp(&[0x82, 1, 0xff])), "crl_scope"),
        ("for attribute certificates", list(&idp(&[0x85, 1, 0xff])), "crl_scope"),
        ("for some reasons", list(&idp(&[0x83, 2, 6, 0x40])), "crl_scope"),
        ("indirect", list(&idp(&[0x84, 1, 0xff])), "crl_unsupported"),
        ("delta", list(&extension(&[0x55, 0x1d, 0x1b], true, &[2, 1, 4])), "crl_unsupported"),
        ("unknown critical", list(&extension(&[0x55, 0x1d, 0x7f], true, &[5, 0])), "crl_unsupported"),
        ("unknown", list(&extension(&[0x55, 0x1d, 0x7f], false, &[5, 0])), "ok"),
        (
            "an entry with an unknown critical extension",
            root.crl(AT_NOON, true, &[], &extension(&[0x55, 0x1d, 0x7f], true, &[5, 0])),
            "crl_unsupported",
        ),
        (
            "an entry of another issuer",
            root.crl(AT_NOON, true, &[], &extension(&[0x55, 0x1d, 0x1d], true, &tlv(0x30, &[0x86, 1, b'a']))),
            "crl_unsupported",
        ),
        (
            "an entry that takes something off",
            root.crl(AT_NOON, true, &[], &extension(&[0x55, 0x1d, 0x15], false, &[10, 1, 8])),
            "crl_unsupported",
        ),
    ] {
        assert_eq!(judged(&der), expected, "{what}");
    }
}

#[test]
fn rv_1_the_reason_of_a_revocation_is_told() {
    let root = Ca::root("root");
    let der = root.crl(AT_NOON, true, &[], &extension(&[0x55, 0x1d, 0x15], false, &[10, 1, 1]));
    let lists = [RevocationList::parse(&der).unwrap()];
    let revocation = Some(Revocation { crls: &lists, ..Revocation::default() });
    let validation = root.validate(&[root.leaf(NODE, |_| {})], &Options { revocation, ..Options::svid(NOW) });
    let error = validation.result.unwrap_err();
    assert!(error.to_string().contains("keyCompromise"), "{error}");
    assert_eq!(error.alert(), 44);
}

#[test]
fn rv_2_what_nobody_speaks_of_is_refused_unless_the_caller_tolerates_it_on_record() {
    let root = Ca::root("root");
    let intermediate = root.below("intermediate", |_| {});
    let chain = [intermediate.leaf(NODE, |_| {}), intermediate.der.clone()];
    let der = intermediate.crl(AT_NOON, false, &[], &[]);
    let lists = [RevocationList::parse(&der).unwrap()];
    let judged = |revocation| root.validate(&chain, &Options { revocation: Some(revocation), ..Options::svid(NOW) });
    let strict = Revocation { crls: &lists, ..Revocation::default() };
    let verdict = judged(strict);
    assert_eq!(verdict.result, Err(ValidationError::RevocationUnknown(Place::Intermediate(1))), "the leaf is known");
    assert_eq!(code(&judged(Revocation { depth: Depth::Leaf, ..strict })), "ok");
    let lax = judged(Revocation { unknown: UnknownStatus::Tolerate, ..strict });
    assert_eq!(code(&lax), "ok");
    assert_eq!(lax.report.tolerated().map(ValidationError::code).collect::<Vec<_>>(), ["revocation_unknown"]);
    let revoked = intermediate.crl(AT_NOON, true, &[], &[]);
    let lists = [RevocationList::parse(&revoked).unwrap()];
    let lax = Revocation { crls: &lists, unknown: UnknownStatus::Tolerate, ..Revocation::default() };
    assert_eq!(code(&judged(lax)), "revoked", "what is known to be revoked is never tolerated");
}

#[test]
fn a_revocation_list_cut_off_or_changed_anywhere_is_not_believed() {
    let root = Ca::root("root");
    let der = root.crl(AT_NOON, false, &[], &[]);
    for len in 0..der.len() {
        assert!(RevocationList::parse(&der[..len]).is_err(), "{len} bytes");
    }
    let chain = [root.leaf(NODE, |_| {})];
    for position in 0..der.len() {
        let mut forged = der.clone();
        forged[position] ^= 1 << (position % 8);
        let Ok(list) = RevocationList::parse(&forged) else { continue };
        let lists = [list];
        let revocation = Some(Revocation { crls: &lists, ..Revocation::default() });
        assert_ne!(
            code(&root.validate(&chain, &Options { revocation, ..Options::svid(NOW) })),
            "ok",
            "byte {position}"
        );
    }
}

#[test]
fn rv_5_a_pin_counts_on_the_validated_path_and_asks_for_a_backup() {
    let (root, stranger) = (Ca::root("root"), Ca::root("stranger"));
    let chain = [root.leaf(NODE, |_| {}), stranger.der.clone()];
    let key = |ca: &Ca| x0t_identity::validation::Certificate::parse(&ca.der).unwrap().public_key_digest();
    let backup = [9; 32];
    let judged = |pins: &Pins| code(&root.validate(&chain, &Options { pins: Some(pins), ..Options::svid(NOW) }));
    let set = |keys: &[[u8; 32]]| PinSet::new(keys.iter().copied());
    assert_eq!(set(&[key(&root)]), Err(PinError::NoBackup));
    assert_eq!(set(&[key(&root), key(&root)]), Err(PinError::NoBackup), "one key twice is one key");
    assert_eq!(judged(&Pins::for_all(set(&[key(&root), backup]).unwrap())), "ok");
    // The stranger's certificate was shown, but nothing leads through it.
    assert_eq!(judged(&Pins::for_all(set(&[key(&stranger), backup]).unwrap())), "pin_mismatch");
    let leaf = root.validate(&chain, &Options::svid(NOW)).result.unwrap().keys[0];
    assert_eq!(judged(&Pins::for_all(set(&[key(&root), leaf]).unwrap())), "pin_no_backup");
    let mut pins = Pins::for_all(set(&[[1; 32], backup]).unwrap());
    assert_eq!(judged(&pins), "pin_mismatch");
    pins.pin_domain(domain(), set(&[key(&root), backup]).unwrap());
    assert_eq!(judged(&pins), "ok");
    pins.pin_id(NODE.parse().unwrap(), set(&[[1; 32], backup]).unwrap());
    assert_eq!(judged(&pins), "pin_mismatch", "pins of an identity come before those of its domain");
}

#[test]
fn der_that_two_readers_could_understand_differently_is_refused() {
    let root = Ca::root("root");
    let leaf = root.leaf(NODE, |_| {});
    let verdict = |der: Vec<u8>| code(&root.validate(&[der.into()], &Options::svid(NOW)));
    assert_eq!(verdict(leaf.to_vec()), "ok");
    assert_eq!(verdict([&leaf[..], &[0]].concat()), "parse_malformed", "a byte behind");
    // The outer length in one byte more than it needs.
    let padded = [&[0x30, 0x83, 0][..], &leaf[2..]].concat();
    assert_eq!(verdict(padded), "parse_malformed");
    let indefinite = [&[0x30, 0x80][..], &leaf[4..], &[0, 0]].concat();
    assert_eq!(verdict(indefinite), "parse_malformed");
}

#[test]
fn a_code_and_an_alert_belong_to_every_error() {
    let error = ValidationError::UnknownIssuer { place: Place::Leaf, issuer: "CN=x".into() };
    assert_eq!((error.code(), error.alert(), error.is_retryable()), ("chain_unknown_issuer", 48, true));
    let now = UnixTime::from_secs(1);
    let expired = ValidationError::Expired { place: Place::Anchor(0), ago: HOUR, not_after: now, now, skew: None };
    assert_eq!((expired.code(), expired.alert(), expired.is_retryable()), ("time_anchor_expired", 45, false));
}
