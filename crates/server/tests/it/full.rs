//! No room left: backups fail and say so, everything else goes on.

use api::agent_v1::Outcome;
use api_client::ClientError;
use model::{DiskId, HostId, VmId};

use crate::support::TestServer;
use crate::vaultkit::{Backup, Image};

#[tokio::test]
async fn without_its_reserve_the_server_takes_no_pack_and_does_all_else() {
    let mut server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let (vm, disk) = (VmId::random(), DiskId::random());
    agent.list_vm(vm, "web01").await;
    server.start_backup(vm, true).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let point = backup
        .complete(&Image::new(&backup.names, &[1]), None)
        .await;
    server.stop().await;
    // A reserve that cannot be taken, as on a full volume.
    let reserve = server.data().join("reserve");
    std::fs::remove_file(&reserve).unwrap();
    std::fs::create_dir(&reserve).unwrap();
    server.start_again().await;
    let agent = agent.moved_to(&server, "two");
    server.start_backup(vm, true).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[2]);
    let pack = backup.pack(&image.chunks, &[&image.node]).await;
    let id = pack.id.to_string();
    let refused = agent
        .client
        .put_pack(backup.session.session, &id, pack.bytes.clone())
        .await;
    let Err(ClientError::Problem(problem)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((problem.code(), problem.status), ("store-full", 507));
    let failed = Outcome::Failed {
        code: "store-full".into(),
        message: problem.detail.clone(),
        hint: problem.hint.clone(),
        retry: false,
    };
    agent.finish(&backup.assignment, failed).await.unwrap();
    assert_eq!(
        server.job(backup.assignment.job).await.error.unwrap().code,
        "store-full"
    );
    server
        .admin()
        .delete(&format!("/points/{}", point.id))
        .await
        .unwrap();
}
