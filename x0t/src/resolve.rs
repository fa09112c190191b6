//! Addresses as people write them into addresses that packets can be sent to.

use std::net::SocketAddr;

use crate::cli::Endpoint;
use crate::exit::{Exit, Failure};

/// All addresses of all endpoints, in order. Names are looked up once.
pub fn resolve_all(endpoints: &[Endpoint]) -> Result<Vec<SocketAddr>, Failure> {
    let mut addresses = Vec::new();
    for endpoint in endpoints {
        let found = endpoint.resolve().map_err(|error| not_found(endpoint).because(error))?;
        if found.is_empty() {
            return Err(not_found(endpoint));
        }
        addresses.extend(found);
    }
    addresses.dedup();
    Ok(addresses)
}

fn not_found(endpoint: &Endpoint) -> Failure {
    Failure::new(Exit::Usage, format!("`{endpoint}` has no address")).next("check its spelling, or give an IP address")
}
