//! Certificate validation: a pipeline from bytes to a verdict, with every check on record.
//!
//! ```text
//! parse ─► leaf shape ─► time ─► trust domain ─► path (budgeted) ─► checks of each certificate ─► revocation ─► pin ─► report
//! ```
//!
//! Two profiles share it. [`validate_svid`] is for peers of the mesh: the leaf names a trust domain and only the anchors of that domain
//! can vouch for it. [`validate_peer`] is for everybody else (an OCSP responder, a federation endpoint on the public web): anchors that
//! the caller chose, and a name that the leaf must bear.
//!
//! Time, anchors, revocation data and pins are arguments. What a stranger sends is read by a DER reader of our own, which knows one way
//! to write each value; how much work it may make is bounded by [`Limits`]. Signatures are aws-lc-rs's.

mod algorithm;
mod certificate;
mod checks;
mod crl;
mod der;
mod error;
mod extensions;
mod general_name;
mod limits;
mod name;
mod name_constraints;
mod ocsp;
mod path;
mod peer_name;
mod pin;
mod public_suffix;
mod report;
mod revocation;

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use x0t_model::{SpiffeId, TrustDomain, UnixTime};

pub use self::algorithm::{KeyWeakness, SignatureKind};
pub use self::certificate::Certificate;
pub use self::crl::{CRL_LEN_MAX, CrlFault, RevocationList, RevokedCertificate};
pub use self::der::DerError;
pub use self::error::{Budget, Place, Skew, ValidationError};
pub use self::extensions::{
    AccessDescriptions, AuthorityKeyId, BasicConstraints, DistributionPoint, DistributionPoints, ExtendedKeyUsage,
    Extension, Extensions, KeyUsage, Purpose,
};
pub use self::general_name::{GeneralName, GeneralNames};
pub use self::limits::Limits;
pub use self::name::Name;
pub use self::name_constraints::NameConstraints;
pub use self::ocsp::{
    CertId, OCSP_LEN_MAX, OcspFault, OcspPolicy, OcspQuestion, OcspResponse, OcspStatus, ocsp_request,
};
pub use self::peer_name::{PeerName, PeerNameError};
pub use self::pin::{PINS_MAX, PinError, PinSet, Pins};
pub use self::public_suffix::PublicSuffixes;
pub use self::report::{Check, CheckKind, Report, Status};
pub use self::revocation::{Depth, Reason, Revocation, UnknownStatus};

use self::checks::Rules;
use self::limits::Remaining;
use self::path::{Certificates, Search};
use crate::bundle::{Bundle, BundleMap};

/// Certificates that are trusted for their keys, read once.
#[derive(Clone, Debug, Default)]
pub struct Anchors<'a>(Vec<Result<Certificate<'a>, DerError>>);

impl<'a> Anchors<'a> {
    /// Reads `certificates`. One that cannot be read vouches for nobody.
    pub fn new(certificates: &'a [CertificateDer<'_>]) -> Self {
        Self(certificates.iter().map(|der| Certificate::parse(der)).collect())
    }

    /// How many there are, those that cannot be read included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Result::is_err)
    }

    /// The one at `at`, if it can be read.
    pub fn get(&self, at: usize) -> Option<&Certificate<'a>> {
        self.0.get(at)?.as_ref().ok()
    }

    /// Those that cannot be read, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (Place, DerError)> {
        let each = self.0.iter().enumerate();
        each.filter_map(|(at, read)| read.as_ref().err().map(|source| (Place::Anchor(at), *source)))
    }
}

/// Anchors of trust domains, side by side and never pooled (checklist X5-8, X5-16).
#[derive(Clone, Debug, Default)]
pub struct TrustDomains<'a>(BTreeMap<TrustDomain, Anchors<'a>>);

impl<'a> TrustDomains<'a> {
    /// The anchors of one bundle.
    pub fn of_bundle(bundle: &'a Bundle) -> Self {
        let mut domains = Self::default();
        domains.insert(bundle.trust_domain().clone(), Anchors::new(bundle.authorities()));
        domains
    }

    /// The anchors of all bundles.
    pub fn of_map(bundles: &'a BundleMap) -> Self {
        let of =
            |bundle: &'a std::sync::Arc<Bundle>| (bundle.trust_domain().clone(), Anchors::new(bundle.authorities()));
        Self(bundles.iter().map(of).collect())
    }

