//! Which failures are worth another attempt, and when.

use serde::{Deserialize, Serialize};

use crate::kind::named;
use crate::rules::Rules;

/// What an error means for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// May pass by itself: a host that is down, a connection that was cut, a file another holds open.
    Retry,
    /// Not enough room at the target or in the store.
    Full,
    /// What was asked for cannot be done or is not allowed.
    Refused,
    /// VM, point, host or file is not there.
    NotFound,
    /// Bytes are not what they should be.
    Corrupt,
    /// The job was handed to another attempt meanwhile.
    Fenced,
    /// A fault of ours.
    Bug,
}

named!(ErrorKind, "kind of error", {
    Retry => "retry",
    Full => "full",
    Refused => "refused",
    NotFound => "not-found",
    Corrupt => "corrupt",
    Fenced => "fenced",
    Bug => "bug",
});

impl ErrorKind {
    /// Tells whether the same job may be tried again.
    #[must_use]
    pub fn is_worth_another_attempt(self) -> bool {
        match self {
            ErrorKind::Retry => true,
            // Room may come back, but the job must say at once what is missing (S12).
            ErrorKind::Full
            | ErrorKind::Refused
            | ErrorKind::NotFound
            | ErrorKind::Corrupt
            | ErrorKind::Fenced
            | ErrorKind::Bug => false,
        }
    }
}

/// Why a job failed, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// Stable code, such as `not-enough-space`.
    pub code: String,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    #[serde(default)]
    pub hint: Option<String>,
}

/// Returns the pause before the attempt after attempt number `failed` (1 for the first).
#[must_use]
pub fn back_off_secs(rules: &Rules, failed: u32) -> u64 {
    let doublings = failed.saturating_sub(1).min(32);
    rules
        .retry_base_secs
        .saturating_mul(1u64 << doublings)
        .min(rules.retry_cap_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let rules = Rules::default();
        let pauses: Vec<u64> = [1, 2, 3, 7, 8, 9, u32::MAX]
            .iter()
            .map(|&n| back_off_secs(&rules, n))
            .collect();
        assert_eq!(pauses, [30, 60, 120, 1920, 3600, 3600, 3600]);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let worth: Vec<_> = ErrorKind::ALL
            .iter()
            .filter(|kind| kind.is_worth_another_attempt())
            .collect();
        assert_eq!(worth, [&ErrorKind::Retry]);
    }
}
