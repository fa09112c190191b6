//! Two stacks back to back, in virtual time, over networks from perfect to hostile.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod bounds;
mod hostile;
mod net;
mod transfer;
mod udp;
