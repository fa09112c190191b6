//! The authorities for a person or a script.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use x0t_model::{TrustDomain, UnixTime};

use super::CaLife;
use super::acks::{Acks, Nodes};
use super::slot::{AuthorityKind, KeyId, Material, Slot, SlotState};

/// Every authority, and who has heard of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Whose authorities.
    pub trust_domain: TrustDomain,
    /// The number of the bundle in force.
    pub sequence: u64,
    /// Nodes that may hold a valid SVID.
    pub live_nodes: usize,
    /// Those of them that have yet to acknowledge the bundle in force.
    pub behind: Nodes,
    /// Oldest first.
    pub authorities: Vec<AuthorityView>,
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityView {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Which key.
    pub key_id: KeyId,
    /// `prepared`, `active`, `old`, `tainted`, `revoked` or `pruned`.
    pub state: Cow<'static, str>,
    /// Since when it is in this state.
    pub since: UnixTime,
    /// The first second in which it vouches for anything.
    pub not_before: UnixTime,
    /// The last one.
    pub not_after: UnixTime,
    /// `self_signed`, `upstream` or `key`.
    pub made: Cow<'static, str>,
    /// Live nodes that hold SVIDs of it, as far as they have said.
    pub nodes: usize,
    /// For a prepared one: live nodes that have yet to acknowledge it. For a tainted one: those that may still hold SVIDs of it.
    pub waits_for: Nodes,
}

impl CaLife {
    /// Everything worth showing at `now`.
    pub fn status(&self, acks: &Acks, now: UnixTime) -> CaStatus {
        CaStatus {
            trust_domain: self.trust_domain().clone(),
            sequence: self.sequence(),
            live_nodes: acks.live(now).count(),
            behind: acks.missing(self.sequence(), now),
            authorities: self.slots().iter().map(|slot| self.view(slot, acks, now)).collect(),
        }
    }

    fn view(&self, slot: &Slot, acks: &Acks, now: UnixTime) -> AuthorityView {
        let holds = |issuer: Option<KeyId>| issuer == Some(slot.key_id());
        AuthorityView {
            kind: slot.kind(),
            key_id: slot.key_id(),
            state: slot.state().name().into(),
            since: slot.since(),
            not_before: slot.not_before(),
            not_after: slot.not_after(),
            made: match slot.material() {
                Material::SelfSigned { .. } => "self_signed".into(),
                Material::Upstream { .. } => "upstream".into(),
                Material::Jwt { .. } => "key".into(),
            },
            nodes: acks.live(now).filter(|(_, said)| holds(said.issuer)).count(),
            waits_for: match slot.state() {
                SlotState::Prepared { sequence } => acks.missing(sequence, now),
                SlotState::Tainted { .. } => self.holders(slot.key_id(), acks, now),
                SlotState::Active | SlotState::Old | SlotState::Revoked | SlotState::Pruned => Nodes::default(),
            },
        }
    }
}
