//! Trust in other trust domains: which bundle is taken, what is refused, and what nodes and their agents hear of it.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use support::{Mesh, NOW, id, secs};
use x0t_identity::ca_life::AuthorityKind;
use x0t_identity::federation::{
    EndpointProfile, FOREIGN_DOMAINS_MAX, FederationCommand, FederationRefusal, FederationRelationship, ForeignBundle,
};
use x0t_identity::{
    AGENT_BODY_MAX, Agent, AgentRequest, Authority, AuthorityAnswer, AuthorityCommand, AuthorityConfig,
    AuthorityRequest, AuthorityServer, Bundle, CommandRefusal, Entry, EntryId, EntrySpec, FederationAnswer,
    FederationRequest, KeyId, OperatorAnswer, OperatorRequest, Parent, SeededKeys, Selectors, ServerOutput,
};
use x0t_model::{Entropy, Instant, TrustDomain};

fn domain(text: &str) -> TrustDomain {
    text.parse().unwrap()
}

/// One authority's certificate, and a second one of the same trust domain.
fn authorities_of(name: &str) -> (CertificateDer<'static>, CertificateDer<'static>) {
    let mut mesh = Mesh::of(&format!("spiffe://{name}/node/a"), AuthorityConfig::default());
    let first = mesh.authority.bundle().authorities()[0].clone();
    mesh.authority.prepare_ca(AuthorityKind::X509, &mut mesh.keys, &mut mesh.entropy, NOW).unwrap();
    let second = mesh.authority.bundle().authorities().iter().find(|one| **one != first).unwrap().clone();
    (first, second)
}

fn bundle(name: &str, authorities: &[&CertificateDer<'static>], sequence: u64) -> ForeignBundle {
    let authorities = authorities.iter().map(|one| (*one).clone()).collect();
    ForeignBundle::new(Bundle::new(domain(name), authorities, sequence).unwrap())
}

/// Longer than one message to an agent: keys for tokens under names that are long in JSON.
fn large(name: &str, sequence: u64) -> ForeignBundle {
    let key = support::jwt::public_key(0);
    let keys =
        (0..64).map(|number| (format!("{}{number}", "\u{1}".repeat(250)).parse::<KeyId>().unwrap(), key.clone()));
    ForeignBundle::new(Bundle::new(domain(name), vec![], sequence).unwrap().with_jwt_keys(keys).unwrap())
}

fn relationship(name: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: domain(name),
        url: format!("https://{name}/").parse().unwrap(),
        profile: EndpointProfile::HttpsWeb,
    }
}

fn set(bundle: ForeignBundle, force: bool) -> FederationCommand {
    FederationCommand::SetBundle { bundle, force }
}

