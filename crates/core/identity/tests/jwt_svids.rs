//! JWT-SVIDs, honest and hostile. Tests carry the number of the checklist item they prove.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::jwt::{all_keys, claims, key_id, key_name, public_key, raw_signature, sign, sign_text};
use support::{NOW, id, secs};
use x0t_identity::{
    AUDIENCES_MAX, AudienceError, AudienceSet, AwsLcKeys, Bundle, BundleMap, JWT_SVID_TTL_MAX, JwtAlgorithm, JwtError,
    JwtPublicKey, JwtRequest, JwtSigningKey, JwtSvid, JwtValidationCache, JwtValidator, KEY_TRIES_MAX, KeyError, KeyId,
    KeySource, MintError, SeededKeys, VerifiedJwt,
};
use x0t_model::{Entropy, TrustDomain, UnixTime};

const SUBJECT: &str = "spiffe://mesh.test/workload/web";

#[test]
fn jw_1_only_the_compact_form_of_three_parts_is_read() {
    let token = honest(JwtAlgorithm::Es256);
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    assert!(validate(&token).is_ok());
    let json = json!({"protected": header, "payload": payload, "signature": signature}).to_string();
    for other in [
        String::new(),
        ".".to_owned(),
        format!("{header}.{payload}"),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!(".{token}"),
        format!("{header}.a.b.c.{signature}"),
        json.clone(),
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
        format!("{{\"x\":\"{token}\"}}"),
    ] {
        assert_eq!(code(&other), "jwt_not_compact", "{other}");
    }
    for part in [format!("{header}..{signature}"), format!("..{signature}"), "..".to_owned()] {
        assert_eq!(code(&part), "jwt_bad_json", "{part}");
    }
}

#[test]
fn jw_1_a_token_has_one_spelling() {
    let token = honest(JwtAlgorithm::Es256);
    let signature = token.rsplit('.').next().unwrap();
    // 64 bytes are 86 characters, the last of which carries four bits that are zero.
    let last = signature.chars().last().unwrap();
    assert!("AQgw".contains(last));
    let respelled = char::from_u32(last as u32 + 1).unwrap();
    for other in [
        format!("{}{respelled}", &token[..token.len() - 1]),
        format!("{token}=="),
        format!("{token}\n"),
        format!(" {token}"),
        format!("{token} "),
        token.replacen('.', "=.", 1),
        token.replacen(signature, &BASE64.encode(&[0xff; 64]), 1),
    ] {
        assert_eq!(code(&other), "jwt_not_base64", "{other}");
    }
}

#[test]
fn jw_2_every_algorithm_of_the_specification_is_accepted_with_its_key() {
    for algorithm in JwtAlgorithm::ALL {
        let verified = validate(&honest(algorithm)).unwrap();
        assert_eq!((verified.spiffe_id(), verified.key_id()), (&id(SUBJECT), Some(&key_id(key_name(algorithm)))));
        assert_eq!(JwtAlgorithm::named(algorithm.name()), Some(algorithm));
    }
}

#[test]
fn jw_2_no_other_algorithm_is_even_looked_at() {
    for name in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "HS256",
        "HS384",
        "HS512",
        "EdDSA",
        "Ed25519",
        "ES256K",
        "ML-DSA-65",
        "RSA1_5",
        "dir",
        "es256",
        "ES256 ",
        "A256GCM",
    ] {
        let token = sign(&json!({"alg": name, "kid": "p256"}), &honest_claims(), JwtAlgorithm::Es256);
        assert_eq!(code(&token), "jwt_unsupported_algorithm", "{name}");
        // Before the key is looked up: no bundle is needed to refuse it.
        let error = JwtValidator::default().validate(&token, &web(), &BundleMap::new(), NOW).unwrap_err();
        assert_eq!(error.code(), "jwt_unsupported_algorithm");
    }
    let unsigned = |signature: &str| {
        let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        format!("{}.{}.{signature}", part(json!({"alg": "none"})), part(honest_claims()))
    };
    assert_eq!(code(&unsigned("")), "jwt_unsupported_algorithm");
    for malformed in [json!({}), json!({"alg": null}), json!({"alg": ["ES256"]}), json!({"alg": 256})] {
        assert_eq!(code(&sign(&malformed, &honest_claims(), JwtAlgorithm::Es256)), "jwt_malformed_header");
    }
}

