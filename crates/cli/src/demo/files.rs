//! The files of the demo's guests: made from numbers, so that every run has the same, with text that compresses and
//! bytes that do not.

/// A file of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestFile {
    /// Path below the root of the file system, with `/`.
    pub(crate) path: String,
    /// What its bytes are made from.
    pub(crate) seed: u64,
    /// Length in bytes.
    pub(crate) len: usize,
}

const KIB: usize = 1 << 10;
const WORDS: [&str; 24] = [
    "invoice", "total", "customer", "pending", "delivery", "north", "2026", "approved", "balance",
    "account", "note", "the", "of", "and", "to", "is", "was", "order", "quarter", "meeting",
    "minutes", "report", "draft", "final",
];

/// Returns the files every guest has, as if from the same installation: about a quarter of a disk's files.
pub(crate) fn installation() -> Vec<GuestFile> {
    (0..80)
        .map(|n| GuestFile {
            path: format!("System/Library{}/module-{n:03}.dll", n / 20),
            seed: 1_000 + n,
            len: 48 * KIB + spread(n, 200 * KIB),
        })
        .collect()
}

/// Returns files of one guest alone.
pub(crate) fn own(guest: u64) -> Vec<GuestFile> {
    let seed = |n: u64| guest * 100_000 + n;
    let documents = (0..180).map(|n| GuestFile {
        path: format!("Users/ann/Documents/{}/report-{n:03}.txt", 2020 + n / 30),
        seed: seed(n),
        len: KIB + spread(seed(n), 96 * KIB),
    });
    let pictures = (0..40).map(|n| GuestFile {
        path: format!("Users/ann/Pictures/photo-{n:03}.jpg"),
        seed: seed(5_000 + n),
        len: 100 * KIB + spread(seed(5_000 + n), 500 * KIB),
    });
    documents.chain(pictures).collect()
}

/// Returns files that come later.
pub(crate) fn later(guest: u64) -> Vec<GuestFile> {
    (0..15)
        .map(|n| GuestFile {
            path: format!("Users/ann/Documents/new/memo-{n:02}.txt"),
            seed: guest * 100_000 + 9_000 + n,
            len: 4 * KIB + spread(n, 60 * KIB),
        })
        .collect()
}

impl GuestFile {
    /// Returns the file's bytes: words for text, noise for anything else.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len + 16);
        if self.path.ends_with(".txt") {
            let mut position = 0;
            while bytes.len() < self.len {
                let word = spread(self.seed ^ mix(position), WORDS.len());
                bytes.extend_from_slice(WORDS[word].as_bytes());
                bytes.push(if position % 12 == 11 { b'\n' } else { b' ' });
                position += 1;
            }
            bytes.truncate(self.len);
        } else {
            bytes.resize(self.len, 0);
            hyperv_sim::pattern(self.seed, 0, &mut bytes);
        }
        bytes
    }
}

/// Returns a number below `limit` that looks random.
fn spread(seed: u64, limit: usize) -> usize {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
    usize::try_from(mix(seed) % limit).expect("below a usize")
}

/// SplitMix64.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_a_few_hundred_files() {
        let files: Vec<GuestFile> = installation().into_iter().chain(own(1)).collect();
        let bytes: usize = files.iter().map(|file| file.len).sum();
        assert_eq!(files.len(), 300);
        assert!((20 << 20..60 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_same_file_has_the_same_bytes_every_time() {
        for file in [&own(1)[0], &own(1)[200]] {
            assert_eq!(file.content(), file.content());
            assert_eq!(file.content().len(), file.len);
        }
        assert_ne!(own(1)[0].content(), own(2)[0].content());
    }
}
