//! What changes the trust in other trust domains, and why a change is refused.

use serde::{Deserialize, Serialize};
use x0t_model::TrustDomain;

use super::foreign::{FOREIGN_DOCUMENT_LEN_MAX, ForeignBundle};
use super::relationship::FederationRelationship;
use super::state::{FOREIGN_BYTES_MAX, FOREIGN_DOMAINS_MAX};

/// One change. Gives the same state wherever and whenever it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "federation", rename_all = "snake_case")]
pub enum FederationCommand {
    /// Keeps a bundle of a foreign trust domain, or a newer one.
    SetBundle {
        /// Which.
        bundle: ForeignBundle,
        /// Also if it is older than the one that is kept, or of the same number with other keys: an operator's word.
        force: bool,
    },
    /// Keeps what a bundle endpoint said, if the relationship is still the one that it was asked for.
    TakeFetched {
        /// Who was asked.
        relationship: FederationRelationship,
        /// What came.
        bundle: ForeignBundle,
    },
    /// Forgets the bundle of a trust domain without a relationship.
    DeleteBundle {
        /// Whose.
        trust_domain: TrustDomain,
    },
    /// Fetches the bundle of a trust domain from now on.
    SetRelationship {
        /// Whose, where, and from whom.
        relationship: FederationRelationship,
        /// The bundle to begin with; ignored if a newer one is kept.
        bootstrap: Option<ForeignBundle>,
        /// In place of an earlier relationship with the same trust domain.
        replace: bool,
    },
    /// Ends the relationship and forgets the bundle with it (checklist FE-8).
    DeleteRelationship {
        /// With whom.
        trust_domain: TrustDomain,
    },
}

impl FederationCommand {
    /// The trust domain that it is about.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::SetBundle { bundle, .. } | Self::TakeFetched { bundle, .. } => bundle.trust_domain(),
            Self::DeleteBundle { trust_domain } | Self::DeleteRelationship { trust_domain } => trust_domain,
            Self::SetRelationship { relationship, .. } => &relationship.trust_domain,
        }
    }
}

/// Why a change is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederationRefusal {
    /// The own trust domain is no foreign one.
    #[error("{0} is this mesh's own trust domain, whose bundle its authority makes")]
    OwnTrustDomain(TrustDomain),
    /// More than [`FOREIGN_DOMAINS_MAX`].
    #[error("bundles of {max} foreign trust domains are kept, which is all there may be: delete some", max = FOREIGN_DOMAINS_MAX)]
    TooManyTrustDomains,
    /// More than [`FOREIGN_DOCUMENT_LEN_MAX`].
    #[error("the bundle has {0} bytes, at most {max} are allowed", max = FOREIGN_DOCUMENT_LEN_MAX)]
    BundleTooLarge(usize),
    /// More than [`FOREIGN_BYTES_MAX`].
    #[error("all foreign bundles together would have {0} bytes, at most {max} are allowed: delete some", max = FOREIGN_BYTES_MAX)]
    BundlesTooLarge(usize),
    /// A lower sequence number (checklist FE-6).
    #[error(
        "the bundle of {trust_domain} with number {offered} is older than the one in force, number {held}: somebody serves an \
         old state; if its operators say that they went back, set it with --force"
    )]
    RolledBack {
        /// Whose.
        trust_domain: TrustDomain,
        /// The number in force.
        held: u64,
        /// The number that was offered.
        offered: u64,
    },
    /// The same sequence number with other keys.
    #[error(
        "two different bundles of {trust_domain} carry number {sequence}: one of them is forged, or two servers number on their \
         own; compare both with its operators, then set the right one with --force"
    )]
    Forked {
        /// Whose.
        trust_domain: TrustDomain,
        /// The number.
        sequence: u64,
    },
    /// The bootstrap bundle is of somebody else.
    #[error("the bootstrap bundle is of {found}, the relationship is with {wanted}")]
    OtherTrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        wanted: TrustDomain,
    },
    /// There is no such bundle.
    #[error("there is no bundle of {0}")]
    UnknownBundle(TrustDomain),
    /// It would be fetched again.
    #[error(
        "the bundle of {0} is fetched by a relationship: end that with `x0t federation delete {0}`, which forgets the bundle too"
    )]
    KeptByRelationship(TrustDomain),
    /// There is no such relationship.
    #[error("there is no federation relationship with {0}")]
    UnknownRelationship(TrustDomain),
    /// There is one.
    #[error("there is a federation relationship with {0} already: change it with --replace")]
    RelationshipExists(TrustDomain),
}

impl FederationRefusal {
    /// A stable word for the wire, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OwnTrustDomain(_) => "own_trust_domain",
            Self::TooManyTrustDomains => "too_many_trust_domains",
            Self::BundleTooLarge(_) | Self::BundlesTooLarge(_) => "bundle_too_large",
            Self::RolledBack { .. } => "bundle_rolled_back",
            Self::Forked { .. } => "bundle_forked",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::UnknownBundle(_) => "unknown_bundle",
            Self::KeptByRelationship(_) => "kept_by_relationship",
            Self::UnknownRelationship(_) => "unknown_relationship",
            Self::RelationshipExists(_) => "already_exists",
        }
    }

    /// Whether somebody should look at it at once.
    pub const fn is_alarm(&self) -> bool {
        matches!(self, Self::RolledBack { .. } | Self::Forked { .. })
    }
}
