//! OCSP (checklist RV-3, RV-4): answers made by hand, right and wrong in one way each.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SigningKey,
};
use rustls_pki_types::CertificateDer;
use support::{HOUR, NOW, secs};
use x0t_identity::validation::{
    Anchors, Certificate, Depth, OcspFault, OcspPolicy, OcspQuestion, OcspResponse, OcspStatus, Options, Reason,
    Revocation, TrustDomains, ValidationError, ocsp_request, validate_svid,
};

/// Made at noon, as GeneralizedTime.
const NOON: &str = "20261121120000Z";
const LATER: &str = "20261121130000Z";
const EARLIER: &str = "20261121110000Z";

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let mut params = params("root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = ed25519();
        let der = params.self_signed(&key).unwrap().into();
        Self { params, key, der }
    }

    fn sign(&self, params: CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().into()
    }

    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("beta");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![SanType::URI("spiffe://mesh.test/node/beta".try_into().unwrap())];
        params.serial_number = Some(vec![7].into());
        change(&mut params);
        self.sign(params, &ed25519())
    }

    /// A certificate for signing answers.
    fn responder(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("responder");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        let no_check = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 48, 1, 5], vec![5, 0]);
        params.custom_extensions.push(no_check);
        change(&mut params);
        self.sign(params, key)
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

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = value.len();
    let head = match len {
        0..=0x7f => vec![tag, len as u8],
        0x80..=0xff => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, value.to_vec()].concat()
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x18, text.as_bytes())
}

/// An answer in the making.
#[derive(Clone)]
struct Answer {
    serial: u8,
    issuer: CertificateDer<'static>,
    hash: &'static aws_lc_rs::digest::Algorithm,
    /// The status with its tag.
    status: Vec<u8>,
    this_update: &'static str,
    next_update: Option<&'static str>,
    /// Of single answers after the first.
    more: Vec<u8>,
    extensions: Vec<u8>,
    certificates: Vec<CertificateDer<'static>>,
    /// The responder's certificate, by whose name it goes.
    responder: CertificateDer<'static>,
}

impl Answer {
    fn good(ca: &Ca) -> Self {
        Self {
            serial: 7,
            issuer: ca.der.clone(),
            hash: &SHA1_FOR_LEGACY_USE_ONLY,
            status: vec![0x80, 0],
            this_update: NOON,
            next_update: Some(LATER),
            more: Vec::new(),
            extensions: Vec::new(),
            certificates: Vec::new(),
            responder: ca.der.clone(),
        }
    }

    fn single(&self) -> Vec<u8> {
        let issuer = Certificate::parse(&self.issuer).unwrap();
        let oid: &[u8] =
            if self.hash == &SHA256 { &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1] } else { &[0x2b, 0x0e, 3, 2, 0x1a] };
        let hashed = |bytes: &[u8]| tlv(4, digest(self.hash, bytes).as_ref());
        // The key of an Ed25519 SubjectPublicKeyInfo is its last 32 bytes.
        let key = &issuer.public_key_info()[issuer.public_key_info().len() - 32..];
        let algorithm = tlv(0x30, &[tlv(6, oid), vec![5, 0]].concat());
        let id = tlv(0x30, &[algorithm, hashed(issuer.subject().der()), hashed(key), vec![2, 1, self.serial]].concat());
        let next = self.next_update.map(|next| tlv(0xa0, &time(next))).unwrap_or_default();
        tlv(0x30, &[id, self.status.clone(), time(self.this_update), next].concat())
    }

    fn der(&self, key: &KeyPair) -> Vec<u8> {
        let responder = Certificate::parse(&self.responder).unwrap();
        let mut data = [tlv(0xa1, responder.subject().der()), time(NOON)].concat();
        data.extend(tlv(0x30, &[self.single(), self.more.clone()].concat()));
        if !self.extensions.is_empty() {
            data.extend(tlv(0xa1, &tlv(0x30, &self.extensions)));
        }
        let data = tlv(0x30, &data);
        let signature = tlv(3, &[&[0][..], &key.sign(&data).unwrap()].concat());
        let mut basic = [data, tlv(0x30, &[6, 3, 0x2b, 0x65, 0x70]), signature].concat();
        if !self.certificates.is_empty() {
            basic.extend(tlv(
                0xa0,
                &tlv(0x30, &self.certificates.iter().flat_map(|der| der.to_vec()).collect::<Vec<_>>()),
            ));
        }
        let bytes = [tlv(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]), tlv(4, &tlv(0x30, &basic))].concat();
        tlv(0x30, &[vec![10, 1, 0], tlv(0xa0, &tlv(0x30, &bytes))].concat())
    }
}

fn status(der: &[u8], leaf: &CertificateDer<'_>, ca: &Ca, policy: &OcspPolicy<'_>) -> Result<OcspStatus, OcspFault> {
    let (leaf, issuer) = (Certificate::parse(leaf).unwrap(), Certificate::parse(&ca.der).unwrap());
    OcspResponse::parse(der)?.status(&leaf, &issuer, policy, NOW)
}

