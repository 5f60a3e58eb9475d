//! Backup and restore sessions with real packs and trees.

use api::agent_v1 as v1;
use api::v1::{Host, Page, Point, RestoreRequest};
use api_client::ClientError;
use model::{DiskId, DisksTo, FullReason, HostId, RestoreScope, VmId};
use store::SessionKeys;

use crate::support::{FakeAgent, TestServer, code};
use crate::vaultkit::{Backup, Image, content, read_chunks, read_nodes};

pub(crate) async fn with_vm() -> (TestServer, FakeAgent, VmId, DiskId) {
    let server = TestServer::start().await;
    let agent = server.enrol(HostId::random()).await;
    let vm = VmId::random();
    agent.list_vm(vm, "web01").await;
    (server, agent, vm, DiskId::random())
}

/// Runs a whole backup of an image with these chunks.
pub(crate) async fn back_up(
    server: &TestServer,
    agent: &FakeAgent,
    (vm, disk): (VmId, DiskId),
    seeds: &[u8],
) -> model::RecoveryPoint {
    server.start_backup(vm, true).await;
    let backup = Backup::open(agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, seeds);
    backup.complete(&image, None).await
}

async fn start_restore(server: &TestServer, vm: VmId, disks: &[&str]) -> api::v1::Job {
    let request = RestoreRequest {
        vm: vm.to_string(),
        disks: disks.iter().map(|disk| (*disk).to_owned()).collect(),
        ..RestoreRequest::default()
    };
    let jobs: api::v1::Jobs = server
        .admin()
        .post("/restores", &request, None)
        .await
        .unwrap();
    jobs.jobs.into_iter().next().unwrap()
}

#[tokio::test]
async fn s01_s15_what_was_backed_up_comes_back() {
    let (server, agent, vm, disk) = with_vm().await;
    let point = back_up(&server, &agent, (vm, disk), &[1, 2, 3]).await;
    let found: Page<Point> = server.admin().get("/points?vm=web01").await.unwrap();
    assert_eq!(found.items[0].id, point.id.to_string());
    assert_eq!(found.items[0].state, "live");
    assert!(found.items[0].stored_bytes > 0);

    let job = start_restore(&server, vm, &["DISK0.vhdx"]).await;
    assert_eq!(job.point.as_deref(), Some(point.id.to_string().as_str()));
    let assignment = agent.next_work().await;
    let v1::Work::Restore(work) = &assignment.work else {
        panic!("not a restore")
    };
    assert_eq!(
        work.wish.scope,
        RestoreScope::Disks {
            disks: vec![disk],
            to: DisksTo::Files
        }
    );
    assert_eq!(work.point.id, point.id);
    agent
        .steps(&assignment, 1, &["space", "kind", "connect"])
        .await;
    let open = v1::OpenRestore {
        fence: assignment.fence,
    };
    let session = agent
        .client
        .open_restore(assignment.job, &open)
        .await
        .unwrap();
    assert_eq!(session.point.disks, point.disks);
    let id_key: [u8; 32] = hex::decode(&session.id_key).unwrap().try_into().unwrap();
    let names = SessionKeys::new(id_key, [0; 32]);
    let image = Image::new(&names, &[1, 2, 3]);
    let nodes = read_nodes(&agent, session.session, &[image.node.id])
        .await
        .unwrap();
    assert_eq!(&nodes[0].1[..], &image.node.plain[..]);
    let chunks = read_chunks(&agent, session.session, &names, image.chunk_ids(&names))
        .await
        .unwrap();
    assert!(content(&chunks) == content(&image.chunks));
    agent
        .steps(&assignment, 7, &["send", "restore", "verify"])
        .await;
    agent
        .finish(&assignment, v1::Outcome::Succeeded)
        .await
        .unwrap();
    let ended = server.job(assignment.job).await;
    assert_eq!(ended.state, "succeeded");
    let steps: Vec<&str> = ended.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        steps,
        [
            "request", "agent", "space", "kind", "connect", "send", "restore", "verify"
        ]
    );
}

