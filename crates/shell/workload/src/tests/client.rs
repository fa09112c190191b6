//! The checklist of the Workload API's client, WC-1 to WC-8, against a server that says what it is told to.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tonic::Code;
use x0t_identity::{AudienceSet, JWT_SVID_TTL_DEFAULT, JwtRequest, JwtValidator};
use x0t_model::UnixTime;

use super::authority::{TestAuthority, TestSource};
use super::endpoint::{my_uid, serve};
use super::fake_server::FakeServer;
use crate::client::{
    BackoffConfig, ClientConfig, ClientError, ContextError, Endpoint, Followed, Health, WorkloadClient, X509Context,
};
use crate::proto::spiffe::{JwtBundlesResponse, Jwtsvid, JwtsvidResponse, X509svid, X509svidResponse};
use crate::source::IdentitySource;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn quick() -> ClientConfig {
    ClientConfig {
        backoff: BackoffConfig { first: Duration::from_millis(5), longest: Duration::from_millis(20) },
        answer_deadline: Duration::from_millis(300),
        denial_grace: Duration::from_millis(100),
        ..ClientConfig::default()
    }
}

fn client(server: &FakeServer, config: ClientConfig) -> WorkloadClient {
    WorkloadClient::new(Endpoint::Unix(server.path.clone()), config)
}

fn message(authority: &TestAuthority, paths: &[&str]) -> X509svidResponse {
    let svid = |path: &&str| {
        let svid = authority.issue(&format!("{}{path}", authority.trust_domain().id_text()));
        X509svid {
            spiffe_id: svid.spiffe_id().to_string(),
            x509_svid: svid.chain()[0].to_vec(),
            x509_svid_key: svid.key_pkcs8().to_vec(),
            bundle: authority.bundle().authorities()[0].to_vec(),
            hint: String::new(),
        }
    };
    X509svidResponse { svids: paths.iter().map(svid).collect(), ..X509svidResponse::default() }
}

type Receiver = watch::Receiver<Followed<X509Context>>;

async fn until(followed: &mut Receiver, is_so: impl FnMut(&Followed<X509Context>) -> bool) -> Followed<X509Context> {
    let found = tokio::time::timeout(Duration::from_secs(20), followed.wait_for(is_so));
    found.await.expect("it becomes so").unwrap().clone()
}

fn ids(context: &X509Context) -> Vec<String> {
    context.svids().iter().map(|given| given.svid.spiffe_id().to_string()).collect()
}

#[tokio::test]
async fn our_own_server_is_followed_through_a_rotation() {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    let served = serve(source);
    let client = WorkloadClient::new(Endpoint::Unix(served.path.clone()), ClientConfig::default());
    let mut followed = client.follow_x509(|| NOW);
    let first = until(&mut followed, |followed| followed.value.is_some()).await.value.unwrap();
    assert_eq!(ids(&first), ["spiffe://mesh.test/web"]);
    served.source.rotate();
    let chain = first.default_svid().chain().to_vec();
    until(&mut followed, |followed| followed.value.as_ref().is_some_and(|new| new.default_svid().chain() != chain))
        .await;
    assert_eq!(ids(&client.fetch_x509(NOW).await.unwrap()), ["spiffe://mesh.test/web"]);
}

#[tokio::test]
async fn wc_2_every_call_carries_the_header_once() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let call = server.call().await;
    assert_eq!(call.path, "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(call.headers.get_all("workload.spiffe.io").iter().collect::<Vec<_>>(), ["true"]);
    call.end(Code::Unavailable).await;
    assert_eq!(server.call().await.headers.get_all("workload.spiffe.io").iter().count(), 1);
    drop(until(&mut followed, |followed| followed.health != Health::Waiting).await);
}

#[tokio::test]
async fn wc_3_what_may_pass_is_tried_again_and_what_may_not_is_not() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    for code in [Code::Unavailable, Code::PermissionDenied, Code::Internal, Code::Unauthenticated, Code::Ok] {
        server.call().await.end(code).await;
    }
    let authority = TestAuthority::new("mesh.test");
    let call = server.call().await;
    call.send(&message(&authority, &["/web"])).await;
    until(&mut followed, |followed| followed.health == Health::Current).await;
    drop(followed);
    call.closed().await;
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let mut followed = client(&server, quick()).follow_x509(|| NOW);
        server.call().await.end(code).await;
        let last = until(&mut followed, |followed| matches!(followed.health, Health::Refused(_))).await;
        let Health::Refused(ClientError::Status { code: said, reason }) = last.health else { panic!("not refused") };
        assert_eq!((said, reason.as_str()), (code, "as \\u{7}told"));
        assert!(followed.changed().await.is_err(), "nobody asks any more");
    }
}

