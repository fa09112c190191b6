//! The ways in which an authority says no.

use std::time::Duration;

use x0t_model::{SpiffeId, SpiffeIdError, UnixTime};

use super::{ISSUED_NAMES_MAX, JOIN_TOKENS_MAX};
use crate::csr::CsrError;
use crate::issuance::IssueError;
use crate::token::TOKEN_ADDRESSES_MAX;

/// Why a token is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// [`JOIN_TOKENS_MAX`] tokens wait to be used.
    #[error("{max} join tokens are waiting to be used: revoke some or let them expire", max = JOIN_TOKENS_MAX)]
    TooManyTokens,
    /// The name can be no node's.
    #[error("`{name}` cannot be the name of a node")]
    BadName {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: Option<SpiffeIdError>,
    },
    /// The authority's own name is not given away.
    #[error("`{0}` is the name of the authority itself")]
    NameIsAuthority(String),
    /// A joiner needs somewhere to knock.
    #[error("the token needs at least one and at most {max} addresses, {0} were given", max = TOKEN_ADDRESSES_MAX)]
    AddressCount(usize),
}

/// Why a join is refused. The token stays unused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// No such token: never made, revoked, or forgotten long after its end.
    #[error("the join token is not known here: it was revoked, or it is of another mesh")]
    Unknown,
    /// Somebody has joined with it.
    #[error("the join token was used at {at:?} by `{by}`; each token admits one node, ask for another")]
    Used {
        /// When.
        at: UnixTime,
        /// The name it was used for.
        by: String,
    },
    /// Its time is over.
    #[error("the join token expired {ago:?} ago; ask for another")]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// The token is for one name, the request asks for another.
    #[error("the join token is for `{wanted}`, not for `{requested}`")]
    NameMismatch {
        /// The name the token was made for.
        wanted: String,
        /// The name in the request.
        requested: String,
    },
    /// Somebody else has it.
    #[error("the name `{0}` is taken; to let its node join again, make a token for this name")]
    NameTaken(String),
    /// Neither the token nor the request has a name.
    #[error("the join token leaves the name open, and the request has none")]
    NameMissing,
    /// The name can be no node's.
    #[error("`{name}` cannot be the name of a node")]
    BadName {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: Option<SpiffeIdError>,
    },
    /// [`ISSUED_NAMES_MAX`] names are given away.
    #[error("{max} names are given away, which is all there are: forget some", max = ISSUED_NAMES_MAX)]
    TooManyNames,
    /// The signing request is unusable.
    #[error("the signing request is not acceptable")]
    BadRequest(#[from] CsrError),
    /// The authority cannot issue.
    #[error("the authority cannot issue")]
    Issue(#[from] IssueError),
}

impl JoinRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Used { .. } => "token_used",
            Self::Expired { .. } => "token_expired",
            Self::NameMismatch { .. } => "name_mismatch",
            Self::NameTaken(_) => "name_taken",
            Self::NameMissing => "name_missing",
            Self::BadName { .. } => "bad_name",
            Self::TooManyNames => "too_many_names",
            Self::BadRequest(_) => "bad_request",
            Self::Issue(_) => "cannot_issue",
        }
    }
}

/// Why a renewal is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewRefusal {
    /// The peer's name was never given away here, or was forgotten.
    #[error("{0} has no place in this trust domain: it was removed, or it never joined here")]
    UnknownNode(SpiffeId),
    /// The signing request is unusable.
    #[error("the signing request is not acceptable")]
    BadRequest(#[from] CsrError),
    /// The authority cannot issue.
    #[error("the authority cannot issue")]
    Issue(#[from] IssueError),
}

impl RenewRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownNode(_) => "unknown_node",
            Self::BadRequest(_) => "bad_request",
            Self::Issue(_) => "cannot_issue",
        }
    }

    /// Whether asking again in the same way is pointless until somebody intervenes.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::UnknownNode(_))
    }
}
