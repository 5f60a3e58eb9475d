//! Disks for tests.

use std::fs::File;
use std::path::Path;

use vhdx::{BulkWriter, Chain, DirectoryResolver, DiskWriter, Durability, Params};

/// A disk to make.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpec {
    /// Virtual size in bytes.
    pub size: u64,
    /// How many bytes of it hold data, in runs spread over the disk.
    pub data: u64,
    /// What the data is made from.
    pub seed: u64,
}

/// Bytes in a run of data.
const RUN: u64 = 1 << 20;

/// Makes a dynamic VHDX with data in it and returns its VirtualDiskId.
pub fn make_disk(path: &Path, spec: DiskSpec) -> String {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(spec.size)
    };
    let mut writer = BulkWriter::create(file, &params).expect("the parameters are sound");
    let runs = spec.data / RUN;
    assert!(runs * RUN <= spec.size, "more data than disk");
    let stride = (spec.size / RUN).checked_div(runs).unwrap_or(1) * RUN;
    let mut run = vec![0; usize::try_from(RUN).expect("a MiB")];
    for number in 0..runs {
        let offset = number * stride;
        pattern(spec.seed, offset, &mut run);
        writer.write(offset, &run).expect("runs are in order");
    }
    let made = writer.finish().expect("the disk can be finished");
    made.disk_id.to_string()
}

/// Writes into a VHDX without parents, past every lock: runs of so many bytes at these offsets, made from a seed.
pub fn damage_disk(
    path: &Path,
    offsets: impl IntoIterator<Item = u64>,
    run_bytes: usize,
    seed: u64,
) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let disk = DiskWriter::open(file, Vec::new(), Durability::ProcessKill)
        .unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let mut run = vec![0; run_bytes];
    for offset in offsets {
        pattern(seed, offset, &mut run);
        let written = disk.write_at(&run, offset);
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
    disk.close()
        .unwrap_or_else(|error| panic!("close {}: {error}", path.display()));
}

/// Fills `out` with bytes made from a seed and their position; they do not compress.
pub fn pattern(seed: u64, position: u64, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().set_position_and_fill(position, out);
}

trait Fill {
    fn set_position_and_fill(self, position: u64, out: &mut [u8]);
}

impl Fill for blake3::OutputReader {
    fn set_position_and_fill(mut self, position: u64, out: &mut [u8]) {
        self.set_position(position);
        self.fill(out);
    }
}

/// Hashes the virtual content of a VHDX file, its parents in the same folder included.
#[must_use]
pub fn disk_hash(path: &Path) -> String {
    let file = File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let folder = path.parent().expect("a file lies in a folder");
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a plain name");
    let chain = Chain::open(file, name, &DirectoryResolver::new(folder))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let disk = chain.into_disk();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < disk.size() {
        let len =
            usize::try_from(disk.size() - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        disk.read_at(&mut buffer[..len], at)
            .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        hasher.update(&buffer[..len]);
        at += u64::try_from(len).expect("at most a MiB");
    }
    hasher.finalize().to_hex().to_string()
}
