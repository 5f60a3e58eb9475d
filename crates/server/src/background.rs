//! What a server does by itself: leases, schedules, commits and deletions that were cut, its own jobs.

use std::collections::HashSet;
use std::sync::Arc;

use api::agent_v1::BackupWork;
use catalog::{Actor, NewPolicy, Protection};
use jobs::JobKind;
use model::Timestamp;

use crate::app::Shared;
use crate::clock;
use crate::http::ApiResult;
use crate::people::end_parked;
use crate::request::JobRequest;
use crate::{backup, retention, verify};

/// Ticks between two rounds of the slower chores.
const SLOW_EVERY: u64 = 30;
/// Ticks between two looks whether a full volume has room again.
const TAKE_RESERVE_EVERY: u64 = 5;
/// Jobs that ended longer ago and made no point that is still there are forgotten.
const KEEP_JOBS_SECS: u64 = 90 * 86_400;
/// What could not be released is tried again after this time.
const RELEASE_AGAIN_SECS: u64 = 3600;
/// A commit older than this whose request is still at work is none: it is settled.
const SETTLE_AFTER_SECS: u64 = 120;

/// Runs until the server stops. A failed round is logged and tried again with the next tick.
pub(crate) async fn run(app: Shared) {
    let mut ticks = 0_u64;
    let mut pause = tokio::time::interval(app.config.tick);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pause.tick() => {}
            () = app.stop.cancelled() => return,
        }
        if let Err(err) = tick(&app).await {
            let err = app.note_full(err);
            tracing::error!("a round of background work failed: {err}");
            if err.is_fatal() {
                // Going on could acknowledge what was never written.
                app.fail(err.to_string());
            }
        }
        if ticks.is_multiple_of(SLOW_EVERY)
            && let Err(err) = slow_tick(&app).await
        {
            tracing::error!("a round of slow background work failed: {err}");
        }
        if ticks.is_multiple_of(TAKE_RESERVE_EVERY) && !app.reserve.is_held() {
            let again = Arc::clone(&app);
            match tokio::task::spawn_blocking(move || again.reserve.take()).await {
                Ok(true) => tracing::info!("the store's volume has room again"),
                Ok(false) => {}
                Err(err) => tracing::error!("failed to look for room: {err}"),
            }
        }
        ticks += 1;
    }
}

/// What a start does before the ports open: everything that was cut.
pub(crate) async fn recover(app: &Shared) -> ApiResult<()> {
    // What cannot be done now is tried again while the server runs; it must not keep it from starting.
    if let Err(err) = app.vault.catch_up().await {
        tracing::error!("the chunk index could not be read on: {err}");
    }
    // One server per data folder: whatever is open was left by a process that is gone.
    backup::settle_all(app, clock::now().plus_secs(86_400)).await?;
    for job in app.catalog.server_started(SERVER, clock::now()).await? {
        tracing::warn!(job.id = %job, "a job of this server was cut");
    }
    if let Err(err) = retention::finish_deletions(app).await {
        tracing::error!("recovery points could not be deleted: {err}");
    }
    app.sweep().await
}

async fn tick(app: &Shared) -> ApiResult<()> {
    app.sweep().await?;
    let runs = app
        .catalog
        .schedule(clock::now(), scheduled_request)
        .await?;
    for run in &runs {
        if let Some(job) = run.queued {
            tracing::info!(job.id = %job, "scheduled backup of VM {} is queued", run.vm);
        }
        if let Some(job) = run.skipped {
            tracing::warn!(job.id = %job, "scheduled backups of VM {} are skipped", run.vm);
        }
    }
    if !runs.is_empty() {
        app.wakes.wake_all();
    }
    release_parked(app).await
}

/// Has deleted what restores keep beside for longer than was set, where the restored VM has run since.
async fn release_parked(app: &Shared) -> ApiResult<()> {
    let now = clock::now();
    for parked in app.catalog.parked_due(now).await? {
        let of = app.catalog.job(parked.kept.job).await?;
        let again = now.plus_secs(RELEASE_AGAIN_SECS);
        match end_parked(
            app,
            &of,
            JobKind::RestoreFinish,
            Some(again),
            None,
            &Actor::Server,
        )
        .await
        {
            Ok(_) => tracing::info!(job.id = %of.id, "what this restore keeps is released"),
            Err(err) => tracing::warn!(job.id = %of.id, "what this restore keeps stays: {err}"),
        }
    }
    Ok(())
}

async fn slow_tick(app: &Shared) -> ApiResult<()> {
    let now = clock::now();
    backup::settle_all(app, before(now, SETTLE_AFTER_SECS)).await?;
    retention::finish_deletions(app).await?;
    app.catalog.forget_jobs(before(now, KEEP_JOBS_SECS)).await?;
    let open: HashSet<_> = app
        .catalog
        .open_sessions()
        .await?
        .into_iter()
        .map(|session| session.id)
        .collect();
    app.vault.keep_pins_of(&open);
    Ok(())
}

fn before(now: Timestamp, secs: u64) -> Timestamp {
    let millis = i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_sub(millis))
}

/// The name under which this server holds leases.
pub(crate) const SERVER: &str = "server";

/// Carries out the jobs that are for the server, one at a time, until it stops.
pub(crate) async fn run_jobs(app: Shared) {
    let mut pause = tokio::time::interval(app.config.tick);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        match app
            .catalog
            .claim_next_for_server(SERVER, clock::now())
            .await
        {
            Ok(Some((job, lease))) => {
                tracing::info!(job.id = %job.id, "{} job begins", job.kind);
                verify::run(Arc::clone(&app), job, lease).await;
            }
            Ok(None) => {
                tokio::select! {
                    _ = pause.tick() => {}
                    () = app.server_work.notified() => {}
                    () = app.stop.cancelled() => {}
                }
            }
            Err(err) => {
                tracing::error!("failed to look for a job: {err}");
                pause.tick().await;
            }
        }
        if app.stopping() {
            return;
        }
    }
}

/// Returns the request of a scheduled backup.
fn scheduled_request(protection: &Protection, policy: &NewPolicy) -> serde_json::Value {
    let request = JobRequest::Backup(BackupWork {
        vm: protection.vm.id,
        vm_name: protection.vm.name.clone(),
        full: false,
        method: policy.method,
        consistency: policy.consistency,
        excluded: protection.excluded.clone(),
    });
    // Of plain values, which always have a JSON form; an empty request would be refused when it is handed out.
    request.to_value().unwrap_or_default()
}
