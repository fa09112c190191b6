//! The simulated underlay: who hears what, when, and in what shape.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use x0t_model::Entropy;
use x0t_overlay::packet::{FORWARD, FORWARD_OVERHEAD, PROTECTED};

use crate::topology::Topology;

/// The port every simulated host listens on.
const PORT: u16 = 4600;

/// How badly a link treats datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Datagrams lost, in a million.
    pub loss_per_million: u32,
    /// Datagrams that arrive twice, in a million.
    pub duplicate_per_million: u32,
    /// Datagrams with one byte changed, in a million.
    pub corrupt_per_million: u32,
    /// Added delay is uniform between zero and this, so datagrams may overtake each other.
    pub jitter: Duration,
}

/// A host that says what a relay says, and drops what it should carry: datagrams of data that it sends on, not those of its own
/// sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Datagrams lost, in a million.
    pub loss_per_million: u32,
    /// Only longer ones fall in.
    pub longer_than: usize,
}

/// What becomes of one datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The receiving host.
    pub to: usize,
    /// On the way for this long.
    pub after: Duration,
    /// What arrives.
    pub bytes: Vec<u8>,
}

/// The underlay.
#[derive(Debug)]
pub struct Network {
    delays: BTreeMap<(usize, usize), Duration>,
    cut: BTreeSet<(usize, usize)>,
    /// The longest datagram that passes, where that is limited.
    limits: BTreeMap<(usize, usize), usize>,
    holes: BTreeMap<usize, Hole>,
    /// Sessions whose packets came behind a hop header while there were holes.
    relayed: BTreeSet<[u8; 4]>,
    weather: Weather,
    entropy: Entropy,
    /// Datagrams handed in.
    pub sent: u64,
    /// Datagrams lost, for whatever reason.
    pub lost: u64,
}

impl Network {
    /// The underlay of `topology` in fair weather.
    pub fn new(topology: &Topology, entropy: Entropy) -> Self {
        Self {
            delays: topology.links.clone(),
            cut: BTreeSet::new(),
            limits: BTreeMap::new(),
            holes: BTreeMap::new(),
            relayed: BTreeSet::new(),
            weather: Weather::default(),
            entropy,
            sent: 0,
            lost: 0,
        }
    }