#[tokio::test]
async fn an_increment_stores_only_what_changed() {
    let (server, agent, vm, disk) = with_vm().await;
    let first = back_up(&server, &agent, (vm, disk), &[1, 2, 3, 4]).await;
    let reference = format!("ref-{}", first.id);
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[&reference]).await;
    let v1::BaseDecision::Increment {
        base,
        image,
        reread,
        ..
    } = &backup.session.bases[0]
    else {
        panic!("{:?}", backup.session.bases);
    };
    assert_eq!((base.point, reread.len()), (first.id, 0));
    assert_eq!(*image, first.disks[0].image);
    let changed = Image::new(&backup.names, &[1, 9, 3, 4]);
    let held = backup.have(changed.chunk_ids(&backup.names)).await;
    assert_eq!(held, [true, false, true, true]);
    let nodes = read_nodes(&agent, backup.session.session, &[first_root(image)])
        .await
        .unwrap();
    assert_eq!(nodes.len(), 1);
    let second = backup.complete(&changed, Some(first.id)).await;
    let points: Page<Point> = server.admin().get("/points").await.unwrap();
    assert_eq!(points.items.len(), 2);
    assert_eq!(points.items[0].id, second.id.to_string());
    assert!(points.items[0].stored_bytes < points.items[1].stored_bytes);
    assert_eq!(points.items[0].kind, "incremental");
}

fn first_root(image: &model::ImageRef) -> store::NodeId {
    image.root.as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_disk_without_a_usable_base_is_read_whole_and_says_why() {
    let (server, agent, vm, disk) = with_vm().await;
    let first = back_up(&server, &agent, (vm, disk), &[1]).await;
    let reference = format!("ref-{}", first.id);
    let reason = |decisions: &[v1::BaseDecision]| match &decisions[0] {
        v1::BaseDecision::Full { reason, .. } => Some(*reason),
        v1::BaseDecision::Increment { .. } => None,
    };
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    assert_eq!(
        reason(&backup.session.bases),
        Some(FullReason::ReferencePointGone)
    );
    let job = backup.assignment.job;
    let ask = async |disk: DiskId, size_bytes: u64| {
        let request = v1::OpenBackup {
            fence: backup.assignment.fence,
            vm,
            host: agent.host.id,
            disks: vec![v1::DiskIdentity { disk, size_bytes }],
            reference_points: vec![reference.clone()],
            files: false,
        };
        reason(&agent.client.open_backup(job, &request).await.unwrap().bases)
    };
    assert_eq!(ask(disk, 2 << 20).await, Some(FullReason::DiskResized));
    assert_eq!(
        ask(DiskId::random(), 1 << 20).await,
        Some(FullReason::First)
    );
    assert_eq!(ask(disk, 1 << 20).await, None);
    let void = v1::VoidBases {
        fence: backup.assignment.fence,
        vm,
        disks: Vec::new(),
    };
    agent.client.void_bases(job, &void).await.unwrap();
    assert_eq!(ask(disk, 1 << 20).await, Some(FullReason::Restored));
}

#[tokio::test]
async fn nothing_is_published_that_refers_to_what_is_not_there() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[1, 2]);
    let point = backup.point(&image, None);
    let missing = |result: Result<v1::Published, ClientError>| match result {
        Err(ClientError::Problem(problem)) if problem.code() == "chunks-missing" => problem.missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        missing(backup.publish(&point).await),
        [image.node.id.to_string()]
    );
    backup
        .put(&backup.pack(&image.chunks[..1], &[&image.node]).await)
        .await;
    let second = backup.names.chunk_id(&image.chunks[1]).to_string();
    assert_eq!(missing(backup.publish(&point).await), [second]);
    backup
        .put(&backup.pack(&image.chunks[1..], &[]).await)
        .await;
    let done = backup.publish(&point).await.unwrap();
    // A repeated request: its answer was lost.
    assert_eq!(backup.publish(&point).await.unwrap().point, done.point);
    let mut other = point.clone();
    other.disks[0].image.len += 1;
    assert_eq!(code(backup.publish(&other).await), "bad-request");
}

