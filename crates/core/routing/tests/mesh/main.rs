//! Several routers in virtual time.
#![expect(clippy::unwrap_used, reason = "a test that finds nothing to unwrap has failed")]

mod finding;
mod forgery;
mod healing;
mod invariant;
mod life;
mod net;
mod path_mtu;
mod ways;
