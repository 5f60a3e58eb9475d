//! Disks the host has anyway, of which a restore takes what it can prove instead of having it sent (delta restore).
//!
//! Looked for: what the wish names, the disks of the VM (or what is left of them where it is gone), what earlier restores
//! keep beside, and disks of other VMs with the same name and size. They are opened for reading, through their chains and
//! with their logs replayed in memory, without holding them: a guest that is started meanwhile is not hindered. What is
//! taken was hashed in the buffer that is written, so one that changes costs bytes, never content.
//!
//! The changes a tracker knows of are not asked for: every reused byte is hashed anyway, and what is equal is found so
//! without a word to the server.
//!
//! Invariant: nothing of a seed is open once the step `send` has ended; the files may be moved or written over then.

use std::sync::Arc;

use hyperv::{ChainError, FileErrorKind, HostFiles};
use model::{DiskId, HumanBytes, RecoveryPoint, RestoreWish, host_path};
use pipeline::{ImageSource, PlainFile, Seed, SeedUse, Seeds};
use plan::restore::{HostFacts, RestorePlan, SeedOnHost, SeedOrigin, SeedState};
use store::{CELL_BYTES, CellKey};

use super::kept::Leftovers;
use crate::errors::{chain as causes, task_error};
use crate::job::{JobContext, JobError};
use crate::journal::{Deed, Journal};
use crate::worker::Shared;

/// Seeds that nobody named are not looked for beyond so many.
const SEEDS_MAX: usize = 32;
/// Seeds that are read along with one image.
const ALONG_MAX: usize = 4;
/// Seeds are looked through for content that lies elsewhere up to so many times of what is restored.
const SCAN_FACTOR: u64 = 2;

/// A disk that may be one; the first of its files that opens is taken. A running VM holds its leaf alone.
struct Candidate {
    origin: SeedOrigin,
    files: Vec<String>,
}

impl Candidate {
    fn new(origin: SeedOrigin, path: &str) -> Self {
        let files = vec![path.to_owned()];
        Self { origin, files }
    }
}

/// Looks for seeds; changes nothing.
pub(super) async fn find(
    shared: &Shared,
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
    left: &Leftovers,
) -> Result<Vec<SeedOnHost>, JobError> {
    let mut candidates = candidates(shared, point, wish, facts);
    // What this job wrote itself is none.
    for candidate in &mut candidates {
        candidate.files.retain(|path| !left.has(path));
    }
    let twins: Vec<(String, u64)> = point
        .disk_sources()
        .map(|disk| {
            (
                host_path::key(host_path::file_name(disk.path)),
                disk.size_bytes,
            )
        })
        .collect();
    let files = Arc::clone(&shared.files);
    let looking = tokio::task::spawn_blocking(move || {
        let mut seeds: Vec<SeedOnHost> = Vec::new();
        for candidate in candidates {
            if let Some(seed) = look(&files, &candidate, &twins)
                && (seed.origin == SeedOrigin::Named || seeds.len() < SEEDS_MAX)
                && !seeds
                    .iter()
                    .any(|known| host_path::same(&known.path, &seed.path))
            {
                seeds.push(seed);
            }
        }
        seeds
    });
    looking.await.map_err(task_error)
}

