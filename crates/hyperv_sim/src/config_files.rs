//! Configuration files: `Virtual Machines\<GUID>.vmcx` and `.vmrs`, `Snapshots\<GUID>.vmcx`.
//!
//! Written whenever a VM's settings change. A backup that copies them and an import that reads them carry the whole
//! definition. Not here: what they hold (see `config_format`).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config_format;
use crate::definition::Definition;
use crate::disks::parse_path;
use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::state::{Checkpoint, CheckpointKind, RecoveryImportId, Vm, save_bytes};
use crate::winpath::WinPath;
use model::Timestamp;

/// Larger than any configuration this host writes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What a `.vmcx` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    pub(crate) vm: Uuid,
    /// Set in the file of a checkpoint.
    pub(crate) checkpoint: Option<CheckpointPart>,
    /// The checkpoint the VM stands on.
    pub(crate) current: Option<Uuid>,
    /// In the file of a VM: its checkpoints, each of which has a file of its own.
    pub(crate) checkpoints: Vec<CheckpointPart>,
    pub(crate) definition: Definition,
}

/// What is said of a checkpoint besides its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CheckpointPart {
    pub(crate) id: Uuid,
    pub(crate) kind: CheckpointKind,
    pub(crate) parent: Option<Uuid>,
    pub(crate) created: Timestamp,
}

impl CheckpointPart {
    fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            id: checkpoint.id,
            kind: checkpoint.kind,
            parent: checkpoint.parent,
            created: checkpoint.created,
        }
    }
}

impl ConfigFile {
    pub(crate) fn of_vm(vm: &Vm) -> Self {
        Self {
            vm: vm.id,
            checkpoint: None,
            current: vm.current,
            checkpoints: vm.checkpoints.iter().map(CheckpointPart::of).collect(),
            definition: vm.definition.clone(),
        }
    }

    pub(crate) fn of_checkpoint(vm: &Vm, checkpoint: &Checkpoint) -> Self {
        Self {
            vm: vm.id,
            checkpoint: Some(CheckpointPart::of(checkpoint)),
            current: None,
            checkpoints: Vec::new(),
            definition: checkpoint.definition.clone(),
        }
    }

    /// Returns the id a VM imported from this file with its id kept has.
    pub(crate) fn import_id(&self, knob: RecoveryImportId) -> Uuid {
        match (&self.checkpoint, knob) {
            (Some(part), RecoveryImportId::Checkpoint) => part.id,
            (Some(_), RecoveryImportId::Vm) | (None, _) => self.vm,
        }
    }
}

/// Returns where the configuration file of some settings lies.
pub(crate) fn path_of(definition: &Definition) -> Result<WinPath, Failure> {
    parse_path(definition.vssd.text("ConfigurationDataRoot"))?
        .join(definition.vssd.text("ConfigurationFile"))
        .map_err(|err| Failure::invalid(err.to_string()))
}

/// Returns every configuration file of a VM.
pub(crate) fn paths(vm: &Vm) -> Vec<WinPath> {
    let mut paths = Vec::new();
    for path in vm
        .definitions()
        .filter_map(|definition| path_of(definition).ok())
    {
        paths.extend(with_state_file(&path));
        paths.push(path);
    }
    paths
}

fn with_state_file(path: &WinPath) -> Option<WinPath> {
    let name = path.file_name().strip_suffix(".vmcx")?;
    path.parent().join(&format!("{name}.vmrs")).ok()
}

/// Writes the configuration files of a VM and its checkpoints. A planned VM has none yet.
pub(crate) fn write(engine: &Engine, vm: &Vm) -> Result<(), Failure> {
    if vm.planned {
        return Ok(());
    }
    write_one(engine, &path_of(&vm.definition)?, &ConfigFile::of_vm(vm))?;
    for checkpoint in vm
        .checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.kind != CheckpointKind::Missing)
    {
        write_one(
            engine,
            &path_of(&checkpoint.definition)?,
            &ConfigFile::of_checkpoint(vm, checkpoint),
        )?;
    }
    Ok(())
}

/// Writes a configuration file and its state file at any place.
pub(crate) fn write_one(
    engine: &Engine,
    path: &WinPath,
    content: &ConfigFile,
) -> Result<(), Failure> {
    let io = |err: std::io::Error| Failure::io(format!("write '{path}'"), &err);
    let local = engine.local(path);
    if let Some(folder) = local.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let unwritable = |err| Failure::failed(format!("'{path}' cannot be written: {err}"));
    let bytes = config_format::encode(content).map_err(unwritable)?;
    if std::fs::read(&local).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    save_bytes(&local, &bytes).map_err(io)?;
    if let Some(state) = with_state_file(path) {
        let bytes = config_format::encode_state(content).map_err(unwritable)?;
        save_bytes(&engine.local(&state), &bytes).map_err(io)?;
    }
    Ok(())
}

/// Removes configuration files; those that are gone already do not matter.
pub(crate) fn remove(engine: &Engine, paths: &[WinPath]) -> Result<(), Failure> {
    for path in paths {
        match std::fs::remove_file(engine.local(path)) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(Failure::io(format!("remove '{path}'"), &err)),
        }
    }
    Ok(())
}

/// Reads a configuration file.
pub(crate) fn read(engine: &Engine, path: &WinPath) -> Result<ConfigFile, Failure> {
    let io = |err: std::io::Error| Failure::io(format!("read '{path}'"), &err);
    let local = engine.local(path);
    if std::fs::metadata(&local).map_err(io)?.len() > MAX_BYTES {
        return Err(Failure::failed(format!(
            "'{path}' is too large for a configuration file"
        )));
    }
    let bytes = std::fs::read(&local).map_err(io)?;
    config_format::decode(&bytes).ok_or_else(|| {
        Failure::new(
            code::FAILED,
            format!("'{path}' is no virtual machine configuration, or it is damaged"),
        )
    })
}
