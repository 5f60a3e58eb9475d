//! What the command line asks of a server: the options of [`crate::init`] and [`crate::run`] and what they give back.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the master key, which wraps the vault's data keys, comes from. It holds 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// A file of its own; `init` makes it where it does not exist.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A program and its arguments; it prints the key. No shell is involved.
    Command(Vec<String>),
}

/// What [`crate::init`] is to set up.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The data folder; made where it does not exist, refused where it holds anything that is not ours.
    pub data_dir: PathBuf,
    /// Name of the first administrator.
    pub admin_name: String,
    /// Names and addresses the server certificate holds besides `localhost`, the loopback addresses and the host name.
    pub names: Vec<String>,
    /// Where the master key comes from; `None`: a new file `keys/master.key` in the data folder.
    pub master_key: Option<MasterKeySource>,
    /// Makes a first API token of the administrator with this name.
    pub token_name: Option<String>,
}

impl InitOptions {
    /// Returns the options of a plain installation in `data_dir`, with an administrator named `admin`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            admin_name: "admin".to_owned(),
            names: Vec::new(),
            master_key: None,
            token_name: None,
        }
    }
}

/// What [`crate::init`] made. The secrets in it exist nowhere else: show them once.
#[derive(Clone)]
pub struct Initialised {
    /// The vault's id.
    pub vault: String,
    /// Name of the first administrator.
    pub admin_name: String,
    /// Their password.
    pub admin_password: String,
    /// The API token, where one was asked for.
    pub token: Option<String>,
    /// The recovery kit, a text to print and keep elsewhere: it opens the vault without this server.
    pub recovery_kit: String,
    /// SHA-256 of the CA certificate (DER), 64 hexadecimal digits.
    pub ca_fingerprint: String,
    /// The CA certificate, for `REPRISE_CA`.
    pub ca_file: PathBuf,
}

/// How [`crate::run`] is to serve. Values given here win over those of the configuration file.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The data folder; needed here or in the configuration file.
    pub data_dir: Option<PathBuf>,
    /// Configuration file (TOML).
    pub config: Option<PathBuf>,
    /// Address of the people's port; `127.0.0.1:8443` by default.
    pub listen: Option<SocketAddr>,
    /// Address of the agents' port; `127.0.0.1:8444` by default.
    pub agent_listen: Option<SocketAddr>,
    /// Written, as a whole, once both ports are open: a [`PortFile`] in JSON.
    pub port_file: Option<PathBuf>,
    /// Where the master key comes from; `None`: the file `keys/master.key` in the data folder.
    pub master_key: Option<MasterKeySource>,
}

/// What a running server wrote into its port file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFile {
    /// Address of the people's API.
    pub listen: SocketAddr,
    /// Address of the agents' API.
    pub agent_listen: SocketAddr,
    /// Port of the people's API.
    pub port: u16,
    /// Port of the agents' API.
    pub agent_port: u16,
    /// SHA-256 of the CA certificate (DER), 64 hexadecimal digits.
    pub ca_fingerprint: String,
    /// The CA certificate.
    pub ca_file: PathBuf,
    /// Process id of the server.
    pub pid: u32,
}
