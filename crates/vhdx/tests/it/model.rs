//! Random work on a disk and its checkpoints, against a plain array of bytes.

use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;

use crate::support::{MIB, disk_of, link, pattern, rounds};
use vhdx::{
    Chain, ConvertOptions, Disk, DiskKind, DiskWriter, Durability, MemoryFile, MergedIdentity,
    Params, Progress, Vhdx, convert, create_differencing, inspect, merge, set_parent,
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
                let bytes = pattern(seed, offset, len);
                self.leaf().write_at(&bytes, offset).unwrap();
                self.bytes[Self::range(offset, len as u64)].copy_from_slice(&bytes);
            }
            Step::Zero { offset, len } => {
                self.leaf().zero(offset, len).unwrap();
                self.bytes[Self::range(offset, len)].fill(0);
            }
            Step::Trim { offset, len } => self.trim(offset, len),
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
        let mut seen = 0;
        let mut progress = |at: Progress| {
            assert!(at.bytes_done > seen);
            seen = at.bytes_done;
            ControlFlow::Continue(())
        };
        let merged = merge(
            child,
            Arc::clone(parent),
            identity,
            Durability::PowerLoss,
            &mut progress,
        )
        .unwrap();
        assert_eq!(seen, self.bytes.len() as u64);
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
