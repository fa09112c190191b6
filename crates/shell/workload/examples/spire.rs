//! Administers a SPIRE server and follows an identity across regions, in JSON lines: what `tests/interop/spire.py` drives.
//!
//! ```text
//! spire admin SOCKET health | token [ALIAS] | agents | bundle
//! spire admin SOCKET create SPIFFE-ID PARENT SELECTOR... | list | show ID | delete ID...
//! spire admin SOCKET keys|prepare x509|jwt     spire admin SOCKET activate|taint|revoke x509|jwt KEY
//! spire admin SOCKET evict|ban AGENT
//! spire jwt SOCKET AUDIENCE
//! spire follow REGIONS INTERVAL THRESHOLD TIMEOUT     until standard input ends
//! ```
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "a program of its own: its clock is the host's")]

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use x0t_identity::region_failover::{FailoverSettings, RegionsView};
use x0t_identity::{AudienceSet, EntryId, EntrySpec, Parent, Selectors};
use x0t_model::UnixTime;
use x0t_workload::client::{ClientConfig, Endpoint, WorkloadClient};
use x0t_workload::regions::{Given, HealthProber, Regions};
use x0t_workload::spire::{Created, EntryFilter, KeyKind, SpireConfig, SpireServer};

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["admin", socket, what @ ..] => {
            let server = SpireServer::at(Path::new(socket), SpireConfig::default());
            println!("{}", administer(&server, what).await?);
            Ok(())
        }
        ["jwt", socket, audience] => {
            println!("{}", token(socket, audience).await?);
            Ok(())
        }
        ["follow", regions, interval, threshold, timeout] => follow(regions, interval, threshold, timeout).await,
        _ => bail!("spire admin SOCKET COMMAND..., or spire follow REGIONS INTERVAL THRESHOLD TIMEOUT"),
    }
}

async fn administer(server: &SpireServer, what: &[&str]) -> Result<Value> {
    Ok(match what {
        ["health"] => json!({ "serving": server.is_serving().await? }),
        ["token", alias @ ..] => {
            let alias = alias.first().map(|alias| alias.parse()).transpose()?;
            let token = server.create_join_token(Duration::from_secs(600), alias.as_ref()).await?;
            json!({ "token": *token.value, "expires_at": token.expires_at })
        }
        ["agents"] => json!(server.list_agents().await?),
        ["evict", id] => json!(server.evict_agent(&id.parse()?).await?),
        ["ban", id] => json!(server.ban_agent(&id.parse()?).await?),
        ["bundle"] => {
            let bundle = server.bundle().await?;
            let tainted = bundle.x509_authorities.iter().filter(|(_, tainted)| *tainted).count();
            json!({ "trust_domain": bundle.trust_domain.to_string(), "sequence": bundle.sequence,
                    "x509_authorities": bundle.x509_authorities.len(), "x509_tainted": tainted,
                    "jwt_authorities": bundle.jwt_authorities.len() })
        }
        ["create", id, parent, selectors @ ..] => {
            let selectors: Result<Vec<_>, _> = selectors.iter().map(|selector| selector.parse()).collect();
            let spec = EntrySpec {
                federates_with: [].into(),
                ..EntrySpec::new(id.parse()?, Parent::Node(parent.parse()?), Selectors::new(selectors?)?)
            };
            let mut created = server.create_entries(&[spec]).await?;
            match created.pop().context("no result")?? {
                Created::New(entry) => json!({ "created": true, "entry": entry }),
                Created::Existed(entry) => json!({ "created": false, "entry": entry }),
            }
        }
        ["list"] => json!(server.list_entries(&EntryFilter::default()).await?),
        ["show", id] => json!(server.entry(&id.parse()?).await?),
        ["delete", ids @ ..] => {
            let ids: Result<Vec<EntryId>, _> = ids.iter().map(|id| id.parse()).collect();
            let results = server.delete_entries(&ids?).await?;
            let said =
                results.into_iter().map(|result| result.map_or_else(|error| error.to_string(), |()| "ok".into()));
            json!(said.collect::<Vec<String>>())
        }
        ["keys", kind] => json!(server.keys(key_kind(kind)?).await?),
        ["prepare", kind] => json!(server.prepare_key(key_kind(kind)?).await?),
        ["activate", kind, id] => json!(server.activate_key(key_kind(kind)?, id).await?),
        ["taint", kind, id] => json!(server.taint_key(key_kind(kind)?, id).await?),
        ["revoke", kind, id] => json!(server.revoke_key(key_kind(kind)?, id).await?),
        _ => bail!("unknown command {what:?}"),
    })
}

/// A token of the Workload API at `socket`, and what that API says of it and of a token for somebody else.
async fn token(socket: &str, audience: &str) -> Result<Value> {
    let client = WorkloadClient::new(Endpoint::Unix(socket.into()), ClientConfig::default());
    let given = client.fetch_jwt(&AudienceSet::parse([audience])?, None, now()).await?;
    let svid = &given.first().context("no token")?.svid;
    let valid = client.validate_jwt(&audience.parse()?, svid.token()).await?;
    let for_another = client.validate_jwt(&"somebody-else".parse()?, svid.token()).await;
    Ok(json!({ "spiffe_id": valid.spiffe_id.to_string(), "expires_at": svid.expires_at(),
               "key_id": svid.key_id().map(ToString::to_string), "for_another": for_another.is_ok() }))
}

fn key_kind(text: &str) -> Result<KeyKind> {
    match text {
        "x509" => Ok(KeyKind::X509),
        "jwt" => Ok(KeyKind::Jwt),
        _ => Err(anyhow!("`{text}` is neither x509 nor jwt")),
    }
}

async fn follow(regions: &str, interval: &str, threshold: &str, timeout: &str) -> Result<()> {
    let config = FailoverSettings::parse_environment(regions, Some(interval), Some(threshold), Some(timeout))?;
    let (regions, driver) = Regions::new(config, [1; 32]);
    let mut events = regions.events();
    tokio::spawn(driver.drive(HealthProber::new(None)?));
    let mut given = regions.follow_x509(ClientConfig::default(), now);
    let (line, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for read in std::io::stdin().lines() {
            if read.is_err() || line.blocking_send(()).is_err() {
                break;
            }
        }
    });
    loop {
        tokio::select! {
            changed = given.changed() => {
                changed?;
                println!("{}", said(&given.borrow_and_update(), &regions));
            }
            event = events.recv() => println!("{}", json!({ "at": seconds(), "region_event": event? })),
            read = lines.recv() => match read {
                None => return Ok(()),
                Some(()) => {
                    let view: RegionsView = regions.view();
                    println!("{}", json!({ "at": seconds(), "view": view }));
                }
            }
        }
    }
}

fn said(given: &Given, regions: &Regions) -> Value {
    let region = given.from.and_then(|index| regions.config().regions().get(index)).map(|region| &region.name);
    let svid = given.context.as_ref().map(|context| {
        let svid = context.default_svid();
        json!({ "spiffe_id": svid.spiffe_id().to_string(), "not_after": svid.not_after(), "svids": context.svids().len(),
                "authorities": context.bundles().get(svid.spiffe_id().trust_domain()).map(|bundle| bundle.authorities().len()) })
    });
    json!({ "at": seconds(), "serving": format!("{:?}", given.serving), "from": region, "svid": svid })
}

fn now() -> UnixTime {
    UnixTime::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
