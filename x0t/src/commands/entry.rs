//! `x0t entry create|list|show|delete`.

use comfy_table::Cell;
use serde::Serialize;
use x0t_identity::{Entry, EntryId, EntrySpec, OperatorAnswer, OperatorRequest, Parent, Selectors};
use x0t_model::{SpiffeId, TrustDomain, UnixTime};
use x0t_runtime::clock::Clock;

use super::{Context, spire};
use crate::cli::{AuthorityArg, EntryAction, EntryArgs, EntryCreateArgs};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{span, table};

pub async fn run(context: &Context, args: EntryArgs) -> anyhow::Result<Exit> {
    let EntryArgs { keeper, action } = args;
    if keeper.authority == AuthorityArg::Spire {
        return spire::entries(context, &keeper.server, action).await;
    }
    let client = context.client();
    match action {
        EntryAction::Create(args) => create(context, &client, args).await?,
        EntryAction::List => {
            let entries = list(&client).await?;
            context.out.result(&entries, |style| {
                let rows = entries.iter().map(row).collect();
                table(style, &["ID", "SPIFFE ID", "NODE", "SELECTORS"], &[], rows)
            })?;
        }
        EntryAction::Show { id } => {
            let entry = list(&client).await?.into_iter().find(|entry| entry.id == id).ok_or_else(|| unknown(&id))?;
            context.out.result(&entry, |_| describe(&entry))?;
        }
        EntryAction::Delete { id, revoke } => {
            let request = OperatorRequest::DeleteEntry { id: id.clone(), revoke };
            let revoked = match client.authority(&request).await? {
                OperatorAnswer::Done => None,
                OperatorAnswer::Revoked { svids, complete_from } => Some(Revoked::new(svids, complete_from)),
                other => return Err(not_done(other, "deleted").into()),
            };
            context.out.result(&Deleted { deleted: &id, revoked }, |_| match revoked {
                None => format!("deleted entry {id}"),
                Some(revoked) => format!("deleted entry {id}\n{}", revoked.text()),
            })?;
        }
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
pub struct Deleted<'a> {
    pub deleted: &'a EntryId,
    pub revoked: Option<Revoked>,
}

/// What was put on the revocation list.
#[derive(Clone, Copy, Serialize)]
pub struct Revoked {
    svids: usize,
    complete_from: Option<UnixTime>,
}

impl Revoked {
    /// From what the authority answers.
    pub const fn new(svids: usize, complete_from: Option<UnixTime>) -> Self {
        Self { svids, complete_from }
    }

    /// In words.
    pub fn text(self) -> String {
        let put = format!("{} X.509-SVIDs are on the revocation list", self.svids);
        match self.complete_from {
            None => put,
            Some(end) => {
                let left = span(end.since(Clock.wall()).as_secs() * 1_000);
                format!(
                    "{put}; others may be valid for up to {left}: the authority has restarted since they were issued"
                )
            }
        }
    }
}

async fn create(context: &Context, client: &Client, args: EntryCreateArgs) -> anyhow::Result<()> {
    let status = client.status().await?;
    let domain = status.spiffe_id.trust_domain();
    let parent = match args.node.as_deref() {
        None => Parent::Node(status.spiffe_id.clone()),
        Some("any") => Parent::AnyNode,
        Some(name) if name.contains("://") => {
            Parent::Node(name.parse().map_err(|error| usage("--node", name, &error))?)
        }
        Some(name) => Parent::Node(SpiffeId::node(domain, name).map_err(|error| usage("--node", name, &error))?),
    };
    let spec = spec(args, parent, domain)?;
    match client.authority(&OperatorRequest::CreateEntry(spec)).await? {
        OperatorAnswer::Entry { entry } => {
            context.out.result(&entry, |_| describe(&entry))?;
            warn_of_missing_bundles(context, client, &entry).await
        }
        other => Err(not_done(other, "created").into()),
    }
}

/// What the flags say.
pub fn spec(args: EntryCreateArgs, parent: Parent, domain: &TrustDomain) -> Result<EntrySpec, Failure> {
    let selectors = Selectors::new(args.selectors).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(EntrySpec {
        x509_ttl: args.x509_ttl,
        jwt_ttl: args.jwt_ttl,
        dns_names: args.dns_names,
        federates_with: args.federates_with.into_iter().collect(),
        hint: args.hint,
        expires_at: args.expires_in.map(|after| Clock.wall() + after),
        ..EntrySpec::new(full_id(&args.spiffe_id, domain)?, parent, selectors)
    })
}

/// An entry may be there before the bundles that it names; whoever made a typing error should hear of it.
async fn warn_of_missing_bundles(context: &Context, client: &Client, entry: &Entry) -> anyhow::Result<()> {
    if entry.spec.federates_with.is_empty() {
        return Ok(());
    }
    let bundles = super::bundle::list(client).await?;
    for domain in &entry.spec.federates_with {
        if !bundles.iter().any(|bundle| bundle.trust_domain == *domain) {
            context.out.warn(format!("there is no bundle of {domain} yet: these processes cannot check anybody of it"));
            context.out.remark(format!(
                "fetch it with `x0t federation create {domain} URL …`, or keep one with `x0t bundle set {domain} FILE`"
            ));
        }
    }
    Ok(())
}

/// `/web`, `web` or a whole SPIFFE ID.
pub fn full_id(text: &str, domain: &TrustDomain) -> Result<SpiffeId, Failure> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("{}/{}", domain.id_text(), text.trim_start_matches('/'))
    };
    full.parse().map_err(|error| usage("the SPIFFE ID", text, &error))
}

