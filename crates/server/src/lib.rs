//! The server: the APIs of people and agents, the job queue, schedules, retention, the vault.
//!
//! [`init`] makes a data folder; [`run`] serves it until told to stop. Both ports speak TLS with certificates of the
//! server's own CA: people show a token, agents a client certificate.
//!
//! Invariants: nothing is acknowledged before it is durable; no route works without saying who may use it; a write
//! for a job changes nothing unless its fence is current; one server per data folder.
//!
//! Not here: what a job's states mean (`jobs`), SQL (`catalog`), formats (`store`), the host (`agent`, `hyperv`).

mod agents;
mod app;
mod auth;
mod background;
mod backup;
mod clock;
mod config;
mod data_dir;
mod files;
mod fleet;
mod http;
mod init;
mod master_key;
mod options;
mod people;
mod receipts;
mod request;
mod reserve;
mod restore;
mod retention;
mod run;
mod tls;
mod transfer;
mod vault;
mod verify;
mod wakes;

pub use init::init;
pub use options::{InitOptions, Initialised, MasterKeySource, PortFile, RunOptions};
pub use run::{run, run_and_tell};

/// A route of the people's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// `GET`, `POST` ...
    pub method: String,
    /// Its path, parameters in braces.
    pub path: String,
    /// The role it needs; `None`: open to everyone.
    pub role: Option<api::v1::Role>,
}

/// Returns every route of the people's port with who may use it.
#[must_use]
pub fn route_table() -> Vec<RouteEntry> {
    people::routes().entries()
}

/// Returns the OpenAPI document of the people's API.
///
/// # Panics
/// Never: the document is made of texts and numbers.
#[must_use]
pub fn openapi_json() -> String {
    people::openapi()
        .to_pretty_json()
        .expect("the document is made of texts and numbers")
}
