//! The endpoint, asked by real clients over a real socket.

mod agent;
mod attestation;
pub mod authority;
mod client;
mod endpoint;
mod fake_server;
mod federation;
mod limits;
mod mutual_tls;
mod regions;
mod secrets;
mod spire_server;
mod workload_api;
