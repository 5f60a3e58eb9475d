//! Letting agents in, and shutting them out.

use api::v1::{Host, HostToken, Page};
use api_client::{Agent, AgentIdentity};
use model::HostId;

use crate::support::{TestServer, code};

#[tokio::test]
async fn a_token_lets_in_one_agent_once() {
    let server = TestServer::start().await;
    let token: HostToken = server
        .admin()
        .post("/hosts/token", &(), None)
        .await
        .unwrap();
    let agent = server
        .enrol_with(&token.token, HostId::random())
        .await
        .unwrap();
    agent.poll(&[]).await;
    let again = server.enrol_with(&token.token, HostId::random()).await;
    assert_eq!(code(again.map(|_| ())), "not-authenticated");
    let hosts: Page<Host> = server.admin().get("/hosts").await.unwrap();
    assert_eq!(hosts.items.len(), 1);
    assert_eq!(
        (hosts.items[0].state.as_str(), hosts.items[0].name.as_str()),
        ("ready", "HV01")
    );
}

#[tokio::test]
async fn a_wrong_token_lets_in_nobody() {
    let server = TestServer::start().await;
    let token = api::EnrolToken {
        ca_fingerprint: server.ports.ca_fingerprint.clone(),
        secret: "x".repeat(43),
    };
    let refused = server
        .enrol_with(&token.to_string(), HostId::random())
        .await;
    assert_eq!(code(refused.map(|_| ())), "not-authenticated");
}

#[tokio::test]
async fn an_agent_that_was_shut_out_is_refused_at_once() {
    let server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    agent.poll(&[]).await;
    server
        .admin()
        .post_empty("/hosts/HV01/revoke")
        .await
        .unwrap();
    let refused = agent.client.poll(&agent.poll_request(&[])).await;
    assert_eq!(code(refused), "not-authenticated");
}

#[tokio::test]
async fn a_renewed_certificate_is_the_same_agent() {
    let server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let request = api::agent_v1::CertificateRequest {
        csr_pem: csr.pem().unwrap(),
    };
    let reply = agent.client.certificate(&request).await.unwrap();
    assert_eq!(reply.agent, agent.identity.agent);
    let renewed = AgentIdentity {
        certificate_pem: reply.certificate_pem,
        key_pem: key.serialize_pem(),
        ..agent.identity.clone()
    };
    Agent::new(&renewed)
        .unwrap()
        .poll(&agent.poll_request(&[]))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_agents_port_needs_a_certificate_of_ours() {
    let server = TestServer::start().await;
    let url = format!(
        "https://localhost:{}/agent/v1/poll",
        server.ports.agent_port
    );
    let none = server
        .http()
        .post(&url)
        .json(&serde_json::json!({}))
        .send()
        .await;
    assert!(none.is_err(), "{none:?}");
    // A certificate of another installation.
    let other = TestServer::start().await;
    let foreign = other.enrol(HostId::random()).await.moved_to(&server, "one");
    let identity = AgentIdentity {
        ca_pem: server.ca_pem(),
        ..foreign.identity.clone()
    };
    let refused = Agent::new(&identity)
        .unwrap()
        .poll(&foreign.poll_request(&[]))
        .await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn a_second_process_with_the_same_identity_gets_no_work() {
    let server = TestServer::start().await;
    let one = server.enrol(HostId::random()).await;
    let two = one.moved_to(&server, "two");
    one.poll(&[]).await;
    // A restarted agent is a new process; the one before must not come back.
    two.poll(&[]).await;
    assert_eq!(
        code(one.client.poll(&one.poll_request(&[])).await),
        "conflict"
    );
    let host: Host = server.admin().get("/hosts/HV01").await.unwrap();
    assert_eq!(host.state, "not-ready");
    assert!(host.reason.unwrap().contains("two processes"));
}
