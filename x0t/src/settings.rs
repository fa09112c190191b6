//! The settings of a node: what `mesh.json` says, what flags change for one run, and what commands change for good.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use x0t_identity::region_failover::{FailoverSettings, RegionSettings};
use x0t_model::Underlay;
use x0t_node::critical::{RULES_MAX, Rule};
use x0t_runtime::state_dir::{IdentityProvider, MeshFile, StateDir, WorkloadSocket};
use x0t_runtime::tun::TunMode;

use crate::cli::{
    CriticalSetting, HttpSetting, NodeArgs, SocksSetting, SpireArgs, Switch, TunSetting, workload_api_of_host,
};
use crate::exit::{Exit, Failure};
use crate::from_spire::{mistaken, regions_of};
use crate::resolve::{resolve_all, resolve_peers};

/// Whether any flag of the node's settings was given.
pub fn has_settings(args: &NodeArgs) -> bool {
    let NodeArgs {
        listen,
        advertise,
        peers,
        listen_tls,
        tls_fallback,
        discovery,
        punch,
        http,
        tun,
        mtu,
        no_offload,
        workers,
        socks,
        workload_socket,
        expose,
        critical,
        bundle_endpoint,
        bundle_endpoint_cert,
        bundle_endpoint_key,
        federation_ca,
        spire,
    } = args;
    let underlay = !(listen.is_empty() && advertise.is_empty() && peers.is_empty());
    let lists = underlay || !(expose.is_empty() && critical.is_empty());
    let files = bundle_endpoint_cert.is_some() || bundle_endpoint_key.is_some() || federation_ca.is_some();
    let reach = listen_tls.is_some() || tls_fallback.is_some() || discovery.is_some() || punch.is_some();
    lists
        || reach
        || http.is_some()
        || tun.is_some()
        || mtu.is_some()
        || workers.is_some()
        || socks.is_some()
        || workload_socket.is_some()
        || bundle_endpoint.is_some()
        || files
        || *no_offload
        || !spire.is_empty()
}

/// `mesh` with the flags that were given put in place of what it says.
pub fn with_settings(mut mesh: MeshFile, args: &NodeArgs) -> Result<MeshFile, Failure> {
    if mesh.identity == IdentityProvider::Spire {
        refuse_with_spire(&[
            ("--workload-socket", args.workload_socket.is_some()),
            ("--bundle-endpoint", args.bundle_endpoint.is_some()),
            ("--bundle-endpoint-cert", args.bundle_endpoint_cert.is_some()),
            ("--bundle-endpoint-key", args.bundle_endpoint_key.is_some()),
            ("--federation-ca", args.federation_ca.is_some()),
        ])?;
    }
    if !args.listen.is_empty() {
        mesh.listen.clone_from(&args.listen);
    }
    if !args.advertise.is_empty() {
        mesh.advertise = resolve_all(&args.advertise)?;
    }
    if !args.peers.is_empty() {
        mesh.peers = resolve_peers(&args.peers)?;
    }
    if let Some(listen_tls) = args.listen_tls {
        mesh.listen_tls = listen_tls.value();
    }
    if let Some(port) = args.tls_fallback {
        mesh.fallback_port = port.value();
    }
    if let Some(discovery) = args.discovery {
        mesh.discovery = discovery == Switch::On;
    }
    if let Some(punch) = args.punch {
        mesh.punch = punch == Switch::On;
    }
    if let Some(http) = args.http {
        mesh.http = HttpSetting::address(http);
    }
    mesh.mtu = args.mtu.or(mesh.mtu);
    mesh.offload &= !args.no_offload;
    mesh.workers = args.workers.map_or(mesh.workers, usize::from);
    if let Some(socks) = args.socks {
        mesh.socks = SocksSetting::address(socks);
    }
    if let Some(socket) = &args.workload_socket {
        mesh.workload_socket.clone_from(socket);
    }
    if let Some(endpoint) = args.bundle_endpoint {
        mesh.bundle_endpoint = endpoint.value();
    }
    set_file(&mut mesh.bundle_endpoint_cert, args.bundle_endpoint_cert.as_deref())?;
    set_file(&mut mesh.bundle_endpoint_key, args.bundle_endpoint_key.as_deref())?;
    set_file(&mut mesh.federation_ca, args.federation_ca.as_deref())?;
    if !args.expose.is_empty() {
        mesh.exposed.clone_from(&args.expose);
    }
    if !args.critical.is_empty() {
        mesh.critical = critical_rules(&args.critical)?;
    }
    if !args.spire.is_empty() || mesh.identity == IdentityProvider::Spire {
        mesh.regions = regions(&mesh, &args.spire)?;
    }
    match &args.tun {
        None => {}
        Some(TunSetting::Auto) => mesh.tun = TunMode::Auto,
        Some(TunSetting::Off) => mesh.tun = TunMode::Off,
        Some(TunSetting::Require) => mesh.tun = TunMode::Require,
        Some(TunSetting::Named(name)) => {
            mesh.tun = TunMode::Require;
            mesh.tun_name.clone_from(name);
        }
    }
    Ok(mesh)
}

