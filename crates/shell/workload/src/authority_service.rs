//! An authority at work on this host: a thread of its own, so that signatures and fsync hold up nobody.
//!
//! Requests wait in a bounded queue. While the store cannot be written nothing is answered that relies on it and nothing further is
//! taken in: an authority that cannot remember what it promised must not promise more. It says so, and tries again.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use x0t_identity::ca_life::{AuthorityKind, Slot};
use x0t_identity::federation::FederationSnapshot;
use x0t_identity::{
    AuthorityAnswer, AuthorityRequest, AuthorityServer, AuthorityStats, OperatorAnswer, OperatorRequest, ServerOutput,
    Ticket,
};
use x0t_model::{Instant, SpiffeId, UnixTime};

use crate::authority_store::AuthorityStore;

/// Requests that may wait. More are refused.
const WAITING_MAX: usize = 1024;
/// A store that fails for a moment is tried again soon, and one that goes on failing every few seconds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often the authority's own keys are looked after. Each step has hours.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);
/// Tickets of operators are counted from here; those of the node never get there.
const OPERATOR_TICKETS: Ticket = 1 << 63;

/// Where the service gets its time and leaves what it says.
pub trait AuthorityPorts: Send + 'static {
    /// Monotonic and wall-clock time.
    fn now(&self) -> (Instant, UnixTime);

    /// The answer to a request that came by [`AuthorityHandle::request`].
    fn answer(&mut self, ticket: Ticket, answer: AuthorityAnswer);

    /// A node has joined.
    fn joined(&mut self, node: SpiffeId);

    /// What is to be fetched of foreign trust domains, and whom to check it against, from now on. Said at the start and after
    /// each change, once that is durable.
    fn federations(&mut self, snapshot: FederationSnapshot) {
        drop(snapshot);
    }
}

enum Job {
    Request(Ticket, AuthorityRequest),
    Operator(OperatorRequest, oneshot::Sender<OperatorAnswer>),
}

/// Why there is no answer to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityUnavailable {
    /// [`WAITING_MAX`] requests wait: more come than can be answered, or the store fails.
    #[error("the authority has too much to do, or cannot write its state: see the log of this host")]
    Busy,
    /// The service has ended.
    #[error("the authority has stopped")]
    Stopped,
}

/// How an authority fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthorityState {
    /// What it has done.
    pub stats: AuthorityStats,
    /// Registration entries.
    pub entries: usize,
    /// Nodes that have a name.
    pub nodes: usize,
    /// Agents that wait for news.
    pub waiting: usize,
    /// Number of the bundle in force.
    pub bundle: u64,
    /// The last second of what signs X.509-SVIDs, and of what signs JWT-SVIDs.
    pub signs_until: (Option<UnixTime>, Option<UnixTime>),
    /// Writes of its state that failed.
    pub writes_failed: u64,
    /// Whether it answers nobody, because its state cannot be written.
    pub is_held: bool,
}

/// Talks to a running service. Cheap to clone; the service ends with the last one.
#[derive(Clone)]
pub struct AuthorityHandle {
    jobs: SyncSender<Job>,
    state: Arc<Mutex<AuthorityState>>,
}

impl fmt::Debug for AuthorityHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityHandle")
    }
}

impl AuthorityHandle {
    /// Hands over a request of the node. If it cannot wait, it is answered with no: by the answer that comes back.
    ///
    /// # Errors
    /// With what to answer.
    pub fn request(&self, ticket: Ticket, request: AuthorityRequest) -> Result<(), Box<AuthorityAnswer>> {
        let (reason, job) = match self.jobs.try_send(Job::Request(ticket, request)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job)) => (AuthorityUnavailable::Busy, job),
            Err(TrySendError::Disconnected(job)) => (AuthorityUnavailable::Stopped, job),
        };
        match job {
            Job::Request(_, request) => Err(Box::new(request.refuse("busy", &reason.to_string()))),
            // It gives back what it was given.
            Job::Operator(..) => Ok(()),
        }
    }

    /// How it fares.
    pub fn state(&self) -> AuthorityState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the operator of this host.
    ///
    /// # Errors
    /// If the service has too much to do or has ended.
    pub async fn operator(&self, request: OperatorRequest) -> Result<OperatorAnswer, AuthorityUnavailable> {
        let (sender, receiver) = oneshot::channel();
        self.jobs.try_send(Job::Operator(request, sender)).map_err(|error| match error {
            TrySendError::Full(_) => AuthorityUnavailable::Busy,
            TrySendError::Disconnected(_) => AuthorityUnavailable::Stopped,
        })?;
        receiver.await.map_err(|_| AuthorityUnavailable::Stopped)
    }
}

