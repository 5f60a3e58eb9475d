//! Makes the disks that are judged.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use crate::judges_matrix::{BLOCKS_MIB, Case, Made, Shape};
use crate::judges_model::{Model, boot_record, partitions, places, work};
use crate::support::{MIB, link, pattern};
use vhdx::{
    Beyond, BulkWriter, Chain, CompactOptions, ConvertOptions, DirectoryResolver, DiskKind,
    DiskWriter, Durability, FileInfo, MergedIdentity, Params, Vhdx, compact, convert,
    create_differencing, merge, resize,
};

/// Makes the disk of a case in a folder; returns the name of the file, and what it must read as.
pub(crate) fn make(case: &Case, folder: &Path) -> (String, Model) {
    let maker = Maker { case, folder };
    let block = case.block();
    let first_size = match case.made {
        Made::Grown => case.bytes() / 2 / 4096 * 4096,
        Made::Shrunk => case.bytes() + 2 * block,
        Made::Bulk
        | Made::InPlace
        | Made::Unclean
        | Made::Merged
        | Made::Converted
        | Made::Compacted => case.bytes(),
    };
    let mut model = Model::new(first_size);
    let kind = match case.shape {
        Shape::Fixed => DiskKind::Fixed,
        Shape::Dynamic | Shape::Child | Shape::Grandchild => DiskKind::Dynamic,
    };
    let depth = match case.shape {
        Shape::Fixed | Shape::Dynamic => 0,
        Shape::Child => 1,
        Shape::Grandchild => 2,
    };
    // A parent has blocks of another size; a disk without child has those of the case.
    let alone = depth == 0 && case.made != Made::Converted;
    let root_kind = if case.made == Made::Converted {
        // Or all of it would be data.
        DiskKind::Dynamic
    } else {
        kind
    };
    let root_block = if alone {
        block
    } else {
        another_block(case.block_mib)
    };
    let mut info = maker.bulk(&mut model, root_kind, root_block);
    for level in 1..=depth {
        info = maker.child(&info, level);
        if level < depth || case.made == Made::Merged {
            info = maker.work(&mut model, level, Made::InPlace);
        }
    }
    let name = name(depth);
    match case.made {
        Made::Bulk => {}
        Made::InPlace | Made::Unclean => {
            maker.work(&mut model, depth, case.made);
        }
        Made::Grown => {
            maker.resize(&mut model, &name);
            maker.work(&mut model, depth, case.made);
        }
        Made::Shrunk => {
            maker.work(&mut model, depth, case.made);
            maker.resize(&mut model, &name);
        }
        Made::Compacted => {
            maker.work(&mut model, depth, case.made);
            let done = compact(
                maker.file(&name),
                CompactOptions::default(),
                Durability::ProcessKill,
                &mut |_| ControlFlow::Continue(()),
            );
            done.unwrap();
        }
        Made::Merged => {
            maker.child(&info, depth + 1);
            maker.work(&mut model, depth + 1, Made::InPlace);
            maker.merge(depth + 1);
        }
        Made::Converted => {
            maker.child(&info, depth + 1);
            maker.work(&mut model, depth + 1, Made::InPlace);
            return (maker.convert(depth + 1, kind), model);
        }
    }
    (name, model)
}

/// Returns a block size that is another one, but not so large that making it takes long.
fn another_block(mib: u64) -> u64 {
    let number = BLOCKS_MIB.iter().position(|block| *block == mib).unwrap();
    BLOCKS_MIB[(number * 2 + 3) % 7] * MIB
}

fn name(level: u64) -> String {
    format!("{level}.vhdx")
}

struct Maker<'a> {
    case: &'a Case,
    folder: &'a Path,
}

impl Maker<'_> {
    fn file(&self, name: &str) -> File {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(name))
            .unwrap()
    }

    fn params(&self, kind: DiskKind, block: u64, size: u64) -> Params {
        Params {
            kind,
            block_bytes: u32::try_from(block).unwrap(),
            logical: self.case.logical,
            physical: self.case.physical,
            ..Params::dynamic(size)
        }
    }

    /// Lays out the root of the chain.
    fn bulk(&self, model: &mut Model, kind: DiskKind, block: u64) -> FileInfo {
        let params = self.params(kind, block, model.size);
        let mut writer = BulkWriter::create(self.file(&name(0)), &params).unwrap();
        let sector = u64::from(self.case.logical);
        let block = self.case.block();
        for (offset, mut len) in places(model.size, block, sector) {
            if self.case.made == Made::Unclean && !self.case.has_parent() {
                // The second block is left for the writer to allocate.
                if offset >= block && offset < 2 * block {
                    continue;
                }
                let to_border = usize::try_from(block.saturating_sub(offset)).unwrap();
                if to_border > 0 {
                    len = len.min(to_border);
                }
            }
            // In odd steps, so that writes begin and end anywhere.
            let mut bytes = pattern(9, offset, len);
            if offset == 0 {
                let parts = partitions(self.case.bytes(), block, sector);
                bytes[..512].copy_from_slice(&boot_record(&parts));
            }
            for (number, part) in bytes.chunks(1000).enumerate() {
                writer.write(offset + number as u64 * 1000, part).unwrap();
            }
            model.write(offset, &bytes);
        }
        writer.finish().unwrap()
    }

    /// Makes an empty child of the level above.
    fn child(&self, parent: &FileInfo, level: u64) -> FileInfo {
        let params = Params {
            block_bytes: u32::try_from(self.case.block()).unwrap(),
            ..Params::child_of(parent, link(parent, &name(level - 1)))
        };
        create_differencing(self.file(&name(level)), &params).unwrap()
    }

    fn work(&self, model: &mut Model, level: u64, made: Made) -> FileInfo {
        let parents = (0..level).rev();
        let parents = parents
            .map(|level| Vhdx::open(self.file(&name(level))).unwrap())
            .collect();
        let leaf = self.file(&name(level));
        let writer = DiskWriter::open(leaf, parents, Durability::ProcessKill).unwrap();
        work(&writer, model, self.case.block(), level, self.case.zeros);
        if made == Made::Unclean {
            let info = writer.info();
            drop(writer);
            info
        } else {
            writer.close().unwrap()
        }
    }

    fn resize(&self, model: &mut Model, name: &str) {
        resize(
            self.file(name),
            self.case.bytes(),
            Beyond::Discard,
            Durability::ProcessKill,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
        model.resize(self.case.bytes());
    }

    fn merge(&self, level: u64) {
        let (child, parent) = (self.file(&name(level)), self.file(&name(level - 1)));
        merge(
            child,
            parent,
            MergedIdentity::New,
            Durability::ProcessKill,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
        std::fs::remove_file(self.folder.join(name(level))).unwrap();
    }

    fn convert(&self, level: u64, kind: DiskKind) -> String {
        let leaf = self.file(&name(level));
        let resolver = DirectoryResolver::new(self.folder);
        let source = Chain::open(leaf, &name(level), &resolver).unwrap();
        let params = self.params(kind, self.case.block(), self.case.bytes());
        convert(
            &source.into_disk(),
            self.file("converted.vhdx"),
            &params,
            ConvertOptions::default(),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
        "converted.vhdx".to_owned()
    }
}
