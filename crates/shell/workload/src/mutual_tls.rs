//! Mutual TLS between workloads: each side shows the SVID that it holds at that moment and believes the bundles that it has.
//!
//! TLS 1.3 only, the hybrid key exchange preferred. Nothing is resumed: a resumed session would skip the check of the peer's chain,
//! and with it every change of trust since (lesson L4). Every handshake asks anew what the Workload API gave last, so a rotation
//! disturbs no connection, and an identity that was taken back opens no new one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use x0t_identity::{Leaf, VerifyError, verify_chain};
use x0t_model::{SpiffeId, UnixTime};

use crate::client::{Followed, X509Context};
use crate::svid_tls::{certified, chain, refusal, refused, tls_error};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum MutualTlsError {
    /// The peer is not who it would have to be.
    #[error("the peer's identity is refused")]
    Refused(#[source] VerifyError),
    /// There is no SVID to show: none was given yet, or it was taken back.
    #[error("this process holds no identity")]
    NoIdentity,
    /// The handshake failed for another reason.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// TLS refuses its own configuration.
    #[error("TLS cannot be configured")]
    Configuration(#[from] TlsError),
}

impl MutualTlsError {
    /// Whether it is the certificate of the peer that was not believed, rather than the way to it.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Handshake(error) => matches!(tls_error(error), Some(TlsError::InvalidCertificate(_))),
            Self::NoIdentity | Self::Configuration(_) => false,
        }
    }
}

impl From<std::io::Error> for MutualTlsError {
    fn from(error: std::io::Error) -> Self {
        refusal(&error).cloned().map_or_else(|| Self::Handshake(error), Self::Refused)
    }
}

/// Both sides of mutual TLS, for one workload. Whoever proves to be anybody is let in; who may do what is decided afterwards, by
/// the SPIFFE ID that comes with each connection.
#[derive(Clone)]
pub struct MutualTls {
    party: Arc<Party>,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl MutualTls {
    /// For the workload whose identity is in `followed`. `now` tells the wall-clock time.
    ///
    /// # Errors
    /// If TLS refuses its configuration.
    pub fn new(
        followed: watch::Receiver<Followed<X509Context>>,
        now: impl Fn() -> UnixTime + Send + Sync + 'static,
    ) -> Result<Self, MutualTlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let party = Arc::new(Party { followed, now: Box::new(now), provider: Arc::clone(&provider) });
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&party) as _)
            .with_cert_resolver(Arc::clone(&party) as _);
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&party) as _)
            .with_client_cert_resolver(Arc::clone(&party) as _);
        client.resumption = Resumption::disabled();
        // A workload's name is its SPIFFE ID, which no server name can carry.
        client.enable_sni = false;
        Ok(Self { party, acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    /// The server's side of a handshake on `stream`. The caller sets the deadline.
    ///
    /// # Errors
    /// If the client is refused, there is nothing to show, or the connection fails.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> Result<(SpiffeId, TlsStream<S>), MutualTlsError> {
        self.party.require_identity()?;
        let stream = self.acceptor.accept(stream).await?;
        let id = peer(stream.get_ref().1.peer_certificates())?;
        Ok((id, stream.into()))
    }

    /// The client's side of a handshake on `stream`. The caller sets the deadline.
    ///
    /// # Errors
    /// If the server is refused, there is nothing to show, or the connection fails. A client learns only from what it reads next
    /// whether the server believes it (RFC 8446, 4.4.4).
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        address: SocketAddr,
        stream: S,
    ) -> Result<(SpiffeId, TlsStream<S>), MutualTlsError> {
        self.party.require_identity()?;
        let stream = self.connector.connect(ServerName::from(address.ip()), stream).await?;
        let id = peer(stream.get_ref().1.peer_certificates())?;
        Ok((id, stream.into()))
    }

    /// Connects to `address` and shakes hands. The caller sets the deadline.
    ///
    /// # Errors
    /// Those of [`Self::connect`].
    pub async fn dial(&self, address: SocketAddr) -> Result<(SpiffeId, TlsStream<TcpStream>), MutualTlsError> {
        let stream = TcpStream::connect(address).await.map_err(MutualTlsError::Handshake)?;
        self.connect(address, stream).await
    }
}

impl fmt::Debug for MutualTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutualTls")
    }
}

/// Whose chain the handshake has verified.
fn peer(chain: Option<&[CertificateDer<'static>]>) -> Result<SpiffeId, MutualTlsError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(MutualTlsError::Refused(VerifyError::NoCertificate))?;
    Ok(Leaf::read(leaf).map_err(MutualTlsError::Refused)?.spiffe_id)
}

/// What a handshake asks for: what to show, and whom to believe.
struct Party {
    followed: watch::Receiver<Followed<X509Context>>,
    now: Box<dyn Fn() -> UnixTime + Send + Sync>,
    provider: Arc<CryptoProvider>,
}

impl Party {
    fn context(&self) -> Option<Arc<X509Context>> {
        self.followed.borrow().value.clone()
    }

    fn require_identity(&self) -> Result<(), MutualTlsError> {
        self.context().map(drop).ok_or(MutualTlsError::NoIdentity)
    }

    /// The whole chain, leaf first, with its key.
    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        certified(self.context()?.default_svid()).ok()
    }

    /// The leaf says which trust domain it is of, and only that domain's bundle counts (checklist X5-8, X5-16).
    fn believes(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
        let domain = Leaf::read(leaf)?.spiffe_id.trust_domain().clone();
        let context = self.context();
        let bundle = context.as_ref().and_then(|context| context.bundles().get(&domain));
        let bundle = bundle.ok_or(VerifyError::UnknownTrustDomain(domain))?;
        verify_chain(&chain(leaf, rest), bundle, (self.now)()).map(drop)
    }

    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        self.believes(leaf, rest).map_err(refused)
    }

    fn check_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Party")
    }
}

impl ResolvesServerCert for Party {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl ResolvesClientCert for Party {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        self.context().is_some()
    }
}

impl ServerCertVerifier for Party {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.judge(leaf, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Party {
    /// Empty: the trust domain in the certificate selects the anchors, and a list of names would tell strangers whom we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.judge(leaf, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
