//! One file for each command. A command gathers, asks the daemon, prints, and says how it ended.

mod authority;
mod bench;
mod bundle;
mod cert;
mod completion;
mod conformance_harness;
mod doctor;
mod down;
mod entry;
mod events;
mod expose;
mod federation;
mod forward;
mod identity;
mod join;
mod node;
mod peer;
mod ping;
mod regions;
mod run;
mod spire;
mod svid;
mod token;
mod trace;
mod up;
mod version;
mod views;

use std::path::PathBuf;

use crate::cli::{Action, Cli, Global};
use crate::client::Client;
use crate::demo;
use crate::exit::Exit;
use crate::output::Output;

/// What every command knows.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where to print.
    pub out: Output,
    /// The flags that every command takes.
    pub global: Global,
    /// The node that is meant, as an absolute path.
    pub state_dir: PathBuf,
}

impl Context {
    /// A way to ask the node's daemon.
    pub fn client(&self) -> Client {
        Client::new(&self.state_dir)
    }
}

/// Does what is asked.
pub async fn perform(cli: Cli, out: Output) -> anyhow::Result<Exit> {
    let state_dir = std::path::absolute(cli.global.state_dir())?;
    let context = Context { out, global: cli.global, state_dir };
    match cli.command {
        Action::Up(args) => up::run(&context, args).await,
        Action::Join(args) => join::run(&context, args).await,
        Action::Token(action) => token::run(&context, action).await,
        Action::Node(action) => node::run(&context, action).await,
        Action::Entry(args) => entry::run(&context, args).await,
        Action::Authority(args) => authority::run(&context, args).await,
        Action::Spire(command) => spire::run(&context, command).await,
        Action::Bundle(action) => bundle::run(&context, action).await,
        Action::Federation(action) => federation::run(&context, action).await,
        Action::Identity(action) => identity::run(&context, action).await,
        Action::Svid(action) => svid::run(&context, action).await,
        Action::Regions(action) => regions::run(&context, action).await,
        Action::Cert(action) => cert::run(&context, action),
        Action::Down => down::run(&context).await,
        Action::Run(args) => run::run(&context, args).await,
        Action::Status => views::status(&context).await,
        Action::Peers => views::peers(&context).await,
        Action::Routes => views::routes(&context).await,
        Action::Sessions => views::sessions(&context).await,
        Action::Ping(args) => ping::run(&context, args).await,
        Action::Trace(args) => trace::run(&context, args).await,
        Action::Events => events::run(&context).await,
        Action::Forward(args) => forward::run(&context, args).await,
        Action::Expose(args) => expose::run(&context, args).await,
        Action::Peer(action) => peer::run(&context, action).await,
        Action::Doctor => doctor::run(&context).await,
        Action::Demo(args) => demo::run(args, out).await,
        Action::Bench(action) => bench::run(&context, action).await,
        Action::Completion(args) => completion::run(&context, args),
        Action::ConformanceHarness(args) => conformance_harness::run(&context, args).await,
        Action::Version => version::run(&context),
    }
}
