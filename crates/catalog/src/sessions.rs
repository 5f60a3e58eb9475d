//! Sessions: the time in which an attempt reads or writes the vault, and what it pins meanwhile.
//!
//! A session belongs to a job and a fence and ends with the lease. While it is open no point it builds on or reads is
//! deleted and no pack it counts on is condemned.

use model::{Fence, JobId, PointId, SessionId, Timestamp};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db};
use crate::jobs::{load_fenced, subject};
use crate::points::PointState;
use crate::row::{Columns, stored};
use crate::text::stored_enum;
use crate::{Catalog, CatalogError};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// Writes packs and publishes a point.
    Backup,
    /// Reads a point.
    Restore,
}

stored_enum!(SessionKind, "kind of session", { Backup => "backup", Restore => "restore" });

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// The job it belongs to.
    pub job: JobId,
    /// The fence it was opened under.
    pub fence: Fence,
    /// What it is for.
    pub kind: SessionKind,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it ended.
    pub closed: Option<Timestamp>,
}

impl Catalog {
    /// Opens a session under a fence and pins points: the bases of a backup, the point of a restore.
    ///
    /// # Errors
    /// Conflict where a point is gone or being deleted.
    pub async fn open_session(
        &self,
        job: JobId,
        fence: Fence,
        kind: SessionKind,
        points: &[PointId],
        now: Timestamp,
    ) -> Result<Session, CatalogError> {
        let action = "open a session";
        let mut tx = self.write(action).await?;
        load_fenced(&mut tx, job, fence, now).await?;
        let session = Session {
            id: SessionId::random(),
            job,
            fence,
            kind,
            opened: now,
            closed: None,
        };
        sqlx::query(
            "INSERT INTO sessions (id, job_id, fence, kind, opened) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(session.id.to_string())
        .bind(job.to_string())
        .bind(stored(fence.0)?)
        .bind(kind.as_str())
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        for point in points {
            let state = crate::points::state_of(&mut tx, *point).await?;
            let fine = match (kind, state) {
                (_, None | Some(PointState::Deleting)) => false,
                // Restoring what is left of a damaged point is a person's wish; building on it is not.
                (SessionKind::Restore, Some(PointState::Live | PointState::Damaged)) => true,
                (SessionKind::Backup, Some(state)) => state == PointState::Live,
            };
            if !fine {
                return Err(CatalogError::conflict(format!(
                    "recovery point {point} is gone or damaged"
                )));
            }
            sqlx::query(
                "INSERT INTO session_points (session_id, point_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(session.id.to_string())
            .bind(point.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        }
        let detail = json!({ "session": session.id, "kind": kind.as_str(), "points": points, "fence": fence.0 });
        audit::append(
            &mut tx,
            now,
            &Actor::Server,
            "session.open",
            &subject(job),
            &detail,
        )
        .await?;
        tx.commit().await?;
        Ok(session)
    }

    /// Returns a session that may be written to now: it is open and its job still has its fence and lease.
    pub async fn live_session(
        &self,
        id: SessionId,
        now: Timestamp,
    ) -> Result<Session, CatalogError> {
        let mut snapshot = self.snapshot("look up a session").await?;
        live(&mut snapshot, id, now).await
    }

    /// Pins packs for a session. Returns those that cannot be: condemned or unknown; the session must not count on
    /// them.
    pub async fn pin_packs(
        &self,
        id: SessionId,
        sequences: &[u64],
        now: Timestamp,
    ) -> Result<Vec<u64>, CatalogError> {
        let action = "pin packs";
        let mut tx = self.write(action).await?;
        live(&mut tx, id, now).await?;
        let mut refused = Vec::new();
        for &sequence in sequences {
            if crate::packs::is_live(&mut tx, sequence).await? {
                sqlx::query(
                    "INSERT INTO session_packs (session_id, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                )
                .bind(id.to_string())
                .bind(stored(sequence)?)
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
            } else {
                refused.push(sequence);
            }
        }
        tx.commit().await?;
        Ok(refused)
    }

    /// Ends a session and lets go of what it pinned. Ending it again is no error.
    pub async fn close_session(&self, id: SessionId, now: Timestamp) -> Result<(), CatalogError> {
        let mut tx = self.write("end a session").await?;
        let session = load(&mut tx, id).await?;
        if session.closed.is_none() {
            close(&mut tx, &session, now).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Lists open sessions, oldest first.
    pub async fn open_sessions(&self) -> Result<Vec<Session>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM sessions WHERE closed IS NULL ORDER BY opened, id")
            .fetch_all(self.readers())
            .await
            .map_err(db("list sessions"))?;
        rows.iter().map(read).collect()
    }
}

/// Loads a session inside a transaction and checks that it may be written to.
pub(crate) async fn live(
    conn: &mut Conn,
    id: SessionId,
    now: Timestamp,
) -> Result<Session, CatalogError> {
    let session = load(conn, id).await?;
    load_fenced(conn, session.job, session.fence, now).await?;
    if session.closed.is_some() {
        return Err(CatalogError::conflict(format!("session {id} has ended")));
    }
    Ok(session)
}

/// Ends all sessions of a job whose attempt is over.
pub(crate) async fn close_all_of(
    conn: &mut Conn,
    job: JobId,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let rows = sqlx::query("SELECT * FROM sessions WHERE job_id = $1 AND closed IS NULL")
        .bind(job.to_string())
        .fetch_all(&mut *conn)
        .await
        .map_err(db("end sessions"))?;
    for row in rows {
        close(conn, &read(&row)?, now).await?;
    }
    Ok(())
}

/// Returns the points a session pins.
pub(crate) async fn pinned_points(
    conn: &mut Conn,
    id: SessionId,
) -> Result<Vec<PointId>, CatalogError> {
    let rows =
        sqlx::query("SELECT point_id FROM session_points WHERE session_id = $1 ORDER BY point_id")
            .bind(id.to_string())
            .fetch_all(conn)
            .await
            .map_err(db("read what a session pins"))?;
    rows.iter().map(|row| row.parsed("point_id")).collect()
}

async fn close(conn: &mut Conn, session: &Session, now: Timestamp) -> Result<(), CatalogError> {
    let action = "end a session";
    for sql in [
        "DELETE FROM session_points WHERE session_id = $1",
        "DELETE FROM session_packs WHERE session_id = $1",
    ] {
        sqlx::query(sql)
            .bind(session.id.to_string())
            .execute(&mut *conn)
            .await
            .map_err(db(action))?;
    }
    sqlx::query("UPDATE sessions SET closed = $2 WHERE id = $1")
        .bind(session.id.to_string())
        .bind(now.as_millis())
        .execute(&mut *conn)
        .await
        .map_err(db(action))?;
    let detail = json!({ "session": session.id });
    audit::append(
        conn,
        now,
        &Actor::Server,
        "session.close",
        &subject(session.job),
        &detail,
    )
    .await
}

async fn load(conn: &mut Conn, id: SessionId) -> Result<Session, CatalogError> {
    let row = sqlx::query("SELECT * FROM sessions WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a session"))?;
    row.as_ref()
        .map(read)
        .transpose()?
        .ok_or_else(|| CatalogError::not_found("session", id))
}

fn read(row: &Row) -> Result<Session, CatalogError> {
    Ok(Session {
        id: row.parsed("id")?,
        job: row.parsed("job_id")?,
        fence: Fence(row.unsigned("fence")?),
        kind: row.parsed("kind")?,
        opened: row.time("opened")?,
        closed: row.opt_time("closed")?,
    })
}
