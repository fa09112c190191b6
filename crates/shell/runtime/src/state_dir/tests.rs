use std::os::unix::fs::PermissionsExt;

use super::*;

fn mesh(trust_domain: &str) -> MeshFile {
    MeshFile::new(trust_domain.parse().unwrap(), "alpha")
}

fn record(kind: RecordKind, bytes: &[u8]) -> Record {
    Record { kind, bytes: bytes.to_vec() }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_new_directory_is_private_and_keeps_what_was_written() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("deep/state");
    let dir = StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"secret")]).unwrap();
    assert_eq!(mode(&path), 0o700);
    for file in ["mesh.json", "svid.pem", "lock"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    drop(dir);
    let dir = StateDir::open(&path).unwrap();
    assert_eq!(dir.mesh(), &mesh("mesh.test"));
    assert_eq!(dir.read(RecordKind::Svid).unwrap().as_deref(), Some(b"secret".as_slice()));
    assert_eq!(dir.read(RecordKind::Authority).unwrap(), None);
    assert_eq!(StateDir::admin_socket(&path), path.join("admin.sock"));
}

#[test]
fn a_directory_without_a_node_says_what_to_do_next() {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for path in [temp.path().to_owned(), temp.path().join("absent")] {
        let error = StateDir::open(path).unwrap_err();
        assert!(matches!(error, StateDirError::NotInitialised { .. }), "{error}");
        assert!(error.to_string().contains("`x0t up`") && error.to_string().contains("`x0t join TOKEN`"));
    }
}

#[test]
fn a_second_holder_is_told_who_the_first_one_is() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    let first = StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    let me = std::process::id();
    assert!(matches!(error, StateDirError::InUse { pid: Some(pid), .. } if pid == me), "{error}");
    assert_eq!(StateDir::inspect(&path).unwrap().name, "alpha");
    drop(first);
    StateDir::open(&path).unwrap();
}

#[test]
fn a_second_process_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap());
    // util-linux flock(1) holds the same kind of lock and says so once it has it.
    let holder = std::process::Command::new("flock")
        .arg("--exclusive")
        .arg(path.join("lock"))
        .args(["sh", "-c", "echo held; read _"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut holder) = holder else {
        return eprintln!("skipped: needs flock(1)");
    };
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "held\n");
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateDirError::InUse { .. }), "{error}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    StateDir::open(&path).unwrap();
}

#[test]
fn a_directory_or_a_key_that_others_may_read_is_refused_with_the_repair() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"secret")]).unwrap());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateDirError::Permissions { .. }), "{error}");
    assert!(error.to_string().contains("0750") && error.to_string().contains("chmod go="), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(path.join("svid.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = StateDir::open(&path).unwrap().read(RecordKind::Svid).unwrap_err();
    assert!(matches!(error, StateDirError::Permissions { .. }), "{error}");
}

#[test]
fn a_newer_layout_is_named_whatever_else_it_contains() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap());
    fs::write(path.join("mesh.json"), br#"{"version": 7, "wholly": ["different"]}"#).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateDirError::NewerVersion { found: 7, known: 1, .. }), "{error}");
}

#[test]
fn a_damaged_file_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap());
    fs::write(path.join("mesh.json"), b"{").unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(&error, StateDirError::Damaged { path: file, .. } if file.ends_with("mesh.json")), "{error}");
}

#[test]
fn a_directory_that_holds_a_node_is_not_taken_over() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"old")]).unwrap());
    let error = StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap_err();
    assert!(matches!(error, StateDirError::AlreadyInitialised { .. }), "{error}");
    let error = StateDir::create(&path, &mesh("other.test"), &[]).unwrap_err();
    assert!(matches!(error, StateDirError::OtherMesh { .. }), "{error}");
    assert_eq!(StateDir::open(&path).unwrap().read(RecordKind::Svid).unwrap().unwrap(), b"old");
}

#[test]
fn a_creation_that_was_cut_short_can_be_repeated_and_leaves_nothing_of_the_first_attempt() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Authority, b"first")]).unwrap());
    fs::remove_file(path.join("mesh.json")).unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateDirError::NotInitialised { .. })));
    let dir = StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"second")]).unwrap();
    assert_eq!(dir.read(RecordKind::Authority).unwrap(), None);
}

#[test]
fn a_crash_between_writing_and_renaming_leaves_the_old_content() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    drop(StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"old")]).unwrap());
    fs::write(path.join("svid.pem.new"), b"half of the ne").unwrap();
    let dir = StateDir::open(&path).unwrap();
    assert_eq!(dir.read(RecordKind::Svid).unwrap().unwrap(), b"old");
    assert!(!path.join("svid.pem.new").exists());
}

#[test]
fn a_write_that_fails_leaves_the_old_content() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    let mut dir = StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"old")]).unwrap();
    // A directory in the temporary file's place cannot be opened for writing, whoever asks.
    fs::create_dir(path.join("svid.pem.new")).unwrap();
    let error = dir.write(&record(RecordKind::Svid, b"new")).unwrap_err();
    assert!(matches!(error, StateDirError::Io { action: "create", .. }), "{error}");
    assert_eq!(dir.read(RecordKind::Svid).unwrap().unwrap(), b"old");
    fs::remove_dir(path.join("svid.pem.new")).unwrap();
    dir.write(&record(RecordKind::Svid, b"new")).unwrap();
    assert_eq!(dir.read(RecordKind::Svid).unwrap().unwrap(), b"new");
}

#[test]
fn a_full_disk_leaves_the_old_content() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let temp = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"])
        .arg(temp.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return eprintln!("skipped: needs to mount a tmpfs");
    }
    let _unmount = Unmount(temp.path().to_owned());
    let path = temp.path().join("state");
    let mut dir = StateDir::create(&path, &mesh("mesh.test"), &[record(RecordKind::Svid, b"old")]).unwrap();
    let error = dir.write(&record(RecordKind::Svid, &[0x5a; 128 << 10])).unwrap_err();
    assert!(
        matches!(&error, StateDirError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{error:?}"
    );
    assert_eq!(dir.read(RecordKind::Svid).unwrap().unwrap(), b"old");
    // The failed attempt gave its space back.
    dir.write(&record(RecordKind::Svid, b"new")).unwrap();
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn every_boot_has_a_larger_epoch_than_all_before_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state");
    let mut dir = StateDir::create(&path, &mesh("mesh.test"), &[]).unwrap();
    assert_eq!(dir.begin_epoch().unwrap(), 1);
    drop(dir);
    let mut dir = StateDir::open(&path).unwrap();
    assert_eq!(dir.begin_epoch().unwrap(), 2);
    dir.write(&record(RecordKind::Epoch, b"4294967295\n")).unwrap();
    assert!(matches!(dir.begin_epoch(), Err(StateDirError::EpochExhausted { .. })));
    dir.write(&record(RecordKind::Epoch, b"several")).unwrap();
    assert!(matches!(dir.begin_epoch(), Err(StateDirError::Damaged { .. })));
}
