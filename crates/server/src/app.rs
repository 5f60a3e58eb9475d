//! Everything the handlers and loops of a running server share.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};

use catalog::{Catalog, Job};
use jobs::Owner;
use model::{AgentId, HostId, JobId, PointId, RecoveryPoint, Timestamp};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::agents::{Polls, Questions};
use crate::auth::{Throttle, role_of};
use crate::clock;
use crate::config::Config;
use crate::http::{ApiError, ApiResult, Caller};
use crate::reserve::Reserve;
use crate::tls::Authority;
use crate::vault::Vault;
use crate::wakes::Wakes;
use crate::{backup, retention};

/// The application, shared.
pub(crate) type Shared = Arc<App>;

/// See the module.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) catalog: Catalog,
    pub(crate) vault: Arc<Vault>,
    pub(crate) authority: Authority,
    pub(crate) throttle: Throttle,
    pub(crate) polls: Polls,
    pub(crate) questions: Questions,
    pub(crate) wakes: Wakes,
    /// Packs that may be in memory at once.
    pub(crate) uploads: Semaphore,
    /// Held between the row that begins a commit and its end.
    pub(crate) publishing: Mutex<()>,
    /// There may be a job for the server itself.
    pub(crate) server_work: Notify,
    /// The server is to stop.
    pub(crate) stop: CancellationToken,
    pub(crate) reserve: Reserve,
    agent_port: AtomicU16,
    failure: OnceLock<String>,
}

impl App {
    pub(crate) fn new(
        config: Config,
        catalog: Catalog,
        vault: Arc<Vault>,
        authority: Authority,
        reserve: Reserve,
    ) -> Self {
        Self {
            throttle: Throttle::new(config.login.tries_per_minute),
            uploads: Semaphore::new(config.uploads_at_once),
            config,
            catalog,
            vault,
            authority,
            polls: Polls::default(),
            questions: Questions::default(),
            wakes: Wakes::default(),
            publishing: Mutex::new(()),
            server_work: Notify::new(),
            stop: CancellationToken::new(),
            reserve,
            agent_port: AtomicU16::new(0),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Frees the reserve where an error says that there is no room left; gives the error back.
    pub(crate) fn note_full(&self, err: ApiError) -> ApiError {
        if err.is_full() {
            self.reserve.give_up();
        }
        err
    }

    /// Ends the server because of a failure.
    pub(crate) fn fail(&self, why: String) {
        // The first failure is the one to tell.
        let _first = self.failure.set(why);
        self.stop.cancel();
    }

    /// Returns why the server ended by itself.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn agent_port(&self) -> u16 {
        self.agent_port.load(Ordering::Relaxed)
    }

    pub(crate) fn set_agent_port(&self, port: u16) {
        self.agent_port.store(port, Ordering::Relaxed);
    }

    /// Returns whose token has this hash.
    pub(crate) async fn find_caller(
        &self,
        hash: &[u8; 32],
        now: Timestamp,
    ) -> ApiResult<Option<Caller>> {
        let found = self
            .catalog
            .authenticate(&catalog::SecretHash(*hash), now)
            .await?;
        Ok(found.map(|(token, user, role)| Caller {
            user: user.name.clone(),
            user_id: user.id,
            actor: catalog::Actor::User {
                id: user.id,
                name: user.name,
            },
            role: role_of(role),
            token: token.id,
        }))
    }

    /// Returns a job that this agent holds the lease of.
    pub(crate) async fn check_owner(&self, id: JobId, agent: AgentId) -> ApiResult<Job> {
        let job = self.catalog.job(id).await?;
        match job.lease() {
            Some(lease) if lease.owner == Owner::Agent(agent) => Ok(job),
            Some(_) | None => Err(ApiError::fenced(format!(
                "job {id} is {} and not this agent's",
                job.state()
            ))),
        }
    }

    /// Refuses where another agent holds the lease of a job. One that has ended passes: the same end may come twice.
    pub(crate) async fn check_last_owner(&self, id: JobId, agent: AgentId) -> ApiResult<Job> {
        let job = self.catalog.job(id).await?;
        match job.lease() {
            Some(lease) if lease.owner != Owner::Agent(agent) => {
                Err(ApiError::fenced(format!("job {id} is not this agent's")))
            }
            Some(_) | None => Ok(job),
        }
    }

    /// Says whether a job works on this host. An unknown job may be anyone's.
    pub(crate) async fn is_of_host(&self, job: JobId, host: Option<HostId>) -> ApiResult<bool> {
        match self.catalog.job(job).await {
            Ok(job) => Ok(job.host.map(|target| target.id) == host),
            Err(err) if err.kind() == catalog::ErrorKind::NotFound => Ok(true),
            Err(err) => Err(err.into()),
        }
    }

    /// Returns a point that may be restored.
    pub(crate) async fn live_point(&self, id: PointId) -> ApiResult<RecoveryPoint> {
        let point = self.catalog.point(id).await?;
        match point.state {
            catalog::PointState::Live | catalog::PointState::Damaged => Ok(point.point),
            catalog::PointState::Deleting => Err(ApiError::not_found(format!(
                "recovery point {id} is being deleted"
            ))),
        }
    }

    /// Finishes or gives up what a job had begun to commit.
    pub(crate) async fn settle_job(&self, job: JobId) -> ApiResult<()> {
        backup::settle_job(self, job).await
    }

    /// Does what time asks for and wakes those it concerns.
    pub(crate) async fn sweep(&self) -> ApiResult<()> {
        let mut swept = self.catalog.sweep(clock::now()).await?;
        if !swept.unsettled.is_empty() {
            for job in &swept.unsettled {
                self.settle_job(*job).await?;
            }
            swept = self.catalog.sweep(clock::now()).await?;
        }
        for job in &swept.lost {
            tracing::warn!(job.id = %job, "a lease ran out");
        }
        for job in &swept.expired {
            tracing::warn!(job.id = %job, "a job waited too long and expired");
        }
        if !swept.lost.is_empty() || !swept.recaused.is_empty() {
            self.wakes.wake_all();
        }
        Ok(())
    }

    /// Applies the retention of a VM's policy after a backup of it.
    pub(crate) async fn prune_after(&self, job: &Job) {
        if let Some(vm) = &job.vm
            && let Err(err) = retention::prune(self, vm.id).await
        {
            tracing::warn!(vm.id = %vm.id, "failed to prune recovery points of {}: {err}", vm.name);
        }
    }
}
