//! The agent's main loop: looks whether the host is ready, asks for work, runs it.
//!
//! Before the first job, and whenever a job has ended badly, the janitor undoes what journals and marks name. While
//! that is impossible the agent is not ready, and says so.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use api::agent_v1::{
    Ask, CertificateRequest, Finish, Outcome, PollRequest, Question, Readiness, Work,
};
use api_client::{Agent, Kind};
use hyperv::{Host, HostFiles};
use model::{Fence, JobId, MIB, QuestionId};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::home::Home;
use crate::job::{JobContext, Stop, report_until};
use crate::journal::Journal;
use crate::monitor::{HostState, Monitor};
use crate::options::RunOptions;
use crate::{backup, clock, enroll, errors, host, janitor, restore};

/// How long the server may hold a poll.
const POLL_WAIT_SECS: u32 = 25;
/// The same while data of a restore is kept for its next attempt: once the job is called off, the data goes.
const KEPT_WAIT_SECS: u32 = 5;
/// Pause before the next look at a host that is not ready, or a server that does not answer.
const UNREADY_PAUSE: Duration = Duration::from_secs(2);
/// How long running jobs may take to clean up when the agent is stopped.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// A restore of less says little about how fast the next one will be.
const TELLING_BYTES: u64 = 64 * MIB;

/// What the agent's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The data folder.
    pub(crate) home: Arc<Home>,
    /// The host's driver.
    pub(crate) host: Host,
    /// The host's files.
    pub(crate) files: Arc<HostFiles>,
    /// Settings.
    pub(crate) options: RunOptions,
    running: Mutex<HashMap<JobId, Arc<JobContext>>>,
    /// Questions being answered.
    answering: Mutex<HashSet<QuestionId>>,
    job_ended: Notify,
    /// One inventory is listed and sent at a time, so that an older list never overtakes a newer one.
    pub(crate) inventory_turn: Semaphore,
    /// One shadow copy is made at a time.
    pub(crate) shadow_turn: Semaphore,
    /// Bytes a second of the last restore that was large enough to tell; 0 before.
    restore_rate: AtomicU64,
}

/// Runs the agent until `shutdown`.
///
/// Fails at once where it is not enrolled, its folder is in use, or its settings are unusable. A server or host that is
/// away is waited for.
pub async fn run(options: RunOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let home = Arc::new(Home::open(&options.data_dir)?);
    if let Some(boundary) = options.crash_at {
        home.crash_at(boundary);
    }
    let identity = home.identity()?;
    let (host, files) = host::connect(&options.host)?;
    let server = Agent::new(&identity).context("set up the connection to the server")?;
    let shared = Arc::new(Shared {
        home,
        host,
        files,
        options,
        running: Mutex::default(),
        answering: Mutex::default(),
        job_ended: Notify::new(),
        inventory_turn: Semaphore::new(1),
        shadow_turn: Semaphore::new(1),
        restore_rate: AtomicU64::new(0),
    });
    let tasks = TaskTracker::new();
    info!(agent = %identity.agent, "agent of {} starts", identity.url);

    let server = watch::Sender::new(server);
    let monitor = Monitor::new();
    tokio::select! {
        () = monitor.run(&shared, server.subscribe()) => {}
        () = poll_for_work(&shared, &server, &monitor, &tasks) => {}
        () = shutdown.cancelled() => {}
    }
    info!("agent stops");
    for job in shared.running().values() {
        job.stop(Stop::Shutdown);
    }
    tasks.close();
    if tokio::time::timeout(SHUTDOWN_GRACE, tasks.wait())
        .await
        .is_err()
    {
        warn!("jobs were still running; what they left is cleaned up at the next start");
    }
    Ok(())
}

/// Polls for ever. Dropped while a poll is held, nothing is lost: the server hands a job out again that did not arrive.
async fn poll_for_work(
    shared: &Arc<Shared>,
    server: &watch::Sender<Agent>,
    monitor: &Monitor,
    tasks: &TaskTracker,
) {
    let instance = uuid::Uuid::new_v4().to_string();
    let mut host = monitor.state.subscribe();
    loop {
        match renew_certificate(&shared.home, &server.borrow().clone()).await {
            Ok(Some(renewed)) => {
                server.send_replace(renewed);
            }
            Ok(None) => {}
            Err(error) => warn!("cannot renew the agent's certificate: {error:#}"),
        }
        let state = host.borrow_and_update().clone();
        let Some(state) = state else {
            // Nothing is known of the host yet.
            if host.changed().await.is_err() {
                return;
            }
            continue;
        };
        let client = server.borrow().clone();
        let pause = tokio::select! {
            pause = turn(shared, &client, &instance, state, monitor, tasks) => pause,
            changed = host.changed() => changed.err().map(|_| UNREADY_PAUSE),
            // There is room for the next job now.
            () = shared.job_ended.notified() => None,
        };
        if let Some(pause) = pause {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = host.changed() => {}
                () = shared.job_ended.notified() => {}
            }
        }
    }
}

