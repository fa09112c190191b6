//! What is asked about SPIRE: where a node gets its identity from, and how several regions stand in for each other.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use x0t_model::SpiffeId;

/// Who gives a node its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IdentityArg {
    /// The authority of the mesh.
    Authority,
    /// A SPIRE agent of this host.
    Spire,
}

/// Where SPIRE's Workload API is. Given to `up` they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Identity from SPIRE")]
pub struct SpireArgs {
    /// Workload API of the SPIRE agent that gives this node its identity, as in unix:///run/spire/agent.sock.
    #[arg(long, value_name = "ENDPOINT", conflicts_with = "spire_regions")]
    pub spire_socket: Option<String>,
    /// Several of them, best first: NAME=ENDPOINT[|HEALTH-URL][|prio=N];NAME=…
    #[arg(long, env = "X0T_SPIRE_REGIONS", value_name = "REGIONS")]
    pub spire_regions: Option<String>,
    /// How often each region is checked [default: 30s].
    #[arg(long, env = "X0T_FAILOVER_INTERVAL", value_name = "DURATION")]
    pub failover_interval: Option<String>,
    /// Failed checks in a row after which a region is left [default: 3].
    #[arg(long, env = "X0T_FAILOVER_THRESHOLD", value_name = "N")]
    pub failover_threshold: Option<String>,
    /// How long a check may take [default: 1s].
    #[arg(long, env = "X0T_FAILOVER_TIMEOUT", value_name = "DURATION")]
    pub failover_timeout: Option<String>,
}

impl SpireArgs {
    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether they say where SPIRE is.
    pub const fn names_a_place(&self) -> bool {
        self.spire_socket.is_some() || self.spire_regions.is_some()
    }
}

/// `x0t regions …`.
#[derive(Debug, Subcommand)]
pub enum RegionsAction {
    /// Every region: its state, its last checks, and why it is not in use. Exit code 3 unless the preferred one is in use and well.
    Status,
}

/// Who keeps entries and signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AuthorityArg {
    /// The authority of the mesh, on the node that is its authority.
    #[default]
    Mesh,
    /// A SPIRE server, on its host.
    Spire,
}

/// Which authority is asked.
#[derive(Clone, Debug, Args)]
pub struct KeeperArgs {
    /// Who is asked: the authority of the mesh, or a SPIRE server of this host.
    #[arg(long, global = true, env = "X0T_AUTHORITY", value_enum, default_value_t, value_name = "mesh|spire")]
    pub authority: AuthorityArg,
    #[command(flatten)]
    pub server: SpireServerArgs,
}

/// Where the SPIRE server is.
#[derive(Clone, Debug, Args)]
pub struct SpireServerArgs {
    /// The SPIRE server's own socket; whoever may use it administers the server.
    #[arg(
        long,
        global = true,
        env = "X0T_SPIRE_SERVER",
        value_name = "ENDPOINT",
        default_value = "unix:///tmp/spire-server/private/api.sock"
    )]
    pub spire_server: String,
}

/// `x0t spire …`.
#[derive(Debug, Args)]
pub struct SpireCommand {
    #[command(flatten)]
    pub server: SpireServerArgs,
    #[command(subcommand)]
    pub action: SpireAction,
}

/// What a SPIRE server is asked besides entries and keys.
#[derive(Debug, Subcommand)]
pub enum SpireAction {
    /// Whether it says that it serves. Exit code 3 if it does not.
    Health,
    /// Its agents.
    Agents,
    /// Take an agent out. It may attest anew.
    Evict {
        /// As in `x0t spire agents`.
        agent: SpiffeId,
    },
    /// Take an agent out for good.
    Ban {
        /// As in `x0t spire agents`.
        agent: SpiffeId,
    },
    /// Make a token by which one agent joins, once.
    Token {
        /// How long it can be used.
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = super::parse::token_ttl)]
        ttl: Duration,
        /// A second identity of the agent, by which entries can name it as their parent before it is there.
        #[arg(long, value_name = "SPIFFE-ID")]
        alias: Option<SpiffeId>,
    },
    /// Whom its trust domain trusts, and the trust domains that it federates with.
    Bundle,
}
