//! What this host is called and under which addresses others may reach it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use x0t_model::{OverlayPrefix, TrustDomain};

use crate::cli::NodeName;

/// More would make a join token hard to paste, and a joiner tries them all.
const ADVERTISED_MAX: usize = 6;
/// Interfaces whose addresses mean something on this host only, by the prefix of their names.
const HOST_ONLY_INTERFACES: [&str; 9] = ["lo", "docker", "br-", "veth", "virbr", "lxcbr", "cni", "flannel", "x0t"];

/// The host's name as a node's.
pub fn node_name() -> NodeName {
    NodeName::from_host_name(&rustix::system::uname().nodename().to_string_lossy())
}

/// Where others may reach a node that listens on `listen`. A specific address stands for itself, a wildcard for the
/// addresses of the host's interfaces; loopback is for a host that has no other.
pub fn advertised(listen: &[SocketAddr], trust_domain: &TrustDomain) -> Vec<SocketAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = ipv4_addresses(&read("/proc/net/fib_trie"), &read("/proc/net/route"));
    let v6 = ipv6_addresses(&read("/proc/net/if_inet6"), OverlayPrefix::of(trust_domain));
    let hosts: Vec<IpAddr> = v4.into_iter().map(IpAddr::from).chain(v6.into_iter().map(IpAddr::from)).collect();
    expand(listen, &hosts)
}

fn expand(listen: &[SocketAddr], host_addresses: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for address in listen.iter().filter(|address| address.port() != 0) {
        if !address.ip().is_unspecified() {
            found.push(*address);
            continue;
        }
        let same_family = host_addresses.iter().filter(|ip| ip.is_ipv4() == address.is_ipv4());
        found.extend(same_family.map(|ip| SocketAddr::new(*ip, address.port())));
    }
    if found.is_empty() {
        let wildcard = listen.iter().filter(|address| address.port() != 0).min_by_key(|address| !address.is_ipv4());
        found.extend(wildcard.map(|address| match address {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        }));
    }
    let mut unique = Vec::new();
    for address in found {
        if !unique.contains(&address) && unique.len() < ADVERTISED_MAX {
            unique.push(address);
        }
    }
    unique
}

/// The host's IPv4 addresses from the kernel's tables, those of the interface with the default route first.
fn ipv4_addresses(fib_trie: &str, route: &str) -> Vec<Ipv4Addr> {
    let routes: Vec<Ipv4Route<'_>> = route.lines().skip(1).filter_map(ipv4_route).collect();
    let default = routes.iter().find(|route| route.mask == 0).map(|route| route.interface);
    let interface_of = |address: Ipv4Addr| {
        let on_link = routes.iter().filter(|route| route.mask != 0 && u32::from(address) & route.mask == route.network);
        on_link.max_by_key(|route| route.mask).map(|route| route.interface)
    };
    // Ordered by preference, then by address; the trie lists each address once per table.
    let mut found = BTreeMap::new();
    let mut leaf = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if let Some(address) = leaf.filter(|_| line == "/32 host LOCAL") {
            let interface = interface_of(address);
            let host_only = interface.is_some_and(is_host_only);
            if !address.is_loopback() && !address.is_link_local() && !host_only {
                found.insert((interface != default, address), ());
            }
        }
    }
    found.into_keys().map(|(_, address)| address).collect()
}

struct Ipv4Route<'a> {
    interface: &'a str,
    network: u32,
    mask: u32,
}

/// A line of `/proc/net/route`: interface, destination, gateway, flags, …; the eighth column is the mask.
fn ipv4_route(line: &str) -> Option<Ipv4Route<'_>> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(columns.get(index)?, 16).ok().map(u32::swap_bytes);
    Some(Ipv4Route { interface: columns.first()?, network: number(1)?, mask: number(7)? })
}

/// The host's global IPv6 addresses from `/proc/net/if_inet6`, without those of the mesh itself.
fn ipv6_addresses(if_inet6: &str, overlay: OverlayPrefix) -> Vec<Ipv6Addr> {
    // IFA_F_TEMPORARY, IFA_F_DEPRECATED and IFA_F_TENTATIVE (linux/if_addr.h): such an address is gone tomorrow.
    const UNSTABLE: u8 = 0x01 | 0x20 | 0x40;
    let usable = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [address, _index, _prefix, scope, flags, interface] = columns[..] else { return None };
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let stable = scope == "00" && flags & UNSTABLE == 0;
        (stable && !is_host_only(interface) && !overlay.contains(address)).then_some(address)
    };
    if_inet6.lines().filter_map(usable).collect()
}

fn is_host_only(interface: &str) -> bool {
    HOST_ONLY_INTERFACES.iter().any(|prefix| interface.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.2.0/24 2 0 2
        |-- 10.1.2.0
           /24 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 172.17.0.1
        /32 host LOCAL
     |-- 10.0.0.9
        /32 host LOCAL
Local:
     |-- 10.1.2.3
        /32 host LOCAL
";
    const ROUTE: &str = "\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0102010A	0003	0	0	0	00000000	0	0	0
eth0	0002010A	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth1	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
";
    const IF_INET6: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000021122fffe334455 02 40 20 80     eth0
20010db8000000000000000000000007 02 40 00 80     eth0
20010db8000000000000000000000bad 02 40 00 01     eth0
";

    #[test]
    fn the_address_that_has_the_default_route_comes_first_and_docker_is_left_out() {
        let expected: [Ipv4Addr; 2] = ["10.1.2.3".parse().unwrap(), "10.0.0.9".parse().unwrap()];
        assert_eq!(ipv4_addresses(FIB_TRIE, ROUTE), expected);
    }

    #[test]
    fn only_stable_global_ipv6_addresses_count() {
        let overlay = OverlayPrefix::of(&"mesh.test".parse().unwrap());
        assert_eq!(ipv6_addresses(IF_INET6, overlay), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
        let own = u128::from(overlay.network()) + 7;
        assert_eq!(ipv6_addresses(&format!("{own:032x} 05 30 00 80 mesh0"), overlay), Vec::<Ipv6Addr>::new());
    }

    #[test]
    fn a_wildcard_stands_for_the_addresses_of_its_family() {
        let listen = ["0.0.0.0:4600".parse().unwrap(), "[::]:4700".parse().unwrap()];
        let hosts = ["10.1.2.3".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(expand(&listen, &hosts), ["10.1.2.3:4600".parse().unwrap(), "[2001:db8::7]:4700".parse().unwrap()]);
        assert_eq!(expand(&listen, &[]), ["127.0.0.1:4600".parse().unwrap()]);
        assert_eq!(expand(&["127.0.0.1:1".parse().unwrap()], &hosts), ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(expand(&["0.0.0.0:0".parse().unwrap()], &hosts), []);
    }

    #[test]
    fn tables_that_cannot_be_read_give_no_addresses() {
        assert!(ipv4_addresses("", "").is_empty());
        assert!(ipv4_addresses("|-- x\n/32 host LOCAL\n", "h\neth0 zz\n").is_empty());
        assert!(ipv6_addresses("short line\n", OverlayPrefix::of(&"mesh.test".parse().unwrap())).is_empty());
    }
}
