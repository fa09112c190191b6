//! Nobody is a neighbour, and nobody's anchor counts, whose identity was not verified; and an id belongs to just the identity
//! that it hashes to.

use x0t_model::NodeId;
use x0t_node::Node;

use super::Broken;

pub fn check(node: &Node) -> Result<(), Broken> {
    for (id, spiffe_id, _) in node.neighbors() {
        if NodeId::of(spiffe_id) != id {
            return Err(format!("{:?} carries for {id:?} in the name of {spiffe_id}", node.id()));
        }
        if spiffe_id.trust_domain() != node.spiffe_id().trust_domain() {
            return Err(format!("{:?} admitted {spiffe_id} of another trust domain", node.id()));
        }
    }
    Ok(())
}