#[test]
fn jw_2_a_mac_keyed_with_the_public_key_is_refused() {
    for key in [public_key(0), support::jwt::rsa_public_key()] {
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(key.to_spki()));
        for secret in [pem.as_bytes(), key.to_spki()] {
            for name in ["HS256", "RS256", "ES256"] {
                let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
                let signed = format!("{}.{}", part(json!({"alg": name, "typ": "JWT"})), part(honest_claims()));
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
                let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()));
                let expected = if name == "HS256" { "jwt_unsupported_algorithm" } else { "jwt_bad_signature" };
                assert_eq!(code(&token), expected, "{name}");
            }
        }
    }
}

#[test]
fn jw_3_an_algorithm_that_does_not_fit_the_key_is_refused() {
    for (named, kid) in [
        ("ES384", "p256"),
        ("ES512", "p256"),
        ("ES256", "p384"),
        ("ES256", "p521"),
        ("RS256", "p256"),
        ("PS256", "p521"),
        ("ES256", "rsa"),
    ] {
        for signer in [JwtAlgorithm::named(named).unwrap(), JwtAlgorithm::Es256] {
            let token = sign(&json!({"alg": named, "kid": kid}), &honest_claims(), signer);
            assert_eq!(code(&token), "jwt_algorithm_mismatch", "{named} with {kid}");
        }
    }
    // One RSA key signs with either padding, and the header has to say which.
    let as_other = sign(&json!({"alg": "PS256", "kid": "rsa"}), &honest_claims(), JwtAlgorithm::Rs256);
    assert_eq!(code(&as_other), "jwt_bad_signature");
}

#[test]
fn jw_3_a_signature_of_another_shape_or_message_is_refused() {
    let token = honest(JwtAlgorithm::Es256);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let with = |signature: &[u8]| code(&format!("{signed}.{}", BASE64URL_NOPAD.encode(signature)));
    let raw = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    assert_eq!(with(&[]), "jwt_bad_signature");
    assert_eq!(with(&[0; 64]), "jwt_bad_signature", "the psychic signature");
    assert_eq!(with(&raw[..63]), "jwt_bad_signature");
    assert_eq!(with(&[&raw[..], &[0]].concat()), "jwt_bad_signature");
    assert_eq!(with(&[&raw[32..], &raw[..32]].concat()), "jwt_bad_signature");
    let other = sign(&json!({"alg": "ES256", "kid": "p256"}), &claims(SUBJECT, "db", NOW), JwtAlgorithm::Es256);
    let (_, of_other) = other.rsplit_once('.').unwrap();
    assert_eq!(code(&format!("{signed}.{of_other}")), "jwt_bad_signature");
}

#[test]
fn jw_4_the_type_is_absent_or_jwt_or_jose() {
    let with = |header: Value| sign(&header, &honest_claims(), JwtAlgorithm::Es256);
    for header in
        [json!({"alg": "ES256"}), json!({"alg": "ES256", "typ": "JWT"}), json!({"alg": "ES256", "typ": "JOSE"})]
    {
        assert!(validate(&with(header.clone())).is_ok(), "{header}");
    }
    for other in ["jwt", "Jwt", "jose", "JWE", "at+jwt", "", "application/jwt", "JWT "] {
        assert_eq!(code(&with(json!({"alg": "ES256", "typ": other}))), "jwt_wrong_type", "{other}");
    }
    assert_eq!(code(&with(json!({"alg": "ES256", "typ": null}))), "jwt_malformed_header");
}

#[test]
fn wt_2_a_wit_svid_is_no_bearer_token() {
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "alg": "ES256"});
    let claims = json!({"sub": SUBJECT, "exp": NOW.as_secs() + 300, "cnf": {"jwk": jwk}});
    let token = sign(&json!({"alg": "ES256", "kid": "p256", "typ": "wit+jwt"}), &claims, JwtAlgorithm::Es256);
    assert_eq!(code(&token), "jwt_wrong_type");
}

