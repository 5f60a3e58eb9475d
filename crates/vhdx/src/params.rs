//! What a new disk is to be like.

use uuid::Uuid;

use crate::info::{DiskKind, FileInfo};

/// Block size Windows gives dynamic and fixed disks.
pub const DEFAULT_BLOCK_BYTES: u32 = 32 << 20;
/// Block size Hyper-V gives differencing disks.
pub const DEFAULT_CHILD_BLOCK_BYTES: u32 = 2 << 20;

/// Parameters of a new disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Params {
    /// Size of the virtual disk in bytes: a multiple of the logical sector size, up to 64 TiB.
    pub size: u64,
    /// Size of a block in bytes: a power of two from 1 to 256 MiB.
    pub block_bytes: u32,
    /// Logical sector size: 512 or 4096.
    pub logical: u32,
    /// Physical sector size: 512 or 4096.
    pub physical: u32,
    /// Fixed, dynamic or differencing; differencing exactly if `parent` is given.
    pub kind: DiskKind,
    /// The virtual disk's id; a restored disk keeps the one it had.
    pub disk_id: Uuid,
    /// The parent of a differencing disk.
    pub parent: Option<ParentLink>,
}

impl Params {
    /// Returns the parameters of a dynamic disk as Windows makes it: 32 MiB blocks, 512e, a new disk id.
    #[must_use]
    pub fn dynamic(size: u64) -> Self {
        Self {
            size,
            block_bytes: DEFAULT_BLOCK_BYTES,
            logical: 512,
            physical: 4096,
            kind: DiskKind::Dynamic,
            disk_id: Uuid::new_v4(),
            parent: None,
        }
    }

    /// Returns the parameters of a fixed disk, otherwise as [`Params::dynamic`].
    #[must_use]
    pub fn fixed(size: u64) -> Self {
        Self {
            kind: DiskKind::Fixed,
            ..Self::dynamic(size)
        }
    }

    /// Returns the parameters of a disk without parent that holds what `source` does: its size, sectors, blocks and disk id.
    ///
    /// It is fixed if the source is, else dynamic. A block size that VHDX does not have (of a VHD) becomes the default.
    /// For [`crate::convert`]; a clone takes another disk id.
    #[must_use]
    pub fn like(source: &FileInfo) -> Self {
        let kind = match source.kind {
            DiskKind::Fixed => DiskKind::Fixed,
            DiskKind::Dynamic | DiskKind::Differencing => DiskKind::Dynamic,
        };
        Self {
            size: source.size,
            block_bytes: if is_block_size(source.block_bytes) {
                source.block_bytes
            } else {
                DEFAULT_BLOCK_BYTES
            },
            logical: source.logical_sector_bytes,
            physical: source.physical_sector_bytes,
            kind,
            disk_id: source.disk_id,
            parent: None,
        }
    }

    /// Returns the parameters of a child of `parent`: its size, sectors and disk id, in blocks of 2 MiB.
    #[must_use]
    pub fn child_of(parent: &FileInfo, link: ParentLink) -> Self {
        Self {
            size: parent.size,
            block_bytes: DEFAULT_CHILD_BLOCK_BYTES,
            logical: parent.logical_sector_bytes,
            physical: parent.physical_sector_bytes,
            kind: DiskKind::Differencing,
            disk_id: parent.disk_id,
            parent: Some(link),
        }
    }
}

/// How a new child names its parent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParentLink {
    /// The parent's `DataWriteGuid`, read after the parent was closed.
    pub data_write_guid: Uuid,
    /// Path relative to the folder of the child, with backslashes: `.\parent.vhdx`.
    pub relative_path: Option<String>,
    /// Path on a volume: `\\?\Volume{...}\folder\parent.vhdx`.
    pub volume_path: Option<String>,
    /// Absolute path: `C:\folder\parent.vhdx`.
    pub absolute_path: Option<String>,
}

/// Returns whether blocks may have this size (2.6.2.1).
pub(crate) fn is_block_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (1 << 20..=256 << 20).contains(&bytes)
}
