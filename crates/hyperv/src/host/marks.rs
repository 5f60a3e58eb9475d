//! Marks: how we know a checkpoint of ours again.

use std::fmt;
use std::str::FromStr;

use model::{Fence, JobId};

use super::vm::{Checkpoint, CheckpointKind};

const MARK_PREFIX: &str = "reprise";

/// Whose a checkpoint is: the job and the fence of the attempt that made it, as its display name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub fence: Fence,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK_PREFIX} {} {}", self.job, self.fence)
    }
}

/// A display name that is no mark of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name is no mark of ours")]
pub struct NotOurs;

impl FromStr for Mark {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        let parse = || {
            let rest = text.strip_prefix(MARK_PREFIX)?.strip_prefix(' ')?;
            let (job, fence) = rest.split_once(' ')?;
            let mark = Mark {
                job: job.parse().ok()?,
                fence: Fence(fence.parse().ok()?),
            };
            // Only what we would write ourselves is ours.
            (mark.to_string() == text).then_some(mark)
        };
        parse().ok_or(NotOurs)
    }
}

impl Checkpoint {
    /// Returns the mark of a recovery checkpoint of ours.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.name
            .parse()
            .ok()
            .filter(|_| self.kind == CheckpointKind::Recovery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_marks_are_ours() {
        let mark = Mark {
            job: JobId::random(),
            fence: Fence(7),
        };
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for other in [
            "",
            "reprise",
            "Other product's backup",
            &format!("{mark} "),
            &mark.to_string().to_uppercase(),
        ] {
            assert_eq!(other.parse::<Mark>(), Err(NotOurs), "{other}");
        }
        let named = |kind, name: &str| Checkpoint {
            id: "Microsoft:X".into(),
            name: name.into(),
            kind,
            parent: None,
            created: None,
            current: false,
            disks: Vec::new(),
        };
        assert_eq!(
            named(CheckpointKind::Recovery, &mark.to_string()).mark(),
            Some(mark)
        );
        // A person may call a checkpoint anything; only recovery checkpoints are made by programs.
        assert_eq!(named(CheckpointKind::User, &mark.to_string()).mark(), None);
    }
}
