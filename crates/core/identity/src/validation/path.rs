//! A path from the leaf to an anchor (RFC 5280, 6; RFC 4158), within a budget.
//!
//! Issuers are found by name and key identifier. A candidate is held against all rules that cost little before anything is verified,
//! and signatures are verified from the anchor downwards: who cannot show something that a trusted key has signed makes us check one
//! signature for each anchor of that name and no more.

use x0t_model::TrustDomain;

use super::Anchors;
use super::certificate::Certificate;
use super::checks::{Rules, signs_for};
use super::error::{Place, ValidationError};
use super::limits::Remaining;
use super::name_constraints::NameRefusal;
use super::report::{CheckKind, Report};

/// The certificates a path is made of.
#[derive(Clone, Copy)]
pub(crate) struct Certificates<'s, 'a> {
    pub(crate) leaf: &'s Certificate<'a>,
    /// As they were shown; `None` for one that cannot be read.
    pub(crate) intermediates: &'s [Option<Certificate<'a>>],
    pub(crate) anchors: &'s Anchors<'a>,
}

impl<'s, 'a> Certificates<'s, 'a> {
    pub(crate) fn get(&self, place: Place) -> Option<&'s Certificate<'a>> {
        match place {
            Place::Leaf => Some(self.leaf),
            Place::Intermediate(at) => self.intermediates.get(at.checked_sub(1)?)?.as_ref(),
            Place::Anchor(at) => self.anchors.get(at),
        }
    }
}

/// What a search works on.
pub(crate) struct Search<'s, 'a> {
    pub(crate) rules: Rules<'s>,
    pub(crate) certificates: Certificates<'s, 'a>,
    pub(crate) trust_domain: Option<&'s TrustDomain>,
    pub(crate) budget: &'s mut Remaining,
    /// Signatures that were checked: what, under whose key, and whether it fits.
    pub(crate) verified: Vec<(Place, Place, bool)>,
    /// The way that came furthest.
    pub(crate) furthest: Option<DeadEnd>,
}

/// A way that led nowhere.
pub(crate) struct DeadEnd {
    /// Certificates passed; a rule that was broken counts for more than an issuer that is missing.
    rank: usize,
    pub(crate) error: ValidationError,
    pub(crate) report: Report,
}

/// Why a way ends.
enum Stop {
    /// Another may lead on.
    DeadEnd,
    /// None is tried any more.
    OverBudget(ValidationError),
}

impl Search<'_, '_> {
    /// The places of a path, leaf first and anchor last, and what was checked on it.
    pub(crate) fn run(&mut self) -> Result<(Vec<Place>, Report), DeadEnd> {
        let (mut path, mut report) = (vec![Place::Leaf], Report::default());
        match self.extend(&mut path, &mut report) {
            Ok(()) => Ok((path, report)),
            Err(Stop::OverBudget(error)) => Err(DeadEnd { rank: 0, error, report: Report::default() }),
            Err(Stop::DeadEnd) => {
                let unknown = self.unknown_issuer(Place::Leaf);
                let nowhere = DeadEnd { rank: 0, error: unknown, report: Report::default() };
                Err(self.furthest.take().unwrap_or(nowhere))
            }
        }
    }

    fn extend(&mut self, path: &mut Vec<Place>, report: &mut Report) -> Result<(), Stop> {
        let head = path[path.len() - 1];
        let mut found_issuer = false;
        for place in self.candidates(path) {
            found_issuer = true;
            self.budget.step().map_err(Stop::OverBudget)?;
            let before = report.checks.len();
            match self.try_issuer(place, path, report) {
                Ok(()) => return Ok(()),
                Err(Stop::DeadEnd) => report.checks.truncate(before),
                Err(stop) => return Err(stop),
            }
        }
        if !found_issuer {
            self.note_dead_end(2 * path.len(), self.unknown_issuer(head), report);
        }
        Err(Stop::DeadEnd)
    }

    /// Who can have signed the last of `path`, anchors first.
    fn candidates(&self, path: &[Place]) -> Vec<Place> {
        let Some(head) = self.certificates.get(path[path.len() - 1]) else { return Vec::new() };
        let anchors = (0..self.certificates.anchors.len()).map(Place::Anchor);
        let intermediates = (1..=self.certificates.intermediates.len()).map(Place::Intermediate);
        let is_issuer = |place: &Place| {
            self.certificates.get(*place).is_some_and(|issuer| {
                let is_new =
                    |other: &Place| self.certificates.get(*other).is_some_and(|other| !is_same_ca(other, issuer));
                head.can_be_issued_by(issuer) && (matches!(place, Place::Anchor(_)) || path.iter().all(is_new))
            })
        };
        anchors.chain(intermediates).filter(is_issuer).collect()
    }

