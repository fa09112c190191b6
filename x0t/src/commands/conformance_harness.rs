//! `x0t conformance-harness`: shows the Workload API's client to the public SPIFFE conformance suite (docs/design/0013).
//!
//! A shim, as its contract asks: what is received, believed, shown and refused is decided by the libraries that nodes and `x0t svid`
//! use. Two listeners on 127.0.0.1: mutual TLS that tells each client who it is, and HTTP that validates and fetches JWT-SVIDs and
//! dials servers. Whoever is authenticated is let in.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use x0t_identity::{Audience, AudienceSet, BundleMap, JwtValidator};
use x0t_model::SpiffeId;
use x0t_runtime::clock::Clock;
use x0t_workload::client::{ClientConfig, ClientError, Followed, Health, WorkloadClient, X509Context};
use x0t_workload::mutual_tls::MutualTls;

use super::Context;
use crate::cli::ConformanceHarnessArgs;
use crate::exit::{Exit, Failure};

/// A handshake, a dial and the first bundles take at most this long. The suite waits ten seconds.
const DEADLINE: Duration = Duration::from_secs(8);
/// Handshakes at once; the suite makes one after the other.
const HANDSHAKES_MAX: usize = 32;

pub async fn run(context: &Context, args: ConformanceHarnessArgs) -> anyhow::Result<Exit> {
    let endpoint = args.socket.parse().with_context(|| format!("`{}` is no Workload API endpoint", args.socket))?;
    let client = WorkloadClient::new(endpoint, ClientConfig::default());
    let mut x509 = client.follow_x509(|| Clock.wall());
    let bundles = client.follow_jwt_bundles();
    let tls = MutualTls::new(x509.clone(), || Clock.wall())?;
    let (server, control) = (listen().await?, listen().await?);
    context.out.line("SPIFFE_HARNESS_VERSION=1")?;
    context.out.line(&format!("SPIFFE_X509_PORT={}", server.local_addr()?.port()))?;
    context.out.line(&format!("SPIFFE_CONTROL_PORT={}", control.local_addr()?.port()))?;
    first_svid(&mut x509).await?;
    context.out.line("READY")?;
    let harness = Arc::new(Harness { client, bundles, tls: tls.clone() });
    tokio::select! {
        served = serve_x509(server, tls) => served?,
        served = serve_control(control, harness) => served?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(Exit::Ok)
}

async fn listen() -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on 127.0.0.1")
}

async fn first_svid(x509: &mut watch::Receiver<Followed<X509Context>>) -> anyhow::Result<()> {
    let is_decided =
        |followed: &Followed<X509Context>| followed.value.is_some() || matches!(followed.health, Health::Refused(_));
    match &x509.wait_for(is_decided).await.context("the client has ended")?.health {
        Health::Refused(error) => Err(Failure::new(Exit::Denied, "the Workload API refuses for good")
            .because(error.clone())
            .next("read what the endpoint says; asking again does not help")
            .into()),
        Health::Waiting | Health::Current | Health::Failing(_) => Ok(()),
    }
}

/// Tells each client its SPIFFE ID.
async fn serve_x509(listener: TcpListener, tls: MutualTls) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone();
        tokio::spawn(async move {
            let greeting = timeout(DEADLINE, async {
                let (id, mut stream) = tls.accept(stream).await?;
                stream.write_all(format!("{id}\n").as_bytes()).await?;
                stream.shutdown().await?;
                anyhow::Ok(())
            });
            if let Ok(Err(error)) = greeting.await {
                tracing::debug!("no greeting: {error:#}");
            }
            drop(slot);
        });
    }
}

async fn serve_control(listener: TcpListener, harness: Arc<Harness>) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/v1/info", get(info))
        .route("/v1/jwt/validate", post(validate))
        .route("/v1/jwt/fetch", post(fetch))
        .route("/v1/x509/dial", post(dial))
        .with_state(harness);
    axum::serve(listener, routes).await.context("the control port has failed")
}

struct Harness {
    client: WorkloadClient,
    bundles: watch::Receiver<Followed<BundleMap>>,
    tls: MutualTls,
}

