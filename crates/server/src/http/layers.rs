//! What surrounds every request: an id, limits, and the promise that each error is a problem.

use std::any::Any;
use std::time::Duration;

use api::codes;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::RequestBodyTimeoutLayer;
use tower_http::trace::TraceLayer;

use super::ApiError;

/// A body that brings nothing for this long is given up.
const BODY_STALL: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the common layers around a router.
pub(crate) fn around(router: Router) -> Router {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(only_problems))
        .layer(RequestBodyTimeoutLayer::new(BODY_STALL))
        .layer(
            TraceLayer::new_for_http().make_span_with(|request: &axum::http::Request<_>| {
                let id = request
                    .headers()
                    .get(&REQUEST_ID)
                    .and_then(|id| id.to_str().ok());
                tracing::debug_span!(
                    "request",
                    http.id = id.unwrap_or_default(),
                    http.method = %request.method(),
                    http.path = request.uri().path()
                )
            }),
        )
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .layer(middleware::from_fn(own_request_id))
}

/// Answers paths that do not exist.
pub(crate) async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::not_found(format!("there is no {path} here"))
}

/// Answers methods a path does not have.
pub(crate) async fn not_allowed_method(request: Request) -> Response {
    let mut problem = api::Problem::new(
        codes::BAD_REQUEST,
        format!("{} is not possible here", request.method()),
    );
    problem.status = StatusCode::METHOD_NOT_ALLOWED.as_u16();
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::METHOD_NOT_ALLOWED, kind, body).into_response()
}

/// Ids of requests are ours: one from outside could be anything.
async fn own_request_id(mut request: Request, next: Next) -> Response {
    request.headers_mut().remove(&REQUEST_ID);
    next.run(request).await
}

/// Turns an error that some layer answered in its own way into a problem.
async fn only_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !is_error || kind == Some(&HeaderValue::from_static("application/problem+json")) {
        return response;
    }
    let code = match status {
        StatusCode::NOT_FOUND => codes::NOT_FOUND,
        StatusCode::PAYLOAD_TOO_LARGE => codes::TOO_LARGE,
        StatusCode::UNAUTHORIZED => codes::NOT_AUTHENTICATED,
        StatusCode::FORBIDDEN => codes::NOT_ALLOWED,
        _ if status.is_client_error() => codes::BAD_REQUEST,
        _ => codes::INTERNAL,
    };
    ApiError::new(
        code,
        status.canonical_reason().unwrap_or("the request failed"),
    )
    .into_response()
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    ApiError::internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}
