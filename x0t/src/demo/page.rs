//! The live page of the whole mesh: the same files and paths as a node's own page, with all nodes merged.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Json;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use x0t_runtime::clock::Clock;

use super::board::{Board, Line, Views};
use super::topology::topology;

/// Nothing but the page's own files, and nobody may frame it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the page until dropped.
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address`, or on another port of the same host if that one is in use.
    pub async fn bind(address: SocketAddr, board: Arc<Board>) -> anyhow::Result<Self> {
        let listener = match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((address.ip(), 0)).await,
            other => other,
        };
        let listener = listener.with_context(|| format!("failed to serve the live page on {address}"))?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router(board)).await {
                tracing::warn!(%error, "the live page is gone");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/api/v1/topology", get(async |State(board): State<Arc<Board>>| Json(topology(&board, Clock.now()))))
        .route(
            "/api/v1/status",
            get(async |State(board): State<Arc<Board>>, node| {
                part(&board, node, |views| Json(views.status).into_response())
            }),
        )
        .route(
            "/api/v1/peers",
            get(async |State(board): State<Arc<Board>>, node| {
                part(&board, node, |views| Json(views.peers).into_response())
            }),
        )
        .route(
            "/api/v1/routes",
            get(async |State(board): State<Arc<Board>>, node| {
                part(&board, node, |views| Json(views.routes).into_response())
            }),
        )
        .route("/api/v1/events", get(events))
        .fallback(asset)
        .layer(from_fn(guard))
        .with_state(board)
}

/// Which node is meant; the sender if none is named.
#[derive(Debug, Deserialize)]
struct Which {
    node: Option<String>,
}

fn part(board: &Board, Query(which): Query<Which>, show: impl FnOnce(Views) -> Response) -> Response {
    let state = board.state();
    let node = match which.node {
        Some(id) => (0..board.plan.len()).find(|&node| Board::id_text(&state, node) == id),
        None => Some(board.plan.sender()),
    };
    let views = node.and_then(|node| state.views[node].clone());
    drop(state);
    views.map_or_else(|| StatusCode::SERVICE_UNAVAILABLE.into_response(), show)
}

/// Everything that happened, then everything that happens. A reader that comes back says what it has seen.
async fn events(
    State(board): State<Arc<Board>>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let (past, news) = board.events(seen);
    let lines = stream::iter(past)
        .chain(stream::unfold(news, |mut news| async { next(&mut news).await.map(|line| (line, news)) }));
    let events = lines.map(|line| Ok(Event::default().id(line.id.to_string()).data(line.event.to_string())));
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
}

async fn next(news: &mut Receiver<Arc<Line>>) -> Option<Arc<Line>> {
    loop {
        match news.recv().await {
            Ok(line) => return Some(line),
            // A reader that slept has missed some; the page shows those that follow.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

async fn asset(uri: Uri) -> Response {
    match crate::ui::ASSETS.iter().find(|asset| asset.path == uri.path()) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Answers only who called it by an address or as `localhost`: a name that somebody points at this host is no invitation.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local_name(host) {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_local_name(host: &str) -> bool {
    let without_port =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    let bare = without_port.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::ASSETS;

    fn text(path: &str) -> &'static str {
        let asset = ASSETS.iter().find(|asset| asset.path == path).unwrap();
        std::str::from_utf8(asset.bytes).unwrap()
    }

    /// What stands between `start` and the next quotation mark, everywhere in `text`.
    fn quoted<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(start).skip(1).filter_map(|rest| rest.split('"').next())
    }

    fn scripts() -> impl Iterator<Item = &'static str> {
        ASSETS.iter().map(|asset| asset.path).filter(|path| path.ends_with(".js"))
    }

    #[test]
    fn whatever_the_page_loads_is_part_of_the_program() {
        let exists = |path: &str| assert!(ASSETS.iter().any(|asset| asset.path == format!("/{path}")), "{path}");
        for start in ["src=\"", "<link rel=\"stylesheet\" href=\"", "<link rel=\"icon\" href=\""] {
            assert!(quoted(text("/"), start).inspect(|path| exists(path)).count() > 0, "{start}");
        }
        scripts().for_each(|script| quoted(text(script), "from \"./").for_each(exists));
    }

    #[test]
    fn the_page_keeps_its_own_content_security_policy() {
        let page = text("/");
        for forbidden in ["<style", "style=", "onclick", "onload", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
        for script in scripts() {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"] {
                assert!(!text(script).contains(forbidden), "{script} uses {forbidden}");
            }
        }
    }

    #[test]
    fn only_addresses_and_localhost_are_answered() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.0.2.7"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example:80"] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
