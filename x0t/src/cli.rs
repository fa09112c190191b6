//! The command line: what may be asked, with which flags. Nothing is done here.

mod cert;
mod environment;
mod federation;
mod parse;
mod spire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use x0t_identity::{EntryId, Selector};
use x0t_model::{SpiffeId, TrustDomain};
use x0t_netstack::spec::{Destination, Exposure, Local, MeshPort};
use x0t_runtime::state_dir::WorkloadSocket;

use crate::demo::DemoArgs;

pub use cert::{CertAction, VerifyArgs};
pub use environment::{default_state_dir, no_color, seal_key_file, workload_api_of_host};
pub use federation::{BundleAction, FederationAction, FederationCreateArgs, ProfileArg};
pub use parse::{CriticalSetting, Endpoint, HttpSetting, NodeName, Optional, PeerAddress, SocksSetting, TunSetting};
pub use spire::{
    AuthorityArg, IdentityArg, KeeperArgs, RegionsAction, SpireAction, SpireArgs, SpireCommand, SpireServerArgs,
};

/// What `x0t --help` lists: the commands in the order in which a person meets them.
/// A test holds this list against the commands that exist.
const COMMANDS: &str = "\
Build a mesh:
  up          Start this node; the first time, create a new mesh
  join        Join a mesh with a token, then start this node
  token       Create the single-use tokens that let nodes join
  down        Say goodbye to the neighbours and stop this node
  run         Run the node in the foreground (systemd, containers)

Look at it:
  status      This node: identity, links, readiness
  peers       Its neighbours
  routes      Every node it can reach, and through whom
  sessions    Its encrypted sessions
  ping        Time an echo through the mesh
  trace       Show which nodes a packet passes
  events      What happens to this node, as it happens

Give processes an identity:
  entry       Say which processes of which nodes get which identity
  identity    Explain why a process gets an identity, or none
  svid        Show this process's own identity, or keep it in files
  authority   See and replace the keys that sign for the mesh
  spire       Administer a SPIRE server: agents, tokens, bundle, health
  regions     See which region of SPIRE gives this node its identity
  bundle      The keys to believe: this mesh's, and those of other trust domains
  federation  Keep the bundles of other trust domains up to date
  cert        Show, judge and pin certificates in files

Use it without root:
  forward     Reach a port of another node at a local address
  expose      Let other nodes reach a port of this host

Change it:
  peer        Add or remove an underlay address to keep a link to
  node        Take a node's name back, so that it can stay no longer

Help yourself:
  doctor      Check this host and this node, with a next step for each finding
  demo        Run a small mesh on this host and watch it heal
  bench       Measure what the data plane and identity cost on this host
  completion  Print a completion script for your shell
  version     Print the version";

const TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}Options:
{options}{after-help}";

const EXAMPLES: &str = "\
Examples:
  first host$   x0t up                    # prints a line for the second host
  second host$  x0t join x0t1.…
  any host$     x0t ping NAME

Exit codes: 0 ok, 1 error, 2 usage or no match, 3 degraded, 4 daemon unreachable, 5 timeout, 6 denied.";

/// x0tta6bl4: a self-healing, zero-trust mesh network.
#[derive(Debug, Parser)]
#[command(name = "x0t", version, help_template = TEMPLATE, before_help = COMMANDS, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Action,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where the node keeps its identity and settings [default: /var/lib/x0t as root, else ~/.local/state/x0t].
    #[arg(long, global = true, env = "X0T_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more, on standard error; twice for still more.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Which log records to keep, as in `info,x0t_routing=debug`.
    #[arg(long, global = true, env = "X0T_LOG", value_name = "FILTER", hide_short_help = true)]
    pub log: Option<String>,
    /// How log records look.
    #[arg(long, global = true, env = "X0T_LOG_FORMAT", value_enum, default_value_t, hide_short_help = true)]
    pub log_format: LogFormat,
    /// When to use colours.
    #[arg(
        long,
        global = true,
        env = "X0T_COLOR",
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_short_help = true
    )]
    pub color: ColorChoice,
    /// Stop as if told to when standard input ends: a node that a program has started does not outlive it.
    #[arg(long, global = true, hide = true)]
    pub stop_on_stdin_eof: bool,
}

impl Global {
    /// The state directory that is meant.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(default_state_dir)
    }
}

