//! OCSP (RFC 6960): what to ask, and whether an answer may be believed. Who carries them is the shell's business.

mod question;

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use x0t_model::UnixTime;

pub use self::question::{CertId, OcspQuestion, ocsp_request};
use super::algorithm::SignatureKind;
use super::certificate::{Certificate, Signed};
use super::der::{DerError, Reader, small_integer, tag};
use super::extensions::{EXTENSIONS_MAX, Purpose};
use super::name::Name;
use super::revocation::Reason;

/// Bytes of one answer. Honest ones have a few KiB.
pub const OCSP_LEN_MAX: usize = 64 * 1024;
/// Certificates of a responder, and answers about single certificates, in one answer.
const PARTS_MAX: usize = 16;
/// Bytes of a nonce (RFC 9654, 2.1).
const NONCE_LEN_MAX: usize = 128;

const BASIC_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const NONCE_OID: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];

/// Why an answer says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspFault {
    /// Longer than [`OCSP_LEN_MAX`].
    #[error("the answer has {0} bytes, at most {max} are allowed", max = OCSP_LEN_MAX)]
    TooLarge(usize),
    /// Not DER, or not an OCSP answer.
    #[error("the answer is malformed")]
    Malformed(#[from] DerError),
    /// The responder did not answer: 1 malformed request, 2 internal error, 3 try later, 5 signature required, 6 unauthorized.
    #[error("the responder refused to answer (status {0})")]
    Refused(u8),
    /// A kind of answer, or an extension, that is not supported.
    #[error("{0}")]
    Unsupported(&'static str),
    /// It is about other certificates.
    #[error("the answer is not about this certificate")]
    CertId,
    /// Neither the issuer nor somebody the issuer named signed it.
    #[error("the answer is by nobody who may speak for the issuer: {0}")]
    Responder(&'static str),
    /// The signature does not fit.
    #[error("the signature of the answer does not fit")]
    Signature,
    /// Another nonce than was sent, or none though one is needed.
    #[error("the answer does not carry the nonce that was sent: it may be an old one")]
    Nonce,
    /// It is from the future, or over.
    #[error("the answer is not current: from {this_update:?} until {next_update:?}, the clock here says {now:?}")]
    Stale {
        /// From when it counts.
        this_update: UnixTime,
        /// Until when.
        next_update: Option<UnixTime>,
        /// What the clock here says.
        now: UnixTime,
    },
    /// The responder does not know the certificate.
    #[error("the responder does not know the certificate")]
    UnknownCertificate,
}

impl OcspFault {
    /// A stable word.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Malformed(_) => "ocsp_malformed",
            Self::Refused(_) => "ocsp_status",
            Self::Unsupported(_) => "ocsp_unsupported",
            Self::CertId => "ocsp_cert_id",
            Self::Responder(_) => "ocsp_responder_not_authorized",
            Self::Signature => "ocsp_signature",
            Self::Nonce => "ocsp_nonce",
            Self::Stale { .. } => "ocsp_stale",
            Self::UnknownCertificate => "ocsp_unknown",
        }
    }
}

/// When an answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OcspPolicy<'a> {
    /// How far the responder's clock may be off.
    pub skew: Duration,
    /// How old an answer may be that does not say when it ends.
    pub age_max: Duration,
    /// What was sent along. A stapled answer was asked for by somebody else, so there is none.
    pub nonce: Option<&'a [u8]>,
    /// Refuse an answer without the nonce. Most public responders prepare theirs in advance and ignore nonces.
    pub is_nonce_required: bool,
}

impl Default for OcspPolicy<'_> {
    fn default() -> Self {
        let (skew, age_max) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
        Self { skew, age_max, nonce: None, is_nonce_required: false }
    }
}

