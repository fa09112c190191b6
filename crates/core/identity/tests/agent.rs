//! An agent and its authority in virtual time: what is asked, adopted, kept and given up.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{HOUR, Mesh, NOW, id, secs};
use x0t_identity::ca_life::{AuthorityKind, KeyId};
use x0t_identity::{
    Agent, AgentAnswer, AgentEvent, AgentRequest, AuthorityAnswer, AuthorityCommand, AuthorityRequest, AuthorityServer,
    EntryId, EntrySpec, OperatorAnswer, OperatorRequest, Parent, SYNC_WAIT, SeededKeys, Selectors, ServerOutput,
    SvidOutcome, verify_chain,
};
use x0t_model::{Entropy, Instant, UnixTime};

struct World {
    server: AuthorityServer,
    agent: Agent,
    keys: SeededKeys,
    now: Instant,
    wall: UnixTime,
    /// Whether anything passes between the two.
    connected: bool,
    /// Changes what the authority answers.
    tamper: fn(AgentAnswer) -> AgentAnswer,
    asked: usize,
}

impl World {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        mesh.join("beta");
        mesh.authority.take_journal();
        let bundle = mesh.authority.bundle().clone();
        let authorities = vec![id("spiffe://mesh.test/node/alpha")];
        let server = AuthorityServer::new(mesh.authority, authorities, Entropy::new([5; 32]))
            .with_keys(Box::new(SeededKeys::new(Entropy::new([8; 32]))));
        let agent = Agent::new(id("spiffe://mesh.test/node/beta"), bundle, Entropy::new([6; 32]), Instant::ZERO);
        let (keys, now, wall) = (SeededKeys::new(Entropy::new([7; 32])), Instant::ZERO, NOW);
        let mut world = Self { server, agent, keys, now, wall, connected: true, tamper: |answer| answer, asked: 0 };
        world.settle();
        world
    }

    fn operator(&mut self, request: OperatorRequest) -> OperatorAnswer {
        self.server.handle_request(u64::MAX, AuthorityRequest::Operator(request), self.now, self.wall);
        let mut said = None;
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::Answer(u64::MAX, AuthorityAnswer::Operator(answer)) => said = Some(answer),
                ServerOutput::Answer(ticket, AuthorityAnswer::Agent(body)) => self.deliver(ticket, &body),
                ServerOutput::Commit(_) => {}
                other => panic!("{other:?}"),
            }
        }
        self.settle();
        said.unwrap()
    }

    fn create(&mut self, spec: EntrySpec) -> EntryId {
        match self.operator(OperatorRequest::CreateEntry(spec)) {
            OperatorAnswer::Entry { entry } => entry.id,
            other => panic!("{other:?}"),
        }
    }

    fn deliver(&mut self, ticket: u64, body: &[u8]) {
        if !self.connected {
            return self.agent.handle_answer(ticket, Err("lost on the way"), self.now, self.wall);
        }
        let body = (self.tamper)(AgentAnswer::decode(body).unwrap()).encode().unwrap();
        self.agent.handle_answer(ticket, Ok(&body), self.now, self.wall);
    }

    /// Until neither has anything to say at this instant.
    fn settle(&mut self) {
        for _ in 0..5_000 {
            self.agent.handle_timeout(self.now, self.wall, &mut self.keys);
            let Some((number, request)) = self.agent.poll_request() else { return };
            self.asked += usize::from(!matches!(request, AgentRequest::Sync(_)));
            if !self.connected {
                self.agent.handle_answer(number, Err("no way"), self.now, self.wall);
                continue;
            }
            let request = AuthorityRequest::Agent { node: self.agent.node().clone(), body: request.encode().unwrap() };
            self.server.handle_request(number, request, self.now, self.wall);
            while let Some(output) = self.server.poll_output() {
                let ServerOutput::Answer(ticket, AuthorityAnswer::Agent(body)) = output else { panic!("{output:?}") };
                self.deliver(ticket, &body);
            }
        }
        panic!("the agent does not come to rest");
    }

    /// Lets time pass, timeout by timeout.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next =
                self.agent.poll_timeout(self.now, self.wall).min(self.server.poll_timeout().unwrap_or(end)).min(end);
            let step = next.since(self.now).max(Duration::from_millis(1));
            self.now += step;
            let passed = self.now.since(Instant::ZERO);
            self.wall = NOW + Duration::from_secs(passed.as_secs());
            self.server.handle_timeout(self.now);
            while let Some(ServerOutput::Answer(ticket, AuthorityAnswer::Agent(body))) = self.server.poll_output() {
                self.deliver(ticket, &body);
            }
            self.settle();
            if self.now >= end {
                return;
            }
        }
    }

    fn events(&mut self) -> Vec<AgentEvent> {
        std::iter::from_fn(|| self.agent.poll_event()).collect()
    }

    fn svids(&self) -> Vec<(String, UnixTime)> {
        let svid =
            |held: x0t_identity::HeldSvid| held.svid.map(|svid| (svid.spiffe_id().to_string(), svid.not_after()));
        self.agent.held().filter_map(svid).collect()
    }
}

