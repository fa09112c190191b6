//! `x0t`: the command line of x0tta6bl4, and the daemon.
//!
//! [`cli`] says what may be asked, [`commands`] does it, [`output`] prints, [`exit`] says how it ended. A command that is
//! about a running node asks the daemon through [`client`]; [`daemon`] starts one in the background; [`start`] is the daemon:
//! from a state directory to a running node; [`from_spire`] has its identity given by SPIRE. [`demo`] runs a whole mesh of such daemons; [`parent`] sees to it that they do not
//! outlive it. [`ui`] is the live page.

mod beside;
mod cli;
mod client;
mod commands;
mod daemon;
mod demo;
mod exit;
mod from_spire;
mod host;
mod logging;
mod output;
mod parent;
mod recovery;
mod resolve;
mod settings;
mod start;
mod ui;
mod upstream;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Action, Cli};
use crate::exit::{Exit, Report};
use crate::output::{Output, ReaderLeft};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Output::new(&cli.global);
    let exit = act(cli, out).unwrap_or_else(|error| {
        if error.is::<ReaderLeft>() {
            return Exit::Ok;
        }
        let report = Report::of(&error);
        out.error(&report);
        report.exit()
    });
    exit.into()
}

fn act(cli: Cli, out: Output) -> anyhow::Result<Exit> {
    logging::start(&cli.global, is_daemon(&cli.command))?;
    if cli.global.stop_on_stdin_eof {
        parent::stop_with_it()?;
    }
    // One task owns the node, and nothing else here needs a second thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::perform(cli, out))
}

/// Whether the node itself will run in this process.
const fn is_daemon(action: &Action) -> bool {
    match action {
        Action::Run(_) => true,
        Action::Up(args) => args.foreground,
        Action::Join(args) => args.foreground,
        _ => false,
    }
}
