//! `/agent/v1`, for agents.
//!
//! Every request here may be repeated: while the server is away, those of a running job are, with growing pauses,
//! until [`Agent::PATIENCE`] is used up. Lease and fence decide what still counts.

use std::time::Duration;

use api::agent_v1 as v1;
use model::{AgentId, JobId, QuestionId, SessionId, Timestamp};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use crate::error::checked;
use crate::{ClientError, FrameStream, Kind, Trust};

/// What an agent keeps from its enrolment.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct AgentIdentity {
    /// Its id.
    pub agent: AgentId,
    /// The agents' address of the server.
    pub url: String,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
    /// The server's CA, PEM.
    pub ca_pem: String,
    /// When the certificate was given.
    pub since: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl std::fmt::Debug for AgentIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentIdentity")
            .field("agent", &self.agent)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Makes the HTTP client for a trust and, for agents, a certificate with its key.
pub(crate) fn http(
    trust: &Trust,
    identity: Option<(&str, &str)>,
) -> Result<reqwest::Client, ClientError> {
    let setup = |error: &dyn std::fmt::Display| ClientError::Setup(error.to_string());
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("reprise/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        .http2_adaptive_window(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(config) = trust.tls(identity).map_err(|error| setup(&error))? {
        builder = builder.tls_backend_preconfigured(config);
    }
    builder.build().map_err(|error| setup(&error))
}

/// Enrols at the people's address of a server.
pub async fn enroll(
    server: &str,
    trust: &Trust,
    request: &v1::EnrolRequest,
) -> Result<v1::EnrolReply, ClientError> {
    let url = format!("{}/agent/v1/enroll", server.trim_end_matches('/'));
    let sent = http(trust, None)?
        .post(&url)
        .timeout(Duration::from_secs(30))
        .json(request)
        .send()
        .await;
    let response = checked(
        &url,
        sent.map_err(|error| ClientError::from_reqwest(server, &error))?,
    )
    .await?;
    let body = response
        .bytes()
        .await
        .map_err(|error| ClientError::from_reqwest(&url, &error))?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Unexpected {
        url,
        reason: error.to_string(),
    })
}

/// A client of the agents' API.
#[derive(Clone, Debug)]
pub struct Agent {
    base: String,
    http: reqwest::Client,
}

impl Agent {
    /// How long a request of a running job is repeated while the server cannot be reached.
    pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

    /// Makes a client for an enrolled agent.
    pub fn new(identity: &AgentIdentity) -> Result<Self, ClientError> {
        let trust = Trust::CaPem(identity.ca_pem.clone());
        let http = http(&trust, Some((&identity.certificate_pem, &identity.key_pem)))?;
        Ok(Self {
            base: format!("{}/agent/v1", identity.url.trim_end_matches('/')),
            http,
        })
    }

    /// Asks for work; held by the server up to `request.wait_secs`. Not repeated.
    pub async fn poll(&self, request: &v1::PollRequest) -> Result<v1::PollReply, ClientError> {
        let timeout = Duration::from_secs(u64::from(request.wait_secs) + 20);
        self.json_once(&format!("{}/poll", self.base), request, timeout)
            .await
    }

    /// Answers a question. Not repeated: it is asked again.
    pub async fn answer(
        &self,
        question: QuestionId,
        answer: &v1::Answer,
    ) -> Result<(), ClientError> {
        self.empty_once(
            &format!("{}/questions/{question}/answer", self.base),
            answer,
        )
        .await
    }

    /// Sends what the host has. Not repeated.
    pub async fn inventory(&self, inventory: &v1::Inventory) -> Result<(), ClientError> {
        self.empty_once(&format!("{}/inventory", self.base), inventory)
            .await
    }

    /// Asks for a new certificate. Not repeated.
    pub async fn certificate(
        &self,
        request: &v1::CertificateRequest,
    ) -> Result<v1::EnrolReply, ClientError> {
        self.json_once(&format!("{}/certificate", self.base), request, SHORT)
            .await
    }

