//! Two stacks and a network between them, in virtual time.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use x0t_model::{Entropy, Instant};
use x0t_netstack::stack::{ConnectionId, Event, Stack};
use x0t_netstack::{Limits, Received};

pub const ALPHA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub const BETA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Whoever is not done by then never will be.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// One stack and what has not reached it yet.
pub struct Side {
    pub stack: Stack,
    arriving: BTreeMap<(Instant, u64), Vec<u8>>,
    pub offers: Vec<(ConnectionId, SocketAddrV6, u16)>,
    /// Offers are accepted as they come.
    pub accepts: bool,
}

pub struct Net {
    pub now: Instant,
    pub sides: [Side; 2],
    pub delay: Duration,
    pub lost_per_million: u32,
    /// Every packet that was sent.
    pub record: Option<Vec<Vec<u8>>>,
    entropy: Entropy,
    sent: u64,
}

pub fn limits() -> Limits {
    Limits::default()
}

impl Net {
    pub fn new() -> Self {
        Self::with(limits(), 1)
    }

    pub fn with(limits: Limits, seed: u8) -> Self {
        let now = Instant::from_millis(1_000);
        let side = |address, seed| Side {
            stack: Stack::new(address, limits, [seed; 32], now),
            arriving: BTreeMap::new(),
            offers: Vec::new(),
            accepts: true,
        };
        Self {
            now,
            sides: [side(ALPHA, seed), side(BETA, seed.wrapping_add(100))],
            delay: Duration::from_millis(5),
            lost_per_million: 0,
            record: None,
            entropy: Entropy::new([seed; 32]),
            sent: 0,
        }
    }

    pub fn alpha(&mut self) -> &mut Stack {
        &mut self.sides[0].stack
    }

    pub fn beta(&mut self) -> &mut Stack {
        &mut self.sides[1].stack
    }

    /// Lets everything happen that happens now, then moves on to whatever is next. Whether there was anything.
    pub fn step(&mut self) -> bool {
        self.step_until(Instant::FAR_FUTURE)
    }

    /// The same, and no further than to `latest`: somebody does something then.
    pub fn step_until(&mut self, latest: Instant) -> bool {
        for side in &mut self.sides {
            side.stack.handle_timeout(self.now);
            while let Some(event) = side.stack.poll_event() {
                if let Event::Offered { id, from, port } = event {
                    side.offers.push((id, from, port));
                    if side.accepts {
                        side.stack.accept(id);
                    }
                }
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let mut sent = Vec::new();
            while let Some(packet) = self.sides[from].stack.outgoing().pop() {
                sent.push(packet.to_vec());
            }
            self.sides[from].stack.outgoing().clear();
            for packet in sent {
                assert!(packet.len() <= 1280, "a packet of {} bytes", packet.len());
                self.record.iter_mut().for_each(|record| record.push(packet.clone()));
                if !self.entropy.chance(self.lost_per_million) {
                    self.sent += 1;
                    self.sides[to].arriving.insert((self.now + self.delay, self.sent), packet);
                }
            }
        }
        let next = self.sides.iter().flat_map(|side| {
            [side.arriving.first_key_value().map(|(key, _)| key.0), side.stack.poll_timeout()].into_iter().flatten()
        });
        let Some(next) = next.min() else { return false };
        self.now = self.now.max(next.min(latest));
        for side in &mut self.sides {
            while let Some(entry) = side.arriving.first_entry().filter(|entry| entry.key().0 <= self.now) {
                side.stack.handle_packet(&entry.remove(), self.now);
            }
        }
        true
    }

    /// Steps until `done`.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.now + PATIENCE;
        while !done(self) {
            let goes_on = self.step() && self.now < deadline;
            assert!(goes_on || done(self), "it never happened that {what}: {:?}", self.now);
        }
    }

    /// Steps for this long.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && self.step() {}
        self.now = self.now.max(end);
    }

    /// A connection from alpha to an exposed port of beta, established on both sides.
    pub fn connection(&mut self) -> (ConnectionId, ConnectionId) {
        self.beta().expose(80);
        let now = self.now;
        let offers = self.sides[1].offers.len();
        let near = self.alpha().connect(at(BETA, 80), now).unwrap();
        self.until("both sides are connected", |net| {
            let far = net.sides[1].offers.get(offers).map(|offer| offer.0);
            net.alpha().is_established(near) == Ok(true)
                && far.is_some_and(|far| net.beta().is_established(far) == Ok(true))
        });
        (near, self.sides[1].offers[offers].0)
    }

    /// Reads all that has arrived; `true` if it was the last there will be.
    pub fn read(&mut self, side: usize, id: ConnectionId, into: &mut Vec<u8>) -> bool {
        loop {
            let read = self.sides[side].stack.receive_with(id, |bytes| {
                into.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            match read.unwrap() {
                Received::Bytes(()) => {}
                Received::Nothing => return false,
                Received::Finished => return true,
            }
        }
    }

    /// Writes as much of `bytes` as there is room for.
    pub fn write(&mut self, side: usize, id: ConnectionId, bytes: &mut &[u8]) {
        while !bytes.is_empty() {
            let written = self.sides[side].stack.send_with(id, |room| {
                let count = room.len().min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                (count, count)
            });
            match written.unwrap() {
                Some(0) | None => return,
                Some(count) => *bytes = &bytes[count..],
            }
        }
    }
}

pub fn at(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

/// Bytes in which a lost, doubled or misplaced piece shows.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut entropy = Entropy::new([9; 32]);
    let mut bytes = Vec::with_capacity(len + 32);
    while bytes.len() < len {
        bytes.extend_from_slice(&entropy.bytes::<32>());
    }
    bytes.truncate(len);
    bytes
}
