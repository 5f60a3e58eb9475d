//! Enrolment: a token that works once and for a short time lets a new agent in.

use model::{AgentId, Timestamp};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{db, is_duplicate};
use crate::tokens::SecretHash;
use crate::{Catalog, CatalogError};

/// An agent that shows an enrolment token.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Its id, chosen before its certificate was made.
    pub id: AgentId,
    /// Name of the machine it runs on.
    pub machine: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits.
    pub fingerprint: String,
    /// When its certificate ends.
    pub certificate_expires: Timestamp,
    /// Its version.
    pub version: String,
}

impl Catalog {
    /// Stores an enrolment token.
    pub async fn create_enrolment_token(
        &self,
        hash: &SecretHash,
        expires: Timestamp,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "store an enrolment token";
        let mut tx = self.write(action).await?;
        // Tokens that ended a day ago tell nothing any more.
        sqlx::query("DELETE FROM enrolment_tokens WHERE expires < $1")
            .bind(now.as_millis().saturating_sub(24 * 60 * 60 * 1000))
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        sqlx::query("INSERT INTO enrolment_tokens (hash, created, expires) VALUES ($1, $2, $3)")
            .bind(hash.to_hex())
            .bind(now.as_millis())
            .bind(expires.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "host.token",
            "enrolment",
            &json!({ "expires": expires }),
        )
        .await?;
        tx.commit().await
    }

    /// Tells whether a token would let an agent in now, without using it up: check before work is spent on it.
    pub async fn enrolment_token_holds(
        &self,
        hash: &SecretHash,
        now: Timestamp,
    ) -> Result<bool, CatalogError> {
        let row = sqlx::query(
            "SELECT 1 FROM enrolment_tokens WHERE hash = $1 AND used IS NULL AND expires > $2",
        )
        .bind(hash.to_hex())
        .bind(now.as_millis())
        .fetch_optional(self.readers())
        .await
        .map_err(db("look up an enrolment token"))?;
        Ok(row.is_some())
    }

    /// Uses up a token and lets the agent in, both or neither.
    pub async fn enrol(
        &self,
        hash: &SecretHash,
        agent: NewAgent,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "enrol an agent";
        let mut tx = self.write(action).await?;
        let used = sqlx::query(
            "UPDATE enrolment_tokens SET used = $2, used_by = $3 WHERE hash = $1 AND used IS NULL AND expires > $2",
        )
        .bind(hash.to_hex())
        .bind(now.as_millis())
        .bind(agent.id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        if used.rows_affected() == 0 {
            return Err(CatalogError::refused(
                "this enrolment token is unknown, used or too old; make a new one with `reprise host token`",
            ));
        }
        sqlx::query(
            "INSERT INTO agents (id, machine, fingerprint, certificate_expires, enrolled, version, facts)
             VALUES ($1, $2, $3, $4, $5, $6, '{}')",
        )
        .bind(agent.id.to_string())
        .bind(&agent.machine)
        .bind(&agent.fingerprint)
        .bind(agent.certificate_expires.as_millis())
        .bind(now.as_millis())
        .bind(&agent.version)
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => CatalogError::conflict("this agent is enrolled already"),
            false => db(action)(error),
        })?;
        let detail = json!({ "machine": agent.machine, "fingerprint": agent.fingerprint });
        let actor = Actor::Agent(agent.id);
        audit::append(
            &mut tx,
            now,
            &actor,
            "agent.enrol",
            &format!("agent {}", agent.id),
            &detail,
        )
        .await?;
        tx.commit().await
    }
}
