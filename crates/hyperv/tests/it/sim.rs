//! A simulated host in a temporary folder, over real HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyperv::{Endpoint, Host, HostFiles, Limits, PathMap};
use hyperv_sim::ctl::{
    Command, DiskAdd, DiskSelector, FaultRule, FaultSpec, GuestContent, PowerAction, Reply, VmAdd,
};
use hyperv_sim::{InitOptions, RunOptions, Running};
use model::{Fence, HostId, JobId, MIB, VmId, host_path};
use vhdx::{BulkWriter, Params};

/// Size of the virtual disks.
pub(crate) const DISK_BYTES: u64 = 64 * MIB;

pub(crate) struct Sim {
    dir: tempfile::TempDir,
    running: Running,
    pub(crate) id: HostId,
    pub(crate) host: Host,
    pub(crate) files: HostFiles,
}

impl Sim {
    /// Makes and starts a host. `nil_arrays` is the form of NULL arrays, which real hosts leave open.
    pub(crate) async fn start(nil_arrays: bool) -> Self {
        Self::start_with(nil_arrays, None).await
    }

    /// Makes and starts a host that asks for a log-in.
    pub(crate) async fn start_with(nil_arrays: bool, account: Option<(&str, &str)>) -> Self {
        let credentials = account.map(|(user, password)| hyperv_sim::Credentials {
            user: user.into(),
            password: password.into(),
        });
        let serve = |options| RunOptions {
            credentials,
            ..options
        };
        Self::start_served(nil_arrays, serve, |endpoint, _| endpoint).await
    }