/// What an answer says of a certificate that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspStatus {
    /// Not revoked. It may never have been issued.
    Good,
    /// Taken back.
    Revoked {
        /// Why.
        reason: Reason,
        /// Since when.
        since: UnixTime,
    },
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
enum ResponderId<'a> {
    Name(Name<'a>),
    KeyHash(&'a [u8]),
}

impl ResponderId<'_> {
    fn is(&self, certificate: &Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => certificate.subject() == *name,
            // SHA-1 of the key, as the field is defined; what counts is whose key fits the signature.
            Self::KeyHash(hash) => digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate.key.bits()).as_ref() == *hash,
        }
    }
}

/// About one certificate.
#[derive(Clone, Copy, Debug)]
struct Single<'a> {
    id: CertId<'a>,
    /// `None` if the responder does not know it.
    status: Option<OcspStatus>,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
}

/// An answer, read in full.
#[derive(Clone, Debug)]
pub struct OcspResponse<'a> {
    signed: Signed<'a>,
    responder: ResponderId<'a>,
    produced_at: UnixTime,
    singles: Vec<Single<'a>>,
    nonce: Option<&'a [u8]>,
    certificates: Vec<Certificate<'a>>,
}

impl<'a> OcspResponse<'a> {
    /// Reads the whole of `der`.
    ///
    /// # Errors
    /// If it is too long, no basic OCSP answer, a refusal, or has a critical extension that is not understood.
    pub fn parse(der: &'a [u8]) -> Result<Self, OcspFault> {
        if der.len() > OCSP_LEN_MAX {
            return Err(OcspFault::TooLarge(der.len()));
        }
        let mut outer = Reader::inside(der, tag::SEQUENCE)?;
        let status = small_integer(outer.value(tag::ENUMERATED)?)?;
        if status != 0 {
            return Err(OcspFault::Refused(status));
        }
        let mut wrapped = outer.nested(tag::constructed(0))?;
        outer.finish()?;
        let mut bytes = wrapped.sequence()?;
        wrapped.finish()?;
        if bytes.oid()? != BASIC_OID {
            return Err(OcspFault::Unsupported("the answer is not of the basic kind"));
        }
        let basic = bytes.octet_string()?;
        bytes.finish()?;
        Self::parse_basic(basic)
    }

    fn parse_basic(der: &'a [u8]) -> Result<Self, OcspFault> {
        let mut basic = Reader::inside(der, tag::SEQUENCE)?;
        let message = basic.raw(tag::SEQUENCE)?;
        let kind = SignatureKind::of(basic.raw(tag::SEQUENCE)?);
        let signature = basic.bytes_of_bits()?;
        let mut certificates = Vec::new();
        if let Some(wrapped) = basic.optional(tag::constructed(0))? {
            let mut wrapped = Reader::new(wrapped);
            let mut list = wrapped.sequence()?;
            wrapped.finish()?;
            while !list.is_empty() {
                certificates.push(Certificate::parse(list.raw(tag::SEQUENCE)?)?);
                if certificates.len() > PARTS_MAX {
                    return Err(OcspFault::Unsupported("the answer carries too many certificates"));
                }
            }
        }
        basic.finish()?;

        let mut data = Reader::inside(message, tag::SEQUENCE)?;
        let responder = data.element()?;
        let responder = match responder.tag {
            0xa1 => ResponderId::Name(Name::parse(responder.value)?),
            0xa2 => {
                let mut key = Reader::new(responder.value);
                let hash = key.octet_string()?;
                key.finish()?;
                ResponderId::KeyHash(hash)
            }
            // A version that is written out is either the default or one that is not known.
            _ => return Err(OcspFault::Unsupported("the answer is not of version 1")),
        };
        let produced_at = data.generalized_time()?;
        let mut list = data.sequence()?;
        let mut singles = Vec::new();
        while !list.is_empty() {
            singles.push(Single::read(&mut list)?);
            if singles.len() > PARTS_MAX {
                return Err(OcspFault::Unsupported("the answer speaks of too many certificates"));
            }
        }
        let nonce = nonce_of(data.optional(tag::constructed(1))?)?;
        data.finish()?;
        Ok(Self { signed: Signed { message, kind, signature }, responder, produced_at, singles, nonce, certificates })
    }

