//! Recovery points that are committed. A point's content is its object in the store; the row is a copy for looking up.

use model::{PointId, RecoveryPoint, Timestamp, VmId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Builder, Conn, Row, db};
use crate::page::{Cursor, Page, bounded, cut};
use crate::row::{Columns, stored, to_json, to_name};
use crate::text::stored_enum;
use crate::{Catalog, CatalogError};

/// Whether a point can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointState {
    /// It restores.
    Live,
    /// Something it needs is damaged.
    Damaged,
    /// It is being deleted; it is no longer offered.
    Deleting,
}

stored_enum!(PointState, "state of a recovery point", {
    Live => "live", Damaged => "damaged", Deleting => "deleting",
});

/// A committed recovery point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What its object says.
    pub point: RecoveryPoint,
    /// Sum of the virtual sizes in bytes.
    pub size_bytes: u64,
    /// Bytes read as changed.
    pub changed_bytes: u64,
    /// Whether it can be used.
    pub state: PointState,
    /// It is not deleted before.
    pub locked_until: Option<Timestamp>,
    /// When it was last read whole and found good.
    pub verified: Option<Timestamp>,
    /// When it was committed, by the server's clock.
    pub committed: Timestamp,
}

impl Catalog {
    /// Returns a point.
    pub async fn point(&self, id: PointId) -> Result<Point, CatalogError> {
        let mut snapshot = self.snapshot("look up a recovery point").await?;
        load(&mut snapshot, id)
            .await?
            .ok_or_else(|| CatalogError::not_found("recovery point", id))
    }

