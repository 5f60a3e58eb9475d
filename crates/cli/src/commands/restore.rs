//! `reprise restore plan|start|undo|finish|receipt`.

mod agreed;
mod receipt;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::v1::{InPlace, Job, Jobs, RestorePlan, RestoreRequest};
use api_client::People;
use clap::{Args, Subcommand, ValueEnum};

use super::backup::WaitArgs;
use super::job;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::values;

pub(crate) use receipt::text as receipt_text;

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Show everything a restore would do; nothing is changed. Exit code 1 where something speaks against it
    #[command(after_help = "Examples:\n  \
        reprise restore plan web01\n  \
        reprise restore plan web01 --to HV02 --folder 'D:\\Restored' --json > plan.json\n  \
        reprise restore start --plan plan.json --wait")]
    Plan(Box<PlanArgs>),
    /// Bring VMs, or disks of a VM, back from a recovery point
    #[command(after_help = "Examples:\n  \
        reprise restore start web01 --wait\n  \
        reprise restore start web01 --to HV02 --folder 'D:\\Restored' --name web01-test --network LAN=Lab --power on\n  \
        reprise restore start web01 --disk data.vhdx --folder 'D:\\Restored' --wait\n  \
        reprise restore start --plan plan.json --wait")]
    Start(Box<StartArgs>),
    /// Put back what a restore took the place of; what it made is kept in turn, so an undo can be undone
    #[command(after_help = "Example:\n  \
        reprise restore undo 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11 --wait")]
    Undo(EndArgs),
    /// Delete what a restore took the place of; it can no longer be undone
    #[command(after_help = "Example:\n  \
        reprise restore finish 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11 --wait")]
    Finish(EndArgs),
    /// Show the signed receipt of a restore that ended well: what was read back from the host, and from what
    #[command(after_help = "Example:\n  \
        reprise restore receipt 2f1d6a52-7f0b-4f3e-8a0a-9b7f1f0f4c11 --out receipt.json")]
    Receipt(receipt::ReceiptArgs),
}

