//! Which VM is protected by which policy, and the schedule that follows from it.

use ::jobs::{JobKind, check_due, first_due};
use model::{HostId, JobId, Timestamp, VmId};
use serde_json::{Value, json};

use crate::audit::{self, Actor};
use crate::db::{Row, db};
use crate::jobs::{NewJob, Target};
use crate::policies::{NewPolicy, PolicyId};
use crate::row::{Columns, to_json};
use crate::{Catalog, CatalogError};

/// A protected VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The VM.
    pub vm: Target<VmId>,
    /// The host its backups run on.
    pub host: HostId,
    /// Its policy.
    pub policy: PolicyId,
    /// Disks that are left out: ids, or paths on the host.
    pub excluded: Vec<String>,
    /// Whether its schedule stands still.
    pub paused: bool,
    /// When the next scheduled backup is due.
    pub next_due: Option<Timestamp>,
    /// Since when it is protected.
    pub created: Timestamp,
}

/// What the schedule did for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledRun {
    /// The VM.
    pub vm: VmId,
    /// The backup that was queued, where one was.
    pub queued: Option<JobId>,
    /// The job that stands for what was not made, where something was not.
    pub skipped: Option<JobId>,
}

impl Catalog {
    /// Protects a VM, or changes how it is protected. Its schedule begins at once.
    pub async fn protect(
        &self,
        vm: &Target<VmId>,
        host: HostId,
        policy: PolicyId,
        excluded: &[String],
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Protection, CatalogError> {
        let action = "protect a VM";
        let mut tx = self.write(action).await?;
        let row = sqlx::query("SELECT * FROM policies WHERE id = $1")
            .bind(policy.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?
            .ok_or_else(|| CatalogError::not_found("policy", policy))?;
        let spec = crate::policies::read_spec(&row)?;
        let due = spec.interval_secs.map(|_| first_due(now).as_millis());
        sqlx::query(
            "INSERT INTO protections (vm_id, vm_name, host_id, policy_id, excluded, paused, next_due, created)
             VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
             ON CONFLICT (vm_id) DO UPDATE SET
                next_due = CASE WHEN protections.policy_id = excluded.policy_id
                           THEN protections.next_due ELSE excluded.next_due END,
                vm_name = excluded.vm_name, host_id = excluded.host_id, policy_id = excluded.policy_id,
                excluded = excluded.excluded",
        )
        .bind(vm.id.to_string())
        .bind(&vm.name)
        .bind(host.to_string())
        .bind(policy.to_string())
        .bind(to_json(&excluded)?)
        .bind(due)
        .bind(now.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        let detail = json!({ "policy": spec.name, "host": host, "excluded": excluded });
        audit::append(&mut tx, now, actor, "vm.protect", &subject(vm.id), &detail).await?;
        tx.commit().await?;
        self.protection(vm.id)
            .await?
            .ok_or_else(|| CatalogError::not_found("protection of VM", vm.id))
    }

    /// Ends the protection of a VM. Its points stay.
    pub async fn unprotect(
        &self,
        vm: VmId,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("unprotect a VM").await?;
        let done = sqlx::query("DELETE FROM protections WHERE vm_id = $1")
            .bind(vm.to_string())
            .execute(&mut *tx)
            .await
            .map_err(db("unprotect a VM"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("protection of VM", vm));
        }
        audit::append(
            &mut tx,
            now,
            actor,
            "vm.unprotect",
            &subject(vm),
            &json!({}),
        )
        .await?;
        tx.commit().await
    }

    /// Stops a VM's schedule, or lets it go on; going on, it is due at once.
    pub async fn pause_protection(
        &self,
        vm: VmId,
        paused: bool,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut tx = self.write("pause a schedule").await?;
        let done = sqlx::query(
            "UPDATE protections SET paused = $2, next_due = CASE WHEN next_due IS NULL THEN NULL ELSE CAST($3 AS BIGINT) END
             WHERE vm_id = $1",
        )
        .bind(vm.to_string())
        .bind(i64::from(paused))
        .bind(first_due(now).as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db("pause a schedule"))?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::not_found("protection of VM", vm));
        }
        let name = if paused { "vm.pause" } else { "vm.resume" };
        audit::append(&mut tx, now, actor, name, &subject(vm), &json!({})).await?;
        tx.commit().await
    }

    /// Returns how a VM is protected.
    pub async fn protection(&self, vm: VmId) -> Result<Option<Protection>, CatalogError> {
        let row = sqlx::query("SELECT * FROM protections WHERE vm_id = $1")
            .bind(vm.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a protection"))?;
        row.as_ref().map(read).transpose()
    }

    /// Lists all protected VMs by name.
    pub async fn protections(&self) -> Result<Vec<Protection>, CatalogError> {
        let rows = sqlx::query("SELECT * FROM protections ORDER BY vm_name, vm_id")
            .fetch_all(self.readers())
            .await
            .map_err(db("list protections"))?;
        rows.iter().map(read).collect()
    }

    /// Queues the scheduled backups that are due, at most one per VM; what was missed is noted as one skipped job.
    ///
    /// `request` makes the request of a backup job, in the server's format.
    pub async fn schedule(
        &self,
        now: Timestamp,
        request: impl Fn(&Protection, &NewPolicy) -> Value,
    ) -> Result<Vec<ScheduledRun>, CatalogError> {
        let action = "queue scheduled backups";
        let due =
            sqlx::query("SELECT 1 FROM protections WHERE paused = 0 AND next_due <= $1 LIMIT 1")
                .bind(now.as_millis())
                .fetch_optional(self.readers())
                .await
                .map_err(db(action))?;
        if due.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.write(action).await?;
        let rows = sqlx::query(
            "SELECT protections.*, policies.name, policies.interval_secs, policies.enabled, policies.method,
                policies.consistency, policies.retention,
                (SELECT agents.host_name FROM agents WHERE agents.host_id = protections.host_id
                    AND agents.revoked IS NULL) AS host_name
             FROM protections JOIN policies ON policies.id = protections.policy_id
             WHERE paused = 0 AND enabled = 1 AND next_due <= $1",
        )
        .bind(now.as_millis())
        .fetch_all(&mut *tx)
        .await
        .map_err(db(action))?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let protection = read(&row)?;
            let spec = crate::policies::read_spec(&row)?;
            let (Some(interval), Some(next_due)) = (spec.interval_secs, protection.next_due) else {
                continue;
            };
            let vm = protection.vm.id;
            let under_way = crate::jobs::backup_under_way(&mut tx, vm).await?;
            let Some(due) = check_due(next_due, interval, under_way.is_some(), now) else {
                continue;
            };
            let host_name = row
                .opt_text("host_name")?
                .unwrap_or_else(|| protection.host.to_string());
            let job = NewJob {
                kind: JobKind::Backup,
                vm: Some(protection.vm.clone()),
                host: Some(Target {
                    id: protection.host,
                    name: host_name,
                }),
                point: None,
                request: request(&protection, &spec),
                not_before: None,
            };
            let mut run = ScheduledRun {
                vm,
                queued: None,
                skipped: None,
            };
            if due.skipped > 0 {
                let why = match under_way {
                    Some(job) => format!(
                        "{} scheduled backups are not made: job {job} is under way",
                        due.skipped
                    ),
                    None => format!(
                        "{} scheduled backups were missed since {next_due}",
                        due.skipped
                    ),
                };
                run.skipped = Some(self.insert_skipped(&mut tx, &job, &why, now).await?);
            }
            if due.run {
                run.queued = Some(
                    self.insert_queued(&mut tx, &job, &Actor::Server, now)
                        .await?
                        .id,
                );
            }
            sqlx::query("UPDATE protections SET next_due = $2 WHERE vm_id = $1")
                .bind(vm.to_string())
                .bind(due.next.as_millis())
                .execute(&mut *tx)
                .await
                .map_err(db(action))?;
            runs.push(run);
        }
        tx.commit().await?;
        Ok(runs)
    }
}

fn subject(vm: VmId) -> String {
    format!("vm {vm}")
}

fn read(row: &Row) -> Result<Protection, CatalogError> {
    Ok(Protection {
        vm: Target {
            id: row.parsed("vm_id")?,
            name: row.text("vm_name")?,
        },
        host: row.parsed("host_id")?,
        policy: row.parsed("policy_id")?,
        excluded: row.json("excluded")?,
        paused: row.truth("paused")?,
        next_due: row.opt_time("next_due")?,
        created: row.time("created")?,
    })
}
