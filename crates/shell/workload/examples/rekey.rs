//! How long it takes to replace every SVID of a node after its authority was tainted: `rekey [SVIDS]`, 10,000 if not given.
//!
//! The authority's service with its log on disk, and a node's agent and its service, in one process as on an authority's host; the
//! messages between them are the encoded ones, without a mesh to carry them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, run by hand")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::CertificateDer;
use tokio::sync::{oneshot, watch};
use x0t_identity::ca_life::{AuthorityKind, KeyId};
use x0t_identity::{
    Agent, Authority, AuthorityAnswer, AuthorityConfig, AuthorityRequest, AuthorityServer, AwsLcKeys, Bundle,
    Distrusted, EntrySpec, OperatorAnswer, OperatorRequest, Parent, Selectors, Ticket,
};
use x0t_model::{Entropy, Instant, SpiffeId, UnixTime};
use x0t_workload::agent_service::{self, AgentPorts};
use x0t_workload::authority_service::{self, AuthorityHandle, AuthorityPorts};
use x0t_workload::authority_store::LocalStore;
use x0t_workload::identities::Identities;
use x0t_workload::jwt_service::JwtService;

type Answers = Arc<Mutex<BTreeMap<Ticket, oneshot::Sender<Vec<u8>>>>>;

#[tokio::main]
async fn main() {
    let svids: usize = std::env::args().nth(1).map_or(10_000, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let node: SpiffeId = "spiffe://mesh.test/node/alpha".parse().unwrap();
    let mut entropy = Entropy::new([7; 32]);
    let authority = create(&node, svids, &mut entropy);
    std::fs::write(directory.path().join("authority.json"), authority.to_stored().unwrap()).unwrap();
    let (store, authority) = LocalStore::open(directory.path(), node.trust_domain()).unwrap();
    let bundle = authority.bundle().clone();

    let answers = Answers::default();
    let server = AuthorityServer::new(authority, vec![node.clone()], entropy.fork("server"));
    let server = server.with_keys(Box::new(AwsLcKeys));
    let authority =
        authority_service::start(server, Box::new(store), ToAgent { answers: Arc::clone(&answers) }).unwrap();
    let (_stop, stopped) = watch::channel(false);
    let ports: Arc<dyn AgentPorts> =
        Arc::new(ToAuthority { authority: authority.clone(), node: node.clone(), answers, next: Mutex::new(0) });
    let agent = Agent::new(node, bundle, entropy, ports.now().0);
    let jwt = JwtService::start(Arc::clone(&ports), stopped.clone());
    let mut identities = agent_service::start(agent, jwt, ports, stopped).identities();

    let begun = Began::now();
    let first = until_all_of_one(&mut identities, svids, None).await;
    println!("{svids} SVIDs issued to one node: {}", begun.elapsed());
    ask(&authority, OperatorRequest::PrepareAuthority { kind: AuthorityKind::X509 }).await;
    ask(&authority, OperatorRequest::ActivateAuthority { kind: AuthorityKind::X509, force: true }).await;
    let begun = Began::now();
    ask(&authority, OperatorRequest::TaintAuthority { key_id: first }).await;
    until_all_of_one(&mut identities, svids, Some(first)).await;
    println!("{svids} SVIDs replaced after their authority was tainted: {}", begun.elapsed());
}

/// An authority with an entry for each SVID.
fn create(node: &SpiffeId, svids: usize, entropy: &mut Entropy) -> Authority {
    let now = wall();
    let mut authority = Authority::create(node, AuthorityConfig::default(), &mut AwsLcKeys, entropy, now).unwrap();
    for number in 0..svids {
        let id = format!("spiffe://{}/service/{number}", node.trust_domain()).parse().unwrap();
        let selectors = Selectors::new([format!("unix:uid:{number}").parse().unwrap()]).unwrap();
        authority.create_entry(EntrySpec::new(id, Parent::AnyNode, selectors), entropy, now).unwrap();
    }
    authority.take_journal();
    authority
}

/// Until the agent holds all SVIDs, and all of one authority, which is not `before`; gives its key.
async fn until_all_of_one(
    identities: &mut watch::Receiver<Arc<Identities>>,
    svids: usize,
    before: Option<KeyId>,
) -> KeyId {
    loop {
        let newest = identities.borrow_and_update().clone();
        let held = newest.held().iter().filter_map(|held| held.svid.as_ref());
        // From the end, where the last ones are replaced: most looks then end at the first.
        let issuers: Vec<KeyId> =
            held.rev().map_while(|svid| KeyId::of_issuer(svid.chain()).filter(|of| Some(*of) != before)).collect();
        let different: BTreeSet<KeyId> = issuers.iter().copied().collect();
        if issuers.len() == svids && different.len() == 1 {
            return issuers[0];
        }
        identities.changed().await.unwrap();
    }
}

async fn ask(authority: &AuthorityHandle, request: OperatorRequest) {
    let answer = authority.operator(request).await.unwrap();
    assert!(!matches!(answer, OperatorAnswer::Refused(_)), "{answer:?}");
}

/// From the authority's thread to whoever asked.
struct ToAgent {
    answers: Answers,
}

impl AuthorityPorts for ToAgent {
    fn now(&self) -> (Instant, UnixTime) {
        now()
    }

    fn answer(&mut self, ticket: Ticket, answer: AuthorityAnswer) {
        let AuthorityAnswer::Agent(body) = answer else { panic!("only the agent asks this way") };
        self.answers.lock().unwrap().remove(&ticket).unwrap().send(body).unwrap();
    }

    fn joined(&mut self, _: SpiffeId) {}
}

/// From the agent to the authority.
struct ToAuthority {
    authority: AuthorityHandle,
    node: SpiffeId,
    answers: Answers,
    next: Mutex<Ticket>,
}

impl AgentPorts for ToAuthority {
    fn now(&self) -> (Instant, UnixTime) {
        now()
    }

    fn ask(&self, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (sender, receiver) = oneshot::channel();
        let mut next = self.next.lock().unwrap();
        *next += 1;
        self.answers.lock().unwrap().insert(*next, sender);
        self.authority.request(*next, AuthorityRequest::Agent { node: self.node.clone(), body }).unwrap();
        async move { receiver.await.map_err(|error| error.to_string()) }.boxed()
    }

    fn offer_bundle(&self, _: Bundle) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    fn distrust(&self, _: Distrusted) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }

    fn own_chain(&self) -> watch::Receiver<Vec<CertificateDer<'static>>> {
        watch::channel(Vec::new()).1
    }
}

fn now() -> (Instant, UnixTime) {
    let time = clock_gettime(ClockId::Boottime);
    (Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()), wall())
}

fn wall() -> UnixTime {
    UnixTime::from_secs(clock_gettime(ClockId::Realtime).tv_sec.unsigned_abs())
}

/// A moment, by the clock and by the processor.
struct Began {
    at: Instant,
    processor_nanos: u64,
}

impl Began {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let processor_nanos = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
        Self { at: now().0, processor_nanos }
    }

    fn elapsed(&self) -> String {
        let end = Self::now();
        let processor = (end.processor_nanos - self.processor_nanos) as f64 / 1e9;
        format!("{:.2} s, {processor:.2} s of processor time", end.at.since(self.at).as_secs_f64())
    }
}