/// Returns what may be a seed, likeliest first.
fn candidates(
    shared: &Shared,
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Vec<Candidate> {
    let named = wish.seeds.iter();
    let mut found: Vec<Candidate> = named
        .map(|path| Candidate::new(SeedOrigin::Named, path))
        .collect();
    let own = |files: &[String]| Candidate {
        origin: SeedOrigin::OwnDisk,
        files: files.to_vec(),
    };
    let standing = facts.standing.iter().flat_map(|vm| &vm.disks);
    found.extend(standing.map(|disk| own(&disk.files)));
    let target = facts.target_vm.iter().flat_map(|vm| &vm.disks);
    found.extend(target.map(|disk| own(&disk.files)));
    let vm = facts.vms.iter().filter(|vm| vm.id == point.vm.id);
    found.extend(
        vm.flat_map(|vm| &vm.files)
            .map(|path| own(std::slice::from_ref(path))),
    );
    let left = point
        .disk_sources()
        .flat_map(|disk| [disk.path, disk.base_path]);
    found.extend(left.map(|path| Candidate::new(SeedOrigin::OwnDisk, path)));
    for name in shared.home.records().unwrap_or_default() {
        let read = shared.home.read::<crate::parked::Record>(&name);
        let Some(record) = read
            .ok()
            .flatten()
            .filter(|record| record.vm == point.vm.id)
        else {
            continue;
        };
        let kept = record.files.iter().filter(|file| is_disk_file(&file.to));
        found.extend(kept.map(|file| Candidate::new(SeedOrigin::Kept, &file.to)));
    }
    for vm in facts.vms.iter().filter(|vm| vm.id != point.vm.id) {
        found.extend(
            vm.files
                .iter()
                .map(|path| Candidate::new(SeedOrigin::Twin, path)),
        );
    }
    found
}

fn is_disk_file(path: &str) -> bool {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension);
    let known = ["vhdx", "avhdx", "vhd", "avhd"];
    extension.is_some_and(|found| known.iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// Looks at a candidate; `None` for one that is of no use and that nobody named.
fn look(files: &HostFiles, candidate: &Candidate, twins: &[(String, u64)]) -> Option<SeedOnHost> {
    let (origin, first) = (candidate.origin, candidate.files.first()?);
    let is_twin = |path: &str, size: Option<u64>| {
        let name = host_path::key(host_path::file_name(path));
        let same = |(known, bytes): &(String, u64)| {
            *known == name && size.is_none_or(|size| size == *bytes)
        };
        twins.iter().any(same)
    };
    if origin == SeedOrigin::Twin && !is_twin(first, None) {
        return None;
    }
    let mut problem = None;
    for path in &candidate.files {
        let state = match look_at(files, path) {
            Ok(state) => state,
            Err(reason) => {
                problem.get_or_insert(reason);
                continue;
            }
        };
        let is_wanted = match (&state, origin) {
            (SeedState::Missing, _) => origin == SeedOrigin::Named,
            (SeedState::Usable { size_bytes, .. }, SeedOrigin::Twin) => {
                is_twin(path, Some(*size_bytes))
            }
            (SeedState::Usable { .. } | SeedState::Unusable(_), _) => true,
        };
        let path = path.clone();
        return is_wanted.then_some(SeedOnHost {
            path,
            origin,
            state,
        });
    }
    let state = SeedState::Unusable(problem?);
    let path = first.clone();
    (origin != SeedOrigin::Twin).then_some(SeedOnHost {
        path,
        origin,
        state,
    })
}

/// Opens a seed and looks what it is; fails with the reason where it cannot be read.
fn look_at(files: &HostFiles, path: &str) -> Result<SeedState, String> {
    let length = match files.stat(path) {
        Ok(Some(entry)) if !entry.folder => entry.len,
        Ok(Some(_)) => return Err("it is a folder".to_owned()),
        Ok(None) => return Ok(SeedState::Missing),
        Err(error) => match error.kind() {
            FileErrorKind::NotFound | FileErrorKind::BadPath => return Ok(SeedState::Missing),
            FileErrorKind::Exists
            | FileErrorKind::InUse
            | FileErrorKind::Denied
            | FileErrorKind::Full
            | FileErrorKind::Failed => return Err(causes(&error)),
        },
    };
    let chain = files
        .open_chain_unheld(path)
        .map_err(|error| unreadable(&error))?;
    let disk = chain.into_disk();
    let size_bytes = disk.size();
    let held_bytes = match disk.layers() {
        [_] => length.min(size_bytes),
        _ => size_bytes,
    };
    Ok(SeedState::Usable {
        disk: DiskId(disk.disk_id()),
        size_bytes,
        held_bytes,
    })
}

fn unreadable(error: &ChainError) -> String {
    causes(error)
}

/// The seeds of a restore, open.
pub(super) struct OpenSeeds {
    seeds: Arc<Seeds>,
    /// What each is, by its number.
    known: Vec<Known>,
}

struct Known {
    /// The disk, where it is the content of one.
    disk: Option<SeedOnHost>,
    /// Path of the file in the point, where its bytes are taken as they lie in the file.
    file: Option<String>,
}

/// Opens the seeds of a plan; what cannot be opened is left out, with a line in the job's log.
pub(super) fn open(
    context: &JobContext,
    journal: &Journal,
    files: &HostFiles,
    plan: &RestorePlan,
    point: &RecoveryPoint,
    key: CellKey,
) -> OpenSeeds {
    let of_files = !plan.tree.is_empty() || plan.disks.iter().any(|disk| !disk.chain.is_empty());
    let now = Moved::by(journal);
    let (mut seeds, mut known) = (Vec::new(), Vec::new());
    let mut add = |name: &str, what: Known, source: Arc<dyn ImageSource + Send + Sync>| {
        let name = name.to_owned();
        seeds.push(Seed { name, source });
        known.push(what);
    };
    let is_written = |path: &str| {
        let entries = journal.entries();
        entries.data().any(|(own, _)| host_path::same(own, path))
    };
    if of_files {
        // Files come as they are: what is at the same place in the same file is likeliest.
        for file in point.files.iter().filter(|file| file.is_disk()) {
            let path = now.path(&file.path);
            if is_written(path) {
                continue;
            }
            let opened = files.open_unheld(path);
            if let Some(raw) = opened.ok().and_then(|open| PlainFile::new(open).ok()) {
                let what = Known {
                    disk: None,
                    file: Some(file.path.clone()),
                };
                add(path, what, Arc::new(raw));
            }
        }
    }
    for seed in &plan.seeds {
        if let SeedState::Unusable(reason) = &seed.state {
            context.note(format!("{} is not used as a seed: {reason}", seed.path));
            continue;
        }
        match files.open_chain_unheld(now.path(&seed.path)) {
            Ok(chain) => {
                context.note(format!(
                    "blocks of {} are used where they are the recovery point's ({})",
                    seed.path,
                    seed.origin.as_str()
                ));
                let what = Known {
                    disk: Some(seed.clone()),
                    file: None,
                };
                add(&seed.path, what, Arc::new(chain.into_disk()));
            }
            Err(error) => context.note(format!(
                "{} is not used as a seed: {}",
                seed.path,
                unreadable(&error)
            )),
        }
    }
    let wanted = point.disk_sources().map(|disk| disk.size_bytes);
    let wanted = wanted.fold(0, u64::saturating_add);
    OpenSeeds {
        seeds: Arc::new(Seeds::new(seeds, key, wanted.saturating_mul(SCAN_FACTOR))),
        known,
    }
}

/// Where files are that this job moved aside.
struct Moved(Vec<(String, String)>);

impl Moved {
    fn by(journal: &Journal) -> Self {
        let entries = journal.entries();
        let moved = entries.deeds.iter().filter_map(|deed| {
            if let Deed::MoveAside { from, to, .. } = deed {
                return Some((from.clone(), to.clone()));
            }
            None
        });
        Self(moved.collect())
    }

    fn path<'p>(&'p self, path: &'p str) -> &'p str {
        let moved = self.0.iter().find(|(from, _)| host_path::same(from, path));
        moved.map_or(path, |(_, to)| to)
    }
}

impl OpenSeeds {
    /// Returns what a disk takes of them.
    pub(super) fn for_disk(&self, id: DiskId, size_bytes: u64) -> Option<SeedUse> {
        self.taken(|known| {
            let disk = known.disk.as_ref();
            disk.is_some_and(|seed| seed.is_like(id, size_bytes))
        })
    }

    /// Returns what a file takes of them, which was at `path`.
    pub(super) fn for_file(&self, path: &str) -> Option<SeedUse> {
        self.taken(|known| {
            let file = known.file.as_deref();
            file.is_some_and(|file| host_path::same(file, path))
        })
    }

    fn taken(&self, is_along: impl Fn(&Known) -> bool) -> Option<SeedUse> {
        if self.known.is_empty() {
            return None;
        }
        let along = self.known.iter().enumerate();
        let along = along.filter(|(_, known)| is_along(known));
        Some(SeedUse {
            seeds: Arc::clone(&self.seeds),
            same_place: along.map(|(number, _)| number).take(ALONG_MAX).collect(),
        })
    }

    /// Says in the job's log what became of them.
    pub(super) fn tell(&self, context: &JobContext) {
        for name in self.seeds.given_up() {
            context.note(format!("{name} could not be read on and was left alone"));
        }
        if let Some(scan) = self.seeds.scanned() {
            context.note(format!(
                "looked through {} of seeds for content that lies elsewhere: {} chunks, {} cells of {CELL_BYTES} bytes",
                HumanBytes(scan.bytes),
                scan.chunks,
                scan.cells
            ));
        }
    }
}
