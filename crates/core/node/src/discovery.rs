//! Finding neighbours in the local network: when to send a beacon, and which of those heard are worth an attempt.
//!
//! Nothing that is heard here is believed. A beacon puts an address into a small table, from which the dialer tries it, with the
//! same pauses as any other. What falls silent is forgotten, so whoever moves away or lies costs a few packets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_model::{Entropy, Instant, NodeId, TrustDomain};

use crate::beacon::{Beacon, BeaconKey};
use crate::ration::Ration;

/// Between two beacons. Each is 57 bytes to every interface.
const INTERVAL: Duration = Duration::from_secs(10);
/// The first beacons come quicker: who starts wants to be found.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BEACONS: u32 = 3;
/// A newcomer is answered within this time, each node at its own instant so that not all shout at once.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// No two beacons closer than this, whoever comes.
const SPACING: Duration = Duration::from_secs(1);
/// An address that sent no beacon for this long is forgotten: three and a half intervals.
const SILENCE: Duration = Duration::from_secs(35);
/// Addresses remembered. A local network with more nodes needs no link between each two of them.
const HEARD_MAX: usize = 64;
/// Beacons that are looked at, at once and per second. Each costs two hashes.
const BURST: u64 = 64;
const PER_SECOND: u64 = 32;

/// How a node takes part in discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// UDP port over IPv4, 0 if the node does not listen there.
    pub port_v4: u16,
    /// UDP port over IPv6, 0 if the node does not listen there.
    pub port_v6: u16,
}

/// Who was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Where to try.
    pub address: SocketAddr,
    /// Who it claims to be.
    pub node: NodeId,
}

/// The local network as heard.
#[derive(Debug)]
pub struct Discovery {
    key: BeaconKey,
    own: Beacon,
    entropy: Entropy,
    /// When each address was heard last, and who it claimed to be.
    heard: BTreeMap<SocketAddr, (Instant, NodeId)>,
    ration: Ration,
    next: Instant,
    last: Option<Instant>,
    sent: u32,
    /// Beacons of this mesh that were read.
    pub beacons_heard: u64,
    /// Whatever else came: other meshes, garbage, and what came too fast.
    pub beacons_ignored: u64,
}

impl Discovery {
    /// Nobody heard yet; the first beacon is due at once.
    pub fn new(
        config: DiscoveryConfig,
        trust_domain: &TrustDomain,
        me: NodeId,
        entropy: Entropy,
        now: Instant,
    ) -> Self {
        Self {
            key: BeaconKey::of(trust_domain),
            own: Beacon { node: me, port_v4: config.port_v4, port_v6: config.port_v6 },
            entropy,
            heard: BTreeMap::new(),
            ration: Ration::new(BURST, PER_SECOND, now),
            next: now,
            last: None,
            sent: 0,
            beacons_heard: 0,
            beacons_ignored: 0,
        }
    }

    /// Something came to the group. Gives the address to try, when it is new or claims to be another's than before.
    pub fn handle_beacon(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> Option<Heard> {
        let beacon = match self.ration.take(now).then(|| self.key.open(bytes)) {
            Some(Ok(beacon)) => beacon,
            Some(Err(_)) | None => {
                self.beacons_ignored += 1;
                return None;
            }
        };
        let (port, own_port) = match from {
            SocketAddr::V4(_) => (beacon.port_v4, self.own.port_v4),
            SocketAddr::V6(_) => (beacon.port_v6, self.own.port_v6),
        };
        if beacon.node == self.own.node || port == 0 || own_port == 0 {
            return None;
        }
        self.beacons_heard += 1;
        let mut address = from;
        address.set_port(port);
        self.forget_silent(now);
        let is_new = !self.heard.contains_key(&address);
        if is_new && self.heard.len() >= HEARD_MAX {
            self.beacons_ignored += 1;
            return None;
        }
        let before = self.heard.insert(address, (now, beacon.node)).map(|(_, claimed)| claimed);
        if is_new {
            self.be_heard_soon(now);
        }
        (before != Some(beacon.node)).then_some(Heard { address, node: beacon.node })
    }

    /// An interface came up: whoever is there does not know of this node yet.
    pub fn be_heard_soon(&mut self, now: Instant) {
        let soon = now + Duration::from_millis(self.entropy.below(ANSWER_WITHIN.as_millis() as u64));
        let earliest = self.last.map_or(soon, |last| soon.max(last + SPACING));
        self.next = self.next.min(earliest);
    }

    /// The beacon to send, if it is time.
    pub fn poll_beacon(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next {
            return None;
        }
        self.sent = self.sent.saturating_add(1);
        let interval = if self.sent < FIRST_BEACONS { FIRST_INTERVAL } else { INTERVAL };
        // Up to a tenth earlier, so that nodes that started together do not stay together.
        let early = Duration::from_millis(self.entropy.below(interval.as_millis() as u64 / 10));
        (self.next, self.last) = (now + interval - early, Some(now));
        Some(self.key.seal(self.own, self.entropy.bytes()))
    }

    /// Addresses that have fallen silent. They are forgotten here.
    pub fn fell_silent(&mut self, now: Instant) -> Vec<SocketAddr> {
        let silent = self.heard.iter().filter(|(_, (at, _))| now.since(*at) >= SILENCE);
        let silent: Vec<_> = silent.map(|(address, _)| *address).collect();
        self.forget_silent(now);
        silent
    }

    fn forget_silent(&mut self, now: Instant) {
        self.heard.retain(|_, (at, _)| now.since(*at) < SILENCE);
    }

    /// When to ask for a beacon, or for those that fell silent.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.heard.values().map(|(at, _)| *at + SILENCE).chain([self.next]).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust_domain() -> TrustDomain {
        "mesh.test".parse().unwrap()
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn discovery(number: u8) -> Discovery {
        let config = DiscoveryConfig { port_v4: 4600, port_v6: 4600 };
        Discovery::new(config, &trust_domain(), node(number), Entropy::new([number; 32]), Instant::ZERO)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn group_port(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 4601))
    }

