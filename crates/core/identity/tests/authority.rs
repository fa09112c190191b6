//! The embedded authority: what it issues, whom it admits, what it remembers.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SanType,
};
use support::{HOUR, Mesh, NOW, id, secs, svid};
use x0t_identity::{
    Authority, AuthorityConfig, AwsLcKeys, CSR_LEN_MAX, CsrError, ISSUED_NAMES_MAX, IssueError, JOIN_TOKENS_MAX,
    JoinRefusal, JoinSecret, KeySource, Leaf, RenewRefusal, StoredAuthorityError, TokenRefusal, TokenState,
    signing_request, verify_chain,
};
use x0t_model::Entropy;
use x509_parser::prelude::{FromDer, X509Certificate};

#[test]
fn one_seed_gives_one_issuance_byte_for_byte() {
    let run = || {
        let mut mesh = Mesh::new();
        let (alpha, beta) = (mesh.own_svid(NOW), mesh.join("beta"));
        let token = mesh.token(Some("gamma")).to_string();
        let chains = [alpha.to_stored().to_vec(), beta.to_stored().to_vec()];
        (mesh.authority.to_stored().unwrap().to_vec(), mesh.authority.bundle().to_json(), chains, token)
    };
    assert_eq!(run(), run());
}

#[test]
fn an_issued_chain_convinces_a_stranger() {
    let mut mesh = Mesh::new();
    let (alpha, beta) = (mesh.own_svid(NOW), mesh.join("beta"));
    for (svid, name) in [(&alpha, "alpha"), (&beta, "beta")] {
        let who = id(&format!("spiffe://mesh.test/node/{name}"));
        assert_eq!(verify_chain(svid.chain(), mesh.authority.bundle(), NOW), Ok(who));
        assert_eq!(svid.not_before(), NOW - secs(60));
        assert_eq!(svid.not_after(), NOW + HOUR);
    }
}

#[test]
fn the_same_holds_with_keys_from_the_operating_system() {
    let mut entropy = Entropy::new([9; 32]);
    let node = id("spiffe://mesh.test/node/alpha");
    let mut authority =
        Authority::create(&node, AuthorityConfig::default(), &mut AwsLcKeys, &mut entropy, NOW).unwrap();
    let key = AwsLcKeys.generate().unwrap();
    let csr = signing_request(&key).unwrap();
    let issued = authority.renew(&node, &csr, &mut entropy, NOW).unwrap();
    assert_eq!(verify_chain(svid(issued, key).chain(), authority.bundle(), NOW), Ok(node));
}

#[test]
fn authority_and_leaf_carry_the_extensions_that_the_specification_asks_for() {
    let mut mesh = Mesh::new();
    let svid = mesh.own_svid(NOW);
    let authority = mesh.authority.bundle().authorities()[0].clone();
    let (_, ca) = X509Certificate::from_der(&authority).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let usage = ca.key_usage().unwrap().unwrap();
    assert!(
        usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign() && !usage.value.digital_signature()
    );
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint == Some(1));
    assert!(ca.subject().iter().count() == 2 && ca.subject() == ca.issuer());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical && leaf.subject().iter().count() == 0);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_agreement());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && purposes.other.is_empty());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let ski = [0x55, 0x1d, 0x0e];
    let aki = [0x55, 0x1d, 0x23];
    let extension = |certificate: &X509Certificate<'_>, oid: [u8; 3]| {
        let found = certificate.extensions().iter().find(|extension| extension.oid.as_bytes() == oid);
        found.unwrap_or_else(|| panic!("no extension {oid:x?}")).value.to_vec()
    };
    // OCTET STRING { id } in the CA, SEQUENCE { [0] id } in the leaf: the same id.
    assert_eq!(extension(&ca, ski)[2..], extension(&leaf, aki)[4..]);
    assert_ne!(extension(&leaf, ski)[2..], extension(&ca, ski)[2..]);
    let again = Authority::create(
        &id("spiffe://mesh.test/node/alpha"),
        AuthorityConfig::default(),
        &mut mesh.keys,
        &mut mesh.entropy,
        NOW,
    );
    let again = again.unwrap().bundle().authorities()[0].clone();
    let (_, again) = X509Certificate::from_der(&again).unwrap();
    assert_ne!(again.subject(), ca.subject(), "two CAs of one domain never share a subject");
}

