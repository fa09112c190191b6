//! A record that could not be made durable, and everything that waits for it.

use std::time::Duration;

use x0t_model::Instant;
use x0t_node::Record;

use crate::state_dir::StateDirError;

/// A disk that is full for a moment is tried again soon …
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// … and one that stays full often enough that nobody waits long after making room.
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(super) struct Stall {
    pub(super) record: Record,
    began: Instant,
    retry_at: Instant,
    pause: Duration,
    why: String,
}

impl Stall {
    pub(super) fn begin(record: Record, error: &StateDirError, now: Instant) -> Self {
        let mut stall = Self { record, began: now, retry_at: now, pause: RETRY_FIRST, why: String::new() };
        stall.again(error, now);
        stall
    }

    pub(super) fn again(&mut self, error: &StateDirError, now: Instant) {
        self.why = with_cause(error);
        tracing::error!(
            record = self.record.kind.file_name(),
            error = self.why,
            stalled_for = ?now.since(self.began),
            retry_in = ?self.pause,
            "cannot save the node's state; the node is held until it is saved"
        );
        self.retry_at = now + self.pause;
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }

    pub(super) fn end(&self, now: Instant) {
        tracing::warn!(
            record = self.record.kind.file_name(),
            stalled_for = ?now.since(self.began),
            "the node's state is saved; going on"
        );
    }

    pub(super) fn retry_at(&self) -> Instant {
        self.retry_at
    }

    pub(super) fn reason(&self) -> String {
        format!("cannot save {}: {}; make room or repair the disk", self.record.kind.file_name(), self.why)
    }
}

fn with_cause(error: &StateDirError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
