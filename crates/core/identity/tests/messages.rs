//! What goes over the wire: golden bytes, round trips, truncation, and whatever else proptest thinks of.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use data_encoding::BASE64;
use proptest::prelude::*;
use support::{Mesh, NOW, id};
use x0t_identity::message::{JoinAccepted, JoinRequest, Message, MessageError, Refused, RenewAccepted};
use x0t_identity::{AnchorProof, Bundle, JoinRefusal, JoinSecret, JwtPublicKey, Leaf, Svid, SvidError};
use x0t_model::{DecodeError, UnixTime};

/// A key on P-256, as SubjectPublicKeyInfo.
const P256_SPKI: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqKrKMHxPrIeo74Vy0YuBRnA02bQ5AWYOhWRhdoEowhpBuU7UlIDPcAQNClrNBwQ2q7flrMJHPqzaB8yve4gTWQ==";

#[test]
fn the_bytes_of_a_join_request_never_change() {
    let request = |name: Option<&str>| {
        let (secret, name) = (JoinSecret::from_bytes([0xa5; 32]), name.map(str::to_owned));
        Message::JoinRequest(JoinRequest { secret, name, csr: vec![0xc5, 0xc6] })
    };
    let expected = [&[0x41][..], &[0xa5; 32], &[0, 4], b"beta", &[0, 2, 0xc5, 0xc6]].concat();
    check(&request(Some("beta")), &expected);
    let nameless = [&[0x41][..], &[0xa5; 32], &[0, 0], &[0, 2, 0xc5, 0xc6]].concat();
    check(&request(None), &nameless);
}

#[test]
fn the_bytes_of_an_acceptance_never_change() {
    let mut mesh = Mesh::new();
    let key = JwtPublicKey::from_spki(&BASE64.decode(P256_SPKI.as_bytes()).unwrap()).unwrap();
    let bundle = mesh.authority.bundle().clone().with_jwt_keys([("k1".parse().unwrap(), key.clone())]).unwrap();
    let chain = mesh.join("beta").chain().to_vec();
    let authority = bundle.authorities()[0].as_ref();
    let prefixed = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let tail = [
        &[1][..],
        &prefixed(&chain[0]),
        &prefixed(b"mesh.test"),
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[1],
        &prefixed(authority),
        &[1],
        &prefixed(b"k1"),
        &prefixed(key.to_spki()),
    ]
    .concat();
    let renewed = Message::RenewAccepted(RenewAccepted { chain: chain.clone(), bundle: bundle.clone() });
    check(&renewed, &[&[0x45][..], &tail].concat());
    let authorities = vec![id("spiffe://mesh.test/node/alpha")];
    let joined = Message::JoinAccepted(JoinAccepted { chain, bundle, authorities });
    check(&joined, &[&[0x42][..], &tail, &[1], &prefixed(b"spiffe://mesh.test/node/alpha")].concat());
}

#[test]
fn the_bytes_of_a_refusal_and_of_a_renewal_never_change() {
    let refused = || Refused { code: "name_taken".to_owned(), text: "no".to_owned() };
    check(&Message::JoinRefused(refused()), b"\x43\x00\x0aname_taken\x00\x02no");
    check(&Message::RenewRefused(refused()), b"\x46\x00\x0aname_taken\x00\x02no");
    check(&Message::RenewRequest { csr: vec![7] }, &[0x44, 0, 1, 7]);
}

#[test]
fn a_refusal_says_why_in_bounded_text_with_its_causes() {
    let bad_name =
        JoinRefusal::BadName { name: "a/b".to_owned(), source: "spiffe://td//".parse::<x0t_model::SpiffeId>().err() };
    let refused = Refused::from(&bad_name);
    assert_eq!(refused.code, "bad_name");
    assert_eq!(refused.text, "`a/b` cannot be the name of a node: the path ends with a slash");
    let long = Refused::from(&JoinRefusal::NameTaken("ä".repeat(600)));
    assert!(long.text.len() <= 512 && Message::JoinRefused(long).encode().is_ok());
}

