//! Setting up, starting, starting twice, starting again.

use api::v1::{LoginReply, LoginRequest, Role, Status};
use api_client::People;
use server::{InitOptions, MasterKeySource, PortFile, RunOptions};

use crate::support::{TestServer, code};

#[tokio::test]
async fn the_first_administrator_logs_in_with_the_password_shown_once() {
    let server = TestServer::start().await;
    let people = People::new(&server.url(), &server.trust(), None).unwrap();
    let right = LoginRequest {
        user: "Admin".into(),
        password: server.admin_password.clone(),
    };
    let reply: LoginReply = people.post("/login", &right, None).await.unwrap();
    assert_eq!(reply.role, Role::Administrator);
    let people = People::new(&server.url(), &server.trust(), Some(reply.token)).unwrap();
    let status: Status = people.get("/status").await.unwrap();
    assert_eq!((status.user.as_str(), status.hosts), ("admin", 0));
    people.post_empty("/logout").await.unwrap();
    assert_eq!(
        code(people.get::<Status>("/status").await),
        "not-authenticated"
    );
}

#[tokio::test]
async fn the_port_file_says_where_the_server_is() {
    let server = TestServer::start().await;
    let text = std::fs::read(server.dir.path().join("ports.json")).unwrap();
    let ports: PortFile = serde_json::from_slice(&text).unwrap();
    assert_eq!(ports, server.ports);
    assert_eq!(ports.pid, std::process::id());
    let trust = api_client::Trust::Fingerprint(ports.ca_fingerprint);
    let people = People::new(&server.url(), &trust, Some(server.token.clone())).unwrap();
    people.get::<Status>("/status").await.unwrap();
}

#[tokio::test]
async fn only_new_or_empty_folders_are_set_up() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letters.txt"), "mine").unwrap();
    let refused = server::init(InitOptions::new(dir.path()))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(refused.to_string().contains("letters.txt"), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    let data = dir.path().join("data");
    server::init(InitOptions::new(&data)).await.unwrap();
    let again = server::init(InitOptions::new(&data))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(again.to_string().contains("set up before"), "{again}");
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let server = TestServer::start().await;
    let options = RunOptions {
        data_dir: Some(server.data()),
        ..RunOptions::default()
    };
    let refused = server::run(options, async {}).await.unwrap_err();
    assert!(
        refused.to_string().contains("in use by another server"),
        "{refused}"
    );
}

#[tokio::test]
async fn secrets_lie_in_files_that_only_the_owner_reads() {
    let server = TestServer::start().await;
    for name in ["keys/master.key", "tls/ca.key", "tls/server.key"] {
        let path = server.data().join(name);
        assert!(path.exists(), "{name}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}

#[tokio::test]
async fn the_wrong_master_key_opens_nothing() {
    let mut server = TestServer::start().await;
    server.stop().await;
    let key = server.dir.path().join("other.key");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    let options = RunOptions {
        data_dir: Some(server.data()),
        master_key: Some(MasterKeySource::File(key)),
        ..RunOptions::default()
    };
    let refused = server::run(options, async {}).await.unwrap_err();
    assert!(format!("{refused:#}").contains("master key"), "{refused:#}");
}

#[tokio::test]
async fn the_recovery_kit_opens_the_vaults_keys() {
    let dir = tempfile::tempdir().unwrap();
    let made = server::init(InitOptions::new(dir.path().join("data")))
        .await
        .unwrap();
    let secret = made
        .recovery_kit
        .split_whitespace()
        .find(|word| word.starts_with("AGE-SECRET-KEY-"));
    let identity: age::x25519::Identity = secret.unwrap().parse().unwrap();
    let object = std::fs::read(dir.path().join("data/vault/keys/00000001")).unwrap();
    let object = store::format::keys::KeysObject::decode(&object).unwrap();
    let wrap = object
        .wraps
        .iter()
        .find(|wrap| wrap.kind == store::format::keys::WrapKind::RecoveryKit)
        .unwrap();
    assert_eq!(wrap.label, identity.to_public().to_string());
    let material = age::decrypt(&identity, &wrap.bytes).unwrap();
    let material = object.check_material(&material).unwrap();
    assert_eq!(material.vault.to_string(), made.vault);
}
