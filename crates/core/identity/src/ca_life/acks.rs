//! Who has which bundle, as far as the authority has heard.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, UnixTime};

use super::slot::KeyId;

/// Nodes that are kept track of: as many as an authority gives names to.
pub const ACKNOWLEDGING_NODES_MAX: usize = 16_384;
/// Nodes that a message names one by one.
const NAMED_MAX: usize = 8;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The number of the bundle that it uses, and gives to its workloads; zero if it has not said.
    pub sequence: u64,
    /// Who issued the SVIDs that it and its workloads show; as long as there is one of a tainted issuer among them, that one. `None`
    /// if it has not said.
    pub issuer: Option<KeyId>,
    /// When it spoke last.
    pub seen: Option<UnixTime>,
    /// The last second in which anything that was issued to it or its workloads is valid.
    pub holds_until: UnixTime,
}

/// The table of acknowledgements. A node is *live* as long as an SVID that was issued to it or to a workload of it is valid:
/// whoever holds none has nobody to verify and is verified by nobody, and learns the bundle together with its next.
///
/// Not durable. After a restart of the authority every name that has been given away is expected
/// ([`Self::expect`]), and counts as live without a bundle until it speaks or can hold nothing any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acks {
    nodes: BTreeMap<SpiffeId, Acknowledgement>,
}

impl Acks {
    /// Counts with `node`, which may hold SVIDs until `holds_until`: one was issued, or what was issued is not known. False if the
    /// table is full.
    pub fn expect(&mut self, node: &SpiffeId, holds_until: UnixTime) -> bool {
        if !self.has_room_for(node) {
            return false;
        }
        let unheard = Acknowledgement { sequence: 0, issuer: None, seen: None, holds_until };
        let known = self.nodes.entry(node.clone()).or_insert(unheard);
        known.holds_until = known.holds_until.max(holds_until);
        true
    }

    /// `node` says which bundle it uses and who issued its SVIDs. The last word counts, also if it is a smaller number: the node
    /// may have been restored from a backup. False if nothing was ever issued to it.
    pub fn record(&mut self, node: &SpiffeId, sequence: u64, issuer: Option<KeyId>, at: UnixTime) -> bool {
        let Some(known) = self.nodes.get_mut(node) else { return false };
        *known = Acknowledgement { sequence, issuer, seen: Some(at), holds_until: known.holds_until };
        true
    }

    /// The node is gone for good: nobody waits for it.
    pub fn forget(&mut self, node: &SpiffeId) {
        self.nodes.remove(node);
    }

    /// What is known of whom.
    pub fn iter(&self) -> impl Iterator<Item = (&SpiffeId, &Acknowledgement)> {
        self.nodes.iter()
    }

    /// Those who may hold a valid SVID.
    pub fn live(&self, now: UnixTime) -> impl Iterator<Item = (&SpiffeId, &Acknowledgement)> {
        self.nodes.iter().filter(move |(_, known)| now <= known.holds_until)
    }

    /// Live nodes without the bundle `sequence`.
    pub(super) fn missing(&self, sequence: u64, now: UnixTime) -> Nodes {
        Nodes::of(self.live(now).filter(|(_, known)| known.sequence < sequence).map(|(node, _)| node))
    }

    /// Live nodes that may still show an SVID of `issuer`, or adopt one that is on its way: whoever has said that it shows
    /// another *and* knows from bundle `sequence` on that `issuer` is tainted does neither.
    pub(super) fn holders(&self, issuer: KeyId, sequence: u64, now: UnixTime) -> Nodes {
        let done =
            |known: &Acknowledgement| known.sequence >= sequence && known.issuer.is_some_and(|in_use| in_use != issuer);
        Nodes::of(self.live(now).filter(|(_, known)| !done(known)).map(|(node, _)| node))
    }

    fn has_room_for(&self, node: &SpiffeId) -> bool {
        self.nodes.len() < ACKNOWLEDGING_NODES_MAX || self.nodes.contains_key(node)
    }
}

/// Some nodes: how many, and the first few by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// How many.
    pub count: usize,
    /// At most eight of them.
    pub first: Vec<SpiffeId>,
}

impl Nodes {
    fn of<'a>(nodes: impl Iterator<Item = &'a SpiffeId>) -> Self {
        let mut some = Self::default();
        for node in nodes {
            some.count += 1;
            if some.first.len() < NAMED_MAX {
                some.first.push(node.clone());
            }
        }
        some
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes", self.count)?;
        for (index, node) in self.first.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(f, "{before}{node}")?;
        }
        match (self.first.is_empty(), self.count > self.first.len()) {
            (true, _) => Ok(()),
            (false, true) => f.write_str(", …)"),
            (false, false) => f.write_str(")"),
        }
    }
}
