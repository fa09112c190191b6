//! Keeps the bundles of foreign trust domains fresh, beside the authority that decides about them.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use x0t_identity::federation::{
    FederationSnapshot, Fetch, FetchError, FetchId, Fetched, ForeignBundle, Refresher, RelationshipStatus,
    UnknownRelationship,
};
use x0t_identity::{Bundle, FederationAnswer, FederationRequest, OperatorAnswer, OperatorRequest};
use x0t_model::{Entropy, Instant, TrustDomain, UnixTime, in_one_line};

use super::fetch::{FetchConfig, fetch};
use crate::authority_service::AuthorityHandle;

/// Questions that may wait.
const WAITING_MAX: usize = 64;
/// Who waits for a refresh at once.
const REFRESHING_MAX: usize = 256;

/// Monotonic and wall-clock time.
pub type Clock = Arc<dyn Fn() -> (Instant, UnixTime) + Send + Sync>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    /// Nothing is fetched from there.
    #[error(transparent)]
    Unknown(#[from] UnknownRelationship),
    /// The service has ended.
    #[error("the node has stopped")]
    Stopped,
    /// Too many wait.
    #[error("too many wait for a refresh already")]
    Busy,
}

type Refreshed = Result<RelationshipStatus, FederationError>;

enum Question {
    Statuses(oneshot::Sender<Vec<RelationshipStatus>>),
    Refresh(TrustDomain, oneshot::Sender<Refreshed>),
}

/// Talks to the running service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FederationHandle(mpsc::Sender<Question>);

impl FederationHandle {
    /// How every relationship fares.
    ///
    /// # Errors
    /// If the service has ended.
    pub async fn statuses(&self) -> Result<Vec<RelationshipStatus>, FederationError> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Statuses(sender)).await.map_err(|_| FederationError::Stopped)?;
        receiver.await.map_err(|_| FederationError::Stopped)
    }

    /// Fetches the bundle of `trust_domain` now, and says how that went.
    ///
    /// # Errors
    /// If there is no such relationship, or no answer.
    pub async fn refresh(&self, trust_domain: TrustDomain) -> Refreshed {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Refresh(trust_domain, sender)).await.map_err(|_| FederationError::Stopped)?;
        receiver.await.map_err(|_| FederationError::Stopped)?
    }
}

/// Starts the service on the runtime of the caller. It ends with `stop`. `snapshots` is what the authority publishes.
pub fn start(
    authority: AuthorityHandle,
    snapshots: watch::Receiver<Arc<FederationSnapshot>>,
    config: FetchConfig,
    clock: Clock,
    entropy: Entropy,
    stop: watch::Receiver<bool>,
) -> FederationHandle {
    let (sender, questions) = mpsc::channel(WAITING_MAX);
    let service =
        Service { authority, snapshots, config, clock, refresher: Refresher::new(entropy), refreshing: Vec::new() };
    tokio::spawn(service.run(questions, stop));
    FederationHandle(sender)
}

struct Service {
    authority: AuthorityHandle,
    snapshots: watch::Receiver<Arc<FederationSnapshot>>,
    config: FetchConfig,
    clock: Clock,
    refresher: Refresher,
    /// Who waits for an attempt to end, and for which.
    refreshing: Vec<(TrustDomain, u64, oneshot::Sender<Refreshed>)>,
}

type Outcome = (FetchId, Result<Fetched, FetchError>);

