//! The nodes as processes: this program again, each with a state directory of its own, none of which outlives the demo.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use x0t_runtime::state_dir::StateDir;

/// Whose trust the nodes of the demo live in.
pub const TRUST_DOMAIN: &str = "demo.x0t";
/// Processes that were asked to stop are killed after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A Unix socket's path has to fit in 107 bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Where a node is on the host.
#[derive(Clone, Debug)]
struct Spec {
    name: String,
    state_dir: PathBuf,
    listen: SocketAddr,
}

/// One process for each node. They are killed when this is dropped; and should this process be killed itself, they see
/// their standard input end and stop.
#[derive(Debug)]
pub struct Children {
    program: PathBuf,
    specs: Vec<Spec>,
    processes: Vec<Option<Child>>,
    root: TempDir,
}

impl Children {
    /// Prepares state directories and addresses for nodes of these names.
    pub fn prepare(names: &[String]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("failed to find this program")?;
        let root =
            tempfile::Builder::new().prefix("x0t-demo-").tempdir().context("failed to make a temporary directory")?;
        let listen = free_addresses(names.len()).context("failed to find free UDP ports")?;
        let specs = names.iter().zip(listen).map(|(name, listen)| {
            let state_dir = root.path().join(name);
            Spec { name: name.clone(), state_dir, listen }
        });
        let specs: Vec<Spec> = specs.collect();
        for spec in &specs {
            let socket = StateDir::admin_socket(&spec.state_dir);
            if socket.as_os_str().len() > SOCKET_PATH_MAX {
                bail!("{} is too long for a Unix socket: set TMPDIR to a shorter path", socket.display());
            }
        }
        Ok(Self { program, processes: specs.iter().map(|_| None).collect(), specs, root })
    }

    /// The UDP address of a node.
    pub fn address(&self, node: usize) -> SocketAddr {
        self.specs[node].listen
    }

    /// Where a node keeps its state.
    pub fn state_dir(&self, node: usize) -> &Path {
        &self.specs[node].state_dir
    }

    /// Starts the first node, which makes the mesh.
    pub fn create(&mut self, node: usize, peers: &[SocketAddr]) -> anyhow::Result<()> {
        let mut command = self.command(node)?;
        command.args(["up", "--foreground", "--trust-domain", TRUST_DOMAIN]);
        self.settle(&mut command, node, peers);
        self.spawn(node, command)
    }

    /// Starts a node that joins through a member at `via`.
    pub fn join(&mut self, node: usize, peers: &[SocketAddr], token: &str, via: SocketAddr) -> anyhow::Result<()> {
        let mut command = self.command(node)?;
        // The environment keeps the token out of the list of processes.
        command.env("X0T_JOIN_TOKEN", token).args(["join", "--foreground", "--via", &via.to_string()]);
        self.settle(&mut command, node, peers);
        self.spawn(node, command)
    }

    /// Starts a node again that was killed, with what it kept.
    pub fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let mut command = self.command(node)?;
        command.arg("run");
        self.spawn(node, command)
    }

    /// Kills a node without a warning. It is gone when this returns.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::KILL)
    }

    /// Waits until a killed node's remains are gone.
    pub async fn reap(&mut self, node: usize) {
        if let Some(mut child) = self.processes[node].take() {
            // A child that cannot be waited for is nobody's child any more.
            let _gone = child.wait().await;
        }
    }

    /// Stops a node in the middle of whatever it does.
    pub fn freeze(&self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::STOP)
    }

    /// Lets it go on.
    pub fn thaw(&self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::CONT)
    }

    /// Whether a process has ended that was not told to; with the end of its log.
    pub fn cause_of_death(&mut self, node: usize) -> Option<String> {
        let status = self.processes[node].as_mut()?.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
        Some(format!("node {} ended with {status}:\n  {last}", self.specs[node].name))
    }

    /// Stops all of them, politely for a second.
    pub async fn stop(&mut self) {
        for node in 0..self.processes.len() {
            // Whoever is gone already needs no signal; a frozen one has to go on to hear the other.
            let _gone = self.thaw(node).and_then(|()| self.signal(node, Signal::TERM));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for child in self.processes.iter_mut().filter_map(Option::as_mut) {
            if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
                let _gone = child.kill().await;
            }
        }
        self.processes.iter_mut().for_each(|child| *child = None);
    }

    fn log(&self, node: usize) -> PathBuf {
        self.root.path().join(format!("{}.log", self.specs[node].name))
    }

    fn command(&self, node: usize) -> anyhow::Result<Command> {
        let log = File::options().append(true).create(true).open(self.log(node)).context("failed to open a log")?;
        let mut command = Command::new(&self.program);
        // Settings of the host's own node (`X0T_…`) are none of the demo's.
        command.env_clear().arg("--stop-on-stdin-eof").arg("--state-dir").arg(&self.specs[node].state_dir);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    fn settle(&self, command: &mut Command, node: usize, peers: &[SocketAddr]) {
        let Spec { name, listen, .. } = &self.specs[node];
        command.args(["--tun", "off", "--http", "off", "--name", name]);
        command.args(["--listen", &listen.to_string()]);
        for peer in peers {
            command.args(["--peer", &peer.to_string()]);
        }
    }

    fn spawn(&mut self, node: usize, mut command: Command) -> anyhow::Result<()> {
        let child = command.spawn().with_context(|| format!("failed to start node {}", self.specs[node].name))?;
        self.processes[node] = Some(child);
        Ok(())
    }

    fn signal(&self, node: usize, signal: Signal) -> anyhow::Result<()> {
        let id = self.processes[node].as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        let Some(pid) = id.and_then(Pid::from_raw) else { bail!("node {} does not run", self.specs[node].name) };
        kill_process(pid, signal).with_context(|| format!("failed to signal node {}", self.specs[node].name))
    }
}

/// Loopback addresses with ports that are free now: all are held until the last has been found.
fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    sockets.iter().map(UdpSocket::local_addr).collect()
}
