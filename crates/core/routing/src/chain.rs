//! Sequence numbers and hop counts that cannot be made up (after SEAD: Hu, Johnson, Perrig 2002).
//!
//! The origin draws a secret, hashes it `seqs × hops` times and signs the end, the *anchor*, once per epoch. A value at
//! distance `d` before the anchor proves itself by hashing to it in `d` steps; nobody can go the other way. Sequence number
//! `s` at hop count `h` is the value at distance `s × hops − h`: the next number lies deeper than every hop of the last one,
//! and one more hop is one more hash. So a node can neither raise a number it has not been given, nor claim to be
//! nearer than it was told.
//!
//! ```text
//! secret ──H──► … ──H──► (s=2,h=0) ─► (s=2,h=1) … ─► (s=1,h=0) ─► (s=1,h=1) … ─► (s=1,h=hops-1) ──H──► anchor
//! ```

use x0t_model::{Entropy, NodeId};
use zeroize::Zeroize;

use crate::feasibility::Seqno;

/// Bytes of a chain value: 128 bits against a preimage.
pub const VALUE_LEN: usize = 16;
/// One value of a chain.
pub type ChainValue = [u8; VALUE_LEN];
/// The most steps a chain may have, so that a stranger's anchor cannot ask for more work than this.
pub const STEPS_MAX: u32 = 1 << 18;

/// The hash of the chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainHash {
    /// Keyed BLAKE3, cut to 128 bits.
    #[default]
    Blake3,
    /// A few multiplications, for simulations of thousands of nodes. **Anybody can invert it.**
    InsecureFast,
}

/// Keys the hash, so that a chain value means nothing anywhere else.
const LABEL: &[u8; 32] = b"x0tta6bl4 2026-11 routing chain ";

impl ChainHash {
    /// One step. The origin and epoch go in too, so that work spent on inverting one chain helps with no other.
    fn step(self, origin: &NodeId, epoch: u32, value: &ChainValue) -> ChainValue {
        match self {
            Self::Blake3 => {
                let mut input = [0; 36];
                input[..16].copy_from_slice(origin.as_bytes());
                input[16..20].copy_from_slice(&epoch.to_be_bytes());
                input[20..].copy_from_slice(value);
                let hash = blake3::keyed_hash(LABEL, &input);
                let mut out = [0; VALUE_LEN];
                out.copy_from_slice(&hash.as_bytes()[..VALUE_LEN]);
                out
            }
            Self::InsecureFast => {
                let mut halves = [[0; 8]; 2];
                halves[0].copy_from_slice(&value[..8]);
                halves[1].copy_from_slice(&value[8..]);
                let [a, b] = halves.map(u64::from_be_bytes);
                let salt = u64::from(epoch) ^ u64::from(origin.as_bytes()[0]) << 32;
                let a = (a ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ b;
                let b = b.wrapping_add(a).wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(31);
                let mut out = [0; VALUE_LEN];
                out[..8].copy_from_slice(&a.to_be_bytes());
                out[8..].copy_from_slice(&b.to_be_bytes());
                out
            }
        }
    }

    /// `steps` steps.
    pub fn advance(self, origin: &NodeId, epoch: u32, mut value: ChainValue, steps: u32) -> ChainValue {
        for _ in 0..steps {
            value = self.step(origin, epoch, &value);
        }
        value
    }
}

/// The shape of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainShape {
    /// Sequence numbers.
    pub seqs: u32,
    /// Hops per sequence number.
    pub hops: u8,
}

impl ChainShape {
    /// Whether the shape is one at all, and within [`STEPS_MAX`].
    pub fn is_valid(self) -> bool {
        self.seqs > 0 && self.hops > 0 && u64::from(self.seqs) * u64::from(self.hops) <= u64::from(STEPS_MAX)
    }

    /// Steps from `(seq, hops)` to the anchor; `None` if the chain has no such place.
    fn distance(self, seq: u32, hops: u8) -> Option<u32> {
        let inside = (1..=self.seqs).contains(&seq) && hops < self.hops;
        inside.then(|| seq * u32::from(self.hops) - u32::from(hops))
    }
}

/// The origin's end of a chain: gives the value of each sequence number. Keeps the square root of the chain and hashes the
/// rest again when it gets there.
pub struct OwnChain {
    hash: ChainHash,
    origin: NodeId,
    epoch: u32,
    shape: ChainShape,
    /// Values of sequence numbers `block`, `2 × block`, …, and of the last one.
    checkpoints: Vec<ChainValue>,
    block: u32,
    anchor: ChainValue,
    /// Values of sequence numbers `first ..= first + values.len() - 1`.
    values: Vec<ChainValue>,
    first: u32,
}

