//! The endpoint, asked by real clients over a real socket.

mod attestation;
mod authority;
mod endpoint;
mod limits;
mod secrets;
mod workload_api;
