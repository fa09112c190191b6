//! What an attacker can try: one who sees and sends datagrams, one who holds a valid identity, one who wants in. Each test says
//! what the attacker gets, which is nothing, and where it is counted.

#![expect(clippy::unwrap_used, reason = "what the tests' own tools cannot do fails the test")]

mod joining;
mod mallory;
mod member;
mod trust;
mod wire;

use std::time::Duration;

use x0t_node::{Reply, What};
use x0t_sim::{Terms, Topology, World};

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);

fn settled(topology: &str, terms: Terms) -> World {
    let mut world = World::new(Topology::of(topology), terms);
    world.start_all();
    reach(&mut world);
    world
}

fn reach(world: &mut World) {
    let met = world.wait_for(90 * SECOND, STEP, World::all_reach_all);
    assert!(met.is_some(), "seed {}: {:?} cannot reach", world.seed(), world.first_unreachable());
}

/// A ping that is answered proves route, session and both ends.
fn assert_ping(world: &mut World, a: usize, b: usize) {
    let ping = world.ping(a, b);
    world.advance(3 * SECOND);
    assert!(matches!(world.reply(ping), Some((_, Reply::Pong { .. }))), "{:?}", world.reply(ping));
}

fn counter(world: &World, host: usize, name: &str) -> u64 {
    let counters = world.view(host).counters;
    *counters.get(name).unwrap_or_else(|| panic!("{name} is none of {:?}", counters.keys()))
}

/// What a host refused, in its own words.
fn refusals(world: &World, host: usize) -> Vec<&str> {
    let told = world.events().iter().filter(|(of, ..)| *of == host);
    told.filter_map(|(_, _, what)| if let What::Refused { reason } = what { Some(reason.as_str()) } else { None })
        .collect()
}

/// Everything an attack must not change: neighbours with their addresses, and who carries for whom.
fn standing(world: &World, host: usize) -> (Vec<(String, String)>, Vec<Option<x0t_model::NodeId>>) {
    let peers = world.view(host).peers;
    let peers = peers.iter().map(|peer| (peer.spiffe_id.to_string(), peer.address.to_string())).collect();
    let node = world.node(host).unwrap();
    (peers, (0..world.hosts()).map(|other| node.next_hop(world.id(other))).collect())
}