fn revoked() -> Vec<u8> {
    tlv(0xa1, &[time(EARLIER), tlv(0xa0, &[10, 1, 1])].concat())
}

#[test]
fn rv_3_an_answer_counts_if_it_is_current_and_about_this_certificate() {
    let ca = Ca::new();
    let (leaf, other) = (ca.leaf(|_| {}), Ca::new());
    let judged = |change: &dyn Fn(&mut Answer)| {
        let mut answer = Answer::good(&ca);
        change(&mut answer);
        status(&answer.der(&ca.key), &leaf, &ca, &OcspPolicy::default()).map_err(|fault| fault.code())
    };
    let since = NOW - HOUR;
    assert_eq!(judged(&|_| {}), Ok(OcspStatus::Good));
    assert_eq!(judged(&|answer| answer.hash = &SHA256), Ok(OcspStatus::Good));
    let reason = Reason::KeyCompromise;
    assert_eq!(judged(&|answer| answer.status = revoked()), Ok(OcspStatus::Revoked { reason, since }));
    assert_eq!(judged(&|answer| answer.status = vec![0x82, 0]), Err("ocsp_unknown"));
    assert_eq!(judged(&|answer| answer.serial = 8), Err("ocsp_cert_id"));
    assert_eq!(judged(&|answer| answer.issuer = other.der.clone()), Err("ocsp_cert_id"));
    assert_eq!(judged(&|answer| answer.next_update = Some(EARLIER)), Err("ocsp_stale"));
    assert_eq!(judged(&|answer| answer.this_update = LATER), Err("ocsp_stale"));
    assert_eq!(judged(&|answer| answer.next_update = None), Ok(OcspStatus::Good));
    let old = |answer: &mut Answer| (answer.this_update, answer.next_update) = ("20261119120000Z", None);
    assert_eq!(judged(&old), Err("ocsp_stale"), "without an end an answer counts for a day");
    assert_eq!(judged(&|answer| answer.status = vec![0x80, 1, 0]), Err("ocsp_malformed"));
    let critical = tlv(0x30, &[tlv(6, &[0x55, 0x1d, 0x7f]), vec![1, 1, 0xff], tlv(4, &[5, 0])].concat());
    assert_eq!(judged(&|answer| answer.extensions = critical.clone()), Err("ocsp_unsupported"));
}

#[test]
fn rv_3_of_several_answers_about_one_certificate_the_worst_counts() {
    let ca = Ca::new();
    let leaf = ca.leaf(|_| {});
    let bad = Answer { status: revoked(), ..Answer::good(&ca) }.single();
    let other = Answer { serial: 9, status: revoked(), ..Answer::good(&ca) }.single();
    for (more, is_good) in [(other, true), (bad, false)] {
        let answer = Answer { more, ..Answer::good(&ca) };
        let status = status(&answer.der(&ca.key), &leaf, &ca, &OcspPolicy::default()).unwrap();
        assert_eq!(status == OcspStatus::Good, is_good);
    }
}

#[test]
fn rv_3_only_the_issuer_and_whom_it_named_may_answer() {
    let (ca, other, key) = (Ca::new(), Ca::new(), ed25519());
    let leaf = ca.leaf(|_| {});
    let by = |responder: CertificateDer<'static>, key: &KeyPair| {
        let certificates = vec![responder.clone()];
        let answer = Answer { responder, certificates, ..Answer::good(&ca) };
        status(&answer.der(key), &leaf, &ca, &OcspPolicy::default()).map_err(|fault| fault.code())
    };
    let refused = Err("ocsp_responder_not_authorized");
    assert_eq!(by(ca.responder(&key, |_| {}), &key), Ok(OcspStatus::Good));
    assert_eq!(by(ca.responder(&key, |_| {}), &ed25519()), Err("ocsp_signature"));
    assert_eq!(by(other.responder(&key, |_| {}), &key), refused, "another CA of the same name");
    let purpose =
        |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(by(ca.responder(&key, purpose), &key), refused);
    assert_eq!(by(ca.responder(&key, |params| params.custom_extensions.clear()), &key), refused, "no ocsp-nocheck");
    let over = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2026, 11, 21);
    assert_eq!(by(ca.responder(&key, over), &key), refused);
    let answer = Answer { responder: ca.responder(&key, |_| {}), ..Answer::good(&ca) };
    let fault = status(&answer.der(&key), &leaf, &ca, &OcspPolicy::default()).unwrap_err();
    assert_eq!(fault.code(), "ocsp_responder_not_authorized", "its certificate did not come along");
    let forged = Answer::good(&ca).der(&other.key);
    assert_eq!(status(&forged, &leaf, &ca, &OcspPolicy::default()), Err(OcspFault::Signature));
}

