//! A chain of files made into one: merged from the root up, or copied where it cannot be merged in place.
//!
//! Every file is in the journal before it is made, and none is deleted before its content is in another. Killed on the
//! way, all of them go: what is begun anew comes from the store.

use std::ops::ControlFlow;
use std::sync::Arc;

use hyperv::HostFiles;
use model::{DiskId, JobId, host_path};
use plan::restore::DiskPlan;
use vhdx::{
    Chain, ConvertOptions, DiskFile, DiskKind, Durability, Format, MergedIdentity, Params,
    Progress, convert, merge, set_disk_id,
};

use crate::errors::{chain as causes, files_error, is_full, write_error};
use crate::job::JobError;
use crate::journal::{Deed, Journal};

/// The files of a chain on the host, and the disk they become.
pub(super) struct Joined {
    pub(super) job: JobId,
    pub(super) journal: Arc<Journal>,
    pub(super) files: Arc<HostFiles>,
    pub(super) plan: DiskPlan,
    /// Leaf first, root last.
    pub(super) paths: Vec<String>,
}

/// Called between blocks; says whether to go on.
pub(super) type GoOn<'g> = &'g mut dyn FnMut(Progress) -> ControlFlow<()>;

impl Joined {
    /// Opens the chain by its files, whatever paths they name as their parents.
    pub(super) fn open(&self) -> Result<Chain, JobError> {
        let mut layers = Vec::new();
        for path in &self.paths {
            let open = self.files.open_read(path).map_err(files_error)?;
            let layer = DiskFile::open(open).map_err(|error| damaged(path, &error))?;
            layers.push(layer);
        }
        Chain::from_layers(layers).map_err(|error| damaged(&self.plan.source_path, &error))
    }

    /// Makes the one file of it.
    pub(super) fn make_one(&self, go_on: GoOn<'_>) -> Result<(), JobError> {
        let format = {
            let chain = self.open()?;
            chain.layers().first().map(|leaf| leaf.info().format)
        };
        let target = &self.plan.target_path;
        let root_is_target = self
            .paths
            .last()
            .is_some_and(|root| host_path::same(root, target));
        match format {
            Some(Format::Vhdx) if root_is_target => self.merge(go_on),
            // A VHD, whatever its name says.
            Some(Format::Vhd) if root_is_target => {
                let folder = host_path::parent(target).unwrap_or(target);
                let name = host_path::file_name(target);
                let beside = host_path::join(folder, &format!(".reprise-{}-{name}", self.job));
                self.copy(&beside, go_on)?;
                self.journal.will(Deed::Place {
                    from: beside.clone(),
                    to: target.clone(),
                })?;
                self.files.rename(&beside, target).map_err(files_error)
            }
            Some(Format::Vhdx | Format::Vhd) | None => self.copy(target, go_on),
        }
    }

    /// Merges from the root up: the root takes the identity of what went into it, so that the next child accepts it.
    fn merge(&self, go_on: GoOn<'_>) -> Result<(), JobError> {
        let Some((root, children)) = self.paths.split_last() else {
            return Ok(());
        };
        for child in children.iter().rev() {
            let source = self.files.open_write(child).map_err(files_error)?;
            let target = self.files.open_write(root).map_err(files_error)?;
            merge(
                source,
                target,
                MergedIdentity::Child,
                Durability::PowerLoss,
                go_on,
            )
            .map_err(|error| failed("merge into", root, &error))?;
            self.files.delete(child).map_err(files_error)?;
        }
        if let Some(id) = self.new_id() {
            let file = self.files.open_write(root).map_err(files_error)?;
            set_disk_id(file, id.0, Durability::PowerLoss)
                .map_err(|error| failed("change", root, &error))?;
        }
        Ok(())
    }

