//! Runs of datagrams, and the buffers they travel in.
//!
//! A kernel that sends or receives 45 datagrams in one call spends little more on it than on one (UDP GSO and GRO), so packets stay
//! together from the host's super-packet to the wire and on through every relay. The buffer moves with them: what arrives in it is
//! opened, forwarded or delivered in place, and it comes back to the [`Pool`] when the kernel has copied it.

use crate::host::Delivery;
use crate::unsealed::Step;

/// Bytes of a pooled buffer: the most that UDP GRO hands over at once.
pub const TRAIN_BYTES: usize = 1 << 16;
/// Bytes that are sent in one piece: the longest UDP payload under IPv6 with room for a hop-by-hop header (RFC 768, RFC 8200).
pub const TRAIN_BYTES_MAX: usize = 65_000;
/// Datagrams in one piece. Linux accepts 64 in all versions that have UDP GSO, newer ones 128.
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// Buffers that wait to be used again: 1 MiB.
const SPARE_MAX: usize = 16;
/// The same where others work for the node, which have as many at a time: 4 MiB.
const SPARE_WITH_WORKERS_MAX: usize = 64;
/// What is shorter than this share of its buffer is moved to one that fits before it has to wait.
const COMPACT_SHARE: usize = 4;

/// Datagrams of one size, the last of which may be shorter, back to back in an owned buffer.
#[derive(Default)]
pub struct Train {
    storage: Vec<u8>,
    len: usize,
    stride: usize,
    /// What is left to seal, in this order. Only in an [`Unsealed`](crate::Unsealed) train, or one that is becoming one.
    pub(crate) steps: Vec<Step>,
}

impl std::fmt::Debug for Train {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Train({} datagrams, {} bytes)", self.count(), self.len)
    }
}

impl Train {
    /// One datagram.
    pub const fn single(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { storage: bytes, len, stride: len, steps: Vec::new() }
    }

    /// An empty one with a buffer of [`TRAIN_BYTES`].
    pub fn empty() -> Self {
        Self { storage: vec![0; TRAIN_BYTES], len: 0, stride: 0, steps: Vec::new() }
    }

    /// Bytes of all datagrams together.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no datagram.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of each datagram but the last, which may be shorter.
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// How many datagrams there are.
    pub const fn count(&self) -> usize {
        if self.len == 0 { 0 } else { self.len.div_ceil(self.stride) }
    }

    /// All datagrams, back to back.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[..self.len]
    }

    /// All datagrams, back to back.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[..self.len]
    }

    /// Each datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes().chunks(self.stride.max(1))
    }

    /// Each datagram.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let stride = self.stride.max(1);
        self.bytes_mut().chunks_mut(stride)
    }

    /// The whole buffer, to receive into; [`Self::set`] says what was received.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.storage
    }

    /// What the buffer holds: `len` bytes in datagrams of `stride` bytes. More than fits is cut off.
    pub fn set(&mut self, len: usize, stride: usize) {
        self.len = len.min(self.storage.len());
        self.stride = stride.clamp(usize::from(self.len > 0), self.len.max(1));
    }

    /// How many more datagrams of `len` bytes may follow: none once a shorter one has ended the train.
    pub fn room_for(&self, len: usize) -> usize {
        let limit = TRAIN_BYTES_MAX.min(self.storage.len());
        if len == 0 || len > limit {
            return 0;
        }
        if self.len == 0 {
            return (limit / len).min(TRAIN_DATAGRAMS_MAX);
        }
        let whole = self.len.is_multiple_of(self.stride);
        if !whole || len > self.stride {
            return 0;
        }
        let room = (limit - self.len) / len;
        room.min(TRAIN_DATAGRAMS_MAX - self.count()).min(if len == self.stride { usize::MAX } else { 1 })
    }

    /// Room for `bytes` bytes of datagrams of `stride` bytes behind those that are there, as [`Self::room_for`] allows. What stands
    /// in it is whatever the buffer held before.
    pub fn grow(&mut self, bytes: usize, stride: usize) -> &mut [u8] {
        let start = self.len;
        if start == 0 {
            self.stride = stride.min(bytes);
        }
        self.len += bytes;
        &mut self.storage[start..start + bytes]
    }

    /// Takes back the last `bytes` bytes.
    pub fn shrink(&mut self, bytes: usize) {
        self.len = self.len.saturating_sub(bytes);
    }

    const fn is_pooled(&self) -> bool {
        self.storage.len() == TRAIN_BYTES
    }

    /// Whether it keeps a large buffer from being used for so little that moving it is the better bargain.
    const fn is_sparse(&self) -> bool {
        self.is_pooled() && self.len < TRAIN_BYTES / COMPACT_SHARE
    }
}

