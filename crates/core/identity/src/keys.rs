//! Where private keys come from, and what one can do.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SignatureAlgorithm,
    SigningKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use x0t_model::Entropy;
use zeroize::Zeroizing;

/// Why there is no key, or no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The cryptographic library could not make one.
    #[error("the key could not be generated")]
    Generation,
    /// Not PKCS#8, or not P-256, P-384 or Ed25519.
    #[error("the private key is not a PKCS#8 key on P-256, P-384 or Ed25519")]
    Unusable,
    /// Not on P-256, as keys for JWT-SVIDs have to be.
    #[error("the private key is not on P-256")]
    NotP256,
    /// The cryptographic library could not sign.
    #[error("the signature could not be made")]
    Signing,
}

/// The seam behind which keys are made: the operating system's randomness in a real node, a seed in a simulated one.
pub trait KeySource: Send {
    /// A new private key.
    fn generate(&mut self) -> Result<PrivateKey, KeyError>;

    /// A new private key on P-256: JWT-SVIDs must not be signed with Ed25519 (JWT-SVID, section 2.1).
    fn generate_p256(&mut self) -> Result<PrivateKey, KeyError>;
}

/// P-256 keys from aws-lc-rs, which draws them from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLcKeys;

impl KeySource for AwsLcKeys {
    fn generate(&mut self) -> Result<PrivateKey, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generation)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Generation)?;
        PrivateKey::from_pkcs8(pkcs8.as_ref())
    }

    fn generate_p256(&mut self) -> Result<PrivateKey, KeyError> {
        self.generate()
    }
}

/// Ed25519 keys that follow from a seed. Only for simulation and tests: who knows the seed knows every key.
#[derive(Debug)]
pub struct SeededKeys(Entropy);

impl SeededKeys {
    /// Keys that follow from `entropy`.
    pub const fn new(entropy: Entropy) -> Self {
        Self(entropy)
    }
}

impl KeySource for SeededKeys {
    fn generate(&mut self) -> Result<PrivateKey, KeyError> {
        let seed = Zeroizing::new(self.0.bytes::<32>());
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| KeyError::Generation)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Generation)?;
        PrivateKey::from_pkcs8(pkcs8.as_ref())
    }

    fn generate_p256(&mut self) -> Result<PrivateKey, KeyError> {
        // An ECPrivateKey (RFC 5915, 3) of 32 bytes on prime256v1, without the public half, which follows from it. One number
        // in four thousand million is no private key.
        const HEAD: [u8; 7] = [0x30, 0x31, 2, 1, 1, 4, 32];
        const TAIL: [u8; 12] = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let seed = Zeroizing::new(self.0.bytes::<32>());
        let der = Zeroizing::new([&HEAD[..], &*seed, &TAIL].concat());
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        let pkcs8 = pair.map_err(|_| KeyError::Generation)?.to_pkcs8v1().map_err(|_| KeyError::Generation)?;
        PrivateKey::from_pkcs8(pkcs8.as_ref())
    }
}

/// A private key, read once and shared by its copies; wiped when the last of them is dropped. Prints nothing of itself.
#[derive(Clone)]
pub struct PrivateKey {
    pair: SigningPair,
    public_key_info: Vec<u8>,
}

impl PrivateKey {
    /// Reads a PKCS#8 key on P-256, P-384 or Ed25519.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8)).map(Zeroizing::new);
        let pair = pair.map_err(|_| KeyError::Unusable)?;
        let supported = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !supported.iter().any(|algorithm| pair.is_compatible(algorithm)) {
            return Err(KeyError::Unusable);
        }
        let public_key_info = pair.subject_public_key_info();
        Ok(Self { pair: SigningPair(Arc::new(pair)), public_key_info })
    }

    /// The key as PKCS#8 DER.
    pub fn pkcs8(&self) -> &[u8] {
        self.pair.0.serialized_der()
    }

    /// The public half as SubjectPublicKeyInfo DER (RFC 5280, 4.1.2.7).
    pub fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }

    /// Signs `message`. ECDSA draws a nonce inside aws-lc-rs, so two signatures of one message differ; Ed25519 is
    /// deterministic.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair.sign(message).map_err(|_| KeyError::Signing)
    }

    /// The key in the form that issues certificates and requests.
    pub(crate) const fn pair(&self) -> &SigningPair {
        &self.pair
    }
}

/// A key as rcgen wants it. Reading PKCS#8 costs more than a signature, so it is done once.
#[derive(Clone)]
pub(crate) struct SigningPair(Arc<Zeroizing<KeyPair>>);

impl PublicKeyData for SigningPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SigningPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_keys_follow_from_their_seed_and_differ_from_each_other() {
        let (mut one, mut two) = (SeededKeys::new(Entropy::new([7; 32])), SeededKeys::new(Entropy::new([7; 32])));
        let (first, second) = (one.generate().unwrap(), one.generate().unwrap());
        assert_eq!(first.pkcs8(), two.generate().unwrap().pkcs8());
        assert_ne!(first.pkcs8(), second.pkcs8());
        assert_eq!(first.sign(b"message").unwrap(), first.sign(b"message").unwrap());
    }

    #[test]
    fn seeded_keys_on_p256_follow_from_their_seed_too() {
        let (mut one, mut two) = (SeededKeys::new(Entropy::new([7; 32])), SeededKeys::new(Entropy::new([7; 32])));
        let key = one.generate_p256().unwrap();
        assert_eq!(key.pkcs8(), two.generate_p256().unwrap().pkcs8());
        assert_ne!(key.public_key_info(), one.generate_p256().unwrap().public_key_info());
        let length = |key: PrivateKey| key.public_key_info().len();
        assert_eq!(length(key), length(AwsLcKeys.generate_p256().unwrap()), "a point on P-256, both times");
    }

    #[test]
    fn a_key_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", AwsLcKeys.generate().unwrap()), "PrivateKey");
    }

    #[test]
    fn bytes_that_are_no_key_are_refused() {
        let key = AwsLcKeys.generate().unwrap();
        for len in 0..key.pkcs8().len() {
            assert_eq!(PrivateKey::from_pkcs8(&key.pkcs8()[..len]).unwrap_err(), KeyError::Unusable);
        }
        assert_eq!(PrivateKey::from_pkcs8(key.pkcs8()).unwrap().public_key_info(), key.public_key_info());
    }
}
