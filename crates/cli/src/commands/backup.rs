//! `reprise backup start`.

use std::time::Duration;

use api::v1::{BackupRequest, Jobs};
use clap::{Args, Subcommand, ValueEnum};

use super::job;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::values;

/// Arguments of `backup`.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Back up VMs now
    #[command(
        after_help = "Examples:\n  reprise backup start web01 --wait\n  reprise backup start web01 db01 --full --json"
    )]
    Start {
        /// Names or ids
        #[arg(required = true, value_name = "VM")]
        vms: Vec<String>,
        /// Read every disk whole
        #[arg(long)]
        full: bool,
        /// Force a method
        #[arg(long, value_enum)]
        method: Option<MethodName>,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// A method on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MethodName {
    /// Recovery checkpoint and change tracking
    Rct,
    /// Volume shadow copy
    Vss,
}

impl MethodName {
    /// Returns the name as the server writes it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            MethodName::Rct => "rct",
            MethodName::Vss => "vss",
        }
    }
}

/// Whether to follow what was started.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// Follow it to its end; the exit code says how it ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop following after this time, with exit code 8; what was started goes on
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "wait")]
    pub(crate) timeout: Option<Duration>,
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: BackupArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    let Verb::Start {
        vms,
        full,
        method,
        wait,
    } = args.verb;
    let request = BackupRequest {
        vms,
        full,
        method: method.map(|method| method.text().to_owned()),
    };
    let jobs: Jobs = client
        .post("/backups", &request, Some(&super::new_key()))
        .await?;
    job::started(out, &client, jobs.jobs, wait).await
}
