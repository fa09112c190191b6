//! A thousand nodes in the ordinary test run. `X0T_SIM_NODES=10000 cargo test --release -p x0t-sim --test thousand` on demand.

use std::time::Duration;

use x0t_model::Entropy;
use x0t_sim::{Terms, Topology, World};

#[test]
#[expect(clippy::disallowed_methods, reason = "the size is for whoever runs the test to choose")]
fn a_thousand_nodes_find_each_other_lose_ten_and_heal() {
    let nodes = std::env::var("X0T_SIM_NODES").ok().and_then(|nodes| nodes.parse().ok()).unwrap_or(1000);
    let seed = 2026;
    let topology = Topology::geometric_with_backbone(nodes, 5.0, nodes / 8, &mut Entropy::new([26; 32]));
    let mut world = World::new(topology, Terms { watch_every_event: false, ..Terms::seeded(seed) });
    world.start_all();
    let second = Duration::from_secs(1);
    let met = world.wait_for(60 * second, second, World::all_reach_all);
    assert!(met.is_some(), "seed {seed}: {:?} cannot reach", world.first_unreachable());
    world.audit();
    let lost: Vec<usize> = (0..10).map(|n| n * nodes / 10 + 7).collect();
    for host in &lost {
        world.kill(*host);
    }
    world.advance(2 * second);
    world.audit();
    for host in &lost {
        world.start(*host);
    }
    let healed = world.wait_for(60 * second, second, World::all_reach_all);
    assert!(healed.is_some(), "seed {seed}: {:?} cannot reach after healing", world.first_unreachable());
    world.audit();
}
