//! Who can reach whom on the underlay.

use std::collections::BTreeMap;
use std::time::Duration;

use x0t_model::Entropy;

/// Hosts by number and the underlay links between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Each host's name, by its number.
    pub names: Vec<String>,
    /// Links between two different hosts, lower number first, with their one-way delay.
    pub links: BTreeMap<(usize, usize), Duration>,
}

impl Topology {
    /// Reads links like `A-B:1 B-C:1 A-C:5`: two names and the one-way delay in milliseconds (1 if absent).
    ///
    /// # Panics
    /// If the text is anything else; it is written by whoever writes the test.
    pub fn of(text: &str) -> Self {
        let mut topology = Self::default();
        for link in text.split_whitespace() {
            let (ends, delay) = link.split_once(':').unwrap_or((link, "1"));
            let (a, b) = ends.split_once('-').unwrap_or_else(|| panic!("`{link}` is no link: write `A-B:1`"));
            let millis: f64 = delay.parse().unwrap_or_else(|_| panic!("`{delay}` is no delay in milliseconds"));
            let (a, b) = (topology.number(a), topology.number(b));
            topology.join(a, b, Duration::from_secs_f64(millis / 1e3));
        }
        topology
    }

    /// `hosts` hosts in a circle, 1 ms apart.
    pub fn ring(hosts: usize) -> Self {
        let mut topology = Self::unlinked(hosts);
        for host in 0..hosts {
            topology.join(host, (host + 1) % hosts, Duration::from_millis(1));
        }
        topology
    }

    /// `hosts` points on a unit square, each linked to its nearest neighbours so that the mean degree is about `degree`, and
    /// whatever is cut off linked to the nearest point of the rest. Delay grows with distance, 1 ms to 10 ms.
    pub fn geometric(hosts: usize, degree: f64, entropy: &mut Entropy) -> Self {
        let mut topology = Self::unlinked(hosts);
        let mut coordinate = || entropy.below(1 << 20) as f64 / f64::from(1 << 20);
        let points: Vec<(f64, f64)> = (0..hosts).map(|_| (coordinate(), coordinate())).collect();
        let distance = |a: usize, b: usize| (points[a].0 - points[b].0).hypot(points[a].1 - points[b].1);
        let delay = |d: f64| Duration::from_micros(1_000 + (d * 9_000.0) as u64);
        let reach = (degree / (std::f64::consts::PI * hosts as f64)).sqrt();
        for a in 0..hosts {
            for b in a + 1..hosts {
                if distance(a, b) <= reach {
                    topology.join(a, b, delay(distance(a, b)));
                }
            }
        }
        while let Some(inside) = topology.first_component().filter(|inside| inside.len() < hosts) {
            let outside = (0..hosts).filter(|host| !inside.contains(host));
            let gaps = outside.flat_map(|out| inside.iter().map(move |&host| (host, out)));
            if let Some((a, b)) = gaps.min_by(|x, y| distance(x.0, x.1).total_cmp(&distance(y.0, y.1))) {
                topology.join(a, b, delay(distance(a, b)));
            }
        }
        topology
    }

    /// The same with `lines` long links between hosts chosen at random, as between cities: what keeps a large mesh's diameter
    /// below the 32 hops that a path may have.
    pub fn geometric_with_backbone(hosts: usize, degree: f64, lines: usize, entropy: &mut Entropy) -> Self {
        let mut topology = Self::geometric(hosts, degree, entropy);
        for _ in 0..lines {
            let (a, b) = (entropy.below(hosts as u64) as usize, entropy.below(hosts as u64) as usize);
            topology.join(a, b, Duration::from_millis(5 + entropy.below(10)));
        }
        topology
    }

    /// How many hosts there are.
    pub fn hosts(&self) -> usize {
        self.names.len()
    }

    /// The hosts that `host` has a link to.
    pub fn neighbors(&self, host: usize) -> impl Iterator<Item = usize> {
        self.links.keys().filter_map(move |&(a, b)| match host {
            host if host == a => Some(b),
            host if host == b => Some(a),
            _ => None,
        })
    }

    /// The number of the host called `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn find(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or_else(|| panic!("no host is called `{name}`"))
    }

    fn unlinked(hosts: usize) -> Self {
        Self { names: (0..hosts).map(|host| format!("n{host}")).collect(), links: BTreeMap::new() }
    }

    fn number(&mut self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn join(&mut self, a: usize, b: usize, delay: Duration) {
        if a != b {
            self.links.insert((a.min(b), a.max(b)), delay);
        }
    }

    /// The hosts that can be reached from host 0, in order; `None` without hosts.
    fn first_component(&self) -> Option<Vec<usize>> {
        let mut adjacent = vec![Vec::new(); self.hosts()];
        for &(a, b) in self.links.keys() {
            adjacent[a].push(b);
            adjacent[b].push(a);
        }
        let mut seen = vec![false; self.hosts()];
        let mut pending = vec![0];
        *seen.first_mut()? = true;
        while let Some(host) = pending.pop() {
            for &next in &adjacent[host] {
                if !std::mem::replace(&mut seen[next], true) {
                    pending.push(next);
                }
            }
        }
        Some((0..self.hosts()).filter(|host| seen[*host]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_hosts_and_delays() {
        let topology = Topology::of("A-B:1 B-C A-C:5");
        assert_eq!(topology.names, ["A", "B", "C"]);
        assert_eq!(topology.links[&(0, 2)], Duration::from_millis(5));
        assert_eq!(topology.neighbors(1).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(topology.find("C"), 2);
    }

    #[test]
    fn a_geometric_mesh_hangs_together_and_has_about_the_degree_asked_for() {
        let topology = Topology::geometric(300, 8.0, &mut Entropy::new([3; 32]));
        assert_eq!(topology.first_component().map(|hosts| hosts.len()), Some(300));
        let degree = 2.0 * topology.links.len() as f64 / 300.0;
        assert!((5.0..9.0).contains(&degree), "{degree}");
        assert_eq!(topology, Topology::geometric(300, 8.0, &mut Entropy::new([3; 32])));
    }
}
