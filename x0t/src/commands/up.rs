//! `x0t up`: start the node of this host; the first time, create a mesh for it.

use std::time::Duration;

use serde::Serialize;
use x0t_model::SpiffeId;
use x0t_node::StatusView;
use x0t_runtime::clock::Clock;
use x0t_runtime::state_dir::{IdentityProvider, MeshFile, StateDir, StateDirError};

use super::Context;
use super::token::{self, Token, valid_for};
use crate::cli::{IdentityArg, TokenCreateArgs, UpArgs};
use crate::daemon::{Starting, until_ready};
use crate::exit::{Exit, Failure};
use crate::from_spire::{Source, Wanted, regions_of};
use crate::output::{self, Progress, Style};
use crate::{host, settings, start, upstream};

/// How long the token works that is printed for the next host.
const FIRST_TOKEN_TTL: Duration = Duration::from_hours(1);

/// The source of an identity that is SPIRE's, as the node calls it.
const WORKLOAD_API: &str = "workload_api";

/// What `up` and `join` print.
#[derive(Serialize)]
pub struct Up {
    /// Whether the mesh was created by this command.
    pub created: bool,
    /// Whether the node ran already.
    pub was_running: bool,
    /// The node.
    pub status: StatusView,
    /// The live page, if there is one.
    pub page: Option<String>,
    /// For the next host, if the mesh was created by this command.
    pub token: Option<Token>,
}

pub async fn run(context: &Context, args: UpArgs) -> anyhow::Result<Exit> {
    let created = match StateDir::inspect(&context.state_dir) {
        Err(StateDirError::NotInitialised { .. }) => create(context, &args).await?,
        Err(error) => return Err(start::state_dir_failure(error).into()),
        Ok(mesh) => {
            check_same(context, &args, &mesh)?;
            if let Ok(status) = context.client().status().await {
                return already_running(context, &args, status);
            }
            let mut dir = start::open(&context.state_dir)?;
            let changed = settings::with_settings(mesh, &args.node)?;
            if changed.identity == IdentityProvider::Spire {
                // Its keys are in memory alone: without SPIRE there is no node, and here somebody waits to be told so.
                from_spire(&changed, &Wanted::of(&changed), args.wait).await?;
            }
            if settings::has_settings(&args.node) {
                dir.write_mesh(&changed).map_err(start::state_dir_failure)?;
            }
            false
        }
    };
    if args.foreground {
        foreground(context, args.wait, created).await
    } else {
        launch(context, args.wait, created).await
    }
}

/// Starts the daemon, waits for it, and prints what there is to know.
pub async fn launch(context: &Context, patience: Duration, created: bool) -> anyhow::Result<Exit> {
    let progress = Progress::new("starting the node");
    let started = Starting::spawn(context)?.wait(context, patience).await;
    progress.finish();
    announce(context, started?, created).await
}

/// Runs the node in this process; tells about it once it is up.
pub async fn foreground(context: &Context, patience: Duration, created: bool) -> anyhow::Result<Exit> {
    let dir = start::open(&context.state_dir)?;
    let mesh = dir.mesh().clone();
    let mut node = std::pin::pin!(start::run(dir, mesh));
    let told = async {
        let status = until_ready(context, patience).await?;
        announce(context, status, created).await
    };
    tokio::select! {
        ended = &mut node => ended?,
        told = told => {
            // The node is what was asked for; that nobody could be told of it does not stop it.
            if let Err(error) = told {
                context.out.warn(format!("{error:#}"));
            }
            node.await?;
        }
    }
    Ok(Exit::Ok)
}

/// Makes a node of this host. True if it made a mesh as well.
async fn create(context: &Context, args: &UpArgs) -> anyhow::Result<bool> {
    let from_spire = args.identity.map_or_else(|| args.node.spire.names_a_place(), |given| given == IdentityArg::Spire);
    if from_spire {
        create_from_spire(context, args).await?;
        return Ok(false);
    }
    let name = args.name.clone().unwrap_or_else(host::node_name);
    let trust_domain = args.trust_domain.clone().map_or_else(start::fresh_trust_domain, Ok)?;
    let mesh = settings::with_settings(MeshFile::new(trust_domain.clone(), name.as_str()), &args.node)?;
    // What keeps the node from starting is found before anything is made of it.
    start::check_ports(&mesh)?;
    let upstream = match (&args.upstream_cert, &args.upstream_key) {
        (Some(cert), Some(key)) => Some(upstream::read(cert, key, args.upstream_roots.as_deref())?),
        _ => None,
    };
    let records = start::new_mesh(&trust_domain, &name, args.svid_ttl, args.recovery, upstream.as_ref())?;
    StateDir::create(&context.state_dir, &mesh, &records).map_err(start::state_dir_failure)?;
    Ok(true)
}

/// A node of the trust domain of a SPIRE server: name and trust domain are what SPIRE says.
async fn create_from_spire(context: &Context, args: &UpArgs) -> anyhow::Result<()> {
    refuse_authority_flags(args)?;
    let name = args.name.as_ref().map(|name| name.as_str().to_owned());
    let wanted = Wanted { trust_domain: args.trust_domain.clone(), name };
    // Until SPIRE says whose trust it is, any name will do.
    let domain = args.trust_domain.clone().map_or_else(start::fresh_trust_domain, Ok)?;
    let unnamed = MeshFile { identity: IdentityProvider::Spire, ..MeshFile::new(domain, "") };
    let mut mesh = settings::with_settings(unnamed, &args.node)?;
    start::check_ports(&mesh)?;
    let identity = from_spire(&mesh, &wanted, args.wait).await?;
    mesh.trust_domain = identity.trust_domain().clone();
    mesh.name = identity.node_name().unwrap_or_default().to_owned();
    StateDir::create(&context.state_dir, &mesh, &[]).map_err(start::state_dir_failure)?;
    Ok(())
}

