//! Where an authority's state becomes durable.
//!
//! ```text
//! authority.json   the whole state, replaced by rename
//! authority.log    one line for each command since: the first 4 bytes of its SHA-256 in hexadecimal, a space, JSON
//!                  the first line names the state it continues, by SHA-256
//! ```
//!
//! A command is synced before the answer that relies on it leaves. A line that was cut off by a crash was never answered and is
//! taken away; a damaged line with others behind it is an error and never skipped. If a crash comes between the new state and the
//! new log, the old log names another state: all its commands are in the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use x0t_identity::{Authority, AuthorityCommand, CommandRefusal, NotStorable, SealKey, StoredAuthorityError};
use x0t_model::TrustDomain;

/// A log of this many bytes is folded into the state.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// The log of a crash between two folds, with room: more is not ours.
const LOG_BYTES_READABLE: u64 = 16 << 20;

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system says no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The state is there and is no authority's.
    #[error("{} cannot be used", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: StoredAuthorityError,
    },
    /// The state cannot be made into bytes. Nothing was written.
    #[error("the authority's state cannot be stored")]
    NotStorable {
        /// Why not.
        source: NotStorable,
    },
    /// A line of the log is damaged and there are others behind it.
    #[error("line {line} of {} is damaged; restore the directory from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A command of the log does not apply to the state.
    #[error("line {line} of {} does not fit the state before it", path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why not.
        source: CommandRefusal,
    },
}

/// Where an authority's commands become durable, one after the other.
pub trait AuthorityStore: Send {
    /// Makes `commands` durable before returning. `state` is what they have led to, for a store that wants to begin a new log.
    ///
    /// # Errors
    /// If they are not; nothing of them is then in the store.
    fn commit(&mut self, commands: &[AuthorityCommand], state: &Authority) -> Result<(), StoreError>;
}

/// State and log in a directory of this host.
#[derive(Debug)]
pub struct LocalStore {
    state_path: PathBuf,
    log_path: PathBuf,
    log: File,
    /// Bytes of the log that hold; what is behind them was never promised.
    len: u64,
    /// The state may have been replaced while the log still continues the one before: nothing may be written to it.
    is_stale: bool,
}

impl LocalStore {
    /// Opens the state of `trust_domain` in `directory` and applies its log.
    ///
    /// # Errors
    /// If there is no state, or state or log cannot be read.
    pub fn open(directory: &Path, trust_domain: &TrustDomain) -> Result<(Self, Authority), StoreError> {
        Self::read(directory, |stored| Authority::from_stored(trust_domain, stored))
    }

    /// The same for a state whose private keys are sealed, or are to be sealed from now on.
    ///
    /// # Errors
    /// If there is no state, state or log cannot be read, or the keys do not open.
    pub fn open_sealed(
        directory: &Path,
        trust_domain: &TrustDomain,
        seal: SealKey,
    ) -> Result<(Self, Authority), StoreError> {
        Self::read(directory, |stored| Authority::from_sealed(trust_domain, stored, seal))
    }

    fn read(
        directory: &Path,
        read: impl FnOnce(&[u8]) -> Result<Authority, StoredAuthorityError>,
    ) -> Result<(Self, Authority), StoreError> {
        let state_path = directory.join("authority.json");
        let log_path = directory.join("authority.log");
        let stored = std::fs::read(&state_path).map_err(failed("read", &state_path))?;
        let mut authority = read(&stored).map_err(|source| StoreError::State { path: state_path.clone(), source })?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut log = options.open(&log_path).map_err(failed("open", &log_path))?;
        let mut bytes = Vec::new();
        (&mut log).take(LOG_BYTES_READABLE + 1).read_to_end(&mut bytes).map_err(failed("read", &log_path))?;
        if bytes.len() as u64 > LOG_BYTES_READABLE {
            return Err(failed("read all of", &log_path)(io::ErrorKind::FileTooLarge.into()));
        }
        let header = header(&stored);
        let mut store = Self { state_path, log_path, log, len: 0, is_stale: false };
        if bytes.starts_with(&header) {
            store.len = store.replay(&bytes, header.len(), &mut authority)?;
            store.log.set_len(store.len).map_err(failed("cut", &store.log_path))?;
        } else {
            store.begin(&header)?;
        }
        Ok((store, authority))
    }

