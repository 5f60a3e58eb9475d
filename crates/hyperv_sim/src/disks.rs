//! Disk files in use: chains found, locked, opened; writes of the guest.
//!
//! A running VM holds the leaf of each disk exclusively and its parents shared, by advisory locks on the real files
//! that whoever reads the host's files honours. A VM that is off or saved holds nothing.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::sync::Arc;

use vhdx::{DiskWriter, Durability, FileInfo, Format, ParentLocator, Vhdx};

use crate::engine::Engine;
use crate::failure::{Failure, code};
use crate::rct::{self, Tracker};
use crate::state::Vm;
use crate::winpath::{WinPath, same_path};

/// Longest chain that is followed.
const MAX_CHAIN: usize = 64;

/// A file of a chain.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) path: WinPath,
    pub(crate) file: Arc<File>,
    pub(crate) info: FileInfo,
}

/// How a file is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Not at all: only a look.
    None,
    Shared,
    Exclusive,
}

/// Opens one disk file.
pub(crate) fn open_file(engine: &Engine, path: &WinPath, hold: Hold) -> Result<Arc<File>, Failure> {
    if hold == Hold::Exclusive && path.shadow_number().is_some() {
        return Err(Failure::failed(format!(
            "the media is write protected: '{path}' is on a shadow copy"
        )));
    }
    let io = |err| Failure::io(format!("open '{path}'"), &err);
    let local = engine.local(&backing_of(engine, path).map_err(io)?);
    let file = File::options()
        .read(true)
        .write(hold == Hold::Exclusive)
        .open(&local)
        .map_err(io)?;
    let locked = match hold {
        Hold::None => Ok(()),
        Hold::Shared => file.try_lock_shared(),
        Hold::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            code::IN_USE,
            format!("'{path}' is being used by another process"),
        )),
        Err(TryLockError::Error(err)) => Err(io(err)),
    }
}

/// Returns the file a VHD set keeps its disk in; another file is its own.
///
/// A set made by this host holds the name of that file and nothing else.
fn backing_of(engine: &Engine, path: &WinPath) -> std::io::Result<WinPath> {
    const MAX_NAME_BYTES: u64 = 1024;
    if !path.file_name().to_lowercase().ends_with(".vhds") {
        return Ok(path.clone());
    }
    let mut name = String::new();
    File::open(engine.local(path))?
        .take(MAX_NAME_BYTES)
        .read_to_string(&mut name)?;
    path.parent()
        .join(&name)
        .map_err(|err| std::io::Error::new(std::io::ErrorKind::InvalidData, err))
}

/// Opens one disk file and reads what it says about itself.
pub(crate) fn open_link(engine: &Engine, path: &WinPath, hold: Hold) -> Result<Link, Failure> {
    let file = open_file(engine, path, hold)?;
    let info = vhdx::inspect(Arc::clone(&file)).map_err(|err| Failure::vhdx(path, &err))?;
    if info.format != Format::Vhdx {
        return Err(Failure::vhdx(path, &vhdx::Error::VhdUnchangeable));
    }
    Ok(Link {
        path: path.clone(),
        file,
        info,
    })
}

/// Finds the files of a chain, leaf first; parents are held shared unless the leaf is only looked at.
pub(crate) fn open_chain(
    engine: &Engine,
    leaf: &WinPath,
    hold: Hold,
) -> Result<Vec<Link>, Failure> {
    let parents = if hold == Hold::None {
        Hold::None
    } else {
        Hold::Shared
    };
    let mut links = vec![open_link(engine, leaf, hold)?];
    while let Some(child) = links.last()
        && let Some(locator) = &child.info.parent
    {
        if links.len() == MAX_CHAIN {
            return Err(Failure::failed(format!(
                "the chain of '{leaf}' has more than {MAX_CHAIN} files"
            )));
        }
        let parent = find_parent(engine, &child.path, locator, parents)?;
        links.push(parent);
    }
    Ok(links)
}