fn web(uid: u32, node: &str) -> EntrySpec {
    EntrySpec::new(
        id("spiffe://mesh.test/web"),
        Parent::Node(id(&format!("spiffe://mesh.test/node/{node}"))),
        Selectors::new([format!("unix:uid:{uid}").parse().unwrap()]).unwrap(),
    )
}

#[test]
fn a_new_entry_has_an_svid_without_any_time_passing_and_a_deleted_one_has_none() {
    let mut world = World::new();
    assert!(world.agent.generation() > 0, "it knows that there is nothing");
    let entry = world.create(web(1000, "beta"));
    world.create(web(1001, "alpha"));
    assert_eq!(world.svids(), [("spiffe://mesh.test/web".to_owned(), NOW + HOUR)]);
    let held = world.agent.held().next().unwrap().svid.unwrap();
    assert!(verify_chain(held.chain(), world.server.authority().bundle(), NOW).is_ok());
    world.operator(OperatorRequest::Change(AuthorityCommand::DeleteEntry { id: entry }));
    assert_eq!(world.agent.held().count(), 0);
}

#[test]
fn five_hundred_entries_cost_a_few_messages() {
    let mut world = World::new();
    world.connected = false;
    for uid in 0..500 {
        world.create(web(uid, "beta"));
    }
    world.connected = true;
    world.asked = 0;
    world.pass(SYNC_WAIT + secs(11));
    assert_eq!(world.svids().len(), 500);
    assert!(world.asked <= 40, "{} batches", world.asked);
}

#[test]
fn an_svid_is_renewed_at_half_of_its_life_and_never_runs_out() {
    let mut world = World::new();
    world.create(web(1000, "beta"));
    world.events();
    world.pass(HOUR * 5);
    let issued = world.events().into_iter().filter(|event| matches!(event, AgentEvent::Issued(_))).count();
    assert!((9..=11).contains(&issued), "{issued} renewals in five lives");
    assert!(world.svids()[0].1 > world.wall + HOUR * 2 / 5);
}

#[test]
fn l13_a_valid_svid_survives_a_dead_authority_until_its_own_end_and_no_longer() {
    let mut world = World::new();
    world.create(web(1000, "beta"));
    world.events();
    world.connected = false;
    world.pass(HOUR - secs(1));
    assert_eq!(world.svids().len(), 1, "valid to its last second");
    assert!(matches!(world.events()[..], [AgentEvent::Degraded(_)]), "said once");
    world.pass(secs(3));
    assert_eq!(world.svids(), []);
    assert!(world.events().contains(&AgentEvent::Expired(id("spiffe://mesh.test/web"))));
    world.connected = true;
    world.pass(secs(6));
    assert_eq!(world.svids().len(), 1, "back within seconds");
    assert!(world.events().contains(&AgentEvent::Recovered));
}

#[test]
fn an_answer_for_another_identity_or_from_another_authority_is_not_adopted() {
    let mut world = World::new();
    world.tamper = |answer| match answer {
        AgentAnswer::IssuedX509 { items } => {
            let stranger =
                Mesh::of("spiffe://mesh.test/node/mallory", x0t_identity::AuthorityConfig::default()).own_svid(NOW);
            AgentAnswer::IssuedX509 { items: items.iter().map(|_| SvidOutcome::issued(stranger.chain())).collect() }
        }
        other => other,
    };
    world.create(web(1000, "beta"));
    assert_eq!(world.svids(), []);
    assert!(world.agent.stats().svids_refused > 0);
    world.tamper = |answer| match answer {
        AgentAnswer::IssuedX509 { .. } => AgentAnswer::IssuedX509 { items: Vec::new() },
        other => other,
    };
    world.pass(secs(60));
    assert_eq!(world.svids(), [], "one outcome for each request, or none is believed");
    world.tamper = |answer| answer;
    world.pass(secs(6));
    assert_eq!(world.svids().len(), 1, "and it goes on asking");
}

