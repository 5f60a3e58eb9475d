//! Health, log-in, log-out, the state of the installation.

use std::net::SocketAddr;

use api::v1::{Health, LoginReply, LoginRequest, Status};
use api::{Problem, codes};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use catalog::{Actor, NewToken, SecretHash};
use serde_json::json;
use zeroize::Zeroizing;

use crate::app::Shared;
use crate::auth::{Secret, check_password, role_of};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json};

/// Says that the server answers.
#[utoipa::path(get, path = "/api/v1/health", tag = "session", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Gives a token for a name and a password.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "session", request_body = LoginRequest,
    responses(
        (status = 200, body = LoginReply),
        (status = 401, description = "Name or password is wrong", body = Problem),
        (status = 429, description = "Too many wrong tries; see Retry-After", body = Problem),
    )
)]
pub(super) async fn login(
    State(app): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(request): Json<LoginRequest>,
) -> ApiResult<Json<LoginReply>> {
    let (now, from) = (clock::now(), peer.ip());
    let password = Zeroizing::new(request.password);
    if request.user.len() > 200 || password.len() > 1000 {
        return Err(ApiError::bad_request(
            "the name or the password is too long",
        ));
    }
    if let Some(secs) = app.throttle.wait_secs(&request.user, from, now) {
        return Err(ApiError::new(
            codes::TOO_MANY,
            format!("too many wrong tries; wait {secs} s"),
        )
        .retry_after(secs));
    }
    // Counted before the slow comparison, so that many tries at once do not slip through.
    app.throttle.note_wrong(&request.user, from, now);
    let user = app.catalog.user_by_name(&request.user).await?;
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let right = check_password(password, hash)
        .await
        .map_err(ApiError::internal)?;
    let Some(user) = user.filter(|_| right) else {
        let detail = json!({ "user": request.user, "from": from.to_string() });
        app.catalog
            .audit(now, &Actor::Server, "login.refused", "login", &detail)
            .await?;
        return Err(ApiError::new(
            codes::NOT_AUTHENTICATED,
            "the name or the password is wrong",
        ));
    };
    app.throttle.note_right(&request.user, from);
    let secret = Secret::random("rpt_").map_err(ApiError::internal)?;
    let actor = Actor::User {
        id: user.id,
        name: user.name.clone(),
    };
    let new = NewToken {
        user: user.id,
        name: format!("login from {from}"),
        hash: SecretHash(secret.hash()),
        role: user.role,
        expires: now.plus_secs(app.config.login.token_secs),
    };
    let token = app.catalog.create_token(new, &actor, now).await?;
    Ok(Json(LoginReply {
        token: secret.expose().to_owned(),
        role: role_of(token.role),
        expires: token.expires.to_string(),
    }))
}

/// Ends the token this request shows.
#[utoipa::path(post, path = "/api/v1/logout", tag = "session", responses((status = 204)))]
pub(super) async fn logout(State(app): State<Shared>, caller: Caller) -> ApiResult<StatusCode> {
    app.catalog
        .revoke_token(caller.token, &caller.actor, clock::now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the state of the installation.
#[utoipa::path(get, path = "/api/v1/status", tag = "session", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<Shared>, caller: Caller) -> ApiResult<Json<Status>> {
    let now = clock::now();
    let agents = app.catalog.agents().await?;
    let active: Vec<_> = agents
        .iter()
        .filter(|agent| agent.revoked.is_none())
        .collect();
    let ready = active
        .iter()
        .filter(|agent| {
            agent.wait_facts().is_online(app.catalog.rules(), now) && agent.not_ready.is_none()
        })
        .count();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let vms = app.catalog.vms(None).await?;
    let (jobs_queued, jobs_running) = app.catalog.job_counts().await?;
    let (_, stored_bytes) = app.catalog.pack_totals().await?;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vault: app.vault.id().to_string(),
        time: now.to_string(),
        user: caller.user.clone(),
        role: caller.role,
        hosts: count(active.len()),
        hosts_ready: count(ready),
        vms: count(vms.iter().filter(|vm| vm.gone.is_none()).count()),
        vms_protected: count(app.catalog.protections().await?.len()),
        points: app.catalog.point_count().await?,
        stored_bytes,
        jobs_queued,
        jobs_running,
    }))
}
