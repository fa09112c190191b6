//! How other tasks talk to the event loop: a question goes in, an answer comes out, and the node itself is touched by nobody else.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use x0t_identity::{AuthorityAnswer, Bundle, Distrusted, Svid, Ticket};
use x0t_model::{Instant, SpiffeId, UnixTime};
use x0t_node::{CertificateDer, Command, NodeEvent, Reply, View, What, WorkloadApiNews};

use crate::clock::Clock;
use crate::event_loop::LoopStats;
use crate::news::{News, Subscription};

/// Questions that may wait for the event loop. More have to wait for their turn outside.
const WAITING_MAX: usize = 64;
/// An event loop that has not shown its state for this long is stuck.
const VIEW_DEADLINE: Duration = Duration::from_secs(2);

/// A question to the event loop.
#[derive(Debug)]
pub(crate) enum Request {
    /// Show everything.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Do something.
    Command(Command, oneshot::Sender<Reply>),
    /// The authority beside the node has answered.
    AuthorityAnswer(Ticket, AuthorityAnswer),
    /// The authority beside the node has admitted somebody.
    Joined(SpiffeId),
    /// The agent asks the authority.
    AskAuthority(Vec<u8>, oneshot::Sender<Result<Vec<u8>, String>>),
    /// The trust domain's bundle has changed.
    Bundle(Bundle),
    /// Which of its signatures the authority does not stand by any more.
    Distrusted(Distrusted),
    /// The node has come back after the end of its SVID.
    Recovered(Box<(Svid, Bundle)>),
    /// The Workload API that gives the node its identity has something to say.
    WorkloadApi(WorkloadApiNews),
}

/// What the event loop keeps of the way between it and its handles.
pub(crate) struct Desk {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) news: News,
    /// The chain that the node shows, once it is another than at the start.
    pub(crate) own_chain: watch::Sender<Vec<CertificateDer<'static>>>,
}

/// A node's state at one moment, with what the event loop has counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Monotonic time of the moment.
    pub at: Instant,
    /// Wall-clock time of the moment.
    pub wall: UnixTime,
    /// The node.
    pub view: View,
    /// The event loop and its sockets.
    pub runtime: LoopStats,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The event loop has ended.
    #[error("the node has stopped")]
    Stopped,
    /// The event loop is stuck.
    #[error("the node did not answer within {0:?}")]
    Stuck(Duration),
}

/// Talks to a running event loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    requests: mpsc::Sender<Request>,
    news: News,
    own_chain: watch::Receiver<Vec<CertificateDer<'static>>>,
}

impl NodeHandle {
    /// A handle, and the end that the event loop keeps.
    pub(crate) fn new() -> (Self, Desk) {
        let (sender, requests) = mpsc::channel(WAITING_MAX);
        let (own_chain, shown) = watch::channel(Vec::new());
        let news = News::default();
        let handle = Self { requests: sender, news: news.clone(), own_chain: shown };
        (handle, Desk { requests, news, own_chain })
    }

    /// The node's state.
    ///
    /// # Errors
    /// If the node has stopped or its event loop is stuck.
    pub async fn snapshot(&self) -> Result<Snapshot, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let answer = async {
            self.requests.send(Request::Snapshot(sender)).await.map_err(|_| NoAnswer::Stopped)?;
            receiver.await.map_err(|_| NoAnswer::Stopped)
        };
        tokio::time::timeout(VIEW_DEADLINE, answer).await.map_err(|_| NoAnswer::Stuck(VIEW_DEADLINE))?
    }

    /// Asks the node to do something and waits until it has an answer, which for some commands takes as long as they say.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn command(&self, command: Command) -> Result<Reply, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Command(command, sender)).await.map_err(|_| NoAnswer::Stopped)?;
        receiver.await.map_err(|_| NoAnswer::Stopped)
    }

    /// Hands the node what the authority beside it says.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn authority_answered(&self, ticket: Ticket, answer: AuthorityAnswer) -> Result<(), NoAnswer> {
        self.requests.send(Request::AuthorityAnswer(ticket, answer)).await.map_err(|_| NoAnswer::Stopped)
    }

    /// Tells the node whom the authority beside it has admitted.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn joined(&self, node: SpiffeId) -> Result<(), NoAnswer> {
        self.requests.send(Request::Joined(node)).await.map_err(|_| NoAnswer::Stopped)
    }

    /// Asks the authority, wherever it is, for this host's agent: an encoded [`x0t_identity::AgentRequest`], and the answer to it.
    ///
    /// # Errors
    /// With the reason why there is none.
    pub async fn ask_authority(&self, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let (sender, receiver) = oneshot::channel();
        let stopped = || NoAnswer::Stopped.to_string();
        self.requests.send(Request::AskAuthority(body, sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?
    }

    /// Gives the node a newer bundle of its trust domain.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn offer_bundle(&self, bundle: Bundle) -> Result<(), NoAnswer> {
        self.requests.send(Request::Bundle(bundle)).await.map_err(|_| NoAnswer::Stopped)
    }

    /// Tells the node which signatures of its authority are not to be relied on: all that there are.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn distrust(&self, distrusted: Distrusted) -> Result<(), NoAnswer> {
        self.requests.send(Request::Distrusted(distrusted)).await.map_err(|_| NoAnswer::Stopped)
    }

    /// Gives the node its next SVID, with the bundle that came along: the one before has ended, and it has asked as a joiner asks.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn recovered(&self, svid: Svid, bundle: Bundle) -> Result<(), NoAnswer> {
        self.requests.send(Request::Recovered(Box::new((svid, bundle)))).await.map_err(|_| NoAnswer::Stopped)
    }

    /// The chain that the node shows, leaf first; empty as long as it is the one of the start.
    pub fn own_chain(&self) -> watch::Receiver<Vec<CertificateDer<'static>>> {
        self.own_chain.clone()
    }

    /// Tells the node what the Workload API says that gives it its identity.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn workload_api(&self, news: WorkloadApiNews) -> Result<(), NoAnswer> {
        self.requests.send(Request::WorkloadApi(news)).await.map_err(|_| NoAnswer::Stopped)
    }

    /// Tells whoever reads the node's news what has happened beside it.
    pub fn tell(&self, what: What) {
        self.news.publish(NodeEvent { at: Clock.now(), what });
    }

    /// Reads the news from the next event on.
    pub fn subscribe(&self) -> Subscription {
        self.news.subscribe()
    }
}