#[test]
fn a_changed_identity_replaces_the_old_one_and_a_changed_name_keeps_it_meanwhile() {
    let mut world = World::new();
    let entry = world.create(web(1000, "beta"));
    let update = |spec| OperatorRequest::Change(AuthorityCommand::UpdateEntry { id: entry.clone(), spec, at: NOW });
    world.tamper = |answer| match answer {
        AgentAnswer::IssuedX509 { items } => AgentAnswer::IssuedX509 { items: items[1..].to_vec() },
        other => other,
    };
    world.operator(update(EntrySpec { dns_names: vec!["web.test".into()], ..web(1000, "beta") }));
    assert_eq!(world.svids().len(), 1, "valid, if without the new name");
    world.operator(update(EntrySpec { spiffe_id: id("spiffe://mesh.test/api"), ..web(1000, "beta") }));
    assert_eq!(world.svids(), [], "the identity was taken away at once");
    world.tamper = |answer| answer;
    world.pass(secs(10));
    assert_eq!(world.svids()[0].0, "spiffe://mesh.test/api");
}

#[test]
fn a_restored_authority_that_knows_less_is_believed_about_what_there_is() {
    let mut world = World::new();
    world.create(web(1000, "beta"));
    for uid in 0..150 {
        world.create(web(2000 + uid, "beta"));
    }
    // The authority is set back to what it was with three entries.
    let mut mesh = Mesh::new();
    mesh.join("beta");
    let restored = AuthorityServer::new(mesh.authority, Vec::new(), Entropy::new([5; 32]));
    world.server = restored;
    for uid in 0..3 {
        world.create(web(3000 + uid, "beta"));
    }
    world.agent.handle_answer(u64::MAX, Err("of nobody"), world.now, world.wall);
    // The question that waited at the old one is lost with it.
    world.connected = false;
    world.pass(secs(1));
    world.connected = true;
    let lost = (1..2_000).collect::<Vec<u64>>();
    for number in lost {
        world.agent.handle_answer(number, Err("the connection ended"), world.now, world.wall);
    }
    world.pass(secs(20));
    assert_eq!(world.svids().len(), 3);
}

#[test]
fn after_a_taint_every_svid_is_replaced_at_once_and_then_the_authority_can_be_revoked() {
    let mut world = World::new();
    for uid in 0..200 {
        world.create(web(uid, "beta"));
    }
    let issuers = |world: &World| {
        let issuer = |held: x0t_identity::HeldSvid| KeyId::of_issuer(held.svid.unwrap().chain()).unwrap();
        world.agent.held().map(issuer).collect::<BTreeSet<_>>()
    };
    let leaked = world.server.authority().signer().unwrap().key_id();
    assert_eq!(issuers(&world), BTreeSet::from([leaked]));
    let kind = AuthorityKind::X509;
    let prepared = world.operator(OperatorRequest::PrepareAuthority { kind });
    assert!(matches!(prepared, OperatorAnswer::Prepared { .. }), "{prepared:?}");
    // The agent waits at the authority, so it has heard of the bundle and said so by now.
    let activated = world.operator(OperatorRequest::ActivateAuthority { kind, force: false });
    assert!(matches!(activated, OperatorAnswer::Changed { .. }), "{activated:?}");
    assert_eq!(issuers(&world), BTreeSet::from([leaked]), "a hand-over hurries nobody");

    world.operator(OperatorRequest::TaintAuthority { key_id: leaked });
    let next = world.server.authority().signer().unwrap().key_id();
    assert_eq!(issuers(&world), BTreeSet::from([next]), "a taint does, and no time has passed");
    let early = world.operator(OperatorRequest::RevokeAuthority { key_id: leaked, force: false });
    assert!(matches!(&early, OperatorAnswer::Refused(refused) if refused.code == "still_held"), "{early:?}");
    let renewed = world.agent.held().next().unwrap().svid.unwrap();
    world.agent.set_own_chain(renewed.chain(), world.now);
    world.settle();
    assert_eq!(world.now, Instant::ZERO, "the authority hears of it beside the question that it keeps");
    let revoked = world.operator(OperatorRequest::RevokeAuthority { key_id: leaked, force: false });
    assert!(matches!(revoked, OperatorAnswer::Changed { .. }), "{revoked:?}");
    assert!(world.agent.held().all(|held| {
        let own = world.server.authority().bundle();
        verify_chain(held.svid.unwrap().chain(), own, world.wall).is_ok()
    }));
}

