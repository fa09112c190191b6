//! Revocation lists (RFC 5280, 5): whole ones, signed by the CA whose certificates they are about.
//!
//! Delta lists and indirect ones (signed by somebody else) are refused, not ignored: whoever skipped them would take a certificate for
//! good that is not.

use x0t_model::UnixTime;

use super::algorithm::SignatureKind;
use super::certificate::{Certificate, Signed};
use super::der::{DerError, Reader, boolean, integer, named_bits, small_integer, tag};
use super::extensions::{authority_key_id, distribution_point_name};
use super::general_name::{GeneralName, GeneralNames};
use super::name::Name;
use super::revocation::Reason;

/// Bytes of one list. The longest of public CAs have a few MiB.
pub const CRL_LEN_MAX: usize = 16 << 20;

/// Why a list cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlFault {
    /// Longer than [`CRL_LEN_MAX`].
    #[error("the list has {0} bytes, at most {max} are allowed", max = CRL_LEN_MAX)]
    TooLarge(usize),
    /// Not DER, or no list of version 2.
    #[error("the list is malformed")]
    Malformed(#[from] DerError),
    /// A kind of list, or an extension, that is not supported.
    #[error("{0}")]
    Unsupported(&'static str),
    /// It is about other certificates of that CA.
    #[error("the list does not cover this certificate")]
    Scope,
    /// Not by its issuer, or the issuer's key may not sign lists.
    #[error("the list is not signed by the certificate's issuer, or its key may not sign lists")]
    Signature,
    /// It is from the future, over, or does not say when it ends.
    #[error("the list is not current: from {this_update:?} until {next_update:?}, the clock here says {now:?}")]
    Stale {
        /// From when it counts.
        this_update: UnixTime,
        /// Until when.
        next_update: Option<UnixTime>,
        /// What the clock here says.
        now: UnixTime,
    },
}

impl CrlFault {
    /// A stable word.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Malformed(_) => "crl_malformed",
            Self::Unsupported(_) => "crl_unsupported",
            Self::Scope => "crl_scope",
            Self::Signature => "crl_signature",
            Self::Stale { .. } => "crl_stale",
        }
    }
}

/// A revocation list, read in full.
#[derive(Clone, Debug)]
pub struct RevocationList<'a> {
    signed: Signed<'a>,
    issuer: Name<'a>,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    entries: Reader<'a>,
    key_id: Option<&'a [u8]>,
    number: Option<&'a [u8]>,
    scope: Scope<'a>,
    /// What makes it unusable for everybody.
    unsupported: Option<CrlFault>,
}

/// issuingDistributionPoint (RFC 5280, 5.2.5). Everything its issuer signed, without one.
#[derive(Clone, Copy, Debug, Default)]
struct Scope<'a> {
    point: Option<GeneralNames<'a>>,
    only_users: bool,
    only_cas: bool,
    only_attributes: bool,
    only_some_reasons: bool,
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedCertificate<'a> {
    /// The serial number, as short as can be.
    pub serial: &'a [u8],
    /// Since when.
    pub since: UnixTime,
    /// Why.
    pub reason: Reason,
}

/// What a list says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    Revoked { reason: Reason, since: UnixTime },
    NotListed,
}

impl<'a> RevocationList<'a> {
    /// Reads the whole of `der`.
    ///
    /// # Errors
    /// If it is too long, no DER or no list of version 2. A list of a kind that is not supported is read, and says so when it is used.
    pub fn parse(der: &'a [u8]) -> Result<Self, CrlFault> {
        if der.len() > CRL_LEN_MAX {
            return Err(CrlFault::TooLarge(der.len()));
        }
        let mut outer = Reader::inside(der, tag::SEQUENCE)?;
        let message = outer.raw(tag::SEQUENCE)?;
        let algorithm = outer.raw(tag::SEQUENCE)?;
        let signature = outer.bytes_of_bits()?;
        outer.finish()?;

        let mut inner = Reader::inside(message, tag::SEQUENCE)?;
        if inner.small_integer()? != 1 {
            return Err(DerError::Value("the list is not of version 2").into());
        }
        if inner.raw(tag::SEQUENCE)? != algorithm {
            return Err(DerError::Value("the two signature algorithms differ").into());
        }
        let issuer = Name::parse(inner.raw(tag::SEQUENCE)?)?;
        let this_update = inner.time()?;
        let is_time =
            |reader: &Reader<'_>| matches!(reader.rest().first(), Some(&(tag::UTC_TIME | tag::GENERALIZED_TIME)));
        let next_update = if is_time(&inner) { Some(inner.time()?) } else { None };
        let entries = inner.optional(tag::SEQUENCE)?.map(Reader::new);
        if entries.is_some_and(|entries| entries.is_empty()) {
            return Err(DerError::Value("the list of revoked certificates is there and empty").into());
        }
        let mut list = Self {
            signed: Signed { message, kind: SignatureKind::of(algorithm), signature },
            issuer,
            this_update,
            next_update,
            entries: entries.unwrap_or(Reader::new(&[])),
            key_id: None,
            number: None,
            scope: Scope::default(),
            unsupported: None,
        };
        if let Some(wrapped) = inner.optional(tag::constructed(0))? {
            let mut wrapped = Reader::new(wrapped);
            list.read_extensions(wrapped.sequence()?)?;
            wrapped.finish()?;
        }
        inner.finish()?;
        list.read_entries()?;
        if list.number.is_none() {
            list.refuse("the list has no cRLNumber (RFC 5280, 5.2.3)");
        }
        Ok(list)
    }

