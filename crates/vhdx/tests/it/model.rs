//! Random work on a disk and its checkpoints, against a plain array of bytes.

use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;

use crate::support::{MIB, disk_of, link, pattern, rounds, sound};
use vhdx::{
    Beyond, Chain, CompactOptions, ConvertOptions, Disk, DiskKind, DiskWriter, Durability, Error,
    MemoryFile, MergedIdentity, Params, Progress, Vhdx, compact, convert, create_differencing,
    inspect, merge, resize, set_parent,
};

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        len: usize,
        seed: u64,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    Trim {
        offset: u64,
        len: u64,
    },
    Flush,
    Reopen,
    Resize {
        size: u64,
        beyond: Beyond,
    },
    Compact {
        find_zeros: bool,
        /// With the leaf open, or of any file while it is closed.
        open: bool,
        layer: usize,
    },
    /// Copies the chain into one new file; goes on with that if `adopt`.
    Convert {
        block_mib: u32,
        fixed: bool,
        drop_zeros: bool,
        adopt: bool,
    },
    /// Flush, then end without closing.
    Kill,
    Checkpoint {
        block_mib: u32,
    },
    /// Merges a layer, counted from the root, into the one below.
    Merge {
        layer: usize,
        identity: MergedIdentity,
    },
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    size: u64,
    block_mib: u32,
    sector: u32,
    fixed: bool,
}

fn block_mib() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1_u32), Just(2), Just(4)]
}

fn shape() -> impl Strategy<Value = Shape> {
    (1_u64..9 * 256, block_mib(), any::<bool>(), any::<bool>()).prop_map(
        |(cells, block_mib, large, fixed)| Shape {
            size: cells * 4096,
            block_mib,
            sector: if large { 4096 } else { 512 },
            fixed,
        },
    )
}

