//! Publishing a recovery point: from "all packs are durable" to "the point exists".
//!
//! 1. [`Catalog::begin_publish`]: one transaction checks fence, session, bases and packs and leaves a row
//!    `publishing`, which pins without expiry.
//! 2. The caller puts the point's object, create-only.
//! 3. [`Catalog::commit_publish`]: point row in, `publishing` out, in one transaction.
//!
//! The object is the commit: once it is there the point must come in, whatever has become of the job. Whoever meets an
//! old row settles it: object there, [`Catalog::commit_publish`]; absent, put a void object of that name, then
//! [`Catalog::abandon_publish`].

use model::{Fence, JobId, PointId, RecoveryPoint, SessionId, Timestamp, VmId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db};
use crate::jobs::{load, log_info, subject};
use crate::points::{self, Point, PointState};
use crate::row::{Columns, stored, to_json};
use crate::sessions::{self, SessionKind};
use crate::{Catalog, CatalogError};

/// A point whose packs are all durable and whose closure was checked.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// The session that made it.
    pub session: SessionId,
    /// The point.
    pub point: RecoveryPoint,
    /// Packs it refers to beyond those of its pinned bases, by sequence.
    pub packs: Vec<u64>,
}

/// What beginning came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The row is there: put the object, then commit.
    Ready,
    /// These packs are condemned or unknown: what they held must be sent again.
    Resend(Vec<u64>),
    /// The point is committed already: a repeated request.
    Done,
}

/// A point between "begun" and "settled".
#[derive(Clone, Debug, PartialEq)]
pub struct Publishing {
    /// The point.
    pub point: RecoveryPoint,
    /// The session that made it.
    pub session: SessionId,
    /// Its job.
    pub job: JobId,
    /// Its fence.
    pub fence: Fence,
    /// Its VM.
    pub vm: VmId,
    /// When it was begun.
    pub begun: Timestamp,
}