fn find_parent(
    engine: &Engine,
    child: &WinPath,
    locator: &ParentLocator,
    hold: Hold,
) -> Result<Link, Failure> {
    let relative = locator
        .relative_path
        .as_deref()
        .and_then(|relative| below(child, relative));
    let absolute = locator
        .absolute_path
        .as_deref()
        .and_then(|path| WinPath::parse(path).ok());
    let mut wrong = None;
    for path in [relative, absolute].into_iter().flatten() {
        match open_link(engine, &path, hold) {
            Ok(link) if locator.accepts(link.info.data_write_guid) => return Ok(link),
            Ok(link) => {
                wrong = Some(format!(
                    "'{}' was changed since '{child}' was made from it: the chain is broken",
                    link.path
                ));
            }
            Err(failure) if failure.code == code::FILE => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(match wrong {
        Some(message) => Failure::failed(message),
        None => Failure::new(code::FILE, format!("the parent of '{child}' was not found")),
    })
}

/// Resolves a relative path of a locator (`.\a.vhdx`, `..\b\a.vhdx`) from the child's folder.
fn below(child: &WinPath, relative: &str) -> Option<WinPath> {
    let mut folder = child.parent();
    for part in relative.split(['\\', '/']) {
        match part {
            "" | "." => {}
            ".." => folder = folder.parent(),
            name => folder = folder.join(name).ok()?,
        }
    }
    Some(folder)
}

/// A disk a VM holds.
pub(crate) struct OpenDisk {
    pub(crate) attachment: String,
    pub(crate) path: WinPath,
    /// File at the root of what checkpoints made; its tracker lies beside it.
    base: WinPath,
    pub(crate) writer: DiskWriter,
    pub(crate) tracker: Option<Tracker>,
    /// Keeps the locks.
    _files: Vec<Arc<File>>,
}

impl std::fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDisk")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl OpenDisk {
    /// Takes a disk for a VM.
    pub(crate) fn attach(
        engine: &Engine,
        vm: &Vm,
        attachment: &str,
        path: &WinPath,
    ) -> Result<Self, Failure> {
        let mut links = open_chain(engine, path, Hold::Exclusive)?;
        let base = base_of(vm, path)?;
        let base_local = engine.local(&base);
        let base_guid = links
            .iter()
            .find(|link| link.path == base)
            .map(|link| link.info.data_write_guid);
        let leaf = links.remove(0);
        let tracker = match base_guid {
            Some(guid) => Tracker::open(&base_local, leaf.info.disk_id, guid)
                .map_err(|err| Failure::io(format!("open the change tracker of '{base}'"), &err))?,
            None => None,
        };
        rct::unseal(&base_local)
            .map_err(|err| Failure::io(format!("mark '{base}' as used"), &err))?;
        let mut files = vec![Arc::clone(&leaf.file)];
        let mut parents = Vec::new();
        for link in links {
            files.push(Arc::clone(&link.file));
            parents.push(Vhdx::open(link.file).map_err(|err| Failure::vhdx(&link.path, &err))?);
        }
        let writer = DiskWriter::open(leaf.file, parents, Durability::ProcessKill)
            .map_err(|err| Failure::vhdx(&leaf.path, &err))?;
        Ok(Self {
            attachment: attachment.to_owned(),
            path: path.clone(),
            base,
            writer,
            tracker,
            _files: files,
        })
    }

    /// Lets go of the disk, cleanly.
    pub(crate) fn detach(self, engine: &Engine) -> Result<FileInfo, Failure> {
        let info = self
            .writer
            .close()
            .map_err(|err| Failure::vhdx(&self.path, &err))?;
        seal_base(engine, &self.base)?;
        Ok(info)
    }

    /// Gives content up as the guest does: zeros are read there from now on, so it is recorded.
    pub(crate) fn trim(&mut self, offset: u64, len: u64) -> Result<(), Failure> {
        if let Some(tracker) = &mut self.tracker {
            tracker
                .record(offset, len)
                .map_err(|err| Failure::io("record a trim", &err))?;
        }
        self.writer
            .zero(offset, len)
            .map_err(|err| Failure::vhdx(&self.path, &err))
    }

    /// Writes as the guest does: recorded first, then done.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(tracker) = &mut self.tracker {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            tracker
                .record(offset, len)
                .map_err(|err| Failure::io("record a write", &err))?;
        }
        self.writer
            .write_at(bytes, offset)
            .map_err(|err| Failure::vhdx(&self.path, &err))
    }
}

