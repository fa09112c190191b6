//! Whom this host believes on the public Web.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Where distributions keep the bundle of their public trust anchors: Debian and Alpine, Fedora, SUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Why there are no anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsError {
    /// None of the usual files is there.
    #[error("this host has no bundle of public trust anchors (looked for {BUNDLES:?}): install ca-certificates")]
    NoBundle,
    /// The file is not PEM, or cannot be read.
    #[error("cannot read the trust anchors in {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate in it.
    #[error("{0} holds no usable trust anchor")]
    Empty(PathBuf),
}

/// The anchors in `file`, or those of the host. For endpoints of the Web PKI only: SVIDs are never judged by them.
pub fn host_anchors(file: Option<&Path>) -> Result<RootCertStore, AnchorsError> {
    let path = match file {
        Some(path) => path,
        None => BUNDLES.iter().map(Path::new).find(|path| path.exists()).ok_or(AnchorsError::NoBundle)?,
    };
    let unreadable = |source| AnchorsError::Unreadable { path: path.to_owned(), source };
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    let mut anchors = RootCertStore::empty();
    // Old roots with odd encodings are among them: what is not understood is not believed, and no reason to stop.
    let (added, _) = anchors.add_parsable_certificates(certificates.map_err(unreadable)?);
    if added == 0 {
        return Err(AnchorsError::Empty(path.to_owned()));
    }
    Ok(anchors)
}
