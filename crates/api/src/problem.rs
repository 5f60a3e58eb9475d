//! Errors over HTTP, RFC 9457 (`application/problem+json`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stable codes of problems: the last part of `type`. Scripts may rely on them.
pub mod codes {
    /// The request could not be understood, or a value in it is not allowed.
    pub const BAD_REQUEST: &str = "bad-request";
    /// No valid token, password or certificate.
    pub const NOT_AUTHENTICATED: &str = "not-authenticated";
    /// The role does not allow it.
    pub const NOT_ALLOWED: &str = "not-allowed";
    /// No such thing.
    pub const NOT_FOUND: &str = "not-found";
    /// A name fits several things.
    pub const AMBIGUOUS: &str = "ambiguous";
    /// The state of the thing forbids it.
    pub const CONFLICT: &str = "conflict";
    /// The job was handed to someone else, has ended or was cancelled: an old fence changes nothing.
    pub const FENCED: &str = "fenced";
    /// Nobody can look at the host: its agent has not been heard of lately.
    pub const AGENT_OFFLINE: &str = "agent-offline";
    /// The agent of the host is there and says why it cannot work.
    pub const AGENT_NOT_READY: &str = "agent-not-ready";
    /// The plan that was agreed to is not what would be done now.
    pub const PLAN_DRIFTED: &str = "plan-drifted";
    /// Published content refers to chunks the store does not hold; `missing` lists them.
    pub const CHUNKS_MISSING: &str = "chunks-missing";
    /// Stored data does not match its hash.
    pub const DAMAGED: &str = "damaged";
    /// The store has no room.
    pub const STORE_FULL: &str = "store-full";
    /// A body was larger than allowed.
    pub const TOO_LARGE: &str = "too-large";
    /// Too many requests.
    pub const TOO_MANY: &str = "too-many-requests";
    /// Not now: try again after `Retry-After`.
    pub const UNAVAILABLE: &str = "unavailable";
    /// A fault of the server.
    pub const INTERNAL: &str = "internal";
}

/// An error reply.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `https://reprise.invalid/problems/CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text for the code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened, to what.
    pub detail: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Ids (hexadecimal) the other side must send again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

const TYPE_PREFIX: &str = "https://reprise.invalid/problems/";

impl Problem {
    /// Makes a problem with one of the [`codes`].
    #[must_use]
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{code}"),
            title: code.replace('-', " "),
            status: status_of(code),
            detail: detail.into(),
            hint: None,
            missing: Vec::new(),
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the code, the last part of `type`.
    #[must_use]
    pub fn code(&self) -> &str {
        self.kind.strip_prefix(TYPE_PREFIX).unwrap_or(&self.kind)
    }
}

fn status_of(code: &str) -> u16 {
    match code {
        codes::BAD_REQUEST => 400,
        codes::NOT_AUTHENTICATED => 401,
        codes::NOT_ALLOWED => 403,
        codes::NOT_FOUND => 404,
        codes::AMBIGUOUS
        | codes::CONFLICT
        | codes::FENCED
        | codes::AGENT_OFFLINE
        | codes::AGENT_NOT_READY
        | codes::PLAN_DRIFTED
        | codes::CHUNKS_MISSING => 409,
        codes::TOO_LARGE => 413,
        codes::TOO_MANY => 429,
        codes::UNAVAILABLE => 503,
        codes::STORE_FULL => 507,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_carries_its_code_and_status() {
        let problem = Problem::new(codes::FENCED, "job 7 runs elsewhere").hint("nothing to do");
        assert_eq!((problem.code(), problem.status), ("fenced", 409));
        let text = serde_json::to_string(&problem).unwrap();
        let back: Problem = serde_json::from_str(&text).unwrap();
        assert_eq!(back.code(), "fenced");
        assert!(!text.contains("missing"));
    }
}