/// Buffers, and the lists of deliveries, that are ready to be used again.
#[derive(Debug)]
pub struct Pool {
    spare: Vec<Train>,
    spare_max: usize,
    deliveries: Vec<Delivery>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { spare: Vec::new(), spare_max: SPARE_MAX, deliveries: Vec::new() }
    }
}

impl Pool {
    /// One for a node that others work for.
    pub fn with_workers() -> Self {
        Self { spare_max: SPARE_WITH_WORKERS_MAX, ..Self::default() }
    }

    /// An empty train.
    pub fn take(&mut self) -> Train {
        self.spare.pop().unwrap_or_else(Train::empty)
    }

    /// Takes a buffer back. Nothing is wiped: the next user writes before it reads.
    pub fn give(&mut self, mut train: Train) {
        if train.is_pooled() && self.spare.len() < self.spare_max {
            train.set(0, 0);
            train.steps.clear();
            self.spare.push(train);
        }
    }

    /// A delivery whose lists have room and whose content means nothing.
    pub fn take_delivery(&mut self) -> Delivery {
        self.deliveries.pop().unwrap_or_default()
    }

    /// Takes a delivery back, with its buffer.
    pub fn give_delivery(&mut self, mut delivery: Delivery) {
        self.give(std::mem::take(&mut delivery.train));
        if self.deliveries.len() < self.spare_max {
            self.deliveries.push(delivery);
        }
    }

    /// The same train in a buffer that is fit to wait in: a queue of short datagrams must not hold 64 KiB for each.
    pub fn fit_to_wait(&mut self, train: Train) -> Train {
        if !train.is_sparse() {
            return train;
        }
        let mut train = train;
        let steps = std::mem::take(&mut train.steps);
        let compact = Train { storage: train.bytes().to_vec(), len: train.len, stride: train.stride, steps };
        self.give(train);
        compact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_takes_datagrams_of_one_size_and_a_shorter_one_ends_it() {
        let mut train = Train::empty();
        assert_eq!((train.count(), train.room_for(1400)), (0, 46));
        assert_eq!(train.room_for(100), TRAIN_DATAGRAMS_MAX);
        train.grow(2800, 1400).fill(1);
        assert_eq!((train.count(), train.stride(), train.room_for(1400)), (2, 1400, 44));
        assert_eq!((train.room_for(1401), train.room_for(9)), (0, 1), "no longer one, and one shorter one");
        train.grow(9, 9).fill(2);
        assert_eq!((train.count(), train.room_for(1400), train.room_for(9)), (3, 0, 0));
        assert_eq!(train.datagrams().map(<[u8]>::len).collect::<Vec<_>>(), [1400, 1400, 9]);
        train.shrink(9);
        assert_eq!(train.room_for(1400), 44);
    }

    #[test]
    fn what_a_kernel_says_about_a_buffer_is_not_believed_blindly() {
        let mut train = Train::empty();
        train.set(usize::MAX, 0);
        assert_eq!((train.len(), train.stride(), train.count()), (TRAIN_BYTES, 1, TRAIN_BYTES));
        train.set(10, 4000);
        assert_eq!((train.stride(), train.count()), (10, 1));
        train.set(0, 7);
        assert_eq!((train.count(), train.datagrams().count()), (0, 0));
    }

    #[test]
    fn a_pool_keeps_so_many_buffers_and_no_odd_ones() {
        let mut pool = Pool::default();
        for _ in 0..SPARE_MAX + 5 {
            pool.give(Train::empty());
        }
        pool.give(Train::single(vec![1, 2]));
        assert_eq!(pool.spare.len(), SPARE_MAX);
        let mut train = pool.take();
        train.grow(20, 10).fill(3);
        let waiting = pool.fit_to_wait(train);
        assert_eq!((waiting.storage.len(), waiting.count(), waiting.bytes()), (20, 2, &[3; 20][..]));
        assert_eq!(pool.spare.len(), SPARE_MAX, "the large buffer is free again");
    }
}
