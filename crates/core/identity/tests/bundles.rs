//! Bundles: their documents, their updates, and what two readers could understand differently. Tests carry the number of the
//! checklist item they prove.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::jwt::{EC_KEYS, key_id, public_key, rsa_public_key};
use support::{Mesh, secs};
use x0t_identity::{
    BUNDLE_JWT_KEYS_MAX, BUNDLE_MAP_MAX, Bundle, BundleError, BundleMap, BundleUpdate, JwtKeyError, JwtPublicKey,
    KeyId, StrictJsonError,
};
use x0t_model::TrustDomain;

#[test]
fn a_bundle_document_comes_back_and_names_keys_as_the_specification_asks() {
    let bundle = full_bundle();
    let json = bundle.to_json();
    assert_eq!(read(&json), Ok(bundle));
    let document: Value = serde_json::from_slice(&json).unwrap();
    let [authority, ec, rsa] = document["keys"].as_array().unwrap().as_slice() else { panic!("{document}") };
    assert_eq!(
        (&authority["kty"], &authority["use"], &authority["crv"]),
        (&json!("OKP"), &json!("x509-svid"), &json!("Ed25519"))
    );
    assert_eq!((&ec["kty"], &ec["use"], &ec["crv"]), (&json!("EC"), &json!("jwt-svid"), &json!("P-256")));
    assert_eq!(
        (&rsa["kty"], &rsa["use"], &rsa["kid"], &rsa["e"]),
        (&json!("RSA"), &json!("jwt-svid"), &json!("rsa"), &json!("AQAB"))
    );
    assert_eq!((&document["spiffe_sequence"], &document["spiffe_refresh_hint"]), (&json!(1), &json!(300)));
    for len in 0..json.len() {
        assert!(read(&json[..len]).is_err(), "{len} bytes");
    }
    let of_other = Bundle::from_json(domain("other.test"), &json).unwrap_err();
    assert!(matches!(of_other, BundleError::Authority(_)), "{of_other:?}");
}

#[test]
fn bn_1_keys_must_be_there_but_may_be_empty_and_unknown_members_are_ignored() {
    assert!(read_value(&json!({"keys": []})).unwrap().is_empty());
    assert!(read_value(&json!({"keys": [], "more": {"spiffe_sequence": "x"}})).is_ok());
    for document in
        [json!({}), json!({"keys": {}}), json!({"keys": null}), json!({"keys": [1]}), json!([]), json!(null)]
    {
        assert!(read_value(&document).is_err(), "{document}");
    }
}

