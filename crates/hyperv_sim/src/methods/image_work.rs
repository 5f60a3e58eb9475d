//! What jobs of the image service do to disk files.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use vhdx::{Beyond, BulkWriter, CompactOptions, ConvertOptions, Durability, MergedIdentity, Vhdx};

use super::image::NewDisk;
use super::{ImageOperation, mounted};
use crate::checkpoints::reattach;
use crate::children::{link_to, make_child};
use crate::disks::{Hold, open_chain, open_file, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::jobs::Job;
use crate::merge::Pace;
use crate::refusals::Refusal;
use crate::state::Vm;
use crate::volume;
use crate::winpath::{WinPath, same_path};

/// Does what a job of the image service is to do.
pub(crate) fn perform(
    engine: &Arc<Engine>,
    operation: &ImageOperation,
    job: &Job,
) -> Result<Vec<String>, Failure> {
    match operation {
        ImageOperation::Create { disk } => make(engine, disk, job)?,
        ImageOperation::Convert { source, disk } => convert(engine, source, disk, job)?,
        ImageOperation::Compact { path, find_zeros } => compact(engine, path, *find_zeros, job)?,
        ImageOperation::Attach { path, read_only } => {
            return mounted::mount(engine, path, *read_only);
        }
        ImageOperation::Resize { path, size } => resize(engine, path, *size, job)?,
        ImageOperation::Validate { path } => {
            open_chain(engine, &parse_path(path)?, Hold::None)?;
        }
        ImageOperation::SetParent {
            child,
            parent,
            ignore_mismatch,
        } => {
            set_parent(engine, child, parent, *ignore_mismatch)?;
        }
        ImageOperation::Merge { child, parent } => merge(engine, child, parent, job)?,
        ImageOperation::SetDiskId { path, disk_id } => {
            need_unused(engine, path)?;
            let path = parse_path(path)?;
            let file = open_file(engine, &path, Hold::Exclusive)?;
            vhdx::set_disk_id(file, *disk_id, Durability::ProcessKill)
                .map_err(|err| Failure::vhdx(&path, &err))?;
        }
    }
    Ok(Vec::new())
}

fn make(engine: &Engine, disk: &NewDisk, job: &Job) -> Result<(), Failure> {
    into_place(engine, disk, job, |new, temporary| {
        let path = parse_path(&disk.path)?;
        if let Some(parent) = &disk.parent {
            make_child(engine, &parse_path(parent)?, new)?;
            return Ok(());
        }
        let file =
            create(temporary).map_err(|err| Failure::io(format!("create '{path}'"), &err))?;
        let made = BulkWriter::create(file, &disk.params()).and_then(BulkWriter::finish);
        made.map(drop).map_err(|err| Failure::vhdx(&path, &err))
    })
}

/// Makes a file under another name first: a host that is killed leaves no half of a disk under the right one.
fn into_place(
    engine: &Engine,
    disk: &NewDisk,
    job: &Job,
    make: impl FnOnce(&WinPath, &PathBuf) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path = parse_path(&disk.path)?;
    let needed = if disk.fixed { disk.size } else { 0 };
    volume::need_room(engine, &path, needed, &job.method)?;
    let local = engine.local(&path);
    if local.exists() {
        return Err(Failure::refused(
            Refusal::CreateThere,
            format!("'{path}' exists already"),
        ));
    }
    let new = parse_path(&format!("{path}.new"))?;
    let temporary = engine.local(&new);
    make(&new, &temporary).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    std::fs::rename(&temporary, &local).map_err(|err| Failure::io(format!("create '{path}'"), &err))
}

fn create(local: &PathBuf) -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(local)
}

/// Copies what a disk reads as, through its chain, into a new file.
fn convert(engine: &Engine, source: &str, disk: &NewDisk, job: &Job) -> Result<(), Failure> {
    let source = parse_path(source)?;
    into_place(engine, disk, job, |_, temporary| {
        let layers = open_chain(engine, &source, Hold::Shared)?
            .into_iter()
            .map(|link| Vhdx::open(link.file));
        let layers: Result<Vec<Vhdx>, _> = layers.collect();
        let chain = layers.and_then(vhdx::Chain::from_layers);
        let chain = chain.map_err(|err| Failure::vhdx(&source, &err))?;
        let target = create(temporary)
            .map_err(|err| Failure::io(format!("create '{}'", disk.path), &err))?;
        let pace = Pace::of_job(engine, Some(job));
        let copied = vhdx::convert(
            &chain.into_disk(),
            target,
            &disk.params(),
            ConvertOptions::default(),
            &mut |at| pace.go_on(at),
        );
        copied.map(drop).map_err(|err| pace.failure(&source, &err))
    })
}

fn compact(engine: &Engine, path: &str, find_zeros: bool, job: &Job) -> Result<(), Failure> {
    let path = parse_path(path)?;
    let file = take(engine, &path)?;
    let pace = Pace::of_job(engine, Some(job));
    let options = CompactOptions { find_zeros };
    vhdx::compact(file, options, Durability::ProcessKill, &mut |at| {
        pace.go_on(at)
    })
    .map(drop)
    .map_err(|err| pace.failure(&path, &err))
}

