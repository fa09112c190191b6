//! What a node may hand out: identities with their entries, bundles, revocation lists. One immutable snapshot; pure data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use x0t_identity::{BundleMap, Entry, Selector, Selectors, Svid};
use x0t_model::{TrustDomain, UnixTime};

/// A registration entry that concerns this node, and the X.509-SVID that was issued for it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Who gets it.
    pub entry: Arc<Entry>,
    /// `None` until the first one is issued.
    pub svid: Option<Svid>,
}

/// Revocation lists of each trust domain, as DER.
pub type Crls = BTreeMap<TrustDomain, Vec<Arc<[u8]>>>;

/// Everything at one moment. A change makes a new one with a higher generation.
#[derive(Clone)]
pub struct Identities {
    generation: u64,
    held: Vec<Held>,
    /// Each entry under the one of its selectors that fewest entries share.
    by_selector: BTreeMap<Selector, Vec<usize>>,
    bundles: BundleMap,
    crls: Crls,
    wants_sha256: bool,
}

impl Identities {
    /// Nothing is known yet. Callers are asked to come again.
    pub fn unknown() -> Self {
        Self::new(0, Vec::new(), BundleMap::new(), Crls::new())
    }

    /// The snapshot number `generation`, which is not 0.
    ///
    /// The order of what callers get is by the time of creation, then by id: it is the same in every snapshot and on every node,
    /// so a caller's default identity (its first) changes only with its oldest entry.
    pub fn new(generation: u64, mut held: Vec<Held>, bundles: BundleMap, crls: Crls) -> Self {
        held.sort_by(|one, two| (one.entry.created_at, &one.entry.id).cmp(&(two.entry.created_at, &two.entry.id)));
        let mut shared = BTreeMap::<&Selector, usize>::new();
        for selector in held.iter().flat_map(|held| held.entry.spec.selectors.iter()) {
            *shared.entry(selector).or_default() += 1;
        }
        let mut by_selector = BTreeMap::<Selector, Vec<usize>>::new();
        for (index, held) in held.iter().enumerate() {
            // Without selectors there is none to stand under: such an entry is given to nobody rather than to everybody.
            let rarest = held.entry.spec.selectors.iter().min_by_key(|selector| shared.get(selector));
            if let Some(rarest) = rarest {
                by_selector.entry(rarest.clone()).or_default().push(index);
            }
        }
        let is_digest = |selector: &Selector| selector.as_str().starts_with("unix:sha256:");
        let wants_sha256 = shared.keys().any(|selector| is_digest(selector));
        Self { generation, held, by_selector, bundles, crls, wants_sha256 }
    }

    /// Grows with each change. 0: nothing is known yet.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// All of them, in order.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// What a process with `selectors` is entitled to, in order: every entry in force of which *all* selectors hold.
    pub fn entitled(&self, selectors: &Selectors, now: UnixTime) -> impl Iterator<Item = &Held> {
        self.entitled_places(selectors, now).into_iter().map(|index| &self.held[index])
    }

    /// Where in [`Self::held`] they stand.
    pub(crate) fn entitled_places(&self, selectors: &Selectors, now: UnixTime) -> BTreeSet<usize> {
        let candidates = selectors.iter().filter_map(|selector| self.by_selector.get(selector)).flatten().copied();
        let holds = |index: &usize| {
            let entry = &self.held[*index].entry;
            entry.spec.selectors.are_all_in(selectors) && entry.is_in_force(now)
        };
        candidates.filter(holds).collect()
    }

    /// The bundles of all trust domains.
    pub const fn bundles(&self) -> &BundleMap {
        &self.bundles
    }

    /// The revocation lists of all trust domains.
    pub const fn crls(&self) -> &Crls {
        &self.crls
    }

    /// Whether an entry asks for the digest of a program.
    pub const fn wants_sha256(&self) -> bool {
        self.wants_sha256
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities(generation {}, {} entries)", self.generation, self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::time::Duration;

    use x0t_identity::{EntrySpec, Parent};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000_000);

