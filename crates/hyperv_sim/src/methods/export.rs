//! VMs out of a host: definitions, and disks where they are asked for, below a folder.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vhdx::{ConvertOptions, DiskKind, Durability, Params, Vhdx};
use wsman::ObjectPath;

use super::answers::system_path;
use super::snapshot::need_peace;
use super::{Answer, Call, Operation};
use crate::checkpoints::reattach;
use crate::children::link_to;
use crate::cim::Value;
use crate::config_files::{self, ConfigFile};
use crate::ctl::copy_holes;
use crate::definition::{Definition, owner_of};
use crate::disks::{Hold, open_chain, open_file, open_link, parse_path};
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::jobs::Job;
use crate::merge::Pace;
use crate::platform;
use crate::refusals::Refusal;
use crate::state::{Vm, guid};
use crate::volume;
use crate::winpath::{ParsePathError, WinPath, same_path};

/// CopySnapshotConfiguration.
mod copy {
    pub(super) const ALL: u64 = 0;
    pub(super) const NONE: u64 = 1;
    pub(super) const ONE: u64 = 2;
    /// The checkpoint takes the VM's place: its settings and disks under the VM's id.
    pub(super) const BACKUP: u64 = 3;
}

/// What an export is to write, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExportPlan {
    /// The folder that holds `Virtual Machines`.
    folder: String,
    /// Checkpoints whose settings are written beside the VM's.
    checkpoints: Vec<Uuid>,
    /// The checkpoint that takes the VM's place.
    instead: Option<Uuid>,
    /// Whether disks are copied: the chains as they are, or, without checkpoints, each as one file.
    storage: bool,
    /// Whether files of the runtime state are written.
    runtime: bool,
    /// A file in the way; seen before the job began, which itself may be done twice.
    clash: Option<String>,
}

pub(crate) fn export_call(call: &Call<'_>) -> Result<Answer, Failure> {
    let vm = call.system("ComputerSystem")?;
    let folder = parse_path(call.need_text("ExportDirectory")?)?;
    let settings = call.embedded("ExportSettingData")?;
    let flag = |name: &str| {
        let given = settings
            .as_ref()
            .and_then(|settings| settings.given.get(name));
        given.and_then(Value::as_bool).unwrap_or(true)
    };
    let text = |name: &str| settings.as_ref().and_then(|settings| settings.text(name));
    if text("DifferentialBackupBase").is_some_and(|base| !base.is_empty()) {
        return Err(Failure::new(
            code::NOT_SUPPORTED,
            "this host exports no differences to a reference point",
        ));
    }
    let which = settings
        .as_ref()
        .and_then(|settings| settings.number("CopySnapshotConfiguration"))
        .unwrap_or(copy::ALL);
    let named = || {
        let path: Option<ObjectPath> =
            text("SnapshotVirtualSystem").and_then(|path| path.parse().ok());
        let id = path.as_ref().and_then(|path| path.get("InstanceID"));
        let id = id.and_then(|id| Uuid::try_parse(owner_of(id)).ok());
        id.filter(|&id| vm.checkpoint(id).is_some()).ok_or_else(|| {
            Failure::refused(
                Refusal::ExportNoCheckpoint,
                "SnapshotVirtualSystem names no checkpoint of the VM",
            )
        })
    };
    let (checkpoints, instead) = match which {
        copy::ALL => (
            vm.checkpoints
                .iter()
                .map(|checkpoint| checkpoint.id)
                .collect(),
            None,
        ),
        copy::NONE => (Vec::new(), None),
        copy::ONE => (vec![named()?], None),
        copy::BACKUP => (Vec::new(), Some(named()?)),
        other => {
            return Err(Failure::invalid(format!(
                "there is no CopySnapshotConfiguration {other}"
            )));
        }
    };
    if !vm.planned {
        need_peace(call.engine, &vm)?;
    }
    let mut plan = ExportPlan {
        folder: folder_of(&vm, folder, flag("CreateVmExportSubdirectory"))?.to_string(),
        checkpoints,
        instead,
        storage: flag("CopyVmStorage"),
        runtime: flag("CopyVmRuntimeInformation"),
        clash: None,
    };
    plan.clash = Export::new(call.engine, &vm, &plan)?.clash();
    call.job(Some(vm.id), Operation::Export { vm: vm.id, plan })
}

