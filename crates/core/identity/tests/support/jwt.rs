//! Keys to sign tokens with, as a forger would: every algorithm, any header, any claims.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RsaKeyPair,
};
use x0t_identity::{JwtPublicKey, KeyId};

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
