//! What restores proved, and the receipts made from it.
//!
//! Evidence is written in the transaction that ends the job ([`Catalog::finish_restore`]), so that a job has succeeded with it
//! or not at all. The receipt is made once from the evidence and the job; whoever comes second gets the first one.

use model::JobId;

use crate::db::{Conn, db};
use crate::row::Columns;
use crate::{Catalog, CatalogError};

/// What is kept of a restore that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReceipt {
    /// What it proved; the server's format.
    pub evidence: String,
    /// The signed receipt, once made; the server's format.
    pub receipt: Option<String>,
}

impl Catalog {
    /// Returns what a job proved; `None` where nothing is kept.
    pub async fn receipt(&self, job: JobId) -> Result<Option<KeptReceipt>, CatalogError> {
        let row = sqlx::query("SELECT * FROM receipts WHERE job_id = $1")
            .bind(job.to_string())
            .fetch_optional(self.readers())
            .await
            .map_err(db("look for a receipt"))?;
        row.map(|row| {
            Ok(KeptReceipt {
                evidence: row.text("evidence")?,
                receipt: row.opt_text("receipt")?,
            })
        })
        .transpose()
    }

    /// Keeps the receipt of a job and returns the one that is kept: the first.
    pub async fn keep_receipt(&self, job: JobId, receipt: &str) -> Result<String, CatalogError> {
        let action = "keep a receipt";
        let mut tx = self.write(action).await?;
        sqlx::query("UPDATE receipts SET receipt = COALESCE(receipt, $2) WHERE job_id = $1")
            .bind(job.to_string())
            .bind(receipt)
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        let row = sqlx::query("SELECT receipt FROM receipts WHERE job_id = $1")
            .bind(job.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(db(action))?
            .ok_or_else(|| CatalogError::not_found("evidence of job", job))?;
        let kept = row.text("receipt")?;
        tx.commit().await?;
        Ok(kept)
    }
}

/// Keeps what a job proved, in the transaction that ends it.
pub(crate) async fn keep_evidence(
    conn: &mut Conn,
    job: JobId,
    evidence: &str,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO receipts (job_id, evidence) VALUES ($1, $2) ON CONFLICT (job_id) DO NOTHING",
    )
    .bind(job.to_string())
    .bind(evidence)
    .execute(conn)
    .await
    .map_err(db("keep what a restore proved"))?;
    Ok(())
}
