//! A whole installation in one folder: server, simulated host, agent, and a client logged in as administrator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use api::v1::{Host, HostToken, Page, Vm};
use api_client::{People, Trust};
use hyperv_sim::ctl::{
    Command, CtlError, DiskAdd, DiskInfo, DiskSelector, PowerAction, Reply, VmAdd, VmInfo,
};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use super::processes::{self, Program};
use crate::profile::Profile;

/// Name of the simulated host.
pub(crate) const HOST: &str = "HV01";
/// How long the host may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);

/// The installation.
#[derive(Debug)]
pub(crate) struct Site {
    folder: PathBuf,
    /// Server, simulated host, agent.
    programs: Vec<Program>,
    /// Address of the server.
    pub(crate) server: String,
    ca_file: PathBuf,
    password: String,
    token: String,
    /// A client of the server.
    pub(crate) client: People,
}

impl Site {
    /// Makes the simulated host's folder, with its volumes.
    pub(crate) fn make_host(folder: &Path) -> anyhow::Result<()> {
        let host = text(&host_folder(folder))?;
        processes::call(&[
            "sim", "init", "--dir", &host, "--name", HOST, "--volume", "C=64GiB", "--volume",
            "D=64GiB",
        ])?;
        Ok(())
    }

    /// Adds a VM to the host in `folder`, whether it runs or not; the VM stays off.
    pub(crate) fn add_vm(folder: &Path, name: &str, disks: Vec<DiskAdd>) -> anyhow::Result<VmInfo> {
        let reply = ctl(
            folder,
            &Command::VmAdd(VmAdd {
                name: name.to_owned(),
                generation: 2,
                version: None,
                disks,
                nics: vec!["LAN".to_owned()],
            }),
        )?;
        vm_of(reply)
    }

    /// Sets up and starts server, host and agent, and waits until the host is ready.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let server_data = text(&folder.join("server"))?;
        let made = processes::call(&["server", "init", "--data", &server_data, "--token", "demo"])?;
        let ports = folder.join("server.port");
        let mut server = Program::start(
            "server",
            folder,
            &[
                "server",
                "run",
                "--data",
                &server_data,
                "--listen",
                "127.0.0.1:0",
                "--agent-listen",
                "127.0.0.1:0",
                "--port-file",
                &text(&ports)?,
            ],
        )?;
        let host_dir = text(&host_folder(folder))?;
        let host_port = folder.join("host.port");
        let mut host = Program::start(
            "host",
            folder,
            &[
                "sim",
                "run",
                "--dir",
                &host_dir,
                "--listen",
                "127.0.0.1:0",
                "--port-file",
                &text(&host_port)?,
            ],
        )?;
        let ports: Value = serde_json::from_str(&server.wait_for_file(&ports)?)
            .context("understand the server's port file")?;
        let port = ports["port"]
            .as_u64()
            .ok_or_else(|| anyhow!("the server's port file names no port"))?;
        let address = format!("https://localhost:{port}");
        let token = field(&made, "token")?;
        let ca_file = PathBuf::from(field(&made, "ca_file")?);
        let trust = Trust::from_text(&field(&made, "ca_fingerprint")?)?;
        let client = People::new(&address, &trust, Some(token.clone()))?;

        let enrolment: HostToken = client
            .post("/hosts/token", &serde_json::json!({}), None)
            .await?;
        let agent_data = text(&folder.join("agent"))?;
        processes::call(&[
            "agent",
            "enroll",
            "--data",
            &agent_data,
            "--server",
            &address,
            "--token",
            &enrolment.token,
        ])?;
        let host_port = host.wait_for_file(&host_port)?;
        let host_url = format!("http://{}/wsman", host_address(&host_port)?);
        let mut words = ["agent", "run", "--data", &agent_data, "--host", &host_url]
            .map(str::to_owned)
            .to_vec();
        for letter in ["C", "D"] {
            let volume = host_folder(folder).join("volumes").join(letter);
            words.extend([
                "--path-map".to_owned(),
                format!("{letter}:\\={}", text(&volume)?),
            ]);
        }
        let shadows = host_folder(folder).join("shadows");
        words.extend([
            "--path-map".to_owned(),
            format!(r"\\?\GLOBALROOT\Device\={}", text(&shadows)?),
        ]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let agent = Program::start("agent", folder, &words)?;
        let mut site = Self {
            folder: folder.to_owned(),
            programs: vec![server, host, agent],
            server: address,
            ca_file,
            password: field(&made, "password")?,
            token,
            client,
        };
        site.wait_until_ready().await?;
        Ok(site)
    }

