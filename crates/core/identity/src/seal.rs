//! Private keys of authorities, sealed for the disk: AES-256-GCM under a key that is kept somewhere else.
//!
//! ```text
//! version 1 | seal key id 8 | nonce 12 | AES-256-GCM(PKCS#8) | tag 16
//! additional data: "x0tta6bl4 2026-11 sealed key", 0x00, key id 20, trust domain
//! ```

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::{Entropy, TrustDomain};
use zeroize::Zeroizing;

use crate::ca_life::KeyId;
use crate::keys::{KeyError, PrivateKey};

const VERSION: u8 = 1;
const SEAL_KEY_ID_LEN: usize = 8;
const HEADER_LEN: usize = 1 + SEAL_KEY_ID_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;
/// Bytes of a sealed key. PKCS#8 on P-384 has 185.
const SEALED_LEN_MAX: usize = 1024;
const LABEL: &[u8] = b"x0tta6bl4 2026-11 sealed key\0";

/// Why a key is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// Not 32 bytes, and not 64 hexadecimal digits.
    #[error("the seal key is not 32 bytes or 64 hexadecimal digits")]
    SealKey,
    /// Written by a later x0t.
    #[error("the key is sealed in format {0}, which this version of x0t does not know: use the newer x0t")]
    Version(u8),
    /// Cut off, or no sealed key at all.
    #[error("the sealed key is cut off")]
    Malformed,
    /// Another seal key is needed.
    #[error("the key is sealed under another seal key: this one is {given}, the one that is needed is {needed}")]
    OtherSealKey {
        /// Names the one that is there.
        given: SealKeyId,
        /// Names the one that was used.
        needed: SealKeyId,
    },
    /// Changed since, or moved here from another key or trust domain.
    #[error("the sealed key was changed, or belongs to another authority")]
    Tampered,
    /// What came out is no key.
    #[error("what was sealed is not a usable key")]
    Key(#[from] KeyError),
    /// What came out is another key.
    #[error("what was sealed is another key")]
    OtherKey,
}

/// Names a seal key without giving anything of it away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealKeyId([u8; SEAL_KEY_ID_LEN]);

impl fmt::Display for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SealKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens what is sealed: 256 random bits, wiped when dropped. Prints nothing of itself.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// A new one.
    pub fn generate(entropy: &mut Entropy) -> Self {
        Self(Zeroizing::new(entropy.bytes()))
    }

    /// From the content of a file or of a systemd credential: 32 bytes as they are, or 64 hexadecimal digits.
    pub fn from_stored(stored: &[u8]) -> Result<Self, UnsealError> {
        if let Ok(raw) = <[u8; 32]>::try_from(stored) {
            return Ok(Self(Zeroizing::new(raw)));
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(stored.trim_ascii()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| UnsealError::SealKey)?;
        <[u8; 32]>::try_from(bytes.as_slice()).map(|raw| Self(Zeroizing::new(raw))).map_err(|_| UnsealError::SealKey)
    }

    /// A line of 64 hexadecimal digits, for a file that its owner alone can read.
    pub fn to_stored(&self) -> Zeroizing<Vec<u8>> {
        let mut line = Zeroizing::new(HEXLOWER.encode(&*self.0).into_bytes());
        line.push(b'\n');
        line
    }

    /// Which one it is.
    pub fn id(&self) -> SealKeyId {
        let mut id = [0; SEAL_KEY_ID_LEN];
        id.copy_from_slice(&self.mac(b"id", &[])[..SEAL_KEY_ID_LEN]);
        SealKeyId(id)
    }

    /// Seals `key` of an authority of `trust_domain`. The nonce is a keyed hash of everything that is sealed: two different keys
    /// never share one, and sealing the same key again gives the same bytes.
    pub fn seal(&self, key: &PrivateKey, trust_domain: &TrustDomain) -> Result<SealedKey, KeyError> {
        let aad = additional_data(KeyId::of(key.public_key_info()), trust_domain);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.mac(b"nonce", &[&aad, key.pkcs8()])[..NONCE_LEN]);
        let mut sealed = Vec::with_capacity(HEADER_LEN + key.pkcs8().len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend(self.id().0);
        sealed.extend(nonce);
        sealed.extend(key.pkcs8());
        let body = &mut sealed[HEADER_LEN..];
        let cipher = self.cipher().ok_or(KeyError::Unusable)?;
        let tag = cipher.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&aad), body);
        sealed.extend(tag.map_err(|_| KeyError::Unusable)?.as_ref());
        Ok(SealedKey(sealed))
    }

    /// Opens the key of the authority `key_id` of `trust_domain`.
    pub fn unseal(
        &self,
        sealed: &SealedKey,
        key_id: KeyId,
        trust_domain: &TrustDomain,
    ) -> Result<PrivateKey, UnsealError> {
        let (version, rest) = sealed.0.split_first().ok_or(UnsealError::Malformed)?;
        if *version != VERSION {
            return Err(UnsealError::Version(*version));
        }
        let (needed, rest) = rest.split_first_chunk().ok_or(UnsealError::Malformed)?;
        let (given, needed) = (self.id(), SealKeyId(*needed));
        if given != needed {
            return Err(UnsealError::OtherSealKey { given, needed });
        }
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(UnsealError::Malformed)?;
        let mut body = Zeroizing::new(body.to_vec());
        let aad = Aad::from(additional_data(key_id, trust_domain));
        let cipher = self.cipher().ok_or(UnsealError::SealKey)?;
        let opened = cipher.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut body);
        let key = PrivateKey::from_pkcs8(opened.map_err(|_| UnsealError::Tampered)?)?;
        if KeyId::of(key.public_key_info()) == key_id { Ok(key) } else { Err(UnsealError::OtherKey) }
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &*self.0).ok().map(LessSafeKey::new)
    }

    /// Uses of the key other than encryption, kept apart by a label.
    fn mac(&self, label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.0));
        for part in [LABEL, label].iter().chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id())
    }
}

