//! What has to be true before each step: the order, which [`CaLife::apply`] asks of every command, and the nodes, which are
//! asked once, when a command is made.

use x0t_model::UnixTime;

use super::acks::{Acks, Nodes};
use super::command::{CaCommand, Evidence};
use super::refusal::CaRefusal;
use super::slot::{AuthorityKind, Facts, KeyId, Material, Slot, SlotState};
use super::{CaLife, CaLifeConfig, SLOTS_IN_BUNDLE_MAX, prune_at};

/// Whether to wait for nodes that are not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Refuse, and say for whom to wait.
    Wait,
    /// Leave them behind.
    Force,
}

impl CaLife {
    /// The command that brings a new authority into the bundle. The private key has to be durable first.
    pub fn prepare(&self, material: Material, now: UnixTime) -> Result<CaCommand, CaRefusal> {
        self.check_prepare(&material, now)?;
        Ok(CaCommand::Prepare { material, at: now })
    }

    /// The command that lets the prepared authority sign, if nobody is left behind: every live node has acknowledged a bundle that
    /// holds it, or the deadline has passed, or nothing that was signed before is valid any more.
    pub fn activate(
        &self,
        kind: AuthorityKind,
        acks: &Acks,
        config: &CaLifeConfig,
        patience: Patience,
        now: UnixTime,
    ) -> Result<CaCommand, CaRefusal> {
        let slot = self.prepared(kind).ok_or(CaRefusal::NothingPrepared(kind))?;
        self.check_activate(slot.key_id(), now)?;
        let evidence = self.may_sign(slot, acks, config, patience, now)?;
        Ok(CaCommand::Activate { key_id: slot.key_id(), evidence, at: now })
    }

    /// The command that declares an authority untrustworthy. Not for the one that signs: another has to be activated first.
    pub fn taint(&self, key_id: KeyId, now: UnixTime) -> Result<CaCommand, CaRefusal> {
        self.check_taint(key_id)?;
        Ok(CaCommand::Taint { key_id, at: now })
    }

    /// The command that takes a tainted authority out of the bundle, if no live node holds anything of it any more.
    pub fn revoke(
        &self,
        key_id: KeyId,
        acks: &Acks,
        patience: Patience,
        now: UnixTime,
    ) -> Result<CaCommand, CaRefusal> {
        self.check_revoke(key_id)?;
        let holders = self.holders(key_id, acks, now);
        let evidence = match patience {
            _ if holders.is_empty() => Evidence::AllReady { nodes: acks.live(now).count() },
            Patience::Force => Evidence::Forced { missing: holders },
            Patience::Wait => return Err(CaRefusal::StillHeld { key_id, holders }),
        };
        Ok(CaCommand::Revoke { key_id, evidence, at: now })
    }

    /// The command that takes an authority out of the bundle which ended a day ago.
    pub fn prune(&self, key_id: KeyId, now: UnixTime) -> Result<CaCommand, CaRefusal> {
        self.check_prune(key_id, now)?;
        Ok(CaCommand::Prune { key_id, at: now })
    }

    /// Why `slot`, which is prepared, may sign.
    pub(super) fn may_sign(
        &self,
        slot: &Slot,
        acks: &Acks,
        config: &CaLifeConfig,
        patience: Patience,
        now: UnixTime,
    ) -> Result<Evidence, CaRefusal> {
        let SlotState::Prepared { sequence } = slot.state() else {
            return Err(CaRefusal::NotPrepared { key_id: slot.key_id(), state: slot.state().name() });
        };
        let mut others = self.in_bundle(slot.kind()).filter(|other| other.key_id() != slot.key_id());
        if others.all(|other| now > other.not_after()) {
            return Ok(Evidence::NothingValid);
        }
        let missing = acks.missing(sequence, now);
        let deadline = slot.since() + config.ack_deadline;
        if missing.is_empty() {
            Ok(Evidence::AllReady { nodes: acks.live(now).count() })
        } else if patience == Patience::Force {
            Ok(Evidence::Forced { missing })
        } else if now >= deadline {
            Ok(Evidence::Deadline { missing })
        } else {
            Err(CaRefusal::Unacknowledged { sequence, missing, deadline })
        }
    }

