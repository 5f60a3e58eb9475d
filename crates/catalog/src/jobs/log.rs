//! The log of a job: lines in order, each with its time.

use model::{JobId, Timestamp};

use crate::db::{Conn, Row, db};
use crate::row::{Columns, stored};
use crate::text::stored_enum;
use crate::{Catalog, CatalogError};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What happens.
    Info,
    /// Something was not honoured.
    Warning,
    /// Something failed.
    Error,
}

stored_enum!(LogLevel, "log level", { Info => "info", Warning => "warning", Error => "error" });

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// 1, 2, 3 ... within the job.
    pub line: u64,
    /// When.
    pub at: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// For people.
    pub text: String,
}

/// Most lines a job keeps; later ones are dropped, the last kept line says so.
const MAX_LINES: i64 = 10_000;
pub(crate) const MAX_TEXT: usize = 4_000;

/// Appends a line inside the caller's transaction.
pub(crate) async fn append(
    conn: &mut Conn,
    job: JobId,
    at: Timestamp,
    level: LogLevel,
    text: &str,
) -> Result<(), CatalogError> {
    let action = "append to a job's log";
    let row =
        sqlx::query("UPDATE jobs SET last_line = last_line + 1 WHERE id = $1 RETURNING last_line")
            .bind(job.to_string())
            .fetch_one(&mut *conn)
            .await
            .map_err(db(action))?;
    let line = row.number("last_line")?;
    if line > MAX_LINES {
        return Ok(());
    }
    let text: String = match line == MAX_LINES {
        true => "the log is full: further lines are not kept".to_owned(),
        false => text.chars().take(MAX_TEXT).collect(),
    };
    sqlx::query("INSERT INTO job_log (job_id, line, at, level, text) VALUES ($1, $2, $3, $4, $5)")
        .bind(job.to_string())
        .bind(line)
        .bind(at.as_millis())
        .bind(level.as_str())
        .bind(text)
        .execute(conn)
        .await
        .map_err(db(action))?;
    Ok(())
}

/// Appends a line to a job's log inside the caller's transaction.
pub(crate) async fn log_info(
    conn: &mut Conn,
    job: JobId,
    now: Timestamp,
    text: &str,
) -> Result<(), CatalogError> {
    append(conn, job, now, LogLevel::Info, text).await
}

impl Catalog {
    /// Lists a job's lines after line number `after`, oldest first.
    pub async fn job_log(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<LogLine>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM job_log WHERE job_id = $1 AND line > $2 ORDER BY line LIMIT $3",
        )
        .bind(job.to_string())
        .bind(stored(after)?)
        .bind(i64::from(crate::page::bounded(limit)))
        .fetch_all(self.readers())
        .await
        .map_err(db("read a job's log"))?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<LogLine, CatalogError> {
    Ok(LogLine {
        line: row.unsigned("line")?,
        at: row.time("at")?,
        level: row.parsed("level")?,
        text: row.text("text")?,
    })
}
