//! What a node's agent and its authority say to each other about workloads: JSON bodies inside the messages `0x47` and `0x48`.
//!
//! JSON, because nothing here is on a hot path, a field can be added without a new version, and an operator can read a trace of it.
//! DER is base64. Every list is bounded on both sides; a message of the session's stream has at most 64 KiB.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::{TrustDomain, UnixTime};

use crate::authority::{EntryDelta, Known};
use crate::bundle::BUNDLE_MAP_MAX;
use crate::ca_life::KeyId;
use crate::entry::EntryId;
use crate::federation::BundleDigest;
use crate::jwt::AUDIENCES_MAX;
use crate::message::Refused;
use crate::secret::Secret;

/// Bytes of a body.
pub const AGENT_BODY_MAX: usize = 60 * 1024;
/// Entries in one answer: thirty selectors each still fit.
pub const SYNC_ENTRIES_MAX: usize = 64;
/// Signing requests in one request. The answer to each is a chain of at most two certificates of about 700 bytes.
pub const ISSUE_BATCH_MAX: usize = 32;

/// Bytes that are base64 in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Why bytes are no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentMessageError {
    /// More than [`AGENT_BODY_MAX`].
    #[error("the message has {0} bytes, at most {max} are allowed", max = AGENT_BODY_MAX)]
    TooLong(usize),
    /// Not JSON, or not of this form.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// A list with more entries than allowed.
    #[error("the message has too many {0}")]
    TooMany(&'static str),
}

/// A node asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum AgentRequest {
    /// What has changed?
    Sync(SyncRequest),
    /// Certify these keys.
    IssueX509 {
        /// At most [`ISSUE_BATCH_MAX`].
        items: Vec<SvidRequest>,
    },
    /// Mint a token.
    MintJwt {
        /// For which entry's identity.
        entry: EntryId,
        /// For whom, at most [`AUDIENCES_MAX`].
        audience: Vec<String>,
    },
}

/// What a node knows. The sequence numbers are acknowledgements: the node has these bundles *in use*.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// Of the entries.
    pub known: Known,
    /// Trust domain to sequence number of the bundle in use.
    pub bundles: BTreeMap<TrustDomain, u64>,
    /// Foreign bundles in use, by their content. Absent from an agent that does not know of them, which is sent none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated: Option<BTreeMap<TrustDomain, BundleDigest>>,
    /// The foreign bundle of which the beginning has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<PartialBundle>,
    /// Who issued the SVIDs that the node and its workloads show; as long as there is one of a tainted authority among them, that
    /// authority. Absent if the node does not know.
    #[serde(default)]
    pub issuer: Option<KeyId>,
    /// Answer only when something has changed, or after [`SYNC_WAIT`](crate::SYNC_WAIT).
    pub wait: bool,
}

/// How much of a document has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialBundle {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Which document.
    pub digest: BundleDigest,
    /// Bytes.
    pub len: usize,
}

/// A part of a foreign bundle's document, which may be longer than a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundlePart {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Which document.
    pub digest: BundleDigest,
    /// Where in the document it begins.
    pub offset: usize,
    /// Bytes of the whole document.
    pub len: usize,
    /// The part.
    pub bytes: Base64,
}

/// One key to certify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidRequest {
    /// For which entry's identity.
    pub entry: EntryId,
    /// See [`signing_request`](crate::signing_request).
    pub csr: Base64,
}

/// The authority answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AgentAnswer {
    /// This has changed.
    Sync(SyncAnswer),
    /// One outcome for each request, in its order.
    IssuedX509 {
        /// The outcomes.
        items: Vec<SvidOutcome>,
    },
    /// The token.
    MintedJwt {
        /// The compact JWS. A secret.
        token: Secret<String>,
        /// Its `exp`.
        expires_at: UnixTime,
    },
    /// No, and why.
    Refused(Refused),
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// Of the entries.
    pub entries: EntryDelta,
    /// Bundles that are newer than the acknowledged ones, as SPIFFE bundle documents.
    pub bundles: BTreeMap<TrustDomain, String>,
    /// Trust domains that are not federated with any more.
    pub withdrawn: Vec<TrustDomain>,
    /// Foreign bundles other than those in use: whole ones, and at the end perhaps the beginning of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federated: Vec<BundlePart>,
    /// Authorities of the own trust domain whose SVIDs are to be replaced now, and whose late answers are not to be adopted:
    /// all that there are.
    #[serde(default)]
    pub tainted: Vec<KeyId>,
    /// Revocation lists of the own trust domain (DER): all that there are.
    #[serde(default)]
    pub crls: Vec<Base64>,
}

/// What became of one signing request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvidOutcome {
    /// The chain, leaf first.
    Issued(Vec<Base64>),
    /// No, and why.
    Refused(Refused),
}

impl SvidOutcome {
    /// A chain as an outcome.
    pub fn issued(chain: &[CertificateDer<'_>]) -> Self {
        Self::Issued(chain.iter().map(|certificate| Base64(certificate.to_vec())).collect())
    }
}

impl AgentRequest {
    /// As a body.
    pub fn encode(&self) -> Result<Vec<u8>, AgentMessageError> {
        encode(self)
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, AgentMessageError> {
        let request = decode(body)?;
        match &request {
            Self::IssueX509 { items } if items.len() > ISSUE_BATCH_MAX => {
                Err(AgentMessageError::TooMany("signing requests"))
            }
            Self::MintJwt { audience, .. } if audience.len() > AUDIENCES_MAX => {
                Err(AgentMessageError::TooMany("audiences"))
            }
            Self::Sync(sync)
                if sync.bundles.len() > BUNDLE_MAP_MAX
                    || sync.federated.as_ref().is_some_and(|federated| federated.len() > BUNDLE_MAP_MAX) =>
            {
                Err(AgentMessageError::TooMany("bundles"))
            }
            Self::Sync(_) | Self::IssueX509 { .. } | Self::MintJwt { .. } => Ok(request),
        }
    }
}

impl AgentAnswer {
    /// As a body.
    pub fn encode(&self) -> Result<Vec<u8>, AgentMessageError> {
        encode(self)
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, AgentMessageError> {
        decode(body)
    }

    /// A refusal with a stable code.
    pub fn refused(code: &str, reason: &dyn std::error::Error) -> Self {
        Self::Refused(Refused::new(code, reason))
    }
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, AgentMessageError> {
    let bytes = serde_json::to_vec(message).map_err(|error| AgentMessageError::Malformed(error.to_string()))?;
    if bytes.len() > AGENT_BODY_MAX { Err(AgentMessageError::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, AgentMessageError> {
    if body.len() > AGENT_BODY_MAX {
        return Err(AgentMessageError::TooLong(body.len()));
    }
    serde_json::from_slice(body).map_err(|error| AgentMessageError::Malformed(error.to_string()))
}
