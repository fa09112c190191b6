//! Keys to sign tokens with, as a forger would: every algorithm, any header, any claims.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use x0t_identity::{JwtAlgorithm, JwtPublicKey, KeyId};
use x0t_model::UnixTime;

/// One key on each of P-256, P-384 and P-521 (PKCS#8).
pub const EC_KEYS: [(&[u8], &EcdsaSigningAlgorithm); 3] = [
    (include_bytes!("keys/p256.pk8"), &ECDSA_P256_SHA256_FIXED_SIGNING),
    (include_bytes!("keys/p384.pk8"), &ECDSA_P384_SHA384_FIXED_SIGNING),
    (include_bytes!("keys/p521.pk8"), &ECDSA_P521_SHA512_FIXED_SIGNING),
];
/// An RSA key of 2048 bits (PKCS#8).
pub const RSA_KEY: &[u8] = include_bytes!("keys/rsa2048.pk8");

pub fn key_id(name: &str) -> KeyId {
    name.parse().unwrap()
}

pub fn ec_pair(index: usize) -> EcdsaKeyPair {
    let (pkcs8, algorithm) = EC_KEYS[index];
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).unwrap()
}

pub fn rsa_pair() -> RsaKeyPair {
    RsaKeyPair::from_pkcs8(RSA_KEY).unwrap()
}

/// The public half of an EC key.
pub fn public_key(index: usize) -> JwtPublicKey {
    JwtPublicKey::from_spki(ec_pair(index).public_key().as_der().unwrap().as_ref()).unwrap()
}

pub fn rsa_public_key() -> JwtPublicKey {
    JwtPublicKey::from_spki(rsa_pair().public_key().as_der().unwrap().as_ref()).unwrap()
}

/// Header and claims as given, signed by the key that fits `algorithm`.
pub fn sign(header: &Value, claims: &Value, algorithm: JwtAlgorithm) -> String {
    sign_text(&header.to_string(), &claims.to_string(), algorithm)
}

/// As [`sign`], with JSON that no writer would write.
pub fn sign_text(header: &str, claims: &str, algorithm: JwtAlgorithm) -> String {
    let base64 = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let signed = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
    let signature = raw_signature(signed.as_bytes(), algorithm);
    format!("{signed}.{}", base64(&signature))
}

pub fn raw_signature(message: &[u8], algorithm: JwtAlgorithm) -> Vec<u8> {
    let ecdsa = |index| ec_pair(index).sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let pair = rsa_pair();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    match algorithm {
        JwtAlgorithm::Es256 => ecdsa(0),
        JwtAlgorithm::Es384 => ecdsa(1),
        JwtAlgorithm::Es512 => ecdsa(2),
        JwtAlgorithm::Rs256 => rsa(&RSA_PKCS1_SHA256),
        JwtAlgorithm::Rs384 => rsa(&RSA_PKCS1_SHA384),
        JwtAlgorithm::Rs512 => rsa(&RSA_PKCS1_SHA512),
        JwtAlgorithm::Ps256 => rsa(&RSA_PSS_SHA256),
        JwtAlgorithm::Ps384 => rsa(&RSA_PSS_SHA384),
        JwtAlgorithm::Ps512 => rsa(&RSA_PSS_SHA512),
    }
}

/// The name in the test bundle of the key that fits `algorithm`.
pub fn key_name(algorithm: JwtAlgorithm) -> &'static str {
    match algorithm {
        JwtAlgorithm::Es256 => "p256",
        JwtAlgorithm::Es384 => "p384",
        JwtAlgorithm::Es512 => "p521",
        _ => "rsa",
    }
}

/// All keys, under their names.
pub fn all_keys() -> Vec<(KeyId, JwtPublicKey)> {
    let mut keys: Vec<_> = ["p256", "p384", "p521"].iter().zip(0..).map(|(n, i)| (key_id(n), public_key(i))).collect();
    keys.push((key_id("rsa"), rsa_public_key()));
    keys
}

/// What an honest token says.
pub fn claims(subject: &str, audience: &str, now: UnixTime) -> Value {
    json!({"sub": subject, "aud": [audience], "iat": now.as_secs(), "exp": now.as_secs() + 300})
}