impl OwnChain {
    /// Lays out a chain from fresh randomness: `seqs × hops` hashes.
    ///
    /// A shape beyond its bounds is cut to them.
    pub fn new(hash: ChainHash, origin: NodeId, epoch: u32, shape: ChainShape, entropy: &mut Entropy) -> Self {
        let hops = shape.hops.max(1);
        let shape = ChainShape { seqs: shape.seqs.clamp(1, STEPS_MAX / u32::from(hops)), hops };
        let block = shape.seqs.isqrt().max(1);
        let mut value: ChainValue = entropy.bytes();
        let mut checkpoints = vec![[0; VALUE_LEN]; shape.seqs.div_ceil(block) as usize];
        for seq in (1..=shape.seqs).rev() {
            if seq % block == 0 || seq == shape.seqs {
                checkpoints[(seq.div_ceil(block) - 1) as usize] = value;
            }
            value = hash.advance(&origin, epoch, value, u32::from(hops));
        }
        Self { hash, origin, epoch, shape, checkpoints, block, anchor: value, values: Vec::new(), first: 0 }
    }

    /// The end of the chain.
    pub const fn anchor(&self) -> ChainValue {
        self.anchor
    }

    /// The epoch the chain belongs to.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its shape.
    pub const fn shape(&self) -> ChainShape {
        self.shape
    }

    /// The value of `seq` at hop count 0; `None` beyond the chain.
    pub fn value(&mut self, seq: u32) -> Option<ChainValue> {
        if !(1..=self.shape.seqs).contains(&seq) {
            return None;
        }
        if seq < self.first || seq >= self.first + self.values.len() as u32 {
            self.lay_out_block(seq);
        }
        self.values.get((seq - self.first) as usize).copied()
    }

    fn lay_out_block(&mut self, seq: u32) {
        let number = (seq - 1) / self.block;
        let last = ((number + 1) * self.block).min(self.shape.seqs);
        self.first = number * self.block + 1;
        self.values.zeroize();
        self.values.resize((last - self.first + 1) as usize, [0; VALUE_LEN]);
        let mut value = self.checkpoints[number as usize];
        for slot in self.values.iter_mut().rev() {
            *slot = value;
            value = self.hash.advance(&self.origin, self.epoch, value, u32::from(self.shape.hops));
        }
    }
}

impl Drop for OwnChain {
    /// Values of numbers not yet announced would let others announce them.
    fn drop(&mut self) {
        self.checkpoints.zeroize();
        self.values.zeroize();
    }
}

impl std::fmt::Debug for OwnChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnChain(epoch {})", self.epoch)
    }
}

/// Why a chain value was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The chain has no such sequence number or hop count.
    OutOfShape,
    /// It does not lead to the anchor; that took this many hashes to find out.
    Forged(u32),
    /// Finding out would take this many hashes, more than allowed.
    TooFar(u32),
}

/// The other end: knows the anchor and the deepest value proven so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    epoch: u32,
    shape: ChainShape,
    /// Steps from the value to the anchor.
    distance: u32,
    value: ChainValue,
}

impl ChainHead {
    /// Starts at the anchor.
    pub const fn new(epoch: u32, shape: ChainShape, anchor: ChainValue) -> Self {
        Self { epoch, shape, distance: 0, value: anchor }
    }

    /// The epoch of the anchor.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest number proven so far.
    pub const fn newest(&self) -> Seqno {
        Seqno { epoch: self.epoch, seq: self.distance.div_ceil(self.shape.hops as u32) }
    }

