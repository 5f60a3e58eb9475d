//! Random interleavings of agents, people, time, restarts and publishing, against a few lines of model: which objects
//! a store would hold. `REPRISE_SEEDS=N` runs more; a failing seed is named.

use std::collections::{HashMap, HashSet};

use ::jobs::{Ending, ErrorKind as JobErrorKind, JobKind, StateName};
use catalog::{Actor, Begin, ErrorKind, Job, JobFilter, Session, SessionKind, Target};
use model::{Fence, JobId, PointId, RecoveryPoint, VmId};

use crate::support::{World, failure, someone};

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() {
            None
        } else {
            list.get(self.below(list.len()))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Object {
    Point,
    Void,
}

struct Run {
    world: World,
    chance: Chance,
    vms: Vec<Target<VmId>>,
    instance: u32,
    held: Vec<(Job, Fence)>,
    sessions: Vec<Session>,
    begun: Vec<RecoveryPoint>,
    /// What the store holds.
    objects: HashMap<PointId, Object>,
    newest_fence: HashMap<JobId, Fence>,
    ended: HashMap<JobId, StateName>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let world = World::ready().await;
        let vms = vec![
            world.vm.clone(),
            Target {
                id: VmId::random(),
                name: "db01".into(),
            },
        ];
        Self {
            world,
            chance: Chance(seed),
            vms,
            instance: 0,
            held: Vec::new(),
            sessions: Vec::new(),
            begun: Vec::new(),
            objects: HashMap::new(),
            newest_fence: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    async fn act(&mut self) {
        match self.chance.below(24) {
            0..3 => self
                .world
                .pass(i64::try_from(self.chance.below(35)).unwrap()),
            3 => self.poll(true).await,
            4 => {
                let same = self.chance.below(2) == 0;
                self.poll(same).await;
            }
            5..7 => self.queue().await,
            7..10 => self.claim().await,
            10..12 => self.report().await,
            12..14 => self.open().await,
            14..17 => self.begin().await,
            17..19 => self.put_and_commit().await,
            19..21 => self.finish().await,
            21 => self.cancel().await,
            22 => drop(self.world.catalog.sweep(self.world.now()).await.unwrap()),
            _ => match self.chance.below(4) {
                0 => self.world.reopen().await,
                _ => self.settle().await,
            },
        }
    }

    async fn poll(&mut self, same: bool) {
        self.instance += u32::from(!same);
        let instance = if self.instance == 0 {
            "first".to_owned()
        } else {
            format!("process {}", self.instance)
        };
        let poll = self.world.poll_of(&instance);
        self.world
            .catalog
            .agent_polled(self.world.agent, &poll, self.world.now())
            .await
            .unwrap();
    }

    async fn queue(&mut self) {
        let kind = if self.chance.below(4) == 0 {
            JobKind::Restore
        } else {
            JobKind::Backup
        };
        let mut job = self.world.new_job(kind);
        job.vm = self.chance.pick(&self.vms).cloned();
        let made = self
            .world
            .catalog
            .create_jobs(&[job], None, &someone(), self.world.now())
            .await;
        if let Err(error) = made {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
    }

    async fn claim(&mut self) {
        let claimed = self
            .world
            .catalog
            .claim_next(self.world.agent, self.world.now())
            .await
            .unwrap();
        let Some((job, lease)) = claimed else { return };
        let before = self
            .newest_fence
            .insert(job.id, lease.fence)
            .unwrap_or(Fence(0));
        assert_eq!(lease.fence.0, before.0 + 1);
        self.held.push((job, lease.fence));
    }

    async fn report(&mut self) {
        let Some((job, fence)) = self.chance.pick(&self.held).cloned() else {
            return;
        };
        let result = self
            .world
            .catalog
            .report(job.id, fence, &[], None, None, self.world.now())
            .await;
        match result {
            Ok(_) => assert_eq!(self.newest_fence[&job.id], fence, "an old fence wrote"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
        }
    }

    async fn open(&mut self) {
        let Some((job, fence)) = self.chance.pick(&self.held).cloned() else {
            return;
        };
        let kind = if job.kind == JobKind::Restore {
            SessionKind::Restore
        } else {
            SessionKind::Backup
        };
        let opened = self
            .world
            .catalog
            .open_session(job.id, fence, kind, &[], self.world.now())
            .await;
        match opened {
            Ok(session) => self.sessions.push(session),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
        }
    }

    async fn begin(&mut self) {
        let Some(session) = self.chance.pick(&self.sessions).cloned() else {
            return;
        };
        let Some((job, _)) = self
            .held
            .iter()
            .find(|(job, _)| job.id == session.job)
            .cloned()
        else {
            return;
        };
        let mut point = self.world.point_of(job.id, session.fence);
        point.vm.id = job.vm.unwrap().id;
        // One attempt can make only one point: its id follows from job and fence.
        let mut id = job.id.0.as_u128();
        id = id
            .wrapping_mul(31)
            .wrapping_add(u128::from(session.fence.0));
        point.id = PointId(uuid::Uuid::from_u128(id));
        if let Some(before) = self.begun.iter().find(|before| before.id == point.id) {
            point = before.clone();
        }
        match self.world.begin(&session, &point, &[]).await {
            Ok(Begin::Ready) => {
                assert_eq!(
                    self.newest_fence[&job.id], session.fence,
                    "an old fence published"
                );
                if !self.begun.contains(&point) {
                    self.begun.push(point);
                }
            }
            Ok(Begin::Done) => assert_eq!(self.objects.get(&point.id), Some(&Object::Point)),
            Ok(Begin::Resend(packs)) => panic!("{packs:?}"),
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(
                        kind,
                        ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Refused
                    ),
                    "{error}"
                );
            }
        }
    }

    /// A server's steps 3 and 4, either of which may not come, or come very late.
    async fn put_and_commit(&mut self) {
        let Some(point) = self.chance.pick(&self.begun).cloned() else {
            return;
        };
        let object = *self.objects.entry(point.id).or_insert(Object::Point);
        if object == Object::Void || self.chance.below(2) == 0 {
            return;
        }
        self.world
            .catalog
            .commit_publish(point.id, &Actor::Server, self.world.now())
            .await
            .unwrap();
    }

    async fn settle(&mut self) {
        for open in self
            .world
            .catalog
            .unsettled(self.world.now().plus_secs(1))
            .await
            .unwrap()
        {
            let (id, now) = (open.point.id, self.world.now());
            match *self.objects.entry(id).or_insert(Object::Void) {
                Object::Point => drop(
                    self.world
                        .catalog
                        .commit_publish(id, &Actor::Server, now)
                        .await
                        .unwrap(),
                ),
                Object::Void => self
                    .world
                    .catalog
                    .abandon_publish(id, &Actor::Server, now)
                    .await
                    .unwrap(),
            }
        }
    }

    async fn finish(&mut self) {
        let Some((job, fence)) = self.chance.pick(&self.held).cloned() else {
            return;
        };
        let ending = match self.chance.below(5) {
            0 => failure(JobErrorKind::Retry),
            1 => failure(JobErrorKind::Corrupt),
            2 => Ending::Cancelled,
            3 => Ending::NotReady {
                reason: "vmms".into(),
            },
            _ => Ending::Succeeded,
        };
        let result = self
            .world
            .catalog
            .finish(job.id, fence, ending, None, self.world.now())
            .await;
        match result {
            Ok(_) => assert_eq!(
                self.newest_fence[&job.id], fence,
                "an old fence ended the job"
            ),
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(
                        kind,
                        ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Refused
                    ),
                    "{error}"
                );
            }
        }
    }

    async fn cancel(&mut self) {
        let jobs = self.jobs().await;
        let Some(job) = self.chance.pick(&jobs) else {
            return;
        };
        let cancelled = self
            .world
            .catalog
            .cancel_job(job.id, &someone(), self.world.now())
            .await;
        if let Err(error) = cancelled {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        }
    }

    async fn jobs(&self) -> Vec<Job> {
        self.world
            .catalog
            .jobs(&JobFilter::default(), None, 500)
            .await
            .unwrap()
            .items
    }

    async fn check(&mut self) {
        let jobs = self.jobs().await;
        let mut alone = HashSet::new();
        for job in &jobs {
            if let Some(&before) = self.ended.get(&job.id) {
                assert_eq!(job.state(), before, "a job that had ended changed");
            } else if job.state().is_final() {
                self.ended.insert(job.id, job.state());
            }
            if job.state() == StateName::Running {
                assert!(
                    alone.insert(job.vm.as_ref().unwrap().id),
                    "two jobs run on one VM"
                );
            }
        }
        let points = self
            .world
            .catalog
            .points(None, None, 500)
            .await
            .unwrap()
            .items;
        for point in &points {
            assert_eq!(
                self.objects.get(&point.point.id),
                Some(&Object::Point),
                "a point without its object"
            );
        }
    }

    /// All hands go home; what is left must settle by itself.
    async fn end(&mut self) {
        self.settle().await;
        for _ in 0..2 {
            self.world.pass(8 * 24 * 3600);
            self.world.catalog.sweep(self.world.now()).await.unwrap();
            self.check().await;
        }
        let jobs = self.jobs().await;
        assert!(jobs.iter().all(|job| job.state().is_final()), "{jobs:?}");
        assert!(self.world.catalog.open_sessions().await.unwrap().is_empty());
        assert!(
            self.world
                .catalog
                .unsettled(self.world.now())
                .await
                .unwrap()
                .is_empty()
        );
        let points = self
            .world
            .catalog
            .points(None, None, 500)
            .await
            .unwrap()
            .items;
        let put = self
            .objects
            .values()
            .filter(|&&object| object == Object::Point)
            .count();
        assert_eq!(points.len(), put, "every object in the store is a point");
        let makers: HashSet<JobId> = points.iter().map(|point| point.point.job).collect();
        assert_eq!(makers.len(), points.len(), "a job made two points");
        for job in jobs {
            let well = matches!(job.state(), StateName::Succeeded | StateName::Warnings);
            if job.kind == JobKind::Backup {
                assert_eq!(well, makers.contains(&job.id), "{job:?}");
            }
        }
        self.world.audit_is_whole().await;
    }
}

#[tokio::test]
async fn random_interleavings_keep_every_promise() {
    let seeds = std::env::var("REPRISE_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(12);
    for seed in 0..seeds {
        let mut run = Run::new(seed).await;
        println!("seed {seed}");
        for _ in 0..200 {
            run.act().await;
            run.check().await;
        }
        run.end().await;
    }
}
