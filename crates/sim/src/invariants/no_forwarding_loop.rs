//! Following each node's own successors, whichever of them is taken, never comes back.

use std::collections::BTreeSet;

use x0t_model::NodeId;
use x0t_node::Node;

use super::{Broken, Lookup, carrier};

/// How many nodes are followed from one; a loop is found from any node on it, so depth is what matters, not breadth.
const VISITS_MAX: usize = 512;

pub fn check<'n>(start: &Node, destination: NodeId, lookup: &Lookup<'n>) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    let mut pending: Vec<Vec<&Node>> =
        carriers(start, destination, lookup).into_iter().map(|node| vec![node]).collect();
    while let Some(path) = pending.pop() {
        let Some(node) = path.last() else { continue };
        if node.id() == start.id() {
            let told = |node: &Node| format!("{:?} {:?}", node.id(), node.router().potential(destination));
            let path: Vec<String> = path.iter().map(|node| told(node)).collect();
            return Err(format!(
                "a packet for {destination:?} can come back: {} -> {}",
                told(start),
                path.join(" -> ")
            ));
        }
        if node.id() != destination && seen.len() < VISITS_MAX && seen.insert(node.id()) {
            pending.extend(
                carriers(node, destination, lookup).into_iter().map(|next| [path.as_slice(), &[next]].concat()),
            );
        }
    }
    Ok(())
}

fn carriers<'n>(node: &Node, destination: NodeId, lookup: &Lookup<'n>) -> Vec<&'n Node> {
    node.router().successors(destination).filter_map(|successor| carrier(node, successor.peer, lookup)).collect()
}
