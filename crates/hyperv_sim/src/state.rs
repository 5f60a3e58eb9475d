//! What the host knows, and how it is kept: `host.json`, `jobs.json`, and a file per VM.
//!
//! A VM's file is the unit of change: everything that must change together (settings, checkpoints, reference points,
//! which file is whose parent) is in one file, written to a temporary name and renamed. What the disks hold is not here.
//! A kill loses nothing; power loss is not this host's concern.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use model::{GIB, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::SimError;
use crate::cim::Manner;
use crate::cluster::Cluster;
use crate::ctl::RuleInfo;
use crate::definition::Definition;
use crate::jobs::Job;

/// Version of the state files; another one is refused.
const FORMAT: u32 = 1;

/// `host.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostState {
    pub(crate) format: u32,
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) build: u32,
    pub(crate) created: Timestamp,
    pub(crate) volumes: Vec<Volume>,
    #[serde(default)]
    pub(crate) shadows: Vec<Shadow>,
    /// The number of the newest shadow copy there ever was.
    #[serde(default)]
    pub(crate) last_shadow: u32,
    /// The cluster it is a node of.
    #[serde(default)]
    pub(crate) cluster: Option<Cluster>,
    pub(crate) switches: Vec<Switch>,
    pub(crate) faults: Vec<RuleInfo>,
    pub(crate) knobs: Knobs,
}

/// A volume: with a drive letter of its own, or mounted at a folder of another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// Its drive letter, or that of the volume it is mounted on.
    pub(crate) letter: char,
    /// The folder it is mounted at, below the root of `letter`: `Mount\Data`; empty where it has a drive letter.
    #[serde(default)]
    pub(crate) folder: String,
    pub(crate) id: Uuid,
    pub(crate) capacity_bytes: u64,
}

/// A shadow copy: a volume as it was at a moment, in a folder of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Shadow {
    pub(crate) id: Uuid,
    pub(crate) set: Uuid,
    /// `HarddiskVolumeShadowCopy<number>`; never given twice.
    pub(crate) number: u32,
    pub(crate) volume: Uuid,
    pub(crate) created: Timestamp,
}

/// A virtual switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Switch {
    pub(crate) id: Uuid,
    pub(crate) name: String,
}

/// Settings of the simulation itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Knobs {
    /// How long a job takes, besides its work.
    pub(crate) job_millis: u64,
    /// How long a merge waits before it begins.
    pub(crate) merge_millis: u64,
    /// Most bytes of a disk that one GetVirtualDiskChanges looks at; 0: no limit.
    pub(crate) partial_changes: u64,
    /// Grain of reported changes in bytes.
    pub(crate) coarse_bytes: u64,
    /// Whether NULL arrays are written as one nil element.
    pub(crate) nil_arrays: bool,
    /// Whether RCT ids stay good when a user checkpoint is taken or deleted; not confirmed on real hosts.
    pub(crate) rct_survives_checkpoints: bool,
    /// How `EnabledState` says paused and saved.
    pub(crate) enabled_states: EnabledStates,
    /// Time zone of datetimes in minutes east of UTC; 0: written with `Z`.
    pub(crate) datetime_offset: u64,
    /// Whether paths within texts say `Root\Virtualization\V2`.
    pub(crate) capital_paths: bool,
    /// Language of `Caption`.
    pub(crate) language: Language,
    /// Which id a recovery checkpoint's configuration imports to.
    pub(crate) recovery_import_id: RecoveryImportId,
    /// Largest reply in bytes, whatever a client asks for.
    pub(crate) envelope_bytes: u64,
    /// How late a slow reply comes.
    pub(crate) slow_millis: u64,
    /// How long an enumeration may lie idle before its context is gone.
    pub(crate) enumeration_idle_millis: u64,
    /// How long Win32_ShadowCopy.Create takes, besides its work.
    pub(crate) shadow_millis: u64,
    /// Most shadow copies of one volume.
    pub(crate) shadow_limit: u64,
    /// What Win32_ShadowCopy.Create answers whatever it is asked for; 0: what is right.
    pub(crate) shadow_code: u64,
    /// Whether a shadow copy of a disk in use may need its log replayed, as after a power cut.
    pub(crate) shadow_torn: bool,
    /// Whether a shadow copy can also be reached as `@GMT-yyyy.mm.dd-hh.mm.ss` below the root of its volume.
    pub(crate) shadow_gmt: bool,
    /// How long a job that ended can still be seen.
    pub(crate) job_kept_millis: u64,
    /// How long a suspended job stays so.
    pub(crate) suspend_millis: u64,
    /// Bytes of virtual disk a merge passes in a second; 0: no limit.
    pub(crate) merge_bytes_per_second: u64,
    /// Whether an export without disks switches merging off for the VM (Msvm_DiskMergeSettingData); seen by others,
    /// not confirmed, so both can be had.
    pub(crate) export_locks_chain: bool,
}

