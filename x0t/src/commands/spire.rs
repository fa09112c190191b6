//! A SPIRE server of this host, administered: `x0t spire …`, and what `x0t entry` and `x0t authority` do with `--authority spire`.

use std::path::Path;

use comfy_table::Cell;
use serde::Serialize;
use x0t_identity::region_failover::RegionEndpoint;
use x0t_identity::{EntryId, EntrySpec, Selector};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};
use x0t_runtime::clock::Clock;
use x0t_workload::spire::{
    AgentView, Created, EntryFilter, Federation, ItemError, KeyKind, KeyState, KeysView, SpireConfig, SpireEntry,
    SpireError, SpireServer,
};

use super::Context;
use super::entry::{self, Deleted};
use crate::cli::{AuthorityAction, EntryAction, EntryCreateArgs, KindArg, SpireAction, SpireCommand, SpireServerArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Style, span, table};

pub async fn run(context: &Context, command: SpireCommand) -> anyhow::Result<Exit> {
    let server = at(&command.server)?;
    let done = |what: &'static str, agent: &SpiffeId| {
        context.out.result(&Done { action: what, agent }, |_| format!("{what} {agent}"))
    };
    match command.action {
        SpireAction::Health => {
            let serving = server.is_serving().await.map_err(|error| failure(&error))?;
            context
                .out
                .result(&Health { serving }, |_| if serving { "it serves" } else { "it does not serve" }.to_owned())?;
            return Ok(if serving { Exit::Ok } else { Exit::Degraded });
        }
        SpireAction::Agents => {
            let agents = server.list_agents().await.map_err(|error| failure(&error))?;
            context.out.result(&agents, |style| show_agents(&agents, Clock.wall(), style))?;
        }
        SpireAction::Evict { agent } => {
            server.evict_agent(&agent).await.map_err(|error| failure(&error))?;
            done("evicted", &agent)?;
        }
        SpireAction::Ban { agent } => {
            server.ban_agent(&agent).await.map_err(|error| failure(&error))?;
            done("banned", &agent)?;
        }
        SpireAction::Token { ttl, alias } => {
            let token = server.create_join_token(ttl, alias.as_ref()).await.map_err(|error| failure(&error))?;
            let token = Token { token: &token.value, expires: token.expires_at };
            context.out.result(&token, |_| token.token.to_owned())?;
        }
        SpireAction::Bundle => show_bundle(context, &server).await?,
    }
    Ok(Exit::Ok)
}

/// `x0t entry … --authority spire`.
pub async fn entries(context: &Context, args: &SpireServerArgs, action: EntryAction) -> anyhow::Result<Exit> {
    let server = at(args)?;
    match action {
        EntryAction::Create(args) => create(context, &server, args).await?,
        EntryAction::List => {
            let list = server.list_entries(&EntryFilter::default()).await.map_err(|error| failure(&error))?;
            for unreadable in &list.unreadable {
                context.out.warn(format!("entry {} cannot be shown: {}", unreadable.id, unreadable.reason));
            }
            context.out.result(&list.entries, |style| {
                let rows = list.entries.iter().map(row).collect();
                table(style, &["ID", "SPIFFE ID", "PARENT", "SELECTORS"], &[], rows)
            })?;
        }
        EntryAction::Show { id } => {
            let entry = server.entry(&id).await.map_err(|error| match error {
                SpireError::NotFound { .. } => unknown_entry(&id),
                other => failure(&other),
            })?;
            context.out.result(&entry, |_| entry::describe(&entry.entry))?;
        }
        EntryAction::Delete { revoke: true, .. } => {
            let text = "a SPIRE server takes back no single SVID: what was issued ends by itself";
            return Err(Failure::new(Exit::Usage, text).next("leave out `--revoke`, and have short lives").into());
        }
        EntryAction::Delete { id, revoke: false } => {
            let results = server.delete_entries(std::slice::from_ref(&id)).await.map_err(|error| failure(&error))?;
            match results.into_iter().next() {
                Some(Err(ItemError::NotFound)) => return Err(unknown_entry(&id).into()),
                Some(Err(error)) => return Err(refused_item(&error, "deleted").into()),
                Some(Ok(())) | None => {
                    context.out.result(&Deleted { deleted: &id, revoked: None }, |_| format!("deleted entry {id}"))?;
                }
            }
        }
    }
    Ok(Exit::Ok)
}

async fn create(context: &Context, server: &SpireServer, args: EntryCreateArgs) -> anyhow::Result<()> {
    let parent = args.node.clone().ok_or_else(|| {
        Failure::new(Exit::Usage, "SPIRE gives identities below an agent, and none was named")
            .next("name it with `--parent SPIFFE-ID`; `x0t spire agents` lists them")
    })?;
    let domain = domain_of(server, &args.spiffe_id).await?;
    let parent = entry::full_id(&parent, &domain)?;
    let spec: EntrySpec = entry::spec(args, x0t_identity::Parent::Node(parent), &domain)?;
    let mut results = server.create_entries(&[spec]).await.map_err(|error| failure(&error))?;
    match results.pop() {
        Some(Ok(Created::New(entry))) => context.out.result(&entry, |_| entry::describe(&entry.entry)),
        Some(Ok(Created::Existed(entry))) => Err(Failure::new(
            Exit::Denied,
            format!("the entry was not created: entry {} has the same identity, parent and selectors", entry.entry.id),
        )
        .into()),
        Some(Err(error)) => Err(refused_item(&error, "created").into()),
        None => Err(Failure::new(Exit::Error, "the SPIRE server gave no answer for the entry").into()),
    }
}

