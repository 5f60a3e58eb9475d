//! Receipts of restores.

use api::receipt::ReceiptFile;
use axum::extract::State;

use super::jobs::parse_id;
use crate::app::Shared;
use crate::http::{ApiResult, Json, PathId};
use crate::receipts;

/// Returns the signed receipt of a restore that ended well or with warnings.
#[utoipa::path(
    get, path = "/api/v1/jobs/{job}/receipt", tag = "restores",
    params(("job" = String, Path, description = "Id")),
    responses((status = 200, body = ReceiptFile), (status = 404, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(job): PathId<String>,
) -> ApiResult<Json<ReceiptFile>> {
    Ok(Json(receipts::of_job(&app, parse_id(&job)?).await?))
}
