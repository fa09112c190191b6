//! Why a process gets an identity, or gets none: what was found of it, held against every entry for this node.

use serde::{Deserialize, Serialize};
use x0t_identity::{EntryId, Selector, Selectors};
use x0t_model::{SpiffeId, UnixTime};

use crate::identities::{Held, Identities};

/// Entries that are named although they do not fit: the nearest ones.
const NEAR_MAX: usize = 8;

/// What a person wants to know who wonders about an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The process.
    pub pid: i32,
    /// What was found of it. May hold what is secret; shown to the operator of the host alone.
    pub selectors: Vec<Selector>,
    /// The identities it gets, its default identity first.
    pub given: Vec<Given>,
    /// The entries that come nearest to fitting, nearest first.
    pub near: Vec<Near>,
    /// Entries for this node in all.
    pub entries: usize,
    /// Why the authority is not reached, if it is not: what is listed here may be old.
    pub authority_unreachable: Option<String>,
}

/// An identity that the process gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// By which entry.
    pub entry: EntryId,
    /// Which.
    pub spiffe_id: SpiffeId,
    /// The last second of its X.509-SVID; `None` while none is issued.
    pub not_after: Option<UnixTime>,
}

/// An entry that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// Which.
    pub entry: EntryId,
    /// What it would give.
    pub spiffe_id: SpiffeId,
    /// What it asks for and the process is not.
    pub missing: Vec<Selector>,
    /// It fits, and has ended.
    pub expired: bool,
}

/// Holds `found` against every entry. Pure.
pub fn explain(pid: i32, found: &Selectors, identities: &Identities, now: UnixTime) -> Explanation {
    let given = identities.entitled(found, now).map(|held: &Held| Given {
        entry: held.entry.id.clone(),
        spiffe_id: held.entry.spec.spiffe_id.clone(),
        not_after: held.svid.as_ref().map(x0t_identity::Svid::not_after),
    });
    let mut near: Vec<Near> = Vec::new();
    for held in identities.held() {
        let missing: Vec<Selector> = held.entry.spec.selectors.missing_in(found).cloned().collect();
        let expired = !held.entry.is_in_force(now);
        if missing.is_empty() && !expired {
            continue;
        }
        near.push(Near {
            entry: held.entry.id.clone(),
            spiffe_id: held.entry.spec.spiffe_id.clone(),
            missing,
            expired,
        });
    }
    near.sort_by(|one, two| (one.missing.len(), &one.entry).cmp(&(two.missing.len(), &two.entry)));
    near.truncate(NEAR_MAX);
    Explanation {
        pid,
        selectors: found.iter().cloned().collect(),
        given: given.collect(),
        near,
        entries: identities.held().len(),
        authority_unreachable: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use x0t_identity::{BundleMap, Entry, EntrySpec, Parent};

    use super::*;

    fn held(id: &str, selectors: &[&str], expires_at: Option<u64>) -> Held {
        let spec = EntrySpec {
            expires_at: expires_at.map(UnixTime::from_secs),
            ..EntrySpec::new(
                format!("spiffe://mesh.test/{id}").parse().unwrap(),
                Parent::AnyNode,
                Selectors::new(selectors.iter().map(|text| text.parse().unwrap())).unwrap(),
            )
        };
        let entry = Entry { id: id.parse().unwrap(), spec, created_at: UnixTime::from_secs(1), revision: 1 };
        Held { entry: Arc::new(entry), svid: None }
    }

    #[test]
    fn what_fits_is_given_and_what_nearly_fits_says_what_is_missing() {
        let all = vec![
            held("web", &["unix:uid:1000"], None),
            held("api", &["unix:uid:1000", "unix:path:/bin/api"], None),
            held("db", &["unix:uid:7", "unix:path:/bin/db"], None),
            held("old", &["unix:uid:1000"], Some(50)),
        ];
        let identities = Identities::new(1, all, BundleMap::new(), BTreeMap::new());
        let found = Selectors::new(["unix:uid:1000", "unix:gid:1000"].map(|text| text.parse().unwrap())).unwrap();
        let explanation = explain(42, &found, &identities, UnixTime::from_secs(100));
        assert_eq!(explanation.given.iter().map(|given| given.entry.as_str()).collect::<Vec<_>>(), ["web"]);
        let near: Vec<_> =
            explanation.near.iter().map(|near| (near.entry.as_str(), near.missing.len(), near.expired)).collect();
        assert_eq!(near, [("old", 0, true), ("api", 1, false), ("db", 2, false)]);
    }
}
