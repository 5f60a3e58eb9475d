//! People, tokens, enrolment, agents, the audit log.

use catalog::{
    Actor, AuditVerdict, Catalog, CatalogError, ErrorKind, IdempotencyKey, NewAgent, NewToken,
    Remembered, Role, SecretHash,
};
use model::AgentId;
use serde_json::json;

use crate::support::{World, options, someone};

async fn user(world: &World, name: &str, role: Role) -> catalog::User {
    world
        .catalog
        .create_user(name, "$argon2id$x", role, &someone(), world.now())
        .await
        .unwrap()
}

#[tokio::test]
async fn user_names_are_unique_whatever_their_case() {
    let world = World::empty().await;
    let ada = user(&world, " Ada ", Role::Administrator).await;
    assert_eq!(
        world.catalog.user_by_name("ADA").await.unwrap().unwrap(),
        ada
    );
    let again = world
        .catalog
        .create_user("ada", "x", Role::Viewer, &someone(), world.now())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    for wrong in ["", "  ", "a\u{0}b", &"x".repeat(65)] {
        let refused = world
            .catalog
            .create_user(wrong, "x", Role::Viewer, &someone(), world.now())
            .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused, "{wrong:?}");
    }
    let odd = "Robert'); DROP TABLE users;--";
    user(&world, odd, Role::Viewer).await;
    assert_eq!(
        world.catalog.user_by_name(odd).await.unwrap().unwrap().name,
        odd
    );
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let world = World::empty().await;
    let (ada, actor) = (user(&world, "ada", Role::Administrator).await, someone());
    assert!(
        world
            .catalog
            .delete_user(ada.id, &actor, world.now())
            .await
            .is_err()
    );
    assert!(
        world
            .catalog
            .set_role(ada.id, Role::Viewer, &actor, world.now())
            .await
            .is_err()
    );
    assert_eq!(
        world.catalog.user(ada.id).await.unwrap().role,
        Role::Administrator
    );
    user(&world, "bob", Role::Administrator).await;
    world
        .catalog
        .delete_user(ada.id, &actor, world.now())
        .await
        .unwrap();
    assert_eq!(world.catalog.users().await.unwrap().len(), 1);
    assert_eq!(world.audited("user.delete").await, 1);
}