    /// Lists points, newest first, of one VM or of all; those being deleted are left out.
    pub async fn points(
        &self,
        vm: Option<VmId>,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Point>, CatalogError> {
        let limit = bounded(limit);
        let mut query = Builder::new("SELECT * FROM points WHERE state <> ");
        query.push_bind(PointState::Deleting.as_str());
        if let Some(vm) = vm {
            query.push(" AND vm_id = ").push_bind(vm.to_string());
        }
        if let Some(cursor) = cursor {
            query
                .push(" AND (created, id) < (")
                .push_bind(cursor.at.as_millis());
            query.push(", ").push_bind(cursor.id.clone()).push(")");
        }
        query
            .push(" ORDER BY created DESC, id DESC LIMIT ")
            .push_bind(i64::from(limit) + 1);
        let rows = query
            .build()
            .fetch_all(self.readers())
            .await
            .map_err(db("list recovery points"))?;
        let points = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(cut(points, limit, |point| Cursor {
            at: point.point.created,
            id: point.point.id.to_string(),
        }))
    }

    /// Returns the newest live point of a VM.
    pub async fn latest_point(&self, vm: VmId) -> Result<Option<Point>, CatalogError> {
        let row = sqlx::query(
            "SELECT * FROM points WHERE vm_id = $1 AND state = $2 ORDER BY created DESC, id DESC LIMIT 1",
        )
        .bind(vm.to_string())
        .bind(PointState::Live.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(db("look up the latest recovery point"))?;
        row.as_ref().map(read).transpose()
    }

    /// Returns the newest live point of each VM as (VM, its name in the point, point, moment).
    pub async fn latest_points(
        &self,
    ) -> Result<Vec<(VmId, String, PointId, Timestamp)>, CatalogError> {
        let rows = sqlx::query(
            "SELECT points.vm_id, points.vm_name, points.id, points.created
             FROM (SELECT DISTINCT vm_id FROM points WHERE state = $1) AS named
             JOIN points ON points.id = (
                SELECT newest.id FROM points AS newest WHERE newest.state = $1 AND newest.vm_id = named.vm_id
                ORDER BY newest.created DESC, newest.id DESC LIMIT 1)",
        )
        .bind(PointState::Live.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(db("list the latest recovery points"))?;
        rows.iter()
            .map(|row| {
                Ok((
                    row.parsed("vm_id")?,
                    row.text("vm_name")?,
                    row.parsed("id")?,
                    row.time("created")?,
                ))
            })
            .collect()
    }

    /// Counts points that are not being deleted.
    pub async fn point_count(&self) -> Result<u64, CatalogError> {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM points WHERE state <> $1")
            .bind(PointState::Deleting.as_str())
            .fetch_one(self.readers())
            .await
            .map_err(db("count recovery points"))?;
        row.unsigned("n")
    }

    /// Marks a point as being deleted; from then on it is not offered. Its object and then [`Catalog::forget_point`]
    /// follow. Marking it again is no error.
    ///
    /// # Errors
    /// Conflict while it is locked, read by a restore, or built on by a backup.
    pub async fn tombstone_point(
        &self,
        id: PointId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "delete a recovery point";
        let mut tx = self.write(action).await?;
        let point = load(&mut tx, id)
            .await?
            .ok_or_else(|| CatalogError::not_found("recovery point", id))?;
        if point.state == PointState::Deleting {
            return Ok(());
        }
        if let Some(until) = point.locked_until.filter(|&until| now < until) {
            return Err(CatalogError::conflict(format!(
                "recovery point {id} is locked until {until}"
            )));
        }
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM session_points WHERE point_id = $1)
                  + (SELECT COUNT(*) FROM publishing_points WHERE base_id = $1) AS n",
        )
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await
        .map_err(db(action))?;
        if row.number("n")? > 0 {
            return Err(CatalogError::conflict(format!(
                "recovery point {id} is in use by a running backup or restore; try again when that has ended"
            )));
        }
        sqlx::query("UPDATE points SET state = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(PointState::Deleting.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        sqlx::query("DELETE FROM bases WHERE point_id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        crate::publish::note_void(&mut tx, id, now).await?;
        audit::append(
            &mut tx,
            now,
            actor,
            "point.delete",
            &subject(id),
            &json!({ "vm": point.point.vm.id }),
        )
        .await?;
        tx.commit().await
    }

    /// Lists points whose deletion was begun: their objects and rows are still to be removed.
    pub async fn points_being_deleted(&self) -> Result<Vec<PointId>, CatalogError> {
        let rows = sqlx::query("SELECT id FROM points WHERE state = $1 ORDER BY created, id")
            .bind(PointState::Deleting.as_str())
            .fetch_all(self.readers())
            .await
            .map_err(db("list recovery points being deleted"))?;
        rows.iter().map(|row| row.parsed("id")).collect()
    }

    /// Forgets a point being deleted whose object is gone.
    pub async fn forget_point(
        &self,
        id: PointId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("forget a recovery point").await?;
        let done = sqlx::query("DELETE FROM points WHERE id = $1 AND state = $2")
            .bind(id.to_string())
            .bind(PointState::Deleting.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db("forget a recovery point"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("recovery point being deleted", id));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "point.forget",
            &subject(id),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }

    /// Locks a point against deletion; a lock can only be extended.
    pub async fn lock_point(
        &self,
        id: PointId,
        until: Timestamp,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Timestamp, CatalogError> {
        let mut tx = self.write("lock a recovery point").await?;
        let point = load(&mut tx, id)
            .await?
            .ok_or_else(|| CatalogError::not_found("recovery point", id))?;
        if point.state == PointState::Deleting {
            return Err(CatalogError::conflict(format!(
                "recovery point {id} is being deleted"
            )));
        }
        let until = point.locked_until.map_or(until, |before| before.max(until));
        sqlx::query("UPDATE points SET locked_until = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(until.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db("lock a recovery point"))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "point.lock",
            &subject(id),
            &json!({ "until": until }),
        )
        .await?;
        tx.commit().await?;
        Ok(until)
    }

    /// Notes what reading a point whole came to: good makes it live (healed), not good makes it damaged.
    pub async fn set_point_verified(
        &self,
        id: PointId,
        good: bool,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "note a verification";
        let mut tx = self.write(action).await?;
        let point = load(&mut tx, id)
            .await?
            .ok_or_else(|| CatalogError::not_found("recovery point", id))?;
        let state = match (point.state, good) {
            (PointState::Deleting, _) => PointState::Deleting,
            (PointState::Live | PointState::Damaged, true) => PointState::Live,
            (PointState::Live | PointState::Damaged, false) => PointState::Damaged,
        };
        sqlx::query("UPDATE points SET state = $2, verified = CASE WHEN $3 = 1 THEN $4 ELSE verified END WHERE id = $1")
            .bind(id.to_string())
            .bind(state.as_str())
            .bind(i64::from(good))
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "point.verify",
            &subject(id),
            &json!({ "good": good }),
        )
        .await?;
        tx.commit().await
    }
}

/// Inserts the row of a point.
pub(crate) async fn insert(
    conn: &mut Conn,
    point: &RecoveryPoint,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let size = point
        .disks
        .iter()
        .map(|disk| disk.size_bytes)
        .fold(0, u64::saturating_add);
    let size = point
        .chains
        .iter()
        .map(|chain| chain.size_bytes)
        .fold(size, u64::saturating_add);
    // Points of files that do not say which disks they make up.
    let size = if point.disks.is_empty() && point.chains.is_empty() {
        point
            .files
            .iter()
            .map(|file| file.image.len)
            .fold(0, u64::saturating_add)
    } else {
        size
    };
    let changed = point
        .disks
        .iter()
        .map(|disk| disk.changed_bytes)
        .chain(point.chains.iter().map(|chain| chain.changed_bytes))
        .fold(0, u64::saturating_add);
    sqlx::query(
        "INSERT INTO points (id, vm_id, vm_name, host_id, host_name, job_id, fence, parent_id, created, committed,
            method, kind, consistency, size_bytes, changed_bytes, stored_bytes, state, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(point.id.to_string())
    .bind(point.vm.id.to_string())
    .bind(&point.vm.name)
    .bind(point.host.id.to_string())
    .bind(&point.host.name)
    .bind(point.job.to_string())
    .bind(stored(point.fence.0)?)
    .bind(point.parent.map(|parent| parent.to_string()))
    .bind(point.created.as_millis())
    .bind(now.as_millis())
    .bind(to_name(&point.method)?)
    .bind(to_name(&point.kind)?)
    .bind(to_name(&point.consistency)?)
    .bind(stored(size)?)
    .bind(stored(changed)?)
    .bind(stored(point.stored_bytes)?)
    .bind(PointState::Live.as_str())
    .bind(to_json(point)?)
    .execute(conn)
    .await
    .map_err(db("store a recovery point"))?;
    Ok(())
}

/// Returns a point's state, `None` where there is no such point.
pub(crate) async fn state_of(
    conn: &mut Conn,
    id: PointId,
) -> Result<Option<PointState>, CatalogError> {
    let row = sqlx::query("SELECT state FROM points WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a recovery point"))?;
    row.map(|row| row.parsed("state")).transpose()
}

pub(crate) async fn load(conn: &mut Conn, id: PointId) -> Result<Option<Point>, CatalogError> {
    let row = sqlx::query("SELECT * FROM points WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a recovery point"))?;
    row.as_ref().map(read).transpose()
}

fn subject(id: PointId) -> String {
    format!("point {id}")
}

pub(crate) fn read(row: &Row) -> Result<Point, CatalogError> {
    Ok(Point {
        point: row.json("body")?,
        size_bytes: row.unsigned("size_bytes")?,
        changed_bytes: row.unsigned("changed_bytes")?,
        state: row.parsed("state")?,
        locked_until: row.opt_time("locked_until")?,
        verified: row.opt_time("verified")?,
        committed: row.time("committed")?,
    })
}
