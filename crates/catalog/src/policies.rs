//! Policies: how often, how, and how long recovery points are kept.

use model::{ConsistencyWish, Method, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::db::{Row, db, is_duplicate};
use crate::row::{Columns, stored, to_json, to_name};
use crate::text::own_id;
use crate::{Catalog, CatalogError};

own_id!(
    /// A policy.
    PolicyId
);

/// How many points are kept, by age class; `None` in all of them keeps every point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The newest ones.
    #[serde(default)]
    pub keep_last: Option<u32>,
    /// The last of each day.
    #[serde(default)]
    pub keep_daily: Option<u32>,
    /// The last of each week.
    #[serde(default)]
    pub keep_weekly: Option<u32>,
    /// The last of each month.
    #[serde(default)]
    pub keep_monthly: Option<u32>,
    /// The last of each year.
    #[serde(default)]
    pub keep_yearly: Option<u32>,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPolicy {
    /// Unique name.
    pub name: String,
    /// Seconds between backups; `None`: only on request.
    pub interval_secs: Option<u64>,
    /// Whether its schedule runs.
    pub enabled: bool,
    /// Forces a method; `None`: by what host and VM can.
    pub method: Option<Method>,
    /// How hard to ask the guest.
    pub consistency: ConsistencyWish,
    /// What is kept.
    pub retention: Retention,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Id.
    pub id: PolicyId,
    /// What it says.
    pub spec: NewPolicy,
    /// When it was made.
    pub created: Timestamp,
    /// How many VMs it protects.
    pub vms: u64,
}

/// Shortest time between scheduled backups.
const MIN_INTERVAL_SECS: u64 = 1;
const MAX_INTERVAL_SECS: u64 = 400 * 24 * 60 * 60;

impl Catalog {
    /// Makes a policy.
    pub async fn create_policy(
        &self,
        spec: NewPolicy,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Policy, CatalogError> {
        check(&spec)?;
        let policy = Policy {
            id: PolicyId::random(),
            spec,
            created: now,
            vms: 0,
        };
        let action = "store a policy";
        let mut tx = self.write(action).await?;
        sqlx::query(
            "INSERT INTO policies (id, name, interval_secs, enabled, method, consistency, retention, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(policy.id.to_string())
        .bind(&policy.spec.name)
        .bind(policy.spec.interval_secs.map(stored).transpose()?)
        .bind(i64::from(policy.spec.enabled))
        .bind(policy.spec.method.as_ref().map(to_name).transpose()?)
        .bind(to_name(&policy.spec.consistency)?)
        .bind(to_json(&policy.spec.retention)?)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(|error| duplicate(error, &policy.spec.name, action))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "policy.create",
            &subject(policy.id),
            &detail(&policy.spec),
        )
        .await?;
        tx.commit().await?;
        Ok(policy)
    }

    /// Replaces what a policy says. A changed interval counts from the next due time on.
    pub async fn update_policy(
        &self,
        id: PolicyId,
        spec: NewPolicy,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Policy, CatalogError> {
        check(&spec)?;
        let action = "store a policy";
        let mut tx = self.write(action).await?;
        let done = sqlx::query(
            "UPDATE policies SET name = $2, interval_secs = $3, enabled = $4, method = $5, consistency = $6,
                retention = $7 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&spec.name)
        .bind(spec.interval_secs.map(stored).transpose()?)
        .bind(i64::from(spec.enabled))
        .bind(spec.method.as_ref().map(to_name).transpose()?)
        .bind(to_name(&spec.consistency)?)
        .bind(to_json(&spec.retention)?)
        .execute(&mut *tx)
        .await
        .map_err(|error| duplicate(error, &spec.name, action))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("policy", id));
        }
        // A due time further away than the new interval, or none at all, starts anew.
        let restart = match spec.interval_secs {
            Some(secs) => sqlx::query(
                "UPDATE protections SET next_due = $2
                 WHERE policy_id = $1 AND (next_due IS NULL OR next_due > $2)",
            )
            .bind(id.to_string())
            .bind(now.plus_secs(secs).as_millis()),
            None => sqlx::query("UPDATE protections SET next_due = NULL WHERE policy_id = $1")
                .bind(id.to_string()),
        };
        restart.execute(&mut *tx).await.map_err(db(action))?;
        audit::append(
            &mut tx,
            now,
            actor,
            "policy.update",
            &subject(id),
            &detail(&spec),
        )
        .await?;
        tx.commit().await?;
        self.policy(id).await
    }

    /// Removes a policy that protects nothing.
    pub async fn delete_policy(
        &self,
        id: PolicyId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "remove a policy";
        let mut tx = self.write(action).await?;
        let row = sqlx::query("SELECT COUNT(*) AS n FROM protections WHERE policy_id = $1")
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(db(action))?;
        let vms = row.number("n")?;
        if vms > 0 {
            return Err(CatalogError::conflict(format!(
                "the policy protects {vms} VMs; give them another policy or unprotect them first"
            )));
        }
        let done = sqlx::query("DELETE FROM policies WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("policy", id));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "policy.delete",
            &subject(id),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }

    /// Returns a policy.
    pub async fn policy(&self, id: PolicyId) -> Result<Policy, CatalogError> {
        let found = self
            .policies()
            .await?
            .into_iter()
            .find(|policy| policy.id == id);
        found.ok_or_else(|| CatalogError::not_found("policy", id))
    }

    /// Returns the policy of that name.
    pub async fn policy_by_name(&self, name: &str) -> Result<Option<Policy>, CatalogError> {
        Ok(self
            .policies()
            .await?
            .into_iter()
            .find(|policy| policy.spec.name == name))
    }

    /// Lists all policies by name.
    pub async fn policies(&self) -> Result<Vec<Policy>, CatalogError> {
        let rows = sqlx::query(
            "SELECT policies.*, (SELECT COUNT(*) FROM protections WHERE policy_id = policies.id) AS vms
             FROM policies ORDER BY name",
        )
        .fetch_all(self.readers())
        .await
        .map_err(db("list policies"))?;
        rows.iter().map(read).collect()
    }
}

fn check(spec: &NewPolicy) -> Result<(), CatalogError> {
    let name = &spec.name;
    if name.trim() != name
        || name.is_empty()
        || name.chars().count() > 100
        || name.chars().any(char::is_control)
    {
        return Err(CatalogError::refused(
            "a policy's name has 1 to 100 characters, no control characters, no space at its ends",
        ));
    }
    if let Some(secs) = spec.interval_secs
        && !(MIN_INTERVAL_SECS..=MAX_INTERVAL_SECS).contains(&secs)
    {
        return Err(CatalogError::refused(format!(
            "an interval is {MIN_INTERVAL_SECS} to {MAX_INTERVAL_SECS} seconds"
        )));
    }
    if spec.retention.keep_last == Some(0) {
        return Err(CatalogError::refused(
            "keep at least the newest recovery point",
        ));
    }
    Ok(())
}

fn duplicate(error: sqlx::Error, name: &str, action: &'static str) -> CatalogError {
    if is_duplicate(&error) {
        return CatalogError::conflict(format!("there is a policy {name:?} already"));
    }
    db(action)(error)
}

fn detail(spec: &NewPolicy) -> serde_json::Value {
    json!({
        "name": spec.name, "interval_secs": spec.interval_secs, "enabled": spec.enabled, "method": spec.method,
        "consistency": spec.consistency, "retention": spec.retention,
    })
}

fn subject(id: PolicyId) -> String {
    format!("policy {id}")
}

pub(crate) fn read_spec(row: &Row) -> Result<NewPolicy, CatalogError> {
    Ok(NewPolicy {
        name: row.text("name")?,
        interval_secs: row.opt_unsigned("interval_secs")?,
        enabled: row.truth("enabled")?,
        method: row.opt_name("method")?,
        consistency: row.name("consistency")?,
        retention: row.json("retention")?,
    })
}

fn read(row: &Row) -> Result<Policy, CatalogError> {
    Ok(Policy {
        id: row.parsed("id")?,
        spec: read_spec(row)?,
        created: row.time("created")?,
        vms: row.unsigned("vms")?,
    })
}