    /// Applies the lines behind the first and gives the length of what holds.
    fn replay(&self, bytes: &[u8], header: usize, authority: &mut Authority) -> Result<u64, StoreError> {
        let mut good = header;
        let mut lines = bytes[header..].split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let Some(command) = read_line(line) else {
                if lines.peek().is_some() {
                    return Err(StoreError::Damaged { path: self.log_path.clone(), line: number + 2 });
                }
                tracing::warn!(log = %self.log_path.display(), "the log ends in a line that was never finished; it is taken away");
                break;
            };
            let misfit = |source| StoreError::Misfit { path: self.log_path.clone(), line: number + 2, source };
            authority.apply(&command).map_err(misfit)?;
            good += line.len();
        }
        Ok(good as u64)
    }

    fn begin(&mut self, header: &[u8]) -> Result<(), StoreError> {
        self.len = 0;
        self.write_at_end(header)
    }

    /// Appends and syncs. After a failure the file is cut back to what held before.
    fn write_at_end(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.log.set_len(self.len).and_then(|()| {
            self.log.seek(SeekFrom::Start(self.len))?;
            self.log.write_all(bytes)?;
            self.log.sync_data()
        });
        if let Err(source) = written {
            // What could not be cut now is cut before the next write.
            let _ = self.log.set_len(self.len);
            return Err(failed("write", &self.log_path)(source));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The whole state anew, and an empty log behind it.
    fn fold(&mut self, state: &Authority) -> Result<(), StoreError> {
        let stored = state.to_stored().map_err(|source| StoreError::NotStorable { source })?;
        let new = self.state_path.with_extension("json.new");
        let replace = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&stored)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.state_path)?;
            let directory = self.state_path.parent().unwrap_or_else(|| Path::new("."));
            File::open(directory)?.sync_all()
        };
        self.is_stale = true;
        replace().map_err(failed("replace", &self.state_path))?;
        self.begin(&header(&stored))?;
        self.is_stale = false;
        Ok(())
    }
}

impl AuthorityStore for LocalStore {
    fn commit(&mut self, commands: &[AuthorityCommand], state: &Authority) -> Result<(), StoreError> {
        // Commands say nothing of private keys. A key has to be durable before its authority is, and one that was tainted has to
        // leave the disk: the whole state is written, which has everything in it.
        if self.is_stale || commands.iter().any(|command| matches!(command, AuthorityCommand::ChangeCa { .. })) {
            return self.fold(state);
        }
        let mut lines = Vec::new();
        for command in commands {
            let json =
                serde_json::to_vec(command).map_err(|error| failed("encode for", &self.log_path)(error.into()))?;
            lines.extend_from_slice(checksum(&json).as_bytes());
            lines.extend_from_slice(&json);
            lines.push(b'\n');
        }
        self.write_at_end(&lines)?;
        if self.len >= LOG_BYTES_MAX {
            // The commands are durable: a state that cannot be replaced now is tried again with the next ones.
            if let Err(error) = self.fold(state) {
                tracing::error!(%error, "cannot fold the authority's log into its state; the log goes on growing");
            }
        }
        Ok(())
    }
}

/// The first line of a log that continues `stored`.
fn header(stored: &[u8]) -> Vec<u8> {
    format!("x0t authority log 1 {}\n", HEXLOWER.encode(digest(&SHA256, stored).as_ref())).into_bytes()
}