    /// Who signed it.
    pub const fn issuer(&self) -> Name<'a> {
        self.issuer
    }

    /// From when it counts.
    pub const fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// Until when, if it says so.
    pub const fn next_update(&self) -> Option<UnixTime> {
        self.next_update
    }

    /// Its number, which grows from list to list: big-endian, as short as can be.
    pub const fn number(&self) -> Option<&'a [u8]> {
        self.number
    }

    /// Its lines.
    pub fn entries(&self) -> impl Iterator<Item = RevokedCertificate<'a>> + use<'a> {
        let mut entries = self.entries;
        std::iter::from_fn(move || entry(&mut entries).ok().map(|(entry, _)| entry))
    }

    /// Whether it is by name that of `certificate`'s issuer; says nothing about signatures.
    pub(crate) fn concerns(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        let key_fits = match (self.key_id, issuer.subject_key_id()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.issuer == certificate.issuer() && key_fits
    }

    /// Whether `issuer` signed it and may do so. The dear part: once for each list.
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        let may_sign = issuer.extensions().key_usage.is_none_or(|usage| usage.value.crl_sign());
        may_sign
            && self
                .signed
                .kind
                .is_some_and(|kind| issuer.key.verifies(kind, self.signed.message, self.signed.signature))
    }

    /// What it says of `certificate` at `now`; whose list it is has been checked.
    pub(crate) fn look_up(&self, certificate: &Certificate<'_>, now: UnixTime) -> Result<Listed, CrlFault> {
        if let Some(fault) = self.unsupported {
            return Err(fault);
        }
        if !self.scope.covers(certificate) {
            return Err(CrlFault::Scope);
        }
        // What a list once said stays true when the list is over: nobody un-revokes but from a hold.
        if let Some(entry) = self.entries().find(|entry| entry.serial == certificate.serial()) {
            return Ok(Listed::Revoked { reason: entry.reason, since: entry.since });
        }
        let (this_update, next_update) = (self.this_update, self.next_update);
        if now < this_update || next_update.is_none_or(|until| now > until) {
            return Err(CrlFault::Stale { this_update, next_update, now });
        }
        if self.scope.only_some_reasons {
            return Err(CrlFault::Scope);
        }
        Ok(Listed::NotListed)
    }

    fn refuse(&mut self, why: &'static str) {
        self.unsupported.get_or_insert(CrlFault::Unsupported(why));
    }

    fn read_extensions(&mut self, mut extensions: Reader<'a>) -> Result<(), DerError> {
        let mut seen: Vec<&[u8]> = Vec::new();
        while !extensions.is_empty() {
            let mut extension = extensions.sequence()?;
            let (oid, critical, value) = (extension.oid()?, extension.flag()?, extension.octet_string()?);
            extension.finish()?;
            if seen.contains(&oid) || seen.len() > super::extensions::EXTENSIONS_MAX {
                return Err(DerError::Value("an extension is there twice, or there are too many"));
            }
            seen.push(oid);
            match oid {
                [0x55, 0x1d, 0x23] => self.key_id = authority_key_id(value)?.key_id,
                [0x55, 0x1d, 0x14] => {
                    let mut reader = Reader::new(value);
                    self.number = Some(reader.integer()?);
                    reader.finish()?;
                    if critical {
                        self.refuse("the cRLNumber is critical");
                    }
                }
                [0x55, 0x1d, 0x1b] => self.refuse("delta lists are not supported"),
                [0x55, 0x1d, 0x1c] => self.read_scope(value)?,
                _ if critical => self.refuse("the list has a critical extension that is not understood here"),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_scope(&mut self, value: &'a [u8]) -> Result<(), DerError> {
        let mut reader = Reader::inside(value, tag::SEQUENCE)?;
        let point = reader.optional(tag::constructed(0))?;
        let mut flag = |number: u8| match reader.optional(tag::context(number))?.map(boolean).transpose()? {
            Some(false) => Err(DerError::DefaultWritten),
            other => Ok(other.is_some()),
        };
        let (only_users, only_cas) = (flag(1)?, flag(2)?);
        let some_reasons = reader.optional(tag::context(3))?.map(named_bits).transpose()?;
        let mut flag = |number: u8| match reader.optional(tag::context(number))?.map(boolean).transpose()? {
            Some(false) => Err(DerError::DefaultWritten),
            other => Ok(other.is_some()),
        };
        let (is_indirect, only_attributes) = (flag(4)?, flag(5)?);
        reader.finish()?;
        if is_indirect {
            self.refuse("indirect lists are not supported");
        }
        let names = point.map(distribution_point_name).transpose()?;
        if names.is_some_and(|names| names.is_none()) {
            self.refuse("a distribution point that is named relative to its issuer is not supported");
        }
        let only_some_reasons = some_reasons.is_some();
        self.scope = Scope { point: names.flatten(), only_users, only_cas, only_attributes, only_some_reasons };
        Ok(())
    }

    fn read_entries(&mut self) -> Result<(), DerError> {
        let mut entries = self.entries;
        while !entries.is_empty() {
            if let (_, Some(fault)) = entry(&mut entries)? {
                self.refuse(fault);
            }
        }
        Ok(())
    }
}

impl Scope<'_> {
    /// Whether the list speaks of `certificate`: its kind, and one of *all* of its distribution points (RUSTSEC-2026-0049).
    fn covers(&self, certificate: &Certificate<'_>) -> bool {
        let is_ca = certificate.extensions().is_ca();
        if self.only_attributes || (self.only_users && is_ca) || (self.only_cas && !is_ca) {
            return false;
        }
        let Some(point) = self.point else { return true };
        let points = certificate.extensions().crl_distribution_points.map(|points| points.value);
        let names_of_points = points.iter().flat_map(|points| points.iter()).filter(|point| !point.has_crl_issuer);
        names_of_points.filter_map(|of_certificate| of_certificate.full_name).any(|names| share_a_name(&point, &names))
    }
}

fn share_a_name(one: &GeneralNames<'_>, two: &GeneralNames<'_>) -> bool {
    one.iter().any(|name| two.iter().any(|other| !matches!(name, GeneralName::Other(_)) && name == other))
}

/// One entry, and what makes the whole list unusable (RFC 5280, 5.3: a critical extension that is not understood).
fn entry<'a>(entries: &mut Reader<'a>) -> Result<(RevokedCertificate<'a>, Option<&'static str>), DerError> {
    let mut entry = entries.sequence()?;
    let serial = entry.integer()?;
    let since = entry.time()?;
    let (mut reason, mut fault) = (Reason::Unspecified, None);
    if !entry.is_empty() {
        let mut extensions = entry.sequence()?;
        while !extensions.is_empty() {
            let mut extension = extensions.sequence()?;
            let (oid, critical, value) = (extension.oid()?, extension.flag()?, extension.octet_string()?);
            extension.finish()?;
            match oid {
                [0x55, 0x1d, 0x15] => {
                    let mut reader = Reader::new(value);
                    let number = small_integer(reader.value(tag::ENUMERATED)?)?;
                    reader.finish()?;
                    reason = Reason::of(number).ok_or(DerError::Value("a reason for revocation is unknown"))?;
                    if reason == Reason::RemoveFromCrl {
                        fault = Some("an entry of a whole list takes something off it");
                    }
                }
                [0x55, 0x1d, 0x1d] => fault = Some("indirect lists are not supported"),
                _ if critical => fault = Some("an entry has a critical extension that is not understood here"),
                _ => {}
            }
        }
    }
    entry.finish()?;
    integer(serial)?;
    Ok((RevokedCertificate { serial, since, reason }, fault))
}
