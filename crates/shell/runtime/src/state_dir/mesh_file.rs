//! `mesh.json`: the settings that a node starts with.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use x0t_identity::region_failover::FailoverSettings;
use x0t_model::{TrustDomain, Underlay};
use x0t_netstack::spec::{Exposure, Forward};
use x0t_node::critical::Rule;

use crate::tun::TunMode;
use crate::workers::WORKERS_MAX;

/// The settings that `x0t run` starts with. Written by `x0t up` and `x0t join`, readable and editable by people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshFile {
    /// Version of this layout, [`MeshFile::VERSION`].
    pub version: u32,
    /// Whose trust the node lives in.
    pub trust_domain: TrustDomain,
    /// The node's name in it.
    pub name: String,
    /// UDP addresses to listen on, at most one for each address family.
    pub listen: Vec<SocketAddr>,
    /// Underlay addresses to keep links to.
    #[serde(default)]
    pub peers: Vec<Underlay>,
    /// Underlay addresses that others are told; the listening ones if empty.
    #[serde(default)]
    pub advertise: Vec<SocketAddr>,
    /// TCP address where peers that cannot use UDP are served over TLS; `null` for nowhere.
    #[serde(default)]
    pub listen_tls: Option<SocketAddr>,
    /// TCP port where TLS is tried on the host of a peer whose UDP address does not answer; `null` for never.
    #[serde(default = "default_fallback_port")]
    pub fallback_port: Option<u16>,
    /// Whether neighbours are sought in the local network. Never on loopback.
    #[serde(default = "yes")]
    pub discovery: bool,
    /// Whether direct paths are sought to nodes that are reached through relays.
    #[serde(default = "yes")]
    pub punch: bool,
    /// Where the live page, API and metrics are read; `null` for nowhere. The admin socket exists in any case.
    pub http: Option<SocketAddr>,
    /// Whether the host gets an interface into the mesh.
    #[serde(default)]
    pub tun: TunMode,
    /// What that interface is called.
    #[serde(default = "default_tun_name")]
    pub tun_name: String,
    /// Its MTU, from 1280 to 8800; `null` for what suits the host's other interfaces.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Whether to exchange super-packets with the kernel, on the interface and on UDP sockets, as far as it can.
    #[serde(default = "on")]
    pub offload: bool,
    /// Threads that seal, open and deliver for the node; none unless they are asked for.
    #[serde(default)]
    pub workers: usize,
    /// Local addresses that lead to ports of other nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// Ports of this host that other nodes may reach; there are no others on a host without an interface into the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<Exposure>,
    /// Where SOCKS5 is served; `null` for nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socks: Option<SocketAddr>,
    /// Where workloads ask who they are (SPIFFE Workload API).
    #[serde(default)]
    pub workload_socket: WorkloadSocket,
    /// TCP address where the bundle of this trust domain is published over HTTPS; `null` for nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<SocketAddr>,
    /// PEM file with the certificate of the Web PKI that it shows; the node's own SVID if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint_cert: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint_key: Option<PathBuf>,
    /// PEM file with the anchors by which bundle endpoints of the Web PKI are checked; the host's if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federation_ca: Option<PathBuf>,
    /// Who gives the node its identity.
    #[serde(default, skip_serializing_if = "IdentityProvider::is_authority")]
    pub identity: IdentityProvider,
    /// Where SPIRE's Workload API is, if it is SPIRE: one region or several that stand in for each other.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub regions: FailoverSettings,
    /// Which flows take two disjoint ways at once: `tcp/PORT`, `udp/PORT` or `dscp/N`.
    #[serde(default = "default_critical")]
    pub critical: Vec<Rule>,
    /// Whether flows are spread over several ways that cost about the same. Off: all follow the best one.
    #[serde(default)]
    pub spread_flows: bool,
}

