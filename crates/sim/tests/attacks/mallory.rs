//! An attacker with hands of its own: the overlay's endpoint without the node's scruples.

use std::net::SocketAddr;
use std::sync::Arc;

use x0t_identity::{Leaf, Svid};
use x0t_model::{Entropy, SpiffeId, UnixTime};
use x0t_node::RecordKind;
use x0t_overlay::{
    Carrier, CertificateDer, Credentials, Endpoint, EndpointConfig, Event, Purpose, SessionId, VerifyPeer,
};
use x0t_sim::World;

/// Believes everybody.
struct Credulous;

impl VerifyPeer for Credulous {
    fn verify(&self, chain: &[CertificateDer<'_>], _: UnixTime) -> Result<SpiffeId, String> {
        Leaf::read(&chain[0]).map(|leaf| leaf.spiffe_id).map_err(|error| error.to_string())
    }
}

pub struct Mallory {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
    pub events: Vec<Event>,
}

impl Mallory {
    /// Without any identity.
    pub fn stranger(world: &World, address: SocketAddr) -> Self {
        let provider = x0t_sim::Cryptography::simulated().sessions();
        let mut seed = [address.port() as u8; 32];
        seed[..8].copy_from_slice(&u64::from(address.port()).wrapping_add(world.seed() << 32).to_be_bytes());
        if let std::net::IpAddr::V4(ip) = address.ip() {
            seed[8..12].copy_from_slice(&ip.octets());
        }
        let mut endpoint = Endpoint::new(EndpointConfig::default(), provider, Entropy::new(seed));
        endpoint.set_verifier(Arc::new(Credulous));
        endpoint.set_parameters([&[1][..], &7_u64.to_be_bytes()].concat()).unwrap();
        Self { endpoint, address, events: Vec::new() }
    }

    /// With the identity of a host that does not run.
    pub fn member(world: &World, host: usize, address: SocketAddr) -> Self {
        let mut mallory = Self::stranger(world, address);
        let svid = Svid::from_stored(&world.disk(host)[&RecordKind::Svid]).unwrap();
        let credentials = Credentials { chain: svid.chain().to_vec(), key: svid.private_key_der() };
        mallory.endpoint.set_identity(Arc::new(credentials), Arc::new(Credulous));
        mallory
    }

    pub fn connect(&mut self, world: &World, purpose: Purpose, to: SocketAddr) -> SessionId {
        self.endpoint.connect(purpose, Carrier::Udp(to), world.now(), world.wall()).unwrap()
    }

    /// Sends what is to be sent to `target` and takes what came from there, until both are silent. Needs a capture.
    pub fn talk(&mut self, world: &mut World, target: usize) {
        self.endpoint.handle_timeout(world.now(), world.wall());
        for _ in 0..64 {
            let mut spoke = false;
            while let Some(transmit) = self.endpoint.poll_transmit() {
                world.inject(target, self.address, transmit.bytes);
                spoke = true;
            }
            spoke |= self.listen(world);
            while let Some(event) = self.endpoint.poll_event() {
                self.events.push(event);
            }
            if !spoke {
                return;
            }
        }
    }

    fn listen(&mut self, world: &mut World) -> bool {
        let mut heard = false;
        for (from, to, mut bytes) in world.captured() {
            if to == self.address {
                heard = true;
                let carrier = Carrier::Udp(x0t_sim::Network::address(from));
                let _ = self.endpoint.handle_datagram(carrier, &mut bytes, world.now(), world.wall());
            }
        }
        heard
    }

    /// A link to `target` that both have established.
    pub fn link(&mut self, world: &mut World, target: usize) -> SessionId {
        let session = self.connect(world, Purpose::Link, x0t_sim::Network::address(target));
        for _ in 0..50 {
            self.talk(world, target);
            world.advance(std::time::Duration::from_millis(10));
            if self.is_established(session) {
                return session;
            }
        }
        panic!("no link: {:?}", self.events);
    }

    pub fn is_established(&self, session: SessionId) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Established { session: of, .. } if *of == session))
    }
}
