//! What an agent is told at start.

use std::num::NonZeroU64;
use std::path::PathBuf;

use pipeline::RateLimit;
use plan::restore::ReservePolicy;

/// Bytes a restore writes, by default, between two points at which everything is made durable. What was written behind the
/// last one, and what was on its way, is fetched again after a cut: with 96 MiB on the way that is less than 256 MiB.
pub const CHECKPOINT_BYTES: NonZeroU64 = NonZeroU64::new(128 << 20).expect("not zero");

/// How to enrol.
#[derive(Clone, Debug)]
pub struct EnrollOptions {
    /// The agent's data folder; made where it is missing.
    pub data_dir: PathBuf,
    /// The server's address for people, such as `https://backup.example:8443`.
    pub server: String,
    /// The enrolment token.
    pub token: String,
}

/// How to log in to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostAuth {
    /// NTLM where the host offers it, else Basic over HTTPS.
    #[default]
    Auto,
    /// Basic, over HTTP as well, where it shows the password.
    Basic,
    /// NTLM; sealed over HTTP.
    Ntlm,
}

/// How to reach the host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// `http://HOST:5985/wsman` or `https://HOST:5986/wsman`; the path may be left out.
    pub url: String,
    /// User name: `user`, `DOMAIN\user` or `user@domain`; `None` where the host asks for none.
    pub user: Option<String>,
    /// How to log in.
    pub auth: HostAuth,
    /// File with the password; its first line counts.
    pub password_file: Option<PathBuf>,
    /// CA file or SHA-256 fingerprint of the host's certificate; `None` trusts the system's store.
    pub ca: Option<String>,
    /// Host path prefixes and the local folders that hold them, such as `C:\` and `/mnt/hv01/c`.
    pub path_map: Vec<(String, PathBuf)>,
    /// New file that gets what is sent and answered over WS-Management, scrubbed.
    pub record: Option<PathBuf>,
}

/// What is done with a running VM whose files lie on several volumes while shadow copies of them are made: one shadow copy
/// is one volume at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeveralVolumes {
    /// The backup fails and says what could be done.
    #[default]
    Refuse,
    /// The VM is paused until all are made, seconds as a rule.
    Pause,
    /// The VM's memory is saved, and it is started again after.
    Save,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The agent's data folder, enrolled before.
    pub data_dir: PathBuf,
    /// The host.
    pub host: HostOptions,
    /// What a restore leaves free on a volume.
    pub reserve: ReservePolicy,
    /// Most jobs at once.
    pub slots: u32,
    /// How a running VM on several volumes is backed up by the VSS method.
    pub several_volumes: SeveralVolumes,
    /// For tests: the process ends at the n-th boundary between steps of jobs, as a crash would.
    pub crash_at: Option<u64>,
    /// How fast all jobs together read and write disks; as fast as it goes without.
    pub rate: Option<RateLimit>,
    /// Bytes a restore writes before it makes them durable and notes that in its journal; see [`CHECKPOINT_BYTES`].
    pub checkpoint_bytes: NonZeroU64,
}
