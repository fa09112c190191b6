//! The table of registration entries, and what changed in it since a node last asked.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};

use super::refusal::EntryRefusal;
use crate::entry::{Entry, EntryId, EntrySpec, Parent};

/// Entries of an authority. SPIRE's largest published deployments keep ten to fifteen workloads on each of a few thousand nodes.
pub const ENTRIES_MAX: usize = 65_536;
/// Bytes of all entries as JSON. The stored state has to fit into a file that the state directory reads (128 MiB), together with 16,384
/// names, the tokens and the authorities; 65,536 entries of an ordinary 400 bytes have 25 MiB.
pub const ENTRIES_BYTES_MAX: usize = 48 << 20;
/// Deletions that are remembered. A node that missed more is sent everything.
const DELETIONS_MAX: usize = 4096;

/// Registration entries by id, and by the revision of their last change.
#[derive(Default)]
pub(super) struct Entries {
    entries: BTreeMap<EntryId, Entry>,
    /// What they have as JSON.
    bytes: usize,
    /// Entries in the order of their last change.
    by_revision: BTreeMap<u64, EntryId>,
    /// How many entries for a node, or for all, federate with which trust domain.
    federated: BTreeMap<Parent, BTreeMap<TrustDomain, usize>>,
    /// What was deleted, or moved to other nodes, oldest first.
    deletions: VecDeque<Deletion>,
    /// Deletions up to this revision are forgotten.
    horizon: u64,
}

/// An entry that nodes of `parent` have to forget.
struct Deletion {
    revision: u64,
    id: EntryId,
    parent: Parent,
}

/// How far a node knows the entries that concern it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The authority's counter of changes, as of what the node knows.
    pub revision: u64,
    /// In the middle of being told everything: the counter when that began.
    pub full_since: Option<u64>,
}

/// What a node has to change in what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDelta {
    /// What it knows afterwards.
    pub known: Known,
    /// Forget everything first: too much was missed to tell what was deleted.
    pub is_full: bool,
    /// There is more; ask again.
    pub has_more: bool,
    /// New or changed.
    pub entries: Vec<Entry>,
    /// Deleted, or no longer for this node. To be taken out before [`Self::entries`] are put in: an id may be in both.
    pub deleted: Vec<EntryId>,
}

