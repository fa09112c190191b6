//! `x0t regions status`.

use comfy_table::Cell;
use x0t_identity::region_failover::{RegionHealth, RegionView, RegionsStatus};

use super::Context;
use crate::cli::RegionsAction;
use crate::exit::Exit;
use crate::from_spire::RegionsReport;
use crate::output::{Style, ago, span, table};

/// Exit code 0 if the preferred region is in use and well, 3 if not.
pub async fn run(context: &Context, action: RegionsAction) -> anyhow::Result<Exit> {
    let RegionsAction::Status = action;
    let report = context.client().regions().await?;
    context.out.result(&report, |style| text(&report, style))?;
    Ok(if report.view.status == RegionsStatus::Ok { Exit::Ok } else { Exit::Degraded })
}

fn text(report: &RegionsReport, style: Style) -> String {
    let view = &report.view;
    let headline = match view.status {
        RegionsStatus::Ok => style.green("ok"),
        RegionsStatus::Degraded => style.yellow("degraded"),
        RegionsStatus::AllDown => style.red("no region answers; what was given is used until it ends"),
    };
    let served = match (report.serving.as_str(), &report.given_by) {
        ("nothing", _) | (_, None) => "nothing is given".to_owned(),
        (how, Some(by)) => format!("identities of {by}, {how}"),
    };
    let mut text = format!("{} for {}  {headline}\n  {served}", style.bold(&view.active), span(view.active_for_ms));
    text += &format!(
        "\n  checked every {}, left after {} failures, a check takes {} at most",
        span(report.interval_ms),
        report.threshold,
        span(report.timeout_ms)
    );
    if let Some(problem) = &report.problem {
        text += &format!("\n  {}", style.yellow(problem));
    }
    let header = ["REGION", "IN USE", "PRIORITY", "STATE", "TIME", "LAST CHECKS", "CHECKED", "WHY NOT"];
    let rows = view.regions.iter().map(row).collect();
    format!("{text}\n\n{}", table(style, &header, &["PRIORITY", "TIME"], rows))
}

fn row(region: &RegionView) -> Vec<Cell> {
    let health = match region.health {
        RegionHealth::Unknown => "unknown",
        RegionHealth::Healthy => "healthy",
        RegionHealth::Degraded => "degraded",
        RegionHealth::Failing => "failing",
        RegionHealth::Down => "down",
    };
    let checks: Vec<&str> = region.last_checks.iter().map(|good| if *good { "good" } else { "bad" }).collect();
    let is_ill = matches!(region.health, RegionHealth::Failing | RegionHealth::Down);
    let mut why = region.last_failure.filter(|_| is_ill).map(|failure| failure.to_string()).unwrap_or_default();
    if region.health == RegionHealth::Degraded {
        "its health check is not there".clone_into(&mut why);
    } else if why.is_empty() && region.held_for_ms > 0 {
        why = format!("held down for {} more", span(region.held_for_ms));
    }
    vec![
        Cell::new(&region.name),
        Cell::new(if region.active { "yes" } else { "" }),
        Cell::new(region.priority),
        crate::output::state(health),
        Cell::new(region.latency_ms.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms"))),
        Cell::new(checks.join(" ")),
        Cell::new(region.last_check_age_ms.map_or_else(|| "never".to_owned(), ago)),
        Cell::new(why),
    ]
}
