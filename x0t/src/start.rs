//! From a state directory to a running node: what a new mesh begins with, which settings are in force, who composes what.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use x0t_identity::{Authority, AuthorityConfig, AwsLcKeys, Bundle, Svid, import_upstream};
use x0t_model::{Entropy, SpiffeId, TrustDomain, in_one_line};
use x0t_node::critical::RULES_MAX;
use x0t_node::discovery::DiscoveryConfig;
use x0t_node::{Crypto, Node, NodeConfig, Record, RecordKind, Start, VerifyAfresh, stored_authorities};
use x0t_overlay::tls::RustlsProvider;
use x0t_runtime::clock::{Clock, seed};
use x0t_runtime::daemon::{self, Additions, Companion, DaemonConfig};
use x0t_runtime::event_loop::HANDED_OUT_LEN_MIN;
use x0t_runtime::http::{HttpError, bind_tcp};
use x0t_runtime::state_dir::{IdentityProvider, MeshFile, StateDir, StateDirError};
use x0t_runtime::tls_transport::{ListenError, TlsListener};
use x0t_runtime::udp::{BindError, UdpSockets};

use crate::beside::{self, FederationSettings, Home};
use crate::cli::NodeName;
use crate::exit::{Exit, Failure};
use crate::from_spire::{Source, Wanted, regions_of};
use crate::{host, recovery, ui, upstream};

/// Letters of a fresh trust domain: none that are taken for one another when read aloud or typed.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// What to do about a state directory that cannot be used.
const RESTORE: &str = "restore it from a backup, or move it away and join again";

/// A trust domain that nobody else has. The name of a mesh decides its addresses and can never be changed, so two meshes
/// that are to meet one day must not both be called the default. `.internal` is the top level domain that ICANN has set
/// aside for private use; `.local` belongs to multicast DNS (RFC 6762).
pub fn fresh_trust_domain() -> anyhow::Result<TrustDomain> {
    let mut entropy = Entropy::new(seed()?);
    let label: String = entropy.bytes::<8>().iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    Ok(format!("mesh-{label}.internal").parse()?)
}

/// What the first node of a new mesh keeps: an authority, and an SVID that it has issued to itself.
pub fn new_mesh(
    trust_domain: &TrustDomain,
    name: &NodeName,
    svid_ttl: Option<Duration>,
    recovery: Option<Duration>,
    upstream: Option<&upstream::Files>,
) -> anyhow::Result<Vec<Record>> {
    let node = SpiffeId::node(trust_domain, name.as_str())?;
    let mut config = AuthorityConfig::default();
    config.svid_ttl = svid_ttl.unwrap_or(config.svid_ttl);
    config.recovery = recovery.unwrap_or(config.recovery);
    let (mut entropy, mut keys, now) = (Entropy::new(seed()?), AwsLcKeys, Clock.wall());
    let mut authority = match upstream {
        None => Authority::create(&node, config, &mut keys, &mut entropy, now)?,
        Some(files) => {
            let imported = import_upstream(trust_domain, files.as_bytes(), config.svid_ttl, now, &mut entropy);
            let (material, key) = imported.map_err(upstream::failure)?;
            Authority::create_with(&node, config, material, key, now)?
        }
    };
    let svid = authority.issue_self(&mut keys, &mut entropy, now)?;
    let record = |kind, bytes: &[u8]| Record { kind, bytes: bytes.to_vec() };
    Ok(vec![
        record(RecordKind::Authority, &authority.to_stored()?),
        record(RecordKind::Bundle, &authority.bundle().to_json()),
        record(RecordKind::Authorities, &stored_authorities(&[node])),
        record(RecordKind::Svid, &svid.to_stored()),
    ])
}

/// Takes hold of a state directory.
pub fn open(path: &Path) -> Result<StateDir, Failure> {
    StateDir::open(path).map_err(state_dir_failure)
}

