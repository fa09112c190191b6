//! What is going to happen, when, and why not yet.

use std::fmt;

use serde::{Deserialize, Serialize};
use x0t_model::UnixTime;

use super::acks::{Acks, Nodes};
use super::gate::Patience;
use super::refusal::CaRefusal;
use super::slot::{AuthorityKind, KeyId, Material, Slot, SlotState};
use super::{CaLife, CaLifeConfig, activate_at, prepare_at, prune_at};

/// What is done to an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaAction {
    /// A new one enters the bundle.
    Prepare,
    /// The prepared one signs.
    Activate,
    /// A tainted one leaves the bundle.
    Revoke,
    /// One that has ended leaves the bundle.
    Prune,
}

impl CaAction {
    /// Its word on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Revoke => "revoke",
            Self::Prune => "prune",
        }
    }
}

/// What a step waits for besides its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "waits_for", rename_all = "snake_case")]
pub enum Waiting {
    /// The authority has to be prepared first.
    Preparation,
    /// Live nodes have to acknowledge the bundle.
    Acknowledgements {
        /// Which bundle.
        sequence: u64,
        /// Who has not.
        missing: Nodes,
        /// When it goes on without them.
        deadline: UnixTime,
    },
    /// Live nodes have to replace their SVIDs.
    Rekeying {
        /// Who has not.
        holders: Nodes,
    },
    /// An operator has to say so, or to bring an upstream certificate.
    Operator,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparation => f.write_str("its preparation"),
            Self::Acknowledgements { sequence, missing, .. } => {
                write!(f, "{missing} to acknowledge bundle {sequence}")
            }
            Self::Rekeying { holders } => write!(f, "{holders} to replace their SVIDs"),
            Self::Operator => f.write_str("an operator"),
        }
    }
}

/// One step to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is about.
    pub kind: AuthorityKind,
    /// What is done.
    pub action: CaAction,
    /// To which authority; `None` if it has yet to be made.
    pub key_id: Option<KeyId>,
    /// Not before this time.
    pub due: UnixTime,
    /// What else it waits for. Empty, and due: it happens now.
    pub waits: Vec<Waiting>,
}

impl Step {
    /// Whether nothing is missing at `now`.
    pub fn is_ready(&self, now: UnixTime) -> bool {
        self.due <= now && self.waits.is_empty()
    }

    /// When it may be taken, unless an operator or a node has to do something first.
    pub fn wake_at(&self) -> Option<UnixTime> {
        match self.waits.as_slice() {
            [] => Some(self.due),
            [Waiting::Acknowledgements { deadline, .. }] => Some(self.due.max(*deadline)),
            _ => None,
        }
    }
}

impl CaLife {
    /// Every step that can be foreseen, in the order of their times. Changes nothing.
    pub fn plan(&self, acks: &Acks, config: &CaLifeConfig, now: UnixTime) -> Vec<Step> {
        let mut steps = Vec::new();
        for kind in AuthorityKind::ALL {
            self.plan_successor(kind, acks, config, now, &mut steps);
            for slot in self.in_bundle(kind) {
                self.plan_end(slot, acks, now, &mut steps);
            }
        }
        steps.sort_by_key(|step| step.due);
        steps
    }

    /// The first step that needs nobody and nothing more.
    pub fn ready(&self, acks: &Acks, config: &CaLifeConfig, now: UnixTime) -> Option<Step> {
        self.plan(acks, config, now).into_iter().find(|step| step.is_ready(now))
    }

    /// When to look again, unless a node or an operator says something before.
    pub fn wake_at(&self, acks: &Acks, config: &CaLifeConfig, now: UnixTime) -> Option<UnixTime> {
        self.plan(acks, config, now).iter().filter_map(Step::wake_at).min()
    }

    fn plan_successor(
        &self,
        kind: AuthorityKind,
        acks: &Acks,
        config: &CaLifeConfig,
        now: UnixTime,
        steps: &mut Vec<Step>,
    ) {
        let (active, prepared) = (self.active(kind), self.prepared(kind));
        let activate_due = active.map_or(now, activate_at);
        let Some(prepared) = prepared else {
            let upstream = active.is_some_and(|slot| matches!(slot.material(), Material::Upstream { .. }));
            let waits = if upstream { vec![Waiting::Operator] } else { Vec::new() };
            let due = active.map_or(now, prepare_at);
            steps.push(Step { kind, action: CaAction::Prepare, key_id: None, due, waits });
            let waits = vec![Waiting::Preparation];
            steps.push(Step { kind, action: CaAction::Activate, key_id: None, due: activate_due, waits });
            return;
        };
        if now > prepared.not_after() {
            return;
        }
        let waits = match self.may_sign(prepared, acks, config, Patience::Wait, now) {
            Err(CaRefusal::Unacknowledged { sequence, missing, deadline }) => {
                vec![Waiting::Acknowledgements { sequence, missing, deadline }]
            }
            Ok(_) | Err(_) => Vec::new(),
        };
        let key_id = Some(prepared.key_id());
        steps.push(Step { kind, action: CaAction::Activate, key_id, due: activate_due, waits });
    }

    fn plan_end(&self, slot: &Slot, acks: &Acks, now: UnixTime, steps: &mut Vec<Step>) {
        let (kind, key_id) = (slot.kind(), Some(slot.key_id()));
        let prune = Step { kind, action: CaAction::Prune, key_id, due: prune_at(slot), waits: Vec::new() };
        match slot.state() {
            SlotState::Old => steps.push(prune),
            SlotState::Tainted { .. } => {
                let mut waits = vec![Waiting::Operator];
                let holders = self.holders(slot.key_id(), acks, now);
                if !holders.is_empty() {
                    waits.push(Waiting::Rekeying { holders });
                }
                steps.push(Step { kind, action: CaAction::Revoke, key_id, due: slot.since(), waits });
                steps.push(prune);
            }
            // A successor that was never needed in time makes room for another.
            SlotState::Prepared { .. } if now > slot.not_after() => steps.push(prune),
            SlotState::Prepared { .. } | SlotState::Active | SlotState::Revoked | SlotState::Pruned => {}
        }
    }
}
