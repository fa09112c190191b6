//! What is asked about SPIRE: where a node gets its identity from, and how several regions stand in for each other.

use clap::{Args, ValueEnum};

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