impl Shared {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Arc<JobContext>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answering(&self) -> std::sync::MutexGuard<'_, HashSet<QuestionId>> {
        self.answering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the attempts that run now.
    pub(crate) fn running_attempts(&self) -> Vec<(JobId, Fence)> {
        self.running()
            .values()
            .map(|context| (context.job, context.fence))
            .collect()
    }

    /// Takes note of how fast a restore was.
    pub(crate) fn measured_restore(&self, bytes: u64, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        if bytes >= TELLING_BYTES {
            let rate = bytes.saturating_mul(1000) / millis;
            self.restore_rate.store(rate, Ordering::Relaxed);
        }
    }

    /// Returns the bytes a second of the last restore that was large enough to tell.
    pub(crate) fn restore_rate(&self) -> Option<u64> {
        Some(self.restore_rate.load(Ordering::Relaxed)).filter(|&rate| rate > 0)
    }

    /// Returns the jobs that run now.
    pub(crate) fn running_jobs(&self) -> Vec<JobId> {
        self.running().keys().copied().collect()
    }
}

/// One poll with what follows from it; returns a pause before the next.
async fn turn(
    shared: &Arc<Shared>,
    server: &Agent,
    instance: &str,
    host: HostState,
    monitor: &Monitor,
    tasks: &TaskTracker,
) -> Option<Duration> {
    let mut readiness = host.readiness;
    let mut kept = false;
    if readiness == Readiness::Ready {
        match janitor::clean_up(shared, server).await {
            Ok(found) => kept = found,
            Err(error) => {
                readiness = Readiness::NotReady {
                    reason: format!("what an earlier job left cannot be cleaned up yet: {error:#}"),
                };
            }
        }
    }
    let ready = readiness == Readiness::Ready;
    let request = PollRequest {
        wait_secs: match (ready, kept) {
            (true, false) => POLL_WAIT_SECS,
            (true, true) => KEPT_WAIT_SECS,
            (false, _) => 0,
        },
        instance: instance.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        readiness,
        host: host.facts.as_deref().map(host::identity),
        running: shared.running_jobs(),
        slots: shared.options.slots,
        answering: shared.answering().iter().copied().collect(),
    };
    let reply = match server.poll(&request).await {
        Ok(reply) => reply,
        Err(error) => {
            if error.kind() == Kind::Retry {
                warn!("cannot poll the server: {error}");
            } else {
                error!("the server refuses this agent: {error}");
            }
            return Some(UNREADY_PAUSE);
        }
    };
    let asked_to_stop = !reply.stop.is_empty();
    for job in &reply.stop {
        if let Some(context) = shared.running().get(job) {
            // Whether it was cancelled or lost is in the answer to its next report.
            context.report_soon();
        }
    }
    if reply.inventory_wanted {
        monitor.inventory_wanted.notify_one();
    }
    for question in reply.questions {
        if shared.answering().insert(question.id) {
            let (shared, server) = (Arc::clone(shared), server.clone());
            tasks.spawn(async move { answer(&shared, &server, question).await });
        }
    }
    if let Some(assignment) = reply.assignment {
        let rate = shared.options.rate.clone();
        let context = Arc::new(JobContext::new(server.clone(), &assignment, rate));
        shared
            .running()
            .insert(assignment.job, Arc::clone(&context));
        let shared = Arc::clone(shared);
        tasks.spawn(async move {
            run_job(&shared, &context, assignment.work).await;
            shared.running().remove(&context.job);
            shared.job_ended.notify_one();
        });
    }
    (!ready || asked_to_stop).then_some(UNREADY_PAUSE)
}

/// Answers a question. One that could not be told is asked again.
async fn answer(shared: &Arc<Shared>, server: &Agent, question: Question) {
    let id = question.id;
    let answer = match question.ask {
        Ask::PlanRestore(work) => restore::answer(shared, &work).await,
    };
    if let Err(error) = server.answer(id, &answer).await {
        warn!("cannot answer question {id} of the server: {error}");
    }
    shared.answering().remove(&id);
}

