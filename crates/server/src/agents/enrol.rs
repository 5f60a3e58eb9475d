//! Letting agents in, and renewing their certificates.

use std::net::SocketAddr;

use api::agent_v1::{CertificateRequest, EnrolReply, EnrolRequest};
use api::codes;
use axum::extract::{ConnectInfo, State};
use catalog::{NewAgent, SecretHash};
use model::AgentId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Peer;
use crate::app::{App, Shared};
use crate::auth::hash_secret;
use crate::clock;
use crate::http::{ApiError, ApiResult, Json};
use crate::tls::AgentCertificate;

/// The name wrong enrolment tokens are counted under.
const THROTTLE_NAME: &str = "enrolment token";

/// `POST /agent/v1/enroll`, on the people's port: a token that works once lets an agent in.
pub(crate) async fn enrol(
    State(app): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(request): Json<EnrolRequest>,
) -> ApiResult<Json<EnrolReply>> {
    let now = clock::now();
    if let Some(secs) = app.throttle.wait_secs(THROTTLE_NAME, peer.ip(), now) {
        return Err(ApiError::new(
            codes::TOO_MANY,
            format!("too many wrong tokens; wait {secs} s"),
        )
        .retry_after(secs));
    }
    let hash = SecretHash(hash_secret(&request.secret));
    if !app.catalog.enrolment_token_holds(&hash, now).await? {
        app.throttle.note_wrong(THROTTLE_NAME, peer.ip(), now);
        return Err(ApiError::new(
            codes::NOT_AUTHENTICATED,
            "the enrolment token is wrong, was used before or has ended",
        )
        .hint("make a new one with `reprise host token`"));
    }
    let id = AgentId::random();
    let certificate = sign(&app, id, &request.csr_pem)?;
    let new = NewAgent {
        id,
        machine: printable(&request.machine, 200),
        fingerprint: fingerprint(&certificate)?,
        certificate_expires: certificate.expires,
        version: printable(&request.version, 60),
    };
    let machine = new.machine.clone();
    app.catalog.enrol(&hash, new, now).await?;
    tracing::info!(agent.id = %id, "agent on {machine} was let in");
    Ok(Json(reply(&app, id, certificate)))
}

/// `POST /agent/v1/certificate`: a new certificate before the old one ends.
pub(super) async fn renew(
    State(app): State<Shared>,
    peer: Peer,
    Json(request): Json<CertificateRequest>,
) -> ApiResult<Json<EnrolReply>> {
    let id = peer.0.id;
    let certificate = sign(&app, id, &request.csr_pem)?;
    let fingerprint = fingerprint(&certificate)?;
    app.catalog
        .renew_certificate(id, &fingerprint, certificate.expires, clock::now())
        .await?;
    Ok(Json(reply(&app, id, certificate)))
}

fn sign(app: &App, id: AgentId, csr_pem: &str) -> ApiResult<AgentCertificate> {
    app.authority
        .sign_agent(id, csr_pem, clock::now())
        .map_err(|err| ApiError::bad_request(format!("{err:#}")))
}

fn fingerprint(certificate: &AgentCertificate) -> ApiResult<String> {
    let der = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).map_err(|err| {
        ApiError::internal(anyhow::anyhow!("read the agent's certificate: {err}"))
    })?;
    Ok(hex::encode(ring::digest::digest(
        &ring::digest::SHA256,
        &der,
    )))
}

fn reply(app: &App, agent: AgentId, certificate: AgentCertificate) -> EnrolReply {
    EnrolReply {
        agent,
        certificate_pem: certificate.pem,
        ca_pem: app.authority.ca_pem().to_owned(),
        agent_port: app.agent_port(),
        expires: certificate.expires,
    }
}

/// Foreign text for people: bounded, without control characters.
pub(super) fn printable(text: &str, chars: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(chars)
        .collect()
}
