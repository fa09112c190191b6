//! SPIFFE for processes: the Workload API.
//!
//! A node holds identities for the processes that run on it; [`identities::Identities`] is one snapshot of them and
//! [`source::IdentitySource`] says where they come from. [`server`] is the Unix socket on which a process asks who it is and
//! is kept up to date; it decides by [`attest`], which asks the kernel what the process is, and never by what the process says.
//! [`sds`] serves the same to Envoy. [`client`] is the other side: it asks a SPIRE agent, or another node's server;
//! [`files`] writes what it got for programs that know only files, and [`mutual_tls`] lets two workloads prove to each other who they are.
//!
//! [`agent_service`] keeps the identities of this node's workloads fresh, and on the host of an authority [`authority_service`]
//! answers agents, joiners and the operator, with its state in an [`authority_store`]. [`federation`] fetches the bundles of foreign
//! trust domains for it, and publishes the own one.

pub mod agent_service;
pub mod attest;
pub mod authority_service;
pub mod authority_store;
pub mod client;
pub mod explain;
pub mod federation;
pub mod files;
pub mod identities;
pub mod jwt_service;
pub mod mutual_tls;
mod pem;
mod proto;
pub mod regions;
mod sds;
pub mod server;
pub mod source;
pub mod spire;
mod svid_tls;

#[cfg(test)]
extern crate self as x0t_workload;
#[cfg(test)]
mod tests;
