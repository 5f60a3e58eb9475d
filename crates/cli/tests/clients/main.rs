//! Clients by other authors against the simulated host: what a real host's clients expect, it must answer.
//!
//! The clients are Python programs in `crates/hyperv_sim/tests/clients`, written from what a host documents and by
//! somebody who had not read the simulated one. Each test starts `reprise sim run` and one scenario against it. Every
//! reply is held against the same rules: prefixes, headers, NULL, types, counts, faults.
//!
//! - `pypsrp` (headers, authentication, sealing and TLS are its own): with Basic, with NTLM and sealed messages, and over
//!   HTTPS with either;
//! - a client of nothing but Python's standard library, with the manners of libvirt's driver: no MaxElements, no
//!   time-out, the first request without credentials.
//!
//! Python and `pypsrp` are installed by `cargo xtask test`. Where they are missing the tests skip and say so; with
//! `CI=true` they fail.

mod host;

use host::{Form, python, run};

/// Makes a module for each form, with a test of each scenario.
macro_rules! scenarios {
    ({ $($module:ident: $form:ident),* } $names:tt) => {
        $(scenarios! { @module $module $form $names })*
    };
    (@module $module:ident $form:ident { $($name:ident)* }) => {
        mod $module {
            use super::{Form, run};

            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];

            $(#[test] fn $name() { run(Form::$form, stringify!($name)); })*
        }
    };
}

scenarios! { { basic: Basic, ntlm: Ntlm } {
    get_reads_one_object
    get_reads_settings_and_host
    get_reads_defaults_and_services
    volumes_may_be_mounted_in_folders
    a_cluster_shows_nodes_and_shared_volumes
    plain_enumeration_gives_one_item_a_pull
    pull_takes_as_many_as_asked
    an_empty_result_has_its_parts
    enumeration_gives_references
    contexts_are_independent
    contexts_end
    queries_compare
    queries_select_columns
    queries_of_a_base_class_give_derived_ones
    defaults_are_templates
    associations_lead_from_vm_to_disk
    network_adapters_lead_to_switches
    summaries_are_objects
    null_arrays_can_be_nil
    a_job_passes_through_its_states
    user_checkpoints_make_a_tree
    deleting_a_checkpoint_merges_its_files
    a_subtree_is_deleted_at_once
    applying_a_checkpoint_goes_back
    checkpoints_can_be_renamed
    a_recovery_checkpoint_freezes_the_disks
    an_incremental_reads_what_changed
    changes_of_an_unknown_id_are_refused
    a_failed_job_tells_why
    a_lost_answer_may_hide_a_success
    states_change_by_request
    shadow_copies_are_made_and_deleted
    a_vm_is_defined_and_destroyed
    a_storage_resource_may_be_written_as_any_resource
    several_resources_in_one_call
    resources_are_modified_and_removed
    a_cancellable_job_is_cancelled
    a_vm_is_exported_imported_and_realised
    an_import_that_lacks_its_disk_fails_validation
    a_planned_vm_is_defined_and_realised
    generation_one_has_its_controllers
    unknown_classes_and_namespaces
    unknown_methods_and_actions
    selectors_that_match_nothing
    bad_queries
    access_denied
    envelopes_have_a_limit
    stale_contexts
    operations_time_out
    quotas_are_faults
    wrong_credentials
    a_wrong_state_is_refused_at_once
} }

scenarios! { { ntlm_over_http: Ntlm } {
    messages_are_sealed_both_ways
    unsealed_messages_are_refused
    an_account_has_several_names
    a_log_in_belongs_to_its_connection
} }

// What TLS and a log-in without sealing could change: large replies, a whole backup, refusals.
scenarios! { { https_basic: HttpsBasic, https_ntlm: HttpsNtlm } {
    get_reads_settings_and_host
    enumeration_gives_references
    associations_lead_from_vm_to_disk
    an_incremental_reads_what_changed
    a_vm_is_defined_and_destroyed
    selectors_that_match_nothing
    wrong_credentials
} }

scenarios! { { bare: Bare } {
    first_request_has_no_credentials
    lists_and_finds_vms
    reads_what_describes_a_vm
    finds_by_path
    defines_and_starts_a_vm
    embedded_text_may_be_cdata
    identify_says_who_answers
    broken_requests_are_answered
    requests_may_be_utf_16
} }

#[test]
fn the_rules_find_what_is_wrong() {
    let Some(python) = python() else { return };
    let output = host::command(&python)
        .arg("--test-rules")
        .output()
        .expect("python can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
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
    let named = |kind: &'static str, names: &'static [&str]| {
        names.iter().map(move |name| format!("{kind} {name}"))
    };
    let ours: Vec<String> = named("pypsrp", basic::NAMES)
        .chain(named("sealed", ntlm_over_http::NAMES))
        .chain(named("bare", bare::NAMES))
        .collect();
    assert_eq!(listed, ours);
    assert_eq!(basic::NAMES, ntlm::NAMES);
    for name in https_basic::NAMES.iter().chain(https_ntlm::NAMES) {
        assert!(basic::NAMES.contains(name), "{name} is no scenario");
    }
}
