//! Packs: sequence, state, sizes. Which chunks they hold is the chunk index's.
//!
//! Sequences are given in the order of commits: whoever has read up to one has missed nothing before it.

use model::{SessionId, Timestamp};
use serde_json::json;
use store::PackId;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db};
use crate::row::{Columns, stored};
use crate::settings::next_number;
use crate::text::stored_enum;
use crate::{Catalog, CatalogError, sessions};

/// Whether a pack may be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackState {
    /// It may.
    Live,
    /// It is about to be deleted: nothing new may refer to it.
    Condemned,
}

stored_enum!(PackState, "state of a pack", { Live => "live", Condemned => "condemned" });

/// A pack that is durable in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPack {
    /// Hash of its bytes.
    pub id: PackId,
    /// Length of the object in bytes.
    pub size_bytes: u64,
    /// Length of what it holds, opened and decompressed, in bytes.
    pub plain_bytes: u64,
    /// How many entries it has.
    pub entries: u64,
    /// Generation of the data key it is sealed with.
    pub generation: u32,
}

/// A pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its place in the order of registration.
    pub sequence: u64,
    /// What was registered.
    pub pack: NewPack,
    /// Whether it may be counted on.
    pub state: PackState,
    /// Which session sent it.
    pub session: Option<SessionId>,
    /// When it was registered.
    pub registered: Timestamp,
    /// When it was condemned.
    pub condemned: Option<Timestamp>,
}

impl Catalog {
    /// Registers a pack that is durable; the session that sent it, where there is one, must still hold its fence, and
    /// pins it. Registering it again gives the same sequence.
    pub async fn register_pack(
        &self,
        session: Option<SessionId>,
        new: &NewPack,
        now: Timestamp,
    ) -> Result<u64, CatalogError> {
        let action = "register a pack";
        let mut tx = self.write(action).await?;
        if let Some(session) = session {
            sessions::live(&mut tx, session, now).await?;
        }
        let known = sqlx::query("SELECT sequence, state FROM packs WHERE id = $1")
            .bind(new.id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?;
        let sequence = match known {
            Some(row) => {
                if row.parsed::<PackState>("state")? == PackState::Condemned {
                    return Err(CatalogError::conflict(format!(
                        "pack {} is about to be deleted; send its chunks in a new pack",
                        new.id
                    )));
                }
                row.number("sequence")?
            }
            None => {
                let sequence = next_number(&mut tx, "packs").await?;
                sqlx::query(
                    "INSERT INTO packs (sequence, id, state, size_bytes, plain_bytes, entries, generation, session_id,
                        registered) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                )
                .bind(sequence)
                .bind(new.id.to_string())
                .bind(PackState::Live.as_str())
                .bind(stored(new.size_bytes)?)
                .bind(stored(new.plain_bytes)?)
                .bind(stored(new.entries)?)
                .bind(i64::from(new.generation))
                .bind(session.map(|session| session.to_string()))
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
                sequence
            }
        };
        if let Some(session) = session {
            sqlx::query("INSERT INTO session_packs (session_id, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(session.to_string())
                .bind(sequence)
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
        }
        tx.commit().await?;
        Ok(u64::try_from(sequence).unwrap_or(0))
    }

    /// Lists packs after a sequence, in order, condemned ones too: what an index reads on from.
    pub async fn packs_after(&self, sequence: u64, limit: u32) -> Result<Vec<Pack>, CatalogError> {
        let rows =
            sqlx::query("SELECT * FROM packs WHERE sequence > $1 ORDER BY sequence LIMIT $2")
                .bind(stored(sequence)?)
                .bind(i64::from(limit.clamp(1, 10_000)))
                .fetch_all(self.readers())
                .await
                .map_err(db("list packs"))?;
        rows.iter().map(read).collect()
    }

    /// Returns the newest sequence given so far, 0 where none was.
    pub async fn newest_pack_sequence(&self) -> Result<u64, CatalogError> {
        let row = sqlx::query("SELECT COALESCE(MAX(sequence), 0) AS n FROM packs")
            .fetch_one(self.readers())
            .await
            .map_err(db("look up the newest pack"))?;
        row.unsigned("n")
    }

    /// Returns a pack by its sequence.
    pub async fn pack(&self, sequence: u64) -> Result<Option<Pack>, CatalogError> {
        let row = sqlx::query("SELECT * FROM packs WHERE sequence = $1")
            .bind(stored(sequence)?)
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a pack"))?;
        row.as_ref().map(read).transpose()
    }

    /// Returns a pack by its id.
    pub async fn pack_by_id(&self, id: &PackId) -> Result<Option<Pack>, CatalogError> {
        let row = sqlx::query("SELECT * FROM packs WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a pack"))?;
        row.as_ref().map(read).transpose()
    }

