//! What a node is made of when it starts.

use std::net::SocketAddr;
use std::sync::Arc;

use x0t_identity::{
    AnchorError, AnchorProof, Authority, Bundle, BundleError, KeySource, RotationConfig, StoredAuthorityError, Svid,
    SvidError, VerifyError,
};
use x0t_model::{NodeId, Seed, SpiffeId, TrustDomain, UnixTime};
use x0t_overlay::{CertificateDer, EndpointConfig, Provider};
use x0t_routing::RoutingConfig;

use crate::api::{Record, RecordKind};

/// How a node behaves. Defaults suit a server in a wired mesh.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// Underlay addresses to keep links to.
    pub peers: Vec<SocketAddr>,
    /// Where joiners may reach this node; what a join token carries if nothing else is asked for.
    pub advertised: Vec<SocketAddr>,
    /// How sessions are paced and bounded.
    pub endpoint: EndpointConfig,
    /// How routing is paced and bounded.
    pub routing: RoutingConfig,
    /// How the SVID is kept fresh.
    pub rotation: RotationConfig,
}

/// The cryptographic seam: everything that draws randomness of its own or costs a signature. The simulator fills it with what
/// repeats; nothing else of a node differs between the simulator and life.
pub struct Crypto {
    /// Handshakes and packet protection.
    pub sessions: Arc<dyn Provider>,
    /// Verification of chains and anchors.
    pub signatures: Arc<dyn Signatures>,
    /// New private keys.
    pub keys: Box<dyn KeySource>,
}

impl std::fmt::Debug for Crypto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crypto")
    }
}

/// Who has signed what. The answers are those of `x0t-identity`; a simulator may remember them.
pub trait Signatures: Send + Sync {
    /// See [`x0t_identity::verify_chain`].
    fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        bundle: &Bundle,
        now: UnixTime,
    ) -> Result<SpiffeId, VerifyError> {
        x0t_identity::verify_chain(chain, bundle, now)
    }

    /// See [`x0t_identity::verify_anchor`].
    fn verify_anchor(
        &self,
        proof: &[u8],
        origin: NodeId,
        statement: &[u8],
        bundle: &Bundle,
        now: UnixTime,
    ) -> Result<SpiffeId, AnchorError> {
        x0t_identity::verify_anchor(&AnchorProof::decode(proof)?, bundle, origin, statement, now)
    }
}

/// Verifies afresh each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyAfresh;

impl Signatures for VerifyAfresh {}

/// Everything a node needs to begin.
#[derive(Debug)]
pub struct Start {
    /// How it behaves.
    pub config: NodeConfig,
    /// Who it is.
    pub svid: Svid,
    /// Whom it trusts.
    pub bundle: Bundle,
    /// Present on a node that issues identities.
    pub authority: Option<Authority>,
    /// Who renews.
    pub authorities: Vec<SpiffeId>,
    /// The routing epoch, larger than any used before.
    pub epoch: u32,
    /// Differs from that of every earlier run.
    pub incarnation: u64,
    /// The cryptographic seam.
    pub crypto: Crypto,
    /// All other randomness.
    pub seed: Seed,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the state directory is missing.
    #[error("`{}` is missing from the state directory: this host has not joined, or its state is incomplete", .0.file_name())]
    Missing(RecordKind),
    /// A file of the state directory cannot be read.
    #[error("`{}` in the state directory cannot be used: {reason}", kind.file_name())]
    Unreadable {
        /// Which.
        kind: RecordKind,
        /// Why not.
        reason: String,
    },
    /// The SVID is of another trust domain than the bundle.
    #[error("the SVID is of trust domain {svid} and the bundle of {bundle}: the state directory mixes two meshes")]
    MixedMeshes {
        /// Of the SVID.
        svid: TrustDomain,
        /// Of the bundle.
        bundle: TrustDomain,
    },
    /// There is no greater epoch.
    #[error("the routing epoch is exhausted")]
    EpochsExhausted,
}

