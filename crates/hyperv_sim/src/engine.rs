//! The host at work: its state, and the threads that carry out jobs and merges.
//!
//! Locks are taken in this order and never the other way: a VM's disks, then the state. The state's lock is held for
//! as long as it takes to write one file. Whoever changes a VM's settings, checkpoints or files holds that VM's disks.

mod running;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::SimError;
use crate::checkpoints;
use crate::clock::now;
use crate::config_files;
use crate::ctl::FaultRule;
use crate::disks::VmDisks;
use crate::failure::Failure;
use crate::faults;
use crate::jobs::Job;
use crate::merge;
use crate::methods::{Mounted, Operation};
use crate::shadow;
use crate::state::{HostState, Knobs, Layout, Power, Vm, load_host, load_jobs, load_vms, save};
use crate::winpath::WinPath;

/// The host's state in memory; always what is on disk.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) host: HostState,
    pub(crate) vms: BTreeMap<Uuid, Vm>,
    pub(crate) jobs: Vec<Job>,
    /// By job: the share of its work that is done, in percent. Not kept.
    pub(crate) done: HashMap<Uuid, u64>,
    /// Disk files mounted on the host. Not kept.
    pub(crate) mounted: Vec<Mounted>,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Time is up.
    Out,
    /// The host stops.
    Stopped,
    /// A client ended the job.
    Cancelled,
}

/// A VM's disks, and how many wait for them.
#[derive(Debug, Default)]
pub(crate) struct DiskLock {
    disks: Mutex<VmDisks>,
    waiting: AtomicUsize,
}

impl DiskLock {
    /// Runs `work` while nobody else touches the VM's files.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut VmDisks) -> T) -> T {
        work(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, VmDisks> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let disks = lock(&self.disks);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        disks
    }

