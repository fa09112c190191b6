//! What it costs an authority to answer an agent that asks for many X.509-SVIDs at once: the encoded request is read, each signing
//! request is checked, its entry is looked up, the certificate is made, signed and read back, and the encoded answer is read by the agent.
//!
//! This is the whole of an issuance but for the mesh that carries the two messages. Nothing is journalled: the log holds what may not be
//! forgotten, and a certificate that was never delivered may.

use x0t_identity::{
    AgentAnswer, AgentRequest, AuthorityAnswer, AuthorityRequest, AuthorityServer, AwsLcKeys, Base64, EntryId,
    ISSUE_BATCH_MAX, KeySource as _, ServerOutput, SvidOutcome, SvidRequest, signing_request,
};
use x0t_model::{Entropy, Instant, SpiffeId};

use crate::issuance::entry;
use crate::trust::{Trust, WALL};
use crate::{BenchError, Row, Samples};

/// Registration entries of the authority.
const ENTRIES: usize = 1_000;
const START: Instant = Instant::from_millis(1_000_000);

/// An authority with a thousand entries, and an agent with a full batch of keys to be certified.
pub struct Batches {
    server: AuthorityServer,
    node: SpiffeId,
    items: Vec<SvidRequest>,
    ticket: u64,
}

impl Batches {
    /// Makes the authority, the entries and the keys.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new() -> Result<Self, BenchError> {
        let Trust { mut authority, .. } = Trust::of(2)?;
        let mut entropy = Entropy::new([3; 32]);
        let mut entries: Vec<EntryId> = Vec::with_capacity(ENTRIES);
        for number in 0..ENTRIES {
            let id: SpiffeId = format!("spiffe://bench.test/service/{number}").parse().map_err(failed)?;
            entries.push(authority.create_entry(entry(id, number)?, &mut entropy, WALL).map_err(failed)?);
        }
        let spread = entries.into_iter().step_by(ENTRIES / ISSUE_BATCH_MAX).take(ISSUE_BATCH_MAX);
        let items = spread.map(|entry| {
            let key = AwsLcKeys.generate().map_err(failed)?;
            Ok(SvidRequest { entry, csr: Base64(signing_request(&key).map_err(failed)?) })
        });
        let items = items.collect::<Result<_, BenchError>>()?;
        let node = authority.node().clone();
        let server = AuthorityServer::new(authority, vec![node.clone()], entropy);
        Ok(Self { server, node, items, ticket: 0 })
    }

    /// One batch, from the encoded request to the decoded answer; how many SVIDs there are in it.
    ///
    /// # Errors
    /// If one is refused.
    pub fn issue(&mut self) -> Result<usize, BenchError> {
        let body = AgentRequest::IssueX509 { items: self.items.clone() }.encode().map_err(failed)?;
        let request = AuthorityRequest::Agent { node: self.node.clone(), body };
        self.ticket += 1;
        self.server.handle_request(self.ticket, request, START, WALL);
        let Some(ServerOutput::Answer(ticket, AuthorityAnswer::Agent(answer))) = self.server.poll_output() else {
            return Err(failed("no answer"));
        };
        if ticket != self.ticket || self.server.poll_output().is_some() {
            return Err(failed("more than the answer"));
        }
        let AgentAnswer::IssuedX509 { items } = AgentAnswer::decode(&answer).map_err(failed)? else {
            return Err(failed("another answer"));
        };
        let issued = items.iter().filter(|outcome| matches!(outcome, SvidOutcome::Issued(_))).count();
        if issued == self.items.len() { Ok(issued) } else { Err(failed("a refusal")) }
    }

    pub(crate) fn round(&mut self, samples: &mut Samples) -> Result<(), BenchError> {
        samples.time(Row::IssueX509Batch, ISSUE_BATCH_MAX as u64, || self.issue()).map(drop)
    }
}

fn failed(error: impl std::fmt::Debug) -> BenchError {
    BenchError::Identity(format!("{error:?}"))
}
