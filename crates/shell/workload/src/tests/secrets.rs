//! Envoy's secret discovery, spoken as Envoy speaks it (lesson L17).

use prost::Message;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::authority::{TestAuthority, TestSource};
use super::endpoint::{Client, Served, Stream, my_uid, serve};
use crate::pem;
use crate::proto::envoy::config::core::v3::{DataSource, data_source};
use crate::proto::envoy::extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig, secret};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::google::rpc::Status as RpcStatus;

const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const FETCH: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
const DELTA: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";

fn served() -> Served {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    serve(source)
}

fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

/// A conversation: what is sent is acknowledged, as Envoy does.
struct Conversation {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Stream<DiscoveryResponse>,
    names: Vec<String>,
}

impl Conversation {
    async fn open(client: &Client, names: &[&str]) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(request(names)).await.unwrap();
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let mut grpc = Grpc::new(client.channel.clone());
        grpc.ready().await.unwrap();
        let call = grpc.streaming(Request::new(stream), STREAM.parse().unwrap(), ProstCodec::default());
        let responses = Stream::new(call.await.unwrap().into_inner());
        Self { requests, responses, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    async fn secrets(&mut self) -> Vec<Secret> {
        let response = self.responses.message().await;
        let ack = DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            resource_names: self.names.clone(),
            ..DiscoveryRequest::default()
        };
        self.requests.send(ack).await.unwrap();
        decode(&response)
    }
}

fn decode(response: &DiscoveryResponse) -> Vec<Secret> {
    let secret = |any: &prost_types::Any| {
        assert_eq!(any.type_url, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
        Secret::decode(&*any.value).unwrap()
    };
    response.resources.iter().map(secret).collect()
}

fn names(secrets: &[Secret]) -> Vec<&str> {
    secrets.iter().map(|secret| secret.name.as_str()).collect()
}

fn bytes(source: Option<&DataSource>) -> &[u8] {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(data_source::Specifier::InlineBytes(bytes)) => bytes,
        None => panic!("nothing inline"),
    }
}

/// Trust domain and anchors of a validation context.
fn anchors(secret: &Secret) -> Vec<(String, Vec<u8>)> {
    let Some(secret::Type::ValidationContext(context)) = &secret.r#type else { panic!("not a validation context") };
    let config = context.custom_validator_config.as_ref().unwrap();
    assert_eq!(config.name, "envoy.tls.cert_validator.spiffe");
    let any = config.typed_config.as_ref().unwrap();
    assert!(any.type_url.ends_with(".SPIFFECertValidatorConfig"));
    let config = SpiffeCertValidatorConfig::decode(&*any.value).unwrap();
    let domain = |domain: &crate::proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain| {
        (domain.name.clone(), bytes(domain.trust_bundle.as_ref()).to_vec())
    };
    config.trust_domains.iter().map(domain).collect()
}

#[tokio::test]
async fn an_envoy_gets_its_certificate_and_whom_to_trust_by_every_name() {
    let served = served();
    let client = served.client().await;
    let own = pem::certificates(served.source.authority.bundle().authorities());
    let wanted = ["spiffe://mesh.test/web", "default", "spiffe://mesh.test", "ROOTCA", "ALL"];
    let secrets = Conversation::open(&client, &wanted).await.secrets().await;
    assert_eq!(names(&secrets), ["ALL", "ROOTCA", "default", "spiffe://mesh.test", "spiffe://mesh.test/web"]);
    for secret in &secrets {
        match secret.name.as_str() {
            "default" | "spiffe://mesh.test/web" => {
                let Some(secret::Type::TlsCertificate(certificate)) = &secret.r#type else { panic!("no certificate") };
                assert!(bytes(certificate.certificate_chain.as_ref()).starts_with(b"-----BEGIN CERTIFICATE-----"));
                assert!(bytes(certificate.private_key.as_ref()).starts_with(b"-----BEGIN PRIVATE KEY-----"));
            }
            _ => assert_eq!(anchors(secret), [("mesh.test".to_owned(), own.clone())]),
        }
    }
}

#[tokio::test]
async fn without_names_an_envoy_gets_everything() {
    let served = served();
    let client = served.client().await;
    let secrets = Conversation::open(&client, &[]).await.secrets().await;
    assert_eq!(names(&secrets), ["spiffe://mesh.test/web", "spiffe://mesh.test"]);
}

