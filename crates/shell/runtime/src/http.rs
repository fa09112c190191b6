//! What a node shows: the live page, its state as JSON, metrics and a stream of events.
//!
//! The same reading routes exist on a TCP address (loopback by default) and on the admin socket. Whatever changes something exists
//! on the admin socket only, where the kernel says who asks. On TCP a request must name this host by a loopback name or by its
//! address, so that no web site can point its own name here (DNS rebinding) and read along; there is no CORS.

mod access;
mod forwarding;
mod listener;
mod routes;

pub use listener::{HttpError, Listeners, bind_admin, bind_tcp, serve};
pub use routes::{Asset, Site, admin_routes, guarded, reading_routes};