/// Which id a recovery checkpoint's configuration imports to; not confirmed on real hosts, so both can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RecoveryImportId {
    /// The VM's.
    Vm,
    /// The checkpoint's.
    Checkpoint,
}

/// The two sets of values that hosts were seen to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EnabledStates {
    /// Saved 6, paused 9.
    V2,
    /// Saved 32769, paused 32768.
    V1,
}

/// The language of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Language {
    English,
    German,
}

impl Knobs {
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            nil_arrays: self.nil_arrays,
            offset_minutes: i16::try_from(self.datetime_offset).unwrap_or(0),
            capital_paths: self.capital_paths,
        }
    }
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            job_millis: 120,
            merge_millis: 600,
            partial_changes: 0,
            coarse_bytes: 512,
            nil_arrays: false,
            rct_survives_checkpoints: true,
            enabled_states: EnabledStates::V2,
            datetime_offset: 0,
            capital_paths: false,
            language: Language::English,
            recovery_import_id: RecoveryImportId::Vm,
            envelope_bytes: 512_000,
            slow_millis: 2_000,
            enumeration_idle_millis: 60_000,
            shadow_millis: 0,
            shadow_limit: 64,
            shadow_code: 0,
            shadow_torn: true,
            shadow_gmt: true,
            job_kept_millis: 5 * 60 * 1000,
            suspend_millis: 2_000,
            merge_bytes_per_second: 0,
            export_locks_chain: true,
        }
    }
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Power {
    Running,
    Paused,
    Saved,
    Off,
}

impl Power {
    /// Returns `EnabledState`.
    pub(crate) fn enabled_state(self, set: EnabledStates) -> u64 {
        match (self, set) {
            (Power::Running, _) => 2,
            (Power::Off, _) => 3,
            (Power::Saved, EnabledStates::V2) => 6,
            (Power::Paused, EnabledStates::V2) => 9,
            (Power::Saved, EnabledStates::V1) => 32769,
            (Power::Paused, EnabledStates::V1) => 32768,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Power::Running => "running",
            Power::Paused => "paused",
            Power::Saved => "saved",
            Power::Off => "off",
        }
    }

    /// Whether the VM holds its disks.
    pub(crate) fn holds_disks(self) -> bool {
        match self {
            Power::Running | Power::Paused => true,
            Power::Saved | Power::Off => false,
        }
    }
}

/// `vms/<id>.json`: a VM, realised or planned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Vm {
    pub(crate) format: u32,
    pub(crate) id: Uuid,
    pub(crate) planned: bool,
    /// The job that imported it.
    pub(crate) imported_by: Option<Uuid>,
    pub(crate) power: Power,
    pub(crate) state_changed: Timestamp,
    pub(crate) config_changed: Timestamp,
    pub(crate) definition: Definition,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) reference_points: Vec<ReferencePoint>,
    /// The user checkpoint "Now" stands on.
    pub(crate) current: Option<Uuid>,
    pub(crate) last_applied: Option<Uuid>,
    /// Files that checkpoints made, each with its parent.
    pub(crate) chain: BTreeMap<String, String>,
    /// Files nobody refers to any more, still to be deleted.
    pub(crate) doomed: Vec<String>,
    /// Paused because a volume is full.
    #[serde(default)]
    pub(crate) starved: bool,
    /// A client ended the merge of its files; it begins anew after the next job of the VM.
    #[serde(default)]
    pub(crate) merge_put_off: bool,
    /// Merging is switched off for its files.
    #[serde(default)]
    pub(crate) chain_locked: bool,
    /// Key protector, in the host's own form.
    #[serde(default)]
    pub(crate) key_protector: Vec<u8>,
    /// Configuration files of checkpoints that are gone, still to be deleted.
    #[serde(default)]
    pub(crate) stale_files: Vec<String>,
    /// Whether it is a role of the cluster.
    #[serde(default)]
    pub(crate) clustered: bool,
    #[serde(default)]
    pub(crate) replication: Replication,
}

/// Which end of a replication a VM is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Replication {
    #[default]
    None,
    Primary,
    Replica,
}

/// A checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) id: Uuid,
    /// The id in the configuration file it was imported from; a copy's checkpoints have others.
    pub(crate) imported_as: Option<Uuid>,
    pub(crate) kind: CheckpointKind,
    pub(crate) parent: Option<Uuid>,
    pub(crate) created: Timestamp,
    /// Whether the guest had written everything out.
    pub(crate) application: bool,
    pub(crate) definition: Definition,
    /// By InstanceID of the active VM's disk: where the tracker stood.
    pub(crate) marks: BTreeMap<String, RctMark>,
}

/// Who a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CheckpointKind {
    User,
    /// For a backup.
    Recovery,
    /// Imported without its files.
    Missing,
}

/// Where a disk's tracker stood at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RctMark {
    pub(crate) lineage: Uuid,
    pub(crate) epoch: u64,
    pub(crate) disk_id: Uuid,
}

