//! Damage that was found in the store, laid over what the packs say. The same is kept as objects in the store.

use model::Timestamp;
use serde_json::json;
use store::PackId;

use crate::audit::{self, Actor};
use crate::db::{Row, db};
use crate::row::Columns;
use crate::text::own_id;
use crate::{Catalog, CatalogError};

own_id!(
    /// A piece of damage.
    DamageId
);

/// Damage that was just found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDamage {
    /// In which pack.
    pub pack: PackId,
    /// Of which entry (kind and id); `None`: the pack as a whole.
    pub entry: Option<String>,
    /// What is wrong, for people.
    pub what: String,
}

/// Damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Id.
    pub id: DamageId,
    /// What was found.
    pub found: NewDamage,
    /// When.
    pub at: Timestamp,
    /// When it was made good.
    pub healed: Option<Timestamp>,
}

impl Catalog {
    /// Notes damage.
    pub async fn add_damage(
        &self,
        new: NewDamage,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Damage, CatalogError> {
        let damage = Damage {
            id: DamageId::random(),
            found: new,
            at: now,
            healed: None,
        };
        let mut tx = self.write("note damage").await?;
        sqlx::query(
            "INSERT INTO damage (id, pack_id, entry, what, found) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(damage.id.to_string())
        .bind(damage.found.pack.to_string())
        .bind(&damage.found.entry)
        .bind(&damage.found.what)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db("note damage"))?;
        let detail = json!({ "entry": damage.found.entry, "what": damage.found.what });
        let subject = format!("pack {}", damage.found.pack);
        audit::append(&mut tx, now, actor, "damage.found", &subject, &detail).await?;
        tx.commit().await?;
        Ok(damage)
    }

    /// Lists damage that is not healed, oldest first.
    pub async fn open_damage(&self) -> Result<Vec<Damage>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM damage WHERE healed IS NULL ORDER BY found, id")
            .fetch_all(self.readers())
            .await
            .map_err(db("list damage"))?;
        rows.iter().map(read).collect()
    }

    /// Notes that damage was made good.
    pub async fn heal_damage(
        &self,
        id: DamageId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("note that damage is healed").await?;
        let done = sqlx::query("UPDATE damage SET healed = $2 WHERE id = $1 AND healed IS NULL")
            .bind(id.to_string())
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db("note that damage is healed"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("open damage", id));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "damage.healed",
            &format!("damage {id}"),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }
}

fn read(row: &Row) -> Result<Damage, CatalogError> {
    Ok(Damage {
        id: row.parsed("id")?,
        found: NewDamage {
            pack: row.parsed("pack_id")?,
            entry: row.opt_text("entry")?,
            what: row.text("what")?,
        },
        at: row.time("found")?,
        healed: row.opt_time("healed")?,
    })
}
