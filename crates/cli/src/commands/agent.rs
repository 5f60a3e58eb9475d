//! `reprise agent enroll|run|record`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use agent::{EnrollOptions, HostAuth, HostOptions, RecordOptions, RunOptions, SeveralVolumes};
use clap::{Args, Subcommand, ValueEnum};
use plan::restore::ReservePolicy;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::process;
use crate::values;
use crate::view::View;

/// Arguments of `agent`.
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Enrol this machine's agent at a server, with a token of `reprise host token`
    #[command(
        after_help = "Example:\n  reprise agent enroll --data /var/lib/reprise-agent --server https://backup.example:8443 --token rpe1.0a1b.secret"
    )]
    Enroll(EnrollArgs),
    /// Run an enrolled agent until told to stop
    #[command(after_help = "Examples:\n  \
        reprise agent run --data /var/lib/reprise-agent --host http://127.0.0.1:5985/wsman --path-map 'C:\\=/srv/hv01/volumes/C'\n  \
        reprise agent run --data agent --host http://hv01:5985/wsman --host-user 'HV01\\backup' --host-password-file password.txt\n  \
        reprise agent run --data agent --host https://hv01:5986/wsman --host-user backup@corp.example --host-password-file password.txt --host-ca ca.pem\n  \
        reprise agent run --data agent --host https://hv01:5986/wsman --host-user backup --host-password-file password.txt --host-auth basic")]
    Run(RunArgs),
    /// Record what a host answers, without names and addresses, to show it to others; changes nothing on the host
    #[command(after_help = "Examples:\n  \
        reprise agent record --out hv01.jsonl --host https://hv01:5986/wsman --host-user backup --host-password-file password.txt\n  \
        reprise agent record --out hv01.jsonl --host http://127.0.0.1:5985/wsman --vm web")]
    Record(RecordArgs),
}

#[derive(Args, Debug)]
struct EnrollArgs {
    /// Folder for what the agent keeps; made where it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address of the server's people's port
    #[arg(long, value_name = "URL", env = "REPRISE_SERVER")]
    server: String,
    /// Enrolment token
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    token: Option<String>,
    /// File that holds the enrolment token; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Data folder, as made by `reprise agent enroll`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    connection: HostArgs,
    /// Per cent of a volume a restore leaves free
    #[arg(long, value_name = "N", default_value_t = ReservePolicy::default().percent, value_parser = clap::value_parser!(u8).range(0..=90))]
    reserve_percent: u8,
    /// Bytes of a volume a restore leaves free at least [default: 2GiB]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    reserve_min: Option<u64>,
    /// Most jobs at once
    #[arg(long, value_name = "N", default_value_t = 2)]
    slots: u32,
    /// What a backup by the VSS method does with a running VM whose files lie on several volumes
    #[arg(long, value_enum, value_name = "HOW", default_value_t = SeveralVolumesName::Refuse)]
    several_volumes: SeveralVolumesName,
    /// Most bytes per second that all jobs together read from disks and write to them; bounds the network as well
    #[arg(long, value_name = "SIZE", value_parser = values::rate)]
    max_rate: Option<NonZeroU64>,
    /// For tests: end at the n-th boundary between steps of jobs, as a crash would
    #[arg(long, value_name = "N", hide = true)]
    crash_at: Option<u64>,
    /// Bytes a restore writes before it makes them durable: what is fetched again after a cut is this, and what was on its
    /// way [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = values::rate)]
    checkpoint_every: Option<NonZeroU64>,
    /// New file that gets what is sent to the host and what it answers, without names and addresses
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// How to reach a host.
#[derive(Args, Debug)]
struct HostArgs {
    /// WS-Management address of the host
    #[arg(long, value_name = "URL")]
    host: String,
    /// User name on the host: user, DOMAIN\user or user@domain
    #[arg(long, value_name = "NAME", requires = "host_password_file")]
    host_user: Option<String>,
    /// File that holds the password of --host-user
    #[arg(long, value_name = "FILE", requires = "host_user")]
    host_password_file: Option<PathBuf>,
    /// How to log in: ntlm (sealed over HTTP), basic, or what the host offers, with basic over HTTPS only
    #[arg(long, value_name = "SCHEME", value_enum, default_value_t = Auth::Auto)]
    host_auth: Auth,
    /// CA file or SHA-256 fingerprint of the host's certificate
    #[arg(long, value_name = "FILE|FINGERPRINT")]
    host_ca: Option<String>,
    /// Local folder behind a folder of the host, such as C:\=/mnt/hv01/c; may be repeated
    #[arg(long = "path-map", value_name = "PREFIX=DIR", value_parser = values::pair)]
    path_map: Vec<(String, String)>,
}

impl HostArgs {
    fn options(self, record: Option<PathBuf>) -> HostOptions {
        let folders = self.path_map.into_iter();
        HostOptions {
            url: self.host,
            user: self.host_user,
            auth: self.host_auth.into(),
            password_file: self.host_password_file,
            ca: self.host_ca,
            path_map: folders
                .map(|(prefix, folder)| (prefix, folder.into()))
                .collect(),
            record,
        }
    }
}

#[derive(Args, Debug)]
struct RecordArgs {
    /// File that gets the recording; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    connection: HostArgs,
    /// Name or id of a VM whose disk files are looked at, too
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
}

/// What to do with a running VM on several volumes, on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SeveralVolumesName {
    /// Fail and say what could be done
    Refuse,
    /// Pause the VM until all shadow copies are made
    Pause,
    /// Save the VM and start it again after
    Save,
}

