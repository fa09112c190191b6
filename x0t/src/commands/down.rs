//! `x0t down`.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use x0t_node::{Command, Reply};

use super::Context;
use crate::client::unexpected;
use crate::daemon;
use crate::exit::Exit;

/// A node that does not take the command within this time takes none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Stopped {
    /// Whether it ran before.
    was_running: bool,
}

/// Succeeds if the node does not run afterwards, whoever stopped it.
pub async fn run(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let was_running = match timeout(ANSWER_WITHIN, client.command(Command::Shutdown)).await {
        Ok(Ok(Reply::Done)) => true,
        Ok(Ok(other)) => return Err(unexpected(&other)),
        Ok(Err(failure)) if failure.exit() == Exit::DaemonUnreachable => false,
        Ok(Err(failure)) => return Err(failure.into()),
        // It hangs. What comes next tells how to end it.
        Err(_) => true,
    };
    daemon::gone(&context.state_dir).await?;
    let stopped = Stopped { was_running };
    context.out.result(&stopped, |_| if was_running { "stopped" } else { "not running" }.to_owned())?;
    Ok(Exit::Ok)
}
