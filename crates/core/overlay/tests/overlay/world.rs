//! Two endpoints and a network between them, in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use x0t_model::{Entropy, Instant};
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{Carrier, Endpoint, EndpointConfig, Event, Opened, PATH_MTU_BASE, Provider, Purpose, SessionId};

use crate::authority::{Authority, WALL};

/// One way.
pub const LATENCY: Duration = Duration::from_millis(5);
pub const A: usize = 0;
pub const B: usize = 1;

/// What the network does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Deliver,
    Drop,
    Twice,
    Late(Duration),
}

/// What a side heard, in order.
#[derive(Debug, Default)]
pub struct Heard {
    pub events: Vec<Event>,
    pub datagrams: Vec<Vec<u8>>,
    pub messages: Vec<Vec<u8>>,
    pub forwards: Vec<Vec<u8>>,
}

type Faults = Box<dyn FnMut(usize, &[u8]) -> Fate>;

pub struct World {
    max_datagram: usize,
    pub now: Instant,
    pub sides: [Endpoint; 2],
    pub addresses: [Carrier; 2],
    pub heard: [Heard; 2],
    /// Every packet handed to the network: who sent it, and its bytes.
    pub sent: Vec<(usize, Vec<u8>)>,
    pub faults: Faults,
    wire: BTreeMap<(Instant, u64), (usize, Carrier, Vec<u8>)>,
    serial: u64,
}

pub fn udp(text: &str) -> Carrier {
    Carrier::Udp(text.parse().unwrap())
}

impl World {
    /// `a` and `b` of one authority.
    pub fn new() -> Self {
        Self::with(&Authority::p256(), EndpointConfig::default(), Arc::new(RustlsProvider::new()))
    }

    /// A world whose links look for no larger size: other tests count packets.
    pub fn with(authority: &Authority, config: EndpointConfig, provider: Arc<dyn Provider>) -> Self {
        Self::discovering(authority, EndpointConfig { max_datagram: PATH_MTU_BASE, ..config }, provider)
    }

    /// A world whose links find out what passes.
    pub fn discovering(authority: &Authority, config: EndpointConfig, provider: Arc<dyn Provider>) -> Self {
        let side = |name: &str, seed| {
            let mut endpoint = Endpoint::new(config.clone(), Arc::clone(&provider), Entropy::new([seed; 32]));
            endpoint.set_identity(authority.issue(name), authority.verifier());
            endpoint.set_parameters(format!("parameters of {name}").into_bytes()).unwrap();
            endpoint
        };
        Self {
            max_datagram: config.max_datagram,
            now: Instant::from_millis(1_000_000),
            sides: [side("a", 1), side("b", 2)],
            addresses: [udp("192.0.2.1:4600"), udp("192.0.2.2:4600")],
            heard: Default::default(),
            sent: Vec::new(),
            faults: Box::new(|_, _| Fate::Deliver),
            wire: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A world with one link, both ends of it.
    pub fn linked() -> (Self, SessionId, SessionId) {
        let mut world = Self::new();
        let (a, b) = world.link();
        (world, a, b)
    }

    pub fn link(&mut self) -> (SessionId, SessionId) {
        self.establish(Purpose::Link)
    }

    pub fn establish(&mut self, purpose: Purpose) -> (SessionId, SessionId) {
        let a = self.connect(purpose);
        self.run_for(Duration::from_millis(200));
        assert_eq!(self.established(A), [a], "{:?}", self.heard[A].events);
        let b = self.established(B);
        assert_eq!(b.len(), 1);
        self.heard = Default::default();
        (a, b[0])
    }

    pub fn connect(&mut self, purpose: Purpose) -> SessionId {
        self.sides[A].connect(purpose, self.addresses[B], self.now, WALL).unwrap()
    }

    pub fn established(&self, side: usize) -> Vec<SessionId> {
        let established = |event: &Event| match event {
            Event::Established { session, .. } => Some(*session),
            _ => None,
        };
        self.heard[side].events.iter().filter_map(established).collect()
    }

    /// Puts what both sides want to send on the wire.
    pub fn flush(&mut self) {
        for side in [A, B] {
            while let Some(transmit) = self.sides[side].poll_transmit() {
                let limit = self.max_datagram;
                assert!(transmit.bytes.len() <= limit, "{} bytes in one packet", transmit.bytes.len());
                self.put(side, transmit.bytes);
            }
            self.collect(side);
        }
    }

    pub fn collect(&mut self, side: usize) {
        while let Some(event) = self.sides[side].poll_event() {
            match event {
                Event::Datagram { bytes, .. } => self.heard[side].datagrams.push(bytes),
                Event::Message { bytes, .. } => self.heard[side].messages.push(bytes),
                other => self.heard[side].events.push(other),
            }
        }
    }

    /// The network takes a packet of `side` and decides on its fate.
    pub fn put(&mut self, side: usize, bytes: Vec<u8>) {
        let fate = (self.faults)(side, &bytes);
        self.sent.push((side, bytes.clone()));
        let mut deliver = |delay| {
            self.serial += 1;
            self.wire.insert((self.now + delay, self.serial), (1 - side, self.addresses[side], bytes.clone()));
        };
        match fate {
            Fate::Deliver => deliver(LATENCY),
            Fate::Drop => {}
            Fate::Twice => {
                deliver(LATENCY);
                deliver(LATENCY);
            }
            Fate::Late(by) => deliver(LATENCY + by),
        }
    }

    /// `side` receives a packet at once.
    pub fn deliver(&mut self, side: usize, from: Carrier, mut bytes: Vec<u8>) {
        match self.sides[side].handle_datagram(from, &mut bytes, self.now, WALL) {
            Some(Opened::Datagram { bytes, .. }) => self.heard[side].datagrams.push(bytes.to_vec()),
            Some(Opened::Forward { payload, .. }) => self.heard[side].forwards.push(payload.to_vec()),
            None => {}
        }
        self.collect(side);
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.flush();
            let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
            let timers = self.sides.iter().filter_map(Endpoint::poll_timeout);
            let next = timers.chain(wire).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if wire == Some(next) {
                let Some((_, (to, from, bytes))) = self.wire.pop_first() else { break };
                self.deliver(to, from, bytes);
            } else {
                for side in [A, B] {
                    self.sides[side].handle_timeout(self.now, WALL);
                    self.collect(side);
                }
            }
        }
        self.now = end;
    }

    /// The packets of `side` so far whose first byte is `kind`.
    pub fn sent_by(&self, side: usize, kind: u8) -> Vec<Vec<u8>> {
        self.sent.iter().filter(|(by, bytes)| *by == side && bytes[0] == kind).map(|(_, bytes)| bytes.clone()).collect()
    }
}
