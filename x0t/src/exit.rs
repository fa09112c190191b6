//! How a command ends: its exit code, and for a failure the message, the cause and the next step.

use std::fmt;
use std::process::ExitCode;

use crate::output::Style;

const ERROR: &str = "error:";
const BECAUSE: &str = "because:";
const NEXT: &str = "next:";

/// Exit codes. They are part of the interface: scripts depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    #[default]
    Ok = 0,
    /// Failed for a reason that has no code of its own.
    Error = 1,
    /// The command line is wrong, or what it names does not exist.
    Usage = 2,
    /// It works, but not as it should.
    Degraded = 3,
    /// The daemon does not answer.
    DaemonUnreachable = 4,
    /// Nobody answered in time.
    Timeout = 5,
    /// Not allowed.
    Denied = 6,
}

impl Exit {
    /// The code of a process that was started for this one.
    pub const fn from_code(code: Option<i32>) -> Self {
        match code {
            Some(0) => Self::Ok,
            Some(2) => Self::Usage,
            Some(3) => Self::Degraded,
            Some(4) => Self::DaemonUnreachable,
            Some(5) => Self::Timeout,
            Some(6) => Self::Denied,
            _ => Self::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code and what to do about it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    next_step: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure with a message in lower case and without a final stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next_step: None, source: None }
    }

    /// What the reader should do, as an imperative.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next_step = Some(step.into());
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// How a process ends that fails with this.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it.
    pub fn next_step(&self) -> Option<&str> {
        self.next_step.as_deref()
    }

    /// What caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What is told about an error: the same for people and, with `--json`, for programs.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// What failed.
    pub error: String,
    /// Why, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The exit code.
    pub code: u8,
    #[serde(skip)]
    exit: Exit,
}

impl Report {
    /// Everything that is known about `error`.
    pub fn of(error: &anyhow::Error) -> Self {
        let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
        let exit = failure.map_or(Exit::Error, |failure| failure.exit);
        let mut because: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        // Libraries often paste the cause into their own text.
        because.dedup_by(|inner, outer| outer.contains(inner.as_str()));
        if because.first().is_some_and(|first| error.to_string().contains(first.as_str())) {
            because.remove(0);
        }
        Self {
            error: error.to_string(),
            because,
            next: failure.and_then(|failure| failure.next_step.clone()),
            code: exit as u8,
            exit,
        }
    }

    /// The report as text, one fact per line.
    pub fn text(&self, style: Style) -> String {
        let mut text = format!("{} {}", style.red(ERROR), self.error);
        for cause in &self.because {
            text += &format!("\n  {BECAUSE} {cause}");
        }
        if let Some(next) = &self.next {
            text += &format!("\n  {} {next}", style.bold(NEXT));
        }
        text
    }

    /// The last report in a log, where it stands as [`Self::text`] without colours.
    pub fn last_in(log: &str) -> Option<Self> {
        let start =
            log.match_indices(ERROR).map(|(at, _)| at).filter(|at| *at == 0 || log[..*at].ends_with('\n')).last()?;
        let mut lines = log[start..].lines();
        let error = lines.next()?.strip_prefix(ERROR)?.trim().to_owned();
        let mut report = Self { error, because: Vec::new(), next: None, code: Exit::Error as u8, exit: Exit::Error };
        for line in lines {
            let line = line.trim_start();
            if let Some(cause) = line.strip_prefix(BECAUSE) {
                report.because.push(cause.trim().to_owned());
            } else if let Some(step) = line.strip_prefix(NEXT) {
                report.next = Some(step.trim().to_owned());
            }
        }
        Some(report)
    }

    /// The failure that this is a report of, with the exit code that came along.
    pub fn into_failure(self, exit: Exit) -> Failure {
        let mut failure = Failure::new(exit, self.error);
        failure.next_step = self.next;
        let causes = self.because.into_iter().rev();
        failure.source =
            causes.fold(None, |source, message| Some(Box::new(Failure { source, ..Failure::new(exit, message) }) as _));
        failure
    }

    /// How the process ends.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_keeps_its_code_and_next_step_under_more_context() {
        let failure = Failure::new(Exit::DaemonUnreachable, "the daemon is not running").next("start it with `x0t up`");
        let report = Report::of(&anyhow::Error::from(failure).context("failed to read the status"));
        assert_eq!(report.exit(), Exit::DaemonUnreachable);
        assert_eq!(report.error, "failed to read the status");
        assert_eq!(report.because, ["the daemon is not running"]);
        assert_eq!(report.next.as_deref(), Some("start it with `x0t up`"));
    }

    #[test]
    fn an_error_without_a_code_is_1_and_says_its_cause_once() {
        let cause = std::io::Error::other("disk is gone");
        let report = Report::of(&Err::<(), _>(cause).context("failed to save: disk is gone").unwrap_err());
        assert_eq!((report.code, report.because.len()), (1, 0));
    }

    #[test]
    fn exit_codes_never_change() {
        let codes =
            [Exit::Ok, Exit::Error, Exit::Usage, Exit::Degraded, Exit::DaemonUnreachable, Exit::Timeout, Exit::Denied];
        for (expected, exit) in codes.into_iter().enumerate() {
            assert_eq!(exit as usize, expected);
            assert_eq!(Exit::from_code(i32::try_from(expected).ok()), exit);
        }
        assert_eq!(Exit::from_code(None), Exit::Error);
    }

    #[test]
    fn a_report_is_found_again_in_a_log() {
        let failure = Failure::new(Exit::Denied, "no")
            .because(Failure::new(Exit::Error, "it is late").because("the sun is down"));
        let report = Report::of(&failure.next("wait").into());
        let text = report.text(Style::Plain);
        assert_eq!(text, "error: no\n  because: it is late\n  because: the sun is down\n  next: wait");
        let log = format!("error: an older one\n2026-11-21 INFO error: in a record\n{text}\n");
        let found = Report::last_in(&log).unwrap().into_failure(Exit::Denied);
        assert_eq!(Report::of(&found.into()), report);
        assert_eq!(Report::last_in("all is well\n"), None);
    }

    #[test]
    fn a_report_is_stable_json() {
        let report = Report::of(&Failure::new(Exit::Denied, "no").next("ask").because("it is late").into());
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json, r#"{"error":"no","because":["it is late"],"next":"ask","code":6}"#);
    }
}
