//! `reprise audit list`.

use api::v1::AuditEntry;
use clap::{Args, Subcommand};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::{Rows, View};

/// Arguments of `audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List who did what, as the server recorded it
    #[command(after_help = "Example:\n  reprise audit list --json")]
    List {
        /// Most entries to show
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: AuditArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    let Verb::List { limit } = args.verb;
    let entries: Vec<AuditEntry> = super::list::all(&client, "/audit", limit).await?;
    out.show(&entries, |entries| {
        let mut rows = Rows::new(
            ["NO", "TIME", "WHO", "WHAT", "TO", "DETAIL"],
            "the audit log is empty",
        );
        for entry in entries {
            rows.row([
                entry.sequence.to_string(),
                entry.at.clone(),
                entry.actor.clone(),
                entry.action.clone(),
                entry.subject.clone(),
                if entry.detail.is_null() {
                    String::new()
                } else {
                    entry.detail.to_string()
                },
            ]);
        }
        View::Table(rows)
    })?;
    Ok(Exit::Ok)
}
