//! The validator against the x509-limbo suite (github.com/C2SP/x509-limbo), of which a part lies beside the repository.
//!
//! Every case agrees, or is named in [`STRICTER`] with the reason. There is no list for the other direction: nothing is accepted that
//! must be rejected.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};
use serde::Deserialize;
use x0t_identity::validation::{
    Anchors, Depth, Expected, Limits, Options, PeerName, PublicSuffixes, Purpose, Revocation, RevocationList, Standard,
    UnknownStatus, ValidPath, ValidationError, validate_peer,
};
use x0t_model::UnixTime;

/// Where the vectors are: `X0T_SHARED`, or `shared` beside the repository.
fn vectors() -> Option<String> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../../shared");
    let path = std::env::var_os("X0T_SHARED").map_or_else(beside, PathBuf::from).join("vectors/limbo.json");
    std::fs::read_to_string(path).ok()
}

/// Valid by RFC 5280 and refused here.
const STRICTER: [(&str, &str); 5] = [
    ("rfc5280::ca-as-leaf", "conflicts with webpki::ca-as-leaf: a CA certificate never authenticates a peer"),
    ("pathlen::validation-ignores-pathlen-in-leaf", "its leaf is a CA certificate, too"),
    ("webpki::nc::nc-permits-dns-san-pattern", COMMON_NAME),
    ("webpki::san::exact-localhost-ip-san", COMMON_NAME),
    ("webpki::san::leftmost-wildcard-san", COMMON_NAME),
];
const COMMON_NAME: &str =
    "its common name is none of its alternative names: webpki::cn::not-in-san has to be refused for it";

/// The part of publicsuffix.org's list that the cases are about.
const SUFFIXES: &str = "com\norg\ntest\nus\nuk\nco.uk\nio\ncom.au\ns3.amazonaws.com\n";

/// When cases without a time of their own are judged: 2026-11-29.
const TODAY: u64 = 1_795_910_400;

#[derive(Deserialize)]
struct Suite {
    testcases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    extended_key_usage: Vec<String>,
    expected_result: String,
    expected_peer_name: Option<Name>,
    expected_peer_names: Vec<Name>,
    max_chain_depth: Option<usize>,
    crls: Vec<String>,
}

#[derive(Deserialize)]
struct Name {
    value: String,
}

/// A case, read.
struct Given {
    chain: Vec<CertificateDer<'static>>,
    trusted: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    /// A name that is no name at all cannot be asked for.
    names: Option<Vec<PeerName>>,
    purpose: Purpose,
    now: UnixTime,
    standard: Standard,
    intermediates_max: usize,
}

impl Case {
    fn given(&self) -> Given {
        let certificate = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let crl = |pem: &String| CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        let shown = std::iter::once(&self.peer_certificate).chain(&self.untrusted_intermediates);
        let names = self.expected_peer_name.iter().chain(&self.expected_peer_names);
        let asks_for_client = self.extended_key_usage.iter().any(|usage| usage == "clientAuth");
        let is_client = self.validation_kind == "CLIENT" || asks_for_client;
        Given {
            chain: shown.map(certificate).collect(),
            trusted: self.trusted_certs.iter().map(certificate).collect(),
            crls: self.crls.iter().map(crl).collect(),
            names: names.map(|name| name.value.parse().ok()).collect(),
            purpose: if is_client { Purpose::ClientAuth } else { Purpose::ServerAuth },
            now: UnixTime::from_secs(self.validation_time.as_deref().map_or(TODAY, seconds)),
            standard: self.standard(),
            intermediates_max: self.max_chain_depth.unwrap_or(Limits::WEB.intermediates_max),
        }
    }

    /// The suite's groups are about different standards, and contradict each other where those differ.
    fn standard(&self) -> Standard {
        let is_public = ["webpki::", "online::"].iter().any(|group| self.id.starts_with(group));
        if is_public { Standard::BaselineRequirements } else { Standard::Rfc5280 }
    }

    fn must_succeed(&self) -> bool {
        self.expected_result == "SUCCESS"
    }
}

impl Given {
    fn validate(&self, limits: Limits) -> Result<ValidPath, ValidationError> {
        let Some(names) = &self.names else { return Err(ValidationError::ServerName("what is no name".into())) };
        let lists: Vec<_> = self.crls.iter().filter_map(|der| RevocationList::parse(der).ok()).collect();
        let revocation =
            Revocation { crls: &lists, unknown: UnknownStatus::Deny, depth: Depth::Leaf, ..Revocation::default() };
        let suffixes = PublicSuffixes::parse(SUFFIXES);
        let expected = Expected { purpose: self.purpose, names, suffixes: Some(&suffixes), standard: self.standard };
        let limits = Limits { intermediates_max: self.intermediates_max, ..limits };
        let revocation = (!self.crls.is_empty()).then_some(revocation);
        let options = Options { limits, revocation, ..Options::web(self.now) };
        validate_peer(&self.chain, &Anchors::new(&self.trusted), &expected, &options).result
    }

