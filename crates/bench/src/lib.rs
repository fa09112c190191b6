//! What the data plane and identity cost: pure nodes driven back to back on one thread, without sockets, TUN devices or other processes.
//!
//! Numbers of one machine say little about another, so every run also measures a few *references* (the bare AEAD on 1,400 bytes, a
//! copy of 64 KiB, a bare UDP receive), and what is compared with a baseline is the **ratio** of a cost to its reference, never the
//! nanoseconds. References and costs are taken in turns, a small batch of each per round, so that whatever disturbs the machine
//! disturbs all of them; of many rounds the tenth percentile counts, the one in which the neighbours left the core alone. Time is the
//! processor time of this thread.
//!
//! ```text
//! suite ─► line      nodes in a row: what sending, forwarding and receiving a datagram costs a whole node
//!       ─► sessions  two endpoints: seal, open, seal a hop header, a whole handshake
//!       ─► table     one router that knows 1,000 origins: who carries it next
//!       ─► tokens    JWT-SVIDs: mint, validate, serve from a cache
//!       ─► forgery   datagrams that nobody authenticated: what a flood of them costs
//!       ─► issuance  an authority with a thousand entries: X.509-SVIDs and JWT-SVIDs
//!       ─► validation chains of certificates, beside rustls-webpki
//!       ─► reference what the ratios are relative to
//!       ─► report    table, JSON, comparison with a baseline
//! ```
//!
//! `x0t bench dataplane` and `x0t bench identity` run the suites; `cargo bench -p x0t-bench` runs the same operations one by one under
//! divan, for whoever is tuning one of them. Throughput, latency and outages of real processes beside other overlays are measured by
//! `tests/peers/compare.py`. `docs/benchmarks.md` says how to read all of it.

pub mod batches;
pub mod forgery;
pub mod issuance;
pub mod line;
mod reference;
mod report;
mod row;
mod samples;
pub mod sessions;
mod suite;
pub mod table;
pub mod tokens;
mod trust;
pub mod validation;

pub use report::{Baseline, Comparison, Measured, Report, Verdict};
pub use row::Row;
pub use samples::{Samples, processor_time};
pub use suite::{Options, dataplane, identity};

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No identity could be made.
    #[error("the identities of the nodes could not be made: {0}")]
    Identity(String),
    /// A node did not start.
    #[error("a node did not start")]
    Start(#[from] x0t_node::StartError),
    /// The nodes did not come to carry traffic.
    #[error("the nodes did not carry traffic within {0} s of their own time")]
    Silent(u64),
    /// What was sent did not all arrive, so the time it took means nothing.
    #[error("{sent} datagrams were sent and {arrived} arrived")]
    Lost {
        /// How many were sent.
        sent: u64,
        /// How many arrived.
        arrived: u64,
    },
    /// A session did not do its part.
    #[error("{0}")]
    Session(String),
    /// A forged datagram did something.
    #[error("a forged datagram ({0}) was not refused")]
    Believed(&'static str),
    /// A socket on loopback failed.
    #[error("the loopback socket failed")]
    Socket(#[from] std::io::Error),
}
