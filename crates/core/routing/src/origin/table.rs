//! All origins, by id and by small slot numbers that timers and lists refer to.

use std::collections::BTreeMap;

use x0t_model::NodeId;

use super::Origin;

#[derive(Debug, Default)]
pub(crate) struct Origins {
    slots: Vec<Option<Origin>>,
    by_id: BTreeMap<NodeId, u32>,
    free: Vec<u32>,
}

impl Origins {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// One more than the largest slot.
    pub(crate) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn index(&self, id: &NodeId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn find(&self, id: &NodeId) -> Option<&Origin> {
        self.get(self.index(id)?)
    }

    pub(crate) fn find_mut(&mut self, id: &NodeId) -> Option<&mut Origin> {
        self.get_mut(self.index(id)?)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Origin> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Origin> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(crate) fn insert(&mut self, origin: Origin) -> u32 {
        let id = origin.id;
        let index = match self.free.pop() {
            Some(free) => {
                self.slots[free as usize] = Some(origin);
                free
            }
            None => {
                self.slots.push(Some(origin));
                self.slots.len() as u32 - 1
            }
        };
        self.by_id.insert(id, index);
        index
    }

    pub(crate) fn remove(&mut self, index: u32) {
        if let Some(origin) = self.slots.get_mut(index as usize).and_then(Option::take) {
            self.by_id.remove(&origin.id);
            self.free.push(index);
        }
    }

    /// In the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Origin> {
        self.by_id.values().filter_map(|index| self.get(*index))
    }
}