#[tokio::test]
async fn a_point_must_be_what_its_session_is_for() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[1]);
    backup
        .put(&backup.pack(&image.chunks, &[&image.node]).await)
        .await;
    let good = backup.point(&image, None);
    let mut cases = Vec::new();
    for what in ["id", "vm", "host", "twice", "empty", "base"] {
        let mut point = good.clone();
        match what {
            "id" => point.id = model::PointId::random(),
            "vm" => point.vm.id = VmId::random(),
            "host" => point.host.id = HostId::random(),
            "twice" => point.disks.push(point.disks[0].clone()),
            "empty" => point.disks.clear(),
            _ => point.disks[0].full_reason = None,
        }
        cases.push((what, point));
    }
    for (what, point) in cases {
        assert_eq!(code(backup.publish(&point).await), "bad-request", "{what}");
    }
    backup.publish(&good).await.unwrap();
}

#[tokio::test]
async fn a_damaged_pack_is_refused_and_nothing_of_it_is_kept() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[1]);
    let pack = backup.pack(&image.chunks, &[&image.node]).await;
    let session = backup.session.session;
    let mut flipped = pack.bytes.to_vec();
    flipped[100] ^= 1;
    let put =
        async |id: String, bytes: Vec<u8>| agent.client.put_pack(session, &id, bytes.into()).await;
    // Damaged on its way: it does not hash to its name.
    assert_eq!(
        code(put(pack.id.to_string(), flipped.clone()).await),
        "bad-request"
    );
    // Damaged before it was named: an entry does not open.
    let name = store::PackId(*blake3::hash(&flipped).as_bytes());
    assert_eq!(code(put(name.to_string(), flipped).await), "bad-request");
    // Cut short, empty, not a pack at all.
    for bytes in [
        pack.bytes[..pack.bytes.len() - 1].to_vec(),
        Vec::new(),
        vec![7; 5000],
    ] {
        let name = store::PackId(*blake3::hash(&bytes).as_bytes());
        assert_eq!(code(put(name.to_string(), bytes).await), "bad-request");
    }
    assert_eq!(
        code(put("../../keys/00000001".into(), vec![1]).await),
        "not-found"
    );
    let large = vec![0; api::PACK_BODY_BYTES + 1];
    match put(pack.id.to_string(), large).await {
        Err(ClientError::Problem(problem)) => assert_eq!(problem.code(), "too-large"),
        // The server may close the connection while the body is still on its way.
        other => assert!(other.is_err()),
    }
    assert_eq!(backup.have(image.chunk_ids(&backup.names)).await, [false]);
    // A chunk under another's id.
    let mut lie = store::PackWriter::new(backup.seal().await);
    lie.add(backup.names.chunk_id(b"something else"), &image.chunks[0])
        .unwrap();
    let lie = lie.finish();
    assert_eq!(
        code(put(lie.id.to_string(), lie.bytes.to_vec()).await),
        "bad-request"
    );
    backup.put(&pack).await;
    backup.put(&pack).await;
    assert_eq!(backup.have(image.chunk_ids(&backup.names)).await, [true]);
}