    /// Live nodes that may still hold, or adopt, an SVID of the tainted `key_id`.
    pub(super) fn holders(&self, key_id: KeyId, acks: &Acks, now: UnixTime) -> Nodes {
        match self.slot(key_id) {
            Some(slot) if now > slot.not_after() => Nodes::default(),
            Some(Slot { state: SlotState::Tainted { sequence }, .. }) => acks.holders(key_id, *sequence, now),
            Some(_) | None => Nodes::default(),
        }
    }

    pub(super) fn check_prepare(&self, material: &Material, at: UnixTime) -> Result<Facts, CaRefusal> {
        let kind = material.kind();
        let facts = material.check(self.trust_domain())?;
        if self.slot(facts.key_id).is_some() {
            return Err(CaRefusal::KeyIdInUse(facts.key_id));
        }
        if let Some(prepared) = self.prepared(kind) {
            return Err(CaRefusal::AlreadyPrepared { kind, key_id: prepared.key_id() });
        }
        if self.in_bundle(kind).count() >= SLOTS_IN_BUNDLE_MAX {
            return Err(CaRefusal::BundleFull(kind));
        }
        if at > facts.not_after {
            return Err(CaRefusal::Expired { key_id: facts.key_id, not_after: facts.not_after, at });
        }
        Ok(facts)
    }

    pub(super) fn check_activate(&self, key_id: KeyId, at: UnixTime) -> Result<&Slot, CaRefusal> {
        let slot = self.slot(key_id).ok_or(CaRefusal::Unknown(key_id))?;
        match slot.state() {
            SlotState::Prepared { .. } if at > slot.not_after() => {
                Err(CaRefusal::Expired { key_id, not_after: slot.not_after(), at })
            }
            SlotState::Prepared { .. } => Ok(slot),
            SlotState::Tainted { .. } => Err(CaRefusal::Tainted(key_id)),
            state => Err(CaRefusal::NotPrepared { key_id, state: state.name() }),
        }
    }

    pub(super) fn check_taint(&self, key_id: KeyId) -> Result<(), CaRefusal> {
        let slot = self.slot(key_id).ok_or(CaRefusal::Unknown(key_id))?;
        match slot.state() {
            SlotState::Prepared { .. } | SlotState::Old => Ok(()),
            SlotState::Active => Err(CaRefusal::StillActive(key_id)),
            SlotState::Tainted { .. } => Err(CaRefusal::AlreadyTainted(key_id)),
            state @ (SlotState::Revoked | SlotState::Pruned) => Err(CaRefusal::Gone { key_id, state: state.name() }),
        }
    }

    pub(super) fn check_revoke(&self, key_id: KeyId) -> Result<(), CaRefusal> {
        let slot = self.slot(key_id).ok_or(CaRefusal::Unknown(key_id))?;
        match slot.state() {
            SlotState::Tainted { .. } => Ok(()),
            SlotState::Active => Err(CaRefusal::StillActive(key_id)),
            state @ (SlotState::Prepared { .. } | SlotState::Old) => {
                Err(CaRefusal::NotTainted { key_id, state: state.name() })
            }
            state @ (SlotState::Revoked | SlotState::Pruned) => Err(CaRefusal::Gone { key_id, state: state.name() }),
        }
    }

    pub(super) fn check_prune(&self, key_id: KeyId, at: UnixTime) -> Result<(), CaRefusal> {
        let slot = self.slot(key_id).ok_or(CaRefusal::Unknown(key_id))?;
        let until = prune_at(slot);
        match slot.state() {
            SlotState::Active => Err(CaRefusal::StillActive(key_id)),
            state @ (SlotState::Revoked | SlotState::Pruned) => Err(CaRefusal::Gone { key_id, state: state.name() }),
            SlotState::Prepared { .. } | SlotState::Old | SlotState::Tainted { .. } if at < until => {
                Err(CaRefusal::StillNeeded { key_id, until })
            }
            SlotState::Prepared { .. } | SlotState::Old | SlotState::Tainted { .. } => Ok(()),
        }
    }
}
