//! A server, its hosts and their agents.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::host::text;
use crate::{Cli, Done, Process, SimHost};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the server.
const PAUSE: Duration = Duration::from_millis(100);

/// A whole installation in a temporary folder.
#[derive(Debug)]
pub struct World {
    /// The command line, logged in as administrator.
    pub cli: Cli,
    /// What `reprise server init` printed.
    pub made: Value,
    /// The hosts.
    pub hosts: Vec<SimHost>,
    server: Option<Process>,
    agents: Vec<(String, Option<Process>)>,
    addresses: Option<(String, String)>,
    data: PathBuf,
    folder: TempDir,
}

impl World {
    /// Sets up and starts a server.
    #[must_use]
    pub fn new(exe: &str) -> Self {
        Self::set_up(exe, None, &std::env::temp_dir())
    }

    /// Sets up a server whose data lies in this folder, with one host `HV01` and a running agent.
    #[must_use]
    pub fn with_data(exe: &str, data: &Path) -> Self {
        let mut world = Self::set_up(exe, Some(data.to_owned()), &std::env::temp_dir());
        world.add_host("HV01", &["C=64GiB", "D=64GiB"]);
        world
    }

    fn set_up(exe: &str, data: Option<PathBuf>, within: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("reprise-test-")
            .tempdir_in(within)
            .expect("a temporary folder can be made");
        let mut cli = Cli::new(exe);
        cli.set("REPRISE_PROFILE", text(&folder.path().join("profile.toml")));
        let data = data.unwrap_or_else(|| folder.path().join("server"));
        let made = cli.json(&["server", "init", "--data", text(&data), "--token", "test"]);
        cli.set(
            "REPRISE_TOKEN",
            made["token"].as_str().expect("a token was asked for"),
        );
        cli.set(
            "REPRISE_CA",
            made["ca_fingerprint"].as_str().expect("a server has a CA"),
        );
        let mut world = Self {
            cli,
            made,
            hosts: Vec::new(),
            server: None,
            agents: Vec::new(),
            addresses: None,
            data,
            folder,
        };
        world.start_server();
        world
    }

    /// Sets up a server with one host `HV01`, its volumes C and D, and a running agent.
    #[must_use]
    pub fn with_host(exe: &str) -> Self {
        let mut world = Self::new(exe);
        world.add_host("HV01", &["C=64GiB", "D=64GiB"]);
        world
    }

    /// Sets up the same within a folder, whose file system is then measured.
    #[must_use]
    pub fn within(exe: &str, folder: &Path) -> Self {
        let mut world = Self::set_up(exe, None, folder);
        world.add_host("HV01", &["C=64GiB", "D=64GiB"]);
        world
    }

