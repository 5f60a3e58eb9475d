//! `reprise job list|show|watch|cancel`, and what every verb that starts a job does with it.

use std::time::Duration;

use api::v1::{Job, LogLine, Parked};
use api_client::People;
use clap::{Args, Subcommand};

use super::backup::WaitArgs;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow;
use crate::output::Output;
use crate::values;
use crate::view::{Rows, View, between, bytes, or_dash};

/// Arguments of `job`.
#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List jobs, newest first
    #[command(after_help = "Example:\n  reprise job list --state queued")]
    List {
        /// Only jobs in this state
        #[arg(long, value_name = "STATE", value_parser = ["queued", "running", "succeeded", "warnings", "failed", "cancelled", "expired", "skipped"])]
        state: Option<String>,
        /// Only jobs of this kind
        #[arg(long, value_name = "KIND", value_parser = ["backup", "restore", "restore-undo", "restore-finish", "verify"])]
        kind: Option<String>,
        /// Only jobs of this VM, by name or id
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// Most jobs to show
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show one job: steps, figures, why it waits or failed
    #[command(
        after_help = "Example:\n  reprise job show 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11 --log"
    )]
    Show {
        /// Id of the job
        job: String,
        /// Also print its log
        #[arg(long)]
        log: bool,
    },
    /// Follow jobs to their ends; the exit code says how they ended
    #[command(
        after_help = "Example:\n  reprise job watch 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11 --timeout 30m"
    )]
    Watch {
        /// Ids of the jobs
        #[arg(required = true, value_name = "JOB")]
        jobs: Vec<String>,
        /// Stop following after this time, with exit code 8; the jobs go on
        #[arg(long, value_name = "TIME", value_parser = values::duration)]
        timeout: Option<Duration>,
    },
    /// Stop a job that waits or runs
    #[command(after_help = "Example:\n  reprise job cancel 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11")]
    Cancel {
        /// Id of the job
        job: String,
    },
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: JobArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List {
            state,
            kind,
            vm,
            limit,
        } => {
            let mut path = format!("/jobs?limit={}", limit.clamp(1, 200));
            for (name, value) in [("state", state), ("kind", kind), ("vm", vm)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", People::segment(&value)));
                }
            }
            let jobs: Vec<Job> = super::list::all(&client, &path, Some(limit)).await?;
            out.show(&jobs, |jobs| View::Table(table(jobs)))?;
            Ok(Exit::Ok)
        }
        Verb::Show { job, log } => show(out, &client, &job, log).await,
        Verb::Watch { jobs, timeout } => watch(out, &client, &jobs, timeout).await,
        Verb::Cancel { job } => {
            let path = format!("/jobs/{}/cancel", People::segment(&job));
            let job: Job = client.post(&path, &serde_json::json!({}), None).await?;
            out.show(&job, |job| {
                let text = if follow::has_ended(&job.state) {
                    format!("job {} is {}", job.id, job.state)
                } else {
                    format!("job {} stops at the next safe place", job.id)
                };
                View::Text(text)
            })?;
            Ok(Exit::Ok)
        }
    }
}

/// Shows jobs that were just made or, if asked to, follows them to their ends.
pub(crate) async fn started(
    out: Output,
    client: &People,
    jobs: Vec<Job>,
    wait: WaitArgs,
) -> Result<Exit, Failure> {
    if wait.wait {
        let ended = follow::follow_all(out, client, jobs, wait.timeout).await?;
        return show_ended(out, &ended);
    }
    for job in &jobs {
        out.show(job, |job| {
            let vm = job.vm.as_ref().map_or("?", |vm| vm.name.as_str());
            View::Text(format!(
                "job {}: {} of {vm} is {}\n  follow it with: reprise job watch {}",
                job.id,
                job.kind,
                state(job),
                job.id
            ))
        })?;
    }
    Ok(Exit::Ok)
}

fn show_ended(out: Output, jobs: &[Job]) -> Result<Exit, Failure> {
    let mut exit = Exit::Ok;
    for job in jobs {
        out.show(job, details)?;
        exit = exit.worst(follow::exit_of_job(job));
    }
    Ok(exit)
}

async fn show(out: Output, client: &People, job: &str, log: bool) -> Result<Exit, Failure> {
    let path = format!("/jobs/{}", People::segment(job));
    let job: Job = client.get(&path).await?;
    if !log {
        out.show(&job, details)?;
        return Ok(Exit::Ok);
    }
    let lines: Vec<LogLine> = super::list::all(client, &format!("{path}/log"), None).await?;
    let mut value =
        serde_json::to_value(&job).map_err(|error| Failure::new("failed", error.to_string()))?;
    value["log"] = serde_json::json!(lines);
    out.show(&value, |_| {
        let text: String = lines
            .iter()
            .map(|line| {
                format!(
                    "{}  {:7}  {}\n",
                    line.at,
                    line.level,
                    crate::output::clean(&line.text)
                )
            })
            .collect();
        View::Text(format!("{}\n{text}", details(&job).render(false)))
    })?;
    Ok(Exit::Ok)
}

