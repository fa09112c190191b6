//! The certificate that the bundle endpoint shows: the node's own SVID, or one from files. Both change while it serves.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x0t_identity::Svid;
use x0t_model::in_one_line;

use crate::svid_tls::certified;

/// Files are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file is not there, or not readable.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not belong together, or TLS does not take the key.
    #[error("the certificate and its key cannot be used")]
    Key(#[from] rustls::Error),
}

/// What is shown at present.
pub struct Shown {
    current: RwLock<Arc<CertifiedKey>>,
    files: Option<Files>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    seen: Mutex<Seen>,
}

/// Which state of the files was tried last, and when somebody last looked.
struct Seen {
    state: [Option<Stamp>; 2],
    looked: tokio::time::Instant,
}

/// Changes with the content of a file.
type Stamp = (u64, u64, i64, i64, u64);

impl Shown {
    /// The node's own SVID; [`Self::renew`] when there is another.
    ///
    /// # Errors
    /// If TLS does not take its key.
    pub fn svid(svid: &Svid) -> Result<Self, CertificateError> {
        Ok(Self { current: RwLock::new(certified(svid)?), files: None })
    }

    /// A certificate chain and its key from PEM files, which are read again when they change.
    ///
    /// # Errors
    /// If they cannot be read, or do not belong together.
    pub fn files(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let state = [stamp(&certificate), stamp(&key)];
        let current = RwLock::new(read(&certificate, &key)?);
        let seen = Mutex::new(Seen { state, looked: tokio::time::Instant::now() });
        Ok(Self { current, files: Some(Files { certificate, key, seen }) })
    }

    /// Shows `svid` from now on.
    ///
    /// # Errors
    /// If TLS does not take its key; what was shown before is shown on.
    pub fn renew(&self, svid: &Svid) -> Result<(), CertificateError> {
        self.show(certified(svid)?);
        Ok(())
    }

    /// Reads the files again if they have changed. Files that are half written are tried again when they have changed further.
    pub fn look_again(&self) {
        let Some(files) = &self.files else { return };
        let mut seen = files.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = tokio::time::Instant::now();
        if now.duration_since(seen.looked) < LOOK_EVERY {
            return;
        }
        seen.looked = now;
        let state = [stamp(&files.certificate), stamp(&files.key)];
        if state == seen.state {
            return;
        }
        seen.state = state;
        match read(&files.certificate, &files.key) {
            Ok(certified) => {
                tracing::info!(certificate = %files.certificate.display(), "the bundle endpoint shows its new certificate");
                self.show(certified);
            }
            Err(error) => {
                let error = in_one_line(&error);
                tracing::warn!(
                    error,
                    "the bundle endpoint's new certificate cannot be used; the one before is shown on"
                );
            }
        }
    }

    fn show(&self, certified: Arc<CertifiedKey>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
    let bytes =
        |path: &Path| std::fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source });
    let pem = |path: &Path, what| {
        let path = path.to_owned();
        move |source| CertificateError::Pem { path, what, source }
    };
    let chain =
        CertificateDer::pem_slice_iter(&bytes(certificate)?).collect::<Result<Vec<CertificateDer<'static>>, _>>();
    let chain = chain.map_err(pem(certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(pem(certificate, "certificate")(rustls_pki_types::pem::Error::NoItemsFound));
    }
    let secret = zeroize::Zeroizing::new(bytes(key)?);
    let key = PrivateKeyDer::from_pem_slice(&secret).map_err(pem(key, "private key"))?;
    let certified = CertifiedKey::new(chain, any_supported_type(&key)?);
    match certified.keys_match() {
        // Some kinds of keys do not tell their public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(error) => Err(error.into()),
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let of = |file: Metadata| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size());
    std::fs::metadata(path).ok().map(of)
}
