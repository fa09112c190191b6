//! The ways in which an authority says no.

use std::time::Duration;

use x0t_model::{SpiffeId, SpiffeIdError, UnixTime};

use super::keyring::KeyringError;
use super::tokens::TokenId;
use super::{ENTRIES_BYTES_MAX, ENTRIES_MAX, ISSUED_NAMES_MAX, JOIN_TOKENS_MAX};
use crate::csr::CsrError;
use crate::entry::{EntryError, EntryId};
use crate::federation::FederationRefusal;
use crate::issuance::IssueError;
use crate::jwt::MintError;
use crate::revocation::REVOKED_SVIDS_MAX;
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

/// Why an entry is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryRefusal {
    /// It says something that no entry may say.
    #[error(transparent)]
    Invalid(#[from] EntryError),
    /// Another one gives the same identity to the same processes.
    #[error("entry {0} gives this identity to the same processes of the same nodes already")]
    AlreadyExists(EntryId),
    /// [`ENTRIES_MAX`] are kept.
    #[error("{max} entries are kept, which is all there may be: delete some", max = ENTRIES_MAX)]
    TooManyEntries,
    /// [`ENTRIES_BYTES_MAX`] bytes are kept.
    #[error("the entries have {max} MiB together, which is all there may be: delete some, or write shorter ones", max = ENTRIES_BYTES_MAX >> 20)]
    NoRoom,
}

/// Why a command is not applied. It has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefusal {
    /// [`JOIN_TOKENS_MAX`] tokens wait to be used.
    #[error("{max} join tokens are waiting to be used: revoke some or let them expire", max = JOIN_TOKENS_MAX)]
    TooManyTokens,
    /// No such token.
    #[error("there is no join token {0}")]
    UnknownToken(TokenId),
    /// Somebody was faster.
    #[error("the join token was used at {at:?} by `{by}`")]
    TokenSpent {
        /// When.
        at: UnixTime,
        /// Under which name.
        by: String,
    },
    /// A name that can be no node's, or one more than fit.
    #[error("`{}` cannot be given to a node", .0.escape_debug())]
    BadName(String),
    /// No such name, or that of the authority itself.
    #[error("`{0}` is not a name that could be taken back")]
    UnknownName(String),
    /// No such entry.
    #[error("there is no entry {0}")]
    UnknownEntry(EntryId),
    /// An entry's id is given twice.
    #[error("there is an entry {0} already")]
    EntryExists(EntryId),
    /// The entry cannot be kept.
    #[error(transparent)]
    Entry(#[from] EntryRefusal),
    /// The authorities cannot change like this.
    #[error(transparent)]
    Ca(#[from] KeyringError),
    /// The trust in a foreign trust domain cannot change like this.
    #[error(transparent)]
    Federation(#[from] FederationRefusal),
    /// [`REVOKED_SVIDS_MAX`] are on the lists.
    #[error("{max} SVIDs are on the revocation lists, which is all there may be: taint the authority that signed them", max = REVOKED_SVIDS_MAX)]
    TooManyRevocations,
}

impl CommandRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooManyTokens => "too_many_tokens",
            Self::UnknownToken(_) => "unknown_token",
            Self::TokenSpent { .. } => "token_used",
            Self::BadName(_) => "bad_name",
            Self::UnknownName(_) => "unknown_name",
            Self::UnknownEntry(_) => "unknown_entry",
            Self::EntryExists(_) | Self::Entry(EntryRefusal::AlreadyExists(_)) => "already_exists",
            Self::Entry(EntryRefusal::Invalid(_)) => "invalid_entry",
            Self::Entry(EntryRefusal::TooManyEntries | EntryRefusal::NoRoom) => "too_many_entries",
            Self::Ca(KeyringError::Refused(refusal)) => refusal.code(),
            Self::Ca(KeyringError::Issue(_) | KeyringError::Bundle(_)) => "bad_material",
            Self::Federation(refusal) => refusal.code(),
            Self::TooManyRevocations => "too_many_revocations",
        }
    }
}

/// Why a workload's identity is not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueRefusal {
    /// No such entry, or one that has ended.
    #[error("there is no entry {0} in force")]
    UnknownEntry(EntryId),
    /// The entry is for processes of other nodes (a compromised node is worth the identities of its own workloads, no more).
    #[error("entry {entry} is not for processes of {node}")]
    OtherNode {
        /// Which.
        entry: EntryId,
        /// Who asked.
        node: SpiffeId,
    },
    /// The signing request is unusable.
    #[error("the signing request is not acceptable")]
    BadRequest(#[from] CsrError),
    /// The authority cannot issue.
    #[error("the authority cannot issue")]
    Issue(#[from] IssueError),
    /// No token can be minted.
    #[error("no token can be minted")]
    Mint(#[from] MintError),
}

impl IssueRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownEntry(_) => "unknown_entry",
            Self::OtherNode { .. } => "other_node",
            Self::BadRequest(_) => "bad_request",
            Self::Issue(_) | Self::Mint(_) => "cannot_issue",
        }
    }
}
