//! How much work one chain may make.

use super::error::{Budget, ValidationError};

/// How much work one chain may make, before anybody knows who sent it (lessons L3 and L18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Certificates that are shown, the leaf included.
    pub certificates_max: usize,
    /// Bytes of one of them.
    pub certificate_len_max: usize,
    /// Bytes of all of them.
    pub chain_len_max: usize,
    /// Intermediates in the path, those that merely roll a key over not counted.
    pub intermediates_max: usize,
    /// Signatures that are checked: each costs 20 to 200 µs.
    pub signature_checks_max: usize,
    /// Certificates that are tried as issuers.
    pub path_steps_max: usize,
    /// Comparisons of names with name constraints.
    pub name_comparisons_max: usize,
}

impl Limits {
    /// For X.509-SVIDs: the same as [`verify_chain`](crate::verify_chain) allows.
    pub const SVID: Self = Self {
        certificates_max: crate::verify::CHAIN_CERTIFICATES_MAX,
        certificate_len_max: crate::verify::CERTIFICATE_LEN_MAX,
        chain_len_max: crate::verify::CHAIN_CERTIFICATES_MAX * crate::verify::CERTIFICATE_LEN_MAX,
        intermediates_max: crate::verify::CHAIN_CERTIFICATES_MAX - 1,
        signature_checks_max: 32,
        path_steps_max: 256,
        name_comparisons_max: 20_000,
    };

    /// For servers of the public web, whose certificates carry a hundred names and whose chains are longer.
    pub const WEB: Self = Self {
        certificates_max: 16,
        certificate_len_max: 64 * 1024,
        chain_len_max: 256 * 1024,
        intermediates_max: 8,
        signature_checks_max: 64,
        path_steps_max: 1024,
        name_comparisons_max: 100_000,
    };
}

/// What is left of the limits.
#[derive(Debug)]
pub(crate) struct Remaining {
    limits: Limits,
    signature_checks: usize,
    path_steps: usize,
    name_comparisons: usize,
}

impl Remaining {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            signature_checks: limits.signature_checks_max,
            path_steps: limits.path_steps_max,
            name_comparisons: limits.name_comparisons_max,
        }
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn check_signature(&mut self) -> Result<(), ValidationError> {
        let limit = self.limits.signature_checks_max;
        spend(&mut self.signature_checks, 1, Budget::Signatures, limit)
    }

    pub(crate) fn step(&mut self) -> Result<(), ValidationError> {
        let limit = self.limits.path_steps_max;
        spend(&mut self.path_steps, 1, Budget::Steps, limit)
    }

    pub(crate) fn compare_names(&mut self, comparisons: usize) -> Result<(), ValidationError> {
        let limit = self.limits.name_comparisons_max;
        spend(&mut self.name_comparisons, comparisons, Budget::NameComparisons, limit)
    }
}

fn spend(left: &mut usize, amount: usize, budget: Budget, limit: usize) -> Result<(), ValidationError> {
    *left = left.checked_sub(amount).ok_or(ValidationError::OverBudget { budget, limit })?;
    Ok(())
}