#[test]
fn rv_3_a_nonce_that_was_sent_comes_back_or_is_missing_by_permission() {
    let ca = Ca::new();
    let leaf = ca.leaf(|_| {});
    let with = |nonce: &[u8]| {
        let value = tlv(4, &tlv(4, nonce));
        let extensions = tlv(0x30, &[tlv(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2]), value].concat());
        Answer { extensions, ..Answer::good(&ca) }.der(&ca.key)
    };
    let sent = OcspPolicy { nonce: Some(b"right"), ..OcspPolicy::default() };
    let strict = OcspPolicy { is_nonce_required: true, ..sent };
    let plain = Answer::good(&ca).der(&ca.key);
    assert_eq!(status(&with(b"right"), &leaf, &ca, &strict), Ok(OcspStatus::Good));
    assert_eq!(status(&with(b"wrong"), &leaf, &ca, &sent), Err(OcspFault::Nonce));
    assert_eq!(status(&plain, &leaf, &ca, &sent), Ok(OcspStatus::Good));
    assert_eq!(status(&plain, &leaf, &ca, &strict), Err(OcspFault::Nonce));
    assert_eq!(status(&with(&[1; 128]), &leaf, &ca, &OcspPolicy::default()), Ok(OcspStatus::Good));
    for wrong in [&[][..], &[1; 129]] {
        assert_eq!(status(&with(wrong), &leaf, &ca, &sent).unwrap_err().code(), "ocsp_malformed");
    }
}

#[test]
fn a_responder_that_does_not_answer_says_why() {
    for (code, der) in [(3, vec![0x30, 3, 10, 1, 3]), (6, vec![0x30, 3, 10, 1, 6])] {
        assert_eq!(OcspResponse::parse(&der).unwrap_err(), OcspFault::Refused(code));
    }
    assert!(OcspResponse::parse(&[0x30, 3, 10, 1, 0]).is_err(), "success without an answer");
}

#[test]
fn an_answer_cut_off_or_changed_anywhere_is_not_believed() {
    let ca = Ca::new();
    let leaf = ca.leaf(|_| {});
    let der = Answer::good(&ca).der(&ca.key);
    for len in 0..der.len() {
        assert!(OcspResponse::parse(&der[..len]).is_err(), "{len} bytes");
    }
    for position in 0..der.len() {
        let mut forged = der.clone();
        forged[position] ^= 1 << (position % 8);
        assert!(status(&forged, &leaf, &ca, &OcspPolicy::default()).is_err(), "byte {position}");
    }
}

#[test]
fn a_request_asks_about_the_certificate_and_is_read_by_its_reader() {
    let ca = Ca::new();
    let leaf = ca.leaf(|_| {});
    let (leaf, issuer) = (Certificate::parse(&leaf).unwrap(), Certificate::parse(&ca.der).unwrap());
    let other = Ca::new();
    for nonce in [None, Some(&[7; 32][..])] {
        let request = ocsp_request(&leaf, &issuer, nonce);
        let question = OcspQuestion::parse(&request).unwrap();
        assert_eq!(question.nonce, nonce);
        let [id] = &question.certificates[..] else { panic!("one certificate") };
        assert!(id.is_of(&issuer) && id.serial == leaf.serial());
        assert!(!id.is_of(&Certificate::parse(&other.der).unwrap()));
        for len in 0..request.len() {
            assert!(OcspQuestion::parse(&request[..len]).is_err());
        }
    }
    assert_eq!(ca.key.der_bytes().len(), 32, "what is hashed is the key alone");
}

#[test]
fn rv_4_a_leaf_that_must_be_stapled_is_refused_without_a_good_answer() {
    let ca = Ca::new();
    // SEQUENCE { INTEGER 5 }: status_request.
    let feature = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
    let chain = [ca.leaf(|leaf| leaf.custom_extensions.push(feature))];
    let roots = [ca.der.clone()];
    let mut trust = TrustDomains::default();
    trust.insert("mesh.test".parse().unwrap(), Anchors::new(&roots));
    let judged = |der: Option<&[u8]>| {
        let answers: Vec<_> = der.map(|der| OcspResponse::parse(der).unwrap()).into_iter().collect();
        let unknown = x0t_identity::validation::UnknownStatus::Tolerate;
        let revocation = Revocation { ocsp: &answers, unknown, depth: Depth::Leaf, ..Revocation::default() };
        let options = Options { revocation: Some(revocation), ..Options::svid(NOW + secs(1)) };
        validate_svid(&chain, &trust, &options).result.map(drop)
    };
    assert_eq!(judged(None), Err(ValidationError::MustStaple), "whatever is tolerated otherwise");
    assert_eq!(judged(Some(&Answer::good(&ca).der(&ca.key))), Ok(()));
    let stale = Answer { next_update: Some(EARLIER), ..Answer::good(&ca) };
    assert_eq!(judged(Some(&stale.der(&ca.key))), Err(ValidationError::MustStaple));
    let bad = Answer { status: revoked(), ..Answer::good(&ca) };
    assert_eq!(judged(Some(&bad.der(&ca.key))).unwrap_err().code(), "revoked");
}
