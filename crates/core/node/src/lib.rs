//! One whole node, composed and still pure: told the time, given the bytes, returns what to do.
//!
//! [`Node`] joins four cores that do not know each other. `overlay` keeps sessions, `identity` says who is who, `routing` says who
//! carries a packet next, and what flows between them flows through here. Three stories can each be read downward in one file:
//!
//! * **a packet**, in `data_path`: from the host, sealed once end to end, hop by hop, opened, to the host;
//! * **an SVID**, in `trust_path`: asked for at half life, checked as a stranger would, adopted, shown to every peer anew;
//!   where a Workload API gives it instead, `workload_api_path` says what changes;
//! * **a peer**, in `session_path`: it proves who it is and is admitted, falls silent and is left, says goodbye.
//!
//! A fourth, `reach_path`, tells how nodes find a way to each other that nobody configured.
//!
//! Beside them stand what an operator asks (`commands`), how a host becomes a member ([`join`] for the joiner, `join_path` for
//! those who let it in), and what is shown of it all ([`View`]).
//!
//! A runtime and a simulator drive the same node through [`Drive`]: one [`Input`], then every [`Output`], then sleep. So what is
//! simulated is what ships.

mod api;
pub mod assignments;
mod authority_path;
pub mod beacon;
mod coalesce;
mod commands;
pub mod critical;
mod data_path;
mod dialer;
pub mod discovery;
mod drive;
mod egress;
mod ends;
mod host;
pub mod icmp;
pub mod join;
mod join_path;
mod last_hop;
mod links;
mod look;
pub mod message;
mod node;
mod opening;
pub mod packet;
mod path_mtu;
pub mod pieces;
pub mod punch;
mod ration;
mod reach_path;
mod receipt_path;
pub mod receipts;
mod segment;
mod session_path;
mod start;
mod stats;
mod train;
mod trust_path;
mod unsealed;
mod view;
mod workload_api_path;

pub use api::{Command, Input, NodeEvent, Output, Record, RecordKind, Reply, Target, TraceHop, What, WorkloadApiNews};
pub use data_path::ENCAPSULATION;
pub use drive::Drive;
pub use host::{Delivery, HostOffload, HostPacket, Offload, PartialChecksum, Segments, Transport};
pub use message::PACKET_LEN_MAX;
pub use node::Node;
pub use opening::{Opening, WAITING_MAX as OPENINGS_WAITING_MAX};
pub use start::{Crypto, NodeConfig, Signatures, Start, StartError, VerifyAfresh, stored_authorities};
pub use stats::Stats;
pub use train::{TRAIN_BYTES, TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX, Train};
pub use unsealed::{Unsealable, Unsealed};
pub use view::{PeerView, RouteView, SessionView, StatusView, SuccessorView, UnansweredView, View};
pub use x0t_overlay::CertificateDer;
