//! `x0t status`, `peers`, `routes`, `sessions`: the node's view, part by part.

use serde::Serialize;
use x0t_node::StatusView;
use x0t_runtime::clock::Clock;

use super::Context;
use crate::beside::WorkloadsView;
use crate::exit::Exit;
use crate::output::{self, Names, Output, Style};

const NO_PEERS: &str = "no neighbours: let a node join with `x0t token create`, or reach one with `x0t peer add ADDR`";
const NO_ROUTES: &str = "no other node is known: see `x0t peers`";
const NO_SESSIONS: &str = "no sessions: see `x0t peers`";

/// What `status` prints: the node, and how workloads of its host are served.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    node: StatusView,
    workloads: Option<WorkloadsView>,
}

/// Exit code 0 if the node is ready, 3 if not.
pub async fn status(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let status = Status { node: client.status().await?, workloads: client.workloads().await? };
    context.out.result(&status, |style| {
        let text = output::status(&status.node, Clock.wall(), style);
        match &status.workloads {
            Some(view) => format!("{text}\n{}", output::workloads(view, style)),
            None => text,
        }
    })?;
    Ok(if status.node.ready { Exit::Ok } else { Exit::Degraded })
}

pub async fn peers(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let (status, peers) = (client.status().await?, client.peers().await?);
    if peers.is_empty() && !status.unanswered.is_empty() && !context.out.is_json() {
        context.out.remark("no neighbours yet");
        context.out.result(&peers, |style| output::peers(&peers, &status, style))?;
        return Ok(Exit::Ok);
    }
    list(context.out, &peers, NO_PEERS, |style| output::peers(&peers, &status, style))
}

pub async fn routes(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let (status, peers, routes) = (client.status().await?, client.peers().await?, client.routes().await?);
    let names = Names::known(&status, &peers, &routes);
    list(context.out, &routes, NO_ROUTES, |style| output::routes(&routes, &names, style))
}

pub async fn sessions(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let (status, sessions) = (client.status().await?, client.sessions().await?);
    list(context.out, &sessions, NO_SESSIONS, |style| output::sessions(&sessions, &status, style))
}

/// Prints a list; for people, says what to do if there is nothing in it.
pub fn list<T: Serialize>(
    out: Output,
    items: &[T],
    if_empty: &str,
    text: impl FnOnce(Style) -> String,
) -> anyhow::Result<Exit> {
    if items.is_empty() && !out.is_json() {
        out.remark(if_empty);
    } else {
        out.result(items, text)?;
    }
    Ok(Exit::Ok)
}
