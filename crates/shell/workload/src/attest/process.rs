//! A process, held so that nothing else can be taken for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::AttestError;

/// A process behind a socket, or one that an operator asks about.
///
/// A PID alone names whoever has it at the moment. This holds a pidfd: as long as that says the process lives, its PID cannot
/// have been given to another, so whatever `/proc/PID` said meanwhile was said of this process.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// The process that connected `socket`, as the kernel saw it at that moment (unix(7), SO_PEERCRED).
    ///
    /// With SO_PEERPIDFD (Linux 6.5) the pidfd is of that very process. On an older kernel it is opened by PID, and between the
    /// connection and that instant the PID may have gone to another process: then that one is attested, as what it is.
    ///
    /// # Errors
    /// `NotVisible` if it runs in a PID namespace that ours cannot see; `Gone` if it has exited.
    pub fn of_peer(socket: &impl AsFd) -> Result<Self, AttestError> {
        let peer =
            rustix::net::sockopt::socket_peercred(socket).map_err(|error| AttestError::Kernel("peer", error.into()))?;
        let pid = peer.pid;
        if Pid::as_raw(Some(pid)) <= 0 {
            return Err(AttestError::NotVisible);
        }
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            Err(nix::errno::Errno::ENOPROTOOPT) => open(pid)?,
            Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL | nix::errno::Errno::ENODATA) => {
                return Err(AttestError::Gone);
            }
            Err(error) => return Err(AttestError::Kernel("pidfd", error.into())),
        };
        Ok(Self { pid, pidfd })
    }

    /// The user that connected `socket`: the effective one, at that moment (unix(7), SO_PEERCRED).
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn user_of_peer(socket: &impl AsFd) -> Result<u32, AttestError> {
        let peer = rustix::net::sockopt::socket_peercred(socket);
        peer.map(|peer| peer.uid.as_raw()).map_err(|error| AttestError::Kernel("peer", error.into()))
    }

    /// The process that has `pid` at this moment.
    ///
    /// # Errors
    /// `Gone` if there is none.
    pub fn of_pid(pid: i32) -> Result<Self, AttestError> {
        let pid = Pid::from_raw(pid).filter(|pid| Pid::as_raw(Some(*pid)) > 0).ok_or(AttestError::Gone)?;
        Ok(Self { pid, pidfd: open(pid)? })
    }

    /// Its PID, in our own PID namespace.
    pub fn pid(&self) -> i32 {
        Pid::as_raw(Some(self.pid))
    }

    /// Whether it lives. A pidfd becomes readable when its process ends (pidfd_open(2)).
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(ready) => ready == 0,
            Err(_) => false,
        }
    }
}

fn open(pid: Pid) -> Result<OwnedFd, AttestError> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH => AttestError::Gone,
        error => AttestError::Kernel("pidfd", io::Error::from(error)),
    })
}
