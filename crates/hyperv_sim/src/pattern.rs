//! Bytes made from a seed.

/// Fills `out` with the bytes that `guest write --pattern SEED` writes from `position` on: a function of seed and
/// position alone, never compressible, never zero for long.
pub fn pattern(seed: u64, position: u64, out: &mut [u8]) {
    let mut at = position;
    let mut rest = out;
    while !rest.is_empty() {
        let word = mix(seed ^ mix(at / 8)).to_le_bytes();
        let skip = usize::try_from(at % 8).expect("below 8");
        let take = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&word[skip..skip + take]);
        rest = later;
        at += u64::try_from(take).expect("at most 8");
    }
}

/// SplitMix64: spreads any input over all 64 bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_pattern_is_the_same_as_in_the_whole() {
        let mut whole = [0; 100];
        pattern(7, 0, &mut whole);
        let mut part = [0; 41];
        pattern(7, 13, &mut part);
        assert_eq!(part, whole[13..54]);
    }
}