    /// Returns the running programs by name, with their process ids.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let server = self
            .server
            .iter()
            .map(|server| ("server".to_owned(), server.id()));
        let agents = self.agents.iter();
        let agents = agents
            .filter_map(|(name, agent)| Some((format!("{name}-agent"), agent.as_ref()?.id())));
        let hosts = self
            .hosts
            .iter()
            .filter_map(|host| Some((host.name.clone(), host.process_id()?)));
        server.chain(agents).chain(hosts).collect()
    }

    /// Returns the folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the server, at the same addresses as before.
    pub fn start_server(&mut self) {
        let (data, port_file) = (self.data.clone(), self.path("server.port"));
        let _ = std::fs::remove_file(&port_file);
        let free = || "127.0.0.1:0".to_owned();
        let (people, agents) = self.addresses.clone().unwrap_or_else(|| (free(), free()));
        let mut words = vec![
            "server",
            "run",
            "--data",
            text(&data),
            "--listen",
            &people,
            "--agent-listen",
            &agents,
            "--port-file",
            text(&port_file),
        ];
        let config = self.path("server.toml");
        if config.exists() {
            words.extend(["--config", text(&config)]);
        }
        let mut server = Process::start(&self.cli, "server", self.folder.path(), &words);
        let ports: Value =
            serde_json::from_str(&server.wait_for_file(&port_file)).expect("the port file is JSON");
        let address = |name: &str| {
            ports[name]
                .as_str()
                .expect("the port file has addresses")
                .to_owned()
        };
        self.addresses = Some((address("listen"), address("agent_listen")));
        let port = ports["port"].as_u64().expect("the port file has a port");
        self.cli
            .set("REPRISE_SERVER", format!("https://localhost:{port}"));
        self.server = Some(server);
    }

    /// Starts the server anew with a configuration file.
    pub fn configure(&mut self, config: &str) {
        self.kill_server();
        std::fs::write(self.path("server.toml"), config).expect("write the configuration");
        self.start_server();
    }

    /// Kills the server as `kill -9` does.
    pub fn kill_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
    }

    /// Asks the server to end and waits for that.
    pub fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.terminate();
        }
    }

    /// Makes and starts a host, enrols and starts its agent, and waits until it is ready.
    pub fn add_host(&mut self, name: &str, volumes: &[&str]) -> usize {
        let mut host = SimHost::new(&self.cli, self.folder.path(), name, volumes);
        host.start();
        self.hosts.push(host);
        let index = self.hosts.len() - 1;
        let token = self.cli.json(&["host", "token"]);
        let server = self.server_url();
        let data = self.path(&format!("{name}-agent"));
        let token = token["token"].as_str().expect("a token is a text");
        self.cli.json(&[
            "agent",
            "enroll",
            "--data",
            text(&data),
            "--server",
            &server,
            "--token",
            token,
        ]);
        self.agents.push((name.to_owned(), None));
        self.start_agent(index);
        self.wait_for_host(name, "ready");
        index
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn server_url(&self) -> String {
        let (people, _) = self.addresses.as_ref().expect("the server was started");
        let port = people.rsplit(':').next().expect("an address has a port");
        format!("https://localhost:{port}")
    }

    /// Starts the agent of a host, with all its volumes mapped.
    pub fn start_agent(&mut self, host: usize) {
        self.start_agent_with(host, &[]);
    }

    /// Starts the agent of a host with more arguments.
    pub fn start_agent_with(&mut self, host: usize, more: &[&str]) {
        let (name, _) = &self.agents[host];
        let data = self.path(&format!("{name}-agent"));
        let url = self.hosts[host].url();
        let mut maps: Vec<String> = ["C", "D"]
            .iter()
            .map(|letter| format!("{letter}:\\={}", text(&self.hosts[host].volume(letter))))
            .collect();
        let shadows = self.hosts[host].shadows_folder();
        maps.push(format!(r"\\?\GLOBALROOT\Device\={}", text(&shadows)));
        let mut words = vec!["agent", "run", "--data", text(&data), "--host", &url];
        for map in &maps {
            words.extend(["--path-map", map]);
        }
        words.extend(more);
        let process = Process::start(
            &self.cli,
            &format!("{name}-agent"),
            self.folder.path(),
            &words,
        );
        self.agents[host].1 = Some(process);
    }

    /// Starts the agent of a host anew, reading and writing disks at this rate: what is to be interrupted then lasts.
    pub fn slow_agent(&mut self, host: usize, rate: &str) {
        self.kill_agent(host);
        self.start_agent_with(host, &["--max-rate", rate]);
    }

    /// Returns whether the agent of a host still runs.
    #[must_use]
    pub fn agent_runs(&self, host: usize) -> bool {
        let pid = self.agents[host].1.as_ref().map(Process::id);
        pid.is_some_and(crate::process::lives)
    }

    /// Kills the agent of a host as `kill -9` does.
    pub fn kill_agent(&mut self, host: usize) {
        if let Some(agent) = self.agents[host].1.take() {
            agent.kill();
        }
    }

    /// Returns the running agent of a host.
    #[track_caller]
    #[must_use]
    pub fn agent(&self, host: usize) -> &Process {
        self.agents[host].1.as_ref().expect("the agent runs")
    }

    /// Waits until a host is in a state: `ready`, `not-ready`, `offline`.
    #[track_caller]
    pub fn wait_for_host(&self, name: &str, state: &str) -> Value {
        self.wait_for(&format!("host {name} to be {state}"), || {
            let hosts = self.cli.json(&["host", "list"]);
            hosts
                .as_array()?
                .iter()
                .find(|host| host["name"] == name && host["state"] == state)
                .cloned()
        })
    }

    /// Waits until the server knows a VM.
    #[track_caller]
    pub fn wait_for_vm(&self, name: &str) -> Value {
        self.wait_for(&format!("VM {name} to be known"), || {
            let vms = self.cli.json(&["vm", "list"]);
            vms.as_array()?
                .iter()
                .find(|vm| vm["name"] == name && vm["state"] != "gone")
                .cloned()
        })
    }

    /// Waits until a job is in one of these states.
    #[track_caller]
    pub fn wait_for_job(&self, id: &str, states: &[&str]) -> Value {
        self.wait_for(&format!("job {id} to be one of {states:?}"), || {
            let job = self.cli.json(&["job", "show", id]);
            states.contains(&job["state"].as_str()?).then_some(job)
        })
    }

    /// Waits until `look` finds something.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited {} s for {what}",
                PATIENCE.as_secs()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Backs up a VM, which must succeed, and returns the job.
    #[track_caller]
    pub fn back_up(&self, vm: &str, more: &[&str]) -> Value {
        let done = self.run_and_wait(&["backup", "start", vm], more);
        done.expect(0);
        done.value()
    }

    /// Restores, which must succeed, and returns the job.
    #[track_caller]
    pub fn restore(&self, vm: &str, more: &[&str]) -> Value {
        let done = self.run_and_wait(&["restore", "start", vm], more);
        done.expect(0);
        done.value()
    }

    /// Runs a verb with `--wait`, whatever the end.
    pub fn run_and_wait(&self, words: &[&str], more: &[&str]) -> Done {
        let mut all = words.to_vec();
        all.extend(more);
        all.extend(["--wait", "--timeout", "5m"]);
        self.cli.run_json(&all)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let logs = std::fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten();
        for log in logs
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        {
            let text = crate::process::read(&log);
            let tail: Vec<&str> = text.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let shown = format!("==== {}\n{}\n", log.display(), tail.join("\n"));
            let _ = std::io::Write::write_all(&mut std::io::stderr(), shown.as_bytes());
        }
    }
}

/// Returns the names of a job's steps, in order.
#[must_use]
pub fn step_names(job: &Value) -> Vec<String> {
    let steps = job["steps"].as_array().cloned().unwrap_or_default();
    steps
        .iter()
        .filter_map(|step| step["name"].as_str().map(str::to_owned))
        .collect()
}

/// Returns a step of a job.
#[must_use]
pub fn find_step<'a>(job: &'a Value, name: &str) -> Option<&'a Value> {
    job["steps"]
        .as_array()?
        .iter()
        .find(|step| step["name"] == name)
}
