//! A whole daemon around a scripted node: start, ask, stop.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use support::{Scripted, Told, datagram, scripted, within};
use tokio::sync::oneshot;
use x0t_node::{Command, Output, Record, RecordKind, Reply};
use x0t_runtime::admin_client::{AdminClient, AdminError};
use x0t_runtime::clock::Clock;
use x0t_runtime::daemon::{self, DaemonConfig, Started};
use x0t_runtime::event_loop::Ending;
use x0t_runtime::state_dir::{MeshFile, StateDir, StateDirError};
use x0t_runtime::tun::TunMode;

/// Signals reach every daemon of a process, so one runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn settings() -> MeshFile {
    MeshFile {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        http: Some("127.0.0.1:0".parse().unwrap()),
        tun: TunMode::Off,
        ..MeshFile::new("mesh.test".parse().unwrap(), "alpha")
    }
}

/// Echoes datagrams, saves a token when asked for one, and says goodbye.
fn node() -> Scripted {
    let script = |told: &Told| match told {
        Told::Datagram { from, bytes, .. } => vec![datagram(*from, bytes.clone())],
        Told::Command { id, command: Command::Shutdown } => {
            vec![Output::Reply { id: *id, reply: Reply::Done }, Output::Stopped]
        }
        Told::Command { id, .. } => vec![
            Output::Persist(Record { kind: RecordKind::Authority, bytes: b"one token".to_vec() }),
            Output::Reply { id: *id, reply: Reply::Done },
        ],
        _ => Vec::new(),
    };
    scripted(script).0
}

/// Starts a daemon in `state` and returns where it is found, how long that took, and its end.
async fn start(state: &Path) -> (Started, Duration, std::thread::JoinHandle<anyhow::Result<Ending>>) {
    let (sender, started) = oneshot::channel();
    let mut config = DaemonConfig::new(StateDir::open(state).unwrap(), "1.2.3");
    config.on_started = Box::new(|started| drop(sender.send(started.clone())));
    let began = Clock.now();
    // The event loop has a thread and a current-thread runtime of its own, as in the program.
    let ended = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(daemon::run(config, |state, listen: &[SocketAddr], _, _| {
            assert_eq!(listen.len(), 1);
            state.begin_epoch()?;
            Ok(node())
        }))
    });
    let started = within(started).await.expect("it starts");
    (started, Clock.now().since(began), ended)
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the lock keeps tests apart and each has a runtime of its own")]
async fn a_daemon_starts_answers_and_stops_on_command() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    drop(StateDir::create(&path, &settings(), &[]).unwrap());
    let (started, took, ended) = start(&path).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(started.interface, None);

    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    peer.send_to(b"echo", started.listen[0]).unwrap();
    assert_eq!(peer.recv_from(&mut [0; 16]).unwrap().0, 4);

    assert!(matches!(StateDir::open(&path), Err(StateDirError::InUse { .. })));
    let client = AdminClient::new(&path);
    assert_eq!(client.status().await.unwrap().name, "alpha");
    let token = Command::CreateToken { name: None, ttl: Duration::from_secs(1), addresses: Vec::new() };
    assert_eq!(client.command(token).await.unwrap(), Reply::Done);
    assert_eq!(std::fs::read(path.join("authority.json")).unwrap(), b"one token");

    // An open event stream ends with the node.
    let mut events = client.events().await.unwrap();
    assert_eq!(client.command(Command::Shutdown).await.unwrap(), Reply::Done);
    assert_eq!(ended.join().unwrap().unwrap(), Ending::Stopped);
    while let Some(Ok(_)) = within(events.next()).await {}
    assert!(matches!(client.status().await, Err(AdminError::DaemonUnreachable { .. })));
    assert!(!path.join("admin.sock").exists());
    assert_eq!(StateDir::open(&path).unwrap().begin_epoch().unwrap(), 2);
}

#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the lock keeps tests apart and each has a runtime of its own")]
async fn a_daemon_says_goodbye_on_sigterm() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    drop(StateDir::create(&path, &settings(), &[]).unwrap());
    let (.., ended) = start(&path).await;
    // The daemon has registered its handler before it says that it has started.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(ended.join().unwrap().unwrap(), Ending::Stopped);
}

#[tokio::test]
async fn a_daemon_that_cannot_bind_says_why_and_makes_no_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = MeshFile { http: Some(taken.local_addr().unwrap()), ..settings() };
    let state = StateDir::create(&path, &settings, &[]).unwrap();
    let config = DaemonConfig::new(state, "1.2.3");
    let error =
        daemon::run(config, |_, _, _, _| -> anyhow::Result<Scripted> { panic!("no node is made") }).await.unwrap_err();
    assert!(error.to_string().contains("--http"), "{error}");
}