    /// Copies the chain into a new VHDX and deletes its files.
    fn copy(&self, to: &str, go_on: GoOn<'_>) -> Result<(), JobError> {
        let disk = self.open()?.into_disk();
        let root = disk.layers().last();
        let fixed = root.is_some_and(|root| root.info().kind == DiskKind::Fixed);
        let params = Params {
            kind: if fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            disk_id: self.new_id().unwrap_or(self.plan.disk).0,
            ..Params::like(disk.info())
        };
        self.journal.will(Deed::File {
            path: to.to_owned(),
        })?;
        let target = self.files.create_new(to).map_err(files_error)?;
        convert(&disk, target, &params, ConvertOptions::default(), go_on)
            .map_err(|error| failed("write", to, &error))?;
        drop(disk);
        for path in &self.paths {
            self.files.delete(path).map_err(files_error)?;
        }
        Ok(())
    }

    fn new_id(&self) -> Option<DiskId> {
        self.plan.new_disk_id.then(|| DiskId(uuid::Uuid::new_v4()))
    }
}

fn failed(action: &str, path: &str, error: &(dyn std::error::Error + 'static)) -> JobError {
    if is_full(error) {
        return write_error(path, error);
    }
    let message = format!("cannot {action} {path}: {}", causes(error));
    JobError::transient("merge-failed", message)
}

pub(super) fn damaged(path: &str, error: &vhdx::Error) -> JobError {
    let message = format!("{path} is no sound disk file: {}", causes(error));
    JobError::failed("damaged", message)
        .hint("restore an older recovery point; `reprise point verify` tells which are whole")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hyperv::PathMap;
    use model::{Fence, VmId};
    use vhdx::{BulkWriter, Disk, DiskWriter, ParentLink, Vhdx, create_differencing, inspect};

    use super::*;
    use crate::home::Home;

    const SIZE: u64 = 8 << 20;

    struct Bench {
        dir: tempfile::TempDir,
        files: Arc<HostFiles>,
        journal: Arc<Journal>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("c")).unwrap();
            let home = Arc::new(Home::open(&dir.path().join("home")).unwrap());
            let map = PathMap::new([(r"C:\", dir.path().join("c"))]).unwrap();
            Self {
                files: Arc::new(HostFiles::new(map)),
                journal: Arc::new(Journal::new(
                    home,
                    JobId::random(),
                    Fence(1),
                    VmId::random(),
                )),
                dir,
            }
        }

        fn joined(&self, target: &str, paths: &[&str], new_disk_id: bool) -> Joined {
            Joined {
                job: JobId::random(),
                journal: Arc::clone(&self.journal),
                files: Arc::clone(&self.files),
                plan: DiskPlan {
                    disk: DiskId(uuid::Uuid::from_u128(5)),
                    source_path: paths[0].to_owned(),
                    target_path: target.to_owned(),
                    new_disk_id,
                    size_bytes: SIZE,
                    fixed: false,
                    fetch_bytes: 0,
                    needed_bytes: 0,
                    chain: Vec::new(),
                    becomes: plan::restore::DiskUse::File,
                },
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }
        }

        fn read(&self, path: &str) -> Vec<u8> {
            let disk = Disk::open(self.files.open_read(path).unwrap()).unwrap();
            let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
            disk.read_at(&mut bytes, 0).unwrap();
            bytes
        }

        fn names(&self) -> Vec<String> {
            let found = self.files.list(r"C:\").unwrap();
            found.into_iter().map(|entry| entry.name).collect()
        }

        /// A fixed VHD: its content and a footer.
        fn make_vhd(&self, path: &str, content: &[u8]) {
            let mut footer = [0_u8; 512];
            footer[..8].copy_from_slice(b"conectix");
            footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
            footer[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
            footer[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
            footer[40..48].copy_from_slice(&SIZE.to_be_bytes());
            footer[48..56].copy_from_slice(&SIZE.to_be_bytes());
            footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
            footer[68..84].copy_from_slice(uuid::Uuid::from_u128(77).as_bytes());
            let sum: u32 = footer.iter().map(|&byte| u32::from(byte)).sum();
            footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
            let local = self.files.local_path(path).unwrap();
            fs::write(local, [content, &footer].concat()).unwrap();
        }
    }

    fn on(_: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn content(seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        bytes[3 << 20..5 << 20].fill(seed);
        bytes
    }

    #[test]
    fn three_files_become_one_with_what_they_read_as() {
        let bench = Bench::new();
        let names = [r"C:\c.avhdx", r"C:\b.avhdx", r"C:\a.vhdx"];
        let mut params = Params::dynamic(SIZE);
        params.block_bytes = 1 << 20;
        let root = bench.files.create_new(names[2]).unwrap();
        let mut writer = BulkWriter::create(root, &params).unwrap();
        writer.write(0, &[1; 8192]).unwrap();
        let mut parent = writer.finish().unwrap();
        for (number, name) in [(1, names[1]), (2, names[0])] {
            let link = ParentLink {
                data_write_guid: parent.data_write_guid,
                // Where it once was: nobody looks there.
                relative_path: Some(r".\elsewhere\x.vhdx".into()),
                volume_path: None,
                absolute_path: None,
            };
            let child = bench.files.create_new(name).unwrap();
            create_differencing(child, &Params::child_of(&parent, link)).unwrap();
            let mut parents = Vec::new();
            for below in names.iter().skip(3 - number) {
                parents.push(Vhdx::open(bench.files.open_read(below).unwrap()).unwrap());
            }
            let child = bench.files.open_write(name).unwrap();
            let writer = DiskWriter::open(child, parents, Durability::ProcessKill).unwrap();
            let fill = u8::try_from(number).unwrap() + 1;
            writer.write_at(&[fill; 4096], 1 << 20).unwrap();
            writer
                .write_at(&[fill; 4096], u64::from(fill) << 20)
                .unwrap();
            parent = writer.close().unwrap();
        }
        let joined = bench.joined(names[2], &names, true);
        let disk = joined.open().unwrap().into_disk();
        let mut before = vec![0; usize::try_from(SIZE).unwrap()];
        disk.read_at(&mut before, 0).unwrap();
        let id = disk.disk_id();
        drop(disk);
        joined.make_one(&mut on).unwrap();
        assert_eq!(bench.names(), ["a.vhdx"]);
        assert!(bench.read(names[2]) == before);
        let merged = inspect(bench.files.open_read(names[2]).unwrap()).unwrap();
        assert_ne!(merged.disk_id, id);
    }

    #[test]
    fn a_vhd_becomes_a_vhdx_whatever_its_name() {
        for (old, new) in [
            (r"C:\old.vhd", r"C:\old.vhdx"),
            (r"C:\a.vhdx", r"C:\a.vhdx"),
        ] {
            let bench = Bench::new();
            let bytes = content(9);
            bench.make_vhd(old, &bytes);
            let joined = bench.joined(new, &[old], false);
            joined.make_one(&mut on).unwrap();
            assert_eq!(bench.names(), [host_path::file_name(new)]);
            assert!(bench.read(new) == bytes);
            let made = inspect(bench.files.open_read(new).unwrap()).unwrap();
            assert_eq!(made.format, Format::Vhdx);
            assert_eq!(made.disk_id, joined.plan.disk.0);
        }
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let bench = Bench::new();
        bench.make_vhd(r"C:\a.vhd", &content(1));
        fs::write(bench.dir.path().join("c/b.avhdx"), b"nonsense").unwrap();
        let joined = bench.joined(r"C:\a.vhdx", &[r"C:\b.avhdx", r"C:\a.vhd"], false);
        let error = joined.make_one(&mut on).unwrap_err().to_string();
        assert!(error.contains("b.avhdx"), "{error}");
        assert_eq!(bench.names(), ["a.vhd", "b.avhdx"]);
    }
}
