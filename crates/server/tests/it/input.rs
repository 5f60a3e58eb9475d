//! Bad input: each a problem that says what is wrong, and the server goes on.

use api::v1::{Health, Role};

use crate::support::TestServer;

async fn healthy(server: &TestServer) {
    let health: Health = server.admin().get("/health").await.unwrap();
    assert_eq!(health.status, "ok");
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let server = TestServer::start().await;
    let http = server.http();
    let url = server.url();
    let large = "x".repeat(api::JSON_BODY_BYTES + 1);
    let json = |body: &str| {
        let request = http
            .post(format!("{url}/api/v1/policies"))
            .bearer_auth(&server.token);
        request
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let cases = [
        (
            "unknown path",
            http.get(format!("{url}/api/v1/nothing")),
            404,
        ),
        (
            "path of no API",
            http.get(format!("{url}/../../etc/passwd")),
            404,
        ),
        (
            "wrong method",
            http.delete(format!("{url}/api/v1/health")),
            405,
        ),
        ("no JSON", json("{\"name\": "), 400),
        (
            "unknown key",
            json("{\"name\": \"x\", \"colour\": \"red\"}"),
            400,
        ),
        ("wrong type", json("{\"name\": 7}"), 400),
        ("deep JSON", json(&"[".repeat(100_000)), 400),
        ("too large", json(&large), 413),
        (
            "no content type",
            http.post(format!("{url}/api/v1/policies"))
                .bearer_auth(&server.token)
                .body("{}"),
            400,
        ),
        (
            "unknown parameter",
            http.get(format!("{url}/api/v1/jobs?color=red"))
                .bearer_auth(&server.token),
            400,
        ),
        (
            "no cursor",
            http.get(format!("{url}/api/v1/jobs?cursor=zzz"))
                .bearer_auth(&server.token),
            400,
        ),
        (
            "odd id",
            http.get(format!("{url}/api/v1/jobs/%2e%2e%2f"))
                .bearer_auth(&server.token),
            404,
        ),
        (
            "unknown VM",
            http.get(format!("{url}/api/v1/vms/O'Brien%20%22%3B--"))
                .bearer_auth(&server.token),
            404,
        ),
        (
            "unknown point",
            http.get(format!("{url}/api/v1/points/latest?vm=none"))
                .bearer_auth(&server.token),
            404,
        ),
        (
            "latest of what",
            http.get(format!("{url}/api/v1/points/latest"))
                .bearer_auth(&server.token),
            400,
        ),
    ];
    for (name, request, expected) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{name}");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json",
            "{name}"
        );
        let problem: api::Problem =
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(problem.status, expected, "{name}");
        assert!(!problem.detail.is_empty(), "{name}");
    }
    healthy(&server).await;
}

#[tokio::test]
async fn a_body_cut_short_changes_nothing() {
    let server = TestServer::start().await;
    let parts = [Ok("{\"name\": \"half"), Err(std::io::Error::other("cut"))];
    let body = reqwest::Body::wrap_stream(futures::stream::iter(parts));
    let url = format!("{}/api/v1/policies", server.url());
    let request = server.http().post(url).bearer_auth(&server.token);
    let sent = request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await;
    assert!(sent.is_err() || sent.unwrap().status().is_client_error());
    healthy(&server).await;
    let policies: serde_json::Value = server.admin().get("/policies").await.unwrap();
    assert!(!policies.to_string().contains("half"));
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_makes_no_second_job() {
    let server = TestServer::start().await;
    let agent = server.enrol(model::HostId::random()).await;
    let vm = model::VmId::random();
    agent.list_vm(vm, "web 'one' \"zwei\" ü").await;
    let http = server.http();
    let operator = server.with_role(Role::Operator).await;
    let send = |body: serde_json::Value| {
        let request = http
            .post(format!("{}/api/v1/backups", server.url()))
            .bearer_auth(&operator);
        request.header("idempotency-key", "k1").json(&body).send()
    };
    let body = serde_json::json!({ "vms": ["web 'one' \"zwei\" ü"] });
    let (first, second) = (send(body.clone()).await.unwrap(), send(body).await.unwrap());
    assert_eq!(
        (first.status().as_u16(), second.status().as_u16()),
        (202, 202)
    );
    let id = |bytes: bytes::Bytes| {
        let jobs: api::v1::Jobs = serde_json::from_slice(&bytes).unwrap();
        jobs.jobs[0].id.clone()
    };
    assert_eq!(
        id(first.bytes().await.unwrap()),
        id(second.bytes().await.unwrap())
    );
    let other = send(serde_json::json!({ "vms": [vm.to_string()], "full": true }))
        .await
        .unwrap();
    assert_eq!(other.status().as_u16(), 422);
}
