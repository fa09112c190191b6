//! The life of the authorities of one trust domain: X.509 CAs, and keys for JWT-SVIDs.
//!
//! ```text
//!   prepare           activate                  the next is activated         not_after + 24 h
//!  ─────────▶ Prepared ─────────▶ Active ──────────────────────▶ Old ─────────────────────────▶ Pruned
//!             in bundle n         signs                           │ taint
//!                │ taint                                          ▼        revoke
//!                └──────────────────────────────────────────▶ Tainted ───────────────────────▶ Revoked
//!                                                             its key is destroyed
//! ```
//!
//! An authority is in the bundle from its preparation until it is pruned or revoked. It signs only after every live node has
//! acknowledged a bundle that holds it ([`Acks`]), so nobody shows an SVID that a peer cannot check. It is tainted only when
//! another signs, and revoked only when every live node has said that it holds nothing of it any more. Both gates give way
//! to an operator who says so, and the first to a deadline; the [`Evidence`] in the command keeps who was left behind.
//!
//! [`CaLife`] is state that changes by [`CaCommand`]s and nothing else. A caller asks for a command ([`CaLife::prepare`],
//! [`CaLife::activate`], …, which look at clock and acknowledgements), makes it durable, applies it ([`CaLife::apply`], which looks at
//! the state alone), and only then lets the bundle or an SVID out. What is in the bundle, who signs and whose key is tainted are
//! functions of the state, so a crash between any two of these steps loses nothing and publishes nothing twice.
//!
//! The constants are those of SPIRE, whose operators know them: the next authority is prepared when half of the life is left, at
//! most 30 days, activated when a sixth is left, at most 7 days, and an old one stays for a day after its end.

mod acks;
mod command;
mod gate;
mod plan;
mod refusal;
mod slot;
mod view;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use x0t_model::{TrustDomain, UnixTime};

pub use self::acks::{ACKNOWLEDGING_NODES_MAX, Acknowledgement, Acks, Nodes};
pub use self::command::{CaCommand, Evidence, Transition};
pub use self::gate::Patience;
pub use self::plan::{CaAction, Step, Waiting};
pub use self::refusal::CaRefusal;
pub use self::slot::{
    AuthorityKind, CARRIED_CERTIFICATES_MAX, Cross, Der, KeyId, Material, MaterialError, ParseKeyIdError, Slot,
    SlotState,
};
pub use self::view::{AuthorityView, CaStatus};

/// Authorities of one kind in the bundle at a time. Two or three are there during a rotation; each costs a verifier a signature
/// check in the worst case.
pub const SLOTS_IN_BUNDLE_MAX: usize = 8;
/// How long an old authority stays in the bundle after its end, for clocks that are slow.
pub const TAIL: Duration = Duration::from_secs(24 * 3600);
/// How long an authority that has left the bundle is remembered, for whoever asks what became of it.
const REMEMBERED: Duration = Duration::from_secs(14 * 24 * 3600);
/// Authorities that are remembered, those in the bundle included.
const SLOTS_MAX: usize = 64;
/// At most so long before its end is a successor prepared.
const PREPARE_BEFORE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// At most so long before its end does the successor sign.
const ACTIVATE_BEFORE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How authorities are made and handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaLifeConfig {
    /// How long an X.509 authority lives. A year: long enough that a join token in a drawer still meets the authority it was made
    /// for, short enough that a hand-over is nothing that nobody has ever seen.
    pub x509_life: Duration,
    /// How long a JWT key lives. A day, as in SPIRE: tokens are short and nobody pins their key.
    pub jwt_life: Duration,
    /// How far the validity of a new authority reaches back, against clocks that differ.
    pub backdate: Duration,
    /// What anything that was issued may live. After a restart the authority does not know what nodes hold, and counts with
    /// this: a day, which is all that a registration entry may ask for.
    pub svid_ttl_max: Duration,
    /// From its publication on, an authority waits this long for acknowledgements, and is then activated without them.
    pub ack_deadline: Duration,
}

impl Default for CaLifeConfig {
    fn default() -> Self {
        Self {
            x509_life: Duration::from_secs(365 * 24 * 3600),
            jwt_life: Duration::from_secs(24 * 3600),
            backdate: Duration::from_secs(60),
            svid_ttl_max: Duration::from_secs(24 * 3600),
            ack_deadline: Duration::from_secs(600),
        }
    }
}