    /// When it was made.
    pub const fn produced_at(&self) -> UnixTime {
        self.produced_at
    }

    /// Whether it speaks of `certificate` at all; says nothing about who speaks.
    pub(crate) fn concerns(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        self.singles.iter().any(|single| single.concerns(certificate, issuer))
    }

    /// What it says of `certificate`, signed by `issuer`, at `now`.
    ///
    /// # Errors
    /// If it may not be believed, or the responder does not know the certificate.
    pub fn status(
        &self,
        certificate: &Certificate<'_>,
        issuer: &Certificate<'_>,
        policy: &OcspPolicy<'_>,
        now: UnixTime,
    ) -> Result<OcspStatus, OcspFault> {
        if !self.concerns(certificate, issuer) {
            return Err(OcspFault::CertId);
        }
        match (policy.nonce, self.nonce) {
            (Some(sent), Some(found)) if sent != found => return Err(OcspFault::Nonce),
            (Some(_), None) if policy.is_nonce_required => return Err(OcspFault::Nonce),
            _ => {}
        }
        self.check_signature(issuer, now)?;
        let mut answer = Err(OcspFault::CertId);
        for single in self.singles.iter().filter(|single| single.concerns(certificate, issuer)) {
            match single.judge(policy, now) {
                // One bad word outweighs any number of good ones.
                Ok(revoked @ OcspStatus::Revoked { .. }) => return Ok(revoked),
                Ok(good) => answer = Ok(good),
                Err(fault) if answer.is_err() => answer = Err(fault),
                Err(_) => {}
            }
        }
        answer
    }

    /// By the issuer itself, or by a certificate that the same issuer signed for this purpose (RFC 6960, 4.2.2.2).
    fn check_signature(&self, issuer: &Certificate<'_>, now: UnixTime) -> Result<(), OcspFault> {
        let fits = |signer: &Certificate<'_>| {
            self.signed.kind.is_some_and(|kind| signer.key.verifies(kind, self.signed.message, self.signed.signature))
        };
        if self.responder.is(issuer) && fits(issuer) {
            return Ok(());
        }
        let mut delegated = self.certificates.iter().filter(|certificate| self.responder.is(certificate));
        let Some(signer) = delegated.next() else {
            let is_issuer = self.responder.is(issuer);
            return Err(if is_issuer {
                OcspFault::Signature
            } else {
                OcspFault::Responder("no certificate of it came along")
            });
        };
        let extensions = signer.extensions();
        let purpose = extensions.extended_key_usage.is_some_and(|usage| usage.value.names(Purpose::OcspSigning));
        let signs = extensions.key_usage.is_none_or(|usage| usage.value.digital_signature());
        let refusals = [
            (!purpose, "its certificate is not for signing OCSP answers"),
            (!signs || extensions.is_ca(), "its key may not sign answers"),
            (extensions.unknown_critical.is_some() || signer.key.weakness().is_some(), "its certificate is not usable"),
            (now < signer.not_before() || now > signer.not_after(), "its certificate is not valid now"),
            // Whether the responder's own certificate was revoked, nobody but the responder could say.
            (!extensions.ocsp_no_check, "its certificate lacks ocsp-nocheck"),
        ];
        if let Some((_, why)) = refusals.into_iter().find(|(is_so, _)| *is_so) {
            return Err(OcspFault::Responder(why));
        }
        let is_issued = signer.can_be_issued_by(issuer)
            && signer
                .signed
                .kind
                .is_some_and(|kind| issuer.key.verifies(kind, signer.signed.message, signer.signed.signature));
        match (is_issued, fits(signer)) {
            (false, _) => Err(OcspFault::Responder("its certificate is not by the issuer itself")),
            (true, false) => Err(OcspFault::Signature),
            (true, true) => Ok(()),
        }
    }
}

