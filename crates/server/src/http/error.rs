//! Errors of handlers: a problem for the other side, a cause for our log.
//!
//! What a failure of catalog, store or vault means for HTTP follows from its kind, here and nowhere else.

use std::fmt;

use api::{Problem, codes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// A problem to answer with.
#[derive(Debug)]
pub(crate) struct ApiError {
    problem: Box<Problem>,
    retry_after_secs: Option<u64>,
    cause: Option<anyhow::Error>,
    fatal: bool,
    full: bool,
}

impl ApiError {
    /// Makes an error with one of `api::codes`.
    pub(crate) fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            problem: Box::new(Problem::new(code, detail)),
            retry_after_secs: None,
            cause: None,
            fatal: false,
            full: false,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(codes::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(codes::NOT_FOUND, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(codes::CONFLICT, detail)
    }

    pub(crate) fn fenced(detail: impl Into<String>) -> Self {
        Self::new(codes::FENCED, detail)
    }

    pub(crate) fn not_allowed(detail: impl Into<String>) -> Self {
        Self::new(codes::NOT_ALLOWED, detail)
    }

    /// A key that was used for another request (422).
    pub(crate) fn key_reused(detail: impl Into<String>) -> Self {
        let mut err = Self::conflict(detail);
        err.problem.status = StatusCode::UNPROCESSABLE_ENTITY.as_u16();
        err
    }

    /// A fault of ours: the other side learns no more than that.
    pub(crate) fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self {
            problem: Box::new(
                Problem::new(
                    codes::INTERNAL,
                    "the server failed to do this; its log says why",
                )
                .hint("look for this answer's x-request-id in the server's log"),
            ),
            retry_after_secs: None,
            cause: Some(cause.into()),
            fatal: false,
            full: false,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    pub(crate) fn missing(mut self, missing: Vec<String>) -> Self {
        self.problem.missing = missing;
        self
    }

    pub(crate) fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    pub(crate) fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Says whether the server must end: the database can no longer be trusted until it is opened anew.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// Says whether there is no room left, in the store or for the catalog.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    fn full(mut self) -> Self {
        self.full = true;
        self
    }

    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.detail)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause:#}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

impl From<store::ObjectError> for ApiError {
    fn from(err: store::ObjectError) -> Self {
        match err.kind {
            store::ObjectErrorKind::Full => {
                ApiError::new(codes::STORE_FULL, "the store has no room left")
                    .hint("free space in the vault or enlarge it; the job can be started again")
                    .retry_after(60)
                    .full()
                    .because(err)
            }
            store::ObjectErrorKind::Unavailable => {
                ApiError::new(codes::UNAVAILABLE, "the store does not answer")
                    .retry_after(5)
                    .because(err)
            }
            store::ObjectErrorKind::Corrupt => {
                ApiError::new(codes::DAMAGED, "stored data is not what it should be").because(err)
            }
            store::ObjectErrorKind::NotFound
            | store::ObjectErrorKind::AlreadyExists
            | store::ObjectErrorKind::Denied
            | store::ObjectErrorKind::Other => ApiError::internal(err),
        }
    }
}

impl From<catalog::CatalogError> for ApiError {
    fn from(err: catalog::CatalogError) -> Self {
        let text = || {
            // The cause tells people what is in the way ("fence 3 is not current ...").
            let cause = std::error::Error::source(&err);
            cause.map_or_else(|| err.to_string(), |cause| format!("{err}: {cause}"))
        };
        match err.kind() {
            catalog::ErrorKind::Retry => ApiError::new(codes::UNAVAILABLE, "the catalog is busy")
                .retry_after(1)
                .because(err),
            catalog::ErrorKind::Refused => ApiError::bad_request(text()),
            catalog::ErrorKind::NotFound => ApiError::not_found(text()),
            catalog::ErrorKind::Conflict => {
                if let catalog::CatalogError::KeyReused { .. } = &err {
                    return ApiError::key_reused(text());
                }
                ApiError::conflict(text())
            }
            catalog::ErrorKind::Fenced => ApiError::fenced(text()),
            catalog::ErrorKind::Full => {
                ApiError::new(codes::UNAVAILABLE, "the catalog's volume has no room left")
                    .hint("free space on the volume of the server's data folder")
                    .retry_after(60)
                    .full()
                    .because(err)
            }
            catalog::ErrorKind::Corrupt | catalog::ErrorKind::Bug => ApiError::internal(err),
            catalog::ErrorKind::Fatal => {
                let mut fatal = ApiError::internal(err);
                fatal.fatal = true;
                fatal
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(http.status = status.as_u16(), "request failed: {self:#}");
        } else {
            tracing::debug!(http.status = status.as_u16(), "request refused: {self}");
        }
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
