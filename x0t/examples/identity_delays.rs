//! How long a workload waits: from an entry to its SVID, from its end to the SVID's, and for a token while the authority hangs:
//! `identity_delays X0T-BINARY [ROUNDS]`.
//!
//! Real processes on loopback: a node that is the authority, and one that has joined it, each with its agent and its Workload API. This
//! process is the workload, with a stream open. A round creates an entry over the authority's admin socket, waits until the
//! stream brings the SVID, deletes the entry and waits until the stream no longer has it. Rounds begin at random moments, so that they do
//! not run in step with any timer. For the tokens the authority's process is stopped (SIGSTOP) for most of the life of one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, run by hand")]

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use x0t_identity::{
    AudienceSet, AuthorityCommand, EntryId, EntrySpec, OperatorAnswer, OperatorRequest, Parent, Selectors,
};
use x0t_model::SpiffeId;
use x0t_runtime::admin_client::AdminClient;
use x0t_runtime::clock::{Clock, seed};
use x0t_workload::client::{ClientConfig, Endpoint, Followed, WorkloadClient, X509Context};

const TRUST_DOMAIN: &str = "measured.test";
const TOKEN_TTL: Duration = Duration::from_secs(60);
/// Far beyond what anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let x0t = PathBuf::from(arguments.first().expect("identity_delays X0T-BINARY [ROUNDS]"));
    let rounds = arguments.get(1).map_or(300, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let authority = Node::start(&x0t, directory.path().join("a"), &["up", "--trust-domain", TRUST_DOMAIN]);
    let token: serde_json::Value = serde_json::from_str(&authority.run(&["token", "create"])).unwrap();
    let member = Node::start(&x0t, directory.path().join("b"), &["join", token["token"].as_str().unwrap()]);
    for (place, node) in [("on the authority's host", &authority), ("on another node", &member)] {
        measure(place, node, &authority, rounds).await;
    }
    measure_tokens(&member, &authority).await;
}

async fn measure(place: &str, node: &Node, authority: &Node, rounds: usize) {
    // A process that has no identity at all has no stream that could bring it one.
    let first = authority.create_entry("first", node).await;
    let client = WorkloadClient::new(Endpoint::Unix(node.socket()), ClientConfig::default());
    let mut followed = client.follow_x509(|| Clock.wall());
    until(&mut followed, "first", true).await;
    let (mut given, mut taken) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        let name = format!("round-{round}");
        let begun = some_time_later().await;
        let entry = authority.create_entry(&name, node).await;
        until(&mut followed, &name, true).await;
        given.push(begun.elapsed());
        let begun = some_time_later().await;
        authority.delete_entry(entry).await;
        until(&mut followed, &name, false).await;
        taken.push(begun.elapsed());
    }
    authority.delete_entry(first).await;
    tell(&format!("entry created, SVID there, {place}"), given);
    tell(&format!("entry deleted, SVID gone, {place}"), taken);
}

/// Fetches one token again and again while the authority is stopped: also when the token should have been refreshed long ago.
async fn measure_tokens(node: &Node, authority: &Node) {
    let entry = authority.create_entry("token", node).await;
    let client = WorkloadClient::new(Endpoint::Unix(node.socket()), ClientConfig::default());
    until(&mut client.follow_x509(|| Clock.wall()), "token", true).await;
    let audience = AudienceSet::parse(["measured"]).unwrap();
    let first = client.fetch_jwt(&audience, None, Clock.wall()).await.unwrap();
    let process = authority.process();
    kill_process(process, Signal::STOP).unwrap();
    let mut waited = Vec::new();
    while first[0].svid.expires_at().since(Clock.wall()) > Duration::from_secs(3) {
        let begun = Instant::now();
        let given = client.fetch_jwt(&audience, None, Clock.wall()).await;
        waited.push(begun.elapsed());
        assert_eq!(given.unwrap()[0].svid.token(), first[0].svid.token(), "nobody can have minted another");
        sleep(Duration::from_millis(15)).await;
    }
    kill_process(process, Signal::CONT).unwrap();
    authority.delete_entry(entry).await;
    tell("a token from the cache, the authority hangs", waited);
}