/// What is said about an authority: a node of SPIRE's has none.
fn refuse_authority_flags(args: &UpArgs) -> Result<(), Failure> {
    settings::refuse_with_spire(&[
        ("--svid-ttl", args.svid_ttl.is_some()),
        ("--recovery", args.recovery.is_some()),
        ("--upstream-cert", args.upstream_cert.is_some()),
        ("--upstream-key", args.upstream_key.is_some()),
        ("--upstream-roots", args.upstream_roots.is_some()),
    ])
}

/// What SPIRE gives this host's node.
async fn from_spire(mesh: &MeshFile, wanted: &Wanted, patience: Duration) -> anyhow::Result<SpiffeId> {
    let progress = Progress::new("asking SPIRE for the node's identity");
    let identity = Source::begin(regions_of(mesh)?)?.identity(wanted, patience).await;
    progress.finish();
    Ok(identity?)
}

/// A node's name and mesh are in its certificate: they cannot be changed by a flag.
fn check_same(context: &Context, args: &UpArgs, mesh: &MeshFile) -> Result<(), Failure> {
    if let Some(wanted) = args.trust_domain.clone().filter(|wanted| *wanted != mesh.trust_domain) {
        let (path, found) = (context.state_dir.clone(), mesh.trust_domain.clone());
        return Err(start::state_dir_failure(StateDirError::OtherMesh { path, found, wanted }));
    }
    let is = |identity| if identity == IdentityProvider::Spire { IdentityArg::Spire } else { IdentityArg::Authority };
    if args.identity.is_some_and(|wanted| wanted != is(mesh.identity)) {
        let held = context.state_dir.display();
        return Err(Failure::new(
            Exit::Error,
            format!(
                "{held} holds node {} already: who gives a node its identity is decided when it is created",
                mesh.name
            ),
        )
        .next("leave out `--identity`, or give another directory with `--state-dir`"));
    }
    if mesh.identity == IdentityProvider::Spire {
        refuse_authority_flags(args)?;
    }
    let changes_name = args.name.as_ref().is_some_and(|name| name.as_str() != mesh.name);
    if args.upstream_cert.is_some() {
        let text =
            format!("{} holds node {} already: its mesh has an authority", context.state_dir.display(), mesh.name);
        return Err(Failure::new(Exit::Error, text).next("bring the intermediate with `x0t authority import`"));
    }
    if changes_name || args.svid_ttl.is_some() || args.recovery.is_some() {
        let what = if changes_name { "the name of a node" } else { "how long identities are valid" };
        return Err(Failure::new(
            Exit::Error,
            format!(
                "{} holds node {} already: {what} is decided when it is created",
                context.state_dir.display(),
                mesh.name
            ),
        )
        .next("leave the flag out, or give another directory with `--state-dir`"));
    }
    Ok(())
}

fn already_running(context: &Context, args: &UpArgs, status: StatusView) -> anyhow::Result<Exit> {
    let stored = StateDir::inspect(&context.state_dir).map_err(start::state_dir_failure)?;
    if settings::with_settings(stored.clone(), &args.node)? != stored {
        return Err(Failure::new(Exit::Error, "the node runs already, and settings are read when it starts")
            .next("stop it with `x0t down`, then give the same command again")
            .into());
    }
    let up = Up { created: false, was_running: true, status, page: page(context), token: None };
    context.out.result(&up, |style| text(&up, style))?;
    Ok(if up.status.ready { Exit::Ok } else { Exit::Degraded })
}

async fn announce(context: &Context, status: StatusView, created: bool) -> anyhow::Result<Exit> {
    let token = if created && status.is_authority {
        let args = TokenCreateArgs { name: None, ttl: FIRST_TOKEN_TTL, addresses: Vec::new() };
        Some(token::create(&context.client(), args).await?)
    } else {
        None
    };
    let up = Up { created, was_running: false, status, page: page(context), token };
    context.out.result(&up, |style| text(&up, style))?;
    if !context.out.is_json() && up.token.is_none() && up.status.is_authority {
        context.out.remark("let another host join with `x0t token create`");
    }
    if !context.out.is_json() && up.status.svid_source == WORKLOAD_API {
        context
            .out
            .remark("let another host come with `x0t up --identity spire --peer ADDR`, once SPIRE has an entry for it");
    }
    if let Some(token) = &up.token {
        token::warn_if_unreachable(context, token);
    }
    if !up.status.ready {
        let why = up.status.not_ready_because.as_deref().unwrap_or("it does not say why");
        context.out.warn(format!("the node runs, but is not ready: {why}"));
        context.out.remark("it keeps trying; see `x0t status` and `x0t doctor`");
    }
    Ok(if up.status.ready { Exit::Ok } else { Exit::Degraded })
}

fn page(context: &Context) -> Option<String> {
    let settings = StateDir::inspect(&context.state_dir).ok()?;
    Some(format!("http://{}/", settings.http?))
}

fn text(up: &Up, style: Style) -> String {
    let mut text = output::status(&up.status, Clock.wall(), style);
    if let Some(page) = &up.page {
        text += &format!("\n  page       {page}");
    }
    if up.created {
        text = format!("created mesh {}\n\n{text}", style.bold(up.status.trust_domain.as_str()));
    }
    if let Some(token) = &up.token {
        text +=
            &format!("\n\nOn the next host (works once, for {}):\n\n  {}", valid_for(token), style.bold(&token.join));
    }
    text
}
