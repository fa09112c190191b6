//! Registration entries: which processes on which nodes get which identity.
//!
//! An operator writes them, the authority keeps them, and a node is sent those that concern it. The authority maps entry to
//! SPIFFE ID; neither the node nor the process has a say in it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x0t_model::{SpiffeId, SpiffeIdError, TrustDomain, UnixTime};

use crate::selector::{ENTRY_SELECTORS_MAX, Selectors};

/// Bytes of an entry's id: SPIRE takes ids of up to 255 bytes, and so do we.
const ENTRY_ID_LEN_MAX: usize = 255;
/// Bytes of a hint (SPIFFE Workload API, 5.2.1).
pub const HINT_LEN_MAX: usize = 1024;
/// DNS names of an entry.
pub const DNS_NAMES_MAX: usize = 16;
/// Foreign trust domains of an entry.
pub const FEDERATES_WITH_MAX: usize = 32;
/// Bytes of all selectors and names of an entry together: an entry has to fit into one message to a node.
pub const ENTRY_TEXT_MAX: usize = 16 * 1024;
/// The shortest life of anything that is issued: half of it is left for a renewal.
pub const TTL_MIN: Duration = Duration::from_secs(10);
/// The longest life of a token (the mission's limit) and of a certificate.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Names an entry. Ours are 32 hexadecimal digits; SPIRE's are kept as they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(Arc<str>);

impl EntryId {
    /// From 128 random bits.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&bytes).into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EntryId {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > ENTRY_ID_LEN_MAX || !text.bytes().all(allowed) {
            return Err(EntryError::BadId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The nodes on which an entry's processes may run. A node can obtain no identity whose entry does not name it here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// One node.
    Node(SpiffeId),
    /// Every node of the trust domain.
    AnyNode,
}

impl Parent {
    /// Whether `node` is one of them.
    pub fn covers(&self, node: &SpiffeId) -> bool {
        match self {
            Self::Node(id) => id == node,
            Self::AnyNode => true,
        }
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::AnyNode => f.write_str("any"),
        }
    }
}

/// Why something is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// An id of other characters than letters, digits, `-`, `_` and `.`, or too long.
    #[error("an entry's id has 1 to 255 letters, digits, '-', '_' or '.'")]
    BadId,
    /// An identity of another trust domain.
    #[error("{found} is not in the trust domain {wanted}")]
    OtherTrustDomain {
        /// What was asked for.
        found: SpiffeId,
        /// Whose authority this is.
        wanted: TrustDomain,
    },
    /// An identity that belongs to the mesh itself.
    #[error("{0} is reserved: paths under /node and /spire belong to nodes and to SPIRE")]
    Reserved(SpiffeId),
    /// A parent that is no node.
    #[error("the parent {0} is not a node: it has the form spiffe://TRUST-DOMAIN/node/NAME")]
    ParentIsNoNode(SpiffeId),
    /// It would be given to every process.
    #[error("an entry without selectors would be given to every process")]
    NoSelectors,
    /// More than [`ENTRY_SELECTORS_MAX`].
    #[error("the entry has {0} selectors, at most {max} are allowed", max = ENTRY_SELECTORS_MAX)]
    TooManySelectors(usize),
    /// More than [`ENTRY_TEXT_MAX`].
    #[error("the entry's selectors and names have {0} bytes together, at most {max} are allowed", max = ENTRY_TEXT_MAX)]
    TooLong(usize),
    /// Outside of [`TTL_MIN`] to [`TTL_MAX`].
    #[error("a life of {} s is not between {} s and {} s", .0.as_secs(), TTL_MIN.as_secs(), TTL_MAX.as_secs())]
    BadTtl(Duration),
    /// More than [`DNS_NAMES_MAX`].
    #[error("the entry has {0} DNS names, at most {max} are allowed", max = DNS_NAMES_MAX)]
    TooManyDnsNames(usize),
    /// Not a DNS name (RFC 1123, 2.1).
    #[error("`{}` is not a DNS name", .0.escape_debug())]
    BadDnsName(String),
    /// Longer than [`HINT_LEN_MAX`] or with control characters.
    #[error("a hint has at most {max} bytes and no control characters", max = HINT_LEN_MAX)]
    BadHint,
    /// More than [`FEDERATES_WITH_MAX`].
    #[error("the entry federates with {0} trust domains, at most {max} are allowed", max = FEDERATES_WITH_MAX)]
    TooManyTrustDomains(usize),
    /// A trust domain that federates with itself.
    #[error("the trust domain {0} need not federate with itself")]
    FederatesWithItself(TrustDomain),
    /// Not a SPIFFE ID.
    #[error("not a SPIFFE ID")]
    SpiffeId(#[from] SpiffeIdError),
}

