//! What can be asked.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;
use x0t_model::Instant;
use x0t_netstack::forwarding::Forwarding;
use x0t_node::{Command, View};

use crate::clock::Clock;
use crate::handle::{NoAnswer, NodeHandle, Snapshot};
use crate::metrics;
use crate::news::{Item, Subscription};
use crate::readings::Readings;
use crate::topology::Topology;

use super::access::guard;
use super::forwarding;

/// One answer of the node serves everybody who asks within this time, so that readers cannot keep the event loop busy.
const SNAPSHOT_FRESH: Duration = Duration::from_millis(20);
/// A quiet event stream says this often that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A file of the live page, part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Path with a leading slash; `/` is the page itself.
    pub path: &'static str,
    /// Media type.
    pub content_type: &'static str,
    /// Content.
    pub bytes: &'static [u8],
}

/// What the routes need.
#[derive(Clone)]
pub struct Site {
    node: NodeHandle,
    assets: &'static [Asset],
    version: &'static str,
    latest: Arc<Mutex<Option<Arc<Snapshot>>>>,
    pub(super) forwarding: Option<Forwarding>,
    readings: Option<Readings>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({} assets, version {})", self.assets.len(), self.version)
    }
}

impl Site {
    /// The node, the page, and the version of the program.
    pub fn new(node: NodeHandle, assets: &'static [Asset], version: &'static str) -> Self {
        Self { node, assets, version, latest: Arc::default(), forwarding: None, readings: None }
    }

    /// With the routes of what is forwarded and exposed.
    #[must_use]
    pub fn with_forwarding(mut self, forwarding: Forwarding) -> Self {
        self.forwarding = Some(forwarding);
        self
    }

    /// With what those who stand beside the node count.
    #[must_use]
    pub fn with_readings(mut self, readings: Option<Readings>) -> Self {
        self.readings = readings;
        self
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, Unavailable> {
        // Held while the node is asked: whoever comes meanwhile gets the same answer.
        let mut latest = self.latest.lock().await;
        if let Some(snapshot) = latest.as_ref().filter(|snapshot| is_fresh(snapshot.at)) {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(self.node.snapshot().await.map_err(Unavailable)?);
        *latest = Some(snapshot.clone());
        Ok(snapshot)
    }
}

fn is_fresh(at: Instant) -> bool {
    Clock.now().since(at) < SNAPSHOT_FRESH
}

/// The node cannot be asked.
struct Unavailable(NoAnswer);

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": self.0.to_string() }))).into_response()
    }
}

/// Everything that only reads.
pub fn reading_routes(site: Site) -> Router {
    unguarded_routes().with_state(site).layer(middleware::from_fn(guard))
}

/// Everything that reads, and commands.
pub fn admin_routes(site: Site) -> Router {
    unguarded_routes()
        .route("/api/v1/command", post(command))
        .merge(forwarding::changing_routes())
        .with_state(site)
        .layer(middleware::from_fn(guard))
}

/// Routes of somebody else, with the same guard as ours.
pub fn guarded(routes: Router) -> Router {
    routes.layer(middleware::from_fn(guard))
}

fn unguarded_routes() -> Router<Site> {
    Router::new()
        .route("/", get(page))
        .route("/{*path}", get(asset))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(render_metrics))
        .route("/api/v1/status", get(|site| part(site, |view| view.status.clone())))
        .route("/api/v1/peers", get(|site| part(site, |view| view.peers.clone())))
        .route("/api/v1/routes", get(|site| part(site, |view| view.routes.clone())))
        .route("/api/v1/sessions", get(|site| part(site, |view| view.sessions.clone())))
        .route("/api/v1/view", get(|site| part(site, View::clone)))
        .route("/api/v1/topology", get(|site| part(site, |view| Topology::from(view))))
        .route("/api/v1/events", get(events))
        .merge(forwarding::reading_routes())
}

async fn page(State(site): State<Site>) -> Response {
    serve_asset(&site, "/")
}

async fn asset(State(site): State<Site>, Path(path): Path<String>) -> Response {
    serve_asset(&site, &format!("/{path}"))
}

fn serve_asset(site: &Site, path: &str) -> Response {
    match site.assets.iter().find(|asset| asset.path == path) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

/// Whether the process works: its event loop answers.
async fn health(State(site): State<Site>) -> Response {
    match site.snapshot().await {
        Ok(_) => Json(json!({ "status": "ok" })).into_response(),
        Err(error) => error.into_response(),
    }
}

/// Whether the node can be used, and if not, why.
async fn ready(State(site): State<Site>) -> Result<Response, Unavailable> {
    let snapshot = site.snapshot().await?;
    let status = &snapshot.view.status;
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, Json(json!({ "ready": status.ready, "reason": status.not_ready_because }))).into_response())
}

async fn render_metrics(State(site): State<Site>) -> Result<Response, Unavailable> {
    let snapshot = site.snapshot().await?;
    let socks = site.forwarding.as_ref().map(Forwarding::socks_stats);
    let readings = site.readings.as_ref().map(|read| read()).unwrap_or_default();
    Ok(match metrics::render(&snapshot, socks.as_ref(), &readings, site.version) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

async fn part<T: Serialize>(State(site): State<Site>, choose: impl Fn(&View) -> T) -> Result<Json<T>, Unavailable> {
    Ok(Json(choose(&site.snapshot().await?.view)))
}

async fn command(State(site): State<Site>, Json(command): Json<Command>) -> Result<Response, Unavailable> {
    // A command changes what is seen: the next reader must not get an older view.
    let reply = site.node.command(command).await.map_err(Unavailable)?;
    site.latest.lock().await.take();
    Ok(Json(reply).into_response())
}

/// Events as they happen, in the format of the HTML standard's server-sent events: `id` is the event's number, `data` its JSON. A
/// reader that was too slow, or that reconnects with Last-Event-ID, gets `{"event":"missed","count":n}` for what is lost to it.
async fn events(State(site): State<Site>, headers: HeaderMap) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let reader = Reader { news: site.node.subscribe(), last_seen, held: None };
    let stream = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"))
}

struct Reader {
    news: Subscription,
    /// What a reconnecting reader says it saw last; compared with the first event it gets.
    last_seen: Option<u64>,
    held: Option<Event>,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.held.take() {
            return Some(event);
        }
        match self.news.next().await? {
            Item::Missed(count) => Some(missed(count)),
            Item::Event(numbered) => {
                let event = Event::default().id(numbered.id.to_string()).json_data(&numbered.event).ok()?;
                let gap = self.last_seen.take().map_or(0, |last| numbered.id.saturating_sub(last.saturating_add(1)));
                if gap == 0 {
                    return Some(event);
                }
                self.held = Some(event);
                Some(missed(gap))
            }
        }
    }
}

fn missed(count: u64) -> Event {
    Event::default().data(json!({ "event": "missed", "count": count }).to_string())
}
