//! `reprise point list|show|verify|delete`.

use api::v1::{Job, Point};
use api_client::People;
use clap::{Args, Subcommand};

use super::backup::WaitArgs;
use super::job;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::view::{Rows, View, bytes};

/// Arguments of `point`.
#[derive(Args, Debug)]
pub(crate) struct PointArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List recovery points, of one VM or of all
    #[command(after_help = "Example:\n  reprise point list web01")]
    List {
        /// Name or id of a VM
        vm: Option<String>,
    },
    /// Show one recovery point
    #[command(
        after_help = "Examples:\n  reprise point show 9d0c7c55-1c5e-4a4d-8a3c-2f3a1a5f7c10\n  reprise point show latest --vm web01"
    )]
    Show(PointName),
    /// Read everything a recovery point needs and compare it with its hashes
    #[command(after_help = "Example:\n  reprise point verify latest --vm web01 --wait")]
    Verify {
        #[command(flatten)]
        name: PointName,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Delete a recovery point for good
    #[command(
        after_help = "Example:\n  reprise point delete 9d0c7c55-1c5e-4a4d-8a3c-2f3a1a5f7c10 --yes"
    )]
    Delete {
        #[command(flatten)]
        name: PointName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct PointName {
    /// Id of the recovery point, or latest together with --vm
    point: String,
    /// The VM whose latest point is meant, by name or id
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
}

impl PointName {
    async fn read(&self, client: &People) -> Result<Point, Failure> {
        if self.point == "latest" && self.vm.is_none() {
            return Err(
                Failure::usage("latest needs a VM").hint("add --vm VM, or give the id of a point")
            );
        }
        let mut path = format!("/points/{}", People::segment(&self.point));
        if let Some(vm) = &self.vm {
            path.push_str(&format!("?vm={}", People::segment(vm)));
        }
        Ok(client.get(&path).await?)
    }
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: PointArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    match args.verb {
        Verb::List { vm } => {
            let path = vm.map_or_else(
                || "/points".to_owned(),
                |vm| format!("/points?vm={}", People::segment(&vm)),
            );
            let points: Vec<Point> = super::list::all(&client, &path, None).await?;
            out.show(&points, |points| View::Table(table(points)))?;
        }
        Verb::Show(name) => {
            let point = name.read(&client).await?;
            out.show(&point, details)?;
        }
        Verb::Verify { name, wait } => {
            let point = name.read(&client).await?;
            let path = format!("/points/{}/verify", People::segment(&point.id));
            let made: Job = client
                .post(&path, &serde_json::json!({}), Some(&super::new_key()))
                .await?;
            return job::started(out, &client, vec![made], wait).await;
        }
        Verb::Delete { name, yes } => {
            let point = name.read(&client).await?;
            let question = format!(
                "The recovery point {} of {} from {} will be deleted for good.",
                point.id,
                crate::output::clean(&point.vm.name),
                point.created
            );
            if !yes && out.can_ask() && !out.ask(&question, "delete") {
                return Err(Failure::new("failed", "nothing was deleted"));
            }
            client
                .delete(&format!("/points/{}", People::segment(&point.id)))
                .await?;
            super::done(out, &format!("the recovery point {} is deleted", point.id))?;
        }
    }
    Ok(Exit::Ok)
}

fn table(points: &[Point]) -> Rows {
    let mut rows = Rows::new(
        [
            "CREATED", "VM", "HOST", "METHOD", "KIND", "READ", "STORED", "STATE", "ID",
        ],
        "no recovery points; `reprise backup start VM` makes one",
    );
    for point in points {
        rows.row([
            point.created.clone(),
            point.vm.name.clone(),
            point.host.name.clone(),
            point.method.clone(),
            kind(point),
            bytes(point.changed_bytes),
            bytes(point.stored_bytes),
            point.state.clone(),
            point.id.clone(),
        ]);
    }
    rows
}

fn kind(point: &Point) -> String {
    match &point.reason {
        Some(reason) => format!("{} ({reason})", point.kind),
        None => point.kind.clone(),
    }
}

fn consistency(point: &Point) -> String {
    match &point.consistency_note {
        Some(note) => format!("{} ({note})", point.consistency),
        None => point.consistency.clone(),
    }
}

fn details(point: &Point) -> View {
    let disks: Vec<String> = point
        .disks
        .iter()
        .map(|disk| {
            let reason = disk
                .reason
                .as_ref()
                .map_or_else(String::new, |reason| format!(", read whole: {reason}"));
            let files = match disk.files.len() {
                0 => String::new(),
                1 => ", 1 file".to_owned(),
                several => format!(", chain of {several} files"),
            };
            format!(
                "{}  {} of {} read{reason}{files}  {}",
                disk.id,
                bytes(disk.changed_bytes),
                bytes(disk.size_bytes),
                disk.path
            )
        })
        .collect();
    let checkpoints: Vec<&str> = point
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.name.as_str())
        .collect();
    View::fields([
        ("id", point.id.clone()),
        ("VM", format!("{} ({})", point.vm.name, point.vm.id)),
        ("host", point.host.name.clone()),
        ("created", point.created.clone()),
        ("method", point.method.clone()),
        ("kind", kind(point)),
        ("consistency", consistency(point)),
        ("size", bytes(point.size_bytes)),
        ("read", bytes(point.changed_bytes)),
        ("stored", bytes(point.stored_bytes)),
        ("disks", disks.join("\n")),
        ("left out", point.excluded.join("\n")),
        ("cannot keep", point.unsupported.join("\n")),
        ("checkpoints", checkpoints.join("\n")),
        (
            "locked until",
            point.locked_until.clone().unwrap_or_default(),
        ),
        ("verified", point.verified.clone().unwrap_or_default()),
        ("state", point.state.clone()),
        ("job", point.job.clone()),
    ])
}
