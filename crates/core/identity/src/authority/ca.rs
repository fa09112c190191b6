//! How an authority's own keys come and go: what an operator may ask for, and what happens by itself.

use std::time::Duration;

use rustls_pki_types::CertificateRevocationListDer;
use x0t_model::{Entropy, SpiffeId, UnixTime};

use super::{Authority, AuthorityCommand, CommandRefusal, Issued};
use crate::ca_life::{
    AuthorityKind, CaAction, CaCommand, CaLife, CaLifeConfig, CaRefusal, CaStatus, KeyId, Material, Patience, Step,
    Transition,
};
use crate::entry::EntryId;
use crate::issuance::IssueError;
use crate::keys::{KeySource, PrivateKey};
use crate::revocation::{IssuedSvid, Withdrawn};
use crate::upstream::{UpstreamError, UpstreamFiles, import_upstream};

/// Why an authority's keys do not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaChangeError {
    /// The step is refused, and says what to do next.
    #[error(transparent)]
    Refused(#[from] CaRefusal),
    /// The step cannot be taken.
    #[error(transparent)]
    Command(#[from] CommandRefusal),
    /// The new authority cannot be made.
    #[error("the new authority cannot be made")]
    Issue(#[from] IssueError),
    /// The intermediate is not taken.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl CaChangeError {
    /// A stable word for the API, counters and tests; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Command(refusal) => refusal.code(),
            Self::Issue(_) => "cannot_issue",
            Self::Upstream(error) => error.code(),
        }
    }
}

impl Authority {
    /// Every authority of the trust domain.
    pub const fn life(&self) -> &CaLife {
        self.keyring.life()
    }

    /// How authorities are handed over.
    pub fn life_config(&self) -> CaLifeConfig {
        CaLifeConfig {
            x509_life: self.config.authority_ttl,
            backdate: self.config.backdate,
            ack_deadline: self.config.ack_deadline,
            ..CaLifeConfig::default()
        }
    }

    /// The authorities, and who has heard of them.
    pub fn ca_status(&self, now: UnixTime) -> CaStatus {
        self.life().status(&self.acks, now)
    }

    /// What is going to happen, when, and why not yet.
    pub fn ca_plan(&self, now: UnixTime) -> Vec<Step> {
        self.life().plan(&self.acks, &self.life_config(), now)
    }

    /// `node` says which bundle it uses and who issued its SVIDs.
    pub fn acknowledge(&mut self, node: &SpiffeId, sequence: u64, issuer: Option<KeyId>, now: UnixTime) {
        self.acks.record(node, sequence, issuer, now);
    }