    /// Where host number `host` listens.
    pub fn address(host: usize) -> SocketAddr {
        let [_, a, b, c] = u32::try_from(host).unwrap_or(0).to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, a, b, c), PORT))
    }

    /// Which host listens at `address`.
    pub fn host_at(address: SocketAddr) -> Option<usize> {
        match address {
            SocketAddr::V4(v4) if v4.port() == PORT && v4.ip().octets()[0] == 10 => {
                let [_, a, b, c] = v4.ip().octets();
                usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()
            }
            _ => None,
        }
    }

    /// How all links treat datagrams from here on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Makes a host drop data that it relays.
    pub fn dig(&mut self, host: usize, hole: Hole) {
        self.holes.insert(host, hole);
    }

    /// Undoes [`Self::dig`].
    pub fn fill(&mut self, host: usize) {
        self.holes.remove(&host);
    }

    /// Drops everything between two hosts, silently, in both directions.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Undoes [`Self::cut`].
    pub fn mend(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
    }

    /// Drops what is longer than `len` bytes of UDP payload between two hosts, silently, in both directions.
    pub fn limit(&mut self, a: usize, b: usize, len: usize) {
        self.limits.insert((a.min(b), a.max(b)), len);
    }

    /// Cuts every link between `island` and the rest.
    pub fn partition(&mut self, island: &BTreeSet<usize>) {
        let crossing = self.delays.keys().filter(|(a, b)| island.contains(a) != island.contains(b));
        self.cut.extend(crossing.copied().collect::<Vec<_>>());
    }

    /// Removes every fault.
    pub fn mend_all(&mut self) {
        self.cut.clear();
        self.limits.clear();
        self.holes.clear();
        self.weather = Weather::default();
    }

    /// Whether datagrams can pass between two hosts.
    pub fn is_linked(&self, a: usize, b: usize) -> bool {
        let pair = (a.min(b), a.max(b));
        self.delays.contains_key(&pair) && !self.cut.contains(&pair)
    }

    /// Whether a host relays this, with a hop header or to its destination without. Sees what enters holes before what leaves them.
    fn is_relayed(&mut self, packet: &[u8]) -> bool {
        let session = |packet: &[u8]| match packet {
            [PROTECTED, _, a, b, c, d, ..] => Some([*a, *b, *c, *d]),
            _ => None,
        };
        if packet.first() != Some(&FORWARD) {
            return session(packet).is_some_and(|session| self.relayed.contains(&session));
        }
        self.relayed.extend(packet.get(FORWARD_OVERHEAD..).and_then(session));
        true
    }

    /// Carries one datagram from `from` to `address`.
    pub fn carry(&mut self, from: usize, address: SocketAddr, mut bytes: Vec<u8>) -> Vec<Arrival> {
        self.sent += 1;
        let passes = |to: &usize| {
            let limit = self.limits.get(&(from.min(*to), from.max(*to)));
            self.is_linked(from, *to) && limit.is_none_or(|limit| bytes.len() <= *limit)
        };
        let Some(to) = Self::host_at(address).filter(passes) else {
            self.lost += 1;
            return Vec::new();
        };
        let hole = self.holes.get(&from).copied();
        let is_relayed = !self.holes.is_empty() && self.is_relayed(&bytes);
        let hole = hole.filter(|hole| is_relayed && bytes.len() > hole.longer_than);
        let swallowed = hole.is_some_and(|hole| self.entropy.chance(hole.loss_per_million));
        if swallowed || self.entropy.chance(self.weather.loss_per_million) {
            self.lost += 1;
            return Vec::new();
        }
        if self.weather.corrupt_per_million > 0 && self.entropy.chance(self.weather.corrupt_per_million) {
            let at = self.entropy.below(bytes.len() as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << self.entropy.below(8);
            }
        }
        let copies = if self.entropy.chance(self.weather.duplicate_per_million) { 2 } else { 1 };
        let delay = self.delays[&(from.min(to), from.max(to))];
        let jitter = self.weather.jitter.as_nanos() as u64;
        (0..copies)
            .map(|_| Arrival {
                to,
                after: delay + Duration::from_nanos(self.entropy.below(jitter)),
                bytes: bytes.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network::new(&Topology::of("A-B:2 B-C:3"), Entropy::new([1; 32]))
    }

    #[test]
    fn a_datagram_arrives_after_the_links_delay_and_only_where_there_is_a_link() {
        let mut network = network();
        let arrivals = network.carry(0, Network::address(1), vec![7]);
        assert_eq!(arrivals, [Arrival { to: 1, after: Duration::from_millis(2), bytes: vec![7] }]);
        assert_eq!(network.carry(0, Network::address(2), vec![7]), []);
        network.cut(1, 0);
        assert_eq!(network.carry(0, Network::address(1), vec![7]), []);
        network.mend_all();
        assert!(network.is_linked(0, 1));
        assert_eq!((network.sent, network.lost), (3, 2));
    }

    #[test]
    fn what_is_longer_than_a_link_carries_vanishes() {
        let mut network = network();
        network.limit(1, 0, 1372);
        assert_eq!(network.carry(0, Network::address(1), vec![7; 1372]).len(), 1);
        assert_eq!(network.carry(1, Network::address(0), vec![7; 1373]), []);
        assert_eq!(network.carry(2, Network::address(1), vec![7; 9000]).len(), 1);
    }

    #[test]
    fn a_partition_cuts_just_what_crosses_it() {
        let mut network = network();
        network.partition(&BTreeSet::from([0, 1]));
        assert!(network.is_linked(0, 1) && !network.is_linked(1, 2));
    }

    #[test]
    fn weather_is_as_bad_as_it_says() {
        let mut network = network();
        network.set_weather(Weather {
            loss_per_million: 300_000,
            duplicate_per_million: 100_000,
            ..Weather::default()
        });
        let arrived: usize = (0..10_000).map(|_| network.carry(0, Network::address(1), vec![0]).len()).sum();
        assert!((7_400..8_000).contains(&arrived), "{arrived}");
    }

    #[test]
    fn an_address_names_its_host() {
        assert_eq!(Network::host_at(Network::address(70_000)), Some(70_000));
        assert_eq!(Network::host_at(SocketAddr::from(([127, 0, 0, 1], 4600))), None);
    }
}
