//! `reprise host list|show|token|revoke`.

use api::v1::{Host, HostToken};
use api_client::People;
use clap::{Args, Subcommand};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::{Rows, View, or_dash};

/// Arguments of `host`.
#[derive(Args, Debug)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the hosts and how their agents are
    #[command(after_help = "Example:\n  reprise host list")]
    List,
    /// Show one host
    #[command(after_help = "Example:\n  reprise host show HV01")]
    Show {
        /// Name or id
        host: String,
    },
    /// Make a single-use token that enrols an agent within 15 minutes
    #[command(after_help = "Example:\n  reprise host token --json")]
    Token,
    /// Take an agent's certificate away: it can do nothing any more
    #[command(after_help = "Example:\n  reprise host revoke HV01")]
    Revoke {
        /// Name or id
        host: String,
    },
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: HostArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List => {
            let hosts: Vec<Host> = super::list::all(&client, "/hosts", None).await?;
            out.show(&hosts, |hosts| {
                let mut rows = Rows::new(
                    ["NAME", "STATE", "LAST SEEN", "WINDOWS", "ID"],
                    "no host is enrolled yet; `reprise host token` begins it",
                );
                for host in hosts {
                    rows.row([
                        host.name.clone(),
                        state(host),
                        or_dash(host.last_seen.as_deref()),
                        host.os_version.clone(),
                        host.id.clone(),
                    ]);
                }
                View::Table(rows)
            })?;
        }
        Verb::Show { host } => {
            let host: Host = client
                .get(&format!("/hosts/{}", People::segment(&host)))
                .await?;
            out.show(&host, |host| {
                View::fields([
                    ("id", host.id.clone()),
                    ("name", host.name.clone()),
                    ("state", state(host)),
                    ("last seen", or_dash(host.last_seen.as_deref())),
                    ("Windows", host.os_version.clone()),
                    (
                        "agent",
                        format!("{} (version {})", host.agent, host.agent_version),
                    ),
                    ("certificate ends", host.certificate_expires.clone()),
                ])
            })?;
        }
        Verb::Token => {
            let token: HostToken = client
                .post("/hosts/token", &serde_json::json!({}), None)
                .await?;
            out.note(&format!(
                "single use, ends {}; on the host: reprise agent enroll --data DIR --server {} --token TOKEN",
                token.expires,
                client.server()
            ));
            out.show(&token, |token| View::Text(token.token.clone()))?;
        }
        Verb::Revoke { host } => {
            client
                .post_empty(&format!("/hosts/{}/revoke", People::segment(&host)))
                .await?;
            super::done(out, &format!("the agent of {host} is refused from now on"))?;
        }
    }
    Ok(Exit::Ok)
}

fn state(host: &Host) -> String {
    match &host.reason {
        Some(reason) => format!("{}: {reason}", host.state),
        None => host.state.clone(),
    }
}
