//! What a job has done to the host, written down before it is done.
//!
//! One file per run of a job (`jobs/<job>-<fence>.json`), replaced whole and synced at each change. Whoever finds one
//! after a crash undoes it backwards, unless [`Entries::succeeded`] says that the work had come to its end; then only the
//! server has not heard of it yet.

use std::sync::{Arc, Mutex, PoisonError};

use api::agent_v1::Event;
use api::receipt::Evidence;
use model::{Fence, JobId, PowerState, Slot, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use crate::backup::Conversion;
use crate::home::Home;
use crate::job::JobError;
use crate::restore::{ReplacedDisk, Swap};

/// What a journal file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entries {
    /// The job.
    pub(crate) job: JobId,
    /// The fence of the run.
    pub(crate) fence: Fence,
    /// The VM.
    pub(crate) vm: VmId,
    /// What was done, in order.
    pub(crate) deeds: Vec<Deed>,
    /// When the work succeeded, once it has; then nothing is undone any more.
    pub(crate) succeeded: Option<Timestamp>,
    /// What was found on the host when it was read back: what the server's receipt is made from.
    #[serde(default)]
    pub(crate) evidence: Evidence,
    /// What the run that succeeded has told, or was about to tell, of its steps: whoever ends the job for it tells it anew.
    #[serde(default)]
    pub(crate) told: Vec<Event>,
}

impl Entries {
    /// Whether it is that of a backup.
    pub(crate) fn is_backup(&self) -> bool {
        let taken = |deed: &Deed| matches!(deed, Deed::Checkpoint { .. });
        self.holds_shadows() || self.deeds.iter().any(taken)
    }

    /// Returns how many deeds there are up to the last file of data: what follows them is undone before a restore goes on.
    pub(crate) fn data_end(&self) -> usize {
        let last = self
            .deeds
            .iter()
            .rposition(|deed| matches!(deed, Deed::Data { .. }));
        last.map_or(0, |place| place + 1)
    }

    /// Returns the files of data with the names of their records.
    pub(crate) fn data(&self) -> impl Iterator<Item = (&str, &str)> {
        self.deeds.iter().filter_map(|deed| {
            if let Deed::Data { path, record } = deed {
                return Some((path.as_str(), record.as_str()));
            }
            None
        })
    }

    /// Whether it is that of a backup by the VSS method, which never leaves anything to convert.
    pub(crate) fn holds_shadows(&self) -> bool {
        self.deeds
            .iter()
            .any(|deed| matches!(deed, Deed::Shadow { .. } | Deed::Held { .. }))
    }
}

/// Something done, or about to be done, on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deed", rename_all = "kebab-case")]
pub(crate) enum Deed {
    /// A recovery checkpoint is being taken; those of this VM that existed before.
    Checkpoint {
        /// InstanceIDs.
        before: Vec<String>,
    },
    /// The checkpoint is there.
    CheckpointTaken {
        /// InstanceID.
        id: String,
    },
    /// A shadow copy of a volume is being made; ids of all that existed before.
    Shadow {
        /// The volume's `\\?\Volume{GUID}\`.
        volume: String,
        /// Where it is mounted.
        mount: String,
        /// Ids.
        before: Vec<String>,
        /// When, by the agent's clock.
        at: Timestamp,
    },
    /// The shadow copy is there.
    ShadowTaken {
        /// Its id.
        id: String,
    },
    /// The VM, which ran, is being held while shadow copies are made.
    Held {
        /// Whether its memory is saved to disk, rather than paused.
        saved: bool,
    },
    /// The VM runs again.
    Resumed,
    /// The point is being committed: from here on only the server knows whether the checkpoint still counts.
    Publishing,
    /// The point is committed and the checkpoint is being converted.
    Converting(Conversion),
    /// A folder was made.
    Folder {
        /// Path on the host.
        path: String,
    },
    /// A file is being written.
    File {
        /// Path on the host.
        path: String,
    },
    /// A file of a restore's data is being written; its record says what of it is durable, so that a later attempt of the
    /// job can go on with it.
    Data {
        /// Path on the host.
        path: String,
        /// Name of the record in the agent's data folder.
        record: String,
    },
    /// A file we wrote gets its final name. Names are never taken over, so once `from` is gone, `to` is ours.
    Place {
        /// From here.
        from: String,
        /// To here.
        to: String,
    },
    /// A file that is not ours is moved aside.
    MoveAside {
        /// From here.
        from: String,
        /// To here.
        to: String,
    },
    /// A VM is being registered on exactly these disk files.
    Register {
        /// Its id, where it is known before.
        id: Option<VmId>,
        /// Its disk files.
        disks: Vec<String>,
        /// Folder of its configuration.
        config_folder: String,
        /// VMs and planned VMs that existed before.
        before: Vec<VmId>,
    },
    /// A VM that ran is being stopped.
    StopVm {
        /// The VM.
        vm: VmId,
    },
    /// A disk file is being attached to a VM.
    AttachDisk {
        /// The VM.
        vm: VmId,
        /// The slot, which was free.
        slot: Slot,
        /// The file.
        path: String,
    },
    /// A disk of a VM is being replaced.
    ReplaceDisk(ReplacedDisk),
    /// A VM is imported under another id as a trial, from files below a folder of ours, and never registered.
    Rehearse {
        /// The folder.
        folder: String,
        /// Planned VMs that existed before.
        before: Vec<VmId>,
    },
    /// A VM is stopped.
    Stop {
        /// The VM.
        vm: VmId,
        /// What it did before.
        power: PowerState,
    },
    /// A folder is made in which everything is ours.
    OwnFolder {
        /// Path on the host.
        path: String,
    },
    /// A VM makes room: its files are moved, then its registration is removed.
    Swap(Box<Swap>),
    /// A file that is kept goes back to where it was.
    Return {
        /// From here.
        from: String,
        /// To here.
        to: String,
    },
    /// What a VM shall do once the job has succeeded.
    Power {
        /// The VM.
        vm: VmId,
        /// Its power.
        power: PowerState,
    },
    /// What is kept beside is written down in the agent's data folder.
    Record {
        /// Name of the file.
        name: String,
    },
}

