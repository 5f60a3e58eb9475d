//! `reprise demo`: the whole product on one machine, on real disks, with a verdict.
//!
//! Server, simulated host and agent run as processes of their own; what is done to them goes over the server's API and
//! the host's control verbs, as a person or script would. Before each backup every disk is hashed as the guest sees it;
//! after each restore what came back is hashed and compared.
//!
//! Invariant: the programs end with the demo, however it ends, unless they were asked to stay.

mod compare;
mod files;
mod guest_disk;
mod guests;
mod processes;
mod report;
mod site;
mod window;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use api::v1::{BackupRequest, Job, Jobs, Policy, PolicySpec, ProtectRequest, RestoreRequest, Vm};
use api_client::People;
use hyperv_sim::ctl::{Command, PowerAction};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::exit::{End, Exit, exit_of};
use crate::failure::Failure;
use crate::follow;
use crate::output::Output;
use crate::view::bytes;
use compare::Moment;
use guests::{Guest, Guests};
use report::Report;
use site::Site;

/// How long any one backup or restore may take.
const JOB: Duration = Duration::from_secs(1800);
/// What the workload writes into the second guest.
const WORKLOAD_BYTES: u64 = 8 << 20;

/// What a person asked of the demo.
#[derive(Debug)]
pub(crate) struct Options {
    /// Own disks, to be put into a VM as well.
    pub(crate) disks: Vec<PathBuf>,
    /// Leave everything running.
    pub(crate) keep: bool,
    /// A new folder to work in.
    pub(crate) dir: Option<PathBuf>,
}

/// Runs the demo to its verdict.
pub(crate) async fn run(out: Output, options: Options) -> Result<Exit, Failure> {
    let folder = make_folder(options.dir.as_deref())?;
    let mut report = Report::new(out);
    let (mut site, guests) = prepare(&mut report, folder.path(), &options.disks).await?;
    if let Err(error) = story(&mut report, &mut site, guests).await {
        out.note(&site.logs());
        return Err(error.into());
    }
    let kept = if options.keep {
        let kept = site.keep()?;
        let _ = folder.keep();
        Some(kept)
    } else {
        // The programs end first: what they hold open cannot be removed everywhere.
        drop(site);
        None
    };
    let equal = report.verdict(kept.as_ref())?;
    Ok(if equal {
        Exit::Ok
    } else {
        exit_of(End::Code(api::codes::DAMAGED))
    })
}

fn make_folder(dir: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    match dir {
        None => builder
            .prefix("reprise-demo-")
            .tempdir()
            .context("make a folder for temporary files"),
        Some(dir) => {
            let dir =
                std::path::absolute(dir).with_context(|| format!("resolve {}", dir.display()))?;
            let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
                bail!("{} is no name for a new folder", dir.display());
            };
            std::fs::create_dir_all(parent)
                .with_context(|| format!("make {}", parent.display()))?;
            builder
                .prefix(name)
                .rand_bytes(0)
                .tempdir_in(parent)
                .with_context(|| format!("make the new folder {}", dir.display()))
        }
    }
}

/// Makes the guests' disks, the host and its VMs, and starts everything.
async fn prepare(
    report: &mut Report,
    folder: &Path,
    own: &[PathBuf],
) -> anyhow::Result<(Site, Guests)> {
    let (place, own) = (folder.to_owned(), own.to_vec());
    let made = tokio::task::spawn_blocking(move || -> anyhow::Result<Guests> {
        let guests = Guests::make(&place.join("disks"), &own)?;
        Site::make_host(&place)?;
        for guest in guests.all() {
            Site::add_vm(&place, guest.name, guest.disks_to_add())?;
        }
        Ok(guests)
    });
    let guests = made.await.context("make the guests' disks")??;
    let figures = json!({ "guests": guests.all().count(), "files": guests.file_count(), "file_bytes": guests.file_bytes() });
    let detail = format!(
        "{} files of {} on GPT and FAT32",
        guests.file_count(),
        bytes(guests.file_bytes())
    );
    report.step("make the guests' disks", &detail, figures)?;

    let site = Site::start(folder).await?;
    report.step(
        "start server, host and agent",
        &site.server,
        json!({ "server": site.server }),
    )?;
    Ok((site, guests))
}

