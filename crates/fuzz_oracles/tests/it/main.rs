//! Seeds, and inputs kept from the fuzzers, through every target.

use fuzz_oracles::{TARGETS, kept, pack, target};

/// One test per target, so that they run side by side.
macro_rules! hold {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $name() {
            let target = target(stringify!($name)).unwrap();
            for seed in (target.seeds)().into_iter().chain(kept(target)) {
                println!("{}", seed.name);
                (target.run)(&seed.bytes);
            }
        })*
    };
}

hold! { vhdx_open_read vhdx_log_replay vhdx_chain vhdx_write vhd_open_read vmcx_read
wsman_request wsman_response cim_xml wmi_path wmi_time wsman_sealed }

#[test]
fn every_target_is_tested() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED);
}

#[test]
fn what_is_packed_is_kept() {
    for target in TARGETS {
        let inputs: Vec<Vec<u8>> = kept(target).into_iter().map(|seed| seed.bytes).collect();
        assert!(pack(&inputs) == target.kept, "{}", target.name);
    }
}
