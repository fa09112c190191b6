//! Random meshes, random cuts, loss and restarts: no loop at any instant, and everybody is reached again once the faults are
//! gone.

use std::time::Duration;

use x0t_model::Entropy;
use x0t_routing::RoutingConfig;

use crate::net::Net;

/// A ring, so that it hangs together, and some chords.
fn random_topology(dice: &mut Entropy, nodes: u64) -> String {
    let delay = |dice: &mut Entropy| 0.3 + dice.below(9_000) as f64 / 1e3;
    let mut wires = Vec::new();
    for n in 0..nodes {
        wires.push((n, (n + 1) % nodes));
    }
    for _ in 0..nodes {
        let (a, b) = (dice.below(nodes), dice.below(nodes));
        if a != b && !wires.contains(&(a, b)) && !wires.contains(&(b, a)) {
            wires.push((a, b));
        }
    }
    let text: Vec<String> = wires.iter().map(|(a, b)| format!("n{a}-n{b}:{:.3}", delay(dice))).collect();
    text.join(" ")
}

fn storm(seed: u8) {
    eprintln!("seed {seed}");
    let mut dice = Entropy::new([seed; 32]);
    let nodes = 6 + dice.below(7);
    let topology = random_topology(&mut dice, nodes);
    eprintln!("topology {topology}");
    let config = RoutingConfig { chain_seqs: 24 + dice.below(100) as u32, ..RoutingConfig::default() };
    let mut net = Net::with(&topology, config, seed);
    net.lose(dice.below(200_000) as u32);
    let names = net.names();
    let any = |dice: &mut Entropy| names[dice.below(names.len() as u64) as usize].clone();
    net.advance_ms(1_500);
    for _ in 0..3 {
        let (from, to) = (any(&mut dice), any(&mut dice));
        if from != to {
            net.start_flow(&from, &to);
        }
    }
    let mut killed = None;
    for _ in 0..60 {
        let ends = net.wires[dice.below(net.wires.len() as u64) as usize].ends.map(|end| names[end].clone());
        match dice.below(12) {
            0..4 => net.cut(&ends[0], &ends[1]),
            4..7 => net.heal(&ends[0], &ends[1]),
            7 => net.cut_one_way(&ends[0], &ends[1]),
            8 => net.carrier(&ends[0], &ends[1], false),
            9 => net.carrier(&ends[0], &ends[1], true),
            10 if killed.is_none() => {
                net.kill(&ends[0]);
                killed = Some(ends[0].clone());
            }
            _ => {
                if let Some(name) = killed.take() {
                    net.restart(&name);
                }
            }
        }
        net.advance_ms(20 + dice.below(500));
    }
    if let Some(name) = killed {
        net.restart(&name);
    }
    for wire in 0..net.wires.len() {
        let [a, b] = net.wires[wire].ends.map(|end| names[end].clone());
        net.carrier(&a, &b, true);
        net.heal(&a, &b);
    }
    net.lose(0);
    net.advance(Duration::from_secs(20));
    if let Err(path) = net.everyone_reaches_everyone() {
        panic!("seed {seed}: not healed: {path}");
    }
    assert!(net.audited_edges > 10_000, "seed {seed}: {} edges audited", net.audited_edges);
}

#[test]
fn the_potential_falls_along_every_successor_edge_at_every_instant_of_any_storm() {
    for seed in 0..24 {
        storm(seed);
    }
}
