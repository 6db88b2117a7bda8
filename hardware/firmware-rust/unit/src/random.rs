//! A random generator over a seed: what a board's true random source gave at the start is stretched with SHA-512.
//!
//! After every 32 bytes the key is replaced by one that does not lead back (fast key erasure).

use clawgate_protocol::Random;
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// How many bytes of true randomness a seed has at least.
pub const SEED_MIN: usize = 32;

/// The generator.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Generator {
    key: [u8; 32],
}

impl core::fmt::Debug for Generator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Generator(..)")
    }
}

impl Generator {
    /// A generator from the bytes of a true random source; none if these are fewer than [`SEED_MIN`]. `unit` keeps
    /// two units apart whose sources fail in the same way.
    #[must_use]
    pub fn new(seed: &[u8], unit: &[u8]) -> Option<Self> {
        let mut hash = Sha512::new().chain_update(b"clawgate-unit seed").chain_update(seed);
        hash.update(unit);
        let block = Zeroizing::new(<[u8; 64]>::from(hash.finalize()));
        let key = *block.first_chunk()?;
        (seed.len() >= SEED_MIN).then_some(Self { key })
    }

    fn block(&mut self) -> Zeroizing<[u8; 32]> {
        let block = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(self.key)));
        let (out, key) = block.split_at(32);
        let mut random = Zeroizing::new([0; 32]);
        random.copy_from_slice(out);
        self.key.copy_from_slice(key);
        random
    }
}

impl Random for Generator {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let block = self.block();
            chunk.iter_mut().zip(block.iter()).for_each(|(to, from)| *to = *from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_is_no_generator() {
        assert!(Generator::new(&[], b"unit").is_none());
        assert!(Generator::new(&[7; SEED_MIN - 1], b"unit").is_none());
        assert!(Generator::new(&[7; SEED_MIN], b"unit").is_some());
    }

    #[test]
    fn nothing_comes_twice_and_each_unit_has_its_own() {
        let mut one = Generator::new(&[7; 32], b"unit-1").unwrap();
        let mut two = Generator::new(&[7; 32], b"unit-2").unwrap();
        let mut drawn = [[0; 40]; 3];
        one.fill(&mut drawn[0]);
        one.fill(&mut drawn[1]);
        two.fill(&mut drawn[2]);
        assert!(drawn[0] != drawn[1] && drawn[0] != drawn[2]);
        assert!(drawn[0][..8] != drawn[0][32..], "not the same block again");
    }
}