/// How log records look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each record.
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start this node. The first time, create a new mesh with this node as its authority.
    ///
    /// Prints a line for the next host. Settings given here are kept and used by later starts.
    Up(UpArgs),
    /// Join a mesh with a token from `x0t token create`, then start this node.
    Join(JoinArgs),
    /// The single-use tokens that let nodes join.
    #[command(subcommand)]
    Token(TokenAction),
    /// The nodes of the mesh. Only its authority takes a name back.
    #[command(subcommand)]
    Node(NodeAction),
    /// Which processes of which nodes get which identity. The mesh's authority keeps entries, or a SPIRE server.
    Entry(EntryArgs),
    /// The keys that sign for the mesh: what they are, what comes next, and how to replace them.
    Authority(AuthorityArgs),
    /// A SPIRE server of this host: its agents, its tokens for agents, its bundle, its health.
    Spire(SpireCommand),
    /// The regions of SPIRE, for a node whose identity is SPIRE's.
    #[command(subcommand)]
    Regions(RegionsAction),
    /// Trust bundles: the keys of this mesh for others, and those of other trust domains for this mesh.
    #[command(subcommand)]
    Bundle(BundleAction),
    /// Other trust domains whose bundles are fetched from their bundle endpoints. Only the mesh's authority fetches.
    #[command(subcommand)]
    Federation(FederationAction),
    /// What a process is, and why it gets the identity it gets, or none.
    #[command(subcommand)]
    Identity(IdentityAction),
    /// The identity of the process that asks: this command, and whoever runs it.
    #[command(subcommand)]
    Svid(SvidAction),
    /// Certificates in files: what they say, whether a chain holds, and their pins. Needs no daemon.
    #[command(subcommand)]
    Cert(CertAction),
    /// Say goodbye to the neighbours and stop this node. What it knows is kept; `x0t up` starts it again.
    Down,
    /// Run the node in the foreground until it is told to stop. What systemd and containers start.
    Run(RunArgs),
    /// This node: identity, links, readiness. Exit code 0 if it is ready, 3 if not, 4 if it does not run.
    Status,
    /// The neighbours of this node.
    Peers,
    /// Every node that can be reached, and through whom.
    Routes,
    /// The encrypted sessions of this node, with neighbours and end to end.
    Sessions,
    /// Time an echo through the mesh, sealed end to end. Needs no root and no TUN device.
    Ping(PingArgs),
    /// Show which nodes a packet passes on its way, and how far away each is.
    Trace(TraceArgs),
    /// What happens to this node, as it happens: links, routes, identities.
    Events,
    /// Reach a port of another node at a local address, for as long as this command runs. Needs no root and no TUN device.
    Forward(ForwardArgs),
    /// Let other nodes reach a port of this host, from now on and after each start. Without a TUN device they reach no other.
    Expose(ExposeArgs),
    /// Underlay addresses to keep a link to.
    #[command(subcommand)]
    Peer(PeerAction),
    /// Check this host and this node; each finding comes with a next step. Exit code 3 if something is wrong.
    Doctor,
    /// Run a small mesh on this host, break it, and watch it heal. Needs no root and no network.
    Demo(DemoArgs),
    /// Measure what the data plane and identity cost on this host. Needs no root, no network and no running node.
    #[command(subcommand)]
    Bench(BenchAction),
    /// Print a completion script: `x0t completion bash > /etc/bash_completion.d/x0t`.
    Completion(CompletionArgs),
    /// Show the Workload API's client to the SPIFFE conformance suite, which starts this.
    #[command(hide = true)]
    ConformanceHarness(ConformanceHarnessArgs),
    /// Print the version.
    Version,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Settings of the node. Given to `up` and `join` they are kept.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// UDP address to listen on; may be repeated [default: 0.0.0.0:4600 and [::]:4600].
    #[arg(long, env = "X0T_LISTEN", value_name = "ADDR", value_delimiter = ',', value_parser = parse::socket_address)]
    pub listen: Vec<SocketAddr>,
    /// Address at which others reach this node; may be repeated [default: those of its interfaces].
    #[arg(long, env = "X0T_ADVERTISE", value_name = "ADDR", value_delimiter = ',')]
    pub advertise: Vec<Endpoint>,
    /// Underlay address to keep a link to, `tls://HOST:PORT` for TLS only; may be repeated.
    #[arg(long = "peer", env = "X0T_PEERS", value_name = "ADDR", value_delimiter = ',')]
    pub peers: Vec<PeerAddress>,
    /// TCP address where peers are served over TLS whose network blocks UDP, or `off` [default: off].
    #[arg(long, env = "X0T_LISTEN_TLS", value_name = "ADDR|off", value_parser = parse::tls_listener)]
    pub listen_tls: Option<Optional<SocketAddr>>,
    /// TCP port where TLS is tried on peers that do not answer over UDP, or `off` [default: 443].
    #[arg(long, env = "X0T_TLS_FALLBACK", value_name = "PORT|off", value_parser = parse::tls_port)]
    pub tls_fallback: Option<Optional<u16>>,
    /// Whether neighbours are sought in the local network [default: on, unless it listens on loopback only].
    #[arg(long, env = "X0T_DISCOVERY", value_name = "on|off")]
    pub discovery: Option<Switch>,
    /// Whether direct paths are sought to nodes reached through relays: UDP hole punching [default: on].
    #[arg(long, env = "X0T_PUNCH", value_name = "on|off")]
    pub punch: Option<Switch>,
    /// Where the live page, metrics and API are served, or `off` [default: 127.0.0.1:8080].
    #[arg(long, env = "X0T_HTTP", value_name = "ADDR|off")]
    pub http: Option<HttpSetting>,
    /// The TUN device: `auto` uses one if allowed to, `require` fails without, or give its name [default: auto].
    #[arg(long, env = "X0T_TUN", value_name = "auto|off|require|NAME")]
    pub tun: Option<TunSetting>,
    /// The MTU of the TUN device, from 1280 to 8800 [default: what suits the host's other interfaces].
    #[arg(long, env = "X0T_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=8800))]
    pub mtu: Option<u16>,

    /// Exchange packets with the kernel one by one: for devices and drivers that get segmentation wrong
    #[arg(long)]
    pub no_offload: bool,
    /// Threads that seal, open and deliver beside the one that decides; 0 for none [default: 0].
    #[arg(long, env = "X0T_WORKERS", value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    pub workers: Option<u8>,
    /// Flows that take two disjoint ways at once: tcp/PORT, udp/PORT or dscp/N; may be repeated, `none` for no flow [default: dscp/46].
    #[arg(long, env = "X0T_CRITICAL", value_name = "RULE", value_delimiter = ',')]
    pub critical: Vec<CriticalSetting>,
    /// Where SOCKS5 is served for programs that want to reach nodes by name, as in 1080 or 127.0.0.1:1080, or `off` [default: off].
    #[arg(long, env = "X0T_SOCKS", value_name = "[ADDR:]PORT|off")]
    pub socks: Option<SocksSetting>,
    /// Where workloads ask who they are (SPIFFE Workload API), or `off` [default: /run/x0t/workload.sock for root, else in the state directory].
    #[arg(long, env = "X0T_WORKLOAD_SOCKET", value_name = "PATH|off")]
    pub workload_socket: Option<WorkloadSocket>,
    /// TCP address where this mesh's bundle is published over HTTPS for other trust domains, or `off` [default: off].
    #[arg(long, env = "X0T_BUNDLE_ENDPOINT", value_name = "ADDR|off", value_parser = parse::bundle_endpoint)]
    pub bundle_endpoint: Option<Optional<SocketAddr>>,
    /// Certificate of the Web PKI that the bundle endpoint shows, in PEM, or `none` [default: the node's own SVID].
    #[arg(long, env = "X0T_BUNDLE_ENDPOINT_CERT", value_name = "FILE|none", requires = "bundle_endpoint_key")]
    pub bundle_endpoint_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(long, env = "X0T_BUNDLE_ENDPOINT_KEY", value_name = "FILE|none", requires = "bundle_endpoint_cert")]
    pub bundle_endpoint_key: Option<PathBuf>,
    /// Whom to believe for bundle endpoints of the Web PKI, in PEM, or `none` [default: the host's trust anchors].
    #[arg(long, env = "X0T_FEDERATION_CA", value_name = "FILE|none")]
    pub federation_ca: Option<PathBuf>,
    /// Port of this host that other nodes may reach, as in 80, 80:8080 or udp/53; may be repeated [default: none].
    #[arg(long, env = "X0T_EXPOSE", value_name = "PORT[:LOCALPORT]", value_delimiter = ',')]
    pub expose: Vec<Exposure>,
    #[command(flatten)]
    pub spire: SpireArgs,
}

