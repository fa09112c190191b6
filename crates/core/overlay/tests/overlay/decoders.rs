//! No bytes are trusted: every decoder answers with an error, never with a panic.

use proptest::prelude::*;
use x0t_model::{DecodeError, NodeId};
use x0t_overlay::frame::{self, ACK_LEN_MAX, Ack, Frame};
use x0t_overlay::hop::PayloadKind;
use x0t_overlay::packet::{HandshakeHeader, Level, ProtectedHeader, Retry, checksum};
use x0t_overlay::{HopHeader, Purpose};

use crate::golden;

fn decode_frames(mut bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut count = 0;
    while frame::next(&mut bytes)?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[test]
fn no_truncation_of_a_packet_or_frame_decodes() {
    let packet = golden::initial();
    let header_len = HandshakeHeader::decode(&packet).unwrap().encoded_len();
    for len in 0..header_len {
        assert!(matches!(HandshakeHeader::decode(&packet[..len]), Err(DecodeError::Truncated(_))), "{len}");
    }
    let retry = golden::retry();
    for len in 0..retry.len() {
        assert!(matches!(Retry::decode(&retry[..len]), Err(DecodeError::Truncated(_))), "{len}");
    }
    let hop = golden::hop().to_bytes();
    for len in 0..hop.len() {
        assert!(matches!(HopHeader::decode(&hop[..len]), Err(DecodeError::Truncated(_))), "{len}");
    }
    for (forward, whole) in [(false, 30), (true, 70)] {
        let header = ProtectedHeader { forward, epoch: 0, dst_index: 1, pn: 1 }.to_bytes();
        let packet = [&header[..], &[0; 56]].concat();
        for len in 0..whole {
            assert!(ProtectedHeader::decode(&packet[..len]).is_err(), "{len}");
        }
        assert!(ProtectedHeader::decode(&packet[..whole]).is_ok());
    }
    for (name, _, frame) in golden::frames() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        for len in 1..bytes.len() {
            assert!(frame::next(&mut &bytes[..len]).is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn a_checksum_finds_every_flip_of_one_bit_or_two_and_every_cut() {
    let bytes: Vec<u8> = (0..45).map(|at: u32| (at * 37) as u8).collect();
    let sum = checksum(&bytes);
    let bits = bytes.len() * 8;
    for first in 0..bits {
        for second in first..bits {
            let mut changed = bytes.clone();
            changed[first / 8] ^= 1 << (first % 8);
            if second != first {
                changed[second / 8] ^= 1 << (second % 8);
            }
            assert_ne!(checksum(&changed), sum, "bits {first} and {second}");
        }
    }
    for len in 0..bytes.len() {
        assert_ne!(checksum(&bytes[..len]), sum, "cut to {len}");
    }
    assert_ne!(checksum(&[&bytes[..], &[0]].concat()), sum, "a zero more");
}

#[test]
fn what_has_no_meaning_is_refused() {
    let mut trailing = golden::retry();
    trailing.push(0);
    assert_eq!(Retry::decode(&trailing), Err(DecodeError::Trailing(1)));
    for (at, value, field) in [(1, 9, "purpose"), (2, 2, "version"), (11, 2, "level")] {
        let mut packet = golden::initial();
        packet[at] = value;
        assert_eq!(HandshakeHeader::decode(&packet), Err(DecodeError::Invalid { field, value: value.into() }));
    }
    let mut packet = golden::initial();
    packet[16] = 41;
    assert_eq!(HandshakeHeader::decode(&packet), Err(DecodeError::TooLong { field: "cookie", value: 41, limit: 40 }));
    for (bytes, what) in [
        (&[0x07][..], "a type that no frame has"),
        (&[3, 0, 0, 0, 0, 0, 0], "CRYPTO without bytes"),
        (&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "STREAM without bytes"),
        (&[6, 0, 0, 65], "a reason beyond its bound"),
        (&[6, 0, 0, 1, 0xff], "a reason that is no text"),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], "more ranges than allowed"),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], "a range that touches"),
        (
            &[2, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 1, 0, 0, 0, 1],
            "a range beyond the last offset",
        ),
    ] {
        assert!(frame::next(&mut &bytes[..]).is_err(), "{what}");
    }
}

