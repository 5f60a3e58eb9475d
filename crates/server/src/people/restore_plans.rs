//! Plans of restores: the agent of the target host is asked what a restore would do. No job is made, nothing changes.

use std::time::Duration;

use api::agent_v1::{Answer, Ask, RestoreWork};
use api::codes;
use api::v1::{AgreedPlan, PlannedRestore, RestorePlan, RestoreRequest};
use axum::extract::State;
use catalog::Target;
use model::{DisksTo, HostId, RecoveryPoint, RestoreScope, RestoreWish};

use super::restores::{self, Resolved};
use crate::app::{App, Shared};
use crate::clock;
use crate::fleet;
use crate::http::{ApiError, ApiResult, Json};

/// How long an agent may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// Tells what a restore would do: every effect, and everything that speaks against it.
#[utoipa::path(
    post, path = "/api/v1/restores/plan", tag = "restores", request_body = RestoreRequest,
    responses(
        (status = 200, body = RestorePlan), (status = 400, body = api::Problem), (status = 404, body = api::Problem),
        (status = 409, description = "The agent of the host is away or not ready, or an agreed plan has drifted", body = api::Problem)
    )
)]
pub(super) async fn plan(
    State(app): State<Shared>,
    Json(request): Json<RestoreRequest>,
) -> ApiResult<Json<RestorePlan>> {
    let Resolved {
        point,
        notes,
        host,
        mut wish,
    } = restores::resolve(&app, &request).await?;
    check_ready(&app, &host).await?;
    let named_at = wish.named_at.unwrap_or_else(clock::now);
    wish.named_at = Some(named_at);
    let attach = match wish.scope {
        RestoreScope::Disks {
            to: DisksTo::Attach { vm },
            ..
        } => Some(vm),
        RestoreScope::Disks { .. } | RestoreScope::Vm => None,
    };
    let answer = ask(&app, &host, wish, point.clone(), request.plan.clone()).await?;
    let (mut planned, effects) = planned(answer)?;
    planned.warnings.splice(0..0, notes);
    // What was resolved by name stays what it was, whatever is renamed or backed up meanwhile.
    let request = RestoreRequest {
        vm: point.vm.id.to_string(),
        point: Some(point.id.to_string()),
        to: match request.to.as_deref() {
            None | Some("original") => None,
            Some(_) => Some(host.id.to_string()),
        },
        attach: attach.map(|vm| vm.to_string()),
        plan: planned.fingerprint.clone().map(|fingerprint| AgreedPlan {
            fingerprint,
            named_at,
            effects,
        }),
        ..request
    };
    Ok(Json(RestorePlan { request, planned }))
}

/// Refuses a restore whose plan was agreed to and has drifted. While the agent is away nobody can tell: it looks itself
/// before it begins.
pub(super) async fn check_agreed(
    app: &App,
    host: &Target<HostId>,
    wish: &RestoreWish,
    point: &RecoveryPoint,
    agreed: &AgreedPlan,
) -> ApiResult<()> {
    if check_ready(app, host).await.is_err() {
        return Ok(());
    }
    let agreed = Some(agreed.clone());
    match ask(app, host, wish.clone(), point.clone(), agreed).await {
        Ok(Answer::Failed {
            code,
            message,
            hint,
        }) if code == codes::PLAN_DRIFTED => Err(failed(&code, message, hint)),
        // Whatever else is in the way, the job meets it again and waits for it to end.
        Ok(Answer::RestorePlan { .. } | Answer::Failed { .. }) => Ok(()),
        Err(err) if err.problem().code() == codes::UNAVAILABLE => Ok(()),
        Err(err) => Err(err),
    }
}

/// Refuses where the agent of the host cannot be asked now.
async fn check_ready(app: &App, host: &Target<HostId>) -> ApiResult<()> {
    let agent = app.catalog.agent_of_host(host.id).await?;
    let away = |why: String| {
        ApiError::new(codes::AGENT_OFFLINE, why).hint(
            "`reprise host list` shows the agents; `reprise restore start` without a plan waits in the queue until the agent is back",
        )
    };
    let Some(agent) = agent.filter(|agent| agent.revoked.is_none()) else {
        return Err(away(format!("no agent serves host {}", host.name)));
    };
    let facts = agent.wait_facts();
    if !facts.is_online(app.catalog.rules(), clock::now()) {
        return Err(away(format!(
            "the agent of host {} is away, so nobody can look at the host",
            host.name
        )));
    }
    if let Some(reason) = facts.not_ready {
        return Err(ApiError::new(
            codes::AGENT_NOT_READY,
            format!("the agent of host {} is not ready: {reason}", host.name),
        )
        .hint("mend what it names, then plan again"));
    }
    Ok(())
}

async fn ask(
    app: &App,
    host: &Target<HostId>,
    wish: RestoreWish,
    point: RecoveryPoint,
    agreed: Option<AgreedPlan>,
) -> ApiResult<Answer> {
    let elsewhere = fleet::known_elsewhere(app, host.id, &point, &wish).await?;
    let work = RestoreWork {
        wish,
        point: Box::new(point),
        elsewhere,
        agreed,
    };
    let asked = app.questions.ask(host.id, Ask::PlanRestore(Box::new(work)));
    let asked = asked.ok_or_else(|| {
        ApiError::new(
            codes::TOO_MANY,
            format!("too many plans are being made on host {}", host.name),
        )
        .retry_after(5)
    })?;
    app.wakes.wake(host.id);
    let answer = tokio::select! {
        answer = asked.answer(ANSWER_WITHIN) => answer,
        () = app.stop.cancelled() => None,
    };
    answer.ok_or_else(|| {
        ApiError::new(
            codes::UNAVAILABLE,
            format!(
                "the agent of host {} did not answer within {} seconds",
                host.name,
                ANSWER_WITHIN.as_secs()
            ),
        )
        .hint("`reprise host list` shows whether it is there; ask again")
    })
}

fn planned(answer: Answer) -> ApiResult<(PlannedRestore, Vec<String>)> {
    match answer {
        Answer::RestorePlan { planned, effects } => Ok((*planned, effects)),
        Answer::Failed {
            code,
            message,
            hint,
        } => Err(failed(&code, message, hint)),
    }
}

/// What kept an agent from planning.
fn failed(code: &str, message: String, hint: Option<String>) -> ApiError {
    let known = match code {
        codes::PLAN_DRIFTED => codes::PLAN_DRIFTED,
        _ => codes::UNAVAILABLE,
    };
    let err = ApiError::new(known, message.chars().take(16_000).collect::<String>());
    match hint {
        Some(hint) => err.hint(hint),
        None => err,
    }
}
