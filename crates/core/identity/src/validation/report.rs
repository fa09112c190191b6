//! What was checked, and how it went: every check, not only the first that failed (checklist RV-6).

use super::error::{Place, ValidationError};

/// One thing that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// Sizes and counts stay within the budget.
    Budget,
    /// DER, version 3, known extensions well-formed and there once.
    Encoding,
    /// A positive number of at most 20 bytes.
    Serial,
    /// Subject, issuer and alternative names.
    Names,
    /// Valid now.
    Validity,
    /// Signed with an accepted algorithm.
    Algorithm,
    /// An accepted key.
    Key,
    /// A CA, or not, as its place asks for.
    BasicConstraints,
    /// What the key may do.
    KeyUsage,
    /// What for.
    ExtendedKeyUsage,
    /// The names of its own key and of its issuer's.
    KeyIdentifiers,
    /// No critical extension that is not understood.
    CriticalExtensions,
    /// One SPIFFE ID; in a signing certificate none or that of the trust domain.
    SpiffeId,
    /// There are anchors for the trust domain that the leaf names.
    TrustDomain,
    /// Not too many intermediates below it.
    PathLength,
    /// All names below it are ones it may sign for.
    NameConstraints,
    /// Signed by the next certificate of the path.
    Signature,
    /// A path leads from the leaf to an anchor.
    Path,
    /// The name that was asked for.
    PeerName,
    /// Not taken back by its issuer.
    Revocation,
    /// A pinned key is in the path.
    Pin,
}

impl CheckKind {
    /// Its name in JSON; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Encoding => "encoding",
            Self::Serial => "serial",
            Self::Names => "names",
            Self::Validity => "validity",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::BasicConstraints => "basic_constraints",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::KeyIdentifiers => "key_identifiers",
            Self::CriticalExtensions => "critical_extensions",
            Self::SpiffeId => "spiffe_id",
            Self::TrustDomain => "trust_domain",
            Self::PathLength => "path_length",
            Self::NameConstraints => "name_constraints",
            Self::Signature => "signature",
            Self::Path => "path",
            Self::PeerName => "peer_name",
            Self::Revocation => "revocation",
            Self::Pin => "pin",
        }
    }
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it has to be.
    Passed,
    /// Not so, and the chain is refused.
    Failed(Box<ValidationError>),
    /// Not so, and the caller wants it accepted all the same: to be audited.
    Tolerated(Box<ValidationError>),
    /// Nobody asked for it.
    NotAsked,
    /// Not looked at, because something before it failed.
    NotReached,
}

/// One check, of one certificate or of the chain as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub kind: CheckKind,
    /// Of which certificate; `None` for the chain.
    pub place: Option<Place>,
    /// How it went.
    pub status: Status,
}

/// Every check of one validation, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &ValidationError> {
        self.checks.iter().filter_map(|check| match &check.status {
            Status::Failed(error) => Some(&**error),
            _ => None,
        })
    }

    /// Those that failed and were let pass.
    pub fn tolerated(&self) -> impl Iterator<Item = &ValidationError> {
        self.checks.iter().filter_map(|check| match &check.status {
            Status::Tolerated(error) => Some(&**error),
            _ => None,
        })
    }

    pub(crate) fn push(&mut self, kind: CheckKind, place: Option<Place>, status: Status) {
        self.checks.push(Check { kind, place, status });
    }

    /// Notes how a check went and hands its error on.
    pub(crate) fn note(
        &mut self,
        kind: CheckKind,
        place: Option<Place>,
        result: Result<(), ValidationError>,
    ) -> Result<(), ValidationError> {
        let status = match &result {
            Ok(()) => Status::Passed,
            Err(error) => Status::Failed(Box::new(error.clone())),
        };
        self.push(kind, place, status);
        result
    }
}
