//! The demo's guests: which disks they have, what is on them, and how they change.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use hyperv_sim::ctl::{DiskAdd, DiskSelector, GuestContent};
use vhdx::{BulkWriter, DiskKind, ExtentKind, Params, ReadAt};

use super::files::{self, GuestFile};
use super::guest_disk;

/// Size of a disk with an installation on it.
const SYSTEM_BYTES: u64 = 384 << 20;
/// Size of a disk with data.
const DATA_BYTES: u64 = 128 << 20;

/// All guests.
#[derive(Debug)]
pub(crate) struct Guests {
    files: Guest,
    database: Guest,
    own: Option<Guest>,
}

/// A guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Name of its VM.
    pub(crate) name: &'static str,
    /// Its disks in order.
    pub(crate) disks: Vec<GuestDisk>,
}

/// A disk of a guest.
#[derive(Debug)]
pub(crate) struct GuestDisk {
    /// Path on the host.
    pub(crate) path: String,
    /// VirtualDiskId.
    pub(crate) id: String,
    /// The raw image of what the guest wrote, as long as it knows.
    pub(crate) image: Option<PathBuf>,
    /// The files on it.
    pub(crate) files: Vec<GuestFile>,
    /// The VHDX file it begins as.
    source: PathBuf,
}

/// A write of a guest.
#[derive(Debug)]
pub(crate) struct GuestWrite {
    /// Name of the VM.
    pub(crate) vm: String,
    /// Which disk.
    pub(crate) disk: DiskSelector,
    /// Where.
    pub(crate) offset: u64,
    /// How much.
    pub(crate) len: u64,
    /// What.
    pub(crate) content: GuestContent,
}

impl Guests {
    /// Makes the disks in a new folder: a file server, a database with two disks, and the user's own disks.
    pub(crate) fn make(folder: &Path, own: &[PathBuf]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let with_files =
            |own: Vec<GuestFile>| files::installation().into_iter().chain(own).collect();
        let files = Guest {
            name: "files01",
            disks: vec![make_disk(
                folder,
                "files01",
                "system",
                SYSTEM_BYTES,
                with_files(files::own(1)),
            )?],
        };
        let (documents, pictures) = {
            let mut all = files::own(2);
            let pictures = all.split_off(all.len() - 40);
            (all, pictures)
        };
        let database = Guest {
            name: "db01",
            disks: vec![
                make_disk(
                    folder,
                    "db01",
                    "system",
                    SYSTEM_BYTES,
                    with_files(documents),
                )?,
                make_disk(folder, "db01", "data", DATA_BYTES, pictures)?,
            ],
        };
        let own = if own.is_empty() {
            None
        } else {
            let disks = own
                .iter()
                .enumerate()
                .map(|(number, file)| own_disk(folder, number, file));
            Some(Guest {
                name: "own01",
                disks: disks.collect::<anyhow::Result<_>>()?,
            })
        };
        Ok(Self {
            files,
            database,
            own,
        })
    }

    /// Returns every guest.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Guest> {
        [&self.files, &self.database].into_iter().chain(&self.own)
    }

    /// Returns the file server.
    pub(crate) fn files(&self) -> &Guest {
        &self.files
    }

    /// Returns the file server.
    pub(crate) fn files_mut(&mut self) -> &mut Guest {
        &mut self.files
    }

    /// Returns the database.
    pub(crate) fn database(&self) -> &Guest {
        &self.database
    }

    /// Returns the database.
    pub(crate) fn database_mut(&mut self) -> &mut Guest {
        &mut self.database
    }

    /// Returns the guest with the user's disks.
    pub(crate) fn own(&self) -> Option<&Guest> {
        self.own.as_ref()
    }

    /// Returns how many files the demo made.
    pub(crate) fn file_count(&self) -> usize {
        self.disks().map(|disk| disk.files.len()).sum()
    }

    /// Returns how many bytes these files have.
    pub(crate) fn file_bytes(&self) -> u64 {
        let lens = self
            .disks()
            .flat_map(|disk| &disk.files)
            .map(|file| file.len);
        lens.map(|len| u64::try_from(len).unwrap_or(0)).sum()
    }

    fn disks(&self) -> impl Iterator<Item = &GuestDisk> {
        self.all().flat_map(|guest| &guest.disks)
    }
}

impl Guest {
    /// Returns the folder of its disks on the host.
    pub(crate) fn folder(&self) -> String {
        format!("C:\\VMs\\{}", self.name)
    }

