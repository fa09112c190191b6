//! `x0t svid show|watch|write`: a client of the Workload API, like any other. `x0t svid revoke` asks the authority.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::sync::watch;
use x0t_identity::{OperatorAnswer, OperatorRequest};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};
use x0t_runtime::clock::Clock;
use x0t_workload::client::{ClientConfig, ClientError, Endpoint, Followed, Health, WorkloadClient, X509Context};
use x0t_workload::files::{FileSet, write_svid};

use super::Context;
use super::entry::Revoked;
use crate::cli::{SvidAction, SvidArgs};
use crate::exit::{Exit, Failure};
use crate::output::span;

pub async fn run(context: &Context, action: SvidAction) -> anyhow::Result<Exit> {
    match action {
        SvidAction::Revoke { id } => revoke(context, id).await?,
        SvidAction::Show(args) => {
            let given = client(context, &args)?.fetch_x509(Clock.wall()).await.map_err(|error| failure(&error))?;
            print(context, &given)?;
        }
        SvidAction::Watch(args) => {
            follow(context, &args, |given| print(context, given)).await?;
        }
        SvidAction::Write { args, dir, once } => {
            let write = |given: &X509Context| {
                let svid = given.default_svid();
                let bundle = given.bundles().get(svid.spiffe_id().trust_domain()).context("the bundle is missing")?;
                let changed = write_svid(&dir, &FileSet { svid, bundle, jwt: None })?;
                let said = if changed { "written" } else { "unchanged" };
                context.out.result(&Written { spiffe_id: svid.spiffe_id(), dir: &dir, changed }, |_| {
                    format!("{said}: {} in {}", svid.spiffe_id(), dir.display())
                })
            };
            if once {
                let given = client(context, &args)?.fetch_x509(Clock.wall()).await.map_err(|error| failure(&error))?;
                write(&given)?;
            } else {
                follow(context, &args, write).await?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// What is out for `id` goes on the revocation list.
async fn revoke(context: &Context, id: SpiffeId) -> anyhow::Result<()> {
    match context.client().authority(&OperatorRequest::RevokeSvids { id }).await? {
        OperatorAnswer::Revoked { svids, complete_from } => {
            let revoked = Revoked::new(svids, complete_from);
            context.out.result(&revoked, |_| revoked.text())
        }
        OperatorAnswer::Refused(refused) => {
            Err(Failure::new(Exit::Denied, format!("not done: {}", refused.text)).into())
        }
        _ => Err(Failure::new(Exit::Error, "the authority answered something else than what was asked").into()),
    }
}

#[derive(Serialize)]
struct Written<'a> {
    spiffe_id: &'a SpiffeId,
    dir: &'a std::path::Path,
    changed: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    svids: Vec<ShownSvid<'a>>,
    trusts: Vec<&'a TrustDomain>,
}

#[derive(Serialize)]
struct ShownSvid<'a> {
    spiffe_id: &'a SpiffeId,
    hint: &'a str,
    not_after: UnixTime,
    certificates: usize,
}

fn print(context: &Context, given: &X509Context) -> anyhow::Result<()> {
    let now = Clock.wall();
    let svids = given.svids().iter().map(|given| ShownSvid {
        spiffe_id: given.svid.spiffe_id(),
        hint: &given.hint,
        not_after: given.svid.not_after(),
        certificates: given.svid.chain().len(),
    });
    let trusts = given.bundles().iter().map(|bundle| bundle.trust_domain()).collect();
    let shown = Shown { svids: svids.collect(), trusts };
    context.out.result(&shown, |_| {
        let mut lines = Vec::new();
        for svid in &shown.svids {
            let left = span(svid.not_after.since(now).as_secs() * 1_000);
            lines.push(format!("{}  valid for {left}", svid.spiffe_id));
        }
        let trusts: Vec<&str> = shown.trusts.iter().map(|domain| domain.as_str()).collect();
        lines.push(format!("trusts {}", trusts.join(", ")));
        lines.join("\n")
    })
}

/// Calls `on_change` for what the server gives now and for each change, until interrupted.
async fn follow(
    context: &Context,
    args: &SvidArgs,
    on_change: impl Fn(&X509Context) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = client(context, args)?;
    let mut followed: watch::Receiver<Followed<X509Context>> = client.follow_x509(|| Clock.wall());
    let mut last: Option<Arc<X509Context>> = None;
    let mut said = None;
    loop {
        let Followed { value, health } = followed.borrow_and_update().clone();
        if let Some(given) = value.filter(|given| last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, given))) {
            on_change(&given)?;
            last = Some(given);
        }
        match health {
            Health::Refused(error) => return Err(failure(&error).into()),
            Health::Failing(error) if said.as_ref() != Some(&error) => {
                context.out.warn(format!("{error}; still asking"));
                said = Some(error);
            }
            Health::Failing(_) | Health::Waiting => {}
            Health::Current => said = None,
        }
        tokio::select! {
            changed = followed.changed() => changed.context("the client has ended")?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn client(context: &Context, args: &SvidArgs) -> anyhow::Result<WorkloadClient> {
    let text = match &args.socket {
        Some(socket) => socket.clone(),
        None => crate::settings::workload_api_of(&context.state_dir)?,
    };
    let endpoint: Endpoint = text.parse().with_context(|| format!("`{text}` is no Workload API endpoint"))?;
    let config = ClientConfig { answer_deadline: Duration::from_secs(10), ..ClientConfig::default() };
    Ok(WorkloadClient::new(endpoint, config))
}

fn failure(error: &ClientError) -> Failure {
    let failure = match error {
        error if error.is_denial() => Failure::new(Exit::Denied, "this process has no identity here")
            .next("`x0t identity explain --pid PID`, on the node, tells why; `x0t entry create` gives it one"),
        ClientError::Silent(_) => {
            Failure::new(Exit::Timeout, error.to_string()).next("does the node run? `x0t status`")
        }
        ClientError::Status { .. } | ClientError::Content(_) | ClientError::Ended => {
            Failure::new(Exit::DaemonUnreachable, error.to_string()).next("does the node run? `x0t status`")
        }
    };
    match std::error::Error::source(error) {
        Some(cause) => failure.because(cause.to_string()),
        None => failure,
    }
}
