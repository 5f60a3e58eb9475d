//! Writing in place, and ends that nobody planned after every single write: kills and losses of power (see `power`).
//!
//! Sectors carry tags, so that for each sector the tags it may show are known: the one at the last flush that returned, and
//! those written since.

use std::io;
use std::sync::{Arc, Mutex};

use crate::power::{Chance, Op, Recorder, all_ends, settled};
use crate::support::{MIB, disk_of, link, rounds, sound};
use vhdx::{
    BulkWriter, Chain, Disk, DiskWriter, Durability, MemoryFile, Params, ReadAt, Vhdx, WriteAt,
    create_differencing, inspect,
};

const SECTOR: u64 = 512;

/// The tags a disk may show, by the history of what was done.
struct History {
    /// Number of file operations when a step was done, the tags then, and whether it was a flush.
    steps: Vec<(usize, Vec<u32>, bool)>,
}

impl History {
    fn allows(&self, ops: usize, sector: usize, tag: u32) -> bool {
        let flushed = self
            .steps
            .iter()
            .rposition(|(count, _, flush)| *flush && *count <= ops)
            .unwrap_or(0);
        let under_way = self
            .steps
            .iter()
            .position(|(count, _, _)| *count > ops)
            .unwrap_or(self.steps.len() - 1);
        self.steps[flushed..=under_way.max(flushed)]
            .iter()
            .any(|(_, tags, _)| tags[sector] == tag)
    }
}

fn sector_of(tag: u32) -> Vec<u8> {
    tag.to_le_bytes().repeat(128)
}

/// Work on a leaf over `parents`: recorded operations, and what may be seen after each.
fn record(
    start: &MemoryFile,
    parents: &[Arc<MemoryFile>],
    durability: Durability,
    seed: u64,
) -> (Vec<Op>, History) {
    let recorder = Arc::new(Recorder::new(start));
    let open = || {
        let parents = parents
            .iter()
            .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
            .collect();
        DiskWriter::open(Arc::clone(&recorder), parents, durability).unwrap()
    };
    let mut writer = open();
    let size = writer.size();
    let mut tags: Vec<u32> = (0..size / SECTOR)
        .map(|sector| tag_at(&|buf, at| writer.read_at(buf, at).unwrap(), sector))
        .collect();
    let mut history = History {
        steps: vec![(0, tags.clone(), true)],
    };
    let mut chance = Chance(seed);
    for number in 1..60_u32 {
        let first = chance.next(size / SECTOR);
        let len = match chance.next(4) {
            0 => 1,
            1 => 1 + chance.next(16),
            2 => 1 + chance.next(600),
            _ => 2048,
        };
        let first = if len == 2048 {
            first / 2048 * 2048
        } else {
            first
        };
        let len = len.min(size / SECTOR - first);
        let range = usize::try_from(first).unwrap()..usize::try_from(first + len).unwrap();
        let mut flush = false;
        match chance.next(12) {
            // Whole blocks give up their space, which later writes use.
            number @ 6..=8 => {
                let len = u64::from(writer.info().block_bytes);
                let at = chance.next(size / len) * len;
                if number == 8 {
                    writer.trim(at, len).unwrap();
                } else {
                    writer.zero(at, len).unwrap();
                }
                let range = at / SECTOR..(at + len) / SECTOR;
                range.for_each(|sector| tags[usize::try_from(sector).unwrap()] = 0);
            }
            0 | 1 => {
                writer.flush().unwrap();
                flush = true;
            }
            2 | 3 => {
                writer.zero(first * SECTOR, len * SECTOR).unwrap();
                tags[range].fill(0);
            }
            4 => {
                writer.close().unwrap();
                flush = true;
                writer = open();
            }
            _ => {
                let bytes: Vec<u8> = (0..len).flat_map(|_| sector_of(number)).collect();
                writer.write_at(&bytes, first * SECTOR).unwrap();
                tags[range].fill(number);
            }
        }
        history.steps.push((recorder.count(), tags.clone(), flush));
    }
    writer.flush().unwrap();
    history.steps.push((recorder.count(), tags, true));
    (recorder.ops(), history)
}

fn tag_at(read: &dyn Fn(&mut [u8], u64), sector: u64) -> u32 {
    let mut bytes = vec![0; 512];
    read(&mut bytes, sector * SECTOR);
    let tag = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert!(bytes == sector_of(tag), "sector {sector} is torn");
    tag
}

/// Opens what is left, from outside and in place, and looks at every sector.
#[track_caller]
fn judge(
    start: &MemoryFile,
    left: MemoryFile,
    parents: &[Arc<MemoryFile>],
    history: &History,
    end: usize,
    kind: &str,
) {
    let context = format!("after operation {end} ({kind})");
    let left = Arc::new(left);
    sound(&left, &context);
    let parents = || {
        parents
            .iter()
            .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
    };
    let leaf = Vhdx::open(Arc::clone(&left)).unwrap_or_else(|err| panic!("{context}: {err}"));
    let identity = leaf.info().data_write_guid;
    let disk = Chain::from_layers(std::iter::once(leaf).chain(parents()).collect())
        .unwrap()
        .into_disk();
    let mut before = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut before, 0).unwrap();
    let mut changed = false;
    for (sector, bytes) in before.chunks(512).enumerate() {
        let tag = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert!(
            bytes[4..] == bytes[..508],
            "{context}: sector {sector} is torn"
        );
        assert!(
            history.allows(end, sector, tag),
            "{context}: sector {sector} shows {tag}"
        );
        changed |= tag != history.steps[0].1[sector];
    }
    if changed {
        let old = inspect(start.duplicate()).unwrap().data_write_guid;
        assert_ne!(
            identity, old,
            "{context}: another content under the same identity"
        );
    }
    let writer = DiskWriter::open(
        Arc::clone(&left),
        parents().collect(),
        Durability::PowerLoss,
    )
    .unwrap();
    let mut after = vec![0; before.len()];
    writer.read_at(&mut after, 0).unwrap();
    assert!(
        after == before,
        "{context}: replay in place differs from replay in memory"
    );
    assert!(!writer.close().unwrap().unclean);
}

