//! SPIFFE for processes: the Workload API.
//!
//! A node holds identities for the processes that run on it; [`identities::Identities`] is one snapshot of them and
//! [`source::IdentitySource`] says where they come from. [`server`] is the Unix socket on which a process asks who it is and
//! is kept up to date; it decides by [`attest`], which asks the kernel what the process is, and never by what the process says.
//! [`sds`] serves the same to Envoy. [`client`] is the other side: it asks a SPIRE agent, or another node's server;
//! [`files`] writes what it got for programs that know only files.

pub mod attest;
pub mod client;
pub mod files;
pub mod identities;
mod pem;
mod proto;
mod sds;
pub mod server;
pub mod source;

#[cfg(test)]
extern crate self as x0t_workload;
#[cfg(test)]
mod tests;