    /// Makes a new authority and puts it into the bundle, where it signs nothing yet.
    pub fn prepare_ca(
        &mut self,
        kind: AuthorityKind,
        keys: &mut dyn KeySource,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<KeyId, CaChangeError> {
        let config = self.life_config();
        let key = match kind {
            AuthorityKind::X509 => keys.generate(),
            AuthorityKind::Jwt => keys.generate_p256(),
        };
        let key = key.map_err(IssueError::from)?;
        let life = (now - config.backdate, now + config.life(kind));
        let material = match kind {
            AuthorityKind::X509 => {
                let predecessor = self.keyring.signer().filter(|signer| signer.may_certify_another());
                Material::self_signed(self.trust_domain(), &key, life, predecessor, entropy)?
            }
            AuthorityKind::Jwt => Material::jwt(&key, life),
        };
        self.import_ca(material, key, now)
    }

    /// Puts an authority into the bundle that was made elsewhere; see [`import_upstream`](crate::import_upstream).
    pub fn import_ca(&mut self, material: Material, key: PrivateKey, now: UnixTime) -> Result<KeyId, CaChangeError> {
        let command = self.life().prepare(material, now)?;
        let key_id = KeyId::of(key.public_key_info());
        self.keyring.keep(key);
        self.execute(AuthorityCommand::ChangeCa { change: command })?;
        Ok(key_id)
    }

    /// Reads an intermediate of an authority outside, tries it, and puts its roots into the bundle. It signs nothing yet.
    pub fn import_files(
        &mut self,
        files: UpstreamFiles<'_>,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<KeyId, CaChangeError> {
        let (material, key) = import_upstream(self.trust_domain(), files, self.config.svid_ttl, now, entropy)?;
        self.import_ca(material, key, now)
    }

    /// Lets the prepared authority sign.
    pub fn activate_ca(
        &mut self,
        kind: AuthorityKind,
        patience: Patience,
        now: UnixTime,
    ) -> Result<CaCommand, CaChangeError> {
        self.expect_everybody(now);
        let command = self.life().activate(kind, &self.acks, &self.life_config(), patience, now)?;
        self.change(command)
    }

    /// Declares an authority untrustworthy: its key is destroyed, and whatever it has signed is to be replaced.
    pub fn taint_ca(&mut self, key_id: KeyId, now: UnixTime) -> Result<CaCommand, CaChangeError> {
        self.change(self.life().taint(key_id, now)?)
    }

    /// Takes a tainted authority out of the bundle.
    pub fn revoke_ca(&mut self, key_id: KeyId, patience: Patience, now: UnixTime) -> Result<CaCommand, CaChangeError> {
        self.expect_everybody(now);
        self.change(self.life().revoke(key_id, &self.acks, patience, now)?)
    }

    fn change(&mut self, command: CaCommand) -> Result<CaCommand, CaChangeError> {
        self.execute(AuthorityCommand::ChangeCa { change: command.clone() })?;
        Ok(command)
    }

    /// Does whatever is due: prepares a successor, activates it, prunes what has ended. Call it now and then, at the latest
    /// at [`Self::maintain_at`], and make the journal durable afterwards.
    pub fn maintain(
        &mut self,
        keys: &mut dyn KeySource,
        entropy: &mut Entropy,
        now: UnixTime,
    ) -> Result<Vec<Transition>, CaChangeError> {
        self.expect_everybody(now);
        let before: Vec<_> = self.life().slots().iter().map(|slot| (slot.key_id(), slot.state().name())).collect();
        while let Some(step) = self.ca_plan(now).into_iter().find(|step| is_maintained(step) && step.is_ready(now)) {
            match (step.action, step.key_id) {
                (CaAction::Prepare, _) => {
                    self.prepare_ca(step.kind, keys, entropy, now)?;
                }
                (CaAction::Activate, _) => {
                    self.activate_ca(step.kind, Patience::Wait, now)?;
                }
                (CaAction::Prune, Some(key_id)) => {
                    self.change(self.life().prune(key_id, now)?)?;
                }
                (CaAction::Prune | CaAction::Revoke, _) => break,
            }
        }
        let changed = |slot: &&crate::ca_life::Slot| !before.contains(&(slot.key_id(), slot.state().name()));
        let transition = |slot: &crate::ca_life::Slot| Transition {
            kind: slot.kind(),
            key_id: slot.key_id(),
            state: slot.state().name(),
        };
        Ok(self.life().slots().iter().filter(changed).map(transition).collect())
    }

    /// When something is due next, unless somebody says something before.
    pub fn maintain_at(&self, now: UnixTime) -> Option<UnixTime> {
        self.ca_plan(now).iter().filter(|step| is_maintained(step)).filter_map(Step::wake_at).min()
    }

    /// Everything that is out for `id` goes on the revocation list; beyond that, nothing changes: who may still renew will.
    pub fn revoke_svids(&mut self, id: &SpiffeId, now: UnixTime) -> Result<Withdrawn, CommandRefusal> {
        self.expect_everybody(now);
        let withdrawn = self.issued.withdraw(id, now);
        if !withdrawn.svids.is_empty() {
            self.execute(AuthorityCommand::RevokeSvids { svids: withdrawn.svids.clone(), at: now })?;
        }
        Ok(withdrawn)
    }

    /// Deletes an entry; with `revoke`, everything that is out for its identity goes on the revocation list. Other entries of the same
    /// identity get new SVIDs at once. If the list is full, nothing is changed.
    pub fn delete_entry(
        &mut self,
        id: &EntryId,
        revoke: bool,
        now: UnixTime,
    ) -> Result<Option<Withdrawn>, CommandRefusal> {
        let entry = self.entry(id).ok_or_else(|| CommandRefusal::UnknownEntry(id.clone()))?;
        let identity = entry.spec.spiffe_id.clone();
        let withdrawn = if revoke { Some(self.revoke_svids(&identity, now)?) } else { None };
        self.execute(AuthorityCommand::DeleteEntry { id: id.clone() })?;
        Ok(withdrawn)
    }

    /// A revocation list of each authority that has something to revoke and can sign. A list is in force until the last SVID on it has
    /// ended: it is never too old, and afterwards there is no list. Its number is that of the bundle, which grows with each revocation.
    pub fn crls(&self, now: UnixTime) -> Result<Vec<CertificateRevocationListDer<'static>>, IssueError> {
        let mut lists = Vec::new();
        for signer in self.keyring.signers() {
            let revoked: Vec<_> = self.revocations.at(now).filter(|svid| svid.issuer == signer.key_id()).collect();
            if let Some(end) = revoked.iter().map(|svid| svid.not_after).max() {
                lists.push(signer.crl(revoked, (now, end + Duration::from_secs(1)), self.bundle().sequence())?);
            }
        }
        Ok(lists)
    }

    /// Remembers what was issued to a workload of `node`, or to `node` itself.
    pub(super) fn note(&mut self, node: &SpiffeId, issued: &Issued, now: UnixTime) {
        let &Issued { not_after, serial, issuer, .. } = issued;
        self.issued.note(&issued.spiffe_id, IssuedSvid { not_after, serial, issuer }, now);
        self.acks.expect(node, not_after);
    }

    /// After a start: what was issued before is not known, and may be valid for as long as anything may be.
    fn expect_everybody(&mut self, now: UnixTime) {
        if !std::mem::take(&mut self.is_waking) {
            return;
        }
        let until = now + self.life_config().svid_ttl_max;
        self.issued.forget_until(until);
        for name in self.names.keys() {
            if let Ok(node) = SpiffeId::node(self.trust_domain(), name) {
                self.acks.expect(&node, until);
            }
        }
    }
}

/// Revoking is an operator's decision.
fn is_maintained(step: &Step) -> bool {
    step.action != CaAction::Revoke
}
