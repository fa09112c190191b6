//! `x0t peer add`, `x0t peer remove`.

use anyhow::Context as _;
use serde::Serialize;
use x0t_model::Underlay;
use x0t_node::{Command, Reply};

use super::Context;
use crate::cli::PeerAction;
use crate::client::unexpected;
use crate::exit::{Exit, Failure};
use crate::resolve::resolve_peers;
use crate::settings::edit_peers;

#[derive(Serialize)]
struct Changed {
    action: &'static str,
    addresses: Vec<Underlay>,
}

pub async fn run(context: &Context, action: PeerAction) -> anyhow::Result<Exit> {
    let (args, adds) = match action {
        PeerAction::Add(args) => (args, true),
        PeerAction::Remove(args) => (args, false),
    };
    let addresses = resolve_peers(std::slice::from_ref(&args.address))?;
    let client = context.client();
    for &address in &addresses {
        let command = if adds { Command::AddPeer { address } } else { Command::DropPeer { address } };
        match client.command(command).await? {
            Reply::Done => {}
            Reply::Refused { reason } => return Err(refused(address, adds, &reason).into()),
            other => return Err(unexpected(&other)),
        }
    }
    edit_peers(&context.state_dir, &addresses, adds)
        .context("the running node knows, but it will have forgotten after a restart")?;
    let changed = Changed { action: if adds { "added" } else { "removed" }, addresses };
    context.out.result(&changed, |_| {
        let list: Vec<String> = changed.addresses.iter().map(ToString::to_string).collect();
        format!("{} {}", changed.action, list.join(", "))
    })?;
    Ok(Exit::Ok)
}

fn refused(address: Underlay, adds: bool, reason: &str) -> Failure {
    let (what, exit) = if adds { ("added", Exit::Error) } else { ("removed", Exit::Usage) };
    Failure::new(exit, format!("{address} was not {what}: {reason}")).next("see the addresses in use with `x0t peers`")
}
