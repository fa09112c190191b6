//! `x0t federation create|list|show|refresh|delete`.

use comfy_table::Cell;
use x0t_identity::federation::{EndpointProfile, FederationRelationship, RelationshipStatus};
use x0t_identity::{FederationAnswer, FederationRequest};
use x0t_model::{TrustDomain, UnixTime};
use x0t_runtime::clock::Clock;

use super::Context;
use super::bundle::{read, tell_deleted, unexpected};
use crate::beside::FederationAsk;
use crate::cli::{FederationAction, FederationCreateArgs, ProfileArg};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Progress, span, table};

pub async fn run(context: &Context, action: FederationAction) -> anyhow::Result<Exit> {
    let client = context.client();
    match action {
        FederationAction::Create(args) => return create(context, &client, args).await,
        FederationAction::List => {
            let statuses = client.relationships(&FederationAsk::Statuses).await?;
            let now = Clock.wall();
            context.out.result(&statuses, |style| {
                let rows = statuses.iter().map(|status| row(status, now)).collect();
                table(style, &["TRUST DOMAIN", "ENDPOINT", "NUMBER", "FETCHED", "STATE"], &["NUMBER"], rows)
            })?;
        }
        FederationAction::Show { trust_domain } => {
            let statuses = client.relationships(&FederationAsk::Statuses).await?;
            let found = statuses.into_iter().find(|status| status.relationship.trust_domain == trust_domain);
            let status = found.ok_or_else(|| unknown(&trust_domain))?;
            context.out.result(&status, |_| describe(&status, Clock.wall()))?;
        }
        FederationAction::Refresh { trust_domain } => {
            let status = refresh(&client, trust_domain).await?;
            context.out.result(&status, |_| describe(&status, Clock.wall()))?;
            return Ok(ended(&status));
        }
        FederationAction::Delete { trust_domain } => {
            let answer = client.federation(FederationRequest::DeleteRelationship { trust_domain }).await?;
            tell_deleted(context, &answer, "the relationship and the bundle")?;
        }
    }
    Ok(Exit::Ok)
}

async fn create(context: &Context, client: &Client, args: FederationCreateArgs) -> anyhow::Result<Exit> {
    let FederationCreateArgs { trust_domain, url, profile, endpoint_id, bootstrap, replace } = args;
    let profile = match (profile, endpoint_id) {
        (ProfileArg::HttpsSpiffe, Some(endpoint_id)) => EndpointProfile::HttpsSpiffe { endpoint_id },
        (ProfileArg::HttpsWeb, None) => EndpointProfile::HttpsWeb,
        (ProfileArg::HttpsWeb, Some(_)) | (ProfileArg::HttpsSpiffe, None) => {
            return Err(Failure::new(
                Exit::Usage,
                "`--endpoint-id` belongs to `--profile https_spiffe`, and to it alone",
            )
            .into());
        }
    };
    let bootstrap = bootstrap.map(|file| read(&trust_domain, &file)).transpose()?;
    let relationship = FederationRelationship { trust_domain: trust_domain.clone(), url, profile };
    let request = FederationRequest::CreateRelationship { relationship, bootstrap, replace };
    match client.federation(request).await? {
        FederationAnswer::Relationship { .. } => {}
        other => return Err(unexpected(&other).into()),
    }
    let progress = Progress::new("asking the bundle endpoint");
    let status = refresh(client, trust_domain.clone()).await;
    progress.finish();
    let status = status?;
    context.out.result(&status, |_| describe(&status, Clock.wall()))?;
    if status.last_error.is_some() {
        context.out.warn("the relationship is kept, and the endpoint gave no usable bundle yet; it is asked again");
        context.out.remark(format!("once the cause is mended: `x0t federation refresh {trust_domain}`"));
    } else if !context.out.is_json() {
        context
            .out
            .remark(format!("let processes have the bundle: `x0t entry create … --federates-with {trust_domain}`"));
    }
    Ok(ended(&status))
}

async fn refresh(client: &Client, trust_domain: TrustDomain) -> Result<RelationshipStatus, Failure> {
    let statuses = client.relationships(&FederationAsk::Refresh { trust_domain: trust_domain.clone() }).await?;
    statuses.into_iter().next().ok_or_else(|| unknown(&trust_domain))
}

const fn ended(status: &RelationshipStatus) -> Exit {
    if status.last_error.is_some() { Exit::Degraded } else { Exit::Ok }
}

fn row(status: &RelationshipStatus, now: UnixTime) -> Vec<Cell> {
    let fetched = status.last_success.map_or_else(|| "never".to_owned(), |at| ago(at, now));
    let state = status.last_error.as_ref().map_or("well", |error| error.code.as_str());
    vec![
        Cell::new(&status.relationship.trust_domain),
        Cell::new(&status.relationship.url),
        Cell::new(number(status)),
        Cell::new(fetched),
        Cell::new(state),
    ]
}

fn number(status: &RelationshipStatus) -> String {
    status.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string())
}

fn describe(status: &RelationshipStatus, now: UnixTime) -> String {
    let FederationRelationship { trust_domain, url, profile } = &status.relationship;
    let mut lines = vec![
        format!("trust domain  {trust_domain}"),
        format!("endpoint      {url}"),
        format!("profile       {profile}"),
    ];
    lines.extend(status.sequence.map(|sequence| format!("number        {sequence}")));
    lines.extend(status.last_success.map(|at| format!("fetched       {}", ago(at, now))));
    if let Some(error) = &status.last_error {
        lines.push(format!("failed        {} ({})", error.text, error.code));
        lines.push(format!("failures      {} since it last worked", status.failures));
    }
    lines.push(if status.is_fetching {
        "next          now".to_owned()
    } else {
        format!("next          in {}", span(status.next.since(now).as_secs() * 1_000))
    });
    lines.join("\n")
}

fn ago(at: UnixTime, now: UnixTime) -> String {
    match now.since(at).as_secs() {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", span(seconds * 1_000)),
    }
}

fn unknown(trust_domain: &TrustDomain) -> Failure {
    Failure::new(Exit::Usage, format!("there is no federation relationship with {trust_domain}"))
        .next("see them all with `x0t federation list`")
}
