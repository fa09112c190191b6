//! Datagrams of one SOCKS5 client, as its association sees them (RFC 1928, 7): whose they are, for whom they are, and which answers are
//! its own. Is told the time and given the bytes; sends nothing itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use tokio::time::Instant;
use x0t_model::TrustDomain;

use super::place::{self, Host, Place};

/// A client that sends nothing for this long has gone (RFC 4787, REQ-5: 5 minutes or more; REQ-6: what comes from outside need not count).
pub const IDLE: Duration = Duration::from_secs(300);
/// Nodes whose answers one association passes on. Of more, the one asked longest ago is forgotten.
const NODES_MAX: usize = 64;
/// Two reserved bytes and the number of the fragment.
const HEAD_LEN: usize = 3;

/// Why a datagram is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It did not come from the client.
    Stranger,
    /// It is a fragment. Nobody has to put those together (RFC 1928, 7), and nobody does.
    Fragment,
    /// Its header is none.
    Malformed,
    /// It is for nobody in this mesh but this node.
    NotOfThisMesh,
    /// The client has sent nothing to the node that it comes from.
    Unasked,
}

/// A client's association.
#[derive(Debug)]
pub struct Association {
    /// Where its connection comes from. Datagrams have another port.
    client: SocketAddr,
    /// The port it sends from, once known.
    port: Option<u16>,
    /// This node.
    own: Ipv6Addr,
    /// Nodes that were sent to, and when last.
    asked: BTreeMap<Ipv6Addr, Instant>,
    used_at: Instant,
}

impl Association {
    /// For a client whose connection comes from `client` and that expects to send from `announced`. Its port is believed, unless it is
    /// the one of another host: a client behind a NAT cannot know better. Without one, the first datagram decides.
    pub fn new(client: SocketAddr, announced: &Place, own: Ipv6Addr, now: Instant) -> Self {
        let client = canonical(client);
        let is_its_own = match announced.host {
            Host::V4(address) => address.is_unspecified() || IpAddr::V4(address) == client.ip(),
            Host::V6(address) => address.is_unspecified() || address.to_canonical() == client.ip(),
            Host::Name(_) => false,
        };
        let port = (is_its_own && announced.port != 0).then_some(announced.port);
        Self { client, port, own, asked: BTreeMap::new(), used_at: now }
    }

    /// A datagram came to the relay: for whom it is, and its content.
    ///
    /// # Errors
    /// With the reason to drop it.
    pub fn outgoing<'a>(
        &mut self,
        from: SocketAddr,
        datagram: &'a [u8],
        trust_domain: &TrustDomain,
        now: Instant,
    ) -> Result<(SocketAddrV6, &'a [u8]), Dropped> {
        if canonical(from).ip() != self.client.ip() || self.port.is_some_and(|port| port != from.port()) {
            return Err(Dropped::Stranger);
        }
        let [_, _, fragment, rest @ ..] = datagram else { return Err(Dropped::Malformed) };
        if *fragment != 0 {
            return Err(Dropped::Fragment);
        }
        let place::Parsed::Place(place, len) = place::parse(rest) else { return Err(Dropped::Malformed) };
        let to = place.in_mesh(trust_domain).map_err(|_| Dropped::NotOfThisMesh)?;
        if *to.ip() == self.own {
            return Err(Dropped::NotOfThisMesh);
        }
        if to.port() == 0 {
            return Err(Dropped::Malformed);
        }
        (self.port, self.used_at) = (Some(from.port()), now);
        self.remember(*to.ip(), now);
        Ok((to, &rest[len..]))
    }

    fn remember(&mut self, node: Ipv6Addr, now: Instant) {
        if self.asked.len() >= NODES_MAX && !self.asked.contains_key(&node) {
            let oldest = self.asked.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
            oldest.map(|oldest| self.asked.remove(&oldest));
        }
        self.asked.insert(node, now);
    }

    /// A datagram came from the mesh: where it goes, with its header in front.
    ///
    /// # Errors
    /// With the reason to drop it. A node that was sent to may answer from any port, as TFTP does (RFC 4787, REQ-8).
    pub fn incoming(&self, from: SocketAddr, payload: &[u8]) -> Result<(SocketAddr, Vec<u8>), Dropped> {
        let asked = matches!(from, SocketAddr::V6(from) if self.asked.contains_key(from.ip()));
        let mut client = self.client;
        client.set_port(self.port.filter(|_| asked).ok_or(Dropped::Unasked)?);
        let mut datagram = Vec::with_capacity(HEAD_LEN + place::LEN_MAX + payload.len());
        datagram.extend_from_slice(&[0; HEAD_LEN]);
        place::encode(from, &mut datagram);
        datagram.extend_from_slice(payload);
        Ok((client, datagram))
    }

    /// When it has been idle for too long.
    pub fn ends_at(&self) -> Instant {
        self.used_at + IDLE
    }
}