/// Back up, change, back up again, lose, restore, compare.
async fn story(report: &mut Report, site: &mut Site, mut guests: Guests) -> anyhow::Result<()> {
    let policy = PolicySpec {
        name: "on-request".to_owned(),
        interval_secs: None,
        method: None,
        consistency: None,
        keep_last: None,
    };
    // A schedule would make backups of its own in between.
    let policy: Policy = site.client.post("/policies", &policy, None).await?;
    let mut vms: Vec<Vm> = Vec::new();
    for guest in guests.all() {
        site.power(guest.name, PowerAction::On).await?;
        let vm = site.wait_for_vm(guest.name).await?;
        let path = format!("/vms/{}/protection", People::segment(&vm.id));
        let protect = ProtectRequest {
            policy: Some(policy.id.clone()),
            excluded: None,
        };
        vms.push(site.client.put(&path, &protect).await?);
    }
    let names: Vec<String> = vms.iter().map(|vm| vm.name.clone()).collect();
    report.step(
        "turn on and protect the VMs",
        &names.join(", "),
        json!({ "vms": names }),
    )?;

    let first = moment(report, site, &guests).await?;
    let full = back_up_all(report, site, &vms, "full backup").await?;
    change_guests(report, site, &mut guests).await?;
    let second = moment(report, site, &guests).await?;
    back_up_all(report, site, &vms, "incremental backup").await?;

    let files = guests.files();
    lose(report, site, files).await?;
    restore_to_original(report, site, files, &vms[0], &second).await?;
    restore_elsewhere(report, site, guests.database(), &vms[1], &second).await?;
    restore_one_disk(report, site, files, &vms[0], &full[0], &first).await?;
    if let Some(own) = guests.own() {
        restore_elsewhere(report, site, own, &vms[2], &second).await?;
    }
    Ok(())
}

/// Hashes every disk as its guest sees it, and checks it against what the guest wrote.
async fn moment(report: &mut Report, site: &Site, guests: &Guests) -> anyhow::Result<Moment> {
    let mut moment = Moment::default();
    for guest in guests.all() {
        moment.add(site, guest.name).await?;
    }
    for (guest, disk) in guests
        .all()
        .flat_map(|guest| guest.disks.iter().map(move |disk| (guest, disk)))
    {
        if let Some(image) = &disk.image {
            let image = image.clone();
            let written = tokio::task::spawn_blocking(move || compare::hash_file(&image))
                .await
                .context("read an image")??;
            let what = format!("{} as its guest wrote it", disk.path);
            report.compared(&what, moment.difference(guest.name, &disk.id, written));
        }
    }
    report.step("hash what the guests see", &moment.summary(), moment.json())?;
    Ok(moment)
}

async fn back_up_all(
    report: &mut Report,
    site: &Site,
    vms: &[Vm],
    what: &str,
) -> anyhow::Result<Vec<Job>> {
    let mut ended = Vec::new();
    for vm in vms {
        let request = BackupRequest {
            vms: vec![vm.id.clone()],
            full: false,
            method: None,
        };
        let jobs: Jobs = site.client.post("/backups", &request, Some(&key())).await?;
        let job = finish(site, jobs, &format!("{what} of {}", vm.name)).await?;
        report.job(&format!("{what} of {}", vm.name), &job, "")?;
        ended.push(job);
    }
    Ok(ended)
}

/// Lets the guests write: files into the first one's file system, a workload over the second one's disks.
async fn change_guests(
    report: &mut Report,
    site: &Site,
    guests: &mut Guests,
) -> anyhow::Result<()> {
    let writes = guests.files_mut().change()?;
    let count = writes.len();
    let mut written = 0;
    for write in writes {
        written += write.len;
        site.ctl(Command::GuestWrite {
            vm: write.vm,
            disk: write.disk,
            offset: write.offset,
            content: write.content,
        })
        .await?;
    }
    let database = guests.database_mut();
    site.ctl(Command::GuestWorkload {
        vm: database.name.to_owned(),
        seed: 1,
        bytes: WORKLOAD_BYTES,
    })
    .await?;
    database.changed_by_others();
    let detail = format!(
        "{} in {count} writes, and a workload of {}",
        bytes(written),
        bytes(WORKLOAD_BYTES)
    );
    report.step(
        "guests change files and data",
        &detail,
        json!({ "bytes_written": written, "writes": count, "workload_bytes": WORKLOAD_BYTES }),
    )?;
    Ok(())
}

/// The disaster: VM and disk files are gone.
async fn lose(report: &mut Report, site: &Site, guest: &Guest) -> anyhow::Result<()> {
    site.ctl(Command::VmRemove {
        vm: guest.name.to_owned(),
    })
    .await?;
    let files = site.files(&format!("{}\\*", guest.folder())).await?;
    for file in &files {
        let local = site.local(file).await?;
        std::fs::remove_file(&local).with_context(|| format!("remove {}", local.display()))?;
    }
    let what = format!("lose {}", guest.name);
    report.step(
        &what,
        "VM removed, disk files deleted",
        json!({ "files_removed": files }),
    )?;
    Ok(())
}