#[tokio::test]
async fn a_token_may_do_what_it_and_its_user_may() {
    let world = World::empty().await;
    let ada = user(&world, "ada", Role::Administrator).await;
    user(&world, "bob", Role::Administrator).await;
    let new = |hash: u8, role, secs| NewToken {
        user: ada.id,
        name: "script".into(),
        hash: SecretHash([hash; 32]),
        role,
        expires: world.now().plus_secs(secs),
    };
    let catalog = &world.catalog;
    catalog
        .create_token(new(1, Role::Operator, 100), &someone(), world.now())
        .await
        .unwrap();
    let full = catalog
        .create_token(new(2, Role::Administrator, 1000), &someone(), world.now())
        .await
        .unwrap();
    let role = async |hash: u8| {
        let found = catalog
            .authenticate(&SecretHash([hash; 32]), world.now())
            .await
            .unwrap();
        found.map(|(_, _, role)| role)
    };
    assert_eq!(role(1).await, Some(Role::Operator));
    assert_eq!(role(2).await, Some(Role::Administrator));
    assert_eq!(role(3).await, None);
    catalog
        .set_role(ada.id, Role::Viewer, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(role(2).await, Some(Role::Viewer));
    let too_much = catalog
        .create_token(new(4, Role::Operator, 100), &someone(), world.now())
        .await;
    assert_eq!(too_much.unwrap_err().kind(), ErrorKind::Refused);
    world.pass(100);
    assert_eq!(role(1).await, None, "it has ended");
    assert_eq!(catalog.tokens(None, world.now()).await.unwrap().len(), 1);
    catalog
        .revoke_token(full.id, &someone(), world.now())
        .await
        .unwrap();
    assert_eq!(role(2).await, None);
    assert!(
        catalog
            .revoke_token(full.id, &someone(), world.now())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_password_ends_the_tokens_of_the_old_one() {
    let world = World::empty().await;
    let ada = user(&world, "ada", Role::Administrator).await;
    let token = NewToken {
        user: ada.id,
        name: "session".into(),
        hash: SecretHash([1; 32]),
        role: Role::Administrator,
        expires: world.now().plus_secs(100),
    };
    world
        .catalog
        .create_token(token, &someone(), world.now())
        .await
        .unwrap();
    world
        .catalog
        .set_password_hash(ada.id, "$argon2id$y", &someone(), world.now())
        .await
        .unwrap();
    assert!(
        world
            .catalog
            .authenticate(&SecretHash([1; 32]), world.now())
            .await
            .unwrap()
            .is_none()
    );
}

fn new_agent(id: AgentId, world: &World) -> NewAgent {
    NewAgent {
        id,
        machine: "hv01".into(),
        fingerprint: id.to_string(),
        certificate_expires: world.now().plus_secs(100),
        version: "0.1.0".into(),
    }
}

#[tokio::test]
async fn an_enrolment_token_works_once_and_for_a_short_time() {
    let world = World::empty().await;
    let catalog = &world.catalog;
    for hash in [1, 2] {
        let expires = world.now().plus_secs(900);
        catalog
            .create_enrolment_token(&SecretHash([hash; 32]), expires, &someone(), world.now())
            .await
            .unwrap();
    }
    let enrol = async |hash: u8| {
        catalog
            .enrol(
                &SecretHash([hash; 32]),
                new_agent(AgentId::random(), &world),
                world.now(),
            )
            .await
    };
    assert!(
        catalog
            .enrolment_token_holds(&SecretHash([1; 32]), world.now())
            .await
            .unwrap()
    );
    enrol(1).await.unwrap();
    assert_eq!(enrol(1).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(enrol(9).await.unwrap_err().kind(), ErrorKind::Refused);
    world.pass(900);
    assert!(
        !catalog
            .enrolment_token_holds(&SecretHash([2; 32]), world.now())
            .await
            .unwrap()
    );
    assert_eq!(enrol(2).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(catalog.agents().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_agents_with_one_token_one_gets_in() {
    let world = World::empty().await;
    let hash = SecretHash([1; 32]);
    world
        .catalog
        .create_enrolment_token(&hash, world.now().plus_secs(900), &someone(), world.now())
        .await
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (catalog, agent, now) = (
                world.catalog.clone(),
                new_agent(AgentId::random(), &world),
                world.now(),
            );
            tokio::spawn(async move { catalog.enrol(&hash, agent, now).await.is_ok() })
        })
        .collect();
    let mut let_in = 0;
    for task in tasks {
        let_in += u32::from(task.await.unwrap());
    }
    assert_eq!(let_in, 1);
    assert_eq!(world.catalog.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_shut_out_agent_is_unknown_by_its_certificate() {
    let world = World::ready().await;
    let fingerprint = world.agent.to_string();
    assert!(
        world
            .catalog
            .agent_by_fingerprint(&fingerprint)
            .await
            .unwrap()
            .is_some()
    );
    world
        .catalog
        .renew_certificate(world.agent, "new", world.now().plus_secs(1), world.now())
        .await
        .unwrap();
    assert!(
        world
            .catalog
            .agent_by_fingerprint(&fingerprint)
            .await
            .unwrap()
            .is_none()
    );
    world
        .catalog
        .revoke_agent(world.agent, &someone(), world.now())
        .await
        .unwrap();
    assert!(
        world
            .catalog
            .agent_by_fingerprint("new")
            .await
            .unwrap()
            .is_none()
    );
    let poll = world
        .catalog
        .agent_polled(world.agent, &world.poll_of("first"), world.now())
        .await;
    assert_eq!(poll.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(
        world
            .catalog
            .agent_of_host(world.host.id)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn two_processes_of_one_identity_are_noticed() {
    let world = World::ready().await;
    let poll = async |instance: &str| {
        world
            .catalog
            .agent_polled(world.agent, &world.poll_of(instance), world.now())
            .await
    };
    poll("second").await.unwrap();
    let error = poll("first").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    poll("second").await.unwrap();
    poll("third").await.unwrap();
}

#[tokio::test]
async fn a_newly_enrolled_agent_takes_a_host_over_only_from_one_that_is_gone() {
    let world = World::ready().await;
    let newcomer = AgentId::random();
    world.enrol(newcomer).await.unwrap();
    let poll = async || {
        world
            .catalog
            .agent_polled(newcomer, &world.poll_of("new"), world.now())
            .await
    };
    assert_eq!(poll().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        world
            .catalog
            .agent_of_host(world.host.id)
            .await
            .unwrap()
            .unwrap()
            .id,
        world.agent
    );
    world.pass(60);
    poll().await.unwrap();
    assert_eq!(
        world
            .catalog
            .agent_of_host(world.host.id)
            .await
            .unwrap()
            .unwrap()
            .id,
        newcomer
    );
    assert!(
        world
            .catalog
            .agent(world.agent)
            .await
            .unwrap()
            .revoked
            .is_some()
    );
    assert_eq!(world.audited("agent.replace").await, 1);
}

#[tokio::test]
async fn the_audit_log_tells_of_changes_in_order_and_shows_tampering() {
    let world = World::ready().await;
    world.backed_up().await;
    let entries = world.catalog.audit_entries(None, 500).await.unwrap();
    let actions: Vec<&str> = entries
        .iter()
        .rev()
        .map(|entry| entry.action.as_str())
        .collect();
    let order = [
        "host.token",
        "agent.enrol",
        "job.create",
        "job.claim",
        "session.open",
        "point.publish",
        "job.finish",
    ];
    let mut from = 0;
    for action in order {
        let place = actions[from..].iter().position(|a| *a == action);
        from += place.unwrap_or_else(|| panic!("{action} after place {from} of {actions:?}"));
    }
    let newest = entries[0].sequence;
    assert_eq!(
        world.catalog.audit_entries(Some(newest), 1).await.unwrap()[0].sequence,
        newest - 1
    );
    let whole = world.catalog.verify_audit().await.unwrap();
    assert_eq!(
        whole,
        AuditVerdict::Whole {
            entries: newest,
            head: entries[0].hash.clone()
        }
    );

    let tampering = [
        "UPDATE audit SET actor = 'nobody' WHERE sequence = 3",
        "UPDATE audit SET at = at + 1 WHERE sequence = 3",
        "UPDATE audit SET detail = '{}' WHERE sequence = 3",
        "DELETE FROM audit WHERE sequence = 3",
    ];
    world.catalog.close().await;
    let file = options(&world.dir).file;
    let sound = std::fs::read(&file).unwrap();
    for sql in tampering {
        std::fs::write(&file, &sound).unwrap();
        let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", file.display()))
            .await
            .unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
        pool.close().await;
        let catalog = Catalog::open(&options(&world.dir)).await.unwrap();
        assert_eq!(
            catalog.verify_audit().await.unwrap(),
            AuditVerdict::Broken { sequence: 3 },
            "{sql}"
        );
        catalog.close().await;
    }
}

#[tokio::test]
async fn an_answer_is_remembered_for_the_same_request_only() {
    let world = World::empty().await;
    let key = IdempotencyKey {
        key: "ada/1".into(),
        body_hash: [1; 32],
    };
    let other = IdempotencyKey {
        body_hash: [2; 32],
        ..key.clone()
    };
    let catalog = &world.catalog;
    assert_eq!(catalog.answer_before(&key).await.unwrap(), None);
    let first = json!({ "id": 1 });
    assert_eq!(
        catalog
            .remember_answer(&key, &first, world.now())
            .await
            .unwrap(),
        Remembered::Fresh
    );
    let second = catalog
        .remember_answer(&key, &json!({ "id": 2 }), world.now())
        .await
        .unwrap();
    assert_eq!(second, Remembered::Before(first));
    assert!(matches!(
        catalog.answer_before(&other).await,
        Err(CatalogError::KeyReused { .. })
    ));
    world.pass(49 * 60 * 60);
    let later = IdempotencyKey {
        key: "ada/2".into(),
        body_hash: [1; 32],
    };
    catalog
        .remember_answer(&later, &json!(1), world.now())
        .await
        .unwrap();
    assert_eq!(catalog.answer_before(&key).await.unwrap(), None);
}

#[tokio::test]
async fn log_ins_are_audited_on_request() {
    let world = World::empty().await;
    world
        .catalog
        .audit(
            world.now(),
            &Actor::Server,
            "login.refused",
            "user x",
            &json!({}),
        )
        .await
        .unwrap();
    assert_eq!(world.audited("login.refused").await, 1);
}
