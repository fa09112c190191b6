//! Hosts that are temporary directories, and the real binary run on them. No root, no sleeps: what takes time is waited for
//! with a deadline.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tempfile::TempDir;

/// Far beyond what anything here takes; reached only if it never happens.
const DEADLINE: Duration = Duration::from_secs(20);

/// One host with its own state directory and port. Its daemon is stopped when this is dropped.
pub struct Host {
    dir: TempDir,
    pub name: &'static str,
    pub address: SocketAddr,
}

/// What a command printed and how it ended.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Host {
    pub fn new(name: &'static str) -> Self {
        Self { dir: TempDir::new().unwrap(), name, address: free_address() }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A command on this host, with nothing from the environment that could change what it does.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_x0t"));
        command.env_clear().env("HOME", self.dir.path()).env("X0T_STATE_DIR", self.state_dir());
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn x0t(&self, line: &str) -> Ended {
        let output = self.command(line).output().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            line: format!("{}$ x0t {line}", self.name),
        }
    }

    /// The flags that keep a node on this machine and away from other tests.
    pub fn settings(&self) -> String {
        format!("--listen {} --tun off --http off", self.address)
    }

    /// Creates a mesh.
    pub fn up(&self, trust_domain: &str) -> Ended {
        self.x0t(&format!("up --json --name {} --trust-domain {trust_domain} {}", self.name, self.settings()))
    }

    /// A token of this host's mesh.
    pub fn token(&self, flags: &str) -> String {
        let token = self.x0t(&format!("token create --json {flags}")).ok().json();
        token["token"].as_str().unwrap().to_owned()
    }

    /// Joins with a token.
    pub fn join(&self, token: &str, flags: &str) -> Ended {
        self.x0t(&format!("join {token} --json --name {} {} {flags}", self.name, self.settings()))
    }

    /// Kills the daemon, which has no time to tidy up.
    pub fn kill(&self) {
        let lock = std::fs::read_to_string(self.state_dir().join("lock")).unwrap();
        kill_process(Pid::from_raw(lock.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        eventually("it is gone", || self.x0t("status").code == 4);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state_dir().join("x0t.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let down = self.x0t("down");
        if std::thread::panicking() {
            eprintln!("--- {} ended with {} {}\n{}", self.name, down.code, down.stderr, self.log());
        }
    }
}

impl Ended {
    /// Asserts success.
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts an exit code.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self
    }

    /// Asserts that standard error mentions all of these.
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{}\nlooked for: {word}\nstderr: {}", self.line, self.stderr);
        }
        assert_eq!(self.stdout, "", "{}: standard output carries results only", self.line);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.line, self.stdout))
    }

    /// One value for each line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// An address of this machine that nobody uses.
pub fn free_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Asks again until the answer is yes.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let now = || clock_gettime(ClockId::Monotonic).tv_sec;
    let deadline = now() + DEADLINE.as_secs() as i64;
    while !is_so() {
        assert!(now() < deadline, "it never happened that {what}");
        std::thread::yield_now();
    }
}

/// Waits for a child that was told to end.
pub fn ended(mut child: Child) -> i32 {
    let mut code = None;
    eventually("the process ended", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|status| status.code()).unwrap_or(-1)
}

/// Replaces text in a file.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}
