//! A file of a chain, of either format: which one it is, and what a disk asks of it.
//!
//! A VHDX begins with its signature; a VHD ends with one. A guest writes the first bytes of a fixed VHD and may write the
//! last bytes of a VHDX, so what looks like both is told apart by what no guest decides: the length of the file.

use std::sync::Arc;

use crate::backing::Backing;
use crate::error::Error;
use crate::format::{FILE_SIGNATURE, MIB};
use crate::info::{FileInfo, Format};
use crate::io::ReadAt;
use crate::layer::{Found, Vhdx};
use crate::vhd::{self, Vhd};

/// One file of a chain, opened and checked.
#[derive(Debug)]
pub enum DiskFile {
    /// A VHDX file.
    Vhdx(Box<Vhdx>),
    /// A VHD file.
    Vhd(Box<Vhd>),
}

impl DiskFile {
    /// Opens `file` as what it is, and checks it against every rule that reading relies on.
    pub fn open(file: impl ReadAt + 'static) -> Result<Self, Error> {
        let file: Arc<dyn ReadAt> = Arc::new(file);
        Ok(match format_of(&*file)? {
            Format::Vhdx => Vhdx::open(file)?.into(),
            Format::Vhd => Vhd::open(file)?.into(),
        })
    }

    /// Returns what the file says about itself.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        match self {
            Self::Vhdx(file) => file.info(),
            Self::Vhd(file) => file.info(),
        }
    }

    pub(crate) fn backing(&self) -> &Backing {
        match self {
            Self::Vhdx(file) => file.backing(),
            Self::Vhd(file) => file.backing(),
        }
    }

    /// Returns where the byte at `offset` of the disk lies, and for how many of the `len` bytes from there that goes on.
    pub(crate) fn find(&self, offset: u64, len: u64) -> Result<(Found, u64), Error> {
        match self {
            Self::Vhdx(file) => file.find(offset, len),
            Self::Vhd(file) => file.find(offset, len),
        }
    }
}

impl From<Vhdx> for DiskFile {
    fn from(file: Vhdx) -> Self {
        Self::Vhdx(Box::new(file))
    }
}

impl From<Vhd> for DiskFile {
    fn from(file: Vhd) -> Self {
        Self::Vhd(Box::new(file))
    }
}

/// Returns the format of a file by its signatures; what has none is taken for a VHDX, which then says what is wrong.
pub(crate) fn format_of(file: &dyn ReadAt) -> Result<Format, Error> {
    let file_bytes = vhd::len_of(file)?;
    let mut signature = [0; 8];
    if file_bytes >= 8 {
        file.read_exact_at(&mut signature, 0)
            .map_err(|source| Error::Read {
                what: "the signature",
                at: 0,
                source,
            })?;
    }
    if &signature != FILE_SIGNATURE {
        return Ok(if vhd::has_signature(file, file_bytes)? {
            Format::Vhd
        } else {
            Format::Vhdx
        });
    }
    // A fixed VHD of a disk that begins like a VHDX. Blocks of a VHDX, all a guest writes to, end at whole MiB.
    if !file_bytes.is_multiple_of(MIB) && vhd::is_fixed(file, file_bytes)? {
        return Ok(Format::Vhd);
    }
    Ok(Format::Vhdx)
}
