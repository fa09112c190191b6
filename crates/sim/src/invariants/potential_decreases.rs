//! Along every successor edge, (-epoch, -sequence, feasible distance) becomes strictly smaller. This is why the union of all
//! successor graphs has no loop (docs/design/0003-routing-xmr.md).

use x0t_model::NodeId;
use x0t_node::Node;

use super::{Broken, Lookup, carrier};

pub fn check<'n>(node: &Node, destination: NodeId, lookup: &Lookup<'n>) -> Result<(), Broken> {
    if destination == node.id() {
        return Ok(());
    }
    for successor in node.router().successors(destination) {
        let Some(own) = node.router().potential(destination) else {
            return Err(format!("{:?} has successors for {destination:?} and no potential", node.id()));
        };
        let Some(theirs) = carrier(node, successor.peer, lookup).and_then(|peer| peer.router().potential(destination))
        else {
            continue;
        };
        if theirs >= own {
            return Err(format!(
                "{:?} -> {:?} for {destination:?}: potential {theirs:?} is not below {own:?}",
                node.id(),
                successor.peer
            ));
        }
    }
    Ok(())
}
