//! An authority whose keys come and go: what its members, its joiners and its disk see of it.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use support::{HOUR, Mesh, NOW, id, secs, svid};
use x0t_identity::ca_life::{AuthorityKind, KeyId, Patience, SlotState};
use x0t_identity::{Authority, AwsLcKeys, SealKey, Svid, signing_request, verify_chain};
use x0t_model::{Entropy, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
const X509: AuthorityKind = AuthorityKind::X509;

#[test]
fn a_hand_over_replaces_every_svid_without_a_moment_in_which_a_peer_is_not_understood() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let before = mesh.authority.bundle().clone();
    let next = mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    let published = mesh.authority.bundle().clone();
    assert_eq!(published.sequence(), before.sequence() + 1);
    assert_eq!(published.authorities().len(), 2);

    let refused = mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap_err();
    assert_eq!(refused.code(), "unacknowledged");
    acknowledge(&mut mesh, "beta", None);
    mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap();
    assert_eq!(mesh.authority.signer().unwrap().key_id(), next);

    let renewed = renew(&mut mesh, &beta, NOW);
    assert_eq!(verify_chain(renewed.chain(), &published, NOW).unwrap(), *beta.spiffe_id());
    assert_eq!(
        verify_chain(beta.chain(), &published, NOW).unwrap(),
        *beta.spiffe_id(),
        "the old one is good until its end"
    );
    assert_eq!(renewed.chain().len(), 2, "the cross certificate goes along");
    assert_eq!(
        verify_chain(renewed.chain(), &before, NOW).unwrap(),
        *beta.spiffe_id(),
        "whoever was left behind finds a path through the authority it knows"
    );
}

#[test]
fn after_a_leak_every_svid_is_replaced_and_the_leaked_key_vouches_for_nobody() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let leaked = mesh.authority.signer().unwrap().key_id();
    let next = mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    assert_eq!(mesh.authority.taint_ca(leaked, NOW).unwrap_err().code(), "still_active");
    mesh.authority.activate_ca(X509, Patience::Force, NOW).unwrap();
    mesh.authority.taint_ca(leaked, NOW).unwrap();

    let renewed = renew(&mut mesh, &beta, NOW);
    assert_eq!(renewed.chain().len(), 1, "no path leads through the leaked key");
    assert_eq!(mesh.authority.revoke_ca(leaked, Patience::Wait, NOW).unwrap_err().code(), "still_held");
    acknowledge(&mut mesh, "beta", Some(next));
    mesh.authority.revoke_ca(leaked, Patience::Wait, NOW).unwrap();
    let bundle = mesh.authority.bundle();
    assert!(verify_chain(renewed.chain(), bundle, NOW).is_ok());
    assert_eq!(verify_chain(beta.chain(), bundle, NOW).unwrap_err().code(), "untrusted");
}

#[test]
fn a_year_passes_and_the_authority_hands_over_by_itself() {
    let mut mesh = Mesh::new();
    let first = mesh.authority.signer().unwrap().key_id();
    let end = mesh.authority.not_after();
    let mut told = Vec::new();
    let mut now = NOW;
    while now < end + 2 * DAY {
        let transitions = mesh.authority.maintain(&mut mesh.keys, &mut mesh.entropy, now).unwrap();
        let transitions = transitions.iter().filter(|transition| transition.kind == X509);
        told.extend(transitions.map(|transition| (now, transition.key_id, transition.state)));
        assert!(mesh.authority.not_after() > now + HOUR, "an SVID never has to be cut short");
        now = now + secs(3600);
    }
    let second = mesh.authority.signer().unwrap().key_id();
    let states: Vec<_> = told.iter().map(|(_, key_id, state)| (*key_id, *state)).collect();
    assert_eq!(states, [(second, "prepared"), (first, "old"), (second, "active"), (first, "pruned")]);
    let within_an_hour = |at: UnixTime, due: UnixTime| at >= due && at < due + secs(3600);
    assert!(within_an_hour(told[0].0, end - 30 * DAY) && within_an_hour(told[2].0, end - 7 * DAY));
    assert!(within_an_hour(told[3].0, end + DAY));
    assert_eq!(mesh.authority.bundle().authorities().len(), 1);
}

#[test]
fn l12_an_authority_that_was_off_for_two_years_comes_back_with_a_new_key() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    let stored = mesh.authority.to_stored().unwrap();
    let mut back = Authority::from_stored(mesh.authority.trust_domain(), &stored).unwrap();
    let now = NOW + 730 * DAY;
    assert!(back.issue_self(&mut mesh.keys, &mut mesh.entropy, now).is_err());
    back.maintain(&mut mesh.keys, &mut mesh.entropy, now).unwrap();
    let own = back.issue_self(&mut mesh.keys, &mut mesh.entropy, now).unwrap();
    assert!(verify_chain(own.chain(), back.bundle(), now).is_ok());
}

