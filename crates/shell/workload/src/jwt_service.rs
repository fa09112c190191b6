//! JWT-SVIDs for this node's workloads: the pure cache, and the questions to the authority that it wants asked.
//!
//! A caller is served from the cache while the token is valid, however the authority fares; who has to wait shares one question
//! with everybody else who wants the same token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot, watch};
use x0t_identity::{
    AgentAnswer, AgentRequest, AudienceSet, Bundle, Entry, EntryId, Fetch, FetchFailure, JwtCache, JwtCacheConfig,
    JwtCacheError, JwtCacheKey, JwtCacheStats, JwtSvid, KeyId, Lookup, WaiterId,
};

use crate::agent_service::AgentPorts;
use crate::source::SourceError;

/// Tokens that are fetched at once.
const FETCHES_MAX: usize = 8;

type Outcome = Result<Arc<JwtSvid>, JwtCacheError>;

/// Mints through the authority, behind a cache. Cheap to clone.
#[derive(Clone)]
pub struct JwtService {
    shared: Arc<Shared>,
}

struct Shared {
    desk: Mutex<Desk>,
    ports: Arc<dyn AgentPorts>,
    /// The cache has something to do.
    stirred: Notify,
}

struct Desk {
    cache: JwtCache,
    waiting: BTreeMap<WaiterId, oneshot::Sender<Outcome>>,
}

impl JwtService {
    /// Starts on the runtime of the caller and ends with `stop`.
    pub fn start(ports: Arc<dyn AgentPorts>, stop: watch::Receiver<bool>) -> Self {
        // A member has sixteen tickets at the authority; its X.509-SVIDs must not wait behind tokens.
        let cache = JwtCache::new(JwtCacheConfig { fetches_max: FETCHES_MAX, ..JwtCacheConfig::default() });
        let desk = Mutex::new(Desk { cache, waiting: BTreeMap::new() });
        let service = Self { shared: Arc::new(Shared { desk, ports, stirred: Notify::new() }) };
        tokio::spawn(service.clone().run(stop));
        service
    }

    /// A token of the identity of `entry` for `audience`.
    ///
    /// # Errors
    /// If the authority refuses, or does not answer and there is no valid one.
    pub async fn mint(&self, entry: &Entry, audience: &AudienceSet) -> Result<Arc<JwtSvid>, SourceError> {
        let (spiffe_id, audience) = (entry.spec.spiffe_id.clone(), audience.clone());
        let key = JwtCacheKey { spiffe_id, audience, entry: entry.id.clone() };
        let receiver = {
            let (now, wall) = self.shared.ports.now();
            let mut desk = self.shared.desk();
            match desk.cache.get(&key, now, wall) {
                Lookup::Serve(svid) => {
                    drop(desk);
                    // It may want to be refreshed ahead.
                    self.shared.stirred.notify_one();
                    return Ok(svid);
                }
                Lookup::Refused(error) => return Err(refused(&error)),
                Lookup::Wait(waiter) => {
                    let (sender, receiver) = oneshot::channel();
                    desk.waiting.insert(waiter, sender);
                    receiver
                }
            }
        };
        self.shared.stirred.notify_one();
        match receiver.await {
            Ok(outcome) => outcome.map_err(|error| refused(&error)),
            Err(_) => Err(SourceError::Unavailable("the node is stopping".to_owned())),
        }
    }

    /// The trust domain's bundle has changed: tokens of keys that are gone are worth nothing any more.
    pub fn handle_bundle(&self, bundle: &Bundle) {
        self.shared.desk().cache.handle_bundle(bundle);
    }

    /// The authority has tainted the key of this name: its tokens are to be replaced.
    pub fn taint(&self, key_id: &KeyId) {
        self.shared.desk().cache.taint(key_id);
    }

    /// The entry gives nothing to this node's processes any more, or another identity.
    pub fn forget_entry(&self, entry: &EntryId) {
        self.shared.desk().cache.forget_entry(entry);
    }

    /// What the cache has done.
    pub fn stats(&self) -> JwtCacheStats {
        self.shared.desk().cache.stats()
    }

    async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let deadline = self.advance();
            let (now, _) = self.shared.ports.now();
            let wait = deadline.map_or(std::time::Duration::from_secs(30), |at| at.since(now));
            tokio::select! {
                () = self.shared.stirred.notified() => {}
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Asks what the cache wants asked, answers whom it answers, and says when to come again.
    fn advance(&self) -> Option<x0t_model::Instant> {
        let (now, wall) = self.shared.ports.now();
        let mut desk = self.shared.desk();
        desk.cache.handle_timeout(now, wall);
        while let Some(fetch) = desk.cache.poll_fetch(now) {
            drop(tokio::spawn(self.clone().fetch(fetch)));
        }
        desk.answer();
        desk.cache.poll_timeout()
    }

    async fn fetch(self, fetch: Fetch) {
        let entry = fetch.key.entry.clone();
        let audience = fetch.key.audience.iter().map(|audience| audience.as_str().to_owned()).collect();
        let outcome = match (AgentRequest::MintJwt { entry, audience }).encode() {
            Ok(body) => self.shared.ports.ask(body).await.map_err(FetchFailure::Unavailable),
            Err(_) => Err(FetchFailure::Unusable),
        };
        let (now, wall) = self.shared.ports.now();
        let outcome = outcome.and_then(|body| match AgentAnswer::decode(&body) {
            Ok(AgentAnswer::MintedJwt { token, .. }) => {
                JwtSvid::read(token.expose(), wall).map_err(|_| FetchFailure::Unusable)
            }
            Ok(AgentAnswer::Refused(refused)) => Err(FetchFailure::Refused(refused.text)),
            Ok(AgentAnswer::Sync(_) | AgentAnswer::IssuedX509 { .. }) | Err(_) => Err(FetchFailure::Unusable),
        });
        let mut desk = self.shared.desk();
        desk.cache.handle_fetched(fetch.id, outcome, now, wall);
        desk.answer();
        drop(desk);
        self.shared.stirred.notify_one();
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    fn answer(&mut self) {
        while let Some((waiter, outcome)) = self.cache.poll_answer() {
            if let Some(sender) = self.waiting.remove(&waiter) {
                // Who waited may have gone.
                let _ = sender.send(outcome);
            }
        }
    }
}

fn refused(error: &JwtCacheError) -> SourceError {
    let text = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        JwtCacheError::Fetch(FetchFailure::Refused(_)) => SourceError::Denied(text),
        JwtCacheError::Fetch(FetchFailure::Unavailable(_) | FetchFailure::Unusable)
        | JwtCacheError::OtherIdentity(_)
        | JwtCacheError::TimedOut
        | JwtCacheError::Forgotten
        | JwtCacheError::Busy => SourceError::Unavailable(text),
    }
}
