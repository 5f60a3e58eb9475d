//! Seeds, and inputs kept from the fuzzers, through every target.

use fuzz_oracles::{TARGETS, kept, pack};

#[test]
fn seeds_and_kept_inputs_hold() {
    for target in TARGETS {
        for seed in (target.seeds)().into_iter().chain(kept(target)) {
            println!("{}: {}", target.name, seed.name);
            (target.run)(&seed.bytes);
        }
    }
}

#[test]
fn what_is_packed_is_kept() {
    for target in TARGETS {
        let inputs: Vec<Vec<u8>> = kept(target).into_iter().map(|seed| seed.bytes).collect();
        assert!(pack(&inputs) == target.kept, "{}", target.name);
    }
}