impl Service {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>, mut stop: watch::Receiver<bool>) {
        let mut fetches: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        self.take_snapshot();
        let mut can_ask = true;
        loop {
            let (now, _) = (self.clock)();
            self.refresher.handle_timeout(now);
            while let Some(fetch) = self.refresher.poll_fetch() {
                fetches.push(self.fetch(fetch));
            }
            self.answer_refreshing();
            let (now, _) = (self.clock)();
            let wait = self.refresher.poll_timeout().since(now).min(std::time::Duration::from_secs(30));
            tokio::select! {
                Some((id, outcome)) = fetches.next(), if !fetches.is_empty() => {
                    let (now, wall) = (self.clock)();
                    self.refresher.handle_outcome(id, outcome, now, wall);
                }
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_snapshot();
                }
                question = questions.recv(), if can_ask => match question {
                    Some(question) => self.answer(question),
                    // Nobody can ask any more; bundles are kept fresh all the same.
                    None => can_ask = false,
                },
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn take_snapshot(&mut self) {
        let (now, _) = (self.clock)();
        let snapshot = self.snapshots.borrow_and_update().clone();
        let relationships = snapshot.relationships.iter().map(|relationship| {
            let held = snapshot.bundles.get(&relationship.trust_domain);
            (relationship.clone(), held.map(|bundle| bundle.refresh_hint()))
        });
        self.refresher.set_relationships(relationships, now);
    }

    fn answer(&mut self, question: Question) {
        let (now, wall) = (self.clock)();
        match question {
            Question::Statuses(asker) => {
                // Whoever asked may have gone; here and below.
                let _ = asker.send(self.refresher.statuses(now, wall).collect());
            }
            Question::Refresh(_, asker) if self.refreshing.len() >= REFRESHING_MAX => {
                let _ = asker.send(Err(FederationError::Busy));
            }
            Question::Refresh(trust_domain, asker) => {
                // What the authority has just been told may be on its way here.
                if self.snapshots.has_changed().unwrap_or(false) {
                    self.take_snapshot();
                }
                match self.refresher.refresh_now(&trust_domain, now) {
                    Ok(ends) => self.refreshing.push((trust_domain, ends, asker)),
                    Err(error) => {
                        let _ = asker.send(Err(error.into()));
                    }
                }
            }
        }
    }

    /// Tells those whose attempt has ended.
    fn answer_refreshing(&mut self) {
        let (now, wall) = (self.clock)();
        for (trust_domain, ends, asker) in std::mem::take(&mut self.refreshing) {
            match self.refresher.ended(&trust_domain) {
                Some(ended) if ended <= ends => self.refreshing.push((trust_domain, ends, asker)),
                Some(_) | None => {
                    let mut statuses = self.refresher.statuses(now, wall);
                    let status = statuses.find(|status| status.relationship.trust_domain == trust_domain);
                    let _ = asker.send(status.ok_or(FederationError::Unknown(UnknownRelationship(trust_domain))));
                }
            }
        }
    }

    /// Fetches, and has the authority judge what came.
    fn fetch(&self, order: Fetch) -> BoxFuture<'static, Outcome> {
        let (authority, config) = (self.authority.clone(), self.config.clone());
        let (snapshot, (_, now)) = (self.snapshots.borrow().clone(), (self.clock)());
        async move {
            let trust_domain = order.relationship.trust_domain.clone();
            let outcome = take_bundle(&authority, &order, &snapshot, &config, now).await;
            match &outcome {
                Ok(fetched) if fetched.is_new => {
                    tracing::info!(%trust_domain, sequence = fetched.sequence, "a newer bundle of a foreign trust domain is in force");
                }
                Ok(_) => tracing::debug!(%trust_domain, "the bundle of a foreign trust domain has not changed"),
                Err(error) if matches!(error.code.as_str(), "bundle_rolled_back" | "bundle_forked") => {
                    tracing::error!(%trust_domain, code = error.code, error = error.text, "the bundle endpoint of a foreign trust domain contradicts itself; the bundle in force stays");
                }
                Err(error) => {
                    tracing::warn!(%trust_domain, code = error.code, error = error.text, "the bundle of a foreign trust domain cannot be fetched; the one in force stays");
                }
            }
            (order.id, outcome)
        }
        .boxed()
    }
}

async fn take_bundle(
    authority: &AuthorityHandle,
    order: &Fetch,
    snapshot: &FederationSnapshot,
    config: &FetchConfig,
    now: UnixTime,
) -> Result<Fetched, FetchError> {
    let relationship = order.relationship.clone();
    let document = fetch(&relationship, &snapshot.bundles, config, now).await;
    let document = document.map_err(|failure| failed(failure.code(), &failure))?;
    let bundle = Bundle::from_json(relationship.trust_domain.clone(), &document);
    let bundle = bundle.map_err(|error| failed("bad_document", &error))?;
    let (sequence, refresh_hint) = (bundle.sequence(), bundle.refresh_hint());
    let request = FederationRequest::TakeFetched { relationship, bundle: ForeignBundle::new(bundle) };
    match authority.operator(OperatorRequest::Federation(request)).await {
        Ok(OperatorAnswer::Federation(FederationAnswer::BundleSet { changed, .. })) => {
            Ok(Fetched { sequence, refresh_hint, is_new: changed })
        }
        Ok(OperatorAnswer::Refused(refused)) => Err(FetchError { code: refused.code, text: refused.text }),
        Ok(_) => Err(FetchError { code: "internal".to_owned(), text: "the authority said something else".to_owned() }),
        Err(error) => Err(failed("authority_unavailable", &error)),
    }
}

fn failed(code: &str, error: &dyn std::error::Error) -> FetchError {
    FetchError { code: code.to_owned(), text: in_one_line(error) }
}
