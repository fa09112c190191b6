//! TCP and UDP in user space: what a host without an interface into the mesh uses the mesh with.
//!
//! # The stack
//!
//! [`stack::Stack`] owns the node's overlay address. Packets from the mesh go in, packets for the mesh come out; it is told the time and
//! does no IO. Each TCP connection is a smoltcp socket of its own, found by its flow; connections send in turn, and only while what
//! they have sent before is being carried ([`Limits`]). Nothing is reachable that was not exposed: a segment for any other port is
//! refused. Whatever a peer can make the stack remember is bounded.

//!
//! # What it is used for
//!
//! [`overlay`] makes streams and datagram ports of it; one task keeps it going. [`forwarding`] is what an operator asks for: local
//! addresses that lead to a port of a node, ports of this host that nodes may reach, and a SOCKS5 listener. On a host whose kernel has
//! an interface into the mesh the same works through the kernel ([`network`]). The event loop sees the stack as a [`HostPort`]: packets
//! in, packets out.

mod burst;
mod connection;
mod datagrams;
pub mod forwarding;
mod lane;
mod limits;
pub mod names;
pub mod network;
pub mod overlay;
mod packet;
mod relay;
mod socks;
pub mod spec;
pub mod stack;
mod stats;
mod udp;
mod wire;

pub use burst::Burst;
pub use connection::{Failure, Received};
pub use lane::{HostPort, StackPort, ports};
pub use limits::Limits;
pub use socks::SocksStats;
pub use stats::StackStats;