/// Runs a job and tells the server how it ended.
async fn run_job(shared: &Arc<Shared>, context: &Arc<JobContext>, work: Work) {
    let earlier = match janitor::finished_before(shared, context.job) {
        Ok(earlier) => earlier,
        Err(error) => {
            warn!(job.id = %context.job, "cannot look for an earlier run: {error:#}");
            None
        }
    };
    let vm = match &work {
        Work::Backup(backup) => backup.vm,
        Work::Restore(restore) => restore.wish.vm,
        Work::Undo(parked) | Work::Release(parked) => parked.vm,
    };
    let home = Arc::clone(&shared.home);
    let journal = match (earlier, &work) {
        (Some(journal), _) => Ok(journal),
        (None, Work::Backup(_) | Work::Undo(_) | Work::Release(_)) => {
            Ok(Journal::new(home, context.job, context.fence, vm))
        }
        (None, Work::Restore(_)) => Journal::take_over(home, context.job, context.fence, vm),
    };
    let journal = match journal {
        Ok(journal) => Arc::new(journal),
        Err(error) => {
            // The lease runs out, and the job is handed out again.
            warn!(job.id = %context.job, "cannot go on with an earlier run: {error:#}");
            return;
        }
    };
    let work = async {
        if journal.entries().succeeded.is_some() {
            // It may have been killed before the server heard of its last steps, or of a warning.
            context.tell_again(journal.entries().told);
            context.note("an earlier run of this job had come to its end");
            restore::start_stopped(shared, &journal).await;
            return Ok(());
        }
        match work {
            Work::Backup(work) => backup::run(shared, context, &journal, &work).await,
            Work::Restore(work) => {
                restore::run(shared, context, &journal, &work).await?;
                // Whoever hears that the VM is back may want to back it up at once.
                tell_inventory(shared, &context.server).await;
                Ok(())
            }
            Work::Undo(work) => {
                restore::put_back_kept(shared, context, &journal, &work).await?;
                tell_inventory(shared, &context.server).await;
                Ok(())
            }
            Work::Release(work) => restore::release_kept(shared, context, &work).await,
        }?;
        journal.succeeded(clock::now(), context.history())
    };
    let outcome = match report_until(context, work).await {
        Ok(()) => Some(Outcome::Succeeded),
        Err(error) => {
            warn!(job.id = %context.job, "job failed: {error}");
            error.outcome()
        }
    };
    let kept = match &outcome {
        Some(Outcome::Succeeded) => shared.kept_by(context.job).unwrap_or_else(|error| {
            warn!(job.id = %context.job, "{error:#}");
            None
        }),
        Some(Outcome::Failed { .. } | Outcome::NotReady { .. } | Outcome::Cancelled) | None => None,
    };
    // `None`: the job belongs to someone else now; there is nothing to tell.
    if let Some(outcome) = outcome {
        let finish = Finish {
            fence: context.fence,
            outcome,
            figures: context.figures(|_| ()),
            parked: kept,
            evidence: journal.entries().evidence.told(),
        };
        match context.server.finish(context.job, &finish).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Fenced | Kind::NotFound) => {
                info!(job.id = %context.job, "the server had given the job up: {error}");
                return;
            }
            Err(error) => {
                warn!(job.id = %context.job, "cannot tell the server how the job ended: {error}");
                return;
            }
        }
    }
    if journal.is_settled()
        && let Err(error) = journal.remove()
    {
        warn!(job.id = %context.job, "{error:#}");
    }
}

/// Sends what the host has now; the monitor sends it later where that fails.
async fn tell_inventory(shared: &Shared, server: &Agent) {
    let _turn = shared.inventory_turn.acquire().await;
    let (facts, vms) = match (shared.host.facts().await, shared.host.vms().await) {
        (Ok(facts), Ok(vms)) => (facts, vms),
        (Err(error), _) | (_, Err(error)) => {
            warn!("cannot list the VMs of the host: {}", errors::chain(&error));
            return;
        }
    };
    if let Err(error) = server.inventory(&host::inventory(&facts, &vms)).await {
        warn!("cannot send the inventory: {error}");
    }
}

/// Renews the certificate once two thirds of its life are over.
async fn renew_certificate(home: &Home, server: &Agent) -> anyhow::Result<Option<Agent>> {
    let identity = home.identity()?;
    let life = identity.expires.millis_since(identity.since);
    if clock::now().millis_since(identity.since) < life / 3 * 2 {
        return Ok(None);
    }
    let (csr_pem, key_pem) = enroll::signing_request()?;
    let reply = server
        .certificate(&CertificateRequest { csr_pem })
        .await
        .context("ask the server")?;
    let renewed = enroll::identity_from(&reply, identity.url, key_pem);
    home.set_identity(&renewed)?;
    info!("the agent's certificate now ends {}", renewed.expires);
    Ok(Some(Agent::new(&renewed)?))
}
