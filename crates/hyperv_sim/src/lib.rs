//! The simulated Hyper-V host: WS-Management over real VHDX files.
//!
//! A host is a directory: `host.json` and `vms/` hold what it knows, `volumes/C/...` the files of its Windows paths.
//! [`init`] makes one, [`run`] serves it, [`ctl()`] changes it from outside, running or not.
//!
//! Invariants: every change is on disk before it is answered, so a host killed at any moment goes on where it was;
//! disk content is only ever in real VHDX files; what the page `hyperv-wmi.md` says wins over what is convenient here.
//! Not here: command lines, TLS, the driver's view of a host.

pub mod ctl;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use model::HostId;

use ctl::{Command, CtlError, Reply};

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
    /// Basic authentication is asked for where set.
    pub credentials: Option<Credentials>,
    /// Gets the port number, written whole, once the host answers.
    pub port_file: Option<PathBuf>,
}

/// Who may log in.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
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

/// Makes a host in a directory and returns its id.
pub fn init(options: &InitOptions) -> Result<HostId, SimError> {
    Err(SimError::NoHost {
        dir: options.dir.clone(),
    })
}

/// A host that is being served by this process.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
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
    pub async fn stop(self) {}
}

/// Serves a host in the background of the calling Tokio runtime.
pub async fn start(options: RunOptions) -> Result<Running, SimError> {
    Err(SimError::NoHost { dir: options.dir })
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

/// Carries out one control command on the host in `dir`, running or stopped. Blocks; may take as long as a merge.
///
/// What `guest read` reads goes to `data`, in pieces; other commands write nothing there.
pub fn ctl(dir: &Path, command: &Command, data: &mut dyn Write) -> Result<Reply, CtlError> {
    let _ = (command, data);
    Err(CtlError::new(
        ctl::CtlErrorKind::NotFound,
        format!("{} holds no simulated host", dir.display()),
    ))
}

/// Fills `out` with the bytes that `guest write --pattern SEED` writes from `position` on: a function of seed and
/// position alone, never compressible, never zero for long.
pub fn pattern(seed: u64, position: u64, out: &mut [u8]) {
    let mut at = position;
    let mut rest = out;
    while !rest.is_empty() {
        let word = mix(seed ^ mix(at / 8)).to_le_bytes();
        let skip = usize::try_from(at % 8).expect("below 8");
        let take = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&word[skip..skip + take]);
        rest = later;
        at += u64::try_from(take).expect("at most 8");
    }
}

/// SplitMix64: spreads any input over all 64 bits.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