/// The trust domain of a SPIFFE ID, or of the server if only a path was given.
async fn domain_of(server: &SpireServer, id: &str) -> Result<TrustDomain, Failure> {
    match id.parse::<SpiffeId>() {
        Ok(id) => Ok(id.trust_domain().clone()),
        Err(_) => Ok(server.bundle().await.map_err(|error| failure(&error))?.trust_domain),
    }
}

fn row(entry: &SpireEntry) -> Vec<Cell> {
    let spec = &entry.entry.spec;
    let selectors: Vec<&str> = spec.selectors.iter().map(Selector::as_str).collect();
    vec![
        Cell::new(&entry.entry.id),
        Cell::new(&spec.spiffe_id),
        Cell::new(&spec.parent),
        Cell::new(selectors.join(", ")),
    ]
}

/// `x0t authority … --authority spire`.
pub async fn keys(context: &Context, args: &SpireServerArgs, action: AuthorityAction) -> anyhow::Result<Exit> {
    if let AuthorityAction::Activate { force: true, .. } | AuthorityAction::Revoke { force: true, .. } = action {
        return Err(Failure::new(
            Exit::Usage,
            "a SPIRE server waits for no node before it changes its keys: there is nothing to force",
        )
        .next("leave out `--force`; `x0t authority status --authority spire` shows the keys")
        .into());
    }
    let server = at(args)?;
    let changed = |action: &'static str, kind, key: &KeyState| {
        let changed = KeyChanged { action, kind, key };
        context.out.result(&changed, |_| format!("{action} {}", key.id))
    };
    match action {
        AuthorityAction::Status => {
            let keys =
                Keys { x509: keys_of(&server, KeyKind::X509).await?, jwt: keys_of(&server, KeyKind::Jwt).await? };
            context.out.result(&keys, |style| show_keys(&keys, Clock.wall(), style))?;
        }
        AuthorityAction::Plan => {
            return Err(Failure::new(Exit::Usage, "a SPIRE server does not tell what it is going to do")
                .next("`x0t authority status --authority spire` shows its keys")
                .into());
        }
        AuthorityAction::Import(_) => {
            return Err(Failure::new(Exit::Usage, "a SPIRE server takes its CA from its own configuration")
                .next("see `UpstreamAuthority` in the configuration of the SPIRE server")
                .into());
        }
        AuthorityAction::Prepare { kind } => {
            let key = server.prepare_key(kind.into()).await.map_err(|error| failure(&error))?;
            changed("prepared", kind.into(), &key)?;
        }
        AuthorityAction::Activate { kind, .. } => {
            let prepared = keys_of(&server, kind.into()).await?.prepared.ok_or_else(|| {
                Failure::new(Exit::Denied, "not done: no key is prepared")
                    .next("prepare one with `x0t authority prepare --authority spire`")
            })?;
            let key = server.activate_key(kind.into(), &prepared.id).await.map_err(|error| failure(&error))?;
            changed("activated", kind.into(), &key)?;
        }
        AuthorityAction::Taint { key_id } => {
            let kind = kind_of(&server, &key_id).await?;
            let key = server.taint_key(kind, &key_id).await.map_err(|error| failure(&error))?;
            changed("tainted", kind, &key)?;
        }
        AuthorityAction::Revoke { key_id, .. } => {
            let kind = kind_of(&server, &key_id).await?;
            let key = server.revoke_key(kind, &key_id).await.map_err(|error| failure(&error))?;
            changed("revoked", kind, &key)?;
        }
    }
    Ok(Exit::Ok)
}

impl From<KindArg> for KeyKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::X509 => Self::X509,
            KindArg::Jwt => Self::Jwt,
        }
    }
}

async fn keys_of(server: &SpireServer, kind: KeyKind) -> Result<KeysView, Failure> {
    server.keys(kind).await.map_err(|error| failure(&error))
}

/// What a key signs: people name keys by their ids alone.
async fn kind_of(server: &SpireServer, id: &str) -> Result<KeyKind, Failure> {
    for kind in [KeyKind::X509, KeyKind::Jwt] {
        let keys = keys_of(server, kind).await?;
        if [keys.active, keys.prepared, keys.old].into_iter().flatten().any(|key| key.id == id) {
            return Ok(kind);
        }
    }
    Err(Failure::new(Exit::Usage, format!("the SPIRE server has no key {id}"))
        .next("see them all with `x0t authority status --authority spire`"))
}