fn federate(authority: &mut Authority, change: FederationCommand) -> Result<(), FederationRefusal> {
    match authority.execute(AuthorityCommand::Federate { change }) {
        Ok(()) => Ok(()),
        Err(CommandRefusal::Federation(refusal)) => Err(refusal),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn fe_6_a_newer_bundle_replaces_and_an_older_one_needs_an_operator() {
    let (one, two) = authorities_of("other.test");
    let mut authority = Mesh::new().authority;
    let held =
        |authority: &Authority| authority.federations().bundle(&domain("other.test")).unwrap().bundle().sequence();
    federate(&mut authority, set(bundle("other.test", &[&one], 5), false)).unwrap();
    federate(&mut authority, set(bundle("other.test", &[&one, &two], 6), false)).unwrap();
    assert_eq!(held(&authority), 6);
    let older = bundle("other.test", &[&one], 5);
    let refusal = federate(&mut authority, set(older.clone(), false)).unwrap_err();
    assert_eq!((refusal.code(), refusal.is_alarm()), ("bundle_rolled_back", true));
    let numberless = federate(&mut authority, set(bundle("other.test", &[&one], 0), false)).unwrap_err();
    assert_eq!(numberless.code(), "bundle_rolled_back", "one that has lost its number is as old as can be");
    federate(&mut authority, set(older, true)).unwrap();
    assert_eq!(held(&authority), 5);
}

#[test]
fn fe_6_one_number_with_two_contents_is_an_alarm() {
    let (one, two) = authorities_of("other.test");
    let mut authority = Mesh::new().authority;
    federate(&mut authority, set(bundle("other.test", &[&one], 5), false)).unwrap();
    let revision = authority.federations().revision();
    let refusal = federate(&mut authority, set(bundle("other.test", &[&two], 5), false)).unwrap_err();
    assert_eq!((refusal.code(), refusal.is_alarm()), ("bundle_forked", true));
    // The same again is no news.
    federate(&mut authority, set(bundle("other.test", &[&one], 5), false)).unwrap();
    assert_eq!(authority.federations().revision(), revision);
    federate(&mut authority, set(bundle("other.test", &[&two], 5), true)).unwrap();
}

#[test]
fn bn_5_an_empty_bundle_ends_all_trust_and_still_guards_against_a_rollback() {
    let (one, _) = authorities_of("other.test");
    let mut authority = Mesh::new().authority;
    federate(&mut authority, set(bundle("other.test", &[&one], 5), false)).unwrap();
    federate(&mut authority, set(bundle("other.test", &[], 6), false)).unwrap();
    assert!(authority.federations().bundle(&domain("other.test")).unwrap().bundle().is_empty());
    assert!(federate(&mut authority, set(bundle("other.test", &[&one], 5), false)).is_err());
}

#[test]
fn fe_8_the_end_of_a_relationship_is_the_end_of_its_bundle() {
    let (one, _) = authorities_of("other.test");
    let (mut authority, other) = (Mesh::new().authority, domain("other.test"));
    let bootstrap = Some(bundle("other.test", &[&one], 5));
    let create = |replace| FederationCommand::SetRelationship {
        relationship: relationship("other.test"),
        bootstrap: bootstrap.clone(),
        replace,
    };
    federate(&mut authority, create(false)).unwrap();
    assert_eq!(federate(&mut authority, create(false)).unwrap_err().code(), "already_exists");
    federate(&mut authority, create(true)).unwrap();
    let alone = federate(&mut authority, FederationCommand::DeleteBundle { trust_domain: other.clone() });
    assert_eq!(alone.unwrap_err().code(), "kept_by_relationship");
    federate(&mut authority, FederationCommand::DeleteRelationship { trust_domain: other.clone() }).unwrap();
    assert!(authority.federations().is_empty());
    let late = FederationCommand::TakeFetched {
        relationship: relationship("other.test"),
        bundle: bundle("other.test", &[&one], 6),
    };
    let late = federate(&mut authority, late).unwrap_err();
    assert_eq!(late.code(), "unknown_relationship", "what was under way brings nothing back");
    let again = federate(&mut authority, FederationCommand::DeleteRelationship { trust_domain: other.clone() });
    assert_eq!(again.unwrap_err().code(), "unknown_relationship");
    let gone = federate(&mut authority, FederationCommand::DeleteBundle { trust_domain: other });
    assert_eq!(gone.unwrap_err().code(), "unknown_bundle");
}

#[test]
fn fe_3_an_old_bootstrap_bundle_takes_nothing_back() {
    let (one, two) = authorities_of("other.test");
    let mut authority = Mesh::new().authority;
    federate(&mut authority, set(bundle("other.test", &[&two], 9), false)).unwrap();
    let create = |bootstrap| FederationCommand::SetRelationship {
        relationship: relationship("other.test"),
        bootstrap: Some(bootstrap),
        replace: true,
    };
    federate(&mut authority, create(bundle("other.test", &[&one], 3))).unwrap();
    assert_eq!(authority.federations().bundle(&domain("other.test")).unwrap().bundle().sequence(), 9);
    let of_another = federate(&mut authority, create(bundle("third.test", &[], 3)));
    assert_eq!(of_another.unwrap_err().code(), "other_trust_domain");
}

#[test]
fn bn_6_the_own_trust_domain_is_not_a_foreign_one_and_there_is_a_bound_to_those() {
    let (own, _) = authorities_of("mesh.test");
    let mut authority = Mesh::new().authority;
    let refusal = federate(&mut authority, set(bundle("mesh.test", &[&own], 9), true)).unwrap_err();
    assert_eq!(refusal.code(), "own_trust_domain");
    for number in 0..FOREIGN_DOMAINS_MAX {
        federate(&mut authority, set(bundle(&format!("d{number}.test"), &[], 1), false)).unwrap();
    }
    let one_more = federate(&mut authority, set(bundle("more.test", &[], 1), false));
    assert_eq!(one_more.unwrap_err(), FederationRefusal::TooManyTrustDomains);
    let command =
        FederationCommand::SetRelationship { relationship: relationship("more.test"), bootstrap: None, replace: false };
    assert_eq!(federate(&mut authority, command).unwrap_err(), FederationRefusal::TooManyTrustDomains);
    federate(&mut authority, set(bundle("d7.test", &[], 2), false)).unwrap();
}

#[test]
fn federation_survives_a_restart_and_a_log() {
    let (one, _) = authorities_of("other.test");
    let mut authority = Mesh::new().authority;
    let plain: serde_json::Value = serde_json::from_slice(&authority.to_stored().unwrap()).unwrap();
    assert_eq!(plain["version"], 2, "what an older x0t understands is written so that it does");
    let profile = EndpointProfile::HttpsSpiffe { endpoint_id: id("spiffe://other.test/spire/server") };
    let relationship = FederationRelationship { profile, ..relationship("other.test") };
    let bootstrap = Some(bundle("other.test", &[&one], 5));
    federate(&mut authority, FederationCommand::SetRelationship { relationship, bootstrap, replace: false }).unwrap();
    let stored = authority.to_stored().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&stored).unwrap()["version"], 3);
    let again = Authority::from_stored(&domain("mesh.test"), &stored).unwrap();
    assert_eq!(again.to_stored().unwrap(), stored);
    assert_eq!(
        again.federations().relationships().collect::<Vec<_>>(),
        authority.federations().relationships().collect::<Vec<_>>()
    );
    // Each command as a line of the log.
    let mut replayed =
        Authority::from_stored(&domain("mesh.test"), &Mesh::new().authority.to_stored().unwrap()).unwrap();
    for command in authority.take_journal() {
        let line = serde_json::to_vec(&command).unwrap();
        replayed.apply(&serde_json::from_slice(&line).unwrap()).unwrap();
    }
    assert_eq!(
        replayed.federations().bundles().collect::<Vec<_>>(),
        authority.federations().bundles().collect::<Vec<_>>()
    );
}

