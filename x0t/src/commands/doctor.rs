//! `x0t doctor`: look at everything that a working node needs, and say what to do about what is missing.

mod checks;

use serde::Serialize;
use x0t_runtime::clock::Clock;
use x0t_runtime::state_dir::StateDir;

use super::Context;
use crate::exit::{Exit, Failure};
use crate::output::Style;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but could be better, or could not be looked at.
    Warning,
    /// The node cannot work like this.
    Problem,
}

/// What was looked at, what was found, what to do.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// Present unless all is well.
    next: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), next: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), next: Some(next.into()) }
    }

    fn failed(check: &'static str, failure: &Failure) -> Self {
        let next = failure.next_step().unwrap_or("see the log of the daemon");
        Self::problem(check, failure.to_string(), next)
    }

    fn problem(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, found: found.into(), next: Some(next.into()) }
    }
}

/// Exit code 0 without problems, 3 with one.
pub async fn run(context: &Context) -> anyhow::Result<Exit> {
    let mesh = StateDir::inspect(&context.state_dir);
    let status = context.client().status().await;
    let wall = Clock.wall();
    let is_running = status.is_ok();
    let mut findings = vec![checks::state_dir(&context.state_dir, &mesh)];
    if mesh.is_ok() {
        findings.push(checks::daemon(&status));
        findings.extend(status.as_ref().ok().map(checks::links));
        findings.push(checks::identity(&context.state_dir, mesh.as_ref().ok(), status.as_ref().ok(), wall));
    }
    findings.push(checks::clock(&context.state_dir, wall));
    findings.extend(checks::udp_ports(mesh.as_ref().ok(), is_running));
    findings.extend(checks::http_port(mesh.as_ref().ok(), is_running));
    findings.push(checks::tun(mesh.as_ref().ok()));
    findings.extend(mesh.as_ref().ok().and_then(checks::mesh_addresses));
    findings.push(checks::socket_buffers());
    context.out.result(&findings, |style| text(&findings, style))?;
    let has_problem = findings.iter().any(|finding| finding.verdict == Verdict::Problem);
    Ok(if has_problem { Exit::Degraded } else { Exit::Ok })
}

fn text(findings: &[Finding], style: Style) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Ok => style.green("ok     "),
            Verdict::Warning => style.yellow("warning"),
            Verdict::Problem => style.red("problem"),
        };
        let next = finding.next.as_ref().map(|next| format!("\n{:9}{:16}next: {next}", "", "")).unwrap_or_default();
        format!("{mark}  {:<16}{}{next}", finding.check, finding.found)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_that_is_not_well_has_a_next_step() {
        let findings = [
            Finding::ok("clock", "12:00"),
            Finding::problem("UDP port", "4600 is in use", "choose another with --listen"),
        ];
        assert_eq!(
            text(&findings, Style::Plain),
            "ok       clock           12:00\n\
             problem  UDP port        4600 is in use\n\
             \u{20}                        next: choose another with --listen"
        );
    }
}
