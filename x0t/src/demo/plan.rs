//! The mesh to build: who is there, and who is linked to whom.

/// A mesh whose two ends are apart and in which no relay and no link is the only way.
///
/// The relays stand in layers of two or three between the ends, and everybody is linked to everybody of the next layer:
///
/// ```text
///      b ─── d
///    /   \ /   \
///   a     X     f
///    \   / \   /
///      c ─── e
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    layers: Vec<Vec<usize>>,
    links: Vec<(usize, usize)>,
}

impl Plan {
    /// The mesh of `nodes` nodes, at least 4.
    pub fn of(nodes: usize) -> Self {
        let mut layers = vec![vec![0]];
        let mut next = 1;
        while next < nodes - 1 {
            let relays_left = nodes - 1 - next;
            let width = if relays_left == 3 { 3 } else { 2.min(relays_left) };
            layers.push((next..next + width).collect());
            next += width;
        }
        layers.push(vec![nodes - 1]);
        let links = layers
            .windows(2)
            .flat_map(|pair| pair[0].iter().flat_map(|&near| pair[1].iter().map(move |&far| (near, far))))
            .collect();
        Self { layers, links }
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.layers.iter().map(Vec::len).sum()
    }

    /// The links, the end nearer to the sender first.
    pub fn links(&self) -> &[(usize, usize)] {
        &self.links
    }

    /// The node that sends. It is the authority, too: the first one up, and the one that nobody breaks.
    pub fn sender(&self) -> usize {
        0
    }

    /// The node that answers.
    pub fn receiver(&self) -> usize {
        self.len() - 1
    }

    /// What a node is called.
    pub fn name(&self, node: usize) -> String {
        char::from(b'a' + node as u8).to_string()
    }

    /// What a node does.
    pub fn role(&self, node: usize) -> &'static str {
        match node {
            node if node == self.sender() => "sends",
            node if node == self.receiver() => "answers",
            _ => "relay",
        }
    }

    /// The link between two nodes, by its place in [`Self::links`].
    pub fn link_between(&self, one: usize, two: usize) -> Option<usize> {
        self.links.iter().position(|&link| link == (one, two) || link == (two, one))
    }

    /// Who is linked to `node`.
    pub fn neighbors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.links.iter().filter_map(move |&(a, b)| (a == node).then_some(b).or((b == node).then_some(a)))
    }

    /// In which order the nodes join: everybody of a layer at once, through somebody of the layer before.
    pub fn layers(&self) -> &[Vec<usize>] {
        &self.layers
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reached(plan: &Plan, without_node: Option<usize>, without_link: Option<usize>) -> usize {
        let start = plan.sender();
        let (mut seen, mut open) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = open.pop() {
            for (index, &(a, b)) in plan.links().iter().enumerate() {
                if Some(index) == without_link || without_node.is_some_and(|gone| gone == a || gone == b) {
                    continue;
                }
                let other = if a == node {
                    b
                } else if b == node {
                    a
                } else {
                    continue;
                };
                if seen.insert(other) {
                    open.push(other);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn whatever_relay_or_link_is_lost_the_others_reach_each_other() {
        for nodes in 4..=12 {
            let plan = Plan::of(nodes);
            assert_eq!((plan.len(), reached(&plan, None, None)), (nodes, nodes));
            assert!((0..plan.links().len()).all(|link| reached(&plan, None, Some(link)) == nodes), "{plan:?}");
            assert!((1..nodes - 1).all(|relay| reached(&plan, Some(relay), None) == nodes - 1), "{plan:?}");
        }
    }

    #[test]
    fn the_ends_need_a_relay() {
        for nodes in 4..=12 {
            let plan = Plan::of(nodes);
            assert_eq!(plan.link_between(plan.sender(), plan.receiver()), None);
            assert!(plan.neighbors(plan.receiver()).count() >= 2);
        }
    }

    #[test]
    fn six_nodes_are_two_layers_of_relays() {
        let plan = Plan::of(6);
        assert_eq!(plan.links(), [(0, 1), (0, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 5), (4, 5)]);
        assert_eq!(plan.link_between(4, 2), Some(5));
        assert_eq!(plan.neighbors(3).collect::<Vec<_>>(), [1, 2, 5]);
        assert_eq!((plan.name(5), plan.role(0), plan.role(1), plan.role(5)), ("f".into(), "sends", "relay", "answers"));
    }
}