    /// Returns how many packs there are and how many bytes they take in the store.
    pub async fn pack_totals(&self) -> Result<(u64, u64), CatalogError> {
        let row =
            sqlx::query("SELECT COUNT(*) AS n, COALESCE(SUM(size_bytes), 0) AS bytes FROM packs")
                .fetch_one(self.readers())
                .await
                .map_err(db("sum up packs"))?;
        Ok((row.unsigned("n")?, row.unsigned("bytes")?))
    }

    /// Returns the bytes the packs of a session take in the store: what its backup added.
    pub async fn session_stored_bytes(&self, session: SessionId) -> Result<u64, CatalogError> {
        let row = sqlx::query(
            "SELECT COALESCE(SUM(size_bytes), 0) AS bytes FROM packs WHERE session_id = $1",
        )
        .bind(session.to_string())
        .fetch_one(self.readers())
        .await
        .map_err(db("sum up packs"))?;
        row.unsigned("bytes")
    }

    /// Condemns packs that nothing pins; returns those that were. What an open session or a point that is being
    /// committed counts on is passed over.
    pub async fn condemn_packs(
        &self,
        sequences: &[u64],
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Vec<u64>, CatalogError> {
        let action = "condemn packs";
        let mut tx = self.write(action).await?;
        let mut condemned = Vec::new();
        for &sequence in sequences {
            let done = sqlx::query(
                "UPDATE packs SET state = $2, condemned = $3 WHERE sequence = $1 AND state = $4
                 AND NOT EXISTS (SELECT 1 FROM session_packs WHERE session_packs.sequence = packs.sequence)
                 AND NOT EXISTS (SELECT 1 FROM publishing_packs WHERE publishing_packs.sequence = packs.sequence)",
            )
            .bind(stored(sequence)?)
            .bind(PackState::Condemned.as_str())
            .bind(now.as_millis())
            .bind(PackState::Live.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
            if done.rows_affected() > 0 {
                condemned.push(sequence);
            }
        }
        if !condemned.is_empty() {
            let detail = json!({ "packs": condemned });
            audit::append(&mut tx, now, actor, "pack.condemn", "packs", &detail).await?;
            tx.commit().await?;
        }
        Ok(condemned)
    }

    /// Forgets a condemned pack whose object is deleted.
    pub async fn forget_pack(
        &self,
        sequence: u64,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "forget a pack";
        let mut tx = self.write(action).await?;
        let done = sqlx::query("DELETE FROM packs WHERE sequence = $1 AND state = $2")
            .bind(stored(sequence)?)
            .bind(PackState::Condemned.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("condemned pack", sequence));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "pack.delete",
            &format!("pack {sequence}"),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }
}

pub(crate) async fn is_live(conn: &mut Conn, sequence: u64) -> Result<bool, CatalogError> {
    let row = sqlx::query("SELECT 1 FROM packs WHERE sequence = $1 AND state = $2")
        .bind(stored(sequence)?)
        .bind(PackState::Live.as_str())
        .fetch_optional(conn)
        .await
        .map_err(db("look up a pack"))?;
    Ok(row.is_some())
}

fn read(row: &Row) -> Result<Pack, CatalogError> {
    Ok(Pack {
        sequence: row.unsigned("sequence")?,
        pack: NewPack {
            id: row.parsed("id")?,
            size_bytes: row.unsigned("size_bytes")?,
            plain_bytes: row.unsigned("plain_bytes")?,
            entries: row.unsigned("entries")?,
            generation: row.small("generation")?,
        },
        state: row.parsed("state")?,
        session: row.opt_parsed("session_id")?,
        registered: row.time("registered")?,
        condemned: row.opt_time("condemned")?,
    })
}