#[test]
fn the_issuer_that_the_authority_hears_of_is_that_of_the_svid_in_use() {
    let mut world = World::new();
    let mut mesh = Mesh::new();
    let first = mesh.join("beta");
    world.agent.set_own_chain(first.chain(), world.now);
    world.settle();
    let leaked = world.server.authority().signer().unwrap().key_id();
    let kind = AuthorityKind::X509;
    world.operator(OperatorRequest::PrepareAuthority { kind });
    world.operator(OperatorRequest::ActivateAuthority { kind, force: false });
    world.operator(OperatorRequest::TaintAuthority { key_id: leaked });
    assert!(
        world.events().iter().any(|event| matches!(event, AgentEvent::Distrusted(distrusted)
        if distrusted.tainted == BTreeSet::from([leaked]))),
        "the node is told"
    );
    let held = world.operator(OperatorRequest::RevokeAuthority { key_id: leaked, force: false });
    assert!(matches!(&held, OperatorAnswer::Refused(refused) if refused.code == "still_held"), "{held:?}");
    // What was waiting has been asked with the old issuer; it is not believed any more once there is a later question.
    world.create(web(1000, "beta"));
    let other = world.agent.held().next().unwrap().svid.unwrap();
    world.agent.set_own_chain(other.chain(), world.now);
    world.settle();
    world.pass(SYNC_WAIT * 2);
    let revoked = world.operator(OperatorRequest::RevokeAuthority { key_id: leaked, force: false });
    assert!(matches!(revoked, OperatorAnswer::Changed { .. }), "{revoked:?}");
}

#[test]
fn a_workloads_svid_that_was_taken_back_is_replaced_at_once() {
    let mut world = World::new();
    world.create(web(1000, "beta"));
    let leaf = |world: &World| {
        let svid = world.agent.held().next().unwrap().svid.unwrap();
        svid.chain()[0].to_vec()
    };
    let before = leaf(&world);
    let revoked = world.operator(OperatorRequest::RevokeSvids { id: id("spiffe://mesh.test/web") });
    assert!(matches!(revoked, OperatorAnswer::Revoked { svids: 1, .. }), "{revoked:?}");
    assert_ne!(leaf(&world), before, "no time has passed");
    assert_eq!(world.agent.crls().len(), 1);
    let asked = world.asked;
    world.pass(secs(60));
    assert_eq!(world.asked, asked, "and only once");
}

#[test]
fn entries_for_which_there_was_no_room_are_asked_for_again_when_there_is() {
    let mut world = World::new();
    world.agent = Agent::new(
        id("spiffe://mesh.test/node/beta"),
        world.server.authority().bundle().clone(),
        Entropy::new([6; 32]),
        Instant::ZERO,
    )
    .with_entries_max(5);
    world.settle();
    let entries: Vec<_> = (0..8).map(|uid| world.create(web(uid, "beta"))).collect();
    assert_eq!((world.svids().len(), world.agent.stats().entries_dropped), (5, 3));
    let held: BTreeSet<_> = world.agent.held().map(|held| held.entry.id.clone()).collect();
    let kept: Vec<_> = entries.iter().filter(|entry| held.contains(*entry)).collect();
    for gone in &kept[..2] {
        world.operator(OperatorRequest::Change(AuthorityCommand::DeleteEntry { id: (*gone).clone() }));
    }
    assert_eq!(world.svids().len(), 5, "two went, and two of those that waited came");
    let (asked, generation) = (world.asked, world.agent.generation());
    world.pass(SYNC_WAIT * 3);
    assert_eq!((world.asked, world.agent.generation()), (asked, generation), "and nobody goes on asking");
    world.operator(OperatorRequest::Change(AuthorityCommand::DeleteEntry { id: kept[2].clone() }));
    assert_eq!(world.svids().len(), 5);
    world.operator(OperatorRequest::Change(AuthorityCommand::DeleteEntry { id: kept[3].clone() }));
    assert_eq!(world.svids().len(), 4, "that is all there are");
}
