//! Sessions between two endpoints, with real TLS, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod abuse;
mod authority;
mod decoders;
mod forward;
mod golden;
mod handed_out;
mod handshake;
mod limited;
mod path_mtu;
mod rekey;
mod reliable;
mod world;
