//! How a bundle endpoint is checked: by the public Web PKI, or as an X.509-SVID.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use x0t_identity::{Bundle, VerifyError, verify_chain};
use x0t_model::{SpiffeId, UnixTime};

use super::fetch::FetchFailure;
use crate::regions::host_anchors;
use crate::svid_tls::{chain, refused};

/// For an endpoint of the Web PKI: TLS 1.3, or 1.2 for servers of others that have nothing better (checklist FE-9).
pub(super) fn web(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, FetchFailure> {
    let anchors = host_anchors(ca_file).map_err(FetchFailure::Anchors)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(FetchFailure::Tls)?;
    Ok(finish(builder.with_root_certificates(anchors).with_no_client_auth()))
}

/// For an endpoint that shows the X.509-SVID of exactly `endpoint_id`, whose trust domain's bundle is `bundle`. The name in the URL
/// plays no part.
pub(super) fn spiffe(
    endpoint_id: SpiffeId,
    bundle: Arc<Bundle>,
    now: UnixTime,
) -> Result<Arc<ClientConfig>, FetchFailure> {
    let verifier = Arc::new(SvidVerifier { endpoint_id, bundle, now, provider: provider() });
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(FetchFailure::Tls)?;
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(finish(config))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Checks one server.
#[derive(Debug)]
struct SvidVerifier {
    endpoint_id: SpiffeId,
    bundle: Arc<Bundle>,
    now: UnixTime,
    provider: Arc<CryptoProvider>,
}

impl SvidVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
        let found = verify_chain(chain, &self.bundle, self.now)?;
        if found == self.endpoint_id {
            return Ok(());
        }
        Err(VerifyError::WrongPeer { found, wanted: self.endpoint_id.clone() })
    }
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(&chain(end_entity, intermediates)).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