#[test]
fn jw_5_a_header_beyond_alg_kid_and_typ_is_refused() {
    for name in ["jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "zip", "cty", "enc", "nonce", "Alg", "x"]
    {
        let mut header = json!({"alg": "ES256", "kid": "p256"});
        header[name] = json!("https://evil.test/keys");
        let token = sign(&header, &honest_claims(), JwtAlgorithm::Es256);
        assert_eq!(code(&token), "jwt_forbidden_header", "{name}");
    }
    let crit = sign(&json!({"alg": "ES256", "crit": ["b64"], "b64": false}), &honest_claims(), JwtAlgorithm::Es256);
    assert_eq!(code(&crit), "jwt_forbidden_header");
    let error = validate(&sign(&json!({"alg": "ES256", "\n".repeat(5000): 1}), &honest_claims(), JwtAlgorithm::Es256));
    assert!(error.unwrap_err().to_string().len() < 200, "a stranger's text is cut and escaped");
}

#[test]
fn jw_6_a_token_without_a_kid_is_tried_with_the_keys_that_fit() {
    for algorithm in JwtAlgorithm::ALL {
        let verified = validate(&sign(&json!({"alg": algorithm.name()}), &honest_claims(), algorithm)).unwrap();
        assert_eq!(verified.key_id(), None);
    }
    let bundles = bundles_with([(key_id("p384"), public_key(1))]);
    let token = sign(&json!({"alg": "ES256"}), &honest_claims(), JwtAlgorithm::Es256);
    let error = JwtValidator::default().validate(&token, &web(), &bundles, NOW).unwrap_err();
    assert_eq!(error.code(), "jwt_unknown_key");
}

#[test]
fn jw_6_only_so_many_keys_are_tried() {
    let validate_behind = |others: usize| {
        let mut keys: Vec<_> = (0..others).map(|i| (key_id(&format!("a{i:02}")), fresh_key())).collect();
        keys.push((key_id("z"), public_key(0)));
        let token = sign(&json!({"alg": "ES256"}), &honest_claims(), JwtAlgorithm::Es256);
        JwtValidator::default().validate(&token, &web(), &bundles_with(keys), NOW).map_err(|error| error.code())
    };
    assert!(validate_behind(KEY_TRIES_MAX - 1).is_ok());
    assert_eq!(validate_behind(KEY_TRIES_MAX).map(|_| ()), Err("jwt_bad_signature"));
}

#[test]
fn jw_6_a_kid_that_is_there_is_the_only_key_tried() {
    for (kid, expected) in
        [("p384", "jwt_algorithm_mismatch"), ("gone", "jwt_unknown_key"), ("P256", "jwt_unknown_key")]
    {
        let token = sign(&json!({"alg": "ES256", "kid": kid}), &honest_claims(), JwtAlgorithm::Es256);
        assert_eq!(code(&token), expected, "{kid}");
    }
    for kid in [json!(""), json!(null), json!(1), json!(["p256"]), json!("x".repeat(256))] {
        let token = sign(&json!({"alg": "ES256", "kid": kid}), &honest_claims(), JwtAlgorithm::Es256);
        assert_eq!(code(&token), "jwt_malformed_header", "{kid}");
    }
}

#[test]
fn jw_7_the_subject_is_the_spiffe_id_of_a_workload() {
    let with = |subject: Value| {
        let mut claims = honest_claims();
        claims["sub"] = subject;
        code(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256))
    };
    for subject in [
        "",
        "web",
        "spiffe://mesh.test",
        "spiffe://mesh.test/",
        "spiffe://MESH.test/a",
        "https://mesh.test/a",
        "spiffe://mesh.test/a//b",
        "spiffe://mesh.test/%61",
    ] {
        assert_eq!(with(json!(subject)), "jwt_bad_subject", "{subject}");
    }
    assert_eq!(with(json!([SUBJECT])), "jwt_malformed_claim");
    assert_eq!(without("sub"), "jwt_missing_claim");
}

#[test]
fn jw_7_the_keys_come_from_the_trust_domain_of_the_subject_only() {
    // Both domains are known, under keys of the same name.
    let mut bundles = bundles();
    let other = Bundle::new("other.test".parse().unwrap(), Vec::new(), 1).unwrap();
    bundles.offer(other.with_jwt_keys([(key_id("p256"), fresh_key())]).unwrap()).unwrap();
    let validate = |subject: &str| {
        let header = json!({"alg": "ES256", "kid": "p256"});
        let token = sign(&header, &claims(subject, "web", NOW), JwtAlgorithm::Es256);
        JwtValidator::default().validate(&token, &web(), &bundles, NOW).map_err(|error| error.code())
    };
    assert!(validate(SUBJECT).is_ok());
    assert_eq!(validate("spiffe://other.test/workload/web").map(|_| ()), Err("jwt_bad_signature"));
    assert_eq!(validate("spiffe://third.test/workload/web").map(|_| ()), Err("jwt_unknown_trust_domain"));
}