    /// Reports on a job and renews its lease. Not repeated: the caller reports again anyway.
    pub async fn report(
        &self,
        job: JobId,
        report: &v1::Report,
    ) -> Result<v1::ReportReply, ClientError> {
        self.json_once(
            &format!("{}/jobs/{job}/report", self.base),
            report,
            Duration::from_secs(10),
        )
        .await
    }

    /// Ends a job.
    pub async fn finish(&self, job: JobId, finish: &v1::Finish) -> Result<(), ClientError> {
        self.empty(&format!("{}/jobs/{job}/finish", self.base), finish)
            .await
    }

    /// Voids base records.
    pub async fn void_bases(&self, job: JobId, request: &v1::VoidBases) -> Result<(), ClientError> {
        self.empty(&format!("{}/jobs/{job}/void-bases", self.base), request)
            .await
    }

    /// Opens a backup session.
    pub async fn open_backup(
        &self,
        job: JobId,
        request: &v1::OpenBackup,
    ) -> Result<v1::BackupSession, ClientError> {
        self.json(&format!("{}/jobs/{job}/backup-session", self.base), request)
            .await
    }

    /// Opens a restore session.
    pub async fn open_restore(
        &self,
        job: JobId,
        request: &v1::OpenRestore,
    ) -> Result<v1::RestoreSession, ClientError> {
        self.json(
            &format!("{}/jobs/{job}/restore-session", self.base),
            request,
        )
        .await
    }

    /// Asks which chunks the store holds: ids of 32 bytes each, joined.
    pub async fn have(&self, session: SessionId, ids: Vec<u8>) -> Result<Vec<bool>, ClientError> {
        let url = format!("{}/sessions/{session}/have", self.base);
        let asked = ids.len() / 32;
        let ids = bytes::Bytes::from(ids);
        let body = self
            .patient(|| self.binary(Method::POST, &url, ids.clone()))
            .await?;
        let reply = body
            .bytes()
            .await
            .map_err(|error| ClientError::from_reqwest(&url, &error))?;
        if reply.len() != asked {
            let reason = format!("{} answers to {asked} ids", reply.len());
            return Err(ClientError::Unexpected { url, reason });
        }
        Ok(reply.iter().map(|&byte| byte == 1).collect())
    }

    /// Asks for pack keys.
    pub async fn seals(
        &self,
        session: SessionId,
        count: u32,
    ) -> Result<v1::SealsReply, ClientError> {
        self.json(
            &format!("{}/sessions/{session}/seals", self.base),
            &v1::SealsRequest { count },
        )
        .await
    }

    /// Sends a pack; returns once it is durable and every chunk in it was checked.
    pub async fn put_pack(
        &self,
        session: SessionId,
        pack: &str,
        body: bytes::Bytes,
    ) -> Result<(), ClientError> {
        let url = format!("{}/sessions/{session}/packs/{pack}", self.base);
        self.patient(|| self.binary(Method::PUT, &url, body.clone()))
            .await
            .map(|_| ())
    }

    /// Asks for tree nodes; the caller repeats it where the stream is cut.
    pub async fn nodes(
        &self,
        session: SessionId,
        ids: Vec<u8>,
    ) -> Result<FrameStream, ClientError> {
        self.stream(format!("{}/sessions/{session}/nodes", self.base), ids)
            .await
    }

    /// Asks for sealed chunks; the caller repeats it where the stream is cut.
    pub async fn chunks(
        &self,
        session: SessionId,
        ids: Vec<u8>,
    ) -> Result<FrameStream, ClientError> {
        self.stream(format!("{}/sessions/{session}/chunks", self.base), ids)
            .await
    }

    /// Asks what single cells of chunks hash to (`api::cells`); the caller repeats it where the stream is cut.
    pub async fn cell_hashes(
        &self,
        session: SessionId,
        asks: Vec<u8>,
    ) -> Result<FrameStream, ClientError> {
        let url = format!("{}/sessions/{session}/cell-hashes", self.base);
        self.stream(url, asks).await
    }