/// Returns the folder an export writes to. A display name that cannot be a folder's name gives way to the id.
fn folder_of(vm: &Vm, folder: WinPath, subfolder: bool) -> Result<WinPath, Failure> {
    if !subfolder {
        return Ok(folder);
    }
    match folder.join(vm.name()) {
        Ok(named) if named.parent() == folder => Ok(named),
        Ok(_) | Err(_) => folder.join(&guid(vm.id)).map_err(wrong),
    }
}

fn wrong(err: ParsePathError) -> Failure {
    Failure::invalid(err.to_string())
}

/// Writes a VM's definition, those of checkpoints, and its disks, below a folder.
pub(crate) fn export(
    engine: &Arc<Engine>,
    vm_id: Uuid,
    plan: &ExportPlan,
    job: &Job,
) -> Result<Vec<String>, Failure> {
    if let Some(clash) = &plan.clash {
        return Err(Failure::refused(
            Refusal::ExportThere,
            format!("'{clash}' exists already"),
        ));
    }
    let vm = engine.need_vm(vm_id)?;
    let mut work = Export::new(engine, &vm, plan)?;
    work.write(job).inspect_err(|_| work.discard())?;
    if !plan.storage && !vm.planned && engine.knobs().export_locks_chain {
        engine.update_vm(vm_id, |vm| {
            vm.chain_locked = true;
            Ok(())
        })?;
    }
    Ok(vec![system_path(engine, vm_id, vm.planned)])
}

/// A disk file to write.
struct DiskCopy {
    from: WinPath,
    to: WinPath,
    /// The whole chain becomes one file.
    flat: bool,
}

/// An export at work.
struct Export<'a> {
    engine: &'a Engine,
    vm: &'a Vm,
    plan: &'a ExportPlan,
    /// The definition that is written as the VM's.
    definition: Definition,
    config: WinPath,
    disks: Vec<DiskCopy>,
    written: Vec<PathBuf>,
}

impl<'a> Export<'a> {
    fn new(engine: &'a Engine, vm: &'a Vm, plan: &'a ExportPlan) -> Result<Self, Failure> {
        let folder = parse_path(&plan.folder)?;
        let config = folder
            .join(&format!(r"Virtual Machines\{}.vmcx", guid(vm.id)))
            .map_err(wrong)?;
        let definition = match plan.instead.and_then(|id| vm.checkpoint(id)) {
            Some(checkpoint) => {
                let mut definition = checkpoint.definition.under(vm.id);
                let active = &vm.definition.vssd;
                for name in [
                    "VirtualSystemType",
                    "Caption",
                    "ConfigurationID",
                    "ConfigurationFile",
                    "GuestStateFile",
                ] {
                    definition.vssd.set(name, active.text(name));
                }
                definition.vssd.props.remove("Parent");
                definition
            }
            None => vm.definition.clone(),
        };
        let mut export = Self {
            engine,
            vm,
            plan,
            definition,
            config,
            disks: Vec::new(),
            written: Vec::new(),
        };
        if plan.storage {
            export.plan_disks(&folder)?;
        }
        Ok(export)
    }

