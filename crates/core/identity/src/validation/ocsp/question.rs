//! What to ask a responder, and which certificate is meant.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use super::{NONCE_OID, OCSP_LEN_MAX, OcspFault, PARTS_MAX, nonce_of, refuse_critical};
use crate::validation::certificate::Certificate;
use crate::validation::der::{DerError, Reader, tag};

const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// A question about `certificate`, which `issuer` signed (RFC 6960, 4.1.1). Names and keys are hashed with SHA-1, which every responder
/// understands (RFC 5019, 2.1.1) and which identifies and protects nothing here. `nonce` has 1 to 128 bytes.
pub fn ocsp_request(certificate: &Certificate<'_>, issuer: &Certificate<'_>, nonce: Option<&[u8]>) -> Vec<u8> {
    let hashed = |bytes: &[u8]| element(tag::OCTET_STRING, digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    let algorithm = element(tag::SEQUENCE, &[&element(tag::OID, SHA1_OID)[..], &[tag::NULL, 0]].concat());
    let serial = element(tag::INTEGER, certificate.serial());
    let cert_id = [algorithm, hashed(issuer.subject().der()), hashed(issuer.key.bits()), serial].concat();
    let request = element(tag::SEQUENCE, &element(tag::SEQUENCE, &cert_id));
    let mut tbs = element(tag::SEQUENCE, &request);
    if let Some(nonce) = nonce {
        let value = element(tag::OCTET_STRING, &element(tag::OCTET_STRING, nonce));
        let extension = element(tag::SEQUENCE, &[element(tag::OID, NONCE_OID), value].concat());
        tbs.extend(element(tag::constructed(2), &element(tag::SEQUENCE, &extension)));
    }
    element(tag::SEQUENCE, &element(tag::SEQUENCE, &tbs))
}

fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = value.len().to_be_bytes();
    let significant = &len[len.iter().take_while(|byte| **byte == 0).count()..];
    let mut bytes = vec![tag];
    match significant {
        [] => bytes.push(0),
        [short @ 0..=0x7f] => bytes.push(*short),
        long => {
            bytes.push(0x80 | long.len() as u8);
            bytes.extend_from_slice(long);
        }
    }
    bytes.extend_from_slice(value);
    bytes
}

/// A question that somebody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspQuestion<'a> {
    /// The certificates that are asked about.
    pub certificates: Vec<CertId<'a>>,
    /// What the answer has to repeat.
    pub nonce: Option<&'a [u8]>,
}

impl<'a> OcspQuestion<'a> {
    /// Reads the whole of `der`. A signature on it is ignored: who asks does not matter.
    ///
    /// # Errors
    /// If it is too long, no request, or has a critical extension.
    pub fn parse(der: &'a [u8]) -> Result<Self, OcspFault> {
        if der.len() > OCSP_LEN_MAX {
            return Err(OcspFault::TooLarge(der.len()));
        }
        let mut outer = Reader::inside(der, tag::SEQUENCE)?;
        let mut tbs = outer.sequence()?;
        outer.optional(tag::constructed(0))?;
        outer.finish()?;
        tbs.optional(tag::constructed(1))?;
        let mut list = tbs.sequence()?;
        let mut certificates = Vec::new();
        while !list.is_empty() {
            let mut request = list.sequence()?;
            certificates.push(CertId::read(&mut request)?);
            refuse_critical(request.optional(tag::constructed(0))?)?;
            request.finish()?;
            if certificates.len() > PARTS_MAX {
                return Err(OcspFault::Unsupported("the request asks about too many certificates"));
            }
        }
        let nonce = nonce_of(tbs.optional(tag::constructed(2))?)?;
        tbs.finish()?;
        Ok(Self { certificates, nonce })
    }
}

/// Which certificate is meant (RFC 6960, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertId<'a> {
    hash: HashKind,
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    /// The serial number, as short as can be.
    pub serial: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HashKind {
    Sha1,
    Sha256,
    Other,
}

impl HashKind {
    fn algorithm(self) -> Option<&'static Algorithm> {
        match self {
            Self::Sha1 => Some(&SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => Some(&SHA256),
            Self::Other => None,
        }
    }
}

impl<'a> CertId<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DerError> {
        let mut id = reader.sequence()?;
        let mut algorithm = id.sequence()?;
        let hash = match algorithm.oid()? {
            SHA1_OID => HashKind::Sha1,
            SHA256_OID => HashKind::Sha256,
            _ => HashKind::Other,
        };
        let (issuer_name, issuer_key, serial) = (id.octet_string()?, id.octet_string()?, id.integer()?);
        id.finish()?;
        Ok(Self { hash, issuer_name, issuer_key, serial })
    }

    /// Whether `issuer` is the one that is meant, by name and key.
    pub fn is_of(&self, issuer: &Certificate<'_>) -> bool {
        self.hash.algorithm().is_some_and(|hash| {
            digest(hash, issuer.subject().der()).as_ref() == self.issuer_name
                && digest(hash, issuer.key.bits()).as_ref() == self.issuer_key
        })
    }
}
