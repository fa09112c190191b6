//! A datagram relay that loses, delays, reorders, duplicates and corrupts on command.
//!
//! A link between two nodes is two [`Channel`]s, one for each direction. A channel is pure: it is given a datagram and the
//! time, rolls seeded dice, and keeps what is to be passed on until its instant has come. The same seed, datagrams and
//! instants give the same result, so a test may count exactly.
//!
//! ```text
//!              blocked?   lost?   duplicated?   corrupted?   rate       delay + jitter   held back?
//!  datagram ──────┬─────────┬─────────┬────────────┬──────────┬─────────────┬───────────────┬──── due ──> datagram
//!                 v         v                                 v
//!              dropped   dropped                        queue is full: dropped
//! ```
//!
//! [`LinkRelay`] is the thin shell around two channels: two UDP sockets, one facing each node. Each node is told the
//! address of the socket that faces it in place of its neighbour's, and everything between them passes the relay. [`Faults`]
//! may be changed at any time and hold from that instant on; a link that is blocked says nothing to anybody, which is what
//! a cut cable behind a switch or a firewall rule looks like from above.

mod channel;
mod faults;
mod relay;

pub use channel::{Channel, ChannelStats, QUEUE_BYTES_MAX, QUEUE_DATAGRAMS_MAX, REORDER_HOLD};
pub use faults::Faults;
pub use relay::{Direction, LinkRelay, LinkStats};
