//! Why a command did not do what it was asked: what happened, where, what to do next, and the exit code.

use api_client::ClientError;
use hyperv_sim::SimError;
use hyperv_sim::ctl::{CtlError, CtlErrorKind};

use crate::exit::{End, Exit, exit_of};

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) exit: Exit,
    /// Stable code, for `--json`.
    pub(crate) code: String,
    /// What happened, to what.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// Makes a failure from a stable code, which also decides the exit code.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            exit: exit_of(End::Code(code)),
            code: code.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    /// Makes a failure of the command line itself.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message)
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        let text = format!("{error:#}");
        match error
            .chain()
            .find_map(|cause| cause.downcast_ref::<ClientError>())
        {
            // What the server said decides; the text tells the whole story.
            Some(client) => Self {
                message: text,
                ..of_client(client)
            },
            None => Self::new("failed", text),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        of_client(&error)
    }
}

fn of_client(error: &ClientError) -> Failure {
    let message = error.to_string();
    let (end, code, hint) = match error {
        ClientError::Unreachable { .. } => (
            End::Unreachable,
            "unreachable",
            Some("check that `reprise server run` is running there and that the address and port are right".to_owned()),
        ),
        ClientError::Untrusted { .. } => (
            End::Untrusted,
            "untrusted",
            Some(
                "give the server's CA with --ca (file or SHA-256 fingerprint; `reprise server init` printed it), and \
                 address the server by a name its certificate holds"
                    .to_owned(),
            ),
        ),
        ClientError::Problem(problem) => (
            End::Code(problem.code()),
            problem.code(),
            problem.hint.clone().or_else(|| hint_of(problem.code())),
        ),
        ClientError::Unexpected { .. } => (
            End::Code("unexpected-answer"),
            "unexpected-answer",
            Some("check that the address is that of a Reprise server of this version".to_owned()),
        ),
        ClientError::Setup(_) => (End::Code("usage"), "usage", None),
    };
    Failure {
        exit: exit_of(end),
        code: code.to_owned(),
        message,
        hint,
    }
}

fn hint_of(code: &str) -> Option<String> {
    let text = match code {
        api::codes::NOT_AUTHENTICATED => {
            "log in with `reprise login`, or set REPRISE_TOKEN to a token of `reprise token create`"
        }
        api::codes::NOT_ALLOWED => "ask an administrator; `reprise status` shows your role",
        api::codes::AMBIGUOUS => "name it by its id",
        _ => return None,
    };
    Some(text.to_owned())
}

impl From<CtlError> for Failure {
    fn from(error: CtlError) -> Self {
        let code = match error.kind {
            CtlErrorKind::NotFound => api::codes::NOT_FOUND,
            CtlErrorKind::Usage => "usage",
            CtlErrorKind::Conflict => api::codes::CONFLICT,
            CtlErrorKind::Failed => "failed",
        };
        Self::new(code, error.message)
    }
}

impl From<SimError> for Failure {
    fn from(error: SimError) -> Self {
        let code = match &error {
            SimError::Exists { .. } | SimError::InUse { .. } => api::codes::CONFLICT,
            SimError::NoHost { .. } => api::codes::NOT_FOUND,
            SimError::Usage { .. } => "usage",
            SimError::Damaged { .. } => api::codes::DAMAGED,
            SimError::Io { .. } => "failed",
        };
        Self::new(code, format!("{:#}", anyhow::Error::new(error)))
    }
}

impl From<vhdx::Error> for Failure {
    fn from(error: vhdx::Error) -> Self {
        let code = match error.kind() {
            vhdx::Kind::NotFound => api::codes::NOT_FOUND,
            vhdx::Kind::Refused => "usage",
            vhdx::Kind::Cancelled => "cancelled",
            vhdx::Kind::Retry | vhdx::Kind::Corrupt => "failed",
        };
        Self::new(code, format!("{:#}", anyhow::Error::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_keeps_its_hint_and_code() {
        let problem = api::Problem::new(api::codes::NOT_FOUND, "no VM named web01")
            .hint("see `reprise vm list`");
        let failure = Failure::from(ClientError::Problem(Box::new(problem)));
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.message, "no VM named web01");
        assert_eq!(failure.hint.as_deref(), Some("see `reprise vm list`"));
    }

    #[test]
    fn without_a_hint_of_the_server_there_is_one_of_ours() {
        let problem = api::Problem::new(api::codes::NOT_AUTHENTICATED, "no token");
        let failure = Failure::from(anyhow::Error::new(ClientError::Problem(Box::new(problem))));
        assert_eq!(failure.exit, Exit::NotAllowed);
        assert!(failure.hint.unwrap().contains("reprise login"));
    }
}
