//! Verify jobs: reads every image of a recovery point whole, opens every chunk, compares the digest; then opens the disks
//! that are held as files (`chains`).

mod chains;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catalog::{Actor, Event, EventKind, Figures, Job, Progress};
use jobs::{Ending, ErrorKind, JobError, Lease, StepName};
use model::{ByteRange, ImageRef, RecoveryPoint};
use store::{DigestBuilder, EntryId, ImageRun, MIB_BYTES, Tree, hash_mib};
use tokio::runtime::Handle;

use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult};
use crate::request::JobRequest;
use crate::restore::read_point;
use crate::vault::{ReadError, Vault, VaultNodes, read_root};

/// Bytes of an image that are read together.
const WINDOW_BYTES: u64 = 16 * model::MIB;
/// How often the lease is renewed, as for agents.
const RENEW: Duration = Duration::from_secs(jobs::LEASE_RENEW_SECS);

/// Shared between the reading thread and the one that reports.
#[derive(Debug, Default)]
struct Gauge {
    done: AtomicU64,
    stop: AtomicBool,
}

/// Carries out a verify job to its end.
pub(crate) async fn run(app: Shared, job: Job, lease: Lease) {
    let ending = match verify(&app, &job, &lease).await {
        Ok(ending) => ending,
        Err(err) => Ending::Failed(JobError {
            kind: match err.problem().code() {
                api::codes::DAMAGED => ErrorKind::Corrupt,
                api::codes::NOT_FOUND => ErrorKind::NotFound,
                api::codes::UNAVAILABLE => ErrorKind::Retry,
                api::codes::FENCED => ErrorKind::Fenced,
                _ => ErrorKind::Bug,
            },
            code: err.problem().code().to_owned(),
            message: err.to_string(),
            hint: err.problem().hint.clone(),
        }),
    };
    if let Err(err) = app
        .catalog
        .finish(job.id, lease.fence, ending, None, clock::now())
        .await
    {
        tracing::warn!(job.id = %job.id, "the end of a verify job was not taken: {err}");
    }
}

async fn verify(app: &Shared, job: &Job, lease: &Lease) -> ApiResult<Ending> {
    let JobRequest::Verify(request) = JobRequest::read(job)? else {
        return Err(ApiError::internal(anyhow::anyhow!(
            "job {} is no verify job",
            job.id
        )));
    };
    let mut reporter = Reporter {
        app: Arc::clone(app),
        job: job.clone(),
        lease: lease.clone(),
        events: 0,
    };
    reporter
        .event(EventKind::StepStarted(StepName::Read))
        .await?;
    let point = read_point(app, request.point).await?;
    app.vault.catch_up().await?;
    let total = point
        .images()
        .map(|image| image.len)
        .fold(0, u64::saturating_add);
    let gauge = Arc::new(Gauge::default());
    let reading = {
        let (vault, gauge, runtime) = (
            Arc::clone(&app.vault),
            Arc::clone(&gauge),
            Handle::current(),
        );
        let point = point.clone();
        tokio::task::spawn_blocking(move || read_images(&vault, runtime, &point, &gauge))
    };
    let found = reporter.follow(reading, &gauge, total).await?;
    match found {
        Found::Good { images } => {
            let detail = format!("{images} images, {}", model::HumanBytes(total));
            reporter
                .event(EventKind::StepDone(StepName::Read, detail))
                .await?;
            reporter
                .event(EventKind::StepStarted(StepName::Verify))
                .await?;
            app.catalog
                .set_point_verified(point.id, true, &Actor::Server, clock::now())
                .await?;
            let detail = "every chunk opens, every digest agrees".to_owned();
            reporter
                .event(EventKind::StepDone(StepName::Verify, detail))
                .await?;
            Ok(Ending::Succeeded)
        }
        Found::Bad { what } => {
            app.catalog
                .set_point_verified(point.id, false, &Actor::Server, clock::now())
                .await?;
            Ok(Ending::Failed(JobError {
                kind: ErrorKind::Corrupt,
                code: api::codes::DAMAGED.to_owned(),
                message: format!("recovery point {} is damaged: {what}", point.id),
                hint: Some(
                    "back the VM up again; the next full backup heals what the host still has"
                        .to_owned(),
                ),
            }))
        }
        Found::Stopped => Ok(Ending::Cancelled),
    }
}

enum Found {
    Good { images: usize },
    Bad { what: String },
    Stopped,
}

fn read_images(
    vault: &Arc<Vault>,
    runtime: Handle,
    point: &RecoveryPoint,
    gauge: &Gauge,
) -> ApiResult<Found> {
    let nodes = VaultNodes::new(vault, runtime.clone());
    let named = point
        .disks
        .iter()
        .map(|disk| (&disk.image, disk.base_path.as_str()))
        .chain(
            point
                .files
                .iter()
                .map(|file| (&file.image, file.path.as_str())),
        );
    let mut images = 0;
    for (image, name) in named {
        match read_image(&nodes, image, gauge) {
            Ok(true) => images += 1,
            Ok(false) => return Ok(Found::Stopped),
            Err(ImageError::Digest) => {
                return Ok(Found::Bad {
                    what: format!("{name}: its content has another digest"),
                });
            }
            Err(ImageError::Read(ReadError::Missing(id))) => {
                return Ok(Found::Bad {
                    what: format!("{name}: {id} is missing or damaged"),
                });
            }
            Err(ImageError::Read(ReadError::Failed(err)))
                if err.problem().code() == api::codes::DAMAGED =>
            {
                return Ok(Found::Bad {
                    what: format!("{name}: {err}"),
                });
            }
            Err(ImageError::Read(ReadError::Failed(err))) => return Err(err),
        }
    }
    match chains::check_chains(vault, &runtime, point)? {
        None => Ok(Found::Good { images }),
        Some(what) => Ok(Found::Bad { what }),
    }
}

