//! A node's agent at work: drives the pure [`Agent`], and publishes what processes may be given.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use x0t_identity::ca_life::KeyId;
use x0t_identity::{
    Agent, AgentEvent, AgentStats, AudienceSet, AwsLcKeys, Bundle, Distrusted, Entry, EntryId, JwtSvid,
};
use x0t_model::{Instant, SpiffeId, UnixTime};

use crate::identities::{Crls, Held, Identities};
use crate::jwt_service::JwtService;
use crate::source::{IdentitySource, SourceError};

/// After a snapshot that took this long to make, the next one waits so many times as long: while ten thousand SVIDs are replaced, batch
/// by batch, snapshots of all of them take no more than a fifth of the time. One that takes microseconds is not waited for.
const SNAPSHOT_PAUSE: u32 = 4;
/// But no change waits longer than this for what processes see of it.
const SNAPSHOT_PAUSE_MAX: Duration = Duration::from_millis(250);

/// What an agent needs of the host it runs on.
pub trait AgentPorts: Send + Sync + 'static {
    /// Monotonic and wall-clock time.
    fn now(&self) -> (Instant, UnixTime);

    /// Asks the authority, wherever it is. The outcome is the answer's body, or the reason why there is none.
    fn ask(&self, body: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>>;

    /// The node should trust this bundle of its own trust domain from now on.
    fn offer_bundle(&self, bundle: Bundle) -> BoxFuture<'static, ()>;

    /// The authority does not stand by these signatures any more: the node should replace its own SVID if it is one of them.
    fn distrust(&self, distrusted: Distrusted) -> BoxFuture<'static, ()>;

    /// The chain that the node shows; empty as long as it is the one that the agent was told at its start.
    fn own_chain(&self) -> watch::Receiver<Vec<CertificateDer<'static>>>;
}

/// What a running agent has to show.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    identities: watch::Receiver<Arc<Identities>>,
    state: Arc<Mutex<AgentState>>,
}

/// How an agent fares.
#[derive(Clone, Debug, Default)]
pub struct AgentState {
    /// What it has done.
    pub stats: AgentStats,
    /// Why the authority is not reached, if it is not.
    pub degraded: Option<String>,
}

impl AgentHandle {
    /// The snapshot in force, and every later one.
    pub fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.identities.clone()
    }

    /// How it fares.
    pub fn state(&self) -> AgentState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The agent's identities as the Workload API's source.
pub struct AgentSource {
    handle: AgentHandle,
    jwt: JwtService,
    ports: Arc<dyn AgentPorts>,
}

impl AgentSource {
    /// The identities that `handle` publishes.
    pub const fn new(handle: AgentHandle, jwt: JwtService, ports: Arc<dyn AgentPorts>) -> Self {
        Self { handle, jwt, ports }
    }
}

impl IdentitySource for AgentSource {
    fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.handle.identities()
    }

    fn mint_jwt<'a>(
        &'a self,
        entry: &'a Entry,
        audience: &'a AudienceSet,
    ) -> BoxFuture<'a, Result<Arc<JwtSvid>, SourceError>> {
        self.jwt.mint(entry, audience).boxed()
    }

    fn now(&self) -> UnixTime {
        self.ports.now().1
    }
}

/// Starts an agent on the runtime of the caller. It ends with `stop`.
pub fn start(agent: Agent, jwt: JwtService, ports: Arc<dyn AgentPorts>, stop: watch::Receiver<bool>) -> AgentHandle {
    let (publish, identities) = watch::channel(Arc::new(Identities::unknown()));
    let state = Arc::new(Mutex::new(AgentState::default()));
    let driver = Driver {
        agent,
        jwt,
        ports,
        publish,
        state: state.clone(),
        published: 0,
        publish_at: Instant::ZERO,
        given: BTreeSet::new(),
    };
    tokio::spawn(driver.run(stop));
    AgentHandle { identities, state }
}

struct Driver {
    agent: Agent,
    jwt: JwtService,
    ports: Arc<dyn AgentPorts>,
    publish: watch::Sender<Arc<Identities>>,
    state: Arc<Mutex<AgentState>>,
    /// Generation of the last snapshot.
    published: u64,
    /// When the next one may be made.
    publish_at: Instant,
    /// The entries in it, and what they give.
    given: BTreeSet<(EntryId, SpiffeId)>,
}

