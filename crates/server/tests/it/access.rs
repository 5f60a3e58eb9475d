//! Who may do what: every route with every role.

use api::v1::{LoginRequest, Role};
use api_client::People;

use crate::support::{TestServer, code};

#[tokio::test]
async fn s07_every_route_lets_in_exactly_the_roles_it_names() {
    let server = TestServer::start().await;
    let http = server.http();
    let table = server::route_table();
    assert!(table.len() > 35, "{}", table.len());
    let open: Vec<String> = table
        .iter()
        .filter(|route| route.role.is_none())
        .map(|route| route.path.clone())
        .collect();
    assert_eq!(
        open,
        [
            "/api/v1/openapi.json",
            "/agent/v1/enroll",
            "/api/v1/health",
            "/api/v1/login"
        ]
    );
    for route in table {
        for role in [
            None,
            Some(Role::Viewer),
            Some(Role::Operator),
            Some(Role::Administrator),
        ] {
            let path = path_of(&route.path);
            let method: reqwest::Method = route.method.parse().unwrap();
            let mut request = http.request(method, format!("{}{path}", server.url()));
            if let Some(role) = role {
                // A token of its own for each request: logging out ends it.
                request = request.bearer_auth(server.with_role(role).await);
            }
            if route.method != "GET" {
                request = request.json(&serde_json::json!({}));
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let context = format!("{} {} as {role:?}: {status}", route.method, route.path);
            match (route.role, role) {
                (Some(_), None) => assert_eq!(status, 401, "{context}"),
                (Some(needed), Some(role)) if role < needed => assert_eq!(status, 403, "{context}"),
                (None, _) | (Some(_), Some(_)) => {
                    assert!(status != 403 && status < 500, "{context}");
                    // A wrong enrolment token is answered like a missing log-in.
                    assert!(status != 401 || route.role.is_none(), "{context}");
                }
            }
            if status >= 400 {
                let kind = response.headers()["content-type"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                assert_eq!(kind, "application/problem+json", "{context}");
            }
            assert!(response.headers().contains_key("x-request-id"), "{context}");
        }
    }
}

fn path_of(template: &str) -> String {
    let parts = template.split('/').map(|part| {
        if part.starts_with('{') {
            "nothing"
        } else {
            part
        }
    });
    let path: Vec<&str> = parts.collect();
    let path = path.join("/");
    if path.ends_with("/wait") {
        format!("{path}?change=0&secs=0")
    } else {
        path
    }
}

#[tokio::test]
async fn an_unknown_or_odd_token_is_refused() {
    let server = TestServer::start().await;
    let http = server.http();
    for header in ["Bearer nonsense", "Basic YWRtaW46YWRtaW4=", "Bearer", ""] {
        let request = http.get(format!("{}/api/v1/status", server.url()));
        let status = request
            .header("authorization", header)
            .send()
            .await
            .unwrap()
            .status();
        assert_eq!(status.as_u16(), 401, "{header:?}");
    }
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let server = TestServer::start().await;
    let people = People::new(&server.url(), &server.trust(), None).unwrap();
    let guess = |password: &str| LoginRequest {
        user: "admin".into(),
        password: password.into(),
    };
    for _ in 0..5 {
        let refused = people
            .post::<_, serde_json::Value>("/login", &guess("wrong"), None)
            .await;
        assert_eq!(code(refused), "not-authenticated");
    }
    // Even the right one waits now.
    let http = server.http().post(format!("{}/api/v1/login", server.url()));
    let response = http
        .json(&guess(&server.admin_password))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 429);
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&wait));
}

#[tokio::test]
async fn no_secret_is_in_the_audit_log() {
    let server = TestServer::start().await;
    let secret = server.with_role(Role::Viewer).await;
    let people = server.admin();
    let page: serde_json::Value = people.get("/audit?limit=500").await.unwrap();
    let text = page.to_string();
    assert!(text.contains("token.create"), "{text}");
    assert!(!text.contains(&secret) && !text.contains(&server.admin_password));
}
