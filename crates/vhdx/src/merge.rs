//! Merging a child into its parent, so that it can be stopped or killed at any moment and run again.
//!
//! The parent must change its identity before its content, and the child must accept it before and after. So:
//! 1. the child's locator takes a second identity, `parent_linkage2`: the one the parent will have;
//! 2. the parent takes that identity, then the size of a larger child, then, block by block, what the child holds;
//! 3. closing, the parent keeps it or takes the child's own identity.
//!
//! Copying twice does no harm, so each step is simply found done or done again. Until the child is removed it reads the same
//! over the parent at every moment: what is copied from it is what it hides.

use std::ops::ControlFlow;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Rule};
use crate::format::{KIB, index};
use crate::info::{FileInfo, ParentLocator};
use crate::io::{ReadAt, WriteAt};
use crate::layer::{Found, Vhdx};
use crate::progress::Progress;
use crate::writer::{Beyond, DiskWriter, Durability, resize_as, set_locator};

/// Bytes copied at a time.
///
/// Larger ones took up to several times the processor time where it was measured, copying to the system's cache (ext4).
const COPY_BYTES: u64 = 128 * KIB;

/// The identity the parent has after a merge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MergedIdentity {
    /// A new one: disks made from the child must be pointed at the parent with [`crate::set_parent`].
    New,
    /// The child's: disks made from the child accept the parent as it is, only the paths in them are stale.
    Child,
}

/// Merges `child` into `parent`, which then holds what the child read as; the caller removes the child.
///
/// The merged disk has the size of the child: a smaller parent grows first, a larger one is refused.
/// `progress` is called between blocks and stops the merge by returning `Break`; it then ends with [`Error::Cancelled`].
/// Stopped or killed, it goes on when run again with the same files. Until it is done the parent alone is inconsistent,
/// while the child over the parent reads as before at any moment. Nobody else may write either file meanwhile.
/// Returns what the parent then says about itself.
pub fn merge(
    child: impl WriteAt + 'static,
    parent: impl WriteAt + 'static,
    identity: MergedIdentity,
    durability: Durability,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<FileInfo, Error> {
    let (child, parent): (Arc<dyn WriteAt>, Arc<dyn WriteAt>) = (Arc::new(child), Arc::new(parent));
    // Both are judged whole before the first write.
    let child_info = judge(&child)?;
    let parent_info = judge(&parent)?;
    // The parent takes the child's identity only as the last step of a merge. A copy of the child has it, too, but it also has
    // the child's parent.
    if identity == MergedIdentity::Child
        && parent_info.data_write_guid == child_info.data_write_guid
        && let Some(locator) = &child_info.parent
        && parent_info.parent.as_ref().map(|of| of.linkage) != Some(locator.linkage)
    {
        return Ok(parent_info);
    }
    let locator = check_pair(&child_info, &parent_info)?;
    let working = prepare_child(&child, locator, &parent_info, durability)?;

    if child_info.size > parent_info.size {
        let (to, target) = (child_info.size, Arc::clone(&parent));
        let beyond = Beyond::MustBeZero;
        let mut quiet = |_| ControlFlow::Continue(());
        resize_as(target, to, beyond, durability, Some(working), &mut quiet)?;
    }
    let source = Vhdx::open(Arc::clone(&child) as Arc<dyn ReadAt>)?;
    let target = DiskWriter::open_detached(parent, durability, Some(working))?;
    let stopped = copy(&source, &target, progress)?;
    if stopped {
        target.close()?;
        return Err(Error::Cancelled);
    }
    target.close_as(match identity {
        MergedIdentity::New => None,
        MergedIdentity::Child => Some(child_info.data_write_guid),
    })
}

fn judge(file: &Arc<dyn WriteAt>) -> Result<FileInfo, Error> {
    let opened = Vhdx::open(Arc::clone(file) as Arc<dyn ReadAt>)?;
    Ok(opened.info().clone())
}

/// Checks that these are child and parent and can be merged.
fn check_pair<'a>(child: &'a FileInfo, parent: &FileInfo) -> Result<&'a ParentLocator, Error> {
    let locator = child.parent.as_ref().ok_or(Error::NoParent)?;
    if !locator.accepts(parent.data_write_guid) {
        return Err(Error::format(
            Rule::ParentIdentity,
            0,
            parent.data_write_guid.as_fields().0,
        ));
    }
    if child.logical_sector_bytes != parent.logical_sector_bytes {
        return Err(Error::format(
            Rule::ParentSectorSize,
            0,
            parent.logical_sector_bytes,
        ));
    }
    if child.size < parent.size {
        return Err(Error::SizesDiffer {
            child: child.size,
            parent: parent.size,
        });
    }
    Ok(locator)
}

/// Makes sure the child accepts the parent before and after its first change; returns the identity it is to have.
fn prepare_child(
    child: &Arc<dyn WriteAt>,
    locator: &ParentLocator,
    parent: &FileInfo,
    durability: Durability,
) -> Result<Uuid, Error> {
    if let Some(second) = locator.linkage2 {
        // An earlier run came this far: the parent has either identity, and the second one is its own alone.
        if parent.data_write_guid == second || parent.data_write_guid == locator.linkage {
            return Ok(second);
        }
    }
    let second = Uuid::new_v4();
    let accepting = ParentLocator {
        linkage2: Some(second),
        ..locator.clone()
    };
    set_locator(Arc::clone(child), &accepting, durability)?;
    Ok(second)
}

/// Copies what the child holds; returns whether it was stopped.
fn copy(
    source: &Vhdx,
    target: &DiskWriter,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool, Error> {
    let geometry = source.geometry();
    let size = geometry.size();
    let mut buf = vec![0; index(COPY_BYTES.min(geometry.block_len()))];
    let mut at = 0;
    while at < size {
        let block_end = (at + geometry.used_of_block(geometry.block_of(at))).min(size);
        while at < block_end {
            let (found, run) = source.find(at, block_end - at)?;
            match found {
                Found::Parent => {}
                Found::Zero => target.zero(at, run)?,
                Found::File(place) => {
                    let mut done = 0;
                    while done < run {
                        let part = &mut buf
                            [..index((run - done).min(COPY_BYTES).min(geometry.block_len()))];
                        source.backing().read(part, place + done, "a block")?;
                        target.write_at(part, at + done)?;
                        done += part.len() as u64;
                    }
                }
            }
            at += run;
        }
        if progress(Progress {
            bytes_done: at,
            bytes_total: size,
        })
        .is_break()
            && at < size
        {
            return Ok(true);
        }
    }
    Ok(false)
}
