//! Starting and stopping: the port for WS-Management, and the port for control.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::auth::Rules;
use super::connections::{self, Front};
use super::operations::Service;
use super::tls;
use crate::ctl::{Command, ControlFile, execute};
use crate::engine::Engine;
use crate::state::save_bytes;
use crate::{RunOptions, SimError};

/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;
/// Largest control command.
const MAX_COMMAND_BYTES: usize = 1 << 20;
/// How long a directory that another process is just leaving is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A host that is being served by this process.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    fingerprint: Option<String>,
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

    /// Returns the endpoint, `http://ADDRESS/wsman` or `https://ADDRESS/wsman`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.fingerprint.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}/wsman", self.address)
    }

    /// Returns the SHA-256 of the certificate, where the host is served over HTTPS.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
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
    let tls = match &options.tls {
        None => None,
        Some(wanted) => Some(tls::load(&options.dir, &engine.name(), wanted)?),
    };
    let front = Arc::new(Front {
        service: Service::new(Arc::clone(&engine)),
        rules: Rules {
            account: options.credentials,
            schemes: options.auth,
            bindings: tls.as_ref().map(|tls| tls.bindings.clone()),
            computer: engine.name(),
        },
    });
    let back = Arc::new(Back {
        engine: Arc::clone(&engine),
        token,
    });
    let ctl = Router::new()
        .route("/{token}", post(serve_control))
        .with_state(back);
    let tasks = vec![
        connections::serve(
            listener,
            tls.as_ref().map(|tls| tls.acceptor.clone()),
            front,
            stop.clone(),
        ),
        serve(control, ctl, stop.clone()),
    ];
    if let Some(file) = &options.port_file {
        save_bytes(file, format!("{}\n", address.port()).as_bytes())
            .map_err(|source| io(format!("write {}", file.display()), source))?;
    }
    let running = Running {
        address,
        fingerprint: tls.map(|tls| tls.fingerprint),
        engine,
        stop,
        tasks,
    };
    let (name, url) = (running.engine.name(), running.url());
    match &running.fingerprint {
        None => tracing::info!("the simulated host {name} answers at {url}"),
        Some(fingerprint) => tracing::info!(
            "the simulated host {name} answers at {url}; SHA-256 of its certificate: {fingerprint}"
        ),
    }
    Ok(running)
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
