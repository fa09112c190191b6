//! The checklist of the Workload API's server, WS-1 to WS-14.

use std::time::Duration;

use prost_types::value::Kind;
use rustls_pki_types::CertificateDer;
use tonic::Code;
use x0t_identity::{
    AudienceSet, Bundle, BundleMap, JWT_SVID_TTL_DEFAULT, JwtRequest, JwtValidator, PrivateKey, Svid, verify_chain,
};

use super::authority::{TestAuthority, TestSource};
use super::endpoint::{Client, Served, Stream, my_uid, serve};
use crate::proto::spiffe::{
    JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    X509BundlesResponse, X509svidResponse,
};
use crate::source::{IdentitySource, SourceError};

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";
const JWT: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";
const JWT_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchJWTBundles";
const VALIDATE: &str = "/SpiffeWorkloadAPI/ValidateJWTSVID";

/// One entry, `/web`, for whoever runs the tests.
fn served() -> Served {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    serve(source)
}

async fn svids(client: &Client) -> Stream<X509svidResponse> {
    client.open(X509, ()).await.unwrap()
}

fn ids(message: &X509svidResponse) -> Vec<&str> {
    message.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

async fn refusal(client: &Client, method: &'static str, header: &[&'static str]) -> Code {
    match client.open_with::<(), ()>(method, (), header).await {
        Err(status) => status.code(),
        Ok(mut stream) => stream.end().await.code(),
    }
}