#[test]
fn bn_2_a_sequence_number_keeps_its_64_bits() {
    let sequence =
        |text: &str| read(format!(r#"{{"keys":[],"spiffe_sequence":{text}}}"#).as_bytes()).map(|b| b.sequence());
    assert_eq!(sequence("9007199254740993"), Ok(9_007_199_254_740_993), "beyond what a double can tell apart");
    assert_eq!(sequence("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(sequence("null"), Ok(0));
    assert_eq!(read_value(&json!({"keys": []})).unwrap().sequence(), 0);
    for bad in ["18446744073709551616", "-1", "1.5", "1e3", "\"1\"", "[1]"] {
        assert!(sequence(bad).is_err(), "{bad}");
    }
    let newest = bundle_of(u64::MAX, &["a"]);
    assert_eq!(read(&newest.to_json()), Ok(newest));
}

#[test]
fn bn_2_a_bundle_is_replaced_by_a_newer_one_of_its_own_trust_domain_only() {
    let (one, other) = (Mesh::new(), Mesh::of("spiffe://other.test/node/a", Default::default()));
    let with = |sequence, authorities: &[_]| Bundle::new(domain("mesh.test"), authorities.to_vec(), sequence);
    let authorities = one.authority.bundle().authorities();
    let mut held = with(5, authorities).unwrap();
    assert_eq!(held.offer(with(5, authorities).unwrap()), Ok(BundleUpdate::Unchanged));
    assert_eq!(held.offer(with(4, &[]).unwrap()), Ok(BundleUpdate::Outdated));
    assert_eq!(held.offer(with(5, &[]).unwrap()), Err(BundleError::Forked(5)));
    assert!(matches!(held.offer(other.authority.bundle().clone()), Err(BundleError::WrongTrustDomain { .. })));
    assert!(matches!(held.replace(other.authority.bundle().clone()), Err(BundleError::WrongTrustDomain { .. })));
    assert_eq!(held.authorities().len(), 1, "none of that has changed it");
    assert_eq!(held.offer(with(6, &[]).unwrap()), Ok(BundleUpdate::Replaced));
    assert_eq!((held.sequence(), held.authorities().len()), (6, 0));
}

#[test]
fn bn_2_one_sequence_number_with_other_jwt_keys_is_an_alarm_too() {
    let mut held = bundle_of(5, &["a"]);
    assert_eq!(held.offer(bundle_of(5, &["a", "b"])), Err(BundleError::Forked(5)));
    assert_eq!(held.offer(bundle_of(5, &["b"])), Err(BundleError::Forked(5)));
    assert_eq!(held.offer(bundle_of(6, &["b"])), Ok(BundleUpdate::Replaced));
}

#[test]
fn bn_2_a_rollback_is_refused_until_an_operator_forces_it() {
    let mut held = bundle_of(9, &["new"]);
    assert_eq!(held.offer(bundle_of(3, &["old"])), Ok(BundleUpdate::Outdated));
    assert_eq!(held, bundle_of(9, &["new"]));
    held.replace(bundle_of(3, &["old"])).unwrap();
    assert_eq!(held, bundle_of(3, &["old"]));
}

#[test]
fn bn_2_without_sequence_numbers_the_later_bundle_wins_but_a_lost_number_is_a_rollback() {
    let mut held = bundle_of(0, &["a"]);
    assert_eq!(held.offer(bundle_of(0, &["b"])), Ok(BundleUpdate::Replaced));
    assert_eq!(held.offer(bundle_of(0, &["b"])), Ok(BundleUpdate::Unchanged));
    assert_eq!(held.offer(bundle_of(1, &["b"])), Ok(BundleUpdate::Replaced));
    assert_eq!(held.offer(bundle_of(0, &["a"])), Ok(BundleUpdate::Outdated));
}

#[test]
fn bn_3_a_refresh_hint_is_whole_seconds_between_ten_and_a_day() {
    let hint = |value: Value| read_value(&json!({"keys": [], "spiffe_refresh_hint": value})).map(|b| b.refresh_hint());
    assert_eq!(hint(json!(60)), Ok(secs(60)));
    assert_eq!((hint(json!(0)), hint(json!(u64::MAX))), (Ok(secs(10)), Ok(secs(86_400))));
    assert_eq!(read_value(&json!({"keys": []})).unwrap().refresh_hint(), secs(300));
    assert!(hint(json!(60.5)).is_err() && hint(json!("60")).is_err() && hint(json!(-1)).is_err());
    let bundle = bundle_of(1, &[]).with_refresh_hint(Duration::from_millis(20_900));
    assert_eq!(read(&bundle.to_json()).unwrap().refresh_hint(), secs(20));
}

#[test]
fn bn_4_of_several_certificates_the_first_counts_and_a_key_without_any_is_ignored() {
    let bundle = Mesh::new().authority.bundle().clone();
    let mut document: Value = serde_json::from_slice(&bundle.to_json()).unwrap();
    let certificate = document["keys"][0]["x5c"][0].clone();
    let read_with = |document: &mut Value, x5c: Value| {
        document["keys"][0]["x5c"] = x5c;
        read_value(document).map(|bundle| bundle.authorities().len())
    };
    assert_eq!(read_with(&mut document, json!([certificate, "AAAA"])), Ok(1));
    assert_eq!(read_with(&mut document, json!([])), Ok(0));
    for bad in [json!(["AAAA"]), json!(["!"]), json!([1]), certificate.clone(), json!(null)] {
        assert!(read_with(&mut document, bad.clone()).is_err(), "{bad}");
    }
    // base64url, where base64 is asked for; the certificate has both characters that differ.
    let url = certificate.as_str().unwrap().replace('+', "-").replace('/', "_");
    assert_ne!(url, certificate.as_str().unwrap());
    assert!(read_with(&mut document, json!([url])).is_err());
    document["keys"][0].as_object_mut().unwrap().remove("x5c");
    assert_eq!(read_value(&document).unwrap().authorities().len(), 0);
}

#[test]
fn bn_4_a_jwt_key_has_a_kid_and_an_x509_authority_has_none() {
    let document: Value = serde_json::from_slice(&full_bundle().to_json()).unwrap();
    for key in document["keys"].as_array().unwrap() {
        let (has_kid, has_certificate) = (key.get("kid").is_some(), key.get("x5c").is_some());
        assert_eq!(
            (has_kid, has_certificate),
            if key["use"] == "jwt-svid" { (true, false) } else { (false, true) },
            "{key}"
        );
    }
    for kid in [json!(null), json!(""), json!(7), json!("x".repeat(256))] {
        let mut document = document.clone();
        document["keys"][1]["kid"] = kid.clone();
        let bundle = read_value(&document).unwrap();
        assert_eq!(bundle.jwt_keys().keys().map(KeyId::as_str).collect::<Vec<_>>(), ["rsa"], "{kid}");
    }
}

#[test]
fn bn_4_entries_of_unknown_use_or_kind_are_skipped_without_the_others() {
    let known: Value = serde_json::from_slice(&full_bundle().to_json()).unwrap();
    let (authority, jwt_key) = (known["keys"][0].clone(), known["keys"][1].clone());
    let changed = |key: &Value, member: &str, value: Value| {
        let mut key = key.clone();
        key[member] = value;
        key
    };
    let strange = [
        json!({}),
        json!({"use": "x509-svid"}),
        json!({"use": "jwt-svid", "kid": "p"}),
        json!({"kty": "AKP", "use": "jwt-svid", "kid": "q", "alg": "ML-DSA-65", "pub": "AA"}),
        changed(&jwt_key, "use", json!("wit-svid")),
        changed(&jwt_key, "use", json!("JWT-SVID")),
        changed(&jwt_key, "use", json!("sig")),
        changed(&jwt_key, "use", json!(["jwt-svid"])),
        changed(&jwt_key, "crv", json!("secp256k1")),
        changed(&jwt_key, "kty", json!("OKP")),
        changed(&authority, "use", json!("X509-svid")),
        changed(&authority, "kty", json!("AKP")),
        changed(&authority, "kty", json!(null)),
    ];
    for strange in &strange {
        let bundle = read_value(&json!({"keys": [strange, authority, jwt_key]})).unwrap();
        assert_eq!((bundle.authorities().len(), bundle.jwt_keys().len()), (1, 1), "{strange}");
    }
    assert!(read_value(&json!({"keys": strange})).unwrap().is_empty(), "in effect empty");
}

#[test]
fn bn_4_a_jwt_key_that_is_not_what_it_says_discards_the_document() {
    let known: Value = serde_json::from_slice(&full_bundle().to_json()).unwrap();
    let broken = |index: usize, member: &str, value: Value| {
        let mut document = known.clone();
        document["keys"][index][member] = value;
        read_value(&document).unwrap_err()
    };
    for bad in [json!("AAAA"), json!(null), json!("="), known["keys"][1]["y"].clone()] {
        let error = broken(1, "x", bad);
        assert!(matches!(error, BundleError::JwtKey { source: JwtKeyError::Malformed, .. }), "{error:?}");
    }
    for exponent in ["AQ", "AA", "", "AAAA", "Ag", "AQAAAAAB"] {
        let error = broken(2, "e", json!(exponent));
        assert!(matches!(error, BundleError::JwtKey { source: JwtKeyError::Malformed, .. }), "{exponent}: {error:?}");
    }
    // RSA-1024 is a kind of key that we do not know.
    let mut document = known.clone();
    document["keys"][2]["n"] = json!(&known["keys"][2]["n"].as_str().unwrap()[..172]);
    assert_eq!(read_value(&document).unwrap().jwt_keys().len(), 1);
}

#[test]
fn bn_4_two_keys_under_one_name_discard_the_document() {
    let known: Value = serde_json::from_slice(&full_bundle().to_json()).unwrap();
    let (mut ec, rsa) = (known["keys"][1].clone(), known["keys"][2].clone());
    assert_eq!(read_value(&json!({"keys": [ec, ec]})).unwrap().jwt_keys().len(), 1);
    ec["kid"] = rsa["kid"].clone();
    assert_eq!(read_value(&json!({"keys": [ec, rsa]})), Err(BundleError::DuplicateKeyId("rsa".parse().unwrap())));
}

#[test]
fn bn_5_an_empty_bundle_trusts_nobody() {
    assert!(bundle_of(1, &[]).is_empty());
    assert!(!bundle_of(1, &["a"]).is_empty() && !Mesh::new().authority.bundle().is_empty());
}

#[test]
fn bn_6_bundles_of_two_trust_domains_are_kept_apart() {
    let mut map = BundleMap::new();
    let (one, other) = (Mesh::new(), Mesh::of("spiffe://other.test/node/a", Default::default()));
    assert_eq!(map.offer(one.authority.bundle().clone()), Ok(BundleUpdate::Replaced));
    assert_eq!(map.offer(other.authority.bundle().clone()), Ok(BundleUpdate::Replaced));
    assert_eq!(map.offer(other.authority.bundle().clone()), Ok(BundleUpdate::Unchanged));
    let names = map.iter().map(|bundle| bundle.trust_domain().as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["mesh.test", "other.test"]);
    assert_eq!(**map.get(&domain("mesh.test")).unwrap(), *one.authority.bundle());
    assert!(map.remove(&domain("mesh.test")) && !map.remove(&domain("mesh.test")));
    assert_eq!(map.get(&domain("mesh.test")), None);
    assert_eq!(map.len(), 1);
}

#[test]
fn bn_6_an_update_in_a_map_keeps_the_rules_of_a_bundle() {
    let mut map = BundleMap::new();
    map.offer(bundle_of(5, &["a"])).unwrap();
    let before = map.clone();
    assert_eq!(map.offer(bundle_of(4, &[])), Ok(BundleUpdate::Outdated));
    assert_eq!(map.offer(bundle_of(5, &[])), Err(BundleError::Forked(5)));
    assert_eq!(map, before);
    map.replace(bundle_of(4, &[])).unwrap();
    assert!(map.get(&domain("mesh.test")).unwrap().is_empty());
}

#[test]
fn bm_1_a_bundle_map_comes_back_and_refuses_a_trust_domain_that_stands_twice() {
    let mut map = BundleMap::new();
    map.offer(full_bundle()).unwrap();
    map.offer(Mesh::of("spiffe://other.test/node/a", Default::default()).authority.bundle().clone()).unwrap();
    let json = map.to_json();
    assert_eq!(BundleMap::from_json(&json), Ok(map));
    let bundle = r#"{"keys":[]}"#;
    let twice = format!(r#"{{"trust_domains":{{"a.test":{bundle},"a.test":{bundle}}}}}"#);
    let duplicate = BundleError::Json(StrictJsonError::DuplicateMember("a.test".to_owned()));
    assert_eq!(BundleMap::from_json(twice.as_bytes()), Err(duplicate));
}

#[test]
fn bm_1_a_bundle_map_is_read_whole_or_not_at_all() {
    let read = |document: Value| BundleMap::from_json(document.to_string().as_bytes());
    assert!(read(json!({"trust_domains": {}})).unwrap().is_empty());
    assert_eq!(read(json!({"trust_domains": {"a.test": {"keys": []}}})).unwrap().len(), 1);
    for bad in [
        json!({}),
        json!({"trust_domains": []}),
        json!({"a.test": {"keys": []}}),
        json!({"trust_domains": {"A.test": {"keys": []}}}),
        json!({"trust_domains": {"spiffe://a.test": {"keys": []}}}),
        json!({"trust_domains": {"a.test": {"keys": []}, "b.test": {}}}),
        json!({"trust_domains": {"a.test": {"keys": []}, "b.test": []}}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
    let names =
        |count: usize| (0..count).map(|i| (format!("d{i}"), json!({"keys": []}))).collect::<serde_json::Map<_, _>>();
    assert!(read(json!({"trust_domains": names(BUNDLE_MAP_MAX)})).is_ok());
    let too_many = read(json!({"trust_domains": names(BUNDLE_MAP_MAX + 1)}));
    assert_eq!(too_many, Err(BundleError::TooManyTrustDomains(BUNDLE_MAP_MAX + 1)));
}

#[test]
fn bm_1_refresh_hints_inside_a_map_mean_nothing() {
    let document = json!({"trust_domains": {"a.test": {"keys": [], "spiffe_refresh_hint": 20}}});
    let map = BundleMap::from_json(document.to_string().as_bytes()).unwrap();
    assert_eq!(map.get(&domain("a.test")).unwrap().refresh_hint(), secs(300));
    assert!(!String::from_utf8(map.to_json()).unwrap().contains("refresh_hint"));
}

#[test]
fn a_document_that_two_readers_could_understand_differently_is_refused() {
    assert_eq!(
        read(br#"{"keys":[],"keys":[]}"#),
        Err(BundleError::Json(StrictJsonError::DuplicateMember("keys".to_owned())))
    );
    let deep = format!(r#"{{"keys":[],"x":{}{}}}"#, "[".repeat(20), "]".repeat(20));
    assert_eq!(read(deep.as_bytes()), Err(BundleError::Json(StrictJsonError::TooDeep)));
    assert!(read(br#"{"keys":[]}{"keys":[]}"#).is_err());
    let large = BundleError::DocumentTooLarge { bytes: 600_000, max: 512 * 1024 };
    assert_eq!(read(" ".repeat(600_000).as_bytes()), Err(large));
}

#[test]
fn a_bundle_holds_a_bounded_number_of_jwt_keys() {
    let keys = |count: usize| (0..count).map(|i| (key_id(&format!("k{i}")), public_key(0)));
    assert!(bundle_of(1, &[]).with_jwt_keys(keys(BUNDLE_JWT_KEYS_MAX)).is_ok());
    let too_many = bundle_of(1, &[]).with_jwt_keys(keys(BUNDLE_JWT_KEYS_MAX + 1));
    assert_eq!(too_many, Err(BundleError::TooManyJwtKeys(BUNDLE_JWT_KEYS_MAX + 1)));
}

#[test]
fn ws_6_the_key_set_of_the_workload_api_has_jwt_keys_only_and_nothing_of_spiffe_around_them() {
    let bundle = full_bundle();
    let jwks = bundle.to_jwks();
    let document: Value = serde_json::from_slice(&jwks).unwrap();
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["keys"]);
    assert!(document["keys"].as_array().unwrap().iter().all(|key| key.get("x5c").is_none()));
    assert_eq!(Bundle::jwt_keys_from_jwks(&jwks).as_ref(), Ok(bundle.jwt_keys()));
}

#[test]
fn a_key_set_without_any_use_is_read_but_a_key_without_use_among_others_is_not() {
    let mut document: Value = serde_json::from_slice(&full_bundle().to_jwks()).unwrap();
    document["keys"][0].as_object_mut().unwrap().remove("use");
    let read = |document: &Value| Bundle::jwt_keys_from_jwks(document.to_string().as_bytes()).unwrap().len();
    assert_eq!(read(&document), 1);
    document["keys"][1].as_object_mut().unwrap().remove("use");
    assert_eq!(read(&document), 2, "the form that SPIRE writes");
}

#[test]
fn a_digest_depends_on_domain_and_authorities_and_on_nothing_else() {
    let bundle = Mesh::new().authority.bundle().clone();
    let authorities = bundle.authorities().to_vec();
    let twice = [authorities.clone(), authorities.clone()].concat();
    let of =
        |name: &str, authorities: Vec<_>, sequence| Bundle::new(domain(name), authorities, sequence).unwrap().digest();
    assert_eq!(of("mesh.test", twice, 77), bundle.digest());
    assert_ne!(of("mesh.test", Vec::new(), 1), bundle.digest());
    assert_ne!(of("mesh.test", Vec::new(), 1), of("other.test", Vec::new(), 1));
    assert_eq!(full_bundle().digest(), bundle.digest(), "a token stays valid when a JWT key comes or goes");
}

#[test]
fn a_public_key_comes_back_from_its_der_form_and_no_cut_off_or_damaged_one_does() {
    for key in (0..EC_KEYS.len()).map(public_key).chain([rsa_public_key()]) {
        let der = key.to_spki();
        assert_eq!(JwtPublicKey::from_spki(der), Ok(key.clone()));
        assert_eq!(KeyId::thumbprint(&key).as_str().len(), 43);
        for len in 0..der.len() {
            assert!(JwtPublicKey::from_spki(&der[..len]).is_err(), "{len} bytes");
        }
        assert_eq!(JwtPublicKey::from_spki(&[der, &[0]].concat()), Err(JwtKeyError::Malformed));
    }
    assert_eq!(JwtPublicKey::from_spki(&[0x30; 2000]), Err(JwtKeyError::Unsupported));
}

#[test]
fn the_thumbprint_of_a_key_is_that_of_rfc_7638() {
    // RFC 7638, 3.1.
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    let document = json!({"keys": [{"kty": "RSA", "kid": "2011-04-29", "n": n, "e": "AQAB", "alg": "RS256"}]});
    let keys = Bundle::jwt_keys_from_jwks(document.to_string().as_bytes()).unwrap();
    let thumbprint = KeyId::thumbprint(keys.values().next().unwrap());
    assert_eq!(thumbprint.as_str(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(BundleMap::from_json(&bytes).is_err());
        prop_assert!(Bundle::jwt_keys_from_jwks(&bytes).is_err());
        prop_assert!(JwtPublicKey::from_spki(&bytes).is_err());
    }

    #[test]
    fn no_damage_to_a_document_makes_a_reader_panic(position in 0_usize..3000, byte: u8) {
        let mut json = full_bundle().to_json();
        let position = position % json.len();
        json[position] = byte;
        if let Ok(bundle) = read(&json) {
            prop_assert_eq!(read(&bundle.to_json()), Ok(bundle));
        }
    }
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// An X.509 authority, an EC key and an RSA key.
fn full_bundle() -> Bundle {
    let keys = [(key_id("ec"), public_key(0)), (key_id("rsa"), rsa_public_key())];
    Mesh::new().authority.bundle().clone().with_jwt_keys(keys).unwrap()
}

/// JWT keys of these names, of one key each.
fn bundle_of(sequence: u64, names: &[&str]) -> Bundle {
    let keys = names.iter().map(|name| (key_id(name), public_key(0)));
    Bundle::new(domain("mesh.test"), Vec::new(), sequence).unwrap().with_jwt_keys(keys).unwrap()
}

fn read(json: &[u8]) -> Result<Bundle, BundleError> {
    Bundle::from_json(domain("mesh.test"), json)
}

fn read_value(document: &Value) -> Result<Bundle, BundleError> {
    read(document.to_string().as_bytes())
}
