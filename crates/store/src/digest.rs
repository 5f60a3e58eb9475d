//! The digest of an image: a Merkle root over the BLAKE3 of each MiB of its content.
//!
//! Needs no key, so that anyone with the restored disk can compute it. Leaves are in the order of the image, the last MiB
//! as long as it is; a parent is the hash of `0x01`, left, right; an odd one out moves up as it is; the digest is the hash
//! of `reprise image digest v1`, the length (`u64`, little-endian) and the top (absent for an empty image).

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::ParseHexError;

/// Bytes of content under one leaf of the digest.
pub const MIB_BYTES: usize = 1 << 20;

/// BLAKE3 of a MiB of content.
pub type MibHash = [u8; 32];

/// The digest of an image's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageDigest(pub [u8; 32]);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageDigest({self})")
    }
}

impl FromStr for ImageDigest {
    type Err = ParseHexError;
    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        crate::ChunkId::from_str(text).map(|id| Self(id.0))
    }
}

/// Returns the hash of a MiB of content (or of the shorter last one).
#[must_use]
pub fn hash_mib(content: &[u8]) -> MibHash {
    *blake3::hash(content).as_bytes()
}

/// Returns the hash of a whole MiB of zeros.
#[must_use]
pub fn zero_mib_hash() -> MibHash {
    static ZERO: OnceLock<MibHash> = OnceLock::new();
    *ZERO.get_or_init(|| hash_mib(&vec![0; MIB_BYTES]))
}

/// Takes the hashes of an image's MiBs in order and gives its digest.
#[derive(Clone, Debug, Default)]
pub struct DigestBuilder {
    /// Complete subtrees, from left to right, each of a lower level than the one before.
    stack: Vec<(u32, [u8; 32])>,
    count: u64,
}

impl DigestBuilder {
    /// Starts with nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the hash of the next MiB.
    pub fn push(&mut self, hash: MibHash) {
        self.push_subtree(0, hash);
    }

    /// Adds a run of whole MiBs of zeros, at a cost that grows with the logarithm of their number.
    pub fn push_zeros(&mut self, mibs: u64) {
        let mut zero = vec![zero_mib_hash()];
        let mut left = mibs;
        while left > 0 {
            let level = self.count.trailing_zeros().min(left.ilog2());
            while zero.len() <= level as usize {
                let last = zero[zero.len() - 1];
                zero.push(parent(&last, &last));
            }
            self.push_subtree(level, zero[level as usize]);
            left -= 1 << level;
        }
    }

    /// Returns how many MiBs were added.
    #[must_use]
    pub fn mibs(&self) -> u64 {
        self.count
    }

    /// Returns the digest of an image of `len` bytes, or `None` where the number of hashes added does not fit it.
    #[must_use]
    pub fn finish(self, len: u64) -> Option<ImageDigest> {
        if self.count != len.div_ceil(1 << 20) {
            return None;
        }
        let top = self
            .stack
            .into_iter()
            .map(|(_, hash)| hash)
            .rev()
            .reduce(|right, left| parent(&left, &right));
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"reprise image digest v1")
            .update(&len.to_le_bytes());
        if let Some(top) = top {
            hasher.update(&top);
        }
        Some(ImageDigest(*hasher.finalize().as_bytes()))
    }

    fn push_subtree(&mut self, level: u32, hash: [u8; 32]) {
        let (mut level, mut hash) = (level, hash);
        self.count += 1 << level;
        while let Some(&(left_level, left)) = self.stack.last()
            && left_level == level
        {
            self.stack.pop();
            hash = parent(&left, &hash);
            level += 1;
        }
        self.stack.push((level, hash));
    }
}

fn parent(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new()
        .update(&[1])
        .update(left)
        .update(right)
        .finalize()
        .as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word by word.
    fn plain(mut level: Vec<[u8; 32]>, len: u64) -> ImageDigest {
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| {
                    if pair.len() == 2 {
                        parent(&pair[0], &pair[1])
                    } else {
                        pair[0]
                    }
                })
                .collect();
        }
        let top = level.concat();
        let bytes = [
            b"reprise image digest v1".as_slice(),
            &len.to_le_bytes(),
            &top,
        ]
        .concat();
        ImageDigest(*blake3::hash(&bytes).as_bytes())
    }

    #[test]
    fn is_what_its_definition_says() {
        for mibs in 0..70u64 {
            for zeros_at in 0..mibs.min(9) {
                for zeros in [0, 1, 2, 7, mibs - zeros_at] {
                    let zeros = zeros.min(mibs - zeros_at);
                    let hash = |i: u64| {
                        if (zeros_at..zeros_at + zeros).contains(&i) {
                            zero_mib_hash()
                        } else {
                            hash_mib(&i.to_le_bytes())
                        }
                    };
                    let mut builder = DigestBuilder::new();
                    (0..zeros_at).for_each(|i| builder.push(hash(i)));
                    builder.push_zeros(zeros);
                    (zeros_at + zeros..mibs).for_each(|i| builder.push(hash(i)));
                    let len = mibs << 20;
                    assert_eq!(
                        builder.finish(len),
                        Some(plain((0..mibs).map(hash).collect(), len)),
                        "{mibs} {zeros_at} {zeros}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_number_of_hashes_that_does_not_fit_is_refused() {
        let mut builder = DigestBuilder::new();
        builder.push([1; 32]);
        assert!(builder.clone().finish(1 << 20).is_some());
        assert_ne!(builder.clone().finish(1 << 20), builder.clone().finish(1));
        assert!(builder.clone().finish(0).is_none());
        assert!(builder.finish((1 << 20) + 1).is_none());
    }

    #[test]
    fn a_huge_image_of_zeros_costs_nothing() {
        let mut builder = DigestBuilder::new();
        builder.push_zeros(64 << 20);
        assert!(builder.finish(64 << 40).is_some());
    }
}
