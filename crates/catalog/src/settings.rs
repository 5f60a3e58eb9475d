//! Settings by name: the vault's id, and what else must survive a restart and belongs nowhere else.

use model::Timestamp;
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, db};
use crate::row::Columns;
use crate::{Catalog, CatalogError};

impl Catalog {
    /// Returns a setting, `None` where it was never set.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, CatalogError> {
        let row = sqlx::query("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(self.readers())
            .await
            .map_err(db("read a setting"))?;
        row.map(|row| row.text("value")).transpose()
    }

    /// Sets a setting. The value is not written to the audit log.
    pub async fn set_setting(
        &self,
        name: &str,
        value: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("store a setting").await?;
        put(&mut tx, name, value).await?;
        audit::append(&mut tx, now, actor, "setting.set", name, &json!({})).await?;
        tx.commit().await
    }

    /// Sets a setting where it has no value yet; returns the value that holds now.
    pub async fn init_setting(
        &self,
        name: &str,
        value: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<String, CatalogError> {
        let action = "store a setting";
        let mut tx = self.write(action).await?;
        let row = sqlx::query("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?;
        if let Some(row) = row {
            return row.text("value");
        }
        put(&mut tx, name, value).await?;
        audit::append(&mut tx, now, actor, "setting.set", name, &json!({})).await?;
        tx.commit().await?;
        Ok(value.to_owned())
    }
}

async fn put(conn: &mut Conn, name: &str, value: &str) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(name)
    .bind(value)
    .execute(conn)
    .await
    .map_err(db("store a setting"))?;
    Ok(())
}

/// Takes the next number of a counter inside the caller's transaction: 1, 2, 3 ... in the order of commits.
pub(crate) async fn next_number(conn: &mut Conn, name: &'static str) -> Result<i64, CatalogError> {
    let row = sqlx::query(
        "INSERT INTO counters (name, value) VALUES ($1, 1)
         ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
    )
    .bind(name)
    .fetch_one(conn)
    .await
    .map_err(db("take the next number"))?;
    row.number("value")
}
