//! Identities for the nodes and endpoints of a measurement: one authority, one SVID each, P-256 as shipped.

use std::time::Duration;

use x0t_identity::{Authority, AuthorityConfig, AwsLcKeys, KeySource as _, Svid, signing_request};
use x0t_model::{Entropy, SpiffeId, TrustDomain, UnixTime};

use crate::BenchError;

/// The wall clock of every measurement: 2026-11-21T00:00:00Z.
pub(crate) const WALL: UnixTime = UnixTime::from_secs(1_795_219_200);

/// An authority and the SVIDs it has issued; the first is its own node's.
pub(crate) struct Trust {
    pub(crate) authority: Authority,
    pub(crate) svids: Vec<Svid>,
}

impl Trust {
    /// Identities for so many nodes.
    pub(crate) fn of(nodes: usize) -> Result<Self, BenchError> {
        let domain: TrustDomain = "bench.test".parse().map_err(identity)?;
        let name = |number: usize| SpiffeId::node(&domain, &format!("n{number}")).map_err(identity);
        let (mut keys, mut entropy) = (AwsLcKeys, Entropy::new([1; 32]));
        let config = AuthorityConfig { svid_ttl: Duration::from_secs(86_400), ..AuthorityConfig::default() };
        let mut authority = Authority::create(&name(0)?, config, &mut keys, &mut entropy, WALL).map_err(identity)?;
        let mut svids = vec![authority.issue_self(&mut keys, &mut entropy, WALL).map_err(identity)?];
        for number in 1..nodes {
            let name = format!("n{number}");
            let address = std::net::SocketAddr::from(([192, 0, 2, 1], 4600));
            let token = authority
                .create_token(Some(&name), Duration::from_secs(60), vec![address], &mut entropy, WALL)
                .map_err(identity)?;
            let key = keys.generate().map_err(identity)?;
            let csr = signing_request(&key).map_err(identity)?;
            let issued = authority.redeem(&token.secret, Some(&name), &csr, &mut entropy, WALL).map_err(identity)?;
            svids.push(Svid::new(issued.chain, key).map_err(identity)?);
        }
        Ok(Self { authority, svids })
    }
}

fn identity(error: impl std::fmt::Debug) -> BenchError {
    BenchError::Identity(format!("{error:?}"))
}
