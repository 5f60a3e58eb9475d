//! A catalog with a host, an agent and a VM, and a clock that only the test moves.

use std::sync::atomic::{AtomicI64, Ordering};

use ::jobs::{Ending, ErrorKind as JobErrorKind, JobError, JobKind, Lease, StepName};
use catalog::{
    Actor, AuditVerdict, Begin, Catalog, CatalogError, Event, EventKind, Finished, HostSeen, Job,
    NewAgent, NewJob, NewPack, Options, Poll, PublishRequest, SecretHash, Session, SessionKind,
    Target,
};
use model::{
    AgentId, Consistency, DiskId, DiskImage, Fence, Generation, HostId, ImageRef, JobId, Memory,
    Method, PointId, PointKind, RecoveryPoint, SourceHost, Timestamp, VmConfig, VmId,
};
use serde_json::json;
use store::PackId;

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) catalog: Catalog,
    pub(crate) host: Target<HostId>,
    pub(crate) agent: AgentId,
    pub(crate) vm: Target<VmId>,
    pub(crate) disk: DiskId,
    clock: AtomicI64,
}

pub(crate) fn options(dir: &tempfile::TempDir) -> Options {
    Options::new(dir.path().join("catalog.db"))
}

pub(crate) fn someone() -> Actor {
    Actor::User {
        id: model::UserId::random(),
        name: "ada".into(),
    }
}

pub(crate) fn failure(kind: JobErrorKind) -> Ending {
    Ending::Failed(JobError {
        kind,
        code: "host-down".into(),
        message: "the host is down".into(),
        hint: None,
    })
}

