//! Hosts and their agents: enrolment tokens, state, shutting out.

use api::v1::{Host, HostToken, Page};
use api::{EnrolToken, codes};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::{Agent, SecretHash};
use model::Timestamp;

use crate::app::{App, Shared};
use crate::auth::Secret;
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId};

/// Lists the hosts.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", responses((status = 200, body = Page<Host>)))]
pub(super) async fn list(State(app): State<Shared>) -> ApiResult<Json<Page<Host>>> {
    let now = clock::now();
    let agents = app.catalog.agents().await?;
    let items = agents
        .iter()
        .map(|agent| describe(&app, agent, now))
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// Returns a host.
#[utoipa::path(
    get, path = "/api/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "Id or unique name")),
    responses((status = 200, body = Host), (status = 404, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(host): PathId<String>,
) -> ApiResult<Json<Host>> {
    let agent = find(&app, &host).await?;
    Ok(Json(describe(&app, &agent, clock::now())))
}

/// Makes an enrolment token that works once.
#[utoipa::path(post, path = "/api/v1/hosts/token", tag = "hosts", responses((status = 200, body = HostToken)))]
pub(super) async fn token(State(app): State<Shared>, caller: Caller) -> ApiResult<Json<HostToken>> {
    let now = clock::now();
    let secret = Secret::random("").map_err(ApiError::internal)?;
    let expires = now.plus_secs(app.config.login.enrolment_secs);
    let hash = SecretHash(secret.hash());
    app.catalog
        .create_enrolment_token(&hash, expires, &caller.actor, now)
        .await?;
    let token = EnrolToken {
        ca_fingerprint: app.authority.fingerprint(),
        secret: secret.expose().to_owned(),
    };
    Ok(Json(HostToken {
        token: token.to_string(),
        expires: expires.to_string(),
    }))
}

/// Shuts a host's agent out at once.
#[utoipa::path(
    post, path = "/api/v1/hosts/{host}/revoke", tag = "hosts",
    params(("host" = String, Path, description = "Id or unique name")),
    responses((status = 204), (status = 404, body = api::Problem))
)]
pub(super) async fn revoke(
    State(app): State<Shared>,
    PathId(host): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let agent = find(&app, &host).await?;
    app.catalog
        .revoke_agent(agent.id, &caller.actor, clock::now())
        .await?;
    tracing::info!(agent.id = %agent.id, "agent of {host} was shut out");
    Ok(StatusCode::NO_CONTENT)
}

/// Finds a host by host id, agent id, or name where that is unique. Those that are shut out are found last.
pub(crate) async fn find(app: &App, text: &str) -> ApiResult<Agent> {
    let agents = app.catalog.agents().await?;
    let named = |agent: &&Agent| {
        let name = agent.host_name.as_ref().unwrap_or(&agent.machine);
        name.eq_ignore_ascii_case(text)
    };
    let by_id = |agent: &&Agent| {
        agent.id.to_string().eq_ignore_ascii_case(text)
            || agent
                .host
                .is_some_and(|host| host.to_string().eq_ignore_ascii_case(text))
    };
    for active in [true, false] {
        let among = || {
            agents
                .iter()
                .filter(|agent| agent.revoked.is_none() == active)
        };
        if let Some(agent) = among().find(by_id) {
            return Ok(agent.clone());
        }
        let found: Vec<&Agent> = among().filter(named).collect();
        match found.as_slice() {
            [] => {}
            [agent] => return Ok((*agent).clone()),
            several => {
                let ids: Vec<String> = several.iter().map(|agent| id_of(agent)).collect();
                return Err(ApiError::new(
                    codes::AMBIGUOUS,
                    format!(
                        "{} hosts are called {text:?}: {}",
                        ids.len(),
                        ids.join(", ")
                    ),
                )
                .hint("name the host by its id"));
            }
        }
    }
    Err(ApiError::not_found(format!("there is no host {text:?}"))
        .hint("`reprise host list` shows the hosts"))
}

fn id_of(agent: &Agent) -> String {
    agent
        .host
        .map_or_else(|| agent.id.to_string(), |host| host.to_string())
}

fn describe(app: &App, agent: &Agent, now: Timestamp) -> Host {
    let online = agent.wait_facts().is_online(app.catalog.rules(), now);
    let doubled = app.polls.doubled(agent.id, now);
    let (state, reason) = if let Some(revoked) = agent.revoked {
        ("revoked", Some(format!("shut out at {revoked}")))
    } else if let Some(reason) = doubled {
        ("not-ready", Some(reason))
    } else if !online {
        ("offline", None)
    } else if let Some(reason) = &agent.not_ready {
        ("not-ready", Some(reason.clone()))
    } else {
        ("ready", None)
    };
    Host {
        id: agent.host.map(|host| host.to_string()).unwrap_or_default(),
        name: agent
            .host_name
            .clone()
            .unwrap_or_else(|| agent.machine.clone()),
        agent: agent.id.to_string(),
        state: state.to_owned(),
        reason,
        os_version: agent.os_version.clone().unwrap_or_default(),
        agent_version: agent.version.clone(),
        last_seen: agent.last_poll.map(|time| time.to_string()),
        certificate_expires: agent.certificate_expires.to_string(),
    }
}
