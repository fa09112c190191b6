//! Registration entries: who gets an identity from one, and what an authority remembers of it.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::{
    Authority, AuthorityCommand, AwsLcKeys, CommandRefusal, EntryId, EntryRefusal, EntrySpec, IssueRefusal, KeySource,
    Known, Leaf, Parent, Selectors, signing_request, verify_chain,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

fn web(uid: u32) -> EntrySpec {
    EntrySpec {
        x509_ttl: Some(secs(600)),
        dns_names: vec!["web.example.org".to_owned()],
        expires_at: Some(NOW + secs(300)),
        ..EntrySpec::new(
            id("spiffe://mesh.test/web"),
            Parent::Node(id("spiffe://mesh.test/node/beta")),
            Selectors::new([format!("unix:uid:{uid}").parse().unwrap()]).unwrap(),
        )
    }
}

fn created(mesh: &mut Mesh, spec: EntrySpec) -> EntryId {
    mesh.authority.create_entry(spec, &mut mesh.entropy, NOW).unwrap()
}

#[test]
fn the_entry_says_everything_about_the_certificate() {
    let mut mesh = Mesh::new();
    let entry = created(&mut mesh, web(1000));
    let csr = signing_request(&AwsLcKeys.generate().unwrap()).unwrap();
    let beta = id("spiffe://mesh.test/node/beta");
    let issued = mesh.authority.issue_workload(&beta, &entry, &csr, &mut mesh.entropy, NOW).unwrap();
    assert_eq!(verify_chain(&issued.chain, mesh.authority.bundle(), NOW), Ok(id("spiffe://mesh.test/web")));
    let leaf = Leaf::read(&issued.chain[0]).unwrap();
    assert_eq!(leaf.not_before, NOW - secs(60), "back-dated by a tenth of the life");
    assert_eq!(leaf.not_after, NOW + secs(300), "an identity does not outlive its entry");
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(names.value.general_names.contains(&GeneralName::DNSName("web.example.org")));
}

#[test]
fn a_node_obtains_no_identity_of_another_nodes_workloads() {
    let mut mesh = Mesh::new();
    let entry = created(&mut mesh, web(1000));
    let csr = signing_request(&AwsLcKeys.generate().unwrap()).unwrap();
    let mut issue = |node: &str, entry: &EntryId, now| {
        let node = id(&format!("spiffe://mesh.test/node/{node}"));
        mesh.authority
            .issue_workload(&node, entry, &csr, &mut mesh.entropy, now)
            .map(|_| ())
            .map_err(|error| error.code())
    };
    assert_eq!(issue("gamma", &entry, NOW), Err("other_node"));
    assert_eq!(issue("beta", &"unknown".parse().unwrap(), NOW), Err("unknown_entry"));
    assert_eq!(issue("beta", &entry, NOW + secs(300)), Err("unknown_entry"), "it has ended");
    assert_eq!(issue("beta", &entry, NOW + secs(299)), Ok(()));
}

#[test]
fn two_entries_never_give_one_identity_to_the_same_processes() {
    let mut mesh = Mesh::new();
    let entry = created(&mut mesh, web(1000));
    let twin = EntrySpec { hint: Some("twin".to_owned()), ..web(1000) };
    let refused = mesh.authority.create_entry(twin, &mut mesh.entropy, NOW).unwrap_err();
    assert_eq!(refused, CommandRefusal::Entry(EntryRefusal::AlreadyExists(entry.clone())));
    let other = created(&mut mesh, web(1001));
    let update = AuthorityCommand::UpdateEntry { id: other, spec: web(1000), at: NOW };
    assert_eq!(mesh.authority.execute(update).unwrap_err().code(), "already_exists");
    let update = AuthorityCommand::UpdateEntry { id: entry, spec: EntrySpec { hint: None, ..web(1000) }, at: NOW };
    assert_eq!(mesh.authority.execute(update), Ok(()), "an entry is no twin of itself");
}

#[test]
fn l20_an_entry_made_again_under_its_old_id_is_a_change() {
    let mut mesh = Mesh::new();
    let beta = id("spiffe://mesh.test/node/beta");
    let entry = created(&mut mesh, web(1000));
    let known = mesh.authority.entries_since(&beta, Known::default(), 100).known;
    mesh.authority.execute(AuthorityCommand::DeleteEntry { id: entry.clone() }).unwrap();
    let again = AuthorityCommand::CreateEntry { id: entry.clone(), spec: web(1000), at: NOW + HOUR };
    mesh.authority.execute(again).unwrap();
    let delta = mesh.authority.entries_since(&beta, known, 100);
    assert_eq!((delta.deleted, delta.entries.len()), (vec![entry], 1));
}

#[test]
fn a_log_of_commands_is_the_state() {
    let mut mesh = Mesh::new();
    let mut replica =
        Authority::from_stored(mesh.authority.trust_domain(), &mesh.authority.to_stored().unwrap()).unwrap();
    let entry = created(&mut mesh, web(1000));
    created(&mut mesh, web(1001));
    mesh.join("beta");
    mesh.authority.execute(AuthorityCommand::DeleteEntry { id: entry }).unwrap();
    let log = serde_json::to_vec(&mesh.authority.take_journal()).unwrap();
    for command in serde_json::from_slice::<Vec<AuthorityCommand>>(&log).unwrap() {
        replica.apply(&command).unwrap();
    }
    assert_eq!(replica.to_stored().unwrap(), mesh.authority.to_stored().unwrap());
    assert!(mesh.authority.take_journal().is_empty());
}

#[test]
fn l1_of_many_commands_that_spend_one_token_the_first_is_applied() {
    let mut mesh = Mesh::new();
    mesh.token(None);
    let token = mesh.authority.tokens().next().unwrap().id;
    let spend = |n: u32| AuthorityCommand::SpendToken { id: token, name: format!("node-{n}"), at: NOW };
    let outcomes: Vec<_> = (0..64).map(|n| mesh.authority.execute(spend(n))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(
        outcomes[1..]
            .iter()
            .all(|outcome| matches!(outcome, Err(CommandRefusal::TokenSpent { by, .. }) if by == "node-0"))
    );
    assert_eq!(mesh.authority.names().filter(|(name, _)| name.starts_with("node-")).count(), 1);
}

#[test]
fn the_entries_survive_being_stored_and_a_node_is_then_told_everything() {
    let mut mesh = Mesh::new();
    let entry = created(&mut mesh, web(1000));
    created(&mut mesh, web(1001));
    mesh.authority.execute(AuthorityCommand::DeleteEntry { id: entry }).unwrap();
    let again = Authority::from_stored(mesh.authority.trust_domain(), &mesh.authority.to_stored().unwrap()).unwrap();
    assert_eq!(again.revision(), mesh.authority.revision());
    let beta = id("spiffe://mesh.test/node/beta");
    let late = Known { revision: 1, full_since: None };
    let delta = again.entries_since(&beta, late, 100);
    assert!(delta.is_full && delta.entries.len() == 1, "what was deleted before is forgotten: {delta:?}");
    assert!(matches!(again.entry_for(&beta, &"none".parse().unwrap(), NOW), Err(IssueRefusal::UnknownEntry(_))));
}
