//! `x0t version`.

use serde::Serialize;

use super::Context;
use crate::exit::Exit;

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub fn run(context: &Context) -> anyhow::Result<Exit> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    context.out.result(&version, |_| format!("x0t {}", version.version))?;
    Ok(Exit::Ok)
}