    /// Decides which files go where. Chains stay chains where checkpoints are exported, too.
    fn plan_disks(&mut self, folder: &WinPath) -> Result<(), Failure> {
        let flat = self.plan.checkpoints.is_empty();
        let mut leaves = self.definition.disk_slots();
        for id in &self.plan.checkpoints {
            if let Some(checkpoint) = self.vm.checkpoint(*id) {
                leaves.extend(checkpoint.definition.disk_slots());
            }
        }
        for leaf in leaves {
            let links = open_chain(self.engine, &parse_path(&leaf.path)?, Hold::None)?;
            let base = links.last().map(|link| link.path.clone());
            for link in links.into_iter().take(if flat { 1 } else { usize::MAX }) {
                if self.disks.iter().any(|disk| disk.from == link.path) {
                    continue;
                }
                let named = base.as_ref().filter(|_| flat).unwrap_or(&link.path);
                let to = self.free_name(folder, named.file_name())?;
                self.disks.push(DiskCopy {
                    from: link.path,
                    to,
                    flat,
                });
            }
        }
        Ok(())
    }

    /// Two disks of one name, from different folders, get different ones.
    fn free_name(&self, folder: &WinPath, name: &str) -> Result<WinPath, Failure> {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "vhdx"));
        let names = std::iter::once(name.to_owned())
            .chain((2_u32..).map(|number| format!("{stem}-{number}.{extension}")));
        for name in names {
            let to = folder
                .join(&format!(r"Virtual Hard Disks\{name}"))
                .map_err(wrong)?;
            if !self.disks.iter().any(|disk| disk.to == to) {
                return Ok(to);
            }
        }
        Err(Failure::failed("there are too many disks of one name"))
    }

    /// Returns a file in the way.
    fn clash(&self) -> Option<String> {
        let mut targets =
            std::iter::once(&self.config).chain(self.disks.iter().map(|disk| &disk.to));
        let there = targets.find(|path| self.engine.local(path).exists());
        there.map(WinPath::to_string)
    }

    fn write(&mut self, job: &Job) -> Result<(), Failure> {
        let engine = self.engine;
        // A VM that runs lets go of its disks meanwhile: what is copied is one moment of them.
        engine.with_disks(self.vm.id, |disks| {
            let held = !self.disks.is_empty() && self.vm.power.holds_disks();
            if held {
                disks.detach_all(engine);
            }
            let copied = self.copy_disks(job);
            if held {
                reattach(engine, disks, self.vm.id)?;
            }
            copied
        })?;
        if engine.is_cancelled(job.id) {
            return Err(Failure::cancelled());
        }
        self.write_definitions()
    }

    fn copy_disks(&mut self, job: &Job) -> Result<(), Failure> {
        let pace = Pace::of_job(self.engine, Some(job));
        let copies = std::mem::take(&mut self.disks);
        let result = copies.iter().try_for_each(|copy| {
            self.need_room(copy, job)?;
            let local = self.engine.local(&copy.to);
            if let Some(folder) = local.parent() {
                std::fs::create_dir_all(folder).map_err(|err| {
                    Failure::io(format!("make the folder of '{}'", copy.to), &err)
                })?;
            }
            self.written.push(local);
            self.copy_disk(copy, &pace)
        });
        let result = result.and_then(|()| self.link(&copies));
        self.disks = copies;
        result
    }

    fn need_room(&self, copy: &DiskCopy, job: &Job) -> Result<(), Failure> {
        let metadata = std::fs::metadata(self.engine.local(&copy.from))
            .map_err(|err| Failure::io(format!("look at '{}'", copy.from), &err))?;
        let needed = platform::allocated_bytes(&metadata);
        volume::need_room(self.engine, &copy.to, needed, &job.method)
    }

    /// Copies what a file of a chain reads as through its parents where it is to be flat, else the file itself.
    fn copy_disk(&self, copy: &DiskCopy, pace: &Pace<'_>) -> Result<(), Failure> {
        let engine = self.engine;
        let io = |err: std::io::Error| Failure::io(format!("write '{}'", copy.to), &err);
        let target = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(engine.local(&copy.to))
            .map_err(io)?;
        if !copy.flat {
            let source = open_file(engine, &copy.from, Hold::Shared)?;
            return copy_holes(&source, &target, &mut |at| pace.go_on(at)).map_err(|err| {
                if err.kind() == std::io::ErrorKind::Interrupted {
                    pace.failure(&copy.from, &vhdx::Error::Cancelled)
                } else {
                    io(err)
                }
            });
        }
        let links = open_chain(engine, &copy.from, Hold::Shared)?;
        let base = links.last().map(|link| link.info.clone());
        let base = base.ok_or_else(|| Failure::failed("a chain has no files"))?;
        let layers: Result<Vec<Vhdx>, _> = links
            .into_iter()
            .map(|link| Vhdx::open(link.file))
            .collect();
        let disk = layers
            .and_then(vhdx::Chain::from_layers)
            .map_err(|err| Failure::vhdx(&copy.from, &err))?
            .into_disk();
        let params = Params {
            size: disk.size(),
            kind: if base.kind == DiskKind::Fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            ..Params::like(&base)
        };
        vhdx::convert(
            &disk,
            target,
            &params,
            ConvertOptions::default(),
            &mut |at| pace.go_on(at),
        )
        .map(drop)
        .map_err(|err| pace.failure(&copy.from, &err))
    }

    /// Points copied children at their copied parents.
    fn link(&self, copies: &[DiskCopy]) -> Result<(), Failure> {
        for copy in copies.iter().filter(|copy| !copy.flat) {
            let links = open_chain(self.engine, &copy.from, Hold::None)?;
            let Some(parent) = links.get(1) else { continue };
            let Some(parent) = copies.iter().find(|other| other.from == parent.path) else {
                continue;
            };
            let info = open_link(self.engine, &parent.to, Hold::None)?.info;
            let link = link_to(self.engine, &parent.to, &copy.to, &info);
            let file = open_file(self.engine, &copy.to, Hold::Exclusive)?;
            vhdx::set_parent(file, &link, Durability::ProcessKill)
                .map_err(|err| Failure::vhdx(&copy.to, &err))?;
        }
        Ok(())
    }

    fn write_definitions(&mut self) -> Result<(), Failure> {
        let folder = parse_path(&self.plan.folder)?;
        let mut content = ConfigFile::of_vm(self.vm);
        content.definition = self.moved(&self.definition);
        content
            .checkpoints
            .retain(|part| self.plan.checkpoints.contains(&part.id));
        if self.plan.instead.is_some() {
            content.current = None;
        }
        let config = self.config.clone();
        self.write_config(&config, &content)?;
        let vm = self.vm;
        for checkpoint in &vm.checkpoints {
            if !self.plan.checkpoints.contains(&checkpoint.id) {
                continue;
            }
            let file = folder
                .join(&format!(r"Snapshots\{}.vmcx", guid(checkpoint.id)))
                .map_err(wrong)?;
            let mut content = ConfigFile::of_checkpoint(vm, checkpoint);
            content.definition = self.moved(&checkpoint.definition);
            self.write_config(&file, &content)?;
        }
        Ok(())
    }

    /// Names the copied files in place of those they were copied from.
    fn moved(&self, definition: &Definition) -> Definition {
        let mut moved = definition.clone();
        for slot in definition.disk_slots() {
            if let Some(copy) = self
                .disks
                .iter()
                .find(|copy| same_path(&copy.from.to_string(), &slot.path))
            {
                moved.replace_file(&slot.path, &copy.to.to_string());
            }
        }
        moved
    }

    fn write_config(&mut self, path: &WinPath, content: &ConfigFile) -> Result<(), Failure> {
        self.written.push(self.engine.local(path));
        config_files::write_one(self.engine, path, content)?;
        let state = path.to_string().replace(".vmcx", ".vmrs");
        let state = parse_path(&state)?;
        if self.plan.runtime {
            self.written.push(self.engine.local(&state));
            Ok(())
        } else {
            config_files::remove(self.engine, &[state])
        }
    }

    /// Removes what an export that came to nothing has written.
    fn discard(&self) {
        for file in &self.written {
            if let Err(err) = std::fs::remove_file(file)
                && err.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("failed to remove {}: {err}", file.display());
            }
        }
    }
}
