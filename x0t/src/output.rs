//! What a command prints. Standard output carries results only; everything else goes to standard error.
//!
//! With `--json` a result is one JSON value: an object, or an array for lists; streams (`ping`) print one object per
//! line. Fields are only ever added. Colours are used on a terminal only.

mod forwarding;
mod names;
mod progress;
mod table;
mod units;
mod views;

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

pub use forwarding::{exposures, forwards};
pub use names::{Names, hop_name};
pub use progress::Progress;
pub use table::{state, table};
pub use units::{ago, millis, span, time_of_day};
pub use views::{distrust, peers, routes, sessions, status, trace, workloads};

use crate::cli::{ColorChoice, Global, no_color};
use crate::exit::Report;

/// Where results and remarks go, and how they look.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    result_style: Style,
    remark_style: Style,
}

impl Output {
    /// As the flags say.
    pub fn new(global: &Global) -> Self {
        let style = |is_terminal: bool| match global.color {
            ColorChoice::Always => Style::Colored,
            ColorChoice::Auto if is_terminal && !no_color() => Style::Colored,
            ColorChoice::Auto | ColorChoice::Never => Style::Plain,
        };
        Self {
            json: global.json,
            result_style: style(std::io::stdout().is_terminal()),
            remark_style: style(std::io::stderr().is_terminal()),
        }
    }

    /// Whether results are for programs.
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: `value` with `--json`, else `text`.
    pub fn result<T: Serialize + ?Sized>(self, value: &T, text: impl FnOnce(Style) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { text(self.result_style) };
        self.line(&text)
    }

    /// Prints one line of a stream: `value` with `--json`, else `text`.
    pub fn item<T: Serialize>(self, value: &T, text: impl FnOnce(Style) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { text(self.result_style) };
        self.line(&text)
    }

    /// Prints text as it is.
    pub fn line(self, text: &str) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
        written.map_err(|error| if is_closed_pipe(&error) { ReaderLeft.into() } else { error.into() })
    }

    /// Says something that is no result, on standard error.
    pub fn remark(self, text: impl AsRef<str>) {
        remark(self.remark_style.dim(text.as_ref()));
    }

    /// Says what needs attention, on standard error.
    pub fn warn(self, text: impl AsRef<str>) {
        remark(format!("{} {}", self.remark_style.yellow("warning:"), text.as_ref()));
    }

    /// Tells an error, on standard error.
    pub fn error(self, report: &Report) {
        if self.json {
            return remark(serde_json::to_string(report).unwrap_or_else(|_| report.error.clone()));
        }
        remark(report.text(self.remark_style));
    }
}

/// Whoever read standard output has seen enough (`x0t routes | head -1`): a reason to stop, not an error.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct ReaderLeft;

fn is_closed_pipe(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::BrokenPipe
}

fn remark(text: impl AsRef<str>) {
    // Nobody is left to be told that standard error cannot be written to.
    let _unheard = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// With colours or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// ANSI colours.
    Colored,
}

impl Style {
    /// Good.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Look at this.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Bad.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Less important.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Important.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colored => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
