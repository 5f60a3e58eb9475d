//! Requests that may come twice: the second gets the answer of the first.

use model::Timestamp;
use serde_json::Value;

use crate::db::{Conn, db};
use crate::row::{Columns, to_json};
use crate::{Catalog, CatalogError};

/// A key its sender chose for one request, with the hash of that request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key, made distinct by sender and route.
    pub key: String,
    /// Hash of the request's body.
    pub body_hash: [u8; 32],
}

/// What remembering an answer came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Remembered {
    /// The key is new; the answer is kept.
    Fresh,
    /// The key was used with the same request; this was the answer.
    Before(Value),
}

/// How long answers are kept at least.
const KEEP_MILLIS: i64 = 48 * 60 * 60 * 1000;

impl Catalog {
    /// Returns the answer given to the same request before.
    ///
    /// # Errors
    /// [`CatalogError::KeyReused`] where the key came with another request.
    pub async fn answer_before(&self, key: &IdempotencyKey) -> Result<Option<Value>, CatalogError> {
        let mut snapshot = self.snapshot("look up an idempotency key").await?;
        look_up(&mut snapshot, key).await
    }

    /// Keeps an answer, unless the same request was answered meanwhile.
    pub async fn remember_answer(
        &self,
        key: &IdempotencyKey,
        answer: &Value,
        now: Timestamp,
    ) -> Result<Remembered, CatalogError> {
        let mut tx = self.write("store an idempotency key").await?;
        if let Some(before) = look_up(&mut tx, key).await? {
            return Ok(Remembered::Before(before));
        }
        remember(&mut tx, key, answer, now).await?;
        tx.commit().await?;
        Ok(Remembered::Fresh)
    }
}

pub(crate) async fn look_up(
    conn: &mut Conn,
    key: &IdempotencyKey,
) -> Result<Option<Value>, CatalogError> {
    let row = sqlx::query("SELECT body_hash, response FROM idempotency WHERE key = $1")
        .bind(&key.key)
        .fetch_optional(conn)
        .await
        .map_err(db("look up an idempotency key"))?;
    let Some(row) = row else { return Ok(None) };
    if row.text("body_hash")? != hex::encode(key.body_hash) {
        return Err(CatalogError::KeyReused {
            key: key.key.clone(),
        });
    }
    row.json("response").map(Some)
}

pub(crate) async fn remember(
    conn: &mut Conn,
    key: &IdempotencyKey,
    answer: &Value,
    now: Timestamp,
) -> Result<(), CatalogError> {
    let action = "store an idempotency key";
    if key.key.is_empty() || key.key.len() > 300 {
        return Err(CatalogError::refused(
            "an idempotency key has 1 to 200 characters",
        ));
    }
    sqlx::query("DELETE FROM idempotency WHERE created < $1")
        .bind(now.as_millis().saturating_sub(KEEP_MILLIS))
        .execute(&mut *conn)
        .await
        .map_err(db(action))?;
    sqlx::query(
        "INSERT INTO idempotency (key, body_hash, response, created) VALUES ($1, $2, $3, $4)",
    )
    .bind(&key.key)
    .bind(hex::encode(key.body_hash))
    .bind(to_json(answer)?)
    .bind(now.as_millis())
    .execute(conn)
    .await
    .map_err(db(action))?;
    Ok(())
}
