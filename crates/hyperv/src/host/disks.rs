//! Disk files as the host sees them: format, sizes, chains.

use std::collections::HashMap;

use model::{DiskId, VmConfig, host_path};
use wsman::{Instance, Properties, Value};

use super::Slot;
use super::{Host, objects};
use crate::error::code;
use crate::{Error, ErrorKind};

/// Longest chain that is followed.
const MAX_CHAIN: usize = 256;

/// Format of a disk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskFormat {
    /// `.vhd`
    Vhd,
    /// `.vhdx`
    Vhdx,
    /// `.vhds`
    VhdSet,
    /// A number this program does not know.
    Unknown,
}

/// Kind of a disk file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskFileKind {
    /// All blocks allocated.
    Fixed,
    /// Grows.
    Dynamic,
    /// Holds what differs from its parent.
    Differencing,
    /// A number this program does not know.
    Unknown,
}

/// A disk file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    /// Path on the host.
    pub path: String,
    /// Path of its parent.
    pub parent: Option<String>,
    /// Format.
    pub format: DiskFormat,
    /// Kind.
    pub kind: DiskFileKind,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Block size in bytes.
    pub block_bytes: u32,
    /// 512 or 4096.
    pub logical_sector_bytes: u32,
    /// 512 or 4096.
    pub physical_sector_bytes: u32,
    /// Identity of the virtual disk.
    pub disk_id: Option<DiskId>,
    /// Length of the file in bytes, where the host says.
    pub file_bytes: Option<u64>,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDisk {
    /// InstanceID of the attachment.
    pub attachment: String,
    /// Where it hangs.
    pub slot: Slot,
    /// The leaf's path.
    pub path: String,
    /// Leaf first, root last; empty or cut short where `problem` says why.
    pub chain: Vec<DiskFile>,
    /// Why the chain could not be read to its end.
    pub problem: Option<String>,
}

impl VmDisk {
    /// Returns the leaf.
    #[must_use]
    pub fn leaf(&self) -> Option<&DiskFile> {
        self.chain.first()
    }

    /// Returns the file at the root of the chain.
    #[must_use]
    pub fn root(&self) -> Option<&DiskFile> {
        self.chain.last().filter(|_| self.problem.is_none())
    }
}

impl Host {
    /// Returns what the host says about one disk file.
    pub async fn disk_file(&self, path: &str) -> Result<DiskFile, Error> {
        let settings = self
            .image_info("GetVirtualHardDiskSettingData", "SettingData", path)
            .await?;
        let mut file = read_file(path, &settings);
        match self
            .image_info("GetVirtualHardDiskState", "State", path)
            .await
        {
            Ok(state) => file.file_bytes = state.u64("FileSize"),
            Err(error) => tracing::debug!("the host does not tell the length of {path}: {error}"),
        }
        Ok(file)
    }

