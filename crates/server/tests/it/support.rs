//! A running server on port 0, its administrator, and agents that say what the test wants.

use std::path::{Path, PathBuf};

use api::agent_v1 as v1;
use api::v1::{BackupRequest, HostToken, Job, Jobs, NewToken, Role, TokenSpec};
use api_client::{Agent, AgentIdentity, ClientError, People, Trust};
use model::{HostId, JobId, VmId};
use server::{InitOptions, PortFile, RunOptions};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server with its data folder.
pub(crate) struct TestServer {
    pub(crate) dir: TempDir,
    pub(crate) admin_password: String,
    pub(crate) token: String,
    pub(crate) ports: PortFile,
    running: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

impl TestServer {
    /// Sets up a server and starts it.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = InitOptions::new(dir.path().join("data"));
        options.token_name = Some("tests".to_owned());
        let made = server::init(options).await.unwrap();
        let (ports, running) = run(dir.path()).await;
        Self {
            dir,
            admin_password: made.admin_password,
            token: made.token.unwrap(),
            ports,
            running: Some(running),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Stops the server as a signal would.
    pub(crate) async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
    }

    /// Stops and starts the server; ports change.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts after [`Self::stop`]; ports change.
    pub(crate) async fn start_again(&mut self) {
        let (ports, running) = run(self.dir.path()).await;
        self.ports = ports;
        self.running = Some(running);
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.ports.port)
    }

    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(&self.ports.ca_file).unwrap()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::CaPem(self.ca_pem())
    }

    /// The administrator.
    pub(crate) fn admin(&self) -> People {
        People::new(&self.url(), &self.trust(), Some(self.token.clone())).unwrap()
    }

    /// Someone with a token of this role.
    pub(crate) async fn with_role(&self, role: Role) -> String {
        let spec = TokenSpec {
            name: format!("{role:?}"),
            role,
            days: None,
        };
        let made: NewToken = self.admin().post("/tokens", &spec, None).await.unwrap();
        made.secret
    }

    /// A plain HTTP client that trusts the server.
    pub(crate) fn http(&self) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.ca_pem().as_bytes()).unwrap();
        install_provider();
        reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .build()
            .unwrap()
    }

    /// Enrols an agent for a host.
    pub(crate) async fn enrol(&self, host: HostId) -> FakeAgent {
        let token: HostToken = self.admin().post("/hosts/token", &(), None).await.unwrap();
        self.enrol_with(&token.token, host).await.unwrap()
    }

    /// Enrols with a token that may not be good.
    pub(crate) async fn enrol_with(
        &self,
        token: &str,
        host: HostId,
    ) -> Result<FakeAgent, ClientError> {
        let token: api::EnrolToken = token.parse().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let request = v1::EnrolRequest {
            secret: token.secret,
            csr_pem: csr.pem().unwrap(),
            machine: "hv01".to_owned(),
            version: "test".to_owned(),
        };
        let trust = Trust::Fingerprint(token.ca_fingerprint);
        let reply = api_client::enroll(&self.url(), &trust, &request).await?;
        let identity = AgentIdentity {
            agent: reply.agent,
            url: format!("https://localhost:{}", reply.agent_port),
            certificate_pem: reply.certificate_pem,
            key_pem: key.serialize_pem(),
            ca_pem: reply.ca_pem,
            since: model::Timestamp::from_millis(0),
            expires: reply.expires,
        };
        Ok(FakeAgent::new(identity, host))
    }

    /// Starts a backup of a VM.
    pub(crate) async fn start_backup(&self, vm: VmId, full: bool) -> JobId {
        let request = BackupRequest {
            vms: vec![vm.to_string()],
            full,
            method: None,
        };
        let jobs: Jobs = self.admin().post("/backups", &request, None).await.unwrap();
        jobs.jobs[0].id.parse().unwrap()
    }

    pub(crate) async fn job(&self, job: JobId) -> Job {
        self.admin().get(&format!("/jobs/{job}")).await.unwrap()
    }

    /// Waits until a job is as wanted, by the API that waits.
    pub(crate) async fn wait_for(&self, job: JobId, wanted: impl Fn(&Job) -> bool) -> Job {
        let mut found = self.job(job).await;
        for _ in 0..200 {
            if wanted(&found) {
                return found;
            }
            let path = format!("/jobs/{job}/wait?change={}&secs=20", found.change);
            found = self.admin().get(&path).await.unwrap();
        }
        panic!("never as wanted: {found:?}");
    }
}

fn install_provider() {
    // A second time is no error that matters.
    let _again = rustls::crypto::ring::default_provider().install_default();
}

