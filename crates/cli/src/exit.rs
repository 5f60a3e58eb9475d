//! Exit codes: what a script learns from how the program ended.
//!
//! Every code comes out of [`exit_of`]; no verb chooses one by itself.

use api::codes;

/// How the program ends. The numbers are a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: failed.
    Failed,
    /// 2: the command line or a value in it makes no sense.
    Usage,
    /// 3: finished with warnings.
    Warnings,
    /// 4: no such thing.
    NotFound,
    /// 5: not logged in, or the role does not allow it.
    NotAllowed,
    /// 6: the state of things forbids it, or a name fits several things.
    Conflict,
    /// 7: data does not match its hash.
    Integrity,
    /// 8: took longer than allowed.
    TimedOut,
    /// 130: stopped by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Returns the number the process ends with.
    pub(crate) fn number(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Warnings => 3,
            Exit::NotFound => 4,
            Exit::NotAllowed => 5,
            Exit::Conflict => 6,
            Exit::Integrity => 7,
            Exit::TimedOut => 8,
            Exit::Interrupted => 130,
        }
    }

    /// Returns the graver of two ends, for commands that did several things: a failure outweighs warnings.
    pub(crate) fn worst(self, other: Exit) -> Exit {
        let grave = |exit: Exit| match exit {
            Exit::Ok => 0,
            Exit::Warnings => 1,
            Exit::Failed
            | Exit::Usage
            | Exit::NotFound
            | Exit::NotAllowed
            | Exit::Conflict
            | Exit::Integrity
            | Exit::TimedOut
            | Exit::Interrupted => 2,
        };
        if grave(other) > grave(self) {
            other
        } else {
            self
        }
    }
}

/// What an exit code is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    /// A stable code of a problem, or of a job that failed.
    Code(&'a str),
    /// The end of a job: its state, and the code of its error where it has one.
    Job {
        /// `succeeded`, `warnings`, `failed` ...
        state: &'a str,
        /// Such as `not-enough-space`.
        error: Option<&'a str>,
    },
    /// Nothing answered.
    Unreachable,
    /// Another server than the expected one answered.
    Untrusted,
}

/// Returns the exit code of an end: the only place that decides.
pub(crate) fn exit_of(end: End<'_>) -> Exit {
    match end {
        End::Code(code) => match code {
            codes::BAD_REQUEST | "usage" => Exit::Usage,
            codes::NOT_FOUND => Exit::NotFound,
            codes::NOT_AUTHENTICATED | codes::NOT_ALLOWED => Exit::NotAllowed,
            codes::AMBIGUOUS
            | codes::CONFLICT
            | codes::FENCED
            | codes::AGENT_OFFLINE
            | codes::AGENT_NOT_READY
            | codes::PLAN_DRIFTED => Exit::Conflict,
            codes::DAMAGED | codes::CHUNKS_MISSING | "verify-failed" | "content-mismatch" => {
                Exit::Integrity
            }
            "timed-out" => Exit::TimedOut,
            _ => Exit::Failed,
        },
        End::Job { state, error } => match state {
            "succeeded" => Exit::Ok,
            "warnings" => Exit::Warnings,
            "expired" => Exit::TimedOut,
            "failed" => error.map_or(Exit::Failed, |code| exit_of(End::Code(code))),
            _ => Exit::Failed,
        },
        End::Unreachable => Exit::Failed,
        End::Untrusted => Exit::NotAllowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(end: End<'_>, number: u8) {
        assert_eq!(exit_of(end).number(), number, "{end:?}");
    }

    #[test]
    fn each_problem_has_its_exit_code() {
        for (code, number) in [
            (codes::BAD_REQUEST, 2),
            (codes::NOT_AUTHENTICATED, 5),
            (codes::NOT_ALLOWED, 5),
            (codes::NOT_FOUND, 4),
            (codes::AMBIGUOUS, 6),
            (codes::CONFLICT, 6),
            (codes::FENCED, 6),
            (codes::AGENT_OFFLINE, 6),
            (codes::AGENT_NOT_READY, 6),
            (codes::PLAN_DRIFTED, 6),
            (codes::CHUNKS_MISSING, 7),
            (codes::DAMAGED, 7),
            (codes::STORE_FULL, 1),
            (codes::TOO_LARGE, 1),
            (codes::TOO_MANY, 1),
            (codes::UNAVAILABLE, 1),
            (codes::INTERNAL, 1),
            ("not-enough-space", 1),
            ("something-later", 1),
        ] {
            check(End::Code(code), number);
        }
    }

    #[test]
    fn each_end_of_a_job_has_its_exit_code() {
        for (state, error, number) in [
            ("succeeded", None, 0),
            ("warnings", None, 3),
            ("failed", None, 1),
            ("failed", Some("not-enough-space"), 1),
            ("failed", Some("damaged"), 7),
            ("failed", Some("plan-drifted"), 6),
            ("cancelled", None, 1),
            ("skipped", None, 1),
            ("expired", None, 8),
        ] {
            check(End::Job { state, error }, number);
        }
        check(End::Unreachable, 1);
        check(End::Untrusted, 5);
    }

    #[test]
    fn of_several_ends_the_gravest_counts() {
        assert_eq!(Exit::Ok.worst(Exit::Warnings), Exit::Warnings);
        assert_eq!(Exit::Warnings.worst(Exit::Failed), Exit::Failed);
        assert_eq!(Exit::Integrity.worst(Exit::Warnings), Exit::Integrity);
        assert_eq!(Exit::Failed.worst(Exit::Ok), Exit::Failed);
    }
}
