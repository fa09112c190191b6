//! `x0t completion SHELL`.

use clap::CommandFactory as _;

use super::Context;
use crate::cli::{Cli, CompletionArgs};
use crate::exit::Exit;

pub fn run(context: &Context, args: CompletionArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "x0t", &mut script);
    context.out.line(&String::from_utf8(script)?)?;
    Ok(Exit::Ok)
}
