//! `x0t expose PORT[:LOCALPORT]`, `x0t expose list`, `x0t expose remove`.

use anyhow::Context as _;
use serde::Serialize;
use x0t_netstack::spec::{Exposure, MeshPort};

use super::Context;
use crate::cli::{ExposeAction, ExposeArgs};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::settings::edit;

const NONE: &str = "nothing is exposed: let other nodes reach a port of this host with `x0t expose PORT`";

#[derive(Serialize)]
struct Changed {
    action: &'static str,
    #[serde(flatten)]
    port: MeshPort,
}

pub async fn run(context: &Context, args: ExposeArgs) -> anyhow::Result<Exit> {
    match args {
        ExposeArgs { action: Some(ExposeAction::List), .. } => list(context).await,
        ExposeArgs { action: Some(ExposeAction::Remove { port }), .. } => remove(context, port).await,
        ExposeArgs { exposure: Some(exposure), from, .. } => add(context, Exposure { from, ..exposure }).await,
        // clap asks for it.
        ExposeArgs { .. } => Err(Failure::new(Exit::Usage, "a port is needed").into()),
    }
}

async fn add(context: &Context, exposure: Exposure) -> anyhow::Result<Exit> {
    let port = exposure.mesh_port();
    context.client().expose(&exposure).await.map_err(|failure| {
        let next = format!("see what is exposed with `x0t expose list`; change it after `x0t expose remove {port}`");
        if failure.exit() == Exit::Error { failure.next(next) } else { failure }
    })?;
    edit(&context.state_dir, |mesh| {
        mesh.exposed.retain(|other| other.mesh_port() != port);
        mesh.exposed.push(exposure.clone());
    })
    .context("the running node knows, but it will have forgotten after a restart")?;
    context.out.result(&Changed { action: "exposed", port }, |_| format!("exposed {exposure}"))?;
    Ok(Exit::Ok)
}

async fn remove(context: &Context, port: MeshPort) -> anyhow::Result<Exit> {
    let told = context.client().conceal(port).await;
    let told = told.map_err(|failure| failure.next("see what is exposed with `x0t expose list`"));
    let mut was_saved = false;
    if told.as_ref().map_or_else(|failure| failure.exit() == Exit::Usage, |()| true) {
        edit(&context.state_dir, |mesh| {
            was_saved = mesh.exposed.iter().any(|exposure| exposure.mesh_port() == port);
            mesh.exposed.retain(|exposure| exposure.mesh_port() != port);
        })
        .context("the running node knows, but it will expose the port again after a restart")?;
    }
    // One of the settings that could not be exposed is removed like any other.
    if !was_saved {
        told?;
    }
    context.out.result(&Changed { action: "removed", port }, |_| format!("removed {port}"))?;
    Ok(Exit::Ok)
}

async fn list(context: &Context) -> anyhow::Result<Exit> {
    let exposures = context.client().exposures().await?;
    super::views::list(context.out, &exposures, NONE, |style| output::exposures(&exposures, style))
}