#[test]
fn the_longest_ack_is_as_long_as_it_says() {
    let mut out = Vec::new();
    let ranges = (0..20u64).map(|at| 10 + at * 10..15 + at * 10).collect();
    Frame::Ack(Ack { pn: 0, received: 0, ranges }).encode(&mut out);
    assert_eq!(out.len(), ACK_LEN_MAX);
    assert_eq!(decode_frames(&out), Ok(1), "what does not fit is left out");
}

prop_compose! {
    fn any_ack()(pn: u64, received in 0..u64::MAX / 2, steps in proptest::collection::vec((1u32.., 1u32..), 0..=8)) -> Ack {
        let mut end = received;
        let ranges = steps.into_iter().map(|(gap, len)| {
            let start = end + u64::from(gap);
            end = start + u64::from(len);
            start..end
        }).collect();
        Ack { pn, received, ranges }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0x0fu8..0x20, frame in 0u8..8) {
        let mut bytes = bytes;
        let _ = (HandshakeHeader::decode(&bytes), Retry::decode(&bytes), ProtectedHeader::decode(&bytes));
        let _ = (HopHeader::decode(&bytes), decode_frames(&bytes), frame::sole_datagram(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = kind;
            let _ = (HandshakeHeader::decode(&bytes), Retry::decode(&bytes), ProtectedHeader::decode(&bytes));
            bytes[0] = frame;
            let _ = (decode_frames(&bytes), frame::sole_datagram(&bytes));
        }
    }

    #[test]
    fn a_handshake_header_is_read_back(dst_index: u32, src_index in 1u32.., pn: u32, sealed: bool, purpose in 1u8..4, cookie in proptest::collection::vec(any::<u8>(), 0..=40), body in proptest::collection::vec(any::<u8>(), 0..20)) {
        let purpose = [Purpose::Link, Purpose::EndToEnd, Purpose::Join][usize::from(purpose) - 1];
        let level = if sealed { Level::Handshake } else { Level::Initial };
        let header = HandshakeHeader { purpose, dst_index, src_index, level, pn, cookie: &cookie };
        let mut out = Vec::new();
        header.encode(&mut out);
        prop_assert_eq!(out.len(), header.encoded_len());
        out.extend(body);
        prop_assert_eq!(HandshakeHeader::decode(&out), Ok(header));
    }

    #[test]
    fn a_hop_header_is_read_back(src: [u8; 16], dst: [u8; 16], ttl: u8, flags: u8, flow: u32) {
        let (src, dst) = (NodeId::from_bytes(src), NodeId::from_bytes(dst));
        let hop = HopHeader { src, dst, ttl, kind: PayloadKind::EndToEnd, flags, flow };
        prop_assert_eq!(HopHeader::decode(&hop.to_bytes()), Ok(hop));
    }

    #[test]
    fn frames_are_read_back_one_after_the_other(ack in any_ack(), offset: u64, code: u16, bytes in proptest::collection::vec(any::<u8>(), 1..100), reason in "\\PC{0,40}") {
        let cut = frame::cut_reason(&reason).to_owned();
        prop_assert!(cut.len() <= 64);
        let frames = [
            Frame::Stream { offset, bytes: &bytes },
            Frame::Ack(ack),
            Frame::Padding,
            Frame::Crypto { offset: offset as u32, bytes: &bytes },
            Frame::Ping,
            Frame::Datagram(&bytes),
            Frame::Close { code, reason: &cut },
        ];
        let mut out = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        let mut rest = &out[..];
        for frame in frames {
            prop_assert_eq!(frame::next(&mut rest), Ok(Some(frame)));
        }
        prop_assert_eq!(frame::next(&mut rest), Ok(None));
    }

    #[test]
    fn a_sole_datagram_is_what_the_frames_say(bytes in proptest::collection::vec(any::<u8>(), 0..50), more: bool) {
        let mut out = Vec::new();
        Frame::Datagram(&bytes).encode(&mut out);
        if more {
            Frame::Ping.encode(&mut out);
        }
        let sole = frame::sole_datagram(&out).map(|range| out[range].to_vec());
        prop_assert_eq!(sole, (!more).then_some(bytes));
    }
}