/// The journal of a running job.
#[derive(Debug)]
pub(crate) struct Journal {
    home: Arc<Home>,
    name: String,
    entries: Mutex<Entries>,
}

impl Journal {
    /// Makes the journal of a run; nothing is written before the first deed.
    pub(crate) fn new(home: Arc<Home>, job: JobId, fence: Fence, vm: VmId) -> Self {
        let entries = Entries {
            job,
            fence,
            vm,
            deeds: Vec::new(),
            succeeded: None,
            evidence: Evidence::default(),
            told: Vec::new(),
        };
        Self {
            home,
            name: format!("jobs/{job}-{fence}.json"),
            entries: Mutex::new(entries),
        }
    }

    /// Makes the journal of another attempt of a restore: it begins with what earlier ones left.
    pub(crate) fn take_over(
        home: Arc<Home>,
        job: JobId,
        fence: Fence,
        vm: VmId,
    ) -> anyhow::Result<Self> {
        let journal = Self::new(Arc::clone(&home), job, fence, vm);
        let mut earlier = Vec::new();
        for name in home.journals()? {
            if name.starts_with(&format!("jobs/{job}-"))
                && name != journal.name
                && let Some(found) = home.read::<Entries>(&name)?
            {
                earlier.push((found.fence, found.deeds, name));
            }
        }
        // The newest has all deeds of those before it: they were cut while one was taken over.
        earlier.sort_by_key(|(fence, ..)| *fence);
        if let Some((_, deeds, _)) = earlier.last() {
            let mut entries = journal.lock();
            entries.deeds.clone_from(deeds);
            home.write(&journal.name, &*entries)?;
        }
        for (.., name) in &earlier {
            home.remove(name)?;
        }
        Ok(journal)
    }

