//! A server that ended in the middle of a commit: the object decides.

use catalog::{Begin, Catalog, PublishRequest};
use model::{DiskId, HostId, Timestamp, VmId};
use store::{MasterKey, ObjectName, Objects, Salt, VaultKeys};

use crate::support::{FakeAgent, TestServer, code};
use crate::vaultkit::{Backup, Image};

fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

/// A session whose point has everything it needs in the store, and the row that begins its commit.
async fn begun<'a>(
    server: &TestServer,
    agent: &'a FakeAgent,
) -> (Backup<'a>, model::RecoveryPoint) {
    let vm = VmId::random();
    agent.list_vm(vm, "web01").await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(agent, vm, DiskId::random(), &[]).await;
    let image = Image::new(&backup.names, &[1, 2]);
    backup
        .put(&backup.pack(&image.chunks, &[&image.node]).await)
        .await;
    let point = backup.point(&image, None);
    let catalog = catalog(server).await;
    let request = PublishRequest {
        session: backup.session.session,
        point: point.clone(),
        packs: vec![1],
    };
    assert_eq!(
        catalog.begin_publish(&request, now()).await.unwrap(),
        Begin::Ready
    );
    catalog.close().await;
    (backup, point)
}

async fn catalog(server: &TestServer) -> Catalog {
    let file = server.data().join("catalog.sqlite");
    Catalog::open(&catalog::Options::new(file)).await.unwrap()
}

async fn folder(server: &TestServer) -> object_storage::Folder {
    object_storage::Folder::open(server.data().join("vault"))
        .await
        .unwrap()
}

async fn keys(server: &TestServer) -> VaultKeys {
    let text = std::fs::read_to_string(server.data().join("keys/master.key")).unwrap();
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).unwrap();
    let object = folder(server)
        .await
        .get(&ObjectName::keys(1, 0))
        .await
        .unwrap();
    let object = store::format::keys::KeysObject::decode(&object).unwrap();
    VaultKeys::from_material(&object.unwrap_with_master(&MasterKey::new(key)).unwrap())
}

#[tokio::test]
async fn a_commit_cut_before_its_object_is_given_up_for_good() {
    let mut server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let (backup, point) = begun(&server, &agent).await;
    server.restart().await;
    let gone = server
        .admin()
        .get::<api::v1::Point>(&format!("/points/{}", point.id))
        .await;
    assert_eq!(code(gone), "not-found");
    // A late put of the same attempt finds the name taken, and a late publish is refused.
    let late = folder(&server)
        .await
        .put_new(&ObjectName::point(&point.id), vec![1].into())
        .await;
    assert!(late.is_err());
    let moved = agent.moved_to(&server, "one");
    let request = api::agent_v1::Publish {
        fence: backup.assignment.fence,
        point: point.clone(),
    };
    let refused = moved.client.publish(backup.session.session, &request).await;
    assert_eq!(code(refused), "conflict");
}

#[tokio::test]
async fn a_commit_cut_after_its_object_is_finished() {
    let mut server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let (backup, point) = begun(&server, &agent).await;
    let salt = Salt::random().unwrap();
    let sealed = store::seal_point(&point, &keys(&server).await, salt).unwrap();
    folder(&server)
        .await
        .put_new(&ObjectName::point(&point.id), sealed.into())
        .await
        .unwrap();
    server.restart().await;
    let found: api::v1::Point = server
        .admin()
        .get(&format!("/points/{}", point.id))
        .await
        .unwrap();
    assert_eq!(found.state, "live");
    // The agent, whose answer was lost, hears that it is done.
    let moved = agent.moved_to(&server, "one");
    let request = api::agent_v1::Publish {
        fence: backup.assignment.fence,
        point,
    };
    let done = moved
        .client
        .publish(backup.session.session, &request)
        .await
        .unwrap();
    assert_eq!(done.point.to_string(), found.id);
}

#[tokio::test]
async fn a_commit_whose_object_is_damaged_is_given_up_and_the_server_starts() {
    let mut server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let (_backup, point) = begun(&server, &agent).await;
    let (vault, name) = (folder(&server).await, ObjectName::point(&point.id));
    vault.put_new(&name, vec![0; 50].into()).await.unwrap();
    server.restart().await;
    let gone = server
        .admin()
        .get::<api::v1::Point>(&format!("/points/{}", point.id))
        .await;
    assert_eq!(code(gone), "not-found");
}
