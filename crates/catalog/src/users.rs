//! People and scripts that may log in. Passwords are kept as argon2id texts only; making and checking them is the
//! server's.

use model::{Timestamp, UserId};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Conn, Row, db, is_duplicate};
use crate::row::Columns;
use crate::text::stored_enum;
use crate::{Catalog, CatalogError};

/// What someone may do. Greater may do all that smaller may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read.
    Viewer,
    /// Start backups.
    Operator,
    /// All.
    Administrator,
}

stored_enum!(Role, "role", {
    Viewer => "viewer", Operator => "operator", Administrator => "administrator",
});

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Name; unique without regard to case.
    pub name: String,
    /// The password as an argon2id text.
    pub password_hash: String,
    /// What they may do.
    pub role: Role,
    /// When they were added.
    pub created: Timestamp,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({} {:?} {})", self.id, self.name, self.role)
    }
}

const MAX_NAME: usize = 64;

impl Catalog {
    /// Adds a user.
    pub async fn create_user(
        &self,
        name: &str,
        password_hash: &str,
        role: Role,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<User, CatalogError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control)
        {
            return Err(CatalogError::refused(format!(
                "a user's name has 1 to {MAX_NAME} characters, none of them a control character"
            )));
        }
        let user = User {
            id: UserId::random(),
            name: name.to_owned(),
            password_hash: password_hash.to_owned(),
            role,
            created: now,
        };
        let mut tx = self.write("add a user").await?;
        sqlx::query(
            "INSERT INTO users (id, name, name_key, password_hash, role, created) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(user.id.to_string())
        .bind(&user.name)
        .bind(name_key(&user.name))
        .bind(&user.password_hash)
        .bind(role.as_str())
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(|error| match is_duplicate(&error) {
            true => CatalogError::conflict(format!("there is a user {name:?} already")),
            false => db("add a user")(error),
        })?;
        let detail = json!({ "name": user.name, "role": role.as_str() });
        audit::append(
            &mut tx,
            now,
            actor,
            "user.create",
            &subject(user.id),
            &detail,
        )
        .await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Returns the user of that name, without regard to case.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>, CatalogError> {
        let row = sqlx::query("SELECT * FROM users WHERE name_key = $1")
            .bind(name_key(name.trim()))
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a user"))?;
        row.as_ref().map(read).transpose()
    }

    /// Returns a user.
    pub async fn user(&self, id: UserId) -> Result<User, CatalogError> {
        let row = sqlx::query("SELECT * FROM users WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a user"))?;
        row.as_ref()
            .map(read)
            .transpose()?
            .ok_or_else(|| CatalogError::not_found("user", id))
    }

    /// Lists all users by name.
    pub async fn users(&self) -> Result<Vec<User>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM users ORDER BY name_key")
            .fetch_all(self.readers())
            .await
            .map_err(db("list users"))?;
        rows.iter().map(read).collect()
    }

    /// Replaces a user's password and ends all tokens that were made with the old one.
    pub async fn set_password_hash(
        &self,
        id: UserId,
        password_hash: &str,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "store a password";
        let mut tx = self.write(action).await?;
        let done = sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(password_hash)
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("user", id));
        }
        sqlx::query("DELETE FROM api_tokens WHERE user_id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "user.password",
            &subject(id),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }

    /// Changes what a user may do. The last administrator stays one.
    pub async fn set_role(
        &self,
        id: UserId,
        role: Role,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("store a role").await?;
        sqlx::query("UPDATE users SET role = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(role.as_str())
            .execute(&mut *tx)
            .await
            .map_err(db("store a role"))?;
        check_an_administrator_is_left(&mut tx).await?;
        audit::append(
            &mut tx,
            now,
            actor,
            "user.role",
            &subject(id),
            &json!({ "role": role.as_str() }),
        )
        .await?;
        tx.commit().await
    }

    /// Removes a user and all their tokens. The last administrator stays.
    pub async fn delete_user(
        &self,
        id: UserId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("remove a user").await?;
        let done = sqlx::query("DELETE FROM users WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db("remove a user"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("user", id));
        }
        check_an_administrator_is_left(&mut tx).await?;
        audit::append(&mut tx, now, actor, "user.delete", &subject(id), &json!({})).await?;
        tx.commit().await
    }
}

async fn check_an_administrator_is_left(conn: &mut Conn) -> Result<(), CatalogError> {
    let row = sqlx::query("SELECT COUNT(*) AS n FROM users WHERE role = $1")
        .bind(Role::Administrator.as_str())
        .fetch_one(conn)
        .await
        .map_err(db("count administrators"))?;
    if row.number("n")? == 0 {
        return Err(CatalogError::conflict(
            "the last administrator cannot be removed; add another first",
        ));
    }
    Ok(())
}

fn name_key(name: &str) -> String {
    name.to_lowercase()
}

fn subject(id: UserId) -> String {
    format!("user {id}")
}

pub(crate) fn read(row: &Row) -> Result<User, CatalogError> {
    Ok(User {
        id: row.parsed("id")?,
        name: row.text("name")?,
        password_hash: row.text("password_hash")?,
        role: row.parsed("role")?,
        created: row.time("created")?,
    })
}