/// A state directory's error with its exit code and next step.
pub fn state_dir_failure(error: impl Borrow<StateDirError>) -> Failure {
    let error = error.borrow();
    match error {
        StateDirError::NotInitialised { path } => {
            Failure::new(Exit::Error, format!("{} holds no node", path.display()))
                .next("start a new mesh with `x0t up`, or join one with `x0t join TOKEN`")
        }
        StateDirError::AlreadyInitialised { path, name, trust_domain } => {
            Failure::new(Exit::Error, format!("{} already holds node {name} of mesh {trust_domain}", path.display()))
                .next("start it with `x0t up`, or give another directory with `--state-dir`")
        }
        StateDirError::OtherMesh { path, found, wanted } => {
            Failure::new(Exit::Error, format!("{} belongs to a node of mesh {found}, not of {wanted}", path.display()))
                .next("give another directory with `--state-dir`")
        }
        StateDirError::NewerVersion { path, found, known } => Failure::new(
            Exit::Error,
            format!("{} was written by a newer x0t (layout {found}; this one knows up to {known})", path.display()),
        )
        .next("upgrade x0t"),
        StateDirError::InUse { path, pid } => {
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            Failure::new(Exit::Error, format!("{} is in use by {holder}: the node runs already", path.display()))
                .next("stop it with `x0t down`, or give another directory with `--state-dir`")
        }
        StateDirError::Permissions { path, problem, repair } => {
            Failure::new(Exit::Denied, format!("{} holds private keys and {problem}", path.display()))
                .next(format!("repair it with `{repair}`"))
        }
        StateDirError::Io { action, path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Denied, format!("cannot {action} {}", path.display()))
                .because(source.to_string())
                .next("run as the user that started the node, or give another directory with `--state-dir`")
        }
        StateDirError::Damaged { path, source } => Failure::new(Exit::Error, format!("{} is damaged", path.display()))
            .because(source.to_string())
            .next(RESTORE),
        StateDirError::Io { action, path, source } => {
            Failure::new(Exit::Error, format!("cannot {action} {}", path.display()))
                .because(source.to_string())
                .next("check the disk: is it full, or mounted read-only?")
        }
        other => Failure::new(Exit::Error, other.to_string()).next(RESTORE),
    }
}

/// Runs the node that lives in `dir` until it is told to stop.
pub async fn run(dir: StateDir, settings: MeshFile) -> anyhow::Result<()> {
    let state = dir.path().to_owned();
    let given = match settings.identity {
        IdentityProvider::Authority => None,
        IdentityProvider::Spire => Some(first_from_spire(&settings).await?),
    };
    let (tell, home) = std::sync::mpsc::channel();
    let (given, companion): (_, Companion) = match given {
        None => (None, Box::new(move |beside| beside::start(home.recv()?, beside))),
        Some((source, given)) => {
            let me = given.0.spiffe_id().clone();
            (
                Some(given),
                Box::new(move |beside| {
                    let readings = Some(source.readings());
                    Ok(Additions { routes: source.beside(&me, beside), readings })
                }),
            )
        }
    };
    let config = DaemonConfig {
        companion: Some(companion),
        settings: settings.clone(),
        assets: ui::ASSETS,
        ..DaemonConfig::new(dir, env!("CARGO_PKG_VERSION"))
    };
    let ending = daemon::run(config, |dir, listen, now, wall| {
        let start = compose(dir, &settings, listen, given)?;
        let home = Home {
            authority: start.is_authority.then(|| state.clone()),
            svid: start.svid.clone(),
            bundle: start.bundle.clone(),
            authorities: start.authorities.clone(),
            socket: settings.workload_socket.path(&state),
            memory: (!start.is_authority).then(|| recovery::Memory {
                state_dir: state.clone(),
                authorities: start.authorities.clone(),
                peers: settings.peers.clone(),
                fallback_port: settings.fallback_port,
            }),
            state: state.clone(),
            federation: FederationSettings::of(&settings),
        };
        // Whoever starts the companion waits for it.
        let _ = tell.send(home);
        Ok(Node::new(start, now, wall)?)
    })
    .await;
    ending.map(drop).map_err(daemon_failure)
}

/// The first SVID of a node whose identity is SPIRE's, and where the others will come from. Waits for as long as there is none: a host
/// that starts may have its agent yet to start, and an entry may be made at any time.
async fn first_from_spire(settings: &MeshFile) -> anyhow::Result<(Source, (Svid, Bundle))> {
    let mut source = Source::begin(regions_of(settings)?)?;
    let wanted = Wanted::of(settings);
    let given = source.first(&wanted, |failure| {
        let next = failure.next_step().unwrap_or_default();
        tracing::warn!(reason = in_one_line(failure), next, "the node waits for its identity");
    });
    let given = given.await;
    Ok((source, given))
}

