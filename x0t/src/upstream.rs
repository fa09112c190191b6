//! An intermediate CA in files, for `x0t up` and `x0t authority import`.

use std::path::Path;

use x0t_identity::{Secret, UpstreamError, UpstreamFiles};

use crate::exit::{Exit, Failure};

/// What to do about an intermediate that is not taken.
pub const NEXT: &str = "`openssl x509 -text -noout -in FILE` shows what a certificate says";
/// No chain comes near this.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The content of the files.
pub struct Files {
    /// The certificate of the key first, then those above it.
    pub chain: String,
    /// The private key.
    pub key: Secret<String>,
    /// The roots; empty if they are in the chain.
    pub roots: String,
}

impl Files {
    /// For the core.
    pub fn as_bytes(&self) -> UpstreamFiles<'_> {
        let (chain, key, roots) = (self.chain.as_bytes(), self.key.expose().as_bytes(), self.roots.as_bytes());
        UpstreamFiles { chain, key, roots }
    }
}

/// Reads them.
pub fn read(cert: &Path, key: &Path, roots: Option<&Path>) -> Result<Files, Failure> {
    let roots = roots.map(text).transpose()?.unwrap_or_default();
    Ok(Files { chain: text(cert)?, key: Secret::new(text(key)?), roots })
}

/// An intermediate that is not taken, with its exit code and next step.
pub fn failure(error: UpstreamError) -> Failure {
    let failure = Failure::new(Exit::Denied, format!("the upstream CA cannot be used: {error}")).next(NEXT);
    match std::error::Error::source(&error) {
        Some(cause) => failure.because(cause.to_string()),
        None => failure,
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Usage, format!("cannot read {}", path.display())).because(error.to_string())
    };
    let len = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if len > FILE_LEN_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} has {len} bytes, which no certificate has", path.display())));
    }
    std::fs::read_to_string(path).map_err(|error| failed(&error))
}