fn tell(event: &str, mut delays: Vec<Duration>) {
    delays.sort_unstable();
    let at = |permille: usize| delays[(delays.len() - 1) * permille / 1000].as_secs_f64() * 1e3;
    let (p50, p99, worst, count) = (at(500), at(990), at(1000), delays.len());
    println!("{event}: p50 {p50:.1} ms, p99 {p99:.1} ms, at most {worst:.1} ms ({count} times)");
}

/// Until the stream says that there is, or is no longer, an SVID of this name.
async fn until(followed: &mut watch::Receiver<Followed<X509Context>>, name: &str, wanted: bool) {
    let path = format!("/measured/{name}");
    let has = |context: &X509Context| context.svids().iter().any(|given| given.svid.spiffe_id().path() == path);
    let is_so =
        |followed: &Followed<X509Context>| followed.value.as_ref().is_some_and(|context| has(context) == wanted);
    drop(timeout(DEADLINE, followed.wait_for(is_so)).await.expect("the stream brings it").unwrap());
}

/// Waits for up to a quarter of a second.
async fn some_time_later() -> Instant {
    sleep(Duration::from_millis(u64::from(seed().unwrap()[0]))).await;
    Instant::now()
}

/// A node as its own process, in a directory of its own.
struct Node {
    x0t: PathBuf,
    directory: PathBuf,
    id: SpiffeId,
}

impl Node {
    /// Starts one that listens on a free port of loopback, and waits until it is ready.
    fn start(x0t: &Path, directory: PathBuf, command: &[&str]) -> Self {
        let name = directory.file_name().unwrap().to_str().unwrap();
        let id = format!("spiffe://{TRUST_DOMAIN}/node/{name}").parse().unwrap();
        let node = Self { x0t: x0t.to_owned(), directory: directory.clone(), id };
        let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
        let settings = ["--name", name, "--listen", &listen, "--tun", "off", "--http", "off"];
        node.run(&[command, &settings].concat());
        node
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.x0t);
        command.env("X0T_STATE_DIR", &self.directory).env("X0T_WORKLOAD_SOCKET", self.socket());
        command.arg("--json").args(arguments);
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("workload.sock")
    }

    /// Who holds its admin socket.
    fn process(&self) -> Pid {
        let socket = UnixStream::connect(self.directory.join("admin.sock")).unwrap();
        rustix::net::sockopt::socket_peercred(&socket).unwrap().pid
    }

    async fn ask(&self, request: &OperatorRequest) -> OperatorAnswer {
        AdminClient::new(&self.directory).ask("/api/v1/authority", request).await.unwrap()
    }

    /// An entry for this process on `node`.
    async fn create_entry(&self, name: &str, node: &Self) -> EntryId {
        let id = format!("spiffe://{TRUST_DOMAIN}/measured/{name}").parse().unwrap();
        let me = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
        let selectors = Selectors::new([me.parse().unwrap()]).unwrap();
        let spec =
            EntrySpec { jwt_ttl: Some(TOKEN_TTL), ..EntrySpec::new(id, Parent::Node(node.id.clone()), selectors) };
        match self.ask(&OperatorRequest::CreateEntry(spec)).await {
            OperatorAnswer::Entry { entry } => entry.id,
            other => panic!("no entry: {other:?}"),
        }
    }

    async fn delete_entry(&self, id: EntryId) {
        let change = OperatorRequest::Change(AuthorityCommand::DeleteEntry { id });
        assert_eq!(self.ask(&change).await, OperatorAnswer::Done);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(Command::new(&self.x0t).arg("--state-dir").arg(&self.directory).arg("down").output());
    }
}