/// What the node that lives in `dir` is made of; `given` is its identity, if that is not in there.
fn compose(
    dir: &mut StateDir,
    settings: &MeshFile,
    listen: &[SocketAddr],
    given: Option<(Svid, Bundle)>,
) -> anyhow::Result<Start> {
    let mut entropy = Entropy::new(seed()?);
    let advertised = match settings.advertise.as_slice() {
        [] => host::advertised(listen, &settings.trust_domain),
        given => given.to_vec(),
    };
    let mut config = NodeConfig {
        peers: settings.peers.clone(),
        advertised,
        fallback_port: settings.fallback_port,
        punch: settings.punch,
        discovery: if settings.discovery { discovery_config(listen) } else { None },
        critical: settings.critical.iter().take(RULES_MAX).copied().collect(),
        ..NodeConfig::default()
    };
    config.routing.spread_flows = settings.spread_flows;
    config.hands_out = (settings.workers() > 0).then_some(HANDED_OUT_LEN_MIN);
    let mut stored = BTreeMap::new();
    for kind in RecordKind::ALL {
        stored.extend(dir.read(kind)?.map(|bytes| (kind, bytes)));
    }
    let read = |kind| stored.get(&kind).cloned();
    let (incarnation, seed) = (entropy.next_u64(), entropy.bytes());
    let (start, epoch) = match given {
        None => Start::from_records(config, read, incarnation, crypto(), seed)?,
        Some(given) => Start::from_workload_api(config, given, read, incarnation, crypto(), seed)?,
    };
    // An epoch that was not made durable could be used twice, and a node that does so is not believed.
    dir.write(&epoch)?;
    Ok(start)
}

/// Which ports beacons name: those that are open to others. None on a host that listens on loopback only.
fn discovery_config(listen: &[SocketAddr]) -> Option<DiscoveryConfig> {
    let port = |v4: bool| {
        let open = |address: &&SocketAddr| address.is_ipv4() == v4 && !address.ip().is_loopback();
        listen.iter().find(open).map_or(0, SocketAddr::port)
    };
    let config = DiscoveryConfig { port_v4: port(true), port_v6: port(false) };
    (config.port_v4 != 0 || config.port_v6 != 0).then_some(config)
}

/// The real seams: rustls and aws-lc-rs.
fn crypto() -> Crypto {
    Crypto {
        sessions: Arc::new(RustlsProvider::default()),
        signatures: Arc::new(VerifyAfresh),
        keys: Box::new(AwsLcKeys),
    }
}

/// Finds out whether a daemon with these settings could listen. For `x0t join`: a token that is spent on a node that then
/// cannot start is a token lost.
pub fn check_ports(settings: &MeshFile) -> anyhow::Result<()> {
    let bind = || -> anyhow::Result<()> {
        UdpSockets::bind(&settings.listen)?;
        settings.listen_tls.map(TlsListener::bind).transpose()?;
        settings.http.map(bind_tcp).transpose()?;
        FederationSettings::of(settings).check()?;
        Ok(())
    };
    bind().map_err(daemon_failure)
}

/// What keeps a daemon from starting, with its exit code and next step.
fn daemon_failure(error: anyhow::Error) -> anyhow::Error {
    let error = match error.downcast::<StateDirError>() {
        Ok(error) => return state_dir_failure(error).into(),
        Err(error) => error,
    };
    if let Some(BindError::InUse(address)) = error.downcast_ref() {
        return Failure::new(Exit::Error, format!("UDP port {} is in use on {}", address.port(), address.ip()))
            .next("choose another with `--listen IP:PORT`, or stop what uses it: `ss -ulpn` tells")
            .into();
    }
    if let Some(BindError::Io { address, source }) = error.downcast_ref() {
        let exit = if source.kind() == std::io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Error };
        return Failure::new(exit, format!("cannot listen on UDP {address}"))
            .because(source.to_string())
            .next("give an address of this host, and a port above 1023, with `--listen IP:PORT`")
            .into();
    }
    if let Some(ListenError::InUse(address)) = error.downcast_ref() {
        return Failure::new(Exit::Error, format!("TCP port {} is in use on {}", address.port(), address.ip()))
            .next("choose another with `--listen-tls IP:PORT`, or do without: `--listen-tls off`")
            .into();
    }
    if let Some(ListenError::Io { address, source }) = error.downcast_ref() {
        let exit = if source.kind() == std::io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Error };
        return Failure::new(exit, format!("cannot listen on TCP {address}"))
            .because(source.to_string())
            .next("ports below 1024 need root or CAP_NET_BIND_SERVICE; or do without: `--listen-tls off`")
            .into();
    }
    if let Some(HttpError::PortInUse(address)) = error.downcast_ref() {
        return Failure::new(Exit::Error, format!("TCP port {} is in use on {}", address.port(), address.ip()))
            .next("choose another with `--http IP:PORT`, or do without the page: `--http off`")
            .into();
    }
    error
}
