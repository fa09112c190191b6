//! The program that a process runs: which file, and what is in it.
//!
//! Reading a file can take long, and on a file system in user space as long as its owner likes. So it is done on a thread for
//! blocking work, with a deadline, one file at a time for each user, and what was found is kept until the file changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::AttestError;

/// Files whose digest is remembered. Each takes about 200 bytes.
const REMEMBERED_MAX: usize = 1024;
/// Users whose files are read at the same time.
const READERS_MAX: usize = 16;
/// Reading at 100 MB/s takes three seconds for the largest file.
const READ_DEADLINE: Duration = Duration::from_secs(10);
const DELETED: &str = " (deleted)";

/// One file in one state: the same key means the same content, for a file that is being executed cannot be written
/// (execve(2), ETXTBSY), and any other change moves `ctime`, which nobody can set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileKey {
    device: (u32, u32),
    inode: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

/// The program of a process, before anything was read from the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) key: FileKey,
    /// Where it lies, as the process sees it; `None` if that is no text.
    path: Option<String>,
    is_deleted: bool,
    /// Whether the process sees the same files under the same paths as we do.
    shares_our_mounts: bool,
}

/// What was found out about a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Where it lies, as *we* see it.
    pub(crate) path: Option<String>,
    /// SHA-256 of its content, in hexadecimal digits; `None` if it is larger than what is read.
    pub(crate) sha256: Option<String>,
}

/// Looks at the program of `pid`. `None` if the kernel does not let us: then nothing can be said of it.
pub(crate) fn program(pid: i32) -> Result<Option<Program>, AttestError> {
    let link = format!("/proc/{pid}/exe");
    // Without asking a file system in user space, which might not answer.
    let found = match stat(&link) {
        Ok(found) => found,
        // A kernel thread has none.
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT) => return Ok(None),
        Err(Errno::SRCH) => return Err(AttestError::Gone),
        Err(error) => return Err(AttestError::Kernel("program", error.into())),
    };
    let path = std::fs::read_link(&link).ok().and_then(|path| path.into_os_string().into_string().ok());
    let is_deleted = found.stx_nlink == 0;
    let ours = mount_namespace("self");
    let shares_our_mounts = ours.is_some() && mount_namespace(&pid.to_string()) == ours;
    Ok(Some(Program { key: FileKey::of(&found), path, is_deleted, shares_our_mounts }))
}

fn mount_namespace(pid: &str) -> Option<(u32, u64)> {
    let found = stat(&format!("/proc/{pid}/ns/mnt")).ok()?;
    Some((found.stx_dev_minor, found.stx_ino))
}

fn stat(path: &str) -> Result<Statx, Errno> {
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)
}

impl FileKey {
    /// Of whatever lies at `path`.
    pub(crate) fn of_path(path: &Path) -> Result<Self, Errno> {
        statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).map(|found| Self::of(&found))
    }

    fn of(found: &Statx) -> Self {
        Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        }
    }
}

impl Program {
    /// The path, where no disk has to be asked: the process has our own view of the files.
    ///
    /// The kernel adds " (deleted)" to the path of a file that no longer has a name. A program that was replaced by an upgrade
    /// keeps its path, or every upgrade would take the identity away from what runs.
    fn path_in_our_view(&self) -> Option<&str> {
        let path = self.path.as_deref().filter(|_| self.shares_our_mounts)?;
        if self.is_deleted { path.strip_suffix(DELETED) } else { Some(path) }
    }
}

/// Reads programs, and remembers what it read.
#[derive(Debug)]
pub(crate) struct Programs {
    read_max: u64,
    remembered: Mutex<BTreeMap<(FileKey, Option<String>), Facts>>,
    readers: Mutex<BTreeMap<u32, Arc<tokio::sync::Mutex<()>>>>,
}

impl Programs {
    /// Files of up to `read_max` bytes are read.
    pub(crate) fn new(read_max: u64) -> Self {
        Self { read_max, remembered: Mutex::default(), readers: Mutex::default() }
    }

