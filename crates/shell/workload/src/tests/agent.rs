//! An agent at work beside an authority, on a clock that runs whenever somebody looks at it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use x0t_identity::{
    Agent, Authority, AuthorityAnswer, AuthorityConfig, AuthorityRequest, AuthorityServer, AwsLcKeys, Bundle,
    Distrusted, EntrySpec, Parent, Selectors, ServerOutput,
};
use x0t_model::{Entropy, Instant, SpiffeId, UnixTime};

use crate::agent_service::{AgentPorts, start};
use crate::jwt_service::JwtService;

const WALL: UnixTime = UnixTime::from_secs(1_795_262_400);
/// More than five batches of signing requests.
const ENTRIES: usize = 170;

/// An authority that answers at once whatever needs no waiting. Each look at the clock takes 50 ms, so everything is slow.
struct Beside {
    node: SpiffeId,
    server: Mutex<AuthorityServer>,
    looks: AtomicU64,
}

impl AgentPorts for Beside {
    fn now(&self) -> (Instant, UnixTime) {
        (
            Instant::ZERO
                + Duration::from_millis(50) * u32::try_from(self.looks.fetch_add(1, Ordering::Relaxed)).unwrap(),
            WALL,
        )
    }

    fn ask(&self, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let mut server = self.server.lock().unwrap();
        let request = AuthorityRequest::Agent { node: self.node.clone(), body };
        server.handle_request(1, request, Instant::ZERO, WALL);
        match server.poll_output() {
            Some(ServerOutput::Answer(_, AuthorityAnswer::Agent(answer))) => std::future::ready(Ok(answer)).boxed(),
            Some(other) => panic!("not an answer: {other:?}"),
            // Nothing has changed, and nothing will.
            None => std::future::pending().boxed(),
        }
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

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_snapshot_is_put_off_is_in_the_next_one() {
    let node: SpiffeId = "spiffe://mesh.test/node/alpha".parse().unwrap();
    let mut entropy = Entropy::new([1; 32]);
    let config = AuthorityConfig::default();
    let mut authority = Authority::create(&node, config, &mut AwsLcKeys, &mut entropy, WALL).unwrap();
    for number in 0..ENTRIES {
        let id = format!("spiffe://mesh.test/service/{number}").parse().unwrap();
        let selectors = Selectors::new([format!("unix:uid:{number}").parse().unwrap()]).unwrap();
        authority.create_entry(EntrySpec::new(id, Parent::AnyNode, selectors), &mut entropy, WALL).unwrap();
    }
    let bundle = authority.bundle().clone();
    let server = Mutex::new(AuthorityServer::new(authority, vec![node.clone()], entropy.fork("server")));
    let ports: Arc<dyn AgentPorts> = Arc::new(Beside { node: node.clone(), server, looks: AtomicU64::new(0) });
    let (_stop, stopped) = watch::channel(false);
    let jwt = JwtService::start(Arc::clone(&ports), stopped.clone());
    let agent = Agent::new(node, bundle, entropy, ports.now().0);
    let mut identities = start(agent, jwt, ports, stopped).identities();
    let all = identities.wait_for(|snapshot| {
        snapshot.held().len() == ENTRIES && snapshot.held().iter().all(|held| held.svid.is_some())
    });
    tokio::time::timeout(Duration::from_secs(3600), all).await.expect("all are published").unwrap();
}