/// How an operation went, as the contract words it.
enum Outcome {
    /// It was done.
    Done(Value),
    /// What was asked about is refused.
    Rejected(String),
    /// It could not be done.
    Failed(String),
}

impl Outcome {
    fn rejected(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Rejected(format!("{:#}", anyhow::Error::new(error)))
    }

    fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(format!("{:#}", anyhow::Error::new(error)))
    }
}

impl IntoResponse for Outcome {
    fn into_response(self) -> Response {
        let told = |status: &str, message| Json(json!({ "status": status, "message": message }));
        match self {
            Self::Done(value) => Json(value).into_response(),
            Self::Rejected(message) => (StatusCode::UNPROCESSABLE_ENTITY, told("rejected", message)).into_response(),
            Self::Failed(message) => (StatusCode::INTERNAL_SERVER_ERROR, told("error", message)).into_response(),
        }
    }
}

/// A request that cannot be read is the asker's error, and never a rejection of what it asks about.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Outcome> {
    serde_json::from_slice(body).map_err(Outcome::failed)
}

async fn info() -> Json<Value> {
    Json(json!({ "sdk": "x0t", "sdk_version": env!("CARGO_PKG_VERSION"), "language": "rust" }))
}

#[derive(Deserialize)]
struct Validate {
    token: String,
    audience: String,
}

async fn validate(State(harness): State<Arc<Harness>>, body: Bytes) -> Result<Outcome, Outcome> {
    let asked: Validate = read(&body)?;
    let audience: Audience = asked.audience.parse().map_err(Outcome::failed)?;
    let mut bundles = harness.bundles.clone();
    let known = timeout(DEADLINE, bundles.wait_for(|followed| followed.value.is_some())).await;
    let known = known.map_err(Outcome::failed)?.map_err(Outcome::failed)?.value.clone().unwrap_or_default();
    let validated = JwtValidator::default().validate(&asked.token, &audience.into(), &known, Clock.wall());
    let validated = validated.map_err(Outcome::rejected)?;
    Ok(Outcome::Done(json!({
        "status": "ok",
        "spiffe_id": validated.spiffe_id(),
        "claims": validated.claims(),
    })))
}

#[derive(Deserialize)]
struct Fetch {
    audience: Vec<String>,
    #[serde(default)]
    spiffe_id: String,
}

async fn fetch(State(harness): State<Arc<Harness>>, body: Bytes) -> Result<Outcome, Outcome> {
    let asked: Fetch = read(&body)?;
    let audience = AudienceSet::parse(asked.audience.iter().map(String::as_str)).map_err(Outcome::failed)?;
    let wanted = (!asked.spiffe_id.is_empty()).then(|| asked.spiffe_id.parse::<SpiffeId>()).transpose();
    let wanted = wanted.map_err(Outcome::failed)?;
    let given =
        harness.client.fetch_jwt(&audience, wanted.as_ref(), Clock.wall()).await.map_err(|error| match error {
            ClientError::Content(_) => Outcome::rejected(error),
            ClientError::Status { .. } if error.is_denial() => Outcome::rejected(error),
            ClientError::Status { .. } | ClientError::Silent(_) | ClientError::Ended => Outcome::failed(error),
        })?;
    let svids = given
        .iter()
        .map(|given| json!({ "spiffe_id": given.svid.spiffe_id(), "token": given.svid.token(), "hint": given.hint }));
    Ok(Outcome::Done(json!({ "status": "ok", "svids": svids.collect::<Vec<_>>() })))
}

#[derive(Deserialize)]
struct Dial {
    address: SocketAddr,
}

async fn dial(State(harness): State<Arc<Harness>>, body: Bytes) -> Result<Outcome, Outcome> {
    let asked: Dial = read(&body)?;
    let dialled = timeout(DEADLINE, harness.tls.dial(asked.address)).await.map_err(Outcome::failed)?;
    match dialled {
        Ok((id, mut stream)) => {
            // The suite's server may be gone already; who it was is known.
            drop(timeout(DEADLINE, stream.shutdown()).await);
            Ok(Outcome::Done(json!({ "status": "ok", "spiffe_id": id })))
        }
        Err(error) if error.is_refusal() => Err(Outcome::rejected(error)),
        Err(error) => Err(Outcome::failed(error)),
    }
}
