//! The checked-in OpenAPI document is the one the server serves.

use std::path::Path;

#[test]
fn the_openapi_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let made = format!("{}\n", server::openapi_json());
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/openapi.json is stale; run with UPDATE_OPENAPI=1 and look at the change"
    );
}

#[test]
fn the_document_describes_every_route() {
    let document: serde_json::Value = serde_json::from_str(&server::openapi_json()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for route in server::route_table() {
        if matches!(
            route.path.as_str(),
            "/api/v1/openapi.json" | "/agent/v1/enroll"
        ) {
            continue;
        }
        let operation = &document["paths"][&route.path][route.method.to_lowercase()];
        assert!(operation.is_object(), "{} {}", route.method, route.path);
    }
}
