//! X.509-SVIDs in TLS, whichever side shows them: what is shown, what was shown, and why it was not believed.

use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error as TlsError, OtherError};
use rustls_pki_types::CertificateDer;
use x0t_identity::{Svid, VerifyError};

/// `svid` in the form in which TLS shows it.
///
/// # Errors
/// If TLS does not take its key.
pub(crate) fn certified(svid: &Svid) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = any_supported_type(&svid.private_key_der())?;
    Ok(Arc::new(CertifiedKey::new(svid.chain().to_vec(), key)))
}

/// What the other side has shown, leaf first.
pub(crate) fn chain<'a>(leaf: &'a CertificateDer<'_>, rest: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).map(|certificate| CertificateDer::from(certificate.as_ref())).collect()
}

/// A refusal in the words of TLS; [`refusal`] finds it again in what comes of the handshake.
pub(crate) fn refused(error: VerifyError) -> TlsError {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Why this side has not believed the other, if that is what ended the handshake.
pub(crate) fn refusal(error: &io::Error) -> Option<&VerifyError> {
    match tls_error(error)? {
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
        _ => None,
    }
}

/// What TLS says of it, if it was TLS that failed.
pub(crate) fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}
