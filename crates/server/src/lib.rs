//! The server: the APIs of people and agents, the job queue, schedules, retention, the vault.
//!
//! [`init`] makes a data folder; [`run`] serves it until told to stop. Both ports speak TLS with certificates of the
//! server's own CA: people show a token, agents a client certificate.
//!
//! Invariants: nothing is acknowledged before it is durable; no route works without saying who may use it; a write
//! for a job changes nothing unless its fence is current; one server per data folder.
//!
//! Not here: what a job's states mean (`jobs`), SQL (`catalog`), formats (`store`), the host (`agent`, `hyperv`).

mod options;

use std::future::Future;

pub use options::{InitOptions, Initialised, MasterKeySource, PortFile, RunOptions};

/// Sets up a data folder: vault, keys, certificates, the first administrator.
///
/// # Errors
/// Refuses a folder that holds something else, or that was set up before.
pub async fn init(options: InitOptions) -> anyhow::Result<Initialised> {
    anyhow::bail!("setting up {} is not built yet", options.data_dir.display())
}

/// Serves a data folder until `shutdown` ends; then lets requests finish and closes.
///
/// # Errors
/// Where the folder is not set up or in use by another server, a port is taken, or the catalog cannot be opened.
pub async fn run(
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    drop(shutdown);
    anyhow::bail!("serving {:?} is not built yet", options.data_dir)
}
