//! Receipts of restores: what was asked, what was read back, signed (`docs/receipts.md`).
//!
//! What a receipt needs beside the job (evidence of the agent, the recovery point's images) is kept in the transaction that ends
//! the job. The receipt itself is made from that, at once or when it is first asked for, and then never changes: a server
//! that is killed in between makes it later.

use api::receipt::{Evidence, Receipt, ReceiptFile, ReceiptImage, ReceiptPoint};
use api::v1::{JobFigures, NamedRef, Step};
use catalog::Job;
use jobs::{JobKind, StateName};
use model::{JobId, Method, RecoveryPoint};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock;
use crate::http::{ApiError, ApiResult};

/// What is kept with the end of a restore.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    point: ReceiptPoint,
    evidence: Evidence,
}

/// Returns what is to be kept with the end of a job: nothing where its point is gone, as it then has no receipt.
pub(crate) async fn to_keep(
    app: &App,
    job: JobId,
    evidence: Evidence,
) -> ApiResult<Option<String>> {
    let Some(point) = app.catalog.job(job).await?.point else {
        return Ok(None);
    };
    match app.catalog.point(point).await {
        Ok(found) => {
            let kept = Kept {
                point: describe_point(&found.point),
                evidence,
            };
            serde_json::to_string(&kept)
                .map(Some)
                .map_err(ApiError::internal)
        }
        Err(err) if err.kind() == catalog::ErrorKind::NotFound => {
            tracing::warn!(job.id = %job, "recovery point {point} is gone: there will be no receipt");
            Ok(None)
        }
        Err(err) => Err(err.into()),
    }
}

/// Returns the receipt of a job; makes it where that was not done yet.
pub(crate) async fn of_job(app: &App, id: JobId) -> ApiResult<ReceiptFile> {
    let job = app.catalog.job(id).await?;
    let Some(kept) = app.catalog.receipt(id).await? else {
        return Err(none(&job));
    };
    let text = match kept.receipt {
        Some(text) => text,
        None => {
            let kept: Kept = serde_json::from_str(&kept.evidence).map_err(ApiError::internal)?;
            let receipt = write(app, &job, kept);
            let payload = serde_json::to_vec(&receipt).map_err(ApiError::internal)?;
            let file = app.authority.sign_receipt(&payload);
            let text = serde_json::to_string(&file).map_err(ApiError::internal)?;
            app.catalog.keep_receipt(id, &text).await?
        }
    };
    ReceiptFile::parse(text.as_bytes()).map_err(ApiError::internal)
}

/// Why a job has no receipt.
fn none(job: &Job) -> ApiError {
    let id = job.id;
    let (why, hint) = match (job.kind, job.state()) {
        (JobKind::Restore, StateName::Queued | StateName::Running) => (
            format!("restore {id} has not ended yet"),
            "follow it with `reprise job watch`; the receipt is there once it has ended well",
        ),
        (JobKind::Restore, StateName::Succeeded | StateName::Warnings) => (
            format!("restore {id} ended before receipts were written"),
            "restore again to get one",
        ),
        (
            JobKind::Restore,
            StateName::Failed | StateName::Cancelled | StateName::Expired | StateName::Skipped,
        ) => (
            format!("restore {id} is {}: it proved nothing", job.state()),
            "`reprise job show` says how it ended; restore again to get a receipt",
        ),
        (_, _) => (
            format!("job {id} is no restore"),
            "only restores have receipts; `reprise job list --kind restore` shows them",
        ),
    };
    ApiError::not_found(format!("there is no receipt: {why}")).hint(hint)
}

fn write(app: &App, job: &Job, kept: Kept) -> Receipt {
    let steps = job.steps.iter().map(|step| Step {
        name: step.name.to_string(),
        state: step.state.to_string(),
        started: step.started.to_string(),
        ended: step.ended.map(|time| time.to_string()),
        detail: step.detail.clone(),
    });
    let host = job.host.as_ref();
    Receipt {
        vault: app.vault.id().to_string(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        job: job.id.to_string(),
        requested_by: job.requested_by.clone(),
        asked: job.created.to_string(),
        started: job.started.map(|time| time.to_string()),
        ended: job.life.state.ended().unwrap_or(job.created).to_string(),
        issued: clock::now().to_string(),
        point: kept.point,
        host: NamedRef {
            id: host.map(|host| host.id.to_string()).unwrap_or_default(),
            name: host.map(|host| host.name.clone()).unwrap_or_default(),
        },
        plan: kept.evidence.plan,
        steps: steps.collect(),
        result: job.state().to_string(),
        warnings: job.warnings.clone(),
        figures: JobFigures {
            bytes_read: job.figures.bytes_read,
            bytes_sent: job.figures.bytes_sent,
            bytes_stored: job.figures.bytes_stored,
            bytes_reused: job.figures.bytes_reused,
        },
        disks: kept.evidence.disks,
        files: kept.evidence.files,
        vm: kept.evidence.vm,
    }
}

fn describe_point(point: &RecoveryPoint) -> ReceiptPoint {
    let disks = point.disks.iter().map(|disk| ReceiptImage {
        path: disk.path.clone(),
        disk: Some(disk.id.to_string()),
        size_bytes: disk.image.len,
        root: disk.image.root.clone(),
        digest: disk.image.digest.clone(),
    });
    let files = point.files.iter().map(|file| ReceiptImage {
        path: file.path.clone(),
        disk: None,
        size_bytes: file.image.len,
        root: file.image.root.clone(),
        digest: file.image.digest.clone(),
    });
    ReceiptPoint {
        id: point.id.to_string(),
        vm: NamedRef {
            id: point.vm.id.to_string(),
            name: point.vm.name.clone(),
        },
        host: NamedRef {
            id: point.host.id.to_string(),
            name: point.host.name.clone(),
        },
        created: point.created.to_string(),
        method: match point.method {
            Method::Rct => "rct",
            Method::Vss => "vss",
        }
        .to_owned(),
        images: disks.chain(files).collect(),
    }
}