    /// Whether somebody waits for the disks.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// A host at work.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) layout: Layout,
    /// Never changes; can be asked for under any lock.
    name: String,
    _lock: File,
    state: Mutex<State>,
    /// Signalled at every change of the state, and at the stop.
    changed: Condvar,
    disks: Mutex<HashMap<Uuid, Arc<DiskLock>>>,
    stop: AtomicBool,
    workers: Mutex<Vec<JoinHandle<()>>>,
    /// VMs that a thread is merging files for.
    pub(crate) merging: Mutex<HashSet<Uuid>>,
    /// Held while a shadow copy is being made.
    pub(crate) shadowing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one request must not take the host down; state is only replaced after it was written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Opens the host in a directory: takes its lock, gives running VMs their disks, takes up unfinished work.
    pub(crate) fn open(dir: &Path) -> Result<Arc<Self>, SimError> {
        let layout = Layout::new(dir);
        if !layout.host().exists() {
            return Err(SimError::NoHost {
                dir: dir.to_owned(),
            });
        }
        let io = |source| SimError::Io {
            action: format!("lock {}", layout.lock().display()),
            source,
        };
        let lock_file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(layout.lock())
            .map_err(io)?;
        match lock_file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SimError::InUse {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let state = State {
            host: load_host(&layout)?,
            vms: load_vms(&layout)?,
            jobs: load_jobs(&layout)?.jobs,
            done: HashMap::new(),
            mounted: Vec::new(),
        };
        let engine = Arc::new(Self {
            layout,
            name: state.host.name.clone(),
            _lock: lock_file,
            state: Mutex::new(state),
            changed: Condvar::new(),
            disks: Mutex::default(),
            stop: AtomicBool::new(false),
            workers: Mutex::default(),
            merging: Mutex::default(),
            shadowing: Mutex::default(),
        });
        engine.resume();
        Ok(engine)
    }

    /// Takes up what a stop or kill interrupted.
    fn resume(self: &Arc<Self>) {
        shadow::remove_strays(self);
        let (vms, jobs): (Vec<Vm>, Vec<Job>) = self.read(|state| {
            let open = state.jobs.iter().filter(|job| job.outcome.is_none());
            let open = open.cloned().collect();
            (state.vms.values().cloned().collect(), open)
        });
        // Their jobs go on below.
        for job in &jobs {
            if let Operation::MergeDisks { vm } = job.operation {
                lock(&self.merging).insert(vm);
            }
        }
        for vm in vms {
            if vm.chain_locked || vm.merge_put_off {
                // Merging that was switched off or ended is on again after a restart of the service.
                let on = self.update_vm(vm.id, |vm| {
                    vm.chain_locked = false;
                    vm.merge_put_off = false;
                    Ok(())
                });
                if let Err(err) = on {
                    tracing::error!("merging stays off for {}: {err}", vm.name());
                }
            }
            self.write_config(&vm);
            if let Err(err) = checkpoints::remove_stale_files(self, vm.id) {
                tracing::warn!("failed to remove files of {}: {err}", vm.name());
            }
            merge::finish_interrupted(self, vm.id);
            let Some(vm) = self.vm(vm.id) else { continue };
            if vm.power.holds_disks() {
                let attached = self.with_disks(vm.id, |disks| disks.attach_all(self, &vm));
                if let Err(err) = attached {
                    tracing::warn!("{} cannot run on and is off: {err}", vm.name());
                    let off = self.update_vm(vm.id, |vm| {
                        vm.power = Power::Off;
                        Ok(())
                    });
                    if let Err(err) = off {
                        tracing::error!("failed to turn off {}: {err}", vm.name());
                    }
                }
            }
            self.start_merging(vm.id);
        }
        for job in jobs {
            self.spawn_job(job.id);
        }
    }

    /// Stops all work at a safe point and lets go of the disks.
    pub(crate) fn close(&self) {
        {
            let _state = lock(&self.state);
            self.stop.store(true, Ordering::SeqCst);
            self.changed.notify_all();
        }
        loop {
            let workers = std::mem::take(&mut *lock(&self.workers));
            if workers.is_empty() {
                break;
            }
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("a worker of the simulated host panicked");
                }
            }
        }
        for (_, disks) in lock(&self.disks).drain() {
            disks.with(|disks| disks.detach_all(self));
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Returns the local file behind a Windows path.
    pub(crate) fn local(&self, path: &WinPath) -> PathBuf {
        path.local(&self.layout)
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.state))
    }

    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn knobs(&self) -> Knobs {
        self.read(|state| state.host.knobs.clone())
    }

    pub(crate) fn vm(&self, id: Uuid) -> Option<Vm> {
        self.read(|state| state.vms.get(&id).cloned())
    }

    /// Returns a VM that a method named; a failure where it is gone.
    pub(crate) fn need_vm(&self, id: Uuid) -> Result<Vm, Failure> {
        self.vm(id).ok_or_else(|| {
            Failure::invalid(format!(
                "there is no virtual machine {}",
                crate::state::guid(id)
            ))
        })
    }

    /// Changes the host's own state.
    pub(crate) fn update_host<T>(
        &self,
        change: impl FnOnce(&mut HostState) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut state = lock(&self.state);
        let mut host = state.host.clone();
        let value = change(&mut host)?;
        save(&self.layout.host(), &host)
            .map_err(|err| Failure::io("write the host's state", &err))?;
        state.host = host;
        self.changed.notify_all();
        Ok(value)
    }

    /// Changes which disk files are mounted on the host.
    pub(crate) fn update_mounted(&self, change: impl FnOnce(&mut Vec<Mounted>)) {
        change(&mut lock(&self.state).mounted);
        self.changed.notify_all();
    }

    /// Changes a VM: on disk first, then for everybody to see. Its configuration files follow.
    pub(crate) fn update_vm<T>(
        &self,
        id: Uuid,
        change: impl FnOnce(&mut Vm) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut state = lock(&self.state);
        let old = state
            .vms
            .get(&id)
            .ok_or_else(|| Failure::invalid("the virtual machine is gone"))?;
        let mut vm = old.clone();
        let value = change(&mut vm)?;
        let configured = !vm.definitions().eq(old.definitions());
        if configured {
            vm.config_changed = now();
        }
        if vm.power != old.power {
            vm.state_changed = now();
        }
        self.save_vm(&vm)?;
        state.vms.insert(id, vm.clone());
        self.changed.notify_all();
        drop(state);
        if configured {
            self.write_config(&vm);
        }
        Ok(value)
    }

    pub(crate) fn insert_vm(&self, vm: Vm) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        if state.vms.contains_key(&vm.id) {
            return Err(Failure::failed(format!(
                "a virtual machine with the id {} exists",
                crate::state::guid(vm.id)
            )));
        }
        self.save_vm(&vm)?;
        state.vms.insert(vm.id, vm.clone());
        self.changed.notify_all();
        drop(state);
        self.write_config(&vm);
        Ok(())
    }

    /// The change is made whether or not its copy in the configuration files can be: the next change writes them again.
    fn write_config(&self, vm: &Vm) {
        if let Err(err) = config_files::write(self, vm) {
            tracing::error!("failed to write the configuration of {}: {err}", vm.name());
        }
    }

    pub(crate) fn remove_vm(&self, id: Uuid) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        std::fs::remove_file(self.layout.vm(id))
            .map_err(|err| Failure::io("remove the VM's state", &err))?;
        state.vms.remove(&id);
        self.changed.notify_all();
        drop(state);
        lock(&self.disks).remove(&id);
        Ok(())
    }

    fn save_vm(&self, vm: &Vm) -> Result<(), Failure> {
        save(&self.layout.vm(vm.id), vm).map_err(|err| Failure::io("write the VM's state", &err))
    }

    /// Returns a VM's disks; whoever locks them may change its files.
    pub(crate) fn disks_of(&self, id: Uuid) -> Arc<DiskLock> {
        lock(&self.disks).entry(id).or_default().clone()
    }

    /// Runs `work` while nobody else touches the VM's files.
    pub(crate) fn with_disks<T>(&self, id: Uuid, work: impl FnOnce(&mut VmDisks) -> T) -> T {
        self.disks_of(id).with(work)
    }

    /// Runs `work` while nobody touches the files of any VM; it gets the disk files that VMs hold.
    pub(crate) fn with_all_disks<T>(&self, work: impl FnOnce(&[WinPath]) -> T) -> T {
        // In the order of ids, and nobody else holds more than one: two cannot wait for each other.
        let ids: Vec<Uuid> = self.read(|state| state.vms.keys().copied().collect());
        let disks: Vec<_> = ids.into_iter().map(|id| self.disks_of(id)).collect();
        let held: Vec<_> = disks.iter().map(|disks| disks.lock()).collect();
        let open: Vec<WinPath> = held
            .iter()
            .flat_map(|disks| &disks.open)
            .map(|disk| disk.path.clone())
            .collect();
        work(&open)
    }

    /// Takes a fault that applies, counting it.
    pub(crate) fn fault(&self, rule: FaultRule, on: &[&str], vm: Option<Uuid>) -> bool {
        self.fault_with(|it| (it == rule).then_some(()), on, vm)
            .is_some()
    }

    /// Takes the first fault that `wanted` picks and that applies, counting it.
    pub(crate) fn fault_with<T>(
        &self,
        wanted: impl Fn(FaultRule) -> Option<T>,
        on: &[&str],
        vm: Option<Uuid>,
    ) -> Option<T> {
        let mut state = lock(&self.state);
        if state.host.faults.is_empty() {
            return None;
        }
        let names = vm.map(|id| {
            let name = state.vms.get(&id).map(|vm| vm.name().to_owned());
            (crate::state::guid(id), name.unwrap_or_default())
        });
        let (at, value) = faults::applies(&state.host.faults, wanted, on, names.as_ref())?;
        // Hits of a rule without limit are written with the next change of the host.
        if faults::count(&mut state.host.faults, at)
            && let Err(err) = save(&self.layout.host(), &state.host)
        {
            tracing::error!("failed to write the fault rules: {err}");
        }
        Some(value)
    }

    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let mut workers = lock(&self.workers);
        if self.is_stopping() {
            return;
        }
        workers.retain(|worker| !worker.is_finished());
        match std::thread::Builder::new()
            .name(format!("sim {name}"))
            .spawn(work)
        {
            Ok(worker) => workers.push(worker),
            Err(err) => tracing::error!("failed to start a thread: {err}"),
        }
    }

    /// Waits; false where the host stops meanwhile.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        self.wait(time, |_| false) != Waited::Stopped
    }

    /// Waits on behalf of a job.
    pub(crate) fn pause_job(&self, job: Uuid, time: Duration) -> Waited {
        self.wait(time, |state| is_cancelled(state, job))
    }

    fn wait(&self, time: Duration, is_cancelled: impl Fn(&State) -> bool) -> Waited {
        let until = Instant::now() + time;
        let mut state = lock(&self.state);
        loop {
            if self.is_stopping() {
                return Waited::Stopped;
            }
            if is_cancelled(&state) {
                return Waited::Cancelled;
            }
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Waited::Out;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the state is as wished; nothing where the host stops or time runs out first.
    pub(crate) fn wait_for<T>(
        &self,
        limit: Duration,
        mut wish: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + limit;
        let mut state = lock(&self.state);
        loop {
            if let Some(value) = wish(&state) {
                return Some(value);
            }
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            if self.is_stopping() {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn is_cancelled(state: &State, job: Uuid) -> bool {
    let job = state.jobs.iter().find(|there| there.id == job);
    job.is_some_and(|job| job.cancelled.is_some())
}