impl Start {
    /// Reads what a node has stored, and gives the record to store before it starts: the next routing epoch.
    pub fn from_records(
        config: NodeConfig,
        read: impl Fn(RecordKind) -> Option<Vec<u8>>,
        incarnation: u64,
        crypto: Crypto,
        seed: Seed,
    ) -> Result<(Self, Record), StartError> {
        let required = |kind| read(kind).ok_or(StartError::Missing(kind));
        let svid = Svid::from_stored(&required(RecordKind::Svid)?)
            .map_err(|error: SvidError| unreadable(RecordKind::Svid, &error))?;
        let trust_domain = svid.spiffe_id().trust_domain().clone();
        let bundle = Bundle::from_json(trust_domain.clone(), &required(RecordKind::Bundle)?)
            .map_err(|error: BundleError| unreadable(RecordKind::Bundle, &error))?;
        if *bundle.trust_domain() != trust_domain {
            return Err(StartError::MixedMeshes { svid: trust_domain, bundle: bundle.trust_domain().clone() });
        }
        let authority = match read(RecordKind::Authority) {
            Some(stored) => Some(
                Authority::from_stored(&trust_domain, &stored)
                    .map_err(|error: StoredAuthorityError| unreadable(RecordKind::Authority, &error))?,
            ),
            None => None,
        };
        let authorities = read_authorities(&required(RecordKind::Authorities)?)?;
        let epoch = next_epoch(read(RecordKind::Epoch).as_deref())?;
        let record = Record { kind: RecordKind::Epoch, bytes: epoch.to_string().into_bytes() };
        Ok((Self { config, svid, bundle, authority, authorities, epoch, incarnation, crypto, seed }, record))
    }
}

/// The content of [`RecordKind::Authorities`]: a SPIFFE ID a line.
pub fn stored_authorities(authorities: &[SpiffeId]) -> Vec<u8> {
    authorities.iter().flat_map(|id| format!("{id}\n").into_bytes()).collect()
}

fn read_authorities(stored: &[u8]) -> Result<Vec<SpiffeId>, StartError> {
    let text = std::str::from_utf8(stored).map_err(|error| unreadable(RecordKind::Authorities, &error))?;
    let ids = text.lines().filter(|line| !line.trim().is_empty());
    ids.map(|line| line.trim().parse().map_err(|error| unreadable(RecordKind::Authorities, &error))).collect()
}

/// The epoch after the stored one. A damaged file is an error and not a zero: a node that reuses an epoch is not believed.
fn next_epoch(stored: Option<&[u8]>) -> Result<u32, StartError> {
    let Some(stored) = stored else { return Ok(1) };
    let text = std::str::from_utf8(stored).map_err(|error| unreadable(RecordKind::Epoch, &error))?;
    let last: u32 = text.trim().parse().map_err(|error| unreadable(RecordKind::Epoch, &error))?;
    last.checked_add(1).ok_or(StartError::EpochsExhausted)
}

fn unreadable(kind: RecordKind, error: &dyn std::fmt::Display) -> StartError {
    StartError::Unreadable { kind, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_only_grows_and_a_damaged_one_is_an_error() {
        assert_eq!(next_epoch(None).unwrap(), 1);
        assert_eq!(next_epoch(Some(b"41\n")).unwrap(), 42);
        assert!(matches!(next_epoch(Some(b"")), Err(StartError::Unreadable { kind: RecordKind::Epoch, .. })));
        assert!(matches!(next_epoch(Some(&[0xff])), Err(StartError::Unreadable { .. })));
        assert!(matches!(next_epoch(Some(b"4294967295")), Err(StartError::EpochsExhausted)));
    }

    #[test]
    fn authorities_survive_being_stored() {
        let ids = ["spiffe://mesh.test/node/a".parse().unwrap(), "spiffe://mesh.test/node/b".parse().unwrap()];
        assert_eq!(read_authorities(&stored_authorities(&ids)).unwrap(), ids);
        assert!(read_authorities(b"http://x").is_err());
    }
}
