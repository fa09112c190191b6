//! What it costs an authority to give a workload its identity: the entry is looked up, the certificate is made, signed and read back.

use std::time::Duration;

use x0t_identity::ca_life::{AuthorityKind, Patience};
use x0t_identity::{
    AudienceSet, Authority, AwsLcKeys, EntryId, EntrySpec, KeySource as _, Parent, RequestedKey, Selectors,
    signing_request,
};
use x0t_model::{Entropy, SpiffeId, UnixTime};

use crate::trust::{Trust, WALL};
use crate::{BenchError, Row, Samples};

/// Operations of one batch.
const BATCH: u64 = 4;
/// Registration entries beside the one that is used.
const ENTRIES: usize = 1_000;

/// An authority with a thousand entries, and one that is asked for.
pub struct Issuance {
    authority: Authority,
    entropy: Entropy,
    node: SpiffeId,
    entry: EntryId,
    csr: Vec<u8>,
    key: RequestedKey,
    audience: AudienceSet,
    now: UnixTime,
}

impl Issuance {
    /// Makes the authority.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self, BenchError> {
        let Trust { mut authority, .. } = Trust::of(2)?;
        let (mut keys, mut entropy) = (AwsLcKeys, Entropy::new([2; 32]));
        authority.prepare_ca(AuthorityKind::Jwt, &mut keys, &mut entropy, WALL).map_err(failed)?;
        authority.activate_ca(AuthorityKind::Jwt, Patience::Force, WALL).map_err(failed)?;
        let mut last = None;
        for number in 0..=ENTRIES {
            let id: SpiffeId = format!("spiffe://bench.test/service/{number}").parse().map_err(failed)?;
            last = Some(authority.create_entry(entry(id, number)?, &mut entropy, WALL).map_err(failed)?);
        }
        let key = keys.generate().map_err(failed)?;
        let csr = signing_request(&key).map_err(failed)?;
        Ok(Self {
            node: authority.node().clone(),
            entry: last.ok_or_else(|| failed("no entry"))?,
            authority,
            entropy,
            key: RequestedKey::from_csr(&csr).map_err(failed)?,
            csr,
            audience: AudienceSet::parse(["spiffe://bench.test/audience"]).map_err(failed)?,
            now: WALL,
        })
    }

    /// One X.509-SVID, for a key whose possession was proven before.
    ///
    /// # Errors
    /// If it is refused.
    pub fn issue(&mut self) -> Result<(), BenchError> {
        let Self { authority, node, entry, key, entropy, now, .. } = self;
        authority.issue_workload_key(node, entry, key, entropy, *now).map(drop).map_err(failed)
    }

    /// One X.509-SVID from a signing request.
    ///
    /// # Errors
    /// If it is refused.
    pub fn issue_request(&mut self) -> Result<(), BenchError> {
        let Self { authority, node, entry, csr, entropy, now, .. } = self;
        authority.issue_workload(node, entry, csr, entropy, *now).map(drop).map_err(failed)
    }

    /// One JWT-SVID.
    ///
    /// # Errors
    /// If it is refused.
    pub fn mint(&mut self) -> Result<(), BenchError> {
        self.authority.mint_jwt(&self.node, &self.entry, &self.audience, self.now).map(drop).map_err(failed)
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        samples.time(Row::IssueX509, BATCH, || (0..BATCH).try_for_each(|_| self.issue()))?;
        samples.time(Row::IssueX509Request, BATCH, || (0..BATCH).try_for_each(|_| self.issue_request()))?;
        samples.time(Row::IssueJwt, BATCH, || (0..BATCH).try_for_each(|_| self.mint()))
    }
}

pub(crate) fn entry(spiffe_id: SpiffeId, number: usize) -> Result<EntrySpec, BenchError> {
    Ok(EntrySpec {
        x509_ttl: Some(Duration::from_secs(3600)),
        ..EntrySpec::new(
            spiffe_id,
            Parent::AnyNode,
            Selectors::new([format!("unix:uid:{number}").parse().map_err(failed)?]).map_err(failed)?,
        )
    })
}

fn failed(error: impl std::fmt::Debug) -> BenchError {
    BenchError::Identity(format!("{error:?}"))
}
