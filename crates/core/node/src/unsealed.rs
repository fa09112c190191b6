//! A train whose packets have their places and numbers, and are not sealed yet.
//!
//! Nobody can send it by mistake: its bytes are to be had only by sealing it.

use std::ops::Range;

use x0t_overlay::SealingRun;

use crate::train::Train;

/// A run of equally long packets in a train, and what seals it.
#[derive(Debug)]
pub(crate) struct Step {
    place: Range<usize>,
    /// Bytes of each packet but the last.
    stride: usize,
    run: SealingRun,
}

/// See the module.
#[derive(Debug)]
pub struct Unsealed(Train);

/// A train that does not seal. Its packets are lost.
#[derive(Debug)]
pub struct Unsealable(pub Train);

impl Unsealed {
    /// The train, if there is something to seal in it; else as it is.
    pub(crate) fn of(train: Train) -> Result<Self, Train> {
        if train.steps.is_empty() { Err(train) } else { Ok(Self(train)) }
    }

    /// How many packets there are.
    pub const fn count(&self) -> usize {
        self.0.count()
    }

    /// Bytes of all packets together, as they will be sent.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none. Never.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals every packet. Depends on nothing but the value itself, and may be done on any thread.
    ///
    /// # Errors
    /// If a packet does not seal, which no packet that was laid out by a node does.
    pub fn seal(self) -> Result<Train, Unsealable> {
        let Self(mut train) = self;
        let mut steps = std::mem::take(&mut train.steps);
        let sealed = steps.iter().all(|Step { place, stride, run }| {
            let bytes = train.bytes_mut().get_mut(place.clone());
            bytes.is_some_and(|bytes| run.seal(bytes, *stride).is_ok())
        });
        // The room in the list is kept for the next user of the buffer; the keys in it are not.
        steps.clear();
        train.steps = steps;
        if sealed { Ok(train) } else { Err(Unsealable(train)) }
    }
}

impl Train {
    /// The last `len` bytes, packets of `stride` bytes, are to be sealed by `run`, after whatever is to be done before.
    pub(crate) fn seal_later(&mut self, len: usize, stride: usize, run: SealingRun) {
        let place = self.len() - len..self.len();
        // The newest step of the same kind: behind the end-to-end seal of a packet stands the seal of its hop header.
        let earlier = self.steps.iter_mut().rev().take(2).find(|step| {
            let count = (step.place.len() / step.stride.max(1)) as u64;
            let is_whole = step.place.len().is_multiple_of(step.stride.max(1));
            is_whole && step.place.end == place.start && step.stride == stride && step.run.goes_on(count, &run)
        });
        match earlier {
            Some(step) => step.place.end = place.end,
            None => self.steps.push(Step { place, stride, run }),
        }
    }
}
