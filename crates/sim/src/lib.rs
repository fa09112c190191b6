//! A deterministic world that drives the node that ships.
//!
//! A [`World`] holds hosts, an underlay ([`Network`]) and virtual time. The nodes inside are [`x0t_node::Node`], unchanged;
//! only the cryptographic provider may be another one ([`Cryptography`]), because that is what makes a run repeatable: the
//! same seed gives the same [`World::digest`]. Smaller worlds run the real one too.
//!
//! After every event the [`Invariants`] look at the node that was touched: nothing readable on the wire, nobody admitted without
//! an SVID, the potential strictly smaller along every successor edge, no loop. When the faults are gone, everything must reach
//! everything. [`scenario`] reads such stories from text.

mod crypto;
mod invariants;
mod network;
mod provider;
pub mod scenario;
mod topology;
mod world;

pub use crypto::{Cryptography, Memory};
pub use invariants::{Broken, Invariants, MARKER};
pub use network::{Arrival, Hole, Network, Weather};
pub use provider::SimulatedProvider;
pub use topology::Topology;
pub use world::{BEGINNING, Stream, Terms, World};