async fn list(client: &Client) -> Result<Vec<Entry>, Failure> {
    match client.authority(&OperatorRequest::ListEntries).await? {
        OperatorAnswer::Entries { entries } => Ok(entries),
        other => Err(not_done(other, "listed")),
    }
}

fn row(entry: &Entry) -> Vec<Cell> {
    let selectors: Vec<&str> = entry.spec.selectors.iter().map(x0t_identity::Selector::as_str).collect();
    let parent = match &entry.spec.parent {
        Parent::Node(node) => node.node_name().unwrap_or_default().to_owned(),
        Parent::AnyNode => "any".to_owned(),
    };
    vec![Cell::new(&entry.id), Cell::new(&entry.spec.spiffe_id), Cell::new(parent), Cell::new(selectors.join(", "))]
}

/// An entry, a line for each thing that it says.
pub fn describe(entry: &Entry) -> String {
    let spec = &entry.spec;
    let mut lines = vec![
        format!("entry      {}", entry.id),
        format!("identity   {}", spec.spiffe_id),
        format!("node       {}", spec.parent),
    ];
    lines.extend(spec.selectors.iter().map(|selector| format!("selector   {selector}")));
    lines.extend(spec.x509_ttl.map(|ttl| format!("x509 life  {} s", ttl.as_secs())));
    lines.extend(spec.jwt_ttl.map(|ttl| format!("jwt life   {} s", ttl.as_secs())));
    lines.extend(spec.dns_names.iter().map(|name| format!("dns name   {name}")));
    lines.extend(spec.federates_with.iter().map(|domain| format!("federates  {domain}")));
    lines.extend(spec.hint.iter().map(|hint| format!("hint       {hint}")));
    lines.extend(spec.expires_at.map(|end| format!("expires    {} (seconds since 1970)", end.as_secs())));
    lines.join("\n")
}

fn usage(what: &str, text: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{what} `{text}` cannot be used")).because(error.to_string())
}

fn unknown(id: &EntryId) -> Failure {
    Failure::new(Exit::Usage, format!("there is no entry {id}")).next("see them all with `x0t entry list`")
}

fn not_done(answer: OperatorAnswer, done: &str) -> Failure {
    match answer {
        OperatorAnswer::Refused(refused) => {
            let exit = if refused.code == "unknown_entry" { Exit::Usage } else { Exit::Denied };
            Failure::new(exit, format!("the entry was not {done}: {}", refused.text))
        }
        _ => Failure::new(Exit::Error, "the authority answered something else than what was asked")
            .next("is the daemon of another version? `x0t version` tells this one's"),
    }
}