#[tokio::test]
async fn wc_3_an_endpoint_that_is_not_there_yet_is_found_when_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("later.sock");
    let client = WorkloadClient::new(Endpoint::Unix(path.clone()), quick());
    let mut followed = client.follow_x509(|| NOW);
    until(&mut followed, |followed| matches!(followed.health, Health::Failing(_))).await;
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    let served = serve(source);
    std::os::unix::fs::symlink(&served.path, &path).unwrap();
    until(&mut followed, |followed| followed.health == Health::Current).await;
}

#[tokio::test]
async fn wc_4_a_message_with_something_missing_or_wrong_changes_nothing_and_later_ones_count() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let call = server.call().await;
    let authority = TestAuthority::new("mesh.test");
    let good = message(&authority, &["/web"]);
    call.send(&good).await;
    let first = until(&mut followed, |followed| followed.health == Health::Current).await;
    let stranger = TestAuthority::new("mesh.test");
    let broken = |change: &dyn Fn(&mut X509svid)| {
        let mut message = message(&authority, &["/web", "/api"]);
        change(&mut message.svids[1]);
        message
    };
    let other_key = authority.issue("spiffe://mesh.test/api").key_pkcs8().to_vec();
    let foreign = stranger.bundle().authorities()[0].to_vec();
    let messages = [
        X509svidResponse::default(),
        broken(&|svid| svid.spiffe_id.clear()),
        broken(&|svid| svid.x509_svid.clear()),
        broken(&|svid| svid.x509_svid_key.clear()),
        broken(&|svid| svid.bundle.clear()),
        broken(&|svid| svid.spiffe_id = "spiffe://mesh.test/other".into()),
        broken(&|svid| svid.spiffe_id = "mesh.test/api".into()),
        broken(&|svid| svid.x509_svid_key.clone_from(&other_key)),
        broken(&|svid| svid.bundle.clone_from(&foreign)),
        broken(&|svid| svid.x509_svid.truncate(100)),
        broken(&|svid| svid.x509_svid_key.truncate(20)),
    ];
    for message in messages {
        call.send(&message).await;
        let after =
            until(&mut followed, |followed| matches!(&followed.health, Health::Failing(ClientError::Content(_)))).await;
        assert_eq!(ids(&after.value.unwrap()), ids(first.value.as_ref().unwrap()));
        call.send(&good).await;
        until(&mut followed, |followed| followed.health == Health::Current).await;
    }
    call.send(&message_of(&authority)).await;
    until(&mut followed, |followed| followed.value.as_ref().is_some_and(|context| context.svids().len() == 2)).await;
}

fn message_of(authority: &TestAuthority) -> X509svidResponse {
    message(authority, &["/web", "/api"])
}

#[tokio::test]
async fn wc_4_bytes_that_are_no_message_cost_the_stream_and_not_what_is_known() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, ClientConfig { message_len_max: 100_000, ..quick() }).follow_x509(|| NOW);
    let authority = TestAuthority::new("mesh.test");
    let good = message(&authority, &["/web"]);
    let noise = [
        Bytes::from_static(b"\0\0\0\0\x03\xff\xff\xff"),
        // Longer than is taken.
        Bytes::from_static(b"\0\x7f\xff\xff\xff"),
        Bytes::from_static(b"\x02\0\0\0\0"),
        // Said to be compressed.
        Bytes::from_static(b"\x01\0\0\0\0"),
    ];
    for bytes in noise {
        let call = server.call().await;
        call.send(&good).await;
        until(&mut followed, |followed| followed.health == Health::Current).await;
        call.send_raw(bytes).await;
        let after = until(&mut followed, |followed| matches!(followed.health, Health::Failing(_))).await;
        assert_eq!(ids(&after.value.unwrap()), ["spiffe://mesh.test/web"]);
        call.closed().await;
    }
}

#[tokio::test]
async fn wc_5_what_is_not_in_a_message_is_gone() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let call = server.call().await;
    let (authority, other) = (TestAuthority::new("mesh.test"), TestAuthority::new("other.test"));
    let mut full = message(&authority, &["/web", "/api"]);
    full.federated_bundles.insert("spiffe://other.test".into(), other.bundle().authorities()[0].to_vec());
    full.crl.push(b"list".to_vec());
    call.send(&full).await;
    let first = until(&mut followed, |followed| followed.value.is_some()).await.value.unwrap();
    assert_eq!((first.svids().len(), first.bundles().len(), first.crls().len()), (2, 2, 1));
    call.send(&message(&authority, &["/web"])).await;
    let second =
        until(&mut followed, |followed| followed.value.as_ref().is_some_and(|new| new.svids().len() == 1)).await;
    let second = second.value.unwrap();
    assert_eq!((second.bundles().len(), second.crls().len()), (1, 0));
}