    fn selectors(texts: &[&str]) -> Selectors {
        Selectors::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    fn held(id: &str, created_at: u64, texts: &[&str]) -> Held {
        let entry = Entry {
            id: id.parse().unwrap(),
            spec: EntrySpec::new(
                format!("spiffe://mesh.test/{id}").parse().unwrap(),
                Parent::AnyNode,
                selectors(texts),
            ),
            created_at: UnixTime::from_secs(created_at),
            revision: 1,
        };
        Held { entry: Arc::new(entry), svid: None }
    }

    fn snapshot(held: Vec<Held>) -> Identities {
        Identities::new(1, held, BundleMap::new(), Crls::new())
    }

    fn ids(identities: &Identities, texts: &[&str]) -> Vec<String> {
        let all = selectors(texts);
        identities.entitled(&all, NOW).map(|held| held.entry.id.to_string()).collect()
    }

    #[test]
    fn an_entry_needs_all_its_selectors() {
        let identities =
            snapshot(vec![held("both", 1, &["unix:uid:1", "unix:gid:2"]), held("one", 2, &["unix:uid:1"])]);
        assert_eq!(ids(&identities, &["unix:uid:1"]), ["one"]);
        assert_eq!(ids(&identities, &["unix:gid:2"]), Vec::<String>::new());
        assert_eq!(ids(&identities, &["unix:gid:2", "unix:uid:1", "unix:user:x"]), ["both", "one"]);
    }

    #[test]
    fn an_entry_without_selectors_is_given_to_nobody() {
        let identities = snapshot(vec![held("all", 1, &[])]);
        assert_eq!(ids(&identities, &["unix:uid:1"]), Vec::<String>::new());
        assert_eq!(ids(&identities, &[]), Vec::<String>::new());
    }

    #[test]
    fn the_oldest_entry_comes_first_whatever_order_it_was_told_in() {
        let entries = || [held("c", 3, &["unix:uid:1"]), held("b", 5, &["unix:uid:1"]), held("a", 5, &["unix:uid:1"])];
        let mut backwards = entries().to_vec();
        backwards.reverse();
        for entries in [entries().to_vec(), backwards] {
            assert_eq!(ids(&snapshot(entries), &["unix:uid:1"]), ["c", "a", "b"]);
        }
    }

    #[test]
    fn an_expired_entry_gives_nothing() {
        let mut expired = held("x", 1, &["unix:uid:1"]);
        let mut entry = Entry::clone(&expired.entry);
        entry.spec.expires_at = Some(NOW + Duration::from_secs(1));
        expired.entry = Arc::new(entry);
        let identities = snapshot(vec![expired]);
        let all = selectors(&["unix:uid:1"]);
        assert_eq!(identities.entitled(&all, NOW).count(), 1);
        assert_eq!(identities.entitled(&all, NOW + Duration::from_secs(1)).count(), 0);
    }

    #[test]
    fn programs_are_read_only_if_an_entry_asks_for_it() {
        assert!(!snapshot(vec![held("a", 1, &["unix:path:/unix:sha256:"])]).wants_sha256());
        assert!(snapshot(vec![held("a", 1, &["unix:uid:1", "unix:sha256:00"])]).wants_sha256());
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_plain_search_finds(
            entries in proptest::collection::vec(proptest::collection::btree_set(0..6u8, 0..4), 0..12),
            caller in proptest::collection::btree_set(0..6u8, 0..6),
        ) {
            let texts = |set: &BTreeSet<u8>| set.iter().map(|n| format!("unix:uid:{n}")).collect::<Vec<_>>();
            let strs = |texts: &[String]| selectors(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let all: Vec<Held> = entries.iter().enumerate().map(|(n, set)| {
                let texts = texts(set);
                held(&format!("e{n:02}"), 1, &texts.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let identities = snapshot(all);
            let caller_selectors = strs(&texts(&caller));
            let found: Vec<String> = identities.entitled(&caller_selectors, NOW).map(|held| held.entry.id.to_string()).collect();
            let plain: Vec<String> = entries.iter().enumerate()
                .filter(|(_, set)| !set.is_empty() && set.is_subset(&caller))
                .map(|(n, _)| format!("e{n:02}"))
                .collect();
            prop_assert_eq!(found, plain);
        }
    }
}
