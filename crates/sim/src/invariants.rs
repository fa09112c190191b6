//! What must hold at every instant, whatever is lost, cut, killed or forged. One per file.

mod no_admission_without_svid;
mod no_forwarding_loop;
mod no_plaintext;
mod potential_decreases;

use std::collections::{BTreeMap, BTreeSet};

use x0t_model::NodeId;
use x0t_node::{Node, What};

pub use no_plaintext::MARKER;

/// A sentence that turned out not to be true.
pub type Broken = String;

/// Finds a running node by its id.
pub type Lookup<'n> = dyn Fn(NodeId) -> Option<&'n Node> + 'n;

/// An audit follows the ways to one destination of so many.
const LOOPS_FOLLOWED: usize = 64;

/// All invariants, with what they remember between events.
#[derive(Debug, Default)]
pub struct Invariants {
    /// Destinations whose route changed at a node since it was last looked at.
    changed: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Invariants {
    /// A node told something about itself.
    pub fn heard(&mut self, node: NodeId, what: &What) {
        if let What::RouteChanged { destination, .. } = what {
            self.changed.entry(node).or_default().insert(*destination);
        }
    }

    /// A datagram is about to travel.
    ///
    /// # Panics
    /// If it shows what it must hide.
    pub fn on_the_wire(&self, datagram: &[u8]) {
        no_plaintext::check(datagram);
    }

    /// Looks at a node that was just touched: all it says about its neighbours, and the routes that changed.
    pub fn check<'n>(&mut self, node: &Node, lookup: &Lookup<'n>) -> Result<(), Broken> {
        no_admission_without_svid::check(node)?;
        for destination in self.changed.remove(&node.id()).unwrap_or_default() {
            potential_decreases::check(node, destination, lookup)?;
            no_forwarding_loop::check(node, destination, lookup)?;
        }
        Ok(())
    }

    /// Looks at everything a node knows, changed or not.
    pub fn audit<'n>(&mut self, node: &Node, lookup: &Lookup<'n>) -> Result<(), Broken> {
        self.changed.remove(&node.id());
        no_admission_without_svid::check(node)?;
        for (number, destination) in node.router().destinations().enumerate() {
            potential_decreases::check(node, destination, lookup)?;
            // That it decreases along every edge already rules out loops; following them all as well is a check of that
            // argument, and a sample of them will do.
            if number % LOOPS_FOLLOWED == 0 {
                no_forwarding_loop::check(node, destination, lookup)?;
            }
        }
        Ok(())
    }
}

/// The neighbour `peer` of `node`, if what `node` sends it is taken: it runs, and it is still the run that the session was made
/// with. One that restarted has lost the session's keys, so it drops everything until a new session makes `node` forget too.
fn carrier<'n>(node: &Node, peer: NodeId, lookup: &Lookup<'n>) -> Option<&'n Node> {
    let (.., incarnation) = node.neighbors().find(|(id, ..)| *id == peer)?;
    lookup(peer).filter(|running| running.incarnation() == incarnation)
}
