//! A host for a test, and a plain WS-Management client that knows nothing of Hyper-V.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperv_sim::ctl::{
    CheckpointInfo, Command, CtlError, DiskAdd, DiskSelector, FaultRule, FaultSpec, GuestContent,
    PowerAction, Reply, VmAdd, VmInfo,
};
use hyperv_sim::{InitOptions, RunOptions, Running, VolumeSpec};
use tokio::task::JoinHandle;
use wsman::{
    Enumerate, Epr, Fault, Header, Instance, Item, Operation, Properties, Pull, Reply as WsReply,
    Request, Response, Value, uri,
};

pub(crate) const V2: &str = "root/virtualization/v2";
pub(crate) const CIMV2: &str = "root/cimv2";
pub(crate) const MIB: u64 = 1 << 20;
/// Size of the disks of test VMs.
pub(crate) const DISK: u64 = 64 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTP client. Even without TLS it wants to know whose cryptography it would use.
pub(crate) fn client() -> reqwest::Client {
    // A second test of this process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

pub(crate) struct Sim {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) running: Option<Running>,
    http: reqwest::Client,
}

impl Sim {
    /// A quick host with one volume, serving.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volumes = vec![VolumeSpec {
            letter: 'C',
            capacity_bytes: 1 << 40,
        }];
        hyperv_sim::init(&InitOptions {
            dir: dir.path().into(),
            name: "HV01".into(),
            volumes,
        })
        .unwrap();
        let mut sim = Self {
            dir,
            running: None,
            http: client(),
        };
        sim.serve().await;
        for (key, value) in [("job_millis", "30"), ("merge_millis", "60")] {
            sim.set(key, value).await;
        }
        sim
    }

    pub(crate) async fn serve(&mut self) {
        let options = RunOptions::new(self.dir.path(), "127.0.0.1:0".parse().unwrap());
        self.running = Some(hyperv_sim::start(options).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub(crate) fn url(&self) -> String {
        self.running.as_ref().unwrap().url()
    }

    /// Starts a command on a thread of its own; it goes on even if nobody waits for it.
    pub(crate) fn spawn_ctl(
        &self,
        command: Command,
    ) -> JoinHandle<Result<(Reply, Vec<u8>), CtlError>> {
        let dir = self.dir.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let mut data = Vec::new();
            hyperv_sim::ctl(&dir, &command, &mut data).map(|reply| (reply, data))
        })
    }

    pub(crate) async fn try_ctl(&self, command: Command) -> Result<(Reply, Vec<u8>), CtlError> {
        self.spawn_ctl(command).await.unwrap()
    }

    #[track_caller]
    pub(crate) fn ctl(&self, command: Command) -> impl Future<Output = Reply> {
        let shown = format!("{command:?}");
        let done = self.try_ctl(command);
        async move { done.await.unwrap_or_else(|err| panic!("{shown}: {err}")).0 }
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        self.ctl(Command::FaultSet {
            key: key.into(),
            value: value.into(),
        })
        .await;
    }

    pub(crate) async fn fault(&self, rule: FaultRule, on: Option<&str>, times: Option<u32>) {
        self.ctl(Command::FaultAdd(FaultSpec {
            rule,
            on: on.map(Into::into),
            times,
            vm: None,
        }))
        .await;
    }

    /// Adds a VM with one disk of pattern data, off.
    pub(crate) async fn add_vm(&self, name: &str, generation: u8) -> VmInfo {
        let file = self.disk_file(name, u64::from(generation));
        let add = VmAdd {
            name: name.into(),
            generation,
            version: None,
            disks: vec![DiskAdd {
                path: format!(r"C:\VMs\{name}\disk.vhdx"),
                file,
            }],
            nics: vec!["LAN".into()],
        };
        let Reply::Vm(vm) = self.ctl(Command::VmAdd(add)).await else {
            panic!("no VM")
        };
        vm
    }

    /// Makes a dynamic disk whose first 4 MiB hold a pattern.
    pub(crate) fn disk_file(&self, name: &str, seed: u64) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.source.vhdx"));
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        let mut params = vhdx::Params::dynamic(DISK);
        params.block_bytes = 2 << 20;
        let mut writer = vhdx::BulkWriter::create(file, &params).unwrap();
        let mut bytes = vec![0; 4 << 20];
        hyperv_sim::pattern(seed, 0, &mut bytes);
        writer.write(0, &bytes).unwrap();
        writer.finish().unwrap();
        path
    }

    pub(crate) async fn power(&self, vm: &str, action: PowerAction) -> VmInfo {
        let Reply::Vm(vm) = self
            .ctl(Command::Power {
                vm: vm.into(),
                action,
            })
            .await
        else {
            panic!("no VM")
        };
        vm
    }

    pub(crate) async fn show(&self, vm: &str) -> VmInfo {
        let Reply::Vm(vm) = self.ctl(Command::VmShow { vm: vm.into() }).await else {
            panic!("no VM")
        };
        vm
    }

    pub(crate) async fn checkpoints(&self, vm: &str) -> Vec<CheckpointInfo> {
        let reply = self.ctl(Command::CheckpointList { vm: vm.into() }).await;
        let Reply::Checkpoints(checkpoints) = reply else {
            panic!("no checkpoints")
        };
        checkpoints
    }

    pub(crate) async fn guest_write(&self, vm: &str, offset: u64, seed: u64, length: u64) {
        let content = GuestContent::Pattern { seed, length };
        self.ctl(Command::GuestWrite {
            vm: vm.into(),
            disk: DiskSelector::Index(0),
            offset,
            content,
        })
        .await;
    }

    pub(crate) async fn guest_read(&self, vm: &str) -> Vec<u8> {
        let command = Command::GuestRead {
            vm: vm.into(),
            disk: DiskSelector::Index(0),
            offset: 0,
            length: DISK,
        };
        self.try_ctl(command).await.unwrap().1
    }

    pub(crate) async fn files(&self, glob: &str) -> Vec<String> {
        let Reply::Files(files) = self
            .ctl(Command::Files {
                glob: Some(glob.into()),
            })
            .await
        else {
            panic!("no files")
        };
        files.into_iter().map(|file| file.path).collect()
    }

    pub(crate) async fn local(&self, path: &str) -> PathBuf {
        let Reply::Path(path) = self.ctl(Command::Path { path: path.into() }).await else {
            panic!("no path")
        };
        path.local
    }

    /// Waits until the host has nothing to do for a VM.
    pub(crate) async fn settle(&self, vm: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.show(vm).await.busy.is_empty() {
            assert!(Instant::now() < until, "{vm} stays busy");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn send(&self, request: &Request) -> Result<Response, String> {
        let sent = self
            .http
            .post(self.url())
            .header("Content-Type", "application/soap+xml;charset=UTF-8");
        let reply = sent
            .body(request.to_xml())
            .send()
            .await
            .map_err(|err| err.to_string())?;
        let status = reply.status();
        let bytes = reply.bytes().await.map_err(|err| err.to_string())?;
        Response::parse(&bytes).map_err(|err| format!("{status}: {err}"))
    }

    pub(crate) async fn operate(
        &self,
        header: Header,
        operation: Operation,
    ) -> Result<WsReply, Box<Fault>> {
        let header = Header {
            to: self.url(),
            message_id: "uuid:1".into(),
            ..header
        };
        let response = self.send(&Request { header, operation }).await.unwrap();
        assert_eq!(response.relates_to.as_deref(), Some("uuid:1"));
        if let WsReply::Fault(fault) = response.reply {
            return Err(fault);
        }
        Ok(response.reply)
    }

    pub(crate) async fn try_query(
        &self,
        namespace: &str,
        query: &str,
    ) -> Result<Vec<Instance>, Box<Fault>> {
        let items = self.enumerate(namespace, Enumerate::wql(query, 20)).await?;
        Ok(items
            .into_iter()
            .map(|item| {
                if let Item::Object(object) = item {
                    object
                } else {
                    panic!("{item:?}")
                }
            })
            .collect())
    }

    pub(crate) async fn enumerate(
        &self,
        namespace: &str,
        enumerate: Enumerate,
    ) -> Result<Vec<Item>, Box<Fault>> {
        let max_elements = enumerate.max_elements;
        let header = || Header {
            resource_uri: uri::query_uri(namespace),
            ..Header::default()
        };
        let reply = self
            .operate(header(), Operation::Enumerate(enumerate))
            .await?;
        let WsReply::Enumerate { batch, .. } = reply else {
            panic!("{reply:?}")
        };
        let (mut items, mut context) = (batch.items, batch.context);
        while let Some(last) = context {
            let pull = Pull {
                context: last,
                max_elements,
                ..Pull::default()
            };
            let reply = self.operate(header(), Operation::Pull(pull)).await?;
            let WsReply::Pull(batch) = reply else {
                panic!("{reply:?}")
            };
            items.extend(batch.items);
            context = batch.context;
        }
        Ok(items)
    }

    pub(crate) async fn query(&self, query: &str) -> Vec<Instance> {
        self.try_query(V2, query)
            .await
            .unwrap_or_else(|fault| panic!("{query}: {fault}"))
    }

    pub(crate) async fn one(&self, query: &str) -> Instance {
        let mut found = self.query(query).await;
        assert_eq!(found.len(), 1, "{query}");
        found.remove(0)
    }

    pub(crate) async fn try_invoke(
        &self,
        target: &Epr,
        method: &str,
        parameters: Properties,
    ) -> Result<Properties, Box<Fault>> {
        let header = Header {
            resource_uri: target.resource_uri.clone(),
            selectors: target.selectors.clone(),
            ..Header::default()
        };
        let reply = self
            .operate(
                header,
                Operation::Invoke {
                    method: method.into(),
                    parameters,
                },
            )
            .await?;
        let WsReply::Invoke { outputs, .. } = reply else {
            panic!("{reply:?}")
        };
        Ok(outputs)
    }

    /// Calls a method of one of the services; returns its outputs.
    pub(crate) async fn invoke(
        &self,
        class: &str,
        method: &str,
        parameters: Properties,
    ) -> Properties {
        let target = Epr::new(V2, class).with("CreationClassName", class);
        self.try_invoke(&target, method, parameters)
            .await
            .unwrap_or_else(|fault| panic!("{method}: {fault}"))
    }

    /// Calls a method and follows its job to the end; returns the job.
    pub(crate) async fn run(&self, class: &str, method: &str, parameters: Properties) -> Instance {
        let outputs = self.invoke(class, method, parameters).await;
        assert_eq!(
            outputs.u32("ReturnValue"),
            Some(4096),
            "{method}: {outputs:?}"
        );
        self.follow(&outputs).await
    }

    pub(crate) async fn follow(&self, outputs: &Properties) -> Instance {
        let id = outputs
            .epr("Job")
            .expect("a job")
            .get("InstanceID")
            .unwrap();
        self.job_end(id).await
    }

    /// Waits for a job's end.
    pub(crate) async fn job_end(&self, id: &str) -> Instance {
        let query = format!("SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = '{id}'");
        let until = Instant::now() + PATIENCE;
        loop {
            let job = self.one(&query).await;
            match job.u16("JobState").unwrap() {
                2..=6 => assert!(Instant::now() < until, "{job:?}"),
                _ => return job,
            }
        }
    }

    /// Like [`Sim::run`], for what must succeed; returns the objects of a class that the job affected.
    pub(crate) async fn done(
        &self,
        class: &str,
        method: &str,
        parameters: Properties,
        result: &str,
    ) -> Vec<Instance> {
        let job = self.run(class, method, parameters).await;
        assert_eq!(
            job.u16("JobState"),
            Some(7),
            "{method}: {:?}",
            job.text("ErrorDescription")
        );
        let id = job.text("InstanceID").unwrap();
        self.query(&format!(
            "ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID='{id}'}} WHERE AssocClass = Msvm_AffectedJobElement \
             ResultClass = {result}"
        ))
        .await
    }

    /// Takes a backup checkpoint; returns its settings.
    pub(crate) async fn recovery_checkpoint(&self, vm: &str, level: u8) -> Instance {
        let settings =
            Instance::new("Msvm_VirtualSystemSnapshotSettingData").with("ConsistencyLevel", level);
        let parameters = Properties::new()
            .with("AffectedSystem", system(vm))
            .with("SnapshotSettings", Value::embedded(&settings))
            .with("SnapshotType", 32768_u16);
        let mut made = self
            .done(
                "Msvm_VirtualSystemSnapshotService",
                "CreateSnapshot",
                parameters,
                "Msvm_VirtualSystemSettingData",
            )
            .await;
        assert_eq!(made.len(), 1);
        made.remove(0)
    }

    /// Turns a backup checkpoint into a reference point.
    pub(crate) async fn convert(&self, checkpoint: &Instance) -> Instance {
        let parameters = Properties::new().with(
            "AffectedSnapshot",
            settings(checkpoint.text("InstanceID").unwrap()),
        );
        let mut made = self
            .done(
                "Msvm_VirtualSystemSnapshotService",
                "ConvertToReferencePoint",
                parameters,
                "Msvm_VirtualSystemReferencePoint",
            )
            .await;
        assert_eq!(made.len(), 1);
        made.remove(0)
    }

    /// Returns the disks of settings, as InstanceID and file.
    pub(crate) async fn disks_of(&self, settings: &str) -> Vec<(String, String)> {
        let path = settings.replace('\\', r"\\");
        let found = self
            .query(&format!(
                "ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='{path}'}} WHERE AssocClass = \
                 Msvm_VirtualSystemSettingDataComponent ResultClass = Msvm_StorageAllocationSettingData"
            ))
            .await;
        let disk = |bag: &Instance| {
            (
                bag.text("InstanceID").unwrap().to_owned(),
                bag.texts("HostResource")[0].to_owned(),
            )
        };
        found.iter().map(disk).collect()
    }

    /// Asks for all changes of a file since an id, whatever the number of calls.
    pub(crate) async fn changes(&self, path: &str, id: &str) -> Vec<(u64, u64)> {
        self.try_changes(path, id).await.expect("the id is known")
    }

    /// Like [`Sim::changes`]; nothing where the id is not known.
    pub(crate) async fn try_changes(&self, path: &str, id: &str) -> Option<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < DISK {
            let parameters = changes(path, id, at, DISK - at);
            let outputs = self
                .invoke(
                    "Msvm_ImageManagementService",
                    "GetVirtualDiskChanges",
                    parameters,
                )
                .await;
            match outputs.u32("ReturnValue") {
                Some(0) => {}
                Some(32773) => return None,
                other => panic!("{other:?}"),
            }
            let offsets = outputs.u64s("ChangedByteOffsets").unwrap();
            found.extend(
                offsets
                    .into_iter()
                    .zip(outputs.u64s("ChangedByteLengths").unwrap()),
            );
            at += outputs.u64("ProcessedByteLength").unwrap();
        }
        Some(found)
    }
}

pub(crate) fn changes(path: &str, id: &str, offset: u64, length: u64) -> Properties {
    Properties::new()
        .with("Path", path)
        .with("LimitId", id)
        .with("TargetSnapshotId", "")
        .with("ByteOffset", offset)
        .with("ByteLength", length)
}

pub(crate) fn system(vm: &str) -> Epr {
    Epr::new(V2, "Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", vm.to_lowercase())
}

pub(crate) fn settings(id: &str) -> Epr {
    Epr::new(V2, "Msvm_VirtualSystemSettingData").with("InstanceID", id)
}

/// Reads the whole of a chain of files below a folder, whatever anybody holds.
pub(crate) fn read_chain(local: &Path) -> Vec<u8> {
    let folder = local.parent().unwrap();
    let name = local.file_name().unwrap().to_str().unwrap();
    let leaf = std::fs::File::open(local).unwrap();
    let chain = vhdx::Chain::open(leaf, name, &vhdx::DirectoryResolver::new(folder)).unwrap();
    let disk = chain.into_disk();
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}
