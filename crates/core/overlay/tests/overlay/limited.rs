//! The real provider with keys that wear out sooner.

use std::sync::{Arc, Mutex};

use x0t_model::SpiffeId;
use x0t_overlay::tls::RustlsProvider;
use x0t_overlay::{
    CertificateDer, Handshake, HandshakeError, KeyChange, KeyError, KeyPair, NextKeys, Offer, PacketKey, Provider,
    TAG_LEN,
};

#[derive(Clone, Copy)]
struct Limits {
    confidentiality: u64,
    integrity: u64,
}

pub struct Limited {
    inner: RustlsProvider,
    limits: Limits,
    /// The sending keys of each side's first epoch, in the order they were made.
    pub tapped: Tap,
}

type Tap = Arc<Mutex<Vec<Arc<dyn PacketKey>>>>;

impl Limited {
    /// Keys that seal `confidentiality` packets and bear `integrity` forgeries.
    pub fn new(confidentiality: u64, integrity: u64) -> Self {
        Self { inner: RustlsProvider::new(), limits: Limits { confidentiality, integrity }, tapped: Tap::default() }
    }

    fn wrap(&self, inner: Box<dyn Handshake>) -> Box<dyn Handshake> {
        Box::new(LimitedHandshake { inner, limits: self.limits, tapped: Arc::clone(&self.tapped) })
    }
}

impl Provider for Limited {
    fn client(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        Ok(self.wrap(self.inner.client(offer)?))
    }

    fn server(&self, offer: Offer) -> Result<Box<dyn Handshake>, HandshakeError> {
        Ok(self.wrap(self.inner.server(offer)?))
    }
}

struct LimitedHandshake {
    inner: Box<dyn Handshake>,
    limits: Limits,
    tapped: Tap,
}

impl Handshake for LimitedHandshake {
    fn read(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.inner.read(bytes)
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Option<KeyChange> {
        Some(match self.inner.write(out)? {
            KeyChange::OneRtt(keys, inner) => {
                let limits = self.limits;
                let local = keys.local;
                self.tapped.lock().unwrap().push(Arc::clone(&local));
                let keys = KeyPair { local: Arc::new(LimitedKey { inner: local, limits }), remote: keys.remote };
                KeyChange::OneRtt(limited(keys, limits), Box::new(LimitedNext { inner, limits }))
            }
            other => other,
        })
    }

    fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    fn peer_parameters(&self) -> Option<&[u8]> {
        self.inner.peer_parameters()
    }

    fn peer_chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.inner.peer_chain()
    }

    fn peer(&self) -> Option<SpiffeId> {
        self.inner.peer()
    }

    fn export(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        self.inner.export(label, context, out)
    }

    fn group_name(&self) -> Option<&'static str> {
        self.inner.group_name()
    }
}

struct LimitedNext {
    inner: Box<dyn NextKeys>,
    limits: Limits,
}

impl NextKeys for LimitedNext {
    fn next_keys(&mut self) -> KeyPair {
        limited(self.inner.next_keys(), self.limits)
    }
}

fn limited(keys: KeyPair, limits: Limits) -> KeyPair {
    KeyPair {
        local: Arc::new(LimitedKey { inner: keys.local, limits }),
        remote: Arc::new(LimitedKey { inner: keys.remote, limits }),
    }
}

struct LimitedKey {
    inner: Arc<dyn PacketKey>,
    limits: Limits,
}

impl PacketKey for LimitedKey {
    fn seal(&self, pn: u64, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], KeyError> {
        self.inner.seal(pn, aad, data)
    }

    fn open(&self, pn: u64, aad: &[u8], data_and_tag: &mut [u8]) -> Result<usize, KeyError> {
        self.inner.open(pn, aad, data_and_tag)
    }

    fn confidentiality_limit(&self) -> u64 {
        self.limits.confidentiality
    }

    fn integrity_limit(&self) -> u64 {
        self.limits.integrity
    }
}