#[tokio::test]
async fn a_rotation_is_pushed_and_what_did_not_change_is_not() {
    let served = served();
    let client = served.client().await;
    let mut certificate = Conversation::open(&client, &["default"]).await;
    let mut trust = Conversation::open(&client, &["ROOTCA"]).await;
    let (first, anchors_before) = (certificate.secrets().await, trust.secrets().await);
    served.source.rotate();
    assert_ne!(certificate.secrets().await, first);
    // A barrier: the next message on the other stream is the one of this change.
    served.source.set_bundle(TestAuthority::new("mesh.test").bundle().clone());
    assert_ne!(trust.secrets().await, anchors_before);
}

#[tokio::test]
async fn a_secret_that_is_not_there_yet_is_sent_when_it_is() {
    let served = served();
    let client = served.client().await;
    let mut conversation = Conversation::open(&client, &["spiffe://mesh.test/api"]).await;
    served.source.add("/api", &[&my_uid()]);
    assert_eq!(names(&conversation.secrets().await), ["spiffe://mesh.test/api"]);
}

#[tokio::test]
async fn l17_a_trust_domain_that_is_no_longer_federated_is_taken_away_explicitly() {
    let served = served();
    let other = TestAuthority::new("other.test");
    served.source.set_bundle(other.bundle());
    served
        .source
        .add_with("/federated", &[&my_uid()], |spec| spec.federates_with.extend([other.trust_domain().clone()]));
    let client = served.client().await;
    let theirs = pem::certificates(other.bundle().authorities());
    let mut one = Conversation::open(&client, &["spiffe://other.test"]).await;
    let mut all = Conversation::open(&client, &["ALL"]).await;
    let mut everything = Conversation::open(&client, &[]).await;
    assert_eq!(anchors(&one.secrets().await[0]), [("other.test".to_owned(), theirs.clone())]);
    assert_eq!(anchors(&all.secrets().await[0]).len(), 2);
    assert_eq!(everything.secrets().await.len(), 4);

    served.source.remove_bundle(other.trust_domain());

    let after = anchors(&one.secrets().await[0]);
    assert_eq!(after[0].0, "other.test");
    assert_ne!(after[0].1, theirs);
    assert!(after[0].1.starts_with(b"-----BEGIN CERTIFICATE-----"));
    let left = anchors(&all.secrets().await[0]);
    assert_eq!(left.iter().map(|(domain, _)| domain.as_str()).collect::<Vec<_>>(), ["mesh.test"]);
    let everything = everything.secrets().await;
    let lost = everything.iter().find(|secret| secret.name == "spiffe://other.test").unwrap();
    assert_eq!(anchors(lost), after);
}

#[tokio::test]
async fn a_stranger_gets_no_secrets() {
    let source = TestSource::new("mesh.test");
    source.add("/web", &["unix:uid:4294967294"]);
    let served = serve(source);
    let client = served.client().await;
    let refused = client.call::<_, DiscoveryResponse>(FETCH, request(&["default"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn fetching_once_gives_all_or_says_that_it_cannot() {
    let served = served();
    let client = served.client().await;
    let response: DiscoveryResponse = client.call(FETCH, request(&["default", "ROOTCA"])).await.unwrap();
    assert_eq!(names(&decode(&response)), ["ROOTCA", "default"]);
    let refused = client.call::<_, DiscoveryResponse>(FETCH, request(&["spiffe://mesh.test/other"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_rejection_is_survived_and_the_next_change_is_sent() {
    let served = served();
    let client = served.client().await;
    let mut conversation = Conversation::open(&client, &["default"]).await;
    let first = conversation.responses.message().await;
    let nack = DiscoveryRequest {
        response_nonce: first.nonce,
        error_detail: Some(RpcStatus { code: 13, message: "no".into() }),
        ..request(&["default"])
    };
    conversation.requests.send(nack).await.unwrap();
    served.source.rotate();
    assert_ne!(conversation.responses.message().await.version_info, first.version_info);
}

#[tokio::test]
async fn incremental_discovery_is_unimplemented() {
    let served = served();
    let client = served.client().await;
    let refused = client.call::<_, DiscoveryResponse>(DELTA, DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
