//! UDP ports and what waits at them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV6;

/// A datagram and who sent it.
pub type Datagram = (SocketAddrV6, Vec<u8>);

/// What waits at one port.
#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
}

/// The ports in use.
#[derive(Debug, Default)]
pub struct UdpPorts(BTreeMap<u16, Waiting>);

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first that waits: its reader is to be told.
    First,
    /// One more.
    Queued,
    /// Too many wait already.
    Dropped,
}

impl UdpPorts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `port` is in use.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains_key(&port)
    }

    /// Takes `port` into use. Whether it was free.
    pub fn open(&mut self, port: u16) -> bool {
        let free = !self.contains(port);
        self.0.entry(port).or_default();
        free
    }

    /// Gives `port` up, and what waits there.
    pub fn close(&mut self, port: u16) {
        self.0.remove(&port);
    }

    /// Lets a datagram wait at `port`, if no more than `bytes_max` do. `None` if nobody reads there.
    pub fn arrive(&mut self, port: u16, from: SocketAddrV6, payload: &[u8], bytes_max: usize) -> Option<Arrival> {
        let waiting = self.0.get_mut(&port)?;
        // An empty datagram takes memory too.
        let cost = payload.len() + size_of::<Datagram>();
        if waiting.bytes + cost > bytes_max {
            return Some(Arrival::Dropped);
        }
        waiting.bytes += cost;
        waiting.datagrams.push_back((from, payload.to_vec()));
        Some(if waiting.datagrams.len() == 1 { Arrival::First } else { Arrival::Queued })
    }

    /// The datagram that has waited longest at `port`.
    pub fn take(&mut self, port: u16) -> Option<Datagram> {
        let waiting = self.0.get_mut(&port)?;
        let datagram = waiting.datagrams.pop_front()?;
        waiting.bytes -= datagram.1.len() + size_of::<Datagram>();
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_holds_no_more_than_its_limit_and_takes_more_once_read() {
        let from = "[fd00::2]:9".parse().unwrap();
        let mut ports = UdpPorts::default();
        assert_eq!(ports.arrive(7, from, b"x", 1000), None);
        assert!(ports.open(7) && !ports.open(7));
        assert_eq!(ports.arrive(7, from, &[1; 400], 1000), Some(Arrival::First));
        assert_eq!(ports.arrive(7, from, &[2; 400], 1000), Some(Arrival::Queued));
        assert_eq!(ports.arrive(7, from, &[3; 400], 1000), Some(Arrival::Dropped));
        assert_eq!(ports.take(7).map(|datagram| datagram.1[0]), Some(1));
        assert_eq!(ports.arrive(7, from, &[4; 400], 1000), Some(Arrival::Queued));
        ports.close(7);
        assert_eq!((ports.take(7), ports.len()), (None, 0));
    }
}