enum ImageError {
    Digest,
    Read(ReadError),
}

impl From<ReadError> for ImageError {
    fn from(err: ReadError) -> Self {
        ImageError::Read(err)
    }
}

/// Reads an image whole. `false` where it was stopped.
fn read_image(nodes: &VaultNodes, image: &ImageRef, gauge: &Gauge) -> Result<bool, ImageError> {
    let root = read_root(image).map_err(ReadError::Failed)?;
    let names = nodes.vault().keys().session().clone();
    let tree = Tree::new(root, nodes, &names);
    let mut digest = DigestBuilder::new();
    let mut offset = 0;
    while offset < root.len {
        if gauge.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let len = WINDOW_BYTES.min(root.len - offset);
        let runs = tree
            .resolve(ByteRange { offset, len })
            .map_err(|err| nodes.explain(err))?;
        let mut window = Vec::new();
        for run in runs {
            window.push(run.map_err(|err| nodes.explain(err))?);
        }
        if window.iter().all(|run| run.chunk.is_none()) && len % model::MIB == 0 {
            digest.push_zeros(len / model::MIB);
        } else {
            for mib in fill(nodes, &window, offset, len)?.chunks(MIB_BYTES) {
                digest.push(hash_mib(mib));
            }
        }
        offset += len;
        gauge.done.fetch_add(len, Ordering::Relaxed);
    }
    let found = digest.finish(root.len).map(|digest| digest.to_string());
    match (&image.digest, found) {
        (None, Some(_)) => Ok(true),
        (Some(expected), Some(found)) if *expected == found => Ok(true),
        (Some(_) | None, Some(_) | None) => Err(ImageError::Digest),
    }
}

/// Reads the content of a window.
fn fill(nodes: &VaultNodes, runs: &[ImageRun], start: u64, len: u64) -> Result<Vec<u8>, ReadError> {
    let mut ids: Vec<EntryId> = runs
        .iter()
        .filter_map(|run| run.chunk)
        .map(|slice| EntryId::Chunk(slice.chunk.id))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let plains = nodes.read_chunks(ids.clone())?;
    let chunks: HashMap<EntryId, bytes::Bytes> = ids.into_iter().zip(plains).collect();
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let mut content = vec![0; size(len)];
    for run in runs {
        let Some(slice) = run.chunk else { continue };
        let id = EntryId::Chunk(slice.chunk.id);
        let (at, bytes) = (size(run.offset - start), size(run.len));
        let source = chunks
            .get(&id)
            .and_then(|plain| plain.get(slice.at_bytes..slice.at_bytes + bytes));
        match (content.get_mut(at..at + bytes), source) {
            (Some(target), Some(source)) => target.copy_from_slice(source),
            (Some(_) | None, Some(_) | None) => return Err(ReadError::Missing(id)),
        }
    }
    Ok(content)
}

/// Tells the catalog what happens, which also renews the lease.
struct Reporter {
    app: Arc<App>,
    job: Job,
    lease: Lease,
    events: u64,
}

impl Reporter {
    async fn event(&mut self, kind: EventKind) -> ApiResult<()> {
        self.events += 1;
        let event = Event {
            number: self.events,
            at: clock::now(),
            kind,
        };
        self.report(&[event], None).await?;
        Ok(())
    }

    /// Returns whether the end was asked for.
    async fn report(&self, events: &[Event], done: Option<(u64, u64)>) -> ApiResult<bool> {
        let progress = done.map(|(bytes_done, bytes_total)| Progress {
            bytes_done,
            bytes_total,
        });
        let figures = done.map(|(bytes_read, _)| Figures {
            bytes_read,
            ..Figures::default()
        });
        let outcome = self
            .app
            .catalog
            .report(
                self.job.id,
                self.lease.fence,
                events,
                progress,
                figures,
                clock::now(),
            )
            .await?;
        Ok(outcome.cancel)
    }

    /// Renews the lease while the reading goes on; stops it where the job is called off or the lease is lost.
    async fn follow(
        &self,
        mut reading: tokio::task::JoinHandle<ApiResult<Found>>,
        gauge: &Gauge,
        total: u64,
    ) -> ApiResult<Found> {
        loop {
            let step = tokio::time::timeout(RENEW, &mut reading);
            let done = tokio::select! {
                done = step => done.ok(),
                () = self.app.stop.cancelled() => {
                    gauge.stop.store(true, Ordering::Relaxed);
                    Some((&mut reading).await)
                }
            };
            let read = (gauge.done.load(Ordering::Relaxed), total);
            if let Some(found) = done {
                let found = found.map_err(ApiError::internal)??;
                self.report(&[], Some(read)).await?;
                if self.app.stopping() && matches!(found, Found::Stopped) {
                    return Err(ApiError::new(
                        api::codes::UNAVAILABLE,
                        "the server is stopping",
                    ));
                }
                return Ok(found);
            }
            match self.report(&[], Some(read)).await {
                Ok(false) => {}
                Ok(true) => gauge.stop.store(true, Ordering::Relaxed),
                Err(err) => {
                    gauge.stop.store(true, Ordering::Relaxed);
                    return Err(err);
                }
            }
        }
    }
}