    /// Sets the anchors of `trust_domain`.
    pub fn insert(&mut self, trust_domain: TrustDomain, anchors: Anchors<'a>) {
        self.0.insert(trust_domain, anchors);
    }

    /// The anchors of `trust_domain`.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Anchors<'a>> {
        self.0.get(trust_domain)
    }
}

/// What a validation is told besides chain and anchors.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The time here.
    pub now: UnixTime,
    /// The time at the peer, if it said: tells a wrong clock from a dead certificate (lesson L15). Never decides anything.
    pub peer_time: Option<UnixTime>,
    /// How much work the chain may make.
    pub limits: Limits,
    /// Whether it was revoked; `None` to not ask.
    pub revocation: Option<Revocation<'a>>,
    /// Which keys must be in the path.
    pub pins: Option<&'a Pins>,
    /// Go on after the first stage that failed, as far as that makes sense: for people. Does not make anything acceptable.
    pub is_thorough: bool,
}

impl Options<'_> {
    /// For X.509-SVIDs at `now`, without revocation data and pins.
    pub const fn svid(now: UnixTime) -> Self {
        Self { now, peer_time: None, limits: Limits::SVID, revocation: None, pins: None, is_thorough: false }
    }

    /// For servers outside of the mesh at `now`, without revocation data and pins.
    pub const fn web(now: UnixTime) -> Self {
        Self { limits: Limits::WEB, ..Self::svid(now) }
    }
}

/// Which rules a chain is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile<'a> {
    /// X509-SVID.
    Svid,
    /// RFC 5280, for servers and clients outside of the mesh.
    Web {
        /// What the leaf is used for.
        purpose: Purpose,
        /// Which wildcards to believe.
        suffixes: Option<&'a PublicSuffixes>,
        /// By whose rules.
        standard: Standard,
    },
}

impl Profile<'_> {
    /// Whether the CA/Browser Forum's rules count.
    const fn is_public(&self) -> bool {
        matches!(self, Self::Web { standard: Standard::BaselineRequirements, .. })
    }
}

/// By whose rules [`validate_peer`] judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standard {
    /// RFC 5280 alone: for the CAs of an organisation.
    Rfc5280,
    /// RFC 5280 as the Baseline Requirements of the CA/Browser Forum narrow it: for public CAs.
    #[default]
    BaselineRequirements,
}

/// Whom [`validate_peer`] expects.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// What the leaf is used for.
    pub purpose: Purpose,
    /// The names it must bear, all of them.
    pub names: &'a [PeerName],
    /// What people register names under. Without it no wildcard is believed.
    pub suffixes: Option<&'a PublicSuffixes>,
    /// By whose rules.
    pub standard: Standard,
}

/// A path that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidPath {
    /// Who it is; `None` outside of the mesh.
    pub spiffe_id: Option<SpiffeId>,
    /// Its certificates, leaf first, anchor last.
    pub places: Vec<Place>,
    /// The last second in which all of it is valid.
    pub not_after: UnixTime,
    /// SHA-256 of the keys, in the same order: what pins name.
    pub keys: Vec<[u8; 32]>,
}

/// A verdict, and every check that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// The path, or the first thing that speaks against it.
    pub result: Result<ValidPath, ValidationError>,
    /// All checks, in order.
    pub report: Report,
}

