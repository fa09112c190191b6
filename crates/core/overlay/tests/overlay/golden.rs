//! The wire, byte by byte. These files never change; a new version of the protocol gets new ones.

use x0t_model::NodeId;
use x0t_overlay::frame::{self, Ack, Frame};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{self, HandshakeHeader, JOIN, Level, ProtectedHeader, Retry};
use x0t_overlay::{HopHeader, Purpose};

/// A name, the file's text, and what the encoder gives.
type Golden = (&'static str, &'static str, Vec<u8>);

macro_rules! golden {
    ($name:literal, $bytes:expr) => {
        ($name, include_str!(concat!("../golden/", $name, ".hex")), $bytes)
    };
}

const COOKIE: [u8; 24] = *b"a cookie of 24 bytes ...";

pub fn initial() -> Vec<u8> {
    let (purpose, level) = (Purpose::Link, Level::Initial);
    let mut out = Vec::new();
    HandshakeHeader { purpose, dst_index: 0, src_index: 0x0102_0304, level, pn: 7, cookie: &COOKIE }.encode(&mut out);
    Frame::Crypto { offset: 0, bytes: b"ClientHello" }.encode(&mut out);
    let sum = packet::checksum(&out);
    out.extend(sum);
    out
}

fn level_1_header() -> Vec<u8> {
    let (purpose, level) = (Purpose::EndToEnd, Level::Handshake);
    let mut out = Vec::new();
    HandshakeHeader { purpose, dst_index: 0xa1a2_a3a4, src_index: 0xb1b2_b3b4, level, pn: 1, cookie: &[] }
        .encode(&mut out);
    out
}

pub fn retry() -> Vec<u8> {
    let mut out = Vec::new();
    Retry { dst_index: 0x0102_0304, cookie: &COOKIE }.encode(&mut out);
    out
}

fn protected_header(forward: bool) -> Vec<u8> {
    ProtectedHeader { forward, epoch: 0xfe, dst_index: 0xa1a2_a3a4, pn: 0x0102_0304_0506_0708 }.to_bytes().to_vec()
}

pub fn hop() -> HopHeader {
    HopHeader {
        src: NodeId::from_bytes([0x11; 16]),
        dst: NodeId::from_bytes([0x22; 16]),
        ttl: 32,
        kind: PayloadKind::EndToEnd,
        flags: 0x80,
        flow: 0xdead_beef,
    }
}

pub fn frames() -> Vec<(&'static str, &'static str, Frame<'static>)> {
    macro_rules! frame {
        ($name:literal, $frame:expr) => {
            ($name, include_str!(concat!("../golden/", $name, ".hex")), $frame)
        };
    }
    vec![
        frame!("frame_padding", Frame::Padding),
        frame!("frame_ping", Frame::Ping),
        frame!("frame_ack", Frame::Ack(Ack { pn: 5, received: 1000, ranges: vec![] })),
        frame!("frame_ack_ranges", Frame::Ack(Ack { pn: 6, received: 1000, ranges: vec![1100..1300, 2000..2001] })),
        frame!("frame_crypto", Frame::Crypto { offset: 0x0102_0304, bytes: b"TLS" }),
        frame!("frame_stream", Frame::Stream { offset: 0x0102_0304_0506_0708, bytes: b"reliable" }),
        frame!("frame_datagram", Frame::Datagram(b"unreliable")),
        frame!("frame_close", Frame::Close { code: 0x1001, reason: "maintenance" }),
        frame!("frame_challenge", Frame::Challenge(0x0102_0304_0506_0708)),
        frame!("frame_response", Frame::Response(0x0102_0304_0506_0708)),
    ]
}

fn packets() -> Vec<Golden> {
    vec![
        golden!("handshake_initial", initial()),
        golden!("handshake_level_1_header", level_1_header()),
        golden!("retry", retry()),
        golden!("join_retry", [vec![JOIN], retry()].concat()),
        golden!("protected_header", protected_header(false)),
        golden!("forward_header", protected_header(true)),
        golden!("hop_header", hop().to_bytes().to_vec()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| text += &format!("{byte:02x}"));
        text += "\n";
    }
    text
}

#[test]
fn every_packet_and_frame_is_encoded_as_it_always_was() {
    let frames = frames().into_iter().map(|(name, file, frame)| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        (name, file, out)
    });
    let mut wrong = String::new();
    for (name, file, bytes) in packets().into_iter().chain(frames) {
        if file != hex(&bytes) {
            wrong += &format!("== {name}\n{}", hex(&bytes));
        }
    }
    assert!(wrong.is_empty(), "differ from tests/golden:\n{wrong}");
}

#[test]
fn every_golden_byte_string_is_decoded_to_what_it_means() {
    let packet = initial();
    let header = HandshakeHeader::decode(&packet).unwrap();
    assert_eq!(
        (header.src_index, header.pn, header.cookie, header.level),
        (0x0102_0304, 7, &COOKIE[..], Level::Initial)
    );
    assert_eq!(HandshakeHeader::decode(&level_1_header()).unwrap().purpose, Purpose::EndToEnd);
    assert_eq!(Retry::decode(&retry()), Ok(Retry { dst_index: 0x0102_0304, cookie: &COOKIE }));
    assert_eq!(HopHeader::decode(&hop().to_bytes()), Ok(hop()));
    for forward in [false, true] {
        let whole = [protected_header(forward), vec![0; 56]].concat();
        assert_eq!(ProtectedHeader::decode(&whole).unwrap().to_bytes()[..], protected_header(forward));
    }
    for (name, _, frame) in frames() {
        let mut out = Vec::new();
        frame.encode(&mut out);
        let mut rest = &out[..];
        assert_eq!(frame::next(&mut rest), Ok(Some(frame)), "{name}");
        assert_eq!(frame::next(&mut rest), Ok(None), "{name}");
    }
}
