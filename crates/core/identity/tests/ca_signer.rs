//! What authorities of every make sign: chains across a hand-over and below an upstream root, and revocation lists.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::process::Command;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use support::{NOW, id, secs};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x0t_identity::ca_life::{AuthorityKind, CARRIED_CERTIFICATES_MAX, CaCommand, CaLife, Evidence, KeyId, Material};
use x0t_identity::revocation::{
    ISSUED_SVIDS_MAX, IssuedSvid, IssuedSvids, REVOKED_SVIDS_MAX, Revocations, RevokedSvid, Serial,
};
use x0t_identity::{AwsLcKeys, CaSigner, KeySource, PrivateKey, UpstreamError, UpstreamFiles, import_upstream};
use x0t_model::{Entropy, TrustDomain, UnixTime};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

mod hand_over {
    use super::*;

    #[test]
    fn a_successor_is_certified_by_its_predecessor_until_that_is_tainted() {
        let (mut entropy, domain) = (Entropy::new([1; 32]), domain());
        let mut life = CaLife::new(domain.clone());
        let old_key = AwsLcKeys.generate().unwrap();
        let material = Material::self_signed(&domain, &old_key, (NOW, NOW + YEAR), None, &mut entropy).unwrap();
        let old = sign_with(&mut life, material, &old_key);
        let new_key = AwsLcKeys.generate().unwrap();
        let later = NOW + YEAR / 2;
        let material =
            Material::self_signed(&domain, &new_key, (later, later + YEAR), Some(&old), &mut entropy).unwrap();
        let new = sign_with(&mut life, material, &new_key);

        let slot = life.active(AuthorityKind::X509).unwrap();
        assert_eq!(slot.key_id(), new.key_id());
        let [cross] = life.carried(slot) else { panic!("nothing is carried") };
        assert_issuer_and_end(&cross.certificate(), &old, NOW + YEAR);
        let taint = life.taint(old.key_id(), later).unwrap();
        life.apply(&taint).unwrap();
        assert!(life.carried(life.active(AuthorityKind::X509).unwrap()).is_empty(), "nobody believes it any more");
    }

    fn assert_issuer_and_end(cross: &CertificateDer<'_>, by: &CaSigner, end: UnixTime) {
        let (_, cross) = x509_parser::parse_x509_certificate(cross).unwrap();
        assert_eq!(cross.validity().not_after.timestamp() as u64, end.as_secs(), "it must not outlive who vouches");
        assert_eq!(cross.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
        assert!(by.not_after() == end);
    }
}

mod revocation {
    use super::*;

    #[test]
    fn a_revocation_list_names_what_this_ca_has_signed_and_nothing_else() {
        let (ca, key) = self_signed();
        let (listed, foreign) = (revoked(1, ca.key_id()), revoked(2, KeyId::of(b"other")));
        let crl = ca.crl([&listed, &foreign], (NOW, NOW + HOUR), 7).unwrap();
        let parsed = CertRevocationList::from(OwnedCertRevocationList::from_der(&crl).unwrap());
        assert!(parsed.find_serial(listed.serial.as_bytes()).unwrap().is_some());
        assert!(parsed.find_serial(foreign.serial.as_bytes()).unwrap().is_none());
        drop(key);
    }