/// Refuses those flags that were given, of a node whose identity is SPIRE's: nothing would come of them.
pub fn refuse_with_spire(flags: &[(&str, bool)]) -> Result<(), Failure> {
    let given: Vec<_> = flags.iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| format!("`{flag}`")).collect();
    if given.is_empty() {
        return Ok(());
    }
    let text = format!("{} has no effect on a node whose identity SPIRE gives", given.join(", "));
    Err(Failure::new(Exit::Usage, text).next(
        "leave it out, and its variable `X0T_…`: the SPIRE server has the keys, decides how long identities are valid \
         (`-x509SVIDTTL` of an entry) and federates; the SPIRE agent serves the Workload API",
    ))
}

/// Keeps a file by its absolute path, for the daemon runs elsewhere; `none` stands for no file.
fn set_file(setting: &mut Option<PathBuf>, given: Option<&Path>) -> Result<(), Failure> {
    let Some(given) = given else { return Ok(()) };
    let absolute = || {
        std::path::absolute(given).map_err(|error| {
            Failure::new(Exit::Usage, format!("{} is no path", given.display())).because(error.to_string())
        })
    };
    *setting = if given == Path::new("none") { None } else { Some(absolute()?) };
    Ok(())
}

/// Where SPIRE is asked for the identity of the node of `mesh`, with the flags that were given put in place of what it says.
fn regions(mesh: &MeshFile, args: &SpireArgs) -> Result<FailoverSettings, Failure> {
    if mesh.identity != IdentityProvider::Spire {
        return Err(Failure::new(Exit::Usage, "this node gets its identity from the authority of its mesh, not from SPIRE")
            .next("leave out the flags `--spire-…` and `--failover-…`, and the variables `X0T_SPIRE_REGIONS` and `X0T_FAILOVER_…`"));
    }
    let (interval, timeout) = (args.failover_interval.as_deref(), args.failover_timeout.as_deref());
    let threshold = args.failover_threshold.as_deref();
    if let Some(text) = &args.spire_regions {
        let config = FailoverSettings::parse_environment(text, interval, threshold, timeout);
        return Ok(config.map_err(|mistakes| mistaken(&mistakes))?.to_settings());
    }
    let mut settings = mesh.regions.clone();
    if let Some(endpoint) = &args.spire_socket {
        settings.list = vec![only_region(endpoint)];
    } else if settings.list.is_empty() {
        settings.list = vec![only_region(&workload_api_of_host().unwrap_or_else(|| SPIRE_AGENT.to_owned()))];
    }
    let threshold = threshold.map(|text| {
        let wrong = |_| Failure::new(Exit::Usage, format!("`--failover-threshold {text}` is no whole number"));
        text.trim().parse().map_err(wrong)
    });
    settings.interval = interval.map(str::to_owned).or(settings.interval);
    settings.threshold = threshold.transpose()?.or(settings.threshold);
    settings.timeout = timeout.map(str::to_owned).or(settings.timeout);
    let config = settings.into_config().map_err(|mistakes| mistaken(&mistakes))?;
    Ok(config.to_settings())
}

/// Where a SPIRE agent listens unless it is told otherwise.
const SPIRE_AGENT: &str = "unix:///tmp/spire-agent/public/api.sock";

fn only_region(endpoint: &str) -> RegionSettings {
    RegionSettings { name: "local".to_owned(), endpoint: endpoint.to_owned(), health: None, priority: None }
}

/// Where the processes of the host of the node in `state_dir` ask who they are.
pub fn workload_api_of(state_dir: &Path) -> Result<String, Failure> {
    // A workload may not look into the state directory: then it is the host's own place, or what the environment says.
    let socket = match StateDir::inspect(state_dir) {
        Ok(mesh) if mesh.identity == IdentityProvider::Spire => {
            return Ok(regions_of(&mesh)?.regions()[0].endpoint.to_string());
        }
        Ok(mesh) => mesh.workload_socket,
        Err(_) => WorkloadSocket::Auto,
    };
    let path = socket.path(state_dir).ok_or_else(|| {
        Failure::new(Exit::Usage, "this node serves no Workload API").next("start it with `--workload-socket auto`")
    })?;
    Ok(format!("unix:{}", path.display()))
}

