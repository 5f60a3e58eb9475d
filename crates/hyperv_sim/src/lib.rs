//! The simulated Hyper-V host: WS-Management over real VHDX files.
//!
//! A host is a directory: `host.json` and `vms/` hold what it knows, `volumes/C/...` the files of its Windows paths.
//! [`init`] makes one, [`run`] serves it, [`ctl()`] changes it from outside, running or not.
//!
//! Invariants: every change is on disk before it is answered, so a host killed at any moment goes on where it was;
//! disk content is only ever in real VHDX files; what the page `hyperv-wmi.md` says wins over what is convenient here.
//! Not here: command lines, the driver's view of a host.

mod checkpoints;
mod children;
mod cim;
mod clock;
mod cluster;
mod config_files;
mod config_format;
pub mod ctl;
mod definition;
mod disks;
mod engine;
mod failure;
mod faults;
mod guest;
mod jobs;
mod merge;
mod methods;
mod objects;
mod pattern;
mod platform;
mod rct;
mod reference_points;
mod refusals;
pub mod replay;
mod resources;
mod server;
mod shadow;
mod state;
mod torn;
mod volume;
mod winpath;
mod workload;
mod wql;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

use model::HostId;

pub use ctl::ctl;
pub use pattern::pattern;
pub use refusals::{Refusal, When};
pub use server::{Running, start};

/// A host to make.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Where; made if missing, refused if it already holds a host.
    pub dir: PathBuf,
    /// Computer name.
    pub name: String,
    /// Volumes; `C` with 64 GiB where empty.
    pub volumes: Vec<VolumeSpec>,
}

/// A volume of a new host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Drive letter.
    pub letter: char,
    /// Bytes.
    pub capacity_bytes: u64,
}

/// How to serve a host.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The host's directory.
    pub dir: PathBuf,
    /// Address of the WS-Management port.
    pub listen: SocketAddr,
    /// A log-in is asked for where set.
    pub credentials: Option<Credentials>,
    /// How one may log in.
    pub auth: AuthSchemes,
    /// HTTPS instead of HTTP, where set.
    pub tls: Option<TlsOptions>,
    /// Gets the port number, written whole, once the host answers.
    pub port_file: Option<PathBuf>,
}

impl RunOptions {
    /// Serves a host over HTTP, for anybody.
    pub fn new(dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            dir: dir.into(),
            listen,
            credentials: None,
            auth: AuthSchemes::default(),
            tls: None,
            port_file: None,
        }
    }
}

/// How one may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthSchemes {
    /// User and password in every request.
    Basic,
    /// NTLM through Negotiate; over HTTP messages must be sealed.
    Negotiate,
    /// Either; over HTTP messages may then go unsealed (`AllowUnencrypted`).
    #[default]
    Both,
}

/// Which certificate a host shows over HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsOptions {
    /// One of its own making, kept in `DIR/tls`.
    SelfSigned,
    /// Given ones.
    Files {
        /// The certificate, then those between it and its CA; PEM.
        cert: PathBuf,
        /// Its key; PEM.
        key: PathBuf,
    },
}

/// Who may log in.
#[derive(Clone)]
pub struct Credentials {
    /// User name: `user` (of any domain), `DOMAIN\user` or `user@domain`.
    pub user: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A host that could not be made or served.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// There is one already.
    #[error("{dir} already holds a simulated host")]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is none.
    #[error("{dir} holds no simulated host; make one with `reprise sim init --dir {dir}`")]
    NoHost {
        /// The directory.
        dir: PathBuf,
    },
    /// Another process serves it.
    #[error("the simulated host in {dir} is in use by another process")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A volume letter, name or address makes no sense.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
    },
    /// The disk or the network failed.
    #[error("failed to {action}")]
    Io {
        /// Verb and object.
        action: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A state file cannot be understood.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Longest computer name.
const MAX_NAME_CHARS: usize = 63;

/// Makes a host in a directory and returns its id.
pub fn init(options: &InitOptions) -> Result<HostId, SimError> {
    let name = options.name.trim();
    let is_name = !name.is_empty()
        && name.len() <= MAX_NAME_CHARS
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && uuid::Uuid::try_parse(name).is_err();
    if !is_name {
        return Err(SimError::Usage {
            what: format!("{name:?} is no computer name: letters, digits and - only"),
        });
    }
    let mut volumes: Vec<(char, u64)> = Vec::new();
    for volume in &options.volumes {
        let letter = volume.letter.to_ascii_uppercase();
        if !letter.is_ascii_alphabetic() || volumes.iter().any(|(there, _)| *there == letter) {
            return Err(SimError::Usage {
                what: format!("{letter:?} is no drive letter, or is named twice"),
            });
        }
        volumes.push((letter, volume.capacity_bytes));
    }
    let layout = state::Layout::new(&options.dir);
    if layout.host().exists() {
        return Err(SimError::Exists {
            dir: options.dir.clone(),
        });
    }
    let io = |source| SimError::Io {
        action: format!("make a host in {}", options.dir.display()),
        source,
    };
    let host = state::new_host(name, &volumes, clock::now());
    std::fs::create_dir_all(layout.vms()).map_err(io)?;
    for volume in &host.volumes {
        std::fs::create_dir_all(layout.volumes().join(volume.letter.to_string())).map_err(io)?;
    }
    // Last: a directory without it is no host yet.
    state::save(&layout.host(), &host).map_err(io)?;
    Ok(HostId(host.id))
}

/// Serves a host until `shutdown` resolves.
pub async fn run(
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SimError> {
    let running = start(options).await?;
    shutdown.await;
    running.stop().await;
    Ok(())
}
