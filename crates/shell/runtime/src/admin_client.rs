//! Talking to the node that runs on this host, over its admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use x0t_netstack::forwarding::{ExposureView, ForwardView};
use x0t_netstack::spec::{Exposure, Forward, Listen, MeshPort};
use x0t_node::{Command, NodeEvent, PeerView, Reply, RouteView, SessionView, StatusView, View};

use crate::state_dir::StateDir;
use crate::topology::Topology;

/// Reading the state takes milliseconds; a node that needs this long is stuck.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Commands have deadlines of their own; this is beyond all of them.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// No answer comes near this.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// One event's text.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Asks the node whose state directory it was given. Cheap: every question opens its own connection.
#[derive(Clone, Debug)]
pub struct AdminClient {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Nobody listens.
    #[error("no node is running here ({} does not answer); start it with `x0t run`, or name its directory with --state-dir", path.display())]
    DaemonUnreachable {
        /// The admin socket.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The node runs as another user.
    #[error("not allowed to use {}; run this as the user that runs the node, or as root", path.display())]
    Denied {
        /// The admin socket.
        path: PathBuf,
    },
    /// The node is stuck.
    #[error("the node did not answer within {0:?}")]
    TimedOut(Duration),
    /// The node says that it cannot answer.
    #[error("the node answered {status}: {text}")]
    Failed {
        /// HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The connection broke, or the answer makes no sense to this version.
    #[error("the answer of the node cannot be understood")]
    Protocol(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl AdminClient {
    /// For the node that runs from `state`.
    pub fn new(state: impl AsRef<Path>) -> Self {
        Self { socket: StateDir::admin_socket(state) }
    }

    /// For the node that listens on `socket`.
    pub fn at_socket(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The node itself.
    ///
    /// # Errors
    /// See [`AdminError`]; the same holds for all that follow.
    pub async fn status(&self) -> Result<StatusView, AdminError> {
        self.read("/api/v1/status").await
    }

    /// Its neighbours.
    pub async fn peers(&self) -> Result<Vec<PeerView>, AdminError> {
        self.read("/api/v1/peers").await
    }

    /// Every destination it knows.
    pub async fn routes(&self) -> Result<Vec<RouteView>, AdminError> {
        self.read("/api/v1/routes").await
    }

    /// Its sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionView>, AdminError> {
        self.read("/api/v1/sessions").await
    }

    /// Everything at one moment.
    pub async fn view(&self) -> Result<View, AdminError> {
        self.read("/api/v1/view").await
    }

    /// The mesh as it sees it.
    pub async fn topology(&self) -> Result<Topology, AdminError> {
        self.read("/api/v1/topology").await
    }

    /// Its metrics, in the text format of OpenMetrics.
    pub async fn metrics(&self) -> Result<String, AdminError> {
        let bytes = within(READ_DEADLINE, self.exchange(self.request(Method::GET, "/metrics", None)?)).await?;
        String::from_utf8(bytes.into()).map_err(protocol)
    }

    /// Asks it to do something and waits for the outcome.
    pub async fn command(&self, command: Command) -> Result<Reply, AdminError> {
        let body = serde_json::to_vec(&command).map_err(protocol)?;
        let request = self.request(Method::POST, "/api/v1/command", Some(body))?;
        let bytes = within(COMMAND_DEADLINE, self.exchange(request)).await?;
        serde_json::from_slice(&bytes).map_err(protocol)
    }

    /// Asks one of those who stand beside the node.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T, AdminError> {
        let body = serde_json::to_vec(question).map_err(protocol)?;
        let request = self.request(Method::POST, path, Some(body))?;
        let bytes = within(COMMAND_DEADLINE, self.exchange(request)).await?;
        serde_json::from_slice(&bytes).map_err(protocol)
    }

    /// What one of those who stand beside the node shows.
    pub async fn look<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.read(path).await
    }

    /// What it forwards.
    pub async fn forwards(&self) -> Result<Vec<ForwardView>, AdminError> {
        self.read("/api/v1/forwards").await
    }

    /// Has it forward for as long as the answer is held.
    pub async fn forward(&self, forward: &Forward) -> Result<ForwardLease, AdminError> {
        let body = serde_json::to_vec(forward).map_err(protocol)?;
        let request = self.request(Method::POST, "/api/v1/forwards", Some(body))?;
        let response = within(READ_DEADLINE, self.send(request)).await?;
        let mut lease = ForwardLease { body: response.into_body(), text: Vec::new(), listen: forward.listen.clone() };
        match within(READ_DEADLINE, async { lease.next_line().await.transpose() }).await? {
            Some(ForwardLine::Listen(listen)) => lease.listen = listen,
            _ => return Err(protocol("the forward does not say where it is reached")),
        }
        Ok(lease)
    }

    /// Has it forward until told otherwise.
    pub async fn keep_forward(&self, forward: &Forward) -> Result<(), AdminError> {
        self.change(Method::PUT, "/api/v1/forwards", forward).await
    }

    /// Has it end a kept forward.
    pub async fn drop_forward(&self, forward: &Forward) -> Result<(), AdminError> {
        self.change(Method::DELETE, "/api/v1/forwards", forward).await
    }

    /// What it exposes.
    pub async fn exposures(&self) -> Result<Vec<ExposureView>, AdminError> {
        self.read("/api/v1/exposures").await
    }

    /// Has it let nodes reach a port of this host.
    pub async fn expose(&self, exposure: &Exposure) -> Result<(), AdminError> {
        self.change(Method::PUT, "/api/v1/exposures", exposure).await
    }

    /// Has it let them no more.
    pub async fn conceal(&self, port: MeshPort) -> Result<(), AdminError> {
        self.change(Method::DELETE, "/api/v1/exposures", &port).await
    }

    async fn change(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), AdminError> {
        let body = serde_json::to_vec(body).map_err(protocol)?;
        let request = self.request(method, path, Some(body))?;
        within(READ_DEADLINE, self.exchange(request)).await.map(drop)
    }

    /// Its news from this moment on.
    pub async fn events(&self) -> Result<Events, AdminError> {
        let request = self.request(Method::GET, "/api/v1/events", None)?;
        let response = within(READ_DEADLINE, self.send(request)).await?;
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let bytes = within(READ_DEADLINE, self.exchange(self.request(Method::GET, path, None)?)).await?;
        serde_json::from_slice(&bytes).map_err(protocol)
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, AdminError> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.unwrap_or_default()))
            .map_err(protocol)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, AdminError> {
        let response = self.send(request).await?;
        Ok(Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(AdminError::Protocol)?
            .to_bytes())
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, AdminError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => AdminError::Denied { path: self.socket.clone() },
            _ => AdminError::DaemonUnreachable { path: self.socket.clone(), source },
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
        // Ends by itself once the answer has been read or dropped.
        tokio::spawn(connection);
        // A connection that breaks before an answer is a daemon that ends.
        let ended = |error: hyper::Error| AdminError::DaemonUnreachable {
            path: self.socket.clone(),
            source: io::Error::new(io::ErrorKind::ConnectionReset, error),
        };
        let response = sender.send_request(request).await.map_err(ended)?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::FORBIDDEN => Err(AdminError::Denied { path: self.socket.clone() }),
            status => {
                let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                    .collect()
                    .await
                    .map_err(AdminError::Protocol)?;
                let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
                Err(AdminError::Failed { status: status.as_u16(), text })
            }
        }
    }
}