/// `x0t forward`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ForwardArgs {
    #[command(subcommand)]
    pub action: Option<ForwardAction>,
    /// Where it is reached here, as in 8022, 127.0.0.1:8022, [::1]:8022, udp/5353 or unix:/run/db.sock; port 0 for any free one.
    #[arg(required = true)]
    pub local: Option<Local>,
    /// What is reached there: NODE:PORT, with a node's name, SPIFFE ID or overlay address (in brackets).
    #[arg(required = true, value_name = "NODE:PORT")]
    pub to: Option<Destination>,
    /// Have the node do so from now on and after each start, and do not wait.
    #[arg(long)]
    pub save: bool,
}

/// `x0t forward …`.
#[derive(Debug, Subcommand)]
pub enum ForwardAction {
    /// What is forwarded at present.
    List,
    /// End a forward that was saved.
    #[command(visible_alias = "rm")]
    Remove {
        /// Where it is reached here.
        local: Local,
    },
}

/// `x0t expose`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ExposeArgs {
    #[command(subcommand)]
    pub action: Option<ExposeAction>,
    /// The port in the mesh and the one on 127.0.0.1 if it is another, as in 80, 80:8080 or udp/53:5353.
    #[arg(required = true, value_name = "PORT[:LOCALPORT]")]
    pub exposure: Option<Exposure>,
    /// Only this node may use it; may be repeated [default: every node of the mesh].
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub from: Vec<String>,
}