async fn run(
    dir: &Path,
) -> (
    PortFile,
    (oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>),
) {
    let config = dir.join("server.toml");
    std::fs::write(&config, "[jobs]\ntick = '1s'\nagent_offline = '60s'\n").unwrap();
    let options = RunOptions {
        data_dir: Some(dir.join("data")),
        config: Some(config),
        listen: Some(([127, 0, 0, 1], 0).into()),
        agent_listen: Some(([127, 0, 0, 1], 0).into()),
        port_file: Some(dir.join("ports.json")),
        master_key: None,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(server::run_and_tell(
        options,
        move |ports| tell.send(ports.clone()).unwrap(),
        async move {
            stopped.await.ok();
        },
    ));
    let ports = tokio::select! {
        ports = told => ports.unwrap(),
        else => panic!("the server did not start"),
    };
    (ports, (stop, task))
}

/// An agent whose words are the test's.
pub(crate) struct FakeAgent {
    pub(crate) identity: AgentIdentity,
    pub(crate) client: Agent,
    pub(crate) host: v1::HostIdentity,
    pub(crate) instance: String,
}

impl FakeAgent {
    fn new(identity: AgentIdentity, host: HostId) -> Self {
        let client = Agent::new(&identity).unwrap();
        let host = v1::HostIdentity {
            id: host,
            name: "HV01".to_owned(),
            os_version: "10.0.20348".to_owned(),
        };
        Self {
            identity,
            client,
            host,
            instance: "one".to_owned(),
        }
    }

    /// The same identity at the server's new address, as another process.
    pub(crate) fn moved_to(&self, server: &TestServer, instance: &str) -> Self {
        let mut identity = self.identity.clone();
        identity.url = format!("https://localhost:{}", server.ports.agent_port);
        let mut agent = Self::new(identity, self.host.id);
        agent.instance = instance.to_owned();
        agent
    }

    pub(crate) fn poll_request(&self, running: &[JobId]) -> v1::PollRequest {
        v1::PollRequest {
            wait_secs: 0,
            instance: self.instance.clone(),
            version: "test".to_owned(),
            readiness: v1::Readiness::Ready,
            host: Some(self.host.clone()),
            running: running.to_vec(),
            slots: 4,
            answering: Vec::new(),
        }
    }

    /// Polls, ready, without waiting.
    pub(crate) async fn poll(&self, running: &[JobId]) -> v1::PollReply {
        self.client.poll(&self.poll_request(running)).await.unwrap()
    }

    /// Polls until there is work.
    pub(crate) async fn next_work(&self) -> v1::Assignment {
        let mut request = self.poll_request(&[]);
        request.wait_secs = 20;
        // A poll may end early because an inventory is wanted.
        for _ in 0..5 {
            let reply = self.client.poll(&request).await.unwrap();
            if let Some(assignment) = reply.assignment {
                return assignment;
            }
        }
        panic!("there should be work");
    }

    /// Lists one running VM with one disk.
    pub(crate) async fn list_vm(&self, vm: VmId, name: &str) {
        // Says which host it serves, and takes no work.
        let mut request = self.poll_request(&[]);
        request.slots = 0;
        self.client.poll(&request).await.unwrap();
        let inventory = v1::Inventory {
            host: self.host.clone(),
            vms: vec![v1::InventoryVm {
                id: vm,
                name: name.to_owned(),
                state: "running".to_owned(),
                generation: 2,
                version: "9.0".to_owned(),
                disks: vec![v1::InventoryDisk {
                    path: "C:\\vms\\disk0.vhdx".to_owned(),
                    slot: "scsi 0:0".to_owned(),
                }],
                checkpoints: 0,
                unsupported: Vec::new(),
                macs: Vec::new(),
            }],
        };
        self.client.inventory(&inventory).await.unwrap();
    }

    /// Reports events, numbered from `first`.
    pub(crate) async fn report(
        &self,
        assignment: &v1::Assignment,
        first: u64,
        events: Vec<v1::EventKind>,
    ) -> Result<v1::ReportReply, ClientError> {
        let now = model::Timestamp::from_millis(jiff::Timestamp::now().as_millisecond());
        let events = (first..).zip(events);
        let events = events
            .map(|(number, what)| v1::Event {
                number,
                at: now,
                what,
            })
            .collect();
        let report = v1::Report {
            fence: assignment.fence,
            events,
            progress: None,
            figures: None,
        };
        self.client.report(assignment.job, &report).await
    }

    /// Begins and ends steps.
    pub(crate) async fn steps(&self, assignment: &v1::Assignment, first: u64, names: &[&str]) {
        let mut events = Vec::new();
        for name in names {
            let step = (*name).to_owned();
            events.push(v1::EventKind::StepStarted { step: step.clone() });
            events.push(v1::EventKind::StepDone {
                step,
                detail: "done".to_owned(),
            });
        }
        self.report(assignment, first, events).await.unwrap();
    }

    pub(crate) async fn finish(
        &self,
        assignment: &v1::Assignment,
        outcome: v1::Outcome,
    ) -> Result<(), ClientError> {
        let finish = v1::Finish {
            fence: assignment.fence,
            outcome,
            figures: v1::Figures::default(),
            parked: None,
            evidence: None,
        };
        self.client.finish(assignment.job, &finish).await
    }
}

/// The code of the problem a request was answered with.
#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Problem(problem)) => problem.code().to_owned(),
        other => panic!("no problem: {other:?}"),
    }
}