#[test]
fn after_a_restart_everybody_who_may_hold_an_svid_is_waited_for() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    acknowledge(&mut mesh, "beta", None);
    acknowledge(&mut mesh, "alpha", None);
    let stored = mesh.authority.to_stored().unwrap();
    mesh.authority = Authority::from_stored(mesh.authority.trust_domain(), &stored).unwrap();
    assert_eq!(mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap_err().code(), "unacknowledged");
    acknowledge(&mut mesh, "beta", None);
    acknowledge(&mut mesh, "alpha", None);
    mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap();
}

#[test]
fn a_node_whose_name_was_taken_back_is_not_waited_for() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    acknowledge(&mut mesh, "alpha", None);
    assert_eq!(mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap_err().code(), "unacknowledged");
    assert!(mesh.authority.forget_name("beta"));
    mesh.authority.activate_ca(X509, Patience::Wait, NOW).unwrap();
}

#[test]
fn a_crash_at_any_step_of_a_rotation_leaves_a_state_from_which_it_goes_on() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let domain = mesh.authority.trust_domain().clone();
    let end = mesh.authority.not_after();
    for now in [end - 30 * DAY, end - 8 * DAY, end - 7 * DAY, end - 6 * DAY, end + 2 * DAY] {
        let before = mesh.authority.to_stored().unwrap();
        mesh.authority.maintain(&mut mesh.keys, &mut mesh.entropy, now).unwrap();
        // Not made durable: nobody has heard of it, and it is done again with another key.
        mesh.authority = Authority::from_stored(&domain, &before).unwrap();
        mesh.authority.maintain(&mut mesh.keys, &mut mesh.entropy, now).unwrap();
        // Made durable: it stays as it is.
        let stored = mesh.authority.to_stored().unwrap();
        mesh.authority = Authority::from_stored(&domain, &stored).unwrap();
        assert!(mesh.authority.maintain(&mut mesh.keys, &mut mesh.entropy, now).unwrap().is_empty());
        let renewed = renew(&mut mesh, &beta, now);
        assert!(verify_chain(renewed.chain(), mesh.authority.bundle(), now).is_ok());
    }
}

#[test]
fn a_token_outlives_a_hand_over_until_the_authority_that_it_pins_is_tainted() {
    let mut mesh = Mesh::new();
    let token = mesh.token(None);
    let pinned = mesh.authority.signer().unwrap().key_id();
    let shown = |mesh: &mut Mesh| {
        let own = mesh.own_svid(NOW);
        mesh.authority.join_chain(&own)
    };
    mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    let bundle = token.verify_authority(&shown(&mut mesh), NOW).unwrap();
    assert_eq!(bundle.digest(), token.bundle_digest, "only what the token pins is believed");
    mesh.authority.activate_ca(X509, Patience::Force, NOW).unwrap();
    assert!(token.verify_authority(&shown(&mut mesh), NOW).is_ok());
    mesh.authority.taint_ca(pinned, NOW).unwrap();
    assert!(token.verify_authority(&shown(&mut mesh), NOW).is_err());
    let fresh = mesh.token(None);
    assert!(fresh.verify_authority(&shown(&mut mesh), NOW).is_ok());
}