#[test]
fn jw_7_a_bundle_without_jwt_keys_trusts_no_token() {
    for kid in [json!({"alg": "ES256", "kid": "p256"}), json!({"alg": "ES256"})] {
        let token = sign(&kid, &honest_claims(), JwtAlgorithm::Es256);
        let error = JwtValidator::default().validate(&token, &web(), &bundles_with([]), NOW).unwrap_err();
        assert_eq!(error.code(), "jwt_unknown_key");
    }
}

#[test]
fn jw_8_a_token_is_for_one_of_its_audiences_and_for_nobody_else() {
    let with = |audience: Value| {
        let mut claims = honest_claims();
        claims["aud"] = audience;
        validate(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)).map_err(|error| error.code())
    };
    assert!(with(json!("web")).is_ok() && with(json!(["db", "web"])).is_ok());
    for other in
        [json!("Web"), json!("web "), json!(["db"]), json!("we"), json!("webb"), json!("spiffe://mesh.test/web")]
    {
        assert_eq!(with(other.clone()).map(|_| ()), Err("jwt_wrong_audience"), "{other}");
    }
    for malformed in [
        json!([]),
        json!(""),
        json!(["web", ""]),
        json!((0..=AUDIENCES_MAX).map(|i| i.to_string()).collect::<Vec<_>>()),
    ] {
        assert_eq!(with(malformed.clone()).map(|_| ()), Err("jwt_malformed_audience"), "{malformed}");
    }
    for malformed in [json!(1), json!(null), json!({"web": 1}), json!(["web", 1]), json!([["web"]])] {
        assert_eq!(with(malformed.clone()).map(|_| ()), Err("jwt_malformed_claim"), "{malformed}");
    }
    assert_eq!(without("aud"), "jwt_missing_claim");
}

#[test]
fn jw_8_an_empty_audience_cannot_be_expressed() {
    assert_eq!(AudienceSet::new([]), Err(AudienceError::None));
    assert_eq!(AudienceSet::parse([]), Err(AudienceError::None));
    assert_eq!(AudienceSet::parse([""]), Err(AudienceError::Empty));
    assert_eq!(AudienceSet::parse(["a", ""]), Err(AudienceError::Empty));
    assert_eq!(AudienceSet::parse(["x".repeat(2049).as_str()]), Err(AudienceError::TooLong(2049)));
    assert_eq!(AudienceSet::parse(std::iter::repeat_n("a", AUDIENCES_MAX + 1)), Err(AudienceError::TooMany));
    assert_eq!(AudienceSet::parse(["b", "a", "b"]), AudienceSet::parse(["a", "b"]));
}

#[test]
fn jw_9_a_token_ends_at_exp_and_the_leeway_forgives_clocks_that_differ() {
    let token = honest(JwtAlgorithm::Es256);
    let at = |leeway: u64, seconds: u64| {
        let validator = JwtValidator::with_leeway(secs(leeway)).unwrap();
        validator.validate(&token, &web(), &bundles(), NOW + secs(seconds)).map_err(|error| error.code())
    };
    assert!(at(0, 299).is_ok());
    assert_eq!(at(0, 300).map(|_| ()), Err("jwt_expired"));
    assert!(at(30, 329).is_ok());
    assert_eq!(at(30, 330).map(|_| ()), Err("jwt_expired"));
    assert!(JwtValidator::with_leeway(secs(120)).is_ok());
    assert!(JwtValidator::with_leeway(secs(121)).is_err() && JwtValidator::with_leeway(Duration::MAX).is_err());
    let error = JwtValidator::default().validate(&token, &web(), &bundles(), NOW + secs(900)).unwrap_err();
    assert!(error.to_string().contains("expired 600s ago") && error.to_string().contains("compare the clocks"));
}

