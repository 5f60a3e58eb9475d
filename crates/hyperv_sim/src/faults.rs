//! Which fault rule applies where.

use crate::ctl::{FaultRule, RuleInfo};

/// Finds the first rule that `wanted` picks and that applies to one of the operations in `on` (`Class.Method` or an
/// operation's name). `vm` is the id and name of the VM concerned.
pub(crate) fn applies<T>(
    faults: &[RuleInfo],
    wanted: impl Fn(FaultRule) -> Option<T>,
    on: &[&str],
    vm: Option<&(String, String)>,
) -> Option<(usize, T)> {
    faults
        .iter()
        .enumerate()
        .find_map(|(at, RuleInfo { spec, .. })| {
            let place = spec
                .on
                .as_deref()
                .is_none_or(|place| on.iter().any(|operation| is_place(operation, place)));
            let machine = spec.vm.as_deref().is_none_or(|wanted| {
                vm.is_some_and(|(id, name)| id.eq_ignore_ascii_case(wanted) || name == wanted)
            });
            if place && machine && spec.times != Some(0) {
                wanted(spec.rule).map(|value| (at, value))
            } else {
                None
            }
        })
}

/// Whether a rule's `on` means this operation: the whole of `Class.Method`, or its last part.
fn is_place(operation: &str, place: &str) -> bool {
    operation.eq_ignore_ascii_case(place)
        || operation
            .rsplit('.')
            .next()
            .is_some_and(|method| method.eq_ignore_ascii_case(place))
}

/// Counts a hit of a rule. Returns whether it has a limit that must be remembered.
pub(crate) fn count(faults: &mut [RuleInfo], at: usize) -> bool {
    let rule = &mut faults[at];
    rule.hits = rule.hits.saturating_add(1);
    match rule.spec.times.as_mut() {
        None => false,
        Some(times) => {
            *times = times.saturating_sub(1);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::FaultSpec;

    #[test]
    fn rules_are_found_by_place_and_machine_and_used_up() {
        let rule = |on: &str, vm: Option<&str>| RuleInfo {
            spec: FaultSpec {
                rule: FaultRule::AccessDenied,
                on: Some(on.to_owned()),
                times: Some(1),
                vm: vm.map(str::to_owned),
            },
            hits: 0,
        };
        let mut faults = vec![rule("CreateSnapshot", Some("web01")), rule("pull", None)];
        let web = ("ID".to_owned(), "web01".to_owned());
        let on = ["Msvm_VirtualSystemSnapshotService.CreateSnapshot"];
        let at = |faults: &[RuleInfo], wanted, on: &[&str], vm| {
            applies(faults, |rule| (rule == wanted).then_some(()), on, vm).map(|(at, ())| at)
        };
        assert_eq!(
            at(&faults, FaultRule::AccessDenied, &on, Some(&web)),
            Some(0)
        );
        assert_eq!(at(&faults, FaultRule::AccessDenied, &on, None), None);
        assert_eq!(at(&faults, FaultRule::JobFailed, &on, Some(&web)), None);
        assert_eq!(
            at(&faults, FaultRule::AccessDenied, &["Pull"], None),
            Some(1)
        );
        assert!(count(&mut faults, 0));
        assert_eq!(at(&faults, FaultRule::AccessDenied, &on, Some(&web)), None);
        assert_eq!((faults[0].spec.times, faults[0].hits), (Some(0), 1));
    }
}