    fn try_issuer(&mut self, place: Place, path: &mut Vec<Place>, report: &mut Report) -> Result<(), Stop> {
        let rank = 2 * path.len() + 1;
        if let Err(error) = self.check_issuer(place, path, report) {
            if matches!(error, ValidationError::OverBudget { .. }) {
                return Err(Stop::OverBudget(error));
            }
            self.note_dead_end(rank, error, report);
            return Err(Stop::DeadEnd);
        }
        path.push(place);
        let result = match place {
            Place::Anchor(_) => self.verify_signatures(path, report),
            Place::Leaf | Place::Intermediate(_) => self.extend(path, report),
        };
        if result.is_err() {
            path.pop();
        }
        result
    }

    /// Everything about the candidate at `place` above `path` but signatures.
    fn check_issuer(&mut self, place: Place, path: &[Place], report: &mut Report) -> Result<(), ValidationError> {
        // A copy, so that the budget may be spent while its certificates are looked at.
        let certificates = self.certificates;
        let Some(issuer) = certificates.get(place) else { return Err(self.unknown_issuer(place)) };
        self.rules.check_issuer(issuer, place, report)?;
        if let Some(trust_domain) = self.trust_domain {
            report.note(CheckKind::SpiffeId, Some(place), signs_for(issuer, place, trust_domain))?;
        }
        report.note(CheckKind::PathLength, Some(place), self.path_length(issuer, place, path))?;
        let Some(constraints) = issuer.extensions().name_constraints.map(|constraints| constraints.value) else {
            return Ok(());
        };
        let mut result = Ok(());
        for &below in path {
            let Some(certificate) = certificates.get(below) else { continue };
            // A CA that rolls its key over does not constrain itself; the last certificate never escapes.
            if below != Place::Leaf && certificate.is_self_issued() {
                continue;
            }
            result = match constraints.check(certificate, self.budget) {
                Ok(()) => continue,
                Err(NameRefusal::OverBudget(error)) => Err(error),
                Err(NameRefusal::Outside(kind)) => {
                    Err(ValidationError::NameConstraint { place: below, kind, constrained_by: place })
                }
            };
            break;
        }
        report.note(CheckKind::NameConstraints, Some(place), result)
    }

    /// Intermediates that are not self-issued count against the limit of each CA above them (RFC 5280, 6.1.4 (l)).
    fn path_length(&self, issuer: &Certificate<'_>, place: Place, path: &[Place]) -> Result<(), ValidationError> {
        let counts = |place: &&Place| self.certificates.get(**place).is_some_and(|below| !below.is_self_issued());
        let below = path.iter().skip(1).filter(counts).count();
        let path_len = issuer.extensions().basic_constraints.and_then(|constraints| constraints.value.path_len);
        if path_len.is_some_and(|len| below > usize::from(len)) {
            return Err(ValidationError::PathLength(place));
        }
        let own = usize::from(matches!(place, Place::Intermediate(_)) && !issuer.is_self_issued());
        let limit = self.budget.limits().intermediates_max;
        if below + own > limit { Err(ValidationError::PathLength(place)) } else { Ok(()) }
    }

    fn verify_signatures(&mut self, path: &[Place], report: &mut Report) -> Result<(), Stop> {
        for (child, issuer) in path.iter().zip(&path[1..]).rev() {
            let fits = self.signature_fits(*child, *issuer).map_err(Stop::OverBudget)?;
            let bad = ValidationError::BadSignature { place: *child, issuer: *issuer };
            let result = report.note(CheckKind::Signature, Some(*child), if fits { Ok(()) } else { Err(bad) });
            if let Err(error) = result {
                self.note_dead_end(2 * path.len() + 1, error, report);
                return Err(Stop::DeadEnd);
            }
        }
        Ok(())
    }

    fn signature_fits(&mut self, child: Place, issuer: Place) -> Result<bool, ValidationError> {
        if let Some((.., fits)) = self.verified.iter().find(|(what, whose, _)| (*what, *whose) == (child, issuer)) {
            return Ok(*fits);
        }
        let (Some(signed), Some(key)) = (
            self.certificates.get(child).map(|child| child.signed),
            self.certificates.get(issuer).map(|issuer| issuer.key),
        ) else {
            return Ok(false);
        };
        let fits = match signed.kind.filter(|kind| key.makes(*kind)) {
            None => false,
            Some(kind) => {
                self.budget.check_signature()?;
                key.verifies(kind, signed.message, signed.signature)
            }
        };
        self.verified.push((child, issuer, fits));
        Ok(fits)
    }

    fn note_dead_end(&mut self, rank: usize, error: ValidationError, report: &Report) {
        if self.furthest.as_ref().is_none_or(|furthest| rank > furthest.rank) {
            self.furthest = Some(DeadEnd { rank, error, report: report.clone() });
        }
    }

    fn unknown_issuer(&self, place: Place) -> ValidationError {
        let issuer =
            self.certificates.get(place).map(|certificate| certificate.issuer().to_string()).unwrap_or_default();
        ValidationError::UnknownIssuer { place, issuer: issuer.into() }
    }
}

/// The same name and key: a path through both goes round in a circle (RFC 4158, 5.2).
fn is_same_ca(one: &Certificate<'_>, two: &Certificate<'_>) -> bool {
    one.subject() == two.subject() && one.public_key_info() == two.public_key_info()
}