#[derive(Args, Debug)]
struct EndArgs {
    /// Id of the restore's job, or of an undo's; `reprise job show` says what it keeps, and until when
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
struct PlanArgs {
    /// Names or ids, also of VMs that no longer exist
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    #[command(flatten)]
    wish: WishArgs,
}

#[derive(Args, Debug)]
struct StartArgs {
    /// Names or ids, also of VMs that no longer exist
    #[arg(required_unless_present = "plan", value_name = "VM")]
    vms: Vec<String>,
    #[command(flatten)]
    wish: WishArgs,
    /// Do exactly what `restore plan --json` wrote to this file; refused with exit code 6 where that has drifted
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// What a restore is asked to do.
#[derive(Args, Debug)]
struct WishArgs {
    /// Recovery point by id, or latest
    #[arg(long, value_name = "POINT", default_value = "latest")]
    point: String,
    /// Only this disk, by its id, path or file name, as a file in a folder; may be repeated
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<String>,
    /// Where to: the original location, or a host by name or id
    #[arg(long, value_name = "original|HOST")]
    to: Option<String>,
    /// Folder on the host for all disks, or for one disk as DISK=PATH; may be repeated
    #[arg(long = "folder", value_name = "PATH|DISK=PATH")]
    folders: Vec<String>,
    /// New name of the VM
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Connect what was on one switch to another, as FROM=TO; may be repeated
    #[arg(long = "network", value_name = "FROM=TO", value_parser = values::pair)]
    networks: Vec<(String, String)>,
    /// Id of the VM [default: keep at the original location, new elsewhere]
    #[arg(long, value_enum)]
    id: Option<KeepOrNew>,
    /// MAC addresses [default: keep at the original location, new elsewhere]
    #[arg(long, value_enum)]
    mac: Option<KeepOrNew>,
    /// What the VM does afterwards [default: off]
    #[arg(long, value_enum)]
    power: Option<PowerName>,
    /// Attach the chosen disks to this VM of the target host as new ones
    #[arg(long, value_name = "VM", requires = "disks")]
    attach: Option<String>,
    /// Let the chosen disks take the place of those the VM has now; these are kept until finish or undo
    #[arg(long, requires = "disks", conflicts_with = "attach")]
    replace_disk: bool,
    /// Write over the disks that are there, where space for both is short; needs --confirm-overwrite
    #[arg(long, hide = true)]
    in_place: bool,
    /// Do not keep what --in-place writes over: a failure can then not be taken back
    #[arg(long, requires = "in_place", hide = true)]
    without_journal: bool,
    /// Confirms --in-place: while it runs neither the old nor the new VM is whole
    #[arg(long, requires = "in_place", hide = true)]
    confirm_overwrite: bool,
    /// Disk file on the host that may hold blocks of the recovery point, so that these need not be sent; may be repeated
    #[arg(long = "seed", value_name = "PATH")]
    seeds: Vec<String>,
    /// Write zeros where the recovery point is damaged; such a restore ends with warnings
    #[arg(long, hide = true)]
    skip_damaged: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeepOrNew {
    /// As in the recovery point
    Keep,
    /// Made anew
    New,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PowerName {
    /// Stays off
    Off,
    /// Runs if it ran at backup time
    AsBefore,
    /// Is started
    On,
}

/// Runs a verb.
pub(crate) async fn run(out: Output, args: RestoreArgs) -> Result<Exit, Failure> {
    let client = args.connection.open()?;
    let start = match args.verb {
        Verb::Plan(plan) => {
            let mut exit = Exit::Ok;
            for request in requests(&plan.vms, &plan.wish)? {
                let plan: RestorePlan = client.post("/restores/plan", &request, None).await?;
                out.show(&plan, show::plan)?;
                if !plan.planned.refusals.is_empty() {
                    exit = Exit::Failed;
                }
            }
            return Ok(exit);
        }
        Verb::Undo(args) => return end(out, &client, "undo", args).await,
        Verb::Finish(args) => return end(out, &client, "finish", args).await,
        Verb::Receipt(args) => return receipt::run(out, &client, args).await,
        Verb::Start(start) => start,
    };
    let requests = match &start.plan {
        Some(file) => agreed::requests(file, &start.vms, &start.wish)?,
        None => requests(&start.vms, &start.wish)?,
    };
    let mut jobs: Vec<Job> = Vec::new();
    for request in requests {
        let made: Jobs = client
            .post("/restores", &request, Some(&super::new_key()))
            .await?;
        jobs.extend(made.jobs);
    }
    job::started(out, &client, jobs, start.wait).await
}

/// Undoes or finishes a restore.
async fn end(out: Output, client: &People, verb: &str, args: EndArgs) -> Result<Exit, Failure> {
    let path = format!("/restores/{}/{verb}", People::segment(&args.job));
    let nothing = serde_json::json!({});
    let made: Jobs = client
        .post(&path, &nothing, Some(&super::new_key()))
        .await?;
    job::started(out, client, made.jobs, args.wait).await
}

/// Makes one request for each VM.
fn requests(vms: &[String], args: &WishArgs) -> Result<Vec<RestoreRequest>, Failure> {
    if vms.len() > 1 {
        for (given, flag) in [
            (args.name.is_some(), "--name"),
            (!args.disks.is_empty(), "--disk"),
            (args.point != "latest", "--point"),
        ] {
            if given {
                return Err(Failure::usage(format!(
                    "{flag} is about one VM, but {} were named",
                    vms.len()
                ))
                .hint("restore them one by one"));
            }
        }
    }
    let mut folder = None;
    let mut disk_folders = BTreeMap::new();
    for text in &args.folders {
        match disk_folder(text) {
            Some((disk, path)) => {
                disk_folders.insert(disk, path);
            }
            None if folder.is_none() => folder = Some(text.clone()),
            None => {
                return Err(Failure::usage("--folder was given twice for all disks")
                    .hint("give it once, and as DISK=PATH for single disks"));
            }
        }
    }
    let keep_or_new = |choice: Option<KeepOrNew>| {
        choice.map(|choice| {
            match choice {
                KeepOrNew::Keep => "keep",
                KeepOrNew::New => "new",
            }
            .to_owned()
        })
    };
    let power = args.power.map(|power| {
        match power {
            PowerName::Off => "off",
            PowerName::AsBefore => "as-before",
            PowerName::On => "on",
        }
        .to_owned()
    });
    Ok(vms
        .iter()
        .map(|vm| RestoreRequest {
            vm: vm.clone(),
            point: Some(args.point.clone()),
            disks: args.disks.clone(),
            to: args.to.clone(),
            folder: folder.clone(),
            disk_folders: disk_folders.clone(),
            name: args.name.clone(),
            networks: args.networks.iter().cloned().collect(),
            id: keep_or_new(args.id),
            mac: keep_or_new(args.mac),
            power: power.clone(),
            attach: args.attach.clone(),
            replace_disk: args.replace_disk,
            in_place: args.in_place.then_some(InPlace {
                confirmed: args.confirm_overwrite,
                journal: !args.without_journal,
            }),
            seeds: args.seeds.clone(),
            skip_damaged: args.skip_damaged,
            plan: None,
        })
        .collect())
}

/// Splits `DISK=PATH`. A Windows path may itself hold `=`, so the right side must be a path from its root.
fn disk_folder(text: &str) -> Option<(String, String)> {
    let (disk, path) = text.rsplit_once('=')?;
    let mut chars = path.chars();
    let drive = matches!(
        (chars.next(), chars.next(), chars.next()),
        (Some(letter), Some(':'), Some('\\' | '/')) if letter.is_ascii_alphabetic()
    );
    let rooted = drive || path.starts_with(r"\\");
    (rooted && !disk.is_empty()).then(|| (disk.to_owned(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        start: StartArgs,
    }

    fn parse(words: &[&str]) -> Result<Vec<RestoreRequest>, Failure> {
        let line = Line::try_parse_from(std::iter::once(&"start").chain(words)).unwrap();
        requests(&line.start.vms, &line.start.wish)
    }

    #[test]
    fn folders_are_told_from_folders_of_disks() {
        for (text, disk) in [
            (r"D:\Restored", None),
            (r"D:\a=b", None),
            (r"data.vhdx=D:\Restored", Some("data.vhdx")),
            (r"C:\VMs\a=b.vhdx=\\server\share", Some(r"C:\VMs\a=b.vhdx")),
            (r"=D:\x", None),
        ] {
            assert_eq!(
                disk_folder(text).map(|(disk, _)| disk).as_deref(),
                disk,
                "{text}"
            );
        }
    }

    #[test]
    fn the_wish_is_passed_on_whole() {
        let requests = parse(&[
            "web01",
            "--to",
            "HV02",
            "--folder",
            r"D:\R",
            "--folder",
            r"data.vhdx=E:\R",
            "--name",
            "web02",
            "--network",
            "LAN=Lab",
            "--id",
            "new",
            "--mac",
            "keep",
            "--power",
            "as-before",
            "--disk",
            "data.vhdx",
        ])
        .unwrap();
        let request = serde_json::to_value(&requests[0]).unwrap();
        assert_eq!(
            request,
            serde_json::json!({
                "vm": "web01", "point": "latest", "disks": ["data.vhdx"], "to": "HV02", "folder": r"D:\R",
                "disk_folders": {"data.vhdx": r"E:\R"}, "name": "web02", "networks": {"LAN": "Lab"},
                "id": "new", "mac": "keep", "power": "as-before",
            })
        );
    }

    #[test]
    fn what_is_about_one_vm_is_refused_for_several() {
        assert_eq!(parse(&["a", "b"]).unwrap().len(), 2);
        for words in [["a", "b", "--name", "x"], ["a", "b", "--disk", "x"]] {
            assert_eq!(parse(&words).unwrap_err().exit, Exit::Usage);
        }
        assert!(parse(&["a", "--folder", r"C:\x", "--folder", r"C:\y"]).is_err());
    }
}
