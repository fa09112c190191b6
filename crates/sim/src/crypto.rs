//! Which cryptography a simulated node uses, and a memory for signatures that were checked before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use x0t_identity::{
    AnchorError, AnchorProof, AwsLcKeys, Bundle, KeySource, Leaf, SeededKeys, VerifyError, verify_anchor, verify_chain,
};
use x0t_model::{Entropy, NodeId, SpiffeId, UnixTime};
use x0t_node::{Crypto, NodeConfig, Signatures, VerifyAfresh};
use x0t_overlay::{CertificateDer, Provider, tls::RustlsProvider};

use x0t_routing::chain::ChainHash;

use crate::provider::SimulatedProvider;

/// Which cryptography the nodes of a world use.
#[derive(Clone, Debug)]
pub enum Cryptography {
    /// Deterministic handshakes, Ed25519 keys from the seed, and signatures that are checked once for the whole world.
    Simulated(Arc<Memory>),
    /// What ships: rustls with X25519MLKEM768 and aws-lc-rs. Such a world is not repeated by its seed.
    Real,
}

impl Cryptography {
    /// Simulated, with an empty memory.
    pub fn simulated() -> Self {
        Self::Simulated(Arc::default())
    }

    /// Where private keys come from.
    pub fn keys(&self, entropy: Entropy) -> Box<dyn KeySource> {
        match self {
            Self::Simulated(_) => Box::new(SeededKeys::new(entropy)),
            Self::Real => Box::new(AwsLcKeys),
        }
    }

    /// How handshakes are done.
    pub fn sessions(&self) -> Arc<dyn Provider> {
        match self {
            Self::Simulated(_) => Arc::new(SimulatedProvider),
            Self::Real => Arc::new(RustlsProvider::new()),
        }
    }

    /// The seam of one node.
    pub fn for_node(&self, entropy: Entropy) -> Crypto {
        let signatures: Arc<dyn Signatures> = match self {
            Self::Simulated(memory) => memory.clone(),
            Self::Real => Arc::new(VerifyAfresh),
        };
        Crypto { sessions: self.sessions(), signatures, keys: self.keys(entropy) }
    }

    /// The configuration of a node in a world that uses this.
    pub fn node_config(&self) -> NodeConfig {
        let mut config = NodeConfig::default();
        if let Self::Simulated(_) = self {
            config.routing.chain_hash = ChainHash::InsecureFast;
            config.routing.chain_seqs = 256;
        }
        config
    }
}

/// Who signed, and with which leaf.
type Signer = (SpiffeId, CertificateDer<'static>);

/// Remembers which chains and anchors hold, so that a thousand nodes do not check the same signature a thousand times. An
/// answer is remembered only for exactly the same bytes, and validity in time is looked at afresh each time.
#[derive(Debug, Default)]
pub struct Memory {
    chains: Mutex<BTreeMap<[u8; 32], Result<SpiffeId, VerifyError>>>,
    anchors: Mutex<BTreeMap<[u8; 32], Result<Signer, AnchorError>>>,
}

impl Signatures for Memory {
    fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        bundle: &Bundle,
        now: UnixTime,
    ) -> Result<SpiffeId, VerifyError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bundle.digest());
        chain.iter().for_each(|certificate| {
            hasher.update(certificate);
        });
        if !chain.first().is_some_and(|leaf| is_in_time(leaf, now)) {
            return verify_chain(chain, bundle, now);
        }
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.entry(*hasher.finalize().as_bytes()).or_insert_with(|| verify_chain(chain, bundle, now)).clone()
    }

    fn verify_anchor(
        &self,
        proof: &[u8],
        origin: NodeId,
        statement: &[u8],
        bundle: &Bundle,
        now: UnixTime,
    ) -> Result<SpiffeId, AnchorError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bundle.digest()).update(origin.as_bytes());
        hasher.update(&(statement.len() as u64).to_be_bytes()).update(statement).update(proof);
        let check = || {
            let proof = AnchorProof::decode(proof)?;
            let signer = verify_anchor(&proof, bundle, origin, statement, now)?;
            let leaf = proof.chain.first().cloned().ok_or(VerifyError::NoCertificate)?;
            Ok((signer, leaf))
        };
        let mut anchors = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        match anchors.entry(*hasher.finalize().as_bytes()).or_insert_with(check) {
            Ok((signer, leaf)) if is_in_time(leaf, now) => Ok(signer.clone()),
            Ok(_) => check().map(|(signer, _)| signer),
            Err(error) => Err(error.clone()),
        }
    }
}

fn is_in_time(leaf: &CertificateDer<'_>, now: UnixTime) -> bool {
    Leaf::read(leaf).is_ok_and(|leaf| leaf.not_before <= now && now <= leaf.not_after)
}
