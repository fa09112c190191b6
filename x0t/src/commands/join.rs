//! `x0t join TOKEN`: prove the right to join, receive an identity, start the node.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use x0t_identity::{AwsLcKeys, JoinToken, Svid};

use x0t_model::Underlay;
use x0t_node::join::{JoinClient, JoinError, JoinTerms, Joined};
use x0t_node::{Record, RecordKind};
use x0t_overlay::tls::RustlsProvider;
use x0t_runtime::clock::{Clock, seed};
use x0t_runtime::join::{JOIN_DEADLINE, drive};
use x0t_runtime::state_dir::{MeshFile, StateDir, StateDirError};

use super::{Context, up};
use crate::cli::{JoinArgs, NodeName};
use crate::exit::{Exit, Failure};
use crate::output::{Progress, span};
use crate::resolve::resolve_peers;
use crate::{host, settings, start};

/// What to do about a token that admits nobody.
const ASK_FOR_ANOTHER: &str = "ask for another: `x0t token create` on the node that created the mesh";
/// What to do about silence.
const CHECK_UDP: &str = "check that UDP, or TCP to port 443 of a node with `--listen-tls`, passes from here to there, or name another node with `--via`";
/// The authority's word for: neither the token nor the request has a name.
const NAME_MISSING: &str = "name_missing";
/// No token comes near this; a longer input is something else.
const TOKEN_LEN_MAX: u64 = 8 << 10;

pub async fn run(context: &Context, args: JoinArgs) -> anyhow::Result<Exit> {
    let token = read_token(&args.token)?;
    let place = check_place(context, &token)?;
    if token.expires <= Clock.wall() {
        let ago = span(Clock.wall().since(token.expires).as_secs() * 1_000);
        return Err(Failure::new(Exit::Denied, format!("the join token expired {ago} ago"))
            .next(ASK_FOR_ANOTHER)
            .into());
    }
    let mut name = args.name.clone();
    let mesh = match &place {
        Place::Empty => MeshFile::new(token.trust_domain().clone(), ""),
        Place::Expired(mesh) => {
            name = mesh.name.parse().ok();
            MeshFile::clone(mesh)
        }
    };
    let mut mesh = settings::with_settings(mesh, &args.node)?;
    let via = resolve_peers(&args.via)?;
    start::check_ports(&mesh)?;
    let progress = Progress::new(&format!("joining {}", token.trust_domain()));
    let joined = join(&token, name.as_ref(), &via, mesh.fallback_port).await;
    progress.finish();
    let joined = joined?;
    mesh.name = joined.spiffe_id.node_name().unwrap_or_default().to_owned();
    if !mesh.peers.contains(&joined.introducer) {
        mesh.peers.insert(0, joined.introducer);
    }
    match place {
        Place::Empty => StateDir::create(&context.state_dir, &mesh, &joined.records).map(drop),
        Place::Expired(_) => replace_identity(&context.state_dir, &mesh, &joined.records),
    }
    .map_err(start::state_dir_failure)?;
    if args.foreground {
        up::foreground(context, args.wait, false).await
    } else {
        up::launch(context, args.wait, false).await
    }
}

fn read_token(argument: &str) -> anyhow::Result<JoinToken> {
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        std::io::stdin().lock().take(TOKEN_LEN_MAX).read_to_string(&mut text)?;
    }
    // People paste the whole line that `x0t token create` printed.
    let word = text.split_whitespace().last().unwrap_or_default();
    word.parse().map_err(|error| {
        Failure::new(Exit::Usage, "the join token cannot be read")
            .because(error)
            .next("copy the whole token: it begins with `x0t1.` and has no spaces")
            .into()
    })
}

/// Asks the authority. Who gave no name gets the one that the token is for, and if it is for any the host's own.
async fn join(
    token: &JoinToken,
    name: Option<&NodeName>,
    via: &[Underlay],
    fallback_port: Option<u16>,
) -> anyhow::Result<Joined> {
    match attempt(token, name, via, fallback_port).await? {
        Err(JoinError::Refused { code, .. }) if code == NAME_MISSING && name.is_none() => {
            attempt(token, Some(&host::node_name()), via, fallback_port).await?.map_err(refused)
        }
        outcome => outcome.map_err(refused),
    }
}

