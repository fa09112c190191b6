//! The authority's own keys: which there are, which one signs, and the bundle that they make.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use x0t_model::{TrustDomain, UnixTime};

use crate::bundle::{Bundle, BundleError};
use crate::ca_life::{AuthorityKind, CaCommand, CaLife, CaRefusal, Der, Evidence, KeyId, Material, Slot, Transition};
use crate::ca_signer::CaSigner;
use crate::issuance::IssueError;
use crate::jwt::{self, JwtPublicKey, JwtSigningKey};
use crate::keys::PrivateKey;

/// Slots and private keys. The keys are those of this node: of the slots of other authority nodes it holds none.
pub(super) struct Keyring {
    life: CaLife,
    keys: BTreeMap<KeyId, PrivateKey>,
    /// One for each X.509 authority whose key is here.
    signers: BTreeMap<KeyId, CaSigner>,
    /// The active JWT key, if it is here.
    jwt_signer: Option<JwtSigningKey>,
    bundle: Bundle,
}

impl Keyring {
    /// A trust domain with one authority, which signs. Its bundle has the number `sequence`.
    pub(super) fn create(
        trust_domain: &TrustDomain,
        material: Material,
        key: PrivateKey,
        sequence: u64,
        at: UnixTime,
    ) -> Result<Self, KeyringError> {
        let key_id = KeyId::of(key.public_key_info());
        let mut life = CaLife::numbered_from(trust_domain.clone(), sequence.saturating_sub(1));
        life.apply(&CaCommand::Prepare { material, at })?;
        life.apply(&CaCommand::Activate { key_id, evidence: Evidence::NothingValid, at })?;
        Self::restore(life, BTreeMap::from([(key_id, key)]))
    }

    /// From what was stored.
    pub(super) fn restore(life: CaLife, mut keys: BTreeMap<KeyId, PrivateKey>) -> Result<Self, KeyringError> {
        keys.retain(|key_id, _| life.needs_private_key(*key_id));
        let mut signers = BTreeMap::new();
        for (key_id, key) in &keys {
            if let Some(slot) = life.slot(*key_id).filter(|slot| slot.kind() == AuthorityKind::X509) {
                signers.insert(*key_id, CaSigner::new(slot, key)?);
            }
        }
        let jwt_signer = match life.active(AuthorityKind::Jwt).and_then(|slot| Some((slot, keys.get(&slot.key_id())?)))
        {
            Some((slot, key)) => Some(JwtSigningKey::new(key.clone(), slot.not_after()).map_err(IssueError::from)?),
            None => None,
        };
        let bundle = bundle_of(&life)?;
        Ok(Self { life, keys, signers, jwt_signer, bundle })
    }

    pub(super) const fn life(&self) -> &CaLife {
        &self.life
    }

    pub(super) const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&KeyId, &PrivateKey)> {
        self.keys.iter()
    }

    /// What signs X.509-SVIDs, if it is here.
    pub(super) fn signer(&self) -> Option<&CaSigner> {
        self.signers.get(&self.life.active(AuthorityKind::X509)?.key_id())
    }

    /// What signs JWT-SVIDs, if it is here.
    pub(super) const fn jwt_signer(&self) -> Option<&JwtSigningKey> {
        self.jwt_signer.as_ref()
    }

    /// Everything that can sign a revocation list.
    pub(super) fn signers(&self) -> impl Iterator<Item = &CaSigner> {
        self.signers.values()
    }

    /// What is shown: `leaf`, which the active authority has signed, and what leads from there to the bundle.
    pub(super) fn chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let active = self.life.active(AuthorityKind::X509);
        let carried = active.map(|slot| self.life.carried(slot)).unwrap_or_default();
        std::iter::once(leaf).chain(carried.iter().map(Der::certificate)).collect()
    }

    /// Every X.509 authority of the bundle, oldest first.
    pub(super) fn authorities(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        let entries = |slot: &Slot| slot.material().bundle_entries().iter().map(Der::certificate).collect::<Vec<_>>();
        self.life.in_bundle(AuthorityKind::X509).flat_map(entries)
    }

    /// Keeps a key whose authority is about to be prepared.
    pub(super) fn keep(&mut self, key: PrivateKey) {
        self.keys.insert(KeyId::of(key.public_key_info()), key);
    }

    /// Gives the bundle its next number: there is something else that members have to hear of.
    pub(super) fn renumber(&mut self) -> Result<(), KeyringError> {
        let mut life = self.life.clone();
        life.renumber();
        self.bundle = bundle_of(&life)?;
        self.life = life;
        Ok(())
    }

    /// Takes one step. Keys that have nothing left to sign are dropped, and wiped with their last copy.
    pub(super) fn apply(&mut self, command: &CaCommand) -> Result<Vec<Transition>, KeyringError> {
        let mut life = self.life.clone();
        let transitions = life.apply(command)?;
        let kept = std::mem::take(&mut self.keys);
        match Self::restore(life, kept.clone()) {
            Ok(next) => *self = next,
            Err(error) => {
                self.keys = kept;
                return Err(error);
            }
        }
        Ok(transitions)
    }
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// It is out of order.
    #[error(transparent)]
    Refused(#[from] CaRefusal),
    /// The certificate and the key make no signer.
    #[error("the authority cannot sign")]
    Issue(#[from] IssueError),
    /// The authorities make no bundle.
    #[error("the authorities make no bundle")]
    Bundle(#[from] BundleError),
}

fn bundle_of(life: &CaLife) -> Result<Bundle, BundleError> {
    let entries = |slot: &Slot| slot.material().bundle_entries().iter().map(Der::certificate).collect::<Vec<_>>();
    let authorities = life.in_bundle(AuthorityKind::X509).flat_map(entries).collect();
    let jwt_key = |slot: &Slot| match slot.material() {
        Material::Jwt { public_key_info, .. } => JwtPublicKey::from_spki(public_key_info.as_bytes()).ok(),
        Material::SelfSigned { .. } | Material::Upstream { .. } => None,
    };
    let jwt_keys = life.in_bundle(AuthorityKind::Jwt).filter_map(jwt_key);
    let named = jwt_keys.map(|key| (jwt::KeyId::thumbprint(&key), key));
    Bundle::new(life.trust_domain().clone(), authorities, life.sequence())?.with_jwt_keys(named)
}
