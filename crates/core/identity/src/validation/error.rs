//! Why a chain is refused, in words that do not change (research: the taxonomy of the validator).

use std::fmt;
use std::time::Duration;

use x0t_model::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

use super::algorithm::KeyWeakness;
use super::crl::CrlFault;
use super::der::DerError;
use super::extensions::Purpose;
use super::ocsp::OcspFault;
use super::revocation::Reason;

/// Where in the path a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The first of the chain that was shown.
    Leaf,
    /// Another of that chain, by its position there: 1 comes right behind the leaf.
    Intermediate(usize),
    /// A trust anchor, by its position among the anchors.
    Anchor(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf"),
            Self::Intermediate(at) => write!(f, "intermediate {at}"),
            Self::Anchor(at) => write!(f, "anchor {at}"),
        }
    }
}

/// A budget that keeps strangers from buying our time (RFC 5280 bounds nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Certificates that are shown.
    Certificates,
    /// Bytes of one certificate.
    CertificateBytes,
    /// Bytes of all of them.
    ChainBytes,
    /// Signatures that are checked.
    Signatures,
    /// Certificates that are tried as issuers.
    Steps,
    /// Names held against name constraints.
    NameComparisons,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificates => "certificates",
            Self::CertificateBytes => "bytes of a certificate",
            Self::ChainBytes => "bytes of the chain",
            Self::Signatures => "signature checks",
            Self::Steps => "steps of the path search",
            Self::NameComparisons => "comparisons with name constraints",
        })
    }
}

/// How two clocks disagree: what the clock here says lies outside a validity, what the peer's clock says lies inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// What the peer's clock says.
    pub peer_time: UnixTime,
    /// How far apart the clocks are.
    pub apart: Duration,
}

