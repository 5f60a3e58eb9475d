//! When a protected VM is backed up next.
//!
//! Due times lie on a grid of the interval, so that they do not drift with the time a backup takes. However many were
//! missed (a server that was down), one runs and the others are counted as skipped; none is made up for later.

use model::Timestamp;

/// What a schedule asks for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whether a backup is to be queued now.
    pub run: bool,
    /// Scheduled backups that will not be made up for: missed ones, and the due one where another is under way.
    pub skipped: u64,
    /// The next due time, always after now.
    pub next: Timestamp,
}

/// Returns the first due time of a VM that has just been protected: at once.
#[must_use]
pub fn first_due(now: Timestamp) -> Timestamp {
    now
}

/// Says what a schedule asks for at `now`; `None` while nothing is due.
///
/// `under_way` tells whether a backup of the VM is queued or running: then nothing is added to it.
#[must_use]
pub fn check_due(
    next_due: Timestamp,
    interval_secs: u64,
    under_way: bool,
    now: Timestamp,
) -> Option<Due> {
    if now < next_due {
        return None;
    }
    let interval_secs = interval_secs.max(1);
    let interval_millis = interval_secs.saturating_mul(1000);
    let passed = now.millis_since(next_due) / interval_millis;
    let next = next_due.plus_secs(passed.saturating_add(1).saturating_mul(interval_secs));
    // The last of the passed due times is the one that runs.
    let skipped = if under_way {
        passed.saturating_add(1)
    } else {
        passed
    };
    Some(Due {
        run: !under_way,
        skipped,
        next,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + secs * 1000)
    }

    #[track_caller]
    fn check(now: i64, under_way: bool, expected: Option<(bool, u64, i64)>) {
        let due = check_due(at(0), 3600, under_way, at(now)).map(|d| (d.run, d.skipped, d.next));
        assert_eq!(
            due,
            expected.map(|(run, skipped, next)| (run, skipped, at(next)))
        );
    }

    #[test]
    fn missed_runs_do_not_pile_up() {
        check(-1, false, None);
        check(0, false, Some((true, 0, 3600)));
        check(3599, false, Some((true, 0, 3600)));
        check(3600, false, Some((true, 1, 7200)));
        check(10 * 3600 + 5, false, Some((true, 10, 11 * 3600)));
        check(0, true, Some((false, 1, 3600)));
        check(7200, true, Some((false, 3, 10800)));
    }

    proptest! {
        #[test]
        fn next_is_after_now_on_the_grid(interval in 0u64..100_000, late in 0u64..10_000_000, under_way: bool) {
            let now = at(0).plus_secs(late);
            let due = check_due(at(0), interval, under_way, now).unwrap();
            prop_assert!(due.next > now);
            let step = interval.max(1);
            prop_assert_eq!(due.next.millis_since(at(0)) % (step * 1000), 0);
            prop_assert!(due.next.millis_since(now) <= step * 1000);
            prop_assert_eq!(due.skipped + u64::from(due.run), late / step + 1);
        }
    }
}
