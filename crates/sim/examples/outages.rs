//! How long a stream is interrupted by each fault of a long story: `cargo run --release -p x0t-sim --example outages -- 60 1 2000`:
//! sixty faults, seed 1, up to 2000 us of jitter.
//!
//! The mesh is that of `x0t demo`: two end points, four relays, two disjoint ways at least. Relays in use are killed and frozen,
//! links in use are cut, each is repaired, and the next fault follows when all is well again.

use std::time::Duration;

use x0t_sim::{Stream, Terms, Topology, Weather, World};

const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let (faults, seed) = (arguments.next().unwrap_or(60), arguments.next().unwrap_or(1));
    let topology = Topology::of("A-B:0.1 A-C:0.1 B-D:0.1 B-E:0.1 C-D:0.1 C-E:0.1 D-F:0.1 E-F:0.1");
    let mut world = World::new(topology, Terms::seeded(seed));
    let (a, f) = (world.host("A"), world.host("F"));
    world.start_all();
    world.wait_for(20 * SECOND, SECOND / 10, World::all_reach_all);
    world.advance(2 * SECOND);
    let jitter = Duration::from_micros(arguments.next().unwrap_or(0));
    world.network.set_weather(Weather { jitter, ..Weather::default() });
    let mut gaps = Vec::new();
    for number in 0..faults {
        let Some(path) = world.path(a, f) else { break };
        let (relay, link) =
            (path[1 + (number as usize / 3) % 2], (path[number as usize % 3], path[number as usize % 3 + 1]));
        let began = world.now() + SECOND;
        let Stream { longest_gap, lost, .. } =
            world.stream((a, f), Duration::from_millis(10), 4 * SECOND, SECOND, |world| match number % 3 {
                0 => world.kill(relay),
                1 => world.freeze(relay),
                _ => world.network.cut(link.0, link.1),
            });
        let what = match number % 3 {
            0 => format!("kill {relay}"),
            1 => format!("freeze {relay}"),
            _ => format!("cut {link:?}"),
        };
        println!("{number} at {began:?}: {what} on {path:?}: {longest_gap:?}, {lost} lost");
        gaps.push(longest_gap);
        match number % 3 {
            0 => world.start(relay),
            1 => world.thaw(relay),
            _ => world.network.mend(link.0, link.1),
        }
        world.wait_for(20 * SECOND, SECOND / 10, |world| world.all_reach_all() && world.links_up() == 16);
        world.advance(SECOND / 10);
    }
    gaps.sort();
    println!("p50 {:?} p90 {:?} max {:?}", gaps[gaps.len() / 2], gaps[gaps.len() * 9 / 10], gaps[gaps.len() - 1]);
}