    /// What rustls-webpki says, names and all.
    fn webpki(&self) -> Result<(), String> {
        let said = |error: webpki::Error| format!("{error:?}");
        let leaf = webpki::EndEntityCert::try_from(&self.chain[0]).map_err(said)?;
        let anchors: Vec<_> =
            self.trusted.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok()).collect();
        let crls: Vec<webpki::CertRevocationList<'_>> = self
            .crls
            .iter()
            .map(|der| Ok(webpki::BorrowedCertRevocationList::from_der(der).map_err(said)?.into()))
            .collect::<Result<_, String>>()?;
        let crls: Vec<_> = crls.iter().collect();
        let revocation = webpki::RevocationOptionsBuilder::new(&crls)
            .ok()
            .map(|builder| builder.with_expiration_policy(webpki::ExpirationPolicy::Enforce).build());
        let usage = match self.purpose {
            Purpose::ClientAuth => webpki::KeyUsage::client_auth(),
            _ => webpki::KeyUsage::server_auth(),
        };
        let time = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(self.now.as_secs()));
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &self.chain[1..], time, usage, revocation, None)
            .map_err(said)?;
        for name in self.names.iter().flatten() {
            let name = ServerName::try_from(name.to_string()).map_err(|_| "a name of another kind".to_owned())?;
            leaf.verify_is_valid_for_subject_name(&name).map_err(said)?;
        }
        Ok(())
    }
}

#[test]
fn every_case_agrees_or_is_stricter_for_a_reason() {
    let Some(text) = vectors() else {
        eprintln!("skipped: no x509-limbo vectors (set X0T_SHARED to the folder that holds vectors/limbo.json)");
        return;
    };
    let suite: Suite = serde_json::from_str(&text).unwrap();
    let stricter = BTreeMap::from(STRICTER);
    let (mut wrong, mut deviations, mut accepted) = (Vec::new(), Vec::new(), 0);
    for case in &suite.testcases {
        let result = case.given().validate(Limits::WEB);
        let code = result.as_ref().map(|_| "accepted").unwrap_or_else(|error| error.code());
        eprintln!("{:<70} {:<8} {code}", case.id, case.expected_result);
        match (&result, case.must_succeed()) {
            (Ok(_), true) => accepted += 1,
            (Err(_), false) => {}
            (Err(_), true) if stricter.contains_key(&*case.id) => deviations.push(&*case.id),
            (Err(error), true) => wrong.push(format!("{} is refused: {error} ({error:?})", case.id)),
            (Ok(_), false) => wrong.push(format!("{} is ACCEPTED and must not be", case.id)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(deviations.len(), stricter.len(), "a deviation that is none any more: {deviations:?}");
    assert!(suite.testcases.len() > 100 && accepted > 30, "{} cases, {accepted} accepted", suite.testcases.len());
}

#[test]
fn hostile_chains_are_refused_by_the_search_as_well_as_by_their_size() {
    let Some(text) = vectors() else { return };
    let suite: Suite = serde_json::from_str(&text).unwrap();
    let unbounded =
        Limits { certificates_max: 1000, certificate_len_max: 1 << 20, chain_len_max: 1 << 24, ..Limits::WEB };
    let mut codes = BTreeMap::new();
    for case in suite.testcases.iter().filter(|case| case.id.starts_with("pathological::")) {
        let result = case.given().validate(unbounded);
        assert_eq!(result.is_ok(), case.must_succeed(), "{}: {result:?}", case.id);
        codes.insert(&*case.id, result.err().map(|error| error.code()));
    }
    assert!(codes.values().flatten().any(|code| *code == "chain_budget_exceeded"), "{codes:?}");
}

/// What webpki refuses and is accepted here, with the reason.
const WEBPKI_REFUSES: [(&str, &str); 6] = [
    ("pathlen::self-issued-certs-pathlen", SELF_ISSUED),
    ("rfc5280::nc::permitted-self-issued", SELF_ISSUED),
    ("rfc5280::nc::permitted-dn-match", OTHER_KINDS),
    ("rfc5280::nc::nc-permits-email-literal-asterisk-exact-match", OTHER_KINDS),
    ("rfc5280::nc::nc-permits-email-literal-double-asterisk", OTHER_KINDS),
    ("rfc5280::nc::nc-permits-email-literal-mid-asterisk", OTHER_KINDS),
];
const SELF_ISSUED: &str = "RFC 5280 excepts certificates that roll a key over, webpki does not";
const OTHER_KINDS: &str = "webpki refuses all names of a kind that it does not compare";

#[test]
fn what_webpki_refuses_is_refused() {
    let Some(text) = vectors() else { return };
    let suite: Suite = serde_json::from_str(&text).unwrap();
    let known = BTreeMap::from(WEBPKI_REFUSES);
    let (mut only_here, mut lax) = (Vec::new(), 0);
    for case in &suite.testcases {
        let given = case.given();
        match (given.validate(Limits::WEB), given.webpki()) {
            (Ok(_), Err(error)) if !known.contains_key(&*case.id) => only_here.push(format!("{}: {error}", case.id)),
            (Err(_), Ok(())) => lax += 1,
            _ => {}
        }
    }
    assert!(only_here.is_empty(), "{}", only_here.join("\n"));
    assert!(lax > 20, "webpki accepts {lax} that are refused here");
}

/// Whole seconds of an RFC 3339 time in UTC.
fn seconds(text: &str) -> u64 {
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    assert!(text.ends_with("+00:00") || text.ends_with('Z'), "{text}");
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Days since the epoch by the civil calendar, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19)
}