/// A client of a socket for both families is one of IPv4 if it has such an address; its zone, if it has one, is kept.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::names::address_of;

    fn domain() -> TrustDomain {
        "mesh.test".parse().unwrap()
    }

    fn node(name: &str) -> Ipv6Addr {
        address_of(name, &domain()).unwrap()
    }

    fn nowhere() -> Place {
        Place { host: Host::V4(Ipv4Addr::UNSPECIFIED), port: 0 }
    }

    fn announcing(place: &Place) -> Association {
        Association::new(client(40_000), place, node("alpha"), Instant::now())
    }

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn for_name(name: &str, port: u16, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes(), payload].concat()
    }

    fn send(association: &mut Association, from: SocketAddr, datagram: &[u8]) -> Result<SocketAddrV6, Dropped> {
        association.outgoing(from, datagram, &domain(), Instant::now()).map(|(to, _)| to)
    }

    #[test]
    fn a_datagram_goes_to_the_node_it_names_and_the_answer_comes_back_with_its_address() {
        let mut association = announcing(&nowhere());
        let beta = SocketAddr::V6(SocketAddrV6::new(node("beta"), 53, 0, 0));
        let question = for_name("beta", 53, b"question");
        let out = association.outgoing(client(5_000), &question, &domain(), Instant::now());
        assert_eq!(out.map(|(to, payload)| (SocketAddr::V6(to), payload)), Ok((beta, &b"question"[..])));
        let (to, answer) = association.incoming(beta, b"answer").unwrap();
        let header = [&[0, 0, 0, 4][..], &node("beta").octets(), &[0, 53]].concat();
        assert_eq!((to, answer), (client(5_000), [&header, &b"answer"[..]].concat()));
        // What it says, a client may hear: the header of an answer is that of a question.
        assert_eq!(
            send(&mut association, client(5_000), &header).map(SocketAddr::V6),
            Ok(beta),
            "an empty datagram is one"
        );
    }

    #[test]
    fn only_the_port_that_was_announced_or_came_first_may_use_it() {
        let question = for_name("beta", 53, b"?");
        let mut first = announcing(&nowhere());
        assert_eq!(send(&mut first, "127.0.0.2:5000".parse().unwrap(), &question), Err(Dropped::Stranger));
        assert_eq!(send(&mut first, client(5_001), b"\0"), Err(Dropped::Malformed), "which decides nothing");
        assert!(send(&mut first, client(5_000), &question).is_ok());
        assert_eq!(send(&mut first, client(5_001), &question), Err(Dropped::Stranger));
        for host in [Host::V4(Ipv4Addr::UNSPECIFIED), Host::V4(Ipv4Addr::LOCALHOST), Host::V6(Ipv6Addr::UNSPECIFIED)] {
            let mut announced = announcing(&Place { host, port: 5_000 });
            assert_eq!(send(&mut announced, client(5_001), &question), Err(Dropped::Stranger));
            assert!(send(&mut announced, client(5_000), &question).is_ok());
        }
        for host in [Host::V4([10, 0, 0, 1].into()), Host::Name("beta".to_owned())] {
            let mut elsewhere = announcing(&Place { host, port: 5_000 });
            assert!(send(&mut elsewhere, client(5_001), &question).is_ok(), "a NAT stands between");
        }
    }

    #[test]
    fn a_client_of_a_socket_for_both_families_is_known_by_its_ipv4_address() {
        let mapped = "[::ffff:127.0.0.1]:40000".parse().unwrap();
        let mut association = Association::new(mapped, &nowhere(), node("alpha"), Instant::now());
        assert!(send(&mut association, client(5_000), &for_name("beta", 53, b"?")).is_ok());
        let in_zone: SocketAddr = "[fe80::1%3]:40000".parse().unwrap();
        assert_eq!(canonical(in_zone), in_zone);
    }

    #[test]
    fn only_nodes_that_were_asked_may_answer_from_whatever_port() {
        let mut association = announcing(&nowhere());
        let from = |name, port| SocketAddr::V6(SocketAddrV6::new(node(name), port, 0, 0));
        assert_eq!(association.incoming(from("beta", 69), b"!"), Err(Dropped::Unasked));
        send(&mut association, client(5_000), &for_name("beta", 69, b"?")).unwrap();
        assert!(association.incoming(from("beta", 69), b"!").is_ok());
        assert!(association.incoming(from("beta", 3_456), b"!").is_ok());
        assert_eq!(association.incoming(from("gamma", 69), b"!"), Err(Dropped::Unasked));
        assert_eq!(association.incoming(client(69), b"!"), Err(Dropped::Unasked));
    }

    #[test]
    fn of_too_many_nodes_the_one_asked_longest_ago_is_forgotten() {
        let start = Instant::now();
        let mut association = announcing(&nowhere());
        for n in 0..=NODES_MAX {
            let datagram = for_name(&format!("n{n}"), 53, b"?");
            let now = start + Duration::from_secs(n as u64);
            association.outgoing(client(5_000), &datagram, &domain(), now).unwrap();
        }
        assert_eq!(association.asked.len(), NODES_MAX);
        let from = |n| SocketAddr::V6(SocketAddrV6::new(node(&format!("n{n}")), 53, 0, 0));
        assert_eq!(association.incoming(from(0), b"!"), Err(Dropped::Unasked));
        assert!(association.incoming(from(1), b"!").is_ok() && association.incoming(from(NODES_MAX), b"!").is_ok());
    }

    #[test]
    fn what_a_client_sends_keeps_it_alive_and_what_is_dropped_or_answered_does_not() {
        let start = Instant::now();
        let mut association = Association::new(client(1), &nowhere(), node("alpha"), start);
        assert_eq!(association.ends_at(), start + IDLE);
        let later = start + Duration::from_secs(60);
        let question = for_name("beta", 53, b"?");
        association.outgoing(client(5_000), &question, &domain(), later).unwrap();
        assert_eq!(association.ends_at(), later + IDLE);
        let _ = association.outgoing(client(5_001), &question, &domain(), later + IDLE / 2);
        association.incoming(SocketAddr::V6(SocketAddrV6::new(node("beta"), 53, 0, 0)), b"!").unwrap();
        assert_eq!(association.ends_at(), later + IDLE);
    }

    #[test]
    fn hostile_headers_are_dropped_each_for_its_reason() {
        let mut fragment = for_name("beta", 53, b"?");
        fragment[2] = 1;
        let mut last_fragment = fragment.clone();
        last_fragment[2] = 0x80;
        let cut = for_name("beta", 53, b"");
        for (datagram, reason) in [
            (fragment, Dropped::Fragment),
            (last_fragment, Dropped::Fragment),
            (vec![], Dropped::Malformed),
            (vec![0, 0, 0], Dropped::Malformed),
            (vec![0, 0, 0, 9, 1, 2, 3], Dropped::Malformed),
            (vec![0, 0, 0, 3, 255, b'b'], Dropped::Malformed),
            (cut[..cut.len() - 1].to_vec(), Dropped::Malformed),
            (for_name("", 53, b"?"), Dropped::Malformed),
            (for_name("beta", 0, b"?"), Dropped::Malformed),
            (vec![0, 0, 0, 1, 127, 0, 0, 1, 0, 53, 7], Dropped::NotOfThisMesh),
            ([&[0, 0, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 53]].concat(), Dropped::NotOfThisMesh),
            (for_name("spiffe://other.test/node/beta", 53, b"?"), Dropped::NotOfThisMesh),
            (for_name("alpha", 53, b"?"), Dropped::NotOfThisMesh),
        ] {
            assert_eq!(send(&mut announcing(&nowhere()), client(5_000), &datagram), Err(reason), "{datagram:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_lead_out_of_the_mesh(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in 0_u8..6) {
            let hostile = [&[0, 0, 0, kind], bytes.as_slice()].concat();
            for datagram in [bytes.as_slice(), &hostile] {
                if let Ok(to) = send(&mut announcing(&nowhere()), client(5_000), datagram) {
                    prop_assert!(x0t_model::OverlayPrefix::of(&domain()).contains(*to.ip()));
                }
            }
        }
    }
}
