//! This node's own announcements.

use x0t_model::{Entropy, Instant, Metric, NodeId};

use super::{Event, ProofTooLong, Router};
use crate::RoutingConfig;
use crate::chain::{ChainShape, ChainValue, OwnChain};
use crate::feasibility::Seqno;
use crate::message::{Anchor, AnchorStatement, Ogm, PROOF_MAX, lifetime_to_wire};
use crate::pacing::{OriginatorPace, TokenBucket};

/// The share of a chain that is left when the next epoch is asked for.
const RESERVE: u32 = 8;

/// A chain and the proof of its anchor.
#[derive(Debug)]
struct Proven {
    chain: OwnChain,
    statement: AnchorStatement,
    proof: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct Own {
    me: NodeId,
    current: Option<Proven>,
    /// Laid out, waiting for its proof.
    next: Option<OwnChain>,
    seq: u32,
    value: ChainValue,
    pub(super) pace: OriginatorPace,
    forced: TokenBucket,
    exhaustion_told: bool,
}

impl Own {
    pub(super) fn new(config: &RoutingConfig, me: NodeId, epoch: u32, entropy: &mut Entropy, now: Instant) -> Self {
        Self {
            me,
            current: None,
            next: Some(lay_out(config, me, epoch, entropy)),
            seq: 0,
            value: ChainValue::default(),
            pace: OriginatorPace::new(config, now),
            forced: TokenBucket::new(config.forced_originations, now),
            exhaustion_told: false,
        }
    }

    /// How new this node's last announcement is.
    pub(crate) fn seqno(&self) -> Seqno {
        self.current.as_ref().map_or(Seqno::NONE, |own| Seqno { epoch: own.chain.epoch(), seq: self.seq })
    }

    /// The epoch in force, or the one that waits for its first proof.
    pub(crate) fn epoch(&self) -> u32 {
        let current = self.current.as_ref().map(|own| own.chain.epoch());
        current.or_else(|| self.next.as_ref().map(OwnChain::epoch)).unwrap_or_default()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.current.as_ref().filter(|own| self.seq < own.chain.shape().seqs).map(|_| self.pace.next())
    }

    pub(super) fn to_ogm(&self, config: &RoutingConfig) -> Option<Ogm> {
        let seqno = self.seqno();
        let lifetime = (self.pace.interval() * config.route_lifetime_intervals).max(config.route_lifetime_min);
        (seqno.seq > 0).then(|| Ogm {
            origin: self.me,
            seqno,
            flags: config.role.flags(),
            hops: 0,
            lifetime_ds: lifetime_to_wire(lifetime),
            chain: self.value,
            metric: Metric::ZERO,
            // What limits a path is its links; the last of them is known to whoever sends over it.
            path_mtu: u16::MAX,
            bloom: 0,
        })
    }

    /// What to sign next: the chain that waits, or the present one once more.
    fn statement(&self) -> Option<AnchorStatement> {
        let (chain, issue) = match (&self.next, &self.current) {
            (Some(next), _) => (next, 0),
            (None, Some(own)) => (&own.chain, own.statement.issue + 1),
            (None, None) => return None,
        };
        let (epoch, shape, value) = (chain.epoch(), chain.shape(), chain.anchor());
        Some(AnchorStatement { origin: self.me, epoch, issue, shape, value })
    }

    /// The proven anchor, if it is of `epoch`.
    pub(super) fn anchor(&self, epoch: u32) -> Option<Anchor<'_>> {
        let own = self.current.as_ref().filter(|own| own.statement.epoch == epoch)?;
        Some(Anchor { statement: own.statement, proof: &own.proof })
    }
}

fn lay_out(config: &RoutingConfig, me: NodeId, epoch: u32, entropy: &mut Entropy) -> OwnChain {
    let shape = ChainShape { seqs: config.chain_seqs, hops: config.chain_hops };
    OwnChain::new(config.chain_hash, me, epoch, shape, entropy)
}

impl Router {
    /// The bytes to sign for [`Self::set_own_anchor_proof`]: of the epoch that waits for its proof, or, if none waits, of the
    /// present one anew (after the identity's key was rotated).
    pub fn own_anchor(&self) -> Vec<u8> {
        self.own.statement().map(|statement| statement.to_signed_bytes()).unwrap_or_default()
    }

    /// Proves the statement of [`Self::own_anchor`]. From the first proof on this node announces itself; a later one for the
    /// same epoch is shown to everybody, so that nobody keeps a proof by an identity that has expired.
    pub fn set_own_anchor_proof(&mut self, proof: Vec<u8>, now: Instant) -> Result<(), ProofTooLong> {
        self.advance_clock(now);
        if proof.len() > PROOF_MAX {
            return Err(ProofTooLong(proof.len()));
        }
        let Some(statement) = self.own.statement() else { return Ok(()) };
        let proof = proof.into_boxed_slice();
        if let Some(chain) = self.own.next.take() {
            self.own.current = Some(Proven { chain, statement, proof });
            self.own.seq = 0;
            self.own.exhaustion_told = false;
            self.originate(false, now);
        } else if let Some(own) = &mut self.own.current {
            (own.statement, own.proof) = (statement, proof);
            let mut bytes = Vec::new();
            Anchor { statement, proof: &own.proof }.write(&mut bytes);
            self.broadcast(&bytes, true, 0);
        }
        Ok(())
    }

    /// Lays out the chain of `epoch`, which the caller has persisted, and asks for a signature. The present epoch
    /// serves until the proof is there.
    pub fn begin_epoch(&mut self, epoch: u32, now: Instant) {
        self.advance_clock(now);
        if epoch <= self.own.epoch() && self.own.current.is_some() {
            return;
        }
        self.own.next = Some(lay_out(&self.config, self.me, epoch, &mut self.entropy));
        self.ask_for_signature();
    }

    pub(super) fn ask_for_signature(&mut self) {
        if let Some(statement) = self.own.statement() {
            let event = Event::NeedAnchorSignature { epoch: statement.epoch, statement: statement.to_signed_bytes() };
            self.push_event(event);
        }
    }

    /// Announces this node with the next number. `regular` if the interval asked for it.
    pub(super) fn originate(&mut self, regular: bool, now: Instant) {
        let Some(own) = &mut self.own.current else { return };
        let seqs = own.chain.shape().seqs;
        if let Some(value) = own.chain.value(self.own.seq.saturating_add(1)) {
            (self.own.seq, self.own.value) = (self.own.seq + 1, value);
            self.stats.originated += 1;
            self.outbox.own_dirty = true;
            self.outbox.flush_by(if regular { now + self.config.aggregation_delay } else { now });
        }
        if self.own.seq >= seqs - seqs / RESERVE && !self.own.exhaustion_told {
            self.own.exhaustion_told = true;
            let next_epoch = own.chain.epoch().saturating_add(1);
            self.push_event(Event::EpochExhausted { next_epoch });
        }
        self.own.pace.announced(&self.config, self.origins.len() + 1, regular, &mut self.entropy, now);
    }

    /// Somebody needs a newer announcement than there is. Each burns a value of the chain, so they are rationed.
    pub(super) fn originate_on_request(&mut self, now: Instant) {
        if self.own.forced.take(now) {
            self.originate(false, now);
        } else {
            self.stats.rate_limited += 1;
            self.own.pace.not_after(now + self.config.originator_interval);
        }
    }

    /// A link came or went.
    pub(super) fn neighborhood_changed(&mut self, now: Instant) {
        self.own.pace.changed(&self.config, now);
    }
}
