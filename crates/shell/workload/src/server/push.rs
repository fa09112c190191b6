//! A stream that sleeps until there is something new.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::answers::{Entitlement, Profile};
use super::limits::Call;
use super::{Caller, Shared, Ticket, stopped};
use crate::identities::Identities;

/// What each open stream adds to the time over which pushes are spread.
const SPLAY_PER_STREAM: Duration = Duration::from_micros(20);

/// Waits for a change, and then until it is this stream's turn.
pub(crate) struct Turns {
    shared: Arc<Shared>,
    updates: watch::Receiver<Arc<Identities>>,
    stop: watch::Receiver<bool>,
    last: Option<Instant>,
    is_due: bool,
}

impl Turns {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let (updates, stop) = (shared.source.identities(), shared.stop.clone());
        Self { shared: Arc::clone(shared), updates, stop, last: None, is_due: false }
    }

    /// The newest snapshot, which counts as seen.
    pub(crate) fn newest(&mut self) -> Arc<Identities> {
        self.is_due = false;
        self.updates.borrow_and_update().clone()
    }

    /// Ends when there is a snapshot that was not seen and the time has come to look at it. May be dropped and called again.
    pub(crate) async fn next(&mut self, ticket: &Ticket) -> Result<(), Status> {
        tokio::select! {
            changed = self.updates.changed(), if !self.is_due => changed.map_err(|_| Status::unavailable("the source of identities has ended"))?,
            () = stopped(&mut self.stop) => return Err(Status::unavailable("the Workload API is shutting down")),
            () = std::future::ready(()), if self.is_due => {}
        }
        self.is_due = true;
        tokio::time::sleep(self.pause(ticket)).await;
        self.last = Some(Instant::now());
        Ok(())
    }

    /// Bursts become one push, one stream is not pushed to too often, and not all streams at once.
    fn pause(&self, ticket: &Ticket) -> Duration {
        let config = &self.shared.config;
        let streams = u32::try_from(ticket.streams_open()).unwrap_or(u32::MAX);
        let splay = SPLAY_PER_STREAM.saturating_mul(streams - 1).min(config.splay_max);
        let rest = self.last.map_or(Duration::ZERO, |last| config.push_interval_min.saturating_sub(last.elapsed()));
        config.coalesce.max(rest) + splay.mul_f64(place(ticket.id()))
    }
}

/// Where in `0.0..1.0` stream number `id` stands. Multiples of the golden ratio spread evenly, however many there are.
fn place(id: u64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    // Beyond 2^32 streams the place would lose its digits.
    (f64::from(u32::try_from(id % (1 << 32)).unwrap_or(0)) * GOLDEN).fract()
}

impl Shared {
    /// What `caller` is entitled to at this moment. The first time it is looked at in any case, later once for each snapshot.
    pub(crate) async fn entitlement(
        &self,
        caller: &Caller,
        newest: &Arc<Identities>,
        is_first: bool,
    ) -> Result<Arc<Entitlement>, Status> {
        let answers = self.answers(newest);
        let identities = answers.identities();
        let selectors = if is_first {
            caller.attest(&self.attestor, identities).await?
        } else {
            caller.attest_for_push(&self.attestor, identities).await?
        };
        Ok(answers.entitlement(&selectors, self.source.now())?)
    }
}

struct Push {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    profile: Profile,
    turns: Turns,
    ticket: Arc<Ticket>,
    last: Bytes,
}

/// The body of a streaming answer: the first message at once, then one for each change, until the caller may no longer have any.
/// An error before the first message is the answer itself.
pub(crate) async fn open(
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    call: Call,
    profile: Profile,
) -> Result<Body, Status> {
    let ticket = Arc::new(call.into_stream()?);
    let mut turns = Turns::new(&shared);
    let newest = turns.newest();
    let first = message(&shared, &caller, &newest, profile, true).await?;
    let push = Push { shared, caller, profile, turns, ticket: Arc::clone(&ticket), last: first.clone() };
    let later = futures_util::stream::unfold(Some(push), |push| async {
        let mut push = push?;
        match push.next().await {
            Ok(message) => Some((Ok(message), Some(push))),
            Err(status) => Some((Err(status), None)),
        }
    });
    Ok(Body::new(Messages { first: Some(first), later: Box::pin(later), ticket }))
}

async fn message(
    shared: &Shared,
    caller: &Caller,
    newest: &Arc<Identities>,
    profile: Profile,
    is_first: bool,
) -> Result<Bytes, Status> {
    let entitlement = shared.entitlement(caller, newest, is_first).await?;
    Ok(entitlement.message(profile, || shared.limits.count(|stats| &stats.messages_encoded))?)
}

impl Push {
    /// The next message that differs from the last.
    async fn next(&mut self) -> Result<Bytes, Status> {
        loop {
            self.turns.next(&self.ticket).await?;
            let newest = self.turns.newest();
            // Boxed, for it is large and rarely alive.
            let message = Box::pin(message(&self.shared, &self.caller, &newest, self.profile, false)).await?;
            if message == self.last {
                self.shared.limits.count(|stats| &stats.pushes_unchanged);
                continue;
            }
            self.shared.limits.count(|stats| &stats.pushes);
            self.last = message.clone();
            return Ok(message);
        }
    }
}

struct Messages {
    first: Option<Bytes>,
    later: Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>,
    ticket: Arc<Ticket>,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ticket.taken();
        if let Some(first) = self.first.take() {
            self.ticket.sent();
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.later.as_mut().poll_next(cx).map(|message| Some(self.frame(message?)))
    }
}

impl Messages {
    fn frame(&self, message: Result<Bytes, Status>) -> Result<Frame<Bytes>, Status> {
        match message {
            Ok(message) => {
                self.ticket.sent();
                Ok(Frame::data(message))
            }
            Err(status) => {
                self.ticket.limits().count(|stats| &stats.calls_refused);
                let mut trailers = http::HeaderMap::new();
                status.add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }
        }
    }
}