/// `x0t expose …`.
#[derive(Debug, Subcommand)]
pub enum ExposeAction {
    /// What is exposed at present.
    List,
    /// Expose a port no more.
    #[command(visible_alias = "rm")]
    Remove {
        /// The port in the mesh, as in 80 or udp/53.
        port: MeshPort,
    },
}

/// `x0t up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Name of this node in the mesh [default: the host's name].
    #[arg(long, env = "X0T_NAME", value_name = "NAME")]
    pub name: Option<NodeName>,
    /// Name of the new mesh, a SPIFFE trust domain [default: a fresh one, as in mesh-k7q2m4xw.internal].
    #[arg(long, env = "X0T_TRUST_DOMAIN", value_name = "DOMAIN")]
    pub trust_domain: Option<TrustDomain>,
    /// Who gives this node its identity [default: the authority of a new mesh; a SPIRE agent if one is named].
    #[arg(long, env = "X0T_IDENTITY", value_name = "authority|spire")]
    pub identity: Option<IdentityArg>,
    /// How long the identities that the new mesh issues are valid [default: 1h].
    #[arg(long, env = "X0T_SVID_TTL", value_name = "DURATION", value_parser = parse::svid_ttl)]
    pub svid_ttl: Option<Duration>,
    /// How long after the end of its identity a node of the new mesh is let back without a token, by its old key [default: 0s, never].
    #[arg(long, env = "X0T_RECOVERY", value_name = "DURATION", value_parser = parse::recovery)]
    pub recovery: Option<Duration>,
    /// The certificate of an intermediate CA that signs for the new mesh, and those above it (PEM) [default: the mesh makes its own root].
    #[arg(long, env = "X0T_UPSTREAM_CERT", value_name = "FILE", requires = "upstream_key")]
    pub upstream_cert: Option<PathBuf>,
    /// Its private key (PEM, PKCS#8).
    #[arg(long, env = "X0T_UPSTREAM_KEY", value_name = "FILE", requires = "upstream_cert")]
    pub upstream_key: Option<PathBuf>,
    /// The roots that members trust (PEM) [default: those in the file of the certificate].
    #[arg(long, env = "X0T_UPSTREAM_ROOTS", value_name = "FILE", requires = "upstream_cert")]
    pub upstream_roots: Option<PathBuf>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// How long to wait until the node is ready.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    pub wait: Duration,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Files that hold an intermediate CA.
#[derive(Args, Debug)]
pub struct UpstreamArgs {
    /// The certificate of its key first, then those above it (PEM).
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// Its private key (PEM, PKCS#8).
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The roots that members trust (PEM) [default: those in the file of the certificate].
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
}

