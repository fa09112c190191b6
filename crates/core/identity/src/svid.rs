//! An X.509-SVID: a chain, and the key that goes with it.

use std::fmt;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x0t_model::{NodeId, SpiffeId, UnixTime};
use zeroize::Zeroizing;

use crate::keys::{KeyError, PrivateKey};
use crate::leaf_rules::Leaf;
use crate::pem;
use crate::verify::{CHAIN_CERTIFICATES_MAX, VerifyError, labelled};

/// Why bytes are no SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The leaf is missing, malformed or against a rule.
    #[error("the certificate is not an X.509-SVID")]
    Leaf(#[from] VerifyError),
    /// The key is missing or unusable.
    #[error("the private key is not usable")]
    Key(#[from] KeyError),
    /// The key is not the one that the leaf certifies.
    #[error("the private key does not belong to the certificate of {0}")]
    KeyMismatch(SpiffeId),
    /// Not PEM, or cut off.
    #[error("the stored SVID is not readable as PEM")]
    Pem,
}

/// A node's identity: the chain it shows and the key behind it. The key is wiped when the last copy is dropped.
#[derive(Clone)]
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    leaf: Leaf,
}

impl Svid {
    /// Puts a chain (leaf first) and its key together. Checks the leaf's shape and that the key belongs to it; who signed the
    /// chain is the business of [`verify_chain`](crate::verify_chain).
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, SvidError> {
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(VerifyError::ChainTooLong(chain.len()).into());
        }
        let leaf = Leaf::read(chain.first().ok_or(VerifyError::NoCertificate)?)?;
        if leaf.public_key_info != key.public_key_info() {
            return Err(SvidError::KeyMismatch(leaf.spiffe_id));
        }
        Ok(Self { chain, key, leaf })
    }

    /// Whose identity it is.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.spiffe_id
    }

    /// The node id that belongs to [`Self::spiffe_id`].
    pub fn node_id(&self) -> NodeId {
        NodeId::of(&self.leaf.spiffe_id)
    }

    /// The first second of validity.
    pub const fn not_before(&self) -> UnixTime {
        self.leaf.not_before
    }

    /// The last second of validity.
    pub const fn not_after(&self) -> UnixTime {
        self.leaf.not_after
    }

    /// The certificates to show, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The private key as PKCS#8 DER.
    pub fn key_pkcs8(&self) -> &[u8] {
        self.key.pkcs8()
    }

    /// The private key as a TLS library wants it.
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.pkcs8().to_vec()).into()
    }

    /// Signs `label`, a zero byte and `message`. [`verify_signature`](crate::verify_signature) checks it. With an ECDSA key two
    /// signatures of one message differ: aws-lc-rs draws the nonce.
    pub fn sign(&self, label: &str, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.key.sign(&labelled(label, message))
    }

    /// The SVID as PEM: the key (PKCS#8), then the chain. To be kept readable by its owner alone.
    pub fn to_stored(&self) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(String::new());
        pem::write(&mut text, "PRIVATE KEY", self.key.pkcs8());
        for certificate in &self.chain {
            pem::write(&mut text, "CERTIFICATE", certificate);
        }
        Zeroizing::new(text.as_bytes().to_vec())
    }

    /// Reads what [`Self::to_stored`] wrote.
    pub fn from_stored(stored: &[u8]) -> Result<Self, SvidError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(stored).map_err(|_| SvidError::Pem)?;
        let chain = CertificateDer::pem_slice_iter(stored)
            .collect::<Result<Vec<CertificateDer<'static>>, _>>()
            .map_err(|_| SvidError::Pem)?;
        Self::new(chain, PrivateKey::from_pkcs8(key.secret_pkcs8_der())?)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leaf { spiffe_id, not_before, not_after, .. } = &self.leaf;
        write!(f, "Svid({spiffe_id}, {not_before:?} to {not_after:?})")
    }
}
