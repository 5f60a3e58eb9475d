//! `reprise policy list|show|create|edit|delete`.

use std::time::Duration;

use api::v1::{Policy, PolicySpec};
use api_client::People;
use clap::{Args, Subcommand, ValueEnum};

use super::backup::MethodName;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::values;
use crate::view::{Rows, View};

/// Arguments of `policy`.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the policies
    #[command(after_help = "Example:\n  reprise policy list")]
    List,
    /// Show one policy
    #[command(after_help = "Example:\n  reprise policy show nightly")]
    Show {
        /// Name or id
        policy: String,
    },
    /// Make a policy
    #[command(after_help = "Example:\n  reprise policy create nightly --every 1d --keep-last 14")]
    Create {
        /// Unique name
        name: String,
        #[command(flatten)]
        rules: Rules,
    },
    /// Change a policy; what is not given stays
    #[command(after_help = "Example:\n  reprise policy edit nightly --every 12h")]
    Edit {
        /// Name or id
        policy: String,
        /// New name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        rules: Rules,
        /// Back up on request only
        #[arg(long, conflicts_with = "every")]
        on_request: bool,
        /// Choose the method by what host and VM can
        #[arg(long, conflicts_with = "method")]
        any_method: bool,
        /// Keep every recovery point
        #[arg(long, conflicts_with = "keep_last")]
        keep_all: bool,
    },
    /// Remove a policy no VM is under
    #[command(after_help = "Example:\n  reprise policy delete nightly")]
    Delete {
        /// Name or id
        policy: String,
    },
}

#[derive(Args, Debug)]
struct Rules {
    /// Time between backups, such as 15m, 8h, 1d; without: on request only
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    every: Option<Duration>,
    /// Method; without: by what host and VM can
    #[arg(long, value_enum)]
    method: Option<MethodName>,
    /// What the guest is asked to do before a backup
    #[arg(long, value_enum)]
    consistency: Option<ConsistencyName>,
    /// How many of the newest recovery points to keep; without: all
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConsistencyName {
    /// Application consistency where the guest can, else as after a power cut
    PreferApplication,
    /// Application consistency, or the backup fails
    RequireApplication,
    /// Do not disturb the guest
    Crash,
}

impl ConsistencyName {
    fn text(self) -> &'static str {
        match self {
            ConsistencyName::PreferApplication => "prefer-application",
            ConsistencyName::RequireApplication => "require-application",
            ConsistencyName::Crash => "crash",
        }
    }
}

impl Rules {
    /// Lays the rules that were given over a policy.
    fn over(self, spec: &mut PolicySpec) {
        if let Some(every) = self.every {
            spec.interval_secs = Some(every.as_secs());
        }
        if let Some(method) = self.method {
            spec.method = Some(method.text().to_owned());
        }
        if let Some(consistency) = self.consistency {
            spec.consistency = Some(consistency.text().to_owned());
        }
        if let Some(keep) = self.keep_last {
            spec.keep_last = Some(keep);
        }
    }
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: PolicyArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    let path = |policy: &str| format!("/policies/{}", People::segment(policy));
    match args.verb {
        Verb::List => {
            let policies: Vec<Policy> = super::list::all(&client, "/policies", None).await?;
            out.show(&policies, |policies| {
                let mut rows = Rows::new(
                    ["NAME", "EVERY", "METHOD", "KEEP", "VMS", "ID"],
                    "no policies",
                );
                for policy in policies {
                    rows.row([
                        policy.spec.name.clone(),
                        every(&policy.spec),
                        method(&policy.spec),
                        keep(&policy.spec),
                        policy.vms.to_string(),
                        policy.id.clone(),
                    ]);
                }
                View::Table(rows)
            })?;
        }
        Verb::Show { policy } => {
            let policy: Policy = client.get(&path(&policy)).await?;
            out.show(&policy, details)?;
        }
        Verb::Create { name, rules } => {
            let mut spec = PolicySpec {
                name,
                interval_secs: None,
                method: None,
                consistency: None,
                keep_last: None,
            };
            rules.over(&mut spec);
            let policy: Policy = client.post("/policies", &spec, None).await?;
            out.show(&policy, details)?;
        }
        Verb::Edit {
            policy,
            name,
            rules,
            on_request,
            any_method,
            keep_all,
        } => {
            let known: Policy = client.get(&path(&policy)).await?;
            let mut spec = known.spec;
            rules.over(&mut spec);
            if let Some(name) = name {
                spec.name = name;
            }
            if on_request {
                spec.interval_secs = None;
            }
            if any_method {
                spec.method = None;
            }
            if keep_all {
                spec.keep_last = None;
            }
            let policy: Policy = client.put(&path(&known.id), &spec).await?;
            out.show(&policy, details)?;
        }
        Verb::Delete { policy } => {
            client.delete(&path(&policy)).await?;
            super::done(out, &format!("the policy {policy} is removed"))?;
        }
    }
    Ok(Exit::Ok)
}

fn details(policy: &Policy) -> View {
    View::fields([
        ("id", policy.id.clone()),
        ("name", policy.spec.name.clone()),
        ("every", every(&policy.spec)),
        ("method", method(&policy.spec)),
        (
            "consistency",
            policy
                .spec
                .consistency
                .clone()
                .unwrap_or_else(|| "prefer-application".to_owned()),
        ),
        ("keep", keep(&policy.spec)),
        ("VMs", policy.vms.to_string()),
    ])
}

fn every(spec: &PolicySpec) -> String {
    spec.interval_secs
        .map_or_else(|| "on request".to_owned(), values::show_duration)
}

fn method(spec: &PolicySpec) -> String {
    spec.method
        .clone()
        .unwrap_or_else(|| "by host and VM".to_owned())
}

fn keep(spec: &PolicySpec) -> String {
    spec.keep_last
        .map_or_else(|| "all".to_owned(), |count| format!("last {count}"))
}