async fn watch(
    out: Output,
    client: &People,
    ids: &[String],
    timeout: Option<Duration>,
) -> Result<Exit, Failure> {
    let mut jobs: Vec<Job> = Vec::new();
    for id in ids {
        jobs.push(
            client
                .get(&format!("/jobs/{}", People::segment(id)))
                .await?,
        );
    }
    if !out.is_json() {
        let ended = follow::follow_all(out, client, jobs, timeout).await?;
        return show_ended(out, &ended);
    }
    let deadline = timeout.map(|limit| tokio::time::Instant::now() + limit);
    let mut exit = Exit::Ok;
    for job in jobs {
        let ended = follow::follow(client, job, deadline, |job| out.json_line(job)).await?;
        exit = exit.worst(follow::exit_of_job(&ended));
    }
    Ok(exit)
}

fn table(jobs: &[Job]) -> Rows {
    let mut rows = Rows::new(
        ["CREATED", "KIND", "VM", "HOST", "STATE", "TOOK", "ID"],
        "no such jobs",
    );
    for job in jobs {
        rows.row([
            job.created.clone(),
            job.kind.clone(),
            or_dash(job.vm.as_ref().map(|vm| vm.name.as_str())),
            or_dash(job.host.as_ref().map(|host| host.name.as_str())),
            state(job),
            between(job.started.as_deref(), job.ended.as_deref()),
            job.id.clone(),
        ]);
    }
    rows
}

fn state(job: &Job) -> String {
    match &job.cause {
        Some(cause) if job.state == "queued" => format!("{} ({cause})", job.state),
        Some(_) | None => job.state.clone(),
    }
}

/// Says what a restore keeps, until when, and what can be done about it.
fn parked(job: &Job, kept: &Parked) -> String {
    let what = match kept.whole_vm {
        true => "the VM whose place was taken",
        false => "the disks whose place was taken",
    };
    let size = format!("{what}: {} files, {}", kept.files, bytes(kept.bytes));
    let by = kept
        .by_job
        .as_ref()
        .map_or_else(String::new, |by| format!(" by job {by}"));
    let ended = kept.ended.as_deref().unwrap_or_default();
    match kept.state.as_str() {
        "undone" => format!("{size}\nput back {ended}{by}"),
        "finished" => format!("{size}\ndeleted {ended}{by}"),
        _ => {
            let run = match kept.ran {
                Some(_) => "",
                None => ", but not before the restored VM was seen running",
            };
            format!(
                "{size}\nkept until {}{run}\nput it back: reprise restore undo {}\ndelete it: reprise restore finish {}",
                kept.until, job.id, job.id
            )
        }
    }
}

/// Shows everything about one job.
pub(crate) fn details(job: &Job) -> View {
    let steps: Vec<String> = job
        .steps
        .iter()
        .map(|step| {
            let took = between(Some(&step.started), step.ended.as_deref());
            let detail = step.detail.as_deref().unwrap_or_default();
            format!("{:10} {:8} {took:>8}  {detail}", step.name, step.state)
                .trim_end()
                .to_owned()
        })
        .collect();
    let figures = &job.figures;
    let error = job
        .error
        .as_ref()
        .map_or_else(String::new, |error| match &error.hint {
            Some(hint) => format!("{} [{}]\nwhat to do: {hint}", error.message, error.code),
            None => format!("{} [{}]", error.message, error.code),
        });
    View::fields([
        ("job", job.id.clone()),
        ("what", job.kind.clone()),
        (
            "VM",
            job.vm
                .as_ref()
                .map_or_else(String::new, |vm| vm.name.clone()),
        ),
        (
            "host",
            job.host
                .as_ref()
                .map_or_else(String::new, |host| host.name.clone()),
        ),
        ("state", job.state.clone()),
        (
            "waits for",
            job.cause
                .as_ref()
                .map_or_else(String::new, |_| follow::waiting_for(job)),
        ),
        ("recovery point", job.point.clone().unwrap_or_default()),
        (
            "asked for",
            format!("{} by {}", job.created, job.requested_by),
        ),
        (
            "took",
            between(job.started.as_deref(), job.ended.as_deref()),
        ),
        (
            "attempts",
            if job.attempt > 1 {
                job.attempt.to_string()
            } else {
                String::new()
            },
        ),
        ("steps", steps.join("\n")),
        (
            "figures",
            format!(
                "read {}, sent {}, stored {}, reused {}",
                bytes(figures.bytes_read),
                bytes(figures.bytes_sent),
                bytes(figures.bytes_stored),
                bytes(figures.bytes_reused)
            ),
        ),
        (
            "kept beside",
            job.parked
                .as_ref()
                .map_or_else(String::new, |kept| parked(job, kept)),
        ),
        ("warnings", job.warnings.join("\n")),
        ("error", error),
    ])
}