impl<'a> Single<'a> {
    fn read(list: &mut Reader<'a>) -> Result<Self, OcspFault> {
        let mut single = list.sequence()?;
        let id = CertId::read(&mut single)?;
        let status = single.element()?;
        let status = match (status.tag, status.value) {
            (0x80, []) => Some(OcspStatus::Good),
            (0xa1, info) => {
                let mut info = Reader::new(info);
                let since = info.generalized_time()?;
                let reason = match info.optional(tag::constructed(0))? {
                    None => Reason::Unspecified,
                    Some(wrapped) => {
                        let mut wrapped = Reader::new(wrapped);
                        let number = small_integer(wrapped.value(tag::ENUMERATED)?)?;
                        wrapped.finish()?;
                        Reason::of(number).ok_or(DerError::Value("a reason for revocation is unknown"))?
                    }
                };
                info.finish()?;
                Some(OcspStatus::Revoked { reason, since })
            }
            (0x82, []) => None,
            _ => return Err(DerError::Value("the status of a certificate is malformed").into()),
        };
        let this_update = single.generalized_time()?;
        let next_update = match single.optional(tag::constructed(0))? {
            None => None,
            Some(wrapped) => {
                let mut wrapped = Reader::new(wrapped);
                let time = wrapped.generalized_time()?;
                wrapped.finish()?;
                Some(time)
            }
        };
        refuse_critical(single.optional(tag::constructed(1))?)?;
        single.finish()?;
        Ok(Self { id, status, this_update, next_update })
    }

    fn concerns(&self, certificate: &Certificate<'_>, issuer: &Certificate<'_>) -> bool {
        self.id.serial == certificate.serial() && self.id.is_of(issuer)
    }

    fn judge(&self, policy: &OcspPolicy<'_>, now: UnixTime) -> Result<OcspStatus, OcspFault> {
        if let Some(revoked @ OcspStatus::Revoked { .. }) = self.status {
            return Ok(revoked);
        }
        let (this_update, next_update) = (self.this_update, self.next_update);
        let until = next_update.unwrap_or(this_update + policy.age_max);
        if this_update > now + policy.skew || until + policy.skew < now {
            return Err(OcspFault::Stale { this_update, next_update, now });
        }
        self.status.ok_or(OcspFault::UnknownCertificate)
    }
}

/// The extensions of an answer or a question: a nonce, and none that is critical and not understood.
fn nonce_of(wrapped: Option<&[u8]>) -> Result<Option<&[u8]>, OcspFault> {
    let mut nonce = None;
    each_extension(wrapped, |oid, critical, value| match oid {
        NONCE_OID => {
            let mut reader = Reader::new(value);
            let bytes = reader.octet_string()?;
            reader.finish()?;
            if bytes.is_empty() || bytes.len() > NONCE_LEN_MAX || nonce.replace(bytes).is_some() {
                return Err(DerError::Value("the nonce is empty, too long or there twice").into());
            }
            Ok(())
        }
        _ if critical => Err(OcspFault::Unsupported("there is a critical extension that is not understood here")),
        _ => Ok(()),
    })?;
    Ok(nonce)
}

fn refuse_critical(wrapped: Option<&[u8]>) -> Result<(), OcspFault> {
    each_extension(wrapped, |_, critical, _| match critical {
        true => Err(OcspFault::Unsupported("there is a critical extension that is not understood here")),
        false => Ok(()),
    })
}

fn each_extension<'a>(
    wrapped: Option<&'a [u8]>,
    mut take: impl FnMut(&'a [u8], bool, &'a [u8]) -> Result<(), OcspFault>,
) -> Result<(), OcspFault> {
    let Some(wrapped) = wrapped else { return Ok(()) };
    let mut extensions = Reader::inside(wrapped, tag::SEQUENCE)?;
    let mut count = 0;
    while !extensions.is_empty() {
        let mut extension = extensions.sequence()?;
        let (oid, critical, value) = (extension.oid()?, extension.flag()?, extension.octet_string()?);
        extension.finish()?;
        count += 1;
        if count > EXTENSIONS_MAX {
            return Err(DerError::Value("there are too many extensions").into());
        }
        take(oid, critical, value)?;
    }
    Ok(())
}
