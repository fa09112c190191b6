//! Who may speak for an origin: the signature of an SVID under the hash-chain anchor that routing floods.
//!
//! ```text
//! proof     chain u8 count (1..=4), each certificate u16-prefixed, leaf first; signature u16-prefixed
//! signed    "x0tta6bl4 2026-11 routing anchor", 0x00, origin 16, epoch u32, sequences u32, anchor u16-prefixed
//! ```

use rustls_pki_types::CertificateDer;
use x0t_model::{DecodeError, NodeId, Reader, SpiffeId, UnixTime, Writer};

use crate::bundle::Bundle;
use crate::keys::KeyError;
use crate::message::{MessageError, read_chain, write_chain};
use crate::svid::Svid;
use crate::verify::{VerifyError, verify_chain, verify_signature};

const LABEL: &str = "x0tta6bl4 2026-11 routing anchor";
/// Bytes of a signature: ML-DSA-65 has 3,309.
const SIGNATURE_LEN_MAX: usize = 4 * 1024;

/// Why an anchor is not signed or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The proof is cut off, or a field is too long.
    #[error("the proof is malformed")]
    Malformed(#[from] DecodeError),
    /// The chain does not fit a proof.
    #[error("the chain does not fit a proof")]
    Chain(#[from] MessageError),
    /// Chain or signature are refused.
    #[error("the proof is not believed")]
    Refused(#[from] VerifyError),
    /// A valid proof of somebody who is not the origin.
    #[error("{signer} signed for {origin}, which is not its node id")]
    NotTheOrigin {
        /// Who signed.
        signer: SpiffeId,
        /// For which origin.
        origin: NodeId,
    },
    /// A valid SVID that is a workload's: only nodes are origins.
    #[error("{0} is not the identity of a node")]
    NotANode(SpiffeId),
    /// The key does not sign.
    #[error("the anchor could not be signed")]
    Key(#[from] KeyError),
}

impl AnchorError {
    /// A stable word for counters, logs and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "anchor_malformed",
            Self::Chain(_) => "anchor_chain",
            Self::Refused(error) => error.code(),
            Self::NotTheOrigin { .. } => "not_the_origin",
            Self::NotANode(_) => "not_a_node",
            Self::Key(_) => "anchor_key",
        }
    }
}

/// A chain, and a signature made with its leaf's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorProof {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Over the anchor and what it stands for.
    pub signature: Vec<u8>,
}

impl AnchorProof {
    /// The proof as routing carries it.
    pub fn encode(&self) -> Result<Vec<u8>, AnchorError> {
        let (value, limit) = (self.signature.len(), SIGNATURE_LEN_MAX);
        if value > limit {
            return Err(DecodeError::TooLong { field: "signature", value, limit }.into());
        }
        let mut out = Vec::with_capacity(1024);
        let mut writer = Writer::new(&mut out);
        write_chain(&mut writer, &self.chain)?;
        writer.prefixed(&self.signature);
        Ok(out)
    }

    /// Reads one whole proof.
    pub fn decode(bytes: &[u8]) -> Result<Self, AnchorError> {
        let mut reader = Reader::new(bytes);
        let chain = read_chain(&mut reader)?;
        let signature = reader.prefixed("signature", SIGNATURE_LEN_MAX)?.to_vec();
        reader.finish()?;
        Ok(Self { chain, signature })
    }
}

/// Signs what routing says about the end of `origin`'s hash chain. The caller makes `statement` say which origin and epoch it
/// is about; this binds it to the SVID.
pub fn sign_anchor(svid: &Svid, origin: NodeId, statement: &[u8]) -> Result<AnchorProof, AnchorError> {
    if svid.node_id() != origin {
        return Err(AnchorError::NotTheOrigin { signer: svid.spiffe_id().clone(), origin });
    }
    let signature = svid.sign(LABEL, statement)?;
    Ok(AnchorProof { chain: svid.chain().to_vec(), signature })
}

/// Who signed, if that is `origin` itself, with an SVID that is valid at `now`, and exactly this statement. Costs up to two
/// signature checks and remembers nothing: the caller keeps the outcome with the anchor.
pub fn verify_anchor(
    proof: &AnchorProof,
    bundle: &Bundle,
    origin: NodeId,
    statement: &[u8],
    now: UnixTime,
) -> Result<SpiffeId, AnchorError> {
    let signer = verify_chain(&proof.chain, bundle, now)?;
    if signer.node_name().is_none() {
        return Err(AnchorError::NotANode(signer));
    }
    if NodeId::of(&signer) != origin {
        return Err(AnchorError::NotTheOrigin { signer, origin });
    }
    let leaf = proof.chain.first().ok_or(VerifyError::NoCertificate)?;
    verify_signature(leaf, LABEL, statement, &proof.signature)?;
    Ok(signer)
}