#[test]
fn a_request_that_asks_for_more_than_a_key_gets_only_that() {
    let mut mesh = Mesh::new();
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::default();
    wishes.distinguished_name.push(DnType::CommonName, "root");
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let uri = |text: &str| SanType::URI(Ia5String::try_from(text).unwrap());
    wishes.subject_alt_names = vec![uri("spiffe://mesh.test/node/alpha"), uri("spiffe://other.test/node/x")];
    let csr = wishes.serialize_request(&key).unwrap().der().to_vec();
    let token = mesh.token(Some("beta"));
    let issued = mesh.authority.redeem(&token.secret, None, &csr, &mut mesh.entropy, NOW).unwrap();
    let leaf = Leaf::read(&issued.chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id, id("spiffe://mesh.test/node/beta"));
    assert_eq!(leaf.public_key_info, rcgen::PublicKeyData::subject_public_key_info(&key));
    let (_, parsed) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert!(!parsed.is_ca() && parsed.subject().iter().count() == 0);
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn a_request_without_proof_of_possession_is_refused_and_costs_no_token() {
    let mut mesh = Mesh::new();
    let token = mesh.token(None);
    let good = mesh.csr();
    let mut refused = |csr: &[u8]| {
        let outcome = mesh.authority.redeem(&token.secret, Some("beta"), csr, &mut mesh.entropy, NOW);
        match outcome {
            Err(JoinRefusal::BadRequest(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&forged), CsrError::NoProofOfPossession);
    // Somebody else's key under one's own signature: the last 32 bytes of the key lie before the empty attributes.
    let mut stolen = good.clone();
    let key_at = stolen.len() - 64 - 3 - 7 - 2 - 32;
    stolen[key_at] ^= 1;
    assert!(matches!(refused(&stolen), CsrError::NoProofOfPossession | CsrError::Malformed));
    for len in 0..good.len() {
        assert_eq!(refused(&good[..len]), CsrError::Malformed, "{len} bytes");
    }
    assert_eq!(refused(&[good.as_slice(), &[0]].concat()), CsrError::Malformed);
    assert_eq!(refused(&vec![0x30; CSR_LEN_MAX + 1]), CsrError::TooLarge(CSR_LEN_MAX + 1));
    let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = CertificateParams::default().serialize_request(&p521).unwrap();
    assert_eq!(refused(odd.der()), CsrError::UnacceptableKey);
    assert!(mesh.authority.redeem(&token.secret, Some("beta"), &good, &mut mesh.entropy, NOW).is_ok());
}

#[test]
fn l1_of_64_joins_with_one_token_exactly_one_succeeds() {
    let mut mesh = Mesh::new();
    let token = mesh.token(None);
    let csr = mesh.csr();
    let outcomes: Vec<_> = (0..64)
        .map(|n| mesh.authority.redeem(&token.secret, Some(&format!("node-{n}")), &csr, &mut mesh.entropy, NOW))
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let used = JoinRefusal::Used { at: NOW, by: "node-0".to_owned() };
    assert!(outcomes[1..].iter().all(|outcome| outcome.as_ref() == Err(&used)));
    // A crash after persisting changes nothing about it.
    let stored = mesh.authority.to_stored().unwrap();
    let mut again = Authority::from_stored(mesh.authority.trust_domain(), &stored).unwrap();
    assert_eq!(again.redeem(&token.secret, Some("node-9"), &csr, &mut mesh.entropy, NOW), Err(used));
}

#[test]
fn each_way_of_not_joining_has_its_own_refusal() {
    let mut mesh = Mesh::new();
    let csr = mesh.csr();
    mesh.join("beta");
    let (open, named) = (mesh.token(None), mesh.token(Some("gamma")));
    let mut redeem = |secret: &JoinSecret, name: Option<&str>, now| {
        mesh.authority.redeem(secret, name, &csr, &mut mesh.entropy, now).map(|issued| issued.spiffe_id)
    };
    let stranger = JoinSecret::from_bytes([0; 32]);
    assert_eq!(redeem(&stranger, Some("delta"), NOW), Err(JoinRefusal::Unknown));
    assert_eq!(redeem(&open.secret, None, NOW), Err(JoinRefusal::NameMissing));
    for taken in ["beta", "alpha"] {
        assert_eq!(redeem(&open.secret, Some(taken), NOW), Err(JoinRefusal::NameTaken(taken.to_owned())));
    }
    for bad in ["", "a/b", "..", "a b", "ä", &"x".repeat(254)] {
        assert_eq!(redeem(&open.secret, Some(bad), NOW).unwrap_err().code(), "bad_name", "{bad}");
    }
    let mismatch = redeem(&named.secret, Some("delta"), NOW).unwrap_err();
    assert_eq!(mismatch, JoinRefusal::NameMismatch { wanted: "gamma".to_owned(), requested: "delta".to_owned() });
    let late = redeem(&named.secret, None, NOW + HOUR + secs(7)).unwrap_err();
    assert_eq!(late, JoinRefusal::Expired { ago: secs(7) });
    // None of that has cost a token, and the last second counts.
    assert_eq!(redeem(&named.secret, None, NOW + HOUR), Ok(id("spiffe://mesh.test/node/gamma")));
    assert_eq!(redeem(&open.secret, Some("delta"), NOW), Ok(id("spiffe://mesh.test/node/delta")));
}

#[test]
fn a_token_for_a_taken_name_lets_its_node_join_again() {
    let mut mesh = Mesh::new();
    let before = mesh.join("beta");
    let (token, key) = (mesh.token(Some("beta")), mesh.key());
    let csr = signing_request(&key).unwrap();
    let issued = mesh.authority.redeem(&token.secret, Some("beta"), &csr, &mut mesh.entropy, NOW).unwrap();
    assert_eq!(issued.spiffe_id, *before.spiffe_id());
    assert_ne!(Leaf::read(&issued.chain[0]).unwrap().public_key_info, before.key().public_key_info());
}

#[test]
fn a_revoked_token_is_unknown_and_a_forgotten_name_cannot_renew() {
    let mut mesh = Mesh::new();
    let (beta, csr) = (mesh.join("beta"), mesh.csr());
    let token = mesh.token(None);
    let view = mesh.authority.tokens().find(|view| view.state == TokenState::Unused).unwrap();
    assert_eq!(view.id.to_string().parse(), Ok(view.id));
    assert!(mesh.authority.revoke_token(view.id) && !mesh.authority.revoke_token(view.id));
    let outcome = mesh.authority.redeem(&token.secret, Some("gamma"), &csr, &mut mesh.entropy, NOW);
    assert_eq!(outcome, Err(JoinRefusal::Unknown));
    assert!(mesh.authority.renew(beta.spiffe_id(), &csr, &mut mesh.entropy, NOW).is_ok());
    assert!(mesh.authority.forget_name("beta") && !mesh.authority.forget_name("beta"));
    let refused = mesh.authority.renew(beta.spiffe_id(), &csr, &mut mesh.entropy, NOW).unwrap_err();
    assert!(refused.is_permanent() && refused.code() == "unknown_node");
    assert!(!mesh.authority.forget_name("alpha"), "the authority keeps its own name");
}

#[test]
fn a_renewal_gives_the_same_identity_and_nobody_elses() {
    let mut mesh = Mesh::new();
    let (beta, csr) = (mesh.join("beta"), mesh.csr());
    let later = NOW + secs(1800);
    let issued = mesh.authority.renew(beta.spiffe_id(), &csr, &mut mesh.entropy, later).unwrap();
    assert_eq!((issued.spiffe_id, issued.not_after), (beta.spiffe_id().clone(), later + HOUR));
    for stranger in
        ["spiffe://mesh.test/node/zeta", "spiffe://other.test/node/beta", "spiffe://mesh.test/workload/beta"]
    {
        let refused = mesh.authority.renew(&id(stranger), &csr, &mut mesh.entropy, later);
        assert_eq!(refused, Err(RenewRefusal::UnknownNode(id(stranger))));
    }
    let refused = mesh.authority.renew(beta.spiffe_id(), &csr[1..], &mut mesh.entropy, later);
    assert_eq!(refused, Err(RenewRefusal::BadRequest(CsrError::Malformed)));
}

#[test]
fn no_svid_outlives_its_authority_and_an_expired_authority_issues_nothing() {
    let mut mesh = Mesh::with(AuthorityConfig { authority_ttl: 2 * HOUR, ..AuthorityConfig::default() });
    let end = NOW + 2 * HOUR;
    assert_eq!(mesh.authority.not_after(), end);
    let last = mesh.own_svid(end - secs(10));
    assert_eq!(last.not_after(), end);
    assert!(verify_chain(last.chain(), mesh.authority.bundle(), end).is_ok());
    let too_late = mesh.authority.issue_self(&mut mesh.keys, &mut mesh.entropy, end + secs(1));
    assert_eq!(too_late.unwrap_err(), IssueError::AuthorityExpired(end));
}

#[test]
fn l12_an_authority_that_slept_for_a_week_issues_to_itself_again() {
    let mut mesh = Mesh::new();
    mesh.own_svid(NOW);
    let later = NOW + 168 * HOUR;
    let mut again =
        Authority::from_stored(mesh.authority.trust_domain(), &mesh.authority.to_stored().unwrap()).unwrap();
    std::mem::swap(&mut again, &mut mesh.authority);
    let svid = mesh.own_svid(later);
    assert!(verify_chain(svid.chain(), mesh.authority.bundle(), later).is_ok());
}

#[test]
fn a_short_lived_svid_is_backdated_by_a_tenth_of_its_life_only() {
    let mut mesh = Mesh::with(AuthorityConfig { svid_ttl: secs(60), ..AuthorityConfig::default() });
    let svid = mesh.own_svid(NOW);
    assert_eq!((svid.not_before(), svid.not_after()), (NOW - secs(6), NOW + secs(60)));
}

#[test]
fn a_time_that_no_certificate_can_express_is_refused() {
    let mut mesh = Mesh::new();
    let far = x0t_model::UnixTime::from_secs(u64::MAX);
    let created = Authority::create(
        &id("spiffe://mesh.test/node/alpha"),
        AuthorityConfig::default(),
        &mut mesh.keys,
        &mut mesh.entropy,
        far,
    );
    assert!(matches!(created, Err(IssueError::TimeOutOfRange(_))));
    let workload = id("spiffe://mesh.test/workload/web");
    let created = Authority::create(&workload, AuthorityConfig::default(), &mut mesh.keys, &mut mesh.entropy, NOW);
    assert_eq!(created.unwrap_err(), IssueError::NotANode(workload));
}

#[test]
fn the_token_table_is_bounded_and_makes_room_by_forgetting_what_is_of_no_use() {
    let mut mesh = Mesh::new();
    for _ in 0..JOIN_TOKENS_MAX {
        mesh.token(None);
    }
    let address = vec!["192.0.2.1:4600".parse().unwrap()];
    let mut create = |now| mesh.authority.create_token(None, HOUR, address.clone(), &mut mesh.entropy, now).map(|_| ());
    assert_eq!(create(NOW), Err(TokenRefusal::TooManyTokens));
    assert_eq!(create(NOW + HOUR + secs(1)), Ok(()), "expired ones go when room is needed");
    assert_eq!(mesh.authority.tokens().count(), 1);
    mesh.token(None);
    let day_later = NOW + 26 * HOUR;
    mesh.authority.create_token(None, HOUR, address, &mut mesh.entropy, day_later).unwrap();
    assert_eq!(mesh.authority.tokens().count(), 2, "and a day after their end in any case");
}

#[test]
fn a_token_needs_addresses_and_a_name_that_can_be_given_away() {
    let mut mesh = Mesh::new();
    let address: std::net::SocketAddr = "192.0.2.1:4600".parse().unwrap();
    let mut create = |name: Option<&str>, addresses: Vec<_>| {
        mesh.authority.create_token(name, HOUR, addresses, &mut mesh.entropy, NOW).map(|_| ())
    };
    assert_eq!(create(None, Vec::new()), Err(TokenRefusal::AddressCount(0)));
    assert_eq!(create(None, vec![address; 9]), Err(TokenRefusal::AddressCount(9)));
    assert_eq!(create(Some("alpha"), vec![address]), Err(TokenRefusal::NameIsAuthority("alpha".to_owned())));
    assert!(matches!(create(Some("a/b"), vec![address]), Err(TokenRefusal::BadName { .. })));
    assert_eq!(create(Some("beta"), vec![address; 8]), Ok(()));
}

#[test]
fn the_table_of_names_is_bounded() {
    let mut mesh = Mesh::new();
    let stored = String::from_utf8(mesh.authority.to_stored().unwrap().to_vec()).unwrap();
    let names: Vec<String> = (1..ISSUED_NAMES_MAX).map(|n| format!("\"n{n}\":1")).collect();
    let full = stored.replace("\"names\":{", &format!("\"names\":{{{},", names.join(",")));
    let domain = mesh.authority.trust_domain().clone();
    mesh.authority = Authority::from_stored(&domain, full.as_bytes()).unwrap();
    let (token, csr) = (mesh.token(None), mesh.csr());
    let outcome = mesh.authority.redeem(&token.secret, Some("one-more"), &csr, &mut mesh.entropy, NOW);
    assert_eq!(outcome, Err(JoinRefusal::TooManyNames));
    let overfull = full.replace("\"names\":{", "\"names\":{\"one-more\":1,");
    assert!(matches!(
        Authority::from_stored(&domain, overfull.as_bytes()),
        Err(StoredAuthorityError::Content { field: "names", .. })
    ));
}

#[test]
fn stored_state_comes_back_whole() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    mesh.token(Some("gamma"));
    let stored = mesh.authority.to_stored().unwrap();
    let again = Authority::from_stored(mesh.authority.trust_domain(), &stored).unwrap();
    assert_eq!(again.to_stored().unwrap(), stored);
    assert_eq!(again.bundle(), mesh.authority.bundle());
    assert_eq!(again.tokens().collect::<Vec<_>>(), mesh.authority.tokens().collect::<Vec<_>>());
    assert_eq!(again.names().collect::<Vec<_>>(), vec![("alpha", NOW), ("beta", NOW)]);
    assert_eq!((again.config(), again.not_after()), (mesh.authority.config(), mesh.authority.not_after()));
}

#[test]
fn stored_state_that_is_cut_off_newer_or_of_another_mesh_is_refused() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    let stored = mesh.authority.to_stored().unwrap();
    let domain = mesh.authority.trust_domain().clone();
    let read = |bytes: &[u8]| Authority::from_stored(&domain, bytes).map(|_| ());
    assert_eq!(read(&stored), Ok(()));
    for len in 0..stored.len() {
        assert!(matches!(read(&stored[..len]), Err(StoredAuthorityError::Damaged(_))), "{len} bytes");
    }
    // A later format may have any other fields.
    let newer = read(br#"{"version":4,"slots":[]}"#);
    assert_eq!(newer, Err(StoredAuthorityError::NewerVersion { found: 4, known: 3 }));
    let other = Authority::from_stored(&"other.test".parse().unwrap(), &stored);
    assert!(matches!(other, Err(StoredAuthorityError::OtherTrustDomain { .. })));
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut stored = stored.clone();
        change(&mut stored);
        read(&serde_json::to_vec(&stored).unwrap()).unwrap_err()
    };
    let key_id = stored["life"]["slots"][0]["key_id"].as_str().unwrap().to_owned();
    let foreign_key = data_encoding::BASE64.encode(mesh.key().pkcs8());
    for key in ["AAAA", "not base64", &foreign_key] {
        let error = changed(&|stored| stored["keys"][&key_id]["pkcs8"] = key.into());
        assert!(matches!(error, StoredAuthorityError::Content { field: "keys", .. }), "{error:?}");
    }
    let error = changed(&|stored| stored["life"]["slots"][0]["material"]["certificate"] = "AAAA".into());
    assert!(matches!(error, StoredAuthorityError::Damaged(_)), "{error:?}");
}

#[test]
fn debug_output_holds_no_secret() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let token = mesh.token(None);
    let printed = format!("{:?} {beta:?} {token:?} {:?}", mesh.authority, beta.key());
    assert!(printed.contains("Authority(spiffe://mesh.test/node/alpha") && printed.contains("JoinSecret,"));
    for secret in [token.secret.as_bytes().as_slice(), beta.key_pkcs8()] {
        assert!(!printed.contains(&format!("{secret:?}")));
    }
}
