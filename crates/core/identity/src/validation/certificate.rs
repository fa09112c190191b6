//! A certificate as RFC 5280, 4.1 defines it, read without copying.

use aws_lc_rs::digest::{SHA256, digest};
use x0t_model::UnixTime;

use super::algorithm::{PublicKey, SignatureKind};
use super::der::{DerError, Reader, tag};
use super::extensions::Extensions;
use super::name::Name;

/// What a certificate authority signed, and with which algorithm: the frame of certificates, revocation lists and OCSP answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// What is signed, with tag and length.
    pub(crate) message: &'a [u8],
    /// The algorithm; `None` for one that is not accepted.
    pub(crate) kind: Option<SignatureKind>,
    pub(crate) signature: &'a [u8],
}

/// A certificate of version 3.
#[derive(Clone, Debug)]
pub struct Certificate<'a> {
    der: &'a [u8],
    pub(crate) signed: Signed<'a>,
    serial: &'a [u8],
    issuer: Name<'a>,
    subject: Name<'a>,
    not_before: UnixTime,
    not_after: UnixTime,
    public_key_info: &'a [u8],
    pub(crate) key: PublicKey<'a>,
    extensions: Extensions<'a>,
}

impl<'a> Certificate<'a> {
    /// Reads the whole of `der`.
    ///
    /// # Errors
    /// If it is no DER, no certificate of version 3, or an extension that is known here is malformed or there twice.
    pub fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut outer = Reader::inside(der, tag::SEQUENCE)?;
        let message = outer.raw(tag::SEQUENCE)?;
        let algorithm = outer.raw(tag::SEQUENCE)?;
        let signature = outer.bytes_of_bits()?;
        outer.finish()?;

        let mut inner = Reader::inside(message, tag::SEQUENCE)?;
        let mut version = inner.nested(tag::constructed(0)).map_err(|_| NOT_VERSION_3)?;
        if version.small_integer()? != 2 {
            return Err(NOT_VERSION_3);
        }
        version.finish()?;
        let serial = inner.integer()?;
        if inner.raw(tag::SEQUENCE)? != algorithm {
            return Err(DerError::Value("the two signature algorithms differ"));
        }
        let issuer = Name::parse(inner.raw(tag::SEQUENCE)?)?;
        let mut validity = inner.sequence()?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.finish()?;
        let subject = Name::parse(inner.raw(tag::SEQUENCE)?)?;
        let public_key_info = inner.raw(tag::SEQUENCE)?;
        let key = PublicKey::parse(public_key_info)?;
        // The unique identifiers of version 2 come here; RFC 5280 forbids them.
        let extensions = if inner.is_empty() {
            Extensions::default()
        } else {
            let mut wrapped = inner.nested(tag::constructed(3))?;
            let extensions = Extensions::parse(wrapped.sequence()?)?;
            wrapped.finish()?;
            extensions
        };
        inner.finish()?;
        Ok(Self {
            der,
            signed: Signed { message, kind: SignatureKind::of(algorithm), signature },
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            public_key_info,
            key,
            extensions,
        })
    }

    /// All of it.
    pub const fn der(&self) -> &'a [u8] {
        self.der
    }

    /// Its serial number: big-endian two's complement, as short as can be.
    pub const fn serial(&self) -> &'a [u8] {
        self.serial
    }

    /// Who signed it.
    pub const fn issuer(&self) -> Name<'a> {
        self.issuer
    }

    /// Whose it is.
    pub const fn subject(&self) -> Name<'a> {
        self.subject
    }

    /// The first second of its validity.
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second of its validity.
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Its public key as SubjectPublicKeyInfo DER.
    pub const fn public_key_info(&self) -> &'a [u8] {
        self.public_key_info
    }

    /// SHA-256 of [`public_key_info`](Self::public_key_info): what pins name.
    pub fn public_key_digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.public_key_info).as_ref());
        bytes
    }

    /// Its extensions.
    pub const fn extensions(&self) -> &Extensions<'a> {
        &self.extensions
    }

    /// The kind and size of its key, for people; `None` for one that is not accepted.
    pub fn key_name(&self) -> &'static str {
        self.key.name()
    }

    /// The algorithm of its signature, for people.
    pub fn signature_name(&self) -> &'static str {
        self.signed.kind.map_or("not accepted", SignatureKind::name)
    }

    /// Whether issuer and subject are the same (RFC 5280, 3.2): such a certificate in the middle of a path is there to roll a key over.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    pub(crate) fn subject_key_id(&self) -> Option<&'a [u8]> {
        self.extensions.subject_key_id.map(|extension| extension.value)
    }

    pub(crate) fn authority_key_id(&self) -> Option<&'a [u8]> {
        self.extensions.authority_key_id.and_then(|extension| extension.value.key_id)
    }

    /// Whether `issuer` can have signed this one, by name and by the name of its key where both say it. Says nothing about signatures.
    pub(crate) fn can_be_issued_by(&self, issuer: &Self) -> bool {
        let key_fits = match (self.authority_key_id(), issuer.subject_key_id()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.issuer == issuer.subject && key_fits
    }
}

const NOT_VERSION_3: DerError = DerError::Value("the certificate is not of version 3");
