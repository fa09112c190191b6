//! Attestation of real processes (lesson L9).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use data_encoding::HEXLOWER;
use x0t_identity::Selectors;

use super::authority::TestSource;
use super::endpoint::{Client, Connect, Stream, connect, my_uid, serve};
use crate::attest::{AttestError, Attestor, Process, Wanted};
use crate::proto::spiffe::X509svidResponse;

const X509: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

fn values<'a>(selectors: &'a Selectors, kind: &str) -> Vec<&'a str> {
    selectors.iter().filter_map(|selector| selector.as_str().strip_prefix(kind)?.strip_prefix(':')).collect()
}

fn attestor() -> Attestor {
    Attestor::new(1 << 30)
}

/// A process that is ended with the test.
struct Spawned(Child);

impl Spawned {
    fn new(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(&mut self) {
        // Already ended is as good.
        drop(self.0.kill());
        self.0.wait().unwrap();
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test]
async fn a_process_is_described_by_what_the_kernel_says_of_it() {
    let me = Process::of_pid(i32::try_from(std::process::id()).unwrap()).unwrap();
    let selectors = attestor().attest(&me, Wanted { sha256: true }).await.unwrap();
    let program = std::env::current_exe().unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&program).unwrap());
    assert_eq!(values(&selectors, "unix:uid"), [rustix::process::geteuid().as_raw().to_string()]);
    assert_eq!(values(&selectors, "unix:gid"), [rustix::process::getegid().as_raw().to_string()]);
    assert_eq!(values(&selectors, "unix:path"), [program.to_str().unwrap()]);
    assert_eq!(values(&selectors, "unix:sha256"), [HEXLOWER.encode(digest.as_ref())]);
    let cheap = attestor().attest(&me, Wanted { sha256: false }).await.unwrap();
    assert!(values(&cheap, "unix:sha256").is_empty());
}

#[tokio::test]
async fn a_program_beyond_the_limit_has_no_digest() {
    let me = Process::of_pid(i32::try_from(std::process::id()).unwrap()).unwrap();
    let selectors = Attestor::new(1000).attest(&me, Wanted { sha256: true }).await.unwrap();
    assert!(values(&selectors, "unix:sha256").is_empty());
    assert_eq!(values(&selectors, "unix:path").len(), 1);
}

#[tokio::test]
async fn l9_exec_changes_neither_pid_nor_start_time_and_is_seen_all_the_same() {
    let mut child = Spawned::new(Command::new("/bin/sh").args(["-c", "read line; exec /bin/sleep 1000"]));
    let process = Process::of_pid(child.pid()).unwrap();
    let attestor = attestor();
    let path = || async {
        let selectors = attestor.attest(&process, Wanted { sha256: true }).await.unwrap();
        (values(&selectors, "unix:path").join(""), values(&selectors, "unix:sha256").join(""))
    };
    // The fork becomes the shell first.
    let own = std::env::current_exe().unwrap();
    let mut before = path().await;
    while before.0 == own.to_str().unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        before = path().await;
    }
    child.say("go");
    let mut after = path().await;
    while after == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
        after = path().await;
    }
    assert_eq!(after.0, std::fs::canonicalize("/bin/sleep").unwrap().to_str().unwrap());
    assert_ne!(after.1, before.1);
}

#[tokio::test]
async fn l9_a_process_that_has_exited_is_nobody_even_before_its_parent_has_noticed() {
    let mut child = Spawned::new(&mut Command::new("/bin/cat"));
    let process = Process::of_pid(child.pid()).unwrap();
    attestor().attest(&process, Wanted::default()).await.unwrap();
    drop(child.0.stdin.take());
    while process.is_alive() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Not waited for: the PID still stands in /proc.
    assert!(std::fs::exists(format!("/proc/{}", child.pid())).unwrap());
    assert!(matches!(attestor().attest(&process, Wanted::default()).await, Err(AttestError::Gone)));
    child.end();
    assert!(matches!(attestor().attest(&process, Wanted::default()).await, Err(AttestError::Gone)));
    assert!(matches!(Process::of_pid(child.pid()), Err(AttestError::Gone)));
}

#[tokio::test]
async fn l9_whoever_gets_the_pid_of_a_process_that_is_gone_is_not_taken_for_it() {
    let mut first = Spawned::new(&mut Command::new("/bin/cat"));
    let (process, pid) = (Process::of_pid(first.pid()).unwrap(), first.pid());
    first.end();
    // The kernel can be told which PID comes next; others on this host may be faster, so more than one try.
    for _ in 0..200 {
        if std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
            eprintln!("skipped: only root can choose a PID");
            return;
        }
        let second = Spawned::new(&mut Command::new("/bin/cat"));
        if second.pid() == pid {
            assert!(Process::of_pid(pid).unwrap().is_alive());
            assert!(matches!(attestor().attest(&process, Wanted::default()).await, Err(AttestError::Gone)));
            return;
        }
    }
    eprintln!("skipped: the PID could not be had again");
}