    /// Returns a disk file and its parents, leaf first.
    pub async fn disk_chain(&self, path: &str) -> Result<Vec<DiskFile>, Error> {
        let (chain, problem) = self.follow_chain(path, &mut HashMap::new()).await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(chain),
        }
    }

    /// Returns whether the host has a disk file.
    pub(super) async fn disk_file_exists(&self, path: &str) -> Result<bool, Error> {
        match self
            .image_info("GetVirtualHardDiskSettingData", "SettingData", path)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            // In the middle of a merge a file may not be readable; it is there.
            Err(error) if matches!(error.kind(), ErrorKind::Failed | ErrorKind::InUse) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Gives a disk file that no VM uses another identity, so that a copy and its original can stand on one host.
    pub async fn set_disk_id(&self, path: &str, id: DiskId) -> Result<(), Error> {
        let uses = self.users_of(path).await?;
        if let Some(user) = uses.first() {
            let what = format!(
                "{path} is attached to {user}; its identity can be changed only while it is not"
            );
            return Err(Error::Refused { what });
        }
        match self.call_set_disk_id(path, id).await {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while self.disk_file(path).await?.disk_id != Some(id) {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            result => result,
        }
    }

    /// [U] The parameter's name stands in public documentation but was not seen on a real host.
    async fn call_set_disk_id(&self, path: &str, id: DiskId) -> Result<(), Error> {
        let settings = Instance::new("Msvm_VirtualHardDiskSettingData")
            .with("Path", path)
            .with("VirtualDiskId", id.to_string());
        let parameters =
            Properties::new().with("VirtualDiskSettingData", Value::embedded(&settings));
        self.call(objects::IMAGES, "SetVirtualHardDiskSettingData", parameters)
            .await
            .map(drop)
    }

    /// Returns the disks of a configuration with their chains. What is wrong with one disk is reported in it.
    pub(super) async fn disks_of(&self, config: &VmConfig) -> Result<Vec<VmDisk>, Error> {
        // Disks of one VM often share parents.
        let mut known = HashMap::new();
        let mut disks = Vec::new();
        for (controller, drive, path) in config.disks() {
            let slot = Slot {
                kind: controller.kind,
                controller: controller.number,
                slot: drive.slot,
            };
            let (chain, problem) = self.follow_chain(path, &mut known).await?;
            let problem = problem.map(|error| describe(&error));
            disks.push(VmDisk {
                attachment: drive.attachment.clone(),
                slot,
                path: path.to_owned(),
                chain,
                problem,
            });
        }
        Ok(disks)
    }

    /// Follows a chain as far as it goes. Only errors that are not about a file are returned as such.
    pub(super) async fn follow_chain(
        &self,
        path: &str,
        known: &mut HashMap<String, DiskFile>,
    ) -> Result<(Vec<DiskFile>, Option<Error>), Error> {
        let mut chain: Vec<DiskFile> = Vec::new();
        let mut next = path.to_owned();
        loop {
            let refused = |what: String| Some(Error::Refused { what });
            if chain.iter().any(|file| host_path::same(&file.path, &next)) {
                return Ok((
                    chain,
                    refused(format!("the chain of {path} leads back to {next}")),
                ));
            }
            if chain.len() == MAX_CHAIN {
                return Ok((
                    chain,
                    refused(format!(
                        "the chain of {path} is longer than {MAX_CHAIN} files"
                    )),
                ));
            }
            let key = host_path::key(&next);
            let file = match known.get(&key) {
                Some(file) => file.clone(),
                None => match self.disk_file(&next).await {
                    Ok(file) => file,
                    Err(error) => match error.kind() {
                        ErrorKind::Failed
                        | ErrorKind::NotFound
                        | ErrorKind::Refused
                        | ErrorKind::InUse => {
                            return Ok((chain, Some(error)));
                        }
                        ErrorKind::Retry
                        | ErrorKind::ResultUnknown
                        | ErrorKind::AccessDenied
                        | ErrorKind::WrongState
                        | ErrorKind::Unsupported
                        | ErrorKind::Timeout
                        | ErrorKind::Cancelled
                        | ErrorKind::Protocol => return Err(error),
                    },
                },
            };
            known.insert(key, file.clone());
            let parent = file.parent.clone();
            chain.push(file);
            match parent {
                Some(parent) => next = parent,
                None => return Ok((chain, None)),
            }
        }
    }

    /// [U] Calls a method that takes Path and answers with one embedded object. The parameter names stand in public
    /// documentation but were not seen on a real host.
    async fn image_info(&self, method: &str, output: &str, path: &str) -> Result<Instance, Error> {
        let service = self.service(objects::IMAGES).await?;
        let outputs = self
            .session
            .invoke_reading(&service, method, Properties::new().with("Path", path))
            .await?;
        let done = match self
            .finish(format!("{}.{method}", objects::IMAGES), outputs)
            .await
        {
            Err(error) if error.code() == Some(code::FILE) => {
                return Err(Error::NotFound {
                    what: format!("disk file {path}"),
                });
            }
            result => result?,
        };
        done.outputs
            .instance(output)
            .ok_or_else(|| Error::Nonsense {
                doing: format!("{}.{method} of {path}", objects::IMAGES),
                what: format!("{output} holds no object"),
            })
    }
}

/// The whole chain of causes in one line.
pub(super) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn read_file(path: &str, settings: &Instance) -> DiskFile {
    DiskFile {
        path: settings
            .text("Path")
            .filter(|p| !p.is_empty())
            .unwrap_or(path)
            .to_owned(),
        parent: settings
            .text("ParentPath")
            .filter(|p| !p.is_empty())
            .map(str::to_owned),
        format: match settings.u16("Format") {
            Some(2) => DiskFormat::Vhd,
            Some(3) => DiskFormat::Vhdx,
            Some(4) => DiskFormat::VhdSet,
            _ => DiskFormat::Unknown,
        },
        kind: match settings.u16("Type") {
            Some(2) => DiskFileKind::Fixed,
            Some(3) => DiskFileKind::Dynamic,
            Some(4) => DiskFileKind::Differencing,
            _ => DiskFileKind::Unknown,
        },
        size_bytes: settings.u64("MaxInternalSize").unwrap_or(0),
        block_bytes: settings.u32("BlockSize").unwrap_or(0),
        logical_sector_bytes: settings.u32("LogicalSectorSize").unwrap_or(512),
        physical_sector_bytes: settings.u32("PhysicalSectorSize").unwrap_or(512),
        disk_id: settings
            .text("VirtualDiskId")
            .and_then(|id| id.parse().ok()),
        file_bytes: None,
    }
}