#[test]
fn jw_9_exp_is_a_number_of_seconds_whole_or_not() {
    let with = |exp: Value| {
        let mut claims = honest_claims();
        claims["exp"] = exp;
        validate(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256))
    };
    let soon = NOW.as_secs() + 300;
    assert_eq!(with(json!(soon as f64 + 0.9)).unwrap().expires_at(), UnixTime::from_secs(soon));
    assert_eq!(with(json!(NOW.as_secs() as f64 - 60.5)).unwrap_err().code(), "jwt_expired");
    assert_eq!(with(json!(0)).unwrap_err().code(), "jwt_expired");
    for malformed in [
        json!(soon.to_string()),
        json!(null),
        json!([soon]),
        json!(true),
        json!({}),
        json!(-1),
        json!(-0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(soon * 1000),
    ] {
        assert_eq!(with(malformed.clone()).unwrap_err().code(), "jwt_malformed_claim", "{malformed}");
    }
    let text = honest_claims().to_string().replace(&soon.to_string(), "9223372036854775808");
    assert_eq!(code(&sign_text(r#"{"alg":"ES256"}"#, &text, JwtAlgorithm::Es256)), "jwt_malformed_claim");
    let text = honest_claims().to_string().replace(&soon.to_string(), "1e999");
    assert_eq!(code(&sign_text(r#"{"alg":"ES256"}"#, &text, JwtAlgorithm::Es256)), "jwt_bad_json");
    assert_eq!(without("exp"), "jwt_missing_claim");
}

#[test]
fn jw_9_a_token_from_the_future_is_not_yet_valid() {
    for claim in ["nbf", "iat"] {
        let with = |time: Value| {
            let mut claims = honest_claims();
            claims[claim] = time;
            validate(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)).map_err(|error| error.code())
        };
        assert!(with(json!(NOW.as_secs() + 30)).is_ok());
        assert_eq!(with(json!(NOW.as_secs() + 31)).map(|_| ()), Err("jwt_not_yet_valid"), "{claim}");
        assert_eq!(with(json!("soon")).map(|_| ()), Err("jwt_malformed_claim"), "{claim}");
    }
    let mut claims = honest_claims();
    claims.as_object_mut().unwrap().remove("iat");
    assert_eq!(validate(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)).unwrap().issued_at(), None);
}

#[test]
fn jw_10_only_keys_for_jwt_svids_verify_a_token_and_a_strange_key_costs_no_other() {
    let domain: TrustDomain = "mesh.test".parse().unwrap();
    let full = Bundle::new(domain.clone(), Vec::new(), 1).unwrap().with_jwt_keys(all_keys()).unwrap();
    let document: Value = serde_json::from_slice(&full.to_json()).unwrap();
    let place = document["keys"].as_array().unwrap().iter().position(|key| key["kid"] == "p256").unwrap();
    let verify = |document: &Value| {
        let mut bundles = BundleMap::new();
        bundles.replace(Bundle::from_json(domain.clone(), document.to_string().as_bytes()).unwrap()).unwrap();
        [JwtAlgorithm::Es256, JwtAlgorithm::Es384]
            .map(|algorithm| JwtValidator::default().validate(&honest(algorithm), &web(), &bundles, NOW).is_ok())
    };
    assert_eq!(verify(&document), [true, true]);
    for strange in ["x509-svid", "wit-svid", "sig", "JWT-SVID", ""] {
        let mut document = document.clone();
        document["keys"][place]["use"] = json!(strange);
        assert_eq!(verify(&document), [false, true], "use {strange}");
    }
    let mut without_use = document.clone();
    without_use["keys"][place].as_object_mut().unwrap().remove("use");
    assert_eq!(verify(&without_use), [false, true]);
    let mut of_unknown_kind = document;
    of_unknown_kind["keys"][place]["kty"] = json!("AKP");
    assert_eq!(verify(&of_unknown_kind), [false, true]);
    assert_eq!(verify(&json!({"keys": []})), [false, false], "no keys, no trust");
}

#[test]
fn jw_11_a_member_that_stands_twice_is_refused() {
    let claims = honest_claims().to_string();
    for header in
        [r#"{"alg":"none","alg":"ES256"}"#, r#"{"alg":"ES256","alg":"ES256"}"#, r#"{"alg":"ES256","\u0061lg":"none"}"#]
    {
        assert_eq!(code(&sign_text(header, &claims, JwtAlgorithm::Es256)), "jwt_bad_json", "{header}");
    }
    let header = r#"{"alg":"ES256"}"#;
    for more in [r#""sub":"spiffe://mesh.test/admin","#, r#""exp":1,"#, r#""aud":"x","#, r#""x":{"y":1,"y":2},"#] {
        let twice = claims.replacen('{', &format!("{{{more}"), 1);
        assert_eq!(code(&sign_text(header, &twice, JwtAlgorithm::Es256)), "jwt_bad_json", "{more}");
    }
    for junk in ["", "null", "[]", "\"x\"", "{}{}", "\u{feff}{}"] {
        assert_eq!(code(&sign_text(header, junk, JwtAlgorithm::Es256)), "jwt_bad_json", "{junk}");
    }
}

#[test]
fn jw_11_size_and_nesting_have_bounds() {
    let with = |claim: Value| {
        let mut claims = honest_claims();
        claims["x"] = claim;
        sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)
    };
    let large = with(json!("x".repeat(11_900)));
    assert!(large.len() < 16 * 1024 && validate(&large).is_ok());
    assert_eq!(code(&with(json!("x".repeat(12_300)))), "jwt_too_long");
    let nested = |depth| (0..depth).fold(json!(1), |inside, _| json!([inside]));
    assert!(validate(&with(nested(15))).is_ok());
    assert_eq!(code(&with(nested(16))), "jwt_bad_json");
    assert!(validate(&with(json!([i64::MIN, u64::MAX, -1.5, null]))).is_ok());
}

#[test]
fn jw_12_a_key_that_has_left_the_bundle_verifies_nothing_not_even_from_the_cache() {
    let (mut cache, validator, token) =
        (JwtValidationCache::new(100), JwtValidator::default(), honest(JwtAlgorithm::Es256));
    let mut ask = |bundles: &BundleMap| cache.validate(&validator, &token, &web(), bundles, NOW).map_err(|e| e.code());
    let mut keys = all_keys();
    let with_all = bundles_with(keys.clone());
    assert!(ask(&with_all).is_ok() && ask(&with_all).is_ok());
    keys.retain(|(key_id, _)| key_id.as_str() != "p256");
    let without_it = bundles_with(keys.clone());
    assert_eq!(ask(&without_it).map(|_| ()), Err("jwt_unknown_key"));
    // Another key under the same name is another key.
    keys.push((key_id("p256"), fresh_key()));
    assert_eq!(ask(&bundles_with(keys)).map(|_| ()), Err("jwt_bad_signature"));
    assert_eq!(ask(&BundleMap::new()).map(|_| ()), Err("jwt_unknown_trust_domain"));
    assert!(ask(&with_all).is_ok(), "it is back");
}

#[test]
fn jw_12_the_cache_judges_audience_and_time_anew() {
    let (mut cache, validator, token) =
        (JwtValidationCache::new(100), JwtValidator::default(), honest(JwtAlgorithm::Es256));
    let mut ask = |audience: &str, now| {
        let accepted = AudienceSet::parse([audience]).unwrap();
        cache.validate(&validator, &token, &accepted, &bundles(), now).map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(ask("web", NOW), Ok(()));
    assert_eq!(ask("db", NOW), Err("jwt_wrong_audience"));
    assert_eq!(ask("web", NOW + secs(330)), Err("jwt_expired"));
    assert_eq!(ask("web", NOW - secs(31)), Err("jwt_not_yet_valid"));
    assert_eq!(ask("web", NOW), Ok(()));
}

#[test]
fn the_validation_cache_is_bounded_and_keeps_what_is_used() {
    let (mut cache, validator, bundles) = (JwtValidationCache::new(8), JwtValidator::default(), bundles());
    let token = |number: usize| {
        let mut claims = honest_claims();
        claims["jti"] = json!(number);
        sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)
    };
    let favourite = token(1000);
    let first = cache.validate(&validator, &favourite, &web(), &bundles, NOW).unwrap();
    for number in 0..40 {
        cache.validate(&validator, &token(number), &web(), &bundles, NOW).unwrap();
        let again = cache.validate(&validator, &favourite, &web(), &bundles, NOW).unwrap();
        assert!(std::sync::Arc::ptr_eq(&first, &again), "still remembered after {number} others");
        assert!(cache.len() <= 8);
    }
    assert_eq!(cache.validate(&validator, "rubbish", &web(), &bundles, NOW).unwrap_err(), JwtError::NotCompact);
    let mut none = JwtValidationCache::new(0);
    assert!(none.validate(&validator, &favourite, &web(), &bundles, NOW).is_ok() && none.is_empty());
}

#[test]
fn jw_13_a_token_is_never_printed() {
    let key = signing_key();
    let svid = key.mint(&request(&id(SUBJECT), &web()), NOW).unwrap();
    let signature = svid.token().rsplit('.').next().unwrap();
    assert!(!format!("{svid:?}").contains(signature));
    assert!(format!("{svid:?}").contains(&svid.fingerprint()) && svid.fingerprint().len() == 12);
    assert!(!format!("{key:?}").contains("pkcs8") && format!("{key:?}").starts_with("JwtSigningKey("));
    let audience = AudienceSet::parse(["db"]).unwrap();
    let bundles = bundles_with([(key.key_id().clone(), key.public_key().clone())]);
    let error = JwtValidator::default().validate(svid.token(), &audience, &bundles, NOW).unwrap_err();
    assert!(!format!("{error:?} {error}").contains(signature));
}

#[test]
fn jw_13_a_token_may_carry_a_name_of_its_own() {
    let key = signing_key();
    let svid = key.mint(&JwtRequest { jti: Some("once"), ..request(&id(SUBJECT), &web()) }, NOW).unwrap();
    let bundles = bundles_with([(key.key_id().clone(), key.public_key().clone())]);
    let verified = JwtValidator::default().validate(svid.token(), &web(), &bundles, NOW).unwrap();
    assert_eq!(verified.claims()["jti"], "once");
}

#[test]
fn jw_14_of_a_foreign_token_only_what_is_allowed_is_told() {
    let claims = json!({"sub": SUBJECT, "aud": "web", "exp": NOW.as_secs() + 60, "iss": "https://idp", "role": "admin", "team": "a"});
    let verified = validate(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256)).unwrap();
    let own = verified.claims_for(&"mesh.test".parse().unwrap(), &BTreeSet::new());
    assert_eq!((own["aud"].clone(), own["role"].clone(), own.len()), (json!(["web"]), json!("admin"), 6));
    let allowed = BTreeSet::from(["team".to_owned()]);
    let foreign = verified.claims_for(&"here.test".parse().unwrap(), &allowed);
    assert_eq!(foreign.keys().collect::<Vec<_>>(), ["aud", "exp", "sub", "team"]);
}

#[test]
fn a_minted_token_is_valid_and_says_what_was_asked() {
    let key = signing_key();
    let audience = AudienceSet::parse(["web", "db"]).unwrap();
    let svid = key.mint(&request(&id(SUBJECT), &audience), NOW).unwrap();
    let bundles = bundles_with([(key.key_id().clone(), key.public_key().clone())]);
    let verified = JwtValidator::default().validate(svid.token(), &web(), &bundles, NOW).unwrap();
    assert_eq!(
        verified.claims(),
        json!({"aud": ["db", "web"], "exp": NOW.as_secs() + 300, "iat": NOW.as_secs(), "sub": SUBJECT})
            .as_object()
            .unwrap()
    );
    assert_eq!(
        (verified.spiffe_id(), verified.audience(), verified.key_id()),
        (&id(SUBJECT), &audience, Some(key.key_id()))
    );
    assert_eq!(JwtSvid::read(svid.token(), NOW), Ok(svid.clone()));
    let header = BASE64URL_NOPAD.decode(svid.token().split('.').next().unwrap().as_bytes()).unwrap();
    let expected = json!({"alg": "ES256", "kid": key.key_id().as_str(), "typ": "JWT"});
    assert_eq!(serde_json::from_slice::<Value>(&header).unwrap(), expected);
}

#[test]
fn a_token_outlives_neither_its_key_nor_a_day() {
    let (id, audience) = (id(SUBJECT), web());
    let mint = |ttl: u64, key_life: u64| {
        let key = JwtSigningKey::new(AwsLcKeys.generate_p256().unwrap(), NOW + secs(key_life)).unwrap();
        key.mint(&JwtRequest { ttl: secs(ttl), ..request(&id, &audience) }, NOW).map(|svid| svid.expires_at())
    };
    assert_eq!(mint(60, 3600), Ok(NOW + secs(60)));
    assert_eq!(mint(60, 20), Ok(NOW + secs(20)));
    assert_eq!(mint(u64::MAX, 1_000_000), Ok(NOW + JWT_SVID_TTL_MAX));
    assert_eq!(mint(60, 0), Err(MintError::KeyExpired(NOW)));
    assert_eq!(mint(0, 3600), Err(MintError::NoLife));
}

#[test]
fn a_stored_signing_key_comes_back_under_its_name_and_no_other_kind_of_key_signs() {
    let key = signing_key();
    let stored = x0t_identity::PrivateKey::from_pkcs8(key.pkcs8()).unwrap();
    let again = JwtSigningKey::new(stored.clone(), key.not_after()).unwrap();
    assert_eq!((again.key_id(), again.public_key()), (key.key_id(), key.public_key()));
    assert_eq!(*key.key_id(), KeyId::thumbprint(key.public_key()));
    let named = JwtSigningKey::with_key_id(stored, key_id("a \"quoted\" name"), NOW + secs(60)).unwrap();
    let svid = named.mint(&request(&id(SUBJECT), &web()), NOW).unwrap();
    let bundles = bundles_with([(named.key_id().clone(), named.public_key().clone())]);
    assert!(JwtValidator::default().validate(svid.token(), &web(), &bundles, NOW).is_ok());
    let ed25519 = SeededKeys::new(Entropy::new([1; 32])).generate().unwrap();
    assert_eq!(JwtSigningKey::new(ed25519, NOW).unwrap_err(), KeyError::NotP256);
}

#[test]
fn a_token_that_was_fetched_is_read_without_its_key() {
    let mut claims = honest_claims();
    claims.as_object_mut().unwrap().remove("iat");
    let token = sign(&json!({"alg": "RS256", "kid": "gone"}), &claims, JwtAlgorithm::Rs256);
    let svid = JwtSvid::read(&token, NOW).unwrap();
    assert_eq!((svid.spiffe_id(), svid.issued_at(), svid.expires_at()), (&id(SUBJECT), NOW, NOW + secs(300)));
    assert_eq!(JwtSvid::read("a.b.c", NOW).unwrap_err().code(), "jwt_not_base64");
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(token in "[A-Za-z0-9_.{}\"=-]{0,200}") {
        prop_assert!(validate(&token).is_err());
        prop_assert!(JwtSvid::read(&token, NOW).is_err());
    }

    #[test]
    fn no_header_or_claims_make_a_reader_panic(header in ".{0,60}", claims in ".{0,120}") {
        prop_assert!(validate(&sign_text(&header, &claims, JwtAlgorithm::Es256)).is_err());
        let honest_header = validate(&sign_text(r#"{"alg":"ES256"}"#, &claims, JwtAlgorithm::Es256));
        prop_assert!(honest_header.is_err());
    }

    #[test]
    fn a_token_with_one_changed_character_is_refused(position: prop::sample::Index, byte in 0x20_u8..0x7f) {
        let token = TOKEN.with(Clone::clone);
        let mut bytes = token.clone().into_bytes();
        let position = position.index(bytes.len());
        prop_assume!(bytes[position] != byte);
        bytes[position] = byte;
        prop_assert!(validate(std::str::from_utf8(&bytes).unwrap()).is_err());
    }
}

thread_local! {
    static TOKEN: String = honest(JwtAlgorithm::Es256);
}

fn web() -> AudienceSet {
    AudienceSet::parse(["web"]).unwrap()
}

fn honest_claims() -> Value {
    claims(SUBJECT, "web", NOW)
}

fn honest(algorithm: JwtAlgorithm) -> String {
    sign(&json!({"alg": algorithm.name(), "kid": key_name(algorithm), "typ": "JWT"}), &honest_claims(), algorithm)
}

fn without(claim: &str) -> &'static str {
    let mut claims = honest_claims();
    claims.as_object_mut().unwrap().remove(claim);
    code(&sign(&json!({"alg": "ES256"}), &claims, JwtAlgorithm::Es256))
}

fn bundles_with(keys: impl IntoIterator<Item = (KeyId, JwtPublicKey)>) -> BundleMap {
    let bundle = Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 1).unwrap();
    let mut map = BundleMap::new();
    map.offer(bundle.with_jwt_keys(keys).unwrap()).unwrap();
    map
}

fn bundles() -> BundleMap {
    thread_local! {
        static BUNDLES: BundleMap = bundles_with(all_keys());
    }
    BUNDLES.with(Clone::clone)
}

fn validate(token: &str) -> Result<VerifiedJwt, JwtError> {
    JwtValidator::default().validate(token, &web(), &bundles(), NOW)
}

fn code(token: &str) -> &'static str {
    validate(token).unwrap_err().code()
}

fn fresh_key() -> JwtPublicKey {
    JwtPublicKey::from_spki(AwsLcKeys.generate_p256().unwrap().public_key_info()).unwrap()
}

fn signing_key() -> JwtSigningKey {
    JwtSigningKey::new(AwsLcKeys.generate_p256().unwrap(), NOW + secs(86_400)).unwrap()
}

fn request<'a>(spiffe_id: &'a x0t_model::SpiffeId, audience: &'a AudienceSet) -> JwtRequest<'a> {
    JwtRequest { spiffe_id, audience, ttl: x0t_identity::JWT_SVID_TTL_DEFAULT, jti: None }
}

#[test]
fn the_signatures_of_these_tests_are_what_they_claim() {
    for algorithm in JwtAlgorithm::ALL {
        let signature = raw_signature(b"message", algorithm);
        for (_, key) in all_keys() {
            let fits = key.fits(algorithm);
            assert_eq!(key.verifies(algorithm, b"message", &signature), fits, "{algorithm}");
            assert!(!key.verifies(algorithm, b"massage", &signature));
        }
    }
}