#[tokio::test]
async fn a_path_in_a_mount_namespace_of_its_own_counts_only_if_it_is_our_file() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root makes a mount namespace here");
    }
    // /bin/sleep, shown under the path of another program.
    let script = "mount --bind /bin/sleep /bin/true && exec /bin/true 1000";
    let child = Spawned::new(Command::new("unshare").args(["--mount", "sh", "-c", script]));
    let honest = Spawned::new(Command::new("unshare").args(["--mount", "/bin/sleep", "1000"]));
    let program = |child: &Spawned| std::fs::read_link(format!("/proc/{}/exe", child.pid())).ok();
    let shown = std::fs::canonicalize("/bin/true").unwrap();
    let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
    for (child, path) in [(&child, &shown), (&honest, &sleep)] {
        let mut tries = 0;
        while program(child).as_ref() != Some(path) {
            tries += 1;
            if tries > 5000 {
                return eprintln!("skipped: no mount namespace here");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let attestor = attestor();
    let attest = |child: &Spawned| Process::of_pid(child.pid()).unwrap();
    let (liar, honest) = (attest(&child), attest(&honest));
    let selectors = attestor.attest(&liar, Wanted::default()).await.unwrap();
    assert!(values(&selectors, "unix:path").is_empty());
    let selectors = attestor.attest(&honest, Wanted::default()).await.unwrap();
    assert_eq!(values(&selectors, "unix:path"), [sleep.to_str().unwrap()]);
}

/// Starts this test program again, as a process that opens a stream and, told to, becomes another program with its connection open.
fn start_client(path: &std::path::Path, uid: Option<u32>) -> Spawned {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "tests::attestation::a_client_that_becomes_another_program"]);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut client = Spawned::new(&mut command);
    client.say(path.to_str().unwrap());
    client
}

fn read_answer(client: &mut Spawned) -> String {
    let output = client.0.stdout.take().unwrap();
    let answer = BufReader::new(output).lines().map(Result::unwrap).find_map(|line| {
        // The test harness writes its own words on the same line.
        line.split_once("answer: ").map(|(_, answer)| answer.to_owned())
    });
    answer.unwrap()
}

#[test]
#[ignore = "a program that other tests start"]
fn a_client_that_becomes_another_program() {
    let mut lines = std::io::stdin().lines();
    let path = lines.next().unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stream: Stream<X509svidResponse> = runtime.block_on(async {
        let client: Client = connect(path.into(), Connect { survives_exec: true, ..Connect::default() }).await;
        client.open(X509, ()).await.unwrap()
    });
    let first = runtime.block_on(stream.message());
    eprintln!("got {}", first.svids[0].spiffe_id);
    std::io::stdout().write_all(format!("answer: {}\n", first.svids[0].spiffe_id).as_bytes()).unwrap();
    match lines.next().unwrap().unwrap().as_str() {
        "become another program" => panic!("{}", Command::new("/bin/sleep").arg("1000").exec()),
        // It holds the socket, and ends with the test, whose end closes the pipe that it reads.
        _ => drop(Command::new("/bin/cat").spawn().unwrap()),
    }
    std::process::exit(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_a_caller_that_becomes_another_program_is_looked_at_again_on_the_next_push() {
    let source = TestSource::new("mesh.test");
    let program = std::env::current_exe().unwrap();
    source.add("/web", &[&format!("unix:path:{}", program.to_str().unwrap())]);
    let served = serve(source);
    let mut client = start_client(&served.path, None);
    assert_eq!(read_answer(&mut client), "spiffe://mesh.test/web");
    // Positive control: as long as it is what it was, it is pushed to.
    served.source.rotate();
    wait_for(|| served.stats.counts().pushes == 1).await;
    client.say("become another program");
    let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
    wait_for(|| std::fs::read_link(format!("/proc/{}/exe", client.pid())).is_ok_and(|path| path == sleep)).await;
    served.source.rotate();
    wait_for(|| served.stats.counts().calls_refused == 1).await;
    let counts = served.stats.counts();
    assert_eq!((counts.pushes, counts.streams, counts.connections), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_a_caller_that_is_gone_gets_nothing_though_its_connection_is_still_open() {
    let source = TestSource::new("mesh.test");
    source.add("/web", &[&my_uid()]);
    let served = serve(source);
    let mut client = start_client(&served.path, None);
    assert_eq!(read_answer(&mut client), "spiffe://mesh.test/web");
    client.say("leave your connection to a child");
    wait_for(|| !Process::of_pid(client.pid()).is_ok_and(|process| process.is_alive())).await;
    served.source.rotate();
    wait_for(|| served.stats.counts().calls_refused == 1).await;
    let counts = served.stats.counts();
    assert_eq!((counts.pushes, counts.streams, counts.connections), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_get_an_identity_each() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can start processes of other users");
    }
    let source = TestSource::new("mesh.test");
    let program = std::env::current_exe().unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&program).unwrap());
    let digest = format!("unix:sha256:{}", HEXLOWER.encode(digest.as_ref()));
    source.add("/one", &["unix:uid:54321", &digest]);
    source.add("/two", &["unix:uid:54322", "unix:gid:54322"]);
    let served = serve(source);
    // The directory of the socket and that of the test program have to be open to them.
    let reachable = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        path.ancestors().skip(1).all(|folder| std::fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o001 != 0))
    };
    let directory = served.path.parent().unwrap();
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if !reachable(&program) || !reachable(&served.path) {
        return eprintln!("skipped: other users cannot reach the test program");
    }
    for (uid, id) in [(54321, "spiffe://mesh.test/one"), (54322, "spiffe://mesh.test/two")] {
        assert_eq!(read_answer(&mut start_client(&served.path, Some(uid))), id);
    }
}

/// Ends when it is so. Whoever waits for what never comes is ended by the test's own deadline.
async fn wait_for(mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("what was waited for");
}
