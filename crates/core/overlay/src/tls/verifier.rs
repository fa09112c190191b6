//! Who rustls asks about a peer: the node's own [`VerifyPeer`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use x0t_model::{SpiffeId, UnixTime};

use crate::VerifyPeer;

/// Verifier and clock of one configuration, which many handshakes share. They take turns: whoever reads sets the time, and
/// takes the verdict of its own reading away, so no handshake can ever see the verdict on another's peer.
pub(super) struct Judge {
    verifier: Arc<dyn VerifyPeer>,
    algorithms: WebPkiSupportedAlgorithms,
    turn: Mutex<()>,
    case: Mutex<Case>,
}

#[derive(Default)]
struct Case {
    now: UnixTime,
    verdict: Option<Result<SpiffeId, String>>,
}

impl Judge {
    pub(super) fn new(verifier: Arc<dyn VerifyPeer>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { verifier, algorithms, turn: Mutex::default(), case: Mutex::default() }
    }

    /// Whether it is `verifier` that is asked.
    pub(super) fn asks(&self, verifier: &Arc<dyn VerifyPeer>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.verifier), Arc::as_ptr(verifier))
    }

    /// Runs `reading` at `now`, and returns with its result the verdict on the peer if there was one.
    pub(super) fn hear<T>(&self, now: UnixTime, reading: impl FnOnce() -> T) -> (T, Option<Result<SpiffeId, String>>) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.case() = Case { now, verdict: None };
        let result = reading();
        (result, self.case().verdict.take())
    }

    fn case(&self) -> MutexGuard<'_, Case> {
        self.case.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(rest).map(|certificate| CertificateDer::from(certificate.as_ref())).collect();
        let now = self.case().now;
        let verdict = self.verifier.verify(&chain, now);
        let refused = verdict.is_err();
        self.case().verdict = Some(verdict);
        if refused { Err(CertificateError::ApplicationVerificationFailure.into()) } else { Ok(()) }
    }
}

impl TimeProvider for Judge {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let since_epoch = std::time::Duration::from_secs(self.case().now.as_secs());
        Some(rustls_pki_types::UnixTime::since_unix_epoch(since_epoch))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    /// Empty: the trust domain in the certificate selects the anchors, not a name that the responder hints at.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