/// Why a chain is refused. [`code`](Self::code) never changes its meaning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidationError {
    /// No certificate at all.
    #[error("no certificate was shown")]
    NoCertificate,
    /// Not DER, not a certificate of version 3, or with an extension that is malformed or there twice.
    #[error("the {place} is malformed")]
    Malformed {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        source: DerError,
    },
    /// More work than an honest chain makes.
    #[error("the chain needs more {budget} than the {limit} that are allowed")]
    OverBudget {
        /// Of what.
        budget: Budget,
        /// How many are allowed.
        limit: usize,
    },
    /// A serial number that is zero, negative or longer than 20 bytes (RFC 5280, 4.1.2.2).
    #[error("the serial number of the {0} is not a positive number of at most 20 bytes")]
    Serial(Place),
    /// A name that is empty, malformed, or not where it belongs.
    #[error("{fault} in the {place}")]
    Name {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// No URI SAN, or several (checklist X5-1).
    #[error("the leaf carries {0} URI names, exactly one is required")]
    NotOneUri(usize),
    /// The URI SAN is no SPIFFE ID, or one without a path (X5-3).
    #[error("the URI name is not the SPIFFE ID of a node or workload")]
    BadSpiffeId(#[source] SpiffeIdError),
    /// A signing certificate that names another trust domain, or somebody in this one (X5-7).
    #[error("the {place} should sign for {wanted} and names {found:?}")]
    ForeignAuthority {
        /// Which certificate.
        place: Place,
        /// The URI it carries.
        found: Box<str>,
        /// For whom it should sign.
        wanted: TrustDomain,
    },
    /// A well-formed chain of somebody else.
    #[error("the peer is {found}, {wanted} was expected")]
    WrongPeer {
        /// Who it is.
        found: SpiffeId,
        /// Who it should be.
        wanted: SpiffeId,
    },
    /// Its time is over.
    #[error(
        "the {place} expired {ago:?} ago (valid until {not_after:?}, the clock here says {now:?}){}",
        advice(.skew, "renew it; if it should be valid, compare the clocks of both hosts")
    )]
    Expired {
        /// Which certificate.
        place: Place,
        /// How long ago.
        ago: Duration,
        /// The last second of its validity.
        not_after: UnixTime,
        /// What the clock here says.
        now: UnixTime,
        /// What the peer's clock adds to it.
        skew: Option<Skew>,
    },
    /// Its time has yet to come.
    #[error(
        "the {place} becomes valid in {starts_in:?} (valid from {not_before:?}, the clock here says {now:?}){}",
        advice(.skew, "the clock here is slow or its issuer's is fast: compare them")
    )]
    NotYetValid {
        /// Which certificate.
        place: Place,
        /// How long until then.
        starts_in: Duration,
        /// The first second of its validity.
        not_before: UnixTime,
        /// What the clock here says.
        now: UnixTime,
        /// What the peer's clock adds to it.
        skew: Option<Skew>,
    },
    /// It ends before it begins.
    #[error("the {0} ends before it begins")]
    ValidityReversed(Place),
    /// No anchors for the trust domain that the leaf names, or none at all (X5-8, X5-17).
    #[error("nobody is trusted for {0}; a bundle for it has to be there first")]
    NoAnchor(Box<str>),
    /// Nobody with the name and key identifier of its issuer was shown or is trusted.
    #[error("the issuer of the {place}, {issuer}, is neither trusted nor among the certificates that were shown")]
    UnknownIssuer {
        /// Whose issuer.
        place: Place,
        /// The issuer's name.
        issuer: Box<str>,
    },
    /// The signature does not fit.
    #[error("the signature of the {place} is not that of the {issuer}")]
    BadSignature {
        /// What is signed.
        place: Place,
        /// Who should have signed it.
        issuer: Place,
    },
    /// More intermediates than a CA, or the caller, allows (RFC 5280, 4.2.1.9).
    #[error("more intermediates follow the {0} than are allowed")]
    PathLength(Place),
    /// cA or the path length is not as it has to be.
    #[error("{fault} in the {place}")]
    BasicConstraints {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// A signing certificate that authenticates a peer (X5-4, X5-7).
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// The key of a leaf may sign certificates or lists (X5-4).
    #[error("the leaf's key may sign certificates or revocation lists")]
    LeafMaySign,
    /// A leaf has an extension that only a CA may have.
    #[error("the leaf has {0}, which only a CA certificate may have")]
    CaExtensionInLeaf(&'static str),
    /// keyUsage is absent or not as it has to be.
    #[error("{fault} in the {place}")]
    KeyUsage {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// extendedKeyUsage does not allow what the key is used for.
    #[error("the extendedKeyUsage of the {place} does not allow {purpose:?}")]
    ExtendedKeyUsage {
        /// Which certificate.
        place: Place,
        /// What for.
        purpose: Purpose,
    },
    /// extendedKeyUsage says what it must not.
    #[error("{fault} in the {place}")]
    ExtendedKeyUsageForm {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// Key identifiers are absent, wrong or critical.
    #[error("{fault} in the {place}")]
    KeyIdentifier {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// A name outside of what a CA above may sign for (RFC 5280, 4.2.1.10).
    #[error("a {kind} name of the {place} lies outside the name constraints of the {constrained_by}")]
    NameConstraint {
        /// Whose name.
        place: Place,
        /// Which kind of name.
        kind: &'static str,
        /// Whose constraints.
        constrained_by: Place,
    },
    /// A critical extension that is not understood here.
    #[error("the {place} has a critical extension that is not understood here ({oid})")]
    UnknownCritical {
        /// Which certificate.
        place: Place,
        /// Its object identifier.
        oid: Box<str>,
    },
    /// An extension that is critical and must not be, or the other way round.
    #[error("{fault} in the {place}")]
    Criticality {
        /// Which certificate.
        place: Place,
        /// What is wrong.
        fault: &'static str,
    },
    /// Signed in a way that is not accepted.
    #[error("the {0} is signed with an algorithm that is not accepted")]
    Algorithm(Place),
    /// A kind or size of key that is not accepted.
    #[error("the key of the {place} is not accepted: {weakness}")]
    Key {
        /// Which certificate.
        place: Place,
        /// What is wrong with it.
        weakness: KeyWeakness,
    },
    /// None of its names is the one that was asked for.
    #[error("the certificate is not for {0}")]
    ServerName(Box<str>),
    /// Only a wildcard fits, and whether it spans what people register names under cannot be told or is certain.
    #[error("{wanted} is only named by {wildcard}, {because}")]
    Wildcard {
        /// The name that was asked for.
        wanted: Box<str>,
        /// The wildcard.
        wildcard: Box<str>,
        /// Why that is not enough.
        because: &'static str,
    },
    /// A common name that is not among the alternative names (CA/Browser Forum, 7.1.4.3).
    #[error("the common name of the leaf is none of its alternative names")]
    CommonName,
    /// Its issuer took it back.
    #[error("the {place} was revoked at {since:?} ({reason}); it has to be replaced")]
    Revoked {
        /// Which certificate.
        place: Place,
        /// Why.
        reason: Reason,
        /// Since when.
        since: UnixTime,
    },
    /// Nobody could say whether it was taken back.
    #[error(
        "nothing that is valid says whether the {0} was revoked; give a current revocation list or OCSP answer of its issuer"
    )]
    RevocationUnknown(Place),
    /// There is a revocation list of its issuer, and it cannot be used.
    #[error("the revocation list for the {place} cannot be used")]
    Crl {
        /// Whose revocation was in question.
        place: Place,
        /// What is wrong with the list.
        source: CrlFault,
    },
    /// There is an OCSP answer for it, and it cannot be used.
    #[error("the OCSP answer for the {place} cannot be used")]
    Ocsp {
        /// Whose revocation was in question.
        place: Place,
        /// What is wrong with the answer.
        source: OcspFault,
    },
    /// The leaf asks for a stapled OCSP answer (RFC 7633), and none came that says it is good.
    #[error("the leaf must come with an OCSP answer, and none came that says it is good")]
    MustStaple,
    /// No key of the path is pinned.
    #[error("no key of the validated path is among the pinned ones; if keys were replaced, pin the new one first")]
    PinMismatch,
    /// Every pinned key is in the path, so there is none to fall back on (checklist RV-5).
    #[error("every pinned key is in the path: pin a backup key that is kept elsewhere")]
    PinWithoutBackup,
}

impl ValidationError {
    /// A stable word for counters, logs, scripts and tests: group and reason.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "parse_no_certificate",
            Self::Malformed { .. } => "parse_malformed",
            Self::OverBudget { budget: Budget::CertificateBytes | Budget::ChainBytes, .. } => "parse_oversize",
            Self::OverBudget { .. } => "chain_budget_exceeded",
            Self::Serial(_) => "constraint_serial",
            Self::Name { .. } => "constraint_name_form",
            Self::NotOneUri(0) => "id_none",
            Self::NotOneUri(_) => "id_multiple_uri",
            Self::BadSpiffeId(_) => "id_not_spiffe",
            Self::ForeignAuthority { .. } => "svid_foreign_authority",
            Self::WrongPeer { .. } => "svid_id_mismatch",
            Self::Expired { skew: Some(_), .. } | Self::NotYetValid { skew: Some(_), .. } => "time_skew_suspected",
            Self::Expired { place: Place::Anchor(_), .. } => "time_anchor_expired",
            Self::Expired { .. } => "time_expired",
            Self::NotYetValid { .. } => "time_not_yet",
            Self::ValidityReversed(_) => "time_reversed",
            Self::NoAnchor(_) => "chain_no_anchor",
            Self::UnknownIssuer { .. } => "chain_unknown_issuer",
            Self::BadSignature { .. } => "chain_bad_signature",
            Self::PathLength(_) => "chain_path_len",
            Self::BasicConstraints { .. } => "constraint_basic_constraints",
            Self::LeafIsCa => "svid_leaf_is_ca",
            Self::LeafMaySign => "svid_signing_usage",
            Self::CaExtensionInLeaf(_) => "constraint_ca_extension_in_leaf",
            Self::KeyUsage { .. } => "constraint_key_usage",
            Self::ExtendedKeyUsage { .. } | Self::ExtendedKeyUsageForm { .. } => "constraint_eku",
            Self::KeyIdentifier { .. } => "constraint_key_identifier",
            Self::NameConstraint { .. } => "constraint_name",
            Self::UnknownCritical { .. } => "constraint_unknown_critical",
            Self::Criticality { .. } => "constraint_criticality",
            Self::Algorithm(_) => "constraint_algorithm",
            Self::Key { weakness: KeyWeakness::Kind, .. } => "constraint_key_kind",
            Self::Key { .. } => "constraint_key_size",
            Self::ServerName(_) => "name_mismatch",
            Self::Wildcard { .. } => "name_wildcard",
            Self::CommonName => "name_common_name",
            Self::Revoked { .. } => "revoked",
            Self::RevocationUnknown(_) => "revocation_unknown",
            Self::Crl { source, .. } => source.code(),
            Self::Ocsp { source, .. } => source.code(),
            Self::MustStaple => "ocsp_must_staple",
            Self::PinMismatch => "pin_mismatch",
            Self::PinWithoutBackup => "pin_no_backup",
        }
    }

    /// Whether the same chain may be accepted later without anybody replacing it: clocks move, bundles and revocation data arrive.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotYetValid { .. }
                | Self::Expired { skew: Some(_), .. }
                | Self::NoAnchor(_)
                | Self::UnknownIssuer { .. }
                | Self::RevocationUnknown(_)
                | Self::Crl { .. }
                | Self::Ocsp { .. }
        )
    }

    /// The TLS alert that tells the peer (RFC 8446, 6.2).
    pub const fn alert(&self) -> u8 {
        match self {
            Self::NoCertificate => 116,
            Self::Expired { .. } | Self::NotYetValid { .. } => 45,
            Self::Revoked { .. } => 44,
            Self::NoAnchor(_) | Self::UnknownIssuer { .. } => 48,
            Self::Ocsp { .. } | Self::MustStaple => 113,
            Self::UnknownCritical { .. }
            | Self::Algorithm(_)
            | Self::Key { .. }
            | Self::KeyUsage { .. }
            | Self::ExtendedKeyUsage { .. } => 43,
            Self::RevocationUnknown(_) | Self::Crl { .. } | Self::PinMismatch | Self::PinWithoutBackup => 46,
            _ => 42,
        }
    }
}

fn advice(skew: &Option<Skew>, otherwise: &str) -> String {
    match skew {
        Some(Skew { peer_time, apart }) => {
            format!(
                ": the peer's clock says {peer_time:?}, {apart:?} apart, and by that clock it is valid: compare the clocks of both hosts"
            )
        }
        None => format!("; {otherwise}"),
    }
}
