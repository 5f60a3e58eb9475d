//! The audit log: appended to, never changed; every entry carries the hash of the one before.
//!
//! An entry is written in the transaction of the change it tells of, so neither is there without the other.

use std::fmt;

use model::{AgentId, Timestamp, UserId};
use serde_json::Value;
use sqlx::Row as _;

use crate::db::{Conn, Row, db};
use crate::row::{Columns, stored, to_json};
use crate::{Catalog, CatalogError};

/// Who changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person or script.
    User {
        /// Their id.
        id: UserId,
        /// Their name at the time.
        name: String,
    },
    /// An agent.
    Agent(AgentId),
    /// The server by itself: schedules, expiry, start.
    Server,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User { id, name } => write!(f, "user:{name} ({id})"),
            Actor::Agent(id) => write!(f, "agent:{id}"),
            Actor::Server => f.write_str("server"),
        }
    }
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// 1, 2, 3 ... without gaps.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done, such as `job.cancel`.
    pub action: String,
    /// To what: kind and id.
    pub subject: String,
    /// More, by action.
    pub detail: Value,
    /// Hash of this entry, which covers the hash of the one before; hexadecimal.
    pub hash: String,
}

/// What checking the chain came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditVerdict {
    /// Every entry follows from the one before.
    Whole {
        /// How many there are.
        entries: u64,
        /// Hash of the newest; compare it with a copy kept elsewhere, since cutting off the end is not seen here.
        head: String,
    },
    /// This entry is missing, was changed or was put in.
    Broken {
        /// The first that does not follow.
        sequence: u64,
    },
}

const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const DOMAIN: &str = "reprise 2026 audit entry v1";

/// Hashes an entry: every field with its length before it, so that no two entries have the same bytes.
fn entry_hash(
    prev: &str,
    sequence: i64,
    at: i64,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &str,
) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&at.to_le_bytes());
    for field in [prev, actor, action, subject, detail] {
        let len = u64::try_from(field.len()).unwrap_or(u64::MAX);
        hasher.update(&len.to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Appends an entry inside the caller's transaction.
pub(crate) async fn append(
    conn: &mut Conn,
    now: Timestamp,
    actor: &Actor,
    action: &str,
    subject: &str,
    detail: &Value,
) -> Result<(), CatalogError> {
    let doing = "append to the audit log";
    let last = sqlx::query("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(&mut *conn)
        .await
        .map_err(db(doing))?;
    let (sequence, prev) = match last {
        Some(row) => (row.number("sequence")?.saturating_add(1), row.text("hash")?),
        None => (1, GENESIS.to_owned()),
    };
    let (actor, detail) = (actor.to_string(), to_json(detail)?);
    let hash = entry_hash(
        &prev,
        sequence,
        now.as_millis(),
        &actor,
        action,
        subject,
        &detail,
    );
    sqlx::query(
        "INSERT INTO audit (sequence, at, actor, action, subject, detail, prev_hash, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(sequence)
    .bind(now.as_millis())
    .bind(actor)
    .bind(action)
    .bind(subject)
    .bind(detail)
    .bind(prev)
    .bind(hash)
    .execute(conn)
    .await
    .map_err(db(doing))?;
    Ok(())
}

fn read(row: &Row) -> Result<AuditEntry, CatalogError> {
    Ok(AuditEntry {
        sequence: row.unsigned("sequence")?,
        at: row.time("at")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        subject: row.text("subject")?,
        detail: row.json("detail")?,
        hash: row.text("hash")?,
    })
}

impl Catalog {
    /// Appends an entry of its own: something that mattered and changed nothing else here (a log-in, a refused one).
    pub async fn audit(
        &self,
        now: Timestamp,
        actor: &Actor,
        action: &str,
        subject: &str,
        detail: &Value,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("append to the audit log").await?;
        append(&mut tx, now, actor, action, subject, detail).await?;
        tx.commit().await
    }

    /// Lists entries newest first, from before `before` (exclusive) where given.
    pub async fn audit_entries(
        &self,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, CatalogError> {
        let before = before.map_or(Ok(i64::MAX), stored)?;
        let rows =
            sqlx::query("SELECT * FROM audit WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2")
                .bind(before)
                .bind(i64::from(crate::page::bounded(limit)))
                .fetch_all(self.readers())
                .await
                .map_err(db("list the audit log"))?;
        rows.iter().map(read).collect()
    }

    /// Checks that every entry follows from the one before.
    pub async fn verify_audit(&self) -> Result<AuditVerdict, CatalogError> {
        const AT_ONCE: i64 = 1000;
        let doing = "check the audit log";
        let mut snapshot = self.snapshot(doing).await?;
        let (mut last, mut head) = (0i64, GENESIS.to_owned());
        loop {
            let rows =
                sqlx::query("SELECT * FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2")
                    .bind(last)
                    .bind(AT_ONCE)
                    .fetch_all(&mut *snapshot)
                    .await
                    .map_err(db(doing))?;
            if rows.is_empty() {
                let entries = u64::try_from(last).unwrap_or(0);
                return Ok(AuditVerdict::Whole { entries, head });
            }
            for row in rows {
                let sequence = row.number("sequence")?;
                let detail: String = row.try_get("detail").map_err(db(doing))?;
                let expected = entry_hash(
                    &head,
                    sequence,
                    row.number("at")?,
                    &row.text("actor")?,
                    &row.text("action")?,
                    &row.text("subject")?,
                    &detail,
                );
                let next = last.saturating_add(1);
                if sequence != next
                    || row.text("prev_hash")? != head
                    || row.text("hash")? != expected
                {
                    return Ok(AuditVerdict::Broken {
                        sequence: u64::try_from(next).unwrap_or(0),
                    });
                }
                (last, head) = (sequence, expected);
            }
        }
    }
}
