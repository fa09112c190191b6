//! Log records, on standard error. Tokens and keys are values whose `Debug` prints nothing, and are never logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::cli::{Global, LogFormat, no_color};
use crate::exit::{Exit, Failure};

/// Starts logging, once. A daemon tells what a user could notice; a command only what is wrong.
pub fn start(global: &Global, is_daemon: bool) -> Result<(), Failure> {
    let filter = match &global.log {
        Some(directives) => EnvFilter::try_new(directives).map_err(|error| {
            Failure::new(Exit::Usage, format!("`{directives}` is no log filter"))
                .because(error)
                .next("use a level or targets with levels, as in `info` or `info,x0t_routing=debug`")
        })?,
        None => EnvFilter::new(default_filter(is_daemon, global.verbose)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal() && !no_color()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// A target is matched by its beginning: `x0t` is every crate of this workspace.
const fn default_filter(is_daemon: bool, verbose: u8) -> &'static str {
    match (is_daemon, verbose) {
        (false, 0) => "warn",
        (true, 0) | (false, 1) => "warn,x0t=info",
        (true, 1) | (false, 2) => "info,x0t=debug",
        _ => "debug,x0t=trace",
    }
}
