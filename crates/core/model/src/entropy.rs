//! Randomness, handed in.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// 256 bits from which an [`Entropy`] grows. The shell draws it from the operating system, the simulator from its seed.
pub type Seed = [u8; 32];

/// A cryptographically secure generator that gives the same values for the same seed.
///
/// Cores are handed one and have no other source, so a run is repeated by repeating its seed.
pub struct Entropy(ChaCha20Rng);

impl Entropy {
    /// Grows from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// An independent generator for a part of the program, named so that two parts never share a stream.
    pub fn fork(&mut self, part: &str) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.bytes());
        hasher.update(part.as_bytes());
        Self::new(*hasher.finalize().as_bytes())
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Any `u32`.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Any `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A value in `0..bound`, or zero if `bound` is zero. The bias is below 2^-32 for the bounds a protocol uses.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True with a probability of `per_million` in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_values_and_forks_differ() {
        let (mut one, mut two) = (Entropy::new([7; 32]), Entropy::new([7; 32]));
        assert_eq!(one.bytes::<24>(), two.bytes::<24>());
        let (mut routing, mut overlay) = (one.fork("routing"), two.fork("overlay"));
        assert_ne!(routing.next_u64(), overlay.next_u64());
    }

    #[test]
    fn a_bounded_value_stays_below_its_bound() {
        let mut entropy = Entropy::new([1; 32]);
        assert_eq!(entropy.below(0), 0);
        assert!((0..10_000).all(|_| entropy.below(3) < 3));
        assert!((0..100).all(|_| entropy.chance(1_000_000)) && !(0..100).any(|_| entropy.chance(0)));
    }
}
