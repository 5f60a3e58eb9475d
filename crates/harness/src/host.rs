//! A simulated host, seen through `reprise sim ctl`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Cli, Done, Process};

/// A simulated host; its process may run or not.
#[derive(Debug)]
pub struct SimHost {
    cli: Cli,
    /// Its name.
    pub name: String,
    folder: PathBuf,
    dir: PathBuf,
    address: Option<String>,
    process: Option<Process>,
}

impl SimHost {
    /// Makes a host with volumes such as `C=64GiB`.
    #[must_use]
    pub fn new(cli: &Cli, folder: &Path, name: &str, volumes: &[&str]) -> Self {
        let dir = folder.join(name);
        let mut words = vec!["sim", "init", "--dir", text(&dir), "--name", name];
        for volume in volumes {
            words.extend(["--volume", volume]);
        }
        cli.json(&words);
        Self {
            cli: cli.clone(),
            name: name.to_owned(),
            folder: folder.to_owned(),
            dir,
            address: None,
            process: None,
        }
    }

    /// Starts the host, at the same address as before.
    pub fn start(&mut self) {
        let port_file = self.folder.join(format!("{}.port", self.name));
        let _ = std::fs::remove_file(&port_file);
        let listen = self
            .address
            .clone()
            .unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let words = [
            "sim",
            "run",
            "--dir",
            text(&self.dir),
            "--listen",
            &listen,
            "--port-file",
            text(&port_file),
        ];
        let mut process = Process::start(&self.cli, &self.name, &self.folder, &words);
        let port = process.wait_for_file(&port_file);
        let port = port.trim();
        self.address = Some(if port.contains(':') {
            port.to_owned()
        } else {
            format!("127.0.0.1:{port}")
        });
        self.process = Some(process);
    }

    /// Returns the id of its process, where it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Kills the host as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Returns its WS-Management address.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "http://{}/wsman",
            self.address.as_deref().expect("the host was started")
        )
    }

    /// Returns the local folder of a volume.
    #[must_use]
    pub fn volume(&self, letter: &str) -> PathBuf {
        self.dir.join("volumes").join(letter)
    }

    /// Returns the local folder that stands for the devices of shadow copies.
    #[must_use]
    pub fn shadows_folder(&self) -> PathBuf {
        self.dir.join("shadows")
    }

    /// Returns the names of the shadow copies that exist.
    #[must_use]
    pub fn shadows(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.shadows_folder())
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Carries out a control verb, which must succeed.
    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> Value {
        let done = self.run_ctl(words);
        done.expect(0);
        done.value()
    }

    /// Carries out a control verb, whatever the end.
    pub fn run_ctl(&self, words: &[&str]) -> Done {
        let mut all = vec!["sim", "ctl", "--dir", text(&self.dir)];
        all.extend(words);
        self.cli.run_json(&all)
    }

    /// Adds a VM with disks (`C:\...` and the local file that is copied there) on a switch named LAN.
    #[track_caller]
    pub fn add_vm(&self, name: &str, disks: &[(&str, &Path)]) -> Value {
        let disks: Vec<String> = disks
            .iter()
            .map(|(path, file)| format!("{path}={}", text(file)))
            .collect();
        let mut words = vec!["vm", "add", name, "--nic", "LAN"];
        for disk in &disks {
            words.extend(["--disk", disk]);
        }
        self.ctl(&words)
    }

    /// Returns a VM, or `None` where there is none of that name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<Value> {
        let done = self.run_ctl(&["vm", "show", name]);
        (done.code == 0).then(|| done.value())
    }

    /// Hashes what the guest sees of a disk, by its place in the order of attachment.
    #[track_caller]
    #[must_use]
    pub fn guest_hash(&self, vm: &str, disk: usize) -> String {
        let shown = self
            .vm(vm)
            .unwrap_or_else(|| panic!("{} has no VM {vm}", self.name));
        let size = shown["disks"][disk]["size_bytes"]
            .as_u64()
            .expect("a disk has a size");
        let (disk, length) = (disk.to_string(), size.to_string());
        let words = [
            "sim",
            "ctl",
            "--dir",
            text(&self.dir),
            "guest",
            "read",
            vm,
            &disk,
            "--offset",
            "0",
            "--length",
            &length,
        ];
        let done = self.cli.run(&words);
        done.expect(0);
        assert_eq!(done.stdout.len() as u64, size, "bytes read of {vm}");
        blake3::hash(&done.stdout).to_hex().to_string()
    }

    /// Returns host paths and sizes of the files like `glob`.
    #[track_caller]
    #[must_use]
    pub fn files(&self, glob: &str) -> Vec<(String, u64)> {
        let files = self.ctl(&["files", "--glob", glob]);
        let files = files.as_array().expect("files is a list").iter();
        files
            .map(|file| {
                let path = file["path"].as_str().expect("a file has a path");
                (
                    path.to_owned(),
                    file["size_bytes"].as_u64().expect("a file has a size"),
                )
            })
            .collect()
    }

    /// Returns the local path behind a path of the host.
    #[track_caller]
    #[must_use]
    pub fn local(&self, path: &str) -> PathBuf {
        self.ctl(&["path", path])["local"]
            .as_str()
            .expect("a path has a local one")
            .into()
    }

    /// Returns everything a person could see of the host: its files with their sizes, its VMs, their checkpoints.
    #[track_caller]
    #[must_use]
    pub fn facts(&self) -> Value {
        let vms = self.ctl(&["vm", "list"]);
        let names: Vec<String> = vms
            .as_array()
            .expect("VMs are a list")
            .iter()
            .map(|vm| vm["id"].as_str().expect("a VM has an id").to_owned())
            .collect();
        let checkpoints: Vec<Value> = names
            .iter()
            .map(|vm| self.ctl(&["checkpoint", "list", vm]))
            .collect();
        serde_json::json!({ "files": self.ctl(&["files"]), "vms": vms, "checkpoints": checkpoints })
    }
}

/// Returns a path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are Unicode")
}
