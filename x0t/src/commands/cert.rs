//! `x0t cert inspect|verify|pin`: certificates in files, without a daemon.

mod inspect;
mod verify;

use std::io::Read as _;
use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
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
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|error| no_pem(path, error))?;
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
        .map_err(|error| no_pem(path, error))?;
    if found.is_empty() { Err(none_in(path, "revocation list").into()) } else { Ok(found) }
}

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::new(Exit::Usage, format!("{} cannot be read", path.display())).because(error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // A pipe or a device says nothing of its length: what counts is what comes.
    let len = file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if len as u64 > FILE_LEN_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} is longer than any certificate", path.display())));
    }
    Ok(bytes)
}

fn no_pem(path: &Path, error: pem::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{} cannot be read as PEM", path.display())).because(error)
}

fn none_in(path: &Path, what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("there is no {what} in {}", path.display()))
        .next("give a file in PEM (-----BEGIN …) or DER")
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