async fn restore_to_original(
    report: &mut Report,
    site: &Site,
    guest: &Guest,
    vm: &Vm,
    expected: &Moment,
) -> anyhow::Result<()> {
    let request = RestoreRequest {
        vm: vm.id.clone(),
        ..RestoreRequest::default()
    };
    let what = format!("restore {} where it was", guest.name);
    let job = restore(site, &request, &what).await?;
    let restored = site.vm(guest.name).await?;
    let other_id =
        (restored.id != vm.id).then(|| format!("it is {}, it was {}", restored.id, vm.id));
    report.compared(&format!("id of the restored VM {}", guest.name), other_id);
    compare::vm(report, site, guest.name, guest.name, expected).await?;
    let files = compare::files(report, site, guest).await?;
    report.job(&what, &job, &format!(", {files} files compared"))?;
    Ok(())
}

async fn restore_elsewhere(
    report: &mut Report,
    site: &Site,
    guest: &Guest,
    vm: &Vm,
    expected: &Moment,
) -> anyhow::Result<()> {
    let name = format!("{}-restored", guest.name);
    let request = RestoreRequest {
        vm: vm.id.clone(),
        to: Some(site::HOST.to_owned()),
        folder: Some(format!("D:\\Restored\\{}", guest.name)),
        name: Some(name.clone()),
        ..RestoreRequest::default()
    };
    let what = format!("restore {} elsewhere", guest.name);
    let job = restore(site, &request, &what).await?;
    compare::vm(report, site, guest.name, &name, expected).await?;
    report.job(&what, &job, &format!(", as {name}"))?;
    Ok(())
}

/// One disk, from the older recovery point, as a file.
async fn restore_one_disk(
    report: &mut Report,
    site: &Site,
    guest: &Guest,
    vm: &Vm,
    backup: &Job,
    expected: &Moment,
) -> anyhow::Result<()> {
    let folder = format!("D:\\Disks\\{}", guest.name);
    let disk = guest
        .disks
        .first()
        .ok_or_else(|| anyhow!("{} has no disk", guest.name))?;
    let request = RestoreRequest {
        vm: vm.id.clone(),
        point: backup.point.clone(),
        disks: vec![disk.id.clone()],
        folder: Some(folder.clone()),
        ..RestoreRequest::default()
    };
    let what = format!("restore a disk of {}", guest.name);
    let job = restore(site, &request, &what).await?;
    let files = site.files(&format!("{folder}\\*.vhdx")).await?;
    let [file] = files.as_slice() else {
        bail!(
            "{folder} holds {} VHDX files, one was restored: {files:?}",
            files.len()
        );
    };
    let local = site.local(file).await?;
    let hash = tokio::task::spawn_blocking(move || compare::hash_vhdx(&local))
        .await
        .context("read a disk")??;
    report.compared(
        &format!("{file} as of the first backup"),
        expected.difference(guest.name, &disk.id, hash),
    );
    report.job(&what, &job, ", from the older point, to a file")?;
    Ok(())
}

async fn restore(site: &Site, request: &RestoreRequest, what: &str) -> anyhow::Result<Job> {
    let jobs: Jobs = site.client.post("/restores", request, Some(&key())).await?;
    finish(site, jobs, what).await
}

/// Follows the one job of a request to its end, which must be a good one.
async fn finish(site: &Site, jobs: Jobs, what: &str) -> anyhow::Result<Job> {
    let mut jobs = jobs.jobs;
    let (Some(job), true) = (jobs.pop(), jobs.is_empty()) else {
        bail!("{what}: the server made another number of jobs than one");
    };
    let job = follow::follow(&site.client, job, Some(Instant::now() + JOB), |_| Ok(())).await?;
    match follow::exit_of_job(&job) {
        Exit::Ok | Exit::Warnings => Ok(job),
        Exit::Failed
        | Exit::Usage
        | Exit::NotFound
        | Exit::NotAllowed
        | Exit::Conflict
        | Exit::Integrity
        | Exit::TimedOut
        | Exit::Interrupted => {
            let why = job.error.as_ref().map_or_else(String::new, |error| {
                format!(": {} [{}]", error.message, error.code)
            });
            bail!("{what}: job {} ended as {}{why}", job.id, job.state)
        }
    }
}

fn key() -> String {
    uuid::Uuid::new_v4().to_string()
}
