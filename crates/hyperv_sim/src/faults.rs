//! Which fault rule applies where.

use crate::ctl::{FaultRule, FaultSpec};

/// Finds the first rule that applies to one of the operations in `on` (`Class.Method` or an operation's name).
/// `vm` is the id and name of the VM concerned.
pub(crate) fn applies(
    faults: &[FaultSpec],
    rule: FaultRule,
    on: &[&str],
    vm: Option<&(String, String)>,
) -> Option<usize> {
    faults.iter().position(|fault| {
        let place = fault
            .on
            .as_deref()
            .is_none_or(|place| on.iter().any(|operation| is_place(operation, place)));
        let machine = fault.vm.as_deref().is_none_or(|wanted| {
            vm.is_some_and(|(id, name)| id.eq_ignore_ascii_case(wanted) || name == wanted)
        });
        fault.rule == rule && place && machine
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

/// Counts a rule down and removes it when it is used up; false where it has no count.
pub(crate) fn count_down(faults: &mut Vec<FaultSpec>, at: usize) -> bool {
    match faults[at].times.as_mut() {
        None => false,
        Some(times) => {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(at);
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_place_and_machine_and_used_up() {
        let spec = |on: &str, vm: Option<&str>| FaultSpec {
            rule: FaultRule::AccessDenied,
            on: Some(on.to_owned()),
            times: Some(1),
            vm: vm.map(str::to_owned),
        };
        let mut faults = vec![spec("CreateSnapshot", Some("web01")), spec("pull", None)];
        let web = ("ID".to_owned(), "web01".to_owned());
        let on = ["Msvm_VirtualSystemSnapshotService.CreateSnapshot"];
        assert_eq!(
            applies(&faults, FaultRule::AccessDenied, &on, Some(&web)),
            Some(0)
        );
        assert_eq!(applies(&faults, FaultRule::AccessDenied, &on, None), None);
        assert_eq!(
            applies(&faults, FaultRule::JobFailed, &on, Some(&web)),
            None
        );
        assert_eq!(
            applies(&faults, FaultRule::AccessDenied, &["Pull"], None),
            Some(1)
        );
        assert!(count_down(&mut faults, 0));
        assert_eq!(faults.len(), 1);
    }
}
