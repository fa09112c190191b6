//! Datagrams, echoes and errors.

use std::net::Ipv6Addr;

use x0t_netstack::Failure;

use crate::net::{ALPHA, BETA, Net, at};

#[test]
fn a_datagram_reaches_an_open_port_and_its_answer_the_sender() {
    let mut net = Net::new();
    assert_eq!(net.beta().open_udp(Some(53)), Ok(53));
    let port = net.alpha().open_udp(None).unwrap();
    assert!(port >= 49_152);
    assert!(net.alpha().send_udp(port, at(BETA, 53), b"question"));
    let mut question = None;
    net.until("it arrives", |net| {
        question = net.beta().receive_udp(53);
        question.is_some()
    });
    assert_eq!(question, Some((at(ALPHA, port), b"question".to_vec())));
    assert!(net.beta().send_udp(53, at(ALPHA, port), b""));
    net.until("the answer arrives", |net| net.alpha().receive_udp(port) == Some((at(BETA, 53), Vec::new())));
}

#[test]
fn a_datagram_for_a_closed_port_is_refused_with_an_error() {
    let mut net = Net::new();
    net.record = Some(Vec::new());
    let port = net.alpha().open_udp(None).unwrap();
    net.alpha().send_udp(port, at(BETA, 53), b"question");
    net.until("it was refused", |net| net.beta().stats().packets_refused == 1);
    net.step();
    let record = net.record.unwrap();
    // Destination unreachable, port unreachable (RFC 4443, 3.1).
    assert_eq!((record[1][6], &record[1][40..42]), (58, &[1, 4][..]));
}

#[test]
fn a_datagram_that_fits_no_packet_or_has_no_destination_is_not_sent() {
    let mut net = Net::new();
    let port = net.alpha().open_udp(None).unwrap();
    assert!(net.alpha().send_udp(port, at(BETA, 53), &[0; 1232]));
    assert!(!net.alpha().send_udp(port, at(BETA, 53), &[0; 1233]));
    assert!(!net.alpha().send_udp(port, at(BETA, 0), b"x"));
    assert!(!net.alpha().send_udp(port, at(ALPHA, 53), b"x"));
    assert!(!net.alpha().send_udp(port, at(Ipv6Addr::UNSPECIFIED, 53), b"x"));
}

#[test]
fn an_echo_request_is_answered_with_what_it_brought() {
    let mut net = Net::new();
    let now = net.now;
    net.beta().handle_packet(&icmp(ALPHA, BETA, 128, b"\x00\x07\x00\x01some padding"), now);
    let answer = net.beta().outgoing().pop().unwrap().to_vec();
    assert_eq!((&answer[8..24], &answer[24..40]), (&BETA.octets()[..], &ALPHA.octets()[..]));
    assert_eq!((answer[40], &answer[44..]), (129, &b"\x00\x07\x00\x01some padding"[..]));
}

#[test]
fn an_address_that_the_mesh_does_not_know_fails_a_connection_at_once() {
    let mut net = Net::new();
    net.record = Some(Vec::new());
    let now = net.now;
    let near = net.alpha().connect(at("fd00::99".parse().unwrap(), 80), now).unwrap();
    net.step();
    let syn = net.record.as_ref().unwrap()[0].clone();
    let error = |quote: &[u8]| icmp(ALPHA, ALPHA, 1, &[&[0; 4], quote].concat());
    let mut of_another = syn.clone();
    of_another[40] ^= 1;
    net.alpha().handle_packet(&error(&of_another), now);
    assert_eq!(net.alpha().is_established(near), Ok(false));
    // The node that knows no way says so in its own name, which is alpha's too.
    net.alpha().handle_packet(&error(&syn), now);
    assert_eq!(net.alpha().is_established(near), Err(Failure::Unreachable));
}

/// An ICMPv6 message with its checksum (RFC 4443, 2.3).
pub fn icmp(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&((4 + rest.len()) as u16).to_be_bytes());
    packet.extend_from_slice(&[58, 64]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&[kind, 0, 0, 0]);
    packet.extend_from_slice(rest);
    let words = packet[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + 58 + (4 + rest.len()) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[42..44].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}