    /// Returns its disks as a new VM gets them.
    pub(crate) fn disks_to_add(&self) -> Vec<DiskAdd> {
        let add = |disk: &GuestDisk| DiskAdd {
            path: disk.path.clone(),
            file: disk.source.clone(),
        };
        self.disks.iter().map(add).collect()
    }

    /// Forgets what is on the disks: something else wrote to them.
    pub(crate) fn changed_by_others(&mut self) {
        for disk in &mut self.disks {
            disk.image = None;
            disk.files.clear();
        }
    }

    /// Changes files on the first disk: some new, some other, some gone. Returns the writes the guest makes.
    pub(crate) fn change(&mut self) -> anyhow::Result<Vec<GuestWrite>> {
        let disk = self
            .disks
            .first_mut()
            .ok_or_else(|| anyhow!("a guest has no disk"))?;
        let image = disk
            .image
            .as_ref()
            .ok_or_else(|| anyhow!("what the guest wrote is not known"))?;
        let added = files::later(1);
        let removed: Vec<GuestFile> = disk
            .files
            .iter()
            .rev()
            .step_by(25)
            .take(8)
            .cloned()
            .collect();
        disk.files.retain(|file| !removed.contains(file));
        let mut changed = Vec::new();
        for file in disk
            .files
            .iter_mut()
            .filter(|file| file.path.ends_with(".txt"))
            .step_by(17)
        {
            file.seed += 50_000;
            changed.push(file.clone());
        }
        let ranges = guest_disk::change_image(image, &added, &changed, &removed)?;
        disk.files.extend(added);

        let source = File::open(image).with_context(|| format!("open {}", image.display()))?;
        let folder = image.with_extension("writes");
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut writes = Vec::new();
        for range in ranges {
            let len = range.end - range.start;
            let mut bytes = vec![0; usize::try_from(len).context("a write is too large")?];
            source
                .read_exact_at(&mut bytes, range.start)
                .context("read a disk image")?;
            let file = folder.join(format!("at-{}", range.start));
            File::create_new(&file)
                .and_then(|mut file| file.write_all(&bytes))
                .with_context(|| format!("write {}", file.display()))?;
            writes.push(GuestWrite {
                vm: self.name.to_owned(),
                disk: DiskSelector::Index(0),
                offset: range.start,
                len,
                content: GuestContent::File(file),
            });
        }
        Ok(writes)
    }
}

fn make_disk(
    folder: &Path,
    vm: &str,
    name: &str,
    size: u64,
    files: Vec<GuestFile>,
) -> anyhow::Result<GuestDisk> {
    let image = folder.join(format!("{vm}-{name}.raw"));
    let source = folder.join(format!("{vm}-{name}.vhdx"));
    guest_disk::make_image(&image, size, name, &files)?;
    let made = guest_disk::to_vhdx(&image, &source)?;
    Ok(GuestDisk {
        path: format!("C:\\VMs\\{vm}\\{name}.vhdx"),
        id: made.disk_id.to_string(),
        image: Some(image),
        files,
        source,
    })
}

/// Takes a disk of the user as it is; one with parents is made into one file first.
fn own_disk(folder: &Path, number: usize, file: &Path) -> anyhow::Result<GuestDisk> {
    let file = std::fs::canonicalize(file).with_context(|| format!("open {}", file.display()))?;
    let chain = crate::commands::vhdx::chain(&file)?;
    let disk = chain.into_disk();
    let source = if disk.info().kind == DiskKind::Differencing {
        let flat = folder.join(format!("own-{number}.vhdx"));
        flatten(&disk, &flat)
            .with_context(|| format!("join {} with its parents", file.display()))?;
        flat
    } else {
        file
    };
    Ok(GuestDisk {
        path: format!("C:\\VMs\\own01\\disk-{number}.vhdx"),
        id: disk.disk_id().to_string(),
        image: None,
        files: Vec::new(),
        source,
    })
}

fn flatten(disk: &vhdx::Disk, target: &Path) -> anyhow::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(target)?;
    let mut writer = BulkWriter::create(
        file,
        &Params {
            logical: disk.logical_sector_bytes(),
            physical: disk.physical_sector_bytes(),
            disk_id: disk.disk_id(),
            ..Params::dynamic(disk.size())
        },
    )?;
    let mut buffer = vec![0; 1 << 20];
    for extent in disk.extents(0, disk.size()) {
        let extent = extent?;
        let mut at = extent.offset;
        let end = extent.offset + extent.len;
        while extent.kind == ExtentKind::Data && at < end {
            let len = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            disk.read_at(&mut buffer[..len], at)?;
            writer.write(at, &buffer[..len])?;
            at += u64::try_from(len).unwrap_or(0);
        }
    }
    writer.finish()?;
    Ok(())
}
