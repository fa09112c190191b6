//! The ways in which a step of an authority's life is refused. Each says what to do next.

use std::time::Duration;

use x0t_model::UnixTime;

use super::acks::Nodes;
use super::slot::{AuthorityKind, KeyId, MaterialError};
use super::{SLOTS_IN_BUNDLE_MAX, TAIL};

/// Why a step is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaRefusal {
    /// One successor at a time.
    #[error(
        "{key_id} is already prepared: activate it, or taint and revoke it, before another {kind} authority is prepared"
    )]
    AlreadyPrepared {
        /// What it signs.
        kind: AuthorityKind,
        /// Which.
        key_id: KeyId,
    },
    /// A key is an authority once.
    #[error("the key {0} has been an authority before: prepare with a new key")]
    KeyIdInUse(KeyId),
    /// The bundle is full.
    #[error("the bundle holds {max} {0} authorities, which is all it can: revoke tainted ones, or wait until old ones are pruned", max = SLOTS_IN_BUNDLE_MAX)]
    BundleFull(AuthorityKind),
    /// Not an authority for this trust domain.
    #[error("the new authority is not usable here: make or import another")]
    Material(#[from] MaterialError),
    /// Over before it begins.
    #[error("the authority {key_id} ended at {not_after:?} and it is {at:?}: prepare another")]
    Expired {
        /// Which.
        key_id: KeyId,
        /// Its last second.
        not_after: UnixTime,
        /// The time of the step.
        at: UnixTime,
    },
    /// Nothing of that name.
    #[error("there is no authority {0}: see `x0t authority status`")]
    Unknown(KeyId),
    /// Nothing to activate.
    #[error("no {0} authority is prepared: prepare one first")]
    NothingPrepared(AuthorityKind),
    /// Only what is prepared can be activated.
    #[error("{key_id} is {state}, and only a prepared authority can be activated: prepare another")]
    NotPrepared {
        /// Which.
        key_id: KeyId,
        /// What it is.
        state: &'static str,
    },
    /// Tainted is for good.
    #[error("{0} is tainted and never signs again: prepare another")]
    Tainted(KeyId),
    /// The one that signs has to be replaced first.
    #[error("{0} signs at present: prepare and activate another first")]
    StillActive(KeyId),
    /// Revoking what is not tainted would break whoever holds an SVID of it.
    #[error(
        "{key_id} is {state}, and only a tainted authority can be revoked: taint it first, and every SVID of it is replaced"
    )]
    NotTainted {
        /// Which.
        key_id: KeyId,
        /// What it is.
        state: &'static str,
    },
    /// It is tainted already.
    #[error("{0} is already tainted: revoke it when every SVID of it has been replaced")]
    AlreadyTainted(KeyId),
    /// It is out of the bundle.
    #[error("{key_id} is {state}: it is out of the bundle, and there is nothing left to do")]
    Gone {
        /// Which.
        key_id: KeyId,
        /// What it is.
        state: &'static str,
    },
    /// Live nodes do not have the bundle yet.
    #[error(
        "{missing} have not acknowledged bundle {sequence} yet: wait for them, or at most until {deadline:?}, or force it"
    )]
    Unacknowledged {
        /// Which bundle.
        sequence: u64,
        /// Who.
        missing: Nodes,
        /// When it goes on without them.
        deadline: UnixTime,
    },
    /// Nodes still show SVIDs of a tainted authority.
    #[error("{holders} have not replaced their SVIDs of {key_id} yet: wait for them, or force it and cut them off")]
    StillHeld {
        /// Which authority.
        key_id: KeyId,
        /// Who.
        holders: Nodes,
    },
    /// Too early to be taken out by age.
    #[error("{key_id} stays in the bundle until {until:?}: what it has signed may be valid until then, and {tail:?} are added", tail = TAIL)]
    StillNeeded {
        /// Which.
        key_id: KeyId,
        /// From when on not.
        until: UnixTime,
    },
    /// An SVID must not outlive the hand-over to the next authority.
    #[error("SVIDs live {svid_ttl:?} and the authority {life:?}, which has to be at least six times as much")]
    LifeTooShort {
        /// How long an SVID lives.
        svid_ttl: Duration,
        /// How long the authority lives.
        life: Duration,
    },
}

impl CaRefusal {
    /// A stable word for the API, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlreadyPrepared { .. } => "already_prepared",
            Self::KeyIdInUse(_) => "key_id_in_use",
            Self::BundleFull(_) => "bundle_full",
            Self::Material(_) => "bad_material",
            Self::Expired { .. } => "expired",
            Self::Unknown(_) => "unknown",
            Self::NothingPrepared(_) => "nothing_prepared",
            Self::NotPrepared { .. } => "not_prepared",
            Self::Tainted(_) => "tainted",
            Self::StillActive(_) => "still_active",
            Self::NotTainted { .. } => "not_tainted",
            Self::AlreadyTainted(_) => "already_tainted",
            Self::Gone { .. } => "gone",
            Self::Unacknowledged { .. } => "unacknowledged",
            Self::StillHeld { .. } => "still_held",
            Self::StillNeeded { .. } => "still_needed",
            Self::LifeTooShort { .. } => "life_too_short",
        }
    }
}