impl CaLifeConfig {
    /// Whether SVIDs that live for `svid_ttl` end before the authority that signed them: it signs until a sixth of its life is left.
    pub fn check(&self, kind: AuthorityKind, svid_ttl: Duration) -> Result<(), CaRefusal> {
        let life = self.life(kind);
        if svid_ttl <= life / 6 { Ok(()) } else { Err(CaRefusal::LifeTooShort { svid_ttl, life }) }
    }

    /// How long a new authority of this kind lives.
    pub const fn life(&self, kind: AuthorityKind) -> Duration {
        match kind {
            AuthorityKind::X509 => self.x509_life,
            AuthorityKind::Jwt => self.jwt_life,
        }
    }
}

/// Every authority of one trust domain, and the number of the bundle they make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct CaLife {
    trust_domain: TrustDomain,
    /// Grows with everything that members have to hear of.
    sequence: u64,
    /// Oldest first.
    slots: Vec<Slot>,
}

impl CaLife {
    /// A trust domain without an authority.
    pub const fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, sequence: 0, slots: Vec::new() }
    }

    /// The same, where members already have a bundle of that number.
    pub const fn numbered_from(trust_domain: TrustDomain, sequence: u64) -> Self {
        Self { trust_domain, sequence, slots: Vec::new() }
    }

    /// Whose authorities these are.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The number of the bundle in force. It grows when an authority enters or leaves the bundle, and when one is tainted.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Gives the bundle its next number, although nothing in it changes: something goes with it that members have to hear of.
    pub const fn renumber(&mut self) {
        self.sequence += 1;
    }

    /// Every authority that is remembered, oldest first.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The authority of that name.
    pub fn slot(&self, key_id: KeyId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.key_id() == key_id)
    }

    /// Those in the bundle, oldest first.
    pub fn in_bundle(&self, kind: AuthorityKind) -> impl DoubleEndedIterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.kind() == kind && slot.state().is_in_bundle())
    }

    /// The one that signs.
    pub fn active(&self, kind: AuthorityKind) -> Option<&Slot> {
        self.in_bundle(kind).find(|slot| slot.state() == SlotState::Active)
    }

    /// The one that is going to.
    pub fn prepared(&self, kind: AuthorityKind) -> Option<&Slot> {
        self.in_bundle(kind).find(|slot| matches!(slot.state(), SlotState::Prepared { .. }))
    }

    /// Keys whose signatures have to be replaced, or must no longer be believed.
    pub fn tainted(&self) -> impl Iterator<Item = KeyId> + '_ {
        let tainted = |slot: &&Slot| matches!(slot.state(), SlotState::Tainted { .. } | SlotState::Revoked);
        self.slots.iter().filter(tainted).map(Slot::key_id)
    }

    /// Whether the private key of `key_id` has to be kept; any other is to be destroyed.
    pub fn needs_private_key(&self, key_id: KeyId) -> bool {
        self.slot(key_id).is_some_and(|slot| slot.state().needs_private_key())
    }

    /// What a chain signed by `slot` carries behind its leaf: what leads to an upstream root, or the cross certificate, for as
    /// long as the authority that signed it is worth anything.
    pub fn carried<'a>(&'a self, slot: &'a Slot) -> &'a [Der] {
        match slot.material() {
            Material::Upstream { chain, .. } => chain,
            Material::SelfSigned { cross: Some(cross), .. } if self.is_trusted(cross.by) => {
                std::slice::from_ref(&cross.certificate)
            }
            Material::SelfSigned { .. } | Material::Jwt { .. } => &[],
        }
    }

    /// Takes one step. Looks at the state and the command and at nothing else; a refused command changes nothing. Make the
    /// command durable before applying it, and apply it before the bundle or an SVID leaves.
    pub fn apply(&mut self, command: &CaCommand) -> Result<Vec<Transition>, CaRefusal> {
        let transitions = match command {
            CaCommand::Prepare { material, at } => vec![self.apply_prepare(material, *at)?],
            CaCommand::Activate { key_id, at, .. } => self.apply_activate(*key_id, *at)?,
            CaCommand::Taint { key_id, at } => {
                self.check_taint(*key_id)?;
                self.sequence += 1;
                vec![self.enter(*key_id, SlotState::Tainted { sequence: self.sequence }, *at)?]
            }
            CaCommand::Revoke { key_id, at, .. } => {
                self.check_revoke(*key_id)?;
                self.sequence += 1;
                vec![self.enter(*key_id, SlotState::Revoked, *at)?]
            }
            CaCommand::Prune { key_id, at } => {
                self.check_prune(*key_id, *at)?;
                self.sequence += 1;
                vec![self.enter(*key_id, SlotState::Pruned, *at)?]
            }
        };
        self.forget_what_left_long_ago(command.at());
        Ok(transitions)
    }

    fn apply_prepare(&mut self, material: &Material, at: UnixTime) -> Result<Transition, CaRefusal> {
        let facts = self.check_prepare(material, at)?;
        self.sequence += 1;
        let slot = Slot::prepared(material.clone(), facts, self.sequence, at);
        let transition = Transition { kind: slot.kind(), key_id: slot.key_id(), state: slot.state().name() };
        self.slots.push(slot);
        Ok(transition)
    }

    fn apply_activate(&mut self, key_id: KeyId, at: UnixTime) -> Result<Vec<Transition>, CaRefusal> {
        let kind = self.check_activate(key_id, at)?.kind();
        let before = self.active(kind).map(Slot::key_id);
        let mut transitions = Vec::new();
        if let Some(before) = before {
            transitions.push(self.enter(before, SlotState::Old, at)?);
        }
        transitions.push(self.enter(key_id, SlotState::Active, at)?);
        Ok(transitions)
    }

    fn enter(&mut self, key_id: KeyId, state: SlotState, at: UnixTime) -> Result<Transition, CaRefusal> {
        let slot = self.slots.iter_mut().find(|slot| slot.key_id() == key_id);
        let slot = slot.ok_or(CaRefusal::Unknown(key_id))?;
        slot.state = state;
        slot.since = at;
        Ok(Transition { kind: slot.kind(), key_id, state: state.name() })
    }

    /// Oldest first beyond the bound, and everything that has been out of the bundle for long.
    fn forget_what_left_long_ago(&mut self, at: UnixTime) {
        self.slots.retain(|slot| slot.state().is_in_bundle() || at.since(slot.since()) <= REMEMBERED);
        while self.slots.len() > SLOTS_MAX {
            let Some(gone) = self.slots.iter().position(|slot| !slot.state().is_in_bundle()) else { return };
            self.slots.remove(gone);
        }
    }

    fn is_trusted(&self, key_id: KeyId) -> bool {
        let trusted = |slot: &Slot| matches!(slot.state(), SlotState::Active | SlotState::Old);
        self.slot(key_id).is_some_and(trusted)
    }
}

