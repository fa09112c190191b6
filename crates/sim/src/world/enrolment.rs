//! How hosts come by their identities, and how a node comes to life from a disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use x0t_identity::{Authority, AuthorityConfig, AuthorityServer, KeySource, Svid, signing_request};
use x0t_model::{Entropy, Instant, NodeId, SpiffeId, TrustDomain, Underlay, UnixTime};
use x0t_node::{Node, NodeConfig, RecordKind, Start};

use super::workers::Workers;
use super::{BEGINNING, Host, Terms};
use crate::network::Network;
use crate::topology::Topology;

/// As `x0t up --recovery 84h`.
const RECOVERY: Duration = Duration::from_secs(84 * 3600);

/// Gives every host of the topology an SVID from one authority, which host 0 keeps.
pub(super) fn enrol(topology: &Topology, domain: &TrustDomain, terms: &Terms, entropy: &mut Entropy) -> Vec<Host> {
    let mut keys = terms.cryptography.keys(entropy.fork("enrolment"));
    let mut issuing = entropy.fork("issuing");
    let spiffe_id = |name: &str| SpiffeId::node(domain, name).expect("a valid name");
    let config = AuthorityConfig { svid_ttl: terms.svid_ttl, recovery: RECOVERY, ..AuthorityConfig::default() };
    let first = spiffe_id(&topology.names[0]);
    let mut authority = Authority::create(&first, config, &mut *keys, &mut issuing, BEGINNING).expect("an authority");
    let bundle = authority.bundle().to_json();
    let mut hosts: Vec<Host> = Vec::with_capacity(topology.hosts());
    for (number, name) in topology.names.iter().enumerate() {
        let svid = if number == 0 {
            authority.issue_self(&mut *keys, &mut issuing, BEGINNING).expect("an SVID")
        } else {
            join(&mut authority, name, &mut *keys, &mut issuing)
        };
        let spiffe_id = spiffe_id(name);
        let disk = BTreeMap::from([
            (RecordKind::Svid, svid.to_stored().to_vec()),
            (RecordKind::Bundle, bundle.clone()),
            (RecordKind::Authorities, x0t_node::stored_authorities(std::slice::from_ref(&first))),
            (RecordKind::Epoch, b"0".to_vec()),
        ]);
        hosts.push(Host {
            name: name.clone(),
            id: NodeId::of(&spiffe_id),
            node: None,
            disk,
            boots: 0,
            frozen: false,
            backlog: Vec::new(),
            delivered: 0,
            workers: None,
            timer: None,
            skew: 0,
            authority: None,
        });
    }
    hosts[0].disk.insert(RecordKind::Authority, authority.to_stored().expect("a state that can be stored").to_vec());
    hosts
}

/// Admits one host by a token of its own, as an operator would.
fn join(authority: &mut Authority, name: &str, keys: &mut dyn KeySource, entropy: &mut Entropy) -> Svid {
    let ttl = Duration::from_secs(60);
    let token =
        authority.create_token(Some(name), ttl, vec![Network::address(0)], entropy, BEGINNING).expect("a token");
    let key = keys.generate().expect("a key");
    let csr = signing_request(&key).expect("a signing request");
    let issued = authority.redeem(&token.secret, Some(name), &csr, entropy, BEGINNING).expect("an SVID");
    Svid::new(issued.chain, key).expect("an SVID that fits its key")
}

/// Builds the node that a host's disk describes, as the daemon does.
pub(super) fn boot(
    host: &mut Host,
    number: usize,
    peers: Vec<SocketAddr>,
    terms: &Terms,
    now: Instant,
    wall: UnixTime,
) -> Node {
    let seed =
        blake3::hash(&[terms.seed.to_be_bytes(), (number as u64).to_be_bytes(), host.boots.to_be_bytes()].concat());
    let mut entropy = Entropy::new(*seed.as_bytes());
    let incarnation = entropy.next_u64();
    let peers = peers.into_iter().map(Underlay::Udp).collect();
    let mut config = NodeConfig { peers, ..terms.cryptography.node_config() };
    config.hands_out = (terms.workers > 0).then_some(0);
    if let Some(packets) = terms.rekey_packets {
        config.endpoint.rekey_packets = packets;
    }
    host.workers = (terms.workers > 0).then(|| Workers::new(terms.workers, entropy.fork("workers")));
    let crypto = terms.cryptography.for_node(entropy.fork("keys"));
    let (start, persist) =
        Start::from_records(config, |kind| host.disk.get(&kind).cloned(), incarnation, crypto, entropy.bytes())
            .expect("a disk that a node wrote");
    host.disk.insert(persist.kind, persist.bytes);
    host.authority = host.disk.get(&RecordKind::Authority).map(|stored| {
        let domain = start.svid.spiffe_id().trust_domain();
        let authority = Authority::from_stored(domain, stored).expect("an authority that the world wrote");
        AuthorityServer::new(authority, start.authorities.clone(), entropy.fork("authority"))
            .with_keys(terms.cryptography.keys(entropy.fork("authority keys")))
    });
    Node::new(start, now, wall).expect("a node that starts")
}
