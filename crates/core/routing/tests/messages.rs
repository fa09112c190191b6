//! Golden bytes of every message, and what decoders do with anything else.

use proptest::prelude::*;
use x0t_model::{Metric, NodeId};
use x0t_routing::Seqno;
use x0t_routing::chain::ChainShape;
use x0t_routing::message::{
    Anchor, AnchorStatement, Hello, Message, Messages, Ogm, Rreq, SeqReq, Withdrawal, write_anchor_req, write_goodbye,
    write_ogms, write_withdrawals,
};

const A: NodeId = NodeId::from_bytes([0xaa; 16]);
const B: NodeId = NodeId::from_bytes([0xbb; 16]);

fn hello() -> Hello {
    Hello {
        reply_wanted: true,
        deaf: false,
        resync: true,
        interval_ms: 25,
        seq: 7,
        time_micros: 0x0102_0304_0506,
        echo_seq: 6,
        echo_time_micros: 0x1122_3344,
        echo_hold_micros: 1_500,
        received: 0xff00_0000_0000_00ff,
    }
}

fn ogm() -> Ogm {
    Ogm {
        origin: A,
        seqno: Seqno { epoch: 3, seq: 258 },
        flags: 2,
        hops: 4,
        lifetime_ds: 100,
        chain: [0xcc; 16],
        metric: Metric::from_micros(4_400),
        path_mtu: 1_400,
        bloom: 0x8000_0000_0000_0001,
    }
}

fn statement() -> AnchorStatement {
    AnchorStatement { origin: A, epoch: 3, issue: 1, shape: ChainShape { seqs: 1_024, hops: 32 }, value: [0xdd; 16] }
}

/// Every message, by the name of its golden file.
fn samples() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut samples = Vec::new();
    let mut add = |name, golden, write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        samples.push((name, bytes, golden));
    };
    add("hello", include_str!("golden/hello.hex"), &|out| hello().write(out));
    add("ogm", include_str!("golden/ogm.hex"), &|out| write_ogms(out, 9, &[ogm(), Ogm { origin: B, ..ogm() }]));
    add("withdraw", include_str!("golden/withdraw.hex"), &|out| {
        write_withdrawals(out, 10, &[Withdrawal { origin: A, seqno: ogm().seqno }]);
    });
    add("seq_req", include_str!("golden/seq_req.hex"), &|out| {
        let distance = Metric::from_micros(4_400);
        SeqReq { origin: A, held: ogm().seqno, distance, ttl: 32, nonce: 0xdead_beef }.write(out);
    });
    add("rreq", include_str!("golden/rreq.hex"), &|out| Rreq { requester: A, id: 77, target: B, ttl: 5 }.write(out));
    add("anchor_req", include_str!("golden/anchor_req.hex"), &|out| write_anchor_req(out, A, 3));
    add("anchor", include_str!("golden/anchor.hex"), &|out| {
        Anchor { statement: statement(), proof: b"proof" }.write(out);
    });
    add("goodbye", include_str!("golden/goodbye.hex"), &|out| write_goodbye(out));
    samples
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(bytes: &[u8]) -> Vec<Message<'_>> {
    Messages::new(bytes).map(|message| message.expect("well formed")).collect()
}

#[test]
fn every_message_has_the_bytes_it_always_had() {
    for (name, bytes, golden) in samples() {
        let golden: String = golden.split_whitespace().collect();
        assert_eq!(hex(&bytes), golden, "{name}");
    }
}

#[test]
fn what_is_signed_of_an_anchor_begins_with_its_label() {
    let signed = statement().to_signed_bytes();
    assert!(signed.starts_with(b"x0tta6bl4 routing anchor v1\0"));
    assert_eq!(signed.len(), 28 + 16 + 4 + 4 + 4 + 1 + 16);
    assert_ne!(signed, AnchorStatement { issue: 2, ..statement() }.to_signed_bytes());
}

