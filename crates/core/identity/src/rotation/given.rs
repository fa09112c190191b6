//! SVIDs that a Workload API gives (SPIFFE Workload API, 5.2): nothing is asked, what comes is judged as an authority's answer is.
//!
//! ```text
//!   given, not the one in use ──▶ verified as a stranger would ──▶ adopted
//!   given, the one in use     ──▶ the source is well
//!   the source fails          ──▶ Degraded; the SVID in use stays until its own end
//!   the source takes it back  ──▶ Withdrawn: no longer shown, until another is given
//! ```

use x0t_model::{Instant, UnixTime, in_one_line};

use super::{AdoptError, Rotation, RotationEvent, RotationStatus, SvidSource};
use crate::bundle::Bundle;
use crate::svid::Svid;
use crate::verify::verify_chain;

/// What is told of a source that says nothing.
const OVERDUE: &str = "three quarters of its life are over and the Workload API has not renewed it";

/// When a Workload API should have renewed `svid`. It does so at half of its life; a quarter more is patience. An agent without its
/// server says nothing at all.
pub fn overdue_at(svid: &Svid) -> UnixTime {
    let life = svid.not_after().since(svid.not_before());
    svid.not_before() + life * 3 / 4
}

impl Rotation {
    /// The Workload API gives `svid`, with `bundle` as that of its trust domain. Adopted if a stranger would accept it and it is
    /// ours; otherwise the SVID in use stays and the source counts as failing. True if it is another one than before.
    ///
    /// # Errors
    /// Why it is not adopted.
    pub fn handle_given(
        &mut self,
        svid: Svid,
        bundle: &Bundle,
        now: Instant,
        wall: UnixTime,
    ) -> Result<bool, AdoptError> {
        if self.config.source != SvidSource::WorkloadApi {
            return Err(AdoptError::OtherSource);
        }
        self.look(now, wall);
        if let Err(error) = self.check_given(&svid, bundle, wall) {
            self.handle_source_failure(in_one_line(&error), now, wall);
            return Err(error);
        }
        if !self.withdrawn && svid.chain() == self.svid.chain() {
            self.failures = 0;
            self.last_error = None;
            if self.told == RotationStatus::Degraded && !self.is_overdue(wall) {
                self.told = RotationStatus::Valid;
            }
            return Ok(false);
        }
        self.adopt(svid);
        Ok(true)
    }

    /// The Workload API does not answer, or says what cannot be believed. The SVID in use stays.
    pub fn handle_source_failure(&mut self, reason: String, now: Instant, wall: UnixTime) {
        if self.config.source != SvidSource::WorkloadApi || self.withdrawn {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(reason.clone());
        self.tell(RotationStatus::Degraded, RotationEvent::Degraded { reason });
        self.look(now, wall);
    }

    /// The Workload API says that the identity is ours no longer (checklist WC-6).
    pub fn handle_withdrawn(&mut self, reason: String, now: Instant, wall: UnixTime) {
        if self.config.source != SvidSource::WorkloadApi || self.withdrawn {
            return;
        }
        self.look(now, wall);
        self.withdrawn = true;
        self.last_error = Some(reason.clone());
        self.tell(RotationStatus::Withdrawn, RotationEvent::Withdrawn { reason });
    }

    /// The SVID that may be shown: none once it was taken back.
    pub fn svid_to_show(&self) -> Option<&Svid> {
        Some(&self.svid).filter(|_| !self.withdrawn)
    }

    fn check_given(&self, svid: &Svid, bundle: &Bundle, wall: UnixTime) -> Result<(), AdoptError> {
        let found = verify_chain(svid.chain(), bundle, wall)?;
        let wanted = self.svid.spiffe_id();
        if found == *wanted {
            return Ok(());
        }
        Err(AdoptError::OtherIdentity { found, wanted: wanted.clone() })
    }

    pub(super) fn is_overdue(&self, wall: UnixTime) -> bool {
        self.config.source == SvidSource::WorkloadApi && wall >= overdue_at(&self.svid)
    }

    pub(super) fn overdue_timeout(&self, otherwise: Instant) -> Instant {
        let (now, wall) = self.looked;
        if self.told >= RotationStatus::Degraded { otherwise } else { now + overdue_at(&self.svid).since(wall) }
    }

    pub(super) fn tell_if_overdue(&mut self, wall: UnixTime) {
        if self.is_overdue(wall) && self.told < RotationStatus::Degraded {
            self.last_error.get_or_insert_with(|| OVERDUE.to_owned());
            self.tell(RotationStatus::Degraded, RotationEvent::Degraded { reason: OVERDUE.to_owned() });
        }
    }
}
