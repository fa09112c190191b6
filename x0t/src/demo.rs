//! `x0t demo`: a small mesh of real processes on this host, broken on purpose and watched while it heals.
//!
//! Read downward: [`plan`] draws the mesh, so that the two ends need relays and no relay and no link is the only way;
//! [`children`] runs one process for each node, with every link through a [`x0t_netfault::LinkRelay`] of this process;
//! [`watch`] listens to what the nodes tell and [`stream`] sends a packet from end to end every 10 ms; [`script`] makes the
//! faults, [`fault`] measures them and [`report`] tells what was measured. [`page`] shows all of it live. What they share
//! is the [`board`].
//!
//! What is measured, all on `CLOCK_MONOTONIC`, which is one clock for all processes of a host:
//!
//! * **detected**: from the instant of the fault (the system call that kills or stops the process has returned, the link
//!   has been blocked) to the first `link_suspect` or `link_down` that a neighbour reports about the node, or about the
//!   other end of the link;
//! * **restored**: from the instant of the fault to the instant at which the first packet was sent that was answered and
//!   after which no packet was lost until the fault was taken away. A stream with a gap is not restored before the gap. The
//!   packets are 10 ms apart, so this is never finer than that;
//! * **lost**: packets sent from 20 ms before the fault (they may have been under way) until it was taken away, and not
//!   answered within 400 ms;
//! * **healed**: from taking the fault away until both ends of every link say that it carries, and every node has got an answer
//!   from every other.

mod args;
mod board;
mod children;
mod fault;
mod nodes;
mod page;
mod plan;
mod progress;
mod report;
mod script;
mod stream;
mod topology;
mod watch;

pub use args::DemoArgs;
pub use script::run;
