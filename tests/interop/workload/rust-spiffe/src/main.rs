//! rust-spiffe (crates.io `spiffe`) as a workload. Prints a word when it wants the endpoint told something, and `passed` at the end.

use std::time::Duration;

use spiffe::{BundleSource as _, JwtSource, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source};
use tokio::time::timeout;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WEB: &str = "spiffe://mesh.test/web";
const API: &str = "spiffe://mesh.test/api";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let client = WorkloadApiClient::connect_env().await?;
    x509(&client).await?;
    jwt(&client).await?;
    println!("passed");
    Ok(())
}

/// Fetches once, then follows a rotation and a federation that comes and goes.
async fn x509(client: &WorkloadApiClient) -> Result<(), Failure> {
    let (own, other) = (TrustDomain::new("mesh.test")?, TrustDomain::new("other.test")?);
    let given = client.fetch_all_x509_svids().await?;
    let ids: Vec<String> = given.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    assert_eq!(ids, [WEB, API]);
    assert_eq!(given[0].hint(), Some("internal"));
    assert!(client.fetch_x509_bundles().await?.get(&own).is_some());

    let source = X509Source::new().await?;
    let before = source.svid()?.leaf().clone();
    assert_eq!(source.svid()?.spiffe_id().to_string(), WEB);
    assert!(source.bundle_for_trust_domain(&own)?.is_some());
    until(&source, "rotate", || Ok(*source.svid()?.leaf() != before)).await?;
    until(&source, "federate", || Ok(source.bundle_for_trust_domain(&other)?.is_some())).await?;
    until(&source, "defederate", || Ok(source.bundle_for_trust_domain(&other)?.is_none())).await?;
    assert!(source.is_healthy());
    source.shutdown().await;
    Ok(())
}

/// Has the endpoint told `word`, and waits until `holds`.
async fn until(source: &X509Source, word: &str, holds: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let mut updates = source.updated();
    println!("{word}");
    while !holds()? {
        timeout(Duration::from_secs(20), updates.changed()).await.map_err(|_| format!("nothing after {word}"))??;
    }
    Ok(())
}

/// Tokens: fetched, validated by the endpoint, and by the library with the keys of the endpoint.
async fn jwt(client: &WorkloadApiClient) -> Result<(), Failure> {
    let source = JwtSource::new().await?;
    let token = source.fetch_jwt_svid(["db", "cache"]).await?;
    assert_eq!(token.spiffe_id().to_string(), WEB);
    let api: SpiffeId = API.parse()?;
    assert_eq!(source.fetch_jwt_svid_with_id(["db"], Some(&api)).await?.spiffe_id(), &api);
    assert_eq!(client.fetch_all_jwt_svids(["db"], None).await?.len(), 2);
    let foreign: SpiffeId = "spiffe://mesh.test/other".parse()?;
    assert!(client.fetch_jwt_svid(["db"], Some(&foreign)).await.is_err(), "a token of somebody else");

    assert_eq!(client.validate_jwt_token("cache", token.token()).await?.spiffe_id().to_string(), WEB);
    assert!(client.validate_jwt_token("elsewhere", token.token()).await.is_err(), "another audience");
    let validated = JwtSvid::parse_and_validate(token.token(), &source, &["db"])?;
    assert_eq!(validated.spiffe_id().to_string(), WEB);
    assert!(JwtSvid::parse_and_validate(token.token(), &source, &["elsewhere"]).is_err(), "another audience");
    source.shutdown().await;
    Ok(())
}
