//! Mutual TLS with what a Workload API gives: who is believed, what is shown, and when either changes.

use std::sync::Arc;

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_rustls::TlsStream;
use x0t_identity::VerifyError;
use x0t_model::{SpiffeId, UnixTime};

use super::authority::TestAuthority;
use crate::client::{Followed, Health, X509Context};
use crate::mutual_tls::{MutualTls, MutualTlsError};
use crate::proto::spiffe::{X509svid, X509svidResponse};

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

type Outcome = Result<(SpiffeId, TlsStream<DuplexStream>), MutualTlsError>;

/// A workload that is told what it is and whom it believes.
struct Workload {
    told: watch::Sender<Followed<X509Context>>,
    tls: MutualTls,
}

impl Workload {
    fn unknown() -> Self {
        let told = watch::Sender::new(Followed { value: None, health: Health::Waiting });
        let tls = MutualTls::new(told.subscribe(), || NOW).unwrap();
        Self { told, tls }
    }

    fn new(authority: &TestAuthority, path: &str, federated: &[&TestAuthority]) -> Self {
        let workload = Self::unknown();
        workload.tell(authority, path, federated);
        workload
    }

    fn tell(&self, authority: &TestAuthority, path: &str, federated: &[&TestAuthority]) {
        let svid = authority.issue(&format!("{}{path}", authority.trust_domain().id_text()));
        let bundle = |authority: &TestAuthority| authority.bundle().authorities()[0].to_vec();
        let message = X509svidResponse {
            svids: vec![X509svid {
                spiffe_id: svid.spiffe_id().to_string(),
                x509_svid: svid.chain()[0].to_vec(),
                x509_svid_key: svid.key_pkcs8().to_vec(),
                bundle: bundle(authority),
                hint: String::new(),
            }],
            federated_bundles: federated.iter().map(|of| (of.trust_domain().id_text(), bundle(of))).collect(),
            ..X509svidResponse::default()
        };
        let context = Arc::new(X509Context::read(&message, NOW).unwrap());
        self.told.send_replace(Followed { value: Some(context), health: Health::Current });
    }

    fn forget(&self) {
        self.told.send_modify(|followed| followed.value = None);
    }
}

/// What each side thinks of the other. The client reads a byte, for it hears of a refusal only then.
async fn meet(server: &Workload, client: &Workload) -> (Outcome, Outcome) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serve = async {
        let (id, mut stream) = server.tls.accept(ours).await?;
        stream.write_all(b"!").await?;
        Ok((id, stream))
    };
    let ask = async {
        let (id, mut stream) = client.tls.connect("127.0.0.1:1".parse().unwrap(), theirs).await?;
        stream.read_exact(&mut [0]).await?;
        Ok((id, stream))
    };
    tokio::join!(serve, ask)
}

fn refusal(outcome: Outcome) -> VerifyError {
    match outcome.map(|(id, _)| id) {
        Err(error @ MutualTlsError::Refused(_)) if !error.is_refusal() => panic!("a refusal that is none"),
        Err(MutualTlsError::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn two_workloads_learn_who_the_other_is_under_tls_1_3_with_the_hybrid_key_exchange() {
    let authority = TestAuthority::new("mesh.test");
    let (web, api) = (Workload::new(&authority, "/web", &[]), Workload::new(&authority, "/api", &[]));
    let (served, asked) = meet(&web, &api).await;
    let ((client, stream), (server, _asking)) = (served.unwrap(), asked.unwrap());
    assert_eq!(
        (client.to_string(), server.to_string()),
        ("spiffe://mesh.test/api".into(), "spiffe://mesh.test/web".into())
    );
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(connection.negotiated_key_exchange_group().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn x5_16_a_federated_domain_is_believed_by_its_own_bundle_and_only_while_a_message_names_it() {
    let (mesh, other) = (TestAuthority::new("mesh.test"), TestAuthority::new("other.test"));
    let pretender = TestAuthority::new("other.test");
    let web = Workload::new(&mesh, "/web", &[&other]);
    let (peer, false_peer) = (Workload::new(&other, "/peer", &[&mesh]), Workload::new(&pretender, "/peer", &[&mesh]));
    meet(&web, &peer).await.0.unwrap();
    meet(&peer, &web).await.1.unwrap();
    // The right name under another authority, and a foreign name under ours.
    assert!(matches!(refusal(meet(&web, &false_peer).await.0), VerifyError::Untrusted(_)));
    assert!(matches!(refusal(meet(&false_peer, &web).await.1), VerifyError::Untrusted(_)));
    web.tell(&mesh, "/web", &[]);
    let gone = VerifyError::UnknownTrustDomain(other.trust_domain().clone());
    assert_eq!(refusal(meet(&web, &peer).await.0), gone);
    assert_eq!(refusal(meet(&peer, &web).await.1), gone);
}

#[tokio::test]
async fn l4_nothing_is_resumed_so_each_handshake_checks_the_chain() {
    let authority = TestAuthority::new("mesh.test");
    let (web, api) = (Workload::new(&authority, "/web", &[]), Workload::new(&authority, "/api", &[]));
    for _ in 0..3 {
        let (served, asked) = meet(&web, &api).await;
        assert_eq!(served.unwrap().1.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        drop(asked.unwrap());
    }
}

#[tokio::test]
async fn wc_6_a_rotation_shows_in_the_next_handshake_and_disturbs_no_connection() {
    let authority = TestAuthority::new("mesh.test");
    let (web, api) = (Workload::new(&authority, "/web", &[]), Workload::new(&authority, "/api", &[]));
    let (served, asked) = meet(&web, &api).await;
    let ((_, mut stream), (_, mut asking)) = (served.unwrap(), asked.unwrap());
    web.tell(&authority, "/web2", &[]);
    assert_eq!(meet(&web, &api).await.1.unwrap().0.to_string(), "spiffe://mesh.test/web2");
    stream.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    asking.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn wc_6_without_an_identity_nobody_is_served_and_nobody_is_asked() {
    let authority = TestAuthority::new("mesh.test");
    let (web, nobody) = (Workload::new(&authority, "/web", &[]), Workload::unknown());
    assert!(matches!(meet(&nobody, &web).await.0, Err(MutualTlsError::NoIdentity)));
    assert!(matches!(meet(&web, &nobody).await.1, Err(MutualTlsError::NoIdentity)));
    web.forget();
    assert!(matches!(meet(&web, &nobody).await.0, Err(MutualTlsError::NoIdentity)));
}
