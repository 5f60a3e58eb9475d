//! Clients by other authors against the simulated host: what a real host's clients expect, it must answer.
//!
//! The clients are Python programs in `crates/hyperv_sim/tests/clients`, written from what a host documents and by
//! somebody who had not read the simulated one. Each test starts `reprise sim run` and one scenario against it. Every
//! reply is held against the same rules: prefixes, headers, NULL, types, counts, faults.
//!
//! - `pypsrp` (headers, authentication, sealing and TLS are its own) with Basic;
//! - a client of nothing but Python's standard library, with the manners of libvirt's driver: no MaxElements, no
//!   time-out, the first request without credentials.
//!
//! Python and `pypsrp` are installed by `cargo xtask test`. Where they are missing the tests skip and say so; with
//! `CI=true` they fail.

mod host;

use host::{Form, python, run};

/// Makes a test of each scenario of `pypsrp`, for each form of authentication.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const PYPSRP: &[&str] = &[$(stringify!($name)),*];
        mod basic {
            $(#[test] fn $name() { super::run(super::Form::Basic, stringify!($name)); })*
        }
    };
}

/// Makes a test of each scenario of the client of the standard library.
macro_rules! bare_scenarios {
    ($($name:ident)*) => {
        const BARE: &[&str] = &[$(stringify!($name)),*];
        mod bare {
            $(#[test] fn $name() { super::run(super::Form::Bare, stringify!($name)); })*
        }
    };
}

scenarios! {
    get_reads_one_object
    get_reads_settings_and_host
    plain_enumeration_gives_one_item_a_pull
    pull_takes_as_many_as_asked
    an_empty_result_has_its_parts
    enumeration_gives_references
    queries_compare
    queries_select_columns
    queries_of_a_base_class_give_derived_ones
    defaults_are_templates
    associations_lead_from_vm_to_disk
    network_adapters_lead_to_switches
    null_arrays_can_be_nil
    a_job_passes_through_its_states
    user_checkpoints_make_a_tree
    deleting_a_checkpoint_merges_its_files
    applying_a_checkpoint_goes_back
    checkpoints_can_be_renamed
    a_recovery_checkpoint_freezes_the_disks
    an_incremental_reads_what_changed
    changes_of_an_unknown_id_are_refused
    a_failed_job_tells_why
    a_vm_is_defined_and_destroyed
    a_storage_resource_may_be_written_as_any_resource
    several_resources_in_one_call
    resources_are_modified_and_removed
    a_planned_vm_is_defined_and_realised
    generation_one_has_its_controllers
    selectors_that_match_nothing
    wrong_credentials
    a_wrong_state_is_refused_at_once
}

bare_scenarios! {
    first_request_has_no_credentials
    lists_and_finds_vms
    reads_what_describes_a_vm
    finds_by_path
    defines_and_starts_a_vm
    embedded_text_may_be_cdata
    identify_says_who_answers
    broken_requests_are_answered
    requests_may_be_utf_16
}

#[test]
fn every_scenario_has_its_test() {
    let Some(python) = python() else { return };
    let output = host::command(&python)
        .arg("--list")
        .output()
        .expect("python can be run");
    let listed = String::from_utf8_lossy(&output.stdout);
    let listed: Vec<&str> = listed.lines().collect();
    let ours: Vec<String> = PYPSRP
        .iter()
        .map(|name| format!("pypsrp {name}"))
        .chain(BARE.iter().map(|name| format!("bare {name}")))
        .collect();
    assert_eq!(listed, ours);
}