#[test]
fn every_message_decodes_to_what_was_encoded() {
    let samples = samples();
    let message = |name: &str| decode(&samples.iter().find(|sample| sample.0 == name).unwrap().1)[0];
    assert_eq!(message("hello"), Message::Hello(hello()));
    let Message::Ogm(records) = message("ogm") else { panic!() };
    assert_eq!(records.serial, 9);
    assert_eq!(records.ogms().collect::<Vec<_>>(), [ogm(), Ogm { origin: B, ..ogm() }]);
    let Message::Withdraw(records) = message("withdraw") else { panic!() };
    assert_eq!(records.withdrawals().collect::<Vec<_>>(), [Withdrawal { origin: A, seqno: ogm().seqno }]);
    assert!(matches!(message("seq_req"), Message::SeqReq(SeqReq { ttl: 32, nonce: 0xdead_beef, .. })));
    assert_eq!(message("rreq"), Message::Rreq(Rreq { requester: A, id: 77, target: B, ttl: 5 }));
    assert_eq!(message("anchor_req"), Message::AnchorReq { origin: A, epoch: 3 });
    assert_eq!(message("anchor"), Message::Anchor(Anchor { statement: statement(), proof: b"proof" }));
    assert_eq!(message("goodbye"), Message::Goodbye);
}

#[test]
fn messages_share_a_datagram_and_unknown_ones_are_stepped_over() {
    let mut datagram = Vec::new();
    hello().write(&mut datagram);
    datagram.extend([250, 0, 2, 1, 2]);
    write_goodbye(&mut datagram);
    assert_eq!(decode(&datagram), [Message::Hello(hello()), Message::Unknown(250), Message::Goodbye]);
}

#[test]
fn a_message_cut_short_is_refused_at_every_length() {
    for (name, bytes, _) in samples() {
        for len in 1..bytes.len() {
            let result: Vec<_> = Messages::new(&bytes[..len]).collect();
            assert!(result.len() == 1 && result[0].is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn a_message_with_bytes_left_over_is_refused() {
    for (name, mut bytes, _) in samples() {
        bytes.push(0);
        let len = (bytes.len() - 3) as u16;
        bytes[1..3].copy_from_slice(&len.to_be_bytes());
        assert!(Messages::new(&bytes).next().unwrap().is_err(), "{name}");
    }
}

#[test]
fn a_proof_beyond_its_bound_is_refused() {
    let mut bytes = Vec::new();
    Anchor { statement: statement(), proof: &[0; 8_192] }.write(&mut bytes);
    assert_eq!(decode(&bytes).len(), 1);
    bytes.push(0);
    let at = bytes.len() - 8_193 - 2;
    bytes[at..at + 2].copy_from_slice(&8_193_u16.to_be_bytes());
    let len = (bytes.len() - 3) as u16;
    bytes[1..3].copy_from_slice(&len.to_be_bytes());
    assert!(Messages::new(&bytes).next().unwrap().is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let read = Messages::new(&bytes).count();
        prop_assert!(read <= bytes.len() / 3 + 1);
    }

    #[test]
    fn no_body_of_a_known_type_makes_the_decoder_panic(
        kind in 0_u8..12,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = vec![kind];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(&body);
        for message in Messages::new(&bytes).flatten() {
            if let Message::Ogm(records) = message {
                prop_assert_eq!(records.ogms().count(), (body.len() - 4) / 58);
            }
        }
    }

    #[test]
    fn any_record_survives_its_bytes(
        origin: [u8; 16], epoch: u32, seq: u32, flags: u8, hops: u8, lifetime_ds: u16, chain: [u8; 16],
        metric: u32, path_mtu: u16, bloom: u64, serial: u32,
    ) {
        let ogm = Ogm {
            origin: NodeId::from_bytes(origin),
            seqno: Seqno { epoch, seq },
            flags,
            hops,
            lifetime_ds,
            chain,
            metric: Metric::from_micros(metric),
            path_mtu,
            bloom,
        };
        let mut bytes = Vec::new();
        write_ogms(&mut bytes, serial, &[ogm]);
        let Some(Ok(Message::Ogm(records))) = Messages::new(&bytes).next() else { panic!("not an OGM") };
        prop_assert_eq!(records.serial, serial);
        prop_assert_eq!(records.ogms().collect::<Vec<_>>(), vec![ogm]);
    }
}
