//! Attestation: what is true of the process behind a socket.
//!
//! # How a process is looked at
//!
//! The kernel names the process that connected (SO_PEERCRED) and hands out a pidfd of it (SO_PEERPIDFD). Its facts are then read from
//! `/proc/PID`: start time and program, credentials, control group, and program and start time once more. If those two differ
//! the process has called `execve` meanwhile and everything is read again; if the pidfd says that it has exited, nothing counts.
//! Neither PID nor start time changes with `execve`, so one look at the start of a stream is not enough: every push looks again.
//!
//! # What can be found
//!
//! | selector | from |
//! |---|---|
//! | `unix:uid`, `unix:gid`, `unix:supplementary_gid` | the *effective* ids and the groups in `/proc/PID/status` |
//! | `unix:user`, `unix:group`, `unix:supplementary_group` | the same ids, looked up in `/etc/passwd` and `/etc/group` |
//! | `unix:path` | `/proc/PID/exe`, if the process shares our mount namespace or its program is the same file under the same path in ours |
//! | `unix:sha256` | the content of `/proc/PID/exe` |
//! | `systemd:unit` | the first component of the control group's path that is no slice |
//! | `cgroup:path` | that path |
//! | `container:id`, `docker:container_id`, `k8s:pod-uid` | components of that path which only root can have made |
//!
//! What cannot be found gives no selector. That takes identities away and never adds one: an entry needs *all* its selectors.

mod binary;
mod cgroup;
mod process;
mod procfs;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use x0t_identity::{Selector, SelectorError, Selectors};

use self::binary::{FileKey, Program, Programs};
pub use self::process::Process;
use self::procfs::Malformed;

/// Supplementary groups that become selectors, from the smallest id up. Each gives two, of 256 in all.
const GROUPS_MAX: usize = 96;
/// `/proc/PID/status` has about 1.5 KiB, and up to 11 bytes for each of 65,536 groups.
const STATUS_LEN_MAX: usize = 1024 * 1024;
const STAT_LEN_MAX: usize = 4096;
/// `/etc/passwd` and `/etc/group`.
const TABLE_LEN_MAX: usize = 1024 * 1024;
/// How often a process may call `execve` while it is looked at.
const LOOKS_MAX: usize = 3;

/// Why nothing can be said of a process.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It has exited.
    #[error("the process has exited")]
    Gone,
    /// It runs in a PID namespace that ours does not contain.
    #[error("the process is not visible from this PID namespace")]
    NotVisible,
    /// It calls `execve` over and over.
    #[error("the process changes its program while it is looked at")]
    Changed,
    /// Its program could not be read.
    #[error("the program of the process is not readable")]
    Unreadable,
    /// Its program could not be read in time.
    #[error("reading the program of the process takes too long")]
    TooSlow,
    /// Programs of many other users are being read.
    #[error("too many programs are being read at this moment")]
    Busy,
    /// The kernel's text was not understood.
    #[error(transparent)]
    Malformed(#[from] MalformedProc),
    /// Too many facts.
    #[error("the process has too many selectors")]
    TooMany(#[from] SelectorError),
    /// The kernel refused.
    #[error("the kernel does not tell the {0} of the process")]
    Kernel(&'static str, #[source] io::Error),
}

/// A text in `/proc` that was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct MalformedProc(#[from] Malformed);

impl From<Malformed> for AttestError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(MalformedProc(malformed))
    }
}

/// Which of the dear facts are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether the program is read to the end for its digest. Only if some entry asks for it: reading costs time, and whoever
    /// starts many large programs could make us spend it.
    pub sha256: bool,
}

/// Looks at processes.
#[derive(Debug)]
pub struct Attestor {
    programs: Programs,
    users: Table,
    groups: Table,
}

impl Attestor {
    /// Programs of up to `read_max` bytes are read for their digest; a larger one has no `unix:sha256`.
    pub fn new(read_max: u64) -> Self {
        Self { programs: Programs::new(read_max), users: Table::new("/etc/passwd"), groups: Table::new("/etc/group") }
    }

    /// Everything that is true of `process` at this moment.
    ///
    /// # Errors
    /// If it has exited, or the kernel does not let us look.
    pub async fn attest(&self, process: &Process, wanted: Wanted) -> Result<Selectors, AttestError> {
        let looked = self.look(process, wanted).await;
        // Whatever was found, or not found, under the PID of a process that is gone may have been another's.
        if process.is_alive() { looked } else { Err(AttestError::Gone) }
    }