/// `x0t join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The token, or `-` to read it from standard input, which keeps it out of the process list.
    #[arg(env = "X0T_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: String,
    /// Name of this node in the mesh [default: the one the token is for, else the host's name].
    #[arg(long, env = "X0T_NAME", value_name = "NAME")]
    pub name: Option<NodeName>,
    /// Address to try in place of the token's, of the authority or of any member; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub via: Vec<PeerAddress>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// How long to wait until the node is ready, once it has joined.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration)]
    pub wait: Duration,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `x0t run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Leave the terminal's session and write the log to the state directory; how `x0t up` starts it.
    #[arg(long, hide = true)]
    pub detached: bool,
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `x0t token …`.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Create a token for one node. Only the mesh's authority can.
    Create(TokenCreateArgs),
}

/// `x0t token create`.
#[derive(Debug, Args)]
pub struct TokenCreateArgs {
    /// Only a node of this name may use it [default: any free name].
    #[arg(long, value_name = "NAME")]
    pub name: Option<NodeName>,
    /// How long it can be used.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::token_ttl)]
    pub ttl: Duration,
    /// Address the new node should try; may be repeated [default: those this node advertises].
    #[arg(long = "address", value_name = "ADDR")]
    pub addresses: Vec<Endpoint>,
}

/// `x0t node …`.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Take a node's name back: it gets no SVID any more, and nor do its processes. Another machine may have the name.
    Remove {
        /// Whose.
        name: NodeName,
    },
}

/// `x0t entry …`.
#[derive(Debug, Args)]
pub struct EntryArgs {
    #[command(flatten)]
    pub keeper: KeeperArgs,
    #[command(subcommand)]
    pub action: EntryAction,
}

/// `x0t entry …`.
#[derive(Debug, Subcommand)]
pub enum EntryAction {
    /// Give an identity to processes: to those of which all the selectors hold.
    Create(EntryCreateArgs),
    /// Every entry.
    List,
    /// One entry.
    Show {
        /// As in `x0t entry list`.
        id: EntryId,
    },
    /// Take an identity away. Processes lose it within a second; what they hold already ends by itself, or is revoked.
    #[command(visible_alias = "rm")]
    Delete {
        /// As in `x0t entry list`.
        id: EntryId,
        /// Put every X.509-SVID that is out for the identity on the revocation list.
        #[arg(long)]
        revoke: bool,
    },
}

/// `x0t entry create`.
#[derive(Debug, Args)]
pub struct EntryCreateArgs {
    /// The identity, as in /web or spiffe://TRUST-DOMAIN/web.
    #[arg(value_name = "SPIFFE-ID")]
    pub spiffe_id: String,
    /// What has to hold of a process, as in unix:uid:1000, unix:path:/usr/bin/web or systemd:unit:web.service; may be repeated.
    #[arg(short, long = "selector", value_name = "KIND:VALUE", required = true)]
    pub selectors: Vec<Selector>,
    /// On which node, by name or SPIFFE ID, or `any` [default: this node]. For SPIRE: below which agent, by SPIFFE ID.
    #[arg(long, visible_alias = "parent", value_name = "NODE|any")]
    pub node: Option<String>,
    /// Life of its X.509-SVIDs, from 10s to 24h [default: that of the mesh].
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub x509_ttl: Option<Duration>,
    /// Life of its JWT-SVIDs, from 10s to 24h [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub jwt_ttl: Option<Duration>,
    /// DNS name in its certificates; may be repeated.
    #[arg(long = "dns", value_name = "NAME")]
    pub dns_names: Vec<String>,
    /// Foreign trust domain whose bundle its processes get; may be repeated.
    #[arg(long, value_name = "DOMAIN")]
    pub federates_with: Vec<TrustDomain>,
    /// Tells a process with several identities what this one is for.
    #[arg(long, value_name = "TEXT")]
    pub hint: Option<String>,
    /// The entry ends after this long.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub expires_in: Option<Duration>,
}

/// `x0t authority …`.
#[derive(Debug, Args)]
pub struct AuthorityArgs {
    #[command(flatten)]
    pub keeper: KeeperArgs,
    #[command(subcommand)]
    pub action: AuthorityAction,
}

/// `x0t authority …`.
#[derive(Debug, Subcommand)]
pub enum AuthorityAction {
    /// The authorities, oldest first, and which nodes have yet to hear of the newest.
    Status,
    /// What is going to happen to them, when, and what it waits for.
    Plan,
    /// Make a new authority that signs nothing yet, and publish it.
    Prepare {
        #[arg(long, value_name = "x509|jwt", default_value = "x509")]
        /// What it is to sign.
        kind: KindArg,
    },
    /// Bring an intermediate CA that an authority outside has certified. It is tried, its root is published, and it signs nothing yet.
    Import(UpstreamArgs),
    /// Let the prepared authority sign. Refused until every live node has it in use, unless forced.
    Activate {
        #[arg(long, value_name = "x509|jwt", default_value = "x509")]
        /// What it signs.
        kind: KindArg,
        /// Leave nodes behind that have not heard of it.
        #[arg(long)]
        force: bool,
    },
    /// Distrust an authority that no longer signs: everything it has signed is replaced at once.
    Taint {
        /// As in `x0t authority status`.
        key_id: String,
    },
    /// Take a tainted authority out of the bundle. Refused while live nodes hold SVIDs of it, unless forced.
    Revoke {
        /// As in `x0t authority status`.
        key_id: String,
        /// Leave nodes behind that still hold its SVIDs.
        #[arg(long)]
        force: bool,
    },
}

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindArg {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

/// `x0t identity …`.
#[derive(Debug, Subcommand)]
pub enum IdentityAction {
    /// Why a process of this host gets an identity, or none: what was found of it, and the entries that come nearest. Exit code 2 if
    /// it gets none.
    Explain {
        /// Which process.
        #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
    },
}

/// `x0t svid …`.
#[derive(Debug, Subcommand)]
pub enum SvidAction {
    /// Put every X.509-SVID that is out for an identity on the revocation list. Whoever is entitled to one gets another at once.
    Revoke {
        /// Whose: a SPIFFE ID.
        id: SpiffeId,
    },
    /// Show the X.509-SVIDs of this process, once.
    Show(SvidArgs),
    /// Show them now and whenever they change, until interrupted.
    Watch(SvidArgs),
    /// Keep svid.pem, svid_key.pem and bundle.pem in a directory up to date, for programs that know only files, until interrupted.
    Write {
        #[command(flatten)]
        args: SvidArgs,
        /// Where; made if it is not there. The files change all at once.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Write once and end.
        #[arg(long)]
        once: bool,
    },
}

/// Where the Workload API is.
#[derive(Clone, Debug, Args)]
pub struct SvidArgs {
    /// The Workload API, as in unix:/run/x0t/workload.sock [default: that of this node].
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ENDPOINT")]
    pub socket: Option<String>,
}

/// `x0t conformance-harness`.
#[derive(Clone, Debug, Args)]
pub struct ConformanceHarnessArgs {
    /// The Workload API that the suite plays.
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ENDPOINT")]
    pub socket: String,
}

/// `x0t ping`.
#[derive(Clone, Debug, Args)]
pub struct PingArgs {
    /// A node's name, SPIFFE ID or node id.
    pub node: String,
    /// Stop after this many [default: until interrupted].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Time between two, in seconds or as in 200ms.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = parse::interval)]
    pub interval: Duration,
    /// Bytes of padding.
    #[arg(short, long, value_name = "BYTES", default_value_t = 56, value_parser = clap::value_parser!(u16).range(0..=1200))]
    pub size: u16,
    /// How long to wait for each answer, in seconds or as in 200ms.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = parse::interval)]
    pub timeout: Duration,
}

/// `x0t trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// A node's name, SPIFFE ID or node id.
    pub node: String,
    /// How long to wait for each hop, in seconds or as in 200ms.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = parse::interval)]
    pub timeout: Duration,
}