/// Gives a disk another size; a running VM lets go of it for that moment.
fn resize(engine: &Engine, path: &str, size: u64, job: &Job) -> Result<(), Failure> {
    let path = parse_path(path)?;
    let text = path.to_string();
    let of_checkpoint = engine.read(|state| {
        state.vms.values().any(|vm| {
            vm.chain.values().any(|parent| same_path(parent, &text))
                || vm
                    .checkpoints
                    .iter()
                    .any(|checkpoint| checkpoint.definition.uses_file(&text))
        })
    });
    if of_checkpoint {
        return Err(Failure::failed(format!(
            "'{path}' belongs to a checkpoint; delete the checkpoint first"
        )));
    }
    let before = open_link(engine, &path, Hold::None)?.info;
    if before.kind == vhdx::DiskKind::Fixed {
        let more = size.saturating_sub(before.size);
        volume::need_room(engine, &path, more, &job.method)?;
    }
    let pace = Pace::of_job(engine, None);
    let change = || {
        let file = take(engine, &path)?;
        vhdx::resize(
            file,
            size,
            Beyond::MustBeZero,
            Durability::ProcessKill,
            &mut |at| pace.go_on(at),
        )
        .map(drop)
        .map_err(|err| pace.failure(&path, &err))
    };
    let owner = engine.read(|state| {
        let holds = |vm: &&Vm| vm.power.holds_disks() && vm.definition.uses_file(&text);
        state.vms.values().find(holds).map(|vm| vm.id)
    });
    let Some(owner) = owner else { return change() };
    engine.with_disks(owner, |disks| {
        let vm = engine.need_vm(owner)?;
        disks.detach_using(engine, &vm, &text);
        let changed = change();
        reattach(engine, disks, owner)?;
        changed
    })
}

/// Takes a file that nobody has.
fn take(engine: &Engine, path: &WinPath) -> Result<Arc<File>, Failure> {
    open_file(engine, path, Hold::Exclusive)
}

fn need_unused(engine: &Engine, path: &str) -> Result<(), Failure> {
    let user = engine.read(|state| {
        let uses = |vm: &&Vm| {
            !vm.planned
                && vm
                    .definitions()
                    .any(|definition| definition.uses_file(path))
        };
        state.vms.values().find(uses).map(|vm| vm.name().to_owned())
    });
    match user {
        Some(user) => Err(Failure::refused(
            Refusal::ImageAttached,
            format!("'{path}' is in use by the virtual machine {user}"),
        )),
        None => Ok(()),
    }
}

fn set_parent(
    engine: &Engine,
    child: &str,
    parent: &str,
    ignore_mismatch: bool,
) -> Result<(), Failure> {
    let (child, parent) = (parse_path(child)?, parse_path(parent)?);
    let child_info = open_link(engine, &child, Hold::None)?.info;
    let parent_info = open_link(engine, &parent, Hold::Shared)?.info;
    let locator = child_info
        .parent
        .as_ref()
        .ok_or_else(|| Failure::failed(format!("'{child}' is no differencing disk")))?;
    if !ignore_mismatch && !locator.accepts(parent_info.data_write_guid) {
        return Err(Failure::refused(
            Refusal::ParentStranger,
            format!("'{parent}' is not the disk '{child}' was made from"),
        ));
    }
    let file = open_file(engine, &child, Hold::Exclusive)?;
    let link = link_to(engine, &parent, &child, &parent_info);
    vhdx::set_parent(file, &link, Durability::ProcessKill)
        .map_err(|err| Failure::vhdx(&child, &err))?;
    Ok(())
}

/// Merges a disk into its parent, or on down to an ancestor; each merged file is removed.
fn merge(engine: &Engine, child: &str, ancestor: &str, job: &Job) -> Result<(), Failure> {
    need_unused(engine, child)?;
    need_unused(engine, ancestor)?;
    // It was there when the job was made: gone means merged, by this job before the host was killed.
    if !engine.local(&parse_path(child)?).exists() {
        return Ok(());
    }
    let links = open_chain(engine, &parse_path(child)?, Hold::None)?;
    let paths: Vec<WinPath> = links.iter().map(|link| link.path.clone()).collect();
    let ancestor = parse_path(ancestor)?;
    let last = paths
        .iter()
        .position(|path| *path == ancestor)
        .filter(|&at| at > 0);
    let last = last.ok_or_else(|| {
        Failure::refused(
            Refusal::MergeStranger,
            format!("'{ancestor}' is no parent of '{child}'"),
        )
    })?;
    drop(links);
    for pair in paths[..=last].windows(2) {
        let child_file = open_file(engine, &pair[0], Hold::Exclusive)?;
        let parent_file = open_file(engine, &pair[1], Hold::Exclusive)?;
        let pace = Pace::of_job(engine, Some(job));
        vhdx::merge(
            child_file,
            parent_file,
            MergedIdentity::New,
            Durability::ProcessKill,
            &mut |at| pace.go_on(at),
        )
        .map_err(|err| pace.failure(&pair[0], &err))?;
        std::fs::remove_file(engine.local(&pair[0]))
            .map_err(|err| Failure::io(format!("delete '{}'", pair[0]), &err))?;
    }
    Ok(())
}
