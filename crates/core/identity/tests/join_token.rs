//! Join tokens as text, and what a joiner learns from one.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use proptest::prelude::*;
use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::{AuthorityConfig, JoinSecret, JoinToken, ParseTokenError, VerifyError};

/// Made by this crate; its checksum was confirmed with zlib.
const GOLDEN: &str = concat!(
    "x0t1.paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaVaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWgAAAABrAYfAAB1z",
    "cGlmZmU6Ly9tZXNoLnRlc3Qvbm9kZS9hbHBoYQIEwAACBxH4BiABDbgAAAAAAAAAAAAAAAcR-cbX3p4"
);

fn token() -> JoinToken {
    JoinToken {
        secret: JoinSecret::from_bytes([0xa5; 32]),
        bundle_digest: [0x5a; 32],
        authority: id("spiffe://mesh.test/node/alpha"),
        addresses: vec!["192.0.2.7:4600".parse().unwrap(), "[2001:db8::7]:4601".parse().unwrap()],
        expires: NOW,
    }
}

#[test]
fn the_text_of_a_token_never_changes() {
    assert_eq!(token().to_string(), GOLDEN);
    assert_eq!(GOLDEN.parse(), Ok(token()));
    let body = data_encoding::BASE64URL_NOPAD.decode(&GOLDEN.as_bytes()[5..]).unwrap();
    let expected = [
        &[0xa5; 32][..],
        &[0x5a; 32],
        &1_795_262_400_u64.to_be_bytes(),
        &[0, 29],
        b"spiffe://mesh.test/node/alpha",
        &[2],
        &[4, 192, 0, 2, 7, 0x11, 0xf8],
        &[6, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x11, 0xf9],
    ]
    .concat();
    assert_eq!(body[..body.len() - 4], expected);
}

#[test]
fn every_single_mistyped_character_is_noticed() {
    let text = token().to_string();
    for position in 0..text.len() {
        for replacement in (b' '..=b'~').map(char::from) {
            let mut mistyped = text.clone();
            mistyped.replace_range(position..=position, replacement.encode_utf8(&mut [0; 4]));
            if mistyped != text {
                assert!(mistyped.parse::<JoinToken>().is_err(), "`{replacement}` at {position} goes unnoticed");
            }
        }
    }
}

#[test]
fn a_token_that_is_cut_off_or_has_swapped_characters_is_noticed() {
    let text = token().to_string();
    for len in 0..text.len() {
        assert!(text[..len].parse::<JoinToken>().is_err(), "{len} characters");
    }
    for position in 0..text.len() - 1 {
        let mut swapped = text.clone().into_bytes();
        swapped.swap(position, position + 1);
        let swapped = String::from_utf8(swapped).unwrap();
        assert!(swapped == text || swapped.parse::<JoinToken>().is_err(), "swapped at {position}");
    }
}

#[test]
fn a_wrong_token_says_what_is_wrong_with_it() {
    let parse = |text: &str| text.parse::<JoinToken>().unwrap_err();
    let text = token().to_string();
    assert_eq!(parse("hello"), ParseTokenError::NotAToken);
    assert_eq!(parse(""), ParseTokenError::NotAToken);
    assert_eq!(parse("x0t2.AAAA"), ParseTokenError::OtherFormat("x0t2".to_owned()));
    assert_eq!(parse(&text.replace("x0t1.", "x0t1.!")), ParseTokenError::BadCharacter(6));
    assert_eq!(parse("x0t1."), ParseTokenError::Checksum);
    assert_eq!(parse(&text.replacen('W', "X", 1)), ParseTokenError::Checksum);
    assert!(matches!(parse(&format!("x0t1.{}", "A".repeat(5000))), ParseTokenError::Malformed(_)));
    assert_eq!(format!("\n {text}\r\n").parse(), Ok(token()), "white space from pasting does not matter");
}

#[test]
fn a_joiner_believes_only_the_authority_its_token_was_made_for() {
    let mut mesh = Mesh::new();
    let token = mesh.token(None);
    let (own, beta) = (mesh.own_svid(NOW), mesh.join("beta"));
    let presented = mesh.authority.join_chain(&own);
    let bundle = token.verify_authority(&presented, NOW).unwrap();
    assert_eq!(bundle.authorities(), mesh.authority.bundle().authorities());
    assert_eq!(bundle.digest(), token.bundle_digest);
    // A member that is not the authority.
    let verdict = token.verify_authority(&mesh.authority.join_chain(&beta), NOW);
    assert!(matches!(verdict, Err(VerifyError::WrongPeer { .. })), "{verdict:?}");
    // No authorities behind the chain, or others.
    assert_eq!(token.verify_authority(own.chain(), NOW), Err(VerifyError::WrongBundle));
    assert_eq!(token.verify_authority(&[], NOW), Err(VerifyError::WrongBundle));
    let mut impostor =
        Mesh::of("spiffe://mesh.test/node/alpha", AuthorityConfig { svid_ttl: 2 * HOUR, ..Default::default() });
    impostor.keys = x0t_identity::SeededKeys::new(x0t_model::Entropy::new([8; 32]));
    impostor.authority = x0t_identity::Authority::create(
        &token.authority,
        AuthorityConfig::default(),
        &mut impostor.keys,
        &mut impostor.entropy,
        NOW,
    )
    .unwrap();
    let forged = impostor.own_svid(NOW);
    let verdict = token.verify_authority(&impostor.authority.join_chain(&forged), NOW);
    assert_eq!(verdict, Err(VerifyError::WrongBundle));
    // The impostor's leaf in front of the real authorities.
    let mixed = mesh.authority.join_chain(&forged);
    assert_eq!(token.verify_authority(&mixed, NOW).unwrap_err().code(), "untrusted");
    let more = [presented.clone(), impostor.authority.bundle().authorities().to_vec()].concat();
    let believed = token.verify_authority(&more, NOW).unwrap();
    assert_eq!(believed.digest(), token.bundle_digest, "one more is shown, and not believed");
    // An authority whose own SVID is over.
    assert_eq!(token.verify_authority(&presented, NOW + HOUR + secs(1)).unwrap_err().code(), "expired");
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}", body in "[A-Za-z0-9_-]{0,200}") {
        let _ = text.parse::<JoinToken>();
        let _ = format!("x0t1.{body}").parse::<JoinToken>();
    }

    #[test]
    fn every_token_survives_its_text_form(
        secret: [u8; 32],
        bundle_digest: [u8; 32],
        expires: u64,
        addresses in proptest::collection::vec(any::<std::net::SocketAddr>(), 0..=8),
        name in "[a-z0-9.-]{1,60}x",
    ) {
        let addresses: Vec<_> = addresses
            .into_iter()
            .map(|address| std::net::SocketAddr::new(address.ip(), address.port()))
            .collect();
        let token = JoinToken {
            secret: JoinSecret::from_bytes(secret),
            bundle_digest,
            authority: id(&format!("spiffe://mesh.test/node/{name}")),
            addresses,
            expires: x0t_model::UnixTime::from_secs(expires),
        };
        prop_assert_eq!(token.to_string().parse(), Ok(token));
    }
}