    /// Fails where one of the programs has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.programs.iter_mut().try_for_each(Program::check)
    }

    /// Returns the ends of the logs, for a failure that says too little by itself.
    pub(crate) fn logs(&self) -> String {
        self.programs
            .iter()
            .map(|program| format!("{}:\n{}\n", program.log().display(), program.tail()))
            .collect()
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            self.check()?;
            let hosts: Page<Host> = self.client.get("/hosts").await?;
            match hosts.items.first() {
                Some(host) if host.state == "ready" => return Ok(()),
                other if Instant::now() > deadline => {
                    let state = other.map_or("not known", |host| {
                        host.reason.as_deref().unwrap_or(&host.state)
                    });
                    bail!("the host is not ready after {} s: {state}", READY.as_secs());
                }
                Some(_) | None => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until the server knows a VM.
    pub(crate) async fn wait_for_vm(&mut self, name: &str) -> anyhow::Result<Vm> {
        let deadline = Instant::now() + READY;
        loop {
            self.check()?;
            let vms: Page<Vm> = self.client.get("/vms").await?;
            match vms.items.into_iter().find(|vm| vm.name == name) {
                Some(vm) => return Ok(vm),
                None if Instant::now() > deadline => bail!(
                    "the server does not know the VM {name} after {} s",
                    READY.as_secs()
                ),
                None => sleep(PAUSE).await,
            }
        }
    }

    /// Carries out a control command on the host.
    pub(crate) async fn ctl(&self, command: Command) -> anyhow::Result<Reply> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || ctl(&folder, &command))
            .await
            .context("wait for the host")?
    }

    /// Turns a VM on or off.
    pub(crate) async fn power(&self, vm: &str, action: PowerAction) -> anyhow::Result<()> {
        let vm = vm.to_owned();
        self.ctl(Command::Power { vm, action }).await.map(|_| ())
    }

    /// Returns what the host says about a VM.
    pub(crate) async fn vm(&self, name: &str) -> anyhow::Result<VmInfo> {
        vm_of(
            self.ctl(Command::VmShow {
                vm: name.to_owned(),
            })
            .await?,
        )
    }

    /// Returns the local path behind a path of the host.
    pub(crate) async fn local(&self, path: &str) -> anyhow::Result<PathBuf> {
        let path = path.to_owned();
        let reply = self.ctl(Command::Path { path }).await?;
        let Reply::Path(path) = reply else {
            return Err(odd(&reply));
        };
        Ok(path.local)
    }

    /// Returns the paths of the host's files that match.
    pub(crate) async fn files(&self, glob: &str) -> anyhow::Result<Vec<String>> {
        let glob = Some(glob.to_owned());
        let reply = self.ctl(Command::Files { glob }).await?;
        let Reply::Files(files) = reply else {
            return Err(odd(&reply));
        };
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    /// Hashes what the guest sees of a disk, all of it.
    pub(crate) async fn hash_disk(
        &self,
        vm: &str,
        disk: &DiskInfo,
    ) -> anyhow::Result<blake3::Hash> {
        let folder = self.folder.clone();
        let command = Command::GuestRead {
            vm: vm.to_owned(),
            disk: DiskSelector::Path(disk.path.clone()),
            offset: 0,
            length: disk.size_bytes,
        };
        let size = disk.size_bytes;
        let hash = tokio::task::spawn_blocking(move || -> anyhow::Result<blake3::Hash> {
            let mut hasher = blake3::Hasher::new();
            hyperv_sim::ctl(&host_folder(&folder), &command, &mut hasher)?;
            if hasher.count() != size {
                bail!("{} bytes of {size} were read", hasher.count());
            }
            Ok(hasher.finalize())
        });
        hash.await
            .context("read a disk")?
            .with_context(|| format!("read {} of {vm}", disk.path))
    }

    /// Leaves all programs running and writes a profile for them. Returns what a person needs to know.
    pub(crate) fn keep(self) -> anyhow::Result<Value> {
        let profile = self.folder.join("profile.toml");
        let content = Profile {
            server: self.server.clone(),
            user: "admin".to_owned(),
            token: self.token,
            expires: String::new(),
            ca: Some(std::fs::read_to_string(&self.ca_file).context("read the CA")?),
        };
        content
            .write_to(&profile)
            .map_err(|failure| anyhow!(failure.message))?;
        let processes: serde_json::Map<String, Value> = ["server", "host", "agent"]
            .into_iter()
            .zip(&self.programs)
            .map(|(name, program)| (name.to_owned(), program.id().into()))
            .collect();
        let kept = serde_json::json!({
            "folder": self.folder,
            "server": self.server,
            "ca_file": self.ca_file,
            "user": "admin",
            "password": self.password,
            "profile": profile,
            "host_dir": host_folder(&self.folder),
            "processes": processes,
        });
        processes::keep(self.programs);
        Ok(kept)
    }
}

fn host_folder(folder: &Path) -> PathBuf {
    folder.join("host")
}

fn ctl(folder: &Path, command: &Command) -> anyhow::Result<Reply> {
    let reply: Result<Reply, CtlError> =
        hyperv_sim::ctl(&host_folder(folder), command, &mut std::io::sink());
    Ok(reply?)
}

fn vm_of(reply: Reply) -> anyhow::Result<VmInfo> {
    let Reply::Vm(vm) = reply else {
        return Err(odd(&reply));
    };
    Ok(vm)
}

fn odd(reply: &Reply) -> anyhow::Error {
    anyhow!(
        "the simulated host gave another answer than was asked for: {}",
        reply.to_json()
    )
}

fn field(value: &Value, name: &str) -> anyhow::Result<String> {
    let text = value[name]
        .as_str()
        .ok_or_else(|| anyhow!("`reprise server init` printed no {name}"))?;
    Ok(text.to_owned())
}

/// The simulated host writes its port, alone or in an address.
fn host_address(text: &str) -> anyhow::Result<SocketAddr> {
    let text = text.trim();
    text.parse::<u16>()
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .or_else(|_| text.parse())
        .with_context(|| format!("understand the host's port file: {text:?}"))
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{} is not a Unicode path", path.display()))
}
