//! Policies: how often and how VMs are backed up, how many points are kept.

use api::v1::{Page, Policy, PolicySpec};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::{NewPolicy, Retention};
use serde::de::DeserializeOwned;

use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId};

/// Lists the policies.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policies", responses((status = 200, body = Page<Policy>)))]
pub(super) async fn list(State(app): State<Shared>) -> ApiResult<Json<Page<Policy>>> {
    let items = app.catalog.policies().await?.iter().map(describe).collect();
    Ok(Json(Page { items, next: None }))
}

/// Returns a policy.
#[utoipa::path(
    get, path = "/api/v1/policies/{policy}", tag = "policies", params(("policy" = String, Path, description = "Id or name")),
    responses((status = 200, body = Policy), (status = 404, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(policy): PathId<String>,
) -> ApiResult<Json<Policy>> {
    Ok(Json(describe(&find(&app, &policy).await?)))
}

/// Makes a policy.
#[utoipa::path(
    post, path = "/api/v1/policies", tag = "policies", request_body = PolicySpec,
    responses((status = 201, body = Policy), (status = 409, body = api::Problem))
)]
pub(super) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Json(spec): Json<PolicySpec>,
) -> ApiResult<(StatusCode, Json<Policy>)> {
    let policy = app
        .catalog
        .create_policy(read_spec(spec)?, &caller.actor, clock::now())
        .await?;
    Ok((StatusCode::CREATED, Json(describe(&policy))))
}

/// Replaces what a policy says.
#[utoipa::path(
    put, path = "/api/v1/policies/{policy}", tag = "policies", params(("policy" = String, Path, description = "Id or name")),
    request_body = PolicySpec, responses((status = 200, body = Policy), (status = 404, body = api::Problem))
)]
pub(super) async fn replace(
    State(app): State<Shared>,
    PathId(policy): PathId<String>,
    caller: Caller,
    Json(spec): Json<PolicySpec>,
) -> ApiResult<Json<Policy>> {
    let found = find(&app, &policy).await?;
    let spec = read_spec(spec)?;
    let policy = app
        .catalog
        .update_policy(found.id, spec, &caller.actor, clock::now())
        .await?;
    Ok(Json(describe(&policy)))
}

/// Removes a policy that no VM is under.
#[utoipa::path(
    delete, path = "/api/v1/policies/{policy}", tag = "policies", params(("policy" = String, Path, description = "Id or name")),
    responses((status = 204), (status = 409, body = api::Problem))
)]
pub(super) async fn delete(
    State(app): State<Shared>,
    PathId(policy): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let found = find(&app, &policy).await?;
    app.catalog
        .delete_policy(found.id, &caller.actor, clock::now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Finds a policy by id or name.
pub(crate) async fn find(app: &App, text: &str) -> ApiResult<catalog::Policy> {
    let policies = app.catalog.policies().await?;
    policies
        .into_iter()
        .find(|policy| policy.id.to_string().eq_ignore_ascii_case(text) || policy.spec.name == text)
        .ok_or_else(|| {
            ApiError::not_found(format!("there is no policy {text:?}"))
                .hint("`reprise policy list` shows the policies")
        })
}

/// Reads one of our enums from its serialised name.
pub(crate) fn parse_name<T: DeserializeOwned>(
    what: &str,
    name: &str,
    allowed: &str,
) -> ApiResult<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| ApiError::bad_request(format!("{name:?} is no {what}; it is {allowed}")))
}

/// The serialised name of one of our enums.
pub(crate) fn name_of<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(_) | Err(_) => String::new(),
    }
}

pub(crate) fn parse_method(name: &str) -> ApiResult<model::Method> {
    parse_name("method", name, "rct or vss")
}

fn read_spec(spec: PolicySpec) -> ApiResult<NewPolicy> {
    let consistency = match &spec.consistency {
        Some(name) => parse_name(
            "consistency",
            name,
            "prefer-application, require-application or crash",
        )?,
        None => model::ConsistencyWish::default(),
    };
    Ok(NewPolicy {
        name: spec.name,
        interval_secs: spec.interval_secs,
        enabled: true,
        method: spec.method.as_deref().map(parse_method).transpose()?,
        consistency,
        retention: Retention {
            keep_last: spec.keep_last,
            ..Retention::default()
        },
    })
}

fn describe(policy: &catalog::Policy) -> Policy {
    Policy {
        id: policy.id.to_string(),
        spec: PolicySpec {
            name: policy.spec.name.clone(),
            interval_secs: policy.spec.interval_secs,
            method: policy.spec.method.as_ref().map(name_of),
            consistency: Some(name_of(&policy.spec.consistency)),
            keep_last: policy.spec.retention.keep_last,
        },
        vms: policy.vms,
    }
}
