//! Signing keys whose tokens are not kept, because the key has left the bundle or was tainted.

use std::collections::{BTreeSet, VecDeque};

use crate::bundle::Bundle;
use crate::jwt::KeyId;

/// Keys that are remembered. A token of an older one has ended long since, and its validator would refuse it anyway.
const KEYS_MAX: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Distrust {
    held: BTreeSet<KeyId>,
    gone: VecDeque<KeyId>,
    tainted: VecDeque<KeyId>,
}

impl Distrust {
    /// Whether tokens of `key_id` are to be dropped.
    pub(super) fn covers(&self, key_id: &KeyId) -> bool {
        self.gone.contains(key_id) || self.tainted.contains(key_id)
    }

    /// Whether a key has gone with this bundle.
    pub(super) fn handle_bundle(&mut self, bundle: &Bundle) -> bool {
        let held: BTreeSet<KeyId> = bundle.jwt_keys().keys().cloned().collect();
        self.gone.retain(|key_id| !held.contains(key_id));
        let before = std::mem::replace(&mut self.held, held);
        let gone: Vec<KeyId> = before.difference(&self.held).cloned().collect();
        let any = !gone.is_empty();
        gone.into_iter().for_each(|key_id| remember(&mut self.gone, key_id));
        any
    }

    pub(super) fn taint(&mut self, key_id: &KeyId) {
        if !self.tainted.contains(key_id) {
            remember(&mut self.tainted, key_id.clone());
        }
    }
}

fn remember(keys: &mut VecDeque<KeyId>, key_id: KeyId) {
    if keys.len() >= KEYS_MAX {
        keys.pop_front();
    }
    keys.push_back(key_id);
}
