//! `x0t bench`: what the data plane and identity cost on this host, and whether they cost more than they did.

use std::path::Path;

use serde::Serialize;
use x0t_bench::{Baseline, BenchError, Comparison, Options, Report, dataplane, identity};

use super::Context;
use crate::cli::{BenchAction, BenchArgs};
use crate::exit::{Exit, Failure};
use crate::output::Progress;

/// What is printed with `--json`.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

pub async fn run(context: &Context, action: BenchAction) -> anyhow::Result<Exit> {
    match action {
        BenchAction::Dataplane(args) => measure(context, args, "measuring the data plane", dataplane).await,
        BenchAction::Identity(args) => measure(context, args, "measuring JWT-SVIDs", identity).await,
    }
}

async fn measure(
    context: &Context,
    args: BenchArgs,
    doing: &'static str,
    suite: fn(Options) -> Result<Report, BenchError>,
) -> anyhow::Result<Exit> {
    // What is wrong with the baseline is said before a second is spent.
    let baseline = args.baseline.as_deref().map(read).transpose()?;
    let options = Options { time: args.time };
    let progress = Progress::new(doing);
    // On a thread of its own, whose processor time is what is measured.
    let report = tokio::task::spawn_blocking(move || suite(options)).await?;
    progress.finish();
    let report = report?;
    if let Some(path) = &args.save_baseline {
        let mut text = serde_json::to_string_pretty(&report.baseline())?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| failure("cannot be written", path).because(error))?;
    }
    let comparison = baseline.map(|baseline| baseline.compare(&report, args.factor));
    let is_worse = comparison.as_ref().is_some_and(Comparison::is_worse);
    let outcome = Outcome { report, comparison };
    context.out.result(&outcome, |_| {
        let comparison = outcome.comparison.as_ref().map(|comparison| format!("\n\n{}", comparison.table()));
        outcome.report.table() + &comparison.unwrap_or_default()
    })?;
    Ok(if is_worse { Exit::Degraded } else { Exit::Ok })
}

fn read(path: &Path) -> Result<Baseline, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| failure("cannot be read", path).because(error))?;
    serde_json::from_str(&text).map_err(|error| failure("is no baseline", path).because(error))
}

fn failure(what: &str, path: &Path) -> Failure {
    Failure::new(Exit::Usage, format!("{} {what}", path.display()))
        .next("save one with `x0t bench dataplane --save-baseline FILE` or `x0t bench identity --save-baseline FILE`")
}
