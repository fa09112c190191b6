//! SVIDs as files, for programs that know nothing else.
//!
//! A certificate with yesterday's key is worse than no certificate. So a set of files is written complete into a directory of its
//! own, and one rename of a symbolic link puts it in the place of the one before (lesson L23):
//!
//! ```text
//! DIR/svid.pem      -> ..current/svid.pem
//! DIR/svid_key.pem  -> ..current/svid_key.pem
//! DIR/bundle.pem    -> ..current/bundle.pem
//! DIR/..current     -> ..20        one rename(2) changes all of them
//! DIR/..20/{svid,svid_key,bundle}.pem
//! ```
//!
//! A program that opens the three files one after the other may still meet a change between them; one that first opens the directory
//! behind `..current` and reads from there never does. The set before stays until the next change, for whoever is reading it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use x0t_identity::{Bundle, Svid};

use crate::pem;

const CURRENT: &str = "..current";
/// Links that are made under this name before they take their place.
const NEXT: &str = "..next";

/// Why no files were written. Those of before are still there.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteError {
    /// Which file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    #[source]
    pub source: io::Error,
}

/// What is written.
pub struct FileSet<'a> {
    /// `svid.pem`, the chain, leaf first; `svid_key.pem`, the key in PKCS#8.
    pub svid: &'a Svid,
    /// `bundle.pem`: the authorities of the own trust domain. Those of others are not in it: in a plain list each could speak for
    /// all.
    pub bundle: &'a Bundle,
    /// `jwt_svid.token`, if there is one.
    pub jwt: Option<&'a str>,
}

/// Puts `files` in the place of what is in `directory`, which is made if it is not there. All or nothing, also when the disk is full or
/// the host fails. Says whether anything differed: what is there already is left alone.
///
/// # Errors
/// What the operating system said; then the files of before are still in place.
pub fn write_svid(directory: &Path, files: &FileSet<'_>) -> Result<bool, WriteError> {
    let key = pem::private_key(files.svid.key_pkcs8());
    let (chain, bundle) = (pem::certificates(files.svid.chain()), pem::certificates(files.bundle.authorities()));
    let mut contents = vec![
        ("svid.pem", chain.as_slice(), 0o644),
        ("svid_key.pem", key.as_bytes(), 0o600),
        ("bundle.pem", bundle.as_slice(), 0o644),
    ];
    contents.extend(files.jwt.map(|token| ("jwt_svid.token", token.as_bytes(), 0o600)));
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(at(directory))?;
    let before = fs::read_link(directory.join(CURRENT)).ok();
    let is_there = |(name, content, _): &(&str, &[u8], u32)| {
        before.is_some() && fs::read(directory.join(name)).is_ok_and(|found| found == *content)
    };
    if contents.iter().all(is_there) {
        return Ok(false);
    }
    let set = new_set(directory, before.as_deref())?;
    let written = fill(directory, &set, &contents);
    if written.is_err() {
        // Whatever came of it, nobody refers to it.
        drop(fs::remove_dir_all(directory.join(&set)));
        return written.map(|()| true);
    }
    sweep(directory, &set, before.as_deref());
    Ok(true)
}

/// A directory that nobody refers to, numbered one higher than the current one.
fn new_set(directory: &Path, before: Option<&Path>) -> Result<PathBuf, WriteError> {
    let number = before.and_then(|before| before.to_str()?.strip_prefix("..")?.parse().ok()).unwrap_or(0_u64);
    let set = PathBuf::from(format!("..{}", number.wrapping_add(1)));
    let path = directory.join(&set);
    // Left behind by a writer that did not get to its end.
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o755).create(&path).map_err(at(&path))?;
    Ok(set)
}

fn fill(directory: &Path, set: &Path, contents: &[(&str, &[u8], u32)]) -> Result<(), WriteError> {
    for (name, content, mode) in contents {
        let path = directory.join(set).join(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(at(&path))?;
    }
    sync(&directory.join(set))?;
    // The names first: until the set takes its place they lead to the one before, or nowhere.
    for (name, _, _) in contents {
        place(directory, &Path::new(CURRENT).join(name), name)?;
    }
    place(directory, set, CURRENT)?;
    sync(directory)
}

/// Makes `name` a link to `target`, in one step.
fn place(directory: &Path, target: &Path, name: &str) -> Result<(), WriteError> {
    let (path, next) = (directory.join(name), directory.join(NEXT));
    if fs::read_link(&path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&next)(error)),
        _ => {}
    }
    symlink(target, &next).and_then(|()| fs::rename(&next, &path)).map_err(at(&path))
}

fn sync(directory: &Path) -> Result<(), WriteError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}