/// Starts the service.
///
/// # Errors
/// If the kernel gives no thread.
pub fn start(
    server: AuthorityServer,
    store: Box<dyn AuthorityStore>,
    ports: impl AuthorityPorts,
) -> std::io::Result<AuthorityHandle> {
    let (sender, jobs) = sync_channel(WAITING_MAX);
    let state = Arc::<Mutex<AuthorityState>>::default();
    let service = Service {
        server,
        state: state.clone(),
        store,
        ports,
        operators: std::collections::BTreeMap::new(),
        next: OPERATOR_TICKETS,
        maintain_at: Instant::ZERO,
        published: None,
    };
    thread::Builder::new().name("x0t-authority".to_owned()).spawn(move || service.run(&jobs))?;
    Ok(AuthorityHandle { jobs: sender, state })
}

struct Service<P> {
    server: AuthorityServer,
    state: Arc<Mutex<AuthorityState>>,
    store: Box<dyn AuthorityStore>,
    ports: P,
    operators: std::collections::BTreeMap<Ticket, oneshot::Sender<OperatorAnswer>>,
    next: Ticket,
    /// When to look after the authority's own keys.
    maintain_at: Instant,
    /// Revision of the federations and number of the own bundle that were last told.
    published: Option<(u64, u64)>,
}

impl<P: AuthorityPorts> Service<P> {
    fn run(mut self, jobs: &Receiver<Job>) {
        self.publish_federations();
        loop {
            let (now, _) = self.ports.now();
            let due = self.maintain_at.min(self.server.poll_timeout().unwrap_or(Instant::FAR_FUTURE));
            let job = jobs.recv_timeout(due.since(now));
            let (now, wall) = self.ports.now();
            self.maintain(now, wall);
            // Before anything else changes the state: a change of authorities is made durable with the whole of it.
            self.perform();
            match job {
                Ok(Job::Request(ticket, request)) => self.server.handle_request(ticket, request, now, wall),
                Ok(Job::Operator(request, asker)) => {
                    self.next += 1;
                    self.operators.insert(self.next, asker);
                    self.server.handle_request(self.next, AuthorityRequest::Operator(request), now, wall);
                }
                Err(RecvTimeoutError::Timeout) => self.server.handle_timeout(now),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.perform();
        }
    }

    /// Lets others see how it fares.
    fn show(&self) {
        let authority = self.server.authority();
        let signs_until = |kind| authority.life().active(kind).map(Slot::not_after);
        self.note(|state| {
            *state = AuthorityState {
                stats: self.server.stats(),
                entries: authority.entries_len(),
                nodes: authority.names().count(),
                waiting: self.server.waiting(),
                bundle: authority.bundle().sequence(),
                signs_until: (signs_until(AuthorityKind::X509), signs_until(AuthorityKind::Jwt)),
                ..*state
            };
        });
    }

    fn note(&self, change: impl FnOnce(&mut AuthorityState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Prepares, activates and prunes the authority's own keys as it is due.
    fn maintain(&mut self, now: Instant, wall: UnixTime) {
        if now < self.maintain_at {
            return;
        }
        self.maintain_at = now + MAINTAIN_EVERY;
        match self.server.maintain(now, wall) {
            Ok(transitions) => {
                for transition in transitions {
                    let (kind, key_id, state) = (transition.kind, transition.key_id, transition.state);
                    tracing::info!(%kind, %key_id, state, "an authority of the trust domain has changed");
                }
            }
            Err(error) => tracing::error!(%error, "the trust domain's authorities cannot be maintained"),
        }
    }

    fn perform(&mut self) {
        self.show();
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::Commit(commands) => {
                    self.commit(&commands);
                    // Before the answer: whoever hears it may ask for what has just become true.
                    self.publish_federations();
                }
                ServerOutput::Joined(node) => self.ports.joined(node),
                ServerOutput::Answer(ticket, AuthorityAnswer::Operator(answer)) if ticket > OPERATOR_TICKETS => {
                    if let Some(asker) = self.operators.remove(&ticket) {
                        // Who asked may have gone.
                        let _ = asker.send(answer);
                    }
                }
                ServerOutput::Answer(ticket, answer) => self.ports.answer(ticket, answer),
            }
        }
    }

    fn publish_federations(&mut self) {
        let authority = self.server.authority();
        let current = Some((authority.federations().revision(), authority.bundle().sequence()));
        if self.published != current {
            self.published = current;
            self.ports.federations(authority.federations().snapshot(authority.bundle()));
        }
    }

    /// Returns once the commands are durable, however long that takes.
    fn commit(&mut self, commands: &[x0t_identity::AuthorityCommand]) {
        let mut pause = RETRY_FIRST;
        while let Err(error) = self.store.commit(commands, self.server.authority()) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, retry_in = ?pause, "the authority's state cannot be written; it answers nobody until it can");
            self.note(|state| {
                state.writes_failed += 1;
                state.is_held = true;
            });
            thread::park_timeout(pause);
            pause = (pause * 2).min(RETRY_MAX);
        }
        self.note(|state| state.is_held = false);
    }
}