    /// Opens a journal that a crash left.
    pub(crate) fn open(home: Arc<Home>, name: &str) -> anyhow::Result<Option<Self>> {
        let Some(entries) = home.read::<Entries>(name)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            home,
            name: name.to_owned(),
            entries: Mutex::new(entries),
        }))
    }

    /// Returns what it holds.
    pub(crate) fn entries(&self) -> Entries {
        self.lock().clone()
    }

    /// Writes a deed down, durably, before it is done.
    pub(crate) fn will(&self, deed: Deed) -> Result<(), JobError> {
        let mut entries = self.lock();
        entries.deeds.push(deed);
        self.save(&entries)
    }

    /// Takes the last deeds back, from `keep` on, once they are undone.
    pub(crate) fn undone(&self, keep: usize) -> Result<(), JobError> {
        let mut entries = self.lock();
        entries.deeds.truncate(keep);
        self.save(&entries)
    }

    /// Writes down that the work succeeded, before the server is told, and what the job's log says of it. Without deeds
    /// there is nothing to remember.
    pub(crate) fn succeeded(&self, at: Timestamp, told: Vec<Event>) -> Result<(), JobError> {
        let mut entries = self.lock();
        if entries.deeds.is_empty() {
            return Ok(());
        }
        entries.succeeded = Some(at);
        entries.told = told;
        self.save(&entries)
    }

    /// Takes note that the VM a restore had stopped has the power it shall have.
    pub(crate) fn settled_power(&self) -> Result<(), JobError> {
        let mut entries = self.lock();
        let before = entries.deeds.len();
        let deeds = &mut entries.deeds;
        deeds.retain(|deed| !matches!(deed, Deed::StopVm { .. } | Deed::Power { .. }));
        match entries.deeds.len() == before {
            true => Ok(()),
            false => self.save(&entries),
        }
    }

    /// Writes down what was found on the host.
    pub(crate) fn found(&self, note: impl FnOnce(&mut Evidence)) -> Result<(), JobError> {
        let mut entries = self.lock();
        note(&mut entries.evidence);
        self.save(&entries)
    }

    /// Whether nothing is left to undo.
    pub(crate) fn is_settled(&self) -> bool {
        let entries = self.lock();
        entries.succeeded.is_some() || entries.deeds.is_empty()
    }

    /// Removes the journal with the records of its files: nothing is left to undo or to tell.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        for (_, record) in self.entries().data() {
            self.home.remove(record)?;
        }
        self.home.remove(&self.name)
    }

    /// Removes a journal whose deeds were taken over by a later attempt.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        self.home.remove(&self.name)
    }

    /// Returns the data folder it is in.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    fn save(&self, entries: &Entries) -> Result<(), JobError> {
        self.boundary();
        let saved = self.home.write(&self.name, entries).map_err(|error| {
            JobError::failed(
                "agent-data-folder",
                format!("cannot write the job's journal: {error:#}"),
            )
            .hint("free space in the agent's data folder and check its rights")
        });
        self.boundary();
        saved
    }

    /// Returns what a VM did before the job stopped it.
    pub(crate) fn power_before(&self, vm: VmId) -> Option<PowerState> {
        self.lock().deeds.iter().find_map(|deed| {
            if let Deed::Stop { vm: stopped, power } = deed
                && *stopped == vm
            {
                Some(*power)
            } else {
                None
            }
        })
    }

    /// A place between two steps of a job, where a crash must do no harm; tests have the agent end at one.
    pub(crate) fn boundary(&self) {
        self.home.boundary();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_attempt_begins_with_the_deeds_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::open(dir.path()).unwrap());
        let (job, vm) = (JobId::random(), VmId::random());
        let data = |path: &str| Deed::Data {
            path: path.to_owned(),
            record: format!("jobs/{job}-1-0.pieces"),
        };
        let take = |fence| Journal::take_over(Arc::clone(&home), job, Fence(fence), vm).unwrap();
        let first = take(1);
        assert!(home.journals().unwrap().is_empty());
        first.will(data("C:\\a")).unwrap();
        first.will(Deed::Publishing).unwrap();
        assert_eq!(first.entries().data_end(), 1);
        let other = JobId::random();
        let other = Journal::take_over(Arc::clone(&home), other, Fence(9), vm).unwrap();
        assert_eq!(other.entries().deeds, []);
        let second = take(2);
        assert_eq!(second.entries().deeds, first.entries().deeds);
        assert_eq!(home.journals().unwrap(), vec![second.name.clone()]);
        // Cut before the older one was removed: the newer one counts.
        second.will(data("C:\\b")).unwrap();
        first.will(Deed::Resumed).unwrap();
        let third = take(10);
        assert_eq!(third.entries().deeds, second.entries().deeds);
        assert_eq!(home.journals().unwrap(), vec![third.name.clone()]);
        third.remove().unwrap();
        assert!(home.journals().unwrap().is_empty());
    }

    #[test]
    fn a_deed_is_on_disk_before_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::open(dir.path()).unwrap());
        let journal = Journal::new(Arc::clone(&home), JobId::random(), Fence(3), VmId::random());
        assert!(home.journals().unwrap().is_empty());
        journal
            .will(Deed::File {
                path: "C:\\a".into(),
            })
            .unwrap();
        journal.will(Deed::Publishing).unwrap();
        let names = home.journals().unwrap();
        let found = Journal::open(Arc::clone(&home), &names[0])
            .unwrap()
            .unwrap();
        assert_eq!(
            found.entries().deeds,
            [
                Deed::File {
                    path: "C:\\a".into()
                },
                Deed::Publishing
            ]
        );
        found.undone(1).unwrap();
        assert_eq!(found.entries().deeds.len(), 1);
        found.remove().unwrap();
        assert!(home.journals().unwrap().is_empty());
    }
}