#[tokio::test]
async fn ws_1_a_call_without_the_header_is_refused_whatever_it_calls() {
    let served = served();
    let client = served.client().await;
    // Positive control: with the header the same call is answered.
    assert_eq!(ids(&svids(&client).await.message().await), ["spiffe://mesh.test/web"]);
    let methods = [
        X509,
        X509_BUNDLES,
        JWT,
        JWT_BUNDLES,
        VALIDATE,
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/FetchWITBundles",
        "/SpiffeWorkloadAPI/NoSuchMethod",
    ];
    let headers: [&[&'static str]; 7] =
        [&[], &["false"], &["True"], &["TRUE"], &["true", "true"], &["true", "false"], &["true,true"]];
    for method in methods {
        for header in headers {
            assert_eq!(refusal(&client, method, header).await, Code::InvalidArgument, "{method} {header:?}");
        }
    }
}

#[tokio::test]
async fn ws_2_a_plain_socket_that_any_user_may_open_is_enough() {
    use std::os::unix::fs::PermissionsExt;
    let served = served();
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}

#[tokio::test]
async fn ws_3_every_message_is_the_full_state_and_the_first_comes_at_once() {
    let served = served();
    let client = served.client().await;
    let mut stream = svids(&client).await;
    assert_eq!(ids(&stream.message().await), ["spiffe://mesh.test/web"]);
    let second = served.source.add("/api", &[&my_uid()]);
    assert_eq!(ids(&stream.message().await), ["spiffe://mesh.test/web", "spiffe://mesh.test/api"]);
    served.source.remove(&second);
    assert_eq!(ids(&stream.message().await), ["spiffe://mesh.test/web"]);
}

#[tokio::test]
async fn ws_4_each_reason_for_a_refusal_has_its_code() {
    let source = TestSource::new("mesh.test");
    let served = serve(source);
    let client = served.client().await;
    // The source has not said anything yet.
    assert_eq!(refusal(&client, X509, &["true"]).await, Code::Unavailable);
    served.source.touch();
    assert_eq!(refusal(&client, X509, &["true"]).await, Code::PermissionDenied);
    served.source.add("/other", &["unix:uid:4294967294"]);
    assert_eq!(refusal(&client, X509, &["true"]).await, Code::PermissionDenied);
    served.source.add("/web", &[&my_uid()]);
    assert!(client.open::<(), X509svidResponse>(X509, ()).await.is_ok());
    served.source.unissue();
    assert_eq!(refusal(&client, X509, &["true"]).await, Code::Unavailable);
}

#[tokio::test]
async fn ws_5_an_svid_comes_with_its_chain_its_key_and_a_bundle_that_verifies_it() {
    let served = served();
    let client = served.client().await;
    let message = svids(&client).await.message().await;
    let svid = &message.svids[0];
    let key = PrivateKey::from_pkcs8(&svid.x509_svid_key).unwrap();
    let held = Svid::new(vec![CertificateDer::from(svid.x509_svid.clone())], key).unwrap();
    assert_eq!(held.spiffe_id().to_string(), svid.spiffe_id);
    let anchor = CertificateDer::from(svid.bundle.clone());
    let bundle = Bundle::new("mesh.test".parse().unwrap(), vec![anchor], 1).unwrap();
    verify_chain(held.chain(), &bundle, served.source.now()).unwrap();
}

#[tokio::test]
async fn ws_5_the_oldest_identity_comes_first_and_a_hint_appears_once() {
    let source = TestSource::new("mesh.test");
    for path in ["/z", "/a", "/m"] {
        source.add_with(path, &[&my_uid()], |spec| spec.hint = Some("internal".into()));
    }
    source.add_with("/b", &[&my_uid()], |spec| spec.hint = Some("external".into()));
    let served = serve(source);
    let client = served.client().await;
    let mut stream = svids(&client).await;
    for _ in 0..3 {
        let message = stream.message().await;
        assert_eq!(ids(&message), ["/z", "/a", "/m", "/b"].map(|path| format!("spiffe://mesh.test{path}")));
        let hints: Vec<_> = message.svids.iter().map(|svid| svid.hint.as_str()).collect();
        assert_eq!(hints, ["internal", "", "", "external"]);
        served.source.rotate();
    }
}

#[tokio::test]
async fn ws_5_without_a_bundle_there_is_no_svid() {
    let served = served();
    served.source.set_bundle(Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 2).unwrap());
    let client = served.client().await;
    assert_eq!(refusal(&client, X509, &["true"]).await, Code::Unavailable);
}

#[tokio::test]
async fn ws_6_bundles_are_keyed_by_the_id_of_the_trust_domain_and_include_the_own() {
    let served = served();
    let other = TestAuthority::new("other.test");
    served.source.set_bundle(other.bundle());
    served.source.add_with("/federated", &[&my_uid()], |spec| {
        spec.federates_with.extend(["other.test".parse().unwrap(), "unknown.test".parse().unwrap()]);
    });
    let client = served.client().await;
    let mut stream: Stream<X509BundlesResponse> = client.open(X509_BUNDLES, ()).await.unwrap();
    let message = stream.message().await;
    assert_eq!(message.bundles.keys().collect::<Vec<_>>(), ["spiffe://mesh.test", "spiffe://other.test"]);
    assert_eq!(message.bundles["spiffe://other.test"], other.bundle().authorities()[0].as_ref());
    let mut stream: Stream<JwtBundlesResponse> = client.open(JWT_BUNDLES, ()).await.unwrap();
    let jwt = stream.message().await;
    assert_eq!(jwt.bundles.keys().collect::<Vec<_>>(), ["spiffe://mesh.test", "spiffe://other.test"]);
    assert!(jwt.bundles.values().all(|jwks| jwks.starts_with(b"{")));
    let message = svids(&client).await.message().await;
    assert_eq!(message.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://other.test"]);
}

#[tokio::test]
async fn ws_6_a_bundle_that_no_entry_federates_with_is_not_handed_out() {
    let served = served();
    served.source.set_bundle(TestAuthority::new("other.test").bundle());
    let client = served.client().await;
    assert!(svids(&client).await.message().await.federated_bundles.is_empty());
}

fn jwt_request(audience: &[&str], id: &str) -> JwtsvidRequest {
    JwtsvidRequest { audience: audience.iter().map(|text| (*text).to_owned()).collect(), spiffe_id: id.to_owned() }
}

async fn jwt(client: &Client, audience: &[&str], id: &str) -> Result<JwtsvidResponse, Code> {
    client.call(JWT, jwt_request(audience, id)).await.map_err(|status| status.code())
}

#[tokio::test]
async fn ws_7_a_token_is_given_for_an_identity_that_the_caller_has_and_an_audience() {
    let served = served();
    served.source.add_with("/api", &[&my_uid()], |spec| spec.hint = Some("external".into()));
    served.source.add("/other", &["unix:uid:4294967294"]);
    let client = served.client().await;
    for audience in [&[][..], &[""], &["a", ""]] {
        assert_eq!(jwt(&client, audience, "").await, Err(Code::InvalidArgument), "{audience:?}");
    }
    for id in ["mesh.test/web", "spiffe://mesh.test", "spiffe://", "x"] {
        assert_eq!(jwt(&client, &["db"], id).await, Err(Code::InvalidArgument), "{id}");
    }
    for id in ["spiffe://mesh.test/other", "spiffe://mesh.test/nobody", "spiffe://else.test/web"] {
        assert_eq!(jwt(&client, &["db"], id).await, Err(Code::PermissionDenied), "{id}");
    }
    let all = jwt(&client, &["db"], "").await.unwrap();
    let given: Vec<_> = all.svids.iter().map(|svid| (svid.spiffe_id.as_str(), svid.hint.as_str())).collect();
    assert_eq!(given, [("spiffe://mesh.test/web", ""), ("spiffe://mesh.test/api", "external")]);
    let one = jwt(&client, &["db", "cache"], "spiffe://mesh.test/api").await.unwrap();
    assert_eq!(one.svids.len(), 1);
    // Whoever holds the keys that the same endpoint hands out believes it.
    let mut stream: Stream<JwtBundlesResponse> = client.open(JWT_BUNDLES, ()).await.unwrap();
    let keys = Bundle::jwt_keys_from_jwks(&stream.message().await.bundles["spiffe://mesh.test"]).unwrap();
    let mut bundles = BundleMap::new();
    let bundle = Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 1).unwrap().with_jwt_keys(keys).unwrap();
    bundles.replace(bundle).unwrap();
    let audience = AudienceSet::parse(["cache"]).unwrap();
    let verified = JwtValidator::default().validate(&one.svids[0].svid, &audience, &bundles, served.source.now());
    assert_eq!(verified.unwrap().spiffe_id().to_string(), "spiffe://mesh.test/api");
}

#[tokio::test]
async fn ws_7_what_the_source_refuses_is_refused_with_its_reason() {
    let served = served();
    let client = served.client().await;
    for (failure, code) in [
        (SourceError::Unavailable("the authority is away".into()), Code::Unavailable),
        (SourceError::Denied("the entry is gone".into()), Code::PermissionDenied),
    ] {
        served.source.fail_minting(failure.clone());
        let refused = client.call::<_, JwtsvidResponse>(JWT, jwt_request(&["db"], "")).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, failure.to_string().as_str()));
    }
}