#[test]
fn keys_are_sealed_on_disk_and_open_under_the_seal_key_alone() {
    let mut mesh = Mesh::new();
    let (mut entropy, domain) = (Entropy::new([8; 32]), mesh.authority.trust_domain().clone());
    let clear = mesh.authority.to_stored().unwrap();
    let seal = SealKey::generate(&mut entropy);
    mesh.authority = Authority::from_sealed(&domain, &clear, seal.clone()).unwrap();
    let sealed = mesh.authority.to_stored().unwrap();
    let text = String::from_utf8(sealed.to_vec()).unwrap();
    assert!(text.contains(r#""kept":"sealed""#) && !text.contains("pkcs8"));
    assert!(Authority::from_stored(&domain, &sealed).unwrap_err().to_string().contains("seal.key"));
    assert!(Authority::from_sealed(&domain, &sealed, SealKey::generate(&mut entropy)).is_err());
    let mut back = Authority::from_sealed(&domain, &sealed, seal).unwrap();
    assert!(back.issue_self(&mut mesh.keys, &mut mesh.entropy, NOW).is_ok());
}

#[test]
fn a_tainted_key_leaves_the_disk() {
    let mut mesh = Mesh::new();
    let leaked = mesh.authority.signer().unwrap().key_id();
    mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    mesh.authority.activate_ca(X509, Patience::Force, NOW).unwrap();
    let keys = |mesh: &Mesh| {
        let stored: serde_json::Value = serde_json::from_slice(&mesh.authority.to_stored().unwrap()).unwrap();
        stored["keys"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert!(keys(&mesh).contains(&leaked.to_string()));
    mesh.authority.taint_ca(leaked, NOW).unwrap();
    assert!(!keys(&mesh).contains(&leaked.to_string()));
}

#[test]
fn what_an_operator_takes_back_is_on_a_list_that_lasts_until_it_ends() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    assert!(mesh.authority.crls(NOW).unwrap().is_empty());
    let sequence = mesh.authority.bundle().sequence();
    let withdrawn = mesh.authority.revoke_svids(beta.spiffe_id(), NOW).unwrap();
    assert_eq!((withdrawn.svids.len(), withdrawn.complete_from), (1, None));
    assert_eq!(mesh.authority.bundle().sequence(), sequence + 1, "members are told");
    let stored = mesh.authority.to_stored().unwrap();
    mesh.authority = Authority::from_stored(mesh.authority.trust_domain(), &stored).unwrap();
    let lists = mesh.authority.crls(NOW).unwrap();
    assert_eq!(lists.len(), 1);
    let list = webpki::CertRevocationList::from(webpki::OwnedCertRevocationList::from_der(&lists[0]).unwrap());
    assert!(list.find_serial(withdrawn.svids[0].serial.as_bytes()).unwrap().is_some());
    assert!(mesh.authority.crls(beta.not_after() + secs(1)).unwrap().is_empty());
    let unknown = mesh.authority.revoke_svids(beta.spiffe_id(), NOW).unwrap();
    assert_eq!(unknown.complete_from, Some(NOW + DAY), "after a restart it is not known what is out");
}

#[test]
fn state_of_the_format_before_is_read_and_keeps_its_bundle() {
    let mut mesh = Mesh::new();
    let beta = mesh.join("beta");
    let stored: serde_json::Value = serde_json::from_slice(&mesh.authority.to_stored().unwrap()).unwrap();
    let slot = &stored["life"]["slots"][0];
    let key_id = slot["key_id"].as_str().unwrap();
    let old = serde_json::json!({
        "version": 1, "node": stored["node"], "certificate": slot["material"]["certificate"],
        "key": stored["keys"][key_id]["pkcs8"], "authorities": [slot["material"]["certificate"]], "bundle_sequence": 1,
        "svid_ttl_s": 3600, "backdate_s": 60, "authority_ttl_s": 315_360_000, "tokens": stored["tokens"], "names": stored["names"],
    });
    let old = serde_json::to_vec(&old).unwrap();
    let read = Authority::from_stored(mesh.authority.trust_domain(), &old).unwrap();
    assert_eq!(read.bundle(), mesh.authority.bundle());
    assert!(verify_chain(beta.chain(), read.bundle(), NOW).is_ok());
    assert_eq!(read.life().active(X509).unwrap().state(), SlotState::Active);
}

#[test]
fn the_journal_of_an_authority_keeps_who_was_left_behind() {
    let mut mesh = Mesh::new();
    mesh.join("beta");
    mesh.authority.prepare_ca(X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    mesh.authority.take_journal();
    mesh.authority.activate_ca(X509, Patience::Force, NOW).unwrap();
    let journal = serde_json::to_string(&mesh.authority.take_journal()).unwrap();
    assert!(journal.contains("change_ca") && journal.contains("forced") && journal.contains("node/beta"), "{journal}");
}

#[test]
fn a_jwt_key_is_prepared_into_the_same_bundle() {
    let mut mesh = Mesh::new();
    let key_id = mesh.authority.prepare_ca(AuthorityKind::Jwt, &mut AwsLcKeys, &mut mesh.entropy, NOW).unwrap();
    mesh.authority.activate_ca(AuthorityKind::Jwt, Patience::Wait, NOW).unwrap();
    assert_eq!(mesh.authority.bundle().jwt_keys().len(), 1);
    assert_eq!(mesh.authority.life().active(AuthorityKind::Jwt).unwrap().key_id(), key_id);
    let kid = mesh.authority.jwt_signer().unwrap().key_id();
    assert!(mesh.authority.bundle().jwt_keys().contains_key(kid));
}

fn acknowledge(mesh: &mut Mesh, name: &str, issuer: Option<KeyId>) {
    let sequence = mesh.authority.bundle().sequence();
    mesh.authority.acknowledge(&id(&format!("spiffe://mesh.test/node/{name}")), sequence, issuer, NOW);
}

fn renew(mesh: &mut Mesh, old: &Svid, now: UnixTime) -> Svid {
    let key = mesh.key();
    let issued = mesh.authority.renew(old.spiffe_id(), &signing_request(&key).unwrap(), &mut mesh.entropy, now);
    svid(issued.unwrap(), key)
}
