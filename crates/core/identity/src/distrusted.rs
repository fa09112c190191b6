//! Which valid SVIDs are nevertheless to be replaced: those that a tainted authority signed, and those that were taken back.

use std::collections::BTreeSet;
use std::fmt;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::ca_life::KeyId;
use crate::leaf_rules::parse;
use crate::revocation::{REVOKED_SVIDS_MAX, Serial};

/// What the authority has said about its own signatures: all that there is, each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distrusted {
    /// Authorities that nobody should rely on any more.
    pub tainted: BTreeSet<KeyId>,
    /// Serial numbers on the revocation lists.
    pub revoked: BTreeSet<Serial>,
}

/// Why an SVID that is valid is replaced before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// The authority that signed it was tainted.
    Tainted,
    /// It was taken back.
    Revoked,
    /// The authority that signed it has left the bundle: no peer accepts the SVID any more.
    NotInBundle,
}

impl Distrust {
    /// A stable word for events, the API and tests.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tainted => "tainted",
            Self::Revoked => "revoked",
            Self::NotInBundle => "not_in_bundle",
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tainted => "the authority that signed it is tainted",
            Self::Revoked => "it is on the revocation list",
            Self::NotInBundle => "the authority that signed it has left the bundle",
        })
    }
}

impl Distrusted {
    /// What tainted authorities and revocation lists (DER) say. The lists came from the authority itself, over a session that has
    /// proven it; one that cannot be read says nothing.
    pub fn of(tainted: BTreeSet<KeyId>, crls: &[Vec<u8>]) -> Self {
        let mut revoked = BTreeSet::new();
        for crl in crls {
            let Ok((_, list)) = CertificateRevocationList::from_der(crl) else { continue };
            let room = REVOKED_SVIDS_MAX.saturating_sub(revoked.len());
            revoked.extend(list.iter_revoked_certificates().take(room).filter_map(|entry| serial(entry.raw_serial())));
        }
        Self { tainted, revoked }
    }

    /// Whether the leaf of `chain` is to be replaced, and why.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Option<Distrust> {
        if !self.tainted.is_empty() && KeyId::of_issuer(chain).is_some_and(|issuer| self.tainted.contains(&issuer)) {
            return Some(Distrust::Tainted);
        }
        if self.revoked.is_empty() {
            return None;
        }
        let leaf = parse(chain.first()?).ok()?;
        serial(leaf.raw_serial()).filter(|serial| self.revoked.contains(serial)).map(|_| Distrust::Revoked)
    }
}

/// A DER integer as a serial number of ours; none of ours has more than 16 bytes.
fn serial(der: &[u8]) -> Option<Serial> {
    let significant = der.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &der[first..]);
    let mut bytes = [0; 16];
    let start = bytes.len().checked_sub(significant.len())?;
    bytes[start..].copy_from_slice(significant);
    Some(Serial::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_the_same_with_and_without_leading_zeros() {
        let padded = serial(&[0, 0x80, 1]);
        assert_eq!(padded, serial(&[0x80, 1]));
        assert_eq!(padded.map(|serial| serial.to_string()).as_deref(), Some("00000000000000000000000000008001"));
        assert_eq!(serial(&[1; 17]), None);
        assert_eq!(serial(&[]), Some(Serial::new([0; 16])));
    }

    #[test]
    fn what_is_no_revocation_list_says_nothing() {
        let distrusted = Distrusted::of(BTreeSet::new(), &[b"no list".to_vec(), Vec::new()]);
        assert_eq!(distrusted, Distrusted::default());
        assert_eq!(distrusted.judge(&[]), None);
    }
}
