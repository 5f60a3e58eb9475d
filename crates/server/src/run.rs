//! `reprise server run`: opens everything, serves both ports, ends in good order.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsAcceptor;
use catalog::Catalog;
use chunk_index::ChunkIndex;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use object_storage::Folder;

use crate::app::{App, Shared};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::files::{self, Access};
use crate::options::{PortFile, RunOptions};
use crate::reserve::Reserve;
use crate::tls::{AgentAcceptor, Authority, agent_config, people_config};
use crate::vault::{self, Vault};
use crate::{agents, background, clock, master_key, people};

/// Time for a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for requests under way when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// Signs of life on idle connections of agents and people.
const PING: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a data folder until `shutdown` ends; then lets requests finish and closes.
///
/// # Errors
/// Where the folder is not set up or in use by another server, a port is taken, or the catalog cannot be opened.
pub async fn run(
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    run_and_tell(options, |_| {}, shutdown).await
}

/// As [`run`]; calls `ready` with what the port file says, once both ports are open.
///
/// # Errors
/// As [`run`].
pub async fn run_and_tell(
    options: RunOptions,
    ready: impl FnOnce(&PortFile) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let config = Config::load(&options)?;
    let dir = DataDir::open(&config.data_dir)?;
    let app = open(config, &dir).await?;
    background::recover(&app)
        .await
        .context("settle what an earlier run left")?;
    let ports = Ports::bind(&app)?;
    ready(&ports.announce(&app)?);
    let result = serve(&app, ports, shutdown).await;
    app.catalog.close().await;
    tracing::info!("the server has stopped");
    result
}

async fn open(config: Config, dir: &DataDir) -> anyhow::Result<Shared> {
    let master = master_key::load(config.master_key.as_ref(), dir)?;
    let objects = Folder::open(dir.vault())
        .await
        .context("open the vault's folder")?;
    let (id, keys) = vault::open_keys(&objects, &master).await?;
    let catalog_options = catalog::Options {
        file: dir.catalog(),
        rules: config.jobs,
    };
    let catalog = Catalog::open(&catalog_options)
        .await
        .context("open the catalog")?;
    let index_options = chunk_index::Options::new(dir.index(), id);
    let opening = tokio::task::spawn_blocking(move || ChunkIndex::open(&index_options));
    let (index, found) = opening.await?.context("open the chunk index")?;
    if let chunk_index::Opened::Rebuilt { why } = found {
        tracing::info!("the chunk index is filled anew: {why}");
    }
    let authority = Authority::open(&dir.tls(), &config.names, clock::now())?;
    let vault = Vault::open(
        id,
        keys,
        Arc::new(objects),
        index,
        catalog.clone(),
        config.node_cache_bytes,
    )
    .await
    .context("open the vault")?;
    let (path, bytes) = (dir.reserve(), config.reserve_bytes);
    let reserve = tokio::task::spawn_blocking(move || Reserve::open(path, bytes)).await?;
    Ok(Arc::new(App::new(
        config,
        catalog,
        Arc::new(vault),
        authority,
        reserve,
    )))
}

/// Both ports, open.
struct Ports {
    people: TcpListener,
    agents: TcpListener,
    people_address: SocketAddr,
    agents_address: SocketAddr,
}

impl Ports {
    fn bind(app: &App) -> anyhow::Result<Self> {
        let (people, people_address) = bind(app.config.listen)?;
        let (agents, agents_address) = bind(app.config.agent_listen)?;
        app.set_agent_port(agents_address.port());
        Ok(Self {
            people,
            agents,
            people_address,
            agents_address,
        })
    }

    fn announce(&self, app: &App) -> anyhow::Result<PortFile> {
        tracing::info!(
            "people at https://{}, agents at https://{}",
            self.people_address,
            self.agents_address
        );
        let ports = PortFile {
            listen: self.people_address,
            agent_listen: self.agents_address,
            port: self.people_address.port(),
            agent_port: self.agents_address.port(),
            ca_fingerprint: app.authority.fingerprint(),
            ca_file: app.authority.ca_file(),
            pid: std::process::id(),
        };
        if let Some(path) = &app.config.port_file {
            let text = serde_json::to_vec_pretty(&ports).context("write the port file")?;
            files::replace(path, &text, Access::Public)?;
        }
        Ok(ports)
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("listen on {address}; is another program using that port?"))?;
    listener.set_nonblocking(true).context("set up a port")?;
    let bound = listener.local_addr().context("set up a port")?;
    Ok((listener, bound))
}

async fn serve(
    app: &Shared,
    ports: Ports,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let handles = [Handle::new(), Handle::new()];
    let mut people = axum_server::from_tcp(ports.people)
        .context("serve people")?
        .acceptor(RustlsAcceptor::new(people_config(&app.authority)?))
        .handle(handles[0].clone());
    limit(people.http_builder());
    let service = people::router(app).into_make_service_with_connect_info::<SocketAddr>();
    let people = people.serve(service);
    let mut agents = axum_server::from_tcp(ports.agents)
        .context("serve agents")?
        .acceptor(AgentAcceptor::new(agent_config(&app.authority)?))
        .handle(handles[1].clone());
    limit(agents.http_builder());
    let service = agents::router(app).into_make_service_with_connect_info::<SocketAddr>();
    let agents = agents.serve(service);
    let chores = tokio::spawn(background::run(Arc::clone(app)));
    let own_jobs = tokio::spawn(background::run_jobs(Arc::clone(app)));
    let (mut people, mut agents) = (tokio::spawn(people), tokio::spawn(agents));
    let early = tokio::select! {
        () = shutdown => None,
        () = app.stop.cancelled() => None,
        ended = &mut people => Some(ended),
        ended = &mut agents => Some(ended),
    };
    tracing::info!("stopping: requests under way may finish");
    app.stop.cancel();
    for handle in &handles {
        handle.graceful_shutdown(Some(DRAIN));
    }
    if let Some(ended) = early {
        ended.context("serve a port")?.context("serve a port")?;
        anyhow::bail!("a port was closed");
    }
    people
        .await
        .context("serve people")?
        .context("serve people")?;
    agents
        .await
        .context("serve agents")?
        .context("serve agents")?;
    chores.await.context("end background work")?;
    own_jobs.await.context("end background work")?;
    match app.failure() {
        Some(why) => Err(anyhow::anyhow!("the server cannot go on: {why}")),
        None => Ok(()),
    }
}

/// Sets the limits of a port's connections.
fn limit(builder: &mut Builder<TokioExecutor>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(64 * 1024)
        .max_concurrent_streams(256)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
}