#[test]
fn counts_and_lengths_beyond_their_bounds_are_refused_before_anything_is_read() {
    let too_long = |bytes: &[u8]| match Message::decode(bytes) {
        Err(MessageError::Malformed(DecodeError::TooLong { field, value, limit })) => (field, value, limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(too_long(&[0x45, 5]), ("chain", 5, 4));
    assert_eq!(too_long(&[0x45, 1, 0x20, 0x01]), ("certificate", 8193, 8192));
    assert_eq!(too_long(&[0x45, 1, 0, 0, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 0, 17]), ("bundle", 17, 16));
    let jwt_keys = [0x45, 1, 0, 0, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 0, 0, 65];
    assert_eq!(too_long(&jwt_keys), ("JWT keys", 65, 64));
    assert_eq!(too_long(&[&jwt_keys[..16], &[1, 1, 0]].concat()), ("key id", 256, 255));
    assert_eq!(too_long(&[&jwt_keys[..16], &[1, 0, 1, b'k', 4, 0xb1]].concat()), ("JWT key", 1201, 1200));
    assert_eq!(too_long(&[&[0x41][..], &[0; 32], &[0, 254]].concat()), ("name", 254, 253));
    assert_eq!(too_long(&[0x44, 0x10, 0x01]), ("signing request", 4097, 4096));
    assert_eq!(too_long(&[0x43, 0, 33]), ("code", 33, 32));
    let empty_chain = MessageError::Malformed(DecodeError::Invalid { field: "chain", value: 0 });
    assert_eq!(Message::decode(&[0x45, 0]), Err(empty_chain));
    let unknown = MessageError::Malformed(DecodeError::Invalid { field: "message type", value: 0x4a });
    assert_eq!(Message::decode(&[0x4a]), Err(unknown));
    assert_eq!(Message::decode(&[]), Err(MessageError::Malformed(DecodeError::Truncated(1))));
    assert_eq!(Message::decode(b"\x43\x00\x01\xff\x00\x00"), Err(MessageError::NotText("code")));
}

#[test]
fn a_sender_does_not_send_what_a_receiver_would_refuse() {
    let long = Message::RenewRequest { csr: vec![0; 4097] };
    assert_eq!(long.encode(), Err(MessageError::TooLong { field: "signing request", value: 4097, limit: 4096 }));
    let request = JoinRequest { secret: JoinSecret::from_bytes([0; 32]), name: Some("x".repeat(254)), csr: Vec::new() };
    assert!(matches!(Message::JoinRequest(request).encode(), Err(MessageError::TooLong { field: "name", .. })));
}

#[test]
fn a_stored_svid_comes_back_and_a_cut_off_one_does_not() {
    let svid = Mesh::new().join("beta");
    let stored = svid.to_stored();
    let again = Svid::from_stored(&stored).unwrap();
    assert_eq!((again.chain(), again.key_pkcs8()), (svid.chain(), svid.key_pkcs8()));
    assert!(stored.starts_with(b"-----BEGIN PRIVATE KEY-----\n") && stored.ends_with(b"-----END CERTIFICATE-----\n"));
    // The last line feed may be missing.
    for len in 0..stored.len() - 1 {
        assert!(Svid::from_stored(&stored[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(Svid::from_stored(b"").unwrap_err(), SvidError::Pem);
}

#[test]
fn a_jwt_key_that_is_none_or_shares_its_name_is_refused() {
    let head = [0x45, 1, 0, 0, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let key = BASE64.decode(P256_SPKI.as_bytes()).unwrap();
    let entry = |kid: &[u8], key: &[u8]| [&[0, kid.len() as u8][..], kid, &[0, key.len() as u8], key].concat();
    let read = |count: u8, entries: &[u8]| Message::decode(&[&head[..], &[count], entries].concat());
    assert!(read(1, &entry(b"k", &key)).is_ok());
    assert!(matches!(read(1, &entry(b"", &key)), Err(MessageError::KeyId(_))));
    assert!(matches!(read(1, &entry(b"k", b"junk")), Err(MessageError::JwtKey(_))));
    let mut other = key.clone();
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(read(1, &entry(b"k", &other)), Err(MessageError::JwtKey(_))), "a point beside the curve");
    assert!(read(2, &[entry(b"k", &key), entry(b"k", &key)].concat()).is_ok(), "one key, twice");
}

/// `message` is `expected` on the wire, comes back, and is refused at every other length.
fn check(message: &Message, expected: &[u8]) {
    assert_eq!(message.encode().as_deref(), Ok(expected));
    assert_eq!(Message::decode(expected).as_ref(), Ok(message));
    assert!(Message::starts_with(expected[0]));
    for len in 0..expected.len() {
        assert!(matches!(Message::decode(&expected[..len]), Err(MessageError::Malformed(_))), "{len} bytes");
    }
    let longer = [expected, &[0]].concat();
    assert_eq!(Message::decode(&longer), Err(MessageError::Malformed(DecodeError::Trailing(1))));
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(first in 0x40_u8..0x48, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[first][..], &bytes].concat();
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode(), Ok(bytes.clone()));
        }
        if let Ok(proof) = AnchorProof::decode(&bytes[1..]) {
            prop_assert_eq!(proof.encode().unwrap(), &bytes[1..]);
        }
        prop_assert!(Leaf::read(&bytes.into()).is_err());
    }

    #[test]
    fn no_damage_to_an_acceptance_makes_a_decoder_panic(position in 0_usize..1100, byte: u8) {
        let mut mesh = Mesh::new();
        let chain = mesh.join("beta").chain().to_vec();
        let message = Message::RenewAccepted(RenewAccepted { chain, bundle: mesh.authority.bundle().clone() });
        let mut bytes = message.encode().unwrap();
        let position = position % bytes.len();
        bytes[position] = byte;
        if let Ok(Message::RenewAccepted(RenewAccepted { chain, bundle })) = Message::decode(&bytes) {
            let _ = x0t_identity::verify_chain(&chain, &bundle, NOW);
        }
    }

    #[test]
    fn no_stored_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), now: u64) {
        let domain: x0t_model::TrustDomain = "mesh.test".parse().unwrap();
        prop_assert!(x0t_identity::Authority::from_stored(&domain, &bytes).is_err());
        prop_assert!(Svid::from_stored(&bytes).is_err());
        prop_assert!(Bundle::from_json(domain, &bytes).is_err());
        let mesh = Mesh::new();
        let chain = mesh.authority.bundle().authorities();
        prop_assert!(x0t_identity::verify_chain(chain, mesh.authority.bundle(), UnixTime::from_secs(now)).is_err());
    }
}
