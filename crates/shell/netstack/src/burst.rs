//! Packets one after the other in one piece of memory, so that carrying them from hand to hand allocates nothing.

/// A run of packets, in order.
#[derive(Debug, Default)]
pub struct Burst {
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
    /// How many packets have been taken from the front.
    taken: usize,
}

impl Burst {
    /// How many packets are left.
    pub const fn len(&self) -> usize {
        self.ends.len() - self.taken
    }

    /// Whether none is left.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a packet of `len` bytes, which `write` fills.
    pub fn push_with<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.ends.last().copied().unwrap_or(0);
        // A writer that did not come back has left half a packet behind.
        self.bytes.truncate(start);
        self.bytes.resize(start + len, 0);
        let written = write(&mut self.bytes[start..]);
        self.ends.push(start + len);
        written
    }

    /// Appends a packet that is made of pieces.
    pub fn push_pieces<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
        pieces.for_each(|piece| self.bytes.extend_from_slice(piece));
        self.ends.push(self.bytes.len());
    }

    /// Appends a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.push_with(packet.len(), |bytes| bytes.copy_from_slice(packet));
    }

    /// The next packet.
    pub fn pop(&mut self) -> Option<&[u8]> {
        let end = *self.ends.get(self.taken)?;
        let start = self.taken.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.taken += 1;
        Some(&self.bytes[start..end])
    }

    /// Moves what is left of `other` to the end of this one.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            self.clear();
            std::mem::swap(self, other);
            return;
        }
        while let Some(packet) = other.pop() {
            self.push(packet);
        }
        other.clear();
    }

    /// Forgets all packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(burst: &mut Burst) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| burst.pop().map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut burst = Burst::default();
        burst.push(&[1, 2]);
        burst.push(&[]);
        burst.push_with(3, |bytes| bytes.fill(7));
        assert_eq!((burst.len(), contents(&mut burst)), (3, vec![vec![1, 2], vec![], vec![7, 7, 7]]));
        assert!(burst.is_empty() && burst.pop().is_none());
    }

    #[test]
    fn appending_keeps_the_order_and_what_was_taken_is_gone() {
        let (mut one, mut two) = (Burst::default(), Burst::default());
        (1..4).for_each(|n| one.push(&[n]));
        (4..6).for_each(|n| two.push(&[n]));
        one.pop();
        two.pop();
        one.append(&mut two);
        assert!(two.is_empty());
        assert_eq!(contents(&mut one), [[2], [3], [5]]);
        two.push(&[9]);
        one.append(&mut two);
        assert_eq!(contents(&mut one), [[9]]);
    }
}