async fn attempt(
    token: &JoinToken,
    name: Option<&NodeName>,
    via: &[Underlay],
    fallback_port: Option<u16>,
) -> anyhow::Result<Result<Joined, JoinError>> {
    let (provider, name) = (Arc::new(RustlsProvider::new()), name.map(|name| name.as_str().to_owned()));
    let (now, wall) = (Clock.now(), Clock.wall());
    let terms = JoinTerms { token: token.clone(), name, via: via.to_vec(), fallback_port };
    let client = JoinClient::new(terms, provider, &mut AwsLcKeys, seed()?, now, wall);
    let mut client = match client {
        Ok(client) => client,
        Err(error) => return Ok(Err(error)),
    };
    let driven = drive(&mut client, JOIN_DEADLINE, |progress| tracing::info!(?progress, "joining")).await;
    match (client.outcome(), driven) {
        (Some(outcome), _) => Ok(outcome.clone()),
        (None, Err(error)) => {
            Err(Failure::new(Exit::Timeout, "the mesh was not joined").because(error).next(CHECK_UDP).into())
        }
        (None, Ok(())) => Err(Failure::new(Exit::Error, "the join ended without an outcome").into()),
    }
}

fn refused(error: JoinError) -> anyhow::Error {
    let failure = |exit| Failure::new(exit, error.to_string());
    match &error {
        JoinError::Refused { code, .. } if code.starts_with("token_") => failure(Exit::Denied).next(ASK_FOR_ANOTHER),
        JoinError::Refused { code, .. } if code == "name_taken" || code == "name_mismatch" => failure(Exit::Denied)
            .next("choose another name with `--name`, or ask for a token for this one: `x0t token create --name NAME`"),
        JoinError::Refused { .. } => failure(Exit::Denied).next("choose another name with `--name`"),
        JoinError::Expired(_) => failure(Exit::Denied).next(ASK_FOR_ANOTHER),
        JoinError::WrongAuthority { .. } => failure(Exit::Denied).next(
            "give the address of a node of the token's own mesh with `--via`, and check the clocks of both hosts",
        ),
        JoinError::NoAddress => failure(Exit::Usage).next("give an address of a node of the mesh with `--via`"),
        JoinError::Unreachable { .. } => failure(Exit::Timeout).next(CHECK_UDP),
        JoinError::BadAnswer(_) => failure(Exit::Error).next("check that both hosts run the same version of x0t"),
        JoinError::Unanswered { .. } => failure(Exit::Timeout).next(ASK_FOR_ANOTHER),
        JoinError::Key(_) | JoinError::Request(_) => failure(Exit::Error),
    }
    .into()
}

/// Where the new identity goes.
enum Place {
    /// A new node.
    Empty,
    /// The node is here already, but its SVID has run out: no peer accepts it, so it cannot ask for the next one.
    Expired(Box<MeshFile>),
}

/// A directory holds one node. Found out before the token is spent.
fn check_place(context: &Context, token: &JoinToken) -> Result<Place, Failure> {
    let path = context.state_dir.clone();
    let error = match StateDir::inspect(&path) {
        Err(StateDirError::NotInitialised { .. }) => return Ok(Place::Empty),
        Err(error) => error,
        Ok(mesh) if mesh.trust_domain == *token.trust_domain() => {
            let svid = std::fs::read(path.join(RecordKind::Svid.file_name())).ok();
            let not_after = svid.and_then(|stored| Some(Svid::from_stored(&stored).ok()?.not_after()));
            if not_after.is_some_and(|not_after| not_after < Clock.wall()) {
                // A daemon that still runs would go on with the old one.
                StateDir::open(&path).map_err(start::state_dir_failure)?;
                return Ok(Place::Expired(Box::new(mesh)));
            }
            StateDirError::AlreadyInitialised { path, name: mesh.name, trust_domain: mesh.trust_domain }
        }
        Ok(mesh) => StateDirError::OtherMesh { path, found: mesh.trust_domain, wanted: token.trust_domain().clone() },
    };
    Err(start::state_dir_failure(error))
}

/// The routing epoch stays: it only ever grows.
fn replace_identity(path: &Path, mesh: &MeshFile, records: &[Record]) -> Result<(), StateDirError> {
    let mut dir = StateDir::open(path)?;
    records.iter().try_for_each(|record| dir.write(record))?;
    dir.write_mesh(mesh)
}
