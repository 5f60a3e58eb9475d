//! Base records: from where the next increment of a disk may start.
//!
//! A record holds only for a point that is live, and only if the disk was not rewritten from outside since: voids are
//! remembered, so that a late report of a conversion cannot bring back a base from before a restore.

use model::{BaseRecord, DiskId, Fence, JobId, PointId, Timestamp, VmId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db};
use crate::jobs::load_fenced;
use crate::points::{self, PointState};
use crate::row::{Columns, stored};
use crate::{Catalog, CatalogError};

/// What a late report of base records came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettledBases {
    /// They hold.
    Recorded,
    /// Newer records or a rewrite came after their point: they are not used.
    Overtaken,
}

impl Catalog {
    /// Replaces the base records of a VM after the host's conversion, under the fence of the job that made the point.
    /// A disk without a record has no base any more: its next backup is a full one.
    pub async fn replace_bases(
        &self,
        job: JobId,
        fence: Fence,
        point: PointId,
        records: &[BaseRecord],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("store base records").await?;
        load_fenced(&mut tx, job, fence, now).await?;
        self.store_bases(&mut tx, job, fence, point, records, now)
            .await?;
        tx.commit().await
    }

    /// Takes base records of a committed point whose attempt is over: its checkpoint was converted afterwards.
    pub async fn settle_bases(
        &self,
        job: JobId,
        fence: Fence,
        point: PointId,
        records: &[BaseRecord],
        now: Timestamp,
    ) -> Result<SettledBases, CatalogError> {
        let mut tx = self.write("store base records").await?;
        let settled = self
            .store_bases(&mut tx, job, fence, point, records, now)
            .await?;
        if settled == SettledBases::Recorded {
            tx.commit().await?;
        }
        Ok(settled)
    }

