//! The words every core speaks.
//!
//! Nothing here acts. A [`NodeId`] names a node for as long as its SPIFFE ID stays the same, whatever happens to its keys;
//! [`Instant`] is for deadlines and [`UnixTime`] for certificates, and the compiler keeps them apart; a [`Metric`] saturates
//! rather than wraps; [`Reader`] and [`Writer`] are the only way bytes from a wire become values, so every length is checked
//! in one place; [`Entropy`] is the seeded generator that cores are handed, because a core rolls no dice of its own.

mod address;
mod causes;
mod codec;
mod entropy;
mod metric;
mod node_id;
mod spiffe_id;
mod time;
mod underlay;

pub use address::{OverlayPrefix, overlay_address};
pub use causes::in_one_line;
pub use codec::{DecodeError, Reader, Writer};
pub use entropy::{Entropy, Seed};
pub use metric::Metric;
pub use node_id::{NodeId, ParseNodeIdError};
pub use spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use time::{Instant, UnixTime};
pub use underlay::Underlay;