    /// Makes a host and starts it as `serve` says; the driver connects as `connect` says, which is told the host's
    /// directory.
    pub(crate) async fn start_served(
        nil_arrays: bool,
        serve: impl FnOnce(RunOptions) -> RunOptions,
        connect: impl FnOnce(Endpoint, &Path) -> Endpoint,
    ) -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        let options = InitOptions {
            dir: dir.path().to_owned(),
            name: "HV01".into(),
            volumes: Vec::new(),
        };
        let id = hyperv_sim::init(&options).expect("the folder is new");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let running = hyperv_sim::start(serve(RunOptions::new(dir.path(), listen)));
        let running = running.await.expect("nothing else serves it");
        let limits = Limits {
            job: Duration::from_secs(10),
            settle: Duration::from_secs(10),
            merge: Duration::from_secs(10),
            first_poll: Duration::from_millis(5),
            last_poll: Duration::from_millis(50),
        };
        let host = Host::new(&connect(Endpoint::new(running.url()), dir.path()))
            .expect("the address is good")
            .with_limits(limits);
        let map = PathMap::new([(r"C:\", dir.path().join("volumes").join("C"))])
            .expect("a drive can be mapped");
        let sim = Self {
            dir,
            running,
            id,
            host,
            files: HostFiles::new(map),
        };
        sim.set("nil_arrays", &nil_arrays.to_string()).await;
        sim.set("job_millis", "20").await;
        sim.set("merge_millis", "60").await;
        sim
    }

    /// The files of the host, shadow copies included.
    pub(crate) fn files_with_shadows(&self) -> HostFiles {
        let map = PathMap::new([
            (r"C:\", self.dir.path().join("volumes").join("C")),
            (r"\\?\GLOBALROOT\Device\", self.dir.path().join("shadows")),
        ]);
        HostFiles::new(map.expect("a drive and the devices can be mapped"))
    }

    pub(crate) fn url(&self) -> String {
        self.running.url()
    }

    /// Carries out a control command.
    pub(crate) async fn ctl(&self, command: Command) -> Reply {
        self.ctl_reading(command).await.0
    }

    async fn ctl_reading(&self, command: Command) -> (Reply, Vec<u8>) {
        let dir = self.dir.path().to_owned();
        let work = move || {
            let mut data = Vec::new();
            let reply = hyperv_sim::ctl(&dir, &command, &mut data);
            (
                reply.unwrap_or_else(|error| panic!("{command:?}: {error}")),
                data,
            )
        };
        tokio::task::spawn_blocking(work)
            .await
            .expect("control commands do not panic")
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        self.ctl(Command::FaultSet {
            key: key.into(),
            value: value.into(),
        })
        .await;
    }

    /// Lets a rule strike once, for a method or operation.
    pub(crate) async fn fault(&self, rule: FaultRule, on: &str) {
        let on = (!on.is_empty()).then(|| on.to_owned());
        self.ctl(Command::FaultAdd(FaultSpec {
            rule,
            on,
            times: Some(1),
            vm: None,
        }))
        .await;
    }

    /// Lets a rule stand until it is cleared.
    pub(crate) async fn fault_always(&self, rule: FaultRule) {
        self.ctl(Command::FaultAdd(FaultSpec {
            rule,
            on: None,
            times: None,
            vm: None,
        }))
        .await;
    }

    /// Sets the size of a volume.
    pub(crate) async fn set_capacity(&self, volume: &str, capacity_bytes: u64) {
        self.ctl(Command::VolumeSet {
            volume: volume.into(),
            capacity_bytes,
        })
        .await;
    }

    /// Adds a VM with dynamic disks `C:\VMs\NAME\diskN.vhdx` and an adapter on the switch `LAN`.
    pub(crate) async fn add_vm(&self, name: &str, generation: u8, disks: usize) -> VmId {
        let folder = host_path::name_from(name);
        let mut list = Vec::new();
        for n in 0..disks {
            let path = format!(r"C:\VMs\{folder}\disk{n}.vhdx");
            list.push(DiskAdd {
                path,
                file: self.disk_file(&format!("{folder}-{n}.vhdx")),
            });
        }
        let vm = VmAdd {
            name: name.into(),
            generation,
            version: None,
            disks: list,
            nics: vec!["LAN".into()],
        };
        let Reply::Vm(vm) = self.ctl(Command::VmAdd(vm)).await else {
            panic!("no VM")
        };
        vm.id.parse().expect("ids of VMs are GUIDs")
    }

    /// Makes a VHDX beside the host, with some content.
    pub(crate) fn disk_file(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        make_disk(&path);
        path
    }

    pub(crate) async fn power(&self, vm: VmId, action: PowerAction) {
        self.ctl(Command::Power {
            vm: vm.to_string(),
            action,
        })
        .await;
    }

    /// Writes a pattern into a disk, as the guest.
    pub(crate) async fn guest_write(
        &self,
        vm: VmId,
        disk: usize,
        offset: u64,
        seed: u64,
        length: u64,
    ) {
        let content = GuestContent::Pattern { seed, length };
        self.ctl(Command::GuestWrite {
            vm: vm.to_string(),
            disk: DiskSelector::Index(disk),
            offset,
            content,
        })
        .await;
    }

    /// Reads a disk, as the guest.
    pub(crate) async fn guest_read(
        &self,
        vm: VmId,
        disk: usize,
        offset: u64,
        length: u64,
    ) -> Vec<u8> {
        let disk = DiskSelector::Index(disk);
        self.ctl_reading(Command::GuestRead {
            vm: vm.to_string(),
            disk,
            offset,
            length,
        })
        .await
        .1
    }

    pub(crate) async fn user_checkpoint(&self, vm: VmId, name: &str) {
        self.ctl(Command::CheckpointCreate {
            vm: vm.to_string(),
            name: Some(name.into()),
        })
        .await;
    }

    /// Paths of all files of the host.
    pub(crate) async fn all_files(&self) -> Vec<String> {
        let Reply::Files(files) = self.ctl(Command::Files { glob: None }).await else {
            panic!("no files")
        };
        files.into_iter().map(|file| file.path).collect()
    }
}

fn make_disk(path: &Path) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("the name is new");
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(DISK_BYTES)
    };
    let mut disk = BulkWriter::create(file, &params).expect("the parameters are good");
    let mut content = vec![0; 1 << 20];
    hyperv_sim::pattern(1, 0, &mut content);
    disk.write(0, &content).expect("there is room");
    disk.finish().expect("there is room");
}

/// What `guest_write` writes.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    hyperv_sim::pattern(seed, 0, &mut bytes);
    bytes
}

pub(crate) fn mark(fence: u64) -> hyperv::Mark {
    hyperv::Mark {
        job: JobId::random(),
        fence: Fence(fence),
    }
}
