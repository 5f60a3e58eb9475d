//! API tokens. Only the hash of a token is kept; the token itself has 256 random bits, so a plain hash is enough.

use std::fmt;

use model::{Timestamp, UserId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Row, db, is_duplicate};
use crate::row::Columns;
use crate::text::own_id;
use crate::users::{Role, User};
use crate::{Catalog, CatalogError};

own_id!(
    /// An API token, without its secret.
    TokenId
);

/// The hash of a secret of 256 random bits; the caller hashes, always in the same way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(hidden)")
    }
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose.
    pub user: UserId,
    /// What it is for.
    pub name: String,
    /// Hash of its secret.
    pub hash: SecretHash,
    /// What it may do: no more than its user.
    pub role: Role,
    /// When it ends.
    pub expires: Timestamp,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Id.
    pub id: TokenId,
    /// Whose.
    pub user: UserId,
    /// What it is for.
    pub name: String,
    /// What it may do; see [`Catalog::authenticate`] for what counts.
    pub role: Role,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// When it was last used, to the minute.
    pub last_used: Option<Timestamp>,
}

/// A use is written at most this often.
const LAST_USED_GRAIN_MILLIS: u64 = 60_000;

impl Catalog {
    /// Makes a token.
    pub async fn create_token(
        &self,
        new: NewToken,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<ApiToken, CatalogError> {
        let token = ApiToken {
            id: TokenId::random(),
            user: new.user,
            name: new.name,
            role: new.role,
            created: now,
            expires: new.expires,
            last_used: None,
        };
        let action = "store an API token";
        let mut tx = self.write(action).await?;
        let row = sqlx::query("SELECT role FROM users WHERE id = $1")
            .bind(token.user.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?
            .ok_or_else(|| CatalogError::not_found("user", token.user))?;
        let most: Role = row.parsed("role")?;
        if token.role > most {
            return Err(CatalogError::refused(format!(
                "a token of this user can be {most} at most"
            )));
        }
        sqlx::query(
            "INSERT INTO api_tokens (id, user_id, name, hash, role, created, expires)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(token.id.to_string())
        .bind(token.user.to_string())
        .bind(&token.name)
        .bind(new.hash.to_hex())
        .bind(token.role.as_str())
        .bind(now.as_millis())
        .bind(token.expires.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => CatalogError::conflict("this secret is in use already"),
            false => db(action)(error),
        })?;
        let detail = json!({
            "name": token.name, "role": token.role.as_str(), "user": token.user, "expires": token.expires,
        });
        audit::append(
            &mut tx,
            now,
            actor,
            "token.create",
            &subject(token.id),
            &detail,
        )
        .await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Returns whose token this is and the role that counts: the smaller of the token's and the user's.
    /// `None` where no such token holds now.
    pub async fn authenticate(
        &self,
        hash: &SecretHash,
        now: Timestamp,
    ) -> Result<Option<(ApiToken, User, Role)>, CatalogError> {
        let action = "look up an API token";
        let row = sqlx::query("SELECT * FROM api_tokens WHERE hash = $1 AND expires > $2")
            .bind(hash.to_hex())
            .bind(now.as_millis())
            .fetch_optional(self.readers())
            .await
            .map_err(db(action))?;
        let Some(row) = row else { return Ok(None) };
        let token = read(&row)?;
        let row = sqlx::query("SELECT * FROM users WHERE id = $1")
            .bind(token.user.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db(action))?;
        // The user may have been removed between the two reads.
        let Some(row) = row else { return Ok(None) };
        let user = crate::users::read(&row)?;
        let stale = token
            .last_used
            .is_none_or(|used| now.millis_since(used) >= LAST_USED_GRAIN_MILLIS);
        if stale {
            let mut tx = self.write("note the use of an API token").await?;
            sqlx::query("UPDATE api_tokens SET last_used = $2 WHERE id = $1")
                .bind(token.id.to_string())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(db("note the use of an API token"))?;
            tx.commit_quietly().await?;
        }
        let role = token.role.min(user.role);
        Ok(Some((token, user, role)))
    }

    /// Lists the tokens that have not ended, of one user or of all.
    pub async fn tokens(
        &self,
        user: Option<UserId>,
        now: Timestamp,
    ) -> Result<Vec<ApiToken>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM api_tokens WHERE expires > $1 ORDER BY created, id")
            .bind(now.as_millis())
            .fetch_all(self.readers())
            .await
            .map_err(db("list API tokens"))?;
        let mut tokens = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        tokens.retain(|token| user.is_none_or(|user| token.user == user));
        Ok(tokens)
    }

    /// Ends a token; it is not accepted from then on.
    pub async fn revoke_token(
        &self,
        id: TokenId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("end an API token").await?;
        let done = sqlx::query("DELETE FROM api_tokens WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db("end an API token"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("token", id));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "token.revoke",
            &subject(id),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }
}

fn subject(id: TokenId) -> String {
    format!("token {id}")
}

fn read(row: &Row) -> Result<ApiToken, CatalogError> {
    Ok(ApiToken {
        id: row.parsed("id")?,
        user: row.parsed("user_id")?,
        name: row.text("name")?,
        role: row.parsed("role")?,
        created: row.time("created")?,
        expires: row.time("expires")?,
        last_used: row.opt_time("last_used")?,
    })
}