    fn beacon_of(number: u8, nonce: u8) -> Vec<u8> {
        let beacon = Beacon { node: node(number), port_v4: 4700, port_v6: 0 };
        BeaconKey::of(&trust_domain()).seal(beacon, [nonce; 16])
    }

    #[test]
    fn a_newcomer_is_tried_once_at_the_port_it_names_and_answered_soon() {
        let mut discovery = discovery(1);
        discovery.poll_beacon(at(0)).unwrap();
        let heard = discovery.handle_beacon(group_port(2), &beacon_of(2, 1), at(100)).unwrap();
        assert_eq!(heard, Heard { address: SocketAddr::from(([10, 0, 0, 2], 4700)), node: node(2) });
        assert_eq!(discovery.handle_beacon(group_port(2), &beacon_of(2, 2), at(200)), None, "known by now");
        let other = discovery.handle_beacon(group_port(2), &beacon_of(3, 3), at(300)).map(|heard| heard.node);
        assert_eq!(other, Some(node(3)), "one of the two lies, and only an attempt can tell which");
        let next = discovery.poll_timeout().unwrap();
        assert!(next >= at(0) + SPACING - FIRST_INTERVAL / 10 && next <= at(100) + SPACING, "{next:?}");
    }

    #[test]
    fn its_own_beacon_and_a_family_it_does_not_listen_on_are_nothing_to_try() {
        let mut discovery = discovery(1);
        assert_eq!(discovery.handle_beacon(group_port(2), &beacon_of(1, 1), at(0)), None);
        let over_v6 = "[fe80::1%3]:4601".parse().unwrap();
        assert_eq!(discovery.handle_beacon(over_v6, &beacon_of(2, 1), at(0)), None, "its port over IPv6 is 0");
    }

    #[test]
    fn who_falls_silent_is_forgotten_and_new_again_later() {
        let mut discovery = discovery(1);
        assert!(discovery.handle_beacon(group_port(2), &beacon_of(2, 1), at(0)).is_some());
        assert_eq!(discovery.fell_silent(at(34_999)), []);
        assert_eq!(discovery.fell_silent(at(35_000)), [SocketAddr::from(([10, 0, 0, 2], 4700))]);
        assert!(discovery.handle_beacon(group_port(2), &beacon_of(2, 1), at(36_000)).is_some());
    }

    #[test]
    fn a_flood_of_beacons_fills_no_memory_and_causes_no_flood() {
        let mut discovery = discovery(1);
        let mut tries = 0;
        let mut beacons = 0;
        for step in 0..100_000u32 {
            let now = at(u64::from(step / 100));
            let from = SocketAddr::from(([10, 1, (step >> 8) as u8, step as u8], 4601));
            tries += usize::from(discovery.handle_beacon(from, &beacon_of(2, 1), now).is_some());
            beacons += usize::from(discovery.poll_beacon(now).is_some());
        }
        assert_eq!(tries, HEARD_MAX);
        assert!(beacons <= 2, "{beacons} in a second");
        assert!(discovery.beacons_ignored > 99_000, "most were not even looked at");
    }

    #[test]
    fn garbage_oversized_and_foreign_beacons_are_counted_and_cause_nothing() {
        let mut discovery = discovery(1);
        let foreign = BeaconKey::of(&"other.test".parse().unwrap())
            .seal(Beacon { node: node(2), port_v4: 1, port_v6: 1 }, [0; 16]);
        for bytes in [vec![], vec![0; 9_000], b"x0tb".to_vec(), foreign] {
            assert_eq!(discovery.handle_beacon(group_port(2), &bytes, at(0)), None);
        }
        assert_eq!((discovery.beacons_ignored, discovery.beacons_heard), (4, 0));
    }

    #[test]
    fn beacons_come_quickly_at_first_and_then_every_ten_seconds() {
        let mut discovery = discovery(1);
        let mut sent = Vec::new();
        for millis in (0..60_000).step_by(10) {
            if discovery.poll_beacon(at(millis)).is_some() {
                sent.push(millis);
            }
        }
        assert!(sent[1] <= 1_000 && sent[2] <= 2_000, "{sent:?}");
        assert!(sent[3..].windows(2).all(|pair| (9_000..=10_010).contains(&(pair[1] - pair[0]))), "{sent:?}");
    }
}
