//! Where the bundle of a foreign trust domain comes from, and how that place proves who it is.

use std::fmt;

use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, TrustDomain};

use super::url::EndpointUrl;

/// How a bundle endpoint proves who it is (SPIFFE Federation, section 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "profile", rename_all = "snake_case")]
pub enum EndpointProfile {
    /// By a certificate of the public Web PKI, for the host in the URL.
    HttpsWeb,
    /// By an X.509-SVID with exactly this identity, checked against the bundle of *its* trust domain. That is the foreign trust
    /// domain itself (a self-serving endpoint) or any other whose bundle is there.
    HttpsSpiffe {
        /// Who has to answer.
        endpoint_id: SpiffeId,
    },
}

impl fmt::Display for EndpointProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpsWeb => f.write_str("https_web"),
            Self::HttpsSpiffe { endpoint_id } => write!(f, "https_spiffe {endpoint_id}"),
        }
    }
}

/// Whose bundle is fetched, where, and from whom: three things, none derived from another (checklist FE-1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationRelationship {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Where.
    pub url: EndpointUrl,
    /// From whom.
    #[serde(flatten)]
    pub profile: EndpointProfile,
}
