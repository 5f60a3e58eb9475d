//! HTTP: the two listeners, authentication, and what a fault rule does to a connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use wsman::{Fault, Subcode};

use super::operations::{Outgoing, Service, anonymous_identify, malformed};
use crate::ctl::{Command, ControlFile, execute};
use crate::engine::Engine;
use crate::state::save_bytes;
use crate::{Credentials, RunOptions, SimError};

/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;
/// Largest request, as the service's default of 500 kB.
const MAX_REQUEST_BYTES: usize = 512_000;
/// Largest control command.
const MAX_COMMAND_BYTES: usize = 1 << 20;
/// How long a directory that another process is just leaving is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const SOAP: &str = "application/soap+xml;charset=UTF-8";

/// A host that is being served by this process.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Returns the address of the WS-Management port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the endpoint, `http://ADDRESS/wsman`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/wsman", self.address)
    }

    /// Stops serving, as a host that shuts down: VMs keep their state, jobs go on at the next start.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        let engine = Arc::clone(&self.engine);
        let closed = tokio::task::spawn_blocking(move || {
            let _ = std::fs::remove_file(engine.layout.control());
            engine.close();
        });
        if let Err(err) = closed.await {
            tracing::error!("failed to close the host: {err}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Serves a host in the background of the calling Tokio runtime.
pub async fn start(options: RunOptions) -> Result<Running, SimError> {
    let dir = options.dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + PATIENCE;
        loop {
            match Engine::open(&dir) {
                Err(SimError::InUse { .. }) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => return result,
            }
        }
    });
    let engine = opened.await.map_err(|err| SimError::Usage {
        what: format!("opening the host panicked: {err}"),
    })??;
    let listener = listen(options.listen)
        .map_err(|source| io(format!("listen on {}", options.listen), source))?;
    let address = listener
        .local_addr()
        .map_err(|source| io("read the port".to_owned(), source))?;
    let control = listen((Ipv4Addr::LOCALHOST, 0).into())
        .map_err(|source| io("listen for control".to_owned(), source))?;
    let control_port = control
        .local_addr()
        .map_err(|source| io("read the port".to_owned(), source))?
        .port();
    let mut random = [0_u8; 24];
    getrandom::fill(&mut random).map_err(|err| SimError::Usage {
        what: format!("the system gives no random numbers: {err}"),
    })?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
    ControlFile {
        pid: std::process::id(),
        port: control_port,
        token: token.clone(),
    }
    .write(&engine.layout)
    .map_err(|source| io("write control.json".to_owned(), source))?;

    let stop = CancellationToken::new();
    let front = Arc::new(Front {
        service: Service::new(Arc::clone(&engine)),
        credentials: options.credentials,
    });
    let wsman = Router::new()
        .route("/wsman", post(serve_wsman))
        .with_state(front);
    let back = Arc::new(Back {
        engine: Arc::clone(&engine),
        token,
    });
    let ctl = Router::new()
        .route("/{token}", post(serve_control))
        .with_state(back);
    let tasks = vec![
        serve(listener, wsman, stop.clone()),
        serve(control, ctl, stop.clone()),
    ];
    if let Some(file) = &options.port_file {
        save_bytes(file, format!("{}\n", address.port()).as_bytes())
            .map_err(|source| io(format!("write {}", file.display()), source))?;
    }
    tracing::info!(
        "the simulated host {} answers at http://{address}/wsman",
        engine.name()
    );
    Ok(Running {
        address,
        engine,
        stop,
        tasks,
    })
}

fn io(action: String, source: std::io::Error) -> SimError {
    SimError::Io { action, source }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(cfg!(unix))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(err) = served {
            tracing::error!("failed to serve: {err}");
        }
    })
}

#[derive(Debug)]
struct Front {
    service: Service,
    credentials: Option<Credentials>,
}

async fn serve_wsman(State(front): State<Arc<Front>>, headers: HeaderMap, body: Body) -> Response {
    let Ok(body) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        let fault = Fault::new(
            Subcode::EncodingLimit,
            "the request is larger than this service takes, or cut short",
        );
        return reply(malformed(&fault));
    };
    if !is_allowed(&front, &headers) {
        let anonymous = headers
            .get("wsmanidentify")
            .is_some_and(|value| value.as_bytes() == b"unauthenticated");
        return match anonymous.then(|| anonymous_identify(&body)).flatten() {
            Some(xml) => reply(Outgoing::Reply { status: 200, xml }),
            None => reply(Outgoing::Unauthorized),
        };
    }
    let answered = tokio::task::spawn_blocking(move || front.service.answer(&body)).await;
    match answered {
        Ok(outgoing) => reply(outgoing),
        Err(err) => {
            tracing::error!("a request could not be answered: {err}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn is_allowed(front: &Front, headers: &HeaderMap) -> bool {
    let Some(wanted) = &front.credentials else {
        return true;
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let decoded = given
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let decoded = decoded.and_then(|(_, text)| STANDARD.decode(text.trim()).ok());
    decoded
        .is_some_and(|bytes| bytes == format!("{}:{}", wanted.user, wanted.password).into_bytes())
}

fn reply(outgoing: Outgoing) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(SOAP))];
    match outgoing {
        Outgoing::Reply { status, xml } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, content_type, xml).into_response()
        }
        Outgoing::Unauthorized => {
            let challenge = [(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"WSMAN\""),
            )];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
        // A body that fails half-way makes the server break the connection.
        Outgoing::Lost => {
            (content_type, Body::from_stream(ReaderStream::new(Broken))).into_response()
        }
    }
}

/// A body that cannot be read.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()))
    }
}

#[derive(Debug)]
struct Back {
    engine: Arc<Engine>,
    token: String,
}

async fn serve_control(
    State(back): State<Arc<Back>>,
    Path(token): Path<String>,
    body: Body,
) -> Response {
    if token != back.token {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Ok(body) = to_bytes(body, MAX_COMMAND_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Ok(command) = serde_json::from_slice::<Command>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let raw = matches!(command, Command::GuestRead { .. });
    let done = tokio::task::spawn_blocking(move || {
        let mut data = Vec::new();
        execute(&back.engine, &command, &mut data).map(|reply| (reply, data))
    });
    match done.await {
        Ok(Ok((_, data))) if raw => data.into_response(),
        Ok(Ok((reply, _))) => axum::Json(reply).into_response(),
        Ok(Err(err)) => (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(err)).into_response(),
        Err(err) => {
            tracing::error!("a command could not be carried out: {err}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
