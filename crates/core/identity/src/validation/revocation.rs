//! Whether a certificate was taken back before its end, and what to do where nobody says (checklist RV-1, RV-2).

use std::fmt;

use super::certificate::Certificate;
use super::crl::{Listed, RevocationList};
use super::error::{Place, ValidationError};
use super::limits::Remaining;
use super::ocsp::{OcspPolicy, OcspResponse, OcspStatus};
use super::report::{CheckKind, Report, Status};
use x0t_model::UnixTime;

/// Why a certificate was revoked (RFC 5280, 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody said.
    Unspecified,
    /// Somebody else has the key.
    KeyCompromise,
    /// Somebody else has the CA's key.
    CaCompromise,
    /// What it says of its holder changed.
    AffiliationChanged,
    /// There is another.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// For a while; revoked all the same.
    CertificateHold,
    /// The hold is over. Only in delta lists.
    RemoveFromCrl,
    /// Its holder may not any more.
    PrivilegeWithdrawn,
    /// Somebody else has the attribute authority's key.
    AaCompromise,
}

impl Reason {
    pub(crate) const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Unspecified,
            1 => Self::KeyCompromise,
            2 => Self::CaCompromise,
            3 => Self::AffiliationChanged,
            4 => Self::Superseded,
            5 => Self::CessationOfOperation,
            6 => Self::CertificateHold,
            8 => Self::RemoveFromCrl,
            9 => Self::PrivilegeWithdrawn,
            10 => Self::AaCompromise,
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        })
    }
}

/// What to do with a certificate of which nobody says whether it was revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownStatus {
    /// Refuse it.
    #[default]
    Deny,
    /// Accept it; the report says so ([`Status::Tolerated`]), for whoever keeps the audit.
    Tolerate,
}

/// Whose revocation is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// The leaf's.
    Leaf,
    /// That of every certificate below the anchor.
    #[default]
    Path,
}

/// Revocation data and how to use it. By default all of the path is looked up and what is unknown is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Revocation<'a> {
    /// Lists of any issuers.
    pub crls: &'a [RevocationList<'a>],
    /// OCSP answers about any certificates, stapled or fetched.
    pub ocsp: &'a [OcspResponse<'a>],
    /// When an answer counts.
    pub ocsp_policy: OcspPolicy<'a>,
    /// Where nobody says.
    pub unknown: UnknownStatus,
    /// Whose.
    pub depth: Depth,
}

impl Revocation<'_> {
    /// Looks up `path`, pairs of a certificate and its issuer, leaf first, and notes each.
    pub(crate) fn check(
        &self,
        path: &[(Place, &Certificate<'_>, &Certificate<'_>)],
        now: UnixTime,
        budget: &mut Remaining,
        report: &mut Report,
    ) -> Result<(), ValidationError> {
        let mut first = Ok(());
        let depth = if self.depth == Depth::Leaf { 1 } else { path.len() };
        for &(place, certificate, issuer) in path.iter().take(depth) {
            let result = self.status(place, certificate, issuer, now, budget);
            match result {
                Err(error) if self.unknown == UnknownStatus::Tolerate && is_unknown(&error) => {
                    report.push(CheckKind::Revocation, Some(place), Status::Tolerated(Box::new(error)));
                }
                result => first = first.and(report.note(CheckKind::Revocation, Some(place), result)),
            }
        }
        first
    }

    fn status(
        &self,
        place: Place,
        certificate: &Certificate<'_>,
        issuer: &Certificate<'_>,
        now: UnixTime,
        budget: &mut Remaining,
    ) -> Result<(), ValidationError> {
        let mut answer = Err(ValidationError::RevocationUnknown(place));
        for response in self.ocsp.iter().filter(|response| response.concerns(certificate, issuer)) {
            // The answer's, and that of a responder's certificate.
            budget.check_signature()?;
            budget.check_signature()?;
            match response.status(certificate, issuer, &self.ocsp_policy, now) {
                Ok(OcspStatus::Revoked { reason, since }) => {
                    return Err(ValidationError::Revoked { place, reason, since });
                }
                Ok(OcspStatus::Good) => answer = Ok(()),
                Err(source) if answer.is_err() => answer = Err(ValidationError::Ocsp { place, source }),
                Err(_) => {}
            }
        }
        if place == Place::Leaf && certificate.extensions().must_staple && answer.is_err() {
            return Err(ValidationError::MustStaple);
        }
        for list in self.crls.iter().filter(|list| list.concerns(certificate, issuer)) {
            budget.check_signature()?;
            let listed = if list.is_signed_by(issuer) {
                list.look_up(certificate, now)
            } else {
                Err(super::crl::CrlFault::Signature)
            };
            match listed {
                Ok(Listed::Revoked { reason, since }) => {
                    return Err(ValidationError::Revoked { place, reason, since });
                }
                Ok(Listed::NotListed) => answer = Ok(()),
                Err(source) if answer.is_err() => answer = Err(ValidationError::Crl { place, source }),
                Err(_) => {}
            }
        }
        answer
    }
}

/// Whether it says that the status is not known, rather than bad.
const fn is_unknown(error: &ValidationError) -> bool {
    use ValidationError as E;
    matches!(error, E::RevocationUnknown(_) | E::Crl { .. } | E::Ocsp { .. })
}