/// What an operator writes. [`EntrySpec::check`] says whether an authority can keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntrySpec {
    /// The identity to give.
    pub spiffe_id: SpiffeId,
    /// On which nodes.
    pub parent: Parent,
    /// To which processes: those of which all of these hold.
    pub selectors: Selectors,
    /// Life of its X.509-SVIDs; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509_ttl: Option<Duration>,
    /// Life of its JWT-SVIDs; the authority's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_ttl: Option<Duration>,
    /// DNS SANs of its X.509-SVIDs, for peers that look at those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Foreign trust domains whose bundles its processes get.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub federates_with: BTreeSet<TrustDomain>,
    /// Tells a process with several identities which one is for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// From then on the entry gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixTime>,
}

impl EntrySpec {
    /// With the authority's lives, no further names and no end.
    pub const fn new(spiffe_id: SpiffeId, parent: Parent, selectors: Selectors) -> Self {
        Self {
            spiffe_id,
            parent,
            selectors,
            x509_ttl: None,
            jwt_ttl: None,
            dns_names: Vec::new(),
            federates_with: BTreeSet::new(),
            hint: None,
            expires_at: None,
        }
    }

    /// Whether the authority of `trust_domain` can keep it.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        let foreign = |id: &SpiffeId| EntryError::OtherTrustDomain { found: id.clone(), wanted: trust_domain.clone() };
        if self.spiffe_id.trust_domain() != trust_domain {
            return Err(foreign(&self.spiffe_id));
        }
        // A process with a node's identity would be that node; SPIRE's own identities are SPIRE's.
        let first = self.spiffe_id.path().split('/').nth(1);
        if matches!(first, Some("node" | "spire")) {
            return Err(EntryError::Reserved(self.spiffe_id.clone()));
        }
        if let Parent::Node(node) = &self.parent {
            if node.trust_domain() != trust_domain {
                return Err(foreign(node));
            }
            if node.node_name().is_none() {
                return Err(EntryError::ParentIsNoNode(node.clone()));
            }
        }
        match self.selectors.len() {
            0 => return Err(EntryError::NoSelectors),
            many if many > ENTRY_SELECTORS_MAX => return Err(EntryError::TooManySelectors(many)),
            _ => {}
        }
        let ttls = self.x509_ttl.iter().chain(&self.jwt_ttl);
        if let Some(ttl) = ttls.copied().find(|ttl| !(TTL_MIN..=TTL_MAX).contains(ttl)) {
            return Err(EntryError::BadTtl(ttl));
        }
        self.check_names(trust_domain)
    }

    fn check_names(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        if self.dns_names.len() > DNS_NAMES_MAX {
            return Err(EntryError::TooManyDnsNames(self.dns_names.len()));
        }
        if let Some(name) = self.dns_names.iter().find(|name| !is_dns_name(name)) {
            return Err(EntryError::BadDnsName(name.clone()));
        }
        if self.hint.as_ref().is_some_and(|hint| hint.len() > HINT_LEN_MAX || hint.chars().any(char::is_control)) {
            return Err(EntryError::BadHint);
        }
        if self.federates_with.len() > FEDERATES_WITH_MAX {
            return Err(EntryError::TooManyTrustDomains(self.federates_with.len()));
        }
        let selectors = self.selectors.iter().map(|selector| selector.as_str().len());
        let text = selectors.chain(self.dns_names.iter().map(String::len)).sum();
        if text > ENTRY_TEXT_MAX {
            return Err(EntryError::TooLong(text));
        }
        if self.federates_with.contains(trust_domain) {
            return Err(EntryError::FederatesWithItself(trust_domain.clone()));
        }
        Ok(())
    }

    /// Whether both would give the same identity to the same processes of the same nodes.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.spiffe_id, &self.parent, &self.selectors) == (&other.spiffe_id, &other.parent, &other.selectors)
    }
}

