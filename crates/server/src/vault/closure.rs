//! Closure: all that a recovery point refers to and its base does not is in the store, whole and undamaged.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use model::{ImageRef, RecoveryPoint};
use store::{CELL_BYTES, ChunkUse, EntryId, NodeId, Tree, TreeRoot, TreeVisitor};
use tokio::runtime::Handle;

use super::{ReadError, Vault, VaultNodes};
use crate::http::{ApiError, ApiResult};

/// Ids looked up together.
const LOOK_UP: usize = 4096;
/// The most missing ids a reply lists.
const MISSING_MAX: usize = 16_384;

/// What the walk over a point came to.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    /// Packs that hold what the point refers to beyond its base, by sequence.
    pub(crate) packs: BTreeSet<u64>,
    /// What no good pack holds; the other side must send it (again).
    pub(crate) missing: Vec<EntryId>,
}

impl Vault {
    /// Walks a point's images where they differ from the base's. `without` are packs that do not count.
    pub(crate) async fn closure(
        self: &Arc<Self>,
        point: &RecoveryPoint,
        base: Option<&RecoveryPoint>,
        without: &HashSet<u64>,
    ) -> ApiResult<Closure> {
        self.catch_up().await?;
        let mut images = Vec::new();
        for disk in &point.disks {
            let before = base
                .filter(|_| disk.full_reason.is_none())
                .and_then(|base| base.disks.iter().find(|old| old.id == disk.id))
                .map(|old| old.image.clone());
            images.push((disk.image.clone(), before));
        }
        for file in &point.files {
            // A file that was taken over has the base's own tree.
            let before = base
                .and_then(|base| base.file(&file.path))
                .filter(|old| old.image == file.image)
                .map(|old| old.image.clone());
            images.push((file.image.clone(), before));
        }
        let nodes = VaultNodes::new(self, Handle::current());
        let without = without.clone();
        let walk = move || walk_images(&nodes, &images, without);
        tokio::task::spawn_blocking(walk)
            .await
            .map_err(ApiError::internal)?
    }
}

fn walk_images(
    nodes: &VaultNodes,
    images: &[(ImageRef, Option<ImageRef>)],
    without: HashSet<u64>,
) -> ApiResult<Closure> {
    let names = nodes.vault().keys().session().clone();
    let mut walk = Walk {
        nodes,
        without,
        seen: HashSet::new(),
        pending: HashMap::new(),
        closure: Closure::default(),
        failure: None,
    };
    for (image, base) in images {
        let root = read_root(image)?;
        let base = base.as_ref().map(read_root).transpose()?;
        let tree = Tree::new(root, nodes, &names);
        let base = base.map(|base| Tree::new(base, nodes, &names));
        if let Err(err) = tree.visit(base.as_ref(), &mut walk) {
            match nodes.explain(err) {
                ReadError::Missing(id) => walk.note_missing(id),
                ReadError::Failed(err) => return Err(err),
            }
        }
        walk.look_up();
        if let Some(err) = walk.failure.take() {
            return Err(err);
        }
    }
    walk.closure.missing.sort_unstable();
    walk.closure.missing.dedup();
    Ok(walk.closure)
}

/// Reads an image's root as a point names it.
pub(crate) fn read_root(image: &ImageRef) -> ApiResult<TreeRoot> {
    TreeRoot::from_image_ref(image).map_err(|err| ApiError::bad_request(err.to_string()))
}

struct Walk<'a> {
    nodes: &'a VaultNodes,
    without: HashSet<u64>,
    seen: HashSet<NodeId>,
    /// What is to be looked up, chunks with their length in cells.
    pending: HashMap<EntryId, Option<u16>>,
    closure: Closure,
    failure: Option<ApiError>,
}

impl TreeVisitor for Walk<'_> {
    fn node(&mut self, id: NodeId) -> bool {
        if self.failure.is_some() || !self.seen.insert(id) {
            return false;
        }
        self.pending.insert(EntryId::Node(id), None);
        self.look_up_when_many();
        true
    }

    fn chunk(&mut self, used: &ChunkUse) {
        let (id, cells) = (EntryId::Chunk(used.chunk.id), used.chunk.cells);
        let before = self.pending.insert(id, Some(cells));
        if before.flatten().is_some_and(|before| before != cells) {
            self.refuse(id, "two lengths for one chunk");
        }
        self.look_up_when_many();
    }
}

impl Walk<'_> {
    fn look_up_when_many(&mut self) {
        if self.pending.len() >= LOOK_UP {
            self.look_up();
        }
    }

    fn look_up(&mut self) {
        if self.failure.is_some() || self.pending.is_empty() {
            return;
        }
        let pending: Vec<(EntryId, Option<u16>)> = self.pending.drain().collect();
        let ids = pending.iter().map(|(id, _)| *id).collect();
        let looked = self.nodes.vault().locate(ids, &self.without);
        let located = match self.nodes.runtime().block_on(looked) {
            Ok(located) => located,
            Err(err) => {
                self.failure = Some(err);
                return;
            }
        };
        for ((id, cells), place) in pending.into_iter().zip(located) {
            let Some(place) = place else {
                self.note_missing(id);
                continue;
            };
            let plain = usize::try_from(place.info.plain_len).unwrap_or(usize::MAX);
            if cells.is_some_and(|cells| usize::from(cells) * CELL_BYTES != plain) {
                self.refuse(id, "the image gives another length than the chunk has");
            }
            self.closure.packs.insert(place.sequence);
        }
    }

    fn note_missing(&mut self, id: EntryId) {
        if self.closure.missing.len() < MISSING_MAX {
            self.closure.missing.push(id);
        }
    }

    fn refuse(&mut self, id: EntryId, why: &str) {
        self.failure
            .get_or_insert_with(|| ApiError::bad_request(format!("{id}: {why}")));
    }
}