fn step(size: u64) -> impl Strategy<Value = Step> {
    let range = (
        0..size,
        prop_oneof![1_u64..2000, 1_u64..300_000, Just(MIB), Just(3 * MIB)],
        0..3_u64,
    );
    // Often on the borders of blocks and sectors.
    let range = range.prop_map(move |(offset, len, align)| {
        let offset = match align {
            0 => offset,
            1 => offset / 512 * 512,
            _ => offset / MIB * MIB,
        };
        (offset, len.min(size - offset))
    });
    let write = (range.clone(), any::<u32>()).prop_map(|((offset, len), seed)| Step::Write {
        offset,
        len: usize::try_from(len).unwrap(),
        seed: seed.into(),
    });
    let identity = prop_oneof![Just(MergedIdentity::New), Just(MergedIdentity::Child)];
    prop_oneof![
        8 => write,
        4 => range.clone().prop_map(|(offset, len)| Step::Zero { offset, len }),
        2 => range.prop_map(|(offset, len)| Step::Trim { offset, len }),
        1 => (block_mib(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(block_mib, fixed, drop_zeros, adopt)| Step::Convert { block_mib, fixed, drop_zeros, adopt }
        ),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => (1..10_u64 * 256, any::<bool>()).prop_map(|(cells, discard)| Step::Resize {
            size: cells * 4096,
            beyond: if discard { Beyond::Discard } else { Beyond::MustBeZero },
        }),
        2 => (any::<bool>(), any::<bool>(), any::<prop::sample::Index>()).prop_map(
            |(find_zeros, open, index)| Step::Compact { find_zeros, open, layer: index.index(64) }
        ),
        2 => block_mib().prop_map(|block_mib| Step::Checkpoint { block_mib }),
        1 => (any::<prop::sample::Index>(), identity)
            .prop_map(|(index, identity)| Step::Merge { layer: index.index(64), identity }),
    ]
}

fn work() -> impl Strategy<Value = (Shape, Vec<Step>)> {
    shape().prop_flat_map(|shape| (Just(shape), prop::collection::vec(step(shape.size), 1..24)))
}

/// A chain of files in memory with its leaf open, and the bytes it must hold.
struct World {
    /// Root first.
    files: Vec<Arc<MemoryFile>>,
    leaf: Option<DiskWriter>,
    bytes: Vec<u8>,
}

impl World {
    fn new(shape: Shape) -> Self {
        let params = Params {
            block_bytes: shape.block_mib << 20,
            logical: shape.sector,
            ..if shape.fixed {
                Params::fixed(shape.size)
            } else {
                Params::dynamic(shape.size)
            }
        };
        let (file, _) = disk_of(&params, &[]);
        let mut world = Self {
            files: vec![file],
            leaf: None,
            bytes: vec![0; usize::try_from(shape.size).unwrap()],
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let parents = self
            .files
            .iter()
            .rev()
            .skip(1)
            .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
            .collect();
        let leaf = Arc::clone(self.files.last().unwrap());
        self.leaf = Some(DiskWriter::open(leaf, parents, Durability::PowerLoss).unwrap());
    }

    fn leaf(&self) -> &DiskWriter {
        self.leaf.as_ref().unwrap()
    }

    fn close(&mut self) {
        let info = self.leaf.take().unwrap().close().unwrap();
        assert!(!info.unclean);
    }

    fn range(offset: u64, len: u64) -> std::ops::Range<usize> {
        usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Write { offset, len, seed } => {
                let (offset, len) = self.clip(offset, len as u64);
                let len = usize::try_from(len).unwrap();
                let bytes = pattern(seed, offset, len);
                self.leaf().write_at(&bytes, offset).unwrap();
                self.bytes[Self::range(offset, len as u64)].copy_from_slice(&bytes);
            }
            Step::Zero { offset, len } => {
                let (offset, len) = self.clip(offset, len);
                self.leaf().zero(offset, len).unwrap();
                self.bytes[Self::range(offset, len)].fill(0);
            }
            Step::Trim { offset, len } => {
                let (offset, len) = self.clip(offset, len);
                self.trim(offset, len);
            }
            Step::Resize { size, beyond } => self.resize(size, beyond),
            Step::Compact {
                find_zeros,
                open,
                layer,
            } => self.compact(CompactOptions { find_zeros }, open, layer),
            Step::Convert {
                block_mib,
                fixed,
                drop_zeros,
                adopt,
            } => self.convert(block_mib, fixed, drop_zeros, adopt),
            Step::Flush => self.leaf().flush().unwrap(),
            Step::Reopen => {
                self.close();
                self.check_from_outside();
                self.open();
            }
            Step::Kill => {
                self.leaf().flush().unwrap();
                self.leaf = None;
                self.check_from_outside();
                self.open();
            }
            Step::Checkpoint { block_mib } => {
                self.close();
                let parent = inspect(Arc::clone(self.files.last().unwrap())).unwrap();
                let params =
                    Params::child_of(&parent, link(&parent, &self.files.len().to_string()));
                let params = Params {
                    block_bytes: block_mib << 20,
                    ..params
                };
                let file = Arc::new(MemoryFile::new());
                create_differencing(Arc::clone(&file), &params).unwrap();
                self.files.push(file);
                self.open();
            }
            Step::Merge { layer, identity } => {
                if self.files.len() > 1 {
                    self.merge(1 + layer % (self.files.len() - 1), identity);
                }
            }
        }
    }

    /// Brings a range into the disk, whose size changes.
    fn clip(&self, offset: u64, len: u64) -> (u64, u64) {
        let size = self.bytes.len() as u64;
        let offset = offset % size;
        (offset, len.min(size - offset))
    }

    fn resize(&mut self, size: u64, beyond: Beyond) {
        self.close();
        let file = Arc::clone(self.files.last().unwrap());
        let before = inspect(Arc::clone(&file)).unwrap();
        let mut go_on = |_| ControlFlow::Continue(());
        let kept = usize::try_from(size).unwrap();
        let durability = Durability::PowerLoss;
        match resize(Arc::clone(&file), size, beyond, durability, &mut go_on) {
            Ok(info) => {
                assert_eq!(info.size, size);
                assert!(!info.unclean);
                assert_eq!(
                    info.data_write_guid == before.data_write_guid,
                    size == before.size
                );
                if beyond == Beyond::MustBeZero && kept < self.bytes.len() {
                    assert!(self.bytes[kept..].iter().all(|byte| *byte == 0));
                }
                self.bytes.resize(kept, 0);
            }
            Err(err) => {
                assert_eq!(beyond, Beyond::MustBeZero);
                if let Error::DataBeyondEnd { offset } = err {
                    let from = usize::try_from(offset).unwrap();
                    assert!(from >= kept);
                    assert!(self.bytes[from..].iter().any(|byte| *byte != 0));
                } else {
                    assert!(matches!(err, Error::ParentBeyondEnd { .. }), "{err}");
                    assert!(self.files.len() > 1);
                }
                assert_eq!(inspect(file).unwrap(), before);
            }
        }
        self.check_from_outside();
        self.open();
    }

    fn compact(&mut self, options: CompactOptions, open: bool, layer: usize) {
        let mut go_on = |_| ControlFlow::Continue(());
        if open {
            self.leaf().compact(options, &mut go_on).unwrap();
            return;
        }
        self.close();
        let file = Arc::clone(&self.files[layer % self.files.len()]);
        let before = inspect(Arc::clone(&file)).unwrap();
        let durability = Durability::PowerLoss;
        let report = compact(Arc::clone(&file), options, durability, &mut go_on).unwrap();
        let after = inspect(Arc::clone(&file)).unwrap();
        assert_eq!(after.data_write_guid, before.data_write_guid);
        assert_eq!(after.file_bytes, report.file_bytes_after);
        assert_eq!(before.file_bytes, report.file_bytes_before);
        assert!(after.file_bytes <= before.file_bytes);
        // A second time there is nothing left to do.
        let again = compact(Arc::clone(&file), options, durability, &mut go_on).unwrap();
        assert_eq!((again.blocks_given_up, again.moved_bytes), (0, 0));
        assert_eq!(inspect(file).unwrap(), after);
        self.check_from_outside();
        self.open();
    }

    fn trim(&mut self, offset: u64, len: u64) {
        self.leaf().trim(offset, len).unwrap();
        let info = self.leaf().info();
        if info.kind == DiskKind::Fixed {
            return;
        }
        let block_len = u64::from(info.block_bytes);
        for start in (0..info.size).step_by(usize::try_from(block_len).unwrap()) {
            let end = info.size.min(start + block_len);
            if offset <= start && end <= offset + len {
                self.bytes[Self::range(start, end - start)].fill(0);
            }
        }
    }

    fn convert(&mut self, block_mib: u32, fixed: bool, drop_zeros: bool, adopt: bool) {
        self.close();
        let source = self.disk();
        let like = source.info().clone();
        let params = Params {
            block_bytes: block_mib << 20,
            kind: if fixed {
                DiskKind::Fixed
            } else {
                DiskKind::Dynamic
            },
            ..Params::like(&like)
        };
        let target = Arc::new(MemoryFile::new());
        let options = ConvertOptions { drop_zeros };
        let mut seen = 0;
        let mut progress = |at: Progress| {
            assert!(at.bytes_done >= seen && at.bytes_total == like.size);
            seen = at.bytes_done;
            ControlFlow::Continue(())
        };
        let file = Arc::clone(&target);
        let info = convert(&source, file, &params, options, &mut progress).unwrap();
        assert_eq!(seen, like.size);
        assert_eq!((info.size, info.disk_id), (like.size, like.disk_id));
        let old = std::mem::replace(&mut self.files, vec![target]);
        self.check_from_outside();
        if !adopt {
            self.files = old;
        }
        self.open();
    }

    fn merge(&mut self, layer: usize, identity: MergedIdentity) {
        self.close();
        let child = self.files.remove(layer);
        let parent = &self.files[layer - 1];
        let sizes = [&child, parent].map(|file| inspect(Arc::clone(file)).unwrap().size);
        let mut seen = 0;
        let mut progress = |at: Progress| {
            assert!(at.bytes_done > seen);
            seen = at.bytes_done;
            ControlFlow::Continue(())
        };
        let merged = merge(
            Arc::clone(&child),
            Arc::clone(parent),
            identity,
            Durability::PowerLoss,
            &mut progress,
        );
        if sizes[0] < sizes[1] {
            assert!(matches!(merged, Err(Error::SizesDiffer { .. })));
            self.files.insert(layer, child);
            self.open();
            return;
        }
        let merged = merged.unwrap();
        assert_eq!(seen, sizes[0]);
        assert_eq!(merged.size, sizes[0]);
        if let Some(grandchild) = self.files.get(layer)
            && identity == MergedIdentity::New
        {
            let info = set_parent(
                Arc::clone(grandchild),
                &link(&merged, "merged.vhdx"),
                Durability::PowerLoss,
            )
            .unwrap();
            assert_eq!(
                info.parent.unwrap().relative_path.as_deref(),
                Some(r".\merged.vhdx")
            );
        }
        self.check_from_outside();
        self.open();
    }

    fn check(&self) {
        let mut found = vec![0xEE; self.bytes.len()];
        self.leaf().read_at(&mut found, 0).unwrap();
        assert!(found == self.bytes, "read through the writer");
    }

    fn disk(&self) -> Disk {
        let layers = self
            .files
            .iter()
            .rev()
            .map(|file| Vhdx::open(Arc::clone(file)).unwrap())
            .collect();
        Chain::from_layers(layers).unwrap().into_disk()
    }

    fn check_from_outside(&self) {
        for file in &self.files {
            sound(file, "from outside");
        }
        let disk = self.disk();
        let mut found = vec![0xEE; self.bytes.len()];
        disk.read_at(&mut found, 0).unwrap();
        assert!(found == self.bytes, "read from outside");
        for extent in disk.extents(0, disk.size()).map(Result::unwrap) {
            if extent.kind == vhdx::ExtentKind::Zero {
                let range = Self::range(extent.offset, extent.len);
                assert!(
                    self.bytes[range].iter().all(|byte| *byte == 0),
                    "a zero extent that is none"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(48), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_holds_what_was_written((shape, steps) in work()) {
        let mut world = World::new(shape);
        for step in &steps {
            world.apply(step);
            world.check();
        }
        world.close();
        world.check_from_outside();
    }
}
