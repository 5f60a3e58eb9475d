//! Random damage: refused, or read; never a panic, and nothing that a checksum covers is believed.

use vmcx::Storage;

use crate::support::{sample, seal_all};

/// A plain generator, so that a failing round can be run again.
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

fn rounds(usual: u32) -> u32 {
    let rounds = std::env::var("VHDX_ROUNDS").ok();
    rounds
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(usual)
}

#[test]
fn random_damage_is_refused_or_read_but_never_a_panic() {
    let original = sample().encode().unwrap();
    let mut chance = Chance(11 + u64::from(rounds(0)));
    // Headers, object table, key tables, replay log; not the content of large values, which has no checksum.
    let values = 12_288..12_288 + 4096 + 3 * 4096 + 2 * 4096;
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..rounds(1000) {
        let mut bytes = original.clone();
        for _ in 0..=chance.next(3) {
            let (start, len) = match chance.next(5) {
                0 => (chance.next(2) * 4096, 46),
                1 => (8192, 8 + 18 * 12),
                2 => (values.end, 200),
                3 => (values.end, 4096),
                _ => (values.end + 4096, original.len() - values.end - 4096),
            };
            bytes[start + chance.next(len)] = u8::try_from(chance.next(256)).unwrap();
        }
        if chance.next(3) > 0 {
            seal_all(&mut bytes);
        }
        match Storage::read(&bytes) {
            Err(_) => refused += 1,
            Ok(read) => {
                opened += 1;
                // What was read can be written and is the same then.
                let again = Storage::read(&read.encode().unwrap()).unwrap();
                assert_eq!(again, read);
            }
        }
    }
    assert!(
        opened > 50 && refused > 50,
        "{opened} opened, {refused} refused"
    );
}

#[test]
fn a_cut_file_is_refused() {
    let original = sample().encode().unwrap();
    for len in (0..original.len()).step_by(509) {
        assert!(Storage::read(&original[..len]).is_err(), "{len} bytes");
    }
}

/// Every bit of what checksums cover: headers one by one, entries, keys.
#[test]
fn no_flipped_bit_of_a_key_is_believed() {
    let storage = {
        let mut storage = Storage::new();
        storage.set("/configuration/properties/name", "web-01");
        storage.set("/configuration/settings/processors/count", 4_i64);
        storage
    };
    let original = storage.encode().unwrap();
    for at in (8192..8200 + 2 * 18).chain(12_288..12_288 + 220) {
        for bit in 0..8 {
            let mut bytes = original.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(read) = Storage::read(&bytes) {
                assert_eq!(read, storage, "bit {bit} of byte {at}");
            }
        }
    }
}
