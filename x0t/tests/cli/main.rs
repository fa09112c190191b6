//! End to end: the real binary, real daemons, loopback. Needs no root and no free default port.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where it stopped")]

mod certificates;
mod federation;
mod forwarding;
mod host;
mod identity;
mod mesh;
mod refusals;
mod spire;