/// How to log in to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    Auto,
    Basic,
    Ntlm,
}

impl From<Auth> for HostAuth {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Auto => Self::Auto,
            Auth::Basic => Self::Basic,
            Auth::Ntlm => Self::Ntlm,
        }
    }
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: AgentArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::Enroll(args) => enroll(out, args).await,
        Verb::Record(args) => record(out, args).await,
        Verb::Run(args) => {
            let reserve = ReservePolicy::default();
            let options = RunOptions {
                data_dir: args.data,
                host: args.connection.options(args.record),
                reserve: ReservePolicy {
                    percent: args.reserve_percent,
                    minimum_bytes: args.reserve_min.unwrap_or(reserve.minimum_bytes),
                },
                slots: args.slots,
                several_volumes: match args.several_volumes {
                    SeveralVolumesName::Refuse => SeveralVolumes::Refuse,
                    SeveralVolumesName::Pause => SeveralVolumes::Pause,
                    SeveralVolumesName::Save => SeveralVolumes::Save,
                },
                crash_at: args.crash_at,
                rate: args.max_rate.map(agent::RateLimit::new),
                checkpoint_bytes: args.checkpoint_every.unwrap_or(agent::CHECKPOINT_BYTES),
            };
            let stop = CancellationToken::new();
            let asked = stop.clone();
            tokio::spawn(async move {
                process::asked_to_end().await;
                asked.cancel();
            });
            agent::run(options, stop).await?;
            Ok(Exit::Ok)
        }
    }
}

async fn record(out: Output, args: RecordArgs) -> Result<Exit, Failure> {
    out.note("This asks the host, and changes nothing on it:");
    for sent in agent::RECORDED {
        out.note(&format!("- {sent}"));
    }
    let options = RecordOptions {
        host: args.connection.options(Some(args.out.clone())),
        vm: args.vm,
    };
    let recorded = agent::record(&options).await?;
    for failed in &recorded.failed {
        out.note(&format!("the host refused: {failed}"));
    }
    let value = serde_json::json!({
        "file": args.out,
        "exchanges": recorded.exchanges,
        "failed": recorded.failed,
    });
    out.show(&value, |_| {
        View::Text(format!(
            "{} requests and answers are in {file}; names, identifiers, addresses, paths and texts in it are made up\nread it before you send it; compare it with the simulated host: reprise sim replay-check {file}",
            recorded.exchanges,
            file = args.out.display()
        ))
    })?;
    Ok(Exit::Ok)
}

async fn enroll(out: Output, args: EnrollArgs) -> Result<Exit, Failure> {
    let token = match args.token {
        Some(token) => token,
        None => values::secret(args.token_file.as_deref(), "enrolment token")?,
    };
    let options = EnrollOptions {
        data_dir: args.data.clone(),
        server: args.server,
        token,
    };
    let enrolled = agent::enroll(&options).await?;
    let value = serde_json::json!({
        "agent": enrolled.agent,
        "server": enrolled.url,
        "expires": enrolled.expires,
        "data": args.data,
    });
    out.show(&value, |_| {
        View::Text(format!(
            "enrolled as agent {} of {}; its certificate ends {}\nrun it with: reprise agent run --data {} --host URL",
            enrolled.agent,
            enrolled.url,
            enrolled.expires,
            args.data.display()
        ))
    })?;
    Ok(Exit::Ok)
}