/// A host name (RFC 1123, 2.1) with at most one label replaced by `*`, the first.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let rest = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && rest.split('.').all(label)
}

/// An entry as an authority keeps it and a node is sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    /// What the operator wrote.
    #[serde(flatten)]
    pub spec: EntrySpec,
    /// When it was made.
    pub created_at: UnixTime,
    /// The authority's counter of changes at its last change. Never used twice, so an id that is deleted and made again does not
    /// look unchanged (SPIRE issue 5686).
    pub revision: u64,
}

impl Entry {
    /// Whether it still gives identities.
    pub fn is_in_force(&self, now: UnixTime) -> bool {
        self.spec.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str) -> EntrySpec {
        EntrySpec::new(
            id.parse().unwrap(),
            Parent::Node("spiffe://mesh.test/node/a".parse().unwrap()),
            Selectors::new(["unix:uid:1000".parse().unwrap()]).unwrap(),
        )
    }

    fn check(change: impl FnOnce(&mut EntrySpec)) -> Result<(), EntryError> {
        let mut spec = spec("spiffe://mesh.test/web");
        change(&mut spec);
        spec.check(&"mesh.test".parse().unwrap())
    }

    #[test]
    fn an_ordinary_entry_is_kept() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|spec| spec.dns_names = vec!["web.example.org".into(), "*.web".into()]), Ok(()));
        assert_eq!(check(|spec| spec.parent = Parent::AnyNode), Ok(()));
    }

    #[test]
    fn sid_13_identities_of_nodes_and_of_spire_are_not_for_workloads() {
        for id in ["spiffe://mesh.test/node/a", "spiffe://mesh.test/node", "spiffe://mesh.test/spire/agent/x"] {
            let id: SpiffeId = id.parse().unwrap();
            assert_eq!(check(|spec| spec.spiffe_id = id.clone()), Err(EntryError::Reserved(id)));
        }
        assert_eq!(check(|spec| spec.spiffe_id = "spiffe://mesh.test/nodes/a".parse().unwrap()), Ok(()));
    }

    #[test]
    fn what_an_authority_cannot_keep_is_refused_with_the_reason() {
        let foreign = check(|spec| spec.spiffe_id = "spiffe://other.test/web".parse().unwrap());
        assert!(matches!(foreign, Err(EntryError::OtherTrustDomain { .. })));
        assert_eq!(check(|spec| spec.selectors = Selectors::default()), Err(EntryError::NoSelectors));
        let parent = check(|spec| spec.parent = Parent::Node("spiffe://mesh.test/web".parse().unwrap()));
        assert!(matches!(parent, Err(EntryError::ParentIsNoNode(_))));
        assert!(matches!(check(|spec| spec.jwt_ttl = Some(Duration::from_secs(1))), Err(EntryError::BadTtl(_))));
        assert!(matches!(check(|spec| spec.x509_ttl = Some(TTL_MAX * 2)), Err(EntryError::BadTtl(_))));
        for name in ["", "a..b", "-a", "a_b", "A.b", "*", "a.*", "a\0b", &"x".repeat(64)] {
            let refused = check(|spec| spec.dns_names = vec![name.to_owned()]);
            assert_eq!(refused, Err(EntryError::BadDnsName(name.to_owned())));
        }
        assert_eq!(check(|spec| spec.hint = Some("x".repeat(1025))), Err(EntryError::BadHint));
        let own = check(|spec| spec.federates_with = BTreeSet::from(["mesh.test".parse().unwrap()]));
        assert!(matches!(own, Err(EntryError::FederatesWithItself(_))));
    }

    #[test]
    fn an_id_is_one_word() {
        assert!("6c2b2f0e-0000-4000-8000-000000000001".parse::<EntryId>().is_ok());
        for id in ["", "a b", "a/b", "a\n", &"x".repeat(256)] {
            assert_eq!(id.parse::<EntryId>(), Err(EntryError::BadId));
        }
    }
}