fn survives(start: &MemoryFile, parents: &[Arc<MemoryFile>], seed: u64) {
    let (ops, _) = record(start, parents, Durability::ProcessKill, seed);
    assert!(
        !ops.iter().any(|op| matches!(op, Op::Sync)),
        "no waiting for the disk was asked for"
    );
    let (ops, history) = record(start, parents, Durability::PowerLoss, seed);
    all_ends(start, &ops, seed, |left, end, kind| {
        judge(start, left, parents, &history, end, kind);
    });
}

fn params() -> Params {
    Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(4 * MIB)
    }
}

#[test]
fn a_dynamic_disk_survives_any_end_after_any_write() {
    for seed in 0..u64::from(rounds(3)) {
        let (start, _) = disk_of(&params(), &[(MIB, sector_of(1000).repeat(2048))]);
        survives(&start, &[], seed);
    }
}

#[test]
fn a_child_survives_any_end_after_any_write() {
    for seed in 0..u64::from(rounds(3)) {
        let (parent, info) = disk_of(&params(), &[(0, sector_of(2000).repeat(3000))]);
        let child = MemoryFile::new();
        let child = Arc::new(child);
        create_differencing(
            Arc::clone(&child),
            &Params::child_of(&info, link(&info, "parent.vhdx")),
        )
        .unwrap();
        survives(&child, &[parent], seed);
    }
}

#[test]
fn nothing_is_written_after_a_write_that_failed() {
    /// Fails the n-th write.
    struct Failing(MemoryFile, Mutex<u32>);
    impl ReadAt for Failing {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buf, offset)
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
    }
    impl WriteAt for Failing {
        fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
            let mut left = self.1.lock().unwrap();
            *left = left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            self.0.write_all_at(buf, offset)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            WriteAt::set_len(&self.0, len)
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let (start, _) = disk_of(&params(), &[]);
    for writes in 0..12 {
        let file = Arc::new(Failing(start.duplicate(), Mutex::new(writes)));
        let writer =
            DiskWriter::open(Arc::clone(&file), Vec::new(), Durability::PowerLoss).unwrap();
        let failed = (0..4).find_map(|block| {
            let written = writer
                .write_at(&sector_of(7), block * MIB)
                .and_then(|()| writer.flush());
            written.err()
        });
        let Some(err) = failed else { continue };
        assert_eq!(err.kind(), vhdx::Kind::Retry);
        *file.1.lock().unwrap() = 1000;
        assert!(matches!(writer.flush(), Err(vhdx::Error::Poisoned)));
        assert!(matches!(
            writer.write_at(&[0], 0),
            Err(vhdx::Error::Poisoned)
        ));
        // The file itself is as after a kill.
        Vhdx::open(Arc::clone(&file)).unwrap();
    }
}

/// The bytes of a file, its headers left out.
fn bytes_but_headers(file: &MemoryFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes[64 << 10..192 << 10].fill(0);
    bytes
}

#[test]
fn nothing_changes_under_an_old_identity() {
    let (start, info) = disk_of(&params(), &[(0, sector_of(1000).repeat(8192))]);
    let before = bytes_but_headers(&start);
    let recorder = Arc::new(Recorder::new(&start));
    let writer =
        DiskWriter::open(Arc::clone(&recorder), Vec::new(), Durability::PowerLoss).unwrap();
    // In place, so that nothing else waits for the disk before.
    writer.write_at(&sector_of(1), MIB).unwrap();
    writer.write_at(&sector_of(2), 2 * MIB).unwrap();
    let done = writer.close().unwrap();
    let left = settled(&start, &recorder.ops());
    assert_eq!(inspect(left).unwrap(), done);
    all_ends(&start, &recorder.ops(), 1, |left, end, kind| {
        if bytes_but_headers(&left) != before {
            let now = inspect(left).unwrap();
            assert_ne!(now.data_write_guid, info.data_write_guid, "{end} ({kind})");
            assert_ne!(now.file_write_guid, info.file_write_guid, "{end} ({kind})");
        }
    });
}

#[test]
fn a_new_file_is_refused_until_it_is_whole() {
    let (older, _) = disk_of(&params(), &[(0, sector_of(1).repeat(8192))]);
    for start in [Arc::new(MemoryFile::new()), older] {
        let recorder = Arc::new(Recorder::new(&start));
        let mut writer = BulkWriter::create(Arc::clone(&recorder), &params()).unwrap();
        writer.write(MIB, &sector_of(2).repeat(2048)).unwrap();
        let done = writer.finish().unwrap();
        let left = settled(&start, &recorder.ops());
        assert_eq!(inspect(left).unwrap(), done);
        all_ends(&start, &recorder.ops(), 1, |left, end, kind| {
            let Ok(disk) = Disk::open(left) else { return };
            let tag = if disk.info().data_write_guid == done.data_write_guid {
                2
            } else {
                1
            };
            let mut bytes = vec![0; 512];
            disk.read_at(&mut bytes, MIB).unwrap();
            assert!(bytes == sector_of(tag), "{end} ({kind})");
        });
    }
}
