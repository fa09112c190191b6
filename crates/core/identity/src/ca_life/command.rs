//! What changes an authority's life, as values: each can be written down, replicated and applied again.

use serde::{Deserialize, Serialize};
use x0t_model::UnixTime;

use super::acks::Nodes;
use super::slot::{AuthorityKind, KeyId, Material};

/// One step. Everything random or timed is inside: the same commands in the same order give the same state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum CaCommand {
    /// A new authority enters the bundle and signs nothing yet. Its private key must be durable before this is.
    Prepare {
        /// Its public half.
        material: Material,
        /// When.
        at: UnixTime,
    },
    /// The prepared authority signs from here on; the one before it is old.
    Activate {
        /// Which.
        key_id: KeyId,
        /// Why it is safe.
        evidence: Evidence,
        /// When.
        at: UnixTime,
    },
    /// Whatever it has signed has to be replaced, and its private key destroyed.
    Taint {
        /// Which.
        key_id: KeyId,
        /// When.
        at: UnixTime,
    },
    /// A tainted authority leaves the bundle.
    Revoke {
        /// Which.
        key_id: KeyId,
        /// Why it is safe.
        evidence: Evidence,
        /// When.
        at: UnixTime,
    },
    /// What ended a day ago leaves the bundle.
    Prune {
        /// Which.
        key_id: KeyId,
        /// When.
        at: UnixTime,
    },
}

impl CaCommand {
    /// When it was decided.
    pub const fn at(&self) -> UnixTime {
        match self {
            Self::Prepare { at, .. }
            | Self::Activate { at, .. }
            | Self::Taint { at, .. }
            | Self::Revoke { at, .. }
            | Self::Prune { at, .. } => *at,
        }
    }
}

/// What is known of the nodes when an authority is activated or revoked. Kept in the command, so that whoever reads the journal
/// sees who was left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "evidence", rename_all = "snake_case")]
pub enum Evidence {
    /// Every live node is ready: it has acknowledged the bundle, or replaced its SVID.
    AllReady {
        /// How many live nodes there are.
        nodes: usize,
    },
    /// Every authority before it has ended, and everything it signed: there is nothing to break.
    NothingValid,
    /// The deadline has passed; these nodes are left behind until they are told.
    Deadline {
        /// Who.
        missing: Nodes,
    },
    /// The operator said so; these nodes are left behind.
    Forced {
        /// Who.
        missing: Nodes,
    },
}

/// What a command did to one authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Which.
    pub key_id: KeyId,
    /// The state it is in now, by name.
    pub state: &'static str,
}