    #[test]
    fn openssl_believes_the_list_and_refuses_what_is_on_it() {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: the openssl command is not there");
            return;
        }
        let mut mesh = support::Mesh::new();
        let svid = mesh.own_svid(NOW);
        let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain()[0]).unwrap();
        let serial = Serial::new(leaf.raw_serial().try_into().unwrap());
        let ca = mesh.authority.signer().unwrap();
        let listed = RevokedSvid { serial, ..revoked(0, ca.key_id()) };
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        write("ca.der", &mesh.authority.bundle().authorities()[0]);
        write("leaf.pem", &svid.to_stored());
        write("empty.der", &ca.crl([], (NOW, NOW + HOUR), 1).unwrap());
        write("full.der", &ca.crl([&listed], (NOW, NOW + HOUR), 2).unwrap());
        let run = |arguments: &str| {
            let output =
                Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), text)
        };
        assert!(run("x509 -inform DER -in ca.der -out ca.pem").0);
        for (list, good) in [("empty", true), ("full", false)] {
            assert!(run(&format!("crl -inform DER -in {list}.der -out {list}.pem")).0);
            let verify =
                format!("verify -crl_check -attime {} -CAfile ca.pem -CRLfile {list}.pem leaf.pem", NOW.as_secs());
            let (accepted, text) = run(&verify);
            assert_eq!(accepted, good, "{list}: {text}");
            assert!(good || text.contains("certificate revoked"), "{text}");
        }
        assert!(run("crl -in full.pem -noout -crlnumber").1.contains("crlNumber=0x02"));
    }

    #[test]
    fn what_is_out_is_known_until_it_ends() {
        let mut issued = IssuedSvids::default();
        let (web, db) = (id("spiffe://mesh.test/web"), id("spiffe://mesh.test/db"));
        issued.note(&web, out(1, NOW + secs(10)), NOW);
        issued.note(&web, out(2, NOW + secs(20)), NOW);
        issued.note(&db, out(3, NOW + secs(20)), NOW);
        let withdrawn = issued.withdraw(&web, NOW + secs(11));
        assert_eq!(withdrawn.svids.iter().map(|svid| svid.serial).collect::<Vec<_>>(), [serial(2)]);
        assert_eq!(withdrawn.complete_from, None);
        issued.note(&db, out(4, NOW + secs(60)), NOW + secs(21));
        assert_eq!(issued.len(), 1, "what has ended is forgotten");
    }

    #[test]
    fn beyond_its_bound_the_table_forgets_what_ends_first_and_says_so() {
        let mut issued = IssuedSvids::default();
        let web = id("spiffe://mesh.test/web");
        for number in 0..=ISSUED_SVIDS_MAX as u64 {
            issued.note(&web, out(number, NOW + secs(100 + number)), NOW);
        }
        assert_eq!(issued.len(), ISSUED_SVIDS_MAX);
        let withdrawn = issued.withdraw(&web, NOW);
        assert_eq!(withdrawn.complete_from, Some(NOW + secs(100)));
        assert!(!withdrawn.svids.iter().any(|svid| svid.serial == serial(0)));
        assert_eq!(issued.withdraw(&web, NOW + secs(101)).complete_from, None, "what was forgotten is over");
        let mut started = IssuedSvids::default();
        started.forget_until(NOW + HOUR);
        assert_eq!(started.withdraw(&web, NOW).complete_from, Some(NOW + HOUR));
    }

    #[test]
    fn the_lists_are_bounded_and_drop_what_is_over() {
        let mut revocations = Revocations::default();
        let issuer = KeyId::of(b"ca");
        let many: Vec<_> = (0..REVOKED_SVIDS_MAX as u64).map(|number| revoked(number, issuer)).collect();
        assert!(revocations.add(&many, NOW));
        assert!(!revocations.add(&[revoked(u64::MAX, issuer)], NOW));
        assert_eq!(revocations.at(NOW).count(), REVOKED_SVIDS_MAX);
        assert_eq!(revocations.at(NOW + HOUR + secs(1)).count(), 0);
        assert!(revocations.add(&[revoked(u64::MAX, issuer)], NOW + HOUR + secs(1)));
        let stored = serde_json::to_vec(&revocations).unwrap();
        assert_eq!(serde_json::from_slice::<Revocations>(&stored).unwrap(), revocations);
    }
}

mod upstream {
    use super::*;

    #[test]
    fn an_intermediate_of_somebody_else_signs_below_its_root() {
        let pki = Pki::new();
        let (material, key) = pki.import(pki.files()).unwrap();
        let mut life = CaLife::new(domain());
        let signer = sign_with(&mut life, material, &key);
        assert_eq!(signer.key_id(), KeyId::of(&pki.own.0.subject_public_key_info()));
        let slot = life.active(AuthorityKind::X509).unwrap();
        assert_eq!(life.carried(slot).len(), 1);
        assert_eq!(slot.material().bundle_entries()[0].as_bytes(), pki.root.1.as_ref());
    }