fn show_keys(keys: &Keys, now: UnixTime, style: Style) -> String {
    let mut rows = Vec::new();
    for (signs, keys) in [("x509", &keys.x509), ("jwt", &keys.jwt)] {
        for (state, key) in [("active", &keys.active), ("prepared", &keys.prepared), ("old", &keys.old)] {
            rows.extend(key.as_ref().map(|key| {
                let left = span(key.expires_at.since(now).as_secs() * 1_000);
                vec![Cell::new(signs), Cell::new(&key.id), Cell::new(state), Cell::new(left)]
            }));
        }
    }
    table(style, &["SIGNS", "KEY", "STATE", "ENDS IN"], &[], rows)
}

fn show_agents(agents: &[AgentView], now: UnixTime, style: Style) -> String {
    let row = |agent: &AgentView| {
        let left = span(agent.not_after.since(now).as_secs() * 1_000);
        let banned = if agent.banned { "banned" } else { "" };
        vec![
            Cell::new(&agent.id),
            Cell::new(&agent.attestation),
            Cell::new(left),
            Cell::new(&agent.version),
            Cell::new(banned),
        ]
    };
    table(style, &["AGENT", "ATTESTED BY", "ENDS IN", "VERSION", ""], &[], agents.iter().map(row).collect())
}

async fn show_bundle(context: &Context, server: &SpireServer) -> anyhow::Result<()> {
    let bundle = server.bundle().await.map_err(|error| failure(&error))?;
    let federations = server.list_federations().await.map_err(|error| failure(&error))?;
    let shown = Bundle {
        trust_domain: &bundle.trust_domain,
        sequence: bundle.sequence,
        x509_authorities: bundle.x509_authorities.len(),
        x509_tainted: bundle.x509_authorities.iter().filter(|(_, tainted)| *tainted).count(),
        jwt_authorities: bundle.jwt_authorities.len(),
        federates_with: federations.iter().map(Federated::from).collect(),
    };
    context.out.result(&shown, |_| {
        let mut text = format!(
            "bundle {} of {}: {} X.509 authorities, {} JWT keys",
            shown.sequence, shown.trust_domain, shown.x509_authorities, shown.jwt_authorities
        );
        for federated in &shown.federates_with {
            text += &format!("\nfederates with {}, whose bundle is at {}", federated.trust_domain, federated.url);
        }
        text
    })
}

fn at(args: &SpireServerArgs) -> Result<SpireServer, Failure> {
    match RegionEndpoint::parse(&args.spire_server) {
        Ok(RegionEndpoint::Unix(path)) => Ok(SpireServer::at(Path::new(&path), SpireConfig::default())),
        Ok(RegionEndpoint::Tcp(_)) => {
            Err(Failure::new(Exit::Usage, "a SPIRE server is administered by its Unix socket")
                .next("name it with `--spire-server unix:///PATH`, on the server's host"))
        }
        Err(problem) => Err(Failure::new(Exit::Usage, problem)),
    }
}

fn failure(error: &SpireError) -> Failure {
    let message = error.to_string();
    let failure = match error {
        SpireError::Unavailable { .. } => Failure::new(Exit::DaemonUnreachable, message)
            .next("does it run on this host, and is this its socket? name it with `--spire-server unix:///PATH`"),
        SpireError::Deadline { .. } => Failure::new(Exit::Timeout, message),
        SpireError::NotFound { .. } | SpireError::Form(_) => Failure::new(Exit::Usage, message),
        SpireError::Refused { .. } => Failure::new(Exit::Denied, message),
        SpireError::Protocol { .. } => Failure::new(Exit::Error, message),
    };
    match std::error::Error::source(error) {
        Some(cause) => failure.because(cause.to_string()),
        None => failure,
    }
}

fn unknown_entry(id: &EntryId) -> Failure {
    Failure::new(Exit::Usage, format!("the SPIRE server has no entry {id}"))
        .next("see them all with `x0t entry list --authority spire`")
}

fn refused_item(error: &ItemError, done: &str) -> Failure {
    let exit = if matches!(error, ItemError::Form(_)) { Exit::Usage } else { Exit::Denied };
    Failure::new(exit, format!("the entry was not {done}: {error}"))
}

#[derive(Serialize)]
struct Done<'a> {
    action: &'a str,
    agent: &'a SpiffeId,
}

#[derive(Serialize)]
struct Health {
    serving: bool,
}

/// A secret until it is used, as are those of the mesh.
#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
    expires: UnixTime,
}

#[derive(Serialize)]
struct Keys {
    x509: KeysView,
    jwt: KeysView,
}

#[derive(Serialize)]
struct KeyChanged<'a> {
    action: &'a str,
    kind: KeyKind,
    key: &'a KeyState,
}

#[derive(Serialize)]
struct Bundle<'a> {
    trust_domain: &'a TrustDomain,
    sequence: u64,
    x509_authorities: usize,
    x509_tainted: usize,
    jwt_authorities: usize,
    federates_with: Vec<Federated<'a>>,
}

#[derive(Serialize)]
struct Federated<'a> {
    trust_domain: &'a TrustDomain,
    url: &'a str,
}

impl<'a> From<&'a Federation> for Federated<'a> {
    fn from(federation: &'a Federation) -> Self {
        Self { trust_domain: &federation.trust_domain, url: &federation.url }
    }
}
