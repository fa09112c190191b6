//! `x0t cert inspect|verify|pin`: certificates in files, without a daemon.

mod inspect;
mod verify;

use std::path::Path;

use anyhow::Context as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::Context;
use crate::cli::CertAction;
use crate::exit::{Exit, Failure};

/// Bytes of a file that is read. The longest revocation lists have a few MiB.
const FILE_LEN_MAX: u64 = 32 << 20;

pub fn run(context: &Context, action: CertAction) -> anyhow::Result<Exit> {
    match action {
        CertAction::Inspect { files } => inspect::inspect(context, &files),
        CertAction::Verify(args) => verify::verify(context, &args),
        CertAction::Pin { files } => inspect::pin(context, &files),
    }
}

/// All certificates of a file: those of a PEM file, or the one that a DER file is.
fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    if !is_pem(&bytes) {
        return Ok(vec![bytes.into()]);
    }
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM file", path.display()))?;
    if found.is_empty() { Err(none_in(path, "certificate").into()) } else { Ok(found) }
}

/// All revocation lists of a file.
fn revocation_lists(path: &Path) -> anyhow::Result<Vec<CertificateRevocationListDer<'static>>> {
    let bytes = read(path)?;
    if !is_pem(&bytes) {
        return Ok(vec![bytes.into()]);
    }
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM file", path.display()))?;
    if found.is_empty() { Err(none_in(path, "revocation list").into()) } else { Ok(found) }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::new(Exit::Usage, format!("{} cannot be read", path.display())).because(error);
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_LEN_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} is longer than any certificate", path.display())));
    }
    std::fs::read(path).map_err(unreadable)
}

fn none_in(path: &Path, what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("there is no {what} in {}", path.display()))
        .next("give a file in PEM (-----BEGIN …) or DER")
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
