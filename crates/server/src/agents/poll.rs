//! The long poll: an agent says how it is and gets work, at once or as soon as there is some.

use std::time::Duration;

use api::agent_v1::{Assignment, PollReply, PollRequest, Readiness, Work};
use axum::extract::State;
use catalog::{HostSeen, Job};
use jobs::{Ending, ErrorKind, JobError, Lease};
use model::{AgentId, JobId};
use tokio::time::Instant;

use super::{Peer, enrol::printable};
use crate::app::{App, Shared};
use crate::clock;
use crate::fleet;
use crate::http::{ApiError, ApiResult, Json};
use crate::request::JobRequest;

/// The longest a poll is held.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A held poll looks for work this often without being woken: jobs that may not start before a time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const MAX_RUNNING: usize = 64;

/// `POST /agent/v1/poll`.
pub(super) async fn poll(
    State(app): State<Shared>,
    peer: Peer,
    Json(request): Json<PollRequest>,
) -> ApiResult<Json<PollReply>> {
    let most = request.running.len().max(request.answering.len());
    if most > MAX_RUNNING || request.instance.len() > 200 {
        return Err(ApiError::bad_request(
            "more running jobs or questions, or a longer instance, than can be",
        ));
    }
    let agent = peer.0.id;
    let end = Instant::now() + HOLD_MAX.min(Duration::from_secs(request.wait_secs.into()));
    let mut wakes = app
        .wakes
        .subscribe(request.host.as_ref().map(|host| host.id));
    take_note(&app, agent, &request).await?;
    let ready = request.readiness == Readiness::Ready && request.host.is_some();
    let slots = usize::try_from(request.slots).unwrap_or(usize::MAX);
    loop {
        let Standing { stop, active } = standing(&app, agent, &request.running).await?;
        let assignment = if ready && slots > active && !app.stopping() {
            next_assignment(&app, agent, &request).await?
        } else {
            None
        };
        let questions = match &request.host {
            Some(host) if ready => app.questions.waiting(host.id, &request.answering),
            Some(_) | None => Vec::new(),
        };
        let asked = !questions.is_empty();
        let inventory_wanted = ready && app.polls.wants_inventory(agent, clock::now());
        let over = Instant::now() >= end || app.stopping();
        if assignment.is_some() || !stop.is_empty() || inventory_wanted || asked || over {
            if inventory_wanted {
                app.polls.note_asked(agent, clock::now());
            }
            return Ok(Json(PollReply {
                assignment,
                stop,
                inventory_wanted,
                questions,
            }));
        }
        let until = end.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            () = wakes.changed() => {}
            () = app.stop.cancelled() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

async fn take_note(app: &App, agent: AgentId, request: &PollRequest) -> ApiResult<()> {
    let now = clock::now();
    let note = catalog::Poll {
        instance: request.instance.clone(),
        version: printable(&request.version, 60),
        not_ready: match &request.readiness {
            Readiness::Ready => None,
            Readiness::NotReady { reason } => Some(printable(reason, 1000)),
        },
        host: request.host.as_ref().map(|host| HostSeen {
            id: host.id,
            name: printable(&host.name, 200),
            os_version: printable(&host.os_version, 60),
        }),
        running: request.running.clone(),
    };
    let polled = match app.catalog.agent_polled(agent, &note, now).await {
        Ok(polled) => polled,
        Err(err) => {
            if err.kind() == catalog::ErrorKind::Conflict {
                app.polls.note_doubled(agent, err.to_string(), now);
                tracing::warn!(agent.id = %agent, "a poll was refused: {err}");
            }
            return Err(err.into());
        }
    };
    for &job in &request.running {
        app.polls.arrived(agent, job);
    }
    for job in &polled.unsettled {
        app.settle_job(*job).await?;
    }
    if !polled.unsettled.is_empty() || !polled.taken_back.is_empty() {
        app.sweep().await?;
    }
    Ok(())
}

async fn next_assignment(
    app: &App,
    agent: AgentId,
    request: &PollRequest,
) -> ApiResult<Option<Assignment>> {
    if let Some(lost) = app
        .polls
        .lost_on_the_way(agent, &request.instance, &request.running)
    {
        let job = app.catalog.job(lost.job).await?;
        if job.life.check_fence(lost.fence, clock::now()).is_ok() {
            return Ok(Some(lost));
        }
        app.polls.arrived(agent, lost.job);
    }
    loop {
        let Some((job, lease)) = app.catalog.claim_next(agent, clock::now()).await? else {
            return Ok(None);
        };
        match assign(app, &job, &lease).await {
            Ok(assignment) => {
                tracing::info!(job.id = %job.id, agent.id = %agent, "{} job handed out", job.kind);
                app.polls.hand_out(agent, &request.instance, &assignment);
                return Ok(Some(assignment));
            }
            Err(err) => {
                tracing::warn!(job.id = %job.id, "job cannot be handed out: {err}");
                let ending = Ending::Failed(JobError {
                    kind: ErrorKind::Refused,
                    code: err.problem().code().to_owned(),
                    message: err.problem().detail.clone(),
                    hint: err.problem().hint.clone(),
                });
                app.catalog
                    .finish(job.id, lease.fence, ending, None, clock::now())
                    .await?;
            }
        }
    }
}

async fn assign(app: &App, job: &Job, lease: &Lease) -> ApiResult<Assignment> {
    let rules = app.catalog.rules();
    let lease_secs = rules.lease_secs;
    Ok(Assignment {
        job: job.id,
        fence: lease.fence,
        attempt: lease.attempt,
        last_attempt: job.life.failures.saturating_add(1) >= rules.max_attempts,
        lease_secs: u32::try_from(lease_secs).unwrap_or(u32::MAX),
        work: work_of(app, job).await?,
    })
}

async fn work_of(app: &App, job: &Job) -> ApiResult<Work> {
    match JobRequest::read(job)? {
        JobRequest::Backup(work) => Ok(Work::Backup(work)),
        JobRequest::Restore(request) => {
            let point = app.live_point(request.wish.point).await?;
            let elsewhere = match &job.host {
                Some(host) => fleet::known_elsewhere(app, host.id, &point, &request.wish).await?,
                None => Vec::new(),
            };
            let mut wish = request.wish;
            // Every attempt gives the same default names, so that one goes on where another was cut.
            wish.named_at.get_or_insert(job.created);
            Ok(Work::Restore(Box::new(api::agent_v1::RestoreWork {
                wish,
                point: Box::new(point),
                elsewhere,
                agreed: request.agreed,
            })))
        }
        JobRequest::Undo(work) => Ok(Work::Undo(work)),
        JobRequest::Release(work) => Ok(Work::Release(work)),
        JobRequest::Verify(_) => Err(ApiError::internal(anyhow::anyhow!(
            "job {} is not for agents",
            job.id
        ))),
    }
}

/// What has become of the jobs an agent runs.
struct Standing {
    /// Those that are no longer its own, or are to be called off.
    stop: Vec<JobId>,
    /// How many are still at work.
    active: usize,
}

/// A job that has ended needs no stopping: the agent itself has just said so.
async fn standing(app: &App, agent: AgentId, running: &[JobId]) -> ApiResult<Standing> {
    let owner = jobs::Owner::Agent(agent);
    let mut standing = Standing {
        stop: Vec::new(),
        active: 0,
    };
    for &id in running {
        let (ended, goes_on) = match app.catalog.job(id).await {
            Ok(job) => {
                let its_own = job.lease().is_some_and(|lease| lease.owner == owner);
                let goes_on = its_own && job.life.cancel_requested.is_none();
                (job.state().is_final(), goes_on)
            }
            Err(err) if err.kind() == catalog::ErrorKind::NotFound => (false, false),
            Err(err) => return Err(err.into()),
        };
        if !ended {
            standing.active += 1;
            if !goes_on {
                standing.stop.push(id);
            }
        }
    }
    Ok(standing)
}
