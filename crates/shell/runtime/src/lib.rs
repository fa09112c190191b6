//! Everything that touches the world. Below this crate nothing reads a clock, a file, a socket or the environment, and nothing is
//! `async`; here is where a pure [`x0t_node::Drive`] meets one host.
//!
//! # The life of a daemon
//!
//! `x0t up` or `x0t join` ([`join`]) makes a [`state_dir`]: the settings, the identity and the boot counter of one node, in files
//! that only its user may read and that a crash leaves whole. [`daemon::run`] takes hold of it (one process at a time), binds the
//! [`udp`] sockets, the [`http`] address and the admin socket, and only then makes the node. If it may, it gives the host an
//! interface into the mesh ([`tun`]), and it subscribes to what the kernel knows about interfaces ([`link_events`]).
//!
//! From there on one thread, the [`event_loop`], owns the node and sleeps in a [`poller`]: an input goes in, outputs come out and
//! are done in their order, and nothing happens until the next input or the node's own deadline. A record that cannot be made
//! durable stops everything that would come after it. What is dear and needs no state may be done by [`workers`]. Everybody else talks to that thread through a [`handle`]: the HTTP server, which shows the [`metrics`] and the
//! [`topology`] and streams the [`news`], and through it the command line's [`admin_client`].
//!
//! A signal or a command asks the node to say goodbye; after that, or after two seconds, the process ends.
//!
//! [`clock`] is the only place in the program that asks what time it is.

pub mod admin_client;
pub mod clock;
pub mod daemon;
pub mod discovery;
pub mod event_loop;
pub mod handle;
pub mod http;
pub mod join;
pub mod link_events;
pub mod metrics;
pub mod news;
pub mod poller;
pub mod readings;
pub mod state_dir;
pub mod tls_transport;
pub mod topology;
pub mod tun;
pub mod udp;
pub mod workers;