    /// Checks that `value` is `seq` at `hops`. At most `allowance` hashes are spent. Deeper values are remembered, so the next
    /// check is short.
    pub fn verify(
        &mut self,
        hash: ChainHash,
        origin: &NodeId,
        seq: u32,
        hops: u8,
        value: &ChainValue,
        allowance: u32,
    ) -> Result<(), ChainError> {
        let distance = self.shape.distance(seq, hops).ok_or(ChainError::OutOfShape)?;
        let steps = distance.abs_diff(self.distance);
        if steps > allowance {
            return Err(ChainError::TooFar(steps));
        }
        let (deeper, shallower) = if distance > self.distance { (value, &self.value) } else { (&self.value, value) };
        if hash.advance(origin, self.epoch, *deeper, steps) != *shallower {
            return Err(ChainError::Forged(steps));
        }
        if distance > self.distance {
            (self.distance, self.value) = (distance, *value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ChainShape = ChainShape { seqs: 50, hops: 8 };
    const ORIGIN: NodeId = NodeId::from_bytes([7; 16]);

    fn chain(hash: ChainHash) -> (OwnChain, ChainHead) {
        let own = OwnChain::new(hash, ORIGIN, 3, SHAPE, &mut Entropy::new([9; 32]));
        let head = ChainHead::new(3, SHAPE, own.anchor());
        (own, head)
    }

    #[test]
    fn every_sequence_number_and_hop_of_a_chain_proves_itself() {
        for hash in [ChainHash::Blake3, ChainHash::InsecureFast] {
            let (mut own, mut head) = chain(hash);
            for seq in 1..=SHAPE.seqs {
                let at_origin = own.value(seq).unwrap();
                for hops in [3, 0, 7] {
                    let value = hash.advance(&ORIGIN, 3, at_origin, hops.into());
                    assert_eq!(head.verify(hash, &ORIGIN, seq, hops, &value, u32::MAX), Ok(()), "{seq} at {hops}");
                }
                assert_eq!(head.newest().seq, seq);
            }
            assert_eq!((own.value(0), own.value(SHAPE.seqs + 1)), (None, None));
        }
    }

    #[test]
    fn a_later_number_and_a_smaller_hop_count_cannot_be_derived() {
        let (mut own, mut head) = chain(ChainHash::Blake3);
        let value = ChainHash::Blake3.advance(&ORIGIN, 3, own.value(10).unwrap(), 4);
        assert_eq!(head.verify(ChainHash::Blake3, &ORIGIN, 10, 4, &value, u32::MAX), Ok(()));
        for (seq, hops) in [(10, 3), (10, 0), (10, 5), (11, 4), (11, 7), (9, 0)] {
            let verdict = head.verify(ChainHash::Blake3, &ORIGIN, seq, hops, &value, u32::MAX);
            assert!(matches!(verdict, Err(ChainError::Forged(_))), "{seq} at {hops}: {verdict:?}");
        }
    }

    #[test]
    fn places_that_a_chain_does_not_have_are_refused_without_hashing() {
        let (_, mut head) = chain(ChainHash::Blake3);
        for (seq, hops) in [(0, 0), (51, 0), (u32::MAX, 0), (1, 8), (1, 255)] {
            let verdict = head.verify(ChainHash::Blake3, &ORIGIN, seq, hops, &[0; 16], u32::MAX);
            assert_eq!(verdict, Err(ChainError::OutOfShape));
        }
    }

    #[test]
    fn work_is_bounded_by_the_allowance() {
        let (mut own, mut head) = chain(ChainHash::Blake3);
        let value = own.value(50).unwrap();
        assert_eq!(head.verify(ChainHash::Blake3, &ORIGIN, 50, 0, &value, 399), Err(ChainError::TooFar(400)));
        assert_eq!(head.verify(ChainHash::Blake3, &ORIGIN, 50, 0, &value, 400), Ok(()));
    }

    #[test]
    fn a_chain_belongs_to_one_origin_and_one_epoch() {
        let (mut own, _) = chain(ChainHash::Blake3);
        let value = own.value(1).unwrap();
        let mut other_epoch = ChainHead::new(4, SHAPE, own.anchor());
        assert!(other_epoch.verify(ChainHash::Blake3, &ORIGIN, 1, 0, &value, 99).is_err());
        let mut other_origin = ChainHead::new(3, SHAPE, own.anchor());
        let stranger = NodeId::from_bytes([8; 16]);
        assert!(other_origin.verify(ChainHash::Blake3, &stranger, 1, 0, &value, 99).is_err());
    }

    #[test]
    fn a_shape_beyond_its_bounds_is_refused_from_others_and_cut_for_oneself() {
        assert!(!ChainShape { seqs: u32::MAX, hops: 255 }.is_valid());
        assert!(!ChainShape { seqs: 0, hops: 32 }.is_valid() && !ChainShape { seqs: 9, hops: 0 }.is_valid());
        let vast = ChainShape { seqs: u32::MAX, hops: 255 };
        let own = OwnChain::new(ChainHash::InsecureFast, ORIGIN, 1, vast, &mut Entropy::new([1; 32]));
        assert!(own.shape().is_valid());
    }
}
