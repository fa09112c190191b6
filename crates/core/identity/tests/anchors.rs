//! The signature under a routing anchor: believed for exactly one statement of exactly one origin.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use support::{HOUR, Mesh, NOW, secs};
use x0t_identity::{
    AnchorError, AnchorProof, Authority, AuthorityConfig, AwsLcKeys, KeySource, Svid, VerifyError, sign_anchor,
    signing_request, verify_anchor, verify_signature,
};
use x0t_model::{DecodeError, NodeId};

const ANCHOR: [u8; 32] = [0xaa; 32];

#[test]
fn an_origin_is_believed_for_what_it_signed_and_for_nothing_else() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let origin = beta.node_id();
    let proof = sign_anchor(&beta, origin, &ANCHOR).unwrap();
    let bundle = mesh.authority.bundle().clone();
    let verify = |statement: &[u8], now| verify_anchor(&proof, &bundle, origin, statement, now);
    assert_eq!(verify(&ANCHOR, NOW), Ok(beta.spiffe_id().clone()));
    let refused = Err(AnchorError::Refused(VerifyError::BadSignature));
    assert_eq!(verify(&[0xab; 32], NOW), refused);
    assert_eq!(verify(&ANCHOR[..31], NOW), refused);
    assert_eq!(verify(&[], NOW), refused);
    assert_eq!(verify(&ANCHOR, NOW + HOUR + secs(1)).unwrap_err().code(), "expired");
}

#[test]
fn nobody_signs_or_is_believed_for_another_origin() {
    let mut mesh = Mesh::new();
    let (beta, gamma) = (mesh.join("beta"), mesh.join("gamma"));
    let bundle = mesh.authority.bundle().clone();
    assert!(matches!(sign_anchor(&gamma, beta.node_id(), &ANCHOR), Err(AnchorError::NotTheOrigin { .. })));
    let proof = sign_anchor(&gamma, gamma.node_id(), &ANCHOR).unwrap();
    let verdict = verify_anchor(&proof, &bundle, beta.node_id(), &ANCHOR, NOW);
    assert_eq!(verdict.unwrap_err().code(), "not_the_origin");
    // One's own chain over another's signature.
    let mixed = AnchorProof { chain: beta.chain().to_vec(), signature: proof.signature };
    let verdict = verify_anchor(&mixed, &bundle, beta.node_id(), &ANCHOR, NOW);
    assert_eq!(verdict.unwrap_err().code(), "bad_signature");
    // A mesh of the same name with another authority.
    let (node, config) = (mesh.authority.node().clone(), AuthorityConfig::default());
    let other = Authority::create(&node, config, &mut AwsLcKeys, &mut mesh.entropy, NOW).unwrap();
    let proof = sign_anchor(&beta, beta.node_id(), &ANCHOR).unwrap();
    assert!(verify_anchor(&proof, &bundle, beta.node_id(), &ANCHOR, NOW).is_ok());
    let verdict = verify_anchor(&proof, other.bundle(), beta.node_id(), &ANCHOR, NOW);
    assert_eq!(verdict.unwrap_err().code(), "untrusted");
}

#[test]
fn a_signature_for_one_purpose_is_none_for_another() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let signature = beta.sign("x0t test purpose", b"message").unwrap();
    let verify = |label: &str, message: &[u8]| verify_signature(&beta.chain()[0], label, message, &signature);
    assert_eq!(verify("x0t test purpose", b"message"), Ok(()));
    assert_eq!(verify("x0t other purpose", b"message"), Err(VerifyError::BadSignature));
    assert_eq!(verify("x0t test", b" purpose\0message"), Err(VerifyError::BadSignature));
    assert_eq!(verify("x0t test purpose", b"massage"), Err(VerifyError::BadSignature));
}

#[test]
fn ecdsa_signatures_work_as_well() {
    let mut mesh = Mesh::new();
    let key = AwsLcKeys.generate().unwrap();
    let token = mesh.token(Some("beta"));
    let csr = signing_request(&key).unwrap();
    let issued = mesh.authority.redeem(&token.secret, None, &csr, &mut mesh.entropy, NOW).unwrap();
    let beta = Svid::new(issued.chain, key).unwrap();
    let proof = sign_anchor(&beta, beta.node_id(), &ANCHOR).unwrap();
    let bundle = mesh.authority.bundle();
    assert!(verify_anchor(&proof, bundle, beta.node_id(), &ANCHOR, NOW).is_ok());
}

#[test]
fn the_bytes_of_a_proof_never_change() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let leaf = beta.chain()[0].clone();
    let proof = AnchorProof { chain: vec![leaf.clone()], signature: vec![0x51, 0x52] };
    let expected = [&[1][..], &(leaf.len() as u16).to_be_bytes(), &leaf, &[0, 2, 0x51, 0x52]].concat();
    assert_eq!(proof.encode().unwrap(), expected);
    assert_eq!(AnchorProof::decode(&expected), Ok(proof.clone()));
    for len in 0..expected.len() {
        assert!(matches!(AnchorProof::decode(&expected[..len]), Err(AnchorError::Malformed(_))), "{len} bytes");
    }
    let longer = [&expected[..], &[0]].concat();
    assert_eq!(AnchorProof::decode(&longer), Err(AnchorError::Malformed(DecodeError::Trailing(1))));
    let long = AnchorProof { signature: vec![0; 4097], ..proof };
    assert!(long.encode().is_err());
    assert_eq!(NodeId::of(beta.spiffe_id()), beta.node_id());
}

#[test]
fn the_signed_statement_never_changes() {
    // Ed25519 is deterministic: what is signed is pinned by checking a statement that was put together by hand.
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let proof = sign_anchor(&beta, beta.node_id(), &ANCHOR).unwrap();
    let statement = [b"x0tta6bl4 2026-11 routing anchor\0".as_slice(), &ANCHOR].concat();
    assert_eq!(beta.key().sign(&statement), Ok(proof.signature));
}