#[tokio::test]
async fn wc_6_svids_are_out_of_use_soon_after_the_server_says_that_there_are_none() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let authority = TestAuthority::new("mesh.test");
    let good = message(&authority, &["/web"]);
    let call = server.call().await;
    call.send(&good).await;
    until(&mut followed, |followed| followed.value.is_some()).await;
    // An agent that has just started: denied once, and then not.
    call.end(Code::PermissionDenied).await;
    let call = server.call().await;
    assert!(followed.borrow().value.is_some());
    call.send(&good).await;
    until(&mut followed, |followed| followed.health == Health::Current).await;
    call.end(Code::PermissionDenied).await;
    let denied = async {
        loop {
            server.call().await.end(Code::PermissionDenied).await;
        }
    };
    tokio::select! {
        () = denied => {}
        gone = until(&mut followed, |followed| followed.value.is_none()) => {
            assert!(matches!(gone.health, Health::Failing(error) if error.is_denial()));
        }
    }
}

#[tokio::test]
async fn wc_7_a_message_beyond_four_mebibytes_is_taken() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let mut big = message(&TestAuthority::new("mesh.test"), &["/web"]);
    big.crl.push(vec![7; 6 << 20]);
    server.call().await.send(&big).await;
    let value = until(&mut followed, |followed| followed.value.is_some()).await.value.unwrap();
    assert_eq!(value.crls()[0].len(), 6 << 20);
}

#[tokio::test]
async fn wc_8_the_same_message_again_is_no_news() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let call = server.call().await;
    let authority = TestAuthority::new("mesh.test");
    let good = message(&authority, &["/web"]);
    call.send(&good).await;
    let first = until(&mut followed, |followed| followed.value.is_some()).await.value.unwrap();
    followed.mark_unchanged();
    call.send(&good).await;
    call.send(&good).await;
    call.send(&message(&authority, &["/web", "/api"])).await;
    followed.changed().await.unwrap();
    let second = followed.borrow_and_update().value.clone().unwrap();
    assert_eq!((first.svids().len(), second.svids().len()), (1, 2));
}

#[tokio::test]
async fn wc_8_a_foreign_bundle_that_is_not_usable_costs_only_itself() {
    let mut server = FakeServer::start();
    let client = client(&server, quick());
    let authority = TestAuthority::new("mesh.test");
    let mut message = message(&authority, &["/web"]);
    message.federated_bundles.insert("spiffe://empty.test".into(), Vec::new());
    // A leaf where an authority should be.
    let leaf = authority.issue("spiffe://mesh.test/web").chain()[0].to_vec();
    message.federated_bundles.insert("spiffe://other.test".into(), leaf);
    // The bundle of the own trust domain comes with the SVID, and nothing else replaces it.
    message.federated_bundles.insert("spiffe://mesh.test".into(), Vec::new());
    let (context, ()) = tokio::join!(client.fetch_x509(NOW), async { server.call().await.send(&message).await });
    let context = context.unwrap();
    let known: Vec<_> = context.bundles().iter().map(|bundle| bundle.trust_domain().as_str()).collect();
    assert_eq!(known, ["empty.test", "mesh.test"]);
    assert_eq!(context.bundles().get(&"mesh.test".parse().unwrap()).unwrap().authorities().len(), 1);
    assert_eq!(context.refused().len(), 1);
}

#[tokio::test]
async fn wc_8_an_expired_svid_is_not_taken() {
    let mut server = FakeServer::start();
    let client = client(&server, quick());
    let message = message(&TestAuthority::new("mesh.test"), &["/web"]);
    let later = UnixTime::from_secs(10_000_000_000);
    let (context, ()) = tokio::join!(client.fetch_x509(later), async { server.call().await.send(&message).await });
    assert!(matches!(context, Err(ClientError::Content(ContextError::Unverified { .. }))));
}