/// A reference point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReferencePoint {
    pub(crate) id: Uuid,
    pub(crate) created: Timestamp,
    pub(crate) application: bool,
    /// InstanceID of the disk and RCT id.
    pub(crate) disks: Vec<(String, String)>,
}

impl Vm {
    pub(crate) fn new(id: Uuid, definition: Definition, now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            id,
            planned: false,
            imported_by: None,
            power: Power::Off,
            state_changed: now,
            config_changed: now,
            definition,
            checkpoints: Vec::new(),
            reference_points: Vec::new(),
            current: None,
            last_applied: None,
            chain: BTreeMap::new(),
            doomed: Vec::new(),
            starved: false,
            merge_put_off: false,
            chain_locked: false,
            key_protector: Vec::new(),
            stale_files: Vec::new(),
            clustered: false,
            replication: Replication::None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.definition.vssd.text("ElementName")
    }

    pub(crate) fn checkpoint(&self, id: Uuid) -> Option<&Checkpoint> {
        self.checkpoints
            .iter()
            .find(|checkpoint| checkpoint.id == id)
    }

    /// Every set of settings: the active one and those of the checkpoints.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &Definition> {
        std::iter::once(&self.definition).chain(
            self.checkpoints
                .iter()
                .map(|checkpoint| &checkpoint.definition),
        )
    }
}

/// Returns a GUID the way Hyper-V shows it.
pub(crate) fn guid(id: Uuid) -> String {
    format!("{id:X}")
}

/// `jobs.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct JobsState {
    pub(crate) jobs: Vec<Job>,
}

/// Where the state files lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.dir.join("host.json")
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.dir.join("jobs.json")
    }

    pub(crate) fn vms(&self) -> PathBuf {
        self.dir.join("vms")
    }

    pub(crate) fn vm(&self, id: Uuid) -> PathBuf {
        self.vms().join(format!("{}.json", guid(id)))
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// Frozen views of volumes, a folder each.
    pub(crate) fn shadows(&self) -> PathBuf {
        self.dir.join("shadows")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("control.json")
    }
}

/// Makes the state of a new host.
pub(crate) fn new_host(name: &str, volumes: &[(char, u64)], now: Timestamp) -> HostState {
    let volumes = if volumes.is_empty() {
        &[('C', 64 * GIB)]
    } else {
        volumes
    };
    HostState {
        format: FORMAT,
        id: Uuid::new_v4(),
        name: name.to_owned(),
        build: 20348,
        created: now,
        volumes: volumes
            .iter()
            .map(|&(letter, capacity_bytes)| Volume {
                letter,
                folder: String::new(),
                id: Uuid::new_v4(),
                capacity_bytes,
            })
            .collect(),
        shadows: Vec::new(),
        last_shadow: 0,
        cluster: None,
        switches: Vec::new(),
        faults: Vec::new(),
        knobs: Knobs::default(),
    }
}

/// Reads `host.json`.
pub(crate) fn load_host(layout: &Layout) -> Result<HostState, SimError> {
    let file = layout.host();
    let host: HostState = load(&file)?.ok_or_else(|| SimError::NoHost {
        dir: layout.dir.clone(),
    })?;
    check_format(&file, host.format)?;
    Ok(host)
}

/// Reads `jobs.json`; none where it is missing.
pub(crate) fn load_jobs(layout: &Layout) -> Result<JobsState, SimError> {
    Ok(load(&layout.jobs())?.unwrap_or_default())
}

/// Reads every VM.
pub(crate) fn load_vms(layout: &Layout) -> Result<BTreeMap<Uuid, Vm>, SimError> {
    let io = |source| SimError::Io {
        action: format!("list {}", layout.vms().display()),
        source,
    };
    let mut vms = BTreeMap::new();
    for entry in std::fs::read_dir(layout.vms()).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "json")
            && let Some(vm) = load::<Vm>(&file)?
        {
            check_format(&file, vm.format)?;
            vms.insert(vm.id, vm);
        }
    }
    Ok(vms)
}

fn check_format(file: &Path, format: u32) -> Result<(), SimError> {
    if format == FORMAT {
        return Ok(());
    }
    Err(SimError::Damaged {
        file: file.to_owned(),
        what: format!("its format is {format}, this program knows {FORMAT}"),
    })
}

fn load<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, SimError> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|err| SimError::Damaged {
                file: file.to_owned(),
                what: err.to_string(),
            }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SimError::Io {
            action: format!("read {}", file.display()),
            source,
        }),
    }
}

/// Writes a state file whole or not at all.
pub(crate) fn save<T: Serialize>(file: &Path, value: &T) -> io::Result<()> {
    save_bytes(file, &serde_json::to_vec_pretty(value)?)
}

/// Writes a file whole or not at all.
pub(crate) fn save_bytes(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, file)
}
