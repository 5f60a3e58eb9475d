//! Values: candidates one after the other, each 12 bytes: pack sequence (`u64`) and entry number (`u32`),
//! little-endian, the newest last.

/// Where something lies, as far as the index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The pack, by its sequence in the catalog.
    pub sequence: u64,
    /// Its entry in the pack's footer, from 0.
    pub entry: u32,
}

/// Most candidates kept for a key; the newest win.
pub const MAX_CANDIDATES: usize = 16;

const PLACE_LEN: usize = 12;

/// Reads candidates, newest first. Bytes that are no whole candidate are passed over.
pub(crate) fn decode(bytes: &[u8]) -> Vec<Place> {
    let mut places: Vec<Place> = bytes
        .chunks_exact(PLACE_LEN)
        .take(MAX_CANDIDATES)
        .filter_map(|place| {
            let (sequence, entry) = place.split_at_checked(8)?;
            Some(Place {
                sequence: u64::from_le_bytes(sequence.try_into().ok()?),
                entry: u32::from_le_bytes(entry.try_into().ok()?),
            })
        })
        .collect();
    places.reverse();
    places
}

/// Writes candidates that are given newest first.
pub(crate) fn encode(places: &[Place]) -> Vec<u8> {
    let kept = places.get(..MAX_CANDIDATES).unwrap_or(places);
    let mut bytes = Vec::with_capacity(kept.len() * PLACE_LEN);
    for place in kept.iter().rev() {
        bytes.extend_from_slice(&place.sequence.to_le_bytes());
        bytes.extend_from_slice(&place.entry.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_read_back_newest_first_and_bounded() {
        let places: Vec<Place> = (0..20)
            .rev()
            .map(|n| Place {
                sequence: n << 40,
                entry: u32::MAX,
            })
            .collect();
        assert_eq!(decode(&encode(&places)), places[..MAX_CANDIDATES]);
        assert_eq!(decode(&encode(&places[..2])), places[..2]);
        assert!(decode(b"short").is_empty());
        assert!(decode(&[]).is_empty());
    }
}