/// A forward that lasts as long as this value.
#[derive(Debug)]
pub struct ForwardLease {
    body: Incoming,
    text: Vec<u8>,
    listen: Listen,
}

/// A connection through a forward that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardFailure {
    /// Who wanted it: an address, or `uid=N` at a Unix socket.
    pub from: String,
    /// Why not.
    pub reason: String,
}

/// A line of a forward's answer.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ForwardLine {
    Listen(Listen),
    Failed(ForwardFailure),
}

impl ForwardLease {
    /// Where it is reached, with the port that the system chose.
    pub const fn listen(&self) -> &Listen {
        &self.listen
    }

    /// What goes wrong next; `None` when the node has stopped. Cancel safe.
    ///
    /// # Errors
    /// `Protocol` if the connection breaks or a line cannot be understood.
    pub async fn next(&mut self) -> Option<Result<ForwardFailure, AdminError>> {
        loop {
            match self.next_line().await? {
                Ok(ForwardLine::Failed(failure)) => return Some(Ok(failure)),
                Ok(ForwardLine::Listen(_)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn next_line(&mut self) -> Option<Result<ForwardLine, AdminError>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                match line.trim_ascii() {
                    [] => continue,
                    line => return Some(serde_json::from_slice(line).map_err(protocol)),
                }
            }
            if self.text.len() > EVENT_BYTES_MAX {
                return Some(Err(protocol(format!("a line is longer than {EVENT_BYTES_MAX} bytes"))));
            }
            match self.body.frame().await? {
                Ok(frame) => self.text.extend(frame.data_ref().into_iter().flatten()),
                Err(error) => return Some(Err(protocol(error))),
            }
        }
    }
}

/// An event stream.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    text: Vec<u8>,
}

/// What an event stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventItem {
    /// Something happened.
    Event {
        /// Its number since the node started.
        id: u64,
        /// What.
        event: NodeEvent,
    },
    /// This many events came faster than they were read, and are lost.
    Missed(u64),
}

impl Events {
    /// The next item; `None` when the node has stopped. Cancel safe.
    ///
    /// # Errors
    /// `Protocol` if the connection breaks or an event cannot be understood.
    pub async fn next(&mut self) -> Option<Result<EventItem, AdminError>> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                match parse_event(&String::from_utf8_lossy(&block)) {
                    Ok(None) => continue,
                    Ok(Some(item)) => return Some(Ok(item)),
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.text.len() > EVENT_BYTES_MAX {
                return Some(Err(AdminError::Protocol(
                    format!("an event is longer than {EVENT_BYTES_MAX} bytes").into(),
                )));
            }
            match self.body.frame().await? {
                Ok(frame) => self.text.extend(frame.data_ref().into_iter().flatten()),
                Err(error) => return Some(Err(protocol(error))),
            }
        }
    }
}

/// One block of a server-sent event stream; `None` for a comment.
fn parse_event(block: &str) -> Result<Option<EventItem>, AdminError> {
    let field = |name: &str| {
        block.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start_matches(' ')))
    };
    let Some(data) = field("data") else { return Ok(None) };
    if let Some(id) = field("id") {
        let (id, event) = (id.parse().map_err(protocol)?, serde_json::from_str(data).map_err(protocol)?);
        return Ok(Some(EventItem::Event { id, event }));
    }
    #[derive(serde::Deserialize)]
    struct Missed {
        count: u64,
    }
    let Missed { count } = serde_json::from_str(data).map_err(protocol)?;
    Ok(Some(EventItem::Missed(count)))
}

fn protocol(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AdminError {
    AdminError::Protocol(error.into())
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
    tokio::time::timeout(deadline, work).await.map_err(|_| AdminError::TimedOut(deadline))?
}
