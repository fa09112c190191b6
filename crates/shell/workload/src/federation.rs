//! Federation with other trust domains over HTTPS (SPIFFE Federation): fetching their bundles, and publishing the own one.
//!
//! [`service`] drives the pure [`Refresher`](x0t_identity::federation::Refresher) beside the authority: [`fetch`] asks an endpoint, and
//! what it says is offered to the authority, which judges it. [`endpoint`] is the other side, on whichever node is told to.

pub mod endpoint;
pub mod fetch;
pub mod service;
mod tls;