#[tokio::test]
async fn ws_8_a_token_is_validated_against_the_bundles_that_the_caller_has() {
    let served = served();
    let (other, stranger) = (TestAuthority::new("other.test"), TestAuthority::new("stranger.test"));
    served.source.set_bundle(other.bundle());
    served.source.set_bundle(stranger.bundle());
    served
        .source
        .add_with("/federated", &[&my_uid()], |spec| spec.federates_with.extend([other.trust_domain().clone()]));
    let client = served.client().await;
    let audience = AudienceSet::parse(["db", "cache"]).unwrap();
    let token = |authority: &TestAuthority, id: &str| {
        let id = id.parse().unwrap();
        let request = JwtRequest { spiffe_id: &id, audience: &audience, ttl: JWT_SVID_TTL_DEFAULT, jti: None };
        authority.jwt_key.mint(&request, served.source.now()).unwrap().token().to_owned()
    };
    let validate = async |audience: &str, svid: &str| {
        let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
        let answer: Result<ValidateJwtsvidResponse, _> = client.call(VALIDATE, request).await;
        answer.map_err(|status| status.code())
    };
    let own = token(&served.source.authority, "spiffe://mesh.test/web");
    let foreign = token(&other, "spiffe://other.test/web");
    assert_eq!(validate("", &own).await, Err(Code::InvalidArgument));
    assert_eq!(validate("db", "").await, Err(Code::InvalidArgument));
    assert_eq!(validate("elsewhere", &own).await, Err(Code::InvalidArgument));
    assert_eq!(validate("db", &format!("{own}x")).await, Err(Code::InvalidArgument));
    // The node has the keys, this caller does not.
    assert_eq!(validate("db", &token(&stranger, "spiffe://stranger.test/web")).await, Err(Code::InvalidArgument));
    // A trust domain cannot speak for another.
    assert_eq!(validate("db", &token(&other, "spiffe://mesh.test/web")).await, Err(Code::InvalidArgument));
    for (token, id) in [(own, "spiffe://mesh.test/web"), (foreign, "spiffe://other.test/web")] {
        let answer = validate("db", &token).await.unwrap();
        assert_eq!(answer.spiffe_id, id);
        let claims = answer.claims.unwrap().fields;
        assert_eq!(claims["sub"].kind, Some(Kind::StringValue(id.into())));
        let Some(Kind::ListValue(list)) = &claims["aud"].kind else { panic!("aud is a list") };
        assert_eq!(list.values.len(), 2);
        assert!(matches!(claims["exp"].kind, Some(Kind::NumberValue(_))));
    }
}