/// Holds `chain`, leaf first, against the rules for X.509-SVIDs, and against the anchors of the trust domain that the leaf names.
///
/// The holder's possession of the key is the session's business: a chain alone proves nothing about who sent it.
pub fn validate_svid(chain: &[CertificateDer<'_>], trust: &TrustDomains<'_>, options: &Options<'_>) -> Validation {
    let mut pipeline = Pipeline::new(Profile::Svid, options);
    let result = pipeline.run(chain, &Whose::TrustDomain(trust));
    Validation { result, report: pipeline.report }
}

/// Holds `chain`, leaf first, against the rules of the public web or of RFC 5280 alone, `anchors` and the names that are expected.
pub fn validate_peer(
    chain: &[CertificateDer<'_>],
    anchors: &Anchors<'_>,
    expected: &Expected<'_>,
    options: &Options<'_>,
) -> Validation {
    let Expected { purpose, names, suffixes, standard } = *expected;
    let mut pipeline = Pipeline::new(Profile::Web { purpose, suffixes, standard }, options);
    let result = pipeline.run(chain, &Whose::Names(anchors, names));
    Validation { result, report: pipeline.report }
}

/// Where anchors come from.
enum Whose<'s, 'a> {
    TrustDomain(&'s TrustDomains<'a>),
    Names(&'s Anchors<'a>, &'s [PeerName]),
}

struct Pipeline<'s> {
    options: &'s Options<'s>,
    rules: Rules<'s>,
    budget: Remaining,
    report: Report,
}

impl<'s> Pipeline<'s> {
    fn new(profile: Profile<'s>, options: &'s Options<'s>) -> Self {
        let rules = Rules { profile, now: options.now, peer_time: options.peer_time };
        let report = Report { checks: Vec::with_capacity(48) };
        Self { options, rules, budget: Remaining::new(options.limits), report }
    }

    fn run(&mut self, chain: &[CertificateDer<'_>], whose: &Whose<'_, '_>) -> Result<ValidPath, ValidationError> {
        let result = self.stages(chain, whose);
        if result.is_err() {
            // What was asked for and not looked at is on record too.
            for kind in [CheckKind::Path, CheckKind::Revocation, CheckKind::Pin] {
                if self.report.checks.iter().all(|check| check.kind != kind) {
                    self.report.push(kind, None, Status::NotReached);
                }
            }
        }
        result
    }

    fn stages(&mut self, chain: &[CertificateDer<'_>], whose: &Whose<'_, '_>) -> Result<ValidPath, ValidationError> {
        let sizes = check_sizes(chain, &self.options.limits);
        self.report.note(CheckKind::Budget, None, sizes)?;
        let (leaf, others) = chain.split_first().ok_or(ValidationError::NoCertificate)?;
        let leaf = match Certificate::parse(leaf) {
            Ok(leaf) => leaf,
            Err(source) => {
                let error = ValidationError::Malformed { place: Place::Leaf, source };
                return Err(self
                    .report
                    .note(CheckKind::Encoding, Some(Place::Leaf), Err(error.clone()))
                    .err()
                    .unwrap_or(error));
            }
        };
        self.report.push(CheckKind::Encoding, Some(Place::Leaf), Status::Passed);
        let mut first = self.rules.check_leaf(&leaf, &mut self.report);

        let (anchors, spiffe_id) = match whose {
            Whose::Names(anchors, names) => {
                first = first.and(self.check_peer_names(&leaf, names));
                (Some(*anchors), None)
            }
            Whose::TrustDomain(domains) => {
                let spiffe_id = checks::spiffe_id(&leaf);
                let noted = self.report.note(CheckKind::SpiffeId, Some(Place::Leaf), spiffe_id.clone().map(drop));
                first = first.and(noted);
                let spiffe_id = spiffe_id.ok();
                (spiffe_id.as_ref().and_then(|id| domains.get(id.trust_domain())), spiffe_id)
            }
        };
        let is_trusted = anchors.is_some_and(|anchors| !anchors.is_empty());
        let trust_domain = spiffe_id.as_ref().map(SpiffeId::trust_domain);
        if first.is_ok() || trust_domain.is_some() {
            let whom = trust_domain.map_or("anybody", TrustDomain::as_str);
            let result = if is_trusted { Ok(()) } else { Err(ValidationError::NoAnchor(whom.into())) };
            first = first.and(self.report.note(CheckKind::TrustDomain, None, result));
        }
        for (place, source) in anchors.iter().flat_map(|anchors| anchors.unreadable()) {
            let error = ValidationError::Malformed { place, source };
            self.report.push(CheckKind::Encoding, Some(place), Status::Tolerated(Box::new(error)));
        }
        let (Some(anchors), true) = (anchors, first.is_ok() || self.options.is_thorough) else {
            return Err(first.err().unwrap_or(ValidationError::NoAnchor("anybody".into())));
        };
        let intermediates = self.read_intermediates(others);
        let certificates = Certificates { leaf: &leaf, intermediates: &intermediates, anchors };
        let path = self.find_path(certificates, trust_domain);
        match (first, path) {
            (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
            (first, Ok(places)) => first.and(self.judge_path(certificates, places, spiffe_id)),
        }
    }

    fn check_peer_names(&mut self, leaf: &Certificate<'_>, names: &[PeerName]) -> Result<(), ValidationError> {
        let Profile::Web { suffixes, .. } = self.rules.profile else { return Ok(()) };
        let is_public = self.rules.profile.is_public();
        let mut first = Ok(());
        for name in names {
            let result = name.check(leaf, suffixes, is_public);
            first = first.and(self.report.note(CheckKind::PeerName, Some(Place::Leaf), result));
        }
        first
    }

    /// One that cannot be read is no issuer of anybody; whether it was needed shows in the search.
    fn read_intermediates<'a>(&mut self, others: &'a [CertificateDer<'_>]) -> Vec<Option<Certificate<'a>>> {
        let mut read = |(at, der): (usize, &'a CertificateDer<'_>)| {
            let (place, parsed) = (Place::Intermediate(at + 1), Certificate::parse(der));
            let status = match &parsed {
                Ok(_) => Status::Passed,
                Err(source) => Status::Tolerated(Box::new(ValidationError::Malformed { place, source: *source })),
            };
            self.report.push(CheckKind::Encoding, Some(place), status);
            parsed.ok()
        };
        others.iter().enumerate().map(&mut read).collect()
    }

    fn find_path(
        &mut self,
        certificates: Certificates<'_, '_>,
        trust_domain: Option<&TrustDomain>,
    ) -> Result<Vec<Place>, ValidationError> {
        let (rules, budget) = (self.rules, &mut self.budget);
        let mut search = Search { rules, certificates, trust_domain, budget, verified: Vec::new(), furthest: None };
        match search.run() {
            Ok((places, report)) => {
                self.report.checks.extend(report.checks);
                self.report.push(CheckKind::Path, None, Status::Passed);
                Ok(places)
            }
            Err(dead_end) => {
                self.report.checks.extend(dead_end.report.checks);
                Err(self
                    .report
                    .note(CheckKind::Path, None, Err(dead_end.error.clone()))
                    .err()
                    .unwrap_or(dead_end.error))
            }
        }
    }

    /// Revocation and pins: they are about the path that was found, not about what was shown.
    fn judge_path(
        &mut self,
        certificates: Certificates<'_, '_>,
        places: Vec<Place>,
        spiffe_id: Option<SpiffeId>,
    ) -> Result<ValidPath, ValidationError> {
        let path: Vec<&Certificate<'_>> = places.iter().filter_map(|place| certificates.get(*place)).collect();
        let mut first = Ok(());
        match &self.options.revocation {
            None => self.report.push(CheckKind::Revocation, None, Status::NotAsked),
            Some(revocation) => {
                let pairs: Vec<_> =
                    places.iter().zip(path.windows(2)).map(|(place, pair)| (*place, pair[0], pair[1])).collect();
                first = revocation.check(&pairs, self.options.now, &mut self.budget, &mut self.report);
            }
        }
        let keys: Vec<[u8; 32]> = path.iter().map(|certificate| certificate.public_key_digest()).collect();
        match self.options.pins.and_then(|pins| pins.of(spiffe_id.as_ref())) {
            None => self.report.push(CheckKind::Pin, None, Status::NotAsked),
            Some(pins) => first = first.and(self.report.note(CheckKind::Pin, None, pins.check(&keys))),
        }
        first?;
        let not_after = path.iter().map(|certificate| certificate.not_after()).min().unwrap_or_default();
        Ok(ValidPath { spiffe_id, places, not_after, keys })
    }
}

/// That reading the chain at all is within the budget.
fn check_sizes(chain: &[CertificateDer<'_>], limits: &Limits) -> Result<(), ValidationError> {
    let within = |amount: usize, limit: usize, budget: Budget| {
        if amount > limit { Err(ValidationError::OverBudget { budget, limit }) } else { Ok(()) }
    };
    if chain.is_empty() {
        return Err(ValidationError::NoCertificate);
    }
    within(chain.len(), limits.certificates_max, Budget::Certificates)?;
    let longest = chain.iter().map(|der| der.len()).max().unwrap_or_default();
    within(longest, limits.certificate_len_max, Budget::CertificateBytes)?;
    within(chain.iter().map(|der| der.len()).sum(), limits.chain_len_max, Budget::ChainBytes)
}
