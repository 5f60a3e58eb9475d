//! What a single file says about itself, without its parents and without reading its block table.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Error;
use crate::io::ReadAt;
use crate::layer::Structures;
use crate::member::format_of;
use crate::vhd;

/// The two formats.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Format {
    /// VHDX (`.vhdx`, `.avhdx`): read, made and changed.
    Vhdx,
    /// VHD, the first generation (`.vhd`, `.avhd`): read only.
    Vhd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vhdx => "VHDX",
            Self::Vhd => "VHD",
        })
    }
}

/// The three kinds of virtual disk files.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DiskKind {
    /// Every block has its place in the file from the start.
    Fixed,
    /// Blocks get a place when they are first written.
    Dynamic,
    /// Holds what differs from a parent disk.
    Differencing,
}

/// How a differencing disk names its parent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParentLocator {
    /// The `DataWriteGuid` the parent must have; of a VHD, its unique id.
    pub linkage: Uuid,
    /// A second identity the parent may have, while a merge is under way.
    pub linkage2: Option<Uuid>,
    /// Path relative to the folder of the child, such as `.\parent.vhdx`.
    pub relative_path: Option<String>,
    /// Path on a volume, such as `\\?\Volume{...}\folder\parent.vhdx`.
    pub volume_path: Option<String>,
    /// Absolute path, such as `C:\folder\parent.vhdx`.
    pub absolute_path: Option<String>,
}

impl ParentLocator {
    /// Returns whether a disk with this `DataWriteGuid` is the parent.
    #[must_use]
    pub fn accepts(&self, data_write_guid: Uuid) -> bool {
        self.linkage == data_write_guid || self.linkage2 == Some(data_write_guid)
    }
}

/// What one file says about itself. See [`inspect`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileInfo {
    /// VHDX or VHD.
    pub format: Format,
    /// Fixed, dynamic or differencing.
    pub kind: DiskKind,
    /// Size of the virtual disk in bytes.
    pub size: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Size of a block in bytes: a power of two, in a VHDX from 1 to 256 MiB; 0 for a fixed VHD, which has no blocks.
    pub block_bytes: u32,
    /// Logical sector size: 512 or 4096.
    pub logical_sector_bytes: u32,
    /// Physical sector size: 512 or 4096.
    pub physical_sector_bytes: u32,
    /// The virtual disk's own id (SCSI page 83); children inherit it. Of a VHD: the unique id of the file.
    pub disk_id: Uuid,
    /// Changes with every session that changes what the disk reads as; what children know their parent by.
    ///
    /// Of a VHD: the unique id of the file, which never changes, so that a parent written to by itself is not noticed.
    pub data_write_guid: Uuid,
    /// Changes with every session that changes any byte of the file. Of a VHD: its unique id.
    pub file_write_guid: Uuid,
    /// Where the parent is, for a differencing disk.
    pub parent: Option<ParentLocator>,
    /// The file was not closed cleanly: its log must be replayed (reading does so in memory). Never known of a VHD, which has no log.
    pub unclean: bool,
}

/// Reads what `file`, of either format, says about itself: headers, log (replayed in memory), regions and metadata, not the
/// block table.
pub fn inspect(file: impl ReadAt + 'static) -> Result<FileInfo, Error> {
    let file: Arc<dyn ReadAt> = Arc::new(file);
    Ok(match format_of(&*file)? {
        Format::Vhdx => Structures::read(file)?.info(),
        Format::Vhd => vhd::Structures::read(file)?.info(),
    })
}
