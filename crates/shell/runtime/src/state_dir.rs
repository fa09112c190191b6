//! The directory that makes a host a node: its settings, its identity, its boot counter.
//!
//! ```text
//! <state>/           0700   refused if anyone else may look inside
//!   mesh.json        0600   settings; written last by `create`, so its presence means that the directory is complete
//!   svid.pem …       0600   the records of [`RecordKind`]; whoever reads svid.pem is this node
//!   lock             0600   locked (flock) by the one process that runs the node, and holds its process id
//!   admin.sock       0600   the running node's admin socket
//! ```
//!
//! Every write goes to a temporary file beside its target, is synced, renamed over it, and the directory is synced: after a crash
//! or on a full disk a file has its whole old content or its whole new one.

mod mesh_file;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use x0t_model::TrustDomain;
use x0t_node::{Record, RecordKind};

pub use mesh_file::{IdentityProvider, MeshFile, WorkloadSocket};

const MESH_FILE: &str = "mesh.json";
const LOCK_FILE: &str = "lock";
const ADMIN_SOCKET: &str = "admin.sock";
/// No file of a state directory comes near this; a larger one is not ours.
const FILE_SIZE_MAX: u64 = 128 << 20;

/// A state directory that this process holds. Nobody else can hold it until this value is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    mesh: MeshFile,
    /// Held for as long as it lives.
    _lock: Lock,
}

#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child process that another thread has forked and that has yet to execute shares the open file.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// There is no node in it.
    #[error("{} holds no node; start a mesh with `x0t up`, or join one with `x0t join TOKEN`", path.display())]
    NotInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// `create` found a node of the same mesh.
    #[error("{} already holds node {name} of {trust_domain}; start it with `x0t run`", path.display())]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
        /// The node that lives there.
        name: String,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// `create` found a node of another mesh.
    #[error("{} belongs to a node of {found}, not of {wanted}; choose another directory with --state-dir", path.display())]
    OtherMesh {
        /// The directory.
        path: PathBuf,
        /// The trust domain it belongs to.
        found: TrustDomain,
        /// The trust domain that was asked for.
        wanted: TrustDomain,
    },
    /// A newer program wrote it.
    #[error("{} was written by a newer x0t (layout {found}, this program knows up to {known}); upgrade x0t", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
        /// The newest layout known here.
        known: u32,
    },
    /// Another process runs this node.
    #[error("{} is in use by {}", path.display(), process(*pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it has said so.
        pid: Option<u32>,
    },
    /// Others could read or change it.
    #[error("{} {problem}; it holds private keys: repair it with `{repair}`", path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// The command that puts it right.
        repair: String,
    },
    /// A file does not say what it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What could not be read.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The boot counter has reached its end.
    #[error("the boot counter in {} is used up; the node has to join anew under another name", path.display())]
    EpochExhausted {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StateDir {
    /// Makes `path` the home of a new node. `records` are written first and `mesh.json` last: a crash in between leaves a
    /// directory that [`Self::open`] calls not initialised and that `create` may be called for again.
    ///
    /// # Errors
    /// `AlreadyInitialised` or `OtherMesh` if a node lives there, `InUse`, `Permissions`, `Io`.
    pub fn create(path: impl Into<PathBuf>, mesh: &MeshFile, records: &[Record]) -> Result<Self, StateDirError> {
        let path = path.into();
        make_private_dir(&path)?;
        check_private(&path)?;
        let lock = lock(&path)?;
        match read_mesh(&path) {
            Err(StateDirError::NotInitialised { .. }) => {}
            Err(error) => return Err(error),
            Ok(found) if found.trust_domain != mesh.trust_domain => {
                let wanted = mesh.trust_domain.clone();
                return Err(StateDirError::OtherMesh { path, found: found.trust_domain, wanted });
            }
            Ok(found) => {
                let MeshFile { name, trust_domain, .. } = found;
                return Err(StateDirError::AlreadyInitialised { path, name, trust_domain });
            }
        }
        // Leftovers of a node that was never completed must not be mixed with the new one's files.
        for kind in RecordKind::ALL {
            remove_if_present(&path.join(kind.file_name()))?;
        }
        let mut dir = Self { path, mesh: mesh.clone(), _lock: lock };
        for record in records {
            dir.write(record)?;
        }
        dir.write_mesh(mesh)?;
        Ok(dir)
    }

    /// Takes hold of the node that lives in `path`.
    ///
    /// # Errors
    /// `NotInitialised`, `NewerVersion`, `InUse`, `Permissions`, `Damaged`, `Io`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateDirError> {
        let path = path.into();
        let mesh = Self::inspect(&path)?;
        let lock = lock(&path)?;
        for name in RecordKind::ALL.map(RecordKind::file_name).into_iter().chain([MESH_FILE]) {
            // What a crash between writing and renaming left behind.
            remove_if_present(&temporary(&path.join(name)))?;
        }
        Ok(Self { path, mesh, _lock: lock })
    }

    /// Reads the settings without taking hold of the directory, for commands that only ask a running node.
    ///
    /// # Errors
    /// As [`Self::open`], except that a directory in use is no error.
    pub fn inspect(path: impl AsRef<Path>) -> Result<MeshFile, StateDirError> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(StateDirError::NotInitialised { path: path.to_owned() });
        }
        check_private(path)?;
        read_mesh(path)
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings.
    pub fn mesh(&self) -> &MeshFile {
        &self.mesh
    }

    /// Where the node that runs from `state` listens for commands.
    pub fn admin_socket(state: impl AsRef<Path>) -> PathBuf {
        state.as_ref().join(ADMIN_SOCKET)
    }

    /// The content of a record; `None` if it was never written.
    ///
    /// # Errors
    /// `Permissions` if others may read it, `Damaged` if it is absurdly large, `Io`.
    pub fn read(&self, kind: RecordKind) -> Result<Option<Vec<u8>>, StateDirError> {
        read_private(&self.path.join(kind.file_name()))
    }

    /// Replaces a record. When this returns `Ok` the new content survives a power failure; after an error the old one does.
    ///
    /// # Errors
    /// `Io` with the step that failed.
    pub fn write(&mut self, record: &Record) -> Result<(), StateDirError> {
        self.replace(record.kind.file_name(), &record.bytes)
    }

    /// Replaces the settings.
    ///
    /// # Errors
    /// `Io` with the step that failed; the old settings are then still in force.
    pub fn write_mesh(&mut self, mesh: &MeshFile) -> Result<(), StateDirError> {
        let path = self.path.join(MESH_FILE);
        let mut text =
            serde_json::to_vec_pretty(mesh).map_err(|source| StateDirError::Damaged { path, source: source.into() })?;
        text.push(b'\n');
        self.replace(MESH_FILE, &text)?;
        self.mesh = mesh.clone();
        Ok(())
    }

    /// Begins a boot: increments the counter, makes it durable, and returns it. The first boot is 1.
    ///
    /// # Errors
    /// `Damaged` if the file holds no number, `EpochExhausted`, `Io`.
    pub fn begin_epoch(&mut self) -> Result<u32, StateDirError> {
        let path = self.path.join(RecordKind::Epoch.file_name());
        let last = match self.read(RecordKind::Epoch)? {
            None => 0,
            Some(bytes) => {
                parse_epoch(&bytes).map_err(|source| StateDirError::Damaged { path: path.clone(), source })?
            }
        };
        let epoch = last.checked_add(1).ok_or(StateDirError::EpochExhausted { path })?;
        self.write(&Record { kind: RecordKind::Epoch, bytes: format!("{epoch}\n").into_bytes() })?;
        Ok(epoch)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StateDirError> {
        let path = self.path.join(name);
        let temporary = temporary(&path);
        let written = write_synced(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path).map_err(io_error("replace", &path)));
        if written.is_err() {
            // Best effort: the error that matters is the one above, and `open` removes what stays.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        // The rename itself is only durable once the directory is.
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &self.path))
    }
}

