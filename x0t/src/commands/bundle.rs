//! `x0t bundle show|list|set|delete`.

use std::io::Read as _;
use std::path::Path;

use comfy_table::Cell;
use x0t_identity::federation::{FOREIGN_DOCUMENT_LEN_MAX, ForeignBundle};
use x0t_identity::{Bundle, BundleView, FederationAnswer, FederationRequest};
use x0t_model::TrustDomain;

use super::Context;
use crate::cli::BundleAction;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::table;

pub async fn run(context: &Context, action: BundleAction) -> anyhow::Result<Exit> {
    let client = context.client();
    match action {
        BundleAction::Show { trust_domain } => {
            match client.federation(FederationRequest::ShowBundle { trust_domain }).await? {
                FederationAnswer::Bundle { document, .. } => {
                    // The document is JSON in either case, and a file that another trust domain can read.
                    context.out.line(&document)?;
                }
                other => return Err(unexpected(&other).into()),
            }
        }
        BundleAction::List => {
            let bundles = list(&client).await?;
            context.out.result(&bundles, |style| {
                let head = ["TRUST DOMAIN", "NUMBER", "X.509 KEYS", "JWT KEYS", "FROM", "ENTRIES"];
                let numbers = ["NUMBER", "X.509 KEYS", "JWT KEYS", "ENTRIES"];
                table(style, &head, &numbers, bundles.iter().map(row).collect())
            })?;
        }
        BundleAction::Set { trust_domain, file, force } => {
            let bundle = read(&trust_domain, &file)?;
            match client.federation(FederationRequest::SetBundle { bundle, force }).await? {
                answer @ FederationAnswer::BundleSet { changed, .. } => {
                    let verb = if changed { "kept" } else { "unchanged:" };
                    context.out.result(&answer, |_| format!("{verb} the bundle of {trust_domain}"))?;
                    if let FederationAnswer::BundleSet { bundle, .. } = &answer {
                        remark_on_use(context, bundle);
                    }
                }
                other => return Err(unexpected(&other).into()),
            }
        }
        BundleAction::Delete { trust_domain } => {
            let answer = client.federation(FederationRequest::DeleteBundle { trust_domain }).await?;
            tell_deleted(context, &answer, "the bundle")?;
        }
    }
    Ok(Exit::Ok)
}

/// The bundles that the authority keeps, its own one first.
pub async fn list(client: &Client) -> Result<Vec<BundleView>, Failure> {
    match client.federation(FederationRequest::ListBundles).await? {
        FederationAnswer::Bundles { bundles } => Ok(bundles),
        other => Err(unexpected(&other)),
    }
}

/// Reads a bundle document from a file, or from standard input.
pub fn read(trust_domain: &TrustDomain, file: &Path) -> Result<ForeignBundle, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("cannot read {}", file.display())).because(error.to_string())
    };
    let mut document = Vec::new();
    // One byte more than may be: then it is known to be too long.
    let most = FOREIGN_DOCUMENT_LEN_MAX as u64 + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut document)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(most).read_to_end(&mut document))
    };
    read.map_err(failed)?;
    let bundle = Bundle::from_json(trust_domain.clone(), &document).map_err(|error| {
        Failure::new(Exit::Usage, format!("{} holds no bundle of {trust_domain}", file.display()))
            .because(error)
            .next("it has to be a SPIFFE bundle document: `x0t bundle show` or `spire-server bundle show -format spiffe` prints one")
    })?;
    Ok(ForeignBundle::new(bundle))
}

/// Says who gets a bundle, if nobody does.
pub fn remark_on_use(context: &Context, bundle: &BundleView) {
    let trust_domain = &bundle.trust_domain;
    if bundle.x509_authorities == 0 && bundle.jwt_keys == 0 {
        context.out.warn(format!("the bundle of {trust_domain} has no keys: nobody of it is believed"));
    } else if bundle.entries == 0 && !context.out.is_json() {
        context
            .out
            .remark(format!("no entry gets it yet; let one: `x0t entry create … --federates-with {trust_domain}`"));
    }
}

/// Says what is gone, and what still names it.
pub fn tell_deleted(context: &Context, answer: &FederationAnswer, what: &str) -> anyhow::Result<()> {
    let FederationAnswer::Deleted { trust_domain, entries } = answer else { return Err(unexpected(answer).into()) };
    context.out.result(answer, |_| format!("deleted {what} of {trust_domain}"))?;
    if *entries > 0 && !context.out.is_json() {
        context
            .out
            .remark(format!("{entries} entries still federate with {trust_domain}, and get nothing of it any more"));
    }
    Ok(())
}

fn row(bundle: &BundleView) -> Vec<Cell> {
    let from = match (bundle.is_own, bundle.is_federated) {
        (true, _) => "this mesh",
        (false, true) => "its endpoint",
        (false, false) => "an operator",
    };
    vec![
        Cell::new(&bundle.trust_domain),
        Cell::new(bundle.sequence),
        Cell::new(bundle.x509_authorities),
        Cell::new(bundle.jwt_keys),
        Cell::new(from),
        Cell::new(bundle.entries),
    ]
}

/// An answer that does not belong to the question.
pub fn unexpected(answer: &FederationAnswer) -> Failure {
    Failure::new(Exit::Error, "the authority answered something else than what was asked")
        .because(format!("{answer:?}"))
        .next("is the daemon of another version? `x0t version` tells this one's")
}