/// Removes sets that are neither the current one nor the one before it. What cannot be removed is tried again the next time.
fn sweep(directory: &Path, current: &Path, before: Option<&Path>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = PathBuf::from(entry.file_name());
        let is_set = name.to_str().and_then(|name| name.strip_prefix("..")?.parse::<u64>().ok()).is_some();
        if is_set && name != current && Some(name.as_path()) != before {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    |source| WriteError { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use x0t_identity::PrivateKey;

    use super::*;
    use crate::tests::authority::TestAuthority;

    fn set<'a>(svid: &'a Svid, bundle: &'a Bundle) -> FileSet<'a> {
        FileSet { svid, bundle, jwt: None }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The SVID that a reader finds, which must be whole.
    fn read(directory: &Path) -> Svid {
        try_read(directory).unwrap()
    }

    /// `None` if the reader was so slow that its set has gone.
    fn try_read(directory: &Path) -> Option<Svid> {
        let set = directory.join(fs::read_link(directory.join(CURRENT)).unwrap());
        let (chain, key) = (fs::read(set.join("svid.pem")).ok()?, fs::read(set.join("svid_key.pem")).ok()?);
        let chain = CertificateDer::from_pem_slice(&chain).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key).unwrap();
        Some(Svid::new(vec![chain], PrivateKey::from_pkcs8(key.secret_pkcs8_der()).unwrap()).unwrap())
    }

    #[test]
    fn the_files_are_there_and_the_key_is_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("made/on/the/way");
        let authority = TestAuthority::new("mesh.test");
        let (svid, bundle) = (authority.issue("spiffe://mesh.test/web"), authority.bundle());
        let files = FileSet { jwt: Some("a.b.c"), ..set(&svid, &bundle) };
        assert!(write_svid(&directory, &files).unwrap());
        assert_eq!(read(&directory).spiffe_id(), svid.spiffe_id());
        let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("svid_key.pem"), mode("jwt_svid.token")), (0o600, 0o600));
        assert_eq!(fs::read(directory.join("jwt_svid.token")).unwrap(), b"a.b.c");
        let anchor = CertificateDer::from_pem_slice(&fs::read(directory.join("bundle.pem")).unwrap()).unwrap();
        assert_eq!([anchor], bundle.authorities());
    }

    #[test]
    fn what_is_there_already_is_left_alone_and_old_sets_go() {
        let directory = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new("mesh.test");
        let bundle = authority.bundle();
        for _ in 0..5 {
            let svid = authority.issue("spiffe://mesh.test/web");
            assert!(write_svid(directory.path(), &set(&svid, &bundle)).unwrap());
            assert!(!write_svid(directory.path(), &set(&svid, &bundle)).unwrap());
        }
        assert_eq!(names(directory.path()), ["..4", "..5", "..current", "bundle.pem", "svid.pem", "svid_key.pem"]);
    }

    #[test]
    fn l23_a_reader_never_meets_a_certificate_with_the_key_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new("mesh.test");
        let bundle = authority.bundle();
        let path = directory.path();
        let svids: Vec<_> = (0..40).map(|_| authority.issue("spiffe://mesh.test/web")).collect();
        write_svid(path, &set(&svids[0], &bundle)).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !is_over.load(Ordering::Relaxed) {
                    reads += usize::from(try_read(path).is_some());
                }
                reads
            });
            for svid in &svids {
                write_svid(path, &set(svid, &bundle)).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    #[test]
    fn a_writer_that_did_not_get_to_its_end_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new("mesh.test");
        let bundle = authority.bundle();
        let (first, second) = (authority.issue("spiffe://mesh.test/web"), authority.issue("spiffe://mesh.test/web"));
        write_svid(directory.path(), &set(&first, &bundle)).unwrap();
        // As after a crash between two files.
        fs::create_dir(directory.path().join("..2")).unwrap();
        fs::write(directory.path().join("..2/svid.pem"), b"half of").unwrap();
        symlink("nowhere", directory.path().join(NEXT)).unwrap();
        assert_eq!(read(directory.path()).chain(), first.chain());
        write_svid(directory.path(), &set(&second, &bundle)).unwrap();
        assert_eq!(read(directory.path()).chain(), second.chain());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new("mesh.test");
        let (svid, bundle) = (authority.issue("spiffe://mesh.test/web"), authority.bundle());
        // Somebody's directory where a link should be.
        fs::create_dir(directory.path().join("svid.pem")).unwrap();
        let error = write_svid(directory.path(), &set(&svid, &bundle)).unwrap_err();
        assert_eq!(error.path, directory.path().join("svid.pem"));
        assert_eq!(names(directory.path()), ["..next", "svid.pem"]);
    }
}