impl Entries {
    pub(super) fn get(&self, id: &EntryId) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether `spec` could be kept as entry `id`, which is new unless `id` is known.
    pub(super) fn check(&self, id: &EntryId, spec: &EntrySpec, domain: &TrustDomain) -> Result<(), EntryRefusal> {
        spec.check(domain)?;
        if let Some(twin) = self.entries.values().find(|entry| entry.id != *id && entry.spec.is_like(spec)) {
            return Err(EntryRefusal::AlreadyExists(twin.id.clone()));
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(id) {
            return Err(EntryRefusal::TooManyEntries);
        }
        self.fits(id, spec)
    }

    /// Whether there is room for `spec` as entry `id`.
    fn fits(&self, id: &EntryId, spec: &EntrySpec) -> Result<(), EntryRefusal> {
        let before = self.entries.get(id).map_or(0, stored_len);
        let entry = Entry { id: id.clone(), spec: spec.clone(), created_at: FAR, revision: u64::MAX };
        if self.bytes - before + stored_len(&entry) > ENTRIES_BYTES_MAX {
            return Err(EntryRefusal::NoRoom);
        }
        Ok(())
    }

    pub(super) fn put(&mut self, id: &EntryId, spec: &EntrySpec, at: UnixTime, revision: u64) {
        let created_at = self.entries.get(id).map_or(at, |entry| entry.created_at);
        self.restore(Entry { id: id.clone(), spec: spec.clone(), created_at, revision });
    }

    /// Puts a stored entry back.
    pub(super) fn restore(&mut self, entry: Entry) {
        let (id, revision, parent) = (entry.id.clone(), entry.revision, entry.spec.parent.clone());
        self.bytes += stored_len(&entry);
        let domains = self.federated.entry(parent.clone()).or_default();
        for domain in &entry.spec.federates_with {
            *domains.entry(domain.clone()).or_default() += 1;
        }
        if let Some(before) = self.entries.insert(id.clone(), entry) {
            self.bytes -= stored_len(&before);
            self.by_revision.remove(&before.revision);
            self.forget_federated(&before);
            if before.spec.parent != parent {
                self.remember(Deletion { revision, id: id.clone(), parent: before.spec.parent });
            }
        }
        self.by_revision.insert(revision, id);
    }

    /// Takes an entry out; whether there was one.
    pub(super) fn remove(&mut self, id: &EntryId, revision: u64) -> bool {
        let Some(before) = self.entries.remove(id) else { return false };
        self.bytes -= stored_len(&before);
        self.by_revision.remove(&before.revision);
        self.forget_federated(&before);
        self.remember(Deletion { revision, id: id.clone(), parent: before.spec.parent });
        true
    }

    fn forget_federated(&mut self, before: &Entry) {
        let Some(domains) = self.federated.get_mut(&before.spec.parent) else { return };
        for domain in &before.spec.federates_with {
            if let Some(count) = domains.get_mut(domain) {
                *count -= 1;
            }
        }
        domains.retain(|_, count| *count > 0);
        self.federated.retain(|_, domains| !domains.is_empty());
    }

    /// The foreign trust domains that entries for `node` federate with; one may come twice.
    pub(super) fn federated_by(&self, node: &SpiffeId) -> impl Iterator<Item = &TrustDomain> {
        let own = self.federated.get(&Parent::Node(node.clone()));
        own.into_iter().chain(self.federated.get(&Parent::AnyNode)).flat_map(BTreeMap::keys)
    }

    /// How many entries federate with `domain`.
    pub(super) fn federating_with(&self, domain: &TrustDomain) -> usize {
        self.federated.values().filter_map(|domains| domains.get(domain)).sum()
    }

    fn remember(&mut self, deletion: Deletion) {
        self.deletions.push_back(deletion);
        while self.deletions.len() > DELETIONS_MAX {
            self.horizon = self.deletions.pop_front().map_or(self.horizon, |forgotten| forgotten.revision);
        }
    }

    /// After a restart nobody remembers what was deleted before.
    pub(super) const fn forget_deletions_before(&mut self, revision: u64) {
        self.horizon = revision;
    }

    /// What `node` has to change to get from `known` towards `current`, at most `limit` changes at a time.
    pub(super) fn delta(&self, node: &SpiffeId, known: Known, current: u64, limit: usize) -> EntryDelta {
        // A revision beyond ours is from a future that a restored backup has undone.
        let oldest = known.full_since.unwrap_or(known.revision);
        let is_full = oldest < self.horizon || known.revision > current;
        let from = if is_full { 0 } else { known.revision };
        let full_since = if is_full { Some(current) } else { known.full_since };
        let mut delta = EntryDelta { is_full, ..EntryDelta::default() };
        let mut reached = from;
        for (revision, change) in self.changes_for(node, from) {
            if delta.entries.len() + delta.deleted.len() >= limit {
                delta.has_more = true;
                break;
            }
            match change {
                Change::Put(entry) => delta.entries.push(entry.clone()),
                Change::Delete(id) => delta.deleted.push(id.clone()),
            }
            reached = revision;
        }
        if !delta.has_more {
            reached = current;
        }
        delta.known = Known { revision: reached, full_since: full_since.filter(|_| delta.has_more) };
        delta
    }

    /// What happened for `node` after revision `from`, in order; one change for each revision.
    fn changes_for<'a>(&'a self, node: &'a SpiffeId, from: u64) -> impl Iterator<Item = (u64, Change<'a>)> {
        let put = |(revision, id): (&u64, &EntryId)| Some((*revision, Change::Put(self.entries.get(id)?)));
        let is_for_node = |change: &(u64, Change<'_>)| match change.1 {
            Change::Put(entry) => entry.spec.parent.covers(node),
            Change::Delete(_) => true,
        };
        let mut puts = self.by_revision.range(from + 1..).filter_map(put).filter(is_for_node).peekable();
        let first = self.deletions.partition_point(|deletion| deletion.revision <= from);
        let deletions = self.deletions.range(first..).filter(|deletion| deletion.parent.covers(node));
        let mut deletions = deletions.map(|deletion| (deletion.revision, Change::Delete(&deletion.id))).peekable();
        std::iter::from_fn(move || {
            let (put, deletion) = (puts.peek().map(|(at, _)| *at), deletions.peek().map(|(at, _)| *at));
            match (put, deletion) {
                // Moved, and still for this node.
                (Some(put), Some(deletion)) if put == deletion => {
                    deletions.next();
                    puts.next()
                }
                (Some(put), Some(deletion)) if deletion < put => deletions.next(),
                (Some(_), _) => puts.next(),
                (None, _) => deletions.next(),
            }
        })
    }
}

/// The longest time that an entry may have been made at.
const FAR: UnixTime = UnixTime::from_secs(u64::MAX);

/// What an entry has in the stored state, with the comma behind it.
fn stored_len(entry: &Entry) -> usize {
    serde_json::to_vec(entry).map_or(0, |json| json.len() + 1)
}

