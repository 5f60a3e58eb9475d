//! Which base: a disk's increment starts from its newest base record, if its point is live and holds that disk, with the
//! same identity and size, and the record's reference point still exists on the host. Anything else is a full, with its
//! reason.

use std::collections::HashSet;

use api::agent_v1::{BaseDecision, DiskIdentity, KnownFiles, OpenBackup};
use catalog::PointState;
use model::{
    BaseRecord, ByteRange, DiskId, FileImage, FullReason, ImageRef, Method, PointId, RecoveryPoint,
    VmId,
};
use store::{EntryId, Tree};
use tokio::runtime::Handle;

use crate::app::App;
use crate::http::{ApiError, ApiResult};
use crate::vault::{VaultNodes, read_root};

/// How many of a VM's newest points are looked at for why a disk has no base.
const POINTS_LOOKED_AT: u32 = 20;
/// Ranges to read again beyond which the disk is better read whole.
const REREAD_MAX: usize = 10_000;

/// Decides for each disk of a session.
pub(super) async fn decide(
    app: &App,
    request: &OpenBackup,
    forced: bool,
) -> ApiResult<Vec<BaseDecision>> {
    let records = app.catalog.bases(request.vm).await?;
    let mut decisions = Vec::with_capacity(request.disks.len());
    let mut seen = HashSet::new();
    for disk in &request.disks {
        if !seen.insert(disk.disk) {
            return Err(ApiError::bad_request(format!(
                "disk {} is named twice",
                disk.disk
            )));
        }
        let record = records.iter().find(|record| record.disk == disk.disk);
        let decision = match record {
            _ if forced => full(disk, FullReason::Forced),
            Some(record) => from_record(app, request, disk, record).await?,
            None => full(disk, why_none(app, request.vm, disk.disk).await?),
        };
        decisions.push(decision);
    }
    Ok(decisions)
}

/// Returns the disk files of the newest live point made of files on this host. Nothing is taken over where the store has
/// damage: what is read again heals it.
pub(super) async fn known_files(
    app: &App,
    request: &OpenBackup,
    forced: bool,
) -> ApiResult<Option<KnownFiles>> {
    if forced || app.vault.has_damage() {
        return Ok(None);
    }
    let points = app
        .catalog
        .points(Some(request.vm), None, POINTS_LOOKED_AT)
        .await?
        .items;
    let newest = points.into_iter().find(|point| {
        point.state == PointState::Live
            && point.point.method == Method::Vss
            && point.point.host.id == request.host
    });
    Ok(newest.map(|found| KnownFiles {
        point: found.point.id,
        files: found
            .point
            .files
            .into_iter()
            .filter(FileImage::is_disk)
            .collect(),
    }))
}

/// Returns the points that are built on.
pub(super) fn points_of(decisions: &[BaseDecision]) -> Vec<PointId> {
    let points: HashSet<PointId> = decisions
        .iter()
        .filter_map(|decision| match decision {
            BaseDecision::Increment { base, .. } => Some(base.point),
            BaseDecision::Full { .. } => None,
        })
        .collect();
    points.into_iter().collect()
}

fn full(disk: &DiskIdentity, reason: FullReason) -> BaseDecision {
    BaseDecision::Full {
        disk: disk.disk,
        reason,
    }
}

async fn from_record(
    app: &App,
    request: &OpenBackup,
    disk: &DiskIdentity,
    record: &BaseRecord,
) -> ApiResult<BaseDecision> {
    let exists = request
        .reference_points
        .iter()
        .any(|id| id.eq_ignore_ascii_case(&record.reference_point));
    if record.host != request.host || !exists {
        return Ok(full(disk, FullReason::ReferencePointGone));
    }
    if record.size_bytes != disk.size_bytes {
        return Ok(full(disk, FullReason::DiskResized));
    }
    let point = app.catalog.point(record.point).await?.point;
    let Some(image) = image_of(&point, disk.disk) else {
        return Ok(full(disk, FullReason::NoBase));
    };
    match reread(app, image).await? {
        Some(reread) => Ok(BaseDecision::Increment {
            disk: disk.disk,
            base: Box::new(record.clone()),
            image: image.clone(),
            reread,
        }),
        None => Ok(full(disk, FullReason::NoBase)),
    }
}

fn image_of(point: &RecoveryPoint, disk: DiskId) -> Option<&ImageRef> {
    point
        .disks
        .iter()
        .find(|held| held.id == disk)
        .map(|held| &held.image)
}

async fn why_none(app: &App, vm: VmId, disk: DiskId) -> ApiResult<FullReason> {
    let points = app
        .catalog
        .points(Some(vm), None, POINTS_LOOKED_AT)
        .await?
        .items;
    let Some(newest) = points.first() else {
        return Ok(FullReason::First);
    };
    let Some(holder) = points
        .iter()
        .find(|point| image_of(&point.point, disk).is_some())
    else {
        let in_files = |point: &catalog::Point| point.point.chains.iter().any(|c| c.id == disk);
        return Ok(match points.iter().any(in_files) {
            true => FullReason::MethodWithoutTracker,
            false => FullReason::First,
        });
    };
    if app.catalog.voided_since(vm, disk, holder.committed).await? {
        return Ok(FullReason::Restored);
    }
    if image_of(&newest.point, disk).is_none() && !newest.point.excluded.is_empty() {
        return Ok(FullReason::ExcludedBefore);
    }
    Ok(match newest.point.method {
        Method::Vss => FullReason::MethodWithoutTracker,
        Method::Rct => FullReason::NoBase,
    })
}

/// Returns the ranges of a base that lie in damaged chunks; `None` where its tree cannot be read, or where there are so
/// many that the disk is better read whole.
async fn reread(app: &App, image: &ImageRef) -> ApiResult<Option<Vec<(u64, u64)>>> {
    if !app.vault.has_damage() {
        return Ok(Some(Vec::new()));
    }
    let root = read_root(image)?;
    let nodes = VaultNodes::new(&app.vault, Handle::current());
    let vault = std::sync::Arc::clone(&app.vault);
    let runtime = Handle::current();
    let walk = move || {
        let names = vault.keys().session();
        let tree = Tree::new(root, &nodes, names);
        let runs = tree.resolve(ByteRange {
            offset: 0,
            len: root.len,
        })?;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut some: Vec<(EntryId, u64, u64)> = Vec::new();
        let look_up = |some: &mut Vec<(EntryId, u64, u64)>, ranges: &mut Vec<(u64, u64)>| {
            let ids = some.iter().map(|(id, _, _)| *id).collect();
            let located = runtime.block_on(vault.locate(ids, &HashSet::new()))?;
            for ((_, offset, len), place) in some.drain(..).zip(located) {
                if place.is_none() {
                    ranges.push((offset, len));
                }
            }
            Ok::<(), ApiError>(())
        };
        for run in runs {
            let run = run?;
            if let Some(slice) = run.chunk {
                some.push((EntryId::Chunk(slice.chunk.id), run.offset, run.len));
            }
            if some.len() >= 4096 {
                look_up(&mut some, &mut ranges)?;
            }
        }
        look_up(&mut some, &mut ranges)?;
        Ok::<_, anyhow::Error>(ranges)
    };
    match tokio::task::spawn_blocking(walk)
        .await
        .map_err(ApiError::internal)?
    {
        Ok(ranges) if ranges.len() <= REREAD_MAX => Ok(Some(ranges)),
        Ok(_) => Ok(None),
        Err(err) => {
            tracing::warn!("a base cannot be read, its disk is read whole: {err:#}");
            Ok(None)
        }
    }
}
