//! A node that another program started ends with it, however that one ends.

use std::io;
use std::thread;

use rustix::process::{Signal, getpid, kill_process};

/// Stops this process, as SIGTERM does, when standard input ends. Whoever started it holds the other end of the pipe and
/// need not do anything: the kernel closes it even for a program that was killed.
pub fn stop_with_it() -> io::Result<()> {
    let wait = || {
        // Whatever is said is of no interest, and an error is an end, too.
        let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // A process may always signal itself.
        let _sent = kill_process(getpid(), Signal::TERM);
    };
    thread::Builder::new().name("x0t-parent".to_owned()).spawn(wait).map(drop)
}