/// One step of what a node has to do.
enum Change<'a> {
    Put(&'a Entry),
    Delete(&'a EntryId),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::selector::Selectors;

    fn node(name: &str) -> SpiffeId {
        format!("spiffe://mesh.test/node/{name}").parse().expect("a node")
    }

    fn spec(uid: u32, parent: Parent) -> EntrySpec {
        let selector = format!("unix:uid:{uid}").parse().expect("a selector");
        EntrySpec::new(
            "spiffe://mesh.test/web".parse().expect("an id"),
            parent,
            Selectors::new([selector]).expect("one selector"),
        )
    }

    #[test]
    fn entries_that_would_not_fit_into_the_state_directory_are_refused_before_they_are_kept() {
        let domain: TrustDomain = "mesh.test".parse().expect("a trust domain");
        let mut table = Entries::default();
        let long: Vec<_> = (0..30).map(|n| format!("cgroup:path:/{n}/{}", "x".repeat(500))).collect();
        let large = |uid: u32| {
            let selectors = long.iter().cloned().chain([format!("unix:uid:{uid}")]);
            let selectors = selectors.map(|text| text.parse().expect("a selector"));
            EntrySpec { selectors: Selectors::new(selectors).expect("selectors"), ..spec(uid, Parent::AnyNode) }
        };
        let (mut kept, mut revision) = (0, 0);
        let refusal = loop {
            let id: EntryId = format!("e{kept}").parse().expect("an id");
            // Twins are looked for elsewhere, and the search takes its time.
            table.by_revision.clear();
            match table.fits(&id, &large(kept)) {
                Ok(()) => {}
                Err(refusal) => break refusal,
            }
            revision += 1;
            table.put(&id, &large(kept), UnixTime::from_secs(1), revision);
            kept += 1;
        };
        assert_eq!(refusal, EntryRefusal::NoRoom);
        assert!((2_900..3_300).contains(&kept), "{kept} entries of 16 KiB");
        let whole: usize = table.iter().map(stored_len).sum();
        assert_eq!(table.bytes, whole, "counted, not looked at each time");
        let first: EntryId = "e0".parse().expect("an id");
        assert_eq!(
            table.check(&first, &spec(7, Parent::AnyNode), &domain),
            Ok(()),
            "a shorter one in its place is welcome"
        );
        table.remove(&first, revision + 1);
        assert_eq!(table.fits(&first, &large(0)), Ok(()), "and what is deleted makes room");
    }

    proptest! {
        /// Whatever is put, moved and deleted, and however far a node lags, it ends with exactly the entries that are for it.
        #[test]
        fn l20_a_node_that_applies_every_delta_knows_its_entries(
            steps in prop::collection::vec((0u8..12, 0u8..4, any::<bool>()), 1..120),
            limit in 1usize..5,
        ) {
            let (mut table, mut revision) = (Entries::default(), 0u64);
            let (mut known, mut held) = (Known::default(), BTreeMap::new());
            let me = node("a");
            for (number, what, asks) in steps {
                revision += 1;
                let id: EntryId = format!("e{number}").parse().expect("an id");
                let at = UnixTime::from_secs(revision);
                match what {
                    0 => { table.remove(&id, revision); }
                    1 => table.put(&id, &spec(u32::from(number), Parent::Node(node("b"))), at, revision),
                    2 => table.put(&id, &spec(u32::from(number), Parent::AnyNode), at, revision),
                    _ => table.put(&id, &spec(u32::from(number), Parent::Node(me.clone())), at, revision),
                }
                if what == 3 && number == 0 {
                    table.forget_deletions_before(revision);
                }
                if asks {
                    let delta = table.delta(&me, known, revision, limit);
                    apply(&mut held, &delta);
                    known = delta.known;
                }
            }
            for _ in 0..200 {
                let delta = table.delta(&me, known, revision, limit);
                apply(&mut held, &delta);
                known = delta.known;
                if !delta.has_more {
                    break;
                }
            }
            let wanted: BTreeMap<_, _> = table.iter().filter(|entry| entry.spec.parent.covers(&me))
                .map(|entry| (entry.id.clone(), entry.clone())).collect();
            prop_assert_eq!(held, wanted);
            prop_assert_eq!(known, Known { revision, full_since: None });
        }
    }

    fn apply(held: &mut BTreeMap<EntryId, Entry>, delta: &EntryDelta) {
        if delta.is_full {
            held.clear();
        }
        for id in &delta.deleted {
            held.remove(id);
        }
        held.extend(delta.entries.iter().map(|entry| (entry.id.clone(), entry.clone())));
    }
}
