//! Addresses as people write them into addresses that packets can be sent to.

use std::net::SocketAddr;

use x0t_model::Underlay;

use crate::cli::{Endpoint, PeerAddress};
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

/// The same for places that may be reached over TLS.
pub fn resolve_peers(peers: &[PeerAddress]) -> Result<Vec<Underlay>, Failure> {
    let mut places = Vec::new();
    for peer in peers {
        let found = peer.resolve().map_err(|error| not_found(peer).because(error))?;
        if found.is_empty() {
            return Err(not_found(peer));
        }
        places.extend(found);
    }
    places.dedup();
    Ok(places)
}

fn not_found(endpoint: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format!("`{endpoint}` has no address")).next("check its spelling, or give an IP address")
}
