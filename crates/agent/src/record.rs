//! `agent record`: asks a host what an inventory and the reading side of a backup ask, and records it.
//!
//! Invariant: nothing is sent that changes anything on the host; every request is a query, a read of one object, or a
//! method that only reads. A step that fails is part of the recording and does not end it.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use hyperv::{Host, Recorder, VmSummary};
use wsman::{Epr, uri};

use crate::host;
use crate::options::HostOptions;

/// What is sent, in the order it is sent: for people, before they agree.
pub const RECORDED: &[&str] = &[
    "Identify: who the service is",
    "queries for the host, its volumes, switches, VMs, planned VMs, their settings, devices and checkpoints (inventory)",
    "four requests that must fail, to record the host's faults: an unknown class, an unknown object, a broken query, a job that never was",
    "for up to three VMs (or the one named by --vm): settings, checkpoints, reference points, state",
    "with --vm: facts of its disk files and of their parents (GetVirtualHardDiskSettingData, GetVirtualHardDiskState)",
];

/// VMs that are looked at one by one where none is named.
const SAMPLE_VMS: usize = 3;

/// How to record.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// The host; its `record` names the file.
    pub host: HostOptions,
    /// Name or id of a VM whose disks are looked at, too.
    pub vm: Option<String>,
}

/// What was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Requests with what came of them.
    pub exchanges: u64,
    /// Steps that failed, and why; they are recorded, too.
    pub failed: Vec<String>,
}

/// Asks and records.
pub async fn record(options: &RecordOptions) -> anyhow::Result<Recorded> {
    let Some(file) = &options.host.record else {
        bail!("a recording needs a file");
    };
    let connection = HostOptions {
        record: None,
        ..options.host.clone()
    };
    let (host, _) = host::connect(&connection)?;
    let recorder = Recorder::create(file);
    let recorder = recorder.with_context(|| format!("make the recording {}", file.display()))?;
    let recorder = Arc::new(recorder);
    host.session().record(Arc::clone(&recorder));

    let mut steps = Steps::default();
    steps.note("Identify", host.session().identify().await);
    steps.note("facts of the host", host.facts().await);
    steps.note("switches", host.switches().await);
    steps.note("planned VMs", host.planned_vms().await);
    let vms = steps
        .note("inventory", host.vms().await)
        .unwrap_or_default();
    refusals(&host).await;
    for vm in chosen(&vms, options.vm.as_deref())? {
        look_at(&host, vm, options.vm.is_some(), &mut steps).await;
    }
    let exchanges = recorder
        .finish()
        .with_context(|| format!("write the recording {}", file.display()))?;
    Ok(Recorded {
        exchanges,
        failed: steps.failed,
    })
}

/// Requests that must fail: what a host says then differs more than anything else.
async fn refusals(host: &Host) {
    let session = host.session();
    let namespace = uri::NS_VIRTUALIZATION;
    let unknown = Epr::new(namespace, "Msvm_ConcreteJob")
        .with("InstanceID", "00000000-0000-0000-0000-000000000000");
    let _ = session
        .query(namespace, "SELECT * FROM Msvm_NoSuchClass")
        .await;
    let _ = session
        .get(&Epr::new(namespace, "Msvm_NoSuchClass").with("Name", "x"))
        .await;
    let _ = session.query(namespace, "SELECT FROM WHERE").await;
    let _ = session.get(&unknown).await;
    let _ = session
        .query_eprs(
            namespace,
            "SELECT * FROM Msvm_VirtualSystemManagementService",
        )
        .await;
}

fn chosen<'a>(vms: &'a [VmSummary], wanted: Option<&str>) -> anyhow::Result<Vec<&'a VmSummary>> {
    let Some(wanted) = wanted else {
        return Ok(vms.iter().take(SAMPLE_VMS).collect());
    };
    let named: Vec<&VmSummary> = vms
        .iter()
        .filter(|vm| {
            vm.config.name.eq_ignore_ascii_case(wanted)
                || vm.config.id.to_string().eq_ignore_ascii_case(wanted)
        })
        .collect();
    match named.as_slice() {
        [_] => Ok(named),
        [] => bail!("the host has no VM {wanted:?}; the recording holds its inventory"),
        [..] => bail!(
            "{} VMs are named {wanted:?}; give the id instead",
            named.len()
        ),
    }
}

async fn look_at(host: &Host, vm: &VmSummary, disks: bool, steps: &mut Steps) {
    let id = vm.config.id;
    steps.note("settings of a VM", host.vm(id).await);
    steps.note("state of a VM", host.power(id).await);
    steps.note("checkpoints of a VM", host.checkpoints(id).await);
    steps.note("reference points of a VM", host.reference_points(id).await);
    steps.note("whether a VM's disks merge", host.merges_disks(id).await);
    if disks {
        for (_, _, path) in vm.config.disks() {
            steps.note("facts of a disk", host.disk_chain(path).await);
        }
    }
}

#[derive(Default)]
struct Steps {
    failed: Vec<String>,
}

impl Steps {
    fn note<T>(&mut self, what: &str, result: Result<T, hyperv::Error>) -> Option<T> {
        result
            .map_err(|error| {
                let error = anyhow::Error::new(error);
                self.failed.push(format!("{what}: {error:#}"));
            })
            .ok()
    }
}
