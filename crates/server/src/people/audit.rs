//! The audit log.

use api::v1::{AuditEntry, Page};
use axum::extract::State;
use serde::Deserialize;

use crate::app::Shared;
use crate::http::{ApiError, ApiResult, Json, Query};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Most entries, 100 by default.
    limit: Option<u32>,
    /// `next` of the part before.
    cursor: Option<String>,
}

/// Lists the audit log, newest first.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>))
)]
pub(super) async fn list(
    State(app): State<Shared>,
    Query(query): Query<AuditQuery>,
) -> ApiResult<Json<Page<AuditEntry>>> {
    let before = match &query.cursor {
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| ApiError::bad_request("this is no cursor"))?,
        ),
        None => None,
    };
    let limit = query.limit.unwrap_or(100).clamp(1, 500);
    let entries = app.catalog.audit_entries(before, limit).await?;
    let full = entries.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = entries.last().filter(|last| full && last.sequence > 1);
    let next = next.map(|last| last.sequence.to_string());
    let items = entries
        .into_iter()
        .map(|entry| AuditEntry {
            sequence: entry.sequence,
            at: entry.at.to_string(),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
            hash: entry.hash,
        })
        .collect();
    Ok(Json(Page { items, next }))
}
