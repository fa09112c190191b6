//! Beacons on the local network: one multicast group for each address family, joined on every interface.
//!
//! What is in a beacon, when one is sent and what is made of those heard is the node's business; here are the sockets. A host without
//! multicast, or an interface that will not join, finds nobody and is not found, which is no error: peers can be configured.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::task::{Context, Poll};

use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket as RawSocket, Type};
use tokio::net::UdpSocket;

/// Link-local, and not assigned for good: the T flag is set and the group is from the dynamic range (RFC 4291 section 2.7,
/// RFC 3307 section 4.3).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xf830, 0x7478);
/// Administratively scoped, for within one site (RFC 2365 section 6.1). It goes no further than one hop.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 120, 48);
/// Where beacons are sent, whatever port the node itself listens on.
pub const PORT: u16 = 4601;
/// The kernel gives loopback this index in every network namespace. Nodes of one host meet on its other interfaces.
const LOOPBACK_INDEX: u32 = 1;
/// Interfaces on which a beacon is sent. A host with more has one for each container.
const INTERFACES_MAX: usize = 64;
/// A beacon is shorter; whatever is longer is none, and that is seen by its length.
const BEACON_BYTES_MAX: usize = 128;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryStats {
    /// Beacons sent, one for each interface.
    pub beacons_sent: u64,
    /// Beacons that an interface did not take.
    pub beacons_unsent: u64,
    /// Datagrams received from the group.
    pub datagrams_received: u64,
    /// Interfaces with the group joined.
    pub interfaces: u64,
}

/// The sockets of discovery.
#[derive(Debug)]
pub struct DiscoverySockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    interfaces: BTreeSet<u32>,
    stats: DiscoveryStats,
}

impl DiscoverySockets {
    /// Sockets for the families the node itself listens on. Nothing is sent or heard before an interface is known to be up.
    /// Must be made inside the runtime that will drive it.
    pub fn open(v4: bool, v6: bool) -> Self {
        let open = |wanted: bool, address: SocketAddr| {
            let opened = wanted.then(|| bind(address));
            opened.and_then(|opened| {
                opened.inspect_err(|error| tracing::info!(%address, %error, "no discovery in this family")).ok()
            })
        };
        Self {
            // Bound to the group, so that nobody beyond the local network reaches it. IPv6 binds a link-local group to one interface
            // only; there the sender's address tells.
            v4: open(v4, SocketAddrV4::new(GROUP_V4, PORT).into()),
            v6: open(v6, SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0).into()),
            interfaces: BTreeSet::new(),
            stats: DiscoveryStats::default(),
        }
    }

    /// What was counted.
    pub fn stats(&self) -> DiscoveryStats {
        DiscoveryStats { interfaces: self.interfaces.len() as u64, ..self.stats }
    }

    /// The kernel says an interface came up or went down. Returns whether the group was joined there.
    pub fn set_interface(&mut self, index: u32, up: bool) -> bool {
        if !up {
            self.interfaces.remove(&index);
            return false;
        }
        if index == LOOPBACK_INDEX || self.interfaces.len() >= INTERFACES_MAX {
            return false;
        }
        // Joined already is an error too, and as good.
        let joined = |result: io::Result<()>| match result {
            Err(error) => error.kind() == io::ErrorKind::AddrInUse,
            Ok(()) => true,
        };
        let v4 = self.v4.as_ref().is_some_and(|socket| {
            let interface = InterfaceIndexOrAddress::Index(index);
            joined(socket2::SockRef::from(socket).join_multicast_v4_n(&GROUP_V4, &interface))
        });
        let v6 = self
            .v6
            .as_ref()
            .is_some_and(|socket| joined(socket2::SockRef::from(socket).join_multicast_v6(&GROUP_V6, index)));
        if v4 || v6 {
            self.interfaces.insert(index);
        }
        v4 || v6
    }

    /// Sends a beacon on every interface. What the kernel does not take is lost; the next one comes.
    pub fn send(&mut self, beacon: &[u8]) {
        for &index in &self.interfaces {
            let v4 = self.v4.as_ref().map(|socket| {
                set_ip_multicast_if_with_ifindex(socket, &Ipv4Addr::UNSPECIFIED, &Ipv4Addr::UNSPECIFIED, index)?;
                socket.try_send_to(beacon, SocketAddrV4::new(GROUP_V4, PORT).into())
            });
            let v6 = self
                .v6
                .as_ref()
                .map(|socket| socket.try_send_to(beacon, SocketAddrV6::new(GROUP_V6, PORT, 0, index).into()));
            for sent in v4.into_iter().chain(v6) {
                let counter = match sent {
                    Ok(_) => &mut self.stats.beacons_sent,
                    Err(_) => &mut self.stats.beacons_unsent,
                };
                *counter += 1;
            }
        }
    }

    /// Ready if there may be something for [`Self::receive`]; if not, whoever asks is woken when there is.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // Both are asked, so that both wake. An error means that the runtime is shutting down; the loop ends by other means.
        let ready = |socket: &UdpSocket| matches!(socket.poll_recv_ready(context), Poll::Ready(Ok(())));
        let ready = self.v4.iter().chain(&self.v6).map(ready).filter(|ready| *ready).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The next datagram that came to the group, and who sent it.
    pub fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; BEACON_BYTES_MAX];
        for socket in self.v4.iter().chain(&self.v6) {
            if let Ok((length, mut from)) = socket.try_recv_from(&mut buffer) {
                if let SocketAddr::V6(from) = &mut from {
                    from.set_flowinfo(0);
                }
                if !may_be_neighbor(from) {
                    continue;
                }
                self.stats.datagrams_received += 1;
                return Some((from, buffer[..length].to_vec()));
            }
        }
        None
    }
}