    async fn look(&self, process: &Process, wanted: Wanted) -> Result<Selectors, AttestError> {
        let pid = process.pid();
        let mut before = Moment::of(pid)?;
        for _ in 0..LOOKS_MAX {
            let credentials = procfs::parse_status(&read(pid, "status", STATUS_LEN_MAX)?)?;
            let cgroup = cgroup::parse(&read(pid, "cgroup", cgroup::CGROUP_LEN_MAX)?);
            let facts = match &before.program {
                Some(program) => match self.programs.examine(pid, credentials.uid, program, wanted.sha256).await {
                    Err(AttestError::Changed) => None,
                    facts => Some(facts?),
                },
                None => Some(binary::Facts::default()),
            };
            let after = Moment::of(pid)?;
            match facts {
                Some(facts) if before == after => {
                    return selectors(&credentials, &cgroup, &facts, (&self.users.content(), &self.groups.content()));
                }
                _ => before = after,
            }
        }
        Err(AttestError::Changed)
    }
}

/// What `execve` or another process under the same PID would change.
#[derive(PartialEq, Eq)]
struct Moment {
    started: u64,
    program: Option<Program>,
}

impl Moment {
    fn of(pid: i32) -> Result<Self, AttestError> {
        let stat = procfs::parse_stat(&read(pid, "stat", STAT_LEN_MAX)?)?;
        if stat.is_dead {
            return Err(AttestError::Gone);
        }
        Ok(Self { started: stat.started, program: binary::program(pid)? })
    }
}

fn read(pid: i32, name: &'static str, len_max: usize) -> Result<Vec<u8>, AttestError> {
    let read = read_file(format!("/proc/{pid}/{name}"), len_max);
    read.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::SRCH) => AttestError::Gone,
        _ => AttestError::Kernel(name, error),
    })
}

fn read_file(path: impl AsRef<Path>, len_max: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(len_max as u64 + 1).read_to_end(&mut text)?;
    if text.len() > len_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// A table of names, read again when the file has changed.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    known: Mutex<Option<(FileKey, Arc<[u8]>)>>,
}

impl Table {
    fn new(path: &str) -> Self {
        Self { path: path.into(), known: Mutex::new(None) }
    }

    /// Empty on a host without it: then nobody has a name.
    fn content(&self) -> Arc<[u8]> {
        let Ok(key) = FileKey::of_path(&self.path) else { return Arc::default() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, content)) if *of == key => Arc::clone(content),
            _ => match read_file(&self.path, TABLE_LEN_MAX) {
                Ok(content) => {
                    let content: Arc<[u8]> = content.into();
                    *known = Some((key, Arc::clone(&content)));
                    content
                }
                // The file is the same when it can be read again, so this must not be remembered.
                Err(_) => Arc::default(),
            },
        }
    }
}

fn selectors(
    credentials: &procfs::Credentials,
    cgroup: &cgroup::Cgroup,
    facts: &binary::Facts,
    (users, groups): (&[u8], &[u8]),
) -> Result<Selectors, AttestError> {
    let mut found = Vec::new();
    let mut add = |kind: &str, value: &str| {
        if !value.is_empty() {
            // A path with a line break, say, is no selector: nothing matches it.
            found.extend(format!("{kind}:{value}").parse::<Selector>().ok());
        }
    };
    add("unix:uid", &credentials.uid.to_string());
    add("unix:gid", &credentials.gid.to_string());
    add("unix:user", procfs::name_of(users, credentials.uid).unwrap_or_default());
    add("unix:group", procfs::name_of(groups, credentials.gid).unwrap_or_default());
    for gid in credentials.groups.iter().take(GROUPS_MAX) {
        add("unix:supplementary_gid", &gid.to_string());
        add("unix:supplementary_group", procfs::name_of(groups, *gid).unwrap_or_default());
    }
    let optional = [
        ("unix:path", facts.path.as_deref()),
        ("unix:sha256", facts.sha256.as_deref()),
        ("systemd:unit", cgroup.unit.as_deref()),
        ("cgroup:path", cgroup.path.as_deref()),
        ("k8s:pod-uid", cgroup.pod.as_deref()),
    ];
    for (kind, value) in optional {
        add(kind, value.unwrap_or_default());
    }
    if let Some(container) = &cgroup.container {
        add("container:id", &container.id);
        if container.runtime == Some("docker") {
            add("docker:container_id", &container.id);
        }
    }
    Ok(Selectors::new(found)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_could_not_be_read_is_read_again_although_its_file_has_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        // A directory cannot be read as a file, and keeps its key while nothing in it changes.
        std::fs::create_dir(&path).unwrap();
        let table = Table::new(path.to_str().unwrap());
        assert!(table.content().is_empty());
        assert!(table.known.lock().unwrap().is_none(), "the failure is not remembered");
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "root:x:0:0::/root:/bin/sh\n").unwrap();
        assert_eq!(procfs::name_of(&table.content(), 0), Some("root"));
        assert!(table.known.lock().unwrap().is_some());
    }
}
