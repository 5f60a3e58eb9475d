//! What can go wrong between a client and the server.

use api::{Problem, codes};

/// An error of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server could not be reached, or the connection broke.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// Which server.
        url: String,
        /// The whole chain of causes.
        reason: String,
    },
    /// The server's certificate is not the one expected.
    #[error("the certificate of {url} is not trusted: {reason}")]
    Untrusted {
        /// Which server.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server answered with a problem.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer was not what the API promises.
    #[error("unexpected answer of {url}: {reason}")]
    Unexpected {
        /// Request.
        url: String,
        /// What was odd.
        reason: String,
    },
    /// The client could not be set up.
    #[error("{0}")]
    Setup(String),
}

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Try again later.
    Retry,
    /// Another holds the job now, or it has ended.
    Fenced,
    /// Not allowed or not logged in.
    Denied,
    /// No such thing.
    NotFound,
    /// The request or the state of things is at fault.
    Refused,
    /// Stored data is damaged.
    Damaged,
    /// The store is full.
    StoreFull,
    /// A fault in one of the programs.
    Bug,
}

impl ClientError {
    /// Says what to do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            ClientError::Unreachable { .. } => Kind::Retry,
            ClientError::Untrusted { .. } | ClientError::Setup(_) => Kind::Denied,
            ClientError::Unexpected { .. } => Kind::Bug,
            ClientError::Problem(problem) => match problem.code() {
                codes::UNAVAILABLE | codes::TOO_MANY => Kind::Retry,
                codes::FENCED => Kind::Fenced,
                codes::NOT_AUTHENTICATED | codes::NOT_ALLOWED => Kind::Denied,
                codes::NOT_FOUND => Kind::NotFound,
                codes::DAMAGED => Kind::Damaged,
                codes::STORE_FULL => Kind::StoreFull,
                codes::INTERNAL => Kind::Bug,
                _ if problem.status >= 500 => Kind::Retry,
                _ => Kind::Refused,
            },
        }
    }

    /// Returns the server's problem, where it answered with one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ClientError::Problem(problem) => Some(problem),
            ClientError::Unreachable { .. }
            | ClientError::Untrusted { .. }
            | ClientError::Unexpected { .. }
            | ClientError::Setup(_) => None,
        }
    }

    pub(crate) fn from_reqwest(url: &str, error: &reqwest::Error) -> Self {
        let reason = chain(error);
        // rustls errors reach us only as text within the chain of sources.
        if reason.contains("invalid peer certificate") || reason.contains("fingerprint") {
            return ClientError::Untrusted {
                url: url.to_owned(),
                reason,
            };
        }
        if error.is_decode() || error.is_builder() {
            return ClientError::Unexpected {
                url: url.to_owned(),
                reason,
            };
        }
        ClientError::Unreachable {
            url: url.to_owned(),
            reason,
        }
    }
}

/// Joins the texts of an error and its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = cause.source();
    }
    text
}

/// Turns a response into its body, or into the problem it carries.
pub(crate) async fn checked(
    url: &str,
    response: reqwest::Response,
) -> Result<reqwest::Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response
        .bytes()
        .await
        .map_err(|error| ClientError::from_reqwest(url, &error))?;
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) => Err(ClientError::Unexpected {
            url: url.to_owned(),
            reason: format!("HTTP status {status} without a problem document"),
        }),
    }
}
