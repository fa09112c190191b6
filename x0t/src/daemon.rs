//! The daemon as seen from the command that starts it: spawn `x0t run`, wait until it is ready, tell what it died of.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use x0t_node::StatusView;
use x0t_runtime::clock::Clock;
use x0t_runtime::state_dir::{StateDir, StateDirError};

use crate::cli::LogFormat;
use crate::commands::Context;
use crate::exit::{Exit, Failure, Report};

const LOG_FILE: &str = "x0t.log";
/// A log that is larger when the daemon starts is moved aside, so that two of them are all that is ever kept.
const LOG_SIZE_MAX: u64 = 8 << 20;
/// How often to look whether the daemon has come up or gone. It takes some milliseconds; nobody notices twenty.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A daemon that was told to stop says goodbye within 2 s.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Where a daemon that was started in the background writes its log.
pub fn log_path(state_dir: &Path) -> PathBuf {
    state_dir.join(LOG_FILE)
}

/// A daemon in the background that may not have come up yet.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    log: File,
    /// Where in the log this daemon's records begin.
    log_start: u64,
}

impl Starting {
    /// Starts `x0t run` in the background.
    pub fn spawn(context: &Context) -> anyhow::Result<Self> {
        let path = log_path(&context.state_dir);
        let log = open_log(&path).with_context(|| format!("failed to open the log {}", path.display()))?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
        command.arg("--state-dir").arg(&context.state_dir).args(["run", "--detached"]);
        command.args(std::iter::repeat_n("-v", context.global.verbose.into()));
        if let Some(filter) = &context.global.log {
            command.args(["--log", filter]);
        }
        if context.global.log_format == LogFormat::Json {
            command.args(["--log-format", "json"]);
        }
        // The token has done its work; the daemon has no business with it.
        command.env_remove("X0T_JOIN_TOKEN").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone()?);
        Ok(Self { child: command.spawn().context("failed to start the daemon")?, log, log_start })
    }

    /// Waits until the daemon is ready, at most for `patience`. If it runs by then but is not ready, that is no error.
    ///
    /// # Errors
    /// What the daemon died of, with its exit code; or that it has not even begun to answer.
    pub async fn wait(mut self, context: &Context, patience: Duration) -> anyhow::Result<StatusView> {
        tokio::select! {
            died = self.death() => Err(died?.into()),
            status = until_ready(context, patience) => Ok(status?),
        }
    }

    async fn death(&mut self) -> anyhow::Result<Failure> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(self.cause_of_death(Exit::from_code(status.code())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The error that the daemon wrote last, as if it had happened here.
    fn cause_of_death(&mut self, exit: Exit) -> Failure {
        let mut text = String::new();
        let read = self.log.seek(SeekFrom::Start(self.log_start)).and_then(|_| self.log.read_to_string(&mut text));
        match read.ok().and_then(|_| Report::last_in(&text)) {
            Some(report) => report.into_failure(exit),
            None => Failure::new(exit, "the daemon ended as soon as it was started"),
        }
    }
}

/// Asks until the daemon says that it is ready, or `patience` is at its end and it at least says something.
pub async fn until_ready(context: &Context, patience: Duration) -> anyhow::Result<StatusView> {
    let (client, deadline) = (context.client(), Clock.now() + patience);
    loop {
        match client.status().await {
            Ok(status) if status.ready || Clock.now() >= deadline => return Ok(status),
            Err(failure) if Clock.now() >= deadline => {
                return Err(Failure::new(Exit::Timeout, "the daemon was started, but does not answer yet")
                    .because(failure)
                    .next(format!("see {}", log_path(&context.state_dir).display()))
                    .into());
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Makes this process outlive the terminal it was started from.
pub fn leave_terminal() {
    // It fails for the leader of a process group, which `up` never starts; and then it is a matter of the terminal only.
    let _session = rustix::process::setsid();
}

/// Waits until no process holds the state directory.
///
/// # Errors
/// If one still does, with the command that ends it.
pub async fn gone(state_dir: &Path) -> Result<(), Failure> {
    let deadline = Clock.now() + GONE_WITHIN;
    loop {
        match StateDir::open(state_dir) {
            Err(StateDirError::InUse { .. }) if Clock.now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            Err(StateDirError::InUse { pid, .. }) => {
                let log = log_path(state_dir);
                let kill = pid.map(|pid| format!("end it with `kill -9 {pid}`; ")).unwrap_or_default();
                return Err(Failure::new(Exit::Timeout, "the node was told to stop, but its process does not end")
                    .next(format!("{kill}see {}", log.display())));
            }
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_SIZE_MAX) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}