    async fn store_bases(
        &self,
        conn: &mut Conn,
        job: JobId,
        fence: Fence,
        point: PointId,
        records: &[BaseRecord],
        now: Timestamp,
    ) -> Result<SettledBases, CatalogError> {
        let action = "store base records";
        let made = points::load(conn, point)
            .await?
            .ok_or_else(|| CatalogError::not_found("recovery point", point))?;
        let vm = made.point.vm.id;
        if made.point.job != job || made.point.fence != fence {
            return Err(CatalogError::refused(format!(
                "recovery point {point} was made by another attempt"
            )));
        }
        if records
            .iter()
            .any(|record| record.vm != vm || record.point != point)
        {
            return Err(CatalogError::refused(
                "a base record names another VM or another recovery point",
            ));
        }
        for record in records {
            let disk = made.point.disks.iter().find(|disk| disk.id == record.disk);
            if disk.is_none_or(|disk| disk.size_bytes != record.size_bytes) {
                return Err(CatalogError::refused(format!(
                    "recovery point {point} holds no disk {} of {} bytes",
                    record.disk, record.size_bytes
                )));
            }
        }
        if made.state == PointState::Deleting || newer_bases(conn, vm, &made).await? {
            return Ok(SettledBases::Overtaken);
        }
        let mut kept = Vec::with_capacity(records.len());
        for record in records {
            if !rewritten_since(conn, vm, record.disk, made.committed).await? {
                kept.push(record);
            }
        }
        sqlx::query("DELETE FROM bases WHERE vm_id = $1")
            .bind(vm.to_string())
            .execute(&mut *conn)
            .await
            .map_err(db(action))?;
        for record in &kept {
            sqlx::query(
                "INSERT INTO bases (vm_id, disk_id, host_id, size_bytes, point_id, reference_point, rct_id, recorded)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(vm.to_string())
            .bind(record.disk.to_string())
            .bind(record.host.to_string())
            .bind(stored(record.size_bytes)?)
            .bind(point.to_string())
            .bind(&record.reference_point)
            .bind(&record.rct_id)
            .bind(now.as_millis())
            .execute(&mut *conn)
            .await
            .map_err(db(action))?;
        }
        let detail = json!({ "point": point, "disks": kept.iter().map(|record| record.disk).collect::<Vec<_>>() });
        audit::append(
            conn,
            now,
            &Actor::Server,
            "base.record",
            &subject(vm),
            &detail,
        )
        .await?;
        // What was rewritten has no base; the rest holds.
        let overtaken = kept.is_empty() && !records.is_empty();
        Ok(if overtaken {
            SettledBases::Overtaken
        } else {
            SettledBases::Recorded
        })
    }

    /// Returns the usable base records of a VM: those whose point is live.
    pub async fn bases(&self, vm: VmId) -> Result<Vec<BaseRecord>, CatalogError> {
        let rows = sqlx::query(
            "SELECT bases.* FROM bases JOIN points ON points.id = bases.point_id
             WHERE bases.vm_id = $1 AND points.state = $2 ORDER BY disk_id",
        )
        .bind(vm.to_string())
        .bind(PointState::Live.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(db("read base records"))?;
        rows.iter().map(read).collect()
    }

    /// Voids base records of a VM, of these disks or (where none is named) of all, before a disk is rewritten. Under
    /// the fence of the job that will rewrite it.
    pub async fn void_bases(
        &self,
        job: JobId,
        fence: Fence,
        vm: VmId,
        disks: &[DiskId],
        reason: &str,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "void base records";
        let mut tx = self.write(action).await?;
        load_fenced(&mut tx, job, fence, now).await?;
        let texts: Vec<String> = match disks.is_empty() {
            true => vec![String::new()],
            false => disks.iter().map(DiskId::to_string).collect(),
        };
        for disk in &texts {
            sqlx::query("DELETE FROM bases WHERE vm_id = $1 AND ($2 = '' OR disk_id = $2)")
                .bind(vm.to_string())
                .bind(disk)
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
            sqlx::query(
                "INSERT INTO base_voids (vm_id, disk_id, at, reason) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (vm_id, disk_id) DO UPDATE SET at = excluded.at, reason = excluded.reason",
            )
            .bind(vm.to_string())
            .bind(disk)
            .bind(now.as_millis())
            .bind(reason)
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        }
        let detail = json!({ "disks": disks, "reason": reason, "job": job });
        audit::append(
            &mut tx,
            now,
            &Actor::Server,
            "base.void",
            &subject(vm),
            &detail,
        )
        .await?;
        tx.commit().await
    }

    /// Tells whether a disk of a VM was voided at or after `since`.
    pub async fn voided_since(
        &self,
        vm: VmId,
        disk: DiskId,
        since: Timestamp,
    ) -> Result<bool, CatalogError> {
        let mut snapshot = self.snapshot("look for a void").await?;
        rewritten_since(&mut snapshot, vm, disk, since).await
    }
}

async fn newer_bases(
    conn: &mut Conn,
    vm: VmId,
    made: &points::Point,
) -> Result<bool, CatalogError> {
    let row = sqlx::query(
        "SELECT 1 FROM bases JOIN points ON points.id = bases.point_id
         WHERE bases.vm_id = $1 AND points.id <> $2 AND points.committed >= $3 LIMIT 1",
    )
    .bind(vm.to_string())
    .bind(made.point.id.to_string())
    .bind(made.committed.as_millis())
    .fetch_optional(conn)
    .await
    .map_err(db("look for newer base records"))?;
    Ok(row.is_some())
}

async fn rewritten_since(
    conn: &mut Conn,
    vm: VmId,
    disk: DiskId,
    since: Timestamp,
) -> Result<bool, CatalogError> {
    let row = sqlx::query(
        "SELECT 1 FROM base_voids WHERE vm_id = $1 AND (disk_id = '' OR disk_id = $2) AND at >= $3 LIMIT 1",
    )
    .bind(vm.to_string())
    .bind(disk.to_string())
    .bind(since.as_millis())
    .fetch_optional(conn)
    .await
    .map_err(db("look for a void"))?;
    Ok(row.is_some())
}

fn subject(vm: VmId) -> String {
    format!("vm {vm}")
}

fn read(row: &Row) -> Result<BaseRecord, CatalogError> {
    Ok(BaseRecord {
        vm: row.parsed("vm_id")?,
        disk: row.parsed("disk_id")?,
        size_bytes: row.unsigned("size_bytes")?,
        host: row.parsed("host_id")?,
        point: row.parsed("point_id")?,
        reference_point: row.text("reference_point")?,
        rct_id: row.text("rct_id")?,
    })
}