#[tokio::test]
async fn a_session_ends_with_its_attempt() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[1]);
    backup
        .put(&backup.pack(&image.chunks, &[&image.node]).await)
        .await;
    let other = server.enrol(HostId::random()).await;
    let foreign = other.client.have(backup.session.session, vec![0; 32]).await;
    assert_eq!(code(foreign), "fenced");
    let restarted = agent.moved_to(&server, "two");
    restarted.poll(&[]).await;
    let point = backup.point(&image, None);
    assert_eq!(code(backup.publish(&point).await), "fenced");
    let host: Host = server
        .admin()
        .get(&format!("/hosts/{}", agent.host.id))
        .await
        .unwrap();
    assert_eq!(host.state, "ready");
    // What the lost attempt had stored is there for the next one.
    let again = restarted.poll(&[]).await;
    let assignment = again.assignment.unwrap();
    let open = v1::OpenBackup {
        fence: assignment.fence,
        vm,
        host: agent.host.id,
        disks: Vec::new(),
        reference_points: Vec::new(),
        files: false,
    };
    let session = restarted
        .client
        .open_backup(assignment.job, &open)
        .await
        .unwrap();
    let held = restarted
        .client
        .have(session.session, image.chunk_ids(&backup.names))
        .await
        .unwrap();
    assert_eq!(held, [true]);
    let marks = vec![v1::Mark {
        job: assignment.job,
        fence: backup.assignment.fence,
        vm,
        restore: false,
    }];
    let reply = restarted
        .client
        .settle(&v1::SettleRequest { marks })
        .await
        .unwrap();
    assert_eq!(reply.verdicts, [v1::Verdict::Dead]);
}

#[tokio::test]
async fn an_old_server_start_finds_all_packs_again() {
    let (mut server, agent, vm, disk) = with_vm().await;
    let point = back_up(&server, &agent, (vm, disk), &[1, 2]).await;
    server.stop().await;
    std::fs::remove_dir_all(server.data().join("index")).unwrap();
    server.start_again().await;
    let agent = agent.moved_to(&server, "two");
    agent.list_vm(vm, "web01").await;
    start_restore(&server, vm, &[]).await;
    let assignment = agent.next_work().await;
    let open = v1::OpenRestore {
        fence: assignment.fence,
    };
    let session = agent
        .client
        .open_restore(assignment.job, &open)
        .await
        .unwrap();
    assert_eq!(session.point.id, point.id);
    let id_key: [u8; 32] = hex::decode(&session.id_key).unwrap().try_into().unwrap();
    let names = SessionKeys::new(id_key, [0; 32]);
    let image = Image::new(&names, &[1, 2]);
    let chunks = read_chunks(&agent, session.session, &names, image.chunk_ids(&names))
        .await
        .unwrap();
    assert_eq!(chunks, image.chunks);
    // A chunk that is nowhere ends the stream with its name.
    let absent = read_chunks(&agent, session.session, &names, vec![7; 32]).await;
    let Err(ClientError::Problem(problem)) = absent else {
        panic!("{absent:?}")
    };
    assert_eq!((problem.code(), problem.missing.len()), ("damaged", 1));
}

#[tokio::test]
async fn committed_points_whose_job_was_lost_are_told_to_the_janitor() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, false).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let image = Image::new(&backup.names, &[1]);
    backup
        .put(&backup.pack(&image.chunks, &[&image.node]).await)
        .await;
    backup.publish(&backup.point(&image, None)).await.unwrap();
    let agent = agent.moved_to(&server, "two");
    agent.poll(&[]).await;
    let mark = v1::Mark {
        job: backup.assignment.job,
        fence: backup.assignment.fence,
        vm,
        restore: false,
    };
    let marks = vec![mark.clone()];
    let reply = agent
        .client
        .settle(&v1::SettleRequest { marks })
        .await
        .unwrap();
    assert_eq!(
        reply.verdicts,
        [v1::Verdict::Committed {
            point: backup.session.point
        }]
    );
    let record = model::BaseRecord {
        vm,
        disk,
        size_bytes: crate::vaultkit::DISK_BYTES,
        host: agent.host.id,
        point: backup.session.point,
        reference_point: "late".into(),
        rct_id: "rctX:2".into(),
    };
    agent
        .client
        .settle_bases(&v1::SettleBases {
            mark,
            records: vec![record],
        })
        .await
        .unwrap();
    assert_eq!(server.job(backup.assignment.job).await.state, "warnings");
    server.start_backup(vm, false).await;
    let next = Backup::open(&agent, vm, disk, &["late"]).await;
    assert!(matches!(
        next.session.bases[0],
        v1::BaseDecision::Increment { .. }
    ));
}