impl World {
    /// A catalog without anything.
    pub(crate) async fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&options(&dir)).await.unwrap();
        Self {
            dir,
            catalog,
            host: Target {
                id: HostId::random(),
                name: "HV01".into(),
            },
            agent: AgentId::random(),
            vm: Target {
                id: VmId::random(),
                name: "web01".into(),
            },
            disk: DiskId::random(),
            clock: AtomicI64::new(1_800_000_000_000),
        }
    }

    /// A catalog with an agent that is ready.
    pub(crate) async fn ready() -> Self {
        let world = Self::empty().await;
        world.enrol(world.agent).await.unwrap();
        world.poll().await;
        world
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(Ordering::Relaxed))
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, secs: i64) {
        self.clock.fetch_add(secs * 1000, Ordering::Relaxed);
    }

    pub(crate) async fn enrol(&self, agent: AgentId) -> Result<(), CatalogError> {
        let hash = SecretHash(
            *agent
                .0
                .as_bytes()
                .first_chunk::<16>()
                .map(|half| [*half, *half].concat())
                .unwrap()
                .first_chunk()
                .unwrap(),
        );
        self.catalog
            .create_enrolment_token(&hash, self.now().plus_secs(900), &someone(), self.now())
            .await?;
        let new = NewAgent {
            id: agent,
            machine: "hv01".into(),
            fingerprint: agent.to_string(),
            certificate_expires: self.now().plus_secs(1_000_000),
            version: "0.1.0".into(),
        };
        self.catalog.enrol(&hash, new, self.now()).await
    }

    pub(crate) fn poll_of(&self, instance: &str) -> Poll {
        Poll {
            instance: instance.into(),
            version: "0.1.0".into(),
            not_ready: None,
            host: Some(HostSeen {
                id: self.host.id,
                name: self.host.name.clone(),
                os_version: "10.0.20348".into(),
            }),
            running: Vec::new(),
        }
    }

    pub(crate) async fn poll(&self) {
        self.catalog
            .agent_polled(self.agent, &self.poll_of("first"), self.now())
            .await
            .unwrap();
    }

    pub(crate) fn new_job(&self, kind: JobKind) -> NewJob {
        NewJob {
            kind,
            vm: Some(self.vm.clone()),
            host: Some(self.host.clone()),
            point: None,
            request: json!({ "why": "test" }),
            not_before: None,
        }
    }

    pub(crate) async fn queue(&self, kind: JobKind) -> Job {
        let jobs = [self.new_job(kind)];
        let mut created = self
            .catalog
            .create_jobs(&jobs, None, &someone(), self.now())
            .await
            .unwrap();
        created.jobs.remove(0)
    }

    pub(crate) async fn claim(&self) -> (Job, Lease) {
        self.catalog
            .claim_next(self.agent, self.now())
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.catalog.job(id).await.unwrap()
    }

    pub(crate) async fn report(&self, job: &Job, kinds: &[EventKind]) -> Result<(), CatalogError> {
        let first = self.catalog.job_log(job.id, 0, 500).await?.len() as u64 + 1;
        let events: Vec<Event> = (first..)
            .zip(kinds)
            .map(|(number, kind)| Event {
                number,
                at: self.now(),
                kind: kind.clone(),
            })
            .collect();
        self.catalog
            .report(job.id, job.life.fence, &events, None, None, self.now())
            .await
            .map(drop)
    }

    pub(crate) async fn step(&self, job: &Job, step: StepName) {
        let events = [
            EventKind::StepStarted(step),
            EventKind::StepDone(step, "fine".into()),
        ];
        self.report(job, &events).await.unwrap();
    }

    pub(crate) async fn finish(&self, job: &Job, ending: Ending) -> Result<Finished, CatalogError> {
        self.catalog
            .finish(job.id, job.life.fence, ending, None, self.now())
            .await
    }

    /// A queued and claimed backup with an open session.
    pub(crate) async fn backing_up(&self) -> (Job, Session) {
        self.queue(JobKind::Backup).await;
        let (job, _) = self.claim().await;
        let session = self.open(&job, &[]).await.unwrap();
        (job, session)
    }

    pub(crate) async fn open(
        &self,
        job: &Job,
        points: &[PointId],
    ) -> Result<Session, CatalogError> {
        let kind = if job.kind == JobKind::Restore {
            SessionKind::Restore
        } else {
            SessionKind::Backup
        };
        self.catalog
            .open_session(job.id, job.life.fence, kind, points, self.now())
            .await
    }

    pub(crate) async fn pack(&self, session: &Session, n: u8) -> u64 {
        self.catalog
            .register_pack(Some(session.id), &pack(n), self.now())
            .await
            .unwrap()
    }

    pub(crate) fn point(&self, job: &Job) -> RecoveryPoint {
        self.point_of(job.id, job.life.fence)
    }

    pub(crate) fn point_of(&self, job: JobId, fence: Fence) -> RecoveryPoint {
        let disk = DiskImage {
            id: self.disk,
            path: r"C:\vm\web01.avhdx".into(),
            base_path: r"C:\vm\web01.vhdx".into(),
            attachment: "Microsoft:1\\2".into(),
            size_bytes: 64 << 30,
            block_bytes: 32 << 20,
            logical_sector_bytes: 512,
            physical_sector_bytes: 4096,
            fixed: false,
            allocated_bytes: 5 << 30,
            image: ImageRef {
                len: 64 << 30,
                root: Some("ab".repeat(32)),
                height: 2,
                digest: None,
            },
            full_reason: None,
            changed_bytes: 1 << 30,
        };
        RecoveryPoint {
            id: PointId::random(),
            job,
            fence,
            vm: vm_config(&self.vm),
            host: SourceHost {
                id: self.host.id,
                name: self.host.name.clone(),
                os_version: "10.0.20348".into(),
            },
            created: self.now(),
            method: Method::Rct,
            kind: PointKind::Full,
            consistency: Consistency::Application,
            power: model::PowerState::Running,
            consistency_note: None,
            parent: None,
            disks: vec![disk],
            files: Vec::new(),
            chains: Vec::new(),
            excluded: Vec::new(),
            unsupported: Vec::new(),
            checkpoints: Vec::new(),
            stored_bytes: 1 << 20,
        }
    }

    pub(crate) async fn begin(
        &self,
        session: &Session,
        point: &RecoveryPoint,
        packs: &[u64],
    ) -> Result<Begin, CatalogError> {
        let request = PublishRequest {
            session: session.id,
            point: point.clone(),
            packs: packs.to_vec(),
        };
        self.catalog.begin_publish(&request, self.now()).await
    }

    /// A backup that has come to its end.
    pub(crate) async fn backed_up(&self) -> RecoveryPoint {
        let (job, session) = self.backing_up().await;
        let point = self.point(&job);
        assert_eq!(
            self.begin(&session, &point, &[]).await.unwrap(),
            Begin::Ready
        );
        self.catalog
            .commit_publish(point.id, &Actor::Server, self.now())
            .await
            .unwrap();
        self.finish(&job, Ending::Succeeded).await.unwrap();
        point
    }

    pub(crate) async fn reopen(&mut self) {
        self.catalog.close().await;
        self.catalog = Catalog::open(&options(&self.dir)).await.unwrap();
    }

    /// Says that nothing was done that the audit log does not tell of in order.
    pub(crate) async fn audit_is_whole(&self) {
        let verdict = self.catalog.verify_audit().await.unwrap();
        assert!(matches!(verdict, AuditVerdict::Whole { .. }), "{verdict:?}");
    }

    pub(crate) async fn audited(&self, action: &str) -> usize {
        let entries = self.catalog.audit_entries(None, 500).await.unwrap();
        entries
            .iter()
            .filter(|entry| entry.action == action)
            .count()
    }
}

pub(crate) fn pack(n: u8) -> NewPack {
    NewPack {
        id: PackId([n; 32]),
        size_bytes: 1000,
        plain_bytes: 3000,
        entries: 10,
        generation: 1,
    }
}

fn vm_config(vm: &Target<VmId>) -> VmConfig {
    VmConfig {
        id: vm.id,
        name: vm.name.clone(),
        generation: Generation::Gen2,
        version: "10.0".into(),
        notes: Vec::new(),
        processors: 2,
        memory: Memory {
            startup_mib: 1024,
            dynamic: false,
            minimum_mib: 1024,
            maximum_mib: 1024,
        },
        secure_boot: Some(true),
        secure_boot_template: None,
        config_root: None,
        snapshot_root: None,
        automatic_start: None,
        automatic_stop: None,
        boot_order: Vec::new(),
        boot_entries: Vec::new(),
        controllers: Vec::new(),
        nics: Vec::new(),
    }
}