impl Catalog {
    /// Checks that a point may be published now and pins all it refers to.
    pub async fn begin_publish(
        &self,
        request: &PublishRequest,
        now: Timestamp,
    ) -> Result<Begin, CatalogError> {
        let action = "begin to publish a recovery point";
        let point = &request.point;
        let mut tx = self.write(action).await?;
        if points::state_of(&mut tx, point.id).await?.is_some() {
            return Ok(Begin::Done);
        }
        let session = sessions::live(&mut tx, request.session, now).await?;
        let job = load(&mut tx, session.job).await?;
        check_belongs(&session, &job, point)?;
        if job.life.cancel_requested.is_some() {
            return Err(CatalogError::BeingCancelled { job: job.id });
        }
        if is_voided(&mut tx, point.id).await? {
            return Err(CatalogError::conflict(format!(
                "recovery point {} was given up; this attempt cannot publish any more",
                point.id
            )));
        }
        if let Some(open) = find(&mut tx, point.id).await? {
            // The same attempt asks again: its answer was lost.
            return match open.point == *point {
                true => Ok(Begin::Ready),
                false => Err(CatalogError::conflict(format!(
                    "recovery point {} is being committed with other content",
                    point.id
                ))),
            };
        }
        let bases = sessions::pinned_points(&mut tx, session.id).await?;
        for base in &bases {
            if points::state_of(&mut tx, *base).await? != Some(PointState::Live) {
                return Err(CatalogError::conflict(format!(
                    "base {base} was damaged or deleted meanwhile; back up again"
                )));
            }
        }
        if let Some(parent) = point.parent
            && !bases.contains(&parent)
        {
            return Err(CatalogError::refused(format!(
                "the point's base {parent} is not pinned by its session"
            )));
        }
        let mut resend = Vec::new();
        for &sequence in &request.packs {
            if !crate::packs::is_live(&mut tx, sequence).await? {
                resend.push(sequence);
            }
        }
        if !resend.is_empty() {
            return Ok(Begin::Resend(resend));
        }
        sqlx::query(
            "INSERT INTO publishing (point_id, session_id, job_id, fence, vm_id, begun, body)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(point.id.to_string())
        .bind(session.id.to_string())
        .bind(job.id.to_string())
        .bind(stored(session.fence.0)?)
        .bind(point.vm.id.to_string())
        .bind(now.as_millis())
        .bind(to_json(point)?)
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        for &sequence in &request.packs {
            sqlx::query("INSERT INTO publishing_packs (point_id, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(point.id.to_string())
                .bind(stored(sequence)?)
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
        }
        for base in bases {
            sqlx::query("INSERT INTO publishing_points (point_id, base_id) VALUES ($1, $2)")
                .bind(point.id.to_string())
                .bind(base.to_string())
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
        }
        let detail = json!({ "job": job.id, "fence": session.fence.0, "vm": point.vm.id });
        audit::append(
            &mut tx,
            now,
            &Actor::Server,
            "point.publishing",
            &subject_of(point.id),
            &detail,
        )
        .await?;
        tx.commit().await?;
        Ok(Begin::Ready)
    }

    /// Brings a point in whose object is durable. Committing it again is no error.
    ///
    /// No fence is asked for: the object is there, and so the point is.
    pub async fn commit_publish(
        &self,
        id: PointId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Point, CatalogError> {
        let action = "commit a recovery point";
        let mut tx = self.write(action).await?;
        let Some(open) = find(&mut tx, id).await? else {
            return match points::load(&mut tx, id).await? {
                Some(point) => Ok(point),
                None => Err(CatalogError::not_found(
                    "recovery point being committed",
                    id,
                )),
            };
        };
        points::insert(&mut tx, &open.point, now).await?;
        remove(&mut tx, id).await?;
        log_info(
            &mut tx,
            open.job,
            now,
            &format!("recovery point {id} is committed"),
        )
        .await?;
        let detail = json!({ "job": open.job, "fence": open.fence.0, "vm": open.vm });
        audit::append(
            &mut tx,
            now,
            actor,
            "point.publish",
            &subject_of(id),
            &detail,
        )
        .await?;
        audit::append(
            &mut tx,
            now,
            actor,
            "job.point",
            &subject(open.job),
            &json!({ "point": id }),
        )
        .await?;
        let point = points::load(&mut tx, id).await?;
        tx.commit().await?;
        point.ok_or_else(|| CatalogError::not_found("recovery point", id))
    }

    /// Gives up a point for which a void object lies in the store: it can never be published.
    pub async fn abandon_publish(
        &self,
        id: PointId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "give up a recovery point";
        let mut tx = self.write(action).await?;
        if points::state_of(&mut tx, id).await?.is_some() {
            return Err(CatalogError::conflict(format!(
                "recovery point {id} is committed already"
            )));
        }
        let Some(open) = find(&mut tx, id).await? else {
            return match is_voided(&mut tx, id).await? {
                true => Ok(()),
                false => Err(CatalogError::not_found(
                    "recovery point being committed",
                    id,
                )),
            };
        };
        remove(&mut tx, id).await?;
        note_void(&mut tx, id, now).await?;
        let detail = json!({ "job": open.job, "fence": open.fence.0 });
        audit::append(
            &mut tx,
            now,
            actor,
            "point.abandon",
            &subject_of(id),
            &detail,
        )
        .await?;
        tx.commit().await
    }

    /// Lists points begun before `before` and not settled, oldest first.
    pub async fn unsettled(&self, before: Timestamp) -> Result<Vec<Publishing>, CatalogError> {
        let rows =
            sqlx::query("SELECT * FROM publishing WHERE begun < $1 ORDER BY begun, point_id")
                .bind(before.as_millis())
                .fetch_all(self.readers())
                .await
                .map_err(db("list recovery points being committed"))?;
        rows.iter().map(read).collect()
    }

    /// Returns the packs a point being committed refers to, by sequence.
    pub async fn publishing_packs(&self, id: PointId) -> Result<Vec<u64>, CatalogError> {
        let rows = sqlx::query(
            "SELECT sequence FROM publishing_packs WHERE point_id = $1 ORDER BY sequence",
        )
        .bind(id.to_string())
        .fetch_all(self.readers())
        .await
        .map_err(db("list the packs of a recovery point"))?;
        rows.iter().map(|row| row.unsigned("sequence")).collect()
    }
}

fn check_belongs(
    session: &sessions::Session,
    job: &crate::jobs::Job,
    point: &RecoveryPoint,
) -> Result<(), CatalogError> {
    if session.kind != SessionKind::Backup {
        return Err(CatalogError::refused("only a backup session publishes"));
    }
    if point.job != session.job || point.fence != session.fence {
        return Err(CatalogError::refused(format!(
            "recovery point {} names another job or fence",
            point.id
        )));
    }
    if job.vm.as_ref().is_none_or(|vm| vm.id != point.vm.id) {
        return Err(CatalogError::refused(format!(
            "recovery point {} is of another VM than its job",
            point.id
        )));
    }
    Ok(())
}

async fn remove(conn: &mut Conn, id: PointId) -> Result<(), CatalogError> {
    for sql in [
        "DELETE FROM publishing_packs WHERE point_id = $1",
        "DELETE FROM publishing_points WHERE point_id = $1",
        "DELETE FROM publishing WHERE point_id = $1",
    ] {
        sqlx::query(sql)
            .bind(id.to_string())
            .execute(&mut *conn)
            .await
            .map_err(db("settle a recovery point"))?;
    }
    Ok(())
}

/// Notes that no point of this id may ever come in (again).
pub(crate) async fn note_void(
    conn: &mut Conn,
    id: PointId,
    now: Timestamp,
) -> Result<(), CatalogError> {
    sqlx::query("INSERT INTO voided_points (point_id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id.to_string())
        .bind(now.as_millis())
        .execute(conn)
        .await
        .map_err(db("note a void"))?;
    Ok(())
}

async fn is_voided(conn: &mut Conn, id: PointId) -> Result<bool, CatalogError> {
    let row = sqlx::query("SELECT 1 FROM voided_points WHERE point_id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look for a void"))?;
    Ok(row.is_some())
}

async fn find(conn: &mut Conn, id: PointId) -> Result<Option<Publishing>, CatalogError> {
    let row = sqlx::query("SELECT * FROM publishing WHERE point_id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a recovery point being committed"))?;
    row.as_ref().map(read).transpose()
}

fn subject_of(id: PointId) -> String {
    format!("point {id}")
}

fn read(row: &Row) -> Result<Publishing, CatalogError> {
    Ok(Publishing {
        point: row.json("body")?,
        session: row.parsed("session_id")?,
        job: row.parsed("job_id")?,
        fence: Fence(row.unsigned("fence")?),
        vm: row.parsed("vm_id")?,
        begun: row.time("begun")?,
    })
}
