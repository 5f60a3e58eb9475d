//! The WS-Management port: one task per connection, as a log-in belongs to a connection.
//!
//! Requests of one connection are answered one after the other, each on a blocking thread that holds the connection's
//! log-in meanwhile. Not here: who may log in (`auth`), what a request means (`operations`).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use hyper::body::Incoming as HttpBody;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use wsman::{Fault, Subcode};

use super::auth::{Incoming, LogIn, Rules, Verdict};
use super::operations::{Outgoing, Service, anonymous_identify};
use crate::clock;

/// Largest request, as the service's default of 500 kB.
const MAX_REQUEST_BYTES: usize = 512_000;
/// What sealing adds to a request at most.
const SEALING_BYTES: usize = 4096;
/// From 1601, where Windows counts from, to 1970.
const FILETIME_OF_1970: u64 = 116_444_736_000_000_000;

/// What the port serves.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) service: Service,
    pub(super) rules: Rules,
}

/// Takes connections until told to stop; those that are open then end with their request.
pub(super) fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    front: Arc<Front>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            while connections.try_join_next().is_some() {}
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::warn!("failed to take a connection: {err}");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let (front, stop, tls) = (Arc::clone(&front), stop.clone(), tls.clone());
            connections.spawn(async move {
                let Some(tls) = tls else {
                    return converse(stream, front, stop).await;
                };
                match tls.accept(stream).await {
                    Ok(stream) => converse(stream, front, stop).await,
                    Err(err) => tracing::debug!("a client gave up on TLS: {err}"),
                }
            });
        }
        while connections.join_next().await.is_some() {}
    })
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    front: Arc<Front>,
    stop: CancellationToken,
) {
    let log_in = Arc::new(Mutex::new(LogIn::default()));
    let service = service_fn(move |request| {
        let (front, log_in) = (Arc::clone(&front), Arc::clone(&log_in));
        async move { Ok::<_, Infallible>(answer(front, log_in, request).await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
    );
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = served {
        tracing::debug!("a connection ended: {err}");
    }
}

async fn answer(
    front: Arc<Front>,
    log_in: Arc<Mutex<LogIn>>,
    request: Request<HttpBody>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() != "/wsman" {
        return empty(StatusCode::NOT_FOUND);
    }
    if parts.method != Method::POST {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Ok(body) = to_bytes(Body::new(body), MAX_REQUEST_BYTES + SEALING_BYTES).await else {
        let fault = Fault::new(
            Subcode::EncodingLimit,
            "the request is larger than this service takes, or cut short",
        );
        let mut response = reply(
            &front,
            &mut LogIn::None,
            front.service.malformed(&fault, &[]),
            None,
        );
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let answered = tokio::task::spawn_blocking(move || {
        let mut log_in = log_in.lock().unwrap_or_else(PoisonError::into_inner);
        answer_body(&front, &mut log_in, &parts.headers, &body)
    });
    answered.await.unwrap_or_else(|err| {
        tracing::error!("a request could not be answered: {err}");
        empty(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

fn answer_body(
    front: &Front,
    log_in: &mut LogIn,
    headers: &HeaderMap,
    body: &[u8],
) -> Response<Body> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let incoming = Incoming {
        authorization: text(AUTHORIZATION),
        content_type: text(CONTENT_TYPE).unwrap_or_default(),
        body,
    };
    let mut random = [0_u8; 8];
    if let Err(err) = getrandom::fill(&mut random) {
        tracing::error!("the system gives no random numbers: {err}");
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    }
    match log_in.decide(&front.rules, &incoming, random, filetime()) {
        Verdict::Serve { envelope, token } => {
            let outgoing = front.service.answer(&envelope);
            reply(front, log_in, outgoing, token)
        }
        Verdict::Welcome { token } => with_tokens(empty(StatusCode::OK), token),
        Verdict::GoOn { token } => with_tokens(empty(StatusCode::UNAUTHORIZED), Some(token)),
        Verdict::Refuse { why } => {
            let anonymous = headers
                .get("wsmanidentify")
                .is_some_and(|value| value.as_bytes() == b"unauthenticated");
            if let Some(xml) = anonymous.then(|| anonymous_identify(body)).flatten() {
                return reply(front, log_in, Outgoing::Reply { status: 200, xml }, None);
            }
            tracing::debug!("refused a log-in: {why}");
            reply(front, log_in, Outgoing::Unauthorized, None)
        }
        Verdict::NeedsSealing => {
            tracing::warn!("refused a message in plain text: this connection must be sealed");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Verdict::Drop { why } => {
            tracing::warn!("refused a sealed message: {why}");
            let mut response = empty(StatusCode::BAD_REQUEST);
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

fn reply(
    front: &Front,
    log_in: &mut LogIn,
    outgoing: Outgoing,
    token: Option<String>,
) -> Response<Body> {
    let response = match outgoing {
        Outgoing::Reply { status, xml } => {
            let (content_type, body) = log_in.close(xml.into_bytes());
            let mut response = Response::new(Body::from(body));
            *response.status_mut() =
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let content_type = HeaderValue::from_static(content_type);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Outgoing::Unauthorized => {
            // Whoever was logged in on this connection is not any more.
            *log_in = LogIn::None;
            return with_tokens(empty(StatusCode::UNAUTHORIZED), front.rules.challenges());
        }
        // A body that fails half-way makes the server break the connection.
        Outgoing::Lost => Response::new(Body::from_stream(ReaderStream::new(Broken))),
    };
    with_tokens(response, token)
}

/// Adds values of `WWW-Authenticate`, a header each.
fn with_tokens(
    mut response: Response<Body>,
    tokens: impl IntoIterator<Item = String>,
) -> Response<Body> {
    for token in tokens {
        if let Ok(value) = HeaderValue::from_str(&token) {
            response.headers_mut().append(WWW_AUTHENTICATE, value);
        }
    }
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The time now in units of 100 ns since 1601.
fn filetime() -> u64 {
    let millis = u64::try_from(clock::now().as_millis()).unwrap_or_default();
    millis
        .saturating_mul(10_000)
        .saturating_add(FILETIME_OF_1970)
}

/// A body that cannot be read.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }
}
