//! Single cells of chunks: what a restore asks for where the host has the rest.

use api::agent_v1 as v1;
use api::cells::{CELL_ASKS_PER_REQUEST, CellAsk, read_hashes};
use api::frames::{PackKeyBytes, Tag};
use api::v1::RestoreRequest;
use bytes::BytesMut;
use model::SessionId;
use store::{CellKey, Decoder, PackKey, Salt, SealedEntry, SessionKeys};

use crate::support::{FakeAgent, TestServer, code};
use crate::transfer::{back_up, with_vm};
use crate::vaultkit::{Backup, Image};

const CELL: usize = 4096;

fn body(asks: &[(&[u8], u64)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (chunk, cells) in asks {
        let (chunk, cells) = ((*chunk).try_into().unwrap(), *cells);
        CellAsk { chunk, cells }.encode_to(&mut body);
    }
    body
}

async fn frames(mut stream: api_client::FrameStream) -> Vec<(Tag, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((tag, payload)) = stream.next().await.unwrap() {
        frames.push((tag, payload.to_vec()));
    }
    frames
}

struct Open {
    server: TestServer,
    agent: FakeAgent,
    session: SessionId,
    names: SessionKeys,
    key: CellKey,
    image: Image,
}

async fn restoring() -> Open {
    let (server, agent, vm, disk) = with_vm().await;
    back_up(&server, &agent, (vm, disk), &[1, 2, 3]).await;
    let request = RestoreRequest {
        vm: vm.to_string(),
        disks: vec!["DISK0.vhdx".to_owned()],
        ..RestoreRequest::default()
    };
    let admin = server.admin();
    let _: api::v1::Jobs = admin.post("/restores", &request, None).await.unwrap();
    let assignment = agent.next_work().await;
    let open = v1::OpenRestore {
        fence: assignment.fence,
    };
    let opened = agent.client.open_restore(assignment.job, &open).await;
    let opened = opened.unwrap();
    let bytes = |text: &str| <[u8; 32]>::try_from(hex::decode(text).unwrap()).unwrap();
    let keys = opened.seeds.unwrap();
    let names = SessionKeys::new(bytes(&opened.id_key), bytes(&keys.cut_key));
    Open {
        image: Image::new(&names, &[1, 2, 3]),
        session: opened.session,
        key: CellKey::new(bytes(&keys.cell_key)),
        names,
        server,
        agent,
    }
}

#[tokio::test]
async fn cells_are_named_and_come_alone() {
    let open = restoring().await;
    let ids = open.image.chunk_ids(&open.names);
    let (one, two) = (&ids[..32], &ids[32..64]);
    // Of a chunk that is nowhere, and of cells no chunk has, nothing is said.
    let asks = body(&[(one, 0b101), (&[9; 32], 1), (two, 1 << 63)]);
    let client = &open.agent.client;
    let stream = client.cell_hashes(open.session, asks.clone()).await;
    let found = frames(stream.unwrap()).await;
    assert_eq!(found.len(), 1);
    let (id, hashes) = read_hashes(&found[0].1).unwrap();
    let plain = &open.image.chunks[0];
    let expected = [
        open.key.hash(&plain[..CELL]),
        open.key.hash(&plain[2 * CELL..3 * CELL]),
    ];
    assert_eq!((&id[..], hashes), (one, &expected[..]));

    let stream = client.cells(open.session, asks).await;
    let found = frames(stream.unwrap()).await;
    let tags: Vec<Tag> = found.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, [Tag::Seal, Tag::Entry]);
    let key = PackKeyBytes::decode(&found[0].1).unwrap();
    let key = PackKey::from_parts(key.generation, Salt(key.salt), key.key);
    let mut entry = BytesMut::from(&*found[1].1);
    let entry = SealedEntry::decode_from(&mut entry).unwrap().unwrap();
    assert!(entry.info().sealed_len() < 3 * CELL as u64);
    let opened = entry.open(&key, &open.names, &mut Decoder::new()).unwrap();
    assert_eq!(opened.live.unwrap().bits().get(), 0b101);
    assert!(opened.plain[2 * CELL..3 * CELL] == plain[2 * CELL..3 * CELL]);
    assert!(opened.plain[CELL..2 * CELL].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn bad_requests_for_cells_are_refused() {
    let open = restoring().await;
    let ids = open.image.chunk_ids(&open.names);
    let client = &open.agent.client;
    let short = body(&[(&ids[..32], 1)])[1..].to_vec();
    let none = body(&[(&ids[..32], 0)]);
    let many = vec![1; (CELL_ASKS_PER_REQUEST + 1) * CellAsk::LEN];
    for (asks, expected) in [
        (short, "bad-request"),
        (none, "bad-request"),
        (many, "too-large"),
    ] {
        let hashes = client.cell_hashes(open.session, asks.clone()).await;
        assert_eq!(code(hashes.map(drop)), expected);
        let cells = client.cells(open.session, asks).await;
        assert_eq!(code(cells.map(drop)), expected);
    }
    let asks = body(&[(&ids[..32], 1)]);
    let unknown = client.cells(SessionId::random(), asks.clone()).await;
    assert_eq!(code(unknown.map(drop)), "not-found");
    // Another agent's session is not one's own.
    let other = open.server.enrol(model::HostId::random()).await;
    let foreign = other.client.cell_hashes(open.session, asks).await;
    assert_eq!(code(foreign.map(drop)), "fenced");
}

#[tokio::test]
async fn a_backup_session_gets_no_cells() {
    let (server, agent, vm, disk) = with_vm().await;
    server.start_backup(vm, true).await;
    let backup = Backup::open(&agent, vm, disk, &[]).await;
    let asks = body(&[(&[7; 32], 1)]);
    let cells = agent.client.cells(backup.session.session, asks).await;
    assert_eq!(code(cells.map(drop)), "conflict");
}