#[tokio::test]
async fn tokens_are_fetched_validated_and_checked_against_followed_keys() {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    let served = serve(source);
    let now = served.source.now();
    let client = WorkloadClient::new(Endpoint::Unix(served.path.clone()), ClientConfig::default());
    let audience = AudienceSet::parse(["db", "cache"]).unwrap();
    let given = client.fetch_jwt(&audience, None, now).await.unwrap();
    let token = given[0].svid.token();
    let validated = client.validate_jwt(&"db".parse().unwrap(), token).await.unwrap();
    assert_eq!(validated.spiffe_id.to_string(), "spiffe://mesh.test/web");
    assert_eq!(validated.claims["aud"], serde_json::json!(["cache", "db"]));
    assert!(validated.claims["exp"].is_u64());
    let mut keys = client.follow_jwt_bundles();
    let keys = keys.wait_for(|followed| followed.value.is_some()).await.unwrap().value.clone().unwrap();
    JwtValidator::default().validate(token, &audience, &keys, now).unwrap();
    let refused = client.validate_jwt(&"elsewhere".parse().unwrap(), token).await.unwrap_err();
    assert!(matches!(refused, ClientError::Status { code: Code::InvalidArgument, .. }));
}

#[tokio::test]
async fn wc_8_a_token_that_was_not_asked_for_is_not_taken() {
    let mut server = FakeServer::start();
    let client = client(&server, quick());
    let authority = TestAuthority::new("mesh.test");
    let asked = AudienceSet::parse(["db"]).unwrap();
    let token = |id: &str, audience: &str, said: &str| {
        let (id, audience) = (id.parse().unwrap(), AudienceSet::parse([audience]).unwrap());
        let request = JwtRequest { spiffe_id: &id, audience: &audience, ttl: JWT_SVID_TTL_DEFAULT, jti: None };
        let svid = authority.jwt_key.mint(&request, NOW).unwrap().token().to_owned();
        JwtsvidResponse { svids: vec![Jwtsvid { spiffe_id: said.to_owned(), svid, hint: String::new() }] }
    };
    let web = "spiffe://mesh.test/web";
    let answers = [
        token("spiffe://mesh.test/api", "db", web),
        token("spiffe://mesh.test/api", "db", "spiffe://mesh.test/api"),
        token(web, "elsewhere", web),
        token(web, "db", ""),
        JwtsvidResponse::default(),
        JwtsvidResponse { svids: vec![Jwtsvid { spiffe_id: web.into(), svid: "a.b.c".into(), hint: String::new() }] },
    ];
    let id = web.parse().unwrap();
    for answer in answers {
        let (given, ()) = tokio::join!(client.fetch_jwt(&asked, Some(&id), NOW), async {
            let call = server.call().await;
            call.send(&answer).await;
            call.end(Code::Ok).await;
        });
        assert!(matches!(given, Err(ClientError::Content(_))), "{given:?}");
    }
}

#[tokio::test]
async fn wc_4_keys_that_are_no_document_change_nothing() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_jwt_bundles();
    let call = server.call().await;
    assert_eq!(call.path, "/SpiffeWorkloadAPI/FetchJWTBundles");
    let jwks = TestAuthority::new("mesh.test").bundle().to_jwks();
    let bundles =
        |jwks: &[u8]| JwtBundlesResponse { bundles: [("spiffe://mesh.test".to_owned(), jwks.to_vec())].into() };
    call.send(&bundles(&jwks)).await;
    let first = followed.wait_for(|followed| followed.value.is_some()).await.unwrap().value.clone().unwrap();
    for bad in [JwtBundlesResponse::default(), bundles(b""), bundles(b"{"), bundles(b"[]")] {
        call.send(&bad).await;
        let after = followed.wait_for(|followed| matches!(followed.health, Health::Failing(_))).await.unwrap().clone();
        assert_eq!(after.value.unwrap(), first);
        call.send(&bundles(&jwks)).await;
        followed.wait_for(|followed| followed.health == Health::Current).await.unwrap();
    }
    // An empty set is a statement: nobody there is to be believed.
    call.send(&bundles(b"{\"keys\":[]}")).await;
    let none =
        followed.wait_for(|followed| followed.value.as_ref() != Some(&first)).await.unwrap().value.clone().unwrap();
    assert!(none.get(&"mesh.test".parse().unwrap()).unwrap().jwt_keys().is_empty());
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_deadline_and_asked_again() {
    let mut server = FakeServer::start();
    let mut followed = client(&server, quick()).follow_x509(|| NOW);
    let silent = server.call().await;
    until(&mut followed, |followed| matches!(followed.health, Health::Failing(ClientError::Silent(_)))).await;
    silent.closed().await;
    let call = server.call().await;
    call.send(&message(&TestAuthority::new("mesh.test"), &["/web"])).await;
    until(&mut followed, |followed| followed.health == Health::Current).await;
}

#[tokio::test]
async fn who_no_longer_listens_no_longer_asks() {
    let mut server = FakeServer::start();
    let followed = client(&server, quick()).follow_x509(|| NOW);
    let call = server.call().await;
    drop(followed);
    call.closed().await;
}
