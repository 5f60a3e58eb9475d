//! Configuration: one TOML file, every key optional, unknown keys refused, units in the text (`"60s"`, `"32MiB"`).
//!
//! All defaults are here. What the command line gives ([`RunOptions`]) wins over the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::options::{MasterKeySource, RunOptions};

/// Everything a running server is told, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) agent_listen: SocketAddr,
    pub(crate) port_file: Option<PathBuf>,
    pub(crate) master_key: Option<MasterKeySource>,
    /// Extra names in the server certificate.
    pub(crate) names: Vec<String>,
    pub(crate) jobs: jobs::Rules,
    pub(crate) login: LoginConfig,
    pub(crate) tick: Duration,
    pub(crate) node_cache_bytes: u64,
    pub(crate) uploads_at_once: usize,
    /// How long what a restore took the place of is kept beside.
    pub(crate) parked_secs: u64,
    /// Room kept free on the data folder's volume.
    pub(crate) reserve_bytes: u64,
}

/// Log-in and tokens.
#[derive(Clone, Debug)]
pub(crate) struct LoginConfig {
    /// Wrong passwords a minute before a name at an address has to wait.
    pub(crate) tries_per_minute: u32,
    /// Life of the token a log-in gives.
    pub(crate) token_secs: u64,
    /// Life of an enrolment token.
    pub(crate) enrolment_secs: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    agent_listen: Option<SocketAddr>,
    port_file: Option<PathBuf>,
    #[serde(default)]
    names: Vec<String>,
    master_key: Option<FileMasterKey>,
    #[serde(default)]
    jobs: FileJobs,
    #[serde(default)]
    login: FileLogin,
    #[serde(default)]
    restores: FileRestores,
    #[serde(default)]
    store: FileStore,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileMasterKey {
    File(PathBuf),
    Env(String),
    Command(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJobs {
    lease: Option<String>,
    agent_offline: Option<String>,
    expire: Option<String>,
    per_host: Option<u32>,
    attempts: Option<u32>,
    retry: Option<String>,
    tick: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLogin {
    tries_per_minute: Option<u32>,
    token_life: Option<String>,
    enrolment_life: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRestores {
    keep_replaced: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStore {
    node_cache: Option<String>,
    uploads_at_once: Option<usize>,
    reserve: Option<String>,
}

impl Config {
    /// Reads the file, lays the options over it and fills in the defaults.
    pub(crate) fn load(options: &RunOptions) -> anyhow::Result<Self> {
        let file = match &options.config {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        let Some(data_dir) = options.data_dir.clone().or(file.data_dir) else {
            bail!("no data folder given; use --data DIR, or data_dir in the configuration file");
        };
        let listen = |given: Option<SocketAddr>, file: Option<SocketAddr>, port| {
            given
                .or(file)
                .unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
        };
        let rules = jobs::Rules::default();
        let jobs = jobs::Rules {
            lease_secs: secs("jobs.lease", file.jobs.lease, rules.lease_secs)?,
            agent_offline_secs: secs(
                "jobs.agent_offline",
                file.jobs.agent_offline,
                rules.agent_offline_secs,
            )?,
            queue_secs: secs("jobs.expire", file.jobs.expire, rules.queue_secs)?,
            retry_base_secs: secs("jobs.retry", file.jobs.retry, rules.retry_base_secs)?,
            max_attempts: file.jobs.attempts.unwrap_or(rules.max_attempts).max(1),
            jobs_per_host: file.jobs.per_host.unwrap_or(rules.jobs_per_host).max(1),
            ..rules
        };
        Ok(Self {
            data_dir,
            listen: listen(options.listen, file.listen, 8443),
            agent_listen: listen(options.agent_listen, file.agent_listen, 8444),
            port_file: options.port_file.clone().or(file.port_file),
            master_key: options
                .master_key
                .clone()
                .or(file.master_key.map(Into::into)),
            names: file.names,
            jobs,
            login: LoginConfig {
                tries_per_minute: file.login.tries_per_minute.unwrap_or(5).max(1),
                token_secs: secs("login.token_life", file.login.token_life, 12 * 3600)?,
                enrolment_secs: secs("login.enrolment_life", file.login.enrolment_life, 15 * 60)?,
            },
            parked_secs: secs(
                "restores.keep_replaced",
                file.restores.keep_replaced,
                72 * 3600,
            )?,
            tick: Duration::from_secs(secs("jobs.tick", file.jobs.tick, 1)?),
            node_cache_bytes: match file.store.node_cache {
                Some(text) => model::parse_size(&text).context("read store.node_cache")?,
                None => 64 * model::MIB,
            },
            reserve_bytes: match file.store.reserve {
                Some(text) => model::parse_size(&text).context("read store.reserve")?,
                None => 16 * model::MIB,
            },
            uploads_at_once: file.store.uploads_at_once.unwrap_or(8).clamp(1, 256),
        })
    }
}

impl From<FileMasterKey> for MasterKeySource {
    fn from(source: FileMasterKey) -> Self {
        match source {
            FileMasterKey::File(path) => MasterKeySource::File(path),
            FileMasterKey::Env(name) => MasterKeySource::Env(name),
            FileMasterKey::Command(words) => MasterKeySource::Command(words),
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("read the configuration {}", path.display()))
}

fn secs(key: &str, text: Option<String>, default: u64) -> anyhow::Result<u64> {
    match text {
        Some(text) => parse_secs(&text).with_context(|| format!("read {key}")),
        None => Ok(default),
    }
}

/// Reads `"90s"`, `"15m"`, `"12h"`, `"7d"`.
fn parse_secs(text: &str) -> anyhow::Result<u64> {
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!("{text:?} is not a duration; write a number with s, m, h or d, such as 15m"),
    };
    let number: u64 = number
        .parse()
        .with_context(|| format!("{text:?} is not a duration; write it like 15m"))?;
    let secs = number.checked_mul(factor).unwrap_or(0);
    ensure!(
        secs > 0,
        "{text:?} is no usable duration; it must be more than zero"
    );
    Ok(secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&RunOptions {
            data_dir: Some("/data".into()),
            config: Some(path),
            ..RunOptions::default()
        })
    }

    #[test]
    fn the_file_is_optional_and_options_win() {
        let config = load("listen = '127.0.0.1:0'\n[jobs]\nexpire = '1d'\n").unwrap();
        assert_eq!(
            (config.listen.port(), config.agent_listen.port()),
            (0, 8444)
        );
        assert_eq!(config.jobs.queue_secs, 86_400);
        assert_eq!(config.data_dir, Path::new("/data"));
        assert!(Config::load(&RunOptions::default()).is_err());
    }

    #[test]
    fn unknown_keys_and_wrong_units_are_refused() {
        for wrong in [
            "lisen = '127.0.0.1:0'",
            "[jobs]\nlease = '60'",
            "[jobs]\nlease = '0s'",
            "[store]\nnode_cache = '1MB'",
        ] {
            assert!(load(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_master_key_may_come_from_elsewhere() {
        let config = load("[master_key]\nenv = 'REPRISE_MASTER_KEY'").unwrap();
        assert_eq!(
            config.master_key,
            Some(MasterKeySource::Env("REPRISE_MASTER_KEY".into()))
        );
    }
}
