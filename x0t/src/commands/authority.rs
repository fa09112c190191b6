//! `x0t authority status|plan|prepare|import|activate|taint|revoke`.

use comfy_table::Cell;
use x0t_identity::ca_life::{AuthorityKind, CaStatus, KeyId, ParseKeyIdError, Step};
use x0t_identity::{OperatorAnswer, OperatorRequest};
use x0t_model::UnixTime;
use x0t_runtime::clock::Clock;

use super::{Context, spire};
use crate::cli::{AuthorityAction, AuthorityArg, AuthorityArgs, KindArg};
use crate::exit::{Exit, Failure};
use crate::output::{Style, span, table};
use crate::upstream;

pub async fn run(context: &Context, args: AuthorityArgs) -> anyhow::Result<Exit> {
    let AuthorityArgs { keeper, action } = args;
    if keeper.authority == AuthorityArg::Spire {
        return spire::keys(context, &keeper.server, action).await;
    }
    let request = match action {
        AuthorityAction::Status => OperatorRequest::AuthorityStatus,
        AuthorityAction::Plan => OperatorRequest::AuthorityPlan,
        AuthorityAction::Prepare { kind } => OperatorRequest::PrepareAuthority { kind: kind.into() },
        AuthorityAction::Import(args) => {
            let files = upstream::read(&args.cert, &args.key, args.roots.as_deref())?;
            OperatorRequest::ImportAuthority { chain: files.chain, key: files.key, roots: files.roots }
        }
        AuthorityAction::Activate { kind, force } => OperatorRequest::ActivateAuthority { kind: kind.into(), force },
        AuthorityAction::Taint { key_id } => OperatorRequest::TaintAuthority { key_id: parse(&key_id)? },
        AuthorityAction::Revoke { key_id, force } => {
            OperatorRequest::RevokeAuthority { key_id: parse(&key_id)?, force }
        }
    };
    let of_jwt = if matches!(request, OperatorRequest::PrepareAuthority { kind: AuthorityKind::Jwt }) {
        " --kind jwt"
    } else {
        ""
    };
    let is_import = matches!(request, OperatorRequest::ImportAuthority { .. });
    let now = Clock.wall();
    match context.client().authority(&request).await? {
        OperatorAnswer::Authorities { status } => {
            context.out.result(&status, |style| authorities(&status, now, style))?
        }
        OperatorAnswer::Plan { steps } => context.out.result(&steps, |style| plan(&steps, now, style))?,
        answer @ OperatorAnswer::Prepared { key_id } => context.out.result(&answer, |_| {
            format!(
                "prepared {key_id}\nactivate it with `x0t authority activate{of_jwt}` once every node has heard of it"
            )
        })?,
        answer @ (OperatorAnswer::Changed { .. } | OperatorAnswer::Done) => {
            context.out.result(&answer, |_| "done; `x0t authority status` shows the outcome".to_owned())?;
        }
        OperatorAnswer::Refused(refused) => {
            let next = if is_import { upstream::NEXT } else { "`x0t authority plan` says what is waited for" };
            return Err(Failure::new(Exit::Denied, format!("not done: {}", refused.text)).next(next).into());
        }
        OperatorAnswer::Token { .. }
        | OperatorAnswer::Tokens { .. }
        | OperatorAnswer::Entry { .. }
        | OperatorAnswer::Entries { .. }
        | OperatorAnswer::Federation(_)
        | OperatorAnswer::Revoked { .. } => {
            return Err(Failure::new(Exit::Error, "the authority answered something else than what was asked").into());
        }
    }
    Ok(Exit::Ok)
}

fn parse(key_id: &str) -> Result<KeyId, Failure> {
    key_id.parse().map_err(|error: ParseKeyIdError| {
        Failure::new(Exit::Usage, format!("`{key_id}` names no key"))
            .because(error)
            .next("see them all with `x0t authority status`")
    })
}

impl From<KindArg> for AuthorityKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::X509 => Self::X509,
            KindArg::Jwt => Self::Jwt,
        }
    }
}

fn authorities(status: &CaStatus, now: UnixTime, style: Style) -> String {
    let row = |view: &x0t_identity::ca_life::AuthorityView| {
        vec![
            Cell::new(word(view.kind)),
            Cell::new(view.key_id),
            Cell::new(&view.state),
            Cell::new(span(view.not_after.since(now).as_secs() * 1_000)),
            Cell::new(view.nodes),
        ]
    };
    let rows = status.authorities.iter().map(row).collect();
    let table = table(style, &["SIGNS", "KEY", "STATE", "ENDS IN", "NODES"], &["NODES"], rows);
    format!("bundle {} of {}, {} live nodes\n\n{table}", status.sequence, status.trust_domain, status.live_nodes)
}

fn plan(steps: &[Step], now: UnixTime, style: Style) -> String {
    if steps.is_empty() {
        return "nothing is going to happen".to_owned();
    }
    let row = |step: &Step| {
        let waits: Vec<String> = step.waits.iter().map(ToString::to_string).collect();
        vec![
            Cell::new(span(step.due.since(now).as_secs() * 1_000)),
            Cell::new(word(step.kind)),
            Cell::new(format!("{:?}", step.action).to_lowercase()),
            Cell::new(step.key_id.map_or_else(|| "a new one".to_owned(), |key_id| key_id.to_string())),
            Cell::new(waits.join(", ")),
        ]
    };
    table(style, &["IN", "SIGNS", "STEP", "KEY", "WAITS FOR"], &[], steps.iter().map(row).collect())
}

const fn word(kind: AuthorityKind) -> &'static str {
    match kind {
        AuthorityKind::X509 => "x509",
        AuthorityKind::Jwt => "jwt",
    }
}