impl MeshFile {
    /// The layout this program writes and the newest it reads.
    pub const VERSION: u32 = 1;
    /// The port that nodes listen on if nothing else is said.
    pub const DEFAULT_PORT: u16 = 4600;
    /// The TCP port of HTTPS: what a network that blocks UDP still lets pass.
    pub const DEFAULT_FALLBACK_PORT: u16 = 443;
    /// Where the live page is served if nothing else is said.
    pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
    /// All addresses of both families, on the default port.
    pub const DEFAULT_LISTEN: [SocketAddr; 2] = [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), Self::DEFAULT_PORT),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Self::DEFAULT_PORT),
    ];

    /// The defaults for a node called `name`.
    pub fn new(trust_domain: TrustDomain, name: impl Into<String>) -> Self {
        Self {
            version: Self::VERSION,
            trust_domain,
            name: name.into(),
            listen: Self::DEFAULT_LISTEN.to_vec(),
            peers: Vec::new(),
            advertise: Vec::new(),
            listen_tls: None,
            fallback_port: default_fallback_port(),
            discovery: true,
            punch: true,
            http: Some(Self::DEFAULT_HTTP),
            tun: TunMode::default(),
            tun_name: default_tun_name(),
            mtu: None,
            offload: true,
            workers: 0,
            forwards: Vec::new(),
            exposed: Vec::new(),
            socks: None,
            workload_socket: WorkloadSocket::default(),
            bundle_endpoint: None,
            bundle_endpoint_cert: None,
            bundle_endpoint_key: None,
            federation_ca: None,
            identity: IdentityProvider::Authority,
            regions: FailoverSettings::default(),
            critical: default_critical(),
            spread_flows: false,
        }
    }
}

impl MeshFile {
    /// How many threads are to work for the node.
    pub fn workers(&self) -> usize {
        self.workers.min(WORKERS_MAX)
    }
}

/// Who gives a node its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityProvider {
    /// The authority of the mesh; SVID and key are kept in the state directory.
    #[default]
    Authority,
    /// A SPIRE agent; SVID and key are never written.
    Spire,
}

impl IdentityProvider {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_authority(&self) -> bool {
        *self == Self::Authority
    }
}

fn is_unset(regions: &FailoverSettings) -> bool {
    *regions == FailoverSettings::default()
}

/// Where the Workload API is served: `auto`, `off` or a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum WorkloadSocket {
    /// Where every process of the host finds it, if the node runs from the host's own state directory; else beside the admin socket.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// There.
    At(PathBuf),
}

impl WorkloadSocket {
    /// Where the processes of a host look for it.
    pub const OF_HOST: &str = "/run/x0t/workload.sock";
    /// The state directory of a host's own node.
    const STATE_OF_HOST: &str = "/var/lib/x0t";

    /// The path, for a node that runs from `state`.
    pub fn path(&self, state: &Path) -> Option<PathBuf> {
        match self {
            Self::Auto if state == Path::new(Self::STATE_OF_HOST) => Some(Self::OF_HOST.into()),
            Self::Auto => Some(state.join("workload.sock")),
            Self::Off => None,
            Self::At(path) => Some(path.clone()),
        }
    }
}

impl From<String> for WorkloadSocket {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "off" => Self::Off,
            path => Self::At(path.into()),
        }
    }
}

impl From<WorkloadSocket> for String {
    fn from(socket: WorkloadSocket) -> Self {
        match socket {
            WorkloadSocket::Auto => "auto".to_owned(),
            WorkloadSocket::Off => "off".to_owned(),
            WorkloadSocket::At(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl FromStr for WorkloadSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

fn default_critical() -> Vec<Rule> {
    vec![Rule::EXPEDITED]
}

const fn default_fallback_port() -> Option<u16> {
    Some(MeshFile::DEFAULT_FALLBACK_PORT)
}

const fn yes() -> bool {
    true
}

fn default_tun_name() -> String {
    crate::tun::DEFAULT_NAME.to_owned()
}

const fn on() -> bool {
    true
}