/// `x0t peer …`.
#[derive(Debug, Subcommand)]
pub enum PeerAction {
    /// Keep a link to this underlay address, from now on and after each start.
    Add(PeerArgs),
    /// Close the link to this underlay address and do not dial it again.
    #[command(visible_alias = "rm")]
    Remove(PeerArgs),
}

/// `x0t peer add`, `x0t peer remove`.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// As in 192.0.2.7, 192.0.2.7:4600, [2001:db8::7]:4600 or host.example:4600.
    #[arg(value_name = "ADDR")]
    pub address: PeerAddress,
}

/// `x0t bench …`.
#[derive(Debug, Subcommand)]
pub enum BenchAction {
    /// Seal, open, forward, handshake, next hop, refuse: per datagram, relative to the bare AEAD on the same host.
    ///
    /// With a baseline: exit code 3 if a ratio is worse than it by more than the factor.
    Dataplane(BenchArgs),
    /// Mint, validate and serve JWT-SVIDs: per token, relative to the bare signature on the same host.
    ///
    /// With a baseline: exit code 3 if a ratio is worse than it by more than the factor.
    Identity(BenchArgs),
}

/// `x0t bench dataplane`, `x0t bench identity`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Processor time to spend.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse::measuring_time)]
    pub time: Duration,
    /// Compare the ratios with those of an earlier run.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// How much larger than in the baseline a ratio may be.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.5, requires = "baseline", value_parser = parse::factor)]
    pub factor: f64,
    /// Keep the ratios of this run for later comparisons.
    #[arg(long, value_name = "FILE")]
    pub save_baseline: Option<PathBuf>,
}

/// `x0t completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Which shell.
    pub shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests;
