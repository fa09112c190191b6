//! What is wrong with one direction of a link.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one direction of a link does to datagrams. The default is a perfect link.
///
/// Shares are in thousandths and rolled for every datagram independently; 1000 and above means every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Share that is lost.
    pub loss_permille: u16,
    /// How long each datagram is on its way.
    pub delay: Duration,
    /// Up to this much is added to `delay`, evenly distributed. Jitter alone never changes the order.
    pub jitter: Duration,
    /// Share that is held back until the next datagram has overtaken it, or for [`crate::REORDER_HOLD`] if none follows.
    pub reorder_permille: u16,
    /// Share that arrives twice.
    pub duplicate_permille: u16,
    /// Share that arrives with one bit flipped.
    pub corrupt_permille: u16,
    /// Bytes a second that get through; what does not fit waits its turn. No limit if absent.
    pub bytes_per_second: Option<u64>,
    /// Nothing gets through, and nobody is told.
    pub blocked: bool,
}

impl Faults {
    /// A link that carries everything at once and unharmed.
    pub const NONE: Self = Self {
        loss_permille: 0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        reorder_permille: 0,
        duplicate_permille: 0,
        corrupt_permille: 0,
        bytes_per_second: None,
        blocked: false,
    };

    /// A link that silently carries nothing.
    pub const BLOCKED: Self = Self { blocked: true, ..Self::NONE };
}
