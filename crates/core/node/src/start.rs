//! What a node is made of when it starts.

use std::net::SocketAddr;
use std::sync::Arc;

use x0t_identity::{
    AnchorError, AnchorProof, Bundle, BundleError, KeySource, RotationConfig, Svid, SvidError, SvidSource, VerifyError,
};
use x0t_model::{NodeId, Seed, SpiffeId, Underlay, UnixTime, in_one_line};
use x0t_overlay::{CertificateDer, EndpointConfig, Provider};
use x0t_routing::RoutingConfig;

use crate::api::{Record, RecordKind};
use crate::critical::Rule;
use crate::discovery::DiscoveryConfig;

/// How a node behaves. Defaults suit a server in a wired mesh.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Underlay addresses to keep links to.
    pub peers: Vec<Underlay>,
    /// Where joiners may reach this node, and far ends that look for a direct path; what a join token carries if nothing else is
    /// asked for.
    pub advertised: Vec<SocketAddr>,
    /// Where TLS is tried on the host of a peer whose UDP address does not answer; `None` for nowhere.
    pub fallback_port: Option<u16>,
    /// Whether a direct path is sought to far ends that are reached through relays.
    pub punch: bool,
    /// Whether and how neighbours are sought in the local network.
    pub discovery: Option<DiscoveryConfig>,
    /// How sessions are paced and bounded.
    pub endpoint: EndpointConfig,
    /// How routing is paced and bounded.
    pub routing: RoutingConfig,
    /// How the SVID is kept fresh.
    pub rotation: RotationConfig,
    /// If anything is said, bulk is sealed, and trains of at least so many bytes are opened, by whoever drives the node
    /// ([`crate::Output::Seal`], [`crate::Output::Open`]), so that it can be done on other threads. Otherwise the node does it at once.
    pub hands_out: Option<usize>,
    /// Which flows take two ways at once, at most [`RULES_MAX`](crate::critical::RULES_MAX) rules.
    pub critical: Vec<Rule>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            advertised: Vec::new(),
            fallback_port: None,
            punch: false,
            discovery: None,
            endpoint: EndpointConfig::default(),
            routing: RoutingConfig::default(),
            rotation: RotationConfig::default(),
            hands_out: None,
            critical: vec![Rule::EXPEDITED],
        }
    }
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
    /// Whether an authority stands beside it and answers [`crate::Output::AuthorityRequest`].
    pub is_authority: bool,
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
    /// The SVID was not issued by an authority of the bundle.
    #[error("`svid.pem` was not issued by an authority in `bundle.json`: the state directory mixes two meshes: {0}")]
    MixedMeshes(String),
    /// A Workload API gave the identity of something else.
    #[error("{0} is not the identity of a node: spiffe://TRUST-DOMAIN/node/NAME is")]
    NotOfNode(SpiffeId),
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
        // As of its own last second: whether it is still valid is a question for later, and an expired one may start.
        x0t_identity::verify_chain(svid.chain(), &bundle, svid.not_after())
            .map_err(|error| StartError::MixedMeshes(in_one_line(&error)))?;
        let is_authority = read(RecordKind::Authority).is_some();
        let authorities = read_authorities(&required(RecordKind::Authorities)?)?;
        let (epoch, record) = begin_epoch(read(RecordKind::Epoch).as_deref())?;
        Ok((Self { config, svid, bundle, is_authority, authorities, epoch, incarnation, crypto, seed }, record))
    }

    /// A node whose identity a Workload API has given and will renew. Of what it has stored only the epoch counts; nothing else is
    /// ever written.
    pub fn from_workload_api(
        mut config: NodeConfig,
        (svid, bundle): (Svid, Bundle),
        read: impl Fn(RecordKind) -> Option<Vec<u8>>,
        incarnation: u64,
        crypto: Crypto,
        seed: Seed,
    ) -> Result<(Self, Record), StartError> {
        if svid.spiffe_id().node_name().is_none() {
            return Err(StartError::NotOfNode(svid.spiffe_id().clone()));
        }
        config.rotation.source = SvidSource::WorkloadApi;
        let (epoch, record) = begin_epoch(read(RecordKind::Epoch).as_deref())?;
        let (is_authority, authorities) = (false, Vec::new());
        Ok((Self { config, svid, bundle, is_authority, authorities, epoch, incarnation, crypto, seed }, record))
    }
}

fn begin_epoch(stored: Option<&[u8]>) -> Result<(u32, Record), StartError> {
    let epoch = next_epoch(stored)?;
    Ok((epoch, Record { kind: RecordKind::Epoch, bytes: epoch.to_string().into_bytes() }))
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
    use x0t_identity::{Authority, AuthorityConfig, SeededKeys};
    use x0t_model::Entropy;

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

    /// What the first node of a mesh called `mesh.test` stores.
    fn first_node(seed: u8) -> impl Fn(RecordKind) -> Option<Vec<u8>> {
        let (mut entropy, now) = (Entropy::new([seed; 32]), UnixTime::from_secs(1_800_000_000));
        let mut keys = SeededKeys::new(entropy.fork("keys"));
        let node: SpiffeId = "spiffe://mesh.test/node/a".parse().unwrap();
        let mut authority = Authority::create(&node, AuthorityConfig::default(), &mut keys, &mut entropy, now).unwrap();
        let svid = authority.issue_self(&mut keys, &mut entropy, now).unwrap().to_stored().to_vec();
        let bundle = authority.bundle().to_json();
        move |kind| match kind {
            RecordKind::Svid => Some(svid.clone()),
            RecordKind::Bundle => Some(bundle.clone()),
            RecordKind::Authorities => Some(stored_authorities(std::slice::from_ref(&node))),
            RecordKind::Authority | RecordKind::Epoch => None,
        }
    }

    #[test]
    fn a_directory_that_mixes_two_meshes_of_one_name_is_recognised() {
        let start = |read: &dyn Fn(RecordKind) -> Option<Vec<u8>>| {
            let sessions = Arc::new(x0t_overlay::tls::RustlsProvider::new());
            let keys = Box::new(SeededKeys::new(Entropy::new([9; 32])));
            let crypto = Crypto { sessions, signatures: Arc::new(VerifyAfresh), keys };
            Start::from_records(NodeConfig::default(), read, 1, crypto, [0; 32])
        };
        let (ours, theirs) = (first_node(1), first_node(2));
        assert!(start(&ours).is_ok());
        let mixed = |kind| if kind == RecordKind::Bundle { theirs(kind) } else { ours(kind) };
        assert!(matches!(start(&mixed), Err(StartError::MixedMeshes(_))));
    }
}
