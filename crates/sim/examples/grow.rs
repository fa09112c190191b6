//! How a mesh of a given size grows: `cargo run --release -p x0t-sim --example grow -- 1000 30`.

use std::time::Duration;

use x0t_model::Entropy;
use x0t_sim::{Terms, Topology, World};

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let (nodes, seconds) = (arguments.next().unwrap_or(1000) as usize, arguments.next().unwrap_or(30));
    let topology = Topology::geometric_with_backbone(nodes, 5.0, nodes / 8, &mut Entropy::new([26; 32]));
    println!("{nodes} hosts, {} links", topology.links.len());
    let mut world = World::new(topology, Terms { watch_every_event: false, ..Terms::seeded(2026) });
    world.start_all();
    for _ in 0..seconds {
        world.advance(Duration::from_secs(1));
        let known: usize =
            (0..nodes).filter_map(|host| world.node(host)).map(|node| node.router().destinations().count()).sum();
        let pairs = nodes * (nodes - 1);
        println!(
            "{:?}: {} events, {} datagrams, {:.2} % of {pairs} pairs known",
            world.now(),
            world.handled(),
            world.network.sent,
            100.0 * known as f64 / pairs as f64
        );
    }
}
