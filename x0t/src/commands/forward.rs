//! `x0t forward LOCAL NODE:PORT`, `x0t forward list`, `x0t forward remove`.
//!
//! The node listens at the local address, so bytes do not pass through this process: it only holds the forward. With `--json`, one
//! object per line: `{"type":"listening",…}`, then `{"type":"failed",…}` for each connection that could not be made.

use anyhow::Context as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use x0t_netstack::spec::{Forward, Listen, Local};

use super::Context;
use crate::cli::{ForwardAction, ForwardArgs};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::edit;

const NONE: &str = "nothing is forwarded: reach a port of another node with `x0t forward LOCAL NODE:PORT`";

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item<'a> {
    Listening { listen: &'a Listen, to: &'a str },
    Failed { from: String, reason: String },
}

#[derive(Serialize)]
struct Changed {
    action: &'static str,
    forward: Forward,
}

pub async fn run(context: &Context, args: ForwardArgs) -> anyhow::Result<Exit> {
    match args {
        ForwardArgs { action: Some(ForwardAction::List), .. } => list(context).await,
        ForwardArgs { action: Some(ForwardAction::Remove { local }), .. } => remove(context, local).await,
        ForwardArgs { local: Some(local), to: Some(to), save, .. } => {
            let forward = Forward { protocol: local.protocol, listen: local.listen, to };
            if save { keep(context, forward).await } else { hold(context, &forward).await }
        }
        // clap asks for both.
        ForwardArgs { .. } => Err(Failure::new(Exit::Usage, "both LOCAL and NODE:PORT are needed").into()),
    }
}

/// Holds a forward until interrupted.
async fn hold(context: &Context, forward: &Forward) -> anyhow::Result<Exit> {
    // Heard from here on, also between two waits: Ctrl-C right after the first line is a clean end too.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut lease = context.client().forward(forward).await?;
    let (local, to) = (Local { listen: lease.listen().clone(), ..forward.local() }, forward.to.to_string());
    context.out.item(&Item::Listening { listen: lease.listen(), to: &to }, |_| format!("{local} -> {to}"))?;
    context.out.remark("until interrupted (Ctrl-C)");
    loop {
        let failure = tokio::select! {
            failure = lease.next() => failure.ok_or_else(Client::stopped)?.map_err(|_| Client::stopped())?,
            _ = interrupted.recv() => return Ok(Exit::Ok),
        };
        let (from, reason) = (failure.from, failure.reason);
        if context.out.is_json() {
            context.out.item(&Item::Failed { from, reason }, |_| String::new())?;
        } else {
            context.out.warn(format!("the connection from {from} failed: {reason}"));
        }
    }
}

async fn keep(context: &Context, forward: Forward) -> anyhow::Result<Exit> {
    if forward.listen.address().is_some_and(|address| address.port() == 0) {
        let failure = Failure::new(Exit::Usage, "a forward that is saved needs a port of its own, not 0");
        return Err(failure.next("give the port at which it shall be reached").into());
    }
    let client = context.client();
    let same = |other: &Forward| other.local() == forward.local();
    if client.forwards().await?.iter().any(|view| view.is_kept && same(&view.forward)) {
        let failure = Failure::new(Exit::Error, format!("{} is forwarded already", forward.local()));
        return Err(failure.next(format!("end that first with `x0t forward remove {}`", forward.local())).into());
    }
    client.keep_forward(&forward).await?;
    edit(&context.state_dir, |mesh| {
        mesh.forwards.retain(|other| !same(other));
        mesh.forwards.push(forward.clone());
    })
    .context("the running node knows, but it will have forgotten after a restart")?;
    changed(context, Changed { action: "saved", forward })
}

async fn remove(context: &Context, local: Local) -> anyhow::Result<Exit> {
    let client = context.client();
    let forwards = client.forwards().await?;
    let Some(view) = forwards.into_iter().find(|view| view.is_kept && view.forward.local() == local) else {
        let failure = Failure::new(Exit::Usage, format!("{local} is not a forward that was saved"));
        return Err(failure.next("see what there is with `x0t forward list`").into());
    };
    client.drop_forward(&view.forward).await?;
    edit(&context.state_dir, |mesh| mesh.forwards.retain(|forward| forward.local() != local))
        .context("the running node knows, but it will do so again after a restart")?;
    changed(context, Changed { action: "removed", forward: view.forward })
}

fn changed(context: &Context, changed: Changed) -> anyhow::Result<Exit> {
    context.out.result(&changed, |_| format!("{} {}", changed.action, changed.forward))?;
    Ok(Exit::Ok)
}

async fn list(context: &Context) -> anyhow::Result<Exit> {
    let forwards = context.client().forwards().await?;
    super::views::list(context.out, &forwards, NONE, |style| output::forwards(&forwards, style))
}