/// When an authority's successor is prepared.
fn prepare_at(slot: &Slot) -> UnixTime {
    slot.not_after() - (slot.life() / 2).min(PREPARE_BEFORE_MAX)
}

/// When its successor signs.
fn activate_at(slot: &Slot) -> UnixTime {
    slot.not_after() - (slot.life() / 6).min(ACTIVATE_BEFORE_MAX)
}

/// When it leaves the bundle by age.
fn prune_at(slot: &Slot) -> UnixTime {
    match slot.state() {
        // It has signed nothing.
        SlotState::Prepared { .. } => slot.not_after() + Duration::from_secs(1),
        _ => slot.not_after() + TAIL,
    }
}

/// [`CaLife`] as it was written; believed only after a look.
#[derive(Deserialize)]
struct Stored {
    trust_domain: TrustDomain,
    sequence: u64,
    slots: Vec<Slot>,
}

impl TryFrom<Stored> for CaLife {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let Stored { trust_domain, sequence, slots } = stored;
        if slots.len() > SLOTS_MAX {
            return Err(format!("there are {} authorities, at most {SLOTS_MAX} are possible", slots.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        for slot in &slots {
            let facts = slot.material().check(&trust_domain).map_err(|error| format!("{}: {error}", slot.key_id()))?;
            if facts != slot.facts() || !names.insert(slot.key_id()) {
                return Err(format!(
                    "the authority {} is not what its certificate says, or is there twice",
                    slot.key_id()
                ));
            }
        }
        let life = Self { trust_domain, sequence, slots };
        for kind in AuthorityKind::ALL {
            let count =
                |wanted: fn(SlotState) -> bool| life.in_bundle(kind).filter(|slot| wanted(slot.state())).count();
            let active = count(|state| state == SlotState::Active);
            let prepared = count(|state| matches!(state, SlotState::Prepared { .. }));
            if active > 1 || prepared > 1 || life.in_bundle(kind).count() > SLOTS_IN_BUNDLE_MAX {
                return Err(format!("{active} {kind} authorities are active and {prepared} are prepared"));
            }
        }
        Ok(life)
    }
}