    /// Asks for single cells of chunks (`api::cells`), sealed; the caller repeats it where the stream is cut.
    pub async fn cells(
        &self,
        session: SessionId,
        asks: Vec<u8>,
    ) -> Result<FrameStream, ClientError> {
        self.stream(format!("{}/sessions/{session}/cells", self.base), asks)
            .await
    }

    /// Commits a recovery point.
    pub async fn publish(
        &self,
        session: SessionId,
        request: &v1::Publish,
    ) -> Result<v1::Published, ClientError> {
        self.json(
            &format!("{}/sessions/{session}/publish", self.base),
            request,
        )
        .await
    }

    /// Stores base records.
    pub async fn bases(&self, session: SessionId, request: &v1::Bases) -> Result<(), ClientError> {
        self.empty(&format!("{}/sessions/{session}/bases", self.base), request)
            .await
    }

    /// Closes a session.
    pub async fn close(
        &self,
        session: SessionId,
        request: &v1::CloseSession,
    ) -> Result<(), ClientError> {
        self.empty(&format!("{}/sessions/{session}/close", self.base), request)
            .await
    }

    /// Asks what to do with marks found on the host. Not repeated.
    pub async fn settle(
        &self,
        request: &v1::SettleRequest,
    ) -> Result<v1::SettleReply, ClientError> {
        self.json_once(&format!("{}/settle", self.base), request, SHORT)
            .await
    }

    /// Sends base records of a committed point whose job is over. Not repeated.
    pub async fn settle_bases(&self, request: &v1::SettleBases) -> Result<(), ClientError> {
        self.empty_once(&format!("{}/settle-bases", self.base), request)
            .await
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.patient(|| self.json_once(url, body, LONG)).await
    }

    async fn empty<B: Serialize>(&self, url: &str, body: &B) -> Result<(), ClientError> {
        self.patient(|| self.empty_once(url, body)).await
    }

    async fn stream(&self, url: String, ids: Vec<u8>) -> Result<FrameStream, ClientError> {
        let ids = bytes::Bytes::from(ids);
        let response = self
            .patient(|| self.binary(Method::POST, &url, ids.clone()))
            .await?;
        Ok(FrameStream::new(url, response))
    }

    async fn json_once<B: Serialize, T: DeserializeOwned>(
        &self,
        url: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let response = self.post(url, body, timeout).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|error| ClientError::from_reqwest(url, &error))?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Unexpected {
            url: url.to_owned(),
            reason: error.to_string(),
        })
    }

    async fn empty_once<B: Serialize>(&self, url: &str, body: &B) -> Result<(), ClientError> {
        self.post(url, body, LONG).await.map(|_| ())
    }

    async fn post<B: Serialize>(
        &self,
        url: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let sent = self.http.post(url).timeout(timeout).json(body).send().await;
        checked(
            url,
            sent.map_err(|error| ClientError::from_reqwest(url, &error))?,
        )
        .await
    }

    async fn binary(
        &self,
        method: Method,
        url: &str,
        body: bytes::Bytes,
    ) -> Result<reqwest::Response, ClientError> {
        let request = self
            .http
            .request(method, url)
            .header("Content-Type", "application/octet-stream");
        let sent = request.timeout(LONG).body(body).send().await;
        checked(
            url,
            sent.map_err(|error| ClientError::from_reqwest(url, &error))?,
        )
        .await
    }

    /// Repeats a request while its error says that trying again may help.
    async fn patient<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        let end = Instant::now() + Self::PATIENCE;
        let mut pause = Duration::from_millis(100);
        loop {
            match request().await {
                Err(error) if error.kind() == Kind::Retry && Instant::now() + pause < end => {
                    debug!("repeating a request in {} ms: {error}", pause.as_millis());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                other => return other,
            }
        }
    }
}

/// Limit of a short request.
const SHORT: Duration = Duration::from_secs(30);
/// Limit of a request that carries or checks much.
const LONG: Duration = Duration::from_secs(300);
