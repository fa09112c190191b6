//! What far ends say to each other, and what the host hands over to be carried.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_node::message::{EndDatagram, LinkMessage, Parameters, Trace};
use x0t_node::punch::Rendezvous;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(datagram) = EndDatagram::decode(bytes) {
        let mut encoded = Vec::new();
        datagram.encode(&mut encoded);
        assert_eq!(encoded, bytes);
    }
    if let Ok(message) = LinkMessage::decode(bytes) {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert_eq!(encoded, bytes);
    }
    if let Ok(rendezvous) = Rendezvous::decode(bytes) {
        let mut encoded = Vec::new();
        rendezvous.encode(&mut encoded);
        assert_eq!(encoded, bytes);
    }
    let _ = x0t_node::beacon::BeaconKey::of(&"mesh.test".parse().unwrap()).open(bytes);
    let _ = Parameters::decode(bytes);
    let _ = Trace::decode(bytes);
    let _ = x0t_node::packet::summarise(bytes);
    let _ = x0t_node::icmp::packet_too_big(bytes, std::net::Ipv6Addr::LOCALHOST, 1280);
    let _ = x0t_node::icmp::clamp_segment_size(&mut bytes.to_vec(), 1280, false);
});