fn parse_epoch(bytes: &[u8]) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    Ok(std::str::from_utf8(bytes)?.trim().parse()?)
}

fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StateDirError + 'a {
    move |source| StateDirError::Io { action, path: path.to_owned(), source }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StateDirError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("create", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

fn make_private_dir(path: &Path) -> Result<(), StateDirError> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    DirBuilder::new().mode(0o700).create(path).map_err(io_error("create", path))
}

fn remove_if_present(path: &Path) -> Result<(), StateDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// How often a taken lock is tried again, and the pause between tries.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

#[expect(clippy::disallowed_methods, reason = "flock has no deadline of its own, and nothing else runs yet")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

fn lock(dir: &Path) -> Result<Lock, StateDirError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    // Whoever merely looks, or is about to end, holds it for a moment; a daemon holds it for good.
    let mut taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    for _ in 0..LOCK_TRIES {
        if taken != Err(rustix::io::Errno::WOULDBLOCK) {
            break;
        }
        pause(LOCK_PAUSE);
        taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    }
    match taken {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // The holder may be about to write its number; not knowing it is no reason to fail differently.
            let _ = file.take(16).read_to_string(&mut pid);
            return Err(StateDirError::InUse { path: dir.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(error) => return Err(io_error("lock", &path)(error.into())),
    }
    let mut lock = Lock(file);
    // Only for people and for the message above, hence neither atomic nor synced.
    lock.0.set_len(0).and_then(|()| writeln!(lock.0, "{}", std::process::id())).map_err(io_error("write", &path))?;
    Ok(lock)
}

fn read_mesh(dir: &Path) -> Result<MeshFile, StateDirError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u64,
    }
    let path = dir.join(MESH_FILE);
    let Some(bytes) = read_private(&path)? else {
        return Err(StateDirError::NotInitialised { path: dir.to_owned() });
    };
    let damaged = |source: serde_json::Error| StateDirError::Damaged { path: path.clone(), source: source.into() };
    // The version first: what else a newer layout contains is not for this program to judge.
    let Version { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if version > u64::from(MeshFile::VERSION) {
        return Err(StateDirError::NewerVersion { path, found: version, known: MeshFile::VERSION });
    }
    serde_json::from_slice(&bytes).map_err(damaged)
}

fn read_private(path: &Path) -> Result<Option<Vec<u8>>, StateDirError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_error("read", path))?,
    };
    check_private(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        let source = format!("larger than {FILE_SIZE_MAX} bytes").into();
        return Err(StateDirError::Damaged { path: path.to_owned(), source });
    }
    Ok(Some(bytes))
}

/// Nobody but the owner, who is the user of this process, may do anything with it.
fn check_private(path: &Path) -> Result<(), StateDirError> {
    let metadata = fs::metadata(path).map_err(io_error("inspect", path))?;
    let refuse =
        |problem: String, repair: String| Err(StateDirError::Permissions { path: path.to_owned(), problem, repair });
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return refuse(
            format!("belongs to user {}, not to user {me}", metadata.uid()),
            format!("chown {me} {}", path.display()),
        );
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return refuse(format!("may be used by others (mode {mode:04o})"), format!("chmod go= {}", path.display()));
    }
    Ok(())
}
