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

/// What `x0t up --recovery 84h` says.
const GRACE: Duration = Duration::from_secs(84 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    mesh: Mesh,
    old: Svid,
}

impl World {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: AuthorityConfig) -> Self {
        let mut mesh = Mesh::with(config);
        let old = mesh.join("beta");
        Self { mesh, old }
    }

    /// The name is given to another machine, by a token made for it.
    fn rejoin(&mut self, now: UnixTime) {
        let addresses = vec!["192.0.2.1:1".parse().unwrap()];
        let Mesh { authority, entropy, .. } = &mut self.mesh;
        let token = authority.create_token(Some("beta"), HOUR, addresses, entropy, now).unwrap();
        let csr = self.mesh.csr();
        self.mesh.authority.redeem(&token.secret, None, &csr, &mut self.mesh.entropy, now).unwrap();
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

fn config() -> AuthorityConfig {
    AuthorityConfig { recovery: GRACE, ..AuthorityConfig::default() }
}

#[test]
fn a_laptop_that_slept_over_the_weekend_is_let_back_by_its_old_key_and_later_not() {
    let mut world = World::new();
    let end = world.old.not_after();
    let grace = GRACE;
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
fn it_is_off_unless_an_operator_wants_it() {
    let mut world = World::with(AuthorityConfig::default());
    assert_eq!(world.recover(world.old.not_after() + secs(60)), "recovery_off");
}

#[test]
fn whatever_an_operator_has_said_since_ends_it() {
    let later = NOW + HOUR * 5;
    let mut world = World::new();
    world.mesh.authority.execute(AuthorityCommand::ForgetName { name: "beta".into() }).unwrap();
    assert_eq!(world.recover(later), "unknown_node", "removed");

    let mut world = World::new();
    world.rejoin(later);
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
fn another_machine_has_the_name_even_if_it_joined_seconds_after_the_old_one() {
    // The back-dating of so short a life is six seconds, not the sixty of a long one.
    let mut world = World::with(AuthorityConfig { svid_ttl: secs(60), ..config() });
    world.rejoin(NOW + secs(20));
    assert_eq!(world.recover(NOW + secs(70)), "superseded");
    let mut world = World::with(AuthorityConfig { svid_ttl: secs(60), ..config() });
    assert_eq!(world.recover(NOW + secs(70)), "ok", "the one that joined last is not older than its own joining");
}

#[test]
fn the_authoritys_own_certificate_is_given_to_nobody() {
    let mut world = World::new();
    world.old = world.mesh.own_svid(NOW);
    assert_eq!(world.recover(NOW + secs(5)), "is_authority", "while it is valid");
    assert_eq!(world.recover(NOW + HOUR * 5), "is_authority", "and afterwards");
}

#[test]
fn a_decoy_behind_the_leaf_does_not_hide_who_signed_it() {
    let later = NOW + HOUR * 5;
    let mut world = World::new();
    let first = world.mesh.authority.signer().unwrap().key_id();
    let hand_over = |world: &mut World| {
        let Mesh { authority, keys, entropy } = &mut world.mesh;
        authority.prepare_ca(AuthorityKind::X509, keys, entropy, NOW).unwrap();
        authority.activate_ca(AuthorityKind::X509, Patience::Force, NOW).unwrap();
        authority.signer().unwrap().key_id()
    };
    let certificate = |world: &World, key_id| {
        let slot = world.mesh.authority.life().slot(key_id).unwrap();
        slot.material().issuer().unwrap().certificate()
    };
    let recover = |world: &mut World, chain: Vec<_>| {
        let request = RecoverRequest { chain, ..RecoverRequest::signed(&world.old, world.mesh.csr()).unwrap() };
        match world.mesh.authority.recover(&request, &mut world.mesh.entropy, later) {
            Ok(_) => "ok",
            Err(refusal) => refusal.code(),
        }
    };
    // The first authority leaked, and the second signs.
    let second = hand_over(&mut world);
    world.mesh.authority.taint_ca(first, NOW).unwrap();
    let decoyed = vec![world.old.chain()[0].clone(), certificate(&world, second)];
    assert_eq!(recover(&mut world, decoyed.clone()), "distrusted");
    world.mesh.authority.revoke_ca(first, Patience::Force, NOW).unwrap();
    assert_eq!(recover(&mut world, decoyed), "untrusted");

    // One that leaked has signed the leaf, and one that is trusted has cross-signed it.
    let mut world = World::new();
    let second = hand_over(&mut world);
    let (key, beta) = (world.mesh.key(), id("spiffe://mesh.test/node/beta"));
    let csr = signing_request(&key).unwrap();
    let issued = world.mesh.authority.renew(&beta, &csr, &mut world.mesh.entropy, NOW).unwrap();
    world.old = Svid::new(issued.chain, key).unwrap();
    let chain = world.old.chain().to_vec();
    assert_eq!(chain.len(), 2, "the cross certificate is behind the leaf");
    let third = hand_over(&mut world);
    assert_eq!(recover(&mut world, chain.clone()), "ok");
    world.mesh.authority.taint_ca(second, NOW).unwrap();
    let decoy = certificate(&world, third);
    for chain in [
        chain.clone(),
        chain[..1].to_vec(),
        vec![chain[0].clone(), decoy.clone()],
        vec![chain[0].clone(), decoy, chain[1].clone()],
    ] {
        assert_eq!(recover(&mut world, chain), "distrusted");
    }
    world.mesh.authority.revoke_ca(second, Patience::Force, NOW).unwrap();
    assert_eq!(recover(&mut world, chain), "distrusted", "cross-signed by the first, which is in the bundle");
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
