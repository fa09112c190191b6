//! Handshakes that others began: how many at once, in total and per source.

use std::collections::BTreeMap;
use std::net::IpAddr;

use x0t_model::NodeId;

use crate::{Carrier, EndpointConfig};

/// What counts as one origin of handshakes. Ports and the lower half of an IPv6 address are free to choose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4([u8; 4]),
    V6Network([u8; 8]),
    Node(NodeId),
}

impl Source {
    fn of(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Udp(address) | Carrier::Tls(address) => match address.ip().to_canonical() {
                IpAddr::V4(v4) => Self::V4(v4.octets()),
                IpAddr::V6(v6) => {
                    let [a, b, c, d, ..] = v6.segments().map(u16::to_be_bytes);
                    Self::V6Network([a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]])
                }
            },
            Carrier::Overlay(node) | Carrier::Relayed { via: node, .. } => Self::Node(node),
        }
    }
}

/// Who is half open.
#[derive(Default)]
pub(super) struct HalfOpen {
    sources: BTreeMap<Source, usize>,
    sessions: BTreeMap<u32, Source>,
}

impl HalfOpen {
    pub(super) fn total(&self) -> usize {
        self.sessions.len()
    }

    /// Whether one more from `carrier` is within its source's share.
    pub(super) fn has_share(&self, carrier: Carrier, config: &EndpointConfig) -> bool {
        let from_source = self.sources.get(&Source::of(carrier)).copied().unwrap_or_default();
        from_source < config.max_half_open_per_source
    }

    /// Sessions that are half open.
    pub(super) fn sessions(&self) -> impl Iterator<Item = u32> {
        self.sessions.keys().copied()
    }

    pub(super) fn add(&mut self, index: u32, carrier: Carrier) {
        let source = Source::of(carrier);
        if self.sessions.insert(index, source).is_none() {
            *self.sources.entry(source).or_default() += 1;
        }
    }

    /// The session is established or gone.
    pub(super) fn release(&mut self, index: u32) {
        let Some(source) = self.sessions.remove(&index) else { return };
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}