#[test]
fn a_broken_document_is_no_command() {
    let command = r#"{"federation":"set_bundle","force":true,"bundle":{"trust_domain":"other.test","document":"{}"}}"#;
    assert!(serde_json::from_str::<FederationCommand>(command).is_err());
}

struct World {
    server: AuthorityServer,
    agents: Vec<Agent>,
    keys: SeededKeys,
    /// Bytes of the longest answer.
    longest: usize,
    answers: usize,
}

/// Tickets of an agent are its place and its own number.
const AGENT: u64 = 1 << 32;

impl World {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        mesh.join("beta");
        mesh.authority.take_journal();
        let own = mesh.authority.bundle().clone();
        let node = |name: &str| id(&format!("spiffe://mesh.test/node/{name}"));
        let agents = ["alpha", "beta"]
            .map(|name| Agent::new(node(name), own.clone(), Entropy::new([6; 32]), Instant::ZERO))
            .into_iter()
            .collect();
        let server = AuthorityServer::new(mesh.authority, vec![node("alpha")], Entropy::new([5; 32]));
        let mut world = Self { server, agents, keys: SeededKeys::new(Entropy::new([7; 32])), longest: 0, answers: 0 };
        world.settle();
        world
    }

    fn deliver(&mut self, output: ServerOutput) -> Option<OperatorAnswer> {
        match output {
            ServerOutput::Answer(ticket, AuthorityAnswer::Agent(body)) => {
                self.longest = self.longest.max(body.len());
                self.answers += 1;
                let agent = &mut self.agents[usize::try_from(ticket / AGENT).unwrap()];
                agent.handle_answer(ticket % AGENT, Ok(&body), Instant::ZERO, NOW);
                None
            }
            ServerOutput::Answer(_, AuthorityAnswer::Operator(answer)) => Some(answer),
            ServerOutput::Commit(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self) {
        for _ in 0..2_000 {
            let mut is_quiet = true;
            for place in 0..self.agents.len() {
                self.agents[place].handle_timeout(Instant::ZERO, NOW, &mut self.keys);
                while let Some((number, request)) = self.agents[place].poll_request() {
                    is_quiet = false;
                    let (node, body) = (self.agents[place].node().clone(), request.encode().unwrap());
                    assert!(matches!(request, AgentRequest::Sync(_) | AgentRequest::IssueX509 { .. }));
                    let ticket = place as u64 * AGENT + number;
                    let asked = AuthorityRequest::Agent { node, body };
                    self.server.handle_request(ticket, asked, Instant::ZERO, NOW);
                    while let Some(output) = self.server.poll_output() {
                        self.deliver(output);
                    }
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the agents do not come to rest");
    }

    fn operator(&mut self, request: OperatorRequest) -> OperatorAnswer {
        self.server.handle_request(u64::MAX, AuthorityRequest::Operator(request), Instant::ZERO, NOW);
        let mut said = None;
        while let Some(output) = self.server.poll_output() {
            said = self.deliver(output).or(said);
        }
        self.settle();
        said.unwrap()
    }

    fn ask(&mut self, request: FederationRequest) -> FederationAnswer {
        match self.operator(OperatorRequest::Federation(request)) {
            OperatorAnswer::Federation(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn entry(&mut self, uid: u32, parent: Parent, federates_with: &[&str]) -> Entry {
        match self.operator(OperatorRequest::CreateEntry(spec(uid, parent, federates_with))) {
            OperatorAnswer::Entry { entry } => *entry,
            other => panic!("{other:?}"),
        }
    }

    fn change(&mut self, command: AuthorityCommand) {
        assert_eq!(self.operator(OperatorRequest::Change(command)), OperatorAnswer::Done);
    }

    fn delete_entry(&mut self, id: EntryId) {
        self.change(AuthorityCommand::DeleteEntry { id });
    }

    /// The foreign trust domains of which alpha, and of which beta, has the bundle.
    fn foreign(&self) -> [Vec<&str>; 2] {
        let of = |agent: &Agent| -> Vec<String> {
            let names = agent.bundles().iter().map(|bundle| bundle.trust_domain().to_string());
            names.filter(|name| name != "mesh.test").collect()
        };
        [0, 1].map(|place| of(&self.agents[place]).into_iter().map(|name| &*name.leak()).collect())
    }
}

fn spec(uid: u32, parent: Parent, federates_with: &[&str]) -> EntrySpec {
    let selector = format!("unix:uid:{uid}").parse().unwrap();
    let federates_with: BTreeSet<_> = federates_with.iter().map(|name| domain(name)).collect();
    let id = id("spiffe://mesh.test/web");
    EntrySpec { federates_with, ..EntrySpec::new(id, parent, Selectors::new([selector]).unwrap()) }
}

fn beta() -> Parent {
    Parent::Node(id("spiffe://mesh.test/node/beta"))
}

#[test]
fn a_node_has_exactly_the_foreign_bundles_that_its_entries_federate_with() {
    let mut world = World::new();
    for name in ["one.test", "two.test", "three.test"] {
        let (authority, _) = authorities_of(name);
        world.ask(FederationRequest::SetBundle { bundle: bundle(name, &[&authority], 1), force: false });
    }
    assert_eq!(world.foreign(), [vec![""; 0], vec![]], "nobody federates with anybody");
    let mine = world.entry(1, beta(), &["one.test", "unknown.test"]);
    assert_eq!(world.foreign(), [vec![], vec!["one.test"]]);
    world.entry(2, Parent::AnyNode, &["two.test"]);
    assert_eq!(world.foreign(), [vec!["two.test"], vec!["one.test", "two.test"]]);
    let again = world.entry(3, beta(), &["one.test"]);
    world.delete_entry(mine.id);
    assert_eq!(world.foreign()[1], ["one.test", "two.test"], "another entry federates with it too");
    world.change(AuthorityCommand::UpdateEntry { id: again.id, spec: spec(3, beta(), &["three.test"]), at: NOW });
    assert_eq!(world.foreign(), [vec!["two.test"], vec!["three.test", "two.test"]]);
}

#[test]
fn fe_8_what_is_deleted_is_gone_from_every_agent_at_once() {
    let mut world = World::new();
    let (authority, _) = authorities_of("one.test");
    let create = FederationRequest::CreateRelationship {
        relationship: relationship("one.test"),
        bootstrap: Some(bundle("one.test", &[&authority], 1)),
        replace: false,
    };
    world.entry(1, Parent::AnyNode, &["one.test"]);
    world.ask(create.clone());
    assert_eq!(world.foreign(), [["one.test"], ["one.test"]]);
    let generations = |world: &World| [0, 1].map(|place: usize| world.agents[place].generation());
    let before = generations(&world);
    let deleted = world.ask(FederationRequest::DeleteRelationship { trust_domain: domain("one.test") });
    assert!(matches!(deleted, FederationAnswer::Deleted { entries: 1, .. }), "{deleted:?}");
    assert_eq!(world.foreign(), [vec![""; 0], vec![]]);
    assert!(generations(&world).iter().zip(before).all(|(now, before)| *now > before), "processes hear of it");
    // An empty bundle says the same.
    world.ask(create);
    assert_eq!(world.foreign(), [["one.test"], ["one.test"]]);
    world.ask(FederationRequest::SetBundle { bundle: bundle("one.test", &[], 2), force: false });
    assert_eq!(world.foreign(), [vec![""; 0], vec![]]);
}

#[test]
fn fe_6_what_an_operator_has_forced_reaches_agents_that_had_a_newer_one() {
    let mut world = World::new();
    let (one, two) = authorities_of("one.test");
    world.entry(1, beta(), &["one.test"]);
    for (bundle, force) in [(bundle("one.test", &[&one], 9), false), (bundle("one.test", &[&two], 4), true)] {
        let set = world.ask(FederationRequest::SetBundle { bundle: bundle.clone(), force });
        assert!(matches!(set, FederationAnswer::BundleSet { changed: true, .. }));
        assert_eq!(world.agents[1].bundles().get(&domain("one.test")), Some(bundle.bundle()));
    }
}

#[test]
fn bundles_that_fit_no_single_message_come_in_parts() {
    let mut world = World::new();
    let names: Vec<String> = (0..20).map(|number| format!("d{number}.test")).collect();
    for chunk in names.chunks(10) {
        let uid = u32::try_from(chunk[0].len()).unwrap();
        world.entry(uid, beta(), &chunk.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for name in &names {
        let large = large(name, 1);
        assert!(large.document().len() > AGENT_BODY_MAX);
        world.ask(FederationRequest::SetBundle { bundle: large, force: false });
    }
    assert_eq!(world.foreign()[1].len(), 20);
    assert!(world.longest <= AGENT_BODY_MAX);
    for name in &names {
        assert_eq!(world.agents[1].bundles().get(&domain(name)), Some(large(name, 1).bundle()));
    }
    assert_eq!(world.agents[1].stats().requests_failed, 0);
    // An agent that has restarted is told everything anew.
    let answers = world.answers;
    let own = world.server.authority().bundle().clone();
    world.agents[1] = Agent::new(id("spiffe://mesh.test/node/beta"), own, Entropy::new([9; 32]), Instant::ZERO);
    world.settle();
    assert_eq!(world.foreign()[1].len(), 20);
    assert!(world.answers - answers < 60, "{} messages", world.answers - answers);
}

#[test]
fn an_agent_that_knows_nothing_of_federation_is_sent_nothing_of_it() {
    let mut world = World::new();
    let (one, _) = authorities_of("one.test");
    world.entry(1, beta(), &["one.test"]);
    world.ask(FederationRequest::SetBundle { bundle: bundle("one.test", &[&one], 9), force: false });
    let body = br#"{"ask":"sync","known":{"revision":1,"full_since":null},"bundles":{"mesh.test":1},"wait":true}"#;
    let asked = AuthorityRequest::Agent { node: id("spiffe://mesh.test/node/beta"), body: body.to_vec() };
    world.server.handle_request(77, asked, Instant::ZERO + secs(1), NOW);
    assert_eq!(world.server.poll_output(), None, "it waits");
}

#[test]
fn an_operator_sees_the_bundles_and_who_gets_them() {
    let mut world = World::new();
    let (one, _) = authorities_of("one.test");
    world.entry(1, beta(), &["one.test"]);
    let offered = FederationRequest::SetBundle { bundle: bundle("one.test", &[&one], 9), force: false };
    world.ask(offered.clone());
    assert!(matches!(world.ask(offered), FederationAnswer::BundleSet { changed: false, .. }));
    let FederationAnswer::Bundles { bundles } = world.ask(FederationRequest::ListBundles) else { panic!() };
    assert_eq!(bundles.len(), 2);
    assert!(bundles[0].is_own && bundles[0].trust_domain == domain("mesh.test"));
    assert_eq!((bundles[1].sequence, bundles[1].x509_authorities, bundles[1].entries), (9, 1, 1));
    let show = FederationRequest::ShowBundle { trust_domain: Some(domain("one.test")) };
    let FederationAnswer::Bundle { document, .. } = world.ask(show) else { panic!() };
    assert_eq!(Bundle::from_json(domain("one.test"), document.as_bytes()).unwrap().sequence(), 9);
    let unknown = FederationRequest::ShowBundle { trust_domain: Some(domain("x.test")) };
    let OperatorAnswer::Refused(refused) = world.operator(OperatorRequest::Federation(unknown)) else { panic!() };
    assert_eq!(refused.code, "unknown_bundle");
}
