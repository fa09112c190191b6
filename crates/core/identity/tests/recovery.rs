//! A node that slept through the end of its SVID: when the old key is enough, and when not.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::ca_life::{AuthorityKind, Patience};
use x0t_identity::message::{Message, RecoverRequest};
use x0t_identity::{
    Authority, AuthorityCommand, AuthorityConfig, AuthorityRequest, AuthorityServer, SeededKeys, Svid, signing_request,
    verify_chain,
};
use x0t_model::{Entropy, Instant, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    mesh: Mesh,
    old: Svid,
}

impl World {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        let old = mesh.join("beta");
        Self { mesh, old }
    }

    /// What the authority says to the holder of `old`'s key: the code of a refusal, or `ok`.
    fn recover(&mut self, now: UnixTime) -> &'static str {
        let key = self.mesh.key();
        let request = RecoverRequest::signed(&self.old, signing_request(&key).unwrap()).unwrap();
        match self.mesh.authority.recover(&request, &mut self.mesh.entropy, now) {
            Ok(issued) => {
                let found = verify_chain(&issued.chain, self.mesh.authority.bundle(), now).unwrap();
                assert_eq!(found, id("spiffe://mesh.test/node/beta"));
                assert!(Svid::new(issued.chain, key).is_ok());
                "ok"
            }
            Err(refusal) => refusal.code(),
        }
    }
}

#[test]
fn a_laptop_that_slept_over_the_weekend_is_let_back_by_its_old_key_and_later_not() {
    let mut world = World::new();
    let end = world.old.not_after();
    let grace = AuthorityConfig::default().recovery;
    assert!(grace >= DAY * 3, "Friday evening to Monday morning");
    for (now, outcome) in [
        (end - secs(5), "ok"),
        (end + secs(1), "ok"),
        (end + grace, "ok"),
        (end + grace + secs(1), "recovery_too_late"),
    ] {
        assert_eq!(world.recover(now), outcome, "{:?} after its end", now.since(end));
    }
}

#[test]
fn it_can_be_switched_off() {
    let mut world = World::new();
    let config = AuthorityConfig { recovery: Duration::ZERO, ..AuthorityConfig::default() };
    let mut mesh = Mesh::with(config);
    world.old = mesh.join("beta");
    world.mesh = mesh;
    assert_eq!(world.recover(world.old.not_after() + secs(60)), "recovery_off");
}

#[test]
fn whatever_an_operator_has_said_since_ends_it() {
    let later = NOW + HOUR * 5;
    let mut world = World::new();
    world.mesh.authority.execute(AuthorityCommand::ForgetName { name: "beta".into() }).unwrap();
    assert_eq!(world.recover(later), "unknown_node", "removed");

    let mut world = World::new();
    let token = world
        .mesh
        .authority
        .create_token(Some("beta"), HOUR, vec!["192.0.2.1:1".parse().unwrap()], &mut world.mesh.entropy, later)
        .unwrap();
    let csr = world.mesh.csr();
    world.mesh.authority.redeem(&token.secret, None, &csr, &mut world.mesh.entropy, later).unwrap();
    assert_eq!(world.recover(later + secs(1)), "superseded", "another machine has the name");

    let mut world = World::new();
    world.mesh.authority.revoke_svids(&id("spiffe://mesh.test/node/beta"), NOW + secs(60)).unwrap();
    // Another revocation, after the end of the first, must not make it forgotten.
    let gamma = id("spiffe://mesh.test/node/gamma");
    world.mesh.join("gamma");
    let csr = world.mesh.csr();
    world.mesh.authority.renew(&gamma, &csr, &mut world.mesh.entropy, later).unwrap();
    assert_eq!(world.mesh.authority.revoke_svids(&gamma, later).unwrap().svids.len(), 1);
    assert_eq!(world.recover(later), "distrusted", "taken back");

    let mut world = World::new();
    let leaked = world.mesh.authority.signer().unwrap().key_id();
    let Mesh { authority, keys, entropy } = &mut world.mesh;
    authority.prepare_ca(AuthorityKind::X509, keys, entropy, NOW).unwrap();
    authority.activate_ca(AuthorityKind::X509, Patience::Force, NOW).unwrap();
    assert_eq!(world.recover(later), "ok", "a hand-over changes nothing");
    world.mesh.authority.taint_ca(leaked, later).unwrap();
    assert_eq!(world.recover(later), "distrusted", "tainted");
    world.mesh.authority.revoke_ca(leaked, Patience::Force, later).unwrap();
    assert_eq!(world.recover(later), "untrusted", "gone");
}

#[test]
fn whoever_has_the_certificate_and_not_the_key_gets_nothing() {
    let mut world = World::new();
    let later = NOW + HOUR * 5;
    let (csr, other) = (world.mesh.csr(), world.mesh.csr());
    let honest = RecoverRequest::signed(&world.old, csr).unwrap();
    let thief = world.mesh.join("mallory");
    let stolen =
        RecoverRequest { chain: world.old.chain().to_vec(), ..RecoverRequest::signed(&thief, other.clone()).unwrap() };
    let swapped = RecoverRequest { csr: other, ..honest.clone() };
    let mut cut = honest.clone();
    cut.signature.truncate(8);
    let mut empty = honest.clone();
    empty.chain.clear();
    for (request, code) in
        [(&stolen, "no_proof"), (&swapped, "no_proof"), (&cut, "no_proof"), (&empty, "no_certificate")]
    {
        let refused = world.mesh.authority.recover(request, &mut world.mesh.entropy, later).unwrap_err();
        assert_eq!(refused.code(), code);
    }
    // Another authority that calls itself by the same names.
    let (mut keys, mut entropy) = (SeededKeys::new(Entropy::new([98; 32])), Entropy::new([99; 32]));
    let node = id("spiffe://mesh.test/node/alpha");
    let mut fake = Authority::create(&node, AuthorityConfig::default(), &mut keys, &mut entropy, NOW).unwrap();
    let stranger = fake.issue_self(&mut keys, &mut entropy, NOW).unwrap();
    let forged = RecoverRequest::signed(&stranger, world.mesh.csr()).unwrap();
    let refused = world.mesh.authority.recover(&forged, &mut world.mesh.entropy, later).unwrap_err();
    assert_eq!(refused.code(), "untrusted");
    assert!(world.mesh.authority.recover(&honest, &mut world.mesh.entropy, later).is_ok(), "nothing has changed");
}

#[test]
fn the_request_travels_and_the_server_answers_it_like_a_join() {
    let mut world = World::new();
    let request = RecoverRequest::signed(&world.old, world.mesh.csr()).unwrap();
    let bytes = Message::RecoverRequest(request.clone()).encode().unwrap();
    assert_eq!(Message::decode(&bytes).unwrap(), Message::RecoverRequest(request.clone()));
    for cut in 0..bytes.len() {
        assert!(Message::decode(&bytes[..cut]).is_err());
    }
    let authorities = vec![id("spiffe://mesh.test/node/alpha")];
    let mut server = AuthorityServer::new(world.mesh.authority, authorities, Entropy::new([5; 32]));
    let later = NOW + HOUR * 5;
    server.handle_request(1, AuthorityRequest::Recover(request), Instant::ZERO, later);
    let answer = std::iter::from_fn(|| server.poll_output()).last();
    let answer = format!("{answer:?}");
    assert!(answer.contains("JoinAccepted"), "{answer}");
    assert_eq!(server.stats().nodes_recovered, 1);
}