    /// What there is to know of `program`, which process `pid` of user `uid` runs. With `wants_digest` its content is read, unless
    /// it is known already.
    pub(crate) async fn examine(
        &self,
        pid: i32,
        uid: u32,
        program: &Program,
        wants_digest: bool,
    ) -> Result<Facts, AttestError> {
        let in_our_view = program.path_in_our_view().map(str::to_owned);
        // In a mount namespace of its own a process can show any file under any path: what it shows is looked for in ours.
        let claimed = if in_our_view.is_none() && !program.shares_our_mounts { program.path.clone() } else { None };
        if !wants_digest && claimed.is_none() {
            return Ok(Facts { path: in_our_view, sha256: None });
        }
        let key = (program.key, claimed);
        if let Some(known) = self.remembered(&key, wants_digest) {
            return Ok(Facts { path: in_our_view.or(known.path), ..known });
        }
        let turn = self.reader(uid)?;
        let found = tokio::time::timeout(READ_DEADLINE, async {
            let turn = turn.lock_owned().await;
            if let Some(known) = self.remembered(&key, wants_digest) {
                return Ok::<_, AttestError>(known);
            }
            let (job, read_max) = (key.clone(), self.read_max);
            // The turn is over when the thread is done, even if nobody waits for it any more.
            let read = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                read(pid, &job.0, job.1.as_deref(), wants_digest.then_some(read_max))
            });
            let facts = read.await.map_err(|_| AttestError::Unreadable)??;
            self.remember(key, facts.clone(), wants_digest);
            Ok(facts)
        });
        let facts = found.await.map_err(|_| AttestError::TooSlow)??;
        Ok(Facts { path: in_our_view.or(facts.path), ..facts })
    }

    fn remembered(&self, key: &(FileKey, Option<String>), wants_digest: bool) -> Option<Facts> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered
            .get(key)
            .filter(|facts| facts.sha256.is_some() || !wants_digest || key.0.size > self.read_max)
            .cloned()
    }

    fn remember(&self, key: (FileKey, Option<String>), facts: Facts, with_digest: bool) {
        if !with_digest && facts.path.is_none() {
            return;
        }
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            // Cheap to find out again, so which one goes does not matter.
            remembered.pop_first();
        }
        remembered.insert(key, facts);
    }

    fn reader(&self, uid: u32) -> Result<Arc<tokio::sync::Mutex<()>>, AttestError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if !readers.contains_key(&uid) && readers.len() >= READERS_MAX {
            readers.retain(|_, reader| Arc::strong_count(reader) > 1);
            if readers.len() >= READERS_MAX {
                return Err(AttestError::Busy);
            }
        }
        Ok(Arc::clone(readers.entry(uid).or_default()))
    }
}

/// On a thread for blocking work.
fn read(pid: i32, key: &FileKey, claimed: Option<&str>, read_max: Option<u64>) -> Result<Facts, AttestError> {
    let mut facts = Facts::default();
    if let Some(path) = claimed.filter(|path| Path::new(path).is_absolute()) {
        let ours = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        facts.path = ours.is_ok_and(|ours| FileKey::of(&ours) == *key).then(|| path.to_owned());
    }
    let Some(read_max) = read_max.filter(|read_max| key.size <= *read_max) else { return Ok(facts) };
    let mut file = File::open(format!("/proc/{pid}/exe")).map_err(|_| AttestError::Unreadable)?;
    let opened = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(|_| AttestError::Unreadable)?;
    if FileKey::of(&opened) != *key {
        return Err(AttestError::Changed);
    }
    let mut digest = Context::new(&SHA256);
    let mut chunk = vec![0; 64 * 1024];
    let mut left = read_max;
    loop {
        let len = file.read(&mut chunk).map_err(|_| AttestError::Unreadable)?;
        if len == 0 {
            break;
        }
        left = left.checked_sub(len as u64).ok_or(AttestError::Unreadable)?;
        digest.update(&chunk[..len]);
    }
    facts.sha256 = Some(HEXLOWER.encode(digest.finish().as_ref()));
    Ok(facts)
}
