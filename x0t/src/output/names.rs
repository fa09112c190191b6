//! Node ids into names: people read names, the wire carries ids.

use std::collections::BTreeMap;

use x0t_model::{NodeId, SpiffeId};
use x0t_node::{PeerView, RouteView, StatusView, TraceHop};

/// The names that are known for node ids.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<NodeId, String>);

impl Names {
    /// Those in a node's view.
    pub fn known(status: &StatusView, peers: &[PeerView], routes: &[RouteView]) -> Self {
        let me = std::iter::once((status.node_id, &status.spiffe_id));
        let peers = peers.iter().map(|peer| (peer.node_id, &peer.spiffe_id));
        let routes = routes.iter().filter_map(|route| Some((route.node_id, route.spiffe_id.as_ref()?)));
        Self(me.chain(peers).chain(routes).map(|(id, spiffe_id)| (id, short(spiffe_id, status))).collect())
    }

    /// The name of `node`, or the beginning of its id if it has none here.
    pub fn of(&self, node: NodeId) -> String {
        self.0.get(&node).cloned().unwrap_or_else(|| format!("{node:?}"))
    }

    /// The name of an identity, or the identity itself if it has none here.
    pub fn of_id(&self, id: &SpiffeId) -> String {
        self.0.get(&NodeId::of(id)).cloned().unwrap_or_else(|| id.to_string())
    }

    /// The name closest to `typed`, if one is so close that it may have been meant.
    pub fn suggestion(&self, typed: &str) -> Option<&str> {
        let distance = |name: &str| edit_distance(typed, name);
        let closest = self.0.values().min_by_key(|name| distance(name))?;
        (distance(closest) <= typed.chars().count().div_ceil(3)).then_some(closest)
    }
}

/// A node of the own trust domain is called by its name, everybody else by the whole SPIFFE ID.
pub fn short(id: &SpiffeId, status: &StatusView) -> String {
    match id.node_name() {
        Some(name) if *id.trust_domain() == status.trust_domain => name.to_owned(),
        _ => id.to_string(),
    }
}

/// What a node on the way of a trace is called.
pub fn hop_name(hop: &TraceHop, status: &StatusView) -> String {
    hop.spiffe_id.as_ref().map_or_else(|| format!("{:?}", hop.node), |id| short(id, status))
}

/// Levenshtein's distance: how many letters must change.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_differ_are_counted() {
        for (a, b, distance) in
            [("", "", 0), ("beta", "beta", 0), ("bata", "beta", 1), ("eta", "beta", 1), ("", "abc", 3)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
