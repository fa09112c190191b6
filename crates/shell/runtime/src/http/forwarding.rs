//! What is forwarded and exposed, and how that is changed.
//!
//! A forward that is asked for with `POST` lasts as long as its answer: one JSON object per line, first where it is reached, then what
//! goes wrong, and an empty line now and then. Whoever closes the connection ends it.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use x0t_netstack::forwarding::{Forwarding, ForwardingError, Lease, Notice};
use x0t_netstack::spec::{Exposure, Forward, MeshPort};

use super::routes::Site;

/// A quiet forward says this often that it is alive, so that one whose owner is gone ends.
const HEARTBEAT: Duration = Duration::from_secs(5);

pub(super) fn reading_routes() -> Router<Site> {
    Router::new().route("/api/v1/forwards", get(forwards)).route("/api/v1/exposures", get(exposures))
}

pub(super) fn changing_routes() -> Router<Site> {
    Router::new()
        .route("/api/v1/forwards", axum::routing::post(lease).put(keep).delete(end))
        .route("/api/v1/exposures", axum::routing::put(expose).delete(conceal))
}

fn of(site: &Site) -> Result<&Forwarding, Refused> {
    site.forwarding.as_ref().ok_or(Refused(StatusCode::SERVICE_UNAVAILABLE, "nothing is forwarded here".to_owned()))
}

/// Why not, in words.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<ForwardingError> for Refused {
    fn from(error: ForwardingError) -> Self {
        let status = match &error {
            ForwardingError::Name(_) | ForwardingError::Own(_) => StatusCode::BAD_REQUEST,
            ForwardingError::NotExposed(_) => StatusCode::NOT_FOUND,
            ForwardingError::Listen { .. } | ForwardingError::Exposed(_) | ForwardingError::TooMany(_) => {
                StatusCode::CONFLICT
            }
        };
        Self(status, error.to_string())
    }
}

async fn forwards(State(site): State<Site>) -> Result<Response, Refused> {
    Ok(Json(of(&site)?.forwards()).into_response())
}

async fn exposures(State(site): State<Site>) -> Result<Response, Refused> {
    Ok(Json(of(&site)?.exposures()).into_response())
}

async fn lease(State(site): State<Site>, Json(forward): Json<Forward>) -> Result<Response, Refused> {
    let lease = of(&site)?.forward(forward)?;
    let first = line(&json!({ "listen": lease.listen }));
    let lines = stream::unfold((Some(first), lease), |(first, mut lease)| async move {
        let line = match first {
            Some(first) => first,
            None => next_line(&mut lease).await,
        };
        Some((Ok::<_, Infallible>(Bytes::from(line)), (None, lease)))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn next_line(lease: &mut Lease) -> String {
    match tokio::time::timeout(HEARTBEAT, lease.notices.recv()).await {
        Ok(Some(Notice { from, reason })) => line(&json!({ "failed": { "from": from, "reason": reason } })),
        // The sender ends with the forward, which ends with the lease.
        Ok(None) => std::future::pending().await,
        Err(_) => "\n".to_owned(),
    }
}

fn line(value: &serde_json::Value) -> String {
    format!("{value}\n")
}

async fn keep(State(site): State<Site>, Json(forward): Json<Forward>) -> Result<StatusCode, Refused> {
    of(&site)?.keep_forward(forward)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn end(State(site): State<Site>, Json(forward): Json<Forward>) -> Result<StatusCode, Refused> {
    if of(&site)?.drop_forward(&forward) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Refused(StatusCode::NOT_FOUND, format!("{} is not kept", forward.local())))
}

async fn expose(State(site): State<Site>, Json(exposure): Json<Exposure>) -> Result<StatusCode, Refused> {
    of(&site)?.expose(exposure)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn conceal(State(site): State<Site>, Json(port): Json<MeshPort>) -> Result<StatusCode, Refused> {
    of(&site)?.conceal(port)?;
    Ok(StatusCode::NO_CONTENT)
}