/// Whether a datagram can have come from the local network: to a link-local group IPv6 hosts speak from their link-local address
/// (RFC 6724 section 5, rule 2), which no router lets pass. For IPv4 the socket's own address has sorted out the rest.
const fn may_be_neighbor(from: SocketAddr) -> bool {
    match from {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(from) => from.ip().is_unicast_link_local(),
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Every node of this host is to hear every beacon.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_multicast_loop_v6(true)?;
        // Only what came by an interface where this socket joined, not what any process of the host joined for.
        socket.set_multicast_all_v6(false)?;
    } else {
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_multicast_all_v4(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_reach_the_own_network_and_no_further() {
        // RFC 4291 section 2.7: ff, flags (T set), scope 2; RFC 3307: the group's highest bit is set.
        assert_eq!(GROUP_V6.segments()[0], 0xff12);
        assert!(GROUP_V6.segments()[6] >= 0x8000);
        assert!(GROUP_V4.is_multicast() && GROUP_V4.octets()[..2] == [239, 255]);
    }

    #[tokio::test]
    async fn loopback_is_no_local_network_and_an_interface_that_is_not_there_is_no_error() {
        let mut sockets = DiscoverySockets::open(true, true);
        assert!(!sockets.set_interface(LOOPBACK_INDEX, true));
        assert!(!sockets.set_interface(0x7fff_ffff, true));
        sockets.send(&[0; 57]);
        assert_eq!(sockets.stats(), DiscoveryStats::default());
        assert_eq!(sockets.receive(), None);
    }

    #[tokio::test]
    async fn what_is_sent_to_the_host_and_not_to_the_group_is_no_beacon() {
        let mut sockets = DiscoverySockets::open(true, true);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Nobody is bound to that address, so it may be refused; what matters is that nothing comes of it.
        let _ = sender.send_to(&[0; 57], (Ipv4Addr::LOCALHOST, PORT)).await;
        assert_eq!(sockets.receive(), None);
        let neighbor = "[fe80::1%2]:4601".parse().unwrap();
        assert!(may_be_neighbor(neighbor) && !may_be_neighbor("[2001:db8::1]:4601".parse().unwrap()));
    }
}
