//! `x0t trace NODE`.

use x0t_node::{Command, Reply, Target};

use super::Context;
use crate::cli::TraceArgs;
use crate::client::unexpected;
use crate::exit::{Exit, Failure};
use crate::output;

pub async fn run(context: &Context, args: TraceArgs) -> anyhow::Result<Exit> {
    let client = context.client();
    let status = client.status().await?;
    let command = Command::Trace { target: Target(args.node.clone()), timeout: args.timeout };
    match client.command(command).await? {
        reply @ Reply::Trace { .. } => {
            let Reply::Trace { hops, complete } = &reply else { unreachable!("it was matched as a trace") };
            context.out.result(&reply, |style| output::trace(hops, &status, style))?;
            if *complete {
                return Ok(Exit::Ok);
            }
            let last = hops.last().map_or_else(|| "this node".to_owned(), |hop| output::hop_name(hop, &status));
            Err(Failure::new(Exit::Timeout, format!("nobody answers beyond {last}"))
                .next(format!("ask again in a second; if it stays so, look at `x0t routes` on {last}"))
                .into())
        }
        Reply::Refused { reason } => Err(no_match(context, &args.node, &reason).await),
        Reply::TimedOut { reason } => {
            Err(Failure::new(Exit::Timeout, format!("{} does not answer: {reason}", args.node))
                .next("see whether it is known with `x0t routes`")
                .into())
        }
        other => Err(unexpected(&other)),
    }
}

/// The daemon does not know whom `typed` means; perhaps the reader does, once told the names that exist.
pub async fn no_match(context: &Context, typed: &str, reason: &str) -> anyhow::Error {
    let failure = Failure::new(Exit::Usage, format!("no node `{typed}`: {reason}"));
    let names = context.client().names().await.unwrap_or_default();
    let suggestion = names.suggestion(typed);
    let step = suggestion.map_or_else(
        || "see which nodes are known with `x0t routes`".to_owned(),
        |name| format!("did you mean `{name}`?"),
    );
    failure.next(step).into()
}
