//! `x0t run`: the node itself, in the foreground.

use super::Context;
use crate::cli::RunArgs;
use crate::exit::Exit;
use crate::{daemon, settings, start};

/// Runs until the node is told to stop. Flags count for this run only; `up` and `join` are what keeps them.
pub async fn run(context: &Context, args: RunArgs) -> anyhow::Result<Exit> {
    if args.detached {
        daemon::leave_terminal();
    }
    let dir = start::open(&context.state_dir)?;
    let mesh = settings::with_settings(dir.mesh().clone(), &args.node)?;
    start::run(dir, mesh).await?;
    Ok(Exit::Ok)
}
