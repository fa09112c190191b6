//! A bundle of another trust domain as it is written down and sent to nodes.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::TrustDomain;

use crate::bundle::Bundle;

/// Bytes of a document that is kept: what [`Bundle::from_json`] reads.
pub const FOREIGN_DOCUMENT_LEN_MAX: usize = 512 * 1024;

/// Names the content of a document. Unlike a sequence number it tells two documents apart whatever an operator has forced and
/// whatever a backup has undone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BundleDigest([u8; 16]);

impl BundleDigest {
    /// Of a document.
    pub fn of(document: &[u8]) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest(&SHA256, document).as_ref()[..16]);
        Self(bytes)
    }
}

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BundleDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BundleDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a digest has 16 bytes"))
    }
}

/// A bundle with its document: the normal form of what was read, without what we do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ForeignBundle {
    bundle: Arc<Bundle>,
    document: Arc<[u8]>,
    digest: BundleDigest,
}

#[derive(Serialize, Deserialize)]
struct Written {
    trust_domain: TrustDomain,
    document: String,
}

impl ForeignBundle {
    /// With the document that `bundle` gives.
    pub fn new(bundle: Bundle) -> Self {
        let document: Arc<[u8]> = bundle.to_compact_json().into();
        let digest = BundleDigest::of(&document);
        Self { bundle: Arc::new(bundle), document, digest }
    }

    /// Whose it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }

    /// Its keys.
    pub const fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The SPIFFE bundle document.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Names its content.
    pub const fn digest(&self) -> BundleDigest {
        self.digest
    }
}

impl TryFrom<Written> for ForeignBundle {
    type Error = crate::bundle::BundleError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        Bundle::from_json(written.trust_domain, written.document.as_bytes()).map(Self::new)
    }
}

impl From<ForeignBundle> for Written {
    fn from(foreign: ForeignBundle) -> Self {
        let document = String::from_utf8_lossy(&foreign.document).into_owned();
        Self { trust_domain: foreign.bundle.trust_domain().clone(), document }
    }
}