/// The command in a whole line whose checksum is right.
fn read_line(line: &[u8]) -> Option<AuthorityCommand> {
    let line = line.strip_suffix(b"\n")?;
    let (found, json) = line.split_at_checked(9)?;
    if found != checksum(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// With the space that follows it.
fn checksum(json: &[u8]) -> String {
    format!("{} ", HEXLOWER.encode(&digest(&SHA256, json).as_ref()[..4]))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use x0t_identity::{AuthorityConfig, AwsLcKeys, SeededKeys};
    use x0t_model::{Entropy, SpiffeId, UnixTime};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);

    fn world() -> (tempfile::TempDir, TrustDomain, Entropy) {
        let (directory, mut entropy) = (tempfile::tempdir().unwrap(), Entropy::new([1; 32]));
        let node = "spiffe://mesh.test/node/a".parse().unwrap();
        let authority =
            Authority::create(&node, AuthorityConfig::default(), &mut AwsLcKeys, &mut entropy, NOW).unwrap();
        std::fs::write(directory.path().join("authority.json"), authority.to_stored().unwrap()).unwrap();
        (directory, "mesh.test".parse().unwrap(), entropy)
    }

    fn add_token(authority: &mut Authority, entropy: &mut Entropy) -> Vec<AuthorityCommand> {
        let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
        authority.create_token(None, Duration::from_secs(60), addresses, entropy, NOW).unwrap();
        authority.take_journal()
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let (directory, domain, mut entropy) = world();
        let (mut store, mut authority) = LocalStore::open(directory.path(), &domain).unwrap();
        for _ in 0..5 {
            let commands = add_token(&mut authority, &mut entropy);
            store.commit(&commands, &authority).unwrap();
        }
        let (_, again) = LocalStore::open(directory.path(), &domain).unwrap();
        assert_eq!(again.to_stored().unwrap(), authority.to_stored().unwrap());
    }

    #[test]
    fn l19_a_crash_at_any_byte_of_a_write_leaves_everything_that_was_promised() {
        let (directory, domain, mut entropy) = world();
        let (mut store, mut authority) = LocalStore::open(directory.path(), &domain).unwrap();
        let commands = add_token(&mut authority, &mut entropy);
        store.commit(&commands, &authority).unwrap();
        let (promised, log) = (authority.to_stored().unwrap(), directory.path().join("authority.log"));
        let before = std::fs::read(&log).unwrap();
        let commands = add_token(&mut authority, &mut entropy);
        store.commit(&commands, &authority).unwrap();
        let whole = std::fs::read(&log).unwrap();
        for len in before.len()..whole.len() {
            std::fs::write(&log, &whole[..len]).unwrap();
            let (mut store, mut again) = LocalStore::open(directory.path(), &domain).unwrap();
            assert_eq!(again.to_stored().unwrap(), promised, "{len} bytes");
            let commands = add_token(&mut again, &mut entropy);
            store.commit(&commands, &again).unwrap();
            assert_eq!(
                LocalStore::open(directory.path(), &domain).unwrap().1.to_stored().unwrap(),
                again.to_stored().unwrap()
            );
        }
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_an_error_and_not_skipped() {
        let (directory, domain, mut entropy) = world();
        let (mut store, mut authority) = LocalStore::open(directory.path(), &domain).unwrap();
        for _ in 0..3 {
            let commands = add_token(&mut authority, &mut entropy);
            store.commit(&commands, &authority).unwrap();
        }
        let log = directory.path().join("authority.log");
        let mut bytes = std::fs::read(&log).unwrap();
        let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 30;
        bytes[second] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let error = LocalStore::open(directory.path(), &domain).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { line: 2, .. }), "{error}");
    }

    #[test]
    fn l19_a_crash_between_the_new_state_and_the_new_log_applies_nothing_twice() {
        let (directory, domain, mut entropy) = world();
        let (mut store, mut authority) = LocalStore::open(directory.path(), &domain).unwrap();
        let commands = add_token(&mut authority, &mut entropy);
        store.commit(&commands, &authority).unwrap();
        let old_log = std::fs::read(directory.path().join("authority.log")).unwrap();
        store.fold(&authority).unwrap();
        std::fs::write(directory.path().join("authority.log"), old_log).unwrap();
        let (_, again) = LocalStore::open(directory.path(), &domain).unwrap();
        assert_eq!(again.to_stored().unwrap(), authority.to_stored().unwrap());
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_log_as_it_was() {
        let (directory, domain, mut entropy) = world();
        let (mut store, mut authority) = LocalStore::open(directory.path(), &domain).unwrap();
        let good = add_token(&mut authority, &mut entropy);
        store.commit(&good, &authority).unwrap();
        let before = authority.to_stored().unwrap();
        // A file that cannot be written to: what a full disk looks like to the store.
        store.log = File::open(directory.path().join("authority.log")).unwrap();
        let lost = add_token(&mut authority, &mut entropy);
        assert!(matches!(store.commit(&lost, &authority), Err(StoreError::Io { action: "write", .. })));
        assert_eq!(LocalStore::open(directory.path(), &domain).unwrap().1.to_stored().unwrap(), before);
    }

    #[test]
    fn a_new_authority_is_durable_with_its_key_and_a_tainted_key_leaves_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (mut keys, mut entropy) = (SeededKeys::new(Entropy::new([4; 32])), Entropy::new([5; 32]));
        let node: SpiffeId = "spiffe://mesh.test/node/alpha".parse().unwrap();
        let domain = node.trust_domain().clone();
        let now = UnixTime::from_secs(1_795_262_400);
        let authority = Authority::create(&node, AuthorityConfig::default(), &mut keys, &mut entropy, now).unwrap();
        std::fs::write(directory.path().join("authority.json"), authority.to_stored().unwrap()).unwrap();
        let seal = SealKey::generate(&mut entropy);
        let open = || LocalStore::open_sealed(directory.path(), &domain, seal.clone()).unwrap();
        let (mut store, mut authority) = open();
        let first = authority.signer().unwrap().key_id();
        let kind = x0t_identity::ca_life::AuthorityKind::X509;
        let second = authority.prepare_ca(kind, &mut keys, &mut entropy, now).unwrap();
        store.commit(&authority.take_journal(), &authority).unwrap();
        let (mut store, mut authority) = open();
        authority.activate_ca(kind, x0t_identity::ca_life::Patience::Force, now).unwrap();
        authority.taint_ca(first, now).unwrap();
        store.commit(&authority.take_journal(), &authority).unwrap();
        let (_, mut authority) = open();
        assert_eq!(authority.signer().unwrap().key_id(), second);
        assert!(authority.issue_self(&mut keys, &mut entropy, now).is_ok(), "its key came back");
        let stored: serde_json::Value =
            serde_json::from_slice(&std::fs::read(directory.path().join("authority.json")).unwrap()).unwrap();
        let kept = stored["keys"].as_object().unwrap();
        assert!(kept.contains_key(&second.to_string()) && !kept.contains_key(&first.to_string()));
        assert!(kept.values().all(|key| key["kept"] == "sealed"));
    }
}
