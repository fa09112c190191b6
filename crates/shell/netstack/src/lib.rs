//! TCP and UDP in user space: what a host without an interface into the mesh uses the mesh with.
//!
//! # The stack
//!
//! [`stack::Stack`] owns the node's overlay address. Packets from the mesh go in, packets for the mesh come out; it is told the time and
//! does no IO. Each TCP connection is a [`connection`] of its own, found by its flow; connections send in turn, and only while what
//! they have sent before is being carried ([`limits`]). Nothing is reachable that was not exposed: a segment for any other port is
//! refused. Whatever a peer can make the stack remember is bounded.

mod burst;
mod connection;
mod limits;
mod packet;
pub mod stack;
mod stats;
mod udp;
mod wire;

pub use burst::Burst;
pub use connection::{Failure, Received};
pub use limits::Limits;
pub use stats::StackStats;