/// The rules given; `none` stands for no rule and for itself alone.
fn critical_rules(given: &[CriticalSetting]) -> Result<Vec<Rule>, Failure> {
    let rules: Vec<Rule> = given.iter().filter_map(|setting| setting.0).collect();
    if rules.len() != given.len() && given.len() > 1 {
        return Err(Failure::new(Exit::Usage, "`--critical none` leaves no room for other rules")
            .next("give either `none` or rules"));
    }
    if rules.len() > RULES_MAX {
        return Err(Failure::new(Exit::Usage, format!("at most {RULES_MAX} rules may name critical flows"))
            .next("mark the packets with one codepoint instead, and name that: dscp/N"));
    }
    Ok(rules)
}

/// Adds addresses to, or removes them from, the ones to keep links to after each start. The running node is told apart from this.
pub fn edit_peers(state_dir: &Path, addresses: &[Underlay], adds: bool) -> anyhow::Result<()> {
    edit(state_dir, |mesh| {
        mesh.peers.retain(|peer| !addresses.contains(peer));
        if adds {
            mesh.peers.extend_from_slice(addresses);
        }
    })
}

/// Changes what the node starts with. Whoever else does the same meanwhile waits; the daemon writes these settings never.
pub fn edit(state_dir: &Path, change: impl FnOnce(&mut MeshFile)) -> anyhow::Result<()> {
    let turn = File::open(state_dir)?;
    flock(&turn, FlockOperation::LockExclusive)?;
    let before = StateDir::inspect(state_dir)?;
    let mut mesh = before.clone();
    change(&mut mesh);
    if mesh != before {
        write(state_dir, &mesh)?;
    }
    Ok(())
}

/// Replaces `mesh.json` whole: a crash leaves the old settings or the new ones.
fn write(state_dir: &Path, mesh: &MeshFile) -> anyhow::Result<()> {
    let (path, temporary) = (state_dir.join("mesh.json"), state_dir.join("mesh.json.new"));
    let mut text = serde_json::to_vec_pretty(mesh)?;
    text.push(b'\n');
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(state_dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_kept_once_and_removed_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let mesh = MeshFile::new("mesh.test".parse().unwrap(), "alpha");
        let held = StateDir::create(&state, &mesh, &[]).unwrap();
        let [one, two] = ["192.0.2.1:4600", "192.0.2.2:4600"].map(|text| text.parse().unwrap());
        edit_peers(&state, &[one], true).unwrap();
        edit_peers(&state, &[two, one], true).unwrap();
        assert_eq!(StateDir::inspect(&state).unwrap().peers, [two, one]);
        edit_peers(&state, &[one], false).unwrap();
        assert_eq!(StateDir::inspect(&state).unwrap(), MeshFile { peers: vec![two], ..mesh });
        drop(held);
    }

    #[test]
    fn flags_replace_what_is_stored_and_nothing_else() {
        let stored = MeshFile::new("mesh.test".parse().unwrap(), "alpha");
        let none = NodeArgs::default();
        assert!(!has_settings(&none));
        assert_eq!(with_settings(stored.clone(), &none).unwrap(), stored);
        let args = NodeArgs {
            listen: vec!["127.0.0.1:1".parse().unwrap()],
            http: Some(HttpSetting::Off),
            tun: Some(TunSetting::Named("mesh0".to_owned())),
            mtu: Some(1400),
            workers: Some(2),
            critical: vec!["tcp/22".parse().unwrap()],
            ..NodeArgs::default()
        };
        assert!(has_settings(&args));
        let changed = with_settings(stored.clone(), &args).unwrap();
        assert_eq!((changed.http, changed.tun, changed.tun_name.as_str()), (None, TunMode::Require, "mesh0"));
        assert_eq!((stored.workers, changed.mtu, changed.workers), (0, Some(1400), 2));
        assert_eq!(changed.critical, [Rule::Tcp(22)]);
        assert_eq!((changed.listen, changed.peers, changed.name), (args.listen, stored.peers, stored.name));
    }

    #[test]
    fn critical_flows_are_named_by_rules_or_not_at_all() {
        let rules = |texts: &[&str]| {
            critical_rules(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<CriticalSetting>>())
        };
        assert_eq!(rules(&["none"]).unwrap(), []);
        assert_eq!(rules(&["udp/5060", "dscp/46"]).unwrap(), [Rule::Udp(5060), Rule::EXPEDITED]);
        assert!(rules(&["none", "tcp/22"]).is_err());
        assert!(rules(&["tcp/22"; RULES_MAX + 1]).is_err());
    }
}
