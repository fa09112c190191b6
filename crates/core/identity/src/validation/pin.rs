//! Pinned keys: whoever is trusted must also show one of these (checklist RV-5).

use std::collections::{BTreeMap, BTreeSet};

use x0t_model::{SpiffeId, TrustDomain};

use super::error::ValidationError;

/// Keys of one set. Two are needed; more than a handful is a list nobody keeps.
pub const PINS_MAX: usize = 16;

/// SHA-256 digests of the SubjectPublicKeyInfo of keys, at least two: one that is in use and one that is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinSet(BTreeSet<[u8; 32]>);

/// Why digests are no pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// One key alone: when it is lost, so is every peer.
    #[error("one pin alone locks everybody out when its key is lost: pin a backup key as well")]
    NoBackup,
    /// More than [`PINS_MAX`].
    #[error("{0} keys are pinned, at most {max} are allowed", max = PINS_MAX)]
    TooMany(usize),
}

impl PinSet {
    /// A set of at least two different keys.
    pub fn new(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, PinError> {
        let keys: BTreeSet<_> = keys.into_iter().take(PINS_MAX + 1).collect();
        match keys.len() {
            0 | 1 => Err(PinError::NoBackup),
            len if len > PINS_MAX => Err(PinError::TooMany(len)),
            _ => Ok(Self(keys)),
        }
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter()
    }

    /// Whether one of `path`, the keys of a *validated* path, is pinned, and one that is pinned is not in it.
    pub(crate) fn check(&self, path: &[[u8; 32]]) -> Result<(), ValidationError> {
        let in_path = self.0.iter().filter(|key| path.contains(key)).count();
        match in_path {
            0 => Err(ValidationError::PinMismatch),
            all if all == self.0.len() => Err(ValidationError::PinWithoutBackup),
            _ => Ok(()),
        }
    }
}

/// Which keys are pinned for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    domains: BTreeMap<TrustDomain, PinSet>,
    ids: BTreeMap<SpiffeId, PinSet>,
    others: Option<PinSet>,
}

impl Pins {
    /// The same for every peer that has no pins of its own.
    pub fn for_all(pins: PinSet) -> Self {
        Self { others: Some(pins), ..Self::default() }
    }

    /// Pins keys for everybody in `trust_domain`.
    pub fn pin_domain(&mut self, trust_domain: TrustDomain, pins: PinSet) {
        self.domains.insert(trust_domain, pins);
    }

    /// Pins keys for `id`, whatever is pinned for its trust domain.
    pub fn pin_id(&mut self, id: SpiffeId, pins: PinSet) {
        self.ids.insert(id, pins);
    }

    /// Those that count for `id`: its own, else those of its trust domain, else those for everybody.
    pub fn of(&self, id: Option<&SpiffeId>) -> Option<&PinSet> {
        let own = id.and_then(|id| self.ids.get(id).or_else(|| self.domains.get(id.trust_domain())));
        own.or(self.others.as_ref())
    }
}
