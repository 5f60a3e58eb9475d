//! Looking at jobs.

use ::jobs::{JobKind, StateName};
use model::{HostId, JobId, Timestamp, VmId};

use super::{Job, read_job, read_steps};
use crate::db::{Builder, db};
use crate::page::{Cursor, Page, bounded, cut};
use crate::row::Columns;
use crate::{Catalog, CatalogError};

/// Which jobs to list; what is empty does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In one of these states.
    pub states: Vec<StateName>,
    /// Of one of these kinds.
    pub kinds: Vec<JobKind>,
    /// About this VM.
    pub vm: Option<VmId>,
    /// On this host.
    pub host: Option<HostId>,
}

impl Catalog {
    /// Returns a job.
    pub async fn job(&self, id: JobId) -> Result<Job, CatalogError> {
        let mut snapshot = self.snapshot("look up a job").await?;
        super::load(&mut snapshot, id).await
    }

    /// Returns a job's change number alone: cheap to ask for again and again.
    pub async fn job_change(&self, id: JobId) -> Result<u64, CatalogError> {
        let row = sqlx::query("SELECT change FROM jobs WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look up a job"))?
            .ok_or_else(|| CatalogError::not_found("job", id))?;
        row.unsigned("change")
    }

    /// Lists jobs, newest first.
    pub async fn jobs(
        &self,
        filter: &JobFilter,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Job>, CatalogError> {
        let action = "list jobs";
        let limit = bounded(limit);
        let mut query = Builder::new("SELECT * FROM jobs WHERE 1 = 1");
        let mut among = |column: &'static str, names: Vec<&'static str>| {
            if names.is_empty() {
                return;
            }
            query.push(" AND ").push(column).push(" IN (");
            let mut list = query.separated(", ");
            for name in names {
                list.push_bind(name);
            }
            query.push(")");
        };
        among(
            "state",
            filter.states.iter().map(|state| state.as_str()).collect(),
        );
        among(
            "kind",
            filter.kinds.iter().map(|kind| kind.as_str()).collect(),
        );
        if let Some(vm) = filter.vm {
            query.push(" AND vm_id = ").push_bind(vm.to_string());
        }
        if let Some(host) = filter.host {
            query.push(" AND host_id = ").push_bind(host.to_string());
        }
        if let Some(cursor) = cursor {
            query
                .push(" AND (created, id) < (")
                .push_bind(cursor.at.as_millis());
            query.push(", ").push_bind(cursor.id.clone()).push(")");
        }
        query
            .push(" ORDER BY created DESC, id DESC LIMIT ")
            .push_bind(i64::from(limit) + 1);
        let mut snapshot = self.snapshot(action).await?;
        let rows = query
            .build()
            .fetch_all(&mut *snapshot)
            .await
            .map_err(db(action))?;
        let jobs = rows.iter().map(read_job).collect::<Result<Vec<_>, _>>()?;
        let mut page = cut(jobs, limit, |job| Cursor {
            at: job.created,
            id: job.id.to_string(),
        });
        for job in &mut page.items {
            read_steps(&mut snapshot, job).await?;
        }
        Ok(page)
    }

    /// Counts jobs by state: waiting and running.
    pub async fn job_counts(&self) -> Result<(u64, u64), CatalogError> {
        let row = sqlx::query(
            "SELECT COUNT(CASE WHEN state = 'queued' THEN 1 END) AS queued,
                    COUNT(CASE WHEN state = 'running' THEN 1 END) AS running
             FROM jobs WHERE state IN ('queued', 'running')",
        )
        .fetch_one(self.readers())
        .await
        .map_err(db("count jobs"))?;
        Ok((row.unsigned("queued")?, row.unsigned("running")?))
    }

    /// Removes ended jobs that ended before `before`, with their logs; those that made a point that is still there
    /// stay. Returns how many.
    pub async fn forget_jobs(&self, before: Timestamp) -> Result<u64, CatalogError> {
        let action = "remove old jobs";
        let mut tx = self.write(action).await?;
        sqlx::query(
            "DELETE FROM sessions WHERE closed IS NOT NULL AND job_id IN (SELECT id FROM jobs WHERE ended < $1)",
        )
        .bind(before.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        let done = sqlx::query(
            "DELETE FROM jobs WHERE ended < $1
             AND NOT EXISTS (SELECT 1 FROM points WHERE points.job_id = jobs.id)
             AND NOT EXISTS (SELECT 1 FROM publishing WHERE publishing.job_id = jobs.id)
             AND NOT EXISTS (SELECT 1 FROM parked WHERE parked.job_id = jobs.id AND parked.state = 'parked')
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.job_id = jobs.id)",
        )
        .bind(before.as_millis())
        .execute(&mut *tx)
        .await
        .map_err(db(action))?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}
