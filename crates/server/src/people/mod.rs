//! The API of people and scripts (`/api/v1`, people's port). The table below is the whole of it: each route with who
//! may use it.

mod audit;
mod backups;
mod hosts;
mod jobs;
mod parked;
mod points;
mod policies;
mod receipts;
mod restore_plans;
mod restores;
mod session;
mod users;
mod vms;

use api::v1::Role;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::routes;

pub(crate) use parked::end as end_parked;
pub(crate) use vms::DEFAULT_POLICY;

use crate::agents;
use crate::app::Shared;
use crate::http::{Access, Routes, around, not_allowed_method, not_found};

/// Returns all routes.
pub(crate) fn routes() -> Routes {
    let open = Access::Open;
    let viewer = Access::Role(Role::Viewer);
    let operator = Access::Role(Role::Operator);
    let administrator = Access::Role(Role::Administrator);
    Routes::default()
        .add(open, routes!(session::health))
        .add(open, routes!(session::login))
        .add(viewer, routes!(session::logout))
        .add(viewer, routes!(session::status))
        .add(viewer, routes!(hosts::list))
        .add(administrator, routes!(hosts::token))
        .add(viewer, routes!(hosts::show))
        .add(administrator, routes!(hosts::revoke))
        .add(viewer, routes!(vms::list))
        .add(viewer, routes!(vms::show))
        .add(administrator, routes!(vms::protect))
        .add(administrator, routes!(vms::unprotect))
        .add(viewer, routes!(policies::list))
        .add(administrator, routes!(policies::create))
        .add(viewer, routes!(policies::show))
        .add(administrator, routes!(policies::replace))
        .add(administrator, routes!(policies::delete))
        .add(operator, routes!(backups::start))
        .add(viewer, routes!(points::list))
        .add(viewer, routes!(points::show))
        .add(operator, routes!(points::verify))
        .add(administrator, routes!(points::delete))
        .add(administrator, routes!(restores::start))
        .add(administrator, routes!(restore_plans::plan))
        .add(administrator, routes!(parked::undo))
        .add(administrator, routes!(parked::finish))
        .add(viewer, routes!(jobs::list))
        .add(viewer, routes!(jobs::show))
        .add(viewer, routes!(jobs::wait))
        .add(viewer, routes!(jobs::log))
        .add(viewer, routes!(receipts::show))
        .add(operator, routes!(jobs::cancel))
        .add(administrator, routes!(users::list))
        .add(administrator, routes!(users::create))
        .add(administrator, routes!(users::delete))
        .add(administrator, routes!(users::list_tokens))
        .add(administrator, routes!(users::create_token))
        .add(administrator, routes!(users::delete_token))
        .add(administrator, routes!(audit::list))
        .add_plain(open, "GET", "/api/v1/openapi.json", get(openapi_json))
        .add_plain(open, "POST", "/agent/v1/enroll", post(agents::enrol))
}

/// Returns the router of the people's port.
pub(crate) fn router(app: &Shared) -> Router {
    let router = routes()
        .into_router(app)
        .layer(DefaultBodyLimit::max(api::JSON_BODY_BYTES))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed_method)
        .with_state(app.clone());
    around(router)
}

/// Returns the OpenAPI document.
pub(crate) fn openapi() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Reprise")
        .version("v1")
        .description(Some("Backup and restore of Hyper-V virtual machines."))
        .build();
    let token = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let base = OpenApiBuilder::new()
        .info(info)
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme("token", token)
                .build(),
        ))
        .build();
    routes().openapi(base)
}

async fn openapi_json() -> Response {
    axum::Json(openapi()).into_response()
}
