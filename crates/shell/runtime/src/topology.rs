//! What one node knows of the mesh, as a graph for people to look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use x0t_model::{NodeId, SpiffeId};
use x0t_node::{RouteView, View};

/// The mesh as one node sees it. Several nodes' views put together are the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Whose view it is.
    #[serde(rename = "self")]
    pub me: NodeId,
    /// Every node it knows of, itself first.
    pub nodes: Vec<Node>,
    /// Its own links.
    pub links: Vec<Link>,
    /// Its best way to each destination, as far as it knows it.
    pub routes: Vec<Route>,
    /// Traffic in progress. Always empty: the node does not measure flows.
    pub flows: Vec<serde_json::Value>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, or the beginning of its id.
    pub name: String,
    /// Its identity, once known.
    pub spiffe_id: Option<SpiffeId>,
    /// `self`, `up`, `suspect`, `down` or `unreachable`.
    pub state: String,
}

/// A link of the node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The node itself.
    pub a: NodeId,
    /// Its neighbour.
    pub b: NodeId,
    /// `up`, `suspect` or `down`.
    pub state: String,
    /// Its cost, microseconds.
    pub cost_us: u32,
    /// Its round-trip time, microseconds.
    pub rtt_us: Option<u32>,
}

/// A way to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The node itself.
    pub from: NodeId,
    /// The destination.
    pub to: NodeId,
    /// The part of the way that is known: the node itself, the next hop, the destination. Relays in between are not known here.
    pub path: Vec<NodeId>,
}

impl From<&View> for Topology {
    fn from(view: &View) -> Self {
        let me = view.status.node_id;
        let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
        for peer in &view.peers {
            let state = peer.state.clone();
            nodes.insert(peer.node_id, node(peer.node_id, Some(&peer.spiffe_id), &state));
        }
        let best = |route: &RouteView| route.successors.iter().find(|successor| successor.usable).map(|best| best.via);
        for route in view.routes.iter().filter(|route| route.node_id != me) {
            let reachable = best(route).is_some();
            let known = nodes
                .entry(route.node_id)
                .or_insert_with(|| node(route.node_id, route.spiffe_id.as_ref(), "unreachable"));
            match known.state.as_str() {
                // A neighbour whose link is down is not lost as long as others lead to it.
                "down" | "unreachable" if reachable => known.state = "up".to_owned(),
                _ => {}
            }
        }
        let mut me_first = vec![Node { state: "self".to_owned(), ..node(me, Some(&view.status.spiffe_id), "self") }];
        me_first.extend(nodes.into_values().filter(|node| node.id != me));
        let links = view.peers.iter().map(|peer| Link {
            a: me,
            b: peer.node_id,
            state: peer.state.clone(),
            cost_us: peer.cost_us,
            rtt_us: peer.rtt_us,
        });
        let routes = view.routes.iter().filter_map(|route| {
            let (to, via) = (route.node_id, best(route)?);
            let path = if via == to { vec![me, to] } else { vec![me, via, to] };
            Some(Route { from: me, to, path })
        });
        Self { me, nodes: me_first, links: links.collect(), routes: routes.collect(), flows: Vec::new() }
    }
}

fn node(id: NodeId, spiffe_id: Option<&SpiffeId>, state: &str) -> Node {
    let name = spiffe_id.and_then(SpiffeId::node_name).map(ToOwned::to_owned);
    Node {
        id,
        name: name.unwrap_or_else(|| id.to_string().chars().take(8).collect()),
        spiffe_id: spiffe_id.cloned(),
        state: state.to_owned(),
    }
}