/// Notes what the root file looks like now that nobody has it open.
pub(crate) fn seal_base(engine: &Engine, base: &WinPath) -> Result<(), Failure> {
    let local = engine.local(base);
    if !rct::rct_path(&local).exists() {
        return Ok(());
    }
    let link = open_link(engine, base, Hold::None)?;
    rct::seal(&local, link.info.data_write_guid)
        .map_err(|err| Failure::io(format!("seal '{base}'"), &err))
}

/// Returns the first file below a leaf that no checkpoint made: what the disk is called by.
pub(crate) fn base_of(vm: &Vm, leaf: &WinPath) -> Result<WinPath, Failure> {
    let mut at = leaf.to_string();
    for _ in 0..=vm.chain.len() {
        match vm.chain.iter().find(|(child, _)| same_path(child, &at)) {
            Some((_, parent)) => at.clone_from(parent),
            None => break,
        }
    }
    parse_path(&at)
}

pub(crate) fn parse_path(text: &str) -> Result<WinPath, Failure> {
    WinPath::parse(text).map_err(|err| Failure::invalid(err.to_string()))
}

/// The disks a VM holds; empty where it holds none.
#[derive(Debug, Default)]
pub(crate) struct VmDisks {
    pub(crate) open: Vec<OpenDisk>,
}

impl VmDisks {
    /// Takes every disk of a VM, or none.
    pub(crate) fn attach_all(&mut self, engine: &Engine, vm: &Vm) -> Result<(), Failure> {
        let mut opened = Vec::new();
        for slot in vm.definition.disk_slots() {
            if self
                .open
                .iter()
                .any(|disk| disk.attachment == slot.attachment)
            {
                continue;
            }
            let disk = parse_path(&slot.path)
                .and_then(|path| OpenDisk::attach(engine, vm, &slot.attachment, &path));
            match disk {
                Ok(disk) => opened.push(disk),
                Err(failure) => {
                    detach(engine, opened);
                    return Err(failure);
                }
            }
        }
        self.open.append(&mut opened);
        Ok(())
    }

    /// Lets go of every disk.
    pub(crate) fn detach_all(&mut self, engine: &Engine) {
        detach(engine, std::mem::take(&mut self.open));
    }

    /// Lets go of the disks whose chain has the file; returns whether there were any.
    pub(crate) fn detach_using(&mut self, engine: &Engine, vm: &Vm, path: &str) -> bool {
        let uses = |disk: &OpenDisk| {
            let mut at = disk.path.to_string();
            for _ in 0..=vm.chain.len() {
                if same_path(&at, path) {
                    return true;
                }
                match vm.chain.iter().find(|(child, _)| same_path(child, &at)) {
                    Some((_, parent)) => at.clone_from(parent),
                    None => return false,
                }
            }
            false
        };
        let (using, others) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<Vec<_>, _>(uses);
        self.open = others;
        let any = !using.is_empty();
        detach(engine, using);
        any
    }
}

fn detach(engine: &Engine, disks: Vec<OpenDisk>) {
    for disk in disks {
        let path = disk.path.clone();
        if let Err(failure) = disk.detach(engine) {
            tracing::warn!("failed to close '{path}': {failure}");
        }
    }
}