impl Driver {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut answers = FuturesUnordered::new();
        let mut own_chain = self.ports.own_chain();
        loop {
            let (now, wall) = self.ports.now();
            self.agent.handle_timeout(now, wall, &mut AwsLcKeys);
            while let Some((number, request)) = self.agent.poll_request() {
                match request.encode() {
                    Ok(body) => answers.push(self.ports.ask(body).map(move |outcome| (number, outcome)).boxed()),
                    Err(error) => {
                        let reason = error.to_string();
                        self.agent.handle_answer(number, Err(&reason), now, wall);
                    }
                }
            }
            self.tell().await;
            let (now, wall) = self.ports.now();
            let mut due = self.agent.poll_timeout(now, wall);
            if self.agent.generation() != self.published {
                due = due.min(self.publish_at);
            }
            let wait = due.since(now).min(Duration::from_secs(30));
            tokio::select! {
                Some((number, outcome)) = answers.next(), if !answers.is_empty() => {
                    let (now, wall) = self.ports.now();
                    let outcome: Result<Vec<u8>, String> = outcome;
                    self.agent.handle_answer(number, outcome.as_deref().map_err(String::as_str), now, wall);
                }
                Ok(()) = own_chain.changed() => {
                    let chain = own_chain.borrow_and_update().clone();
                    self.agent.set_own_chain(&chain, self.ports.now().0);
                }
                () = tokio::time::sleep(wait) => {}
                // Nobody tells it to stop any more once whoever could is gone.
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Passes on the news and, if anything has changed, a new snapshot.
    async fn tell(&mut self) {
        while let Some(event) = self.agent.poll_event() {
            match event {
                AgentEvent::OwnBundle(bundle) => {
                    self.jwt.handle_bundle(&bundle);
                    self.ports.offer_bundle(bundle).await;
                }
                AgentEvent::Distrusted(distrusted) => {
                    self.taint_tokens(&distrusted.tainted);
                    self.ports.distrust(distrusted).await;
                }
                AgentEvent::Issued(spiffe_id) => tracing::debug!(%spiffe_id, "a workload's SVID was issued"),
                AgentEvent::Expired(spiffe_id) => tracing::error!(%spiffe_id, "a workload's SVID has run out"),
                AgentEvent::Degraded(reason) => {
                    tracing::warn!(reason, "the authority does not answer this host's agent; what is valid is kept");
                    self.note(|state| state.degraded = Some(reason));
                }
                AgentEvent::Recovered => {
                    tracing::info!("the authority answers this host's agent again");
                    self.note(|state| state.degraded = None);
                }
            }
        }
        let stats = self.agent.stats();
        self.note(|state| state.stats = stats);
        let (now, _) = self.ports.now();
        if self.agent.generation() != self.published && now >= self.publish_at {
            self.make_snapshot();
            let (end, _) = self.ports.now();
            self.publish_at = end + (end.since(now) * SNAPSHOT_PAUSE).min(SNAPSHOT_PAUSE_MAX);
        }
    }

    /// Publishes all that processes may be given.
    fn make_snapshot(&mut self) {
        self.published = self.agent.generation();
        let held: Vec<_> = self.agent.held().map(|held| Held { entry: held.entry, svid: held.svid }).collect();
        let given = held.iter().map(|held| (held.entry.id.clone(), held.entry.spec.spiffe_id.clone())).collect();
        for (gone, _) in std::mem::replace(&mut self.given, given).difference(&self.given) {
            self.jwt.forget_entry(gone);
        }
        let lists: Vec<Arc<[u8]>> = self.agent.crls().iter().map(|list| list.as_slice().into()).collect();
        let crls = Crls::from([(self.agent.node().trust_domain().clone(), lists)]);
        let snapshot = Identities::new(self.published, held, self.agent.bundles().clone(), crls);
        self.publish.send_replace(Arc::new(snapshot));
    }

    /// The same keys under the names that tokens carry.
    fn taint_tokens(&self, tainted: &BTreeSet<KeyId>) {
        let own = self.agent.bundles().get(self.agent.node().trust_domain());
        for (name, key) in own.iter().flat_map(|bundle| bundle.jwt_keys()) {
            if tainted.contains(&KeyId::of(key.to_spki())) {
                self.jwt.taint(name);
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