#[tokio::test]
async fn ws_9_a_deleted_entry_leaves_a_smaller_set_and_the_last_one_ends_the_stream() {
    let source = TestSource::new("mesh.test");
    let (first, second) = (source.add("/web", &[&my_uid()]), source.add("/api", &[&my_uid()]));
    let served = serve(source);
    let client = served.client().await;
    let mut stream = svids(&client).await;
    assert_eq!(stream.message().await.svids.len(), 2);
    served.source.remove(&first);
    assert_eq!(ids(&stream.message().await), ["spiffe://mesh.test/api"]);
    served.source.remove(&second);
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn ws_10_what_did_not_change_is_not_pushed_and_a_burst_is_one_push() {
    let served = served();
    let client = served.client().await;
    let mut stream = svids(&client).await;
    let first = stream.message().await;
    // Nothing in these concerns the caller.
    for _ in 0..20 {
        served.source.touch();
    }
    served.source.add("/other", &["unix:uid:4294967294"]);
    while served.stats.counts().pushes_unchanged == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // A barrier: the next message is this one, so none was sent for the changes before.
    for _ in 0..10 {
        served.source.rotate();
    }
    let second = stream.message().await;
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    assert_eq!(served.stats.counts().pushes, 1);
}

#[tokio::test]
async fn ws_10_callers_with_equal_entitlements_share_one_encoded_message() {
    let served = served();
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = svids(&served.client().await).await;
        stream.message().await;
        streams.push(stream);
    }
    assert_eq!(served.stats.counts().messages_encoded, 1);
    served.source.rotate();
    for stream in &mut streams {
        stream.message().await;
    }
    assert_eq!(served.stats.counts().messages_encoded, 2);
}

#[tokio::test]
async fn ws_11_the_service_is_not_extended_and_other_services_are_unknown() {
    let served = served();
    let client = served.client().await;
    assert_eq!(refusal(&client, "/SpiffeWorkloadAPI/NoSuchMethod", &["true"]).await, Code::Unimplemented);
    assert_eq!(refusal(&client, "/some.other.Service/Method", &["true"]).await, Code::Unimplemented);
}

#[tokio::test]
async fn ws_13_revocation_lists_of_the_callers_trust_domains_are_in_every_x509_message() {
    let served = served();
    served.source.set_crl(&"mesh.test".parse().unwrap(), b"own list");
    served.source.set_crl(&"other.test".parse().unwrap(), b"list of a stranger");
    let client = served.client().await;
    assert_eq!(svids(&client).await.message().await.crl, [b"own list".to_vec()]);
    let mut stream: Stream<X509BundlesResponse> = client.open(X509_BUNDLES, ()).await.unwrap();
    assert_eq!(stream.message().await.crl, [b"own list".to_vec()]);
    served.source.set_crl(&"mesh.test".parse().unwrap(), b"newer list");
    assert_eq!(stream.message().await.crl, [b"newer list".to_vec()]);
}

#[tokio::test]
async fn ws_14_the_service_is_called_without_a_package() {
    let served = served();
    let client = served.client().await;
    assert_eq!(
        refusal(&client, "/spiffe.workload.SpiffeWorkloadAPI/FetchX509SVID", &["true"]).await,
        Code::Unimplemented
    );
    assert!(client.open::<(), X509svidResponse>(X509, ()).await.is_ok());
}

#[tokio::test]
async fn wt_4_the_wit_profile_is_unimplemented() {
    let served = served();
    let client = served.client().await;
    for method in ["/SpiffeWorkloadAPI/FetchWITSVID", "/SpiffeWorkloadAPI/FetchWITBundles"] {
        assert_eq!(refusal(&client, method, &["true"]).await, Code::Unimplemented);
    }
}

#[tokio::test]
async fn streams_end_with_unavailable_when_the_endpoint_stops() {
    let served = served();
    let client = served.client().await;
    let mut stream = svids(&client).await;
    stream.message().await;
    served.stop.send_replace(true);
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    drop((stream, client));
    tokio::time::timeout(Duration::from_secs(20), served.task).await.unwrap().unwrap().unwrap();
}
