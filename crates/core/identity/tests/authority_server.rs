//! An authority at work: what goes out, and in which order.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Mesh, NOW, id, secs};
use x0t_identity::message::{JoinRequest, Message};
use x0t_identity::{
    AgentAnswer, AgentRequest, AuthorityAnswer, AuthorityCommand, AuthorityRequest, AuthorityServer, Base64, EntrySpec,
    Known, OperatorAnswer, OperatorRequest, Parent, SYNC_WAIT, Secret, Selectors, ServerOutput, SvidOutcome,
    SvidRequest, SyncAnswer, SyncRequest,
};
use x0t_model::{Entropy, Instant};

struct World {
    server: AuthorityServer,
    mesh: Mesh,
    now: Instant,
}

impl World {
    /// An authority with the members alpha (itself) and beta.
    fn new() -> Self {
        let (mut mesh, mut ours) = (Mesh::new(), Mesh::new());
        ours.join("beta");
        std::mem::swap(&mut mesh.authority, &mut ours.authority);
        mesh.authority.take_journal();
        let server =
            AuthorityServer::new(mesh.authority, vec![id("spiffe://mesh.test/node/alpha")], Entropy::new([5; 32]));
        Self { server, mesh: ours, now: Instant::ZERO }
    }

    fn ask(&mut self, ticket: u64, request: AuthorityRequest) -> Vec<ServerOutput> {
        self.server.handle_request(ticket, request, self.now, NOW);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<ServerOutput> {
        std::iter::from_fn(|| self.server.poll_output()).collect()
    }

    fn operator(&mut self, request: OperatorRequest) -> Vec<ServerOutput> {
        self.ask(0, AuthorityRequest::Operator(request))
    }

    fn agent(&mut self, ticket: u64, node: &str, request: &AgentRequest) -> Vec<ServerOutput> {
        let node = id(&format!("spiffe://mesh.test/node/{node}"));
        self.ask(ticket, AuthorityRequest::Agent { node, body: request.encode().unwrap() })
    }
}

fn web(uid: u32, node: &str) -> EntrySpec {
    EntrySpec::new(
        id("spiffe://mesh.test/web"),
        Parent::Node(id(&format!("spiffe://mesh.test/node/{node}"))),
        Selectors::new([format!("unix:uid:{uid}").parse().unwrap()]).unwrap(),
    )
}

fn synced(output: &ServerOutput) -> (u64, SyncAnswer) {
    let ServerOutput::Answer(ticket, AuthorityAnswer::Agent(body)) = output else { panic!("{output:?}") };
    let AgentAnswer::Sync(answer) = AgentAnswer::decode(body).unwrap() else { panic!("{output:?}") };
    (*ticket, answer)
}

fn waiting_sync(known: Known) -> AgentRequest {
    let bundles = BTreeMap::from([("mesh.test".parse().unwrap(), 1)]);
    AgentRequest::Sync(SyncRequest { known, bundles, wait: true, ..SyncRequest::default() })
}

#[test]
fn what_was_promised_is_durable_before_the_answer_leaves() {
    let mut world = World::new();
    let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
    let made = world.operator(OperatorRequest::CreateToken { name: None, ttl: secs(60), addresses });
    let [ServerOutput::Commit(commands), ServerOutput::Answer(0, answer)] = &made[..] else { panic!("{made:?}") };
    assert!(matches!(commands[..], [AuthorityCommand::AddToken { .. }]));
    let AuthorityAnswer::Operator(OperatorAnswer::Token { token, .. }) = answer else { panic!("{answer:?}") };
    let token: x0t_identity::JoinToken = token.expose().parse().unwrap();
    let join = |csr| JoinRequest { secret: token.secret.clone(), name: Some("gamma".into()), csr };
    let csr = world.mesh.csr();
    let joined = world.ask(7, AuthorityRequest::Join(join(csr.clone())));
    let [ServerOutput::Commit(_), ServerOutput::Joined(who), ServerOutput::Answer(7, answer)] = &joined[..] else {
        panic!("{joined:?}")
    };
    assert_eq!(*who, id("spiffe://mesh.test/node/gamma"));
    assert!(matches!(answer, AuthorityAnswer::Message(Message::JoinAccepted(_))));
    let again = world.ask(8, AuthorityRequest::Join(join(csr)));
    let [ServerOutput::Answer(8, answer)] = &again[..] else { panic!("{again:?}") };
    assert!(answer.is_refusal(), "{answer:?}");
}

#[test]
fn an_agent_that_waits_hears_of_a_new_entry_at_once_and_the_others_do_not() {
    let mut world = World::new();
    let first = world.agent(1, "beta", &waiting_sync(Known::default()));
    assert!(first.is_empty() && world.agent(2, "alpha", &waiting_sync(Known::default())).is_empty());
    let outputs = world.operator(OperatorRequest::CreateEntry(web(1000, "beta")));
    let [ServerOutput::Commit(_), ServerOutput::Answer(0, _), told] = &outputs[..] else { panic!("{outputs:?}") };
    let (ticket, answer) = synced(told);
    assert_eq!((ticket, answer.entries.entries.len()), (1, 1));
    assert!(answer.bundles.is_empty(), "it knows the bundle");
    world.now = Instant::ZERO + SYNC_WAIT;
    world.server.handle_timeout(world.now);
    let (ticket, answer) = synced(&world.outputs()[0]);
    assert_eq!((ticket, answer.entries.entries.len()), (2, 0), "nothing has changed for alpha");
    assert_eq!(answer.entries.known.revision, 1, "and it need not look at this change again");
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn an_entry_that_moves_is_taken_from_one_node_and_given_to_the_other() {
    let mut world = World::new();
    world.operator(OperatorRequest::CreateEntry(web(1000, "beta")));
    let entry = world.server.authority().entries().next().unwrap().clone();
    let known = Known { revision: 1, full_since: None };
    assert!(world.agent(1, "beta", &waiting_sync(known)).is_empty());
    assert!(world.agent(2, "alpha", &waiting_sync(known)).is_empty());
    let spec = web(1000, "alpha");
    let outputs =
        world.operator(OperatorRequest::Change(AuthorityCommand::UpdateEntry { id: entry.id.clone(), spec, at: NOW }));
    let (beta, alpha) = (synced(&outputs[2]), synced(&outputs[3]));
    assert_eq!((beta.0, beta.1.entries.deleted, beta.1.entries.entries.len()), (1, vec![entry.id], 0));
    assert_eq!((alpha.0, alpha.1.entries.deleted.len(), alpha.1.entries.entries.len()), (2, 0, 1));
}

#[test]
fn an_agent_is_told_everything_in_as_many_messages_as_it_takes() {
    let mut world = World::new();
    for uid in 0..500 {
        world.operator(OperatorRequest::CreateEntry(web(uid, "beta")));
    }
    let (mut known, mut entries, mut rounds) = (Known::default(), BTreeSet::new(), 0);
    loop {
        let outputs = world.agent(1, "beta", &waiting_sync(known));
        let Some(told) = outputs.first() else { break };
        let (_, answer) = synced(told);
        entries.extend(answer.entries.entries.into_iter().map(|entry| entry.id));
        known = answer.entries.known;
        rounds += 1;
    }
    assert_eq!((entries.len(), known.revision), (500, 500));
    assert!((8..=10).contains(&rounds), "{rounds}");
}

#[test]
fn workloads_are_issued_for_in_batches_and_each_has_its_outcome() {
    let mut world = World::new();
    world.operator(OperatorRequest::CreateEntry(web(1000, "beta")));
    let entry = world.server.authority().entries().next().unwrap().id.clone();
    let good = SvidRequest { entry: entry.clone(), csr: Base64(world.mesh.csr()) };
    let bad = SvidRequest { entry: "none".parse().unwrap(), csr: good.csr.clone() };
    let broken = SvidRequest { entry, csr: Base64(vec![0x30, 0]) };
    let outputs = world.agent(3, "beta", &AgentRequest::IssueX509 { items: vec![good, bad, broken] });
    let [ServerOutput::Answer(3, AuthorityAnswer::Agent(body))] = &outputs[..] else { panic!("{outputs:?}") };
    let AgentAnswer::IssuedX509 { items } = AgentAnswer::decode(body).unwrap() else { panic!("{body:?}") };
    assert!(matches!(&items[0], SvidOutcome::Issued(chain) if chain.len() == 1));
    assert!(matches!(&items[1], SvidOutcome::Refused(refused) if refused.code == "unknown_entry"));
    assert!(matches!(&items[2], SvidOutcome::Refused(refused) if refused.code == "bad_request"));
}

#[test]
fn a_stranger_and_a_malformed_request_are_refused_with_a_word() {
    let mut world = World::new();
    let code = |outputs: &[ServerOutput]| {
        let [ServerOutput::Answer(_, AuthorityAnswer::Agent(body))] = outputs else { panic!("{outputs:?}") };
        let AgentAnswer::Refused(refused) = AgentAnswer::decode(body).unwrap() else { panic!("{body:?}") };
        refused.code
    };
    assert_eq!(code(&world.agent(1, "mallory", &waiting_sync(Known::default()))), "unknown_node");
    let node = id("spiffe://mesh.test/node/beta");
    for body in [&b""[..], b"{}", b"{\"ask\":\"nothing\"}", &[0xff; 70_000]] {
        let outputs = world.ask(2, AuthorityRequest::Agent { node: node.clone(), body: body.to_vec() });
        assert_eq!(code(&outputs), "malformed");
    }
}

#[test]
fn a_node_that_is_removed_while_its_agent_waits_hears_so_at_once() {
    let mut world = World::new();
    let known = Known { revision: 0, full_since: None };
    assert!(world.agent(1, "beta", &waiting_sync(known)).is_empty());
    let forget = AuthorityCommand::ForgetName { name: "beta".into() };
    let outputs = world.operator(OperatorRequest::Change(forget));
    let said = outputs.iter().find_map(|output| match output {
        ServerOutput::Answer(1, AuthorityAnswer::Agent(body)) => Some(AgentAnswer::decode(body).unwrap()),
        _ => None,
    });
    assert!(matches!(&said, Some(AgentAnswer::Refused(refused)) if refused.code == "unknown_node"), "{outputs:?}");
}

#[test]
fn an_entry_is_deleted_with_its_svids_on_the_revocation_list_or_not_at_all() {
    let mut world = World::new();
    world.operator(OperatorRequest::CreateEntry(web(1000, "beta")));
    let entry = world.server.authority().entries().next().unwrap().id.clone();
    let item = SvidRequest { entry: entry.clone(), csr: Base64(world.mesh.csr()) };
    world.agent(3, "beta", &AgentRequest::IssueX509 { items: vec![item] });
    let outputs = world.operator(OperatorRequest::DeleteEntry { id: entry.clone(), revoke: true });
    let [ServerOutput::Commit(commands), ServerOutput::Answer(0, answer), ..] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(matches!(commands[..], [AuthorityCommand::RevokeSvids { .. }, AuthorityCommand::DeleteEntry { .. }]));
    let revoked = OperatorAnswer::Revoked { svids: 1, complete_from: None };
    assert_eq!(*answer, AuthorityAnswer::Operator(revoked));
    assert_eq!(world.server.authority().entries().count(), 0);
    assert_eq!(world.server.authority().crls(NOW).unwrap().len(), 1);
    let again = world.operator(OperatorRequest::DeleteEntry { id: entry, revoke: true });
    let [ServerOutput::Answer(0, AuthorityAnswer::Operator(OperatorAnswer::Refused(refused)))] = &again[..] else {
        panic!("{again:?}")
    };
    assert_eq!(refused.code, "unknown_entry");
}

#[test]
fn secrets_in_requests_and_answers_are_not_shown() {
    let mut world = World::new();
    let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
    let made = world.operator(OperatorRequest::CreateToken { name: None, ttl: secs(60), addresses });
    assert!(!format!("{made:?}").contains("x0t1."), "{made:?}");
    let key = "-----BEGIN PRIVATE KEY-----".to_owned();
    let import = OperatorRequest::ImportAuthority { chain: String::new(), key: Secret::new(key), roots: String::new() };
    assert!(!format!("{import:?}").contains("PRIVATE"));
    let minted = AgentAnswer::MintedJwt { token: Secret::new("ey.ey.sig".to_owned()), expires_at: NOW };
    assert!(!format!("{minted:?}").contains("ey.ey"));
    let body = minted.encode().unwrap();
    assert_eq!(AgentAnswer::decode(&body).unwrap(), minted, "and travel all the same");
    assert_eq!(format!("{:?}", AuthorityAnswer::Agent(body.clone())), format!("Agent({} bytes)", body.len()));
}
