//! Registration entries in the mesh's words and in SPIRE's, and what one cannot say in the other.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use x0t_identity::{Entry, EntryError, EntryId, EntrySpec, Parent, Selector, SelectorError, Selectors};
use x0t_model::{SpiffeId, SpiffeIdError, UnixTime};

use super::proto::types;

/// An entry of a SPIRE server: what the mesh knows of entries, and what only SPIRE has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpireEntry {
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// Its identity administers the SPIRE server.
    pub admin: bool,
    /// Its identity is a SPIRE server below this one.
    pub downstream: bool,
    /// Its SVIDs go into a store, not to processes.
    pub store_svid: bool,
}

/// What cannot be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFormError {
    /// SPIRE has no such parent.
    #[error("SPIRE has no parent `any`: name an agent, or an alias for a set of agents")]
    AnyNode,
    /// Nobody would get it, or everybody.
    #[error("an entry without selectors would be given to every process")]
    NoSelectors,
    /// Longer than the limit for tokens.
    #[error("tokens that live for {} s are not asked for, at most {} s are", .asked.as_secs(), .max.as_secs())]
    TokenTtl {
        /// What the entry wants.
        asked: Duration,
        /// What is allowed.
        max: Duration,
    },
    /// SPIRE counts seconds in 31 bits.
    #[error("a life of {} s is longer than SPIRE can say", .0.as_secs())]
    TtlTooLong(Duration),
    /// An id that is none.
    #[error("not an entry's id")]
    Id(#[source] EntryError),
    /// No identity, or one that is none.
    #[error("not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// A field that must be there.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// A selector that is none in our words.
    #[error("not a selector")]
    Selector(#[source] SelectorError),
    /// A negative number.
    #[error("{0} is negative")]
    Negative(&'static str),
}

pub(super) fn to_spire_id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain().to_string(), path: id.path().to_owned() }
}

pub(super) fn from_spire_id(id: Option<types::Spiffeid>, what: &'static str) -> Result<SpiffeId, EntryFormError> {
    let id = id.ok_or(EntryFormError::Missing(what))?;
    // The leading slash of the path is a SHOULD of the interface.
    let slash = if id.path.is_empty() || id.path.starts_with('/') { "" } else { "/" };
    format!("spiffe://{}{slash}{}", id.trust_domain, id.path).parse().map_err(EntryFormError::SpiffeId)
}

pub(super) fn to_spire_selectors(selectors: &Selectors) -> Vec<types::Selector> {
    let one = |selector: &Selector| types::Selector { r#type: selector.kind().into(), value: selector.value().into() };
    selectors.iter().map(one).collect()
}

pub(super) fn from_spire_selectors(selectors: Vec<types::Selector>) -> Result<Selectors, EntryFormError> {
    let each: Result<Vec<Selector>, _> =
        selectors.iter().map(|selector| format!("{}:{}", selector.r#type, selector.value).parse()).collect();
    each.and_then(Selectors::new).map_err(EntryFormError::Selector)
}

/// `id` is empty for an entry that does not exist yet.
pub(super) fn to_spire(spec: &EntrySpec, id: &str, token_ttl_max: Duration) -> Result<types::Entry, EntryFormError> {
    let Parent::Node(parent) = &spec.parent else { return Err(EntryFormError::AnyNode) };
    if spec.selectors.is_empty() {
        return Err(EntryFormError::NoSelectors);
    }
    if let Some(asked) = spec.jwt_ttl.filter(|ttl| *ttl > token_ttl_max) {
        return Err(EntryFormError::TokenTtl { asked, max: token_ttl_max });
    }
    let seconds = |ttl: Option<Duration>| match ttl {
        None => Ok(0),
        Some(ttl) => i32::try_from(ttl.as_secs()).map_err(|_| EntryFormError::TtlTooLong(ttl)),
    };
    Ok(types::Entry {
        id: id.to_owned(),
        spiffe_id: Some(to_spire_id(&spec.spiffe_id)),
        parent_id: Some(to_spire_id(parent)),
        selectors: to_spire_selectors(&spec.selectors),
        x509_svid_ttl: seconds(spec.x509_ttl)?,
        jwt_svid_ttl: seconds(spec.jwt_ttl)?,
        federates_with: spec.federates_with.iter().map(ToString::to_string).collect(),
        expires_at: spec.expires_at.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX)),
        dns_names: spec.dns_names.clone(),
        hint: spec.hint.clone().unwrap_or_default(),
        ..types::Entry::default()
    })
}

pub(super) fn from_spire(entry: types::Entry) -> Result<SpireEntry, EntryFormError> {
    let ttl = |seconds: i32, what| match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(EntryFormError::Negative(what)),
    };
    let number = |value: i64, what| u64::try_from(value).map_err(|_| EntryFormError::Negative(what));
    let domain = |name: &String| name.trim_start_matches("spiffe://").parse().map_err(EntryFormError::SpiffeId);
    let federates_with: Result<BTreeSet<_>, _> = entry.federates_with.iter().map(domain).collect();
    let expires_at = number(entry.expires_at, "the expiry")?;
    let spec = EntrySpec {
        x509_ttl: ttl(entry.x509_svid_ttl, "the life of X.509-SVIDs")?,
        jwt_ttl: ttl(entry.jwt_svid_ttl, "the life of JWT-SVIDs")?,
        dns_names: entry.dns_names,
        federates_with: federates_with?,
        hint: Some(entry.hint).filter(|hint| !hint.is_empty()),
        expires_at: Some(expires_at).filter(|at| *at > 0).map(UnixTime::from_secs),
        ..EntrySpec::new(
            from_spire_id(entry.spiffe_id, "SPIFFE ID")?,
            Parent::Node(from_spire_id(entry.parent_id, "parent")?),
            from_spire_selectors(entry.selectors)?,
        )
    };
    let id: EntryId = entry.id.parse().map_err(EntryFormError::Id)?;
    Ok(SpireEntry {
        entry: Entry {
            id,
            spec,
            created_at: UnixTime::from_secs(number(entry.created_at, "the time of creation")?),
            revision: number(entry.revision_number, "the revision")?,
        },
        admin: entry.admin,
        downstream: entry.downstream,
        store_svid: entry.store_svid,
    })
}