/// A private key that [`SealKey::seal`] has sealed. Worth nothing without the seal key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey(Vec<u8>);

impl Serialize for SealedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(&self.0))
    }
}

impl<'de> Deserialize<'de> for SealedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = BASE64.decode(String::deserialize(deserializer)?.as_bytes()).map_err(serde::de::Error::custom)?;
        if bytes.len() > SEALED_LEN_MAX {
            return Err(serde::de::Error::custom(format!("a sealed key of {} bytes", bytes.len())));
        }
        Ok(Self(bytes))
    }
}

fn additional_data(key_id: KeyId, trust_domain: &TrustDomain) -> Vec<u8> {
    [LABEL, key_id.as_bytes(), trust_domain.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{AwsLcKeys, KeySource};

    fn setting() -> (SealKey, PrivateKey, KeyId, TrustDomain) {
        let seal = SealKey::generate(&mut Entropy::new([5; 32]));
        let key = AwsLcKeys.generate().unwrap();
        let key_id = KeyId::of(key.public_key_info());
        (seal, key, key_id, "mesh.test".parse().unwrap())
    }

    #[test]
    fn a_sealed_key_opens_under_its_seal_key_alone() {
        let (seal, key, key_id, domain) = setting();
        let sealed = seal.seal(&key, &domain).unwrap();
        assert_eq!(seal.unseal(&sealed, key_id, &domain).unwrap().pkcs8(), key.pkcs8());
        assert!(!sealed.0.windows(16).any(|window| key.pkcs8().windows(16).any(|secret| secret == window)));
        let other = SealKey::generate(&mut Entropy::new([6; 32]));
        let error = other.unseal(&sealed, key_id, &domain).unwrap_err();
        assert_eq!(error, UnsealError::OtherSealKey { given: other.id(), needed: seal.id() });
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_noticed() {
        let (seal, key, key_id, domain) = setting();
        let sealed = seal.seal(&key, &domain).unwrap();
        for bit in 0..sealed.0.len() * 8 {
            let mut changed = sealed.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.unseal(&changed, key_id, &domain).is_err(), "bit {bit}");
        }
        for len in 0..sealed.0.len() {
            assert!(seal.unseal(&SealedKey(sealed.0[..len].to_vec()), key_id, &domain).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_sealed_key_cannot_be_moved_to_another_authority_or_trust_domain() {
        let (seal, key, key_id, domain) = setting();
        let sealed = seal.seal(&key, &domain).unwrap();
        let elsewhere = "other.test".parse().unwrap();
        assert_eq!(seal.unseal(&sealed, key_id, &elsewhere).unwrap_err(), UnsealError::Tampered);
        assert_eq!(seal.unseal(&sealed, KeyId::of(b"other"), &domain).unwrap_err(), UnsealError::Tampered);
    }

    #[test]
    fn two_keys_never_share_a_nonce_and_one_key_is_always_sealed_alike() {
        let (seal, key, _, domain) = setting();
        let other = AwsLcKeys.generate().unwrap();
        let nonce = |key: &PrivateKey| seal.seal(key, &domain).unwrap().0[9..HEADER_LEN].to_vec();
        assert_eq!(seal.seal(&key, &domain).unwrap(), seal.seal(&key, &domain).unwrap());
        assert_ne!(nonce(&key), nonce(&other));
    }

    #[test]
    fn a_seal_key_is_read_as_bytes_or_as_digits() {
        let (seal, ..) = setting();
        assert_eq!(SealKey::from_stored(&seal.to_stored()).unwrap().id(), seal.id());
        assert_eq!(SealKey::from_stored(&*seal.0).unwrap().id(), seal.id());
        for wrong in [&b""[..], b"short", &[b'0'; 63], &[b'g'; 64], &[0; 33]] {
            assert_eq!(SealKey::from_stored(wrong).unwrap_err(), UnsealError::SealKey);
        }
        assert!(!format!("{seal:?}").contains(&HEXLOWER.encode(&*seal.0)[..8]));
    }
}
