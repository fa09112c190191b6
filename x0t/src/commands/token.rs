//! `x0t token create`.

use serde::Serialize;
use x0t_identity::JoinToken;
use x0t_model::UnixTime;
use x0t_node::{Command, Reply};
use x0t_runtime::clock::Clock;

use super::Context;
use crate::cli::{NodeName, TokenAction, TokenCreateArgs};
use crate::client::{Client, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::span;
use crate::resolve::resolve_all;

/// A token, as printed.
#[derive(Serialize)]
pub struct Token {
    /// What `x0t join` takes. A secret until it is used.
    pub token: String,
    /// When it stops working, in seconds since 1970.
    pub expires: u64,
    /// The whole line to run on the host that joins.
    pub join: String,
}

pub async fn run(context: &Context, TokenAction::Create(args): TokenAction) -> anyhow::Result<Exit> {
    let token = create(&context.client(), args).await?;
    context.out.result(&token, |_| token.join.clone())?;
    if !context.out.is_json() {
        context.out.remark(format!("run this on the host that is to join; it works once, for {}", valid_for(&token)));
    }
    warn_if_unreachable(context, &token);
    Ok(Exit::Ok)
}

/// A token whose addresses all mean the host that uses it leads nowhere from any other.
pub fn warn_if_unreachable(context: &Context, token: &Token) {
    let addresses = token.token.parse::<JoinToken>().map(|token| token.addresses).unwrap_or_default();
    if addresses.iter().all(|address| address.ip().is_loopback()) {
        context.out.warn("this token works on this host only: no address is known at which others can reach it");
        context
            .out
            .remark("give one with `x0t token create --address ADDR`, or for good with `x0t up --advertise ADDR`");
    }
}

/// Has the daemon create a token.
pub async fn create(client: &Client, args: TokenCreateArgs) -> anyhow::Result<Token> {
    let command = Command::CreateToken {
        name: args.name.map(|name: NodeName| name.as_str().to_owned()),
        ttl: args.ttl,
        addresses: resolve_all(&args.addresses)?,
    };
    match client.command(command).await? {
        Reply::Token { token, expires } => {
            let token = token.expose().clone();
            Ok(Token { join: format!("x0t join {token}"), token, expires })
        }
        Reply::Refused { reason } => Err(Failure::new(Exit::Denied, format!("no token was created: {reason}"))
            .next("run `x0t token create` on the node that created the mesh; `x0t status` says which node is an authority")
            .into()),
        other => Err(unexpected(&other)),
    }
}

/// How long a token can still be used, in words.
pub fn valid_for(token: &Token) -> String {
    span(UnixTime::from_secs(token.expires).since(Clock.wall()).as_secs() * 1_000)
}