    #[test]
    fn a_root_among_the_chain_is_left_out() {
        let pki = Pki::new();
        let chain = pki.chain.clone() + &pem(&pki.root.1);
        let (material, _) = pki.import(UpstreamFiles { chain: chain.as_bytes(), ..pki.files() }).unwrap();
        assert!(matches!(material, Material::Upstream { chain, .. } if chain.len() == 1));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_reason() {
        let (pki, other) = (Pki::new(), Pki::new());
        let refused = |files| pki.import(files).unwrap_err();
        assert_eq!(refused(UpstreamFiles { key: other.key.as_bytes(), ..pki.files() }), UpstreamError::KeyMismatch);
        assert_eq!(refused(UpstreamFiles { key: b"nothing", ..pki.files() }), UpstreamError::NoKey);
        assert_eq!(refused(UpstreamFiles { chain: b"", ..pki.files() }), UpstreamError::NoCertificate("the chain"));
        assert_eq!(refused(UpstreamFiles { roots: b"", ..pki.files() }), UpstreamError::NoRoot);
        let foreign = refused(UpstreamFiles { roots: other.roots.as_bytes(), ..pki.files() });
        assert!(matches!(foreign, UpstreamError::Trial(_)), "{foreign:?}");
    }

    #[test]
    fn an_intermediate_that_may_not_sign_here_is_refused() {
        type Change = fn(&mut CertificateParams);
        type Expected = fn(&UpstreamError) -> bool;
        let cases: [(&str, Change, Expected); 5] = [
            (
                "no CA",
                |params| params.is_ca = IsCa::ExplicitNoCa,
                |error| matches!(error, UpstreamError::Certificate { .. }),
            ),
            (
                "no keyCertSign",
                |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
                |error| matches!(error, UpstreamError::Certificate { .. }),
            ),
            (
                "another trust domain",
                |params| params.subject_alt_names = vec![uri("spiffe://other.test")],
                |error| matches!(error, UpstreamError::Certificate { .. }),
            ),
            (
                "too little time left",
                |params| {
                    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(NOW.as_secs() + 3600)
                },
                |error| matches!(error, UpstreamError::TooShort { .. }),
            ),
            (
                "not yet valid",
                |params| params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(NOW.as_secs() + 60),
                |error| matches!(error, UpstreamError::Trial(_)),
            ),
        ];
        for (what, change, expected) in cases {
            let pki = Pki::with(change, |_| {});
            let error = pki.import(pki.files()).unwrap_err();
            assert!(expected(&error), "{what}: {error:?}");
        }
        let pki = Pki::with(|_| {}, |root| root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        assert_eq!(pki.import(pki.files()).unwrap_err(), UpstreamError::PathLength { allowed: 0, found: 1 });
    }

    #[test]
    fn a_chain_that_the_wire_does_not_carry_is_refused() {
        let pki = Pki::new();
        let chain: String = (0..=CARRIED_CERTIFICATES_MAX).map(|_| pki.chain.as_str()).collect();
        let error = pki.import(UpstreamFiles { chain: chain.as_bytes(), ..pki.files() }).unwrap_err();
        assert_eq!(error, UpstreamError::ChainTooLong(CARRIED_CERTIFICATES_MAX + 1));
    }

    /// An RSA-free company: a root, and an intermediate for this trust domain.
    struct Pki {
        root: (KeyPair, CertificateDer<'static>),
        own: (KeyPair, CertificateDer<'static>),
        chain: String,
        key: String,
        roots: String,
    }

    impl Pki {
        fn new() -> Self {
            Self::with(|_| {}, |_| {})
        }

        fn with(change: fn(&mut CertificateParams), change_root: fn(&mut CertificateParams)) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = ca("Example Root");
            change_root(&mut params);
            let root = params.self_signed(&key).unwrap();
            let own_key = KeyPair::generate().unwrap();
            let mut own = ca("Example Mesh CA");
            own.subject_alt_names = vec![uri("spiffe://mesh.test")];
            change(&mut own);
            let own = own.signed_by(&own_key, &Issuer::from_params(&params, &key)).unwrap();
            let (chain, roots, pem_key) = (own.pem(), root.pem(), own_key.serialize_pem());
            Self { root: (key, root.into()), own: (own_key, own.into()), chain, key: pem_key, roots }
        }

        fn files(&self) -> UpstreamFiles<'_> {
            let (chain, key, roots) = (self.chain.as_bytes(), self.key.as_bytes(), self.roots.as_bytes());
            UpstreamFiles { chain, key, roots }
        }

        fn import(&self, files: UpstreamFiles<'_>) -> Result<(Material, PrivateKey), UpstreamError> {
            import_upstream(&domain(), files, HOUR, NOW, &mut Entropy::new([2; 32]))
        }
    }

    fn ca(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(Ia5String::try_from(text).unwrap())
    }

    fn pem(certificate: &CertificateDer<'_>) -> String {
        let body = data_encoding::BASE64.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }
}

fn self_signed() -> (CaSigner, PrivateKey) {
    let mut life = CaLife::new(domain());
    let key = AwsLcKeys.generate().unwrap();
    let material = Material::self_signed(&domain(), &key, (NOW, NOW + YEAR), None, &mut Entropy::new([1; 32])).unwrap();
    (sign_with(&mut life, material, &key), key)
}

/// Prepares and activates.
fn sign_with(life: &mut CaLife, material: Material, key: &PrivateKey) -> CaSigner {
    let prepare = life.prepare(material, NOW).unwrap();
    life.apply(&prepare).unwrap();
    let key_id = KeyId::of(key.public_key_info());
    life.apply(&CaCommand::Activate { key_id, evidence: Evidence::AllReady { nodes: 0 }, at: NOW }).unwrap();
    CaSigner::new(life.slot(key_id).unwrap(), key).unwrap()
}

fn domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

fn serial(number: u64) -> Serial {
    let mut bytes = [0x40; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Serial::new(bytes)
}

fn out(number: u64, not_after: UnixTime) -> IssuedSvid {
    IssuedSvid { not_after, serial: serial(number), issuer: KeyId::of(b"ca") }
}

fn revoked(number: u64, issuer: KeyId) -> RevokedSvid {
    RevokedSvid { not_after: NOW + HOUR, serial: serial(number), issuer, revoked_at: NOW }
}
