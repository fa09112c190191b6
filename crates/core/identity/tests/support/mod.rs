//! A small mesh to test against: one authority, deterministic keys, a clock that stands still until told.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod jwt;

use std::time::Duration;

use x0t_identity::{
    Authority, AuthorityConfig, Issued, JoinToken, KeySource, PrivateKey, SeededKeys, Svid, signing_request,
};
use x0t_model::{Entropy, SpiffeId, UnixTime};

/// 2026-11-21T12:00:00Z.
pub const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);
pub const HOUR: Duration = Duration::from_secs(3600);

pub struct Mesh {
    pub authority: Authority,
    pub keys: SeededKeys,
    pub entropy: Entropy,
}

impl Mesh {
    pub fn new() -> Self {
        Self::with(AuthorityConfig::default())
    }

    pub fn with(config: AuthorityConfig) -> Self {
        Self::of("spiffe://mesh.test/node/alpha", config)
    }

    pub fn of(node: &str, config: AuthorityConfig) -> Self {
        let mut entropy = Entropy::new([3; 32]);
        let mut keys = SeededKeys::new(entropy.fork("keys"));
        let authority = Authority::create(&id(node), config, &mut keys, &mut entropy, NOW).unwrap();
        Self { authority, keys, entropy }
    }

    pub fn key(&mut self) -> PrivateKey {
        self.keys.generate().unwrap()
    }

    pub fn csr(&mut self) -> Vec<u8> {
        signing_request(&self.key()).unwrap()
    }

    pub fn token(&mut self, name: Option<&str>) -> JoinToken {
        let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
        self.authority.create_token(name, HOUR, addresses, &mut self.entropy, NOW).unwrap()
    }

    pub fn own_svid(&mut self, now: UnixTime) -> Svid {
        self.authority.issue_self(&mut self.keys, &mut self.entropy, now).unwrap()
    }

    /// `name` joins at `now`.
    pub fn join(&mut self, name: &str) -> Svid {
        let key = self.key();
        let token = self.token(None);
        let csr = signing_request(&key).unwrap();
        let issued = self.authority.redeem(&token.secret, Some(name), &csr, &mut self.entropy, NOW).unwrap();
        svid(issued, key)
    }
}

pub fn svid(issued: Issued, key: PrivateKey) -> Svid {
    Svid::new(issued.chain, key).unwrap()
}

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
